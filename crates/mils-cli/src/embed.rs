//! `mils embed`: texts and files in, a row for each out, however many there are.

use crate::args::{EmbedArgs, EmbedFormat};
use crate::inputs::{Ahead, Decoded, Files, Texts, check_file, leading};
use crate::interrupt::{INTERRUPTED, on_ctrl_c};
use crate::model::{Embedded, Model};
use crate::output::Output;
use crate::progress::Progress;
use crate::rows::{Input, Rows};
use crate::show::{one_line, tell};
use anyhow::{Context, Result};
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// What is embedded together.
enum Batch {
    Texts(Vec<String>),
    Files(Vec<Decoded>),
}

/// Runs the command.
///
/// # Errors
/// If the model cannot be loaded, a text file not be read, or the output not be written; in npy and safetensors also
/// if an input fails. In JSON that is in its line and in the exit code.
pub fn run(args: &EmbedArgs) -> Result<ExitCode> {
    let cancel = on_ctrl_c()?;
    let known = (args.files.len() + args.texts.texts.len()) as u64;
    let progress = Progress::new(args.quiet, args.texts.texts_from.is_none().then_some(known));
    let mut job = Job { args, cancel, progress, failed: false };
    let result = job.run();
    job.progress.finish();
    result
}

/// One call of the command.
struct Job<'a> {
    args: &'a EmbedArgs,
    cancel: Arc<AtomicBool>,
    progress: Progress,
    /// An input failed.
    failed: bool,
}

impl Job<'_> {
    fn run(&mut self) -> Result<ExitCode> {
        let args = self.args;
        let only_rows = args.format != EmbedFormat::Json;
        // Whatever is known to fail is said before the model is loaded.
        if only_rows {
            for file in &args.files {
                check_file(file).with_context(|| file.display().to_string())?;
            }
        }
        let texts = Texts::open(&args.texts)?;
        let output = Output::open(args.output(), only_rows)?;
        // Texts are read while the model is loaded; how files are read, only the model knows.
        let mut texts = Ahead::of(texts.map(|texts| texts.map(Batch::Texts)));
        let modality = leading(args.modality, &args.files);
        let interrupted = Ok(ExitCode::from(INTERRUPTED));
        let Some(mut model) = Model::open(&args.model, modality, &self.progress, &self.cancel)? else {
            return interrupted;
        };
        let files = Files::new(args.files.clone(), args.modality, model.senses());
        let mut files = Ahead::of(files.map(|files| Ok(Batch::Files(files))));
        let mut rows = Rows::begin(output, args.format, &model.name, model.encoder.dim())?;
        self.progress.begin();
        for batches in [&mut texts, &mut files] {
            while let Some(batch) = batches.next(&self.cancel)? {
                let (inputs, embedded) = embed(batch?, &mut model)?;
                self.progress.suspend(|| write(&inputs, embedded, &mut rows, &mut self.failed))?;
                self.progress.count(inputs.len(), "embedded");
            }
        }
        if self.cancel.load(Ordering::SeqCst) {
            // JSON Lines are good for as many as there are; the rest is worth nothing without its end.
            return interrupted;
        }
        self.progress.finish();
        rows.finish()?;
        Ok(if self.failed { ExitCode::FAILURE } else { ExitCode::SUCCESS })
    }
}

/// The inputs of a batch, and of each its embedding, or why there is none.
fn embed(batch: Batch, model: &mut Model) -> Result<(Vec<Input>, Vec<Embedded>)> {
    match batch {
        Batch::Texts(texts) => {
            let embedded = model.texts(&texts)?;
            Ok((texts.into_iter().map(Input::Text).collect(), embedded))
        }
        Batch::Files(files) => {
            let (files, media) = files.into_iter().map(|read| (Input::File(read.file), read.media)).unzip();
            Ok((files, model.media(media)?))
        }
    }
}

/// Writes a batch. What failed is said, and in JSON has its line; elsewhere it is the end.
fn write(inputs: &[Input], embedded: Vec<Embedded>, rows: &mut Rows, failed: &mut bool) -> Result<()> {
    for (input, row) in inputs.iter().zip(embedded) {
        match row {
            Ok(row) => rows.write(input, &row)?,
            Err(error) if rows.can_fail() => {
                *failed = true;
                tell(&format!("mils: {input}: {}", one_line(&error)));
                rows.failed(input, &one_line(&error))?;
            }
            Err(error) => return Err(error.context(input.to_string())),
        }
    }
    rows.flush()
}
