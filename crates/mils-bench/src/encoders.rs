//! Encoders beside their peers: the forward pass alone, from the same pixels and token ids to embeddings of length 1.

use crate::bench::Bench;
use crate::checkpoint::{CLIP_B32, CLIP_L14, Family, Recipe, SIGLIP_B16, SIGLIP_SO400M, captions};
use crate::harness::{Contestant, Extra, Kind};
use crate::peer::{Ask, Done, Embedded, Loaded, Ran, Worker};
use crate::roofline::{KernelTable, Roof};
use anyhow::{Context, Result, bail};
use mils_cpu::{Cpu, Math};
use mils_encoder::{Embeddings, Encoder, ModelFiles, Precision};
use mils_gpu::{Activations, Gpu};
use mils_graph::{Account, Backend, Meter};
use mils_media::{Pixels, RgbImage};
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use std::cell::RefCell;
use std::path::Path;
use std::rc::Rc;
use std::time::Instant;

/// The precisions that are measured, by name.
pub const PRECISIONS: [(&str, Precision); 3] =
    [("f32", Precision::F32), ("bf16", Precision::BF16), ("f16", Precision::F16)];
/// A turn lasts at least about so many seconds: what is quick is run several times.
const TURN: f64 = 0.1;
/// Least cosine with ours in f32 of what computes the same in f32, and in 16 bits.
const SAME: (f64, f64) = (0.9999, 0.99);

/// Pictures of noise over a gradient, the same for the same number.
pub(crate) fn pictures(count: usize, side: u32) -> Vec<RgbImage> {
    let mut rng = ChaCha8Rng::seed_from_u64(11);
    let picture = |i: usize, rng: &mut ChaCha8Rng| {
        RgbImage::from_fn(side, side, |x, y| {
            let base = (x * (i as u32 + 1) + y * 3) % 200;
            [0_u32, 20, 40].map(|c| (base + c) as u8 / 2 + rng.random_range(0..100_u8)).into()
        })
    };
    (0..count).map(|i| picture(i, &mut rng)).collect()
}

/// Rows of ids brought to one length.
pub(crate) fn padded(rows: &[Vec<u32>], length: usize, pad: u32) -> Vec<Vec<u32>> {
    let pad = |row: &Vec<u32>| {
        let mut row = row.clone();
        row.resize(length.max(row.len()), pad);
        row
    };
    rows.iter().map(pad).collect()
}

/// What is embedded.
enum Input {
    Images(Vec<Pixels>),
    Texts(Vec<Vec<u32>>),
}

impl Input {
    fn embed(&self, encoder: &mut Encoder) -> Result<Embeddings> {
        Ok(match self {
            Self::Images(pixels) => encoder.embed_pixels(pixels)?,
            Self::Texts(ids) => encoder.embed_tokens(ids)?,
        })
    }

    /// Kind and shape of what a peer gets, and the numbers as bytes; texts brought to one length.
    fn raw(&self, length: usize, pad: u32) -> (&'static str, Vec<usize>, Vec<u8>) {
        match self {
            Self::Images(pixels) => {
                let (height, width) = pixels.first().map_or((0, 0), |p| (p.height, p.width));
                let bytes = pixels.iter().flat_map(|p| &p.data).flat_map(|v| v.to_le_bytes()).collect();
                ("pixels", vec![pixels.len(), 3, height, width], bytes)
            }
            Self::Texts(rows) => {
                let rows = padded(rows, length, pad);
                let bytes = rows.iter().flatten().flat_map(|v| v.to_le_bytes()).collect();
                ("tokens", vec![rows.len(), length], bytes)
            }
        }
    }
}

/// One table's work.
struct Work {
    id: String,
    title: String,
    input: Input,
    /// Lengths that peers bring texts to, with what to call them; one without a name for pictures.
    lengths: Vec<(usize, String)>,
    pad: u32,
}

/// Seconds of one of `repeats` runs in a row.
fn per_run(repeats: usize, mut run: impl FnMut() -> Result<()>) -> Result<f64> {
    let begin = Instant::now();
    for _ in 0..repeats {
        run()?;
    }
    Ok(begin.elapsed().as_secs_f64() / repeats as f64)
}

fn repeats(seconds: f64) -> usize {
    ((TURN / seconds.max(1e-6)).ceil() as usize).clamp(1, 50)
}

/// Least cosine of two lists of rows.
fn least_cosine(a: &Embeddings, b: &Embeddings) -> f64 {
    // Rows that were scaled to length 1 in bf16 are not quite of it.
    let length = |e: &Embeddings, i: usize| f64::from(e.dot(i, e, i)).sqrt();
    let cosine = |i: usize| f64::from(a.dot(i, b, i)) / (length(a, i) * length(b, i));
    let all = (0..a.len().min(b.len())).map(cosine);
    all.fold(f64::INFINITY, f64::min)
}

/// One of ours with one input; the encoder may be others' too, since they take turns.
pub(crate) struct Ours {
    name: String,
    kind: Kind,
    embed: Box<dyn Fn() -> Result<Embeddings>>,
    reference: Rc<Embeddings>,
    repeats: usize,
}

impl Ours {
    pub(crate) fn new(
        (name, kind): (&str, Kind),
        reference: &Rc<Embeddings>,
        embed: impl Fn() -> Result<Embeddings> + 'static,
    ) -> Self {
        Self { name: name.to_owned(), kind, embed: Box::new(embed), reference: Rc::clone(reference), repeats: 1 }
    }
}

impl Contestant for Ours {
    fn name(&self) -> String {
        self.name.clone()
    }

    fn kind(&self) -> Kind {
        self.kind
    }

    fn turn(&mut self) -> Result<f64> {
        let seconds = per_run(self.repeats, || (self.embed)().map(drop))?;
        self.repeats = repeats(seconds);
        Ok(seconds)
    }

    fn figures(&mut self) -> Vec<Extra> {
        let found = (self.embed)();
        found.map(|rows| vec![Extra::new("cosine", least_cosine(&rows, &self.reference), 5)]).unwrap_or_default()
    }
}

/// A peer with one input.
pub(crate) struct Peer {
    name: String,
    worker: Rc<RefCell<Worker>>,
    input: String,
    cosine: f64,
    repeats: usize,
}

impl Contestant for Peer {
    fn name(&self) -> String {
        self.name.clone()
    }

    fn kind(&self) -> Kind {
        Kind::Peer
    }

    fn turn(&mut self) -> Result<f64> {
        let ask = Ask::Run { id: &self.input, repeats: self.repeats };
        let seconds = self.worker.borrow_mut().ask::<Ran>(&ask)?.seconds;
        let mean = crate::stats::mean(&seconds);
        self.repeats = repeats(mean);
        Ok(mean)
    }

    fn figures(&mut self) -> Vec<Extra> {
        vec![Extra::new("cosine", self.cosine, 5)]
    }

    fn cpu_seconds(&self) -> Option<(u32, f64)> {
        let worker = self.worker.borrow();
        Some((worker.process(), worker.cpu_seconds()?))
    }
}

impl Peer {
    /// Gives the worker its input and holds what it makes of it against ours.
    pub(crate) fn new(
        (peer, worker): (&str, &Rc<RefCell<Worker>>),
        (input, suffix): (String, &str),
        (kind, shape, bytes): (&str, &[usize], &[u8]),
        scratch: &Path,
        reference: &Embeddings,
    ) -> Result<Self> {
        let file = scratch.join("input.raw");
        std::fs::write(&file, bytes).with_context(|| format!("cannot write {}", file.display()))?;
        let mut asked = worker.borrow_mut();
        asked.ask::<Done>(&Ask::Input { id: &input, kind, shape, file: &file })?;
        let Embedded { shape, data } = asked.ask(&Ask::Embed { id: &input })?;
        let rows = Embeddings::new(shape[1], data)?;
        if shape != [reference.len(), reference.dim()] {
            bail!("it gives {shape:?} embeddings, not {:?}", [reference.len(), reference.dim()]);
        }
        let (cosine, least) = (least_cosine(&rows, reference), if peer.ends_with("bf16") { SAME.1 } else { SAME.0 });
        // Not a number is not the same either.
        if cosine.is_nan() || cosine < least {
            bail!("it does not compute the same: cosine {cosine:.5}, expected {least} or more");
        }
        drop(asked);
        let name = format!("{peer}{suffix}");
        Ok(Self { name, worker: Rc::clone(worker), input, cosine, repeats: 1 })
    }
}

/// The three kinds of work on one model.
fn works(recipe: &Recipe, encoder: &Encoder, short: &str) -> Result<Vec<Work>> {
    let pixels = |count| -> Result<Input> {
        let pictures = pictures(count, recipe.side as u32);
        Ok(Input::Images(pictures.iter().map(|p| encoder.preprocess().apply(p)).collect::<Result<_, _>>()?))
    };
    let ids = captions(50).iter().map(|c| encoder.model_tokens(c)).collect::<Result<Vec<_>, _>>()?;
    let longest = ids.iter().map(Vec::len).max().unwrap_or_default();
    let lengths = match recipe.family {
        Family::Clip => vec![
            (recipe.context, format!(", padded to {}", recipe.context)),
            (longest, format!(", padded to {longest}")),
        ],
        Family::Siglip => vec![(recipe.context, String::new())],
    };
    let named = |id: &str| format!("{short}-{id}");
    let tokens: usize = ids.iter().map(Vec::len).sum();
    let about = match recipe.family {
        Family::Clip => format!("50 captions of {:.1} tokens on average, the longest {longest}", tokens as f64 / 50.0),
        Family::Siglip => format!("50 texts of {longest} tokens"),
    };
    let one = vec![(0, String::new())];
    Ok(vec![
        Work {
            id: named("images-8"),
            title: format!("{}: 8 images", recipe.name),
            input: pixels(8)?,
            lengths: one.clone(),
            pad: 0,
        },
        Work {
            id: named("image-1"),
            title: format!("{}: 1 image", recipe.name),
            input: pixels(1)?,
            lengths: one,
            pad: 0,
        },
        Work {
            id: named("texts-50"),
            title: format!("{}: {about}", recipe.name),
            input: Input::Texts(ids),
            lengths,
            pad: (recipe.vocab - 1) as u32,
        },
    ])
}

/// Our encoders of one checkpoint: each precision on each device, the second of the first, and products in bf16 where the
/// CPU has them.
type OurEncoders = Vec<(String, Kind, Rc<RefCell<Encoder>>)>;

/// A device by name, and the precisions that are measured on it.
type Device<'a> = (&'a str, &'a dyn Backend, &'a [(&'a str, Precision)]);

fn ours(folder: &Path, devices: &[Device<'_>], bench: &mut Bench) -> Result<OurEncoders> {
    let mut out = Vec::new();
    let open = |precision, backend: &dyn Backend| -> Result<_> {
        Ok(Rc::new(RefCell::new(ModelFiles::open_with(folder, precision)?.load(backend)?)))
    };
    for (device, backend, precisions) in devices {
        for &(name, precision) in *precisions {
            bench.say(&format!("loading in {name} on the {device}"));
            let name = if *device == "CPU" { format!("ours {name}") } else { format!("ours {name} on the {device}") };
            out.push((name, Kind::Ours, open(precision, *backend)?));
        }
    }
    if Cpu::has_bf16() {
        // What the row of bf16 on the CPU is not: there, bf16 is only how weights are held.
        bench.say("loading in bf16 on the CPU, for products in it");
        let encoder = open(Precision::BF16, &Cpu::with_math(Math::BF16))?;
        out.push(("ours bf16 products".into(), Kind::Ours, encoder));
    }
    if let Some((_, cpu, _)) = devices.first() {
        out.insert(1, ("ours f32 again".into(), Kind::Again, open(Precision::F32, *cpu)?));
    }
    Ok(out)
}

/// An encoder on a GPU whose kernels are timed.
struct Profiled<'a> {
    roof: &'a Roof,
    encoder: Encoder,
    account: Account,
    precision: &'static str,
    /// Runs that are timed, in a row.
    runs: u32,
}

impl Profiled<'_> {
    /// Times the kernels of this work.
    fn kernels(&mut self, bench: &mut Bench, work: &Work) -> Result<()> {
        bench.say(&format!("{}: kernels", work.id));
        // The first run compiles.
        work.input.embed(&mut self.encoder)?;
        self.account.take();
        for _ in 0..self.runs {
            work.input.embed(&mut self.encoder)?;
        }
        let (id, title) = (format!("{}-{}", work.id, self.precision), format!("{}, {}", work.title, self.precision));
        bench.kernels(KernelTable::new(id, title, self.roof.clone(), &self.account.take(), self.runs));
        Ok(())
    }
}

/// On every GPU, with weights in the type of its activations.
fn profiled<'a>(
    folder: &Path,
    gpus: impl Iterator<Item = (&'a Gpu, &'a Roof)>,
    bench: &Bench,
) -> Result<Vec<Profiled<'a>>> {
    let open = |(gpu, roof): (&'a Gpu, &'a Roof)| {
        let half = gpu.activations() == Activations::F16;
        let (precision, held) = if half { ("f16", Precision::F16) } else { ("f32", Precision::F32) };
        bench.say(&format!("loading in {precision} on {} to time kernels", gpu.name()));
        let meter = Meter::timed(Box::new(gpu));
        let encoder = ModelFiles::open_with(folder, held)?.load(&meter)?;
        // A software driver's figures mean little, and take long.
        let runs = if gpu.is_software() { 1 } else { 10 };
        Ok(Profiled { roof, encoder, account: meter.account(), precision, runs })
    };
    gpus.map(open).collect()
}

/// Runs the tables of the encoders.
///
/// # Errors
/// If a checkpoint cannot be made or loaded; peers that fail are left out with a note.
pub fn run(bench: &mut Bench) -> Result<()> {
    let mut recipes = vec![("clip-b32", CLIP_B32), ("siglip-b16", SIGLIP_B16)];
    if bench.full {
        recipes.extend([("clip-l14", CLIP_L14), ("siglip-so400m", SIGLIP_SO400M)]);
    }
    let workers = bench.start_peers();
    let gpus = bench.gpus()?;
    let cpu = Cpu::new();
    let mut devices: Vec<Device<'_>> = vec![("CPU", &cpu, &PRECISIONS)];
    // The second holds activations in f16.
    let settings: [(&str, &[_]); 2] = [("GPU", &PRECISIONS), ("GPU, activations in f16", &PRECISIONS[2..])];
    devices.extend(gpus.iter().zip(settings).map(|(gpu, (name, all))| (name, gpu as &dyn Backend, all)));
    let mut roofs = Vec::new();
    for gpu in &gpus {
        bench.say(&format!("measuring {}", gpu.name()));
        roofs.push(Roof::of(gpu)?);
    }
    for (short, recipe) in recipes {
        if bench.stopped() || !bench.any_wanted(&["images-8", "image-1", "texts-50"].map(|w| format!("{short}-{w}"))) {
            continue;
        }
        let folder = bench.checkpoint(&recipe)?;
        let mut profiled = profiled(&folder, gpus.iter().zip(&roofs), bench)?;
        let encoders = ours(&folder, &devices, bench)?;
        let mut able = Vec::new();
        for (name, worker) in &workers {
            bench.say(&format!("{name} loads {}", recipe.name));
            let ask = Ask::Load { model: &folder, cache: &folder.join("onnx") };
            let loaded = worker.borrow_mut().ask::<Loaded>(&ask);
            match loaded {
                Ok(_) => able.push((name.as_str(), worker)),
                Err(problem) => bench.note(format!("{name} is left out of {}: {problem:#}", recipe.name)),
            }
        }
        let works = works(&recipe, &encoders[0].2.borrow(), short)?;
        for work in works.into_iter().map(Rc::new) {
            if bench.wanted(&work.id) && !bench.stopped() {
                table(bench, &work, &encoders, &able)?;
                for one in &mut profiled {
                    one.kernels(bench, &work)?;
                }
            }
        }
    }
    Ok(())
}

fn table(
    bench: &mut Bench,
    work: &Rc<Work>,
    encoders: &OurEncoders,
    workers: &[(&str, &Rc<RefCell<Worker>>)],
) -> Result<()> {
    let reference = Rc::new(work.input.embed(&mut encoders[0].2.borrow_mut())?);
    let mut contestants: Vec<Box<dyn Contestant>> = Vec::new();
    for (name, kind, encoder) in encoders {
        let (encoder, work) = (Rc::clone(encoder), Rc::clone(work));
        let embed = move || work.input.embed(&mut encoder.borrow_mut());
        contestants.push(Box::new(Ours::new((name, *kind), &reference, embed)));
    }
    let scratch = tempfile::tempdir()?;
    for (name, worker) in workers {
        for length in &work.lengths {
            bench.say(&format!("{name} prepares {}", work.title));
            let (kind, shape, bytes) = work.input.raw(length.0, work.pad);
            let named = (format!("{}-{}", work.id, length.0), &length.1[..]);
            match Peer::new((name, worker), named, (kind, &shape, &bytes), scratch.path(), &reference) {
                Ok(peer) => contestants.push(Box::new(peer)),
                Err(problem) => bench.note(format!("{name}{} is left out of {}: {problem:#}", length.1, work.id)),
            }
        }
    }
    bench.measure((&work.id, &work.title), &mut contestants, &["ort-f32", "torch-f32"]);
    Ok(())
}
