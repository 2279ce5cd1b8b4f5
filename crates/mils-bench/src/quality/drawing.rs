//! What a search for a prompt is worth in the demo world: the picture at its end against that of the first prompt, and
//! against rewrites without feedback at equal numbers of pictures.

use super::{Figure, progress_bar};
use anyhow::{Context, Result};
use mils_cli::args::{Dtype, EncoderArgs};
use mils_cli::backend::{BackendChoice, MathChoice};
use mils_cli::generate::painter::{Painted, Painter};
use mils_cli::session::Options;
use mils_demo_world::worlds::{self, Pictures, World};
use mils_demo_world::{Split, grammar};
use mils_models::Pack;
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use serde::Serialize;
use std::fmt::Write as _;

/// Random rewrites, which are drawn as often as makes for as many pictures as the search drew.
const REWRITES: usize = 20;
/// The share of wishes of which the search must end better than it began, and than rewrites that know no more than it.
const CLAIMED: f64 = 0.8;

/// Settings of the benchmark.
#[derive(Clone, Debug)]
pub struct DrawingSetup {
    /// The pack; it has a renderer, and speaks the demo world's grammar.
    pub pack: String,
    /// Wishes: captions of held-out scenes.
    pub wishes: usize,
    /// Seed of the wishes.
    pub seed: u64,
    /// Steps; the pack's if not given.
    pub steps: Option<usize>,
    /// Where the encoder runs.
    pub backend: BackendChoice,
    /// Print every wish beside what was found.
    pub show: bool,
}

/// What is compared with the search.
#[derive(Clone, Debug, Serialize)]
pub struct Rival {
    /// What it is.
    pub title: &'static str,
    /// The score of its best picture.
    pub score: Figure,
    /// The share of wishes of which the search's is better.
    pub beaten: Figure,
}

/// What was measured.
#[derive(Clone, Debug, Serialize)]
pub struct DrawingFigures {
    /// How many wishes there were.
    pub wishes: usize,
    /// The score of the picture at the end of the search.
    pub search: Figure,
    /// Pictures that a search drew.
    pub pictures: f64,
    /// What it is compared with.
    pub rivals: Vec<Rival>,
}

/// Runs the benchmark.
///
/// # Errors
/// If the pack cannot be loaded or a model fails.
pub fn run(setup: &DrawingSetup) -> Result<DrawingFigures> {
    let pack = Pack::find(&setup.pack)?;
    let encoder = EncoderArgs { backend: setup.backend, dtype: Dtype::Auto, math: MathChoice::Exact };
    let options = Options { steps: setup.steps, ..Options::default() };
    let mut painter = Painter::open(&pack, &options, &encoder)?;
    // As many steps for each: otherwise the controls would have as few pictures as the search needed.
    painter.config.patience = None;
    let bar = progress_bar(setup.wishes);
    let titles = [
        "the first prompt",
        "the language model's rewrites of it, without feedback",
        "20 of these rewrites, each drawn with several seeds",
        "20 rewrites that know the wish's facts, the same",
    ];
    let (mut search, mut rivals, mut pictures) = (Vec::new(), [const { Vec::new() }; 4], Vec::new());
    for (i, scene) in worlds::scenes::<Pictures>(Split::HeldOut, setup.wishes, setup.seed).iter().enumerate() {
        let mut rng = ChaCha8Rng::seed_from_u64(setup.seed.wrapping_add(i as u64));
        let wish = grammar::caption(&scene.facts, &mut rng);
        let Painted { outcome, score, prompt, pictures: drawn } = painter.search(&wish, i as u64)?;
        let first = outcome.steps.first().context("a search without a first picture")?.best.score;
        let unguided = painter.rewrites(&wish, drawn.saturating_sub(1), i as u64)?;
        let seeds: Vec<u64> = (0..drawn.div_ceil(REWRITES) as u64).collect();
        let random = best(painter.scores(&wish, &unguided[..unguided.len().min(REWRITES)], &seeds)?);
        // With the wish itself, as the search has it.
        let unguided = best(painter.scores(&wish, &unguided, &[i as u64])?).max(first);
        let knowing: Vec<String> = (0..REWRITES).map(|_| rewrite(&scene.facts, &mut rng)).collect();
        let knowing = best(painter.scores(&wish, &knowing, &seeds)?);
        search.push(f64::from(score));
        pictures.push(drawn as f64);
        for (scores, score) in rivals.iter_mut().zip([first, unguided, random, knowing]) {
            scores.push(f64::from(score));
        }
        if setup.show {
            bar.suspend(|| eprintln!("{first:.3} {score:.3} {unguided:.3} {random:.3} {knowing:.3} {wish} | {prompt}"));
        }
        bar.inc(1);
    }
    bar.finish_and_clear();
    let rival = |(title, scores): (&'static str, &Vec<f64>)| {
        let beaten: Vec<f64> = search.iter().zip(scores).map(|(own, other)| f64::from(u8::from(own > other))).collect();
        Rival { title, score: Figure::of(scores), beaten: Figure::of(&beaten) }
    };
    Ok(DrawingFigures {
        wishes: search.len(),
        search: Figure::of(&search),
        pictures: crate::stats::mean(&pictures),
        rivals: titles.into_iter().zip(&rivals).map(rival).collect(),
    })
}

fn best(scores: Vec<f32>) -> f32 {
    scores.into_iter().fold(f32::NEG_INFINITY, f32::max)
}

/// What is wished for in other words, with up to three things changed: by one who knows the scene and the world's grammar,
/// which the search does not.
fn rewrite(facts: &mils_demo_world::Facts, rng: &mut ChaCha8Rng) -> String {
    let changes = rng.random_range(0..=3);
    let changed = (0..changes).fold(*facts, |facts, _| Pictures::change(&facts, rng));
    grammar::caption(&changed, rng)
}

impl DrawingFigures {
    /// As a table.
    pub fn table(&self) -> String {
        let mut out = format!("{} wishes, {:.0} pictures each\n\n", self.wishes, self.pictures);
        // Writing to a string does not fail.
        let _ = writeln!(out, "{:<56}{:<24}the search is better in", "", "score");
        let _ = writeln!(out, "{:<56}{:<24}", "the search's end", self.search.to_string());
        for Rival { title, score, beaten } in &self.rivals {
            let _ = writeln!(out, "{title:<56}{:<24}{beaten}", score.to_string());
        }
        out
    }

    /// What is claimed, and whether it holds.
    pub fn claim(&self) -> (String, bool) {
        let better = |at: usize| self.rivals.get(at).is_some_and(|rival| rival.beaten.mean >= CLAIMED);
        let claim = "the end is better than the first prompt, and than 20 random rewrites of it, in at least";
        (format!("{claim} {CLAIMED} of all"), better(0) && better(2))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_search_of_two_steps_is_compared_at_equal_numbers() {
        let setup = DrawingSetup {
            pack: "demo".into(),
            wishes: 2,
            seed: 3,
            steps: Some(2),
            backend: BackendChoice::Cpu,
            show: false,
        };
        let figures = run(&setup).unwrap();
        assert_eq!((figures.wishes, figures.rivals.len()), (2, 4));
        assert!(figures.pictures > 20.0 && figures.search.mean >= figures.rivals[0].score.mean);
        assert!(figures.table().contains("20 of these rewrites"));
    }
}
