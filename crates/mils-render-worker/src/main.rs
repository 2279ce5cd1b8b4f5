//! `mils-render-worker`: draws with stable-diffusion.cpp what `mils generate` asks for, over its standard input and output.

mod args;
mod engine;

use anyhow::{Context, Result};
use args::Args;
use clap::Parser;
use engine::Engine;
use mils_render::worker;
use std::fs::File;
use std::io::{BufReader, IsTerminal, stdin};
use std::process::ExitCode;

fn main() -> ExitCode {
    match run(&Args::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("mils-render-worker: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(args: &Args) -> Result<()> {
    if stdin().is_terminal() {
        eprintln!(
            "mils-render-worker: it is started by `mils generate --renderer worker`, which speaks to it in frames"
        );
    }
    let mut output = answers()?;
    let engine = Engine::open(args)?;
    worker::serve(&engine, &mut BufReader::new(stdin().lock()), &mut output).context("whoever asks")
}

/// Where answers go. Standard output itself becomes standard error: libraries print to it what is no frame.
#[cfg(unix)]
fn answers() -> Result<File> {
    let own = rustix::io::dup(rustix::stdio::stdout()).context("standard output")?;
    rustix::stdio::dup2_stdout(rustix::stdio::stderr()).context("standard output")?;
    Ok(File::from(own))
}

/// Where answers go. What stable-diffusion.cpp says is taken by callbacks.
#[cfg(not(unix))]
fn answers() -> Result<std::io::Stdout> {
    Ok(std::io::stdout())
}
