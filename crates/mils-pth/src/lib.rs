//! PyTorch checkpoints (`.pth`, `.pt`, `.bin`) to safetensors, without running anything that is in them.
//!
//! `torch.save` writes a pickle: a program that may call any function of Python. This crate reads it with a machine
//! of its own that knows no functions at all, only what a state dict is made of: dictionaries, lists, tuples, texts,
//! numbers, and tensors as pieces of storages. Whatever else a file asks for is refused by name, or, where
//! [`Options::skip_objects`] says so, passed over as an object of which nothing is known.
//!
//! Both formats of `torch.save` are read: the ZIP file (since PyTorch 1.6) and the one before it. The file is mapped,
//! not loaded; what is allocated is bounded by the pickle, which is bounded itself ([`MOST_PICKLE`]), and a file cannot
//! make a larger one than [`MOST_GROWTH`] times itself.
//!
//! Formats: `torch/serialization.py`, `torch/_utils.py` and `torch/_weights_only_unpickler.py` of PyTorch;
//! `pickletools.py` of Python.
//!
//! ```no_run
//! use mils_pth::{Checkpoint, Options};
//! use std::{fs::File, io::BufWriter, ops::ControlFlow};
//!
//! let options = Options { prefix: "model.".into(), ..Options::default() };
//! let checkpoint = Checkpoint::open("ViClip-InternVid-10M-FLT.pth".as_ref(), &options)?;
//! let mut out = BufWriter::new(File::create("model.safetensors")?);
//! checkpoint.write_safetensors(&mut out, &mut |_| ControlFlow::Continue(()))?;
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

mod archive;
mod dtype;
mod error;
mod heap;
mod rebuild;
mod state;
mod vm;
mod write;

pub use dtype::Dtype;
pub use error::PthError;

use archive::Archive;
use std::path::{Path, PathBuf};

/// Longest pickle that is read, in bytes. That of a model of ten thousand tensors has two million.
pub const MOST_PICKLE: usize = 1 << 26;
/// Most values that a pickle may make.
pub const MOST_VALUES: usize = 1 << 22;
/// The tensors may take this many times the file's size: some share a storage, or are views that repeat elements.
pub const MOST_GROWTH: u64 = 4;

/// What is taken out of a checkpoint.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Options {
    /// Only tensors whose names begin with this, which is taken off; empty for all. Names of nested dictionaries are
    /// joined with dots: `model.` is what is under `model`.
    pub prefix: String,
    /// Passes over objects of other code than a state dict's (a training configuration, an optimiser's state), with all
    /// that is in them, in place of refusing the file. They are not run in either case.
    pub skip_objects: bool,
}

/// A tensor of a checkpoint.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tensor {
    /// Where it is in the nested dictionaries, without the prefix.
    pub name: String,
    /// Type of its elements.
    pub dtype: Dtype,
    /// Its shape.
    pub shape: Vec<usize>,
    /// Elements from one place to the next, of each dimension.
    pub(crate) strides: Vec<usize>,
    /// First element in its storage.
    pub(crate) offset: usize,
    /// Bytes of the storage in the file.
    pub(crate) storage: std::ops::Range<usize>,
}

impl Tensor {
    /// Number of elements.
    pub fn elements(&self) -> usize {
        // Checked when it was made.
        self.shape.iter().product()
    }

    /// Bytes of all elements.
    pub fn bytes(&self) -> usize {
        self.elements() * self.dtype.size()
    }
}

/// A checkpoint, mapped and checked: every tensor is known to lie within the file.
pub struct Checkpoint {
    path: PathBuf,
    archive: Archive,
    tensors: Vec<Tensor>,
    /// Values beside the tensors: numbers, texts and the like.
    others: usize,
    skipped: Vec<String>,
}

impl Checkpoint {
    /// Opens a file and reads what tensors it has.
    ///
    /// # Errors
    /// If it cannot be read, is damaged, is no checkpoint of PyTorch, asks for code, or has no tensor of this prefix.
    pub fn open(path: &Path, options: &Options) -> Result<Self, PthError> {
        let archive = Archive::open(path).map_err(|problem| PthError::new(path, problem))?;
        Self::read(path, archive, options)
    }

    /// The same of a file in memory; `path` is its name in messages.
    ///
    /// # Errors
    /// As [`Checkpoint::open`].
    pub fn from_bytes(path: &Path, bytes: Vec<u8>, options: &Options) -> Result<Self, PthError> {
        Self::read(path, Archive::Memory(bytes), options)
    }

    fn read(path: &Path, archive: Archive, options: &Options) -> Result<Self, PthError> {
        let found = archive.state(options).map_err(|problem| PthError::new(path, problem))?;
        Ok(Self { path: path.into(), archive, tensors: found.tensors, others: found.others, skipped: found.skipped })
    }

    /// The tensors, in the order of the file.
    pub fn tensors(&self) -> &[Tensor] {
        &self.tensors
    }

    /// How many values there are beside the tensors (a step's number, a learning rate), which safetensors has no place
    /// for.
    pub fn others(&self) -> usize {
        self.others
    }

    /// Classes and functions that were passed over, each once: see [`Options::skip_objects`].
    pub fn skipped(&self) -> &[String] {
        &self.skipped
    }

    /// Bytes of all tensors.
    pub fn bytes(&self) -> u64 {
        self.tensors.iter().map(|t| t.bytes() as u64).sum()
    }
}
