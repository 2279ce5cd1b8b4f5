//! Embeddings of initial sets: from the disk where they are kept, else computed, and kept for the next time.
//!
//! What is computed is put down every half minute, so that a run that is killed over a large set does not lose it. Where
//! nothing can be kept, that is said once, and costs the time of computing it again.

use crate::progress::pace;
use crate::session::{Doing, Options, Say};
use anyhow::{Result, bail};
use indicatif::HumanDuration;
use mils_bank::store::{Found, Known};
use mils_bank::{Identity, Store};
use mils_encoder::{AnyEncoder, Embeddings, EncoderError};
use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

/// Where they are: `off`, or a folder instead of the user's cache.
const FOLDER: &str = "MILS_CACHE";
/// The most bytes that they may take.
const SIZE: &str = "MILS_CACHE_SIZE";
const DEFAULT_SIZE: u64 = 4_000_000_000;

/// Texts that are embedded between two looks at the clock.
const AT_ONCE: usize = 256;
/// How much work may be lost.
const PATIENCE: Duration = Duration::from_secs(30);

/// The store that the environment asks for; `None` where it is switched off, or there is no place for it.
pub fn store(note: &mut dyn FnMut(&str)) -> Option<Store> {
    store_by(|name| std::env::var_os(name), mils_models::home(), note)
}

fn store_by(
    variable: impl Fn(&str) -> Option<OsString>,
    home: Option<PathBuf>,
    note: &mut dyn FnMut(&str),
) -> Option<Store> {
    let folder = match variable(FOLDER) {
        Some(value) if value == "off" => return None,
        Some(value) if !value.is_empty() => PathBuf::from(value),
        _ => home?.join("embeddings"),
    };
    let told = variable(SIZE).filter(|value| !value.is_empty());
    let size = told.as_ref().map(|value| bytes(&value.to_string_lossy()));
    if let (Some(None), Some(value)) = (size, &told) {
        note(&format!("{SIZE} is {}; expected bytes as 500MB or 4GB, so it is 4GB", value.display()));
    }
    Some(Store::new(folder, size.flatten().unwrap_or(DEFAULT_SIZE)))
}

/// `500MB`, `4GB`, `4 GiB`, or a number of bytes.
fn bytes(text: &str) -> Option<u64> {
    let text = text.trim();
    let digits = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    let factor = match text[digits..].trim().to_ascii_lowercase().as_str() {
        "" | "b" => 1.0,
        "k" | "kb" => 1e3,
        "m" | "mb" => 1e6,
        "g" | "gb" => 1e9,
        "t" | "tb" => 1e12,
        "kib" => 1024.0,
        "mib" => 1_048_576.0,
        "gib" => 1_073_741_824.0,
        "tib" => 1_099_511_627_776.0,
        _ => return None,
    };
    let number: f64 = text[..digits].parse().ok()?;
    Some((number * factor) as u64)
}

/// Where an encoder's embeddings are kept.
pub(crate) struct Kept {
    store: Store,
    of: Identity,
}

impl Kept {
    /// Of a checkpoint's folder, computed at a place, by name; `None` where they are not to be kept, or cannot be.
    pub(crate) fn of(folder: &Path, place: &str, options: &Options, say: &mut Say<'_>) -> Option<Self> {
        let store = options.embeddings.clone()?;
        match Identity::of_checkpoint(folder, &[place, &format!("{:?}", options.precision)]) {
            Ok(of) => Some(Self { store, of }),
            Err(error) => {
                say(Doing::Note(&format!("embeddings are not kept: {}: {error}", folder.display())));
                None
            }
        }
    }
}

/// Something with a text tower: an encoder, or what stands for one in a test.
pub(crate) trait Embeds {
    /// Width of a row.
    fn dim(&self) -> usize;
    /// One row a text.
    fn embed(&mut self, texts: &[String]) -> Result<Embeddings, EncoderError>;
}

impl Embeds for AnyEncoder {
    fn dim(&self) -> usize {
        Self::dim(self)
    }

    fn embed(&mut self, texts: &[String]) -> Result<Embeddings, EncoderError> {
        self.embed_texts(texts)
    }
}

/// The rows of all texts, in their order.
///
/// # Errors
/// If the encoder fails, or it was cancelled.
pub(crate) fn embed(
    kept: Option<&Kept>,
    encoder: &mut dyn Embeds,
    texts: &[String],
    cancel: &AtomicBool,
    say: &mut Say<'_>,
) -> Result<Embeddings> {
    let dim = encoder.dim();
    let found = kept.map(|Kept { store, of }| {
        say(Doing::Goes("looking for embeddings"));
        store.find(of, dim, texts, &mut |note| say(Doing::Note(&note)))
    });
    let mut known = match found {
        Some(Found::All(rows)) => {
            say(Doing::Begins(&format!("the embeddings of {} initial texts are there", texts.len())));
            return Ok(Embeddings::of_tensor(&rows)?);
        }
        Some(Found::Some(known)) => known,
        None => Known { rows: vec![0.0; texts.len() * dim], missing: (0..texts.len()).collect() },
    };
    let (all, missing) = (texts.len(), known.missing.len());
    let of = if missing < all { format!(" of {all}") } else { String::new() };
    if missing > 0 {
        say(Doing::Begins(&format!("embedding {missing}{of} initial texts")));
    }
    let mut work =
        Work { kept, texts, dim, parts: Vec::new(), waiting: Vec::new(), since: Instant::now(), said: false };
    let begin = Instant::now();
    let places = std::mem::take(&mut known.missing);
    for (done, chunk) in (0..).step_by(AT_ONCE).zip(places.chunks(AT_ONCE)) {
        if cancel.load(Ordering::SeqCst) {
            work.put_down(&known.rows, say);
            bail!("cancelled");
        }
        let seconds = begin.elapsed().as_secs_f64();
        if done > 0 && seconds > 2.0 {
            let left = Duration::from_secs_f64(seconds / done as f64 * (missing - done) as f64);
            let (pace, left) = (pace(done as u64, seconds), HumanDuration(left));
            say(Doing::Goes(&format!("embedding initial texts: {done} of {missing} · {pace} · {left} left")));
        }
        let chunk_texts: Vec<String> = chunk.iter().map(|&place| texts[place].clone()).collect();
        let rows = encoder.embed(&chunk_texts)?;
        for (i, &place) in chunk.iter().enumerate() {
            known.rows[place * dim..(place + 1) * dim].copy_from_slice(rows.row(i));
        }
        work.waiting.extend(chunk);
        if work.since.elapsed() > PATIENCE {
            work.put_down(&known.rows, say);
        }
    }
    work.finish(known.rows, say)
}

/// What was computed, and what of it is on the disk.
struct Work<'a> {
    kept: Option<&'a Kept>,
    texts: &'a [String],
    dim: usize,
    /// Lists that were put down on the way.
    parts: Vec<Vec<String>>,
    /// Places of what was computed since.
    waiting: Vec<usize>,
    since: Instant,
    /// That nothing can be kept.
    said: bool,
}

impl Work<'_> {
    fn keep(&mut self, texts: &[String], rows: &[f32], say: &mut Say<'_>) -> bool {
        let Some(Kept { store, of }) = self.kept else { return false };
        match store.keep(of, self.dim, texts, rows) {
            Ok(()) => true,
            Err(error) if !std::mem::replace(&mut self.said, true) => {
                say(Doing::Note(&format!("embeddings are not kept in {}: {error}", store.folder().display())));
                false
            }
            Err(_) => false,
        }
    }

    /// Keeps what was computed since the last time, as a list of its own.
    fn put_down(&mut self, rows: &[f32], say: &mut Say<'_>) {
        self.since = Instant::now();
        let places = std::mem::take(&mut self.waiting);
        if places.is_empty() || self.kept.is_none() {
            return;
        }
        let texts: Vec<String> = places.iter().map(|&place| self.texts[place].clone()).collect();
        let rows: Vec<f32> =
            places.iter().flat_map(|&place| &rows[place * self.dim..(place + 1) * self.dim]).copied().collect();
        if self.keep(&texts, &rows, say) {
            self.parts.push(texts);
        }
    }

    /// Keeps the whole, which takes the place of its parts, and reads it from there: the memory is the system's then.
    fn finish(mut self, rows: Vec<f32>, say: &mut Say<'_>) -> Result<Embeddings> {
        let texts = self.texts;
        if self.keep(texts, &rows, say)
            && let Some(Kept { store, of }) = self.kept
        {
            for part in self.parts.iter().filter(|part| part[..] != *texts) {
                store.forget(of, part);
            }
            if let Found::All(tensor) = store.find(of, self.dim, texts, &mut |note| say(Doing::Note(&note))) {
                return Ok(Embeddings::of_tensor(&tensor)?);
            }
        }
        Ok(Embeddings::new(self.dim, rows)?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use std::sync::Arc;

    /// Counts what it is asked for, and may set a flag after so many.
    struct Counting {
        asked: usize,
        cancel_after: Option<usize>,
        cancel: Arc<AtomicBool>,
    }

    impl Embeds for Counting {
        fn dim(&self) -> usize {
            2
        }

        fn embed(&mut self, texts: &[String]) -> Result<Embeddings, EncoderError> {
            self.asked += texts.len();
            if self.cancel_after.is_some_and(|after| self.asked >= after) {
                self.cancel.store(true, Ordering::SeqCst);
            }
            let row = |text: &String| [text.len() as f32, f32::from(text.bytes().last().unwrap_or_default())];
            Ok(Embeddings::new(2, texts.iter().flat_map(row).collect())?)
        }
    }

    fn texts(count: usize) -> Vec<String> {
        (0..count).map(|i| format!("text {i}")).collect()
    }

    fn kept(dir: &Path) -> Kept {
        let options = Options { embeddings: Some(Store::new(dir.join("cache"), 1 << 30)), ..Options::default() };
        fs::create_dir_all(dir.join("checkpoint")).unwrap();
        Kept::of(&dir.join("checkpoint"), "cpu", &options, &mut |_| {}).unwrap()
    }

    /// The rows, how many texts were computed for them, and what was noted.
    fn run(
        kept: Option<&Kept>,
        texts: &[String],
        cancel_after: Option<usize>,
    ) -> (Result<Embeddings>, usize, Vec<String>) {
        let cancel = Arc::new(AtomicBool::new(false));
        let mut encoder = Counting { asked: 0, cancel_after, cancel: Arc::clone(&cancel) };
        let mut notes = Vec::new();
        let rows = embed(kept, &mut encoder, texts, &cancel, &mut |doing| {
            if let Doing::Note(note) = doing {
                notes.push(note.to_owned());
            }
        });
        (rows, encoder.asked, notes)
    }

    #[test]
    fn a_set_is_embedded_once_and_a_longer_one_for_what_is_new() {
        let dir = tempfile::tempdir().unwrap();
        let kept = kept(dir.path());
        let (plain, asked, _) = run(None, &texts(600), None);
        let plain = plain.unwrap();
        assert_eq!(asked, 600);
        let (rows, asked, notes) = run(Some(&kept), &texts(600), None);
        assert_eq!((rows.unwrap(), asked, notes), (plain.clone(), 600, vec![]));
        let (rows, asked, _) = run(Some(&kept), &texts(600), None);
        assert_eq!((rows.unwrap(), asked), (plain, 0));
        let (rows, asked, _) = run(Some(&kept), &texts(610), None);
        assert_eq!((rows.unwrap(), asked), (run(None, &texts(610), None).0.unwrap(), 10));
    }

    #[test]
    fn what_was_done_before_it_was_interrupted_is_not_done_again() {
        let dir = tempfile::tempdir().unwrap();
        let kept = kept(dir.path());
        let (rows, asked, _) = run(Some(&kept), &texts(1000), Some(500));
        assert_eq!((rows.unwrap_err().to_string().as_str(), asked), ("cancelled", 512));
        let (rows, asked, _) = run(Some(&kept), &texts(1000), None);
        assert_eq!((rows.unwrap(), asked), (run(None, &texts(1000), None).0.unwrap(), 488));
    }

    #[test]
    fn where_nothing_can_be_kept_it_is_said_once_and_computed() {
        let dir = tempfile::tempdir().unwrap();
        let mut kept = kept(dir.path());
        fs::write(dir.path().join("file"), "").unwrap();
        kept.store = Store::new(dir.path().join("file"), 1 << 30);
        let (rows, asked, notes) = run(Some(&kept), &texts(3), None);
        assert_eq!((rows.unwrap().len(), asked, notes.len()), (3, 3, 1));
        assert!(notes[0].contains("are not kept in"), "{notes:?}");
        kept.store = Store::new(dir.path().join("small"), 100);
        let (_, _, notes) = run(Some(&kept), &texts(3), None);
        assert!(notes.len() == 1 && notes[0].contains(SIZE), "{notes:?}");
    }

    #[test]
    fn the_environment_says_where_and_how_much() {
        let mut notes = Vec::new();
        let mut by = |set: &[(&str, &str)]| {
            let variable = |name: &str| set.iter().find(|(n, _)| *n == name).map(|(_, value)| value.into());
            let store = store_by(variable, Some("home".into()), &mut |note| notes.push(note.to_owned()));
            store.map(|store| (store.folder().to_owned(), store.most()))
        };
        assert_eq!(by(&[]), Some((PathBuf::from("home").join("embeddings"), DEFAULT_SIZE)));
        assert_eq!(by(&[(FOLDER, "off")]), None);
        assert_eq!(by(&[(FOLDER, "there"), (SIZE, "500MB")]), Some(("there".into(), 500_000_000)));
        assert_eq!(by(&[(SIZE, "lots")]).unwrap().1, DEFAULT_SIZE);
        assert!(notes.len() == 1 && notes[0].contains("lots"), "{notes:?}");
        for (text, size) in [("12", 12), ("1.5 GiB", 3 << 29), ("2k", 2000), ("0", 0)] {
            assert_eq!(bytes(text), Some(size), "{text}");
        }
        assert_eq!((bytes("-1"), bytes("4 eggs"), bytes("")), (None, None, None));
    }
}
