//! Matroska and WebM (RFC 9559): which tracks there are.

use super::Look;
use crate::source::Reader;
use std::io::Result;

const MOST_ELEMENTS: usize = 20_000;
const SEGMENT: u64 = 0x1853_8067;
const TRACKS: u64 = 0x1654_AE6B;
const TRACK: u64 = 0xAE;
const TRACK_TYPE: u64 = 0x83;
const ENCODINGS: u64 = 0x6D80;
const ENCODING: u64 = 0x6240;
const ENCRYPTION: u64 = 0x5035;

struct Element {
    id: u64,
    start: u64,
    /// `None` where the writer did not know the size.
    end: Option<u64>,
}

#[derive(Default)]
struct Tracks {
    video: bool,
    audio: bool,
    encrypted: bool,
    seen: bool,
    elements: usize,
}

pub(super) fn look(reader: &mut Reader) -> Result<Look> {
    let (mut tracks, mut cut) = (Tracks::default(), false);
    let mut at = 0;
    let length = reader.length();
    while let Some(e) = element(reader, at, length)? {
        tracks.elements += 1;
        if e.id == SEGMENT {
            cut = e.end.is_some_and(|end| end > length);
            inside(reader, e.start, e.end.map_or(length, |end| end.min(length)), &mut tracks)?;
            break;
        }
        let Some(end) = e.end.filter(|_| tracks.elements < MOST_ELEMENTS) else { break };
        at = end;
    }
    Ok(Look { encrypted: tracks.encrypted, cut, ..Look::streams(tracks.video, tracks.audio) })
}

/// A variable-length number of up to `most` bytes at the start of `bytes`, and how long it is.
fn number(bytes: &[u8], most: u32, keep_marker: bool) -> Option<(u64, usize)> {
    let first = *bytes.first()?;
    let length = first.leading_zeros() + 1;
    if length > most {
        return None;
    }
    let marker = if keep_marker { 0xFF } else { (0xFF_u32 >> length) as u8 };
    let rest = bytes.get(1..length as usize)?;
    let value = rest.iter().fold(u64::from(first & marker), |n, b| n << 8 | u64::from(*b));
    Some((value, length as usize))
}

fn element(reader: &mut Reader, at: u64, end: u64) -> Result<Option<Element>> {
    if at >= end {
        return Ok(None);
    }
    let bytes = reader.at(at, 12)?;
    let Some((id, n)) = number(&bytes, 4, true) else { return Ok(None) };
    let Some((size, m)) = number(&bytes[n..], 8, false) else { return Ok(None) };
    let start = at + (n + m) as u64;
    let unknown = size == (1 << (7 * m)) - 1;
    Ok(Some(Element { id, start, end: (!unknown).then(|| start.saturating_add(size)) }))
}

/// Elements of known nesting, of which only those of tracks are entered.
fn inside(reader: &mut Reader, start: u64, end: u64, tracks: &mut Tracks) -> Result<()> {
    let mut at = start;
    while let Some(e) = element(reader, at, end)? {
        tracks.elements += 1;
        let Some(stop) = e.end.map(|stop| stop.min(end)).filter(|_| tracks.elements < MOST_ELEMENTS) else { break };
        match e.id {
            TRACKS | TRACK | ENCODINGS | ENCODING => inside(reader, e.start, stop, tracks)?,
            TRACK_TYPE => match reader.at(e.start, (stop - e.start).min(8) as usize)?.last() {
                Some(1) => tracks.video = true,
                Some(2) => tracks.audio = true,
                _ => {}
            },
            ENCRYPTION => tracks.encrypted = true,
            _ => {}
        }
        tracks.seen |= e.id == TRACKS;
        // What follows is the media itself.
        if tracks.seen && e.id == TRACKS {
            break;
        }
        at = stop;
    }
    Ok(())
}
