//! Which items of a data set are captioned, and where their files are.

use super::args::RunArgs;
use crate::eval::args::MismatchChoice;
use crate::progress::Progress;
use crate::sources;
use anyhow::{Result, bail};
use mils_eval::dataset::Opened;
use mils_eval::evaluate::some;
use mils_eval::read::files_of;
use sha2::{Digest, Sha256};
use std::collections::HashSet;
use std::path::{Path, PathBuf};

/// An item of the data set.
#[derive(Clone, Debug)]
pub(crate) struct Item {
    pub(crate) id: String,
    /// `None` where it is not there, and that counts as failed.
    pub(crate) file: Option<PathBuf>,
    pub(crate) references: Vec<String>,
}

/// What a run is about.
#[derive(Clone, Debug)]
pub(crate) struct Plan {
    pub(crate) split: String,
    /// The file of captions.
    pub(crate) captions: PathBuf,
    pub(crate) items: Vec<Item>,
    /// Items of the split, in all.
    pub(crate) of: usize,
    /// Items without a file that were left out.
    pub(crate) left_out: usize,
}

impl Plan {
    /// Opens the data set and chooses.
    ///
    /// # Errors
    /// If something of it is missing.
    pub(crate) fn make(args: &RunArgs, progress: &Progress) -> Result<Self> {
        progress.say("reading the data set");
        let data = args.data.data_set();
        let Opened { split, captions, references, folders } = data.open(&args.root, args.split.as_deref())?;
        for warning in references.warnings.iter().take(5) {
            progress.note(&format!("mils: {warning}"));
        }
        let of = references.entries.len();
        let mut entries = references.entries;
        if let Some(limit) = args.limit {
            let ids: Vec<&str> = entries.iter().map(|e| &*e.id).collect();
            let drawn: HashSet<String> =
                draw(&ids, limit as usize, args.run.seed).into_iter().map(str::to_owned).collect();
            entries.retain(|e| drawn.contains(&e.id));
        }
        if let Some(shard) = args.shard {
            // By the id: the files may lie elsewhere on the next machine.
            entries.retain(|e| shard.has(Path::new(&e.id)));
        }
        if entries.is_empty() {
            bail!("there are no items in this share of {} {split}", data.name());
        }
        progress.say("looking for the files");
        let found = sources::find(&folders, true)?;
        if let Some(error) = found.unread.into_iter().next() {
            return Err(error);
        }
        let ids: Vec<String> = entries.iter().map(|e| e.id.clone()).collect();
        let files = files_of(&ids, &args.root, &found.files)?;
        let missing: Vec<String> =
            ids.iter().zip(&files).filter(|(_, f)| f.is_none()).map(|(id, _)| format!("`{id}`")).collect();
        if !missing.is_empty() && args.missing == MismatchChoice::Refuse {
            let folders: Vec<String> = folders.iter().map(|f| f.display().to_string()).collect();
            bail!(
                "{} of {} items have no file in {}: {}; --missing fail counts them as failed, --missing leave-out does \
                 without them",
                missing.len(),
                ids.len(),
                folders.join(", "),
                some(&missing)
            );
        }
        let all = entries.into_iter().zip(files);
        let mut items: Vec<Item> =
            all.map(|(entry, file)| Item { id: entry.id, file, references: entry.texts }).collect();
        let before = items.len();
        if args.missing == MismatchChoice::LeaveOut {
            items.retain(|item| item.file.is_some());
        }
        let left_out = before - items.len();
        if items.iter().all(|item| item.file.is_none()) {
            bail!("no file of any item is there");
        }
        Ok(Self { split, captions, items, of, left_out })
    }

    /// The files that are there.
    pub(crate) fn files(&self) -> Vec<PathBuf> {
        self.items.iter().filter_map(|item| item.file.clone()).collect()
    }
}

/// So many of these by chance, the same on any machine whatever their order: those whose hashes with the seed are lowest.
pub(super) fn draw<'a>(all: &[&'a str], count: usize, seed: u64) -> Vec<&'a str> {
    let mut hashed: Vec<_> = all
        .iter()
        .map(|text| (Sha256::new().chain_update(seed.to_le_bytes()).chain_update(text).finalize(), *text))
        .collect();
    hashed.sort();
    hashed.truncate(count);
    hashed.into_iter().map(|(_, text)| text).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_larger_draw_has_the_smaller_one_and_the_seed_decides() {
        let names: Vec<String> = (0..100).map(|i| i.to_string()).collect();
        let all: Vec<&str> = names.iter().map(|n| &**n).collect();
        let (ten, fifty) = (draw(&all, 10, 1), draw(&all, 50, 1));
        assert!(ten.len() == 10 && fifty[..10] == ten[..]);
        let turned: Vec<&str> = all.iter().rev().copied().collect();
        assert_eq!(draw(&turned, 10, 1), ten);
        assert_ne!(draw(&all, 10, 2), ten);
        assert_eq!(draw(&all, 1000, 2).len(), 100);
    }
}
