//! What a report shows of a file: a picture, a video's frames side by side, or the outline of a sound; and a player.

use crate::media::{Media, ModalityChoice};
use crate::trace::RunFacts;
use anyhow::{Context, Result};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use image::imageops::{FilterType, replace, resize};
use mils_encoder::{Listening, Sound};
use mils_media::audio::Filter;
use mils_media::video::Sampling;
use mils_media::{DecodeLimits, RgbImage};
use mils_models::Modality;
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, percent_encode};
use serde::Serialize;
use std::fs::File;
use std::io::Read;
use std::path::{Component, Path, PathBuf};

/// Longer side of the embedded picture; a video's frames side by side are about twice as wide.
const PICTURE: u32 = 560;
/// Longer side of the one in an index.
const SMALL: u32 = 96;
/// Longer side of those of steps.
const THUMBNAIL: u32 = 160;
/// Columns of a sound's outline, and its height, in SVG units; and of the one in an index.
const OUTLINE: (usize, f32) = (480, 160.0);
const SMALL_OUTLINE: (usize, f32) = (48, 32.0);
/// Sounds and animations of up to so many bytes are put into the page.
const EMBEDDED: u64 = 1 << 20;
/// What of a file's name may stand in an address as it is.
const PLAIN: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~');

/// What is shown of a file.
#[derive(Debug, Default, Serialize)]
pub struct Exhibit {
    /// The picture, or a video's frames.
    pub picture: Option<Picture>,
    /// The outline of a sound.
    pub outline: Option<Outline>,
    /// What of the file plays.
    pub player: Option<Player>,
    /// Where the file is, from the page.
    pub original: Option<String>,
    /// What is to be said about it.
    pub notes: Vec<String>,
    /// What an index shows; not in the page.
    #[serde(skip)]
    pub small: Small,
}

/// A picture in a page.
#[derive(Debug, Serialize)]
pub struct Picture {
    /// A data URI.
    pub address: String,
    /// Pixels.
    pub width: u32,
    /// Pixels.
    pub height: u32,
    /// What it is of a video: how many frames.
    pub frames: Option<usize>,
}

/// A sound's outline.
#[derive(Debug, PartialEq, Serialize)]
pub struct Outline {
    /// Its width in SVG units.
    pub width: usize,
    /// Its height.
    pub height: f32,
    /// The outline as an SVG path.
    pub path: String,
    /// What it is of, for people.
    pub what: String,
}

/// What plays.
#[derive(Debug, Serialize)]
pub struct Player {
    /// Its element: `video`, `audio` or, for animations, `img`.
    pub element: &'static str,
    /// The file's format, as MIME has it.
    pub mime: &'static str,
    /// A relative address, or a data URI.
    pub address: String,
}

/// What an index shows of a file.
#[derive(Debug, Default, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Small {
    /// Nothing.
    #[default]
    None,
    /// A picture as a data URI.
    Picture(String),
    /// The outline of a sound.
    Outline(Outline),
}

/// How media get into pages.
#[derive(Clone, Copy, Debug, Default)]
pub struct Embedding {
    /// Files of up to so many bytes are put into the page, if that was asked for.
    pub most: Option<u64>,
}

/// A file that is to be shown.
pub struct Subject<'a> {
    /// What is known of its content.
    pub media: Result<&'a Media>,
    /// Where it is, if it is there.
    pub file: Option<&'a Path>,
    /// What it was taken for.
    pub modality: Option<Modality>,
}

impl Exhibit {
    /// Of a file, for a page in a folder; without a folder nothing can be linked to.
    ///
    /// # Errors
    /// If a picture cannot be encoded.
    pub fn new(subject: &Subject<'_>, folder: Option<&Path>, embedding: Embedding) -> Result<Self> {
        let mut out = Self::default();
        match &subject.media {
            Ok(media) => out.show(media)?,
            Err(problem) => out.notes.push(format!("It cannot be shown: {}.", crate::show::one_line(problem))),
        }
        let Some(file) = subject.file else { return Ok(out) };
        out.original = folder.and_then(|folder| relative(file, folder));
        let format = subject.modality.filter(|m| *m != Modality::Image).map(|m| (m, Format::of(file, m)));
        match format {
            Some((_, Some(format))) => out.play(file, format, embedding),
            Some((_, None)) if subject.media.is_ok() => {
                out.notes.push("Browsers do not play files of this format.".into());
            }
            _ => {}
        }
        Ok(out)
    }

    fn show(&mut self, media: &Media) -> Result<()> {
        let picture = |image: &RgbImage, frames| -> Result<Option<Picture>> {
            let (width, height) = image.dimensions();
            Ok(Some(Picture { address: jpeg(image, 86)?, width, height, frames }))
        };
        let small = |image: &RgbImage| Ok::<_, anyhow::Error>(Small::Picture(jpeg(&fitted(image, SMALL), 72)?));
        match media {
            Media::Image(image) => {
                self.picture = picture(&fitted(image, PICTURE), None)?;
                self.small = small(image)?;
            }
            Media::Video(frames) => {
                self.picture = picture(&sheet(frames), Some(frames.len()))?;
                if let Some(middle) = frames.get(frames.len() / 2) {
                    self.small = small(middle)?;
                }
            }
            Media::Sound(sound) => {
                self.outline = Some(outline(sound, OUTLINE));
                self.small = Small::Outline(outline(sound, SMALL_OUTLINE));
            }
        }
        Ok(())
    }

    /// Puts the file into the page, if it is small enough, or links to it.
    fn play(&mut self, file: &Path, Format { element, mime }: Format, Embedding { most }: Embedding) {
        let most = most.unwrap_or(0).max(if element == "video" { 0 } else { EMBEDDED });
        match bytes(file, most) {
            Ok(Some(bytes)) => {
                let address = format!("data:{mime};base64,{}", STANDARD.encode(bytes));
                self.player = Some(Player { element, mime, address });
            }
            Ok(None) => match self.original.clone() {
                Some(address) => self.player = Some(Player { element, mime, address }),
                None => self.notes.push(
                    "There is no player: the file is too large to be put into the page (see --embed-media), and too far \
                     from it to be linked to."
                        .into(),
                ),
            },
            Err(problem) => self.notes.push(format!("It cannot be played: {problem}.")),
        }
    }
}

/// All of a file, if it is no larger than so many bytes.
fn bytes(file: &Path, most: u64) -> std::io::Result<Option<Vec<u8>>> {
    let mut bytes = Vec::new();
    if std::fs::metadata(file)?.len() > most {
        return Ok(None);
    }
    // It may have grown since.
    File::open(file)?.take(most + 1).read_to_end(&mut bytes)?;
    Ok((bytes.len() as u64 <= most).then_some(bytes))
}

/// What browsers play.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Format {
    element: &'static str,
    mime: &'static str,
}

impl Format {
    /// By the file's first bytes; `None` for what browsers do not play.
    fn of(file: &Path, modality: Modality) -> Option<Self> {
        let mut head = Vec::new();
        File::open(file).ok()?.take(64).read_to_end(&mut head).ok()?;
        let at = |from: usize, magic: &[u8]| head.get(from..).is_some_and(|rest| rest.starts_with(magic));
        let sound = modality == Modality::Sound;
        let element = if sound { "audio" } else { "video" };
        let either = |audio, video| Some(Self { element, mime: if sound { audio } else { video } });
        let animation = |mime| (!sound).then_some(Self { element: "img", mime });
        let audio = |mime| sound.then_some(Self { element, mime });
        match () {
            () if at(0, b"GIF8") => animation("image/gif"),
            () if at(0, b"\x89PNG") => animation("image/png"),
            () if at(0, b"RIFF") && at(8, b"WEBP") => animation("image/webp"),
            () if at(4, b"ftyp") => either("audio/mp4", "video/mp4"),
            () if at(0, b"\x1A\x45\xDF\xA3") => either("audio/webm", "video/webm"),
            () if at(0, b"OggS") => either("audio/ogg", "video/ogg"),
            () if at(0, b"RIFF") && at(8, b"WAVE") => audio("audio/wav"),
            () if at(0, b"fLaC") => audio("audio/flac"),
            // ADTS has a layer of 0 where MPEG audio has 1 to 3.
            () if head.len() > 1 && head[0] == 0xFF && head[1] & 0xF6 == 0xF0 => audio("audio/aac"),
            () if at(0, b"ID3") || head.len() > 1 && head[0] == 0xFF && head[1] & 0xE0 == 0xE0 => audio("audio/mpeg"),
            () => None,
        }
    }
}

/// Where a file of a trace is now: where it was, or where its name leads from here or from beside the trace.
pub fn find(file: &str, facts: &RunFacts, trace: &Path) -> Option<PathBuf> {
    let beside = trace.parent().map(|folder| folder.join(file));
    let there = facts.folder.as_ref().map(|folder| folder.join(file));
    let places = [there, Some(PathBuf::from(file)), beside];
    places.into_iter().flatten().find(|place| std::fs::metadata(place).is_ok_and(|meta| meta.is_file()))
}

/// A small picture of a picture's file, as a data URI; `None` if there is none any more.
pub fn thumbnail(file: &str, facts: &RunFacts) -> Option<String> {
    let image = mils_media::decode_image(&find(file, facts, Path::new(""))?, &DecodeLimits::default()).ok()?;
    jpeg(&fitted(&image, THUMBNAIL), 82).ok()
}

/// Reads what is shown of a file: a picture, eight frames of a video, all of a sound or windows of a long one.
///
/// # Errors
/// If it cannot be read.
pub fn read(file: &Path, modality: Modality) -> Result<Media> {
    let senses = match modality {
        Modality::Image | Modality::Video => crate::media::Senses::Pictures { frames: 8, sampling: Sampling::Centres },
        Modality::Sound => crate::media::Senses::Sounds(Listening {
            sample_rate: 16_000,
            filter: Filter::default(),
            whole: 60.0,
            window: 5.0,
            windows: 12,
        }),
    };
    senses.read(file, ModalityChoice::from(modality).of(file)?)
}

/// The address of a file from a folder, if they have something in common beside the root: a report that is moved with
/// its files then still finds them.
fn relative(file: &Path, folder: &Path) -> Option<String> {
    let (file, folder) = (file.canonicalize().ok()?, folder.canonicalize().ok()?);
    let (file, folder): (Vec<_>, Vec<_>) = (file.components().collect(), folder.components().collect());
    let common = file.iter().zip(&folder).take_while(|(a, b)| a == b).count();
    if !file[..common].iter().any(|component| matches!(component, Component::Normal(_))) {
        return None;
    }
    let up = std::iter::repeat_n("..".to_owned(), folder.len() - common);
    let down = file[common..].iter().map(|part| percent_encode(part.as_os_str().as_encoded_bytes(), PLAIN).to_string());
    // Without a dot a name with a colon would be a scheme; it is encoded, but then it need not be relied upon.
    Some(std::iter::once(".".to_owned()).chain(up).chain(down).collect::<Vec<_>>().join("/"))
}

/// No longer than so many pixels on its longer side.
fn fitted(image: &RgbImage, most: u32) -> RgbImage {
    let (w, h) = image.dimensions();
    let longest = w.max(h);
    if longest <= most {
        return image.clone();
    }
    let scale = |side: u32| (u64::from(side) * u64::from(most) / u64::from(longest)).max(1) as u32;
    resize(image, scale(w), scale(h), FilterType::Triangle)
}

/// Frames in rows, from left to right, in more columns than rows.
fn sheet(frames: &[RgbImage]) -> RgbImage {
    const GAP: u32 = 4;
    let columns = (1..).find(|n| n * n >= frames.len() * 2).unwrap_or(1).min(frames.len().max(1));
    let each = 2 * PICTURE / columns as u32;
    let small: Vec<RgbImage> = frames.iter().map(|frame| fitted(frame, each)).collect();
    let most = |side: fn(&RgbImage) -> u32| small.iter().map(side).max().unwrap_or(1);
    let (w, h) = (most(RgbImage::width), most(RgbImage::height));
    let rows = small.len().div_ceil(columns).max(1) as u32;
    let (columns_wide, white) = (columns as u32, image::Rgb([255; 3]));
    let mut out = RgbImage::from_pixel(columns_wide * (w + GAP) - GAP, rows * (h + GAP) - GAP, white);
    for (i, frame) in small.iter().enumerate() {
        let (column, row) = ((i % columns) as i64, (i / columns) as i64);
        replace(&mut out, frame, column * i64::from(w + GAP), row * i64::from(h + GAP));
    }
    out
}

fn jpeg(image: &RgbImage, quality: u8) -> Result<String> {
    let mut bytes = Vec::new();
    image::codecs::jpeg::JpegEncoder::new_with_quality(&mut bytes, quality)
        .encode_image(image)
        .context("cannot encode the report's picture")?;
    Ok(format!("data:image/jpeg;base64,{}", STANDARD.encode(bytes)))
}

/// The highest and the lowest sample of each column; windows of a long sound one after the other.
fn outline(sound: &Sound, (columns, height): (usize, f32)) -> Outline {
    let samples: Vec<f32> = sound.pieces.iter().flat_map(|piece| &piece.samples).copied().collect();
    let peak = samples.iter().fold(1e-6_f32, |peak, v| peak.max(v.abs()));
    let each = samples.len().div_ceil(columns).max(1);
    let extremes = samples
        .chunks(each)
        .map(|column| column.iter().fold((f32::INFINITY, f32::NEG_INFINITY), |(lo, hi), &v| (lo.min(v), hi.max(v))));
    let y = |v: f32| height / 2.0 - v / peak * (height / 2.0 - 2.0);
    let line = |(x, (lo, hi)): (usize, (f32, f32))| format!("M{x}.5 {:.1}V{:.1}", y(hi) - 0.5, y(lo) + 0.5);
    let path = extremes.enumerate().map(line).collect();
    let heard: f64 = sound.pieces.iter().map(mils_media::audio::Audio::seconds).sum();
    let what = match sound.pieces.len() {
        1 => format!("{:.1} s", sound.seconds),
        windows => format!("{heard:.0} s of {:.0} s, in {windows} windows", sound.seconds),
    };
    Outline { width: columns, height, path, what }
}

#[cfg(test)]
mod tests {
    use super::*;
    use mils_media::audio::Audio;
    use std::fs;

    #[test]
    fn frames_stand_in_rows_in_their_order() {
        let frame = |level: u8| RgbImage::from_pixel(960, 480, image::Rgb([level; 3]));
        let frames: Vec<RgbImage> = (0..8).map(|i| frame(i * 30)).collect();
        let sheet = sheet(&frames);
        assert_eq!(sheet.dimensions(), (4 * 280 + 3 * 4, 2 * 140 + 4));
        assert_eq!([sheet.get_pixel(10, 10)[0], sheet.get_pixel(1100, 10)[0]], [0, 90]);
        assert_eq!([sheet.get_pixel(400, 200)[0], sheet.get_pixel(1100, 200)[0]], [150, 210]);
        assert_eq!(super::sheet(&frames[..1]).dimensions(), (960, 480));
        assert_eq!(super::sheet(&[]).dimensions(), (1, 1));
    }

    #[test]
    fn an_outline_has_every_sample_in_it() {
        let mut samples = vec![0.0; 48_000];
        samples[24_000] = 0.5;
        let sound = Sound { pieces: vec![Audio { samples, sample_rate: 48_000 }], seconds: 1.0 };
        let Outline { path, what, .. } = outline(&sound, OUTLINE);
        assert_eq!((path.matches('M').count(), what.as_str()), (480, "1.0 s"));
        assert!(path.contains("M240.5 1.5V80.5"), "the one peak: {path}");
        let silent = Sound { pieces: vec![Audio { samples: vec![], sample_rate: 48_000 }], seconds: 0.0 };
        assert!(outline(&silent, OUTLINE).path.is_empty());
    }

    #[test]
    fn addresses_lead_from_the_page_to_the_file_and_are_nothing_else() {
        let dir = tempfile::tempdir().unwrap();
        let (files, report) = (dir.path().join("a"), dir.path().join("r/files"));
        fs::create_dir_all(&files).unwrap();
        fs::create_dir_all(&report).unwrap();
        let at = |name: &str| {
            fs::write(files.join(name), "x").unwrap();
            relative(&files.join(name), &report).unwrap()
        };
        assert_eq!(at("b c.png"), "./../../a/b%20c.png");
        assert_eq!(relative(&files.join("b c.png"), &files).unwrap(), "./b%20c.png");
        if cfg!(unix) {
            assert_eq!(at("javascript:alert(1)?#\"'<é"), "./../../a/javascript%3Aalert%281%29%3F%23%22%27%3C%C3%A9");
            assert_eq!(relative(Path::new("/dev/null"), &report), None, "nothing in common but the root");
        }
        assert_eq!(relative(&files.join("gone"), &report), None);
    }

    #[test]
    fn what_browsers_play_is_told_by_content() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("x");
        let of = |head: &[u8], modality| {
            fs::write(&file, head).unwrap();
            Format::of(&file, modality).map(|format| (format.element, format.mime))
        };
        use Modality::{Sound, Video};
        assert_eq!(of(b"\0\0\0\x18ftypisom", Video), Some(("video", "video/mp4")));
        assert_eq!(of(b"\0\0\0\x18ftypisom", Sound), Some(("audio", "audio/mp4")));
        assert_eq!(of(b"RIFF\0\0\0\0WEBPVP8X", Video), Some(("img", "image/webp")));
        assert_eq!(of(b"RIFF\0\0\0\0WAVEfmt ", Sound), Some(("audio", "audio/wav")));
        assert_eq!(of(b"RIFF\0\0\0\0AVI LIST", Video), None);
        assert_eq!(of(b"RIFF\0\0\0\0AVI LIST", Sound), None);
        assert_eq!(of(&[0xFF, 0xF1, 0x50], Sound), Some(("audio", "audio/aac")));
        assert_eq!(of(&[0xFF, 0xFB, 0x90], Sound), Some(("audio", "audio/mpeg")));
        assert_eq!(of(b"", Sound), None);
    }

    #[test]
    fn a_player_is_in_the_page_where_it_is_small_and_beside_it_otherwise() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("a.wav");
        let media = Media::Sound(Sound { pieces: vec![Audio { samples: vec![0.5; 9], sample_rate: 9 }], seconds: 1.0 });
        let player = |length: usize, folder: Option<&Path>, most: Option<u64>| {
            let mut bytes = b"RIFF\0\0\0\0WAVE".to_vec();
            bytes.resize(length, 0);
            fs::write(&file, bytes).unwrap();
            let subject = Subject { media: Ok(&media), file: Some(&file), modality: Some(Modality::Sound) };
            let exhibit = Exhibit::new(&subject, folder, Embedding { most }).unwrap();
            (exhibit.player.map(|p| p.address.chars().take(22).collect::<String>()), exhibit.notes.len())
        };
        let (small, large) = (100, (1 << 20) + 1);
        assert_eq!(player(small, None, None), (Some("data:audio/wav;base64,".into()), 0));
        assert_eq!(player(large, Some(dir.path()), None), (Some("./a.wav".into()), 0));
        assert_eq!(player(large, Some(dir.path()), Some(2 << 20)).0, Some("data:audio/wav;base64,".into()));
        assert_eq!(player(large, None, None), (None, 1));
        let missing = Subject { media: Err(anyhow::anyhow!("gone")), file: None, modality: None };
        let exhibit = Exhibit::new(&missing, None, Embedding::default()).unwrap();
        assert!(exhibit.picture.is_none() && exhibit.notes[0].contains("gone"));
    }
}
