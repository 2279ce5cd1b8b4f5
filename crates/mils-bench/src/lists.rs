//! Training examples for the demo generator from real runs: the lists that it was shown, with the truth as the answer.
//!
//! Only scenes of the training split are used, so what the benchmark measures stays held out.

use crate::quality::progress_bar;
use anyhow::{Context, Result};
use mils_cli::backend::BackendChoice;
use mils_cli::session::{Options, Session};
use mils_demo_world::simulate::Example;
use mils_demo_world::{Split, grammar, render, worlds};
use mils_models::{Modality, Pack};
use mils_optim::Event;
use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;
use std::io::Write;
use std::ops::ControlFlow;
use std::path::Path;

/// Runs the loop on `scenes` training scenes and writes an example for every step, as `demo-world lm-data` does.
///
/// # Errors
/// If the pack cannot be loaded, a model fails, or `out` cannot be written.
pub fn write(pack: &str, scenes: usize, seed: u64, steps: usize, backend: BackendChoice, out: &Path) -> Result<()> {
    let options = Options { steps: Some(steps), ..Options::default() };
    let mut session = Session::open(Pack::find(pack)?, &options, backend, &mut |_| {})?;
    session.config(Modality::Image)?.patience = None;
    let file = std::fs::File::create(out).with_context(|| format!("cannot write {}", out.display()))?;
    let mut file = std::io::BufWriter::new(file);
    let bar = progress_bar(scenes);
    for (i, scene) in worlds::scenes::<worlds::Pictures>(Split::Train, scenes, seed).iter().enumerate() {
        session.config(Modality::Image)?.seed = i as u64;
        let mut rng = ChaCha8Rng::seed_from_u64(scene.seed);
        let mut examples = Vec::new();
        session.run(&render::render(scene).image.into(), None, &mut |event| {
            if let Event::Proposing { step, pool } = event {
                examples.push(Example {
                    items: pool.iter().map(|l| (l.label, l.text.clone())).collect(),
                    target: grammar::caption(&scene.facts, &mut rng),
                    progress: (*step - 1) as f32 / steps as f32,
                });
            }
            ControlFlow::Continue(())
        })?;
        for example in examples {
            serde_json::to_writer(&mut file, &example)?;
            file.write_all(b"\n")?;
        }
        bar.inc(1);
    }
    bar.finish_and_clear();
    file.flush().with_context(|| format!("cannot write {}", out.display()))
}
