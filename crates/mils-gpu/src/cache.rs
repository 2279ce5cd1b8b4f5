//! Compiled kernels kept between runs of the program, in the user's cache folder: where the driver lets us have what it
//! compiled. Whatever goes wrong with the file costs time and nothing else.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::sync::Mutex;

/// Where the files are: `off`, or a folder instead of the user's cache.
pub(crate) const VARIABLE: &str = "MILS_PIPELINE_CACHE";

/// First in every file; the number changes with the format.
const MAGIC: &[u8; 8] = b"MILSPC01";

/// The driver's compiled kernels, and the file of this adapter.
pub(crate) struct Cache {
    pub(crate) pipelines: wgpu::PipelineCache,
    file: PathBuf,
    /// What is in the file.
    saved: Mutex<u64>,
}

impl Cache {
    /// What was kept for this adapter, or an empty cache; none where the device has none, or it is switched off.
    pub(crate) fn open(device: &wgpu::Device, info: &wgpu::AdapterInfo) -> Option<Self> {
        Self::open_in(&folder(|name| std::env::var_os(name))?, device, info)
    }

    #[expect(unsafe_code, reason = "wgpu cannot check what a driver wrote")]
    pub(crate) fn open_in(folder: &Path, device: &wgpu::Device, info: &wgpu::AdapterInfo) -> Option<Self> {
        if !device.features().contains(wgpu::Features::PIPELINE_CACHE) {
            return None;
        }
        let file = folder.join(wgpu::util::pipeline_cache_key(info)?);
        let kept = std::fs::read(&file).ok();
        let data = kept.as_deref().and_then(unseal);
        let descriptor = wgpu::PipelineCacheDescriptor { label: Some("mils"), data, fallback: true };
        // SAFETY: the data is what `get_data` gave for an adapter of this key: the file is in the user's own folder, is
        // written whole or not at all, and its checksum was right. wgpu itself checks the version and the driver.
        let pipelines = unsafe { device.create_pipeline_cache(&descriptor) };
        Some(Self { pipelines, file, saved: Mutex::new(data.map_or(0, checksum)) })
    }

    /// Writes the file, if there is anything new. In vain where the folder cannot be written.
    pub(crate) fn save(&self) {
        let Some(data) = self.pipelines.get_data() else { return };
        let Ok(mut saved) = self.saved.lock() else { return };
        let sum = checksum(&data);
        if *saved != sum && write(&self.file, &seal(&data)).is_ok() {
            *saved = sum;
        }
    }
}

/// The folder of the files, by the environment.
fn folder(variable: impl Fn(&str) -> Option<OsString>) -> Option<PathBuf> {
    match variable(VARIABLE) {
        Some(value) if value.is_empty() || value == "off" => return None,
        Some(value) => return Some(value.into()),
        None => {}
    }
    let set = |name| variable(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    let user = match std::env::consts::OS {
        "windows" => set("LOCALAPPDATA"),
        "macos" => set("HOME").map(|home| home.join("Library/Caches")),
        _ => set("XDG_CACHE_HOME").or_else(|| set("HOME").map(|home| home.join(".cache"))),
    };
    Some(user?.join("mils").join("pipelines"))
}

/// Through a file of its own name, so that nobody reads half of it.
fn write(file: &Path, bytes: &[u8]) -> std::io::Result<()> {
    if let Some(folder) = file.parent() {
        std::fs::create_dir_all(folder)?;
    }
    let temporary = file.with_extension(format!("{}.tmp", std::process::id()));
    let written = std::fs::write(&temporary, bytes).and_then(|()| std::fs::rename(&temporary, file));
    if written.is_err() {
        // It may not be there at all.
        let _ = std::fs::remove_file(&temporary);
    }
    written
}

fn seal(data: &[u8]) -> Vec<u8> {
    [&MAGIC[..], &checksum(data).to_le_bytes(), data].concat()
}

/// What was sealed, if it is whole.
fn unseal(file: &[u8]) -> Option<&[u8]> {
    let (sum, data) = file.strip_prefix(MAGIC)?.split_first_chunk::<8>()?;
    (u64::from_le_bytes(*sum) == checksum(data)).then_some(data)
}

/// FNV-1a: against broken files, not against forged ones.
fn checksum(data: &[u8]) -> u64 {
    data.iter().fold(0xcbf2_9ce4_8422_2325, |sum, &byte| (sum ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_whole_files_are_read() {
        let sealed = seal(b"kernels");
        assert_eq!(unseal(&sealed), Some(&b"kernels"[..]));
        assert_eq!(unseal(&seal(b"")), Some(&b""[..]));
        for broken in 0..sealed.len() {
            let mut file = sealed.clone();
            file[broken] ^= 1;
            assert_eq!(unseal(&file), None, "byte {broken} is wrong");
            assert_eq!(unseal(&sealed[..broken]), None, "{broken} bytes are left");
        }
    }

    #[test]
    fn the_environment_says_where() {
        let with = |set: &'static [(&str, &str)]| {
            folder(|name| set.iter().find(|(n, _)| *n == name).map(|(_, value)| value.into()))
        };
        assert_eq!(with(&[(VARIABLE, "off"), ("HOME", "h")]), None);
        assert_eq!(with(&[(VARIABLE, ""), ("HOME", "h")]), None);
        assert_eq!(with(&[(VARIABLE, "there"), ("HOME", "h")]), Some("there".into()));
        assert_eq!(with(&[]), None);
        if cfg!(target_os = "linux") {
            assert_eq!(with(&[("HOME", "h")]), Some("h/.cache/mils/pipelines".into()));
            assert_eq!(with(&[("HOME", "h"), ("XDG_CACHE_HOME", "c")]), Some("c/mils/pipelines".into()));
        }
    }
}
