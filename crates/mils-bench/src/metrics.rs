//! Caption metrics over as many captions as COCO's validation set has pictures, beside pycocoevalcap.

use crate::bench::Bench;
use crate::harness::{Contestant, Extra, Kind};
use crate::peer::{Ask, PYCOCO, Scored, Worker};
use anyhow::{Context, Result, bail};
use mils_eval::cider::Variant;
use mils_eval::evaluate::{Corpus, Words};
use mils_eval::meteor::{Meteor, MeteorFiles};
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use serde_json::json;
use std::cell::RefCell;
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::rc::Rc;
use std::time::Instant;

/// Pictures of COCO's validation set of 2014.
const IMAGES: usize = 40_504;
const REFERENCES: usize = 5;
/// Words of a caption that are another's, in hundred.
const CHANGED: u32 = 25;

/// Scores that one side has told, by name.
type Told = Rc<RefCell<BTreeMap<String, f64>>>;

/// Captions and references from a set of texts: a reference is a text with some words of others in it, so that scores are
/// neither 0 nor 1.
fn corpus(texts: &[String], images: usize) -> Corpus {
    let mut rng = ChaCha8Rng::seed_from_u64(40_504);
    let words: Vec<Vec<&str>> = texts.iter().map(|t| t.split(' ').collect()).collect();
    let mut made = Corpus::default();
    for id in 0..images {
        let own = &words[rng.random_range(0..words.len())];
        let mut near = || -> String {
            let other = &words[rng.random_range(0..words.len())];
            let word = |(at, word): (usize, &&str)| {
                let change = rng.random_range(0..100) < CHANGED;
                if change { other.get(at).copied().unwrap_or(word) } else { word }.to_owned()
            };
            own.iter().enumerate().map(word).collect::<Vec<_>>().join(" ") + "."
        };
        made.ids.push(id.to_string());
        made.candidates.push(near());
        made.references.push((0..REFERENCES).map(|_| near()).collect());
        made.errors.push(None);
    }
    made
}

struct Ours {
    kind: Kind,
    corpus: Rc<Corpus>,
    /// METEOR alone, with its data from this folder, in place of the others.
    meteor: Option<PathBuf>,
    told: Told,
}

impl Contestant for Ours {
    fn name(&self) -> String {
        if self.kind == Kind::Again { "ours again" } else { "ours" }.into()
    }

    fn kind(&self) -> Kind {
        self.kind
    }

    fn turn(&mut self) -> Result<f64> {
        let begin = Instant::now();
        let words = Words::of(&self.corpus);
        let series = match &self.meteor {
            // Its program reads them anew each time, too.
            Some(folder) => vec![words.meteor(&Meteor::open(MeteorFiles::find(folder)?)?)?],
            None => {
                let mut all = words.bleu().1;
                all.push(words.rouge_l());
                all.push(words.cider("cider", &words.frequencies(), Variant::D));
                all
            }
        };
        let scores: BTreeMap<String, f64> = series.iter().map(|s| (s.name.clone(), s.score())).collect();
        let seconds = begin.elapsed().as_secs_f64();
        *self.told.borrow_mut() = scores;
        Ok(seconds)
    }
}

struct Peer {
    worker: Rc<RefCell<Worker>>,
    file: PathBuf,
    meteor: bool,
    scores: BTreeMap<String, f64>,
    ours: Told,
}

impl Contestant for Peer {
    fn name(&self) -> String {
        PYCOCO.into()
    }

    fn kind(&self) -> Kind {
        Kind::Peer
    }

    fn turn(&mut self) -> Result<f64> {
        let ask = Ask::Metrics { file: &self.file, meteor: self.meteor, repeats: 1 };
        let scored = self.worker.borrow_mut().ask::<Scored>(&ask)?;
        self.scores = scored.scores;
        scored.seconds.first().copied().context("it tells no time")
    }

    fn figures(&mut self) -> Vec<Extra> {
        let ours = self.ours.borrow();
        let apart =
            self.scores.iter().map(|(name, theirs)| ours.get(name).map_or(f64::NAN, |ours| (ours - theirs).abs()));
        vec![Extra::new("largest difference of a score", apart.fold(0.0, f64::max), 9)]
    }

    fn cpu_seconds(&self) -> Option<(u32, f64)> {
        let worker = self.worker.borrow();
        Some((worker.process(), worker.cpu_seconds()?))
    }
}

/// Runs the tables of metrics.
///
/// # Errors
/// If the texts cannot be made; a peer that is not there is left out with a note.
pub fn run(bench: &mut Bench) -> Result<()> {
    let (plain, with_meteor) = ("metrics-coco-val", "metrics-meteor");
    if !bench.any_wanted(&[plain.to_owned(), with_meteor.to_owned()]) {
        return Ok(());
    }
    bench.say("making captions");
    let bank = mils_models::find_bank("image")?;
    let text = std::fs::read_to_string(&bank).with_context(|| format!("cannot read {}", bank.display()))?;
    let texts: Vec<String> = text.lines().map(str::to_owned).collect();
    if texts.is_empty() {
        bail!("{} is empty", bank.display());
    }
    let corpus = Rc::new(corpus(&texts, IMAGES));
    let worker = if bench.peers.wanted.iter().any(|name| name == PYCOCO) { start(bench) } else { None };
    let file = bench.models.join("captions-coco-val.json");
    if worker.is_some() {
        std::fs::create_dir_all(&bench.models).with_context(|| format!("cannot make {}", bench.models.display()))?;
        let told = json!({"candidates": corpus.candidates, "references": corpus.references}).to_string();
        std::fs::write(&file, told).with_context(|| format!("cannot write {}", file.display()))?;
    }
    let contestants = |meteor: Option<PathBuf>| {
        let told = Told::default();
        let ours = |kind| Ours { kind, corpus: Rc::clone(&corpus), meteor: meteor.clone(), told: Rc::clone(&told) };
        let mut all: Vec<Box<dyn Contestant>> = vec![Box::new(ours(Kind::Ours)), Box::new(ours(Kind::Again))];
        if let Some(worker) = &worker {
            let (worker, file, ours) = (Rc::clone(worker), file.clone(), Rc::clone(&told));
            all.push(Box::new(Peer { worker, file, meteor: meteor.is_some(), scores: BTreeMap::new(), ours }));
        }
        all
    };
    let of = format!("{IMAGES} captions with {REFERENCES} references each, tokenized");
    if bench.wanted(plain) {
        let title = format!("{of}; BLEU-1 to 4, ROUGE-L and CIDEr-D");
        bench.measure((plain, &title), &mut contestants(None), &[PYCOCO, "ours"]);
    }
    if bench.wanted(with_meteor) {
        match worker.as_ref().map(data) {
            Some(Ok(folder)) => {
                let title = format!("{of}; METEOR 1.5 with its data");
                bench.measure((with_meteor, &title), &mut contestants(Some(folder)), &[PYCOCO, "ours"]);
            }
            Some(Err(problem)) => bench.note(format!("{with_meteor} is left out: {problem:#}")),
            None => bench.note(format!("{with_meteor} is left out: METEOR's data come with --peers={PYCOCO}")),
        }
    }
    Ok(())
}

fn start(bench: &mut Bench) -> Option<Rc<RefCell<Worker>>> {
    match bench.peers.start_one(PYCOCO) {
        Ok(worker) => {
            bench.report.peers.insert(PYCOCO.into(), worker.versions.clone());
            Some(Rc::new(RefCell::new(worker)))
        }
        Err(problem) => {
            bench.note(format!("{PYCOCO} is left out: {problem:#}"));
            None
        }
    }
}

/// The folder of METEOR's data, where the peer has them.
fn data(worker: &Rc<RefCell<Worker>>) -> Result<PathBuf> {
    let small = tempfile::NamedTempFile::new()?;
    std::fs::write(small.path(), json!({"candidates": ["a dog"], "references": [["a dog"]]}).to_string())?;
    let ask = Ask::Metrics { file: small.path(), meteor: false, repeats: 1 };
    let folder = PathBuf::from(worker.borrow_mut().ask::<Scored>(&ask)?.meteor);
    MeteorFiles::find(&folder)?;
    Ok(folder)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn captions_are_made_the_same_and_are_neither_right_nor_wrong() {
        let texts = ["a dog runs on the grass", "two cats sit on a mat", "the red car is parked"].map(str::to_owned);
        let (a, b) = (corpus(&texts, 200), corpus(&texts, 200));
        assert!(a.candidates == b.candidates && a.references == b.references && a.references[7].len() == REFERENCES);
        let bleu = Words::of(&a).bleu().1[3].score();
        assert!(bleu > 0.1 && bleu < 0.95, "{bleu}");
    }
}
