//! Every decoder on files with bytes changed, left out and put in: none may panic, hang or take much memory. The fuzz
//! targets in fuzz/ go on where this ends.
#![allow(clippy::unwrap_used, clippy::panic, reason = "tests")]

use mils_media::audio::{self, ReadOptions};
use mils_media::video::{self, Sampling, VideoLimits};
use mils_media::{DecodeLimits, decode_image_bytes, kind_bytes};
use std::fs;
use std::path::{Path, PathBuf};

/// Seeds below a folder, the small ones: every byte of theirs is a header's or close to it.
fn seeds(folder: &str, most: u64) -> Vec<PathBuf> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("media").join(folder);
    let mut all: Vec<PathBuf> = fs::read_dir(folder).unwrap().map(|e| e.unwrap().path()).collect();
    all.retain(|p| p.is_file() && !p.to_string_lossy().contains(".expected") && fs::metadata(p).unwrap().len() <= most);
    all.sort();
    assert!(all.len() >= 10);
    all
}

/// A small generator of numbers; the same in every run.
struct Dice(u64);

impl Dice {
    fn roll(&mut self, below: usize) -> usize {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        ((self.0 >> 33) as usize) % below.max(1)
    }
}

/// One to four changes, most of them near the start, where sizes and counts are.
fn mutated(seed: &[u8], dice: &mut Dice) -> Vec<u8> {
    let mut bytes = seed.to_vec();
    for _ in 0..1 + dice.roll(4) {
        let reach = if dice.roll(3) > 0 { bytes.len().min(600) } else { bytes.len() };
        let at = dice.roll(reach);
        if bytes.is_empty() {
            break;
        }
        match dice.roll(6) {
            0 => bytes[at] ^= 1 << dice.roll(8),
            1 => bytes[at] = [0, 0x7F, 0x80, 0xFF][dice.roll(4)],
            2 => bytes.truncate(at),
            3 => {
                let end = (at + 1 + dice.roll(40)).min(bytes.len());
                bytes.drain(at..end);
            }
            4 => {
                let end = (at + 4).min(bytes.len());
                bytes[at..end].fill([0, 0xFF][dice.roll(2)]);
            }
            _ => {
                let end = (at + 1 + dice.roll(60)).min(bytes.len());
                let copy = bytes[at..end].to_vec();
                bytes.splice(at..at, copy);
            }
        }
    }
    bytes
}

/// Tries a decoder on many changes of many files. What it says does not matter, only that it ends well.
fn try_all(folder: &str, most: u64, rounds: usize, mut decode: impl FnMut(Vec<u8>)) {
    for (i, path) in seeds(folder, most).into_iter().enumerate() {
        let seed = fs::read(&path).unwrap();
        let mut dice = Dice(i as u64 + 1);
        for _ in 0..rounds {
            decode(mutated(&seed, &mut dice));
        }
    }
}

#[test]
fn sounds() {
    try_all("sounds", 30_000, 60, |bytes| {
        let options = ReadOptions { sample_rate: Some(8000), max_seconds: 5.0, ..ReadOptions::default() };
        drop(audio::read_bytes(bytes.clone(), &options));
        let window = ReadOptions { start: 0.2, seconds: Some(0.1), ..options };
        drop(audio::read_bytes(bytes, &window));
    });
}

#[test]
fn videos() {
    let limits = VideoLimits { max_pixels: 1 << 20, threads: 1, ..VideoLimits::default() };
    try_all("videos", 16_000, 40, |bytes| drop(video::sample_bytes(&bytes, 3, Sampling::Centres, &limits)));
}

#[test]
fn pictures() {
    let limits = DecodeLimits { max_pixels: 1 << 20, ..DecodeLimits::default() };
    try_all("images", 16_000, 60, |bytes| drop(decode_image_bytes(&bytes, &limits)));
}

#[test]
fn kinds() {
    for (folder, rounds) in [("sounds", 40), ("videos", 40), ("images", 40)] {
        try_all(folder, 16_000, rounds, |bytes| drop(kind_bytes(&bytes)));
    }
}
