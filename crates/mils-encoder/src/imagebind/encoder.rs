//! ImageBind's audio side on a device.

use super::arch::ImageBindArchitecture;
use super::clips::{self, BANDS, CLIPS, FRAMES, RATE};
use super::fbank::Fbank;
use super::forward;
use crate::EncoderError;
use crate::any::Listening;
use crate::arch::Calibration;
use crate::encoder::{Embeddings, batches};
use crate::pool::means;
use crate::programs::Programs;
use crate::sound::SoundEncoder;
use crate::texts;
use crate::tokenizer::TextTokenizer;
use mils_graph::{HostTensor, WeightSet};
use mils_media::audio::Filter;

/// Shape of a compiled program.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Bucket {
    Clips(usize),
    Texts { batch: usize, tokens: usize },
}

/// Most sounds of one run, of three clips each.
const MOST_SOUNDS: usize = 4;

/// ImageBind's audio and text towers on a device.
pub struct ImageBindEncoder {
    name: String,
    arch: ImageBindArchitecture,
    fbank: Fbank,
    tokenizer: TextTokenizer,
    programs: Programs<Bucket>,
    scale: f32,
}

impl ImageBindEncoder {
    pub(crate) fn new(
        name: String,
        arch: ImageBindArchitecture,
        tokenizer: TextTokenizer,
        weights: Box<dyn WeightSet>,
        scale: f32,
    ) -> Self {
        Self { name, arch, fbank: Fbank::new(), tokenizer, programs: Programs::new(weights), scale }
    }

    /// Token ids of a text, with begin and end. One that is too long loses its tail and keeps its end, as in CLIP; the
    /// reference cuts the end off too and pools at whatever id is largest.
    ///
    /// # Errors
    /// If it cannot be tokenised.
    pub fn tokenize(&self, text: &str) -> Result<Vec<u32>, EncoderError> {
        self.tokenizer.encode(text)
    }

    /// One row a clip, of its normalised features [clips, 128 bands, 204 frames]: the audio tower by itself.
    ///
    /// # Errors
    /// If there are other numbers of features, or the device fails.
    pub fn embed_clips(&mut self, features: &[f32]) -> Result<Embeddings, EncoderError> {
        let one = BANDS * FRAMES;
        if !features.len().is_multiple_of(one) {
            let problem = format!("{} features are no clips of {BANDS} bands and {FRAMES} frames", features.len());
            return Err(EncoderError::Sound { problem });
        }
        let Self { programs, arch, name, .. } = self;
        let tower = &arch.audio;
        let mut data = Vec::with_capacity(features.len() / one * arch.dim);
        for now in features.chunks(MOST_SOUNDS * CLIPS * one) {
            let clips = now.len() / one;
            let patches = now.chunks_exact(one).flat_map(|clip| tower.patches(clip)).collect();
            let inputs = [
                HostTensor::f32(&[clips, tower.tokens() - 1, tower.patch * tower.patch], patches)?,
                HostTensor::u32(&[clips], (0..clips).map(|i| (i * tower.tokens()) as u32).collect())?,
            ];
            let graph = || forward::audio(arch, clips);
            data.extend(programs.run(Bucket::Clips(clips), graph, &inputs, [clips, arch.dim], (name, "audio"))?);
        }
        Ok(Embeddings::new(arch.dim, data)?)
    }
}

/// Sounds have one channel, and values about -1 to 1. Three clips of two seconds are heard, from the beginning, the
/// middle and the end; of a sound that is shorter, all of it. It needs at least 400 samples.
impl SoundEncoder for ImageBindEncoder {
    fn name(&self) -> &str {
        &self.name
    }

    fn dim(&self) -> usize {
        self.arch.dim
    }

    fn sample_rate(&self) -> usize {
        RATE
    }

    /// The reference takes clips of the whole; of a long file only those are read.
    fn listening(&self) -> Listening {
        Listening {
            sample_rate: RATE as u32,
            filter: Filter::Torchaudio,
            whole: 30.0,
            window: clips::SECONDS as f64,
            windows: CLIPS,
        }
    }

    fn calibration(&self) -> Calibration {
        Calibration::Softmax
    }

    /// The texts' learnt factor times 20 of clips. The reference multiplies texts with the *mean* of a sound's
    /// normalised clips, which is a little shorter than 1 where clips differ; here that mean is normalised, which leaves
    /// the order of texts as it is.
    fn logit_scale(&self) -> f32 {
        self.scale
    }

    fn logit_bias(&self) -> f32 {
        0.0
    }

    fn embed_sounds(&mut self, sounds: &[&[f32]]) -> Result<Embeddings, EncoderError> {
        let mut data = Vec::with_capacity(sounds.len() * self.arch.dim);
        for now in batches(sounds, MOST_SOUNDS) {
            let mut features = Vec::with_capacity(now.len() * CLIPS * BANDS * FRAMES);
            for sound in now {
                features.extend(clips::features(&self.fbank, sound)?);
            }
            let embedded = self.embed_clips(&features)?;
            data.extend(means(embedded.data(), now.iter().map(|_| CLIPS), self.arch.dim));
        }
        Ok(Embeddings::new(self.arch.dim, data)?)
    }

    fn embed_texts(&mut self, all: &[String]) -> Result<Embeddings, EncoderError> {
        let tokens = all.iter().map(|text| self.tokenizer.tokens(text)).collect::<Result<_, _>>()?;
        let Self { programs, arch, name, .. } = self;
        texts::embed(&arch.text, arch.dim, tokens, &mut |batch, tokens, inputs| {
            let graph = || crate::forward::text(&arch.text, arch.dim, batch, tokens);
            programs.run(Bucket::Texts { batch, tokens }, graph, inputs, [batch, arch.dim], (name, "text"))
        })
    }
}
