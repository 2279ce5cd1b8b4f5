//! The world of moving scenes: the grammar is read back exactly, the split holds, and what moves is seen to move.
#![allow(clippy::unwrap_used, reason = "tests")]

use mils_demo_world::motion::facts::{
    Actor, Facts, VERBS, atom_names, attribute_accuracy, exact, noun_recall, nouns, verb_accuracy,
};
use mils_demo_world::motion::render::{Clip, Placed, times};
use mils_demo_world::motion::{Scene, Videos, grammar, sample};
use mils_demo_world::worlds::{self, World};
use mils_demo_world::{Split, search, simulate, training};
use proptest::prelude::*;
use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;
use std::collections::BTreeSet;

proptest! {
    #[test]
    fn captions_are_read_back(seed in any::<u64>()) {
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        let facts = sample::facts(&mut rng);
        for facts in [facts, sample::perturb(&facts, &mut rng), sample::shortened(&facts, &mut rng)] {
            for text in [grammar::canonical(&facts), grammar::caption(&facts, &mut rng)] {
                prop_assert_eq!(grammar::parse(&text), Some(facts), "{}", text);
                let shouted = format!("  {}. ", text.to_uppercase().replace(',', " ,"));
                prop_assert_eq!(grammar::parse(&shouted), Some(facts), "{}", shouted);
            }
        }
    }

    #[test]
    fn nothing_else_is_read(text in "[a-z ,]{0,40}", words in proptest::collection::vec(0..12_usize, 0..12)) {
        const WORDS: [&str; 12] =
            ["a", "red", "car", "moves", "up", "and", "there", "is", "growing", "at", "night", "grows"];
        let made = words.iter().map(|i| WORDS[*i]).collect::<Vec<_>>().join(" ");
        for text in [text, made] {
            // Whatever is read is said again in one of the ways that the grammar has.
            if let Some(facts) = grammar::parse(&text) {
                prop_assert!(text.contains(nouns()[usize::from(facts.first.noun)]));
                prop_assert_eq!(grammar::parse(&grammar::canonical(&facts)), Some(facts));
            }
        }
    }

    #[test]
    fn changing_and_sampling_respect_the_split(seed in any::<u64>()) {
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        let train = worlds::scene::<Videos>(Split::Train, &mut rng).facts;
        prop_assert_eq!(train.split(), Split::Train);
        let changed = sample::perturb(&train, &mut rng);
        prop_assert!(changed.split() == Split::Train && changed != train);
        let confused = sample::confuse(&train, &mut rng);
        prop_assert!(confused.split() == Split::Train && confused != train);
        prop_assert_eq!((confused.nouns(), confused.background), (train.nouns(), train.background));
        let colours = |facts: &Facts| {
            let mut colours: Vec<u8> = facts.actors().map(|a| a.colour).collect();
            colours.sort_unstable();
            colours
        };
        prop_assert_eq!(colours(&confused), colours(&train));
        let short = sample::shortened(&train, &mut rng);
        prop_assert!(short.atoms().is_subset(&train.atoms()));
        prop_assert_eq!(worlds::scene::<Videos>(Split::HeldOut, &mut rng).facts.split(), Split::HeldOut);
        let mixed = sample::recombine(&[train, changed, confused], &mut rng);
        prop_assert!(mixed.is_complete());
        let known: BTreeSet<u8> = [train, changed, confused].iter().flat_map(Facts::nouns).collect();
        prop_assert!(known.contains(&mixed.first.noun));
    }

    #[test]
    fn what_is_done_is_seen_within_two_thirds_of_the_time(seed in any::<u64>()) {
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        let scene = worlds::scene::<Videos>(Split::Train, &mut rng);
        let clip = Clip::new(&scene);
        let frames: Vec<Vec<Placed>> = times(31).map(|t| clip.objects(t)).collect();
        for actor in scene.facts.actors() {
            let way: Vec<Option<[f32; 4]>> =
                frames.iter().map(|seen| seen.iter().find(|o| o.noun == actor.noun).map(|o| o.bounds)).collect();
            for bounds in way.iter().flatten() {
                prop_assert!(bounds.iter().all(|v| (-0.001..=1.001).contains(v)), "{:?}", bounds);
            }
            // Every third of 31 frames, as ViCLIP's reference takes eight: the last is at 0.7.
            let (first, last) = (way[0], way[21]);
            match VERBS[usize::from(actor.verb)].0 {
                "appears" => prop_assert!(first.is_none() && last.is_some()),
                "disappears" => prop_assert!(first.is_some() && last.is_none()),
                verb => {
                    let ([x0, y0, x1, y1], [u0, v0, u1, v1]) = (first.unwrap(), last.unwrap());
                    let (right, down, larger) = (u0 + u1 - x0 - x1, v0 + v1 - y0 - y1, (u1 - u0) / (x1 - x0));
                    let still = |v: f32| v.abs() < 0.01;
                    prop_assert!(match verb {
                        "moves to the left" => right < -0.9 && still(down),
                        "moves to the right" => right > 0.9 && still(down),
                        "moves up" => down < -0.9 && still(right),
                        "moves down" => down > 0.9 && still(right),
                        "grows" => larger > 1.9,
                        "shrinks" => larger < 0.6,
                        _ => still(right) && still(down) && still(larger - 1.0),
                    }, "{} {:?} {:?}", verb, first, last);
                }
            }
        }
        // Objects never hide each other.
        for seen in &frames {
            if let [a, b] = seen[..] {
                let (a, b) = (a.bounds, b.bounds);
                prop_assert!(a[2] <= b[0] || b[2] <= a[0] || a[3] <= b[1] || b[3] <= a[1]);
            }
        }
    }

    #[test]
    fn training_texts_say_what_their_atoms_are(seed in any::<u64>()) {
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        let facts = worlds::scene::<Videos>(Split::Train, &mut rng).facts;
        let texts = training::texts::<Videos>(&facts, seed);
        let read = |text: &String| grammar::parse(text).unwrap().atoms();
        prop_assert_eq!(read(&texts.caption), facts.atoms());
        for (text, atoms) in texts.captions.iter().zip(&texts.caption_atoms) {
            prop_assert_eq!(&read(text), atoms);
            prop_assert!(atoms.is_subset(&texts.atoms));
        }
        for (i, (text, atoms)) in texts.negatives.iter().zip(&texts.neg_atoms).enumerate() {
            prop_assert_eq!(&read(text), atoms);
            // Several changes may undo each other; one does not.
            prop_assert!(i > 3 || *atoms != texts.atoms);
        }
        prop_assert!(texts.garbled.iter().all(|text| grammar::parse(text).is_none()));
    }
}

fn still(verb: u8) -> Scene {
    Scene { facts: Facts { first: Actor { noun: 3, colour: 0, verb }, second: None, background: Some(0) }, seed: 7 }
}

#[test]
fn pixels_change_where_the_object_is_and_nowhere_else() {
    for verb in 0..VERBS.len() as u8 {
        let clip = Clip::new(&still(verb));
        let (first, last) = (clip.frame(0.0), clip.frame(1.0));
        assert_eq!(clip.frame(0.0), first, "the same time is the same frame");
        let (w, h) = first.dimensions();
        assert!(w.min(h) >= 112 && w.max(h) <= 242);
        // Of a turn, a time within it: it may end where it began.
        let other = if verb == 6 { clip.frame(0.35) } else { last };
        let boxes: Vec<[f32; 4]> = [0.0, 0.35, 1.0].iter().flat_map(|t| clip.objects(*t)).map(|o| o.bounds).collect();
        let (mut within, mut without) = ((0.0, 0_u32), (0.0, 0_u32));
        for (x, y, pixel) in first.enumerate_pixels() {
            let (u, v) = ((x as f32 + 0.5) / w as f32, (y as f32 + 0.5) / h as f32);
            let margin = 0.04;
            let near = |b: &[f32; 4]| u > b[0] - margin && u < b[2] + margin && v > b[1] - margin && v < b[3] + margin;
            let sum = if boxes.iter().any(near) { &mut within } else { &mut without };
            let difference = pixel.0.iter().zip(other.get_pixel(x, y).0).map(|(a, b)| f32::from(a.abs_diff(b)));
            sum.0 += difference.sum::<f32>() / 3.0;
            sum.1 += 1;
        }
        let (within, without) = (within.0 / within.1 as f32, without.0 / without.1 as f32);
        assert!(within > without + 6.0, "{}: {within} within, {without} without", VERBS[usize::from(verb)].0);
    }
}

#[test]
fn the_initial_set_holds_nothing_that_is_held_out() {
    let set = sample::initial_set(0);
    assert_eq!(set.len(), 384);
    assert!(set.iter().all(|t| grammar::parse(t).unwrap().split() == Split::Train));
    let committed = include_str!("../../pack/initial-video.txt");
    assert!(set.iter().map(String::as_str).eq(committed.lines()), "pack/initial-video.txt is another set");
    for scene in worlds::scenes::<Videos>(Split::HeldOut, 500, 1) {
        assert!(set.iter().all(|t| !exact(&scene.facts, &grammar::parse(t).unwrap())));
    }
}

#[test]
fn about_an_eighth_of_what_can_be_done_is_held_out() {
    let mut held = 0;
    for noun in 0..16 {
        for colour in 0..8 {
            for verb in 0..9 {
                let facts = Facts { first: Actor { noun, colour, verb }, second: None, background: None };
                held += u32::from(facts.split() == Split::HeldOut);
            }
        }
    }
    assert!((100..=180).contains(&held), "{held} of 1152");
    let atoms = atom_names();
    assert_eq!(atoms.len(), atoms.iter().collect::<BTreeSet<_>>().len());
    assert_eq!(atoms.len(), 16 + 128 + 144 + 4);
}

#[test]
fn captions_are_judged_by_their_facts() {
    let read = |t: &str| grammar::parse(t).unwrap();
    let truth = read("a red car moves to the left and a blue duck turns, in the snow");
    let same = read("in the snow, a blue duck turns and a red car moves to the left");
    assert!(exact(&truth, &same));
    let half = read("there is a red car moving to the left, in the snow");
    assert_eq!((noun_recall(&truth, &half), verb_accuracy(&truth, &half)), (0.5, 0.5));
    assert_eq!(attribute_accuracy(&truth, &half), 0.6);
    let swapped = read("a red car turns and a blue duck moves to the left, in the snow");
    assert_eq!((noun_recall(&truth, &swapped), verb_accuracy(&truth, &swapped)), (1.0, 0.0));
    for wrong in
        ["a red car moving up", "there is a red car moves up", "a red car grows and a blue car turns", "a red car"]
    {
        assert_eq!(grammar::parse(wrong), None, "{wrong}");
    }
}

#[test]
fn lists_end_beside_the_truth_and_never_on_it() {
    let mut examples: Vec<simulate::Example> = simulate::examples::<Videos>(50, 3, 12, 100).collect();
    assert!(examples.iter().all(|e| e.items.len() == 12 && (e.items[0].0, e.items[11].0) == (0, 100)));
    for stuck in [false, true] {
        let found = search::examples::<Videos>(300, 3, 12, 100, stuck);
        assert_eq!(found.len(), 300);
        for example in &found {
            let truth = grammar::parse(&example.target).unwrap();
            assert!(example.items.iter().all(|(_, text)| grammar::parse(text).unwrap() != truth));
        }
        let late = found.iter().filter(|e| e.progress > 0.5).map(best).collect::<Vec<_>>();
        let early = found.iter().filter(|e| e.progress <= 0.5).map(best).collect::<Vec<_>>();
        let mean = |v: &[f32]| v.iter().sum::<f32>() / v.len() as f32;
        assert!(mean(&late) > mean(&early), "{} {}", mean(&late), mean(&early));
        examples.extend(found);
    }
    for example in &examples {
        assert!(example.items.windows(2).all(|w| w[0].0 <= w[1].0));
        let truth = grammar::parse(&example.target).unwrap();
        assert!(truth.is_complete() && Videos::split(&truth) == Split::Train);
        assert!(example.items.iter().all(|(_, text)| grammar::parse(text).unwrap().split() == Split::Train));
    }
}

/// How much of the truth the best of a list states.
fn best(example: &simulate::Example) -> f32 {
    let (_, text) = example.items.last().unwrap();
    attribute_accuracy(&grammar::parse(&example.target).unwrap(), &grammar::parse(text).unwrap())
}
