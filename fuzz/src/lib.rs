//! What each fuzz target does with the bytes that it is given. The targets call it, and so does tests/tests/corpus.rs, which
//! replays what fuzzing has found.

use mils_media::audio::{Audio, Filter, ReadOptions, read_bytes};
use mils_media::video::{Sampling, VideoLimits, sample_bytes};
use mils_media::{DecodeLimits, decode_image_bytes, kind_bytes};
use mils_pth::{Checkpoint, MOST_GROWTH, Options};
use std::ops::ControlFlow;
use std::path::Path;

/// What a target does with the bytes that it is given.
pub type Target = fn(&[u8]);

/// A target by its name, which is its binary's and its corpus's.
pub const TARGETS: [(&str, Target); 6] =
    [("image", image), ("kind", kind), ("pth", pth), ("resample", resample), ("sound", sound), ("video", video)];

/// Pictures in memory.
pub fn image(bytes: &[u8]) {
    let limits = DecodeLimits { max_pixels: 1 << 20, ..DecodeLimits::default() };
    drop(decode_image_bytes(bytes, &limits));
}

/// What a file is.
pub fn kind(bytes: &[u8]) {
    drop(kind_bytes(bytes));
}

/// A checkpoint of PyTorch: any bytes are an error or a safetensors file that is not much larger. The first byte says how
/// it is opened; the rest is the file.
pub fn pth(bytes: &[u8]) {
    let Some((&how, file)) = bytes.split_first() else { return };
    let prefix = if how & 2 == 0 { String::new() } else { "model.".to_owned() };
    let options = Options { prefix, skip_objects: how & 1 == 1 };
    if let Ok(checkpoint) = Checkpoint::from_bytes(Path::new("fuzzed.pth"), file.to_vec(), &options) {
        assert!(checkpoint.bytes() <= file.len() as u64 * MOST_GROWTH + (1 << 20));
        let mut out = Vec::new();
        let written = checkpoint.write_safetensors(&mut out, &mut |_| ControlFlow::Continue(()));
        assert!(written.is_ok());
    }
}

/// Resampling between any two rates: two of 32 bits, a byte that says which filter, and samples of 16 bits.
pub fn resample(bytes: &[u8]) {
    let Some((head, samples)) = bytes.split_at_checked(9) else { return };
    let number = |at: usize| u32::from_le_bytes([head[at], head[at + 1], head[at + 2], head[at + 3]]);
    // What decoders let through; the number of samples that come out is bounded, so that a run is quick.
    let (from, to) = (number(0) % 1_536_000 + 1, number(4) % 1_600_000);
    let samples: Vec<f32> =
        samples.chunks_exact(2).map(|s| f32::from(i16::from_le_bytes([s[0], s[1]])) / 32768.0).collect();
    if samples.len() as u64 * u64::from(to) / u64::from(from) > 1 << 18 {
        return;
    }
    let filter = if head[8] & 1 == 1 { Filter::Torchaudio } else { Filter::SoxrHq };
    if let Ok(out) = (Audio { samples, sample_rate: from }).resample(to, filter) {
        assert!(out.samples.iter().all(|s| s.is_finite()));
    }
}

/// Sounds in memory, whole and in a window, through Symphonia and FFmpeg.
pub fn sound(bytes: &[u8]) {
    let whole = ReadOptions { max_seconds: 5.0, sample_rate: Some(8000), ..ReadOptions::default() };
    drop(read_bytes(bytes.to_vec(), &whole));
    let window = ReadOptions { start: 0.2, seconds: Some(0.1), ..whole };
    drop(read_bytes(bytes.to_vec(), &window));
}

/// Videos and animations in memory.
pub fn video(bytes: &[u8]) {
    let limits = VideoLimits { max_pixels: 1 << 18, threads: 1, ..VideoLimits::default() };
    drop(sample_bytes(bytes, 3, Sampling::Centres, &limits));
}
