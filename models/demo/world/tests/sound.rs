//! Captions of sounds are read back exactly, and what is made of them holds what it should.
#![allow(clippy::unwrap_used, reason = "tests")]

use mils_demo_world::sound::facts::{RECORDED, SOUNDS, exact, precision, recall};
use mils_demo_world::sound::{Facts, grammar, mix, recordings, sample, search};
use proptest::prelude::*;
use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;
use std::collections::BTreeSet;

proptest! {
    #[test]
    fn captions_are_read_back(seed in any::<u64>()) {
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        let facts = sample::said(&mut rng);
        for facts in [facts, sample::perturb(&facts, &mut rng), sample::recorded(&mut rng)] {
            for text in [grammar::canonical(&facts), grammar::caption(&facts, &mut rng)] {
                prop_assert_eq!(grammar::parse(&text), Some(facts), "{}", text);
                let shouted = format!("  {}. ", text.to_uppercase().replace(' ', "  "));
                prop_assert_eq!(grammar::parse(&shouted), Some(facts), "{}", shouted);
            }
        }
        prop_assert!(sample::perturb(&facts, &mut rng) != facts);
    }

    #[test]
    fn nothing_else_is_read(text in "\\PC{0,40}") {
        prop_assert_eq!(grammar::parse(&text), None);
    }

    #[test]
    fn what_is_garbled_is_no_sentence(seed in any::<u64>()) {
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        let texts = [(); 2].map(|()| grammar::caption(&sample::said(&mut rng), &mut rng));
        if let Some(spoilt) = sample::garbled(&texts[0], &texts[1], &mut rng) {
            prop_assert_eq!(grammar::parse(&spoilt), None);
        }
        for text in texts {
            prop_assert_eq!(Some(grammar::named(&text)), grammar::parse(&text).map(|f| f.sounds()), "{}", text);
        }
    }
}

#[test]
fn words_in_the_wrong_places_are_not_read() {
    for text in [
        "",
        "and",
        " while ",
        "the sound of",
        "the sound of the bark of a dog",
        "the sound of a dog barks",
        "one can hear a dog barks",
        "a dog barks while a barking dog",
        "a dog barks and a barking dog",
        "a dog barks while a dog is barking",
        "a barking dog while falling rain",
        "a dog barks while rain falls while a baby cries",
        "a dog barks and rain falls and a baby cries",
        "a dog cries",
    ] {
        assert_eq!(grammar::parse(text), None, "{text}");
    }
}

#[test]
fn no_two_wordings_are_alike() {
    let all: Vec<&str> = SOUNDS.iter().flat_map(|s| s.clauses.iter().chain(&s.phrases).copied()).collect();
    assert_eq!(all.len(), all.iter().collect::<BTreeSet<_>>().len());
    assert!(all.iter().all(|t| !t.contains(" and ") && !t.contains(" while ") && *t == t.to_lowercase()));
}

#[test]
fn captions_are_judged_by_their_sounds() {
    let read = |t: &str| grammar::parse(t).unwrap();
    let truth = read("a dog barks while rain falls");
    assert!(exact(&truth, &read("it is raining and a dog is barking")));
    let half = read("a barking dog");
    assert_eq!((recall(&truth, &half), precision(&truth, &half)), (0.5, 1.0));
    let other = read("a dog barks while a guitar plays");
    assert_eq!((recall(&truth, &other), precision(&truth, &other)), (0.5, 0.5));
    assert_eq!((recall(&half, &truth), precision(&half, &truth)), (1.0, 0.5));
}

#[test]
fn the_initial_set_names_every_sound_and_no_mixture() {
    let set = sample::initial_set(0);
    let facts: Vec<Facts> = set.iter().map(|t| grammar::parse(t).unwrap()).collect();
    assert!((0..SOUNDS.len() as u8).all(|s| facts.iter().filter(|f| **f == Facts::one(s)).count() == 6));
    let pairs: Vec<&Facts> = facts.iter().filter(|f| f.sounds().len() == 2).collect();
    assert!(pairs.len() == 48 && pairs.iter().all(|f| !f.is_recorded()));
    let committed = include_str!("../../pack/initial-sound.txt");
    assert!(set.iter().map(String::as_str).eq(committed.lines()), "pack/initial-sound.txt is another set");
}

#[test]
fn simulated_lists_are_ascending_and_lead_to_their_answers() {
    let examples = search::examples(400, 3, 12, 100);
    assert_eq!(examples.len(), 400);
    let mut mixtures = 0;
    for example in &examples {
        let truth = grammar::parse(&example.target).unwrap();
        assert!(truth.is_recorded() && example.items.len() == 12);
        assert!(example.items.windows(2).all(|w| w[0].0 <= w[1].0));
        assert_eq!((example.items[0].0, example.items[11].0), (0, 100));
        let said: Vec<Facts> = example.items.iter().map(|(_, text)| grammar::parse(text).unwrap()).collect();
        if truth.sounds().len() == 2 {
            mixtures += usize::from(said.iter().all(|f| *f != truth));
        }
        // A list without a trace of the truth would teach nothing.
        let named = said.iter().filter(|f| recall(&truth, f) > 0.0).count();
        assert!(named > 0, "{:?} {}", example.items, example.target);
    }
    assert!((140..260).contains(&mixtures), "{mixtures} of 400 lists lead to a mixture that is not in them");
    let targets = |seed| -> Vec<String> { search::examples(9, seed, 12, 100).into_iter().map(|e| e.target).collect() };
    assert_eq!(targets(1), targets(1));
    assert_ne!(targets(1), targets(2));
}

#[test]
fn mixtures_hold_both_sounds_equally() {
    let tone = |period: f32, gain: f32, n: usize| -> Vec<f32> {
        (0..n).map(|i| gain * (i as f32 * std::f32::consts::TAU / period).sin()).collect()
    };
    let (loud, quiet) = (tone(40.0, 0.8, 4000), tone(25.0, 0.01, 3000));
    let mixed = mix::mix(&loud, &quiet);
    assert_eq!((mixed.len(), &mixed), (4000, &mix::mix(&quiet, &loud)));
    let part = |period: f32| {
        let of = |f: fn(f32) -> f32| -> f32 {
            mixed.iter().enumerate().map(|(i, s)| s * f(i as f32 * std::f32::consts::TAU / period)).sum()
        };
        of(f32::sin).hypot(of(f32::cos))
    };
    assert!((part(40.0) / part(25.0) - 1.0).abs() < 0.01);
    let power = mixed.iter().map(|s| s * s).sum::<f32>() / 4000.0;
    assert!((power.sqrt() - 0.1).abs() < 1e-3);
    let mut click = vec![0.0; 4000];
    click[7] = 1.0;
    let mixed = mix::mix(&click, &loud);
    assert!(mixed.iter().all(|s| s.abs() <= 0.9001) && mixed[7] > 0.89);
    assert_eq!((mix::mix(&[], &[]), mix::mix(&[0.0; 3], &[])), (vec![], vec![0.0; 3]));
}

#[test]
fn pairs_are_of_different_sounds_and_spread_evenly() {
    let sounds: Vec<u8> = (0..80).map(|i| i / 8).collect();
    let pairs = mix::pairs(&sounds, 60, 7);
    assert_eq!((pairs.len(), &pairs), (60, &mix::pairs(&sounds, 60, 7)));
    assert!(pairs.iter().all(|[a, b]| sounds[*a] != sounds[*b]));
    let unordered: BTreeSet<[usize; 2]> = pairs.iter().map(|&[a, b]| [a.min(b), a.max(b)]).collect();
    assert_eq!(unordered.len(), 60);
    assert!((0..80).all(|i| (1..=2).contains(&pairs.iter().flatten().filter(|p| **p == i).count())));
    assert_eq!((mix::pairs(&[1, 1], 5, 0).len(), mix::pairs(&[1, 1, 2], 5, 0).len()), (0, 2));
}

#[test]
fn recordings_are_found_by_their_folders_and_names() {
    let root = std::env::temp_dir().join(format!("mils-recordings-{}", std::process::id()));
    for name in ["003 - Sea waves/5-2-A.ogg", "003 - Sea waves/1-1-A.ogg", "001 - Dog bark/4-3-B.ogg"] {
        let path = root.join(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, "").unwrap();
    }
    std::fs::write(root.join("003 - Sea waves/notes.txt"), "").unwrap();
    std::fs::write(root.join("README.md"), "").unwrap();
    let found = recordings::list(&root).unwrap();
    std::fs::remove_dir_all(&root).unwrap();
    let short: Vec<(u8, u8)> = found.iter().map(|r| (r.sound, r.fold)).collect();
    assert_eq!(short, [(0, 4), (2, 1), (2, recordings::HELD_OUT_FOLD)]);
    assert!(found.iter().all(|r| r.sound < RECORDED));
    assert!(recordings::list(&root).is_err());
}
