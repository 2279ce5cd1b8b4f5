//! Animated GIF, PNG and WebP, through the `image` crate: FFmpeg 5.1 cannot decode the last of them. Frames build on one
//! another, so they are decoded from the first on; their times are read beforehand, without decoding.

use super::{Counts, Shown, VideoError, VideoInfo, VideoLimits};
use crate::image::decode::over_white;
use crate::source::{Reader, Source};
use image::codecs::gif::GifDecoder;
use image::codecs::png::PngDecoder;
use image::codecs::webp::WebPDecoder;
use image::{AnimationDecoder, ImageDecoder, ImageResult, Limits};
use std::io::{BufRead, BufReader, Read, Result, Seek, SeekFrom};

/// Frames beyond which an animation is not read on.
const MOST_FRAMES: usize = 100_000;
/// Pixels of all frames together that may be decoded: a minute's work.
const MOST_DECODED: u64 = 1 << 33;
/// Delays below this many milliseconds are shown as [`DEFAULT_DELAY`], as browsers and FFmpeg do.
const LEAST_DELAY: u64 = 20;
const DEFAULT_DELAY: u64 = 100;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Format {
    Gif,
    Png,
    WebP,
}

/// When the frames of an animation end.
#[derive(Clone, Debug)]
pub(crate) struct Times {
    format: Format,
    size: (u32, u32),
    /// Milliseconds from the start at which each frame is followed by the next.
    ends: Vec<u64>,
    /// The end of the file comes before the end of the picture.
    cut: bool,
}

impl Times {
    pub(crate) fn frames(&self) -> usize {
        self.ends.len()
    }

    pub(crate) fn cut(&self) -> bool {
        self.cut
    }

    fn push(&mut self, delay: u64, least: u64) {
        let delay = if delay < least { DEFAULT_DELAY } else { delay };
        let before = self.ends.last().copied().unwrap_or_default();
        self.ends.push(before + delay);
    }

    /// The frame shown at a time.
    fn at(&self, seconds: f64) -> usize {
        // A time on the edge belongs to the frame that begins there.
        let millis = (seconds * 1000.0 + 1e-6) as u64;
        self.ends.partition_point(|end| *end <= millis).min(self.frames().saturating_sub(1))
    }

    fn since(&self, frame: usize) -> f64 {
        frame.checked_sub(1).and_then(|i| self.ends.get(i)).copied().unwrap_or_default() as f64 / 1000.0
    }
}

/// Reads the times of a GIF, PNG or WebP; a single picture has one frame. `None` for any other file.
pub(crate) fn times(reader: &mut Reader) -> Result<Option<Times>> {
    let head = reader.at(0, 32)?;
    let of = |format, size| Times { format, size, ends: vec![], cut: false };
    let number = |at: usize, n: usize| crate::kind::little(&head, at, n).unwrap_or_default() as u32;
    if head.starts_with(b"GIF87a") || head.starts_with(b"GIF89a") {
        let mut times = of(Format::Gif, (number(6, 2), number(8, 2)));
        reader.seek(SeekFrom::Start(0))?;
        times.cut = gif(&mut BufReader::new(reader), &mut times)?.is_none();
        return Ok(Some(times));
    }
    if head.starts_with(b"\x89PNG\r\n\x1a\n") {
        let side = |at| crate::kind::big(&head, at, 4).unwrap_or_default() as u32;
        let mut times = of(Format::Png, (side(16), side(20)));
        png(reader, &mut times)?;
        return Ok(Some(times));
    }
    if head.starts_with(b"RIFF") && head.get(8..12) == Some(b"WEBP") {
        let animated = head.get(12..16) == Some(b"VP8X") && head.get(20).is_some_and(|flags| flags & 2 != 0);
        let mut times = of(Format::WebP, (number(24, 3) + 1, number(27, 3) + 1));
        if animated {
            webp(reader, &mut times)?;
        } else {
            times.push(0, LEAST_DELAY);
        }
        return Ok(Some(times));
    }
    Ok(None)
}

/// GIF89a: blocks of sub-blocks. `None` where the file ends before the trailer.
fn gif(from: &mut (impl BufRead + Seek), times: &mut Times) -> Result<Option<()>> {
    fn take<const N: usize>(from: &mut impl Read) -> Result<Option<[u8; N]>> {
        let mut bytes = [0; N];
        match from.read_exact(&mut bytes) {
            Ok(()) => Ok(Some(bytes)),
            Err(e) if e.kind() == std::io::ErrorKind::UnexpectedEof => Ok(None),
            Err(e) => Err(e),
        }
    }
    fn pass(from: &mut impl BufRead, mut count: usize) -> Result<()> {
        while count > 0 {
            let step = from.fill_buf()?.len().min(count);
            if step == 0 {
                break;
            }
            from.consume(step);
            count -= step;
        }
        Ok(())
    }
    fn blocks(from: &mut impl BufRead) -> Result<Option<()>> {
        loop {
            match take::<1>(from)? {
                None => return Ok(None),
                Some([0]) => return Ok(Some(())),
                Some([size]) => pass(from, usize::from(size))?,
            }
        }
    }
    let table = |flags: u8| if flags & 0x80 != 0 { 3 << ((flags & 7) + 1) } else { 0 };
    let Some(head) = take::<13>(from)? else { return Ok(None) };
    pass(from, table(head[10]))?;
    let mut delay = 0;
    while times.frames() < MOST_FRAMES {
        match take::<1>(from)? {
            None => return Ok(None),
            Some([0x21]) => {
                let Some([label]) = take::<1>(from)? else { return Ok(None) };
                if label == 0xF9 {
                    let Some(control) = take::<5>(from)? else { return Ok(None) };
                    delay = u64::from(u16::from_le_bytes([control[2], control[3]])) * 10;
                    pass(from, usize::from(control[0]).saturating_sub(4))?;
                }
                if blocks(from)?.is_none() {
                    return Ok(None);
                }
            }
            Some([0x2C]) => {
                let Some(picture) = take::<9>(from)? else { return Ok(None) };
                pass(from, table(picture[8]) + 1)?;
                if blocks(from)?.is_none() {
                    return Ok(None);
                }
                times.push(delay, LEAST_DELAY);
                delay = 0;
            }
            // The trailer, or bytes that are none of it: decoders stop here too.
            Some(_) => break,
        }
    }
    Ok(Some(()))
}

/// PNG: chunks, of which `acTL` says that it is an animation and `fcTL` begins each of its frames.
fn png(reader: &mut Reader, times: &mut Times) -> Result<()> {
    let (mut at, mut animated, mut ended, mut sound) = (8, false, false, true);
    while times.frames() < MOST_FRAMES && !ended {
        let bytes = reader.at(at, 8 + 26)?;
        let (Some(size), Some(name)) = (crate::kind::big(&bytes, 0, 4), bytes.get(4..8)) else { break };
        match name {
            b"acTL" => animated = true,
            // Nothing to be found behind it: a single picture has the control before its data.
            b"IDAT" if !animated => ended = true,
            b"fcTL" if animated => {
                let number = |at: usize| crate::kind::big(&bytes, 8 + at, 2).unwrap_or_default();
                let (over, under) = (number(20), number(22));
                times.push(over * 1000 / if under == 0 { 100 } else { under }, 1);
            }
            b"PLTE" => sound &= crate::image::decode::palette_fits(size),
            b"IEND" => ended = true,
            _ => {}
        }
        at += 12 + size;
    }
    times.cut = animated && (!ended || !sound || at > reader.length());
    if times.frames() == 0 {
        times.push(0, LEAST_DELAY);
    }
    Ok(())
}

/// WebP: chunks of RIFF, of which `ANMF` holds a frame.
fn webp(reader: &mut Reader, times: &mut Times) -> Result<()> {
    let size = crate::kind::little(&reader.at(4, 4)?, 0, 4).unwrap_or_default();
    times.cut = size + 8 > reader.length() + 1;
    let mut at = 12;
    while times.frames() < MOST_FRAMES {
        let bytes = reader.at(at, 8 + 16)?;
        let (Some(name), Some(size)) = (bytes.get(..4), crate::kind::little(&bytes, 4, 4)) else { break };
        if name == b"ANMF" {
            times.push(crate::kind::little(&bytes, 8 + 12, 3).unwrap_or_default(), LEAST_DELAY);
        }
        at += 8 + size + size % 2;
    }
    Ok(())
}

/// An animation that is going to be sampled.
pub(crate) struct Animation {
    source: Source,
    times: Times,
    info: VideoInfo,
    counts: Counts,
}

impl Animation {
    pub(crate) fn new(source: &Source, times: Times, limits: &VideoLimits) -> std::result::Result<Self, VideoError> {
        let (width, height) = times.size;
        let (frames, pixels) = (times.frames(), u64::from(width) * u64::from(height));
        if times.cut {
            return Err(VideoError::Truncated);
        }
        match frames {
            0 => return Err(VideoError::Empty),
            1 => return Err(VideoError::Still),
            _ => {}
        }
        if pixels > limits.max_pixels {
            return Err(VideoError::TooLarge { width, height, limit: limits.max_pixels });
        }
        if pixels.saturating_mul(frames as u64) > MOST_DECODED {
            return Err(VideoError::TooLong { frames, pixels });
        }
        let seconds = times.ends.last().copied().unwrap_or_default() as f64 / 1000.0;
        let codec = match times.format {
            Format::Gif => "gif",
            Format::Png => "apng",
            Format::WebP => "webp",
        };
        let info = VideoInfo {
            width,
            height,
            seconds,
            frame_rate: Some(frames as f64 / seconds),
            frames: Some(frames as u64),
            codec: codec.into(),
            has_sound: false,
        };
        Ok(Self { source: source.clone(), times, info, counts: Counts::default() })
    }

    pub(crate) fn info(&self) -> &VideoInfo {
        &self.info
    }

    pub(crate) fn counts(&self) -> Counts {
        self.counts
    }

    /// The composed frames, one by one.
    fn decode(&self) -> ImageResult<image::Frames<'_>> {
        let reader = self.source.reader().map_err(image::ImageError::IoError)?;
        let from = BufReader::new(reader);
        let mut limits = Limits::no_limits();
        let pixels = u64::from(self.times.size.0) * u64::from(self.times.size.1);
        // A canvas, a frame and a copy of each in RGBA, and room for tables.
        limits.max_alloc = Some((64 << 20) + pixels * 16);
        Ok(match self.times.format {
            Format::Gif => {
                let mut decoder = GifDecoder::new(from)?;
                decoder.set_limits(limits)?;
                decoder.into_frames()
            }
            Format::Png => PngDecoder::with_limits(from, limits)?.apng()?.into_frames(),
            Format::WebP => {
                let mut decoder = WebPDecoder::new(from)?;
                decoder.set_limits(limits)?;
                decoder.into_frames()
            }
        })
    }

    /// Calls `each` with the frame shown at every time; the times must ascend.
    pub(crate) fn frames(
        &mut self,
        times: &[f64],
        each: &mut dyn FnMut(usize, Shown) -> std::result::Result<(), VideoError>,
    ) -> std::result::Result<(), VideoError> {
        let damaged = |e: &dyn std::fmt::Display| {
            let words = e.to_string();
            VideoError::Damaged(words.split_whitespace().collect::<Vec<_>>().join(" "))
        };
        let mut decoded = 0;
        let mut frames = self.decode().map_err(|e| damaged(&e))?;
        let mut next: Option<image::Frame> = None;
        for (i, time) in times.iter().enumerate() {
            let wanted = self.times.at(*time);
            while decoded <= wanted {
                next = match frames.next() {
                    Some(frame) => Some(frame.map_err(|e| damaged(&e))?),
                    None => return Err(VideoError::Truncated),
                };
                decoded += 1;
            }
            let Some(frame) = &next else { return Err(VideoError::Truncated) };
            each(i, Shown { image: over_white(frame.buffer()), since: self.times.since(wanted) })?;
        }
        drop(frames);
        self.counts.decoded += decoded;
        self.counts.read += decoded;
        Ok(())
    }
}
