//! Which files are meant: files, folders, patterns, lists of files, and a share of them all.

use crate::inputs::regular;
use anyhow::{Context, Result, anyhow, bail};
use glob::MatchOptions;
use mils_media::{Kind, KindError};
use rayon::prelude::*;
use std::collections::HashSet;
use std::fs::File;
use std::io::{self, BufRead, BufReader, stdin};
use std::path::{Path, PathBuf};
use std::str::FromStr;

/// What videos and sounds are called most of the time.
const OTHER_MEDIA: [&str; 14] =
    ["aac", "avi", "flac", "m4a", "m4v", "mkv", "mov", "mp3", "mp4", "mpg", "ogg", "opus", "wav", "webm"];

/// One of several machines that share the files between them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shard {
    /// From 1.
    pub number: u64,
    /// How many there are.
    pub of: u64,
}

impl FromStr for Shard {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let parts = text.split_once('/').and_then(|(i, n)| Some((i.trim().parse().ok()?, n.trim().parse().ok()?)));
        match parts {
            Some((number, of)) if (1..=of).contains(&number) => Ok(Self { number, of }),
            _ => Err(format!("`{text}` is no share; expected I/N, from 1/N to N/N")),
        }
    }
}

impl Shard {
    /// Whether a file is of this share: by its path as it is named, so that it is always the same one's.
    pub fn has(self, file: &Path) -> bool {
        hash(file.as_os_str().as_encoded_bytes()) % self.of == self.number - 1
    }
}

/// FNV-1a: the same on every machine and in every version, which the standard library's hash is not.
fn hash(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, |hash, &b| (hash ^ u64::from(b)).wrapping_mul(0x0100_0000_01b3))
}

/// What was found.
#[derive(Debug, Default)]
pub struct Sources {
    /// The files, in the order in which they were named; those of a folder by name.
    pub files: Vec<PathBuf>,
    /// Files in folders that are no pictures, videos or sounds.
    pub others: usize,
    /// Folders that cannot be read.
    pub unread: Vec<anyhow::Error>,
    /// Those that folders, patterns and lists gave.
    found: HashSet<PathBuf>,
}

/// Finds the files that are meant by what was named: a file; a folder, of whose files those are taken that are pictures,
/// videos or sounds by their content (and those of its folders with `recursive`), but for hidden ones; a pattern with `*`,
/// `?`, `[…]` or `**`, where no file is called so; `@LIST`, a file with a path on each line; `-`, the same from standard
/// input. A file that is named twice through folders, patterns or lists is taken once.
///
/// # Errors
/// If a list cannot be read, or nothing fits a pattern. Folders that cannot be read are among what is found.
pub fn find(named: &[PathBuf], recursive: bool) -> Result<Sources> {
    let mut all = Sources::default();
    for name in named {
        let text = name.to_string_lossy();
        match text.strip_prefix('@') {
            _ if name.exists() => all.add(name, recursive),
            Some(list) => {
                let file = File::open(list).with_context(|| format!("cannot read the list {list}"))?;
                all.list(BufReader::new(file), list)?;
            }
            None if &*text == "-" => all.list(stdin().lock(), "standard input")?,
            None if text.contains(['*', '?', '[']) => all.pattern(&text, recursive)?,
            // That it is missing is said when its turn comes.
            None => all.files.push(name.clone()),
        }
    }
    Ok(all)
}

impl Sources {
    fn add(&mut self, path: &Path, recursive: bool) {
        if !path.is_dir() {
            return self.files.push(path.to_owned());
        }
        let mut walk = Walk { recursive, ..Walk::default() };
        walk.folder(path);
        self.unread.append(&mut walk.unread);
        let mut found = walk.found;
        found.sort();
        let is_media = |file: &PathBuf| regular(file).is_ok() && is_media(file);
        let media: Vec<bool> = found.par_iter().map(is_media).collect();
        self.others += media.iter().filter(|is| !**is).count();
        found.into_iter().zip(media).filter(|(_, is)| *is).for_each(|(file, _)| self.once(file));
    }

    /// One path a line.
    fn list(&mut self, lines: impl BufRead, name: &str) -> Result<()> {
        for (number, line) in lines.lines().enumerate() {
            let line = line.with_context(|| format!("cannot read the list {name}, line {}", number + 1))?;
            if !line.trim().is_empty() {
                self.once(PathBuf::from(line.trim_end_matches('\r')));
            }
        }
        Ok(())
    }

    fn pattern(&mut self, pattern: &str, recursive: bool) -> Result<()> {
        let options = MatchOptions { require_literal_leading_dot: true, ..MatchOptions::new() };
        let paths = glob::glob_with(pattern, options).with_context(|| format!("`{pattern}` is no pattern"))?;
        let (before, unread) = (self.files.len(), self.unread.len());
        for path in paths {
            match path {
                Ok(path) if path.is_dir() => self.add(&path, recursive),
                Ok(path) => self.once(path),
                Err(error) => self.unread.push(cannot_read(error.path(), error.error())),
            }
        }
        if self.files.len() == before && self.unread.len() == unread {
            bail!("no file fits {pattern}");
        }
        Ok(())
    }

    fn once(&mut self, file: PathBuf) {
        if self.found.insert(file.clone()) {
            self.files.push(file);
        }
    }
}

/// A walk through a folder.
#[derive(Default)]
struct Walk {
    recursive: bool,
    /// Folders by where they really are, so that links in a circle end.
    seen: HashSet<PathBuf>,
    found: Vec<PathBuf>,
    unread: Vec<anyhow::Error>,
}

impl Walk {
    /// Takes a folder's files. One that cannot be read is noted, and does not stop the others.
    fn folder(&mut self, folder: &Path) {
        if let Err(error) = self.attempt(folder) {
            self.unread.push(cannot_read(folder, &error));
        }
    }

    fn attempt(&mut self, folder: &Path) -> io::Result<()> {
        if !self.seen.insert(folder.canonicalize()?) {
            return Ok(());
        }
        for entry in std::fs::read_dir(folder)? {
            let entry = entry?;
            if entry.file_name().as_encoded_bytes().starts_with(b".") {
                continue;
            }
            let path = entry.path();
            match path.is_dir() {
                true if self.recursive => self.folder(&path),
                true => {}
                false => self.found.push(path),
            }
        }
        Ok(())
    }
}

fn cannot_read(folder: &Path, error: &io::Error) -> anyhow::Error {
    anyhow!("cannot read the folder {}: {error}", folder.display())
}

/// Whether a file is to be described; one that cannot be read, or is called what it is not, is, so that it is said.
fn is_media(file: &Path) -> bool {
    match mils_media::kind(file) {
        Ok(Kind::Image | Kind::Video | Kind::Audio) => true,
        Err(KindError::NotMedia(_)) => is_called_media(file),
        Err(_) => true,
    }
}

/// Whether a file is called as pictures, videos and sounds are. Only of one that is none it matters: that `photo.jpg` is
/// text is worth a word, that `photo.txt` is, is not.
fn is_called_media(file: &Path) -> bool {
    let extension = file.extension().map(|extension| extension.to_string_lossy().to_lowercase());
    image::ImageFormat::from_path(file).is_ok_and(|format| format.reading_enabled())
        || extension.is_some_and(|extension| OTHER_MEDIA.contains(&&*extension))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    fn names(sources: &Sources, folder: &Path) -> Vec<String> {
        let name = |f: &PathBuf| f.strip_prefix(folder).unwrap().to_string_lossy().replace('\\', "/");
        sources.files.iter().map(name).collect()
    }

    #[test]
    fn folders_patterns_and_lists_are_looked_through() {
        let dir = tempfile::tempdir().unwrap();
        let at = dir.path();
        fs::create_dir_all(at.join("in/deep")).unwrap();
        for file in ["b.png", "a.jpg", "in/c.png", "in/deep/d.png", ".hidden.png"] {
            let picture = image::RgbImage::new(1, 1);
            picture.save_with_format(at.join(file), image::ImageFormat::Png).unwrap();
        }
        fs::write(at.join("notes.png"), "text").unwrap();
        fs::write(at.join("notes.txt"), "text").unwrap();
        let look = |named: &[&str], recursive| find(&named.iter().map(|n| at.join(n)).collect::<Vec<_>>(), recursive);
        let flat = look(&[""], false).unwrap();
        assert_eq!((names(&flat, at), flat.others), (vec!["a.jpg".to_owned(), "b.png".into(), "notes.png".into()], 1));
        let deep = look(&[""], true).unwrap();
        assert_eq!(names(&deep, at), ["a.jpg", "b.png", "in/c.png", "in/deep/d.png", "notes.png"]);
        // What is named is taken, whatever it is.
        assert_eq!(names(&look(&["notes.png", "missing.png"], false).unwrap(), at), ["notes.png", "missing.png"]);
        assert_eq!(
            names(&look(&["**/*.png"], false).unwrap(), at),
            ["b.png", "in/c.png", "in/deep/d.png", "notes.png"]
        );
        assert!(look(&["*.tiff"], false).unwrap_err().to_string().contains("no file fits"));
        let list = at.join("list.txt");
        fs::write(&list, format!("{0}/b.png\r\n\n{0}/gone.png\n{0}/b.png\n", at.display())).unwrap();
        let listed = find(&[PathBuf::from(format!("@{}", list.display()))], false).unwrap();
        assert_eq!(names(&listed, at), ["b.png", "gone.png"]);
        let error = find(&["@nowhere.txt".into()], false).unwrap_err();
        assert!(error.to_string().contains("cannot read the list nowhere.txt"));
    }

    #[cfg(unix)]
    #[test]
    fn links_in_a_circle_end() {
        let dir = tempfile::tempdir().unwrap();
        std::os::unix::fs::symlink(dir.path(), dir.path().join("round")).unwrap();
        assert_eq!(find(&[dir.path().to_owned()], true).unwrap().files, Vec::<PathBuf>::new());
    }

    #[cfg(unix)]
    #[test]
    fn folders_that_cannot_be_read_do_not_stop_the_others() {
        let dir = tempfile::tempdir().unwrap();
        let at = dir.path();
        fs::create_dir(at.join("in")).unwrap();
        image::RgbImage::new(1, 1).save(at.join("in/a.png")).unwrap();
        let gone = at.join("gone");
        let mut walk = Walk { recursive: true, ..Walk::default() };
        walk.folder(&gone);
        walk.folder(at);
        assert_eq!(walk.found, [at.join("in/a.png")]);
        let [error] = &walk.unread[..] else { panic!("{:?}", walk.unread) };
        assert!(error.to_string().starts_with(&format!("cannot read the folder {}: ", gone.display())), "{error}");
    }
    #[test]
    fn every_file_is_of_one_share() {
        let files: Vec<PathBuf> = (0..1000).map(|i| format!("photos/{i}.jpg").into()).collect();
        let shares: Vec<Shard> = (1..=4).map(|i| format!("{i}/4").parse().unwrap()).collect();
        for file in &files {
            assert_eq!(shares.iter().filter(|s| s.has(file)).count(), 1);
        }
        for share in shares {
            let count = files.iter().filter(|f| share.has(f)).count();
            assert!((150..350).contains(&count), "{count}");
        }
        assert_eq!(hash(b"a"), 0xaf63_dc4c_8601_ec8c);
        for wrong in ["0/4", "5/4", "1", "a/b", "1/0"] {
            assert!(wrong.parse::<Shard>().is_err(), "{wrong}");
        }
    }
}
