//! Encoders of sounds and texts: CLAP, from samples to embeddings.
//!
//! A sound becomes log-mel spectrograms ([`features`]), these become patches of a picture ([`spectra`]), and these are what
//! the audio tower takes ([`forward`]).

mod arch;
mod config;
mod encoder;
mod features;
mod files;
mod forward;
mod mel;
mod spectra;
mod spectrogram;
mod tensors;
mod windows;

pub use arch::{AudioTower, RobertaTower, SoundArchitecture, Stage};
pub use encoder::{ClapEncoder, SoundEncoder};
pub use features::{Crops, Mels, Padding, SoundFeatures, Truncation};
pub use files::{ClapFiles, hears_sounds};
