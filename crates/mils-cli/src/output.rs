//! Files that are there whole or not at all, and streams.

use anyhow::{Context, Result, bail};
use std::ffi::OsString;
use std::fs::{File, Metadata, TryLockError};
use std::io::{self, BufWriter, Seek, SeekFrom, Write, stdout};
use std::path::{Path, PathBuf};
use tempfile::{Builder, NamedTempFile};

/// A file that is written beside its place and put there at the end.
pub struct Replacement {
    file: NamedTempFile,
    target: PathBuf,
}

impl Replacement {
    /// Begins one. It takes over the permissions, and where that is allowed the owner, of what it is to replace.
    ///
    /// # Errors
    /// If this is a folder or is read-only, or the folder that it is in cannot be written to.
    pub fn begin(path: &Path) -> Result<Self> {
        if path.is_dir() {
            bail!("it is a folder");
        }
        // A link stays one.
        let target = std::fs::canonicalize(path).unwrap_or_else(|_| path.to_owned());
        let before = std::fs::metadata(&target).ok().filter(Metadata::is_file);
        if before.as_ref().is_some_and(|meta| meta.permissions().readonly()) {
            bail!("it is read-only");
        }
        let file = beside(&target)?;
        if let Some(before) = before {
            same_owner(file.as_file(), &before);
            file.as_file().set_permissions(before.permissions())?;
        }
        Ok(Self { file, target })
    }

    /// Puts it in its place, and gives it, open to be written on and locked. It is on the disk before it takes the other's place:
    /// after a loss of power there is one of the two.
    ///
    /// # Errors
    /// If that is refused.
    pub fn finish(self) -> io::Result<File> {
        self.file.as_file().sync_all()?;
        self.file.persist(&self.target).map_err(|e| e.error)
    }
}

impl Write for Replacement {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.file.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.flush()
    }
}

impl Seek for Replacement {
    fn seek(&mut self, to: SeekFrom) -> io::Result<u64> {
        self.file.seek(to)
    }
}

/// A file beside another that is to take its place. It has the other's name in its own, so that what a killed process has
/// left is known and goes; it is locked as long as somebody writes it.
fn beside(target: &Path) -> io::Result<NamedTempFile> {
    let folder = folder(target);
    let make = |path: &Path| {
        let mut options = File::options();
        options.read(true).write(true).create_new(true);
        // Temporary files are private; this becomes an ordinary one, as the user's umask has it.
        #[cfg(unix)]
        std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o666);
        let file = options.open(path)?;
        // Not every file system has locks.
        let _ = file.try_lock();
        Ok(file)
    };
    let mut name = OsString::from(".mils-");
    name.push(target.file_name().unwrap_or_default());
    let named = || Builder::new().prefix(&name).rand_bytes(0).make_in(folder, make);
    let left = folder.join(&name);
    named()
        .or_else(|error| if is_left(&left) { std::fs::remove_file(&left).and_then(|()| named()) } else { Err(error) })
        // Somebody else writes it too, or its name would be too long.
        .or_else(|_| Builder::new().prefix(".mils-").make_in(folder, make))
}

/// Whether nobody writes a file any more.
fn is_left(path: &Path) -> bool {
    let is_file = std::fs::symlink_metadata(path).is_ok_and(|meta| meta.is_file());
    is_file && File::open(path).is_ok_and(|file| !matches!(file.try_lock(), Err(TryLockError::WouldBlock)))
}

/// Only root may give files away; for others it is theirs in any case.
#[cfg(unix)]
fn same_owner(file: &File, of: &Metadata) {
    use std::os::unix::fs::{MetadataExt, fchown};
    let _ = fchown(file, Some(of.uid()), Some(of.gid()));
}

#[cfg(not(unix))]
fn same_owner(_: &File, _: &Metadata) {}

/// Writes a whole file of these parts, in place of one that may be there.
///
/// # Errors
/// If it cannot be written; then what was there still is.
pub fn replace(path: &Path, parts: impl IntoIterator<Item: AsRef<[u8]>>) -> Result<()> {
    let mut file = BufWriter::new(Replacement::begin(path)?);
    for part in parts {
        file.write_all(part.as_ref())?;
    }
    file.into_inner().map_err(io::IntoInnerError::into_error)?.finish()?;
    Ok(())
}

/// Whether a path leads to a pipe or a device, which is written to and not replaced.
pub fn is_stream(path: &Path) -> bool {
    std::fs::metadata(path).is_ok_and(|m| !m.is_file() && !m.is_dir())
}

/// Whether a file could be written here; asked before the work, not after it.
///
/// # Errors
/// If it could not.
pub fn check(path: &Path) -> Result<()> {
    if is_stream(path) { Ok(()) } else { Replacement::begin(path).map(drop) }
}

/// The folder that a path is in.
fn folder(path: &Path) -> &Path {
    path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or_else(|| Path::new("."))
}

/// Where a command writes a result that grows.
pub struct Output {
    /// For errors.
    name: String,
    to: To,
}

enum To {
    /// A file.
    File(BufWriter<Replacement>),
    /// A pipe, a device or standard output, as it comes.
    Stream(BufWriter<Box<dyn Write>>),
    /// The same for what has its beginning written last: it waits in a temporary file.
    Spool(BufWriter<File>, Box<dyn Write>),
}

impl Output {
    /// Opens a file, or standard output. `rewritten` says that [`Output::rewrite`] will be called.
    ///
    /// # Errors
    /// If it cannot be written.
    pub fn open(path: Option<&Path>, rewritten: bool) -> Result<Self> {
        let name = path.map_or("standard output".into(), |p| p.display().to_string());
        let place = || format!("cannot write to {name}");
        let stream: Box<dyn Write> = match path {
            None => Box::new(stdout()),
            Some(path) if is_stream(path) => Box::new(File::options().write(true).open(path).with_context(place)?),
            Some(path) => {
                let file = Replacement::begin(path).with_context(place)?;
                return Ok(Self { name, to: To::File(BufWriter::new(file)) });
            }
        };
        if !rewritten {
            return Ok(Self { name, to: To::Stream(BufWriter::new(stream)) });
        }
        let folder = std::env::temp_dir();
        let spool = tempfile::tempfile().with_context(|| {
            format!("cannot keep rows in {} until their number is known; name a file with --output", folder.display())
        })?;
        Ok(Self { name, to: To::Spool(BufWriter::new(spool), stream) })
    }

    fn attempt<T>(&mut self, work: impl FnOnce(&mut To) -> io::Result<T>) -> Result<T> {
        work(&mut self.to).with_context(|| format!("cannot write to {}", self.name))
    }

    /// Writes.
    ///
    /// # Errors
    /// If that fails.
    pub fn write(&mut self, bytes: &[u8]) -> Result<()> {
        self.attempt(|to| match to {
            To::File(file) => file.write_all(bytes),
            To::Stream(stream) => stream.write_all(bytes),
            To::Spool(spool, _) => spool.write_all(bytes),
        })
    }

    /// Hands what was written so far to whoever reads a stream.
    ///
    /// # Errors
    /// If that fails.
    pub fn flush(&mut self) -> Result<()> {
        self.attempt(|to| if let To::Stream(stream) = to { stream.flush() } else { Ok(()) })
    }

    /// Writes over the beginning.
    ///
    /// # Errors
    /// If that fails, or this is a stream.
    pub fn rewrite(&mut self, bytes: &[u8]) -> Result<()> {
        self.attempt(|to| match to {
            To::File(file) => file.seek(SeekFrom::Start(0)).and_then(|_| file.write_all(bytes)),
            To::Spool(spool, _) => spool.seek(SeekFrom::Start(0)).and_then(|_| spool.write_all(bytes)),
            To::Stream(_) => Err(io::ErrorKind::NotSeekable.into()),
        })
    }

    /// The end: now there is a file, and a stream has everything.
    ///
    /// # Errors
    /// If that fails.
    pub fn finish(self) -> Result<()> {
        let place = || format!("cannot write to {}", self.name);
        match self.to {
            To::File(file) => {
                file.into_inner().map_err(io::IntoInnerError::into_error).and_then(Replacement::finish).map(drop)
            }
            To::Stream(mut stream) => stream.flush(),
            To::Spool(spool, stream) => copy(spool, stream),
        }
        .with_context(place)
    }
}

fn copy(spool: BufWriter<File>, mut to: Box<dyn Write>) -> io::Result<()> {
    let mut spool = spool.into_inner().map_err(io::IntoInnerError::into_error)?;
    spool.seek(SeekFrom::Start(0))?;
    io::copy(&mut spool, &mut to)?;
    to.flush()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    #[test]
    fn a_file_is_there_whole_or_as_it_was() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("out");
        fs::write(&path, "old").unwrap();
        let names = || fs::read_dir(dir.path()).unwrap().count();
        let mut output = Output::open(Some(&path), true).unwrap();
        output.write(b"....abc").unwrap();
        drop(output);
        assert_eq!((fs::read(&path).unwrap(), names()), (b"old".to_vec(), 1), "nothing is left of what did not end");
        let mut output = Output::open(Some(&path), true).unwrap();
        output.write(b"....abc").unwrap();
        output.rewrite(b"head").unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"old");
        output.finish().unwrap();
        assert_eq!((fs::read(&path).unwrap(), names()), (b"headabc".to_vec(), 1));
    }

    #[test]
    fn places_that_cannot_be_written_are_known_at_once() {
        let dir = tempfile::tempdir().unwrap();
        let says = |path: &Path| format!("{:#}", Output::open(Some(path), false).err().unwrap());
        assert!(says(dir.path()).contains("it is a folder"), "{}", says(dir.path()));
        let nowhere = dir.path().join("none").join("out");
        assert!(says(&nowhere).starts_with(&format!("cannot write to {}", nowhere.display())));
    }

    #[cfg(unix)]
    #[test]
    fn links_stay_and_modes_are_ordinary() {
        use std::os::unix::fs::{PermissionsExt, symlink};
        let dir = tempfile::tempdir().unwrap();
        let (link, target, plain) = (dir.path().join("link"), dir.path().join("target"), dir.path().join("plain"));
        fs::write(&target, "old").unwrap();
        fs::write(&plain, "").unwrap();
        symlink(&target, &link).unwrap();
        let mut output = Output::open(Some(&link), false).unwrap();
        output.write(b"new").unwrap();
        output.finish().unwrap();
        assert!(link.is_symlink() && fs::read(&target).unwrap() == b"new");
        let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode();
        assert_eq!(mode(&target), mode(&plain));
        let mut null = Output::open(Some(Path::new("/dev/null")), true).unwrap();
        null.write(b"....").unwrap();
        null.rewrite(b"head").unwrap();
        null.finish().unwrap();
        assert!(is_stream(Path::new("/dev/null")));
    }

    #[test]
    fn what_a_killed_process_has_left_goes_and_what_another_writes_stays() {
        let dir = tempfile::tempdir().unwrap();
        let (path, left) = (dir.path().join("out"), dir.path().join(".mils-out"));
        let names = || fs::read_dir(dir.path()).unwrap().count();
        fs::write(&left, "half").unwrap();
        replace(&path, ["new"]).unwrap();
        assert_eq!((fs::read(&path).unwrap(), names()), (b"new".to_vec(), 1));
        let mut other = Replacement::begin(&path).unwrap();
        assert!(left.exists());
        replace(&path, ["newer"]).unwrap();
        assert_eq!((fs::read(&path).unwrap(), names()), (b"newer".to_vec(), 2));
        other.write_all(b"newest").unwrap();
        other.finish().unwrap();
        assert_eq!((fs::read(&path).unwrap(), names()), (b"newest".to_vec(), 1));
        let long = dir.path().join("x".repeat(250));
        replace(&long, ["long"]).unwrap();
        assert_eq!((fs::read(&long).unwrap(), names()), (b"long".to_vec(), 2));
    }

    #[cfg(unix)]
    #[test]
    fn what_is_replaced_keeps_its_permissions_and_what_is_protected_is_not_replaced() {
        use std::os::unix::fs::PermissionsExt;
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("out");
        let mode = |mode| fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
        fs::write(&path, "old").unwrap();
        mode(0o640);
        replace(&path, ["n", "ew"]).unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"new");
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o640);
        mode(0o440);
        assert!(replace(&path, ["newer"]).unwrap_err().to_string().contains("read-only"));
        assert_eq!((fs::read(&path).unwrap(), fs::read_dir(dir.path()).unwrap().count()), (b"new".to_vec(), 1));
    }
}
