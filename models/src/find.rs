//! Packs by name: where they are looked for, and which there are.

use crate::{Pack, PackError};
use std::path::{Path, PathBuf};

/// Where packs are looked for, in order: the folders in `MILS_PACKS`, the user's data folder, beside an installed
/// program, and the source tree that this was built from.
pub fn search_path() -> Vec<PathBuf> {
    folders("MILS_PACKS", "packs")
}

/// The folders of this name, and before them those that a variable has.
pub(crate) fn folders(variable: &str, name: &str) -> Vec<PathBuf> {
    let mut path: Vec<PathBuf> = Vec::new();
    if let Some(own) = std::env::var_os(variable) {
        path.extend(std::env::split_paths(&own).filter(|p| !p.as_os_str().is_empty()));
    }
    let data = std::env::var_os("XDG_DATA_HOME").map(PathBuf::from).or_else(|| {
        let home = std::env::home_dir()?;
        Some(if cfg!(windows) { home.join("AppData/Local") } else { home.join(".local/share") })
    });
    path.extend(data.map(|d| d.join("mils").join(name)));
    if let Ok(program) = std::env::current_exe() {
        path.extend(program.parent().and_then(Path::parent).map(|d| d.join("share/mils").join(name)));
    }
    path.push(Path::new(env!("CARGO_MANIFEST_DIR")).join(name));
    path
}

/// The file of a pack, by its name or by a path: a folder with a `pack.toml`, or a TOML file.
pub(crate) fn file(name: &str, folders: &[PathBuf]) -> Result<PathBuf, PackError> {
    let given = Path::new(name);
    // A bare word is a name first: a folder called `demo` where somebody works must not hide the pack.
    let is_path = name.contains(['/', '\\']) || name.ends_with(".toml");
    let by_name = || folders.iter().flat_map(|dir| candidates(dir, name)).find(|p| p.is_file());
    let as_folder = || given.is_dir().then(|| given.join("pack.toml"));
    let file = if is_path { as_folder().or_else(|| Some(given.to_owned())) } else { by_name().or_else(as_folder) };
    file.ok_or_else(|| {
        let known = known_in(folders).join(", ");
        PackError::Unknown { name: name.to_owned(), known: if known.is_empty() { "none".to_owned() } else { known } }
    })
}

fn candidates(folder: &Path, name: &str) -> [PathBuf; 2] {
    [folder.join(format!("{name}.toml")), folder.join(name).join("pack.toml")]
}

/// Names of the packs that [`Pack::find`] finds by name, installed or not.
pub fn known() -> Vec<String> {
    known_in(&search_path())
}

/// All packs that can be named, installed or not.
pub fn all() -> Vec<(String, Result<Pack, PackError>)> {
    known().into_iter().map(|name| (name.clone(), Pack::open(&name))).collect()
}

pub(crate) fn known_in(folders: &[PathBuf]) -> Vec<String> {
    let mut names = std::collections::BTreeSet::new();
    for folder in folders {
        let Ok(entries) = std::fs::read_dir(folder) else { continue };
        for path in entries.flatten().map(|e| e.path()) {
            // A folder's name is taken whole: `llama-3.2` has no extension.
            let name = if path.join("pack.toml").is_file() {
                path.file_name()
            } else {
                path.file_stem().filter(|_| path.is_file() && path.extension().is_some_and(|e| e == "toml"))
            };
            names.extend(name.map(|n| n.to_string_lossy().into_owned()));
        }
    }
    names.into_iter().collect()
}
