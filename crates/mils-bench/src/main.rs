//! `mils-bench`: run through `cargo xtask bench`.

use anyhow::{Context, Result};
use clap::{Parser, Subcommand, ValueEnum};
use mils_bench::bench::{Bench, BenchArgs};
use mils_bench::quality::{self, Arm, Figures, Pictures, Setup, Sounds, Subject, Videos};
use mils_bench::{encoders, generation, lists, load, media, metrics, runs, sounds};
use mils_cli::backend::BackendChoice;
use mils_cli::interrupt::{INTERRUPTED, on_ctrl_c};
use mils_models::Pack;
use serde::Serialize;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::atomic::Ordering;

const EXAMPLES: &str = "\
Examples:
  cargo xtask bench encoders                        ours alone, in each precision
  cargo xtask bench encoders --peers                beside ONNX Runtime, PyTorch and candle, those that are there
  cargo xtask bench encoders --peers=candle         beside candle, which is built first if it is not yet
  cargo xtask bench encoders --peers=ort-f32 --only clip-b32 --rounds 10
  cargo xtask bench all --peers --json speed.json --plot speed.svg
  cargo xtask bench quality --scenes 40";

/// Benchmarks of MILS.
#[derive(Parser)]
#[command(name = "mils-bench", version, after_help = EXAMPLES)]
struct Args {
    #[command(subcommand)]
    command: Command,
}

/// What is measured.
#[derive(Clone, Copy, Debug, ValueEnum)]
enum Task {
    /// Captions of scenes
    Caption,
    /// Prompts whose pictures show what is wished for; 50 wishes where --scenes does not say
    Generate,
}

/// The worlds that captions can be judged in.
#[derive(Clone, Copy, Debug, ValueEnum)]
enum WorldChoice {
    /// Pictures of one to three objects
    Image,
    /// Videos in which objects move, grow, turn, appear
    Video,
    /// Recordings of ten sounds, alone and two at once
    Sound,
}

#[derive(Subcommand)]
enum Command {
    /// Time the encoders' forward passes, beside peers
    Encoders {
        #[command(flatten)]
        args: BenchArgs,
    },
    /// Time CLAP's features of sounds and its towers, beside transformers
    Sounds {
        #[command(flatten)]
        args: BenchArgs,
    },
    /// Time the loading of a large checkpoint, and measure its memory
    Load {
        #[command(flatten)]
        args: BenchArgs,
    },
    /// Load a checkpoint once and print what that took as JSON: what `load` runs in processes of its own
    #[command(hide = true)]
    LoadOne {
        folder: PathBuf,
        #[arg(long)]
        precision: String,
        #[arg(long)]
        images: usize,
        #[arg(long)]
        threads: usize,
    },
    /// Time 50 candidates in parallel sequences against one long list, and measure prefix reuse
    Generation {
        #[command(flatten)]
        args: BenchArgs,
    },
    /// Time whole runs against the reference algorithm's schedule, and the first scoring as the initial set grows
    Runs {
        #[command(flatten)]
        args: BenchArgs,
    },
    /// Time the sampling of frames from a long video by seeking, against decoding all of it
    Media {
        #[command(flatten)]
        args: BenchArgs,
    },
    /// Time caption metrics over 40,504 captions, beside pycocoevalcap
    Metrics {
        #[command(flatten)]
        args: BenchArgs,
    },
    /// All speed benchmarks
    All {
        #[command(flatten)]
        args: BenchArgs,
    },
    /// Caption held-out scenes of the demo's worlds, or search for prompts that draw them, with controls
    Quality {
        /// What is measured
        #[arg(long, value_enum, default_value_t = Task::Caption)]
        task: Task,
        /// Which world
        #[arg(long, value_enum, default_value_t = WorldChoice::Image)]
        modality: WorldChoice,
        /// Number of scenes [default: 200 pictures, 100 videos, 80 recordings and 60 mixtures]
        #[arg(long)]
        scenes: Option<usize>,
        /// Seed of the scenes
        #[arg(long, default_value_t = 1848)]
        seed: u64,
        /// Model pack; it must speak the demo world's grammar
        #[arg(long, default_value = "demo")]
        pack: String,
        /// ESC-10, or its fold 5, for sounds [default: what is bundled of it, encoded again]
        #[arg(long, value_name = "FOLDER")]
        recordings: Option<PathBuf>,
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

fn main() -> ExitCode {
    match run(Args::parse().command) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("mils-bench: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(command: Command) -> Result<ExitCode> {
    match command {
        Command::Encoders { args } => speed(args, &[encoders::run]),
        Command::Sounds { args } => speed(args, &[sounds::run]),
        Command::Load { args } => speed(args, &[load::run]),
        Command::LoadOne { folder, precision, images, threads } => {
            rayon::ThreadPoolBuilder::new().num_threads(threads).build_global()?;
            println!("{}", serde_json::to_string(&load::load(&folder, &precision, images)?)?);
            Ok(ExitCode::SUCCESS)
        }
        Command::All { args } => {
            speed(args, &[encoders::run, sounds::run, load::run, generation::run, runs::run, media::run, metrics::run])
        }
        Command::Media { args } => speed(args, &[media::run]),
        Command::Metrics { args } => speed(args, &[metrics::run]),
        Command::Runs { args } => speed(args, &[runs::run]),
        Command::Generation { args } => speed(args, &[generation::run]),
        Command::Quality { task: Task::Generate, scenes, seed, pack, steps, backend, show, json, .. } => {
            let setup = quality::DrawingSetup { pack, wishes: scenes.unwrap_or(50), seed, steps, backend, show };
            let figures = quality::draw(&setup)?;
            println!("{}", figures.table());
            let (claim, holds) = figures.claim();
            println!("{} {claim}", if holds { "holds:" } else { "FAILS:" });
            write_json(&figures, json.as_deref())?;
            Ok(ExitCode::SUCCESS)
        }
        Command::Quality {
            modality, scenes, seed, pack, recordings, steps, backend, only_loop, show, json, ..
        } => {
            let arms = if only_loop { vec![Arm::Loop] } else { Arm::ALL.to_vec() };
            let setup = |usual| Setup {
                pack: pack.clone(),
                scenes: scenes.unwrap_or(usual),
                scene_seed: seed,
                backend,
                steps,
                arms: arms.clone(),
                show,
            };
            let json = json.as_deref();
            match modality {
                WorldChoice::Image => write_json(&quality(&Pictures, &setup(200))?, json)?,
                WorldChoice::Video => write_json(&quality(&Videos, &setup(100))?, json)?,
                WorldChoice::Sound => {
                    let folder = recordings.map_or_else(bundled_recordings, Ok)?;
                    let of = |mixed: bool, usual: usize| -> Result<Figures> {
                        let subject = Sounds::open(&folder, mixed)?;
                        println!("{}:", subject.title());
                        quality(&subject, &setup(usual))
                    };
                    write_json(&BTreeMap::from([("alone", of(false, 80)?), ("mixtures", of(true, 60)?)]), json)?;
                }
            }
            Ok(ExitCode::SUCCESS)
        }
        Command::Lists { scenes, seed, pack, steps, backend, out } => {
            lists::write(&pack, scenes, seed, steps, backend, &out)?;
            Ok(ExitCode::SUCCESS)
        }
    }
}

/// Runs speed benchmarks. What was measured by then is written also where one fails or is ended early.
fn speed(args: BenchArgs, benchmarks: &[fn(&mut Bench) -> Result<()>]) -> Result<ExitCode> {
    let stop = on_ctrl_c()?;
    let mut bench = Bench::new(args, std::sync::Arc::clone(&stop))?;
    let ran = benchmarks.iter().try_for_each(|run| if bench.stopped() { Ok(()) } else { run(&mut bench) });
    let finished = bench.finish();
    ran.and(finished)?;
    Ok(if stop.load(Ordering::SeqCst) { ExitCode::from(INTERRUPTED) } else { ExitCode::SUCCESS })
}

fn quality(subject: &impl Subject, setup: &Setup) -> Result<Figures> {
    let figures = quality::run(subject, setup)?;
    println!("{}", quality::table(subject.marks(), &figures));
    for (claim, holds) in quality::claims(subject.marks(), &figures) {
        println!("{} {claim}", if holds { "holds:" } else { "FAILS:" });
    }
    Ok(figures)
}

/// The held-out recordings beside the demo pack.
fn bundled_recordings() -> Result<PathBuf> {
    // `root` is as the pack's file has it, relative to that file.
    let generator = Pack::find("demo")?.generator_path()?;
    let pack = generator.parent().context("the demo pack's generator lies in no folder")?;
    Ok(pack.join("../recordings"))
}

fn write_json(figures: &impl Serialize, path: Option<&Path>) -> Result<()> {
    let Some(path) = path else { return Ok(()) };
    let text = serde_json::to_string_pretty(figures)?;
    std::fs::write(path, text).with_context(|| format!("cannot write {}", path.display()))
}
