//! `mils-bench`: run through `cargo xtask bench`.

use anyhow::{Context, Result};
use clap::{Parser, Subcommand};
use mils_bench::lists;
use mils_bench::quality::{self, Arm, Setup};
use mils_cli::backend::BackendChoice;
use std::path::PathBuf;

/// Benchmarks of MILS.
#[derive(Parser)]
#[command(name = "mils-bench", version)]
struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Caption held-out scenes of the demo world, with controls
    Quality {
        /// Number of scenes
        #[arg(long, default_value_t = 200)]
        scenes: usize,
        /// Seed of the scenes
        #[arg(long, default_value_t = 1848)]
        seed: u64,
        /// Model pack; it must speak the demo world's grammar
        #[arg(long, default_value = "demo")]
        pack: String,
        /// Steps [default: the pack's]
        #[arg(long)]
        steps: Option<usize>,
        /// Where the encoder runs
        #[arg(long, value_enum, default_value_t = BackendChoice::Auto)]
        backend: BackendChoice,
        /// Only the loop, without the controls
        #[arg(long)]
        only_loop: bool,
        /// Print every scene with the caption it got
        #[arg(long)]
        show: bool,
        /// Write the figures as JSON
        #[arg(long, value_name = "FILE")]
        json: Option<PathBuf>,
    },
    /// Write the demo generator's training examples from real runs on training scenes
    Lists {
        /// Number of scenes
        #[arg(long, default_value_t = 500)]
        scenes: usize,
        /// Seed of the scenes
        #[arg(long, default_value_t = 77)]
        seed: u64,
        /// Model pack; it must speak the demo world's grammar
        #[arg(long, default_value = "demo")]
        pack: String,
        /// Steps, an example each
        #[arg(long, default_value_t = 6)]
        steps: usize,
        /// Where the encoder runs
        #[arg(long, value_enum, default_value_t = BackendChoice::Auto)]
        backend: BackendChoice,
        /// The file to write, JSON Lines
        #[arg(long, value_name = "FILE")]
        out: PathBuf,
    },
}

fn main() -> Result<()> {
    match Args::parse().command {
        Command::Quality { scenes, seed, pack, steps, backend, only_loop, show, json } => {
            let arms = if only_loop { vec![Arm::Loop] } else { Arm::ALL.to_vec() };
            quality(&Setup { pack, scenes, scene_seed: seed, backend, steps, arms, show }, json)
        }
        Command::Lists { scenes, seed, pack, steps, backend, out } => {
            lists::write(&pack, scenes, seed, steps, backend, &out)
        }
    }
}

fn quality(setup: &Setup, json: Option<PathBuf>) -> Result<()> {
    let figures = quality::run(setup)?;
    println!("{}", quality::table(&figures));
    for (claim, holds) in quality::claims(&figures) {
        println!("{} {claim}", if holds { "holds:" } else { "FAILS:" });
    }
    if let Some(path) = json {
        let text = serde_json::to_string_pretty(&figures)?;
        std::fs::write(&path, text).with_context(|| format!("cannot write {}", path.display()))?;
    }
    Ok(())
}
