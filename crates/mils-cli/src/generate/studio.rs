//! Draws prompts and has them judged: the scorer of the loop.

use super::judge::Judge;
use super::renderer::Easel;
use anyhow::Result;
use mils_media::RgbImage;
use mils_optim::{BoxError, Scorer, UnusableReason};
use mils_render::RenderError;
use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::time::Duration;

/// Pictures judged together.
const BATCH: usize = 16;
/// How often it is looked whether the drawing is to end.
const GLANCE: Duration = Duration::from_millis(50);

/// How many pictures there were, and how many failed.
#[derive(Clone, Copy, Debug, Default)]
pub struct Counts {
    /// Pictures that came, whether they were drawn or kept.
    pub pictures: usize,
    /// That did not.
    pub failed: usize,
}

/// What draws and judges.
pub struct Studio<'a> {
    easel: Arc<Easel>,
    judge: RefCell<Judge>,
    seeds: Arc<[u64]>,
    cancel: Arc<AtomicBool>,
    /// Is told how many pictures of how many are there.
    progress: &'a dyn Fn(usize, usize),
    /// Is told what failed.
    complain: &'a dyn Fn(&str),
    counts: Cell<Counts>,
    /// The best prompt of those that were drawn, with its best picture and that one's seed and score.
    best: RefCell<Option<(String, f32, Shot)>>,
}

/// A picture's number, and the picture or why there is none.
type Numbered = (usize, Result<RgbImage, RenderError>);

/// Sets a flag when it goes.
struct Stop<'a>(&'a AtomicBool);

impl Drop for Stop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::SeqCst);
    }
}

/// A picture of a prompt.
#[derive(Clone, Debug)]
pub struct Shot {
    /// The picture.
    pub picture: RgbImage,
    /// Its seed.
    pub seed: u64,
}

/// What is known of a prompt: by seed the score, and its best picture.
#[derive(Default)]
struct Judged {
    scores: BTreeMap<usize, f32>,
    best: Option<(f32, Shot)>,
    problem: Option<String>,
}

impl Judged {
    /// The mean over the pictures that there are.
    fn score(&self) -> Option<f32> {
        let sum: f32 = self.scores.values().sum();
        (!self.scores.is_empty()).then(|| sum / self.scores.len() as f32)
    }
}

impl<'a> Studio<'a> {
    /// One that draws with so many seeds from the first.
    pub fn new(
        easel: Arc<Easel>,
        judge: Judge,
        seeds: Arc<[u64]>,
        cancel: Arc<AtomicBool>,
        progress: &'a dyn Fn(usize, usize),
        complain: &'a dyn Fn(&str),
    ) -> Self {
        let (judge, counts, best) = (RefCell::new(judge), Cell::default(), RefCell::default());
        Self { easel, judge, seeds, cancel, progress, complain, counts, best }
    }

    /// What was drawn so far.
    pub fn counts(&self) -> Counts {
        self.counts.get()
    }

    /// The best picture of a prompt. It is drawn again where it was not the best of what was drawn: after a run was taken
    /// up its pictures are in the memo.
    ///
    /// # Errors
    /// If that fails.
    pub fn picture(&self, prompt: &str) -> Result<Shot> {
        let kept = self.best.borrow().as_ref().filter(|best| best.0 == prompt).map(|best| best.2.clone());
        if let Some(shot) = kept {
            return Ok(shot);
        }
        let mut judged = self.draw(&[prompt.to_owned()])?;
        let best = judged.pop().and_then(|judged| Some((judged.score()?, judged.best?.1)));
        let (score, shot) = best.ok_or_else(|| anyhow::anyhow!("the picture of {prompt:?} cannot be drawn again"))?;
        *self.best.borrow_mut() = Some((prompt.to_owned(), score, shot.clone()));
        Ok(shot)
    }

    /// The score of the best picture of each prompt.
    ///
    /// # Errors
    /// If one has none.
    pub fn best_scores(&self, prompts: &[String]) -> Result<Vec<f32>> {
        let score = |judged: Judged| {
            let problem = judged.problem.unwrap_or_default();
            judged.best.map(|best| best.0).ok_or_else(|| anyhow::anyhow!("a prompt has no picture: {problem}"))
        };
        self.draw(prompts)?.into_iter().map(score).collect()
    }

    /// What judged.
    pub fn into_judge(self) -> Judge {
        self.judge.into_inner()
    }

    /// Draws prompts with every seed, some at a time, and judges the pictures as they come.
    fn draw(&self, prompts: &[String]) -> Result<Vec<Judged>> {
        let seeds = self.seeds.len();
        let all = prompts.len() * seeds;
        let mut judged: Vec<Judged> = prompts.iter().map(|_| Judged::default()).collect();
        let (pictures, stop) = self.begin(prompts);
        // Whatever ends the waiting, nothing further is begun.
        let _stop = Stop(&stop);
        let (mut waiting, mut done, mut fatal) = (Vec::new(), 0, None);
        loop {
            let came = pictures.recv_timeout(GLANCE);
            let cancelled = self.cancel.load(Ordering::SeqCst);
            let ended = match came {
                Ok((number, picture)) => {
                    done += 1;
                    match picture {
                        Ok(picture) => waiting.push((number, picture)),
                        Err(RenderError::Cancelled) => {}
                        Err(error) if error.is_fatal() => {
                            stop.store(true, Ordering::SeqCst);
                            fatal.get_or_insert(error);
                        }
                        Err(error) => self.failed(&mut judged[number / seeds], &prompts[number / seeds], &error),
                    }
                    (self.progress)(done, all);
                    false
                }
                Err(RecvTimeoutError::Disconnected) => true,
                // What is being drawn is not waited for.
                Err(RecvTimeoutError::Timeout) => cancelled,
            };
            if waiting.len() >= BATCH || ended && !waiting.is_empty() {
                self.judge(std::mem::take(&mut waiting), &mut judged)?;
            }
            if ended {
                break;
            }
        }
        match fatal {
            Some(error) => Err(error.into()),
            None => Ok(judged),
        }
    }

    /// Begins to draw, on threads that nobody need wait for: each picture comes with its number, prompts first.
    fn begin(&self, prompts: &[String]) -> (Receiver<Numbered>, Arc<AtomicBool>) {
        let (sender, pictures) = channel();
        let (next, stop, prompts) =
            (Arc::new(AtomicUsize::new(0)), Arc::<AtomicBool>::default(), Arc::<[String]>::from(prompts));
        for _ in 0..self.easel.at_a_time.min(prompts.len() * self.seeds.len()) {
            let (sender, next, stop, prompts) =
                (sender.clone(), Arc::clone(&next), Arc::clone(&stop), Arc::clone(&prompts));
            let (easel, seeds, cancel) = (Arc::clone(&self.easel), Arc::clone(&self.seeds), Arc::clone(&self.cancel));
            std::thread::spawn(move || {
                while !stop.load(Ordering::SeqCst) && !cancel.load(Ordering::SeqCst) {
                    let number = next.fetch_add(1, Ordering::SeqCst);
                    let seed = seeds[number % seeds.len()];
                    let Some(prompt) = prompts.get(number / seeds.len()) else { return };
                    let picture = easel.renderer.get().render(&easel.job(prompt, seed));
                    if sender.send((number, picture)).is_err() {
                        return;
                    }
                }
            });
        }
        (pictures, stop)
    }

    fn judge(&self, pictures: Vec<(usize, RgbImage)>, judged: &mut [Judged]) -> Result<()> {
        let (numbers, pictures): (Vec<usize>, Vec<RgbImage>) = pictures.into_iter().unzip();
        let scores = self.judge.borrow_mut().scores(&pictures)?;
        let mut counts = self.counts.get();
        counts.pictures += pictures.len();
        self.counts.set(counts);
        for ((number, picture), score) in numbers.into_iter().zip(pictures).zip(scores) {
            let (at, seed) = (number % self.seeds.len(), self.seeds[number % self.seeds.len()]);
            let of = &mut judged[number / self.seeds.len()];
            of.scores.insert(at, score);
            // The lower seed where several are as good, in whichever order they came.
            let better = of.best.as_ref().is_none_or(|(best, shot)| (score, shot.seed) > (*best, seed));
            if better {
                of.best = Some((score, Shot { picture, seed }));
            }
        }
        Ok(())
    }

    fn failed(&self, judged: &mut Judged, prompt: &str, error: &RenderError) {
        let mut counts = self.counts.get();
        counts.failed += 1;
        self.counts.set(counts);
        if judged.problem.is_none() {
            (self.complain)(&format!("{prompt:?}: {error}"));
        }
        judged.problem.get_or_insert_with(|| error.to_string());
    }

    /// One score a prompt, or why there is none. The best of them is remembered.
    fn scores(&self, prompts: &[String]) -> Result<Vec<Result<f32, UnusableReason>>> {
        let judged = self.draw(prompts)?;
        let stopped = self.cancel.load(Ordering::SeqCst);
        let mut scores = Vec::with_capacity(prompts.len());
        for (prompt, judged) in prompts.iter().zip(judged) {
            // A mean over some of the seeds alone would be another's.
            let whole = judged.problem.is_some() || judged.scores.len() == self.seeds.len();
            let Some(score) = judged.score().filter(|_| whole) else {
                let reason = if stopped { UnusableReason::Interrupted } else { UnusableReason::Unscored };
                scores.push(Err(reason));
                continue;
            };
            scores.push(Ok(score));
            let mut best = self.best.borrow_mut();
            if let Some((_, shot)) = judged.best.filter(|_| best.as_ref().is_none_or(|best| score > best.1)) {
                *best = Some((prompt.clone(), score, shot));
            }
        }
        Ok(scores)
    }
}

/// A studio as the loop has it.
pub struct StudioScorer<'s, 'a>(pub &'s Studio<'a>);

impl Scorer for StudioScorer<'_, '_> {
    /// Of the wish itself: without its picture there is nothing to begin with.
    fn score(&mut self, texts: &[String]) -> Result<Vec<f32>, BoxError> {
        let judged = self.0.draw(texts)?;
        let mut scores = HashMap::new();
        for (text, judged) in texts.iter().zip(judged) {
            let Some(score) = judged.score() else {
                return Err(judged.problem.unwrap_or_else(|| "cancelled".into()).into());
            };
            scores.insert(text, score);
            if let Some((_, shot)) = judged.best {
                let mut best = self.0.best.borrow_mut();
                if best.as_ref().is_none_or(|best| score > best.1) {
                    *best = Some((text.clone(), score, shot));
                }
            }
        }
        Ok(texts.iter().filter_map(|text| scores.get(text).copied()).collect())
    }

    fn score_some(&mut self, texts: &[String]) -> Result<Vec<Result<f32, UnusableReason>>, BoxError> {
        Ok(self.0.scores(texts)?)
    }
}
