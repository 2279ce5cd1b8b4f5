//! What a file is, from its content: a picture, a video or a sound. Also what can be told of a container without
//! decoding anything: whether its end is missing, and whether it is encrypted.
//!
//! Only headers are read, a few kilobytes at known places, however large the file is.

mod bmff;
mod chunks;
mod matroska;
mod streams;

pub(crate) use self::streams::frames;
use crate::image::decode::looks_like;
use crate::source::{Reader, Source, SourceError};
use crate::video::animation;
use std::path::Path;

/// What a file shows or sounds like.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Kind {
    /// One picture.
    Image,
    /// Moving pictures, with or without sound; an animated GIF, PNG or WebP too.
    Video,
    /// Sound, with or without a cover picture; a film container that has only sound too.
    Audio,
}

/// Why there is no telling.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum KindError {
    /// It cannot be opened.
    #[error(transparent)]
    Source(#[from] SourceError),
    /// Neither a picture nor a video nor a sound.
    #[error("not a picture, a video or a sound: it looks like {0}")]
    NotMedia(&'static str),
}

/// What was found in a container's headers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Look {
    /// `None` where the headers do not tell.
    pub(crate) kind: Option<Kind>,
    /// The headers tell of more bytes than there are.
    pub(crate) cut: bool,
    /// A stream cannot be decoded without a key.
    pub(crate) encrypted: bool,
}

impl Look {
    /// Of streams: a video where any is.
    fn streams(video: bool, audio: bool) -> Self {
        let kind = if video { Some(Kind::Video) } else { audio.then_some(Kind::Audio) };
        Self { kind, ..Self::default() }
    }

    fn cut(self, cut: bool) -> Self {
        Self { cut, ..self }
    }
}

impl From<Kind> for Look {
    fn from(kind: Kind) -> Self {
        Self { kind: Some(kind), ..Self::default() }
    }
}

/// Tells what a file is, by its content; its name does not matter.
///
/// # Errors
/// See [`KindError`].
pub fn kind(path: &Path) -> Result<Kind, KindError> {
    kind_of(&Source::open(path)?)
}

/// Tells what bytes in memory are.
///
/// # Errors
/// See [`KindError`].
pub fn kind_bytes(bytes: &[u8]) -> Result<Kind, KindError> {
    kind_of(&Source::bytes(bytes.to_vec())?)
}

fn kind_of(source: &Source) -> Result<Kind, KindError> {
    let io = |e: std::io::Error| KindError::Source(e.into());
    let mut reader = source.reader().map_err(io)?;
    if let Some(kind) = look(&mut reader).map_err(io)?.kind {
        return Ok(kind);
    }
    #[cfg(feature = "video")]
    if let Some(kind) = crate::ffmpeg::kind(source) {
        return Ok(kind);
    }
    let head = reader.at(0, 512).map_err(io)?;
    Err(KindError::NotMedia(if playlist(&head) { "a playlist; name the files in it" } else { looks_like(&head) }))
}

/// Whether it only names other files.
pub(crate) fn playlist(head: &[u8]) -> bool {
    let text = head.trim_ascii_start();
    [&b"#EXTM3U"[..], b"ffconcat", b"[playlist]", b"<smil", b"<MPD"].iter().any(|magic| text.starts_with(magic))
        || text.starts_with(b"<?xml") && head.windows(4).any(|w| w == b"<MPD")
}

/// Reads the headers.
pub(crate) fn look(reader: &mut Reader) -> std::io::Result<Look> {
    let head = reader.at(0, 4096)?;
    let starts = |magic: &[u8]| head.starts_with(magic);
    let brand = head.get(4..8).unwrap_or_default();
    if let Some(times) = animation::times(reader)? {
        return Ok(if times.frames() > 1 { Kind::Video.into() } else { Kind::Image.into() });
    }
    if let Some(look) = bmff::look(reader, brand)? {
        return Ok(look);
    }
    if starts(&[0x1A, 0x45, 0xDF, 0xA3]) {
        return matroska::look(reader);
    }
    if starts(b"RIFF") || starts(b"RF64") || starts(b"BW64") || starts(b"FORM") {
        return chunks::look(reader);
    }
    if starts(&chunks::ASF) {
        return chunks::asf(reader);
    }
    if starts(b"OggS") {
        return streams::ogg(reader);
    }
    if starts(b"ID3") {
        return streams::tagged(&head, reader);
    }
    if image::guess_format(&head).is_ok_and(|f| f.reading_enabled()) {
        return Ok(Kind::Image.into());
    }
    streams::bare(&head, reader)
}

/// A number of 2, 4 or 8 bytes, the most significant first.
pub(crate) fn big(bytes: &[u8], at: usize, count: usize) -> Option<u64> {
    Some(bytes.get(at..at.checked_add(count)?)?.iter().fold(0, |n, b| n << 8 | u64::from(*b)))
}

/// The same, the least significant first.
pub(crate) fn little(bytes: &[u8], at: usize, count: usize) -> Option<u64> {
    Some(bytes.get(at..at.checked_add(count)?)?.iter().rev().fold(0, |n, b| n << 8 | u64::from(*b)))
}
