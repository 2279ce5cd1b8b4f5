//! One stream's decoder, and the frames that come out of it.

use super::{Problem, stream};
use ffmpeg_next::format::context::Input;
use ffmpeg_next::{Error, Packet, error, ffi};
use std::ffi::CStr;
use std::ptr::{null, null_mut};

/// A decoder in use.
pub(super) struct Decoder {
    context: *mut ffi::AVCodecContext,
}

// SAFETY: the context is owned, and FFmpeg ties it to no thread.
unsafe impl Send for Decoder {}

/// A decoded frame, of pictures or of sound.
pub(super) struct Frame {
    pub(super) raw: *mut ffi::AVFrame,
}

// SAFETY: the frame is owned, and FFmpeg ties it to no thread; its buffers are counted atomically.
unsafe impl Send for Frame {}

/// What comes out of a decoder.
pub(super) enum Got {
    Frame,
    /// It wants packets first.
    Hungry,
    /// There is no more.
    End,
}

impl Decoder {
    /// For one of the streams. Frames of more pixels are refused before they are allocated.
    pub(super) fn new(input: &mut Input, index: usize, threads: usize, most_pixels: u64) -> Result<Self, Problem> {
        // SAFETY: the index is that of a stream of this input; what is allocated here is owned by `Self` from then on,
        // and freed with it.
        unsafe {
            let stream = stream(input, index);
            let parameters = (*stream).codecpar;
            let codec = ffi::avcodec_find_decoder((*parameters).codec_id);
            if codec.is_null() {
                return Err(Problem::Unsupported);
            }
            let context = ffi::avcodec_alloc_context3(codec);
            if context.is_null() {
                return Err(Problem::Damaged("there is no memory left".into()));
            }
            let this = Self { context };
            let copied = ffi::avcodec_parameters_to_context(context, parameters);
            if copied < 0 {
                return Err(Error::from(copied).into());
            }
            (*context).pkt_timebase = (*stream).time_base;
            (*context).thread_count = i32::try_from(threads).unwrap_or(1).max(1);
            (*context).max_pixels = i64::try_from(most_pixels).unwrap_or(i64::MAX);
            // Frames in order and their times as the container has them; broken ones are told apart below.
            let opened = ffi::avcodec_open2(context, codec, null_mut());
            if opened < 0 {
                return Err(Error::from(opened).into());
            }
            Ok(this)
        }
    }

    /// Gives it a packet, or the end. With `lean`, pictures that no other refers to need not be decoded.
    pub(super) fn send(&mut self, packet: Option<&Packet>, lean: bool) -> Result<(), Error> {
        use ffmpeg_next::packet::Ref;
        let skip = if lean { ffi::AVDiscard::AVDISCARD_NONREF } else { ffi::AVDiscard::AVDISCARD_DEFAULT };
        // SAFETY: the context is open; FFmpeg takes a reference to the packet's bytes, or copies them.
        let sent = unsafe {
            (*self.context).skip_frame = skip;
            ffi::avcodec_send_packet(self.context, packet.map_or(null(), |p| p.as_ptr()))
        };
        if sent < 0 { Err(Error::from(sent)) } else { Ok(()) }
    }

    pub(super) fn receive(&mut self, frame: &mut Frame) -> Result<Got, Error> {
        // SAFETY: both are owned and open; what the frame held before is released.
        let got = unsafe { ffi::avcodec_receive_frame(self.context, frame.raw) };
        if got >= 0 {
            return Ok(Got::Frame);
        }
        match Error::from(got) {
            Error::Other { errno: error::EAGAIN } => Ok(Got::Hungry),
            Error::Eof => Ok(Got::End),
            other => Err(other),
        }
    }

    /// Forgets what it was given, after a seek or the end.
    pub(super) fn flush(&mut self) {
        // SAFETY: the context is open.
        unsafe { ffi::avcodec_flush_buffers(self.context) };
    }
}

impl Drop for Decoder {
    fn drop(&mut self) {
        // SAFETY: made by `avcodec_alloc_context3`, and freed once.
        unsafe { ffi::avcodec_free_context(&raw mut self.context) };
    }
}

impl Frame {
    pub(super) fn new() -> Result<Self, Problem> {
        // SAFETY: an empty frame, owned.
        let raw = unsafe { ffi::av_frame_alloc() };
        if raw.is_null() { Err(Problem::Damaged("there is no memory left".into())) } else { Ok(Self { raw }) }
    }

    /// Another handle on the same pixels.
    pub(super) fn share(&self) -> Result<Self, Problem> {
        let other = Self::new()?;
        // SAFETY: both frames are owned; the other one is empty.
        let shared = unsafe { ffi::av_frame_ref(other.raw, self.raw) };
        if shared < 0 { Err(Error::from(shared).into()) } else { Ok(other) }
    }

    /// Its time in units of the stream, by its packet or else by those around it.
    pub(super) fn timestamp(&self) -> Option<i64> {
        // SAFETY: the frame is owned.
        let ts = unsafe { (*self.raw).best_effort_timestamp };
        (ts != ffi::AV_NOPTS_VALUE).then_some(ts)
    }

    /// Whether the decoder says that it is not as it was meant.
    pub(super) fn damaged(&self) -> bool {
        // SAFETY: the frame is owned.
        unsafe { (*self.raw).flags & ffi::AV_FRAME_FLAG_CORRUPT != 0 || (*self.raw).decode_error_flags != 0 }
    }
}

impl Drop for Frame {
    fn drop(&mut self) {
        // SAFETY: made by `av_frame_alloc`, and freed once.
        unsafe { ffi::av_frame_free(&raw mut self.raw) };
    }
}

/// The name of a stream's codec.
pub(super) fn codec_name(input: &mut Input, index: usize) -> String {
    // SAFETY: the index is that of a stream; the name is static.
    unsafe {
        let id = (*(*stream(input, index)).codecpar).codec_id;
        CStr::from_ptr(ffi::avcodec_get_name(id)).to_string_lossy().into_owned()
    }
}
