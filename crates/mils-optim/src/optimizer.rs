//! The loop itself.

use crate::initial::InitialSet;
use crate::pool::{Pool, normal, relative_labels, top_of_fronts};
use crate::types::{
    Candidate, Config, Counts, Error, Event, Feedback, Generator, Labelled, Outcome, Proposals, Request, Scorer,
    StepRecord, StoppedBy, Unusable, UnusableReason, Usage,
};
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use std::collections::{HashMap, HashSet};
use std::iter::{repeat, repeat_n};
use std::ops::ControlFlow;

/// So many steps in a row may bring nothing usable before a run gives up.
const BARREN_STEPS: usize = 3;

/// Runs the loop: score the initial set, keep the best K, ask for N more, score those, merge, repeat.
///
/// Unlike the reference code, a text is scored once a run, ties are broken by first appearance, what cannot be used is
/// counted with its reason, and the run stops early when the kept texts stop changing.
pub struct Optimizer {
    config: Config,
}

/// The state of one run.
struct Run<'a> {
    config: &'a Config,
    pool: Pool<'a>,
    counts: Counts,
    records: Vec<StepRecord>,
    kept: Vec<usize>,
}

impl Optimizer {
    /// A loop with these settings.
    pub fn new(config: Config) -> Self {
        Self { config }
    }

    /// Runs it from any texts. `observer` is told what happens and may end the run with `Break`; the best so far is then
    /// the result.
    ///
    /// # Errors
    /// See [`Error`].
    pub fn run(
        &self,
        initial: &[String],
        generator: &mut dyn Generator,
        scorer: &mut dyn Scorer,
        observer: &mut dyn FnMut(&Event<'_>) -> ControlFlow<()>,
    ) -> Result<Outcome, Error> {
        self.run_from(&InitialSet::new(initial.iter().cloned()), generator, scorer, observer)
    }

    /// As [`Optimizer::run`], from a set that was sorted out before, and may be shared by many runs.
    ///
    /// # Errors
    /// See [`Error`].
    pub fn run_from(
        &self,
        initial: &InitialSet,
        generator: &mut dyn Generator,
        scorer: &mut dyn Scorer,
        observer: &mut dyn FnMut(&Event<'_>) -> ControlFlow<()>,
    ) -> Result<Outcome, Error> {
        for (name, value) in [("keep", self.config.keep), ("propose", self.config.propose)] {
            if value == 0 {
                return Err(Error::Setting(name));
            }
        }
        if initial.texts().is_empty() {
            return Err(Error::EmptyInitialSet);
        }
        // Told for completeness; the initial set is scored in any case, since a run has to have a best text.
        let unusable = initial.unusable();
        let early = match unusable {
            [] => ControlFlow::Continue(()),
            unusable => observer(&Event::NotScored { step: 0, unusable }),
        };
        let scores = checked(scorer.score_initial(initial).map_err(Error::Scorer)?, initial.texts(), Some)?;
        let mut run = Run {
            config: &self.config,
            pool: Pool::new(initial, scores),
            counts: Counts::default(),
            records: Vec::new(),
            kept: Vec::new(),
        };
        run.counts.memo_hits = unusable.iter().filter(|u| u.reason == UnusableReason::Duplicate).count();
        let spent = Spent { unusable: unusable.len(), ..Spent::default() };
        let mut flow = run.scored(0, initial.texts().len(), spent, scorer, observer);
        if early.is_break() {
            flow = early;
        }
        let (mut still, mut barren) = (0, 0);
        let mut stopped_by = StoppedBy::Steps;
        for step in 1..=self.config.steps {
            if flow.is_break() {
                break;
            }
            if self.config.patience.is_some_and(|p| still >= p) {
                stopped_by = StoppedBy::Converged;
                break;
            }
            let before = run.kept.clone();
            let shown = run.shown(step);
            if observer(&Event::Proposing { step, pool: &shown }).is_break() {
                flow = ControlFlow::Break(());
                break;
            }
            let mut ahead = Ahead::default();
            let answer = run.ask(step, &shown, generator, &mut ahead, scorer)?;
            let Answer { fresh, of, unusable, usage, proposed, said } = answer;
            barren = if proposed == 0 { barren + 1 } else { 0 };
            let event = Event::Proposed { step, fresh: fresh.len(), unusable: &unusable, usage };
            // Asked before the answer is judged: an answer that was cut short by whoever ends the run may well be empty.
            if observer(&event).is_break() {
                run.abandon(step, fresh, unusable.len(), usage, observer);
                flow = ControlFlow::Break(());
                break;
            }
            if proposed == 0 && (step == 1 || barren >= BARREN_STEPS) {
                return Err(Error::NothingUsable { step, said });
            }
            let spent = Spent { unusable: unusable.len(), usage, of: &of };
            flow = run.score(step, &fresh, spent, &ahead, scorer, observer)?;
            still = if run.kept == before { still + 1 } else { 0 };
        }
        if flow.is_break() {
            stopped_by = StoppedBy::Interrupted;
        }
        Ok(run.outcome(stopped_by))
    }
}

/// What a step's asking came to.
#[derive(Default)]
struct Answer {
    /// New texts, in normal form.
    fresh: Vec<String>,
    /// The number of the answer that each is of, from 1.
    of: Vec<usize>,
    /// All that was not a new text.
    unusable: Vec<Unusable>,
    usage: Usage,
    /// Texts that the generator gave, new or not.
    proposed: usize,
    /// The beginning of what it said that was no text.
    said: String,
}

/// What a step's texts took to have, and where they are from.
#[derive(Clone, Copy, Default)]
struct Spent<'a> {
    unusable: usize,
    usage: Usage,
    /// See [`Event::Scored`].
    of: &'a [usize],
}

/// New texts of an answer that is still coming: scored when enough of them are there. They become candidates only with
/// the whole answer, in its order; until then their scores are merely known.
#[derive(Default)]
struct Ahead {
    waiting: Vec<String>,
    seen: HashSet<String>,
    scores: HashMap<String, Score>,
}

/// A score, or why there is none.
type Score = Result<f32, UnusableReason>;

impl Ahead {
    /// Takes the texts of a piece. `enough`: see [`Config::score_ahead`].
    fn take(&mut self, texts: &[String], pool: &Pool<'_>, enough: usize, scorer: &mut dyn Scorer) -> Result<(), Error> {
        for text in texts {
            let text = normal(text);
            if !text.is_empty() && !pool.contains(&text) && self.seen.insert(text.clone()) {
                self.waiting.push(text);
            }
        }
        // Counted by texts and not by what happens to be there: the same pieces are scored in the same company.
        if self.waiting.len() >= enough {
            let scores = scored(scorer, &self.waiting)?;
            self.scores.extend(self.waiting.drain(..).zip(scores));
        }
        Ok(())
    }

    /// The scores of texts, asked for where they are not known.
    fn complete(&self, texts: &[String], scorer: &mut dyn Scorer) -> Result<Vec<Score>, Error> {
        let unknown: Vec<String> = texts.iter().filter(|t| !self.scores.contains_key(*t)).cloned().collect();
        let mut rest = scored(scorer, &unknown)?.into_iter();
        let known = |text| self.scores.get(text).copied().or_else(|| rest.next());
        Ok(texts.iter().filter_map(known).collect())
    }
}

/// One finite score a text, or why there is none.
fn scored(scorer: &mut dyn Scorer, texts: &[String]) -> Result<Vec<Score>, Error> {
    let scores = if texts.is_empty() { vec![] } else { scorer.score_some(texts).map_err(Error::Scorer)? };
    checked(scores, texts, |score| score.ok())
}

/// `value` is that of a score, where it has one.
fn checked<S: Copy>(scores: Vec<S>, texts: &[String], value: impl Fn(S) -> Option<f32>) -> Result<Vec<S>, Error> {
    if scores.len() != texts.len() {
        return Err(Error::ScoreCount { expected: texts.len(), found: scores.len() });
    }
    let wrong = |(score, text): (&S, &String)| Some((value(*score).filter(|score| !score.is_finite())?, text.clone()));
    match scores.iter().zip(texts).find_map(wrong) {
        Some((score, text)) => Err(Error::NotFinite { score, text }),
        None => Ok(scores),
    }
}

/// The number of the answer that each text is of, where so many are of each: counted on from those before, and without
/// an end.
fn numbers(counts: &[usize], before: usize) -> impl Iterator<Item = usize> {
    let counted = counts.iter().enumerate().flat_map(move |(i, &count)| repeat_n(before + i + 1, count));
    counted.chain(repeat(before + counts.len().max(1)))
}

/// The beginning of what was said, for an error message.
fn excerpt(unusable: &[Unusable]) -> String {
    let said: Vec<&str> = unusable.iter().map(|u| u.text.trim()).filter(|t| !t.is_empty()).collect();
    let said = normal(&said.join(" / "));
    if said.chars().count() > 200 { said.chars().take(200).chain("…".chars()).collect() } else { said }
}

impl Run<'_> {
    /// Asks for new texts, and again for what is short, until there are enough, nothing comes, or it was asked enough.
    fn ask(
        &mut self,
        step: usize,
        shown: &[Labelled],
        generator: &mut dyn Generator,
        ahead: &mut Ahead,
        scorer: &mut dyn Scorer,
    ) -> Result<Answer, Error> {
        let base = self.config.seed.wrapping_mul(0x9E37_79B9_7F4A_7C15).wrapping_add(step as u64);
        let mut answer = Answer::default();
        let (mut unsaid, mut rejected, mut answers_before) = (Vec::new(), Vec::new(), 0);
        for ask in 0..self.config.asks.max(1) {
            let count = self.config.propose.saturating_sub(answer.fresh.len());
            if count == 0 {
                break;
            }
            let request = Request { step, pool: shown, count, seed: base.wrapping_add((ask as u64) << 40) };
            let pieces = self.pieces(&request, generator, ahead, scorer)?;
            let Proposals { texts, answers, unusable, usage } = Proposals::gather(pieces);
            answer.usage += usage;
            answer.proposed += texts.len();
            unsaid.extend(unusable);
            // Whoever says nothing says nothing the next time either, or was told to be silent.
            let silent = texts.is_empty();
            let of = numbers(&answers, answers_before).take(texts.len());
            answers_before += answers.len().max(1);
            rejected.extend(self.sort_out(texts.into_iter().zip(of), &mut answer));
            if silent {
                break;
            }
        }
        answer.said = excerpt(&unsaid);
        answer.unusable = unsaid;
        answer.unusable.extend(rejected);
        Ok(answer)
    }

    /// The answer to one request in pieces, as they came; new texts are scored meanwhile, if they are to be.
    fn pieces(
        &self,
        request: &Request<'_>,
        generator: &mut dyn Generator,
        ahead: &mut Ahead,
        scorer: &mut dyn Scorer,
    ) -> Result<Vec<(usize, Proposals)>, Error> {
        let (mut pieces, mut failed) = (Vec::new(), None);
        let enough = self.config.score_ahead;
        let outcome = generator.stream(request, &mut |number, piece| {
            if enough > 0 && failed.is_none() {
                failed = ahead.take(&piece.texts, &self.pool, enough, scorer).err();
            }
            pieces.push((number, piece));
            if failed.is_some() { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
        });
        match failed {
            Some(error) => Err(error),
            None => outcome.map(|()| pieces).map_err(Error::Generator),
        }
    }

    /// Puts texts never seen before, in normal form and with the number of their answer, to those of the step; the rest
    /// comes back.
    fn sort_out(&mut self, texts: impl Iterator<Item = (String, usize)>, answer: &mut Answer) -> Vec<Unusable> {
        let mut taken: HashSet<String> = answer.fresh.iter().cloned().collect();
        let mut rejected = Vec::new();
        for (text, of) in texts {
            let clean = normal(&text);
            let reason = if clean.is_empty() {
                UnusableReason::Empty
            } else if self.pool.contains(&clean) || taken.contains(&clean) {
                self.counts.memo_hits += 1;
                UnusableReason::Duplicate
            } else {
                taken.insert(clean.clone());
                answer.fresh.push(clean);
                answer.of.push(of);
                continue;
            };
            rejected.push(Unusable { text, reason });
        }
        rejected
    }

    /// The run ends between a step's answer and its scoring: what was said is counted and told all the same.
    fn abandon(
        &mut self,
        step: usize,
        fresh: Vec<String>,
        unusable: usize,
        usage: Usage,
        observer: &mut dyn FnMut(&Event<'_>) -> ControlFlow<()>,
    ) {
        let reason = UnusableReason::Interrupted;
        let left: Vec<Unusable> = fresh.into_iter().map(|text| Unusable { text, reason }).collect();
        self.counts.unusable += unusable + left.len();
        self.counts.usage += usage;
        if !left.is_empty() {
            // It has asked for the end already.
            let _ = observer(&Event::NotScored { step, unusable: &left });
        }
    }

    fn score(
        &mut self,
        step: usize,
        fresh: &[String],
        spent: Spent<'_>,
        ahead: &Ahead,
        scorer: &mut dyn Scorer,
        observer: &mut dyn FnMut(&Event<'_>) -> ControlFlow<()>,
    ) -> Result<ControlFlow<()>, Error> {
        let (mut texts, mut scores, mut of, mut failed) = (vec![], vec![], vec![], vec![]);
        for ((text, score), answer) in fresh.iter().zip(ahead.complete(fresh, scorer)?).zip(spent.of) {
            match score {
                Ok(score) => {
                    texts.push(text.clone());
                    scores.push(score);
                    of.push(*answer);
                }
                Err(reason) => failed.push(Unusable { text: text.clone(), reason }),
            }
        }
        let early = match &failed[..] {
            [] => ControlFlow::Continue(()),
            unusable => observer(&Event::NotScored { step, unusable }),
        };
        let spent = Spent { unusable: spent.unusable + failed.len(), of: &of, ..spent };
        let count = scores.len();
        self.pool.extend(step, texts, scores);
        let flow = self.scored(step, count, spent, scorer, observer);
        Ok(if early.is_break() { early } else { flow })
    }

    /// The last `count` texts are new: chooses what is kept, and tells.
    fn scored(
        &mut self,
        step: usize,
        count: usize,
        Spent { unusable, usage, of }: Spent<'_>,
        scorer: &mut dyn Scorer,
        observer: &mut dyn FnMut(&Event<'_>) -> ControlFlow<()>,
    ) -> ControlFlow<()> {
        let first = self.pool.len() - count;
        self.counts.scored += count;
        self.counts.unusable += unusable;
        self.counts.usage += usage;
        let (texts, scores) = self.pool.last(count);
        let objectives: Option<Vec<Vec<f32>>> = texts.iter().map(|text| scorer.objectives(text)).collect();
        let objectives = &objectives.unwrap_or_default();
        let flow = observer(&Event::Scored { step, texts, scores, answers: of, objectives });
        self.kept = self.best(first, scorer);
        let kept = self.kept();
        let record = StepRecord {
            step,
            best: kept[0].clone(),
            mean_kept: kept.iter().map(|c| c.score).sum::<f32>() / kept.len() as f32,
            scored: count,
            entered: self.kept.iter().filter(|&&i| i >= first).count(),
            unusable,
            usage,
        };
        let done = observer(&Event::StepFinished { record: &record, pool: &kept });
        self.records.push(record);
        if flow.is_break() { flow } else { done }
    }

    /// The truly best texts, whatever the generator is shown: the best of those that were kept and of those from `first`
    /// on, which are new. A set of a million is looked through once.
    fn best(&self, first: usize, scorer: &mut dyn Scorer) -> Vec<usize> {
        let mut numbers = self.kept.clone();
        numbers.sort_unstable();
        numbers.extend(first..self.pool.len());
        let scores: Vec<f32> = numbers.iter().map(|&i| self.pool.scores()[i]).collect();
        // Either every text has objectives or none has.
        let objectives: Option<Vec<Vec<f32>>> = numbers.iter().map(|&i| scorer.objectives(self.pool.text(i))).collect();
        let keep = self.config.keep;
        let top = match objectives {
            Some(objectives) => top_of_fronts(keep, &scores, &objectives),
            None => Pool::top(keep, &scores),
        };
        top.into_iter().map(|at| numbers[at]).collect()
    }

    /// The kept texts, best first.
    fn kept(&self) -> Vec<Candidate> {
        self.kept.iter().map(|&i| self.pool.candidate(i)).collect()
    }

    /// What the generator is shown, best last.
    fn shown(&self, step: usize) -> Vec<Labelled> {
        let all = self.pool.scores();
        let mut rng = ChaCha8Rng::seed_from_u64(self.config.seed ^ (step as u64).rotate_left(32));
        let mut shown: Vec<(usize, f32)> = match self.config.feedback {
            Feedback::True => self.kept.iter().map(|&i| (i, all[i])).collect(),
            Feedback::PermuteScores => {
                let mut scores = all.to_vec();
                shuffle(&mut scores, &mut rng);
                let top = Pool::top(self.config.keep, &scores);
                top.into_iter().map(|i| (i, scores[i])).collect()
            }
            Feedback::PermuteLabels => {
                let mut scores: Vec<f32> = self.kept.iter().map(|&i| all[i]).collect();
                shuffle(&mut scores, &mut rng);
                self.kept.iter().copied().zip(scores).collect()
            }
        };
        shown.sort_by(|a, b| a.1.total_cmp(&b.1).then(b.0.cmp(&a.0)));
        let scores: Vec<f32> = shown.iter().map(|s| s.1).collect();
        let labels = relative_labels(&scores, self.config.label_scale);
        let show =
            |(&(i, score), label): (&(usize, f32), u32)| Labelled { text: self.pool.text(i).clone(), score, label };
        shown.iter().zip(labels).map(show).collect()
    }

    fn outcome(self, stopped_by: StoppedBy) -> Outcome {
        let pool = self.kept();
        Outcome { best: pool[0].clone(), pool, steps: self.records, counts: self.counts, stopped_by }
    }
}

fn shuffle(values: &mut [f32], rng: &mut ChaCha8Rng) {
    for i in (1..values.len()).rev() {
        values.swap(i, rng.random_range(0..=i));
    }
}
