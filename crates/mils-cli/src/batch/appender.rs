//! A file that grows by whole lines, whatever becomes of the disk.

use std::fs::File;
use std::io::{Result, Seek, SeekFrom, Write};

/// Writes at the end of a file. What could not be written is taken back to the last line that could, waits, and is
/// written with the next.
#[derive(Debug)]
pub(crate) struct Appender {
    file: File,
    /// Bytes of whole lines.
    length: u64,
    /// Lines that are yet to be written.
    waiting: Vec<u8>,
    /// There may be a part of a line after those.
    torn: bool,
}

impl Appender {
    /// After what was written to this file, which nobody else writes.
    pub(crate) fn after(mut file: File) -> Result<Self> {
        let length = file.stream_position()?;
        Ok(Self { file, length, waiting: Vec::new(), torn: false })
    }

    /// Writes a line, or several, and what waits.
    pub(crate) fn append(&mut self, lines: &[u8]) -> Result<()> {
        self.waiting.extend_from_slice(lines);
        self.write()
    }

    /// Writes what waits.
    pub(crate) fn write(&mut self) -> Result<()> {
        if self.waiting.is_empty() {
            return Ok(());
        }
        let written = self.attempt();
        if written.is_ok() {
            self.length += self.waiting.len() as u64;
            self.waiting.clear();
        } else {
            self.torn = self.file.set_len(self.length).is_err();
        }
        written
    }

    fn attempt(&mut self) -> Result<()> {
        if self.torn {
            self.file.set_len(self.length)?;
            self.torn = false;
        }
        self.file.seek(SeekFrom::Start(self.length))?;
        // In one call, so that a kill comes before or after it, but for a loss of power.
        self.file.write_all(&self.waiting)
    }

    /// What waits is not to be written.
    pub(crate) fn forget(&mut self) {
        self.waiting.clear();
    }

    /// So that what was written outlives a loss of power.
    pub(crate) fn sync(&self) -> Result<()> {
        self.file.sync_data()
    }

    /// Bytes of the file.
    pub(crate) fn length(&self) -> u64 {
        self.length
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    #[cfg(target_os = "linux")]
    #[test]
    fn what_a_full_disk_refuses_is_written_when_there_is_room() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("out");
        let mut out = Appender::after(File::create(&path).unwrap()).unwrap();
        out.append(b"first\n").unwrap();
        let good = std::mem::replace(&mut out.file, File::options().write(true).open("/dev/full").unwrap());
        assert!(out.append(b"second\n").is_err());
        assert!(out.append(b"third\n").is_err());
        assert!(out.write().is_err());
        // Half a line got through before the disk was full.
        out.file = good;
        out.file.write_all(b"sec").unwrap();
        out.append(b"fourth\n").unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap(), "first\nsecond\nthird\nfourth\n");
        assert_eq!(out.length(), fs::metadata(&path).unwrap().len());
    }

    #[test]
    fn what_is_forgotten_is_not_written() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("out");
        fs::write(&path, "").unwrap();
        let mut out = Appender::after(File::open(&path).unwrap()).unwrap();
        assert!(out.append(b"into a file that is open for reading\n").is_err());
        out.forget();
        assert!(out.write().is_ok());
        assert_eq!(fs::read_to_string(&path).unwrap(), "");
    }
}
