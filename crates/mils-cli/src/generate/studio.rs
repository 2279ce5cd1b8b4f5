//! Draws prompts and has them judged: the scorer of the loop.

use super::judge::{Critic, Verdict};
use super::renderer::Easel;
use anyhow::{Result, bail};
use mils_media::RgbImage;
use mils_optim::{BoxError, Candidate, Scorer, UnusableReason};
use mils_render::RenderError;
use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::time::Duration;

/// Pictures judged together.
const BATCH: usize = 16;
/// The best prompts that are drawn once more, with other seeds.
const FINALISTS: usize = 4;
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
pub struct Studio<'a, C> {
    easel: Arc<Easel>,
    critic: RefCell<C>,
    seeds: Arc<[u64]>,
    cancel: Arc<AtomicBool>,
    /// Is told how many pictures of how many are there.
    progress: &'a dyn Fn(usize, usize),
    /// Is told what failed.
    complain: &'a dyn Fn(&str),
    counts: Cell<Counts>,
    /// The best prompt of those that were drawn, with its score and its best picture.
    best: RefCell<Option<(String, f32, Shot)>>,
    /// What is known of prompts that were drawn.
    known: RefCell<HashMap<String, Verdict>>,
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
    /// Its own score, which of a prompt with several is not the prompt's.
    pub score: f32,
}

/// What is known of a prompt: by seed the verdict, and its best picture.
#[derive(Default)]
struct Judged {
    verdicts: BTreeMap<usize, Verdict>,
    /// Its best picture, while it is wanted.
    shot: Option<Shot>,
    /// Pictures that neither came nor failed.
    left: usize,
    problem: Option<String>,
}

impl Judged {
    /// Whether every picture came or failed, and one came: a mean over some of the seeds alone would be another's.
    fn whole(&self) -> bool {
        self.left == 0 && !self.verdicts.is_empty()
    }

    /// The mean over the pictures that there are.
    fn verdict(&self) -> Option<Verdict> {
        let count = self.verdicts.len() as f32;
        let objectives = self.verdicts.values().next()?.objectives.len();
        let mean = |of: &dyn Fn(&Verdict) -> f32| self.verdicts.values().map(of).sum::<f32>() / count;
        Some(Verdict {
            score: mean(&|verdict| verdict.score),
            objectives: (0..objectives).map(|i| mean(&|verdict| verdict.objectives[i])).collect(),
        })
    }
}

impl<'a, C: Critic> Studio<'a, C> {
    /// One that draws with so many seeds from the first.
    pub fn new(
        easel: Arc<Easel>,
        critic: C,
        seeds: Arc<[u64]>,
        cancel: Arc<AtomicBool>,
        progress: &'a dyn Fn(usize, usize),
        complain: &'a dyn Fn(&str),
    ) -> Self {
        let (critic, counts) = (RefCell::new(critic), Cell::default());
        let (best, known) = (RefCell::default(), RefCell::default());
        Self { easel, critic, seeds, cancel, progress, complain, counts, best, known }
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
        let mut judged = self.draw(&[prompt.to_owned()], &self.seeds, true)?;
        let best = judged.pop().and_then(|judged| Some((judged.verdict()?.score, judged.shot?)));
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
            let best = judged.verdicts.into_values().map(|verdict| verdict.score).reduce(f32::max);
            best.ok_or_else(|| anyhow::anyhow!("a prompt has no picture: {problem}"))
        };
        self.draw(prompts, &self.seeds, false)?.into_iter().map(score).collect()
    }

    /// Draws the best of prompts, best first, with further seeds, about `count` pictures in all, and gives the best of these
    /// pictures with its prompt; `None` if there is none. The best wording is not yet the best picture.
    ///
    /// # Errors
    /// If a model or the renderer fails for good.
    pub fn finals(&self, pool: &[Candidate], count: usize) -> Result<Option<(String, Shot)>> {
        let prompts: Vec<String> = pool.iter().take(FINALISTS.min(count)).map(|own| own.text.clone()).collect();
        let first = self.seeds.iter().max().map_or(0, |last| last.wrapping_add(1));
        let each = count.div_ceil(prompts.len().max(1)) as u64;
        let seeds: Arc<[u64]> = (0..each).map(|i| first.wrapping_add(i)).collect();
        let drawn = self.draw(&prompts, &seeds, true)?;
        let shots = prompts.into_iter().zip(drawn).filter_map(|(prompt, judged)| Some((prompt, judged.shot?)));
        // Among equals the better prompt's.
        Ok(shots.reduce(|best, next| if next.1.score > best.1.score { next } else { best }))
    }

    /// Draws prompts to begin with, and gives those that have a picture: the loop may not fail for the others.
    ///
    /// # Errors
    /// If none has one, or a model or the renderer fails for good.
    pub fn prepare(&self, prompts: &[String]) -> Result<Vec<String>> {
        let judged = self.draw(prompts, &self.seeds, false)?;
        let drawn: Vec<String> =
            prompts.iter().zip(&judged).filter(|(_, j)| j.whole()).map(|(p, _)| p.clone()).collect();
        if drawn.is_empty() {
            let problem = judged.into_iter().find_map(|j| j.problem).unwrap_or_else(|| "cancelled".into());
            bail!("none of {} prompts to begin with has a picture: {problem}", prompts.len());
        }
        Ok(drawn)
    }

    /// What judged.
    pub fn into_critic(self) -> C {
        self.critic.into_inner()
    }

    /// Draws prompts with every seed, some at a time, and judges the pictures as they come. Pictures are let go once all of
    /// their prompt are judged, but for the best of all, unless they are to be held.
    fn draw(&self, prompts: &[String], with: &Arc<[u64]>, hold: bool) -> Result<Vec<Judged>> {
        let seeds = with.len();
        let all = prompts.len() * seeds;
        let mut judged: Vec<Judged> = prompts.iter().map(|_| Judged { left: seeds, ..Judged::default() }).collect();
        let (pictures, stop) = self.begin(prompts, with);
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
                        Err(error) => {
                            let (judged, prompt) = (&mut judged[number / seeds], &prompts[number / seeds]);
                            self.failed(judged, prompt, &error);
                            self.settle(judged, prompt, hold);
                        }
                    }
                    (self.progress)(done, all);
                    false
                }
                Err(RecvTimeoutError::Disconnected) => true,
                // What is being drawn is not waited for.
                Err(RecvTimeoutError::Timeout) => cancelled,
            };
            if waiting.len() >= BATCH || ended && !waiting.is_empty() {
                for number in self.judge(std::mem::take(&mut waiting), with, &mut judged)? {
                    self.settle(&mut judged[number / seeds], &prompts[number / seeds], hold);
                }
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
    fn begin(&self, prompts: &[String], seeds: &Arc<[u64]>) -> (Receiver<Numbered>, Arc<AtomicBool>) {
        let (sender, pictures) = channel();
        let (next, stop, prompts) =
            (Arc::new(AtomicUsize::new(0)), Arc::<AtomicBool>::default(), Arc::<[String]>::from(prompts));
        for _ in 0..self.easel.at_a_time.min(prompts.len() * seeds.len()) {
            let (sender, next, stop, prompts) =
                (sender.clone(), Arc::clone(&next), Arc::clone(&stop), Arc::clone(&prompts));
            let (easel, seeds, cancel) = (Arc::clone(&self.easel), Arc::clone(seeds), Arc::clone(&self.cancel));
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

    /// Gives the numbers of the pictures back.
    fn judge(&self, pictures: Vec<(usize, RgbImage)>, seeds: &[u64], judged: &mut [Judged]) -> Result<Vec<usize>> {
        let (numbers, pictures): (Vec<usize>, Vec<RgbImage>) = pictures.into_iter().unzip();
        let verdicts = self.critic.borrow_mut().verdicts(&pictures)?;
        let mut counts = self.counts.get();
        counts.pictures += pictures.len();
        self.counts.set(counts);
        for ((&number, picture), verdict) in numbers.iter().zip(pictures).zip(verdicts) {
            let (at, seed) = (number % seeds.len(), seeds[number % seeds.len()]);
            let of = &mut judged[number / seeds.len()];
            let score = verdict.score;
            of.verdicts.insert(at, verdict);
            of.left -= 1;
            // The lower seed where several are as good, in whichever order they came.
            if of.shot.as_ref().is_none_or(|best| (score, best.seed) > (best.score, seed)) {
                of.shot = Some(Shot { picture, seed, score });
            }
        }
        Ok(numbers)
    }

    /// Remembers what a prompt is worth, once all its pictures are there, and the best picture of all. Those that are
    /// held belong to whoever asked for them.
    fn settle(&self, judged: &mut Judged, prompt: &str, hold: bool) {
        if judged.left > 0 || hold {
            return;
        }
        if let Some(verdict) = judged.verdict() {
            let mut best = self.best.borrow_mut();
            if let Some(shot) = judged.shot.as_ref().filter(|_| best.as_ref().is_none_or(|b| verdict.score > b.1)) {
                *best = Some((prompt.to_owned(), verdict.score, shot.clone()));
            }
            self.known.borrow_mut().insert(prompt.to_owned(), verdict);
        }
        judged.shot = None;
    }

    fn failed(&self, judged: &mut Judged, prompt: &str, error: &RenderError) {
        let mut counts = self.counts.get();
        counts.failed += 1;
        self.counts.set(counts);
        judged.left -= 1;
        if judged.problem.is_none() {
            (self.complain)(&format!("{prompt:?}: {error}"));
        }
        judged.problem.get_or_insert_with(|| error.to_string());
    }

    /// One score a prompt, or why there is none.
    fn scores(&self, prompts: &[String]) -> Result<Vec<Result<f32, UnusableReason>>> {
        let judged = self.draw(prompts, &self.seeds, false)?;
        let stopped = self.cancel.load(Ordering::SeqCst);
        let missing = if stopped { UnusableReason::Interrupted } else { UnusableReason::Unscored };
        let score = |judged: Judged| {
            let verdict = judged.verdict().filter(|_| judged.whole());
            verdict.map(|verdict| verdict.score).ok_or(missing)
        };
        Ok(judged.into_iter().map(score).collect())
    }
}

/// A studio as the loop has it.
pub struct StudioScorer<'s, 'a, C>(pub &'s Studio<'a, C>);

impl<C: Critic> Scorer for StudioScorer<'_, '_, C> {
    /// Of the prompts to begin with: without pictures of them there is nothing.
    fn score(&mut self, texts: &[String]) -> Result<Vec<f32>, BoxError> {
        let known = |text: &String| self.0.known.borrow().get(text).map(|verdict| verdict.score);
        if let Some(scores) = texts.iter().map(known).collect() {
            return Ok(scores);
        }
        let of = |judged: Judged| match judged.verdict() {
            Some(verdict) => Ok(verdict.score),
            None => Err(judged.problem.unwrap_or_else(|| "cancelled".into()).into()),
        };
        self.0.draw(texts, &self.0.seeds, false)?.into_iter().map(of).collect()
    }

    fn score_some(&mut self, texts: &[String]) -> Result<Vec<Result<f32, UnusableReason>>, BoxError> {
        Ok(self.0.scores(texts)?)
    }

    fn objectives(&mut self, text: &str) -> Option<Vec<f32>> {
        let known = self.0.known.borrow();
        known.get(text).map(|verdict| verdict.objectives.clone()).filter(|objectives| !objectives.is_empty())
    }
}
