//! A CLAP on a device: batches of sounds and of texts, and programs kept for shapes that come again.

use super::arch::{AudioTower, SoundArchitecture};
use super::features::{Crops, Mels, SoundFeatures, Truncation};
use super::forward;
use super::spectra::{Patches, Spectra};
use crate::EncoderError;
use crate::any::{Listening, Sound};
use crate::arch::Calibration;
use crate::encoder::{Embeddings, MOST_TEXTS, TOKEN_STEP, batches, calibrated};
use crate::pool::means;
use crate::programs::Programs;
use crate::tokenizer::TextTokenizer;

use mils_graph::{Graph, GraphError, HostTensor, TensorError, WeightSet};
use mils_media::audio::Filter;
use rayon::prelude::*;
use std::collections::BTreeMap;

/// An encoder with an audio and a text tower into one space. A sound is mono, f32, -1 to 1, at the model's own rate.
pub trait SoundEncoder {
    /// A name for reports.
    fn name(&self) -> &str;

    /// Width of the shared space.
    fn dim(&self) -> usize;

    /// Samples a second of the sounds that it takes.
    fn sample_rate(&self) -> usize;

    /// What is read of a file for it.
    fn listening(&self) -> Listening;

    /// What the model was trained to make of cosines.
    fn calibration(&self) -> Calibration;

    /// The factor that it applies first to a sound's cosines with texts.
    fn logit_scale(&self) -> f32;

    /// What it adds to them then; 0 with [`Calibration::Softmax`].
    fn logit_bias(&self) -> f32;

    /// One row a sound, in order.
    ///
    /// # Errors
    /// If a sound has no samples or some that are not finite, or the device fails.
    fn embed_sounds(&mut self, sounds: &[&[f32]]) -> Result<Embeddings, EncoderError>;

    /// One row a sound, in order, of what is heard of each: where that is several windows, the mean of their
    /// embeddings, of length 1.
    ///
    /// # Errors
    /// As [`SoundEncoder::embed_sounds`].
    fn embed_heard(&mut self, sounds: &[Sound]) -> Result<Embeddings, EncoderError> {
        let pieces: Vec<&[f32]> = sounds.iter().flat_map(|s| &s.pieces).map(|p| &p.samples[..]).collect();
        let (rows, dim) = (self.embed_sounds(&pieces)?, self.dim());
        if sounds.iter().any(|sound| sound.pieces.is_empty()) {
            return Err(EncoderError::Sound { problem: "nothing is heard of it".into() });
        }
        let data = means(rows.data(), sounds.iter().map(|sound| sound.pieces.len()), dim);
        Ok(Embeddings::new(dim, data)?)
    }

    /// One row a text, in order.
    ///
    /// # Errors
    /// If a text cannot be tokenised, or the device fails.
    fn embed_texts(&mut self, texts: &[String]) -> Result<Embeddings, EncoderError>;

    /// The model's own scores, 0 to 1, of texts with one sound, by their cosines; see
    /// [`DualEncoder::scores`](crate::DualEncoder::scores).
    fn scores(&self, cosines: &[f32]) -> Vec<f32> {
        calibrated(self.calibration(), self.logit_scale(), self.logit_bias(), cosines)
    }
}

/// Shape of a compiled program.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Bucket {
    Sounds { batch: usize, fused: bool },
    Texts { batch: usize, tokens: usize },
}

/// Most windows of sounds in one run: a bound on its memory, some 20 MB each.
const MOST_SOUNDS: usize = 8;

/// Longest sound in seconds that is read whole where all of it is of use: 115 MB.
const WHOLE: f64 = 600.0;

/// A CLAP on a device.
pub struct ClapEncoder {
    name: String,
    arch: SoundArchitecture,
    features: SoundFeatures,
    crops: Crops,
    spectra: Spectra,
    tokenizer: TextTokenizer,
    programs: Programs<Bucket>,
    scales: [f32; 2],
}

impl ClapEncoder {
    pub(crate) fn new(
        name: String,
        arch: SoundArchitecture,
        features: SoundFeatures,
        spectra: Spectra,
        tokenizer: TextTokenizer,
        weights: Box<dyn WeightSet>,
        scales: [f32; 2],
    ) -> Self {
        let (crops, programs) = (Crops::default(), Programs::new(weights));
        Self { name, arch, features, crops, spectra, tokenizer, programs, scales }
    }

    /// What the model is made of.
    pub fn architecture(&self) -> &SoundArchitecture {
        &self.arch
    }

    /// The steps from a sound to the model's input.
    pub fn features(&self) -> &SoundFeatures {
        &self.features
    }

    /// Where sounds are cut that are longer than [`SoundFeatures::window`].
    pub fn crops(&self) -> Crops {
        self.crops
    }

    /// Cuts long sounds elsewhere from now on.
    pub fn set_crops(&mut self, crops: Crops) {
        self.crops = crops;
    }

    /// The factor that the model applies to a text's cosines with sounds. (For a sound's cosines with texts:
    /// [`SoundEncoder::logit_scale`].)
    pub fn logit_scale_of_texts(&self) -> f32 {
        self.scales[1]
    }

    /// Token ids of a text, with begin and end.
    ///
    /// # Errors
    /// If it cannot be tokenised.
    pub fn tokenize(&self, text: &str) -> Result<Vec<u32>, EncoderError> {
        self.tokenizer.encode(text)
    }

    /// Bytes of the activations of one run on so many windows of sounds, by the memory plan.
    ///
    /// # Errors
    /// If there cannot be such a batch.
    pub fn sound_activation_bytes(&self, batch: usize) -> Result<usize, EncoderError> {
        let plan = graph(&self.arch, Bucket::Sounds { batch, fused: self.arch.audio.fusion.is_some() })?.plan();
        Ok(plan.slots.iter().sum::<usize>() * size_of::<f32>())
    }

    /// One row for each of these features: the audio tower by itself.
    ///
    /// # Errors
    /// If they are not what the model takes, or the device fails.
    pub fn embed_mels(&mut self, mels: &[Mels]) -> Result<Embeddings, EncoderError> {
        let (dim, fusion) = (self.arch.dim, self.arch.audio.fusion.is_some());
        let mut data = vec![0.0; mels.len() * dim];
        for fused in [false, true] {
            let now: Vec<usize> = (0..mels.len()).filter(|&i| (fusion && mels[i].longer) == fused).collect();
            for now in batches(&now, MOST_SOUNDS) {
                let patches = now.par_iter().map(|&i| self.spectra.patches(&mels[i], fused));
                let inputs = self.sound_inputs(&patches.collect::<Result<Vec<_>, _>>()?, fused)?;
                let out = self.run(Bucket::Sounds { batch: now.len(), fused }, &inputs)?;
                for (&i, row) in now.iter().zip(out.chunks_exact(dim)) {
                    data[i * dim..(i + 1) * dim].copy_from_slice(row);
                }
            }
        }
        Ok(Embeddings::new(dim, data)?)
    }

    fn sound_inputs(&self, patches: &[Patches], fused: bool) -> Result<Vec<HostTensor>, TensorError> {
        let AudioTower { patch, .. } = self.arch.audio;
        let (batch, tokens) = (patches.len(), self.arch.audio.grid(0).pow(2));
        let all = |part: fn(&Patches) -> &[f32], width: usize| {
            HostTensor::f32(&[batch, tokens, width], patches.iter().flat_map(part).copied().collect())
        };
        let mut inputs = vec![all(|p| &p.global, patch * patch)?];
        if fused {
            inputs.push(all(|p| &p.local, 3 * patch * patch)?);
        }
        for (_, rows) in forward::moves(&self.arch.audio) {
            let numbered = (0..batch).flat_map(|i| rows.iter().map(move |&row| (i, row)));
            // A batch has at most 2^19 rows.
            let numbered: Vec<u32> = numbered.map(|(i, row)| (i * rows.len() + row) as u32).collect();
            inputs.push(HostTensor::u32(&[numbered.len()], numbered)?);
        }
        Ok(inputs)
    }

    /// One run of the bucket's program, which is compiled where it is new.
    fn run(&mut self, bucket: Bucket, inputs: &[HostTensor]) -> Result<Vec<f32>, EncoderError> {
        let (rows, tower) = match bucket {
            Bucket::Sounds { batch, .. } => (batch, "audio"),
            Bucket::Texts { batch, .. } => (batch, "text"),
        };
        let Self { programs, arch, name, .. } = self;
        programs.run(bucket, || graph(arch, bucket), inputs, [rows, arch.dim], (name, tower))
    }

    /// As [`SoundEncoder::embed_texts`], of texts that are token ids already: the text tower by itself. Ids are as
    /// [`ClapEncoder::tokenize`] gives them.
    ///
    /// # Errors
    /// If a text has no ids, more than the model has positions for or such as it does not know, or the device fails.
    pub fn embed_tokens(&mut self, texts: &[Vec<u32>]) -> Result<Embeddings, EncoderError> {
        let (dim, context, padding) = (self.arch.dim, self.arch.text.context(), self.arch.text.padding);
        let mut data = vec![0.0; texts.len() * dim];
        // Texts of about one length go through together.
        let mut groups: BTreeMap<usize, Vec<usize>> = BTreeMap::new();
        for (i, ids) in texts.iter().enumerate() {
            self.tokenizer.check(ids)?;
            groups.entry(ids.len().next_multiple_of(TOKEN_STEP).min(context)).or_default().push(i);
        }
        for (tokens, group) in groups {
            for now in batches(&group, MOST_TEXTS) {
                let batch = now.len();
                let (mut ids, mut positions, mut lengths) = (vec![], vec![], vec![]);
                for (k, &i) in now.iter().enumerate() {
                    lengths.push(texts[i].len() as u32);
                    positions.extend(places(&texts[i], padding));
                    positions.resize((k + 1) * tokens, padding);
                    ids.extend(&texts[i]);
                    ids.resize((k + 1) * tokens, padding);
                }
                let inputs = [
                    HostTensor::u32(&[batch, tokens], ids)?,
                    HostTensor::u32(&[batch, tokens], positions)?,
                    HostTensor::u32(&[batch], lengths)?,
                    HostTensor::u32(&[batch], (0..batch).map(|k| (k * tokens) as u32).collect())?,
                ];
                let out = self.run(Bucket::Texts { batch, tokens }, &inputs)?;
                for (&i, row) in now.iter().zip(out.chunks_exact(dim)) {
                    data[i * dim..(i + 1) * dim].copy_from_slice(row);
                }
            }
        }
        Ok(Embeddings::new(dim, data)?)
    }
}

/// Positions of ids: counted from behind the padding's number, but padding, which may be in a text, has its own.
fn places(ids: &[u32], padding: u32) -> Vec<u32> {
    let mut next = padding;
    let place = |&id: &u32| {
        next += u32::from(id != padding);
        if id == padding { padding } else { next }
    };
    ids.iter().map(place).collect()
}

fn graph(arch: &SoundArchitecture, bucket: Bucket) -> Result<Graph, GraphError> {
    match bucket {
        Bucket::Sounds { batch, fused } => forward::audio(arch, batch, fused),
        Bucket::Texts { batch, tokens } => forward::text(arch, batch, tokens),
    }
}

impl SoundEncoder for ClapEncoder {
    fn name(&self) -> &str {
        &self.name
    }

    fn dim(&self) -> usize {
        self.arch.dim
    }

    fn sample_rate(&self) -> usize {
        self.features.sample_rate()
    }

    /// A sound is given whole as long as its windows cover it, by [`ClapEncoder::crops`]; or to a model with fusion, which
    /// looks at all of it, up to ten minutes. Of a longer one the windows are read.
    fn listening(&self) -> Listening {
        let rate = self.features.sample_rate();
        let window = self.features.window() as f64 / rate as f64;
        let (whole, windows) = match (self.features.truncation(), self.crops) {
            (Truncation::Window, Crops::Spread { most }) => (most.max(1) as f64 * window, most.max(1)),
            _ => (WHOLE, Crops::WINDOWS),
        };
        // A rate is a number of a configuration file that was checked.
        Listening { sample_rate: rate as u32, filter: Filter::SoxrHq, whole, window, windows }
    }

    fn calibration(&self) -> Calibration {
        Calibration::Softmax
    }

    fn logit_scale(&self) -> f32 {
        self.scales[0]
    }

    fn logit_bias(&self) -> f32 {
        0.0
    }

    /// A sound longer than the model's window is cut by [`ClapEncoder::crops`]; of several windows the embeddings are
    /// averaged. Every sound is embedded as the reference embeds it by itself.
    fn embed_sounds(&mut self, sounds: &[&[f32]]) -> Result<Embeddings, EncoderError> {
        let dim = self.arch.dim;
        let mut data = Vec::with_capacity(sounds.len() * dim);
        // Only so many at a time: features of all sounds might not fit the memory.
        for now in sounds.chunks(MOST_SOUNDS) {
            let mels =
                now.iter().map(|sound| self.features.extract(sound, self.crops)).collect::<Result<Vec<_>, _>>()?;
            let counts: Vec<usize> = mels.iter().map(Vec::len).collect();
            let rows = self.embed_mels(&mels.into_iter().flatten().collect::<Vec<_>>())?;
            data.extend(means(rows.data(), counts, dim));
        }
        Ok(Embeddings::new(dim, data)?)
    }

    fn embed_texts(&mut self, texts: &[String]) -> Result<Embeddings, EncoderError> {
        let ids = texts.iter().map(|text| self.tokenizer.encode(text)).collect::<Result<Vec<_>, _>>()?;
        self.embed_tokens(&ids)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn positions_pass_over_padding() {
        assert_eq!(places(&[0, 9, 1, 8, 2], 1), [2, 3, 1, 4, 5]);
        assert_eq!(places(&[0, 9], 0), [0, 1]);
    }
}
