//! Sound: any file to one channel of samples, whole or in windows that are seeked to.
//!
//! Symphonia decodes WAV, FLAC, MP3, AAC and ALAC in M4A, Ogg Vorbis, AIFF, CAF and Matroska; FFmpeg, in builds with the
//! cargo feature `video`, what Symphonia cannot: Opus, AMR, WMA, AC-3, HE-AAC, and the sound of any video. Channels are
//! averaged, as `librosa.to_mono` and `torchaudio`'s `mean(dim=0)` do.

mod resample;
mod symphonia;
mod windows;

pub use resample::Filter;
pub use windows::{clip_starts, window_starts};

use crate::kind;
use crate::source::{Source, SourceError};
use std::path::Path;

/// The fastest sampling that is read, in Hz.
pub(crate) const MOST_RATE: u32 = 1_536_000;
/// Seconds of silence that are decoded over to come to a window, rather than to seek.
const NEAR: f64 = 2.0;
/// Seconds before a window at which decoding begins: codecs need what came before to be right.
const RUN_UP: f64 = 0.25;

/// One channel of samples, nominally within -1 to 1.
#[derive(Clone, Debug, PartialEq)]
pub struct Audio {
    /// The samples.
    pub samples: Vec<f32>,
    /// Samples a second.
    pub sample_rate: u32,
}

impl Audio {
    /// How long it lasts.
    pub fn seconds(&self) -> f64 {
        self.samples.len() as f64 / f64::from(self.sample_rate)
    }

    /// At another rate; `len * rate / sample_rate` samples, rounded up.
    ///
    /// # Errors
    /// [`AudioError::Rate`] if the new rate is 0, absurd, or a 4096th of the old one.
    pub fn resample(&self, rate: u32, filter: Filter) -> Result<Self, AudioError> {
        if rate == 0 || rate > MOST_RATE || self.sample_rate / rate > resample::MOST_REDUCED {
            return Err(AudioError::Rate(rate));
        }
        let samples = resample::resample(&self.samples, self.sample_rate, rate, filter);
        Ok(Self { samples, sample_rate: rate })
    }
}

/// What is read of a file, and how.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct ReadOptions {
    /// Seconds from the start.
    pub start: f64,
    /// How many seconds; `None` for all that follow.
    pub seconds: Option<f64>,
    /// The rate to bring it to; `None` for the file's own.
    pub sample_rate: Option<u32>,
    /// How it is brought there.
    pub filter: Filter,
    /// Most seconds that are read at once; the default, 600, is 115 MB at 48 kHz.
    pub max_seconds: f64,
}

impl Default for ReadOptions {
    fn default() -> Self {
        Self { start: 0.0, seconds: None, sample_rate: None, filter: Filter::default(), max_seconds: 600.0 }
    }
}

/// What a sound is.
#[derive(Clone, Debug, PartialEq)]
pub struct AudioInfo {
    /// The file's own rate, in Hz.
    pub sample_rate: u32,
    /// Channels before they are averaged.
    pub channels: usize,
    /// How long it lasts, where the file says so.
    pub seconds: Option<f64>,
    /// What decodes it: `symphonia` or `ffmpeg`.
    pub decoder: &'static str,
}

/// Why a sound could not be read. Messages do not name the file: the caller knows it.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum AudioError {
    /// It cannot be opened.
    #[error(transparent)]
    Source(#[from] SourceError),
    /// No sound in it.
    #[error("there is no sound in it")]
    NoAudio,
    /// It names files and holds no sound.
    #[error("it is a playlist; name the files in it")]
    Playlist,
    /// A container or codec that is not read.
    #[error("its container or codec cannot be decoded here{}; convert it, for example to FLAC",
            if cfg!(feature = "video") { "" } else { " (this build is without FFmpeg)" })]
    Unsupported,
    /// DRM.
    #[error("the sound is encrypted (DRM) and cannot be decoded")]
    Encrypted,
    /// The end is missing.
    #[error("the file is truncated: its end is missing; copy or download it again")]
    Truncated,
    /// A stream without samples.
    #[error("the sound has no samples")]
    Empty,
    /// A rate that is none.
    #[error("a sample rate of {0} Hz is none; it must be between 1 and {MOST_RATE}")]
    Rate(u32),
    /// Samples that are not numbers.
    #[error("the sample at {seconds:.3} s is not a number")]
    NotFinite {
        /// Where the first one is.
        seconds: f64,
    },
    /// More than is to be read at once.
    #[error("it lasts {} s, more than the {limit} s that are read at once; read it in windows or clips",
            seconds.map_or_else(|| "longer".into(), |s| format!("{s:.0}")))]
    TooLong {
        /// How long it is, where the file says so.
        seconds: Option<f64>,
        /// What is allowed.
        limit: f64,
    },
    /// A window that is not there.
    #[error("there is nothing at {start:.3} s: the sound lasts {seconds:.3} s")]
    Beyond {
        /// Where it was to begin.
        start: f64,
        /// How long the sound is.
        seconds: f64,
    },
    /// A start or length that makes no sense.
    #[error("a window of {seconds} s at {start} s is none")]
    Window {
        /// Its start.
        start: f64,
        /// Its length.
        seconds: f64,
    },
    /// The decoder gave up.
    #[error("damaged sound: {0}")]
    Damaged(String),
}

/// A decoder: mono blocks in order.
pub(crate) trait Blocks: Send {
    fn info(&self) -> &AudioInfo;

    /// Samples that the header promises, where it is known to keep its word.
    fn promised(&self) -> Option<u64> {
        None
    }

    /// Goes to a block at or before a time.
    fn seek(&mut self, seconds: f64) -> Result<(), AudioError>;

    /// Appends the next block's samples; where its first one belongs, as a number of samples from the start. `None` at
    /// the end.
    fn next(&mut self, out: &mut Vec<f32>) -> Result<Option<i64>, AudioError>;
}

/// Averages frames of interleaved channels.
pub(crate) fn to_mono(interleaved: &[f32], channels: usize, out: &mut Vec<f32>) {
    match channels {
        0 => {}
        1 => out.extend_from_slice(interleaved),
        n => out.extend(interleaved.chunks_exact(n).map(|frame| frame.iter().sum::<f32>() / n as f32)),
    }
}

/// An open sound, of which windows are read.
pub struct AudioFile {
    source: Source,
    blocks: Box<dyn Blocks>,
    info: AudioInfo,
    cut: bool,
    /// Decoded and not used yet, and where its first sample belongs.
    pending: Vec<f32>,
    at: i64,
    /// Where the decoder says that the first sample belongs: what came before it was cut off.
    origin: i64,
    /// The end was reached there.
    end: Option<i64>,
}

impl AudioFile {
    /// Opens a file.
    ///
    /// # Errors
    /// See [`AudioError`].
    pub fn open(path: &Path) -> Result<Self, AudioError> {
        Self::of(&Source::open(path)?)
    }

    /// Opens bytes in memory.
    ///
    /// # Errors
    /// See [`AudioError`].
    pub fn from_bytes(bytes: Vec<u8>) -> Result<Self, AudioError> {
        Self::of(&Source::bytes(bytes)?)
    }

    fn of(source: &Source) -> Result<Self, AudioError> {
        let io = |e: std::io::Error| AudioError::Source(e.into());
        let mut reader = source.reader().map_err(io)?;
        let look = kind::look(&mut reader).map_err(io)?;
        if look.encrypted {
            return Err(AudioError::Encrypted);
        }
        if kind::playlist(&reader.at(0, 512).map_err(io)?) {
            return Err(AudioError::Playlist);
        }
        match look.kind {
            Some(kind::Kind::Image) => return Err(AudioError::NoAudio),
            None if look.cut => return Err(AudioError::Truncated),
            _ => {}
        }
        drop(reader);
        let mut pending = Vec::new();
        let (blocks, at) = open(source, &mut pending, look.cut)?;
        let info = blocks.info().clone();
        let end = if at.is_none() { Some(0) } else { None };
        let source = source.clone();
        Ok(Self { source, blocks, info, cut: look.cut, pending, at: 0, origin: at.unwrap_or(0), end })
    }

    /// What it is.
    pub fn info(&self) -> &AudioInfo {
        &self.info
    }

    /// How long it is in samples at its own rate; where the file does not say, that is found by decoding it through.
    fn length(&mut self) -> Result<i64, AudioError> {
        if let Some(end) = self.end {
            return Ok(end);
        }
        if let Some(seconds) = self.info.seconds {
            return Ok((seconds * f64::from(self.info.sample_rate)).round() as i64);
        }
        while self.more()? {
            let keep = self.pending.len();
            self.at += keep as i64;
            self.pending.clear();
        }
        Ok(self.end.unwrap_or(self.at))
    }

    /// How long it lasts, in seconds; where the file does not say, that is found by decoding it through.
    ///
    /// # Errors
    /// See [`AudioError`].
    pub fn seconds(&mut self) -> Result<f64, AudioError> {
        Ok(self.length()? as f64 / f64::from(self.info.sample_rate))
    }

    /// Decodes a block more; `false` at the end.
    fn more(&mut self) -> Result<bool, AudioError> {
        let before = self.pending.len();
        let Some(at) = self.blocks.next(&mut self.pending)? else {
            self.end = Some(self.at + self.pending.len() as i64);
            return Ok(false);
        };
        if before == 0 && self.at < 0 {
            self.at = (at - self.origin).max(0);
        }
        Ok(true)
    }

    /// Samples from `start` on, `count` of them or all, at the file's own rate; fewer at the end.
    fn samples(&mut self, start: i64, count: Option<usize>, most: usize) -> Result<Vec<f32>, AudioError> {
        let rate = f64::from(self.info.sample_rate);
        let here = self.at + self.pending.len() as i64;
        if start < self.at || (start - here) as f64 > NEAR * rate {
            self.pending.clear();
            self.end = None;
            let from = start as f64 / rate - RUN_UP;
            if from > 0.0 {
                self.blocks.seek(from)?;
                // The first block tells.
                self.at = -1;
            } else {
                // Decoders begin otherwise after a seek than at the start.
                let (blocks, at) = open(&self.source, &mut self.pending, self.cut)?;
                (self.blocks, self.at, self.origin) = (blocks, 0, at.unwrap_or(0));
            }
        }
        let mut out: Vec<f32> = Vec::new();
        loop {
            // What is before the window is let go, what is in it is taken.
            if self.at >= 0 {
                let skip = usize::try_from(start + out.len() as i64 - self.at).unwrap_or(0).min(self.pending.len());
                let room = count.map_or(usize::MAX, |c| c - out.len());
                let take = (self.pending.len() - skip).min(room);
                out.extend_from_slice(&self.pending[skip..skip + take]);
                // Of the last block the rest is kept for the next window.
                let used = if count == Some(out.len()) { skip + take } else { self.pending.len() };
                self.pending.drain(..used);
                self.at += used as i64;
            }
            if count == Some(out.len()) {
                break;
            }
            if out.len() > most {
                return Err(self.too_long(most));
            }
            if !self.more()? {
                break;
            }
        }
        if let Some(i) = out.iter().position(|s| !s.is_finite()) {
            return Err(AudioError::NotFinite { seconds: (start + i as i64) as f64 / rate });
        }
        Ok(out)
    }

    fn too_long(&self, most: usize) -> AudioError {
        AudioError::TooLong { seconds: self.info.seconds, limit: most as f64 / f64::from(self.info.sample_rate) }
    }

    /// Reads what the options say: a window is seeked to, and only it is decoded. Resampled windows are those of the
    /// resampled whole.
    ///
    /// # Errors
    /// See [`AudioError`].
    pub fn read(&mut self, options: &ReadOptions) -> Result<Audio, AudioError> {
        let &ReadOptions { start, seconds, sample_rate, filter, max_seconds } = options;
        let rate = self.info.sample_rate;
        let to = sample_rate.unwrap_or(rate);
        if to == 0 || to > MOST_RATE {
            return Err(AudioError::Rate(to));
        }
        let length = seconds.unwrap_or(0.0);
        if !(start.is_finite() && start >= 0.0 && length.is_finite() && length >= 0.0 && start < 1e9) {
            return Err(AudioError::Window { start, seconds: length });
        }
        if length > max_seconds {
            return Err(AudioError::TooLong { seconds, limit: max_seconds });
        }
        let left = self.info.seconds.map(|s| s - start).filter(|s| seconds.is_none() && *s > max_seconds + 1.0);
        if left.is_some() {
            return Err(AudioError::TooLong { seconds: self.info.seconds, limit: max_seconds });
        }
        let most = (max_seconds.min(1e6) * f64::from(rate)) as usize + 1;
        let audio = self.window(start, seconds, (to, filter), most)?;
        if audio.samples.is_empty() && seconds != Some(0.0) {
            let seconds = self.seconds()?;
            return Err(if seconds > 0.0 { AudioError::Beyond { start, seconds } } else { AudioError::Empty });
        }
        Ok(audio)
    }

    /// A window at a rate: with room on both sides for the filter, and on the grid of the resampled whole.
    fn window(
        &mut self,
        start: f64,
        seconds: Option<f64>,
        (to, filter): (u32, Filter),
        most: usize,
    ) -> Result<Audio, AudioError> {
        let rate = self.info.sample_rate;
        let (up, down) = resample::ratio(rate, to);
        let margin = if to == rate { 0 } else { filter.reach(rate, to) as i64 + 1 };
        let first_out = (start * f64::from(to)).round() as i64;
        let count_out = seconds.map(|s| (s * f64::from(to)).round() as i64);
        // The source sample at or before, on the common grid.
        let (up, down) = (i64::from(up), i64::from(down));
        let from = first_out.saturating_mul(down) / up;
        let begin = (from - margin).max(0) / down * down;
        let count = count_out.map(|n| (n.saturating_mul(down) / up + from - begin + margin + 2) as usize);
        let samples = self.samples(begin, count, most)?;
        let whole = count.is_none_or(|c| samples.len() < c);
        let short = self.blocks.promised().is_some_and(|n| self.end.is_some_and(|end| end < n as i64));
        if whole && (self.cut || short) {
            return Err(AudioError::Truncated);
        }
        let total = samples.len();
        let resampled = Audio { samples, sample_rate: rate }.resample(to, filter)?.samples;
        let skip = usize::try_from(first_out - begin / down * up).unwrap_or(0).min(resampled.len());
        let most_out = count_out.map_or(usize::MAX, |n| usize::try_from(n).unwrap_or(0));
        // Beyond the end there is nothing, and not what the filter rings.
        let available = if (total as i64) <= from - begin { 0 } else { resampled.len() - skip };
        let samples = resampled[skip..skip + available.min(most_out)].to_vec();
        Ok(Audio { samples, sample_rate: to })
    }

    /// Clips of `seconds` at equal steps, the first at the start and the last at the end, as pytorchvideo's
    /// `ConstantClipsPerVideoSampler` takes them (which ImageBind's reference uses); see [`clip_starts`]. Of a shorter
    /// sound every clip is all of it. Only the clips are decoded.
    ///
    /// # Errors
    /// See [`AudioError`].
    pub fn clips(&mut self, count: usize, seconds: f64, options: &ReadOptions) -> Result<Vec<Audio>, AudioError> {
        let starts = clip_starts(self.seconds()?, count, seconds);
        let mut read = |start: f64| self.read(&ReadOptions { start, seconds: Some(seconds), ..*options });
        starts.into_iter().map(&mut read).collect()
    }
}

/// Opens with what can decode it, and decodes the first block.
fn open(source: &Source, first: &mut Vec<f32>, cut: bool) -> Result<(Box<dyn Blocks>, Option<i64>), AudioError> {
    let attempt = |blocks: Result<Box<dyn Blocks>, AudioError>, first: &mut Vec<f32>| {
        let mut blocks = blocks?;
        first.clear();
        let at = blocks.next(first)?;
        Ok((blocks, at))
    };
    // Symphonia searches what it does not know for anything that looks like MPEG audio, and finds some in noise.
    let ours =
        if symphonia::knows(source) { attempt(symphonia::open(source), first) } else { Err(AudioError::Unsupported) };
    #[cfg(feature = "video")]
    let ours = match ours {
        Err(problem) => match attempt(crate::ffmpeg::audio::open(source), first) {
            Ok(opened) => Ok(opened),
            // A film without sound, of whose pictures Symphonia does not know enough to pass over them.
            Err(AudioError::NoAudio) if !cut => Err(AudioError::NoAudio),
            // It knows more formats, and Symphonia more of those that both know.
            Err(theirs) if matches!(problem, AudioError::Unsupported | AudioError::NoAudio) => Err(theirs),
            Err(_) => Err(problem),
        },
        opened => opened,
    };
    match ours {
        Err(AudioError::Damaged(_)) if cut => Err(AudioError::Truncated),
        Ok((_, None)) if cut => Err(AudioError::Truncated),
        Ok((_, None)) => Err(AudioError::Empty),
        other => other,
    }
}

/// Reads a file, or a window of it.
///
/// # Errors
/// See [`AudioError`].
pub fn read(path: &Path, options: &ReadOptions) -> Result<Audio, AudioError> {
    AudioFile::open(path)?.read(options)
}

/// Reads bytes in memory, or a window of them.
///
/// # Errors
/// See [`AudioError`].
pub fn read_bytes(bytes: Vec<u8>, options: &ReadOptions) -> Result<Audio, AudioError> {
    AudioFile::from_bytes(bytes)?.read(options)
}
