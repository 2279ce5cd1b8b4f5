//! Frames of a video at given times, by seeking: what is decoded is, for every time, the way from the key frame before
//! it, and of that way only frames that others refer to.
//!
//! It goes in two passes over the same packets. The first reads their times alone and settles which frame is shown at
//! each time, and from which key frame it can be reached; times that share a key frame are served together. The second
//! decodes. Where the container's times cannot be relied on, all frames from the key frame on are decoded, and their
//! own times decide.

use super::decoder::{Decoder, Frame, Got, codec_name};
use super::picture::{Look, to_rgb};
use super::{Problem, best, next_packet, only, open, seek, stream};
use crate::source::Source;
use crate::video::{Counts, Shown, VideoError, VideoInfo, VideoLimits};
use ffmpeg_next::format::context::Input;
use ffmpeg_next::{Packet, ffi};

/// The most frames that a decoder shows later than it gets them, as far as containers go that tell decoding times alone.
const REORDERED: f64 = 4.0;

/// Frames of a short video: where its times are not certain, all of them are decoded and none is missed. In a longer one
/// (MPEG-1 and -2 program streams, AVI with B-frames) it may be a frame next to the right one that is found.
const FEW: f64 = 1500.0;

/// An open video.
pub(crate) struct Video {
    source: Source,
    limits: VideoLimits,
    input: Input,
    decoder: Decoder,
    index: usize,
    look: Look,
    /// Seconds of a unit of the stream's times.
    unit: f64,
    /// When the first frame is shown, in units.
    start: i64,
    /// How much later than it is shown frames are said to be, where the container tells decoding times alone.
    lag: Option<i64>,
    info: VideoInfo,
    counts: Counts,
}

/// Takes a frame with its time; tells whether more are needed.
type Take<'a> = dyn FnMut(Option<i64>, &Frame) -> Result<bool, Problem> + 'a;

/// A packet, as far as its header goes.
#[derive(Clone, Copy)]
struct Meta {
    /// When it is shown, or else when it is decoded; `None` where the container says neither.
    at: Option<i64>,
    exact: bool,
    /// The container says nothing of its time: only its number tells.
    counted: bool,
    key: bool,
}

/// What is to be decoded for some times in a row.
struct Plan {
    /// Where to seek to; `None` for the very start.
    from: Option<i64>,
    /// Packets to pass over after that.
    passed: usize,
    /// How many of the times it serves.
    served: usize,
    /// The time of the packet with the frame for each; empty where frames' own times must decide.
    wanted: Vec<i64>,
    /// The end of the file was reached before one of the times, at this time.
    ended: Option<i64>,
}

/// What a time has got: the frame itself, or a better one to come.
struct Candidate {
    at: i64,
    frame: Frame,
}

impl From<Problem> for VideoError {
    fn from(problem: Problem) -> Self {
        match problem {
            Problem::Io(e) => Self::Source(e.into()),
            Problem::Unsupported => Self::Unsupported,
            Problem::Ended => Self::Truncated,
            Problem::Damaged(what) => Self::Damaged(what),
        }
    }
}

fn rational(r: ffi::AVRational) -> Option<f64> {
    (r.num > 0 && r.den > 0).then(|| f64::from(r.num) / f64::from(r.den))
}

impl Video {
    pub(crate) fn open(source: &Source, limits: VideoLimits) -> Result<Self, VideoError> {
        let mut input = open(source, limits.max_pixels)?;
        let Some(index) = best(&mut input, ffi::AVMediaType::AVMEDIA_TYPE_VIDEO) else {
            let sound = best(&mut input, ffi::AVMediaType::AVMEDIA_TYPE_AUDIO).is_some();
            return Err(VideoError::NoVideo { sound });
        };
        // SAFETY: the index is that of a stream, and its parameters are there as long as it is.
        let (time_base, start, duration, rate, frames, width, height) = unsafe {
            let stream = stream(&mut input, index);
            let parameters = (*stream).codecpar;
            let (width, height) = ((*parameters).width, (*parameters).height);
            let rate = rational((*stream).avg_frame_rate).or_else(|| rational((*stream).r_frame_rate));
            ((*stream).time_base, (*stream).start_time, (*stream).duration, rate, (*stream).nb_frames, width, height)
        };
        let unit = rational(time_base).ok_or_else(|| VideoError::Damaged("its times have no unit".into()))?;
        let (width, height) = (u32::try_from(width).unwrap_or(0), u32::try_from(height).unwrap_or(0));
        let look = Look::of(&mut input, index);
        let shown = look.shown(width, height);
        for (width, height) in [(width, height), shown] {
            if u64::from(width) * u64::from(height) > limits.max_pixels {
                return Err(VideoError::TooLarge { width, height, limit: limits.max_pixels });
            }
        }
        let decoder = Decoder::new(&mut input, index, limits.threads(), limits.max_pixels)?;
        let whole = input.duration().max(0) as f64 / 1e6;
        let begin = if start == ffi::AV_NOPTS_VALUE { 0 } else { start };
        // Matroska counts from 0, whenever the first frame is shown.
        let before = if input.format().name().starts_with("matroska") { begin.max(0) as f64 * unit } else { 0.0 };
        let seconds = if duration > 0 { duration as f64 * unit } else { whole - before };
        let has_sound = best(&mut input, ffi::AVMediaType::AVMEDIA_TYPE_AUDIO).is_some();
        let info = VideoInfo {
            width: shown.0,
            height: shown.1,
            seconds,
            frame_rate: rate,
            frames: u64::try_from(frames).ok().filter(|n| *n > 0),
            codec: codec_name(&mut input, index),
            has_sound,
        };
        only(&mut input, index);
        let (source, counts, start) = (source.clone(), Counts::default(), begin);
        let mut this = Self { source, limits, input, decoder, index, look, unit, start, lag: None, info, counts };
        if this.info.seconds <= 0.0 || !this.info.seconds.is_finite() {
            this.info.seconds = this.measured()?;
        }
        Ok(this)
    }

    pub(crate) fn info(&self) -> &VideoInfo {
        &self.info
    }

    pub(crate) fn counts(&self) -> Counts {
        self.counts
    }

    /// Seconds by reading all packets, for files that do not say.
    fn measured(&mut self) -> Result<f64, VideoError> {
        self.go(None)?;
        let (mut count, mut last) = (0_u64, None);
        let mut packet = Packet::empty();
        while self.read(&mut packet)? {
            count += 1;
            let end = packet.pts().or(packet.dts()).map(|at| at.saturating_add(packet.duration().max(0)));
            last = last.max(end);
        }
        let spanned = last.map(|last: i64| (last.saturating_sub(self.start)) as f64 * self.unit).filter(|s| *s > 0.0);
        match spanned {
            Some(seconds) => Ok(seconds),
            None if count > 0 => Ok(count as f64 / self.rate()),
            None => Err(VideoError::Empty),
        }
    }

    fn rate(&self) -> f64 {
        self.info.frame_rate.unwrap_or(25.0)
    }

    /// Reads the stream's next packet; `false` at the end.
    fn read(&mut self, packet: &mut Packet) -> Result<bool, VideoError> {
        loop {
            match next_packet(&mut self.input, packet) {
                Ok(()) if packet.stream() == self.index => {
                    self.counts.read += 1;
                    return Ok(true);
                }
                Ok(()) => {}
                Err(ffmpeg_next::Error::InvalidData) => self.damage()?,
                // The end, or a file that cannot be read further: what there is was read.
                Err(_) => return Ok(false),
            }
        }
    }

    fn damage(&mut self) -> Result<(), VideoError> {
        self.counts.damaged += 1;
        if self.counts.damaged > self.limits.max_damaged {
            return Err(VideoError::Damaged(format!("more than {} parts cannot be decoded", self.limits.max_damaged)));
        }
        Ok(())
    }

    /// Seeks; to the very start also where the format cannot seek.
    fn go(&mut self, to: Option<i64>) -> Result<bool, VideoError> {
        self.decoder.flush();
        match to {
            Some(ts) => Ok(seek(&mut self.input, self.index, ts)),
            None => {
                self.input = open(&self.source, self.limits.max_pixels)?;
                if self.index >= self.input.nb_streams() as usize {
                    return Err(VideoError::Damaged("it is another file than before".into()));
                }
                only(&mut self.input, self.index);
                self.decoder =
                    Decoder::new(&mut self.input, self.index, self.limits.threads(), self.limits.max_pixels)?;
                Ok(true)
            }
        }
    }

    /// Calls `each` with the frame shown at every time, in seconds from the start; the times must ascend. Where the
    /// file ends long before one of them, it stops and returns when.
    pub(crate) fn frames(
        &mut self,
        times: &[f64],
        each: &mut dyn FnMut(usize, Shown) -> Result<(), VideoError>,
    ) -> Result<Option<f64>, VideoError> {
        let target = |t: f64| self.start.saturating_add((t.max(0.0) / self.unit + 1e-6).floor() as i64);
        let targets: Vec<i64> = times.iter().map(|t| target(*t)).collect();
        let mut done = 0;
        while done < targets.len() {
            let plan = self.plan(&targets[done..])?;
            let last = targets.get(done + plan.served - 1).copied().unwrap_or(self.start);
            if let Some(end) = plan.ended.filter(|end| self.too_early(*end, last)) {
                return Ok(Some(self.seconds(end)));
            }
            let group = &targets[done..done + plan.served];
            let mut found = if plan.wanted.is_empty() { vec![] } else { self.exactly(&plan)? };
            if found.len() < group.len() || found.iter().any(Option::is_none) {
                let end;
                (found, end) = self.plainly(&plan, group)?;
                let last = group.last().copied().unwrap_or(self.start);
                if let Some(end) = end.filter(|end| self.too_early(*end, last)) {
                    return Ok(Some(self.seconds(end)));
                }
            }
            for (i, frame) in found.into_iter().enumerate() {
                let Some(frame) = frame else {
                    return Err(VideoError::Damaged("no frame of it can be decoded".into()));
                };
                let image = to_rgb(&frame.frame, self.look, self.limits.max_pixels)?;
                let shown = Shown { image, since: (frame.at.saturating_sub(self.start)) as f64 * self.unit };
                each(done + i, shown)?;
            }
            done += plan.served;
        }
        Ok(None)
    }

    /// Whether a file whose last frame is at `end` lacks the one at `target`, and does not just show its last one longer.
    fn too_early(&self, end: i64, target: i64) -> bool {
        target.saturating_sub(end) as f64 * self.unit > (0.05 * self.info.seconds).max(1.0)
    }

    /// How long it lasts if its last frame is at `end`.
    fn seconds(&self, end: i64) -> f64 {
        (end.saturating_sub(self.start) as f64 * self.unit + 1.0 / self.rate()).max(0.0)
    }

    /// The first pass for as many of the times as share a key frame.
    fn plan(&mut self, targets: &[i64]) -> Result<Plan, VideoError> {
        let first = targets.first().copied().unwrap_or(self.start);
        // All of it, from the start.
        let all = Plan { from: None, passed: 0, served: targets.len(), wanted: vec![], ended: None };
        if !self.limits.seek {
            return Ok(all);
        }
        let mut from = Some(first);
        // How far to go back where the key frame found is shown too late: containers index by decoding time.
        let mut back = (1.0 / self.unit).ceil().max(1.0) as i64;
        loop {
            if !self.go(from)? {
                from = None;
                self.go(None)?;
            }
            let (metas, ended, last_served) = self.survey(targets)?;
            if metas.is_empty() && from.is_none() {
                return Err(VideoError::Empty);
            }
            // By its decoding time a key frame seems to be shown earlier than it is.
            let certain = metas.iter().all(|m| m.exact);
            let short = self.info.seconds * self.rate() <= FEW;
            if !certain && (short || metas.iter().any(|m| m.counted)) {
                return Ok(all);
            }
            let safe = if certain { first } else { first.saturating_sub(self.units(REORDERED)) };
            let reached = |m: &Meta| m.key && m.at.is_some_and(|at| at <= safe);
            let key = metas.iter().rposition(reached);
            if key.is_none() && from.is_some() {
                let earlier = from.unwrap_or(first).saturating_sub(back);
                back = back.saturating_mul(4);
                from = (earlier > self.start).then_some(earlier);
                continue;
            }
            // At the start all there is must do.
            let key = key.unwrap_or(0);
            let way = &metas[key..];
            let exact = way.iter().all(|m| m.exact);
            let shown = |t: i64| {
                let before = way.iter().filter_map(|m| m.at).filter(|at| *at <= t).max();
                before.or_else(|| way.iter().filter_map(|m| m.at).min())
            };
            let served = &targets[..last_served];
            let wanted: Vec<i64> = if exact { served.iter().filter_map(|t| shown(*t)).collect() } else { vec![] };
            let end = way.iter().filter_map(|m| m.at).max();
            let last = served.last().copied().unwrap_or(first);
            let ended = if ended { end.filter(|end| *end < last) } else { None };
            return Ok(Plan { from, passed: key, served: served.len(), wanted, ended });
        }
    }

    /// Reads packets' times until those of one key frame's way are known: what was read, whether the file ended, and
    /// how many of the times are on that way.
    fn survey(&mut self, targets: &[i64]) -> Result<(Vec<Meta>, bool, usize), VideoError> {
        let mut metas: Vec<Meta> = Vec::new();
        let mut packet = Packet::empty();
        let mut passed = 0;
        let mut count = 0_i64;
        // Key frames shown after the times that are served so far: the first later time beyond one begins a new way.
        let mut next_key: Option<i64> = None;
        while self.read(&mut packet)? {
            let numbered = self.start.saturating_add((count as f64 / self.rate() / self.unit) as i64);
            count += 1;
            let at = packet.pts().or(packet.dts());
            let exact = packet.pts().is_some();
            let meta = Meta { at: at.or(Some(numbered)), exact, counted: at.is_none(), key: packet.is_key() };
            metas.push(meta);
            // Nothing that comes is shown before it is decoded.
            let now = packet.dts().or(meta.at).unwrap_or(i64::MIN);
            if meta.key && passed > 0 {
                next_key = next_key.or(meta.at);
            }
            while targets.get(passed).is_some_and(|t| now > *t) {
                passed += 1;
            }
            let beyond = |t: &i64| next_key.is_some_and(|key| key <= *t);
            if passed == targets.len() || passed > 0 && targets.get(passed).is_some_and(beyond) {
                return Ok((metas, false, passed));
            }
        }
        // The rest is shown what was last.
        let served =
            if let Some(key) = next_key { targets.iter().filter(|t| **t < key).count() } else { targets.len() };
        Ok((metas, true, served.max(1).min(targets.len())))
    }

    /// Goes where a plan begins.
    fn begin(&mut self, plan: &Plan) -> Result<(), VideoError> {
        self.go(plan.from)?;
        let mut packet = Packet::empty();
        for _ in 0..plan.passed {
            self.read(&mut packet)?;
        }
        Ok(())
    }

    /// Decodes the way to the frames of known packets. A damaged one is missing.
    fn exactly(&mut self, plan: &Plan) -> Result<Vec<Option<Candidate>>, VideoError> {
        self.begin(plan)?;
        let mut missing: Vec<i64> = plan.wanted.clone();
        missing.dedup();
        let mut unsent = missing.clone();
        let mut taken: Vec<Candidate> = Vec::new();
        let mut packet = Packet::empty();
        let mut take = |at: Option<i64>, frame: &Frame| -> Result<bool, Problem> {
            if let Some(i) = missing.iter().position(|m| Some(*m) == at)
                && !frame.damaged()
            {
                taken.push(Candidate { at: missing.swap_remove(i), frame: frame.share()? });
            }
            Ok(!missing.is_empty())
        };
        while !unsent.is_empty() && self.read(&mut packet)? {
            let at = packet.pts();
            let wanted = unsent.iter().position(|u| Some(*u) == at);
            if let Some(i) = wanted {
                unsent.swap_remove(i);
            }
            if !self.decode(Some(&packet), wanted.is_none(), &mut take)? {
                break;
            }
        }
        self.decode(None, false, &mut take)?;
        let of = |at: &i64| {
            let found = taken.iter().find(|c| c.at == *at);
            found.map(|c| Ok(Candidate { at: c.at, frame: c.frame.share()? })).transpose()
        };
        plan.wanted.iter().map(of).collect::<Result<_, Problem>>().map_err(VideoError::from)
    }

    /// Decodes everything from the key frame on; of every time, the last whole frame that is shown by then, or else the
    /// first one after. Also the time of the last frame of all, where the end was reached.
    fn plainly(&mut self, plan: &Plan, targets: &[i64]) -> Result<(Vec<Option<Candidate>>, Option<i64>), VideoError> {
        let mut found: Vec<Option<Candidate>> = targets.iter().map(|_| None).collect();
        let exact = !plan.wanted.is_empty();
        let lag = if exact { 0 } else { self.lag()? };
        self.begin(plan)?;
        let (step, start) = (self.units(1.0), self.start);
        let last = targets.last().copied().unwrap_or(start);
        let mut previous: Option<i64> = None;
        let mut skipped = 0;
        let mut take = |at: Option<i64>, frame: &Frame| -> Result<bool, Problem> {
            let next = previous.map_or(start, |at: i64| at.saturating_add(step));
            let at = at.map_or(next, |at| at.saturating_sub(lag));
            previous = Some(at);
            if frame.damaged() {
                skipped += 1;
                return Ok(true);
            }
            for (target, best) in targets.iter().zip(&mut found) {
                let better = match best {
                    None => true,
                    Some(best) => at <= *target && (at > best.at || best.at > *target),
                };
                if better {
                    *best = Some(Candidate { at, frame: frame.share()? });
                }
            }
            Ok(at <= last)
        };
        let mut packet = Packet::empty();
        let mut more = true;
        while more && self.read(&mut packet)? {
            more = self.decode(Some(&packet), false, &mut take)?;
        }
        if more {
            self.decode(None, false, &mut take)?;
        }
        let end = previous.filter(|_| more);
        for _ in 0..skipped {
            self.damage()?;
        }
        Ok((found, end))
    }

    /// So many frames in units of the stream.
    fn units(&self, frames: f64) -> i64 {
        (frames / self.rate() / self.unit).round() as i64
    }

    /// What the first frame of all is said to be late.
    fn lag(&mut self) -> Result<i64, VideoError> {
        if let Some(lag) = self.lag {
            return Ok(lag);
        }
        self.go(None)?;
        let mut found = None;
        let mut take = |at: Option<i64>, _: &Frame| -> Result<bool, Problem> {
            found = at;
            Ok(false)
        };
        let mut packet = Packet::empty();
        let mut more = true;
        while more && self.read(&mut packet)? {
            more = self.decode(Some(&packet), false, &mut take)?;
        }
        let lag = found.map_or(0, |at| at.saturating_sub(self.start)).clamp(0, self.units(REORDERED));
        self.lag = Some(lag);
        Ok(lag)
    }

    /// Sends a packet, or the end, and takes what comes out; `false` when nothing more is needed.
    fn decode(&mut self, packet: Option<&Packet>, lean: bool, take: &mut Take<'_>) -> Result<bool, VideoError> {
        let mut frame = Frame::new()?;
        let mut sent = false;
        // A decoder that neither takes nor gives would go round for ever.
        for _ in 0..10_000 {
            if !sent {
                match self.decoder.send(packet, lean) {
                    Ok(()) => {
                        sent = true;
                        self.counts.decoded += usize::from(packet.is_some());
                    }
                    Err(ffmpeg_next::Error::Other { errno: ffmpeg_next::error::EAGAIN }) => {}
                    // It was drained already.
                    Err(ffmpeg_next::Error::Eof) => return Ok(true),
                    Err(_) => {
                        self.damage()?;
                        sent = true;
                    }
                }
            }
            match self.decoder.receive(&mut frame) {
                Ok(Got::Frame) => {
                    if !take(frame.timestamp(), &frame)? {
                        return Ok(false);
                    }
                }
                Ok(Got::Hungry) if sent => return Ok(true),
                Ok(Got::Hungry) => {}
                Ok(Got::End) => return Ok(true),
                Err(_) => self.damage()?,
            }
        }
        Err(VideoError::Damaged("its decoder goes round in circles".into()))
    }
}
