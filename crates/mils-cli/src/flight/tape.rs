//! What was said and scored before, said again without asking anybody; and what is said and scored now, kept.

use super::{Clock, Keep};
use crate::batch::StepDone;
use mils_optim::{BoxError, Event, InitialSet, Proposals, Scorer, UnusableReason};
use std::cell::{Cell, RefCell};
use std::collections::{HashMap, VecDeque};
use std::time::Instant;

/// What was said and scored before, to be said again; and what is said and scored now, to be kept.
#[derive(Default)]
pub(super) struct Tape<'a> {
    /// Answers of earlier steps that the loop has yet to ask for.
    answers: VecDeque<Proposals>,
    /// Scores of texts of earlier steps, or why there are none.
    scores: HashMap<String, Result<f32, UnusableReason>>,
    /// Objectives of texts of earlier steps.
    objectives: HashMap<String, Vec<f32>>,
    keep: Option<&'a dyn Fn(&StepDone)>,
    /// The last step that was done before.
    before: usize,
    /// Answers of the step under way.
    said: Vec<Proposals>,
    /// Its new texts with their scores and objectives.
    scored: (Vec<String>, Vec<f32>, Vec<Vec<f32>>),
    /// Those that the scorer failed for.
    unscored: Vec<String>,
}

impl<'a> Tape<'a> {
    pub(super) fn new(keep: Option<Keep<'a>>) -> Self {
        let Some((steps, keep)) = keep else { return Self::default() };
        let mut tape = Self { keep: Some(keep), before: steps.len(), ..Self::default() };
        for StepDone { answers, texts, scores, objectives, unscored, .. } in steps {
            tape.answers.extend(answers);
            tape.objectives.extend(texts.iter().cloned().zip(objectives));
            tape.scores.extend(texts.into_iter().zip(scores.into_iter().map(Ok)));
            tape.scores.extend(unscored.into_iter().map(|text| (text, Err(UnusableReason::Unscored))));
        }
        tape
    }

    /// What was said before when the loop asked as it does now.
    pub(super) fn next(&mut self) -> Option<Proposals> {
        self.answers.pop_front()
    }

    /// Whether what is said now is kept.
    pub(super) fn keeps(&self) -> bool {
        self.keep.is_some()
    }

    /// Takes an answer.
    pub(super) fn said(&mut self, answer: Proposals) {
        self.said.push(answer);
    }

    /// Takes what the loop tells, and keeps each step that is done.
    pub(super) fn event(&mut self, event: &Event<'_>) {
        let Some(keep) = self.keep else { return };
        match event {
            Event::Scored { texts, scores, objectives, .. } => {
                self.scored = (texts.to_vec(), scores.to_vec(), objectives.to_vec());
            }
            Event::NotScored { unusable, .. } => {
                let unscored = unusable.iter().filter(|u| u.reason == UnusableReason::Unscored);
                self.unscored.extend(unscored.map(|u| u.text.clone()));
            }
            Event::StepFinished { record, .. } => {
                let (texts, scores, objectives) = std::mem::take(&mut self.scored);
                let (answers, unscored) = (std::mem::take(&mut self.said), std::mem::take(&mut self.unscored));
                // The initial set is scored anew, and what was kept is not kept twice.
                if record.step > self.before {
                    keep(&StepDone { step: record.step, answers, texts, scores, objectives, unscored });
                }
            }
            _ => {}
        }
    }
}

/// A scorer that is not asked for what it has said before; timed.
pub(super) struct Taped<'a> {
    inner: &'a mut dyn Scorer,
    tape: &'a RefCell<Tape<'a>>,
    clock: &'a Cell<f64>,
}

impl<'a> Taped<'a> {
    /// `clock`: the seconds that the scorer has worked.
    pub(super) fn new(inner: &'a mut dyn Scorer, tape: &'a RefCell<Tape<'a>>, clock: &'a Cell<f64>) -> Self {
        Self { inner, tape, clock }
    }

    fn timed<T>(&mut self, score: impl FnOnce(&mut dyn Scorer) -> T) -> T {
        let begin = Instant::now();
        let scores = score(self.inner);
        Clock::add(self.clock, begin.elapsed());
        scores
    }
}

impl Scorer for Taped<'_> {
    fn score(&mut self, texts: &[String]) -> Result<Vec<f32>, BoxError> {
        self.timed(|inner| inner.score(texts))
    }

    fn score_initial(&mut self, initial: &InitialSet) -> Result<Vec<f32>, BoxError> {
        self.timed(|inner| inner.score_initial(initial))
    }

    fn score_some(&mut self, texts: &[String]) -> Result<Vec<Result<f32, UnusableReason>>, BoxError> {
        let before: Option<Vec<_>> = {
            let tape = self.tape.borrow();
            texts.iter().map(|text| tape.scores.get(text).copied()).collect()
        };
        match before {
            Some(scores) => Ok(scores),
            None => self.timed(|inner| inner.score_some(texts)),
        }
    }

    fn objectives(&mut self, text: &str) -> Option<Vec<f32>> {
        let before = self.tape.borrow().objectives.get(text).cloned();
        before.or_else(|| self.inner.objectives(text))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use mils_optim::{Config, Generator, Optimizer, Outcome, Request};
    use std::ops::ControlFlow;

    /// Long texts and texts with many `a` are good, but not both together; a text with `z` has no score.
    #[derive(Default)]
    struct Two {
        asked: Vec<String>,
    }

    fn both(text: &str) -> Vec<f32> {
        let a = text.matches('a').count() as f32;
        vec![text.len() as f32, a * a - text.len() as f32]
    }

    impl Scorer for Two {
        fn score(&mut self, texts: &[String]) -> Result<Vec<f32>, BoxError> {
            self.asked.extend_from_slice(texts);
            Ok(texts.iter().map(|text| both(text).iter().sum()).collect())
        }

        fn score_some(&mut self, texts: &[String]) -> Result<Vec<Result<f32, UnusableReason>>, BoxError> {
            let scores = self.score(texts)?;
            let unless = |(text, score): (&String, f32)| {
                if text.contains('z') { Err(UnusableReason::Unscored) } else { Ok(score) }
            };
            Ok(texts.iter().zip(scores).map(unless).collect())
        }

        fn objectives(&mut self, text: &str) -> Option<Vec<f32>> {
            // Only of what this one has scored: a run that is taken up has others.
            self.asked.iter().any(|asked| asked == text).then(|| both(text))
        }
    }

    /// Writes on what it is shown.
    struct More<'a>(&'a RefCell<Tape<'a>>, usize);

    impl Generator for More<'_> {
        fn propose(&mut self, request: &Request<'_>) -> Result<Proposals, BoxError> {
            if let Some(said) = self.0.borrow_mut().next() {
                return Ok(said);
            }
            self.1 += 1;
            let more = |text: &str| ["a", "bb", "z"].map(|end| format!("{text}{end}"));
            let texts = request.pool.iter().flat_map(|shown| more(&shown.text)).collect();
            let answer = Proposals { texts, ..Proposals::default() };
            self.0.borrow_mut().said(answer.clone());
            Ok(answer)
        }
    }

    fn run(steps: Vec<StepDone>) -> (Outcome, Vec<StepDone>, Vec<String>, usize) {
        let kept = RefCell::new(Vec::new());
        let keep = |step: &StepDone| kept.borrow_mut().push(step.clone());
        let tape = RefCell::new(Tape::new(Some((steps, &keep))));
        let (clock, mut two) = (Cell::default(), Two::default());
        let mut more = More(&tape, 0);
        let config = Config { steps: 4, keep: 4, propose: 12, ..Config::default() };
        let outcome = {
            let mut scorer = Taped::new(&mut two, &tape, &clock);
            let mut observer = |event: &Event<'_>| {
                tape.borrow_mut().event(event);
                ControlFlow::Continue(())
            };
            Optimizer::new(config).run(&["a".into(), "b".into()], &mut more, &mut scorer, &mut observer).unwrap()
        };
        let asked = more.1;
        (outcome, kept.take(), two.asked, asked)
    }

    #[test]
    fn a_run_that_is_taken_up_sorts_by_the_objectives_that_it_had() {
        let (whole, steps, _, asked) = run(Vec::new());
        assert_eq!((steps.len(), asked), (4, 4));
        for step in &steps {
            assert_eq!(step.objectives, step.texts.iter().map(|text| both(text)).collect::<Vec<_>>());
            assert!(!step.unscored.is_empty() && !step.texts.is_empty());
        }
        // What is on disk is what goes on.
        let written = serde_json::to_string(&steps[..2]).unwrap();
        let (again, further, scored, asked) = run(serde_json::from_str(&written).unwrap());
        assert_eq!((&again, &further[..], asked), (&whole, &steps[2..], 2));
        assert!(steps[..2].iter().flat_map(|step| &step.texts).all(|text| !scored.contains(text)));
        // It would not without them: sums alone order otherwise.
        let blind = steps[..2].iter().map(|step| StepDone { objectives: Vec::new(), ..step.clone() });
        assert_ne!(run(blind.collect()).0.pool, whole.pool);
    }

    #[test]
    fn where_there_are_no_objectives_none_are_kept() {
        let step = StepDone { step: 1, texts: vec!["a".into()], scores: vec![1.0], ..StepDone::default() };
        assert!(!serde_json::to_string(&step).unwrap().contains("objectives"));
    }
}
