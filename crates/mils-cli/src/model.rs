//! An encoder by what it is called, and texts, pictures, videos and sounds through it.

use crate::args::ModelArgs;
use crate::backend::{Opened, open_backend};
use crate::media::{Media, Senses};
use crate::progress::Progress;
use anyhow::{Context, Result};
use mils_encoder::{AnyEncoder, AnyFiles, DualEncoder, Embeddings, EncoderError};
use mils_models::Modality;
use std::sync::atomic::{AtomicBool, Ordering};

/// An input's embedding, or why it has none.
pub type Embedded = Result<Vec<f32>>;

/// An encoder, ready to embed.
pub struct Model {
    /// What it is called.
    pub name: String,
    /// The encoder.
    pub encoder: AnyEncoder,
}

impl Model {
    /// Finds and loads it; `None` if `cancel` was set meanwhile. Of a pack it is the encoder of the modality.
    ///
    /// # Errors
    /// If it is not there, or damaged, or no device can be had.
    pub fn open(
        args: &ModelArgs,
        modality: Modality,
        progress: &Progress,
        cancel: &AtomicBool,
    ) -> Result<Option<Self>> {
        let mils_models::Model { name, folder } = mils_models::Model::find(&args.model, modality)?;
        progress.say(&format!("reading {name}"));
        // Checked before a device is opened: it is the likelier to be wrong.
        let files = AnyFiles::open_with(&folder, args.encoder.dtype.into())?;
        if cancel.load(Ordering::SeqCst) {
            return Ok(None);
        }
        if let Some(licence) = files.licence() {
            progress.note(&format!("mils: the weights of {name} are {licence}"));
        }
        let Opened { backend, chosen, .. } = open_backend(args.encoder.backend, args.encoder.math)?;
        progress.say(&format!("loading {name} on {chosen}"));
        let encoder = files.load(&*backend)?;
        Ok((!cancel.load(Ordering::SeqCst)).then_some(Self { name, encoder }))
    }

    /// What it is to be given of files.
    pub fn senses(&self) -> Senses {
        Senses::of(&self.encoder)
    }

    /// The embedding of each text, or why there is none.
    ///
    /// # Errors
    /// If the device fails.
    pub fn texts(&mut self, texts: &[String]) -> Result<Vec<Embedded>> {
        each(texts, &mut |texts| self.encoder.embed_texts(texts))
    }

    /// The embedding of what was read of each file, or why there is none.
    ///
    /// # Errors
    /// If the device fails.
    pub fn media(&mut self, media: Vec<Result<Media>>) -> Result<Vec<Embedded>> {
        let (mut images, mut videos, mut sounds) = (vec![], vec![], vec![]);
        // What was read leaves a place for its embedding.
        let mut rows: Vec<Option<Embedded>> = Vec::with_capacity(media.len());
        for (place, media) in media.into_iter().enumerate() {
            rows.push(None);
            match media {
                Ok(Media::Image(image)) => images.push((place, image)),
                Ok(Media::Video(frames)) => videos.push((place, frames)),
                Ok(Media::Sound(sound)) => sounds.push((place, sound)),
                Err(error) => rows[place] = Some(Err(error)),
            }
        }
        let encoder = &mut self.encoder;
        put(images, &mut rows, &mut |images| encoder.pictures()?.embed_images(images))?;
        put(videos, &mut rows, &mut |videos| encoder.pictures()?.embed_videos(videos))?;
        put(sounds, &mut rows, &mut |sounds| encoder.sounds()?.embed_heard(sounds))?;
        rows.into_iter().map(|row| row.context("an embedding is missing")).collect()
    }
}

/// Embeds things of one kind, and puts their embeddings into their places.
fn put<T>(
    things: Vec<(usize, T)>,
    rows: &mut [Option<Embedded>],
    embed: &mut dyn FnMut(&[T]) -> Result<Embeddings, EncoderError>,
) -> Result<()> {
    let (places, things): (Vec<usize>, Vec<T>) = things.into_iter().unzip();
    for (place, row) in places.into_iter().zip(each(&things, embed)?) {
        rows[place] = Some(row);
    }
    Ok(())
}

/// The embedding of each input; where one cannot be embedded, the others still are.
fn each<T>(inputs: &[T], embed: &mut dyn FnMut(&[T]) -> Result<Embeddings, EncoderError>) -> Result<Vec<Embedded>> {
    if inputs.is_empty() {
        return Ok(Vec::new());
    }
    match embed(inputs) {
        Ok(rows) => Ok((0..inputs.len()).map(|i| Ok(rows.row(i).to_vec())).collect()),
        // These are the fault of an input.
        Err(
            error @ (EncoderError::Preprocess(_)
            | EncoderError::Tokenize { .. }
            | EncoderError::Sound { .. }
            | EncoderError::Frames { .. }
            | EncoderError::Sense { .. }),
        ) => match inputs {
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
