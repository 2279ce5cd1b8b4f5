//! `demo-world sound`: what the demo pack's encoder of sounds and its generator are trained with.

use crate::{ListArgs, create, write_lines};
use anyhow::Result;
use clap::Subcommand;
use mils_demo_world::sound::{grammar, sample, search};
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use serde_json::json;
use std::io::Write;
use std::path::PathBuf;

#[derive(Subcommand)]
pub(crate) enum SoundCommand {
    /// Write training examples for the generator
    LmData {
        #[command(flatten)]
        lists: ListArgs,
    },
    /// Write captions with the sounds that they name, and some that are no sentences, for the text tower
    Texts {
        #[arg(long)]
        count: usize,
        #[arg(long, default_value_t = 1)]
        seed: u64,
        #[arg(long)]
        out: PathBuf,
    },
    /// Write the initial set, a caption a line
    InitialSet {
        #[arg(long)]
        out: PathBuf,
    },
}

impl SoundCommand {
    pub(crate) fn run(self) -> Result<()> {
        match self {
            Self::LmData { lists } => {
                let ListArgs { count, seed, keep, label_scale, .. } = lists;
                lists.write(search::examples(count, seed, keep, label_scale))
            }
            Self::Texts { count, seed, out } => {
                let mut file = create(&out)?;
                let mut rng = ChaCha8Rng::seed_from_u64(seed);
                for _ in 0..count {
                    let facts = sample::said(&mut rng);
                    let text = grammar::caption(&facts, &mut rng);
                    let spoilt = rng.random_bool(0.4).then(|| {
                        let other = grammar::caption(&sample::said(&mut rng), &mut rng);
                        sample::garbled(&text, &other, &mut rng)
                    });
                    let line = match spoilt.flatten() {
                        // What is left of it, which may be nothing.
                        Some(text) => json!({"text": text, "sounds": grammar::named(&text), "garbled": true}),
                        None => json!({"text": text, "sounds": facts.sounds(), "garbled": false}),
                    };
                    writeln!(file, "{line}")?;
                }
                Ok(file.flush()?)
            }
            Self::InitialSet { out } => write_lines(&out, sample::initial_set(0)),
        }
    }
}
