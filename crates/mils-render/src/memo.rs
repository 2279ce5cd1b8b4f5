//! Pictures that were rendered, kept on disk, so that none is rendered twice.

use crate::comfy::hex;
use crate::{Abilities, Job, RenderError, Renderer, picture};
use image::RgbImage;
use sha2::{Digest, Sha256};
use std::collections::{BTreeSet, HashMap};
use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::SystemTime;

/// How a file of the memo ends.
const END: &str = "png";

/// Keeps what a renderer makes, under a size: what was asked for longest ago goes first. A folder may serve several
/// renderers and several processes; files are there whole or not at all.
pub struct Memo<R> {
    inner: R,
    folder: PathBuf,
    /// Most bytes of all pictures.
    most: u64,
    identity: String,
    kept: Mutex<Kept>,
    hits: AtomicUsize,
}

/// What is in the folder, as far as this process knows.
#[derive(Default)]
struct Kept {
    /// Bytes of each file, and when it was asked for.
    files: HashMap<String, (u64, SystemTime)>,
    /// By when they were asked for.
    order: BTreeSet<(SystemTime, String)>,
    bytes: u64,
}

impl Kept {
    fn put(&mut self, name: String, bytes: u64, when: SystemTime) {
        self.forget(&name);
        self.order.insert((when, name.clone()));
        self.files.insert(name, (bytes, when));
        self.bytes += bytes;
    }

    fn forget(&mut self, name: &str) {
        if let Some((bytes, when)) = self.files.remove(name) {
            self.order.remove(&(when, name.to_owned()));
            self.bytes -= bytes;
        }
    }
}

impl<R: Renderer> Memo<R> {
    /// Keeps pictures in a folder, which is made if it is not there, up to so many bytes.
    ///
    /// # Errors
    /// If the folder cannot be made or read.
    pub fn new(inner: R, folder: &Path, most: u64) -> Result<Self, RenderError> {
        let place = |e: std::io::Error| wrong(folder, &e);
        fs::create_dir_all(folder).map_err(place)?;
        let mut kept = Kept::default();
        for entry in fs::read_dir(folder).map_err(place)?.flatten() {
            let name = entry.file_name().to_string_lossy().into_owned();
            let Ok(meta) = entry.metadata() else { continue };
            // Whatever else is there is not ours to count or to remove.
            if meta.is_file() && is_ours(&name) {
                kept.put(name, meta.len(), meta.modified().unwrap_or(SystemTime::UNIX_EPOCH));
            }
        }
        let identity = inner.identity();
        let (kept, hits) = (Mutex::new(kept), AtomicUsize::new(0));
        Ok(Self { inner, folder: folder.to_owned(), most, identity, kept, hits })
    }

    /// How many pictures were there already.
    pub fn hits(&self) -> usize {
        self.hits.load(Ordering::Relaxed)
    }

    /// The file of a job, whether it is there or not: its name is a hash of all that makes the picture.
    pub fn file(&self, job: &Job<'_>) -> PathBuf {
        self.folder.join(self.name(job))
    }

    fn name(&self, job: &Job<'_>) -> String {
        let Job { prompt, negative, source, seed, width, height, steps, guidance } = job;
        let source = source.as_ref().map(|source| {
            let image = source.image;
            (hex(&Sha256::digest(image.as_raw())), image.width(), image.height(), source.strength.map(f32::to_bits))
        });
        let all = (
            &self.identity,
            prompt,
            negative,
            source,
            // A renderer without seeds gives another picture each time; which is kept is by the seed all the same.
            seed,
            (width, height),
            steps,
            guidance.map(f32::to_bits),
        );
        // Tuples of texts and numbers are always JSON.
        let text = serde_json::to_string(&all).unwrap_or_default();
        format!("{}.{END}", hex(&Sha256::digest(text)))
    }

    fn kept(&self, job: &Job<'_>, name: &str) -> Option<RgbImage> {
        let path = self.folder.join(name);
        let bytes = fs::read(&path).ok()?;
        let image = picture::decode(&bytes).ok().filter(|image| image.dimensions() == (job.width, job.height));
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        if image.is_none() {
            // Damaged: rendered anew.
            kept.forget(name);
            let _ = fs::remove_file(&path);
            return None;
        }
        let now = SystemTime::now();
        // Other processes see by it that it was asked for; where that is not allowed they do not.
        let _ = File::options().append(true).open(&path).and_then(|file| file.set_modified(now));
        kept.put(name.to_owned(), bytes.len() as u64, now);
        image
    }

    fn keep(&self, name: String, image: &RgbImage) -> Result<(), RenderError> {
        let bytes = picture::to_png(image)?;
        let size = bytes.len() as u64;
        if size > self.most {
            return Ok(());
        }
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        while kept.bytes + size > self.most {
            let Some((_, oldest)) = kept.order.pop_first() else { break };
            if let Some((bytes, _)) = kept.files.remove(&oldest) {
                kept.bytes -= bytes;
            }
            // Another process may have removed it.
            let _ = fs::remove_file(self.folder.join(oldest));
        }
        let write = || -> std::io::Result<()> {
            let mut file = tempfile::Builder::new().prefix(".mils-").tempfile_in(&self.folder)?;
            file.write_all(&bytes)?;
            file.persist(self.folder.join(&name)).map_err(|e| e.error)?;
            Ok(())
        };
        write().map_err(|e| wrong(&self.folder, &e))?;
        kept.put(name, size, SystemTime::now());
        Ok(())
    }
}

impl<R: Renderer> Renderer for Memo<R> {
    fn identity(&self) -> String {
        self.identity.clone()
    }

    fn abilities(&self) -> Abilities {
        self.inner.abilities()
    }

    fn render(&self, job: &Job<'_>) -> Result<RgbImage, RenderError> {
        let name = self.name(job);
        if let Some(image) = self.kept(job, &name) {
            self.hits.fetch_add(1, Ordering::Relaxed);
            return Ok(image);
        }
        let image = self.inner.render(job)?;
        self.keep(name, &image)?;
        Ok(image)
    }
}

impl Renderer for Box<dyn Renderer> {
    fn identity(&self) -> String {
        (**self).identity()
    }

    fn abilities(&self) -> Abilities {
        (**self).abilities()
    }

    fn render(&self, job: &Job<'_>) -> Result<RgbImage, RenderError> {
        (**self).render(job)
    }
}

fn wrong(path: &Path, error: &std::io::Error) -> RenderError {
    RenderError::Memo { path: path.to_owned(), problem: error.to_string() }
}

fn is_ours(name: &str) -> bool {
    let stem = name.strip_suffix(END).and_then(|stem| stem.strip_suffix('.'));
    stem.is_some_and(|stem| stem.len() == 64 && stem.bytes().all(|b| b.is_ascii_hexdigit()))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Grey pictures, as dark as the seed says.
    struct Grey(AtomicUsize);

    impl Renderer for Grey {
        fn identity(&self) -> String {
            "grey".into()
        }

        fn abilities(&self) -> Abilities {
            Abilities { generates: true, seed: true, size: true, ..Abilities::default() }
        }

        fn render(&self, job: &Job<'_>) -> Result<RgbImage, RenderError> {
            self.0.fetch_add(1, Ordering::Relaxed);
            Ok(RgbImage::from_pixel(job.width, job.height, image::Rgb([job.seed as u8; 3])))
        }
    }

    fn job(seed: u64) -> Job<'static> {
        Job { width: 16, height: 16, seed, ..Job::new("x") }
    }

    fn memo(folder: &Path, most: u64) -> Memo<Grey> {
        Memo::new(Grey(AtomicUsize::new(0)), folder, most).unwrap()
    }

    fn made(memo: &Memo<Grey>) -> usize {
        memo.inner.0.load(Ordering::Relaxed)
    }

    #[test]
    fn the_same_is_rendered_once_and_anything_else_again() {
        let dir = tempfile::tempdir().unwrap();
        let first = memo(dir.path(), 1 << 20);
        let image = first.render(&job(1)).unwrap();
        assert_eq!((first.render(&job(1)).unwrap(), made(&first), first.hits()), (image.clone(), 1, 1));
        let other = RgbImage::new(16, 16);
        for (i, job) in [
            job(2),
            Job { prompt: "y", ..job(1) },
            Job { negative: Some("y"), ..job(1) },
            Job { width: 17, ..job(1) },
            Job { steps: Some(1), ..job(1) },
            Job { guidance: Some(0.5), ..job(1) },
            Job { source: Some(crate::Source { image: &other, strength: None }), ..job(1) },
        ]
        .iter()
        .enumerate()
        {
            first.render(job).unwrap();
            assert_eq!(made(&first), i + 2);
        }
        // Another process, later.
        let second = memo(dir.path(), 1 << 20);
        assert_eq!((second.render(&job(1)).unwrap(), made(&second)), (image.clone(), 0));
        // One that was damaged is made anew.
        fs::write(second.file(&job(1)), b"half a pictu").unwrap();
        assert_eq!((second.render(&job(1)).unwrap(), made(&second)), (image, 1));
    }

    #[test]
    fn what_was_asked_for_longest_ago_makes_room() {
        let dir = tempfile::tempdir().unwrap();
        let size = picture::to_png(&RgbImage::from_pixel(16, 16, image::Rgb([3; 3]))).unwrap().len() as u64;
        let room = 3 * size + size / 2;
        let kept = memo(dir.path(), room);
        fs::write(dir.path().join("somebody's.png"), vec![0; 10_000]).unwrap();
        for seed in [1, 2, 3, 1, 4] {
            kept.render(&job(seed)).unwrap();
            // Of clocks that are coarse.
            std::thread::sleep(std::time::Duration::from_millis(5));
        }
        let there: Vec<bool> = (1..=4).map(|seed| kept.file(&job(seed)).exists()).collect();
        assert_eq!(there, [true, false, true, true], "2 was asked for longest ago");
        let ours = fs::read_dir(dir.path()).unwrap().flatten();
        let bytes: u64 =
            ours.filter(|e| is_ours(&e.file_name().to_string_lossy())).map(|e| e.metadata().unwrap().len()).sum();
        assert!(bytes <= room);
        assert!(dir.path().join("somebody's.png").exists());
        let small = memo(dir.path(), 1);
        assert!(small.render(&job(9)).is_ok() && !small.file(&job(9)).exists(), "no room at all");
    }
}
