//! An encoder on a device: batches, length buckets, and programs kept for shapes that come again.

use crate::clip;
use crate::config::ClipConfig;
use crate::error::EncoderError;
use crate::tokenizer::TextTokenizer;
use mils_graph::{Graph, GraphError, HostTensor, Program, TensorError, WeightSet};
use mils_media::{Preprocess, RgbImage};
use std::collections::hash_map::Entry;
use std::collections::{BTreeMap, HashMap};

/// L2-normalised embeddings, one row an input.
#[derive(Clone, Debug, PartialEq)]
pub struct Embeddings {
    dim: usize,
    data: Vec<f32>,
}

impl Embeddings {
    /// Rows of `dim` values, one after the other, each of length 1: for encoders outside this crate.
    ///
    /// # Errors
    /// If `dim` is 0 or does not divide the number of values.
    pub fn new(dim: usize, data: Vec<f32>) -> Result<Self, TensorError> {
        if dim == 0 || !data.len().is_multiple_of(dim) {
            let shape = vec![data.len().checked_div(dim).unwrap_or_default(), dim];
            return Err(TensorError::Elements { shape, found: data.len() });
        }
        Ok(Self { dim, data })
    }

    /// Width of a row.
    pub fn dim(&self) -> usize {
        self.dim
    }

    /// Number of rows.
    pub fn len(&self) -> usize {
        self.data.len() / self.dim
    }

    /// Whether there are no rows.
    pub fn is_empty(&self) -> bool {
        self.data.is_empty()
    }

    /// Row `i`.
    ///
    /// # Panics
    /// If there is no such row.
    pub fn row(&self, i: usize) -> &[f32] {
        &self.data[i * self.dim..(i + 1) * self.dim]
    }

    /// All rows, one after the other.
    pub fn data(&self) -> &[f32] {
        &self.data
    }

    /// Cosine similarity, -1 to 1, of row `i` with row `j` of `other`, which has the same width: rows have length 1.
    ///
    /// # Panics
    /// If there is no such row.
    pub fn dot(&self, i: usize, other: &Self, j: usize) -> f32 {
        self.row(i).iter().zip(other.row(j)).map(|(a, b)| a * b).sum()
    }
}

/// An encoder with an image and a text tower into one space.
pub trait DualEncoder {
    /// A name for reports.
    fn name(&self) -> &str;

    /// Width of the shared space.
    fn dim(&self) -> usize;

    /// The factor that the model was trained to apply to cosines before its softmax.
    fn logit_scale(&self) -> f32;

    /// One row an image, in order.
    ///
    /// # Errors
    /// If an image cannot be brought to the model's size, or the device fails.
    fn embed_images(&mut self, images: &[RgbImage]) -> Result<Embeddings, EncoderError>;

    /// One row a text, in order.
    ///
    /// # Errors
    /// If a text cannot be tokenised, or the device fails.
    fn embed_texts(&mut self, texts: &[String]) -> Result<Embeddings, EncoderError>;
}

/// Shape of a compiled program.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Bucket {
    Images(usize),
    Texts { batch: usize, tokens: usize },
}

/// Most rows of one run: enough to fill a device, and a bound on its memory.
const MOST_TEXTS: usize = 64;
const MOST_IMAGES: usize = 16;
/// Texts are padded to a multiple of this many tokens, so that shapes come again.
const TOKEN_STEP: usize = 8;
/// Programs that are kept; each holds its activations.
const MOST_PROGRAMS: usize = 48;

/// CLIP on a device.
pub struct ClipEncoder {
    name: String,
    config: ClipConfig,
    preprocess: Preprocess,
    tokenizer: TextTokenizer,
    weights: Box<dyn WeightSet>,
    logit_scale: f32,
    programs: HashMap<Bucket, Box<dyn Program>>,
}

impl ClipEncoder {
    pub(crate) fn new(
        name: String,
        config: ClipConfig,
        preprocess: Preprocess,
        tokenizer: TextTokenizer,
        weights: Box<dyn WeightSet>,
        logit_scale: f32,
    ) -> Self {
        Self { name, config, preprocess, tokenizer, weights, logit_scale, programs: HashMap::new() }
    }

    /// Token ids of a text, as the model gets them, without padding.
    ///
    /// # Errors
    /// If it cannot be tokenised.
    pub fn tokenize(&self, text: &str) -> Result<Vec<u32>, EncoderError> {
        self.tokenizer.encode(text)
    }

    /// The embeddings, [rows, dim], of one run of the bucket's program, which is compiled where it is new.
    fn run(&mut self, bucket: Bucket, inputs: &[HostTensor]) -> Result<Vec<f32>, EncoderError> {
        if self.programs.len() >= MOST_PROGRAMS && !self.programs.contains_key(&bucket) {
            self.programs.clear();
        }
        let program = match self.programs.entry(bucket) {
            Entry::Occupied(entry) => entry.into_mut(),
            Entry::Vacant(entry) => entry.insert(self.weights.compile(&graph(&self.config, bucket)?)?),
        };
        let out = program.run(inputs)?.into_iter().next().and_then(HostTensor::into_f32).unwrap_or_default();
        let (rows, tower) = match bucket {
            Bucket::Images(batch) => (batch, "image"),
            Bucket::Texts { batch, .. } => (batch, "text"),
        };
        let wanted = [rows, self.config.projection_dim];
        if out.len() != wanted[0] * wanted[1] {
            return Err(TensorError::Elements { shape: wanted.to_vec(), found: out.len() }.into());
        }
        if !out.iter().all(|v| v.is_finite()) {
            return Err(EncoderError::NotFinite { model: self.name.clone(), tower });
        }
        Ok(out)
    }
}

fn graph(config: &ClipConfig, bucket: Bucket) -> Result<Graph, GraphError> {
    let dim = config.projection_dim;
    match bucket {
        Bucket::Images(batch) => clip::vision(&config.vision, dim, batch),
        Bucket::Texts { batch, tokens } => clip::text(&config.text, dim, batch, tokens),
    }
}

/// Where in its row a text is pooled: at its first end token, or at its largest id in old files (eos 2).
fn pooled_at(eos: u32, ids: &[u32]) -> usize {
    let pooled = if eos == 2 { ids.iter().copied().max().unwrap_or_default() } else { eos };
    // As the reference's argmax over "is it the end token": 0 where there is none.
    ids.iter().position(|&id| id == pooled).unwrap_or_default()
}

/// Cuts `n` rows into runs of powers of two, so that few shapes are compiled and none is padded.
fn runs(mut n: usize, most: usize) -> Vec<usize> {
    let mut out = vec![most; n / most];
    n %= most;
    while n > 0 {
        let part = 1 << n.ilog2();
        out.push(part);
        n -= part;
    }
    out
}

impl DualEncoder for ClipEncoder {
    fn name(&self) -> &str {
        &self.name
    }

    fn dim(&self) -> usize {
        self.config.projection_dim
    }

    fn logit_scale(&self) -> f32 {
        self.logit_scale
    }

    fn embed_images(&mut self, images: &[RgbImage]) -> Result<Embeddings, EncoderError> {
        let size = self.config.vision.image_size;
        let tokens = (size / self.config.vision.patch_size).pow(2) + 1;
        let mut data = Vec::with_capacity(images.len() * self.dim());
        let mut left = images;
        for batch in runs(images.len(), MOST_IMAGES) {
            let (now, later) = left.split_at(batch);
            left = later;
            let mut pixels = Vec::with_capacity(batch * 3 * size * size);
            for image in now {
                pixels.extend(self.preprocess.apply(image)?.data);
            }
            let rows = (0..batch).map(|i| (i * tokens) as u32).collect();
            let inputs = [HostTensor::f32(&[batch, 3, size, size], pixels)?, HostTensor::u32(&[batch], rows)?];
            data.extend(self.run(Bucket::Images(batch), &inputs)?);
        }
        Ok(Embeddings::new(self.dim(), data)?)
    }

    fn embed_texts(&mut self, texts: &[String]) -> Result<Embeddings, EncoderError> {
        let (dim, eos) = (self.dim(), self.config.text.eos_token_id);
        let mut data = vec![0.0; texts.len() * dim];
        let mut groups: BTreeMap<usize, Vec<(usize, Vec<u32>)>> = BTreeMap::new();
        for (i, text) in texts.iter().enumerate() {
            let ids = self.tokenizer.encode(text)?;
            let tokens = ids.len().next_multiple_of(TOKEN_STEP).min(self.config.text.max_positions);
            groups.entry(tokens).or_default().push((i, ids));
        }
        for (tokens, group) in groups {
            let mut left = &group[..];
            for batch in runs(group.len(), MOST_TEXTS) {
                let (now, later) = left.split_at(batch);
                left = later;
                let mut ids = Vec::with_capacity(batch * tokens);
                let mut rows = Vec::with_capacity(batch);
                for (k, (_, text)) in now.iter().enumerate() {
                    rows.push((k * tokens + pooled_at(eos, text)) as u32);
                    ids.extend(text);
                    // Nothing before the end token can see what is put here.
                    ids.resize((k + 1) * tokens, 0);
                }
                let inputs = [
                    HostTensor::u32(&[batch, tokens], ids)?,
                    HostTensor::u32(&[tokens], (0..tokens as u32).collect())?,
                    HostTensor::u32(&[batch], rows)?,
                ];
                let out = self.run(Bucket::Texts { batch, tokens }, &inputs)?;
                for ((i, _), row) in now.iter().zip(out.chunks_exact(dim)) {
                    data[i * dim..(i + 1) * dim].copy_from_slice(row);
                }
            }
        }
        Ok(Embeddings::new(dim, data)?)
    }
}

#[cfg(test)]
mod tests {
    use super::{Embeddings, pooled_at, runs};

    #[test]
    fn texts_are_pooled_at_the_first_end_or_at_the_largest_id() {
        assert_eq!(pooled_at(9, &[8, 3, 9, 4, 9]), 2);
        // An added token above the end token, with the old rule and with the new.
        assert_eq!(pooled_at(2, &[8, 3, 2, 11, 9]), 3);
        assert_eq!(pooled_at(9, &[8, 3, 2, 11, 9]), 4);
        assert_eq!(pooled_at(9, &[8, 3]), 0);
    }

    #[test]
    fn embeddings_are_whole_rows() {
        let rows = Embeddings::new(2, vec![1.0, 0.0, 0.6, 0.8]).unwrap();
        assert_eq!((rows.len(), rows.row(1), rows.dot(0, &rows, 1)), (2, &[0.6, 0.8][..], 0.6));
        assert!(Embeddings::new(2, vec![]).unwrap().is_empty());
        assert!(Embeddings::new(0, vec![]).is_err() && Embeddings::new(2, vec![1.0]).is_err());
    }

    #[test]
    fn runs_are_powers_of_two_and_cover_all_rows() {
        assert_eq!(runs(37, 64), [32, 4, 1]);
        assert_eq!(runs(130, 64), [64, 64, 2]);
        assert_eq!(runs(0, 64), [0_usize; 0]);
    }
}
