//! The llama.cpp generator with the bundled demo model.
#![allow(clippy::unwrap_used, reason = "tests")]

use mils_llm::{LlamaError, LlamaGenerator, LlamaOptions};
use mils_optim::prompt::PromptTemplate;
use mils_optim::{Generator, Labelled, Proposals, Request};
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::sync::atomic::Ordering;
use std::sync::{Arc, Barrier};
use std::time::Duration;

fn model() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../models/demo/pack/generator.gguf")
}

fn options() -> LlamaOptions {
    LlamaOptions {
        context: 1024,
        sequences: 8,
        lines: 1,
        temperature: 1.0,
        top_p: 0.95,
        threads: Some(1),
        ..LlamaOptions::default()
    }
}

fn open(options: LlamaOptions) -> LlamaGenerator {
    let pack = mils_models::Pack::find("demo").unwrap();
    let template = PromptTemplate::new(&pack.prompt.system, &pack.prompt.user).unwrap();
    LlamaGenerator::open(&model(), options, template).unwrap()
}

fn pool(texts: &[&str]) -> Vec<Labelled> {
    let label = |i: u32| i * 100 / texts.len() as u32;
    (0..).zip(texts).map(|(i, t)| Labelled { text: (*t).into(), score: i as f32, label: label(i) }).collect()
}

const TEXTS: [&str; 4] = [
    "a red car",
    "a big blue dog on the left",
    "there is a small red dog, in the snow",
    "a big red dog on the left, in the snow",
];

fn ask(generator: &mut LlamaGenerator, pool: &[Labelled], count: usize, seed: u64) -> Proposals {
    generator.propose(&Request { step: 1, pool, count, seed }).unwrap()
}

#[test]
fn the_same_seed_says_the_same_and_another_does_not() {
    let pool = pool(&TEXTS);
    let mut generator = open(options());
    let first = ask(&mut generator, &pool, 8, 1);
    // Eight answers, each with something to count; an answer may ramble on.
    assert!(first.texts.len() <= 8 && first.texts.len() + first.unusable.len() >= 8);
    assert_eq!(first.texts, ask(&mut generator, &pool, 8, 1).texts);
    assert_eq!(first.texts, ask(&mut open(options()), &pool, 8, 1).texts);
    assert_ne!(first.texts, ask(&mut generator, &pool, 8, 2).texts);
}

#[test]
fn the_shared_prefix_is_reused_and_changes_nothing() {
    let mut warm = open(options());
    ask(&mut warm, &pool(&TEXTS[..3]), 4, 7);
    let reused = ask(&mut warm, &pool(&TEXTS), 4, 7);
    let fresh = ask(&mut open(options()), &pool(&TEXTS), 4, 7);
    assert_eq!(fresh.usage.reused_tokens, 0);
    assert!(reused.usage.reused_tokens > 20, "{:?}", reused.usage);
    assert_eq!(reused.usage.prompt_tokens, fresh.usage.prompt_tokens);
    assert_eq!(reused.texts, fresh.texts);
}

#[test]
fn sequences_side_by_side_are_each_what_they_are_alone() {
    let greedy = |sequences| LlamaOptions { temperature: 0.0, sequences, ..options() };
    let alone = ask(&mut open(greedy(1)), &pool(&TEXTS), 1, 3).texts;
    let together = ask(&mut open(greedy(6)), &pool(&TEXTS), 6, 3).texts;
    assert_eq!((alone.len(), together.len()), (1, 6));
    assert!(together.iter().all(|t| *t == alone[0]), "{together:?} against {alone:?}");
    // More than there are sequences: several rounds.
    assert_eq!(ask(&mut open(greedy(2)), &pool(&TEXTS), 5, 3).texts, together[..5]);
}

/// How many texts are the same, of all. The company that an answer is decoded in may change its last bits.
fn share_of_same(a: &[String], b: &[String]) -> f64 {
    assert_eq!(a.len(), b.len(), "{a:?} against {b:?}");
    a.iter().zip(b).filter(|(a, b)| a == b).count() as f64 / a.len() as f64
}

#[test]
fn an_answer_is_the_same_whatever_the_number_of_sequences() {
    let of = |sequences| ask(&mut open(LlamaOptions { sequences, ..options() }), &pool(&TEXTS), 20, 3);
    let (all, few) = (of(20), of(3));
    assert_eq!(all.texts.len() + all.unusable.len(), few.texts.len() + few.unusable.len());
    assert!(share_of_same(&all.texts, &few.texts) >= 0.8, "{:?} against {:?}", all.texts, few.texts);
    assert_eq!(all.usage.prompt_tokens, few.usage.prompt_tokens, "the prompt is computed once");
}

/// What four handles are asked at once.
fn four_pools() -> Vec<Vec<Labelled>> {
    (0..4).map(|i| pool(&[TEXTS[i], TEXTS[(i + 1) % 4], TEXTS[(i + 2) % 4]])).collect()
}

#[test]
fn requests_at_the_same_time_get_what_each_gets_alone() {
    let side_by_side = || LlamaOptions { sequences: 32, prompts: 4, ..options() };
    let pools = four_pools();
    let alone: Vec<Proposals> =
        pools.iter().zip(0..).map(|(pool, seed)| ask(&mut open(side_by_side()), pool, 8, seed)).collect();
    let first = open(side_by_side());
    let before = first.busy();
    let start = Barrier::new(4);
    let together: Vec<Proposals> = std::thread::scope(|scope| {
        let asked: Vec<_> = pools
            .iter()
            .zip(0..)
            .map(|(pool, seed)| {
                let (mut handle, start) = (first.another(), &start);
                scope.spawn(move || {
                    start.wait();
                    ask(&mut handle, pool, 8, seed)
                })
            })
            .collect();
        asked.into_iter().map(|a| a.join().unwrap()).collect()
    });
    assert!(first.busy() > before);
    let same: f64 = alone.iter().zip(&together).map(|(a, b)| share_of_same(&a.texts, &b.texts)).sum();
    assert!(same / 4.0 >= 0.9, "{alone:?} against {together:?}");
    // All but the first take over the instructions from another, whatever the order in which they came.
    let taken_over = together.iter().filter(|p| p.usage.reused_tokens > 20).count();
    assert_eq!(taken_over, 3, "{:?}", together.iter().map(|p| p.usage).collect::<Vec<_>>());
    assert!(alone.iter().all(|p| p.usage.reused_tokens == 0));
}

#[test]
fn each_handle_finds_its_own_last_prompt_again() {
    let mut first = open(LlamaOptions { prompts: 2, ..options() });
    let mut second = first.another();
    let (one, other) = (pool(&TEXTS[..3]), pool(&[TEXTS[3], TEXTS[1], TEXTS[0]]));
    for (generator, pool) in [(&mut first, &one), (&mut second, &other)] {
        ask(generator, pool, 1, 1);
    }
    for (generator, pool) in [(&mut first, &one), (&mut second, &other)] {
        let usage = ask(generator, pool, 1, 2).usage;
        assert_eq!(usage.reused_tokens, usage.prompt_tokens, "not a token of the same prompt is computed again");
    }
}

#[test]
fn answers_come_as_they_end_and_can_be_ended() {
    let mut generator = open(LlamaOptions { sequences: 4, ..options() });
    let pool = pool(&TEXTS);
    let request = Request { step: 1, pool: &pool, count: 24, seed: 1 };
    let watch = generator.another();
    let (mut pieces, mut times) = (Vec::new(), Vec::new());
    generator
        .stream(&request, &mut |number, piece| {
            times.push(watch.busy());
            pieces.push((number, piece));
            ControlFlow::Continue(())
        })
        .unwrap();
    let mut numbers: Vec<usize> = pieces.iter().map(|p| p.0).collect();
    // The last one tells what the prompt cost.
    assert_eq!(numbers.pop(), Some(24));
    numbers.sort_unstable();
    assert!(numbers.into_iter().eq(0..24));
    let whole = times[24];
    assert!(times[0] < whole / 2, "the first of six rounds comes at {:?} of {whole:?}", times[0]);
    let texts = Proposals::gather(pieces).texts;
    assert_eq!(texts, ask(&mut open(LlamaOptions { sequences: 4, ..options() }), &pool, 24, 1).texts);

    let mut taken = 0;
    let before = watch.busy();
    let mut two = |_: usize, _: Proposals| {
        taken += 1;
        if taken == 2 { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    };
    generator.stream(&request, &mut two).unwrap();
    assert_eq!(taken, 2);
    assert!(watch.busy() - before < whole / 2, "the rest is not decoded");
    assert_eq!(ask(&mut generator, &pool, 24, 1).texts.len(), texts.len(), "and the next request is whole");
}

#[test]
fn handles_outlive_the_first_and_errors_are_the_askers_alone() {
    let first = open(LlamaOptions { prompts: 2, context: 256, ..options() });
    let (mut second, mut third) = (first.another(), first.another());
    drop(first);
    let long: Vec<String> = (0..30).map(|i| format!("a big red dog on the left {i}")).collect();
    let long = pool(&long.iter().map(String::as_str).collect::<Vec<_>>());
    let error = second.propose(&Request { step: 1, pool: &long, count: 1, seed: 0 }).unwrap_err();
    assert!(matches!(error.downcast_ref(), Some(LlamaError::ContextTooSmall { .. })), "{error}");
    assert!(!ask(&mut third, &pool(&TEXTS[..1]), 8, 1).texts.is_empty());
    drop(second);
    assert!(!ask(&mut third, &pool(&TEXTS[..1]), 8, 2).texts.is_empty());
    let template = PromptTemplate::new("", "x").unwrap();
    let wrong = LlamaOptions { prompts: 0, ..options() };
    assert!(matches!(LlamaGenerator::open(&model(), wrong, template), Err(LlamaError::Option(_))));
}

#[test]
fn a_cancelled_generation_returns_at_once() {
    let options = options();
    let cancel = Arc::clone(&options.cancel);
    let mut generator = open(options);
    cancel.store(true, Ordering::Relaxed);
    let cut = ask(&mut generator, &pool(&TEXTS), 8, 1);
    assert!(cut.texts.is_empty() && cut.usage.generated_tokens <= 8, "{cut:?}");
    cancel.store(false, Ordering::Relaxed);
    assert!(!ask(&mut generator, &pool(&TEXTS), 8, 1).texts.is_empty());
}

#[test]
fn a_long_prompt_is_cancelled_between_its_batches() {
    // Some thousand tokens: several batches.
    let long: Vec<String> = (0..150).map(|i| format!("there is a big red dog on the left, in the snow {i}")).collect();
    let long = pool(&long.iter().map(String::as_str).collect::<Vec<_>>());
    let options = || LlamaOptions { context: 8192, sequences: 2, ..options() };
    let whole = ask(&mut open(options()), &long, 2, 5);
    assert!(whole.usage.prompt_tokens > 1500, "{:?}", whole.usage);
    // When the flag is seen depends on the machine, so it is set later and later until it was seen midway.
    let mut waits = std::iter::repeat_n((0..15).map(|n| 1 << n), 3).flatten();
    let midway = waits.find_map(|milliseconds| {
        let options = options();
        let cancel = Arc::clone(&options.cancel);
        let mut generator = open(options);
        let later = std::thread::spawn({
            let cancel = Arc::clone(&cancel);
            move || {
                std::thread::sleep(Duration::from_millis(milliseconds));
                cancel.store(true, Ordering::Relaxed);
            }
        });
        let cut = ask(&mut generator, &long, 2, 5);
        later.join().unwrap();
        cancel.store(false, Ordering::Relaxed);
        let partly = (1..whole.usage.prompt_tokens).contains(&cut.usage.prompt_tokens);
        partly.then_some((generator, cut))
    });
    let (mut generator, cut) = midway.expect("a prompt is never cancelled midway");
    assert!(cut.texts.is_empty() && cut.usage.generated_tokens == 0, "{cut:?}");
    // What was decoded by then is still there, and right.
    let again = ask(&mut generator, &long, 2, 5);
    assert!(again.usage.reused_tokens == cut.usage.prompt_tokens, "{:?}", again.usage);
    assert_eq!((again.texts, again.usage.generated_tokens), (whole.texts, whole.usage.generated_tokens));
}

#[test]
fn loading_can_be_cancelled() {
    let options = options();
    options.cancel.store(true, Ordering::Relaxed);
    let template = PromptTemplate::new("", "x").unwrap();
    assert!(matches!(LlamaGenerator::open(&model(), options, template), Err(LlamaError::Cancelled)));
}

#[test]
fn a_prompt_that_does_not_fit_is_an_error_with_the_numbers() {
    let mut generator = open(LlamaOptions { context: 128, ..options() });
    let error = generator.propose(&Request { step: 1, pool: &pool(&TEXTS), count: 1, seed: 0 }).unwrap_err();
    let error = error.downcast_ref::<LlamaError>().unwrap();
    assert!(matches!(error, LlamaError::ContextTooSmall { context: 128, .. }), "{error}");
}

/// The model with its second one-byte token made the same as its first.
fn twice_in_the_vocabulary(model: &[u8]) -> Vec<u8> {
    let key = b"tokenizer.ggml.tokens";
    let list = model.windows(key.len()).position(|w| w == key).unwrap() + key.len() + 16;
    let mut out = model.to_vec();
    let (mut at, mut first) = (list, None);
    loop {
        let length = u64::from_le_bytes(model[at..at + 8].try_into().unwrap()) as usize;
        match first {
            None if length == 1 => first = Some(model[at + 8]),
            Some(byte) if length == 1 => {
                out[at + 8] = byte;
                return out;
            }
            _ => {}
        }
        at += 8 + length;
    }
}

#[test]
fn damaged_models_are_errors() {
    let whole = std::fs::read(model()).unwrap();
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("m.gguf");
    let template = || PromptTemplate::new("", "x").unwrap();
    // Cut anywhere: in the header, in the vocabulary, in the tensors.
    for share in [5, 100, 1000, 20_000, whole.len() / 3, whole.len() - 1000] {
        std::fs::write(&path, &whole[..share]).unwrap();
        let error = LlamaGenerator::open(&path, options(), template()).err().unwrap().to_string();
        assert!(error.contains("m.gguf") && !error.contains('\n'), "{error}");
    }
    // A figure that llama.cpp asserts: it would end the process.
    let key = b"llama.block_count";
    let at = whole.windows(key.len()).position(|w| w == key).unwrap() + key.len() + 4;
    let mut changed = whole.clone();
    changed[at..at + 4].copy_from_slice(&0_u32.to_le_bytes());
    std::fs::write(&path, &changed).unwrap();
    let error = LlamaGenerator::open(&path, options(), template()).err().unwrap().to_string();
    assert!(error.contains("block_count") && error.contains("m.gguf"), "{error}");
    // A token that is there twice; one that is not a text of the prompt, so that nothing else changes.
    let twice = twice_in_the_vocabulary(&whole);
    std::fs::write(&path, twice).unwrap();
    let error = LlamaGenerator::open(&path, options(), template()).err().unwrap().to_string();
    assert!(error.contains("twice"), "{error}");
    let missing = LlamaGenerator::open(Path::new("none.gguf"), options(), template()).err().unwrap();
    assert!(missing.to_string().contains("no such file"));
    let wrong = LlamaOptions { top_p: 0.0, ..options() };
    assert!(matches!(LlamaGenerator::open(&model(), wrong, template()), Err(LlamaError::Option(_))));
}
