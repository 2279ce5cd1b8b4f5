//! Which files are to be captioned: those that are meant, without those that are done.

use super::{Described, Job, locked};
use crate::batch::Batch;
use crate::session::decimal;
use crate::show::one_line;
use crate::sources;
use anyhow::{Result, anyhow, bail};
use mils_models::Pack;
use rayon::prelude::*;
use serde_json::{Value, json};
use std::collections::{HashMap, HashSet};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::atomic::Ordering;

impl Job<'_> {
    /// Finds the files, and what an earlier run has done of them. `Some` if nothing is left to do.
    pub(super) fn gather(&mut self, pack: &Pack) -> Result<Option<ExitCode>> {
        let args = self.args;
        self.display.say("looking for the files");
        let found = sources::find(&args.files, args.recursive)?;
        for error in &found.unread {
            self.complain(&one_line(error));
        }
        self.files = found.files;
        let outputs: Vec<&Path> = args.outputs().into_iter().map(|(_, path)| path.as_path()).collect();
        // Of all machines' files: what one of them writes, another must not.
        self.metadata.check(&self.files, &outputs)?;
        if let Some(shard) = args.shard {
            self.files.retain(|file| shard.has(file));
        }
        args.check_inputs(&self.files).map_err(|problem| anyhow!(problem))?;
        if self.files.is_empty() {
            if !found.unread.is_empty() {
                return Ok(Some(ExitCode::FAILURE));
            }
            let share = if args.shard.is_some() { " of this share" } else { "" };
            bail!("no pictures, videos or sounds{share} in what was named ({} other files)", found.others);
        }
        if args.results.output.is_some() {
            // A file that is named twice has one result.
            let mut seen = HashSet::new();
            self.files.retain(|file| seen.insert(file.clone()));
        }
        let all = self.files.len();
        if let Some(path) = &args.results.output {
            self.take_up(path, pack)?;
        }
        self.skip_described();
        self.done_before = all - self.files.len();
        self.tell_what_is_left(all, found.others);
        let failed = self.failed.load(Ordering::SeqCst);
        let code = if failed { ExitCode::FAILURE } else { ExitCode::SUCCESS };
        Ok(self.files.is_empty().then_some(code))
    }

    /// Opens the output, and leaves out what is in it.
    fn take_up(&mut self, path: &Path, pack: &Pack) -> Result<()> {
        let results = &self.args.results;
        let batch = Batch::open(path, results.format(), &self.identity(pack), results.overwrite)?;
        let (done, left): (Vec<_>, Vec<_>) =
            std::mem::take(&mut self.files).into_iter().partition(|file| batch.is_done(&file.display().to_string()));
        self.files = left;
        self.add_sidecars(&done, &batch)?;
        *locked(&self.batch) = Some(batch);
        Ok(())
    }

    /// Sidecars that are asked for only now, of files whose results are there.
    fn add_sidecars(&self, done: &[PathBuf], batch: &Batch) -> Result<()> {
        let lacking = done.par_iter().filter(|file| self.metadata.lacks_sidecars(file));
        let mut lacking: HashMap<String, &PathBuf> = lacking.map(|file| (file.display().to_string(), file)).collect();
        if lacking.is_empty() {
            return Ok(());
        }
        batch.each(&mut |result| {
            let file = result["file"].as_str().and_then(|name| lacking.remove(name));
            let Some((file, Err(error))) = file.map(|file| (file, self.metadata.add_sidecars(file, result))) else {
                return Ok(());
            };
            self.complain(&format!("{}: {}", file.display(), one_line(&error)));
            Ok(())
        })
    }

    /// Leaves out files that have all their sidecars. One that was begun may have got them from a run that was killed
    /// before it could write the result.
    fn skip_described(&mut self) {
        let metadata = &self.metadata;
        if !metadata.is_beside() {
            // What is in the files is looked for when their turn comes, which here is that of the first.
            let described =
                |file: &&PathBuf| !self.cancelled() && self.taken(file).is_err_and(|error| error.is::<Described>());
            let described = self.files.iter().take_while(described).count();
            self.files.drain(..described);
            return;
        }
        let batch = locked(&self.batch);
        let begun = |file: &PathBuf| batch.as_ref().is_some_and(|batch| batch.is_begun(&file.display().to_string()));
        let keep: Vec<bool> = self.files.par_iter().map(|file| begun(file) || !metadata.has_sidecars(file)).collect();
        drop(batch);
        let mut keep = keep.into_iter();
        self.files.retain(|_| keep.next().unwrap_or(true));
    }

    fn tell_what_is_left(&self, all: usize, others: usize) {
        if self.args.quiet {
            return;
        }
        let left = self.files.len();
        let begun = locked(&self.batch).as_ref().map_or(0, |batch| batch.found().1);
        if left < all || begun > 0 {
            self.display.line(&format!("{} of {all} files are done, and {begun} begun", all - left));
        }
        if others > 0 && self.args.verbose {
            self.display.line(&format!("{others} other files are no pictures, videos or sounds"));
        }
    }

    /// What must be the same for the steps of an earlier run to be of use.
    fn identity(&self, pack: &Pack) -> Value {
        let args = &self.args.run;
        let file = || pack.generator_path().map(|path| path.display().to_string()).unwrap_or_default();
        let generator = args.writer.generator.clone().unwrap_or_else(file);
        json!({
            "pack": pack.name, "generator": generator, "generator_model": args.writer.generator_model, "steps": args.steps,
            "keep": args.keep, "propose": args.propose, "temperature": args.temperature.map(decimal),
            "seed": args.seed, "modality": self.args.modality.given(), "initial": self.initial, "feedback": args.feedback,
        })
    }
}
