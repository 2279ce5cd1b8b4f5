//! FFmpeg, and all that is unsafe about it: opening what is given and nothing else, and decoding packets.
//!
//! FFmpeg reads through our own reader: it is given no protocol, so that nothing in a file can make it open another
//! file or an address, and of its formats only those that are containers of media in one file. What it would print is
//! silenced; its errors become ours. It is LGPL, linked dynamically.
#![allow(unsafe_code, reason = "FFmpeg is C; the wrapper's own enums panic on values that they do not know")]

pub(crate) mod audio;
mod decoder;
mod picture;
pub(crate) mod video;

use crate::kind::Kind;
use crate::source::Source;
use ffmpeg_next::ffi;
use ffmpeg_next::format::context::{Input, StreamIo};
use ffmpeg_next::{Dictionary, Error, Packet, error};
use std::ptr::{null, null_mut};
use std::sync::Once;

/// Formats that are opened. Playlists, image sequences, network and devices are not among them.
const FORMATS: &str = "aac,ac3,aiff,amr,amrnb,amrwb,ape,apng,asf,au,av1,avi,caf,dsf,dts,dtshd,dv,eac3,flac,flv,gif,h264,\
    hevc,iff,ivf,loas,m4v,matroska,mjpeg_2000,mlp,mov,mp3,mpc,mpc8,mpeg,mpegts,mpegvideo,mxf,nut,obu,ogg,rm,tak,truehd,\
    tta,vc1,voc,w64,wav,webm,wtv,wv,xwma,yuv4mpegpipe";
/// The most that FFmpeg may allocate at once: a plane of the largest frame, or an index.
const MOST_ALLOCATED: usize = 512 << 20;
/// The score of a format above which it is not a guess (FFmpeg's `AVPROBE_SCORE_RETRY`).
const SURE: i32 = 25;
/// Streams beyond which a file is not an honest one.
const MOST_STREAMS: &str = "200";

/// Why FFmpeg did not open or decode.
#[derive(Debug)]
pub(crate) enum Problem {
    Io(std::io::Error),
    /// No format that it may open, or no decoder.
    Unsupported,
    /// The end of the file came where more was needed.
    Ended,
    Damaged(String),
}

impl From<Error> for Problem {
    fn from(error: Error) -> Self {
        match error {
            Error::DemuxerNotFound | Error::DecoderNotFound | Error::PatchWelcome => Self::Unsupported,
            // What a format says that is not on the list.
            Error::Other { errno: error::EINVAL } => Self::Unsupported,
            Error::Eof => Self::Ended,
            Error::InvalidData => Self::Damaged("its data are not valid".into()),
            Error::Other { errno: error::ENOMEM } => Self::Damaged("it asks for too much memory".into()),
            other => Self::Damaged(other.to_string().to_lowercase()),
        }
    }
}

fn start() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        // Has nothing to fail at: it fills in the texts of errors.
        let _ = ffmpeg_next::init();
        // SAFETY: both set a number that FFmpeg reads.
        unsafe {
            ffi::av_log_set_level(ffi::AV_LOG_QUIET);
            ffi::av_max_alloc(MOST_ALLOCATED);
        }
    });
}

/// Opens a source and reads what its streams are. `most_pixels` bounds frames that have to be decoded for that.
pub(crate) fn open(source: &Source, most_pixels: u64) -> Result<Input, Problem> {
    start();
    let mut io = StreamIo::from_read_seek(source.reader().map_err(Problem::Io)?)?;
    let mut options = Dictionary::new();
    // No protocol is named so: all are refused.
    options.set("protocol_whitelist", "none");
    options.set("format_whitelist", FORMATS);
    options.set("max_streams", MOST_STREAMS);
    // SAFETY: the context is made here and handed to `Input`, which closes it and then drops the reader; where it does
    // not open, FFmpeg has freed the context, and the reader is dropped after it. The dictionary is FFmpeg's between
    // `disown` and `own`.
    let mut input = unsafe {
        let mut context = ffi::avformat_alloc_context();
        if context.is_null() {
            return Err(Problem::Damaged("there is no memory left".into()));
        }
        (*context).pb = io.as_mut_ptr();
        (*context).flags |= ffi::AVFMT_FLAG_CUSTOM_IO;
        let mut raw = options.disown();
        let opened = ffi::avformat_open_input(&raw mut context, null(), null(), &raw mut raw);
        drop(Dictionary::own(raw));
        if opened < 0 {
            return Err(Error::from(opened).into());
        }
        Input::wrap_with_custom_io(context, io)
    };
    stream_info(&mut input, most_pixels)?;
    Ok(input)
}

/// Lets FFmpeg look into the streams for what headers do not say.
fn stream_info(input: &mut Input, most_pixels: u64) -> Result<(), Problem> {
    let limit = most_pixels.min(i32::MAX as u64).to_string();
    let count = input.nb_streams() as usize;
    let mut options: Vec<*mut ffi::AVDictionary> = (0..count)
        .map(|_| {
            let mut of_stream = Dictionary::new();
            of_stream.set("max_pixels", &limit);
            // SAFETY: taken back below.
            unsafe { of_stream.disown() }
        })
        .collect();
    let announced: Vec<(i32, i32)> = (0..count)
        .map(|i| {
            // SAFETY: the index is below the count; a stream has parameters as long as it is.
            let parameters = unsafe { &*(*stream(input, i)).codecpar };
            (parameters.width, parameters.height)
        })
        .collect();
    // SAFETY: a dictionary for every stream that there is; FFmpeg changes them in place.
    let found = unsafe {
        let found = ffi::avformat_find_stream_info(input.as_mut_ptr(), options.as_mut_ptr());
        for raw in options {
            drop(Dictionary::own(raw));
        }
        found
    };
    for (i, (width, height)) in announced.into_iter().enumerate() {
        // SAFETY: as above; streams are added, but not taken away.
        let parameters = unsafe { &mut *(*stream(input, i)).codecpar };
        // Where a frame was refused for its size, FFmpeg has forgotten what the header says of it. It is wanted for
        // saying so.
        if (parameters.width, parameters.height) == (0, 0) {
            (parameters.width, parameters.height) = (width, height);
        }
    }
    if found < 0 { Err(Error::from(found).into()) } else { Ok(()) }
}

/// The best stream of a type, which is not a cover or a chapter's picture.
fn best(input: &mut Input, kind: ffi::AVMediaType) -> Option<usize> {
    // SAFETY: the context is open; a decoder is not asked for.
    let found = unsafe { ffi::av_find_best_stream(input.as_mut_ptr(), kind, -1, -1, null_mut(), 0) };
    let index = usize::try_from(found).ok()?;
    let still = ffi::AV_DISPOSITION_ATTACHED_PIC | ffi::AV_DISPOSITION_TIMED_THUMBNAILS;
    // SAFETY: the index is that of a stream.
    let disposition = unsafe { (*stream(input, index)).disposition };
    (disposition & still == 0).then_some(index)
}

/// A stream of an open file.
///
/// # Safety
/// There must be one of that index.
unsafe fn stream(input: &mut Input, index: usize) -> *mut ffi::AVStream {
    // SAFETY: by the caller.
    unsafe { *(*input.as_mut_ptr()).streams.add(index) }
}

/// Has only one stream's packets read.
fn only(input: &mut Input, index: usize) {
    for i in 0..input.nb_streams() as usize {
        let discard = if i == index { ffi::AVDiscard::AVDISCARD_DEFAULT } else { ffi::AVDiscard::AVDISCARD_ALL };
        // SAFETY: the index is below the count.
        unsafe { (*stream(input, i)).discard = discard };
    }
}

/// Reads the next packet of whatever stream.
fn next_packet(input: &mut Input, packet: &mut Packet) -> Result<(), Error> {
    // What it held is released by dropping it; reading over it is not enough.
    *packet = Packet::empty();
    packet.read(input)
}

/// Goes to the last place before `ts`, in units of the stream, from which it can be decoded.
fn seek(input: &mut Input, index: usize, ts: i64) -> bool {
    // SAFETY: the context is open, and the stream is one of its own.
    unsafe { ffi::av_seek_frame(input.as_mut_ptr(), index as i32, ts, ffi::AVSEEK_FLAG_BACKWARD) >= 0 }
}

/// What FFmpeg takes it for, where it is sure of that: a few bytes of noise look like MPEG audio.
pub(crate) fn kind(source: &Source) -> Option<Kind> {
    let mut input = open(source, 1 << 24).ok().filter(|input| input.probe_score() > SURE)?;
    if best(&mut input, ffi::AVMediaType::AVMEDIA_TYPE_VIDEO).is_some() {
        return Some(Kind::Video);
    }
    best(&mut input, ffi::AVMediaType::AVMEDIA_TYPE_AUDIO).map(|_| Kind::Audio)
}
