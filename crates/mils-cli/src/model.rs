//! An encoder by what it is called, and pictures and texts through it.

use crate::args::ModelArgs;
use crate::backend::{Opened, open_backend};
use crate::progress::Progress;
use anyhow::{Context, Result};
use mils_encoder::{DualEncoder, Embeddings, Encoder, EncoderError, ModelFiles};
use mils_media::RgbImage;
use std::sync::atomic::{AtomicBool, Ordering};

/// An input's embedding, or why it has none.
pub type Embedded = Result<Vec<f32>>;

/// An encoder, ready to embed.
pub struct Model {
    /// What it is called.
    pub name: String,
    /// The encoder.
    pub encoder: Encoder,
}

impl Model {
    /// Finds and loads it; `None` if `cancel` was set meanwhile.
    ///
    /// # Errors
    /// If it is not there, or damaged, or no device can be had.
    pub fn open(args: &ModelArgs, progress: &Progress, cancel: &AtomicBool) -> Result<Option<Self>> {
        let mils_models::Model { name, folder } = mils_models::Model::find(&args.model)?;
        progress.say(&format!("reading {name}"));
        // Checked before a device is opened: it is the likelier to be wrong.
        let files = ModelFiles::open_with(&folder, args.encoder.dtype.into())?;
        if cancel.load(Ordering::SeqCst) {
            return Ok(None);
        }
        let Opened { backend, chosen, .. } = open_backend(args.encoder.backend, args.encoder.math)?;
        progress.say(&format!("loading {name} on {chosen}"));
        let encoder = files.load(&*backend)?;
        Ok((!cancel.load(Ordering::SeqCst)).then_some(Self { name, encoder }))
    }

    /// The embedding of each text, or why there is none.
    ///
    /// # Errors
    /// If the device fails.
    pub fn texts(&mut self, texts: &[String]) -> Result<Vec<Embedded>> {
        each(texts, &mut |texts| self.encoder.embed_texts(texts))
    }

    /// The embedding of each picture, or why there is none.
    ///
    /// # Errors
    /// If the device fails.
    pub fn pictures(&mut self, pictures: Vec<Result<RgbImage>>) -> Result<Vec<Embedded>> {
        let mut images = Vec::new();
        // Those that could be read leave a place for their embedding.
        let read: Vec<Result<()>> = pictures.into_iter().map(|p| p.map(|image| images.push(image))).collect();
        let mut rows = each(&images, &mut |images| self.encoder.embed_images(images))?.into_iter();
        let mut row = |()| rows.next().context("an embedding is missing")?;
        Ok(read.into_iter().map(|read| read.and_then(&mut row)).collect())
    }
}

/// The embedding of each input; where one cannot be embedded, the others still are.
fn each<T>(inputs: &[T], embed: &mut dyn FnMut(&[T]) -> Result<Embeddings, EncoderError>) -> Result<Vec<Embedded>> {
    match embed(inputs) {
        Ok(rows) => Ok((0..inputs.len()).map(|i| Ok(rows.row(i).to_vec())).collect()),
        // These are the fault of an input.
        Err(error @ (EncoderError::Preprocess(_) | EncoderError::Tokenize { .. })) => match inputs {
            [_] => Ok(vec![Err(error.into())]),
            _ => {
                let mut all = Vec::with_capacity(inputs.len());
                for input in inputs.chunks(1) {
                    all.extend(each(input, embed)?);
                }
                Ok(all)
            }
        },
        Err(error) => Err(error.into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_bad_input_does_not_cost_the_others_their_rows() {
        let mut embed = |inputs: &[i32]| match inputs.iter().find(|i| **i < 0) {
            Some(bad) => Err(EncoderError::Tokenize { text: bad.to_string(), problem: "negative".into() }),
            None => Ok(Embeddings::new(1, inputs.iter().map(|i| *i as f32).collect()).unwrap()),
        };
        let rows = each(&[1, -2, 3], &mut embed).unwrap();
        assert_eq!((rows[0].as_ref().unwrap(), rows[2].as_ref().unwrap()), (&vec![1.0], &vec![3.0]));
        assert!(rows[1].as_ref().unwrap_err().to_string().contains("-2"));
        assert!(each(&[], &mut embed).unwrap().is_empty());
    }
}
