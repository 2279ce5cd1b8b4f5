//! Where the bytes come from: a file, or memory. Both can be read more than once, since a second decoder may have to
//! begin again where a first one gave up.

use std::fs::File;
use std::io::{Cursor, ErrorKind, Read, Result, Seek, SeekFrom};
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Bytes of a pipe or device that are kept: it cannot be read twice.
const MOST_PIPED: u64 = 256 << 20;

/// A file or bytes in memory.
#[derive(Clone, Debug)]
pub(crate) enum Source {
    File(PathBuf),
    Bytes(Arc<[u8]>),
}

/// Why a source cannot be opened, before anything is known of what is in it.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SourceError {
    /// There is no such file.
    #[error("no such file")]
    Missing,
    /// It is a folder.
    #[error("this is a folder; name the files in it")]
    Folder,
    /// No bytes.
    #[error("the file is empty")]
    Empty,
    /// A pipe without an end, or with a late one.
    #[error("the pipe gives more than {} MiB; write it to a file first", MOST_PIPED >> 20)]
    Piped,
    /// The system refused.
    #[error("cannot be read: {0}")]
    Io(#[source] std::io::Error),
}

impl From<std::io::Error> for SourceError {
    fn from(error: std::io::Error) -> Self {
        if error.kind() == ErrorKind::NotFound { Self::Missing } else { Self::Io(error) }
    }
}

impl Source {
    /// A file; of a pipe the bytes are read.
    pub(crate) fn open(path: &Path) -> std::result::Result<Self, SourceError> {
        let meta = std::fs::metadata(path)?;
        if meta.is_dir() {
            return Err(SourceError::Folder);
        }
        if meta.is_file() {
            return if meta.len() == 0 { Err(SourceError::Empty) } else { Ok(Self::File(path.to_owned())) };
        }
        let mut bytes = Vec::new();
        File::open(path)?.take(MOST_PIPED + 1).read_to_end(&mut bytes)?;
        if bytes.len() as u64 > MOST_PIPED { Err(SourceError::Piped) } else { Self::bytes(bytes) }
    }

    pub(crate) fn bytes(bytes: Vec<u8>) -> std::result::Result<Self, SourceError> {
        if bytes.is_empty() { Err(SourceError::Empty) } else { Ok(Self::Bytes(bytes.into())) }
    }

    /// At its start.
    pub(crate) fn reader(&self) -> Result<Reader> {
        Ok(match self {
            Self::File(path) => {
                let file = File::open(path)?;
                let length = file.metadata()?.len();
                Reader { inner: Inner::File(file), length }
            }
            Self::Bytes(bytes) => {
                Reader { length: bytes.len() as u64, inner: Inner::Bytes(Cursor::new(Arc::clone(bytes))) }
            }
        })
    }
}

enum Inner {
    File(File),
    Bytes(Cursor<Arc<[u8]>>),
}

/// One reading of a source.
pub(crate) struct Reader {
    inner: Inner,
    length: u64,
}

impl Reader {
    /// Bytes that there are.
    pub(crate) fn length(&self) -> u64 {
        self.length
    }

    /// Up to `count` bytes from `at` on; fewer at the end.
    pub(crate) fn at(&mut self, at: u64, count: usize) -> Result<Vec<u8>> {
        let mut bytes = Vec::new();
        if at < self.length {
            self.seek(SeekFrom::Start(at))?;
            self.take(count as u64).read_to_end(&mut bytes)?;
        }
        Ok(bytes)
    }
}

impl Read for Reader {
    fn read(&mut self, buffer: &mut [u8]) -> Result<usize> {
        match &mut self.inner {
            Inner::File(file) => file.read(buffer),
            Inner::Bytes(bytes) => bytes.read(buffer),
        }
    }
}

impl Seek for Reader {
    fn seek(&mut self, to: SeekFrom) -> Result<u64> {
        match &mut self.inner {
            Inner::File(file) => file.seek(to),
            Inner::Bytes(bytes) => bytes.seek(to),
        }
    }
}

impl symphonia::core::io::MediaSource for Reader {
    fn is_seekable(&self) -> bool {
        true
    }

    fn byte_len(&self) -> Option<u64> {
        Some(self.length)
    }
}
