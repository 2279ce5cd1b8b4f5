//! The initial sets and lists of labels that are shipped: the sets are what their grammars give, and all is in order.
#![allow(clippy::unwrap_used, reason = "tests")]

use mils_bank::{Cleaner, Labels, Limits, SHIPPED, Shipped};
use std::collections::HashSet;
use std::fs;
use std::path::{Path, PathBuf};

fn banks() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../models/banks")
}

fn labels(name: &str) -> Labels {
    Labels::read(&banks().join("labels").join(name)).unwrap()
}

#[test]
fn the_sets_are_what_their_grammars_give() {
    for set in SHIPPED {
        let name = set.name;
        let texts = set.compose(&banks()).unwrap();
        let file = banks().join(format!("{name}.txt"));
        let shipped = fs::read_to_string(&file).unwrap();
        assert!(
            shipped == texts.join("\n") + "\n",
            "{} is not what its grammar gives; run `cargo run --release -p mils-bank --example compose -- models/banks`",
            file.display()
        );
        assert!(shipped.len() < 1_000_000, "{name}: {} bytes", shipped.len());
    }
}

#[test]
fn the_sets_have_many_texts_that_are_good_for_one() {
    for set in SHIPPED {
        let name = set.name;
        let text = fs::read_to_string(mils_models::find_bank(name).unwrap()).unwrap();
        // Nothing is to be cleaned.
        let mut cleaner = Cleaner::new(Limits { words: 18, ..Limits::default() });
        for line in text.lines() {
            assert_eq!(cleaner.take(line).as_deref(), Some(line), "{name}");
            assert!(line.split(' ').count() >= 4 && line.is_ascii(), "{line}");
            assert!(!line.contains(['{', '}', '(', ')', '|', '*', '+', '#']), "{line}");
            let words: Vec<&str> = line.split(' ').collect();
            for pair in words.windows(2) {
                let vowel = pair[1].starts_with(['a', 'i']);
                assert!(pair[0] != "a" || !vowel, "{line}");
                assert!(pair[0] != "an" || pair[1].starts_with(['a', 'e', 'i', 'o', 'u', 'h', 'x']), "{line}");
            }
        }
        assert_eq!(cleaner.counts().kept, set.texts as u64, "{name}");
    }
}

/// What is in a list is said somewhere: a label that is in no text, or a list that no grammar names, was forgotten.
#[test]
fn every_label_is_in_the_set() {
    for Shipped { name, .. } in SHIPPED {
        let text = fs::read_to_string(banks().join(format!("{name}.txt"))).unwrap();
        let all = labels(name);
        for (list, labels) in all.lists() {
            let absent: Vec<&String> = labels.iter().filter(|label| !text.contains(label.as_str())).collect();
            assert!(absent.is_empty(), "{name}/{list}: {absent:?}");
        }
    }
}

#[test]
fn lists_are_clean_and_many() {
    let mut count = 0;
    for Shipped { name, .. } in SHIPPED {
        let all = labels(name);
        let mut seen = HashSet::new();
        for (list, labels) in all.lists() {
            for label in labels {
                let plain = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || " -'".contains(c);
                assert!(label.chars().all(plain), "{name}/{list}: {label:?}");
                assert!(seen.insert(label), "{name}/{list}: {label} is there twice");
                count += 1;
            }
        }
    }
    assert!(count >= 1500, "{count}");
}
