//! Sounds through FFmpeg.

use super::decoder::{Decoder, Frame, Got};
use super::{Problem, best, next_packet, only, open as open_input, seek, stream};
use crate::audio::{AudioError, AudioInfo, Blocks, MOST_RATE, to_mono};
use crate::source::Source;
use ffmpeg_next::format::context::Input;
use ffmpeg_next::{Packet, ffi};

/// Damaged packets that are passed over.
const MOST_DAMAGED: usize = 100;
/// Channels beyond which there is a mistake.
const MOST_CHANNELS: i32 = 64;
/// Pictures in a sound's file are not decoded, except for what they are.
const COVER_PIXELS: u64 = 1 << 26;

struct Reading {
    source: Source,
    input: Input,
    decoder: Decoder,
    index: usize,
    info: AudioInfo,
    unit: f64,
    /// When the first sample is heard, in units.
    start: i64,
    interleaved: Vec<f32>,
    damaged: usize,
    drained: bool,
    /// Decoded when it was opened.
    first: Option<(i64, Vec<f32>)>,
}

impl From<Problem> for AudioError {
    fn from(problem: Problem) -> Self {
        match problem {
            Problem::Io(e) => Self::Source(e.into()),
            Problem::Unsupported => Self::Unsupported,
            Problem::Ended => Self::Truncated,
            Problem::Damaged(what) => Self::Damaged(what),
        }
    }
}

pub(crate) fn open(source: &Source) -> Result<Box<dyn Blocks>, AudioError> {
    let mut input = open_input(source, COVER_PIXELS)?;
    let index = best(&mut input, ffi::AVMediaType::AVMEDIA_TYPE_AUDIO).ok_or(AudioError::NoAudio)?;
    // SAFETY: the index is that of a stream, and its parameters are there as long as it is.
    let (base, start, duration, rate) = unsafe {
        let stream = stream(&mut input, index);
        ((*stream).time_base, (*stream).start_time, (*stream).duration, (*(*stream).codecpar).sample_rate)
    };
    let sample_rate = u32::try_from(rate).unwrap_or(0);
    if sample_rate == 0 || sample_rate > MOST_RATE {
        return Err(AudioError::Rate(sample_rate));
    }
    if base.num <= 0 || base.den <= 0 {
        return Err(AudioError::Damaged("its times have no unit".into()));
    }
    let unit = f64::from(base.num) / f64::from(base.den);
    let whole = input.duration();
    let seconds = if duration > 0 { duration as f64 * unit } else { whole as f64 / 1e6 };
    let decoder = Decoder::new(&mut input, index, 1, COVER_PIXELS)?;
    only(&mut input, index);
    let start = if start == ffi::AV_NOPTS_VALUE { 0 } else { start };
    let info = AudioInfo {
        sample_rate,
        channels: 0,
        seconds: (seconds.is_finite() && seconds > 0.0).then_some(seconds),
        decoder: "ffmpeg",
    };
    let source = source.clone();
    let mut reading = Reading {
        source,
        input,
        decoder,
        index,
        info,
        unit,
        start,
        interleaved: vec![],
        damaged: 0,
        drained: false,
        first: None,
    };
    // The number of channels is what the decoder makes of it.
    let mut block = Vec::new();
    let at = reading.next(&mut block)?.ok_or(AudioError::Empty)?;
    // Codecs' own lead-in is cut off, after the time at which the stream is said to begin.
    let lead = at as f64 / f64::from(reading.info.sample_rate) / reading.unit;
    reading.start = reading.start.saturating_add(lead.round() as i64);
    reading.first = Some((0, block));
    Ok(Box::new(reading))
}

/// Samples of a frame as interleaved floats: integers over their range, as all decoders to floats do it.
fn interleave(frame: &Frame, channels: usize, out: &mut Vec<f32>) -> Result<(), AudioError> {
    use ffi::AVSampleFormat as F;
    // SAFETY: the frame is owned and holds sound.
    let (format, count) = unsafe { ((*frame.raw).format, usize::try_from((*frame.raw).nb_samples).unwrap_or(0)) };
    let planar = [
        F::AV_SAMPLE_FMT_U8P,
        F::AV_SAMPLE_FMT_S16P,
        F::AV_SAMPLE_FMT_S32P,
        F::AV_SAMPLE_FMT_FLTP,
        F::AV_SAMPLE_FMT_DBLP,
        F::AV_SAMPLE_FMT_S64P,
    ]
    .iter()
    .any(|f| *f as i32 == format);
    out.clear();
    out.resize(count * channels, 0.0);
    /// # Safety
    /// The frame must hold samples of this type: in so many planes, or in one.
    unsafe fn copy<T: Copy>(
        frame: &Frame,
        (channels, count): (usize, usize),
        planar: bool,
        out: &mut [f32],
        to: impl Fn(T) -> f32,
    ) {
        // SAFETY: by the caller; `extended_data` has a pointer for every plane.
        unsafe {
            let planes = (*frame.raw).extended_data;
            if planar {
                for c in 0..channels {
                    let plane = std::slice::from_raw_parts((*planes.add(c)).cast::<T>(), count);
                    out.iter_mut().skip(c).step_by(channels).zip(plane).for_each(|(o, s)| *o = to(*s));
                }
            } else {
                let plane = std::slice::from_raw_parts((*planes).cast::<T>(), count * channels);
                out.iter_mut().zip(plane).for_each(|(o, s)| *o = to(*s));
            }
        }
    }
    let is = |a: F, b: F| format == a as i32 || format == b as i32;
    let size = (channels, count);
    // SAFETY: the type is the format's, and planes are as it says.
    unsafe {
        if is(F::AV_SAMPLE_FMT_FLT, F::AV_SAMPLE_FMT_FLTP) {
            copy(frame, size, planar, out, |s: f32| s);
        } else if is(F::AV_SAMPLE_FMT_S16, F::AV_SAMPLE_FMT_S16P) {
            copy(frame, size, planar, out, |s: i16| f32::from(s) / 32_768.0);
        } else if is(F::AV_SAMPLE_FMT_S32, F::AV_SAMPLE_FMT_S32P) {
            copy(frame, size, planar, out, |s: i32| (f64::from(s) / 2_147_483_648.0) as f32);
        } else if is(F::AV_SAMPLE_FMT_DBL, F::AV_SAMPLE_FMT_DBLP) {
            copy(frame, size, planar, out, |s: f64| s as f32);
        } else if is(F::AV_SAMPLE_FMT_U8, F::AV_SAMPLE_FMT_U8P) {
            copy(frame, size, planar, out, |s: u8| (f32::from(s) - 128.0) / 128.0);
        } else if is(F::AV_SAMPLE_FMT_S64, F::AV_SAMPLE_FMT_S64P) {
            copy(frame, size, planar, out, |s: i64| (s as f64 / 9_223_372_036_854_775_808.0) as f32);
        } else {
            return Err(AudioError::Unsupported);
        }
    }
    Ok(())
}

impl Reading {
    fn damage(&mut self, what: &str) -> Result<(), AudioError> {
        self.damaged += 1;
        if self.damaged > MOST_DAMAGED { Err(AudioError::Damaged(what.into())) } else { Ok(()) }
    }

    /// Reads the stream's next packet and gives it to the decoder, or the end.
    fn feed(&mut self, packet: &mut Packet) -> Result<(), AudioError> {
        loop {
            match next_packet(&mut self.input, packet) {
                Ok(()) if packet.stream() == self.index => {
                    if self.decoder.send(Some(packet), false).is_err() {
                        self.damage("more packets than are passed over cannot be decoded")?;
                    }
                    return Ok(());
                }
                Ok(()) => {}
                Err(ffmpeg_next::Error::InvalidData) => self.damage("it cannot be read further")?,
                Err(_) => {
                    self.drained = true;
                    // Whether it takes it or had it already, it will say when there is no more.
                    let _ = self.decoder.send(None, false);
                    return Ok(());
                }
            }
        }
    }
}

impl Blocks for Reading {
    fn info(&self) -> &AudioInfo {
        &self.info
    }

    fn seek(&mut self, seconds: f64) -> Result<(), AudioError> {
        let ts = self.start.saturating_add((seconds / self.unit) as i64);
        self.drained = false;
        self.first = None;
        if seek(&mut self.input, self.index, ts) {
            self.decoder.flush();
            return Ok(());
        }
        // A format that cannot seek is read from its start again.
        self.input = open_input(&self.source, COVER_PIXELS)?;
        if self.index >= self.input.nb_streams() as usize {
            return Err(AudioError::Damaged("it is another file than before".into()));
        }
        only(&mut self.input, self.index);
        self.decoder = Decoder::new(&mut self.input, self.index, 1, COVER_PIXELS)?;
        Ok(())
    }

    fn next(&mut self, out: &mut Vec<f32>) -> Result<Option<i64>, AudioError> {
        if let Some((at, block)) = self.first.take() {
            out.extend(block);
            return Ok(Some(at));
        }
        let mut frame = Frame::new()?;
        let mut packet = Packet::empty();
        loop {
            match self.decoder.receive(&mut frame) {
                Ok(Got::Frame) => {}
                Ok(Got::Hungry) if !self.drained => {
                    self.feed(&mut packet)?;
                    continue;
                }
                Ok(_) => return Ok(None),
                Err(_) => {
                    self.damage("more packets than are passed over cannot be decoded")?;
                    continue;
                }
            }
            // SAFETY: the frame is owned and holds sound.
            let (rate, channels) = unsafe { ((*frame.raw).sample_rate, (*frame.raw).ch_layout.nb_channels) };
            if rate != self.info.sample_rate as i32 && rate > 0 && self.info.channels == 0 {
                // HE-AAC: the container tells the rate of the lower half.
                self.info.sample_rate = rate as u32;
            }
            if rate != self.info.sample_rate as i32 || rate as u32 > MOST_RATE {
                return Err(AudioError::Damaged(format!("its sample rate changes to {rate} Hz")));
            }
            if !(1..=MOST_CHANNELS).contains(&channels) {
                return Err(AudioError::Damaged(format!("it has {channels} channels")));
            }
            let channels = channels as usize;
            self.info.channels = channels;
            interleave(&frame, channels, &mut self.interleaved)?;
            if self.interleaved.is_empty() {
                continue;
            }
            to_mono(&self.interleaved, channels, out);
            let since = frame.timestamp().unwrap_or(self.start).saturating_sub(self.start) as f64 * self.unit;
            return Ok(Some(((since * f64::from(rate)).round() as i64).max(0)));
        }
    }
}
