//! Agreement with the official tools, whose values are in `fixtures` (see tests/conformance/make_metrics.py).
#![allow(clippy::unwrap_used, clippy::panic, reason = "tests")]

use flate2::read::GzDecoder;
use mils_eval::bleu::{BleuCounts, bleu};
use mils_eval::cider::{DocumentFrequencies, Variant, cider};
use mils_eval::meteor::{Both, Meteor, MeteorFiles, MeteorStats};
use mils_eval::ngram::Vocabulary;
use mils_eval::ptb;
use mils_eval::rouge::rouge_l_all;
use serde::Deserialize;
use std::collections::HashMap;
use std::path::Path;

fn fixture<T: serde::de::DeserializeOwned>(name: &str) -> T {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures").join(name);
    serde_json::from_reader(GzDecoder::new(std::fs::File::open(path).unwrap())).unwrap()
}

#[derive(Deserialize)]
struct Texts {
    texts: Vec<String>,
    words: Vec<String>,
}

#[test]
fn captions_are_cut_into_words_as_stanfords_tokenizer_does() {
    let Texts { texts, words } = fixture("ptb.json.gz");
    let mut wrong = Vec::new();
    for (text, words) in texts.iter().zip(&words) {
        let ours = ptb::words(text);
        if ours != *words {
            wrong.push(format!("{text:?}\n  ours   {ours}\n  theirs {words}"));
        }
    }
    // Those 21 are all pieces that were glued together at random: `The'AT&T'Dr.`, `5¢www.example.com`, `3.14a_b`, `Co.can't`.
    assert!(wrong.len() <= 21, "{} of {} differ:\n{}", wrong.len(), texts.len(), wrong.join("\n"));
}

#[derive(Deserialize)]
struct Sets {
    sets: Vec<Set>,
    function_words: Vec<String>,
}

#[derive(Deserialize)]
struct Set {
    name: String,
    items: Vec<Item>,
    corpus: Corpus,
}

#[derive(Deserialize)]
struct Corpus {
    bleu: [f64; 4],
    rouge_l: f64,
    cider_d: f64,
    meteor: HashMap<String, f64>,
}

#[derive(Deserialize)]
struct Item {
    candidate: String,
    references: Vec<String>,
    bleu: [f64; 4],
    rouge_l: f64,
    cider_d: f64,
    cider: f64,
    meteor: HashMap<String, (f64, Vec<f64>)>,
}

fn mean(values: &[f64]) -> f64 {
    values.iter().sum::<f64>() / values.len() as f64
}

/// Compares one by one.
fn close(what: &str, ours: &[f64], theirs: impl Iterator<Item = f64>, within: f64) {
    for (i, (ours, theirs)) in ours.iter().zip(theirs).enumerate() {
        assert!((ours - theirs).abs() <= within, "{what} of item {i}: {ours} in place of {theirs}");
    }
}

#[test]
fn bleu_rouge_and_cider_are_those_of_the_coco_tools() {
    for set in fixture::<Sets>("captions.json.gz").sets {
        let mut vocabulary = Vocabulary::default();
        let candidates: Vec<_> = set.items.iter().map(|i| vocabulary.sentence(&i.candidate)).collect();
        let references: Vec<Vec<_>> =
            set.items.iter().map(|i| i.references.iter().map(|r| vocabulary.sentence(r)).collect()).collect();
        let counts = bleu(&candidates, &references);
        for n in 0..4 {
            let ours: Vec<f64> = counts.iter().map(|c| c.scores()[n]).collect();
            close(&format!("{} BLEU-{}", set.name, n + 1), &ours, set.items.iter().map(|i| i.bleu[n]), 1e-9);
        }
        let sum: BleuCounts = counts.into_iter().sum();
        close("BLEU", &sum.scores(), set.corpus.bleu.into_iter(), 1e-9);
        if set.name == "demo" {
            // As they were published for these captions.
            assert_eq!(sum.correct, [5732, 2510, 1043, 423]);
            assert_eq!((sum.guess, sum.reference_length), ([9893, 8893, 7893, 6893], 9855));
        }
        let rouge = rouge_l_all(&candidates, &references);
        close("ROUGE-L", &rouge, set.items.iter().map(|i| i.rouge_l), 1e-9);
        close("ROUGE-L", &[mean(&rouge)], [set.corpus.rouge_l].into_iter(), 1e-9);
        let frequencies = DocumentFrequencies::of(&references);
        let d = cider(&candidates, &references, &frequencies, Variant::D);
        close("CIDEr-D", &d, set.items.iter().map(|i| i.cider_d), 1e-9);
        close("CIDEr-D", &[mean(&d)], [set.corpus.cider_d].into_iter(), 1e-9);
        let plain = cider(&candidates, &references, &frequencies, Variant::Plain);
        close("CIDEr", &plain, set.items.iter().map(|i| i.cider), 1e-9);
    }
}

/// How many items have other statistics than the jar, and how many a score that is off by more than a thousandth.
fn meteor_differs(meteor: &Meteor, mode: &str, set: &Set) -> (usize, usize) {
    let candidates: Vec<String> = set.items.iter().map(|i| i.candidate.clone()).collect();
    let references: Vec<Vec<String>> = set.items.iter().map(|i| i.references.clone()).collect();
    let stats = meteor.stats(&candidates, &references).unwrap();
    let (mut statistics, mut scores) = (0, 0);
    for (item, stats) in set.items.iter().zip(&stats) {
        let (score, theirs) = &item.meteor[mode];
        let both = |b: &Both| [b.candidate as f64, b.reference as f64];
        let mut ours = [both(&stats.words), both(&stats.function_words)].concat();
        for s in 0..4 {
            ours.extend([both(&stats.content_matches[s]), both(&stats.function_matches[s])].concat());
        }
        ours.push(stats.chunks as f64);
        ours.extend(both(&stats.matches));
        if ours != *theirs {
            statistics += 1;
        }
        scores += usize::from((stats.score() - score).abs() > 1e-3);
    }
    let all = stats.into_iter().sum::<MeteorStats>().score();
    println!(
        "{mode} {}: {statistics} statistics and {scores} scores of {} differ; {all} {}",
        set.name,
        set.items.len(),
        set.corpus.meteor[mode]
    );
    assert!((all - set.corpus.meteor[mode]).abs() < 1e-4);
    (statistics, scores)
}

#[test]
fn meteor_by_words_and_stems_is_the_jars() {
    let Sets { sets, function_words } = fixture("captions.json.gz");
    let meteor = Meteor::without_data(function_words);
    for set in &sets {
        let (_, scores) = meteor_differs(&meteor, "exact-stem", set);
        assert_eq!(scores, 0);
    }
}

/// Needs METEOR's own files, which `MILS_METEOR` names.
#[test]
fn meteor_with_its_data_is_the_jars() {
    let Some(path) = std::env::var_os("MILS_METEOR") else {
        println!("skipped: MILS_METEOR does not name METEOR's files");
        return;
    };
    let meteor = Meteor::open(MeteorFiles::find(path.as_ref()).unwrap()).unwrap();
    for set in &fixture::<Sets>("captions.json.gz").sets {
        let (_, scores) = meteor_differs(&meteor, "full", set);
        // One in fifty: where several alignments are as good, the jar now and then takes another.
        assert!(scores * 50 <= set.items.len());
    }
}
