//! Texts and files, read as they are needed: a million lines do not fill the memory.

use crate::args::TextArgs;
use crate::media::{Media, ModalityChoice, Senses, Taken};
use anyhow::{Context, Result, bail};
use image::ImageReader;
use mils_media::{DecodeLimits, RgbImage};
use mils_models::Modality;
use rayon::prelude::*;
use std::fs::File;
use std::io::{BufRead, BufReader, Read, stdin};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, sync_channel};
use std::time::Duration;

/// Texts that are embedded together: enough for the encoder to sort by length, few enough for a quick Ctrl-C.
const TEXTS: usize = 256;
/// Files that are decoded and embedded together, and most pixels of them: a bound on memory.
const FILES: usize = 16;
const PIXELS: u64 = 100_000_000;
/// Longest line in bytes. A file without lines, or without an end, is no list of texts.
const LINE: u64 = 1 << 20;
/// How often Ctrl-C is looked for while an input is waited for.
const PATIENCE: Duration = Duration::from_millis(50);

/// Reads a picture.
///
/// # Errors
/// If it cannot be read.
pub fn read_picture(file: &Path) -> Result<RgbImage> {
    regular(file)?;
    Ok(mils_media::decode_image(file, &DecodeLimits::default())?)
}

/// An error if there is no such file, without reading it.
///
/// # Errors
/// If it is not there, is a folder, or no regular file.
pub fn check_file(file: &Path) -> Result<()> {
    regular(file)?;
    match std::fs::metadata(file) {
        Ok(meta) if meta.is_file() => Ok(()),
        // In the words of the decoder.
        _ => read_picture(file).map(drop),
    }
}

/// An error for what is neither a file nor a folder.
///
/// # Errors
/// See there.
pub fn regular(file: &Path) -> Result<()> {
    // Opening a pipe waits for its writer, and a device may have no end.
    if std::fs::metadata(file).is_ok_and(|m| !m.is_file() && !m.is_dir()) {
        bail!("not a regular file; nothing is read from pipes and devices but texts, save this one to a file");
    }
    Ok(())
}

/// A file that was asked for.
pub struct Decoded {
    /// The file.
    pub file: PathBuf,
    /// What there is of it for the encoder.
    pub media: Result<Media>,
}

/// Files in their order, some at a time, decoded side by side.
pub struct Files {
    files: Box<dyn Iterator<Item = (PathBuf, Result<Taken>)> + Send>,
    next: Option<(PathBuf, Result<Taken>)>,
    senses: Senses,
}

impl Files {
    /// These files, read for an encoder.
    pub fn new(files: Vec<PathBuf>, choice: ModalityChoice, senses: Senses) -> Self {
        let files = files.into_iter().map(move |file| {
            let taken = choice.of(&file);
            (file, taken)
        });
        Self { files: Box::new(files), next: None, senses }
    }
}

impl Iterator for Files {
    type Item = Vec<Decoded>;

    fn next(&mut self) -> Option<Self::Item> {
        let (mut together, mut pixels) = (Vec::new(), 0);
        while together.len() < FILES {
            let Some((file, taken)) = self.next.take().or_else(|| self.files.next()) else { break };
            pixels += match taken.as_ref().map(|taken| taken.modality) {
                Ok(Modality::Image) => size(&file),
                // Frames of a video, and windows of a sound, have some bounds of their own.
                Ok(Modality::Video | Modality::Sound) => PIXELS / 4,
                Err(_) => 0,
            };
            if pixels > PIXELS && !together.is_empty() {
                self.next = Some((file, taken));
                break;
            }
            together.push((file, taken));
        }
        let senses = self.senses;
        let read = |(file, taken): (PathBuf, Result<Taken>)| Decoded {
            media: taken.and_then(|taken| senses.read(&file, taken)),
            file,
        };
        (!together.is_empty()).then(|| together.into_par_iter().map(read).collect())
    }
}

/// What most of the files that are asked for are likely to be: what the first is, or images.
pub fn leading(choice: ModalityChoice, files: &[PathBuf]) -> Modality {
    let first = || files.first().and_then(|file| Some(choice.of(file).ok()?.modality));
    choice.given().or_else(first).unwrap_or(Modality::Image)
}

/// Pixels of a picture by its header; 0 where it cannot be read, as will be said when it is decoded.
fn size(file: &Path) -> u64 {
    if regular(file).is_err() {
        return 0;
    }
    let reader = ImageReader::open(file).and_then(ImageReader::with_guessed_format).ok();
    reader.and_then(|r| r.into_dimensions().ok()).map_or(0, |(width, height)| u64::from(width) * u64::from(height))
}

/// The texts of --text, then the lines of --texts-from, some at a time.
pub struct Texts {
    given: std::vec::IntoIter<String>,
    lines: Option<Lines>,
}

impl Texts {
    /// Opens the file, if one is given.
    ///
    /// # Errors
    /// If it cannot be opened.
    pub fn open(args: &TextArgs) -> Result<Self> {
        let lines = args.texts_from.as_deref().map(Lines::open).transpose()?;
        Ok(Self { given: args.texts.clone().into_iter(), lines })
    }
}

impl Iterator for Texts {
    type Item = Result<Vec<String>>;

    fn next(&mut self) -> Option<Self::Item> {
        let given = self.given.by_ref().map(Ok);
        let all: Result<Vec<String>> = given.chain(self.lines.iter_mut().flatten()).take(TEXTS).collect();
        match all {
            Ok(texts) if texts.is_empty() => None,
            all => Some(all),
        }
    }
}

/// The lines of a file.
struct Lines {
    name: String,
    reader: Box<dyn BufRead + Send>,
    number: u64,
}

impl Lines {
    fn open(path: &Path) -> Result<Self> {
        if path.as_os_str() == "-" {
            return Ok(Self { name: "standard input".into(), reader: Box::new(BufReader::new(stdin())), number: 0 });
        }
        let place = || format!("cannot read the texts {}", path.display());
        if std::fs::metadata(path).with_context(place)?.is_dir() {
            bail!("cannot read the texts {}: it is a folder", path.display());
        }
        let reader = BufReader::new(File::open(path).with_context(place)?);
        Ok(Self { name: path.display().to_string(), reader: Box::new(reader), number: 0 })
    }

    /// The next line without its end.
    fn read(&mut self) -> Result<Option<String>> {
        let mut line = Vec::new();
        let read = self.reader.by_ref().take(LINE + 1).read_until(b'\n', &mut line);
        if read.with_context(|| format!("cannot read the texts {}", self.name))? == 0 {
            return Ok(None);
        }
        self.number += 1;
        let ended = line.pop_if(|last| *last == b'\n').is_some();
        if ended {
            line.pop_if(|last| *last == b'\r');
        }
        let wrong = |what: &str| format!("{}: line {} {what}", self.name, self.number);
        if line.len() as u64 > LINE {
            bail!(wrong("is longer than 1 MiB; texts stand one on a line"));
        }
        let text = String::from_utf8(line);
        let text = text.ok().with_context(|| wrong("is not UTF-8; convert the file, for example with `iconv`"))?;
        // Some editors begin a file with a mark, which is no part of its text.
        let marked = self.number == 1 && text.starts_with('\u{feff}');
        Ok(Some(if marked { text['\u{feff}'.len_utf8()..].to_owned() } else { text }))
    }
}

impl Iterator for Lines {
    type Item = Result<String>;

    fn next(&mut self) -> Option<Self::Item> {
        self.read().transpose()
    }
}

/// Items that are made on a thread of their own, one ahead of those that are used: reading and decoding then cost no
/// time, and waiting for standard input does not keep a Ctrl-C waiting.
pub struct Ahead<T> {
    items: Receiver<Option<T>>,
    ended: bool,
}

impl<T: Send + 'static> Ahead<T> {
    /// Begins at once.
    pub fn of(source: impl Iterator<Item = T> + Send + 'static) -> Self {
        let (to, items) = sync_channel(0);
        std::thread::spawn(move || {
            // Nobody listens any more where the run has failed or was interrupted.
            let _ = source.map(Some).chain([None]).try_for_each(|item| to.send(item));
        });
        Self { items, ended: false }
    }

    /// The next item; `None` after the last, or when `cancel` was set.
    ///
    /// # Errors
    /// If the thread has died: what it had yet to read must not be missing in silence.
    pub fn next(&mut self, cancel: &AtomicBool) -> Result<Option<T>> {
        while !self.ended && !cancel.load(Ordering::SeqCst) {
            match self.items.recv_timeout(PATIENCE) {
                Ok(item) => {
                    self.ended = item.is_none();
                    return Ok(item);
                }
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => bail!("reading the inputs has failed"),
            }
        }
        Ok(None)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    fn texts(given: &[&str], file: &[u8]) -> Result<Vec<String>> {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("texts.txt");
        fs::write(&path, file).unwrap();
        let given = given.iter().map(|t| (*t).to_owned()).collect();
        let batches: Result<Vec<_>> = Texts::open(&TextArgs { texts: given, texts_from: Some(path) })?.collect();
        Ok(batches?.concat())
    }

    #[test]
    fn lines_are_texts_also_blank_ones() {
        assert_eq!(texts(&["x", ""], b"a\n\n b \r\nc").unwrap(), ["x", "", "a", "", " b ", "c"]);
        assert_eq!(texts(&[], b"").unwrap(), [""; 0]);
        assert_eq!(texts(&[], b"\n").unwrap(), [""]);
        assert_eq!(texts(&[], "\u{feff}a\n\u{feff}b\n".as_bytes()).unwrap(), ["a", "\u{feff}b"]);
        let many: String = (0..1000).map(|i| format!("{i}\n")).collect();
        let all = texts(&["first"], many.as_bytes()).unwrap();
        assert_eq!((all.len(), all[0].as_str(), all[1000].as_str()), (1001, "first", "999"));
    }

    #[test]
    fn lines_that_are_no_texts_are_named() {
        let says = |file: &[u8]| texts(&[], file).unwrap_err().to_string();
        assert!(says(b"a\nb\xff\n").contains("texts.txt: line 2 is not UTF-8"), "{}", says(b"a\nb\xff\n"));
        assert!(says(&vec![b'x'; LINE as usize + 1]).contains("line 1 is longer"));
        let mut longest = vec![b'x'; LINE as usize];
        assert_eq!(texts(&[], &longest).unwrap()[0].len() as u64, LINE);
        longest.extend(b"\n");
        assert_eq!(texts(&[], &longest).unwrap()[0].len() as u64, LINE);
    }

    #[test]
    fn pictures_come_in_order_and_not_all_at_once() {
        let dir = tempfile::tempdir().unwrap();
        let files: Vec<PathBuf> = (0..FILES + 3).map(|i| dir.path().join(format!("{i}.png"))).collect();
        for (i, file) in files.iter().enumerate().filter(|(i, _)| i % 4 != 1) {
            RgbImage::new(i as u32 + 1, 1).save(file).unwrap();
        }
        let senses = Senses::Pictures { frames: 8, sampling: mils_media::video::Sampling::Centres };
        let all: Vec<Vec<Decoded>> = Files::new(files.clone(), ModalityChoice::Auto, senses).collect();
        assert_eq!(all.iter().map(Vec::len).collect::<Vec<_>>(), [FILES, 3]);
        for (i, read) in all.into_iter().flatten().enumerate() {
            assert_eq!(read.file, files[i]);
            let width = match read.media {
                Ok(Media::Image(image)) => Some(image.width()),
                _ => None,
            };
            assert_eq!(width, (i % 4 != 1).then_some(i as u32 + 1));
        }
    }

    #[test]
    fn items_made_ahead_are_all_there_or_an_error() {
        let go_on = AtomicBool::new(false);
        let mut ahead = Ahead::of(0..3);
        let mut seen = Vec::new();
        while let Some(item) = ahead.next(&go_on).unwrap() {
            seen.push(item);
        }
        assert_eq!((seen, ahead.next(&go_on).unwrap()), (vec![0, 1, 2], None));
        let mut ahead = Ahead::of((0..3).map(|i| if i < 2 { i } else { panic!("as it should be") }));
        let mut next = || ahead.next(&go_on);
        assert!(matches!((next(), next(), next()), (Ok(Some(0)), Ok(Some(1)), Err(_))));
        let mut endless = Ahead::of(std::iter::from_fn(|| -> Option<u8> {
            loop {
                std::thread::park();
            }
        }));
        assert_eq!(endless.next(&AtomicBool::new(true)).unwrap(), None);
    }
}
