//! Initial sets by name, the project's own and the user's, and the lists of labels that new ones are made from.

use crate::find::folders;
use crate::{Modality, PackError};
use std::path::{Path, PathBuf};

/// Where sets are looked for, in order: the folders in `MILS_BANKS`, the user's data folder, beside an installed program,
/// and the source tree that this was built from. A set is a `NAME.txt` there.
fn bank_path() -> Vec<PathBuf> {
    folders("MILS_BANKS", "banks")
}

/// A set's file: by its name, or a file's path.
///
/// # Errors
/// [`PackError::Bank`] if there is neither.
pub fn find_bank(name: &str) -> Result<PathBuf, PackError> {
    find_bank_in(name, &bank_path())
}

fn find_bank_in(name: &str, folders: &[PathBuf]) -> Result<PathBuf, PackError> {
    let given = Path::new(name);
    if is_name(given) {
        let named = folders.iter().map(|folder| folder.join(format!("{name}.txt"))).find(|path| path.is_file());
        if let Some(path) = named {
            return Ok(path);
        }
    }
    // A pipe is a file too.
    if given.exists() && !given.is_dir() {
        return Ok(given.to_owned());
    }
    let known: Vec<String> = banks_in(folders).into_iter().map(|(name, _)| name).collect();
    let known = if known.is_empty() { "none".to_owned() } else { known.join(", ") };
    Err(PackError::Bank { name: name.to_owned(), known })
}

/// Whether this is a name and no path: one part without an extension.
pub(crate) fn is_name(path: &Path) -> bool {
    path.extension().is_none() && path.components().count() == 1 && path.file_name().is_some()
}

/// The sets that [`find_bank`] finds by name, in alphabetical order.
pub fn known_banks() -> Vec<(String, PathBuf)> {
    banks_in(&bank_path())
}

fn banks_in(folders: &[PathBuf]) -> Vec<(String, PathBuf)> {
    let mut banks = std::collections::BTreeMap::new();
    for folder in folders {
        for path in std::fs::read_dir(folder).into_iter().flatten().flatten().map(|entry| entry.path()) {
            if path.extension().is_some_and(|e| e == "txt") && path.is_file() {
                let name = path.file_stem().map(|n| n.to_string_lossy().into_owned()).unwrap_or_default();
                // The first folder that has the name.
                banks.entry(name).or_insert(path);
            }
        }
    }
    banks.into_iter().collect()
}

/// The folder with the project's lists of labels for a modality; `None` where they are not installed.
pub fn labels_folder(modality: Modality) -> Option<PathBuf> {
    let folder = |path: PathBuf| path.join("labels").join(modality.name());
    bank_path().into_iter().map(folder).find(|folder| folder.is_dir())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    #[test]
    fn sets_are_found_by_name_and_by_path() {
        let dir = tempfile::tempdir().unwrap();
        let (own, shipped) = (dir.path().join("own"), dir.path().join("shipped"));
        for folder in [&own, &shipped] {
            fs::create_dir(folder).unwrap();
        }
        fs::write(own.join("image.txt"), "mine").unwrap();
        for name in ["image.txt", "sound.txt", "README.md"] {
            fs::write(shipped.join(name), "").unwrap();
        }
        let folders = [dir.path().join("none"), own.clone(), shipped.clone()];
        assert_eq!(find_bank_in("image", &folders).unwrap(), own.join("image.txt"));
        assert_eq!(find_bank_in("sound", &folders).unwrap(), shipped.join("sound.txt"));
        let path = shipped.join("README.md");
        assert_eq!(find_bank_in(path.to_str().unwrap(), &folders).unwrap(), path);
        for name in ["video", "sound.csv", own.to_str().unwrap()] {
            let error = find_bank_in(name, &folders).unwrap_err().to_string();
            assert!(error.contains(name) && error.contains("image, sound") && !error.contains('\n'), "{error}");
        }
        assert!(find_bank_in("x", &[]).unwrap_err().to_string().contains("none"));
        assert!(is_name(Path::new("image")) && !is_name(Path::new("a/b")) && !is_name(Path::new("a.txt")));
        assert!(!is_name(Path::new("..")) && !is_name(Path::new("")));
    }

    #[test]
    fn the_projects_sets_and_labels_are_found() {
        let shipped = Path::new(env!("CARGO_MANIFEST_DIR")).join("banks");
        for modality in Modality::ALL {
            assert!(find_bank_in(modality.name(), std::slice::from_ref(&shipped)).is_ok(), "{modality}");
            assert!(labels_folder(modality).is_some(), "{modality}");
        }
    }
}
