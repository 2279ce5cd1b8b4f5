//! Recordings in a folder: ESC-10's own layout, a folder a sound, `003 - Sea waves/5-200461-A.ogg`, where the first digit
//! of a file's name is its fold.

use super::facts::{RECORDED, SOUNDS};
use std::io;
use std::path::{Path, PathBuf};

/// The fold that the demo pack's encoder was not trained on.
pub const HELD_OUT_FOLD: u8 = 5;

/// One recording.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Recording {
    /// Its file.
    pub path: PathBuf,
    /// What is heard in it.
    pub sound: u8,
    /// Its fold, 1 to 5.
    pub fold: u8,
}

/// All recordings below a folder, by sound and name; what else lies there is passed over.
///
/// # Errors
/// If a folder cannot be read.
pub fn list(root: &Path) -> io::Result<Vec<Recording>> {
    let mut out = Vec::new();
    for folder in std::fs::read_dir(root)? {
        let folder = folder?.path();
        let name = folder.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let Some(sound) = (0..RECORDED).find(|s| name.ends_with(&format!(" - {}", SOUNDS[usize::from(*s)].name)))
        else {
            continue;
        };
        for file in std::fs::read_dir(&folder)? {
            let path = file?.path();
            let name = path.file_name().unwrap_or_default().to_string_lossy();
            let mut letters = name.chars();
            let (fold, dash) = (letters.next().and_then(|c| c.to_digit(10)), letters.next());
            if let (Some(fold @ 1..=5), Some('-')) = (fold, dash) {
                // Checked: 1 to 5.
                out.push(Recording { sound, fold: fold as u8, path });
            }
        }
    }
    out.sort_by(|a, b| (a.sound, &a.path).cmp(&(b.sound, &b.path)));
    Ok(out)
}
