//! CLIP-family encoders from the files that the hub ships: images and texts to embeddings in one space.
//!
//! [`ClipFiles::open`] reads and checks a checkpoint folder; [`ClipFiles::load`] puts its weights on a backend; the
//! resulting [`ClipEncoder`] embeds. The forward pass is written once, as a `mils-graph` graph, and runs on any
//! backend.
//!
//! This crate trains nothing, downloads nothing, and fills in nothing: a tensor that is missing, left over or
//! misshapen is an error.
//!
//! ```no_run
//! use mils_cpu::Cpu;
//! use mils_encoder::{ClipFiles, DualEncoder};
//! use std::path::Path;
//!
//! let mut clip = ClipFiles::open(Path::new("clip-vit-base-patch32"))?.load(&Cpu::new())?;
//! let image = mils_media::decode_image(Path::new("photo.jpg"), &Default::default())?;
//! let image = clip.embed_images(&[image])?;
//! let texts = clip.embed_texts(&["a dog".into(), "a cat".into()])?;
//! println!("{} {}", image.dot(0, &texts, 0), image.dot(0, &texts, 1));
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

mod clip;
mod config;
mod encoder;
mod error;
mod files;
mod tokenizer;
mod weights;

pub use config::{ClipConfig, TextConfig, TowerConfig, VisionConfig};
pub use encoder::{ClipEncoder, DualEncoder, Embeddings};
pub use error::EncoderError;
pub use files::ClipFiles;
