//! What runs of true-size encoders do on a GPU, counted without one by the code that does it: a change that costs more
//! launches, more bytes or more arithmetic fails here, where there is no GPU to show it. A fused epilogue that is lost
//! is a launch more and bytes more; a tile that is chosen worse is bytes more; and that a kernel accesses what is counted
//! for it, mils-gpu's own tests find out by running it.
//!
//! After a change that is meant, run the test: it prints the table as it is now. Copy it over `PINNED`, and say in the
//! commit what became more and why.
#![allow(clippy::unwrap_used, clippy::panic, reason = "tests")]
#![allow(clippy::unreadable_literal, reason = "pinned numbers are pasted as the test prints them")]

use mils_bench::checkpoint::{CLIP_B32, Family, Recipe, SIGLIP_B16, SIGLIP_SO400M};
use mils_bench::meter::Absent;
use mils_encoder::{Encoder, ModelFiles, Precision};
use mils_gpu::{Activations, AdapterKind, Cooperative, Setup};
use mils_graph::{Backend, BackendError, DType, Graph, HostTensor, Meter, Program, WeightSet, Work};
use mils_media::Pixels;
use std::fmt::Write;
use std::path::Path;

/// What is run.
#[derive(Clone, Copy)]
enum Input {
    /// So many pictures.
    Images(usize),
    /// So many texts of so many tokens.
    Texts(usize, usize),
}

/// A workload on a discrete GPU, with activations, small weights and matrices in this type, and cooperative matrices or
/// not: launches of kernels, bytes that their threads load and store, bytes if every operand of a launch were moved once,
/// floating-point operations of products.
type Pinned = (&'static str, &'static str, u64, u64, u64, u64);

const PINNED: &[Pinned] = &[
    ("CLIP B/32, 8 images", "f32", 118, 7800217600, 763413568, 65856552960),
    ("CLIP B/32, 8 images", "f16", 118, 3900133376, 381706816, 65856552960),
    ("CLIP B/32, 8 images", "f16, cooperative", 118, 2446807040, 381706816, 65856552960),
    ("CLIP B/32, 50 captions of 16 tokens", "f32", 348, 6301061120, 984760216, 56646860800),
    ("CLIP B/32, 50 captions of 16 tokens", "f16", 348, 3151552512, 492382104, 56646860800),
    ("CLIP B/32, 50 captions of 16 tokens", "f16, cooperative", 348, 2165628928, 492382104, 56646860800),
    ("SigLIP B/16, 8 images", "f32", 122, 17207746560, 2058012704, 283332673536),
    ("SigLIP B/16, 8 images", "f16", 122, 8603885568, 1029006368, 283332673536),
    ("SigLIP B/16, 8 images", "f16, cooperative", 122, 9876135936, 1029006368, 283332673536),
    ("SigLIP B/16, 50 texts of 64 tokens", "f32", 348, 38924654592, 4179878544, 513412300800),
    ("SigLIP B/16, 50 texts of 64 tokens", "f16", 348, 19467691008, 2089946256, 513412300800),
    ("SigLIP B/16, 50 texts of 64 tokens", "f16, cooperative", 348, 17922941952, 2089946256, 513412300800),
    ("SigLIP So400m/14, 16 images", "f32", 257, 128046647296, 15948956992, 3525662343168),
    ("SigLIP So400m/14, 16 images", "f16", 257, 64023360512, 7974478528, 3525662343168),
    ("SigLIP So400m/14, 16 images", "f16, cooperative", 257, 117066822656, 7974478528, 3525662343168),
];

const WORK: [(&str, Recipe, Input); 5] = [
    ("CLIP B/32, 8 images", CLIP_B32, Input::Images(8)),
    ("CLIP B/32, 50 captions of 16 tokens", CLIP_B32, Input::Texts(50, 16)),
    ("SigLIP B/16, 8 images", SIGLIP_B16, Input::Images(8)),
    ("SigLIP B/16, 50 texts of 64 tokens", SIGLIP_B16, Input::Texts(50, 64)),
    ("SigLIP So400m/14, 16 images", SIGLIP_SO400M, Input::Images(16)),
];

/// As NVIDIA's have them.
const MATRICES: Cooperative = Cooperative { side: 16, subgroup: 32 };

const SETUPS: [(&str, Activations, DType, Option<Cooperative>); 3] = [
    ("f32", Activations::F32, DType::F32, None),
    ("f16", Activations::F16, DType::F16, None),
    ("f16, cooperative", Activations::F16, DType::F16, Some(MATRICES)),
];

fn load(folder: &Path, backend: &dyn Backend) -> Encoder {
    ModelFiles::open_with(folder, Precision::AsStored).unwrap().load(backend).unwrap()
}

fn run(encoder: &mut Encoder, recipe: &Recipe, input: Input) {
    match input {
        Input::Images(count) => {
            let one =
                Pixels { data: vec![0.0; 3 * recipe.side * recipe.side], height: recipe.side, width: recipe.side };
            assert_eq!(encoder.embed_pixels(&vec![one; count]).unwrap().len(), count);
        }
        Input::Texts(count, tokens) => {
            let mut ids = vec![5; tokens];
            if recipe.family == Family::Clip {
                ids[tokens - 1] = recipe.vocab as u32 - 1;
            }
            assert_eq!(encoder.embed_tokens(&vec![ids; count]).unwrap().len(), count);
        }
    }
}

/// Several backends that are given the same, so that a large checkpoint is opened once. Results are the last one's.
struct Together<T>(Vec<T>);

impl Backend for Together<Meter<'_>> {
    fn name(&self) -> String {
        "several".into()
    }

    fn load(&self, weights: Vec<(String, HostTensor)>) -> Result<Box<dyn WeightSet>, BackendError> {
        let all = self.0.iter().map(|b| b.load(weights.clone())).collect::<Result<_, _>>()?;
        Ok(Box::new(Together::<Box<dyn WeightSet>>(all)))
    }
}

impl WeightSet for Together<Box<dyn WeightSet>> {
    fn compile(&self, graph: &Graph) -> Result<Box<dyn Program>, BackendError> {
        let all = self.0.iter().map(|w| w.compile(graph)).collect::<Result<_, _>>()?;
        Ok(Box::new(Together::<Box<dyn Program>>(all)))
    }
}

impl Program for Together<Box<dyn Program>> {
    fn run(&mut self, inputs: &[HostTensor]) -> Result<Vec<HostTensor>, BackendError> {
        self.0.iter_mut().try_fold(vec![], |_, p| p.run(inputs))
    }
}

/// The counts of every workload by every setup.
fn counted() -> Vec<(&'static str, &'static str, Work)> {
    let scratch = tempfile::tempdir().unwrap();
    let gpus = SETUPS.map(|(_, activations, matrices, cooperative)| Absent {
        setup: Setup { kind: AdapterKind::Discrete, activations, cooperative },
        matrices,
    });
    let meters = Together(gpus.iter().map(|gpu| Meter::timed(Box::new(gpu))).collect());
    let mut all = Vec::new();
    let mut encoder: Option<Encoder> = None;
    for (name, recipe, input) in WORK {
        let folder = scratch.path().join(recipe.name);
        if !folder.is_dir() {
            recipe.hollow(&folder).unwrap();
            encoder = None;
        }
        let encoder = encoder.get_or_insert_with(|| load(&folder, &meters));
        run(encoder, &recipe, input);
        let works = SETUPS.iter().zip(&meters.0).map(|((element, ..), meter)| (name, *element, meter.account().take()));
        all.extend(works);
    }
    all
}

fn summary((name, element, work): &(&'static str, &'static str, Work)) -> Pinned {
    let cost = work.cost();
    (name, element, work.dispatches(), work.moved(), cost.bytes(), cost.flops)
}

#[test]
fn runs_do_what_they_did() {
    let all = counted();
    arithmetic_is_what_the_sizes_say(&all[0].2);
    let now: Vec<Pinned> = all.iter().map(summary).collect();
    if now == PINNED {
        return;
    }
    let mut report = String::from("const PINNED: &[Pinned] = &[\n");
    now.iter().for_each(|row| writeln!(report, "    {row:?},").unwrap());
    report.push_str("];\n");
    for (i, (name, element, work)) in all.iter().enumerate().filter(|(i, _)| PINNED.get(*i) != Some(&now[*i])) {
        writeln!(report, "{i}: {name} {element}, by kernel:").unwrap();
        for k in &work.kernels {
            let (moved, once) = (k.moved as f64 / 1e6, k.cost.bytes() as f64 / 1e6);
            writeln!(report, "  {:<36}{:>5} launches, {moved:>9.1} MB, {once:>9.1} at least", k.kernel, k.dispatches)
                .unwrap();
        }
    }
    panic!("counts differ from those pinned; as they are now:\n{report}");
}

/// Of 8 pictures by CLIP B/32, the arithmetic by hand.
fn arithmetic_is_what_the_sizes_say(work: &Work) {
    let (rows, d, mlp, layers) = (8 * 50_u64, 768_u64, 3072_u64, 12);
    let block = |queries: u64| 2 * d * (2 * rows * d + 2 * queries * d + 2 * queries * mlp) + 4 * queries * 50 * d;
    let patches = 2 * 8 * 49 * d * 3 * 32 * 32;
    // Of the last block only the class tokens' rows are computed, but for keys and values.
    let flops = patches + (layers - 1) * block(rows) + block(8) + 2 * 8 * d * 512;
    assert_eq!(work.cost().flops, flops);
}
