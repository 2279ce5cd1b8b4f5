//! Containers of chunks: RIFF (WAV, AVI), IFF (AIFF), ASF (WMA, WMV).

use super::{Kind, Look, big, little};
use crate::source::Reader;
use std::io::Result;

/// Chunks that are looked at.
const MOST_CHUNKS: usize = 1000;
/// Sizes from here on stand for "not known": what writers to pipes leave in the header.
const UNKNOWN: u64 = 0x7FFF_0000;

/// RIFF and IFF. What is none of these forms says nothing.
pub(super) fn look(reader: &mut Reader) -> Result<Look> {
    let head = reader.at(0, 12)?;
    let form = head.get(8..12).unwrap_or_default();
    let iff = head.starts_with(b"FORM");
    let size = if iff { big(&head, 4, 4) } else { little(&head, 4, 4) }.unwrap_or_default();
    // Zero where the writer was ended before it could come back; the last byte may be padding, which some leave out.
    let known = size != 0 && size < UNKNOWN && (iff || head.starts_with(b"RIFF"));
    let cut = known && size + 8 > reader.length() + 1;
    Ok(match form {
        b"WAVE" | b"AIFF" | b"AIFC" => Look::from(Kind::Audio).cut(cut),
        b"AVI " => {
            let (mut video, mut audio, mut budget) = (false, false, MOST_CHUNKS);
            let end = reader.length();
            avi(reader, (12, end), &mut budget, &mut |kind| {
                video |= kind == b"vids";
                audio |= kind == b"auds";
            })?;
            Look::streams(video, audio).cut(cut)
        }
        _ => Look::default(),
    })
}

/// Tells the type of every stream header. Lists nest, as deep as there are chunks in the budget.
fn avi(reader: &mut Reader, range: (u64, u64), budget: &mut usize, each: &mut dyn FnMut(&[u8])) -> Result<()> {
    let (mut at, end) = range;
    while at + 8 <= end && *budget > 0 {
        *budget -= 1;
        let head = reader.at(at, 12)?;
        let Some(size) = little(&head, 4, 4) else { break };
        let stop = (at + 8 + size).min(end);
        let inner = head.get(8..12).unwrap_or_default();
        match head.get(..4).unwrap_or_default() {
            b"LIST" if inner == b"movi" => break,
            b"LIST" if inner == b"hdrl" || inner == b"strl" => avi_list(reader, (at + 12, stop), budget, each)?,
            b"strh" => each(inner),
            _ => {}
        }
        at += 8 + size + size % 2;
    }
    Ok(())
}

/// One level down: only `hdrl` and `strl` are entered, and not without end.
fn avi_list(reader: &mut Reader, range: (u64, u64), budget: &mut usize, each: &mut dyn FnMut(&[u8])) -> Result<()> {
    // A list in a list in a list is as deep as real files go.
    *budget = (*budget).saturating_sub(MOST_CHUNKS / 50);
    avi(reader, range, budget, each)
}

/// How an ASF file begins.
pub(super) const ASF: [u8; 16] = guid(0x75B2_2630, 0x668E, 0x11CF, [0xA6, 0xD9, 0, 0xAA, 0, 0x62, 0xCE, 0x6C]);
const FILE: [u8; 16] = guid(0x8CAB_DCA1, 0xA947, 0x11CF, [0x8E, 0xE4, 0, 0xC0, 0x0C, 0x20, 0x53, 0x65]);
const STREAM: [u8; 16] = guid(0xB7DC_0791, 0xA9B7, 0x11CF, [0x8E, 0xE6, 0, 0xC0, 0x0C, 0x20, 0x53, 0x65]);
const AUDIO: [u8; 16] = guid(0xF869_9E40, 0x5B4D, 0x11CF, [0xA8, 0xFD, 0, 0x80, 0x5F, 0x5C, 0x44, 0x2B]);
const VIDEO: [u8; 16] = guid(0xBC19_EFC0, 0x5B4D, 0x11CF, [0xA8, 0xFD, 0, 0x80, 0x5F, 0x5C, 0x44, 0x2B]);
const LOCK: [u8; 16] = guid(0x2211_B3FB, 0xBD23, 0x11D2, [0xB4, 0xB7, 0, 0xA0, 0xC9, 0x55, 0xFC, 0x6E]);
const LOCK_2: [u8; 16] = guid(0x298A_E614, 0x2622, 0x4C17, [0xB9, 0x35, 0xDA, 0xE0, 0x7E, 0xE9, 0x28, 0x9C]);

/// A GUID as it lies in a file.
const fn guid(a: u32, b: u16, c: u16, d: [u8; 8]) -> [u8; 16] {
    let (a, b, c) = (a.to_le_bytes(), b.to_le_bytes(), c.to_le_bytes());
    [a[0], a[1], a[2], a[3], b[0], b[1], c[0], c[1], d[0], d[1], d[2], d[3], d[4], d[5], d[6], d[7]]
}

/// Advanced Systems Format: objects of a GUID and a size.
pub(super) fn asf(reader: &mut Reader) -> Result<Look> {
    let (mut video, mut audio, mut encrypted, mut cut) = (false, false, false, false);
    let mut at = 30_u64;
    let end = little(&reader.at(16, 8)?, 0, 8).unwrap_or_default().min(reader.length());
    for _ in 0..MOST_CHUNKS {
        if at.saturating_add(24) > end {
            break;
        }
        let bytes = reader.at(at, 48)?;
        let (Some(id), Some(size)) = (bytes.get(..16), little(&bytes, 16, 8)) else { break };
        if id == STREAM {
            let kind = bytes.get(24..40).unwrap_or_default();
            video |= kind == VIDEO;
            audio |= kind == AUDIO;
        } else if id == FILE {
            // Zero in a broadcast.
            cut = little(&bytes, 40, 8).is_some_and(|size| size > reader.length());
        }
        encrypted |= id == LOCK || id == LOCK_2;
        if size < 24 {
            break;
        }
        at = at.saturating_add(size);
    }
    Ok(Look { encrypted, cut, ..Look::streams(video, audio) })
}
