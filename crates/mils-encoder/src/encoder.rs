//! An encoder on a device: batches, length buckets, and programs kept for shapes that come again.

use crate::arch::{Architecture, Calibration, ImagePool, ImageSize};
use crate::error::EncoderError;
use crate::files::Scores;
use crate::forward;
use crate::positions::PositionGrid;
use crate::programs::Programs;
use crate::tokenizer::{TextTokenizer, Tokens};
use crate::{texts, video};
use mils_graph::{Elements, Graph, GraphError, HostTensor, TensorData, TensorError, WeightSet};
use mils_media::video::Sampling;
use mils_media::{Pixels, Preprocess, RgbImage};
use rayon::prelude::*;
use std::collections::BTreeMap;

/// L2-normalised embeddings, one row an input.
#[derive(Clone, Debug, PartialEq)]
pub struct Embeddings {
    dim: usize,
    data: Elements<f32>,
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
        Ok(Self { dim, data: data.into() })
    }

    /// Rows of a tensor [rows, dim], each of length 1: in place where they are lent by a mapped file.
    ///
    /// # Errors
    /// If it has another shape, or is not of f32.
    pub fn of_tensor(tensor: &HostTensor) -> Result<Self, TensorError> {
        match (tensor.shape(), tensor.data()) {
            (&[_, dim], TensorData::F32(data)) if dim > 0 => Ok(Self { dim, data: data.clone() }),
            (shape, _) => Err(TensorError::Elements { shape: shape.to_vec(), found: 0 }),
        }
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
        dot(self.row(i), other.row(j))
    }

    /// Row `i` with every row of another set of the same width, in order: as [`Embeddings::dot`], on all cores where
    /// there are many.
    ///
    /// # Panics
    /// If there is no such row.
    pub fn dots(&self, i: usize, other: &Self) -> Vec<f32> {
        let row = self.row(i);
        other.data.par_chunks_exact(other.dim).with_min_len(ROWS_AT_A_TIME).map(|other| dot(row, other)).collect()
    }
}

/// Rows that are worth a thread's while.
const ROWS_AT_A_TIME: usize = 1024;

/// Sums side by side, so that they fill a vector register, and in the same order for any number of threads.
fn dot(a: &[f32], b: &[f32]) -> f32 {
    const LANES: usize = 32;
    let mut sums = [0.0_f32; LANES];
    let (whole_a, rest_a) = a.as_chunks::<LANES>();
    let (whole_b, rest_b) = b.as_chunks::<LANES>();
    for (a, b) in whole_a.iter().zip(whole_b) {
        for ((sum, a), b) in sums.iter_mut().zip(a).zip(b) {
            *sum += a * b;
        }
    }
    sums.iter().sum::<f32>() + rest_a.iter().zip(rest_b).map(|(a, b)| a * b).sum::<f32>()
}

/// An encoder with an image and a text tower into one space.
pub trait DualEncoder {
    /// A name for reports.
    fn name(&self) -> &str;

    /// Width of the shared space.
    fn dim(&self) -> usize;

    /// What the model was trained to make of cosines.
    fn calibration(&self) -> Calibration;

    /// The factor that it applies to cosines first.
    fn logit_scale(&self) -> f32;

    /// What it adds to them then; 0 with [`Calibration::Softmax`].
    fn logit_bias(&self) -> f32;

    /// One row an image, in order. To a model of videos it is a video that stands still.
    ///
    /// # Errors
    /// If an image cannot be brought to the model's size, or the device fails.
    fn embed_images(&mut self, images: &[RgbImage]) -> Result<Embeddings, EncoderError>;

    /// How many frames of a video [`DualEncoder::embed_videos`] is best given, taken at equal steps of time: exactly as
    /// many as the model was trained on, where it is a model of videos.
    fn frames_wanted(&self) -> usize {
        video::FRAMES
    }

    /// At which times they are taken: as its reference takes them, where it is a model of videos.
    fn sampling(&self) -> Sampling {
        Sampling::Centres
    }

    /// One row a video, in order. A video is its frames, in order.
    ///
    /// By default frames are pooled, as any image model can do it: each is embedded, and the mean of their normalised
    /// embeddings normalised. That is the parameter-free `meanP` of CLIP4Clip (arXiv 2104.08860, section 3.3; its
    /// `_mean_pooling_for_similarity_visual`), and the zero-shot baseline of its tables. It takes any number of frames.
    ///
    /// # Errors
    /// If a video has no frames, or another number than the model takes; else as [`DualEncoder::embed_images`].
    fn embed_videos(&mut self, videos: &[Vec<RgbImage>]) -> Result<Embeddings, EncoderError> {
        video::pooled(self, videos)
    }

    /// One row a text, in order.
    ///
    /// # Errors
    /// If a text cannot be tokenised, or the device fails.
    fn embed_texts(&mut self, texts: &[String]) -> Result<Embeddings, EncoderError>;

    /// The model's own scores, 0 to 1, of texts with one image, by their cosines: probabilities that sum to 1 over
    /// these texts with [`Calibration::Softmax`], of each text by itself with [`Calibration::Sigmoid`].
    fn scores(&self, cosines: &[f32]) -> Vec<f32> {
        calibrated(self.calibration(), self.logit_scale(), self.logit_bias(), cosines)
    }
}

/// What a model makes of cosines; see [`DualEncoder::scores`].
pub(crate) fn calibrated(calibration: Calibration, scale: f32, bias: f32, cosines: &[f32]) -> Vec<f32> {
    let (scale, bias) = (f64::from(scale), f64::from(bias));
    let logits = cosines.iter().map(|&c| f64::from(c) * scale + bias);
    match calibration {
        Calibration::Sigmoid => logits.map(|l| (1.0 / (1.0 + (-l).exp())) as f32).collect(),
        Calibration::Softmax => {
            let largest = logits.clone().fold(f64::NEG_INFINITY, f64::max);
            let powers: Vec<f64> = logits.map(|l| (l - largest).exp()).collect();
            let total: f64 = powers.iter().sum();
            powers.iter().map(|p| (p / total) as f32).collect()
        }
    }
}

/// Shape of a compiled program.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Bucket {
    /// `patches` only where pictures have any number of them; 0 otherwise.
    Images {
        batch: usize,
        patches: usize,
    },
    Texts {
        batch: usize,
        tokens: usize,
    },
}

/// Most rows of one run: enough to fill a device, and a bound on its memory.
pub(crate) const MOST_TEXTS: usize = 64;
const MOST_IMAGES: usize = 16;
/// Texts are padded to a multiple of this many tokens, so that shapes come again.
pub(crate) const TOKEN_STEP: usize = 8;
/// Pictures of any size are padded to a multiple of this many patches.
const PATCH_STEP: usize = 32;

/// A model on a device.
pub struct Encoder {
    name: String,
    arch: Architecture,
    preprocess: Preprocess,
    tokenizer: TextTokenizer,
    positions: Option<PositionGrid>,
    scores: Scores,
    programs: Programs<Bucket>,
}

impl Encoder {
    pub(crate) fn new(
        name: String,
        arch: Architecture,
        preprocess: Preprocess,
        tokenizer: TextTokenizer,
        weights: Box<dyn WeightSet>,
        positions: Option<PositionGrid>,
        scores: Scores,
    ) -> Self {
        Self { name, arch, preprocess, tokenizer, positions, scores, programs: Programs::new(weights) }
    }

    /// What the model is made of.
    pub fn architecture(&self) -> &Architecture {
        &self.arch
    }

    /// The steps from a picture to the model's input.
    pub fn preprocess(&self) -> &Preprocess {
        &self.preprocess
    }

    /// Token ids of a text, with begin and end, without padding.
    ///
    /// # Errors
    /// If it cannot be tokenised.
    pub fn tokenize(&self, text: &str) -> Result<Vec<u32>, EncoderError> {
        self.tokenizer.encode(text)
    }

    /// Token ids of a text as the model gets them: with padding where it attends to that (SigLIP).
    ///
    /// # Errors
    /// If it cannot be tokenised.
    pub fn model_tokens(&self, text: &str) -> Result<Vec<u32>, EncoderError> {
        self.tokenizer.tokens(text).map(|tokens| tokens.ids)
    }

    /// As [`DualEncoder::embed_images`], of pictures that are the model's input already, as [`Preprocess::apply`] makes
    /// it: the image tower by itself. Only for models with pictures of one size.
    ///
    /// # Errors
    /// If pixels are not as many as the model wants, or the device fails.
    pub fn embed_pixels(&mut self, images: &[Pixels]) -> Result<Embeddings, EncoderError> {
        let ImageSize::Fixed { height, width } = self.arch.image.size else {
            let shape = images.first().map(|i| vec![3, i.height, i.width]).unwrap_or_default();
            return Err(TensorError::Elements { shape, found: 0 }.into());
        };
        let mut data = Vec::with_capacity(images.len() * self.arch.dim);
        for now in batches(images, MOST_IMAGES) {
            let pixels = now.iter().flat_map(|image| &image.data).copied().collect();
            data.extend(self.embed_batch(pixels, [now.len(), 3, height, width])?);
        }
        Ok(Embeddings::new(self.arch.dim, data)?)
    }

    /// As [`DualEncoder::embed_texts`], of texts that are token ids already: the text tower by itself. Ids are as
    /// [`Encoder::model_tokens`] gives them, or with padding behind them, which is then computed too.
    ///
    /// # Errors
    /// If a text has no ids, more than the model has positions for or such as it does not know, or the device fails.
    pub fn embed_tokens(&mut self, texts: &[Vec<u32>]) -> Result<Embeddings, EncoderError> {
        let tokens = texts.iter().map(|ids| self.tokenizer.pooled(ids.clone(), 0)).collect::<Result<_, _>>()?;
        self.embed_tokenised(tokens)
    }

    /// Bytes of the activations of one run on so many pictures, by the memory plan; pictures of any size at their
    /// largest.
    ///
    /// # Errors
    /// If there cannot be such a batch.
    pub fn image_activation_bytes(&self, batch: usize) -> Result<usize, EncoderError> {
        let patches = match self.arch.image.size {
            ImageSize::Fixed { .. } => 0,
            ImageSize::Flexible { most_patches, .. } => most_patches,
        };
        let plan = graph(&self.arch, Bucket::Images { batch, patches })?.plan();
        Ok(plan.slots.iter().sum::<usize>() * size_of::<f32>())
    }

    /// The embeddings, [rows, dim], of one run of the bucket's program, which is compiled where it is new.
    fn run(&mut self, bucket: Bucket, inputs: &[HostTensor]) -> Result<Vec<f32>, EncoderError> {
        let (rows, tower) = match bucket {
            Bucket::Images { batch, .. } => (batch, "image"),
            Bucket::Texts { batch, .. } => (batch, "text"),
        };
        let Self { programs, arch, name, .. } = self;
        programs.run(bucket, || graph(arch, bucket), inputs, [rows, arch.dim], (name, tower))
    }

    /// Which row of each picture is pooled, numbered over the batch: the class token's, or the one learnt query.
    fn image_rows(&self, batch: usize) -> Result<HostTensor, TensorError> {
        let step = match self.arch.image.pool {
            ImagePool::ClassToken => self.arch.image.most_tokens(),
            ImagePool::Attention { .. } => 0,
        };
        HostTensor::u32(&[batch], (0..batch).map(|i| (i * step) as u32).collect())
    }

    /// Pictures of one size.
    fn embed_fixed(&mut self, images: &[RgbImage], height: usize, width: usize) -> Result<Vec<f32>, EncoderError> {
        let mut data = Vec::with_capacity(images.len() * self.arch.dim);
        for now in batches(images, MOST_IMAGES) {
            let batch = now.len();
            let mut pixels = Vec::with_capacity(batch * 3 * height * width);
            for image in now {
                pixels.extend(self.preprocess.apply(image)?.data);
            }
            data.extend(self.embed_batch(pixels, [batch, 3, height, width])?);
        }
        Ok(data)
    }

    /// One run on pictures of one size.
    fn embed_batch(&mut self, pixels: Vec<f32>, shape: [usize; 4]) -> Result<Vec<f32>, EncoderError> {
        let batch = shape[0];
        let inputs = [HostTensor::f32(&shape, pixels)?, self.image_rows(batch)?];
        self.run(Bucket::Images { batch, patches: 0 }, &inputs)
    }

    /// Videos of as many frames as the tower takes, each of which sees all others.
    fn embed_joint(&mut self, videos: &[&[&RgbImage]], height: usize, width: usize) -> Result<Vec<f32>, EncoderError> {
        let frames = self.arch.image.frames;
        let mut data = Vec::with_capacity(videos.len() * self.arch.dim);
        for now in batches(videos, (MOST_IMAGES / frames).max(1)) {
            let mut pixels = Vec::with_capacity(now.len() * frames * 3 * height * width);
            for frame in now.iter().copied().flatten() {
                pixels.extend(self.preprocess.apply(frame)?.data);
            }
            let shape = [now.len() * frames, 3, height, width];
            let inputs = [HostTensor::f32(&shape, pixels)?, self.image_rows(now.len())?];
            data.extend(self.run(Bucket::Images { batch: now.len(), patches: 0 }, &inputs)?);
        }
        Ok(data)
    }

    /// Texts of about one length go through together.
    fn embed_tokenised(&mut self, all: Vec<Tokens>) -> Result<Embeddings, EncoderError> {
        let Self { programs, arch, name, .. } = self;
        texts::embed(&arch.text, arch.dim, all, &mut |batch, tokens, inputs| {
            let bucket = Bucket::Texts { batch, tokens };
            programs.run(bucket, || graph(arch, bucket), inputs, [batch, arch.dim], (name, "text"))
        })
    }

    /// Pictures of any size: those with about as many patches go through together.
    fn embed_flexible(&mut self, images: &[RgbImage], most_patches: usize) -> Result<Vec<f32>, EncoderError> {
        let (dim, patch) = (self.arch.dim, self.arch.image.patch);
        let mut data = vec![0.0; images.len() * dim];
        // Only their sizes are known before they are made: pixels of all pictures would not fit the memory.
        let mut groups: BTreeMap<usize, Vec<usize>> = BTreeMap::new();
        for (i, image) in images.iter().enumerate() {
            let (height, width) = self.preprocess.size(image.width(), image.height())?;
            let count = (height / patch) * (width / patch);
            groups.entry(count.next_multiple_of(PATCH_STEP).min(most_patches.max(count))).or_default().push(i);
        }
        for (patches, group) in groups {
            for now in batches(&group, MOST_IMAGES) {
                let inputs = self.flexible_inputs(images, now, patches)?;
                let out = self.run(Bucket::Images { batch: now.len(), patches }, &inputs)?;
                for (&i, row) in now.iter().zip(out.chunks_exact(dim)) {
                    data[i * dim..(i + 1) * dim].copy_from_slice(row);
                }
            }
        }
        Ok(data)
    }

    fn flexible_inputs(
        &self,
        images: &[RgbImage],
        now: &[usize],
        patches: usize,
    ) -> Result<[HostTensor; 4], EncoderError> {
        let (patch, width, batch) = (self.arch.image.patch, self.arch.image.blocks.width, now.len());
        let per_patch = patch * patch * 3;
        let (mut pixels, mut positions, mut lengths) = (vec![], vec![], vec![]);
        for (k, &i) in now.iter().enumerate() {
            let made = self.preprocess.apply(&images[i])?;
            let (rows, columns) = (made.height / patch, made.width / patch);
            lengths.push((rows * columns) as u32);
            pixels.extend(patches_of(&made, patch));
            // Padding is hidden from the attention; any number will do.
            pixels.resize((k + 1) * patches * per_patch, 0.0);
            if let Some(grid) = &self.positions {
                positions.extend(grid.resized(rows, columns));
            }
            positions.resize((k + 1) * patches * width, 0.0);
        }
        Ok([
            HostTensor::f32(&[batch, patches, per_patch], pixels)?,
            HostTensor::f32(&[batch, patches, width], positions)?,
            HostTensor::u32(&[batch], lengths)?,
            self.image_rows(batch)?,
        ])
    }
}

fn graph(arch: &Architecture, bucket: Bucket) -> Result<Graph, GraphError> {
    match bucket {
        Bucket::Images { batch, patches } => forward::image(arch, batch, patches),
        Bucket::Texts { batch, tokens } => forward::text(&arch.text, arch.dim, batch, tokens),
    }
}

/// Patches as rows, channels last: `convert_image_to_patches` of transformers' SigLIP 2.
fn patches_of(image: &Pixels, patch: usize) -> Vec<f32> {
    let (height, width) = (image.height, image.width);
    let mut out = Vec::with_capacity(height * width * 3);
    for top in (0..height / patch).map(|row| row * patch) {
        for left in (0..width / patch).map(|column| column * patch) {
            for y in top..top + patch {
                for x in left..left + patch {
                    out.extend((0..3).map(|c| image.data[(c * height + y) * width + x]));
                }
            }
        }
    }
    out
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

/// The rows in such runs.
pub(crate) fn batches<T>(mut rows: &[T], most: usize) -> impl Iterator<Item = &[T]> {
    runs(rows.len(), most).into_iter().map(move |batch| {
        let (now, later) = rows.split_at(batch);
        rows = later;
        now
    })
}

impl DualEncoder for Encoder {
    fn name(&self) -> &str {
        &self.name
    }

    fn dim(&self) -> usize {
        self.arch.dim
    }

    fn calibration(&self) -> Calibration {
        self.scores.calibration
    }

    fn logit_scale(&self) -> f32 {
        self.scores.scale
    }

    fn logit_bias(&self) -> f32 {
        self.scores.bias
    }

    fn embed_images(&mut self, images: &[RgbImage]) -> Result<Embeddings, EncoderError> {
        let frames = self.arch.image.frames;
        let data = match self.arch.image.size {
            ImageSize::Fixed { height, width } if frames > 1 => {
                let still: Vec<Vec<&RgbImage>> = images.iter().map(|image| vec![image; frames]).collect();
                let still: Vec<&[&RgbImage]> = still.iter().map(Vec::as_slice).collect();
                self.embed_joint(&still, height, width)?
            }
            ImageSize::Fixed { height, width } => self.embed_fixed(images, height, width)?,
            ImageSize::Flexible { most_patches, .. } => self.embed_flexible(images, most_patches)?,
        };
        Ok(Embeddings::new(self.arch.dim, data)?)
    }

    fn frames_wanted(&self) -> usize {
        match self.arch.image.frames {
            1 => video::FRAMES,
            frames => frames,
        }
    }

    fn sampling(&self) -> Sampling {
        if self.arch.image.frames > 1 { Sampling::WholeSteps } else { Sampling::Centres }
    }

    fn embed_videos(&mut self, videos: &[Vec<RgbImage>]) -> Result<Embeddings, EncoderError> {
        let frames = self.arch.image.frames;
        let (ImageSize::Fixed { height, width }, 2..) = (self.arch.image.size, frames) else {
            return video::pooled(self, videos);
        };
        let mut all = Vec::with_capacity(videos.len());
        for (video, given) in videos.iter().enumerate() {
            if given.len() != frames {
                let (model, found, wanted) = (self.name.clone(), given.len(), format!("exactly {frames}"));
                return Err(EncoderError::Frames { model, video, found, wanted });
            }
            all.push(given.iter().collect::<Vec<_>>());
        }
        let all: Vec<&[&RgbImage]> = all.iter().map(Vec::as_slice).collect();
        let data = self.embed_joint(&all, height, width)?;
        Ok(Embeddings::new(self.arch.dim, data)?)
    }

    fn embed_texts(&mut self, texts: &[String]) -> Result<Embeddings, EncoderError> {
        let tokens = texts.iter().map(|text| self.tokenizer.tokens(text)).collect::<Result<_, _>>()?;
        self.embed_tokenised(tokens)
    }
}

#[cfg(test)]
mod tests {
    use super::{Embeddings, batches, patches_of, runs};
    use mils_media::Pixels;

    #[test]
    fn embeddings_are_whole_rows() {
        let rows = Embeddings::new(2, vec![1.0, 0.0, 0.6, 0.8]).unwrap();
        assert_eq!((rows.len(), rows.row(1), rows.dot(0, &rows, 1)), (2, &[0.6, 0.8][..], 0.6));
        assert!(Embeddings::new(2, vec![]).unwrap().is_empty());
        assert!(Embeddings::new(0, vec![]).is_err() && Embeddings::new(2, vec![1.0]).is_err());
    }

    #[test]
    fn rows_are_multiplied_with_all_of_another_set() {
        let values = |n: usize| (0..n).map(|i| ((i * 37 % 101) as f32 - 50.0) / 50.0).collect::<Vec<_>>();
        let (one, all) = (Embeddings::new(70, values(70)).unwrap(), Embeddings::new(70, values(70 * 3000)).unwrap());
        let dots = one.dots(0, &all);
        assert_eq!(dots.len(), 3000);
        for j in [0, 1, 1024, 2999] {
            let exact: f64 = one.row(0).iter().zip(all.row(j)).map(|(a, b)| f64::from(*a) * f64::from(*b)).sum();
            assert!((f64::from(dots[j]) - exact).abs() < 1e-5, "{j}");
            assert_eq!(dots[j], one.dot(0, &all, j));
        }
    }

    #[test]
    fn runs_are_powers_of_two_and_cover_all_rows() {
        assert_eq!(runs(37, 64), [32, 4, 1]);
        assert_eq!(runs(130, 64), [64, 64, 2]);
        assert_eq!(runs(0, 64), [0_usize; 0]);
        assert_eq!(batches(&[1, 2, 3], 64).collect::<Vec<_>>(), [&[1, 2][..], &[3]]);
    }

    #[test]
    fn patches_are_rows_with_channels_last() {
        // Two patches of 1 x 1: red, green and blue of the first, then of the second.
        let image = Pixels { data: vec![1.0, 2.0, 3.0, 4.0, 5.0, 6.0], height: 1, width: 2 };
        assert_eq!(patches_of(&image, 1), [1.0, 3.0, 5.0, 2.0, 4.0, 6.0]);
    }
}
