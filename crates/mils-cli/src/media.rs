//! What a file is, by its content, and what a scorer is given of it.

use crate::inputs::{read_picture, regular};
use anyhow::{Result, bail};
use clap::ValueEnum;
use mils_encoder::{AnyEncoder, DualEncoder, Embeddings, EncoderError, Listening, Sound};
use mils_media::audio::AudioFile;
use mils_media::video::{self, Sampling, VideoLimits};
use mils_media::{Kind, RgbImage};
use mils_models::Modality;
use std::path::{Path, PathBuf};
use std::slice::from_ref;

/// What files are taken for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum ModalityChoice {
    /// What they are by their content, whatever their names say
    #[default]
    Auto,
    /// Pictures; of a video, the frame in its middle
    Image,
    /// Videos; a picture is one that stands still
    Video,
    /// Sounds; of a video, its sound track
    Sound,
}

/// What a file is, and what it is taken for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Taken {
    /// What it is taken for.
    pub modality: Modality,
    /// What it is, by its headers; `None` where that does not matter, or is not to be told.
    kind: Option<Kind>,
}

impl From<Modality> for ModalityChoice {
    fn from(modality: Modality) -> Self {
        match modality {
            Modality::Image => Self::Image,
            Modality::Video => Self::Video,
            Modality::Sound => Self::Sound,
        }
    }
}

impl ModalityChoice {
    /// The modality that is asked for; `None`: it is the content's.
    pub fn given(self) -> Option<Modality> {
        match self {
            Self::Auto => None,
            Self::Image => Some(Modality::Image),
            Self::Video => Some(Modality::Video),
            Self::Sound => Some(Modality::Sound),
        }
    }

    /// What a file is taken for. Only its headers are read.
    ///
    /// # Errors
    /// If it cannot be read, or is nothing of the kind.
    pub fn of(self, file: &Path) -> Result<Taken> {
        regular(file)?;
        let taken = |modality, kind| Taken { modality, kind };
        Ok(match self.given() {
            // Its sound track is looked for in any case.
            Some(Modality::Sound) => taken(Modality::Sound, None),
            // Where headers do not tell, its decoder says what is wrong.
            Some(modality) => taken(modality, mils_media::kind(file).ok()),
            None => {
                let kind = mils_media::kind(file)?;
                let modality = match kind {
                    Kind::Image => Modality::Image,
                    Kind::Video => Modality::Video,
                    Kind::Audio => Modality::Sound,
                };
                taken(modality, Some(kind))
            }
        })
    }
}

/// What there is of a file, as a scorer takes it.
#[derive(Clone, Debug)]
pub enum Media {
    /// A picture.
    Image(RgbImage),
    /// Frames of a video, in order.
    Video(Vec<RgbImage>),
    /// What is heard of a sound.
    Sound(Sound),
}

impl From<RgbImage> for Media {
    fn from(image: RgbImage) -> Self {
        Self::Image(image)
    }
}

impl Media {
    /// What it is taken for.
    pub fn modality(&self) -> Modality {
        match self {
            Self::Image(_) => Modality::Image,
            Self::Video(_) => Modality::Video,
            Self::Sound(_) => Modality::Sound,
        }
    }

    /// Its embedding, one row.
    ///
    /// # Errors
    /// If the encoder does not take such things, or fails.
    pub fn embed(&self, encoder: &mut AnyEncoder) -> Result<Embeddings, EncoderError> {
        match self {
            Self::Image(image) => encoder.pictures()?.embed_images(from_ref(image)),
            Self::Video(frames) => encoder.pictures()?.embed_videos(from_ref(frames)),
            Self::Sound(sound) => encoder.sounds()?.embed_heard(from_ref(sound)),
        }
    }
}

/// What an encoder is to be given of a file.
#[derive(Clone, Copy, Debug)]
pub enum Senses {
    /// Pictures, and of videos so many frames.
    Pictures {
        /// Frames of a video.
        frames: usize,
        /// At which times.
        sampling: Sampling,
    },
    /// Sounds.
    Sounds(Listening),
}

impl Senses {
    /// Those of an encoder.
    pub fn of(encoder: &AnyEncoder) -> Self {
        match encoder {
            AnyEncoder::Pictures(e) => Self::Pictures { frames: e.frames_wanted(), sampling: e.sampling() },
            AnyEncoder::Sounds(encoder) => Self::Sounds(encoder.listening()),
        }
    }

    /// Reads what the encoder is to be given of a file.
    ///
    /// # Errors
    /// If it cannot be read, or the encoder does not take such things.
    pub fn read(&self, file: &Path, taken: Taken) -> Result<Media> {
        regular(file)?;
        match (self, taken.modality) {
            (Self::Sounds(listening), _) => Ok(Media::Sound(listening.read(&mut AudioFile::open(file)?)?)),
            (Self::Pictures { .. }, Modality::Sound) => {
                bail!("it is a sound, and the model is an encoder of pictures; name one of sounds")
            }
            (_, Modality::Image) => read_still(file, taken.kind).map(Media::Image),
            (&Self::Pictures { frames, sampling }, _) => {
                read_frames(file, taken.kind, frames, sampling).map(Media::Video)
            }
        }
    }
}

/// An error if a file is known not to be readable as what it is taken for, before any model is loaded: a picture is
/// decoded, of videos and sounds the headers are read. A picture comes back, so that it is not decoded twice.
///
/// # Errors
/// See there.
pub fn check(file: &Path, taken: Taken) -> Result<Option<Media>> {
    match taken.modality {
        Modality::Image => return read_still(file, taken.kind).map(|image| Some(Media::Image(image))),
        Modality::Video if taken.kind != Some(Kind::Image) => drop(video::probe(file, &VideoLimits::default())?),
        Modality::Video => drop(read_picture(file)?),
        Modality::Sound => drop(AudioFile::open(file)?),
    }
    Ok(None)
}

/// A picture; of a video, the frame in its middle.
fn read_still(file: &Path, kind: Option<Kind>) -> Result<RgbImage> {
    if kind == Some(Kind::Video) {
        let sampled = video::sample(file, 1, Sampling::Centres, &VideoLimits::default())?;
        if let Some(frame) = sampled.frames.into_iter().next() {
            return Ok(frame.image);
        }
    }
    read_picture(file)
}

/// So many frames of a video; of a picture, it so often.
fn read_frames(file: &Path, kind: Option<Kind>, frames: usize, sampling: Sampling) -> Result<Vec<RgbImage>> {
    if kind == Some(Kind::Image) {
        return Ok(vec![read_picture(file)?; frames]);
    }
    let sampled = video::sample(file, frames, sampling, &VideoLimits::default())?;
    Ok(sampled.frames.into_iter().map(|frame| frame.image).collect())
}

/// What a run is about.
pub enum Input {
    /// Read already.
    Media(Media),
    /// A file, and what it is taken for.
    File(PathBuf, Taken),
}

impl Input {
    /// What it is taken for.
    pub fn modality(&self) -> Modality {
        match self {
            Self::Media(media) => media.modality(),
            Self::File(_, taken) => taken.modality,
        }
    }

    /// What a scorer is given of it.
    ///
    /// # Errors
    /// As [`Senses::read`].
    pub fn read(self, senses: &Senses) -> Result<Media> {
        match self {
            Self::Media(media) => Ok(media),
            Self::File(file, taken) => senses.read(&file, taken),
        }
    }
}
