//! Moving pictures: frames sampled from a video.
//!
//! Videos are sampled by seeking (with FFmpeg, the cargo feature `video`), so that what is decoded depends on the number
//! of frames and the distance of key frames, and not on the length of the video. Animated GIF, PNG and WebP come from the
//! `image` crate, in any build; they have to be decoded from their start.

pub(crate) mod animation;
mod sampling;

pub use sampling::Sampling;

use crate::kind::{self, Kind, Look};
use crate::source::{Source, SourceError};
use image::RgbImage;
use std::path::Path;

/// What is refused, and what may be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct VideoLimits {
    /// Most pixels of a frame; the default, 40 million, is above 8K.
    pub max_pixels: u64,
    /// Most frames that may be asked for; the default is 4096.
    pub max_frames: usize,
    /// Damaged packets and frames that are passed over; the default is 100.
    pub max_damaged: usize,
    /// Threads that decode; 0, the default, for as many as there are cores, but not more than 4.
    pub threads: usize,
    /// Go to each frame by the file's index, which is the default. Without, everything before a frame is decoded: for
    /// files whose index is wrong.
    pub seek: bool,
}

impl Default for VideoLimits {
    fn default() -> Self {
        Self { max_pixels: 40_000_000, max_frames: 4096, max_damaged: 100, threads: 0, seek: true }
    }
}

impl VideoLimits {
    #[cfg_attr(not(feature = "video"), allow(dead_code, reason = "only FFmpeg has threads"))]
    pub(crate) fn threads(&self) -> usize {
        let cores = || std::thread::available_parallelism().map_or(1, usize::from).min(4);
        if self.threads == 0 { cores() } else { self.threads.min(64) }
    }
}

/// What a video is.
#[derive(Clone, Debug, PartialEq)]
pub struct VideoInfo {
    /// Width of the frames as they are handed out: turned, with square pixels.
    pub width: u32,
    /// Their height.
    pub height: u32,
    /// How long it lasts.
    pub seconds: f64,
    /// Frames a second, on average, where that is known.
    pub frame_rate: Option<f64>,
    /// How many frames there are, where the file says so.
    pub frames: Option<u64>,
    /// The codec by FFmpeg's name, as `h264`, or `gif`, `apng` or `webp`.
    pub codec: String,
    /// Whether there is sound too.
    pub has_sound: bool,
}

/// One sampled frame.
#[derive(Clone, Debug, PartialEq)]
pub struct VideoFrame {
    /// The time that was asked for, in seconds from the start.
    pub time: f64,
    /// Since when the frame is shown: not after `time`, unless nothing whole is there before it.
    pub since: f64,
    /// As it is meant to be seen.
    pub image: RgbImage,
}

/// What sampling took: it tells that a long video costs no more than a short one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Packets read, of which most are only looked at.
    pub read: usize,
    /// Packets given to the decoder; of an animation, frames.
    pub decoded: usize,
    /// Damaged packets and frames that were passed over.
    pub damaged: usize,
}

/// Frames of a video.
#[derive(Clone, Debug, PartialEq)]
pub struct Sampled {
    /// In order of time, as many as were asked for.
    pub frames: Vec<VideoFrame>,
    /// What the video is.
    pub info: VideoInfo,
    /// What it took.
    pub counts: Counts,
}

/// Why a video could not be sampled. Messages do not name the file: the caller knows it.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum VideoError {
    /// It cannot be opened.
    #[error(transparent)]
    Source(#[from] SourceError),
    /// No moving pictures in it.
    #[error("there is no video in it{}", if *.sound { ", only sound" } else { "" })]
    NoVideo {
        /// There is sound.
        sound: bool,
    },
    /// A single picture.
    #[error("it is a single picture, not a video")]
    Still,
    /// It names files and holds no frames.
    #[error("it is a playlist; name the files in it")]
    Playlist,
    /// A container or codec that FFmpeg lacks here.
    #[error("its container or codec cannot be decoded here; convert it, for example to MP4 with H.264")]
    Unsupported,
    /// This build reads animated pictures only.
    #[error("this build reads no videos but animated GIF, PNG and WebP; build it with the feature `video`")]
    NoFfmpeg,
    /// DRM.
    #[error("the video is encrypted (DRM) and cannot be decoded")]
    Encrypted,
    /// The end is missing.
    #[error("the file is truncated: its end is missing; copy or download it again")]
    Truncated,
    /// No frames.
    #[error("there are no frames in the video")]
    Empty,
    /// Frames of too many pixels.
    #[error("frames of {width} x {height} pixels are more than the limit of {limit} pixels; reduce the video")]
    TooLarge {
        /// Pixels in a row.
        width: u32,
        /// Rows.
        height: u32,
        /// Pixels that are allowed.
        limit: u64,
    },
    /// An animation that would take too long to decode.
    #[error("the animation has {frames} frames of {pixels} pixels, too many to decode; convert it to a video")]
    TooLong {
        /// Frames.
        frames: usize,
        /// Pixels of each.
        pixels: u64,
    },
    /// More frames were asked for than are allowed.
    #[error("{asked} frames were asked for; between 1 and {limit} can be")]
    Count {
        /// What was asked for.
        asked: usize,
        /// What is allowed.
        limit: usize,
    },
    /// The decoder gave up.
    #[error("damaged video: {0}")]
    Damaged(String),
}

/// A frame as it comes from a decoder.
pub(crate) struct Shown {
    pub(crate) image: RgbImage,
    pub(crate) since: f64,
}

/// What opens and decodes.
enum Opened {
    Animation(animation::Animation),
    #[cfg(feature = "video")]
    Ffmpeg(Box<crate::ffmpeg::video::Video>),
}

impl Opened {
    /// Opens it, and says whether its end is missing: that matters only where frames of it are asked for.
    fn new(source: &Source, limits: &VideoLimits) -> Result<(Self, bool), VideoError> {
        let io = |e: std::io::Error| VideoError::Source(e.into());
        let mut reader = source.reader().map_err(io)?;
        if let Some(times) = animation::times(&mut reader).map_err(io)? {
            let cut = times.cut();
            return Ok((Self::Animation(animation::Animation::new(source, times, limits)?), cut));
        }
        let Look { kind, cut, encrypted } = kind::look(&mut reader).map_err(io)?;
        if encrypted {
            return Err(VideoError::Encrypted);
        }
        if kind::playlist(&reader.at(0, 512).map_err(io)?) {
            return Err(VideoError::Playlist);
        }
        match kind {
            Some(Kind::Image) => return Err(VideoError::Still),
            Some(Kind::Audio) => return Err(VideoError::NoVideo { sound: true }),
            // A container whose header is missing.
            None if cut => return Err(VideoError::Truncated),
            _ => {}
        }
        Self::with_ffmpeg(source, limits, cut)
    }

    #[cfg(feature = "video")]
    fn with_ffmpeg(source: &Source, limits: &VideoLimits, cut: bool) -> Result<(Self, bool), VideoError> {
        match crate::ffmpeg::video::Video::open(source, *limits) {
            Ok(video) => Ok((Self::Ffmpeg(Box::new(video)), cut)),
            Err(VideoError::Damaged(_) | VideoError::Unsupported) if cut => Err(VideoError::Truncated),
            Err(other) => Err(other),
        }
    }

    #[cfg(not(feature = "video"))]
    fn with_ffmpeg(_: &Source, _: &VideoLimits, _: bool) -> Result<(Self, bool), VideoError> {
        Err(VideoError::NoFfmpeg)
    }

    fn info(&self) -> &VideoInfo {
        match self {
            Self::Animation(animation) => animation.info(),
            #[cfg(feature = "video")]
            Self::Ffmpeg(video) => video.info(),
        }
    }

    fn counts(&self) -> Counts {
        match self {
            Self::Animation(animation) => animation.counts(),
            #[cfg(feature = "video")]
            Self::Ffmpeg(video) => video.counts(),
        }
    }

    fn frames(
        &mut self,
        times: &[f64],
        each: &mut dyn FnMut(usize, Shown) -> Result<(), VideoError>,
    ) -> Result<Option<f64>, VideoError> {
        match self {
            Self::Animation(animation) => animation.frames(times, each).map(|()| None),
            #[cfg(feature = "video")]
            Self::Ffmpeg(video) => video.frames(times, each),
        }
    }
}

/// Tells what a video is, without decoding more than FFmpeg needs for that.
///
/// # Errors
/// See [`VideoError`].
pub fn probe(path: &Path, limits: &VideoLimits) -> Result<VideoInfo, VideoError> {
    Ok(Opened::new(&Source::open(path)?, limits)?.0.info().clone())
}

/// Samples `count` frames of a video.
///
/// # Errors
/// See [`VideoError`].
pub fn sample(path: &Path, count: usize, sampling: Sampling, limits: &VideoLimits) -> Result<Sampled, VideoError> {
    sample_source(&Source::open(path)?, count, sampling, limits)
}

/// Samples `count` frames of a video in memory.
///
/// # Errors
/// See [`VideoError`].
pub fn sample_bytes(
    bytes: &[u8],
    count: usize,
    sampling: Sampling,
    limits: &VideoLimits,
) -> Result<Sampled, VideoError> {
    sample_source(&Source::bytes(bytes.to_vec())?, count, sampling, limits)
}

fn sample_source(
    source: &Source,
    count: usize,
    sampling: Sampling,
    limits: &VideoLimits,
) -> Result<Sampled, VideoError> {
    counted(count, limits)?;
    let (mut opened, cut) = Opened::new(source, limits)?;
    let mut info = opened.info().clone();
    // Of a file that is cut, a length may be that of what is left.
    if let (true, Some(frames), Some(rate)) = (cut, info.frames, info.frame_rate) {
        info.seconds = info.seconds.max(frames as f64 / rate);
    }
    // A second time with the length that was found, where the file told a wrong one.
    for attempt in 0..2 {
        let times = sampling.times(count, info.seconds, info.frame_rate);
        let mut frames = Vec::with_capacity(count);
        let ended = opened.frames(&times, &mut |i, shown| {
            frames.push(VideoFrame { time: times[i], since: shown.since, image: shown.image });
            Ok(())
        })?;
        match ended {
            Some(_) if cut || attempt > 0 => return Err(VideoError::Truncated),
            Some(seconds) => info.seconds = seconds,
            None => return Ok(Sampled { frames, info, counts: opened.counts() }),
        }
    }
    Err(VideoError::Truncated)
}

/// The frames shown at given times, in seconds from the start, which may come in any order; beyond the end it is the
/// last frame.
///
/// # Errors
/// See [`VideoError`].
pub fn frames_at(path: &Path, times: &[f64], limits: &VideoLimits) -> Result<Sampled, VideoError> {
    counted(times.len(), limits)?;
    let (mut opened, cut) = Opened::new(&Source::open(path)?, limits)?;
    let info = opened.info().clone();
    let mut order: Vec<usize> = (0..times.len()).collect();
    order.sort_by(|a, b| times[*a].total_cmp(&times[*b]));
    // Streams' lengths are estimates in some containers, and may be a little short.
    let mut end = if cut { f64::INFINITY } else { info.seconds + 0.9 };
    // A second time with the length that was found, where the file told a wrong one.
    for _ in 0..2 {
        let within = |t: f64| if t.is_finite() { t.clamp(0.0, end) } else { 0.0 };
        let sorted: Vec<f64> = order.iter().map(|i| within(times[*i])).collect();
        let mut frames: Vec<Option<VideoFrame>> = vec![None; times.len()];
        let ended = opened.frames(&sorted, &mut |i, shown| {
            let at = order[i];
            frames[at] = Some(VideoFrame { time: times[at], since: shown.since, image: shown.image });
            Ok(())
        })?;
        match ended {
            Some(_) if cut => break,
            Some(seconds) => end = seconds,
            None => {
                let frames: Vec<VideoFrame> = frames.into_iter().flatten().collect();
                return Ok(Sampled { frames, info, counts: opened.counts() });
            }
        }
    }
    Err(VideoError::Truncated)
}

fn counted(asked: usize, limits: &VideoLimits) -> Result<(), VideoError> {
    let limit = limits.max_frames;
    if (1..=limit).contains(&asked) { Ok(()) } else { Err(VideoError::Count { asked, limit }) }
}
