//! Encoders of the CLIP family from the files that the hub ships: images, sounds and texts to embeddings in one space.
//!
//! CLIP and everything that is one by its files (OpenAI, LAION, DFN, MetaCLIP, PickScore), SigLIP, SigLIP 2 (NaFlex
//! too) and Perception Encoder core, in the layouts of transformers and of open_clip; and ViCLIP, a CLIP of videos.
//! Videos are embedded by any of them ([`DualEncoder::embed_videos`]). [`ImageBindFiles`] opens ImageBind's audio and
//! text towers, whose weights are not for commercial use ([`IMAGEBIND_LICENCE`]).
//!
//! Sounds are CLAP's: [`ClapFiles`] opens such a folder, which [`hears_sounds`] tells, and [`ClapEncoder`] embeds samples and
//! texts.
//!
//! [`VggFiles`] opens a VGG, which embeds nothing: it tells how far apart the style and the content of two pictures are.
//!
//! [`Head`] makes one number of a picture's embedding, as aesthetic predictors do.
//!
//! [`AnyFiles`] opens any of the others, by what the folder holds.
//!
//! [`ModelFiles::open`] reads and checks a checkpoint folder and tells by its files what it is; [`ModelFiles::load`]
//! puts its weights on a backend; the resulting [`Encoder`] embeds. The forward pass is written once, as a
//! `mils-graph` graph, and runs on any backend.
//!
//! This crate trains nothing, downloads nothing, and fills in nothing: a tensor that is missing, left over or
//! misshapen is an error.
//!
//! ```no_run
//! use mils_cpu::Cpu;
//! use mils_encoder::{DualEncoder, ModelFiles};
//! use std::path::Path;
//!
//! let mut model = ModelFiles::open(Path::new("siglip2-base-patch16-224"))?.load(&Cpu::new())?;
//! let image = mils_media::decode_image(Path::new("photo.jpg"), &Default::default())?;
//! let image = model.embed_images(&[image])?;
//! let texts = model.embed_texts(&["a dog".into(), "a cat".into()])?;
//! println!("{} {}", image.dot(0, &texts, 0), image.dot(0, &texts, 1));
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

mod any;
mod arch;
mod encoder;
mod error;
mod files;
mod forward;
mod head;
mod imagebind;
mod layout;
mod pool;
mod positions;
mod programs;
mod sound;
mod tensors;
mod texts;
mod tokenizer;
mod vgg;
mod video;
mod weights;

pub use any::{AnyEncoder, AnyFiles, Listening, Sound};
pub use arch::{
    Architecture, Blocks, Calibration, ImagePool, ImageSize, ImageTower, Projection, Rope, TextPool, TextTower,
};
pub use encoder::{DualEncoder, Embeddings, Encoder};
pub use error::EncoderError;
pub use files::ModelFiles;
pub use head::Head;
pub use imagebind::{
    AudioTower as ImageBindAudioTower, IMAGEBIND_LICENCE, ImageBindArchitecture, ImageBindEncoder, ImageBindFiles,
    Licence, is_imagebind, kaldi_fbank,
};
pub use sound::{
    AudioTower, ClapEncoder, ClapFiles, Crops, Mels, Padding, RobertaTower, SoundArchitecture, SoundEncoder,
    SoundFeatures, Stage, Truncation, hears_sounds,
};
pub use vgg::{Convolution, StyleFeatures, Vgg, VggArchitecture, VggFiles};
pub use weights::Precision;
