//! Three clips of two seconds of a sound, each as normalised log-mel features: `load_and_transform_audio_data`.

use super::fbank::{Fbank, MOST_SILENT};
use crate::EncoderError;
use std::ops::Range;

/// Samples a second.
pub(crate) const RATE: usize = 16_000;
/// Bands of the mel scale.
pub(crate) const BANDS: usize = 128;
/// Frames that a clip is padded to.
pub(crate) const FRAMES: usize = 204;
/// Clips of a sound.
pub(crate) const CLIPS: usize = 3;
/// Length of a clip, in seconds.
pub(crate) const SECONDS: usize = 2;
/// Mean and deviation of the features that the model was trained on.
const MEAN: f32 = -4.268;
const DEVIATION: f32 = 9.138;

/// Where the clips are, at equal steps from the first to the last; a sound that is shorter than one is all of them.
fn places(samples: usize) -> [Range<usize>; CLIPS] {
    // The reference computes the length in seconds with floats, and what follows exactly: a clip may begin one sample
    // before where whole numbers would have it.
    let latest = (samples as f64 / RATE as f64 - SECONDS as f64).max(0.0);
    [0, 1, 2].map(|clip| {
        let begin = floor_product(latest / 2.0 * clip as f64, RATE as f64);
        begin.min(samples)..(begin + SECONDS * RATE).min(samples)
    })
}

/// `floor(a · b)` of the product without its rounding.
fn floor_product(a: f64, b: f64) -> usize {
    let product = a * b;
    let below = product == product.floor() && a.mul_add(b, -product) < 0.0;
    (product.floor() as usize).saturating_sub(usize::from(below))
}

/// Features of the clips, [3, bands, frames].
///
/// As in the reference, the mean of a clip is taken off the sound itself: where clips overlap, a later one has lost the
/// earlier ones' means too.
pub(crate) fn features(fbank: &Fbank, sound: &[f32]) -> Result<Vec<f32>, EncoderError> {
    let fail = |problem: String| Err(EncoderError::Sound { problem });
    if sound.len() < MOST_SILENT {
        return fail(format!("it has {} samples; ImageBind needs {MOST_SILENT}, 25 ms at 16 kHz", sound.len()));
    }
    if let Some(at) = sound.iter().position(|v| !v.is_finite()) {
        return fail(format!("sample {at} is {}", sound[at]));
    }
    let mut out = vec![(0.0 - MEAN) / DEVIATION; CLIPS * BANDS * FRAMES];
    let mut taken: Vec<(Range<usize>, f32)> = Vec::with_capacity(CLIPS);
    for (place, out) in places(sound.len()).into_iter().zip(out.chunks_exact_mut(BANDS * FRAMES)) {
        let mut clip = sound[place.clone()].to_vec();
        for (earlier, mean) in &taken {
            let overlap = earlier.start.max(place.start)..earlier.end.min(place.end);
            for at in overlap {
                clip[at - place.start] -= mean;
            }
        }
        let mean = (clip.iter().map(|&v| f64::from(v)).sum::<f64>() / clip.len() as f64) as f32;
        clip.iter_mut().for_each(|v| *v -= mean);
        taken.push((place, mean));
        for (frame, bands) in fbank.frames(&clip).chunks_exact(BANDS).take(FRAMES).enumerate() {
            for (band, value) in bands.iter().enumerate() {
                out[band * FRAMES + frame] = (value - MEAN) / DEVIATION;
            }
        }
    }
    Ok(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clips_are_at_equal_steps() {
        assert_eq!(places(80_000), [0..32_000, 24_000..56_000, 48_000..80_000]);
        assert_eq!(places(10_000), [0..10_000, 0..10_000, 0..10_000]);
        assert_eq!(places(32_000), [0..32_000, 0..32_000, 0..32_000]);
        // By Python: int(Fraction(max(n / 16000 - 2, 0)) / 2 * k * 16000) with k of 1 and 2.
        assert_eq!(places(33_333), [0..32_000, 666..32_666, 1332..33_332]);
        assert_eq!(places(100_001).map(|p| p.start), [0, 34_000, 68_001]);
    }

    #[test]
    fn products_are_rounded_down_without_rounding_first() {
        assert_eq!(floor_product(0.1, 10.0), 1, "a tenth is a little more than it");
        assert_eq!(floor_product(0.3, 10.0), 2, "three tenths are a little less");
        assert_eq!(floor_product(1.5, 16_000.0), 24_000);
    }

    #[test]
    fn sounds_that_cannot_be_heard_are_refused() {
        let fbank = Fbank::new();
        assert!(features(&fbank, &[0.0; 399]).unwrap_err().to_string().contains("399 samples"));
        let nan = [&[0.0; 500][..], &[f32::NAN]].concat();
        assert!(features(&fbank, &nan).unwrap_err().to_string().contains("sample 500 is NaN"));
        // Silence is a sound.
        assert!(features(&fbank, &[0.0; 400]).unwrap().iter().all(|v| v.is_finite()));
    }
}
