//! Kaldi's log-mel filter banks, with the settings that ImageBind has: 16 kHz, frames of 25 ms every 10 ms, a symmetric
//! Hann window, 128 bands from 20 Hz to 8 kHz, no dither, no energy.
//!
//! Reference: `torchaudio.compliance.kaldi.fbank` with `htk_compat=True, window_type="hanning", num_mel_bins=128,
//! dither=0.0, use_energy=False`. It computes in f32, here it is f64: near silence the reference's own rounding is what
//! differs.

use super::clips::{BANDS, RATE};
use realfft::{RealFftPlanner, RealToComplex};
use std::f64::consts::TAU;
use std::sync::Arc;

/// Samples of a frame: 25 ms.
const WINDOW: usize = 400;
/// From one frame to the next: 10 ms.
const SHIFT: usize = 160;
/// Samples of the transform: the next power of two.
const PADDED: usize = 512;
/// How much of the sample before is taken off each.
const PREEMPHASIS: f64 = 0.97;
/// Lowest frequency, in Hz.
const LOWEST: f64 = 20.0;
/// Fewer samples than these have no frame.
pub(crate) const MOST_SILENT: usize = WINDOW;

/// Window, transform and filters.
#[derive(Clone)]
pub(crate) struct Fbank {
    fft: Arc<dyn RealToComplex<f64>>,
    window: Vec<f64>,
    /// Of each band, the first bin that it lets through and how much of it and of those behind it.
    filters: Vec<(usize, Vec<f64>)>,
}

/// The log-mel features of a sound of 16 kHz, values about -1 to 1: rows of 128 bands, a row a frame; none where there
/// are fewer than 400 samples. As `torchaudio.compliance.kaldi.fbank` computes them for ImageBind.
pub fn kaldi_fbank(samples: &[f32]) -> Vec<f32> {
    Fbank::new().frames(samples)
}

fn mel(hertz: f64) -> f64 {
    1127.0 * (1.0 + hertz / 700.0).ln()
}

impl Fbank {
    pub(crate) fn new() -> Self {
        let window = (0..WINDOW).map(|i| 0.5 - 0.5 * (TAU * i as f64 / (WINDOW - 1) as f64).cos()).collect();
        let (low, high) = (mel(LOWEST), mel(RATE as f64 / 2.0));
        let step = (high - low) / (BANDS + 1) as f64;
        // The bin of half the sample rate is in no filter.
        let bins: Vec<f64> = (0..PADDED / 2).map(|bin| mel(bin as f64 * RATE as f64 / PADDED as f64)).collect();
        let filter = |band: usize| {
            let [left, centre, right] = [0, 1, 2].map(|i| low + (band + i) as f64 * step);
            let weight = |&mel: &f64| ((mel - left) / (centre - left)).min((right - mel) / (right - centre)).max(0.0);
            let all: Vec<f64> = bins.iter().map(weight).collect();
            let first = all.iter().position(|&w| w > 0.0).unwrap_or_default();
            let end = all.iter().rposition(|&w| w > 0.0).map_or(first, |last| last + 1);
            (first, all[first..end].to_vec())
        };
        Self { fft: RealFftPlanner::new().plan_fft_forward(PADDED), window, filters: (0..BANDS).map(filter).collect() }
    }

    /// Logarithms of the bands' energies, [frames, bands]. Only whole frames are taken.
    pub(crate) fn frames(&self, samples: &[f32]) -> Vec<f32> {
        let (mut frame, mut spectrum, mut scratch) =
            (self.fft.make_input_vec(), self.fft.make_output_vec(), self.fft.make_scratch_vec());
        let mut out = Vec::new();
        for samples in samples.windows(WINDOW).step_by(SHIFT) {
            self.cut(&mut frame, samples);
            // The buffers were made for this transform, which is all that it can refuse.
            if self.fft.process_with_scratch(&mut frame, &mut spectrum, &mut scratch).is_err() {
                continue;
            }
            out.extend(self.filters.iter().map(|(first, weights)| {
                let bins = spectrum.iter().skip(*first);
                let energy: f64 = weights.iter().zip(bins).map(|(weight, bin)| weight * bin.norm_sqr()).sum();
                energy.max(f64::from(f32::EPSILON)).ln() as f32
            }));
        }
        out
    }

    /// One frame: its mean taken off, the highs lifted, under the window, with zeros behind.
    fn cut(&self, frame: &mut [f64], samples: &[f32]) {
        let mean = samples.iter().map(|&v| f64::from(v)).sum::<f64>() / WINDOW as f64;
        frame.fill(0.0);
        let mut before = samples.first().map_or(0.0, |&v| f64::from(v) - mean);
        for ((to, &sample), window) in frame.iter_mut().zip(samples).zip(&self.window) {
            let sample = f64::from(sample) - mean;
            *to = (sample - PREEMPHASIS * before) * window;
            before = sample;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_are_whole_ones() {
        let frames = |samples: usize| kaldi_fbank(&vec![0.1; samples]).len() / BANDS;
        assert_eq!([399, 400, 559, 560, 32_000].map(frames), [0, 1, 1, 2, 198]);
    }

    #[test]
    fn a_tone_is_loudest_in_its_band() {
        let tone: Vec<f32> = (0..800).map(|i| (TAU * 1000.0 * f64::from(i) / RATE as f64).sin() as f32).collect();
        let bands = &kaldi_fbank(&tone)[..BANDS];
        let loudest = (0..BANDS).max_by(|&a, &b| bands[a].total_cmp(&bands[b])).unwrap_or_default();
        let step = (mel(8000.0) - mel(LOWEST)) / (BANDS + 1) as f64;
        let centre = ((mel(1000.0) - mel(LOWEST)) / step - 1.0).round() as usize;
        assert!(loudest.abs_diff(centre) <= 1, "{loudest} {centre}");
    }
}
