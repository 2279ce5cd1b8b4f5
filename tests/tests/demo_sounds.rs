//! The bundled CLAP, which is trained: against what transformers computes with it (conformance/make_fixtures.py), from
//! files on, and on held-out recordings, alone and two at once.
#![allow(clippy::unwrap_used, reason = "tests")]

use mils_demo_world::sound::recordings::{HELD_OUT_FOLD, list};
use mils_demo_world::sound::{Facts, grammar, mix};
use mils_encoder::{ClapEncoder, ClapFiles, Embeddings, Sound, SoundEncoder};
use mils_media::audio::{Audio, AudioFile};
use mils_models::{Modality, Pack};
use mils_tests::{PackReference, backends};
use std::path::{Path, PathBuf};

fn demo() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../models/demo")
}

fn clap(backend: &dyn mils_graph::Backend) -> ClapEncoder {
    let scorer = Pack::find("demo").unwrap().task(Modality::Sound).unwrap().scorer;
    ClapFiles::open(&scorer).unwrap().load(backend).unwrap()
}

fn heard(clap: &ClapEncoder, file: &Path) -> Sound {
    clap.listening().read(&mut AudioFile::open(file).unwrap()).unwrap()
}

/// Decoding and resampling are ours too.
#[test]
fn the_bundled_clap_hears_as_transformers_does() {
    let reference = PackReference::read("demo-pack-sound.json");
    assert!(reference.files.len() >= 12 && reference.texts.len() >= 12);
    for backend in backends() {
        let mut clap = clap(&*backend);
        let texts = clap.embed_texts(&reference.texts).unwrap();
        let sounds: Vec<Sound> = reference.files.iter().map(|name| heard(&clap, &demo().join(name))).collect();
        let rows = clap.embed_heard(&sounds).unwrap();
        reference.hold(&backend.name(), &rows, &texts, 0.999, 1e-2);
    }
}

/// What the nearest caption of all says of each row.
fn nearest(rows: &Embeddings, texts: &Embeddings, facts: &[Facts]) -> Vec<Facts> {
    let best = |i: usize| (0..facts.len()).max_by(|a, b| rows.dot(i, texts, *a).total_cmp(&rows.dot(i, texts, *b)));
    (0..rows.len()).map(|i| facts[best(i).unwrap()]).collect()
}

#[test]
fn held_out_recordings_are_told_apart() {
    let recordings = list(&demo().join("recordings")).unwrap();
    assert_eq!((recordings.len(), recordings.iter().all(|r| r.fold == HELD_OUT_FOLD)), (80, true));
    let sounds: Vec<u8> = recordings.iter().map(|r| r.sound).collect();
    let mut clap = clap(&mils_cpu::Cpu::new());
    let alone: Vec<Sound> = recordings.iter().map(|r| heard(&clap, &r.path)).collect();
    let pairs = mix::pairs(&sounds, 60, 1848);
    let mixture = |&[a, b]: &[usize; 2]| {
        let samples = mix::mix(&alone[a].pieces[0].samples, &alone[b].pieces[0].samples);
        let audio = Audio { samples, sample_rate: alone[a].pieces[0].sample_rate };
        Sound { seconds: audio.seconds(), pieces: vec![audio] }
    };
    let mixed: Vec<Sound> = pairs.iter().map(mixture).collect();
    let facts = grammar::all();
    let texts = clap.embed_texts(&facts.iter().map(grammar::canonical).collect::<Vec<_>>()).unwrap();
    let share = |hits: usize, of: usize| hits as f32 / of as f32;

    let said = nearest(&clap.embed_heard(&alone).unwrap(), &texts, &facts);
    let exact = share(said.iter().zip(&sounds).filter(|(f, s)| **f == Facts::one(**s)).count(), said.len());
    let named = share(said.iter().zip(&sounds).filter(|(f, s)| f.has(**s)).count(), said.len());
    let said = nearest(&clap.embed_heard(&mixed).unwrap(), &texts, &facts);
    let truths = pairs.iter().map(|&[a, b]| Facts::two(sounds[a], sounds[b]));
    let both = share(truths.zip(&said).filter(|(truth, said)| truth == *said).count(), said.len());
    println!("held out: named {named}, alone {exact}; both of a mixture {both}");
    assert!(named >= 0.75 && exact >= 0.7, "of recordings, named {named}, alone {exact}");
    assert!(both >= 0.5, "of mixtures, both named in {both}");
}
