//! MP4, QuickTime, 3GP, M4A, HEIF (ISO 14496-12): which tracks the movie header lists.

use super::{Kind, Look, big};
use crate::source::Reader;
use std::io::Result;

/// Boxes that are looked at; a file that has more of them before it says what it is, says nothing.
const MOST_BOXES: usize = 20_000;
/// Top boxes that a file of this family may open with.
const FIRST: [&[u8; 4]; 9] = [b"ftyp", b"moov", b"mdat", b"free", b"skip", b"wide", b"pnot", b"styp", b"moof"];
/// Brands of still pictures.
const STILL: [&[u8; 4]; 6] = [b"heic", b"heix", b"mif1", b"avif", b"heim", b"heis"];

#[derive(Default)]
struct Movie {
    /// Number, handler and first sample entry of every track.
    tracks: Vec<Track>,
    /// Tracks that are chapters of others: a picture for each, as in audio books.
    chapters: Vec<u64>,
    boxes: usize,
}

#[derive(Default)]
struct Track {
    id: u64,
    handler: [u8; 4],
    entry: [u8; 4],
}

/// `None` where it is not of this family.
pub(super) fn look(reader: &mut Reader, first: &[u8]) -> Result<Option<Look>> {
    if !FIRST.iter().any(|f| first == *f) {
        return Ok(None);
    }
    let (mut movie, mut found, mut cut, mut still) = (Movie::default(), false, false, false);
    let mut at = 0;
    while let Some(b) = header(reader, at, reader.length())? {
        movie.boxes += 1;
        if movie.boxes > MOST_BOXES || !b.name.iter().all(|c| c.is_ascii_graphic() || *c == b' ' || *c == 0xA9) {
            break;
        }
        cut |= b.end > reader.length();
        match &b.name {
            b"ftyp" => {
                let brand = reader.at(b.start, 4)?;
                still = STILL.iter().any(|s| brand == *s);
            }
            b"moov" => {
                found = true;
                tracks(reader, b.start, b.end.min(reader.length()), &mut movie)?;
            }
            _ => {}
        }
        at = b.end;
    }
    if !found {
        // A picture, or a movie whose header was to come at the end.
        return Ok(Some(if still { Look::from(Kind::Image).cut(cut) } else { Look::default().cut(true) }));
    }
    let is = |t: &Track, handlers: &[&[u8; 4]]| handlers.iter().any(|h| t.handler == **h);
    let video = movie.tracks.iter().any(|t| is(t, &[b"vide", b"pict"]) && !movie.chapters.contains(&t.id));
    let audio = movie.tracks.iter().any(|t| is(t, &[b"soun"]));
    let locked = |t: &Track| [b"encv", b"enca", b"drms", b"drmi"].iter().any(|e| t.entry == **e);
    let encrypted = movie.tracks.iter().any(locked);
    Ok(Some(Look { encrypted, cut, ..Look::streams(video, audio) }))
}

struct Box {
    name: [u8; 4],
    start: u64,
    end: u64,
}

/// The box at `at`, which may claim to end beyond `end`.
fn header(reader: &mut Reader, at: u64, end: u64) -> Result<Option<Box>> {
    if at.saturating_add(8) > end {
        return Ok(None);
    }
    let bytes = reader.at(at, 16)?;
    let (Some(size), Some(&[a, b, c, d])) = (big(&bytes, 0, 4), bytes.get(4..8)) else { return Ok(None) };
    let (start, size) = match size {
        0 => (at + 8, end - at),
        1 => match big(&bytes, 8, 8) {
            Some(size) => (at + 16, size),
            None => return Ok(None),
        },
        size => (at + 8, size),
    };
    let end = at.saturating_add(size);
    // Less than its own header: there is no going on from here.
    Ok((end >= start).then_some(Box { name: [a, b, c, d], start, end }))
}

/// Every box between, one after the other.
fn children(
    reader: &mut Reader,
    (start, end): (u64, u64),
    movie: &mut Movie,
    each: &mut dyn FnMut(&mut Reader, &Box, &mut Movie) -> Result<()>,
) -> Result<()> {
    let mut at = start;
    while let Some(b) = header(reader, at, end)? {
        movie.boxes += 1;
        if movie.boxes > MOST_BOXES {
            return Ok(());
        }
        each(reader, &Box { end: b.end.min(end), ..b }, movie)?;
        at = b.end;
    }
    Ok(())
}

fn tracks(reader: &mut Reader, start: u64, end: u64, movie: &mut Movie) -> Result<()> {
    children(reader, (start, end), movie, &mut |reader, b, movie| {
        if &b.name == b"trak" {
            movie.tracks.push(Track::default());
            inside(reader, (b.start, b.end), movie)?;
        }
        Ok(())
    })
}

/// What lies in a track, through the boxes that hold others. The nesting is of known names, so it ends.
fn inside(reader: &mut Reader, range: (u64, u64), movie: &mut Movie) -> Result<()> {
    children(reader, range, movie, &mut |reader, b, movie| {
        let mut take = [0; 4];
        match &b.name {
            b"mdia" | b"minf" | b"stbl" => inside(reader, (b.start, b.end), movie)?,
            b"tkhd" => {
                let bytes = reader.at(b.start, 24)?;
                let at = if bytes.first() == Some(&1) { 20 } else { 12 };
                if let (Some(track), Some(id)) = (movie.tracks.last_mut(), big(&bytes, at, 4)) {
                    track.id = id;
                }
            }
            b"hdlr" | b"stsd" => {
                let at = if &b.name == b"hdlr" { 8 } else { 12 };
                let bytes = reader.at(b.start + at, 4)?;
                if bytes.len() == 4 {
                    take.copy_from_slice(&bytes);
                }
                let Some(track) = movie.tracks.last_mut() else { return Ok(()) };
                // A media's handler comes before that of its data.
                match &b.name {
                    b"stsd" => track.entry = take,
                    _ if track.handler == [0; 4] => track.handler = take,
                    _ => {}
                }
            }
            b"tref" => children(reader, (b.start, b.end), movie, &mut |reader, b, movie| {
                if &b.name == b"chap" {
                    let bytes = reader.at(b.start, (b.end - b.start).min(64) as usize)?;
                    movie.chapters.extend((0..bytes.len() / 4).filter_map(|i| big(&bytes, i * 4, 4)));
                }
                Ok(())
            })?,
            _ => {}
        }
        Ok(())
    })
}
