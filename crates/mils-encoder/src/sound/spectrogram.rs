//! Log-mel spectrograms: a centred short-time Fourier transform with a Hann window, mel bands, decibels.
//!
//! Reference: `spectrogram` and `power_to_db` of transformers' `audio_utils.py`, in f64 as there: in f32 the rounding of
//! loud bins would drown what is quiet.

use super::mel::MelBank;
use rayon::prelude::*;
use realfft::{RealFftPlanner, RealToComplex};
use std::sync::Arc;

/// The least power of a band: -100 dB.
const FLOOR: f64 = 1e-10;
/// Frames that a thread computes at a time.
const FRAMES: usize = 32;

/// What makes spectrograms of one kind.
#[derive(Clone)]
pub(crate) struct LogMel {
    fft: Arc<dyn RealToComplex<f64>>,
    window: Vec<f64>,
    hop: usize,
}

impl LogMel {
    /// Frames of `length` samples, at least 2, every `hop` samples, at least 1.
    pub(crate) fn new(length: usize, hop: usize) -> Self {
        let turn = std::f64::consts::TAU / length as f64;
        let window = (0..length).map(|i| 0.5 - 0.5 * (turn * i as f64).cos()).collect();
        Self { fft: RealFftPlanner::new().plan_fft_forward(length), window, hop }
    }

    /// Frames of so many samples; the first is centred on the first sample.
    pub(crate) fn frames(&self, samples: usize) -> usize {
        let length = self.window.len();
        let padded = samples + length / 2 * 2;
        padded.checked_sub(length).map_or(0, |room| 1 + room / self.hop)
    }

    /// The bands of these frames in decibels, a row a frame. There are more samples than half a frame has: what is
    /// beyond their ends is their mirror image.
    pub(crate) fn rows(&self, bank: &MelBank, samples: &[f32], frames: &[usize]) -> Vec<f32> {
        let bands = bank.len();
        let mut out = vec![0.0; frames.len() * bands];
        let make = || (self.fft.make_input_vec(), self.fft.make_output_vec(), self.fft.make_scratch_vec(), Vec::new());
        let pieces = out.par_chunks_mut(FRAMES * bands).zip(frames.par_chunks(FRAMES));
        pieces.for_each_init(make, |(frame, spectrum, scratch, powers), (out, frames)| {
            for (out, &at) in out.chunks_exact_mut(bands).zip(frames) {
                self.cut(frame, samples, at);
                // The buffers were made for this transform, which is all that it can refuse.
                if self.fft.process_with_scratch(frame, spectrum, scratch).is_err() {
                    continue;
                }
                powers.clear();
                // The reference keeps spectra in f32.
                powers.extend(spectrum.iter().map(|c| f64::from(c.re as f32).powi(2) + f64::from(c.im as f32).powi(2)));
                for (out, power) in out.iter_mut().zip(bank.apply(powers)) {
                    *out = (10.0 * power.max(FLOOR).log10()) as f32;
                }
            }
        });
        out
    }

    /// One frame under the window.
    fn cut(&self, frame: &mut [f64], samples: &[f32], at: usize) {
        let (begin, half) = (at * self.hop, self.window.len() / 2);
        if let Some(inside) = begin.checked_sub(half).and_then(|begin| samples.get(begin..begin + self.window.len())) {
            for ((to, &sample), window) in frame.iter_mut().zip(inside).zip(&self.window) {
                *to = f64::from(sample) * window;
            }
            return;
        }
        let last = samples.len() - 1;
        for (i, (to, window)) in frame.iter_mut().zip(&self.window).enumerate() {
            // Mirrored at the first sample, then at the last.
            let place = (begin + i).abs_diff(half);
            let place = if place > last { (2 * last).saturating_sub(place) } else { place };
            *to = f64::from(samples[place]) * window;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sound::mel::MelScale;

    fn bank(bins: usize) -> MelBank {
        MelBank::new(MelScale::Htk, 8, [50.0, 3500.0], bins, 8000)
    }

    /// A frame by the definition of the transform, of samples mirrored by hand.
    fn by_hand(samples: &[f32], [length, hop, at]: [usize; 3]) -> Vec<f64> {
        let mirrored = |i: isize| {
            let last = samples.len() as isize - 1;
            let i = i.abs();
            f64::from(samples[if i > last { 2 * last - i } else { i } as usize])
        };
        let tau = std::f64::consts::TAU / length as f64;
        let power = |bin: usize| {
            let (mut re, mut im) = (0.0, 0.0);
            for i in 0..length {
                let window = 0.5 - 0.5 * (tau * i as f64).cos();
                let v = mirrored((at * hop + i) as isize - (length / 2) as isize) * window;
                re += v * (tau * (bin * i) as f64).cos();
                im -= v * (tau * (bin * i) as f64).sin();
            }
            re * re + im * im
        };
        (0..=length / 2).map(power).collect()
    }

    #[test]
    fn frames_are_the_transform_by_its_definition() {
        let samples: Vec<f32> =
            (0..331).map(|i| (i as f32 * 0.37).sin() * 0.5 + (i as f32 * 1.9).cos() * 0.1).collect();
        for (length, hop) in [(64, 20), (63, 31), (50, 50)] {
            let (mel, bank) = (LogMel::new(length, hop), bank(length / 2 + 1));
            let frames: Vec<usize> = (0..mel.frames(samples.len())).collect();
            let rows = mel.rows(&bank, &samples, &frames);
            for (at, row) in rows.chunks_exact(8).enumerate() {
                let powers = by_hand(&samples, [length, hop, at]);
                for (band, (found, power)) in row.iter().zip(bank.apply(&powers)).enumerate() {
                    let expected = 10.0 * power.max(1e-10).log10();
                    assert!((f64::from(*found) - expected).abs() < 1e-3, "{length}: frame {at}, band {band}");
                }
            }
        }
    }

    #[test]
    fn frames_are_counted_as_the_reference_does() {
        // 10 s at 48 kHz: 1001 frames.
        assert_eq!(LogMel::new(1024, 480).frames(480_000), 1001);
        assert_eq!(LogMel::new(1024, 480).frames(480_479), 1001);
        assert_eq!(LogMel::new(1024, 480).frames(480_480), 1002);
        assert_eq!(LogMel::new(63, 31).frames(62), 2);
    }

    #[test]
    fn silence_is_the_floor() {
        let mel = LogMel::new(64, 20);
        assert!(mel.rows(&bank(33), &[0.0; 200], &[0, 3, 9]).iter().all(|&v| v == -100.0));
    }
}
