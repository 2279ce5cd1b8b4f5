//! From samples to log-mel spectrograms, as `ClapFeatureExtractor` of transformers: short sounds are repeated or padded,
//! long ones cut.
//!
//! Reference: `feature_extraction_clap.py` of transformers.

use super::mel::{MelBank, MelScale};
use super::spectrogram::LogMel;
use crate::EncoderError;

/// How a short sound is brought to the model's length.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Padding {
    /// Repeated as often as it fits whole, then silence.
    RepeatPad,
    /// Repeated, the last time cut.
    Repeat,
    /// Silence.
    Pad,
}

/// How a long sound is brought to the model's length.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Truncation {
    /// A window is cut out of it (`rand_trunc`).
    Window,
    /// Three chunks of it, and the whole shrunk to the length of one, of which the model makes one (`fusion`).
    Fusion,
}

/// Where a sound that is too long is cut. The reference draws at random; here the same sound always gives the same.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Crops {
    /// Of [`Truncation::Window`] as many windows as cover the sound, at most so many, at equal steps from its begin to its
    /// end, whose embeddings are averaged. Of [`Truncation::Fusion`] the middles of the three ranges that the reference
    /// draws chunks from.
    Spread {
        /// Most windows.
        most: usize,
    },
    /// One window, or three chunks, at places that this seed gives, each as likely as the reference draws it. (They are
    /// not NumPy's places of that seed.)
    Random(u64),
    /// One window that begins at the first of these samples; or chunks that begin at these three frames. What would reach
    /// beyond the end is moved to it.
    At([usize; 3]),
}

impl Crops {
    /// Most windows by default.
    pub const WINDOWS: usize = 8;
}

impl Default for Crops {
    /// Spread over at most [`Crops::WINDOWS`].
    fn default() -> Self {
        Self::Spread { most: Self::WINDOWS }
    }
}

/// What the audio tower takes of one sound, or of one window of it.
#[derive(Clone, Debug, PartialEq)]
pub struct Mels {
    /// Decibels, [pictures, frames, bands].
    pub data: Vec<f32>,
    /// 1; with fusion 4, of which the first is the whole sound's.
    pub pictures: usize,
    /// Frames of each.
    pub frames: usize,
    /// Mel bands.
    pub bands: usize,
    /// Whether the tower is to fuse the pictures: what the reference calls `is_longer`. As there, a sound by itself is
    /// always fused by a model with fusion, however short; among others in a batch of the reference's, a short one may not
    /// be.
    pub longer: bool,
}

/// The model's own features.
#[derive(Clone)]
pub struct SoundFeatures {
    pub(crate) sample_rate: usize,
    pub(crate) samples: usize,
    pub(crate) padding: Padding,
    pub(crate) truncation: Truncation,
    pub(crate) log_mel: LogMel,
    pub(crate) bank: MelBank,
}

/// The sizes of features.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Sizes {
    pub(crate) sample_rate: usize,
    /// The model's length.
    pub(crate) samples: usize,
    pub(crate) fft: usize,
    pub(crate) hop: usize,
    pub(crate) bands: usize,
    /// Lowest and highest frequency of the bands, in Hz.
    pub(crate) range: [f64; 2],
}

impl SoundFeatures {
    pub(crate) fn new(sizes: Sizes, padding: Padding, truncation: Truncation) -> Self {
        let Sizes { sample_rate, samples, fft, hop, bands, range } = sizes;
        let scale = if truncation == Truncation::Fusion { MelScale::Htk } else { MelScale::Slaney };
        let bank = MelBank::new(scale, bands, range, fft / 2 + 1, sample_rate);
        Self { sample_rate, samples, padding, truncation, log_mel: LogMel::new(fft, hop), bank }
    }

    /// Samples a second of the sounds that the model takes.
    pub fn sample_rate(&self) -> usize {
        self.sample_rate
    }

    /// Samples of a window: what is longer is cut.
    pub fn window(&self) -> usize {
        self.samples
    }

    /// How short sounds are lengthened.
    pub fn padding(&self) -> Padding {
        self.padding
    }

    /// How long sounds are cut.
    pub fn truncation(&self) -> Truncation {
        self.truncation
    }

    /// The same features with other padding.
    #[must_use]
    pub fn with_padding(self, padding: Padding) -> Self {
        Self { padding, ..self }
    }

    /// Mel bands of a frame.
    pub(crate) fn bands(&self) -> usize {
        self.bank.len()
    }

    /// Frames of a window.
    pub(crate) fn frames(&self) -> usize {
        self.log_mel.frames(self.samples)
    }

    /// What the tower takes of a sound, mono at [`SoundFeatures::sample_rate`]: one, or one a window.
    ///
    /// Time and memory are those of the windows, however long the sound is.
    ///
    /// # Errors
    /// If it has no samples, or one that is not finite.
    pub fn extract(&self, sound: &[f32], crops: Crops) -> Result<Vec<Mels>, EncoderError> {
        if sound.is_empty() {
            return Err(EncoderError::Sound { problem: "it has no samples".into() });
        }
        if let Some(at) = sound.iter().position(|v| !v.is_finite()) {
            return Err(EncoderError::Sound { problem: format!("sample {at} is {}", sound[at]) });
        }
        match self.truncation {
            _ if sound.len() <= self.samples => Ok(vec![self.whole(&self.lengthened(sound))]),
            Truncation::Window => {
                let window = |start: usize| Mels { longer: true, ..self.whole(&sound[start..start + self.samples]) };
                Ok(self.starts(sound.len(), crops).into_iter().map(window).collect())
            }
            Truncation::Fusion if self.log_mel.frames(sound.len()) == self.frames() => Ok(vec![self.whole(sound)]),
            Truncation::Fusion => Ok(vec![self.fused(sound, crops)]),
        }
    }

    /// A sound of the model's length, of a shorter one.
    fn lengthened(&self, sound: &[f32]) -> Vec<f32> {
        let whole = self.samples / sound.len() * sound.len();
        let length = match self.padding {
            Padding::RepeatPad => whole,
            Padding::Repeat => self.samples,
            Padding::Pad => sound.len(),
        };
        let mut out: Vec<f32> = sound.iter().copied().cycle().take(length).collect();
        out.resize(self.samples, 0.0);
        out
    }

    /// Every frame of a sound that is as long as the model takes, once, or four times the same.
    fn whole(&self, sound: &[f32]) -> Mels {
        let frames: Vec<usize> = (0..self.frames()).collect();
        let one = self.log_mel.rows(&self.bank, sound, &frames);
        let fusion = self.truncation == Truncation::Fusion;
        let pictures = if fusion { 4 } else { 1 };
        Mels { data: one.repeat(pictures), pictures, frames: frames.len(), bands: self.bands(), longer: fusion }
    }

    /// Where windows of a sound of so many samples begin.
    fn starts(&self, length: usize, crops: Crops) -> Vec<usize> {
        let last = length - self.samples;
        match crops {
            Crops::At([start, ..]) => vec![start.min(last)],
            Crops::Random(seed) => vec![below(seed, 0, last + 1)],
            Crops::Spread { most } => match length.div_ceil(self.samples).min(most.max(1)) {
                1 => vec![last / 2],
                // Sizes of memory: the product is far below 2^64.
                count => (0..count).map(|i| i * last / (count - 1)).collect(),
            },
        }
    }

    /// The whole sound shrunk, then three chunks of it. Only the frames that are read are computed.
    fn fused(&self, sound: &[f32], crops: Crops) -> Mels {
        let (total, chunk, bands) = (self.log_mel.frames(sound.len()), self.frames(), self.bands());
        let starts = chunks(total - chunk + 1, crops);
        let shrunk: Vec<(usize, usize, f32)> = (0..chunk).map(|i| between(i, [total, chunk])).collect();
        let mut wanted: Vec<usize> = shrunk.iter().flat_map(|&(a, b, _)| [a, b]).collect();
        wanted.extend(starts.iter().flat_map(|&start| start..start + chunk));
        wanted.sort_unstable();
        wanted.dedup();
        let rows = self.log_mel.rows(&self.bank, sound, &wanted);
        let row = |frame: usize| {
            // Every frame that is asked for was put among the wanted ones.
            let at = wanted.partition_point(|&w| w < frame) * bands;
            &rows[at..at + bands]
        };
        let mut data = Vec::with_capacity(4 * chunk * bands);
        for (a, b, weight) in shrunk {
            data.extend(row(a).iter().zip(row(b)).map(|(a, b)| (1.0 - weight) * a + weight * b));
        }
        for frame in starts.iter().flat_map(|&start| start..start + chunk) {
            data.extend_from_slice(row(frame));
        }
        Mels { data, pictures: 4, frames: chunk, bands, longer: true }
    }
}

/// Where the front, the middle and the back chunk begin, of so many places: one in each third of them, as NumPy's
/// `array_split` cuts them.
fn chunks(places: usize, crops: Crops) -> [usize; 3] {
    let (each, more) = (places / 3, places % 3);
    [0, 1, 2].map(|i| {
        let (first, count) = (i * each + i.min(more), each + usize::from(i < more));
        // The reference takes the first place where a third is empty.
        match crops {
            Crops::At(starts) => starts[i].min(places - 1),
            _ if count == 0 => 0,
            Crops::Random(seed) => first + below(seed, i as u64, count),
            Crops::Spread { .. } => first + count / 2,
        }
    })
}

/// Between which two rows the row of this number lies when so many become so many, and the weight of the second: PyTorch's
/// bilinear interpolation, corners not aligned, in f32 as there.
fn between(row: usize, [from, to]: [usize; 2]) -> (usize, usize, f32) {
    let scale = from as f32 / to as f32;
    let place = (scale * (row as f32 + 0.5) - 0.5).max(0.0);
    let first = (place as usize).min(from - 1);
    (first, (first + 1).min(from - 1), place - first as f32)
}

/// A number below `limit` by a seed: SplitMix64.
fn below(seed: u64, stream: u64, limit: usize) -> usize {
    let mut z = seed.wrapping_add((stream + 1).wrapping_mul(0x9E37_79B9_7F4A_7C15));
    z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    z ^= z >> 31;
    // The upper half of the product: below the limit, and as even as 64 bits can be.
    ((u128::from(z) * limit as u128) >> 64) as usize
}

#[cfg(test)]
mod tests {
    use super::*;

    fn features(padding: Padding, truncation: Truncation) -> SoundFeatures {
        let sizes = Sizes { sample_rate: 800, samples: 400, fft: 64, hop: 20, bands: 8, range: [10.0, 390.0] };
        SoundFeatures::new(sizes, padding, truncation)
    }

    #[test]
    fn short_sounds_are_lengthened() {
        let of = |padding, sound: &[f32]| features(padding, Truncation::Window).lengthened(sound);
        let sound: Vec<f32> = (1..=150).map(|i| i as f32).collect();
        let twice = [&sound[..], &sound].concat();
        assert_eq!(of(Padding::RepeatPad, &sound), [&twice[..], &[0.0; 100]].concat());
        assert_eq!(of(Padding::Repeat, &sound), [&twice[..], &sound[..100]].concat());
        assert_eq!(of(Padding::Pad, &sound), [&sound[..], &[0.0; 250]].concat());
        assert_eq!(of(Padding::RepeatPad, &[2.0]), [2.0; 400]);
    }

    #[test]
    fn windows_cover_a_long_sound_from_end_to_end() {
        let f = features(Padding::Pad, Truncation::Window);
        let spread = |length, most| f.starts(length, Crops::Spread { most });
        assert_eq!(spread(401, 8), [0, 1]);
        assert_eq!(spread(1200, 8), [0, 400, 800]);
        assert_eq!(spread(1201, 8), [0, 267, 534, 801]);
        assert_eq!((spread(4000, 3), spread(4000, 1), spread(4000, 0)), (vec![0, 1800, 3600], vec![1800], vec![1800]));
        assert_eq!(f.starts(1000, Crops::At([1 << 60, 0, 0])), [600]);
        let drawn: Vec<usize> = (0..200).map(|seed| f.starts(403, Crops::Random(seed))[0]).collect();
        assert!((0..=3).all(|start| drawn.contains(&start)) && drawn.iter().all(|&start| start <= 3), "{drawn:?}");
        let sound: Vec<f32> = (0..1000).map(|i| (i as f32 * 0.1).sin()).collect();
        let mels = f.extract(&sound, Crops::default()).unwrap();
        assert_eq!(mels.len(), 3);
        assert!(mels.iter().all(|m| m.data.len() == 21 * 8 && m.longer && m.pictures == 1));
    }

    #[test]
    fn chunks_lie_in_the_thirds_of_array_split() {
        // np.array_split(range(8), 3) is 0 1 2, 3 4 5, 6 7.
        assert_eq!(chunks(8, Crops::default()), [1, 4, 7]);
        assert_eq!((chunks(2, Crops::default()), chunks(1, Crops::Random(5))), ([0, 1, 0], [0, 0, 0]));
        for seed in 0..100 {
            let [front, middle, back] = chunks(8, Crops::Random(seed));
            assert!(front < 3 && (3..6).contains(&middle) && (6..8).contains(&back));
        }
        assert_eq!(chunks(8, Crops::At([9, 3, 2])), [7, 3, 2]);
    }

    /// Frames that are computed when they are read are those of the whole spectrogram.
    #[test]
    fn a_fused_sound_is_its_whole_spectrogram_cut() {
        let f = features(Padding::Pad, Truncation::Fusion);
        let sound: Vec<f32> = (0..1111).map(|i| (i as f32 * 0.1).sin() * (i as f32 * 0.003).cos()).collect();
        let all: Vec<usize> = (0..f.log_mel.frames(1111)).collect();
        let (total, whole) = (all.len(), f.log_mel.rows(&f.bank, &sound, &all));
        let mels = f.extract(&sound, Crops::At([2, 11, 30])).unwrap();
        let [mel] = &mels[..] else { panic!("one") };
        assert_eq!((mel.pictures, mel.frames, mel.bands, mel.longer, total), (4, 21, 8, true, 56));
        for (i, start) in [2, 11, 30].into_iter().enumerate() {
            assert_eq!(mel.data[(i + 1) * 168..(i + 2) * 168], whole[start * 8..start * 8 + 168], "chunk {i}");
        }
        for row in 0..21 {
            let place = ((row as f64 + 0.5) * 56.0 / 21.0 - 0.5).max(0.0);
            let (first, weight) = (place as usize, place.fract());
            for band in 0..8 {
                let [a, b] = [first, (first + 1).min(55)].map(|at| f64::from(whole[at * 8 + band]));
                let found = f64::from(mel.data[row * 8 + band]);
                assert!((found - (a * (1.0 - weight) + b * weight)).abs() < 1e-3, "row {row}, band {band}");
            }
        }
        // A sound that is longer by less than a frame is taken whole.
        let mels = f.extract(&sound[..415], Crops::default()).unwrap();
        assert!(mels[0].data.chunks_exact(168).all(|picture| picture == &mels[0].data[..168]));
    }

    #[test]
    fn what_is_no_sound_is_an_error() {
        let f = features(Padding::Pad, Truncation::Window);
        assert!(f.extract(&[], Crops::default()).unwrap_err().to_string().contains("no samples"));
        let bad = f.extract(&[0.0, f32::NAN], Crops::default()).unwrap_err().to_string();
        assert_eq!(bad, "cannot embed a sound: sample 1 is NaN");
        assert!(f.extract(&[f32::INFINITY; 900], Crops::default()).is_err());
    }
}
