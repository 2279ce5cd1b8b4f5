//! The grammar is read back exactly, the split holds, and every scene can be drawn.
#![allow(clippy::unwrap_used, reason = "tests")]

use mils_demo_world::facts::{COLOURS, Content, Relation, atom_names, attribute_accuracy, exact, f1, noun_recall};
use mils_demo_world::worlds::Pictures;
use mils_demo_world::{Split, grammar, icons, render, sample, search, simulate, worlds};
use proptest::prelude::*;
use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;
use std::collections::BTreeSet;

proptest! {
    #[test]
    fn captions_are_read_back(seed in any::<u64>()) {
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        let facts = sample::facts(&mut rng);
        for facts in [facts, sample::perturb(&facts, &mut rng)] {
            for text in [grammar::canonical(&facts), grammar::caption(&facts, &mut rng)] {
                prop_assert_eq!(grammar::parse(&text), Some(facts), "{}", text);
                let shouted = format!("  {}. ", text.to_uppercase().replace(',', " ,"));
                prop_assert_eq!(grammar::parse(&shouted), Some(facts), "{}", shouted);
            }
        }
    }

    #[test]
    fn nothing_else_is_read(text in "[a-z ,]{0,40}") {
        if let Some(facts) = grammar::parse(&text) {
            prop_assert!(text.contains(COLOURS[usize::from(facts.coloured()[0].1)]));
        }
    }

    #[test]
    fn scenes_are_drawn_with_their_objects_inside(seed in any::<u64>()) {
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        let scene = worlds::scene::<Pictures>(Split::Train, &mut rng);
        let picture = render::render(&scene);
        let (w, h) = picture.image.dimensions();
        prop_assert!(w.min(h) >= 144 && w.max(h) <= 308);
        let wanted = match scene.facts.content {
            Content::One { count, .. } => usize::from(count),
            Content::Two { .. } => 2,
            Content::Three(_) => 3,
        };
        prop_assert_eq!(picture.objects.len(), wanted);
        for o in &picture.objects {
            prop_assert!(o.bounds.iter().all(|v| (-0.001..=1.001).contains(v)), "{:?}", o.bounds);
        }
        if let Content::Two { relation, .. } = scene.facts.content {
            let [a, b] = [0, 1].map(|i| picture.objects[i].bounds);
            let ordered = if relation == Relation::LeftOf { a[2] <= b[0] + 0.01 } else { a[3] <= b[1] + 0.01 };
            prop_assert!(ordered);
        }
    }

    #[test]
    fn perturbing_and_sampling_respect_the_split(seed in any::<u64>()) {
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        let train = worlds::scene::<Pictures>(Split::Train, &mut rng).facts;
        prop_assert_eq!(train.split(), Split::Train);
        prop_assert_eq!(sample::perturb(&train, &mut rng).split(), Split::Train);
        let confused = sample::confuse(&train, &mut rng);
        prop_assert_eq!(confused.split(), Split::Train);
        prop_assert_eq!((confused.nouns().len(), confused.background), (train.nouns().len(), train.background));
        let words = |facts: &mils_demo_world::Facts| {
            let (mut nouns, mut colours): (Vec<u8>, Vec<u8>) = facts.coloured().into_iter().unzip();
            nouns.sort_unstable();
            colours.sort_unstable();
            (nouns, colours)
        };
        prop_assert_eq!(words(&confused), words(&train), "the same nouns and colours");
        prop_assert_eq!(worlds::scene::<Pictures>(Split::HeldOut, &mut rng).facts.split(), Split::HeldOut);
    }
}

#[test]
fn every_noun_has_a_drawing_and_a_plural() {
    assert_eq!((icons::nouns().len(), icons::plurals().len()), (48, 48));
    let names: BTreeSet<&str> = icons::nouns().iter().chain(icons::plurals()).copied().collect();
    assert_eq!(names.len(), 96, "no two are alike");
    let atoms = atom_names();
    assert_eq!(atoms.len(), atoms.iter().collect::<BTreeSet<_>>().len());
}

#[test]
fn the_initial_set_holds_nothing_complete_that_is_held_out() {
    let set = sample::initial_set(0);
    assert_eq!(set.len(), 768);
    assert!(set.iter().all(|t| grammar::parse(t).unwrap().split() == Split::Train));
    let committed = include_str!("../../pack/initial.txt");
    assert!(set.iter().map(String::as_str).eq(committed.lines()), "pack/initial.txt is another set");
    for scene in worlds::scenes::<Pictures>(Split::HeldOut, 500, 1) {
        assert!(set.iter().all(|t| !exact(&scene.facts, &grammar::parse(t).unwrap())));
    }
}

#[test]
fn captions_are_judged_by_their_facts() {
    let read = |t: &str| grammar::parse(t).unwrap();
    let truth = read("a big red car to the left of a small blue dog, in the snow");
    let same = read("in the snow, a small blue dog to the right of a big red car");
    assert!(exact(&truth, &same) && f1(&truth, &same) == 1.0);
    let half = read("a big red car on the left, in the snow");
    assert_eq!((noun_recall(&truth, &half), attribute_accuracy(&truth, &half)), (0.5, 0.5));
    let swapped = read("a big blue car to the left of a small red dog, in the snow");
    assert!(!exact(&truth, &swapped) && (attribute_accuracy(&truth, &swapped) - 4.0 / 6.0).abs() < 1e-6);
}

#[test]
fn simulated_lists_are_ascending_and_their_answers_complete() {
    for example in simulate::examples::<Pictures>(50, 3, 12, 100) {
        assert_eq!(example.items.len(), 12);
        assert!(example.items.windows(2).all(|w| w[0].0 <= w[1].0));
        assert_eq!((example.items[0].0, example.items[11].0), (0, 100));
        assert!(grammar::parse(&example.target).unwrap().is_complete());
    }
}

#[test]
fn a_simulated_search_never_holds_its_answer_nor_anything_held_out() {
    for stuck in [false, true] {
        let examples = search::examples::<Pictures>(300, 3, 12, 100, stuck);
        assert_eq!(examples.len(), 300);
        for example in &examples {
            let truth = grammar::parse(&example.target).unwrap();
            assert!(truth.is_complete() && truth.split() == Split::Train);
            assert!(!example.items.is_empty() && example.items.len() <= 12);
            assert!(example.items.windows(2).all(|w| w[0].0 <= w[1].0));
            for (_, text) in &example.items {
                let facts = grammar::parse(text).unwrap();
                assert!(!exact(&truth, &facts) && facts.split() == Split::Train, "{text}");
            }
        }
        // What a search holds gets nearer to the truth, unless nothing is learnt from the scores.
        let near = |late: bool| -> f32 {
            let chosen: Vec<_> = examples.iter().filter(|e| (e.progress > 0.5) == late).collect();
            let best = |e: &search::Example| {
                let (_, text) = e.items.last().unwrap();
                f1(&grammar::parse(&e.target).unwrap(), &grammar::parse(text).unwrap())
            };
            chosen.iter().map(|e| best(e)).sum::<f32>() / chosen.len() as f32
        };
        assert!(near(true) > near(false) + 0.05, "{} {}", near(true), near(false));
    }
    let texts = |seed| -> Vec<String> {
        search::examples::<Pictures>(5, seed, 12, 100, true).into_iter().map(|e| e.target).collect()
    };
    assert_eq!(texts(1), texts(1));
    assert_ne!(texts(1), texts(2));
}
