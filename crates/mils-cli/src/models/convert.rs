//! `mils models convert`: safetensors of PyTorch's checkpoints.

use crate::args::same_file;
use crate::interrupt::{INTERRUPTED, on_ctrl_c};
use crate::output::{Output, check, is_stream};
use crate::progress::Progress;
use crate::show::tell;
use anyhow::{Context, Result};
use clap::{Args, ValueEnum};
use mils_models::download::{check_space, size};
use mils_pth::{Checkpoint, Options, PthError};
use std::io::{self, Write};
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::atomic::Ordering;

const CONVERT_EXAMPLES: &str = "\
Examples:
  mils models convert ViClip-InternVid-10M-FLT.pth viclip/model.safetensors --prefix model.
  mils models convert imagebind_huge.pth imagebind/model.safetensors
  mils models convert pytorch_model.bin model.safetensors --format json | jq .tensors

A .pth, .pt or .bin file of torch.save is a program that may call any function. It is read here by
a machine that knows none: dictionaries of tensors are converted, and a file that asks for anything
else is refused with the name of what it asked for. --skip-objects passes such parts over instead,
as a training run's configuration beside the weights; they are not run then either.

Names of nested dictionaries are joined with dots. The file is mapped, and the result written beside
its place and put there at the end; it takes as much disk as the tensors have bytes.

Exit codes: 0 done, 1 the file cannot be converted, 2 wrong usage, 130 interrupted.";

/// How what was done is printed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum ConvertFormat {
    /// A line for people
    Text,
    /// One JSON object: input, output, tensors, bytes, other_values and skipped
    Json,
}

/// `mils models convert`.
#[derive(Debug, Args)]
#[command(after_help = CONVERT_EXAMPLES)]
pub struct ConvertArgs {
    /// The checkpoint: a file of torch.save, of either of its formats
    #[arg(value_name = "IN.pth")]
    pub input: PathBuf,

    /// Where to write
    #[arg(value_name = "OUT.safetensors")]
    pub output: PathBuf,

    /// Take only tensors whose names begin with this, and take it off
    #[arg(long, value_name = "PREFIX", default_value = "", hide_default_value = true)]
    pub prefix: String,

    /// Pass over objects of other code, in place of refusing the file
    #[arg(long)]
    pub skip_objects: bool,

    /// How what was done is printed
    #[arg(long, value_enum, default_value_t = ConvertFormat::Text)]
    pub format: ConvertFormat,

    /// Print nothing but the result and errors
    #[arg(long, short)]
    pub quiet: bool,
}

impl ConvertArgs {
    /// What can only be told of several arguments together.
    ///
    /// # Errors
    /// What is wrong, for people.
    pub fn check(&self) -> Result<(), String> {
        if same_file(&self.input, &self.output) {
            return Err(format!("the result would overwrite the input {}", self.input.display()));
        }
        Ok(())
    }
}

/// Runs the command.
///
/// # Errors
/// If the checkpoint is none, is damaged or asks for code, or the result cannot be written.
pub(super) fn run(args: &ConvertArgs) -> Result<ExitCode> {
    let cancel = on_ctrl_c()?;
    let options = Options { prefix: args.prefix.clone(), skip_objects: args.skip_objects };
    let checkpoint = Checkpoint::open(&args.input, &options).map_err(advised)?;
    let progress = Progress::new(args.quiet, None);
    let total = checkpoint.bytes();
    let written = write(&checkpoint, &args.output, &mut |done| {
        progress.say(&format!("{} of {} written", size(done), size(total)));
        if cancel.load(Ordering::SeqCst) { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    });
    progress.finish();
    if !written? {
        return Ok(ExitCode::from(INTERRUPTED));
    }
    report(args, &checkpoint)?;
    Ok(ExitCode::SUCCESS)
}

/// Writes a checkpoint as safetensors, whole or not at all. `told` hears how many bytes are written, and may stop it:
/// then it is `false`.
///
/// # Errors
/// If it cannot be written.
pub(super) fn write(
    checkpoint: &Checkpoint,
    path: &Path,
    told: &mut dyn FnMut(u64) -> ControlFlow<()>,
) -> Result<bool> {
    let place = || format!("cannot write to {}", path.display());
    check(path).with_context(place)?;
    if !is_stream(path) {
        check_space(path.parent().unwrap_or(path), checkpoint.bytes())?;
    }
    let mut output = Written(Output::open(Some(path), false)?);
    match checkpoint.write_safetensors(&mut output, told) {
        Err(PthError::Stopped) => return Ok(false),
        Err(PthError::Write(error)) => return Err(error).with_context(place),
        other => other?,
    }
    output.0.finish()?;
    Ok(true)
}

/// Code that is asked for may be beside the weights.
fn advised(error: PthError) -> anyhow::Error {
    let code = matches!(error, PthError::Code { .. });
    let error = anyhow::Error::new(error);
    if code { anyhow::anyhow!("{error}; --skip-objects leaves such parts out") } else { error }
}

fn report(args: &ConvertArgs, checkpoint: &Checkpoint) -> Result<()> {
    let (tensors, bytes) = (checkpoint.tensors().len(), checkpoint.bytes());
    if !args.quiet && !checkpoint.skipped().is_empty() {
        tell(&format!("mils: passed over: {}", checkpoint.skipped().join(", ")));
    }
    let mut out = io::stdout().lock();
    match args.format {
        ConvertFormat::Text => {
            writeln!(out, "{}: {tensors} tensors, {}", args.output.display(), size(bytes))?;
        }
        ConvertFormat::Json => {
            let line = serde_json::json!({
                "input": args.input.to_string_lossy(),
                "output": args.output.to_string_lossy(),
                "tensors": tensors,
                "bytes": bytes,
                "other_values": checkpoint.others(),
                "skipped": checkpoint.skipped(),
            });
            writeln!(out, "{line}")?;
        }
    }
    Ok(())
}

/// An output as a writer; its errors say already what was written to.
struct Written(Output);

impl Write for Written {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let written = self.0.write(bytes).map_err(|error| match error.downcast::<io::Error>() {
            Ok(error) => error,
            Err(error) => io::Error::other(error),
        });
        written.map(|()| bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
