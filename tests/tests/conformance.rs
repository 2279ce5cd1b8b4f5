//! Both backends against embeddings that transformers computed (see ../conformance/make_fixtures.py), and the GPU's
//! ops against the CPU's. One tolerance table for all.
#![allow(clippy::unwrap_used, clippy::panic, reason = "tests")]

use mils_cpu::Cpu;
use mils_encoder::{ClipFiles, DualEncoder};
use mils_gpu::Gpu;
use mils_graph::{Activation, Attention, Backend, Graph, HostTensor, Linear, ValueId};
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use std::path::{Path, PathBuf};

/// Least cosine of an embedding with the reference, in f32.
const COSINE: f32 = 0.99999;
/// Least cosine where the image was also resized here: 8-bit resampling may round to the neighbouring value, and
/// random weights pass that on undamped.
const FILE_COSINE: f32 = 0.9995;
/// Largest difference of a resized pixel from Pillow's, in 8-bit steps.
const PIXEL: f32 = 1.01;
/// Largest difference of an embedding's element from the reference, in f32.
const ELEMENT: f32 = 1e-4;
/// Largest difference of an op's element between backends, relative to the largest element.
const OP: f32 = 2e-5;

/// The backends to test. A GPU is left out only on request, and loudly.
fn backends() -> Vec<Box<dyn Backend>> {
    let mut all: Vec<Box<dyn Backend>> = vec![Box::new(Cpu::new())];
    if std::env::var_os("MILS_TEST_SKIP_GPU").is_some() {
        eprintln!("MILS_TEST_SKIP_GPU is set: THE GPU BACKEND IS NOT TESTED");
    } else {
        all.push(Box::new(gpu()));
    }
    all
}

fn gpu() -> Gpu {
    Gpu::open().unwrap_or_else(|e| panic!("{e}; or set MILS_TEST_SKIP_GPU=1 to leave the GPU untested"))
}

fn fixtures() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("conformance")
}

fn rows(json: &serde_json::Value) -> Vec<Vec<f32>> {
    serde_json::from_value(json.clone()).unwrap()
}

fn compare(what: &str, ours: &[f32], theirs: &[f32]) {
    assert_eq!(ours.len(), theirs.len());
    let cosine: f32 = ours.iter().zip(theirs).map(|(a, b)| a * b).sum();
    let worst = ours.iter().zip(theirs).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
    assert!(cosine >= COSINE && worst <= ELEMENT, "{what}: cosine {cosine}, largest difference {worst}");
}

#[test]
fn clip_gives_the_embeddings_of_transformers() {
    for backend in backends() {
        for model in ["quick-gelu-old-eos", "gelu-f16", "sharded-bf16"] {
            let folder = fixtures().join(model);
            let mut clip = ClipFiles::open(&folder).unwrap().load(&*backend).unwrap();
            let reference = std::fs::read_to_string(folder.join("reference.json")).unwrap();
            let reference: serde_json::Value = serde_json::from_str(&reference).unwrap();
            let scale = reference["logit_scale"].as_f64().unwrap() as f32;
            assert!((clip.logit_scale() - scale).abs() < scale * 1e-2);

            let texts: Vec<String> = serde_json::from_value(reference["texts"].clone()).unwrap();
            let ids: Vec<Vec<u32>> = serde_json::from_value(reference["token_ids"].clone()).unwrap();
            for (text, ids) in texts.iter().zip(&ids) {
                assert_eq!(&clip.tokenize(text).unwrap(), ids, "{model}: {text:?}");
            }
            let embedded = clip.embed_texts(&texts).unwrap();
            for (i, theirs) in rows(&reference["text_embeds"]).iter().enumerate() {
                compare(&format!("{} {model} text {i}", backend.name()), embedded.row(i), theirs);
            }
            // What Pillow resized and cropped has the model's size already: here every difference is the model's.
            let images: Vec<_> = (0..3).map(|i| image(&folder.join(format!("pixels{i}.png")))).collect();
            let embedded = clip.embed_images(&images).unwrap();
            for (i, theirs) in rows(&reference["image_embeds"]).iter().enumerate() {
                compare(&format!("{} {model} image {i}", backend.name()), embedded.row(i), theirs);
            }
            let files: Vec<_> = (0..3).map(|i| image(&fixtures().join(format!("images/{i}.png")))).collect();
            let embedded = clip.embed_images(&files).unwrap();
            for (i, theirs) in rows(&reference["image_embeds"]).iter().enumerate() {
                let cosine: f32 = embedded.row(i).iter().zip(theirs).map(|(a, b)| a * b).sum();
                assert!(cosine >= FILE_COSINE, "{} {model} file {i}: cosine {cosine}", backend.name());
            }
            eprintln!("{}: {model}: {} texts and {} images agree", backend.name(), texts.len(), images.len());
        }
    }
}

fn image(path: &Path) -> mils_media::RgbImage {
    mils_media::decode_image(path, &Default::default()).unwrap()
}

#[test]
fn resizing_and_cropping_are_pillows() {
    use mils_media::{Crop, Preprocess, Resample, Resize};
    for (model, resize, crop, resample) in [
        ("quick-gelu-old-eos", Resize::ShortestEdge(42), Some(42), Resample::Bicubic),
        ("gelu-f16", Resize::ShortestEdge(64), Some(64), Resample::Bilinear),
        ("sharded-bf16", Resize::Exact { height: 35, width: 35 }, None, Resample::Bicubic),
    ] {
        let crop = crop.map(|n| Crop { height: n, width: n });
        let steps = Preprocess { resize: Some(resize), resample, crop, rescale: None, normalize: None };
        let plain = Preprocess { resize: None, crop: None, ..steps.clone() };
        for i in 0..3 {
            let ours = steps.apply(&image(&fixtures().join(format!("images/{i}.png")))).unwrap();
            let theirs = plain.apply(&image(&fixtures().join(model).join(format!("pixels{i}.png")))).unwrap();
            assert_eq!((ours.height, ours.width), (theirs.height, theirs.width));
            let worst = ours.data.iter().zip(&theirs.data).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
            assert!(worst <= PIXEL, "{model}, image {i}: differs by {worst}");
        }
    }
}

/// A graph with random inputs, run on both backends.
struct Case {
    graph: Graph,
    inputs: Vec<HostTensor>,
    weights: Vec<(String, HostTensor)>,
    rng: ChaCha8Rng,
}

impl Case {
    fn new(seed: u64) -> Self {
        let rng = ChaCha8Rng::seed_from_u64(seed);
        Self { graph: Graph::new(), inputs: vec![], weights: vec![], rng }
    }

    fn floats(&mut self, shape: &[usize]) -> HostTensor {
        let data = (0..shape.iter().product()).map(|_| self.rng.random_range(-1.5..1.5_f32)).collect();
        HostTensor::f32(shape, data).unwrap()
    }

    fn input(&mut self, shape: &[usize]) -> ValueId {
        let tensor = self.floats(shape);
        self.inputs.push(tensor);
        self.graph.input("x", shape).unwrap()
    }

    fn index(&mut self, shape: &[usize], limit: u32) -> ValueId {
        let data = (0..shape.iter().product()).map(|_| self.rng.random_range(0..limit)).collect();
        self.inputs.push(HostTensor::u32(shape, data).unwrap());
        self.graph.index_input("ids", shape).unwrap()
    }

    fn weight(&mut self, shape: &[usize]) -> ValueId {
        let name = format!("w{}", self.weights.len());
        let tensor = self.floats(shape);
        self.weights.push((name.clone(), tensor));
        self.graph.weight(&name, shape).unwrap()
    }

    fn run_on(&self, backend: &dyn Backend) -> Vec<f32> {
        let mut program = backend.load(self.weights.clone()).unwrap().compile(&self.graph).unwrap();
        let first = program.run(&self.inputs).unwrap();
        // A replay must not depend on what the first run left in the buffers.
        assert_eq!(first, program.run(&self.inputs).unwrap());
        first[0].as_f32().unwrap().to_vec()
    }

    fn agree(mut self, what: &str, gpu: &Gpu, out: ValueId) {
        self.graph.output(out);
        let (cpu, gpu) = (self.run_on(&Cpu::new()), self.run_on(gpu));
        let scale = cpu.iter().fold(1.0_f32, |m, v| m.max(v.abs()));
        let worst = cpu.iter().zip(&gpu).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
        assert!(worst <= OP * scale, "{what}: differs by {worst} where the largest value is {scale}");
    }
}

#[test]
fn every_gpu_op_agrees_with_the_cpu() {
    if std::env::var_os("MILS_TEST_SKIP_GPU").is_some() {
        eprintln!("MILS_TEST_SKIP_GPU is set: THE GPU'S OPS ARE NOT TESTED");
        return;
    }
    let gpu = gpu();
    let all = [Activation::None, Activation::QuickGelu, Activation::Gelu, Activation::GeluTanh];
    for (i, (m, n, k)) in
        [(1, 1, 1), (7, 33, 24), (65, 72, 50), (64, 64, 64), (600, 530, 36), (600, 530, 35)].into_iter().enumerate()
    {
        for (bias, residual) in [(false, false), (true, false), (false, true), (true, true)] {
            let mut c = Case::new(i as u64);
            let x = c.input(&[m, k]);
            let weight = c.weight(&[n, k]);
            let bias = bias.then(|| c.weight(&[n]));
            let residual = residual.then(|| c.input(&[m, n]));
            let op = Linear { x, weight, bias, activation: all[i % 4], residual };
            let out = c.graph.linear(op).unwrap();
            c.agree(&format!("linear {m} x {n} x {k}"), &gpu, out);
        }
    }
    for (batch, queries, keys, heads, head_dim, causal) in [
        (1, 1, 1, 1, 24, false),
        (3, 7, 7, 2, 40, true),
        (2, 65, 65, 3, 72, false),
        (1, 130, 130, 1, 80, true),
        (2, 1, 257, 2, 128, false),
    ] {
        let mut c = Case::new(9);
        let width = heads * head_dim;
        let q = c.input(&[batch, queries, width]);
        let k = c.input(&[batch, keys, width]);
        let v = c.input(&[batch, keys, width]);
        let op = Attention { q, k, v, heads, causal, scale: 0.3 };
        let out = c.graph.attention(op).unwrap();
        c.agree(&format!("attention {queries} x {keys}, {heads} heads of {head_dim}"), &gpu, out);
    }
    for (rows, width) in [(1, 1), (50, 72), (3, 513), (65_540, 3)] {
        let mut c = Case::new(4);
        let x = c.input(&[rows, width]);
        let (gamma, beta) = (c.weight(&[width]), c.weight(&[width]));
        let out = c.graph.layer_norm(x, gamma, beta, 1e-5).unwrap();
        c.agree("layer_norm", &gpu, out);
        let mut c = Case::new(5);
        let x = c.input(&[rows, width]);
        let out = c.graph.l2_normalize(x).unwrap();
        c.agree("l2_normalize", &gpu, out);
    }
    let mut c = Case::new(6);
    let ids = c.index(&[3, 7], 11);
    let table = c.weight(&[11, 50]);
    let embedded = c.graph.embedding(table, ids).unwrap();
    let position = c.weight(&[7, 50]);
    let out = c.graph.add(embedded, position).unwrap();
    let out = c.graph.activation(out, Activation::Gelu).unwrap();
    let token = c.weight(&[50]);
    let out = c.graph.prepend_token(token, out).unwrap();
    let flat = c.graph.reshape(out, &[24, 50]).unwrap();
    let rows = c.index(&[5], 24);
    let out = c.graph.gather_rows(flat, rows).unwrap();
    c.agree("embedding, add, activation, prepend, reshape, gather", &gpu, out);
    let mut c = Case::new(7);
    let image = c.input(&[2, 3, 15, 20]);
    let out = c.graph.patchify(image, 5).unwrap();
    c.agree("patchify", &gpu, out);
}
