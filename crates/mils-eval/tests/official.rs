//! Agreement with the official tools, whose values are in `fixtures` (see tests/conformance/make_metrics.py).
#![allow(clippy::unwrap_used, clippy::panic, reason = "tests")]

use flate2::read::GzDecoder;
use mils_eval::ptb;
use serde::Deserialize;
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
    assert!(wrong.is_empty(), "{} of {} differ:\n{}", wrong.len(), texts.len(), wrong.join("\n"));
}
