//! The loop against closures: what it promises for any generator and scorer.
#![allow(clippy::unwrap_used, reason = "tests")]

use mils_optim::*;
use proptest::prelude::*;
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use std::collections::HashMap;
use std::ops::ControlFlow;

struct Closure<F>(F);

impl<F: FnMut(&Request<'_>) -> Proposals> Generator for Closure<F> {
    fn propose(&mut self, request: &Request<'_>) -> Result<Proposals, BoxError> {
        Ok((self.0)(request))
    }
}

impl<F: FnMut(&str) -> f32> Scorer for Closure<F> {
    fn score(&mut self, texts: &[String]) -> Result<Vec<f32>, BoxError> {
        Ok(texts.iter().map(|t| (self.0)(t)).collect())
    }
}

fn texts(all: &[&str]) -> Vec<String> {
    all.iter().map(|&t| t.into()).collect()
}

/// Mutates letters of shown texts; everything from the request's seed.
fn mutate(request: &Request<'_>) -> Proposals {
    let mut rng = ChaCha8Rng::seed_from_u64(request.seed);
    let one = |_| {
        let mut bytes = request.pool[rng.random_range(0..request.pool.len())].text.clone().into_bytes();
        let at = rng.random_range(0..bytes.len());
        bytes[at] = b'a' + rng.random_range(0..26_u8);
        String::from_utf8(bytes).unwrap()
    };
    Proposals { texts: (0..request.count).map(one).collect(), ..Proposals::default() }
}

/// How many letters agree with a hidden word.
fn agreement(text: &str) -> f32 {
    text.bytes().zip(b"lighthouse".iter()).filter(|(a, b)| a == *b).count() as f32
}

fn run(config: Config) -> Outcome {
    let initial = texts(&["aaaaaaaaaa", "llllllllll", "eeeeeeeeee", "oooooooooo"]);
    let go = &mut |_: &Event<'_>| ControlFlow::Continue(());
    Optimizer::new(config).run(&initial, &mut Closure(mutate), &mut Closure(agreement), go).unwrap()
}

/// Gives [`mutate`]'s answer in pieces of several sizes and in any order; both from `order`.
struct Pieces {
    order: ChaCha8Rng,
    given: usize,
}

impl Generator for Pieces {
    fn propose(&mut self, request: &Request<'_>) -> Result<Proposals, BoxError> {
        let texts = mutate(request).texts;
        // Repeats, blanks and talk, as real answers have.
        let texts = texts.iter().enumerate().flat_map(|(i, t)| vec![format!(" {t} "); 1 + usize::from(i % 3 == 0)]);
        let unusable = vec![Unusable { text: "Sure!".into(), reason: UnusableReason::Chatter }];
        let usage = Usage { prompt_tokens: 9, reused_tokens: 4, generated_tokens: request.count as u64 };
        Ok(Proposals { texts: texts.chain([" ".into()]).collect(), unusable, usage, ..Proposals::default() })
    }

    fn stream(
        &mut self,
        request: &Request<'_>,
        take: &mut dyn FnMut(usize, Proposals) -> ControlFlow<()>,
    ) -> Result<(), BoxError> {
        let Proposals { mut texts, unusable, usage, .. } = self.propose(request)?;
        let mut pieces = Vec::new();
        while !texts.is_empty() {
            let later = texts.split_off(self.order.random_range(0..=texts.len().min(3)));
            pieces.push(Proposals { texts: std::mem::replace(&mut texts, later), ..Proposals::default() });
        }
        pieces.push(Proposals { unusable, usage, ..Proposals::default() });
        let mut pieces: Vec<_> = pieces.into_iter().enumerate().collect();
        while !pieces.is_empty() {
            let (number, piece) = pieces.swap_remove(self.order.random_range(0..pieces.len()));
            self.given += 1;
            if take(number, piece).is_break() {
                break;
            }
        }
        Ok(())
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(60))]
    #[test]
    fn pieces_in_any_order_scored_as_they_come_are_the_run_that_the_whole_answer_makes(
        seed in any::<u64>(), order in any::<u64>(), ahead in 1_usize..9, asks in 1_usize..3,
    ) {
        let of = |score_ahead: usize, order: Option<u64>| {
            let config = Config { steps: 5, keep: 4, propose: 9, asks, seed, score_ahead, ..Config::default() };
            let (mut times, mut together): (HashMap<String, usize>, Vec<usize>) = Default::default();
            let mut told = Vec::new();
            struct Counting<F>(F);
            impl<F: FnMut(&[String]) -> Vec<f32>> Scorer for Counting<F> {
                fn score(&mut self, texts: &[String]) -> Result<Vec<f32>, BoxError> {
                    Ok((self.0)(texts))
                }
            }
            let mut scorer = Counting(|texts: &[String]| {
                together.push(texts.len());
                texts.iter().for_each(|t| *times.entry(t.clone()).or_default() += 1);
                texts.iter().map(|t| agreement(t)).collect()
            });
            let see = &mut |e: &Event<'_>| {
                told.push(match e {
                    // Pieces are told apart by nothing but which answer a text is of.
                    Event::Scored { step, texts, scores, answers, .. } => {
                        assert!(answers.is_sorted(), "{answers:?}");
                        format!("{step} {texts:?} {scores:?}")
                    }
                    e => format!("{e:?}"),
                });
                ControlFlow::Continue(())
            };
            let mut pieces = Pieces { order: ChaCha8Rng::seed_from_u64(order.unwrap_or_default()), given: 0 };
            let mut whole = Closure(|r: &Request<'_>| pieces.propose(r).unwrap());
            let generator: &mut dyn Generator = if order.is_some() { &mut pieces } else { &mut whole };
            let initial = texts(&["aaaaaaaaaa", "llllllllll", "eeeeeeeeee", "oooooooooo"]);
            let outcome = Optimizer::new(config).run(&initial, generator, &mut scorer, see).unwrap();
            assert!(times.values().all(|&n| n == 1), "a text is scored once");
            assert_eq!(times.len(), outcome.counts.scored, "and none that is not counted");
            (outcome, told, together)
        };
        let (whole, events, _) = of(0, None);
        let (piecewise, seen, together) = of(ahead, Some(order));
        prop_assert_eq!(&whole, &piecewise);
        prop_assert_eq!(&events, &seen);
        prop_assert_eq!(&whole, &of(0, Some(order)).0);
        // Of a step with enough new texts the first are scored before its answer is complete.
        let early = together.iter().skip(1).any(|&n| n >= ahead && n < ahead + 3);
        prop_assert!(early || whole.steps.iter().skip(1).all(|s| s.scored < ahead), "{:?}", together);
    }
}

#[test]
fn a_scorer_that_fails_amid_an_answer_ends_it_there() {
    let mut pieces = Pieces { order: ChaCha8Rng::seed_from_u64(1), given: 0 };
    let mut scorer = Closure(|t: &str| if t == "aaaaaaaaaa" { 0.0 } else { f32::NAN });
    let config = Config { steps: 5, propose: 40, score_ahead: 2, ..Config::default() };
    let go = &mut |_: &Event<'_>| ControlFlow::Continue(());
    let error = Optimizer::new(config).run(&texts(&["aaaaaaaaaa"]), &mut pieces, &mut scorer, go).unwrap_err();
    assert!(matches!(error, Error::NotFinite { .. }), "{error}");
    assert!(pieces.given < 12, "{} pieces were still taken", pieces.given);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(40))]
    #[test]
    fn the_same_seed_is_the_same_run(seed in any::<u64>(), keep in 1_usize..8, propose in 1_usize..12) {
        for feedback in [Feedback::True, Feedback::PermuteScores, Feedback::PermuteLabels] {
            let config = Config { steps: 6, keep, propose, seed, feedback, ..Config::default() };
            prop_assert_eq!(run(config.clone()), run(config));
        }
    }

    #[test]
    fn the_best_never_gets_worse_and_every_text_is_scored_once(seed in any::<u64>()) {
        let mut times: HashMap<String, usize> = HashMap::new();
        let mut scorer = Closure(|t: &str| { *times.entry(t.into()).or_default() += 1; agreement(t) });
        let config = Config { steps: 8, keep: 5, propose: 10, seed, ..Config::default() };
        let go = &mut |_: &Event<'_>| ControlFlow::Continue(());
        let initial = texts(&["aaaaaaaaaa", "llllllllll"]);
        let outcome = Optimizer::new(config).run(&initial, &mut Closure(mutate), &mut scorer, go).unwrap();
        prop_assert!(times.values().all(|&n| n == 1));
        prop_assert_eq!(outcome.counts.scored, times.len());
        for pair in outcome.steps.windows(2) {
            prop_assert!(pair[1].best.score >= pair[0].best.score);
            // Once the pool is full, a text enters only by being better than one that leaves.
            let before: usize = outcome.steps.iter().take(pair[0].step + 1).map(|r| r.scored).sum();
            prop_assert!(before < 5 || pair[1].mean_kept >= pair[0].mean_kept);
        }
    }
}

#[test]
fn feedback_finds_what_permuted_scores_do_not() {
    let end = |feedback| {
        let of =
            |seed| run(Config { steps: 60, keep: 4, propose: 20, seed, feedback, patience: None, ..Config::default() });
        (0..5).map(|seed| of(seed).best.score).sum::<f32>() / 5.0
    };
    let (with, without) = (end(Feedback::True), end(Feedback::PermuteScores));
    assert!(with > without + 2.0, "{with} against {without}");
}

#[test]
fn permuted_labels_show_the_true_texts_with_each_others_scores() {
    let mut shown = Vec::new();
    let mut generator = Closure(|r: &Request<'_>| {
        shown.push(r.pool.to_vec());
        mutate(r)
    });
    let initial: Vec<String> = (0..12).map(|i| format!("{}{}", "l".repeat(i + 1), "z".repeat(11 - i))).collect();
    let rank = |t: &str| t.matches('l').count() as f32;
    let config = Config { steps: 1, keep: 6, propose: 2, feedback: Feedback::PermuteLabels, ..Config::default() };
    let go = &mut |_: &Event<'_>| ControlFlow::Continue(());
    Optimizer::new(config).run(&initial, &mut generator, &mut Closure(rank), go).unwrap();
    let list = &shown[0];
    assert!(list.iter().all(|l| rank(&l.text) >= 7.0), "only truly best texts");
    assert!(list.windows(2).all(|w| w[0].label <= w[1].label), "in the order of the labels");
    assert!(list.iter().any(|l| l.score != rank(&l.text)), "but not their own");
}

#[test]
fn a_step_asks_again_for_what_repeats_leave_short() {
    let mut asked = Vec::new();
    let mut generator = Closure(|request: &Request<'_>| {
        asked.push((request.step, request.count, request.seed));
        // Two new texts an ask, one of them twice; the third ask of a step is silent.
        let n = asked.len();
        let texts = if n % 3 == 0 { vec![] } else { vec![format!("a{n}"), format!("b{n}"), format!("a{n}")] };
        Proposals { texts, ..Proposals::default() }
    });
    let config = Config { steps: 2, keep: 2, propose: 7, asks: 9, patience: None, ..Config::default() };
    let go = &mut |_: &Event<'_>| ControlFlow::Continue(());
    let mut scorer = Closure(|t: &str| t.len() as f32);
    let outcome = Optimizer::new(config.clone()).run(&texts(&["x"]), &mut generator, &mut scorer, go).unwrap();
    assert_eq!(asked.iter().map(|a| (a.0, a.1)).collect::<Vec<_>>(), [(1, 7), (1, 5), (1, 3), (2, 7), (2, 5), (2, 3)]);
    let seeds: std::collections::HashSet<u64> = asked.iter().map(|a| a.2).collect();
    assert_eq!(seeds.len(), asked.len(), "every ask has its own seed");
    assert_eq!((outcome.counts.scored, outcome.counts.unusable), (1 + 8, 4));

    let mut times = 0;
    let mut enough = Closure(|request: &Request<'_>| {
        times += 1;
        Proposals { texts: (0..request.count).map(|i| format!("{times} {i}")).collect(), ..Proposals::default() }
    });
    Optimizer::new(config).run(&texts(&["x"]), &mut enough, &mut scorer, go).unwrap();
    assert_eq!(times, 2, "a step that has enough asks once");
}

#[test]
fn stops_when_the_kept_texts_stop_changing() {
    let mut n = 0;
    let mut generator = Closure(|_: &Request<'_>| {
        n += 1;
        Proposals { texts: vec![format!("worse {n}")], ..Proposals::default() }
    });
    let mut scorer = Closure(|t: &str| if t.starts_with("worse") { 0.0 } else { 1.0 });
    let config = Config { steps: 20, keep: 2, propose: 1, patience: Some(3), ..Config::default() };
    let go = &mut |_: &Event<'_>| ControlFlow::Continue(());
    let outcome = Optimizer::new(config).run(&texts(&["x", "y"]), &mut generator, &mut scorer, go).unwrap();
    assert_eq!((outcome.stopped_by, outcome.steps.len()), (StoppedBy::Converged, 4));
}

#[test]
fn an_observer_can_end_the_run_and_keeps_the_best() {
    let stop = &mut |e: &Event<'_>| match e {
        Event::StepFinished { record, .. } if record.step == 2 => ControlFlow::Break(()),
        _ => ControlFlow::Continue(()),
    };
    let config = Config { steps: 9, keep: 3, propose: 5, ..Config::default() };
    let initial = texts(&["aaaaaaaaaa"]);
    let outcome = Optimizer::new(config).run(&initial, &mut Closure(mutate), &mut Closure(agreement), stop).unwrap();
    assert_eq!((outcome.stopped_by, outcome.steps.len()), (StoppedBy::Interrupted, 3));
}

#[test]
fn duplicates_and_blanks_are_counted_not_scored() {
    let said = ["  new   text ", "new text", "x", "", " "];
    let mut generator = Closure(|_: &Request<'_>| Proposals { texts: texts(&said), ..Proposals::default() });
    let mut reasons = Vec::new();
    let see = &mut |e: &Event<'_>| {
        if let Event::Proposed { unusable, .. } = e {
            reasons.extend(unusable.iter().map(|u| u.reason));
        }
        ControlFlow::Continue(())
    };
    let config = Config { steps: 1, keep: 2, propose: 5, ..Config::default() };
    let outcome = Optimizer::new(config).run(&texts(&["x"]), &mut generator, &mut Closure(|_: &str| 0.5), see).unwrap();
    use UnusableReason::{Duplicate, Empty};
    assert_eq!(reasons, [Duplicate, Duplicate, Empty, Empty]);
    assert_eq!((outcome.counts.scored, outcome.counts.memo_hits, outcome.counts.unusable), (2, 2, 4));
    assert_eq!(outcome.pool[1].text, "new text", "ties go to what was seen first");
}

#[test]
fn a_text_tells_which_answer_brought_it() {
    struct Answers(Vec<Vec<&'static str>>);
    impl Generator for Answers {
        fn propose(&mut self, request: &Request<'_>) -> Result<Proposals, BoxError> {
            Proposals::streamed(self, request)
        }

        fn stream(
            &mut self,
            request: &Request<'_>,
            take: &mut dyn FnMut(usize, Proposals) -> ControlFlow<()>,
        ) -> Result<(), BoxError> {
            // The last comes first; asked again, they say more.
            for (number, said) in self.0.iter().enumerate().rev() {
                let more = if request.count < 9 { " again" } else { "" };
                let texts = said.iter().map(|t| format!("{t}{more}")).collect();
                let _ = take(number, Proposals { texts, ..Proposals::default() });
            }
            Ok(())
        }
    }
    let of = |generator: &mut dyn Generator| {
        let mut told = Vec::new();
        let see = &mut |e: &Event<'_>| {
            if let Event::Scored { step, texts, answers, .. } = *e {
                assert_eq!(answers.len(), if step == 0 { 0 } else { texts.len() });
                told.extend(texts.iter().cloned().zip(answers.iter().copied()));
            }
            ControlFlow::Continue(())
        };
        let config = Config { steps: 1, propose: 9, asks: 2, ..Config::default() };
        Optimizer::new(config).run(&texts(&["x"]), generator, &mut Closure(|_: &str| 0.5), see).unwrap();
        told
    };
    let answers = || Answers(vec![vec!["a", "x"], vec![], vec!["a", "b", "c"]]);
    let told = |all: &[(&str, usize)]| all.iter().map(|&(t, n)| (t.to_owned(), n)).collect::<Vec<_>>();
    // Repeats and empty answers leave gaps and no mistakes.
    let seven = told(&[("a", 1), ("b", 3), ("c", 3), ("a again", 4), ("x again", 4), ("b again", 6), ("c again", 6)]);
    assert_eq!(of(&mut answers()), seven);
    // An answer that was kept whole still tells of its parts, as when a run is taken up.
    let mut kept = Closure(|request: &Request<'_>| answers().propose(request).unwrap());
    assert_eq!(of(&mut kept), seven);
    let mut one = Closure(|r: &Request<'_>| Proposals { texts: vec![r.count.to_string()], ..Proposals::default() });
    assert_eq!(of(&mut one), told(&[("9", 1), ("8", 2)]));
}

#[test]
fn a_generator_that_says_nothing_usable_ends_the_run_with_what_it_said() {
    let said = Unusable { text: "I cannot\nsee images.".into(), reason: UnusableReason::Chatter };
    let mut generator = Closure(|_: &Request<'_>| Proposals { unusable: vec![said.clone()], ..Proposals::default() });
    let go = &mut |_: &Event<'_>| ControlFlow::Continue(());
    let error = Optimizer::new(Config::default())
        .run(&texts(&["x"]), &mut generator, &mut Closure(|_: &str| 0.5), go)
        .unwrap_err()
        .to_string();
    assert!(error.contains("nothing usable in step 1") && error.contains("I cannot see images."), "{error}");
    let mut silent = Closure(|_: &Request<'_>| Proposals::default());
    let error = Optimizer::new(Config::default())
        .run(&texts(&["x"]), &mut silent, &mut Closure(|_: &str| 0.5), go)
        .unwrap_err()
        .to_string();
    assert!(error.ends_with("it said: nothing at all"), "{error}");
}

#[test]
fn ending_the_run_while_the_generator_is_cut_short_is_no_failure() {
    let cut = Unusable { text: "a dog on".into(), reason: UnusableReason::Truncated };
    let usage = Usage { generated_tokens: 3, ..Usage::default() };
    let mut generator =
        Closure(|_: &Request<'_>| Proposals { unusable: vec![cut.clone()], usage, ..Proposals::default() });
    let stop = &mut |e: &Event<'_>| match e {
        Event::Proposed { .. } => ControlFlow::Break(()),
        _ => ControlFlow::Continue(()),
    };
    let outcome = Optimizer::new(Config::default())
        .run(&texts(&["x"]), &mut generator, &mut Closure(|_: &str| 0.5), stop)
        .unwrap();
    assert_eq!((outcome.stopped_by, outcome.best.text.as_str()), (StoppedBy::Interrupted, "x"));
    assert_eq!((outcome.counts.unusable, outcome.counts.usage), (1, usage));
}

#[test]
fn whenever_a_run_is_ended_everything_said_was_told_and_counted() {
    // Ended at the first, second, … event: whatever the place, the events add up to the counts.
    for end in 1..14 {
        let cut = Unusable { text: "a dog on".into(), reason: UnusableReason::Truncated };
        let mut n = 0;
        let mut generator = Closure(|_: &Request<'_>| {
            n += 2;
            let texts = vec![format!("new {n}"), format!("new {}", n + 1), "x".into()];
            Proposals { texts, unusable: vec![cut.clone()], ..Proposals::default() }
        });
        let (mut events, mut scored, mut unusable) = (0, 0, Vec::new());
        let see = &mut |e: &Event<'_>| {
            match e {
                Event::Proposed { unusable: u, .. } | Event::NotScored { unusable: u, .. } => {
                    unusable.extend_from_slice(u);
                }
                Event::Scored { texts, .. } => scored += texts.len(),
                _ => {}
            }
            events += 1;
            if events >= end { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
        };
        let config = Config { steps: 3, keep: 2, propose: 3, ..Config::default() };
        let initial = texts(&["x", "y", " x ", ""]);
        let outcome = Optimizer::new(config).run(&initial, &mut generator, &mut Closure(|_: &str| 0.5), see).unwrap();
        assert_eq!((outcome.counts.scored, outcome.counts.unusable), (scored, unusable.len()), "ended at event {end}");
        assert!(scored >= 2, "the initial set is scored in any case");
        // Event 5 is the first answer: its two new texts are told as left unscored.
        let left = unusable.iter().filter(|u| u.reason == UnusableReason::Interrupted).count();
        assert_eq!(left, if end == 5 || end == 9 || end == 13 { 2 } else { 0 }, "ended at event {end}");
    }
}

#[test]
fn bad_scores_and_settings_are_errors() {
    struct Short;
    impl Scorer for Short {
        fn score(&mut self, _: &[String]) -> Result<Vec<f32>, BoxError> {
            Ok(vec![0.0])
        }
    }
    let go = &mut |_: &Event<'_>| ControlFlow::Continue(());
    let two = texts(&["x", "y"]);
    let of = |c: Config, s: &mut dyn Scorer, i: &[String], go: &mut dyn FnMut(&Event<'_>) -> ControlFlow<()>| {
        Optimizer::new(c).run(i, &mut Closure(mutate), s, go).unwrap_err()
    };
    let d = Config::default;
    assert!(matches!(of(d(), &mut Short, &two, go), Error::ScoreCount { expected: 2, found: 1 }));
    assert!(matches!(of(d(), &mut Closure(|_: &str| f32::NAN), &two, go), Error::NotFinite { .. }));
    assert!(matches!(of(d(), &mut Short, &[], go), Error::EmptyInitialSet));
    assert!(matches!(of(Config { keep: 0, ..d() }, &mut Short, &two, go), Error::Setting("keep")));
}

#[test]
fn texts_that_the_scorer_fails_for_are_told_and_the_others_go_on() {
    struct Picky;
    impl Scorer for Picky {
        fn score(&mut self, texts: &[String]) -> Result<Vec<f32>, BoxError> {
            Ok(vec![0.1; texts.len()])
        }

        fn score_some(&mut self, texts: &[String]) -> Result<Vec<Result<f32, UnusableReason>>, BoxError> {
            let score = |t: &String| if t.contains("bad") { Err(UnusableReason::Unscored) } else { Ok(0.5) };
            Ok(texts.iter().map(score).collect())
        }
    }
    let mut n = 0;
    let mut generator = Closure(|_: &Request<'_>| {
        n += 1;
        let texts = vec![format!("bad {n}"), format!("good {n}"), format!("bad again {n}")];
        Proposals { texts, answers: vec![1, 1, 1], ..Proposals::default() }
    });
    let (mut told, mut answers) = (Vec::new(), Vec::new());
    let see = &mut |e: &Event<'_>| {
        match e {
            Event::NotScored { unusable, .. } => told.extend(unusable.iter().map(|u| (u.text.clone(), u.reason))),
            Event::Scored { step: 1.., texts, answers: of, .. } => answers.push((texts.to_vec(), of.to_vec())),
            _ => {}
        }
        ControlFlow::Continue(())
    };
    let config = Config { steps: 2, keep: 3, propose: 3, patience: None, ..Config::default() };
    let outcome = Optimizer::new(config).run(&texts(&["x"]), &mut generator, &mut Picky, see).unwrap();
    let told: Vec<&str> = told.iter().filter(|t| t.1 == UnusableReason::Unscored).map(|t| t.0.as_str()).collect();
    assert_eq!(told, ["bad 1", "bad again 1", "bad 2", "bad again 2"]);
    assert_eq!(answers, [(texts(&["good 1"]), vec![2]), (texts(&["good 2"]), vec![2])], "each with its own answer");
    assert_eq!((outcome.counts.scored, outcome.counts.unusable, outcome.pool.len()), (3, 4, 3));
    assert_eq!((outcome.steps[1].scored, outcome.steps[1].unusable), (1, 2));
}

#[test]
fn of_several_objectives_what_is_beaten_in_all_of_them_goes_first() {
    /// Letters `a`, and letters `b`; the score counts the first for more.
    struct Two;
    impl Scorer for Two {
        fn score(&mut self, texts: &[String]) -> Result<Vec<f32>, BoxError> {
            let score = |t: &String| self.objectives(t).map(|o| 10.0 * o[0] + o[1]);
            Ok(texts.iter().filter_map(score).collect())
        }

        fn objectives(&mut self, text: &str) -> Option<Vec<f32>> {
            Some(['a', 'b'].map(|letter| text.chars().filter(|c| *c == letter).count() as f32).to_vec())
        }
    }
    let initial = texts(&["aaa", "aab", "aa", "bbb", "ab", "b", "x"]);
    let config = Config { steps: 1, keep: 3, propose: 1, ..Config::default() };
    let mut shown = Vec::new();
    let see = &mut |e: &Event<'_>| {
        if let Event::Proposing { pool, .. } = e {
            shown = pool.iter().map(|l| l.text.clone()).collect();
        }
        ControlFlow::Continue(())
    };
    let mut generator = Closure(|_: &Request<'_>| Proposals { texts: texts(&["abbb"]), ..Proposals::default() });
    let outcome = Optimizer::new(config).run(&initial, &mut generator, &mut Two, see).unwrap();
    // `aa` has the third score, and `aaa` beats it; `bbb` has the fourth, and nothing does.
    assert_eq!(shown, ["bbb", "aab", "aaa"]);
    let kept: Vec<&str> = outcome.pool.iter().map(|c| c.text.as_str()).collect();
    assert_eq!(kept, ["aaa", "aab", "abbb"]);
    assert_eq!(outcome.best.text, "aaa");
}
