//! The folder of a search: its pictures, its prompt, and what a killed run goes on from.

use crate::batch::StepDone;
use crate::output::replace;
use crate::single::{Found, Single};
use anyhow::{Context, Result};
use image::imageops::{FilterType, resize};
use mils_media::RgbImage;
use mils_render::to_png;
use serde_json::Value;
use std::fs;
use std::path::{Path, PathBuf};

/// Longest side of a picture in the grid.
const TILE: u32 = 256;
const GAP: u32 = 4;
/// Most pictures of a grid.
const MOST: usize = 100;
/// The best picture.
const BEST: &str = "best.png";

/// The folder.
pub(super) struct Folder {
    single: Single,
    /// Each step's best, as large as in the grid.
    tiles: Vec<RgbImage>,
    /// The prompt and seed of the last of them, and its picture's file.
    last: Option<(String, u64, PathBuf)>,
    /// Where the best picture is put too.
    copy: Option<PathBuf>,
}

impl Folder {
    /// Opens a folder, which is made if it is not there. `identity` is what makes another search. The best picture is put at
    /// `copy` too.
    ///
    /// # Errors
    /// As [`Single::open`].
    pub(super) fn open(
        path: &Path,
        wish: &str,
        identity: &Value,
        overwrite: bool,
        copy: Option<&Path>,
    ) -> Result<Found<Self>> {
        let single = match Single::open(path, wish, identity, overwrite)? {
            Found::Open(single) => single,
            Found::Done(result) => {
                if let Some(copy) = copy.filter(|copy| !copy.exists()) {
                    let best = path.join(BEST);
                    let png = fs::read(&best).with_context(|| format!("cannot read {}", best.display()))?;
                    write(copy, &encoded(copy, png)?)?;
                }
                return Ok(Found::Done(result));
            }
        };
        let steps = single.file("steps");
        fs::create_dir_all(&steps).with_context(|| format!("cannot write to {}", steps.display()))?;
        let copy = copy.map(Path::to_owned);
        let folder = Self { single: *single, tiles: Vec::new(), last: None, copy };
        if folder.begun().is_empty() {
            folder.clear()?;
        }
        Ok(Found::Open(Box::new(folder)))
    }

    /// Removes the steps' pictures of a search that is begun anew.
    fn clear(&self) -> Result<()> {
        let steps = self.file("steps");
        for entry in fs::read_dir(&steps).with_context(|| format!("cannot read {}", steps.display()))?.flatten() {
            let name = entry.file_name().to_string_lossy().into_owned();
            let ours = name.strip_suffix(".png").is_some_and(|stem| stem.bytes().all(|b| b.is_ascii_digit()));
            if ours {
                fs::remove_file(entry.path()).with_context(|| format!("cannot remove {}", entry.path().display()))?;
            }
        }
        Ok(())
    }

    /// The steps that were done before.
    pub(super) fn begun(&self) -> Vec<StepDone> {
        self.single.begun()
    }

    /// Keeps a step.
    ///
    /// # Errors
    /// If it cannot be written.
    pub(super) fn keep(&mut self, step: &StepDone) -> Result<()> {
        self.single.keep(step)
    }

    /// A file of it.
    pub(super) fn file(&self, name: &str) -> PathBuf {
        self.single.file(name)
    }

    /// Puts a step's best picture where it belongs, and gives its file. Where the best has not changed that is the file of
    /// the step that brought it.
    ///
    /// # Errors
    /// If it cannot be written.
    pub(super) fn step(&mut self, step: usize, prompt: &str, picture: &RgbImage, seed: u64) -> Result<PathBuf> {
        self.tiles.push(fitted(picture));
        if let Some((_, _, file)) = self.last.as_ref().filter(|last| last.0 == prompt && last.1 == seed) {
            let file = file.clone();
            write(&self.grid_file(), &to_png(&self.grid())?)?;
            return Ok(file);
        }
        let png = to_png(picture)?;
        let file = self.file("steps").join(format!("{step:02}.png"));
        write(&file, &png)?;
        write(&self.file(BEST), &png)?;
        if let Some(copy) = &self.copy {
            write(copy, &encoded(copy, png)?)?;
        }
        write(&self.file("prompt.txt"), format!("{prompt}\n").as_bytes())?;
        write(&self.grid_file(), &to_png(&self.grid())?)?;
        self.last = Some((prompt.to_owned(), seed, file.clone()));
        Ok(file)
    }

    fn grid_file(&self) -> PathBuf {
        self.file("grid.png")
    }

    /// Steps' pictures in rows, the first at the upper left; of many, as many as fit, with the last.
    fn grid(&self) -> RgbImage {
        let each = self.tiles.len().div_ceil(MOST).max(1);
        let last = self.tiles.len().saturating_sub(1);
        let chosen: Vec<&RgbImage> =
            self.tiles.iter().enumerate().filter(|(i, _)| i % each == 0 || *i == last).map(|(_, tile)| tile).collect();
        let columns = (1_u32..).find(|n| (n * n) as usize >= chosen.len()).unwrap_or(1);
        let rows = (chosen.len() as u32).div_ceil(columns).max(1);
        let (w, h) = chosen.first().map_or((1, 1), |tile| tile.dimensions());
        let white = image::Rgb([255; 3]);
        let mut out = RgbImage::from_pixel(columns * (w + GAP) - GAP, rows * (h + GAP) - GAP, white);
        for (i, tile) in (0_u32..).zip(chosen) {
            let (x, y) = (i % columns * (w + GAP), i / columns * (h + GAP));
            image::imageops::replace(&mut out, tile, i64::from(x), i64::from(y));
        }
        out
    }

    /// Writes the result: the search is done.
    ///
    /// # Errors
    /// If it cannot be written.
    pub(super) fn finish(self, result: Option<&Value>) -> Result<()> {
        self.single.finish(result)
    }
}

fn write(path: &Path, bytes: &[u8]) -> Result<()> {
    replace(path, [bytes]).with_context(|| format!("cannot write {}", path.display()))
}

/// A PNG in the format that a file's name says.
fn encoded(file: &Path, png: Vec<u8>) -> Result<Vec<u8>> {
    let fail = || format!("cannot make {}", file.display());
    let format = image::ImageFormat::from_path(file).with_context(fail)?;
    if format == image::ImageFormat::Png {
        return Ok(png);
    }
    let picture = image::load_from_memory_with_format(&png, image::ImageFormat::Png).with_context(fail)?;
    let mut bytes = std::io::Cursor::new(Vec::new());
    picture.into_rgb8().write_to(&mut bytes, format).with_context(fail)?;
    Ok(bytes.into_inner())
}

fn fitted(image: &RgbImage) -> RgbImage {
    let (w, h) = image.dimensions();
    let longest = w.max(h);
    if longest <= TILE {
        return image.clone();
    }
    let scale = |side: u32| (u64::from(side) * u64::from(TILE) / u64::from(longest)).max(1) as u32;
    resize(image, scale(w), scale(h), FilterType::Triangle)
}
