//! XMP in picture files: where JPEG, PNG and WebP have it. What else is in the file, the picture above all, stays as it
//! was, to the byte. (XMP Specification Part 3.)

use super::xmp::{self, Home};
use crate::args::output::IfExists;
use anyhow::{Context, Result, bail, ensure};
use flate2::read::ZlibDecoder;
use image::ImageDecoder;
use image::codecs::webp::WebPDecoder;
use img_parts::Bytes;
use img_parts::jpeg::{Jpeg, JpegSegment, markers};
use img_parts::png::{Png, PngChunk};
use img_parts::riff::{RiffChunk, RiffContent};
use img_parts::webp::{CHUNK_VP8X, CHUNK_XMP, WebP};
use std::io::{Cursor, Read};

const JPEG_XMP: &[u8] = b"http://ns.adobe.com/xap/1.0/\0";
const JPEG_EXTENDED: &[u8] = b"http://ns.adobe.com/xmp/extension/\0";
/// Other pictures in the file, which are found by where they are from here on.
const JPEG_OTHERS: &[u8] = b"MPF\0";
/// Bytes of a segment without its length.
const MOST_IN_SEGMENT: usize = 65_533;
const PNG_XMP: &[u8] = b"XML:com.adobe.xmp\0";
/// Bytes of a packet that was compressed: a bound on memory.
const MOST_IN_PACKET: u64 = 16 << 20;
/// In WebP's header, that there is XMP; and that there is transparency.
const WEBP_XMP: u8 = 0x04;
const WEBP_ALPHA: u8 = 0x10;

/// A picture's file in its parts.
pub(crate) struct Picture {
    parts: Parts,
    /// What follows after the picture's end: some cameras put films there.
    tail: Bytes,
}

enum Parts {
    Jpeg(Jpeg),
    Png(Png),
    WebP(WebP),
}

impl Picture {
    /// Takes a file apart; `None` where it is of a kind that has no place for XMP.
    ///
    /// # Errors
    /// If it is damaged.
    pub(crate) fn open(file: Vec<u8>) -> Result<Option<Self>> {
        let file = Bytes::from(file);
        let damaged = "its parts cannot be told apart; it may be damaged";
        let (parts, length) = if file.starts_with(&[0xFF, 0xD8, 0xFF]) {
            let jpeg = Jpeg::from_bytes(file.clone()).context(damaged)?;
            ensure!(jpeg.segments().iter().any(JpegSegment::has_entropy), damaged);
            // All from the picture on is one part.
            let length = file.len();
            (Parts::Jpeg(jpeg), length)
        } else if file.starts_with(b"\x89PNG\r\n\x1a\n") {
            let png = Png::from_bytes(file.clone()).context(damaged)?;
            let length = png.len();
            (Parts::Png(png), length)
        } else if file.starts_with(b"RIFF") && file.get(8..12) == Some(b"WEBP") {
            // Lists in lists, which no WebP has, would be gone into without a bound.
            ensure!(!file.windows(4).any(|name| name == b"LIST" || name == b"seqt"), damaged);
            let webp = WebP::from_bytes(file.clone()).context(damaged)?;
            let length = webp.len() as usize;
            (Parts::WebP(webp), length)
        } else {
            return Ok(None);
        };
        Ok(Some(Self { parts, tail: file.slice(length.min(file.len())..) }))
    }

    /// Its description.
    ///
    /// # Errors
    /// If its XMP cannot be read.
    pub(crate) fn description(&self) -> Result<Option<String>> {
        Ok(self.packet()?.map(|packet| xmp::description(&packet)).transpose()?.flatten())
    }

    /// The file with a caption as its description; `None` where it has it, or something that stays.
    ///
    /// # Errors
    /// If its XMP cannot be read, or would not fit.
    pub(crate) fn describe(mut self, caption: &str, how: IfExists) -> Result<Option<Vec<Bytes>>> {
        let old = self.packet()?;
        let Some(new) = xmp::describe(old.as_deref(), caption, how, Home::Picture)? else { return Ok(None) };
        match &mut self.parts {
            Parts::Jpeg(jpeg) => set_jpeg(jpeg, new)?,
            Parts::Png(png) => set_png(png, &new),
            Parts::WebP(webp) => set_webp(webp, new)?,
        }
        let written = match self.parts {
            Parts::Jpeg(jpeg) => jpeg.encoder().bytes(),
            Parts::Png(png) => png.encoder().bytes(),
            Parts::WebP(webp) => webp.encoder().bytes(),
        };
        Ok(Some(vec![written, self.tail]))
    }

    fn packet(&self) -> Result<Option<String>> {
        let bytes = match &self.parts {
            Parts::Jpeg(jpeg) => {
                let found = jpeg.segments().iter().find(|segment| is_xmp(segment));
                found.map(|segment| segment.contents()[JPEG_XMP.len()..].to_vec())
            }
            Parts::Png(png) => png.chunks().iter().find_map(png_text).map(png_packet).transpose()?,
            Parts::WebP(webp) => {
                let found = webp.chunks().iter().find(|chunk| chunk.id() == CHUNK_XMP);
                found.and_then(|chunk| Some(chunk.content().data()?.to_vec()))
            }
        };
        // Some pad it with zeros.
        let text = |bytes: Vec<u8>| String::from_utf8(bytes).map(|text| text.trim_end_matches('\0').to_owned());
        bytes.map(text).transpose().context("the XMP that is there is not UTF-8")
    }
}

fn is_xmp(segment: &JpegSegment) -> bool {
    segment.marker() == markers::APP1 && segment.contents().starts_with(JPEG_XMP)
}

fn set_jpeg(jpeg: &mut Jpeg, packet: String) -> Result<()> {
    let extended = jpeg.segments().iter().filter(|s| s.contents().starts_with(JPEG_EXTENDED));
    // In its own order: names of what it holds are not looked for across the seams of a packet that is in pieces.
    let extended: Vec<u8> =
        extended.flat_map(|s| s.contents().iter().skip(JPEG_EXTENDED.len() + 40).copied()).collect();
    let holds = |name: &[u8]| extended.windows(name.len()).any(|part| part == name);
    ensure!(!holds(b"dc:description"), "its description is in extended XMP, which is not changed; give --sidecar xmp");
    let room = MOST_IN_SEGMENT - JPEG_XMP.len();
    let packet = if packet.len() > room { unpadded(&packet) } else { packet };
    ensure!(packet.len() <= room, "its XMP would not fit into a JPEG: {} bytes, {room} do", packet.len());
    let segments = jpeg.segments_mut();
    let segment = JpegSegment::new_with_contents(markers::APP1, [JPEG_XMP, packet.as_bytes()].concat().into());
    // After JFIF and Exif, which want to be first, and before what must not be moved against other pictures.
    let first = |s: &JpegSegment| ![markers::APP0, markers::APP1].contains(&s.marker());
    let (at, replaces) = match segments.iter().position(is_xmp) {
        Some(at) => (at, true),
        None => (segments.iter().position(first).unwrap_or(segments.len()), false),
    };
    let moved = segments[..at].iter().any(|s| s.marker() == markers::APP2 && s.contents().starts_with(JPEG_OTHERS));
    ensure!(!moved, "other pictures are in this file, which would no longer be found; give --sidecar xmp");
    if replaces {
        segments[at] = segment;
    } else {
        segments.insert(at, segment);
    }
    Ok(())
}

/// A packet without the room that was left in it for changes.
fn unpadded(packet: &str) -> String {
    match packet.rsplit_once("<?xpacket end") {
        Some((body, end)) => format!("{}\n<?xpacket end{end}", body.trim_end()),
        None => packet.trim_end().to_owned(),
    }
}

/// What follows the name of PNG's XMP.
fn png_text(chunk: &PngChunk) -> Option<&[u8]> {
    if chunk.kind() == *b"iTXt" { chunk.contents().strip_prefix(PNG_XMP) } else { None }
}

/// Whether it is compressed, how, a language and a translated name come before it.
fn png_packet(text: &[u8]) -> Result<Vec<u8>> {
    let [compressed, _, names @ ..] = text else { bail!("the XMP that is there is cut off") };
    let mut parts = names.splitn(3, |byte| *byte == 0);
    let (Some(_), Some(_), Some(packet)) = (parts.next(), parts.next(), parts.next()) else {
        bail!("the XMP that is there is cut off");
    };
    if *compressed == 0 {
        return Ok(packet.to_vec());
    }
    let mut plain = Vec::new();
    let read = ZlibDecoder::new(packet).take(MOST_IN_PACKET + 1).read_to_end(&mut plain);
    read.context("the XMP that is there is damaged")?;
    ensure!(plain.len() as u64 <= MOST_IN_PACKET, "the XMP that is there is larger than {} MiB", MOST_IN_PACKET >> 20);
    Ok(plain)
}

fn set_png(png: &mut Png, packet: &str) {
    let contents = [PNG_XMP, &[0, 0, 0, 0], packet.as_bytes()].concat();
    let chunk = PngChunk::new(*b"iTXt", contents.into());
    let chunks = png.chunks_mut();
    match chunks.iter().position(|chunk| png_text(chunk).is_some()) {
        Some(at) => chunks[at] = chunk,
        // After the header, so that it is found without reading the picture.
        None => chunks.insert(1.min(chunks.len()), chunk),
    }
}

fn set_webp(webp: &mut WebP, packet: String) -> Result<()> {
    let header = webp.chunks().iter().position(|chunk| chunk.id() == CHUNK_VP8X);
    let header = match header {
        Some(at) => at,
        None => {
            let plain = webp.clone().encoder().bytes();
            webp.chunks_mut().insert(0, webp_header(&plain)?);
            0
        }
    };
    let chunks = webp.chunks_mut();
    let mut flags = chunks[header].content().data().context("it has no header")?.to_vec();
    *flags.first_mut().context("its header is cut off")? |= WEBP_XMP;
    chunks[header] = RiffChunk::new(CHUNK_VP8X, RiffContent::Data(flags.into()));
    let chunk = RiffChunk::new(CHUNK_XMP, RiffContent::Data(packet.into()));
    match chunks.iter().position(|chunk| chunk.id() == CHUNK_XMP) {
        Some(at) => chunks[at] = chunk,
        None => chunks.push(chunk),
    }
    Ok(())
}

/// The header that a WebP needs to have more than its picture in it.
fn webp_header(file: &[u8]) -> Result<RiffChunk> {
    let decoder = WebPDecoder::new(Cursor::new(file))?;
    let (width, height) = decoder.dimensions();
    let mut header = vec![if decoder.color_type().has_alpha() { WEBP_ALPHA } else { 0 }, 0, 0, 0];
    for side in [width, height] {
        // Three bytes, the least significant first; no WebP is larger.
        header.extend_from_slice(&side.saturating_sub(1).to_le_bytes()[..3]);
    }
    Ok(RiffChunk::new(CHUNK_VP8X, RiffContent::Data(header.into())))
}
