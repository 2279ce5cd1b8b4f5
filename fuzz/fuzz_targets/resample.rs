//! Resampling between any two rates.
#![no_main]

use libfuzzer_sys::fuzz_target;
use mils_media::audio::{Audio, Filter};

fuzz_target!(|input: (u32, u32, bool, Vec<i16>)| {
    let (from, to, hann, samples) = input;
    // What decoders let through; the number of samples that come out is bounded, so that a run is quick.
    let (from, to) = (from % 1_536_000 + 1, to % 1_600_000);
    if samples.len() as u64 * u64::from(to) / u64::from(from) > 1 << 18 {
        return;
    }
    let samples: Vec<f32> = samples.into_iter().map(|s| f32::from(s) / 32768.0).collect();
    let filter = if hann { Filter::Torchaudio } else { Filter::SoxrHq };
    if let Ok(out) = (Audio { samples, sample_rate: from }).resample(to, filter) {
        assert!(out.samples.iter().all(|s| s.is_finite()));
    }
});
