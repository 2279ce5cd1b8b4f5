//! Loading a large checkpoint: seconds until an encoder is ready, and the memory that it takes, each in a process of its
//! own. The files are in the page cache: what a disk can do is not what is measured.

use crate::bench::Bench;
use crate::checkpoint::{CLIP_L14, Recipe};
use crate::encoders::{PRECISIONS, pictures};
use crate::harness::machine::Memory;
use crate::harness::{Contestant, Extra, Kind};
use crate::peer::{Ask, Done, Loaded, Peers, Ran};
use anyhow::{Context, Result, bail};
use mils_cpu::Cpu;
use mils_encoder::ModelFiles;
use serde::{Deserialize, Serialize};
use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Instant;

/// Pictures that are encoded for the figures of memory.
pub const IMAGES: usize = 4;
const MB: f64 = 1e6;

/// What a process tells that has loaded a checkpoint.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Told {
    /// From opening the files to an encoder that is ready.
    pub seconds: f64,
    /// Bytes of activations, by the memory plan.
    pub activations: usize,
    /// Most bytes that were resident.
    pub peak: Option<u64>,
    /// Bytes that were resident and of no file at the end.
    pub anonymous: Option<u64>,
}

/// Loads a checkpoint in this process, embeds so many pictures, and tells.
///
/// # Errors
/// If it cannot be loaded or run.
pub fn load(folder: &Path, precision: &str, images: usize) -> Result<Told> {
    let Some((_, precision)) = PRECISIONS.into_iter().find(|(name, _)| *name == precision) else {
        bail!("there is no precision {precision}");
    };
    let cpu = Cpu::new();
    let begin = Instant::now();
    let mut encoder = ModelFiles::open_with(folder, precision)?.load(&cpu)?;
    let seconds = begin.elapsed().as_secs_f64();
    if images > 0 {
        let pictures = pictures(images, 224);
        let pixels = pictures.iter().map(|p| encoder.preprocess().apply(p)).collect::<Result<Vec<_>, _>>()?;
        encoder.embed_pixels(&pixels)?;
    }
    let Memory { peak, anonymous } = Memory::of(None);
    Ok(Told { seconds, activations: encoder.image_activation_bytes(images.max(1))?, peak, anonymous })
}

/// Columns of the memory that was seen, in MB, and over what cannot be done without.
fn memory(peak: Option<u64>, anonymous: Option<u64>, floor: usize) -> Vec<Extra> {
    let mut out = Vec::new();
    out.extend(peak.map(|p| Extra::new("peak MB", p as f64 / MB, 0)));
    out.extend(anonymous.map(|a| Extra::new("of no file", a as f64 / MB, 0)));
    out.push(Extra::new("weights+activations", floor as f64 / MB, 0));
    out.extend(peak.map(|p| Extra::new("peak over those", p as f64 / floor as f64, 2)));
    out
}

struct Ours {
    name: String,
    kind: Kind,
    precision: &'static str,
    folder: PathBuf,
    threads: usize,
    weights: usize,
    /// Of the first turn, which embeds too; the others only load.
    first: Option<Told>,
}

impl Contestant for Ours {
    fn name(&self) -> String {
        self.name.clone()
    }

    fn kind(&self) -> Kind {
        self.kind
    }

    fn turn(&mut self) -> Result<f64> {
        let images = if self.first.is_none() { IMAGES } else { 0 };
        let mut command = Command::new(std::env::current_exe().context("no path of this program")?);
        command.arg("load-one").arg(&self.folder).args(["--precision", self.precision]);
        command.args(["--images", &images.to_string(), "--threads", &self.threads.to_string()]);
        let output = command.stdin(Stdio::null()).stderr(Stdio::piped()).output().context("cannot start itself")?;
        if !output.status.success() {
            bail!("{}", String::from_utf8_lossy(&output.stderr).trim());
        }
        let told: Told = serde_json::from_slice(&output.stdout).context("it tells something else")?;
        let seconds = told.seconds;
        self.first.get_or_insert(told);
        Ok(seconds)
    }

    fn figures(&mut self) -> Vec<Extra> {
        let Some(first) = &self.first else { return vec![] };
        memory(first.peak, first.anonymous, self.weights + first.activations)
    }
}

/// PyTorch's `from_pretrained`, without the import of PyTorch.
struct Torch {
    name: String,
    peers: Peers,
    folder: PathBuf,
    pixels: PathBuf,
    floor: usize,
    first: Option<Memory>,
}

impl Contestant for Torch {
    fn name(&self) -> String {
        self.name.clone()
    }

    fn kind(&self) -> Kind {
        Kind::Peer
    }

    fn turn(&mut self) -> Result<f64> {
        let mut worker = self.peers.start_one(&self.name)?;
        let ask = Ask::Load { model: &self.folder, cache: &self.folder.join("onnx") };
        let seconds = worker.ask::<Loaded>(&ask)?.seconds;
        if self.first.is_none() {
            let shape = [IMAGES, 3, 224, 224];
            worker.ask::<Done>(&Ask::Input { id: "x", kind: "pixels", shape: &shape, file: &self.pixels })?;
            worker.ask::<Ran>(&Ask::Run { id: "x", repeats: 1 })?;
            self.first = Some(Memory::of(Some(worker.process())));
        }
        Ok(seconds)
    }

    fn figures(&mut self) -> Vec<Extra> {
        self.first.map(|m| memory(m.peak, m.anonymous, self.floor)).unwrap_or_default()
    }
}

/// Brings a file into the page cache.
fn read_through(path: &Path) -> Result<()> {
    let mut file = std::fs::File::open(path).with_context(|| format!("cannot read {}", path.display()))?;
    let mut buffer = vec![0; 1 << 20];
    while file.read(&mut buffer)? > 0 {}
    Ok(())
}

/// Bytes of an element of matrices that are held so.
fn element(precision: &str) -> usize {
    if precision.ends_with("f32") { 4 } else { 2 }
}

/// Runs the table of loading.
///
/// # Errors
/// If the checkpoint cannot be made.
pub fn run(bench: &mut Bench) -> Result<()> {
    let id = "load-clip-l14";
    if !bench.wanted(id) {
        return Ok(());
    }
    let recipe: Recipe = CLIP_L14;
    let folder = bench.checkpoint(&recipe)?;
    bench.say("reading the file through once");
    read_through(&folder.join("model.safetensors"))?;
    let mut contestants: Vec<Box<dyn Contestant>> = Vec::new();
    let first = [("f32", Kind::Ours), ("f32", Kind::Again)];
    for (precision, kind) in first.into_iter().chain([("bf16", Kind::Ours), ("f16", Kind::Ours)]) {
        let again = if kind == Kind::Again { " again" } else { "" };
        contestants.push(Box::new(Ours {
            name: format!("ours {precision}{again}"),
            kind,
            precision,
            folder: folder.clone(),
            threads: bench.threads(),
            weights: recipe.weight_bytes(element(precision)),
            first: None,
        }));
    }
    let scratch = tempfile::tempdir()?;
    let pixels = scratch.path().join("pixels.raw");
    let zeros = vec![0_u8; IMAGES * 3 * 224 * 224 * size_of::<f32>()];
    std::fs::write(&pixels, zeros).with_context(|| format!("cannot write {}", pixels.display()))?;
    // The bytes of our activations stand for those of PyTorch too, which plans none.
    let activations = load(&folder, "f32", 0)?.activations * IMAGES;
    for name in bench.peers.wanted.clone().into_iter().filter(|n| n.starts_with("torch")) {
        match bench.peers.start_one(&name) {
            Ok(worker) => bench.report.peers.insert(name.clone(), worker.versions.clone()),
            Err(problem) => {
                bench.note(format!("{name} is left out: {problem:#}"));
                continue;
            }
        };
        let floor = recipe.weight_bytes(element(&name)) + activations;
        let (peers, folder, pixels) = (bench.peers.clone(), folder.clone(), pixels.clone());
        contestants.push(Box::new(Torch { name, peers, folder, pixels, floor, first: None }));
    }
    let bytes = recipe.weight_bytes(4) as f64 / 1e9;
    let title =
        format!("{}: loading {bytes:.1} GB of f32 from the page cache; memory with {IMAGES} images", recipe.name);
    bench.measure((id, &title), &mut contestants, &["torch-f32"]);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_is_told_over_what_cannot_be_done_without() {
        let columns = memory(Some(3_000_000), Some(1_000_000), 2_000_000);
        assert_eq!(columns.iter().map(|c| c.value).collect::<Vec<_>>(), [3.0, 1.0, 2.0, 1.5]);
        assert_eq!(memory(None, None, 1).len(), 1);
        assert_eq!([element("torch-f32"), element("bf16"), element("torch-bf16")], [4, 2, 2]);
    }

    #[test]
    fn a_process_that_loads_nothing_says_what_is_wrong() {
        let folder = tempfile::tempdir().unwrap();
        assert!(load(folder.path(), "f8", 0).unwrap_err().to_string().contains("f8"));
        assert!(load(folder.path(), "f32", 0).is_err());
    }
}
