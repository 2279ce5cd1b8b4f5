//! Sounds through Symphonia.

use super::{AudioError, AudioInfo, Blocks, MOST_RATE, to_mono};
use crate::source::Source;
use std::collections::VecDeque;
use symphonia::core::codecs::CodecParameters;
use symphonia::core::codecs::audio::well_known::CODEC_ID_AAC;
use symphonia::core::codecs::audio::{AudioDecoder, AudioDecoderOptions};
use symphonia::core::errors::Error;
use symphonia::core::formats::probe::Hint;
use symphonia::core::formats::{FormatOptions, FormatReader, SeekMode, SeekTo, Track, TrackType};
use symphonia::core::io::{MediaSourceStream, MediaSourceStreamOptions};
use symphonia::core::meta::MetadataOptions;
use symphonia::core::packet::Packet;
use symphonia::core::units::{Duration, Time, TimeBase, Timestamp};

/// Packets in a row that may be damaged.
const MOST_DAMAGED: usize = 100;
/// AAC at or below this rate may be the lower half of HE-AAC, which does not always say so; FFmpeg decodes both halves.
const MAYBE_HALF: u32 = 24_000;

/// Packets of an Ogg page.
const MOST_PADDING: usize = 255;

struct Reading {
    format: Box<dyn FormatReader>,
    decoder: Box<dyn AudioDecoder>,
    info: AudioInfo,
    track: u32,
    time_base: TimeBase,
    start: Timestamp,
    interleaved: Vec<f32>,
    /// Packets that were read ahead, and whether there are no more.
    ahead: VecDeque<Packet>,
    ended: bool,
    damaged: usize,
    /// Of FLAC, whose header counts samples.
    promised: Option<u64>,
}

fn error(error: &Error) -> AudioError {
    match error {
        Error::IoError(e) if e.kind() == std::io::ErrorKind::UnexpectedEof => AudioError::Truncated,
        // What its probe says at the end of a file that is of no known kind is this too.
        Error::Unsupported(_) => AudioError::Unsupported,
        other => AudioError::Damaged(other.to_string()),
    }
}

/// Whether it begins as the formats do that Symphonia reads.
pub(super) fn knows(source: &Source) -> bool {
    let Ok(head) = source.reader().and_then(|mut reader| reader.at(0, 4096)) else { return false };
    let magics: [&[u8]; 9] =
        [b"RIFF", b"RF64", b"RIFX", b"FORM", b"caff", b"fLaC", b"OggS", b"ID3", b"\x1A\x45\xDF\xA3"];
    magics.iter().any(|magic| head.starts_with(magic)) || head.get(4..8) == Some(b"ftyp") || crate::kind::frames(&head)
}

pub(super) fn open(source: &Source) -> Result<Box<dyn Blocks>, AudioError> {
    let reader = source.reader().map_err(|e| AudioError::Source(e.into()))?;
    let stream = MediaSourceStream::new(Box::new(reader), MediaSourceStreamOptions::default());
    let probe = symphonia::default::get_probe();
    let options = FormatOptions::default();
    let format = probe.probe(&Hint::new(), stream, options, MetadataOptions::default());
    let format = format.map_err(|e| match e {
        Error::IoError(_) => AudioError::Unsupported,
        other => error(&other),
    })?;
    let track: &Track = format.default_track(TrackType::Audio).ok_or(AudioError::NoAudio)?;
    let Some(CodecParameters::Audio(parameters)) = &track.codec_params else { return Err(AudioError::NoAudio) };
    let sample_rate = parameters.sample_rate.unwrap_or_default();
    if parameters.sample_rate.is_some() && (sample_rate == 0 || sample_rate > MOST_RATE) {
        return Err(AudioError::Rate(sample_rate));
    }
    if cfg!(feature = "video") && parameters.codec == CODEC_ID_AAC && sample_rate <= MAYBE_HALF {
        return Err(AudioError::Unsupported);
    }
    let decoder = symphonia::default::get_codecs().make_audio_decoder(parameters, &AudioDecoderOptions::default());
    let decoder = decoder.map_err(|e| error(&e))?;
    let time_base = track.time_base.or_else(|| TimeBase::try_from_recip(sample_rate));
    let time_base = time_base.ok_or(AudioError::Rate(sample_rate))?;
    let seconds = track.duration.and_then(|d| time_base.calc_duration(d)).map(|t| t.as_secs_f64());
    let counted = track.num_frames.filter(|_| sample_rate > 0).map(|n| n as f64 / f64::from(sample_rate));
    let info = AudioInfo {
        sample_rate,
        channels: parameters.channels.as_ref().map_or(0, |c| c.count()),
        seconds: seconds.or(counted).filter(|s| *s > 0.0),
        decoder: "symphonia",
    };
    let promised = track.num_frames.filter(|_| format.format_info().short_name == "flac");
    let (track, start) = (track.id, track.start_ts);
    let (interleaved, ahead, ended, damaged) = (vec![], VecDeque::new(), false, 0);
    let mut reading =
        Reading { format, decoder, info, track, time_base, start, interleaved, ahead, ended, damaged, promised };
    reading.settle()?;
    Ok(Box::new(reading))
}

impl Reading {
    /// Containers do not always say the rate: then a packet is decoded for it.
    fn settle(&mut self) -> Result<(), AudioError> {
        if self.info.sample_rate == 0 || self.info.channels == 0 {
            if self.next(&mut Vec::new())?.is_none() {
                return Err(AudioError::Empty);
            }
            self.seek(0.0)?;
        }
        Ok(())
    }

    /// The next packet of the track. What is to be cut off its end is cut off only at the end of the stream: FFmpeg's Ogg
    /// pages can be some samples short in the middle, and Symphonia takes those for padding too.
    fn packet(&mut self) -> Result<Option<Packet>, AudioError> {
        if self.ahead.is_empty() {
            let next = self.read()?;
            self.ahead.extend(next);
        }
        // Padding is at most the last page's packets.
        while self.ahead.back().is_some_and(|last| last.trim_end > Duration::ZERO) && self.ahead.len() <= MOST_PADDING {
            let Some(next) = self.read()? else { break };
            self.ahead.push_back(next);
        }
        let padded = self.ended && self.ahead.iter().all(|packet| packet.trim_end > Duration::ZERO);
        let mut packet = self.ahead.pop_front();
        if let Some(packet) = packet.as_mut().filter(|_| !padded) {
            packet.trim_end = Duration::ZERO;
        }
        Ok(packet)
    }

    fn read(&mut self) -> Result<Option<Packet>, AudioError> {
        while !self.ended {
            match self.format.next_packet() {
                Ok(Some(packet)) if packet.track_id == self.track => return Ok(Some(packet)),
                Ok(Some(_)) => {}
                // Chained streams begin anew: what follows is another sound.
                Ok(None) | Err(Error::ResetRequired) => self.ended = true,
                Err(Error::IoError(e)) if e.kind() == std::io::ErrorKind::UnexpectedEof => self.ended = true,
                Err(e) => return Err(error(&e)),
            }
        }
        Ok(None)
    }

    /// Samples from the start of the track.
    fn place(&self, at: Timestamp) -> i64 {
        let since = at.saturating_delta(self.start).get();
        let seconds = self.time_base.calc_time_saturating(Timestamp::new(since)).as_secs_f64();
        ((seconds * f64::from(self.info.sample_rate)).round() as i64).max(0)
    }
}

impl Blocks for Reading {
    fn info(&self) -> &AudioInfo {
        &self.info
    }

    fn promised(&self) -> Option<u64> {
        self.promised
    }

    fn seek(&mut self, seconds: f64) -> Result<(), AudioError> {
        let since = Time::try_from_secs_f64(seconds).and_then(|time| self.time_base.calc_timestamp(time));
        let since = since.map_or(0, Timestamp::get);
        let ts = Timestamp::new(self.start.get().saturating_add(since));
        let to = SeekTo::Timestamp { ts, track_id: self.track };
        self.format.seek(SeekMode::Accurate, to).map_err(|e| match e {
            Error::SeekError(_) => AudioError::Beyond { start: seconds, seconds: self.info.seconds.unwrap_or(0.0) },
            other => error(&other),
        })?;
        self.decoder.reset();
        self.ahead.clear();
        self.ended = false;
        Ok(())
    }

    fn next(&mut self, out: &mut Vec<f32>) -> Result<Option<i64>, AudioError> {
        loop {
            let Some(packet) = self.packet()? else { return Ok(None) };
            let decoded = match self.decoder.decode(&packet) {
                Ok(decoded) => decoded,
                Err(Error::DecodeError(_) | Error::IoError(_)) if self.damaged < MOST_DAMAGED => {
                    self.damaged += 1;
                    continue;
                }
                Err(e) => return Err(error(&e)),
            };
            let (rate, channels) = (decoded.spec().rate(), decoded.spec().channels().count());
            if decoded.frames() == 0 || channels == 0 {
                continue;
            }
            if rate == 0 || rate > MOST_RATE {
                return Err(AudioError::Rate(rate));
            }
            if self.info.sample_rate == 0 {
                self.info.sample_rate = rate;
            }
            if rate != self.info.sample_rate {
                return Err(AudioError::Damaged(format!("its sample rate changes to {rate} Hz")));
            }
            self.info.channels = channels;
            self.interleaved.clear();
            decoded.copy_to_vec_interleaved(&mut self.interleaved);
            to_mono(&self.interleaved, channels, out);
            return Ok(Some(self.place(packet.pts)));
        }
    }
}
