//! What embeddings are of: an encoder by the contents of its files, and how it computes.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

/// Changes where rows that were kept are no longer what would be computed.
const REVISION: &str = "1";

/// Stands for an encoder and the way that it computes.
///
/// Two that are equal are of the same bytes in every `.json` and `.safetensors` file of the checkpoint's folder, by their
/// names, of the same version of this package, and of the same `how`. Contents decide, not times or places: a copy of a
/// checkpoint is the same encoder. The one thing that is believed is a name: a file that is a link into the blobs of a hub
/// cache is named there by the SHA-256 of its contents, which is taken instead of reading them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Identity([u8; 32]);

impl Identity {
    /// Of a checkpoint's folder. `how` is what else its numbers depend on: precision, mathematics, the device.
    ///
    /// # Errors
    /// If a file cannot be read.
    pub fn of_checkpoint(folder: &Path, how: &[&str]) -> io::Result<Self> {
        let mut files: Vec<PathBuf> =
            fs::read_dir(folder)?.map(|entry| Ok(entry?.path())).collect::<io::Result<_>>()?;
        files.retain(|path| path.extension().is_some_and(|e| e == "json" || e == "safetensors") && path.is_file());
        files.sort();
        let mut hasher = blake3::Hasher::new();
        for part in [env!("CARGO_PKG_VERSION"), REVISION].iter().chain(how) {
            // With their lengths, so that no two lists of parts are one.
            hasher.update(&(part.len() as u64).to_le_bytes());
            hasher.update(part.as_bytes());
        }
        for path in files {
            let name = path.file_name().map(|n| n.to_string_lossy().into_owned()).unwrap_or_default();
            let content = match blob(&path) {
                Some(name) => format!("sha256 {name}"),
                None => {
                    let mut content = blake3::Hasher::new();
                    content.update_mmap_rayon(&path)?;
                    format!("blake3 {}", content.finalize())
                }
            };
            hasher.update(format!("\0{name}\0{content}").as_bytes());
        }
        Ok(Self(*hasher.finalize().as_bytes()))
    }

    /// Its bytes.
    pub(crate) fn bytes(&self) -> &[u8; 32] {
        &self.0
    }

    /// Its folder's name.
    pub(crate) fn name(&self) -> String {
        self.0[..16].iter().map(|byte| format!("{byte:02x}")).collect()
    }
}

/// The SHA-256 of the contents, where a file is a link into a hub cache: `blobs/SHA256`. Small files there are named by
/// another hash, and have to be read.
pub fn blob(path: &Path) -> Option<String> {
    if !path.is_symlink() {
        return None;
    }
    let target = fs::canonicalize(path).ok()?;
    let name = target.file_name()?.to_str()?;
    let in_blobs = target.parent()?.file_name()? == "blobs";
    (in_blobs && name.len() == 64 && name.bytes().all(|b| b.is_ascii_hexdigit())).then(|| name.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn contents_and_ways_decide() {
        let dir = tempfile::tempdir().unwrap();
        let folder = |name: &str, weights: &str| {
            let folder = dir.path().join(name);
            fs::create_dir_all(&folder).unwrap();
            fs::write(folder.join("config.json"), "{}").unwrap();
            fs::write(folder.join("model.safetensors"), weights).unwrap();
            folder
        };
        let a = folder("a", "weights");
        let of = |folder: &Path, how: &[&str]| Identity::of_checkpoint(folder, how).unwrap();
        let identity = of(&a, &["f32", "cpu"]);
        assert_eq!(of(&folder("copy", "weights"), &["f32", "cpu"]), identity);
        fs::write(a.join("README.md"), "not read").unwrap();
        assert_eq!(of(&a, &["f32", "cpu"]), identity);
        for other in [
            of(&folder("b", "weightz"), &["f32", "cpu"]),
            of(&a, &["f16", "cpu"]),
            of(&a, &["f32c", "pu"]),
            of(&a, &["f32"]),
        ] {
            assert_ne!(other, identity);
        }
        fs::rename(a.join("config.json"), a.join("open_clip_config.json")).unwrap();
        assert_ne!(of(&a, &["f32", "cpu"]), identity, "names count too");
        assert!(Identity::of_checkpoint(&dir.path().join("none"), &[]).is_err());
    }

    #[cfg(unix)]
    #[test]
    fn a_blob_of_the_hub_is_known_by_its_name() {
        let dir = tempfile::tempdir().unwrap();
        let (blobs, snapshot) = (dir.path().join("blobs"), dir.path().join("snapshot"));
        fs::create_dir_all(&blobs).unwrap();
        fs::create_dir_all(&snapshot).unwrap();
        let name = "ab".repeat(32);
        fs::write(blobs.join(&name), "weights").unwrap();
        let link = snapshot.join("model.safetensors");
        std::os::unix::fs::symlink(blobs.join(&name), &link).unwrap();
        assert_eq!(blob(&link).as_deref(), Some(&name[..]));
        fs::write(blobs.join("short"), "config").unwrap();
        let other = snapshot.join("config.json");
        std::os::unix::fs::symlink(blobs.join("short"), &other).unwrap();
        assert_eq!((blob(&other), blob(&blobs.join(&name))), (None, None));
    }
}
