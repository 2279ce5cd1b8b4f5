//! Any encoder by its folder, and how much of a video or a sound each is given.

use crate::encoder::{DualEncoder, Embeddings, Encoder};
use crate::sound::{ClapFiles, SoundEncoder, hears_sounds};
use crate::{Calibration, EncoderError, ImageBindFiles, Licence, ModelFiles, Precision, is_imagebind};
use mils_graph::Backend;
use mils_media::audio::{Audio, AudioError, AudioFile, Filter, ReadOptions};
use std::path::Path;

/// How an encoder listens: what is read of a sound's file for it.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Listening {
    /// Samples a second.
    pub sample_rate: u32,
    /// The resampling that its reference uses.
    pub filter: Filter,
    /// A sound of up to so many seconds is given whole: the encoder cuts it as its reference does.
    pub whole: f64,
    /// Of a longer one, windows of so many seconds …
    pub window: f64,
    /// … and so many of them, at equal steps from its begin to its end, whose embeddings are averaged. What that costs
    /// does not depend on the sound's length.
    pub windows: usize,
}

/// What is heard of a sound, in mono at the rate of its [`Listening`].
#[derive(Clone, Debug, PartialEq)]
pub struct Sound {
    /// All of it, or windows.
    pub pieces: Vec<Audio>,
    /// How long the sound is, in seconds.
    pub seconds: f64,
}

impl Listening {
    /// Reads what is heard of a sound.
    ///
    /// # Errors
    /// See [`AudioError`].
    pub fn read(&self, file: &mut AudioFile) -> Result<Sound, AudioError> {
        let options =
            ReadOptions { sample_rate: Some(self.sample_rate), filter: self.filter, ..ReadOptions::default() };
        let seconds = file.seconds()?;
        let pieces = if seconds > self.whole {
            file.clips(self.windows, self.window, &options)?
        } else {
            vec![file.read(&options)?]
        };
        Ok(Sound { pieces, seconds })
    }
}

/// A checkpoint folder of any family, read and checked.
pub enum AnyFiles {
    /// Of pictures and texts, or of videos and texts.
    Pictures(ModelFiles),
    /// CLAP: of sounds and texts.
    Clap(ClapFiles),
    /// ImageBind's audio and text towers.
    ImageBind(ImageBindFiles),
}

impl AnyFiles {
    /// Tells by its files what a folder holds, and opens it.
    ///
    /// # Errors
    /// As [`ModelFiles::open_with`], [`ClapFiles::open_with`] or [`ImageBindFiles::open_with`].
    pub fn open_with(folder: &Path, precision: Precision) -> Result<Self, EncoderError> {
        if hears_sounds(folder)? {
            return ClapFiles::open_with(folder, precision).map(Self::Clap);
        }
        if is_imagebind(folder)? {
            return ImageBindFiles::open_with(folder, precision).map(Self::ImageBind);
        }
        ModelFiles::open_with(folder, precision).map(Self::Pictures)
    }

    /// Terms of the weights, where they are known to restrict their use.
    pub fn licence(&self) -> Option<Licence> {
        match self {
            Self::ImageBind(files) => Some(files.licence()),
            Self::Pictures(_) | Self::Clap(_) => None,
        }
    }

    /// Puts the weights on a backend.
    ///
    /// # Errors
    /// If they do not fit there.
    pub fn load(self, backend: &dyn Backend) -> Result<AnyEncoder, EncoderError> {
        Ok(match self {
            Self::Pictures(files) => AnyEncoder::Pictures(Box::new(files.load(backend)?)),
            Self::Clap(files) => AnyEncoder::Sounds(Box::new(files.load(backend)?)),
            Self::ImageBind(files) => AnyEncoder::Sounds(Box::new(files.load(backend)?)),
        })
    }
}

/// An encoder of any family: of texts, and of pictures and videos or of sounds.
pub enum AnyEncoder {
    /// Sees pictures and videos.
    Pictures(Box<Encoder>),
    /// Hears sounds.
    Sounds(Box<dyn SoundEncoder>),
}

impl AnyEncoder {
    /// A name for reports.
    pub fn name(&self) -> &str {
        match self {
            Self::Pictures(encoder) => encoder.name(),
            Self::Sounds(encoder) => encoder.name(),
        }
    }

    /// Width of the shared space.
    pub fn dim(&self) -> usize {
        match self {
            Self::Pictures(encoder) => encoder.dim(),
            Self::Sounds(encoder) => encoder.dim(),
        }
    }

    /// What the model was trained to make of cosines.
    pub fn calibration(&self) -> Calibration {
        match self {
            Self::Pictures(encoder) => encoder.calibration(),
            Self::Sounds(encoder) => encoder.calibration(),
        }
    }

    /// The factor that it applies to cosines first.
    pub fn logit_scale(&self) -> f32 {
        match self {
            Self::Pictures(encoder) => encoder.logit_scale(),
            Self::Sounds(encoder) => encoder.logit_scale(),
        }
    }

    /// What it adds to them then; 0 with [`Calibration::Softmax`].
    pub fn logit_bias(&self) -> f32 {
        match self {
            Self::Pictures(encoder) => encoder.logit_bias(),
            Self::Sounds(encoder) => encoder.logit_bias(),
        }
    }

    /// See [`DualEncoder::scores`].
    pub fn scores(&self, cosines: &[f32]) -> Vec<f32> {
        match self {
            Self::Pictures(encoder) => encoder.scores(cosines),
            Self::Sounds(encoder) => encoder.scores(cosines),
        }
    }

    /// One row a text, in order.
    ///
    /// # Errors
    /// If a text cannot be tokenised, or the device fails.
    pub fn embed_texts(&mut self, texts: &[String]) -> Result<Embeddings, EncoderError> {
        match self {
            Self::Pictures(encoder) => encoder.embed_texts(texts),
            Self::Sounds(encoder) => encoder.embed_texts(texts),
        }
    }

    /// The encoder of pictures and videos that it is.
    ///
    /// # Errors
    /// [`EncoderError::Sense`] if it is one of sounds.
    pub fn pictures(&mut self) -> Result<&mut Encoder, EncoderError> {
        match self {
            Self::Pictures(encoder) => Ok(encoder),
            Self::Sounds(encoder) => {
                Err(EncoderError::Sense { model: encoder.name().to_owned(), takes: "sounds", given: "a picture" })
            }
        }
    }

    /// The encoder of sounds that it is.
    ///
    /// # Errors
    /// [`EncoderError::Sense`] if it is one of pictures.
    pub fn sounds(&mut self) -> Result<&mut dyn SoundEncoder, EncoderError> {
        match self {
            Self::Sounds(encoder) => Ok(&mut **encoder),
            Self::Pictures(encoder) => {
                Err(EncoderError::Sense { model: encoder.name().to_owned(), takes: "pictures", given: "a sound" })
            }
        }
    }
}
