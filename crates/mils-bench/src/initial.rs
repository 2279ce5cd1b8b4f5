//! The cost of a sample as the initial set grows: from embeddings in memory, and from those that are kept on disk.

use crate::bench::Bench;
use crate::harness::{Contestant, Extra, Kind};
use anyhow::{Context, Result, bail};
use mils_bank::store::Found;
use mils_bank::{Identity, Store};
use mils_encoder::Embeddings;
use mils_optim::{BoxError, Config, Event, Generator, InitialSet, Optimizer, Proposals, Request, Scorer};
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use std::ops::ControlFlow;
use std::path::Path;
use std::rc::Rc;
use std::time::Instant;
use tempfile::TempDir;

/// Width of the embeddings: of the largest CLIP models.
const DIM: usize = 768;

/// Scores from embeddings that are there already, as a session's own scorer has them.
struct Precomputed<'a> {
    image: &'a Embeddings,
    rows: &'a Embeddings,
}

impl Scorer for Precomputed<'_> {
    fn score(&mut self, _: &[String]) -> Result<Vec<f32>, BoxError> {
        Err("nothing but the initial set has embeddings".into())
    }

    fn score_initial(&mut self, _: &InitialSet) -> Result<Vec<f32>, BoxError> {
        Ok(self.image.dots(0, self.rows))
    }
}

/// Is never asked.
struct Silent;

impl Generator for Silent {
    fn propose(&mut self, _: &Request<'_>) -> Result<Proposals, BoxError> {
        Ok(Proposals::default())
    }
}

/// So many texts, their embeddings, and that of a picture.
struct Set {
    name: String,
    initial: InitialSet,
    rows: Embeddings,
    image: Embeddings,
}

impl Set {
    fn new(name: &str, count: usize) -> Result<Self> {
        let mut rng = ChaCha8Rng::seed_from_u64(count as u64);
        let mut rows = |count: usize| -> Result<Embeddings> {
            let mut data = Vec::with_capacity(count * DIM);
            for _ in 0..count {
                let row: Vec<f32> = (0..DIM).map(|_| 2.0 * rng.random::<f32>() - 1.0).collect();
                let length = row.iter().map(|v| v * v).sum::<f32>().sqrt();
                data.extend(row.iter().map(|v| v / length));
            }
            Ok(Embeddings::new(DIM, data)?)
        };
        let initial = InitialSet::new((0..count).map(|i| format!("a caption of about the usual length, number {i}")));
        Ok(Self { name: name.to_owned(), rows: rows(count)?, image: rows(1)?, initial })
    }

    /// The first step of a run: the texts scored by these rows, and the best kept. Seconds.
    fn score(&self, rows: &Embeddings) -> Result<f64> {
        let mut scorer = Precomputed { image: &self.image, rows };
        let optimizer = Optimizer::new(Config { steps: 0, ..Config::default() });
        let begin = Instant::now();
        let go = &mut |_: &Event<'_>| ControlFlow::Continue(());
        let outcome = optimizer.run_from(&self.initial, &mut Silent, &mut scorer, go)?;
        let seconds = begin.elapsed().as_secs_f64();
        let count = self.initial.texts().len();
        if outcome.counts.scored != count {
            bail!("{} of {count} texts were scored", outcome.counts.scored);
        }
        Ok(seconds)
    }
}

/// The first scoring of a sample.
struct Growth {
    set: Rc<Set>,
    kind: Kind,
}

impl Contestant for Growth {
    fn name(&self) -> String {
        format!("{} texts{}", self.set.name, if self.kind == Kind::Again { " again" } else { "" })
    }

    fn kind(&self) -> Kind {
        self.kind
    }

    fn turn(&mut self) -> Result<f64> {
        self.set.score(&self.set.rows)
    }

    fn figures(&mut self) -> Vec<Extra> {
        vec![Extra::new("texts", self.set.initial.texts().len() as f64, 0)]
    }
}

/// The same by a process that has just begun: embeddings are looked for on the disk first, and checked.
struct FromDisk {
    set: Rc<Set>,
    store: Store,
    of: Identity,
    _folder: Rc<TempDir>,
}

impl FromDisk {
    fn new(set: &Rc<Set>, folder: &Rc<TempDir>) -> Result<Self> {
        let checkpoint = checkpoint(folder.path())?;
        let of = Identity::of_checkpoint(&checkpoint, &[])?;
        let store = Store::new(folder.path().join("store"), u64::MAX);
        store.keep(&of, DIM, set.initial.texts(), set.rows.data())?;
        Ok(Self { set: Rc::clone(set), store, of, _folder: Rc::clone(folder) })
    }
}

/// A folder that stands for an encoder.
fn checkpoint(folder: &Path) -> Result<std::path::PathBuf> {
    let checkpoint = folder.join("checkpoint");
    std::fs::create_dir_all(&checkpoint)?;
    Ok(checkpoint)
}

impl Contestant for FromDisk {
    fn name(&self) -> String {
        format!("{} texts, from disk", self.set.name)
    }

    fn kind(&self) -> Kind {
        Kind::Ours
    }

    fn turn(&mut self) -> Result<f64> {
        let begin = Instant::now();
        let mut note = |_: String| {};
        let Found::All(rows) = self.store.find(&self.of, DIM, self.set.initial.texts(), &mut note) else {
            bail!("what was kept is not found");
        };
        let rows = Embeddings::of_tensor(&rows)?;
        self.set.score(&rows)?;
        Ok(begin.elapsed().as_secs_f64())
    }

    fn figures(&mut self) -> Vec<Extra> {
        vec![Extra::new("texts", self.set.initial.texts().len() as f64, 0)]
    }
}

/// Runs the table.
///
/// # Errors
/// If the disk has no room for the embeddings.
pub(crate) fn run(bench: &mut Bench) -> Result<()> {
    bench.say("making initial sets");
    let mut sizes = vec![("1K", 1000), ("10K", 10_000), ("100K", 100_000)];
    if bench.full {
        sizes.push(("1M", 1_000_000));
    }
    std::fs::create_dir_all(&bench.models).with_context(|| format!("cannot make {}", bench.models.display()))?;
    let folder = Rc::new(tempfile::tempdir_in(&bench.models)?);
    let mut contestants: Vec<Box<dyn Contestant>> = Vec::new();
    for (name, count) in sizes {
        let set = Rc::new(Set::new(name, count)?);
        contestants.push(Box::new(Growth { set: Rc::clone(&set), kind: Kind::Ours }));
        if name == "10K" {
            contestants.push(Box::new(Growth { set: Rc::clone(&set), kind: Kind::Again }));
        }
        contestants.push(Box::new(FromDisk::new(&set, &folder)?));
    }
    let title = format!(
        "first scoring of a sample, top 50 of an initial set whose embeddings ({DIM} wide) are in memory, or kept on disk"
    );
    bench.measure(("initial-set", &title), &mut contestants, &["10K"]);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_initial_set_is_scored_from_its_embeddings() {
        let small = Set::new("x", 200).unwrap();
        assert!(small.score(&small.rows).unwrap() > 0.0);
        let short = Embeddings::new(DIM, vec![0.0; DIM]).unwrap();
        assert!(small.score(&short).unwrap_err().to_string().contains("1 scores for 200 texts"));
        let folder = Rc::new(tempfile::tempdir().unwrap());
        let small = Rc::new(small);
        let mut from_disk = FromDisk::new(&small, &folder).unwrap();
        assert!(from_disk.turn().unwrap() > 0.0);
        from_disk.store.clear().unwrap();
        assert!(from_disk.turn().unwrap_err().to_string().contains("not found"));
    }
}
