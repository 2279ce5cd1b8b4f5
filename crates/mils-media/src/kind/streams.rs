//! Streams without an index: Ogg, MPEG program and transport streams, and codecs that lie bare in a file.

use super::{Kind, Look, big};
use crate::source::Reader;
use std::io::Result;

/// Bytes that are searched for what a stream is made of.
const SEARCHED: usize = 1 << 20;

/// Ogg: the first pages of all streams come first (RFC 3533).
pub(super) fn ogg(reader: &mut Reader) -> Result<Look> {
    let (mut video, mut audio) = (false, false);
    let mut at = 0;
    for _ in 0..64 {
        let page = reader.at(at, 27 + 255 + 64)?;
        let (Some(flags), Some(count)) = (page.get(5), page.get(26)) else { break };
        if !page.starts_with(b"OggS") || flags & 2 == 0 {
            break;
        }
        let table = 27 + usize::from(*count);
        let size: usize = page.get(27..table).unwrap_or_default().iter().map(|b| usize::from(*b)).sum();
        let body = page.get(table..).unwrap_or_default();
        let is = |magics: &[&[u8]]| magics.iter().any(|m| body.starts_with(m));
        video |= is(&[b"\x80theora", b"BBCD\0", b"OVP80", b"\x01video"]);
        audio |= is(&[b"\x01vorbis", b"OpusHead", b"\x7fFLAC", b"Speex   ", b"PCM     ", b"fLaC", b"\x01audio"]);
        at += (table + size) as u64;
    }
    Ok(Look::streams(video, audio).cut(ogg_cut(reader)?))
}

/// Whether the last page says that it is longer than the file.
fn ogg_cut(reader: &mut Reader) -> Result<bool> {
    // The longest page there can be.
    let before = reader.length().saturating_sub(27 + 255 + 255 * 255);
    let tail = reader.at(before, 27 + 255 + 255 * 255)?;
    let Some(at) = tail.windows(5).rposition(|w| w == b"OggS\0") else { return Ok(false) };
    let page = &tail[at..];
    let Some(table) = page.get(26).and_then(|count| page.get(27..27 + usize::from(*count))) else { return Ok(true) };
    Ok(27 + table.len() + table.iter().map(|b| usize::from(*b)).sum::<usize>() > page.len())
}

/// What is behind an ID3 tag: sound, in whatever codec.
pub(super) fn tagged(head: &[u8], reader: &mut Reader) -> Result<Look> {
    let Some(&[a, b, c, d]) = head.get(6..10) else { return Ok(Look::default()) };
    let size = [a, b, c, d].iter().fold(0_u64, |n, byte| n << 7 | u64::from(byte & 0x7F));
    let behind = reader.at(size + 10, 2048)?;
    Ok(Look::from(Kind::Audio).cut(behind.is_empty() || mpeg_cut(&behind, reader.length() - size - 10)))
}

/// Whether the first frame's Xing tag counts more bytes than there are.
fn mpeg_cut(bytes: &[u8], length: u64) -> bool {
    let frame = big(bytes, 0, 4).and_then(|word| mpeg_frame(word as u32));
    let Some(frame) = frame.and_then(|length| bytes.get(..length)) else { return false };
    let tag = frame.windows(4).position(|w| w == b"Xing" || w == b"Info");
    let Some(flags) = tag.and_then(|at| big(frame, at + 4, 4).map(|flags| (at, flags))) else { return false };
    // The count of frames comes before that of bytes.
    let (at, flags) = (flags.0 + 8 + if flags.1 & 1 != 0 { 4 } else { 0 }, flags.1);
    flags & 2 != 0 && big(frame, at, 4).is_some_and(|count| count > length)
}

/// Formats without a container, or with one that needs no walk.
pub(super) fn bare(head: &[u8], reader: &mut Reader) -> Result<Look> {
    const SOUNDS: [&[u8]; 15] = [
        b"fLaC",
        b"caff",
        b".snd",
        b"#!AMR",
        b"MAC ",
        b"wvpk",
        b"TTA1",
        b"MPCK",
        b"MP+",
        b"\x0B\x77",
        b"\x7F\xFE\x80\x01",
        b"DSD ",
        b"FRM8",
        b"#!SILK",
        b"ajkg",
    ];
    const VIDEOS: [&[u8]; 6] =
        [b"DKIF", b"YUV4MPEG2 ", b"\0\0\x01\xB3", b"\0\0\0\x01\x67", b"\0\0\x01\x67", b"\0\0\0\x01\x40\x01"];
    if head.starts_with(b"caff") {
        return Ok(Look::from(Kind::Audio).cut(caf_cut(reader)?));
    }
    if SOUNDS.iter().any(|magic| head.starts_with(magic)) {
        return Ok(Kind::Audio.into());
    }
    if VIDEOS.iter().any(|magic| head.starts_with(magic)) {
        return Ok(Kind::Video.into());
    }
    if head.starts_with(b"FLV\x01") {
        let flags = head.get(4).copied().unwrap_or_default();
        return Ok(Look::streams(flags & 1 != 0, flags & 4 != 0));
    }
    if head.starts_with(b"\0\0\x01\xBA") {
        let bytes = reader.at(0, SEARCHED)?;
        let has =
            |ids: std::ops::RangeInclusive<u8>| bytes.windows(4).any(|w| w[..3] == [0, 0, 1] && ids.contains(&w[3]));
        return Ok(Look::streams(has(0xE0..=0xEF), has(0xBD..=0xBD) || has(0xC0..=0xDF)));
    }
    // Blu-ray puts a time of 4 bytes before every packet.
    for (first, step) in [(0, 188), (4, 192)] {
        if (0..4).all(|i| head.get(first + i * step) == Some(&0x47)) {
            return Ok(transport(&reader.at(0, SEARCHED)?, first, step));
        }
    }
    let cut = mpeg_cut(head, reader.length());
    Ok(if frames(head) { Look::from(Kind::Audio).cut(cut) } else { Look::default() })
}

/// Core Audio Format: chunks with sizes, of which the data's may be -1 for "to the end".
fn caf_cut(reader: &mut Reader) -> Result<bool> {
    let mut at = 8;
    for _ in 0..1000 {
        let Some(size) = big(&reader.at(at, 12)?, 4, 8) else { break };
        let Ok(size) = i64::try_from(size) else { break };
        at += 12 + size as u64;
        if at > reader.length() {
            return Ok(true);
        }
    }
    Ok(false)
}

/// MPEG audio or ADTS: a frame's header, and a second one where the first says.
pub(crate) fn frames(head: &[u8]) -> bool {
    let next = |at: usize| -> Option<usize> {
        let word = big(head, at, 4)? as u32;
        if word >> 20 == 0xFFF && (word >> 17) & 3 == 0 {
            // ADTS: layer 0, and the length across bytes 3 to 5.
            let low = big(head, at + 4, 2)? as u32;
            let length = ((word & 3) << 11) | (low >> 5);
            return (length >= 7).then_some(at + length as usize);
        }
        mpeg_frame(word).map(|length| at + length)
    };
    let Some(second) = next(0) else { return false };
    next(second).is_some() || second >= head.len()
}

/// Bytes of an MPEG audio frame by its header.
fn mpeg_frame(word: u32) -> Option<usize> {
    const V1: [[u32; 15]; 3] = [
        [0, 32, 64, 96, 128, 160, 192, 224, 256, 288, 320, 352, 384, 416, 448],
        [0, 32, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320, 384],
        [0, 32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320],
    ];
    const V2: [[u32; 15]; 2] = [
        [0, 32, 48, 56, 64, 80, 96, 112, 128, 144, 160, 176, 192, 224, 256],
        [0, 8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160],
    ];
    let (version, layer) = ((word >> 19) & 3, 4 - ((word >> 17) & 3) as usize);
    if word >> 21 != 0x7FF || version == 1 || layer == 4 {
        return None;
    }
    let table = if version == 3 { &V1[layer - 1] } else { &V2[usize::from(layer > 1)] };
    let kilobits = *table.get(((word >> 12) & 15) as usize).filter(|k| **k > 0)?;
    let base = *[44_100, 48_000, 32_000].get(((word >> 10) & 3) as usize)?;
    let rate = match version {
        3 => base,
        2 => base / 2,
        _ => base / 4,
    };
    let padding = (word >> 9) & 1;
    Some(match layer {
        1 => (12_000 * kilobits / rate + padding) * 4,
        3 if version != 3 => 72_000 * kilobits / rate + padding,
        _ => 144_000 * kilobits / rate + padding,
    } as usize)
}

/// MPEG transport stream: the program's map of streams, in the first megabyte.
fn transport(bytes: &[u8], first: usize, step: usize) -> Look {
    let (mut video, mut audio) = (false, false);
    let mut map = None;
    for packet in bytes.get(first..).unwrap_or_default().chunks(step).filter(|p| p.len() >= 188 && p[0] == 0x47) {
        let id = u16::from(packet[1] & 0x1F) << 8 | u16::from(packet[2]);
        let starts = packet[1] & 0x40 != 0;
        let skip = if packet[3] & 0x20 != 0 { 5 + usize::from(packet[4]) } else { 4 };
        let Some(body) = packet.get(skip..188).filter(|b| starts && !b.is_empty()) else { continue };
        let Some(table) = body.get(1 + usize::from(body[0])..) else { continue };
        let length = big(table, 1, 2).unwrap_or_default() as usize & 0xFFF;
        let end = (3 + length).saturating_sub(4).min(table.len());
        if id == 0 && table.first() == Some(&0) {
            let programs = table.get(8..end).unwrap_or_default().chunks_exact(4);
            map = programs.filter(|p| p[..2] != [0, 0]).map(|p| u16::from(p[2] & 0x1F) << 8 | u16::from(p[3])).next();
        } else if Some(id) == map && table.first() == Some(&2) {
            let mut at = 12 + (big(table, 10, 2).unwrap_or_default() as usize & 0xFFF);
            while let (Some(kind), Some(more)) = (table.get(at).filter(|_| at + 5 <= end), big(table, at + 3, 2)) {
                video |= matches!(kind, 0x01 | 0x02 | 0x10 | 0x1B | 0x20 | 0x21 | 0x24 | 0x33 | 0x42 | 0xD1 | 0xEA);
                audio |= matches!(kind, 0x03 | 0x04 | 0x0F | 0x11 | 0x1C | 0x81..=0x87 | 0xA1 | 0xA2);
                at += 5 + (more as usize & 0xFFF);
            }
            if video || audio {
                break;
            }
        }
    }
    Look::streams(video, audio)
}
