//! Every op on both backends against its formula: one body, one tolerance; and with activations in f16, another.
#![allow(clippy::unwrap_used, reason = "tests")]

mod plain;

use half::{bf16, f16};
use mils_gpu::{Activations, Gpu};
use mils_graph::{Activation, Attention, Backend, BiasedAttention, DType, Graph, HostTensor, Linear, ValueId};
use mils_tests::backends;
use std::sync::LazyLock;

/// Largest difference of an element from the formula's, relative to the largest element (or to 1).
const TOLERANCE: f64 = 2e-5;
/// The same where activations are f16: each number that is written may be off by one part in 2048, and a few ops follow
/// each other.
const HALF_TOLERANCE: f64 = 2e-3;

/// The GPU with activations in f16.
static HALF: LazyLock<Option<Gpu>> = LazyLock::new(|| {
    if mils_tests::skips_gpu() {
        return None;
    }
    let gpu = Gpu::open_with(Activations::F16).unwrap();
    if gpu.activations() == Activations::F32 {
        eprintln!("{} has no f16: ACTIVATIONS IN F16 ARE NOT TESTED", gpu.name());
        return None;
    }
    // On a software driver only with MILS_COOPERATIVE=on.
    match gpu.cooperative() {
        Some(matrices) => eprintln!("{}: products in f16 on {matrices:?}", gpu.name()),
        None => eprintln!("{}: products in f16 without cooperative matrices", gpu.name()),
    }
    Some(gpu)
});

/// A tensor with every number rounded to f16, unless it is held in 16 bits already.
fn rounded(tensor: &HostTensor) -> HostTensor {
    match tensor.as_f32() {
        Some(data) => {
            HostTensor::f32(tensor.shape(), data.iter().map(|&v| f16::from_f32(v).to_f32()).collect()).unwrap()
        }
        None => tensor.clone(),
    }
}

/// A graph with random inputs and weights.
struct Case {
    graph: Graph,
    inputs: Vec<HostTensor>,
    weights: Vec<(String, HostTensor)>,
    random: u64,
}

impl Case {
    fn new(seed: u64) -> Self {
        Self { graph: Graph::new(), inputs: vec![], weights: vec![], random: seed }
    }

    /// From 0 up to 1.
    fn unit(&mut self) -> f64 {
        self.random = self.random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.random >> 40) as f64 / f64::from(1 << 24)
    }

    fn floats(&mut self, shape: &[usize]) -> HostTensor {
        let data = (0..shape.iter().product()).map(|_| (3.0 * self.unit() - 1.5) as f32).collect();
        HostTensor::f32(shape, data).unwrap()
    }

    fn input(&mut self, shape: &[usize]) -> ValueId {
        let tensor = self.floats(shape);
        self.given(tensor)
    }

    fn given(&mut self, tensor: HostTensor) -> ValueId {
        let id = self.graph.input("x", tensor.shape()).unwrap();
        self.inputs.push(tensor);
        id
    }

    fn index(&mut self, shape: &[usize], limit: u32) -> ValueId {
        let data = (0..shape.iter().product()).map(|_| (self.unit() * f64::from(limit)) as u32).collect();
        self.inputs.push(HostTensor::u32(shape, data).unwrap());
        self.graph.index_input("ids", shape).unwrap()
    }

    fn weight(&mut self, shape: &[usize]) -> ValueId {
        self.weight_as(DType::F32, shape)
    }

    fn weight_as(&mut self, dtype: DType, shape: &[usize]) -> ValueId {
        let tensor = self.floats(shape);
        let data = tensor.as_f32().unwrap();
        let tensor = match dtype {
            DType::F16 => HostTensor::f16(shape, data.iter().map(|&v| f16::from_f32(v)).collect()).unwrap(),
            DType::BF16 => HostTensor::bf16(shape, data.iter().map(|&v| bf16::from_f32(v)).collect()).unwrap(),
            _ => tensor,
        };
        let name = format!("w{}", self.weights.len());
        self.weights.push((name.clone(), tensor));
        self.graph.weight(&name, shape).unwrap()
    }

    /// Runs it on every backend and compares with the formula; where that is NaN, so must the backend be.
    fn agrees(mut self, what: &str, backends: &[Box<dyn Backend>], out: ValueId) {
        self.graph.output(out);
        self.compare(what, &backends.iter().map(|b| &**b).collect::<Vec<_>>(), out, TOLERANCE);
        if let Some(half) = &*HALF {
            self.inputs = self.inputs.iter().map(rounded).collect();
            self.weights = self.weights.iter().map(|(name, tensor)| (name.clone(), rounded(tensor))).collect();
            self.compare(&format!("{what}, in f16"), &[half], out, HALF_TOLERANCE);
        }
    }

    fn compare(&self, what: &str, backends: &[&dyn Backend], out: ValueId, tolerance: f64) {
        let expected = plain::evaluate(&self.graph, &self.inputs, &self.weights).swap_remove(out.index());
        let scale = expected.iter().filter(|v| v.is_finite()).fold(1.0_f64, |m, v| m.max(v.abs()));
        for backend in backends {
            let what = format!("{}: {what}", backend.name());
            let mut program = backend.load(self.weights.clone()).unwrap().compile(&self.graph).unwrap();
            let first = program.run(&self.inputs).unwrap();
            let found = first[0].as_f32().unwrap();
            assert_eq!(found.len(), expected.len(), "{what}");
            for (i, (&found, &expected)) in found.iter().zip(&expected).enumerate() {
                let near = (f64::from(found) - expected).abs() <= tolerance * scale;
                let same = near || found.is_nan() && expected.is_nan();
                assert!(same, "{what}: element {i} is {found}, not {expected} (the largest is {scale})");
            }
            // A replay must not depend on what the first run left in the buffers.
            let again = program.run(&self.inputs).unwrap();
            let bits = |t: &HostTensor| t.as_f32().unwrap().iter().map(|v| v.to_bits()).collect::<Vec<_>>();
            assert_eq!(bits(&first[0]), bits(&again[0]), "{what}: a second run differs");
        }
    }
}

const ACTIVATIONS: [Activation; 6] = [
    Activation::None,
    Activation::QuickGelu,
    Activation::Gelu,
    Activation::GeluTanh,
    Activation::Relu,
    Activation::Tanh,
];

#[test]
fn linear() {
    let backends = backends();
    let shapes = [(1, 1, 1), (7, 33, 24), (65, 72, 50), (64, 64, 64), (600, 530, 36), (530, 600, 35), (130, 140, 52)];
    for (i, (m, n, k)) in shapes.into_iter().enumerate() {
        for (j, (bias, residual)) in
            [(false, false), (true, false), (false, true), (true, true)].into_iter().enumerate()
        {
            let mut c = Case::new(i as u64);
            let x = c.input(&[m, k]);
            let weight = c.weight(&[n, k]);
            let bias = bias.then(|| c.weight(&[n]));
            let residual = residual.then(|| c.input(&[m, n]));
            let op = Linear { x, weight, bias, activation: ACTIVATIONS[(i + j) % 6], residual };
            let out = c.graph.linear(op).unwrap();
            c.agrees(&format!("linear {m} x {n} x {k}"), &backends, out);
        }
    }
    let mut c = Case::new(3);
    let (x, weight) = (c.input(&[2, 3, 5, 4]), c.weight(&[6, 4]));
    let op = Linear { x, weight, bias: None, activation: Activation::None, residual: None };
    let out = c.graph.linear(op).unwrap();
    c.agrees("linear of four dimensions", &backends, out);
}

const HALVES: [DType; 2] = [DType::F16, DType::BF16];

#[test]
fn linear_with_weights_in_16_bits() {
    let backends = backends();
    // Rows that begin within a word, weights that end within one, and rows of whole quads.
    for (i, (m, n, k)) in
        [(1, 1, 1), (5, 3, 7), (7, 33, 24), (65, 72, 50), (2, 5, 6), (600, 530, 36), (530, 601, 35), (130, 140, 52)]
            .into_iter()
            .enumerate()
    {
        for (j, dtype) in HALVES.into_iter().enumerate() {
            let mut c = Case::new(i as u64);
            let x = c.input(&[m, k]);
            let weight = c.weight_as(dtype, &[n, k]);
            let bias = (i % 2 == j).then(|| c.weight(&[n]));
            let residual = (i % 3 == j).then(|| c.input(&[m, n]));
            let op = Linear { x, weight, bias, activation: ACTIVATIONS[(i + j) % 6], residual };
            let out = c.graph.linear(op).unwrap();
            c.agrees(&format!("linear {m} x {n} x {k} with {dtype:?}"), &backends, out);
        }
    }
}

#[test]
fn tables_in_16_bits() {
    let backends = backends();
    for dtype in HALVES {
        for (rows, width) in [(1, 1), (11, 7), (5, 50), (9, 3)] {
            let mut c = Case::new(12);
            let ids = c.index(&[3, 9], rows as u32);
            let table = c.weight_as(dtype, &[rows, width]);
            let out = c.graph.embedding(table, ids).unwrap();
            c.agrees(&format!("embedding of {dtype:?} rows of {width}"), &backends, out);
        }
        let mut c = Case::new(13);
        let held = c.weight_as(dtype, &[5, 2, 9]);
        // One weight as a table and as the matrix that turns its rows back into logits.
        let table = c.graph.reshape(held, &[10, 9]).unwrap();
        let ids = c.index(&[4], 10);
        let x = c.graph.embedding(table, ids).unwrap();
        let op = Linear { x, weight: table, bias: None, activation: Activation::None, residual: None };
        let out = c.graph.linear(op).unwrap();
        c.agrees(&format!("a reshaped {dtype:?} weight as table and matrix"), &backends, out);
    }
}

/// Every number that 16 bits can hold comes out as it is, whether it is read alone or among four.
#[test]
fn numbers_of_16_bits_are_widened_exactly() {
    let all = 0..=u16::MAX;
    let mut f16s: Vec<f16> = all.clone().map(f16::from_bits).filter(|v| v.is_finite()).collect();
    // What is subnormal as f32, too, GPUs may take for 0.
    let mut bf16s: Vec<bf16> = all.map(bf16::from_bits).filter(|v| v.is_normal()).collect();
    f16s.extend([f16::INFINITY, f16::NEG_INFINITY, f16::NAN, f16::ZERO]);
    bf16s.extend([bf16::INFINITY, bf16::NEG_INFINITY, bf16::NAN, bf16::ZERO]);
    let wide = [f16s.iter().map(|v| v.to_f32()).collect::<Vec<_>>(), bf16s.iter().map(|v| v.to_f32()).collect()];
    let shapes = [[f16s.len() / 4, 4], [bf16s.len() / 4, 4]];
    let held = [HostTensor::f16(&shapes[0], f16s).unwrap(), HostTensor::bf16(&shapes[1], bf16s).unwrap()];
    for (held, wide) in held.into_iter().zip(wide) {
        let rows = held.shape()[0];
        let mut g = Graph::new();
        let table = g.weight("w", held.shape()).unwrap();
        let ids = g.index_input("ids", &[rows]).unwrap();
        let looked_up = g.embedding(table, ids).unwrap();
        g.output(looked_up);
        let x = g.input("x", &[4, 4]).unwrap();
        let op = Linear { x, weight: table, bias: None, activation: Activation::None, residual: None };
        let multiplied = g.linear(op).unwrap();
        g.output(multiplied);
        let ids = HostTensor::u32(&[rows], (0..rows as u32).collect()).unwrap();
        let identity = (0..16).map(|i| f32::from(u8::from(i % 5 == 0))).collect();
        let inputs = [ids, HostTensor::f32(&[4, 4], identity).unwrap()];
        for backend in backends() {
            let weights = backend.load(vec![("w".into(), held.clone())]).unwrap();
            let out = weights.compile(&g).unwrap().run(&inputs).unwrap();
            let (looked_up, multiplied) = (out[0].as_f32().unwrap(), out[1].as_f32().unwrap());
            for (i, &v) in wide.iter().enumerate() {
                let same = |found: f32| found == v || found.is_nan() && v.is_nan();
                // In the last row, what is not finite makes all of it NaN.
                let product = multiplied[i % 4 * rows + i / 4];
                let whole = same(looked_up[i]) && (same(product) || i / 4 == rows - 1);
                assert!(whole, "{}: {:?} number {i}, {v}", backend.name(), held.dtype());
            }
        }
    }
}

#[test]
fn weights_in_16_bits_that_must_be_f32_are_refused() {
    for backend in backends() {
        let mut g = Graph::new();
        let x = g.input("x", &[2, 3]).unwrap();
        let bias = g.weight("bias", &[3]).unwrap();
        let out = g.add(x, bias).unwrap();
        g.output(out);
        let bias = HostTensor::f16(&[3], vec![f16::ONE; 3]).unwrap();
        let error = backend.load(vec![("bias".into(), bias)]).unwrap().compile(&g).err().unwrap();
        assert!(error.to_string().starts_with("weight `bias` is held as F16"), "{}: {error}", backend.name());
    }
}

#[test]
fn attention() {
    let backends = backends();
    for (batch, queries, keys, heads, head_dim, causal) in [
        (1, 1, 1, 1, 24, false),
        (3, 7, 7, 2, 40, true),
        (2, 65, 65, 3, 72, false),
        (1, 130, 130, 1, 80, true),
        (2, 1, 257, 2, 128, false),
        (1, 3, 5, 1, 256, false),
        // Enough queries to share keys: in 16s and in 64s, with heads of every size that models have, and between.
        (2, 5, 9, 2, 8, false),
        (2, 16, 16, 2, 64, true),
        (1, 31, 50, 2, 72, false),
        (1, 17, 17, 1, 88, true),
        (1, 20, 33, 1, 128, false),
        (1, 32, 40, 1, 200, false),
        (1, 40, 40, 2, 32, true),
        (1, 50, 50, 2, 64, false),
        (1, 77, 77, 1, 64, true),
        (1, 65, 35, 1, 88, false),
        (1, 70, 70, 1, 96, true),
        (1, 66, 18, 1, 128, false),
        (1, 67, 67, 1, 256, true),
        // Heads that are not made of quads.
        (1, 40, 40, 2, 50, true),
    ] {
        let mut c = Case::new(9);
        let width = heads * head_dim;
        let q = c.input(&[batch, queries, width]);
        let k = c.input(&[batch, keys, width]);
        let v = c.input(&[batch, keys, width]);
        let op = Attention { q, k, v, heads, causal, lengths: None, scale: 0.3 };
        let out = c.graph.attention(op).unwrap();
        c.agrees(&format!("attention {queries} x {keys}, {heads} heads of {head_dim}"), &backends, out);
    }
}

#[test]
fn attention_of_large_and_of_hidden_values() {
    let backends = backends();
    // Scores of thousands, exact in f32: the softmax is of their differences.
    let mut c = Case::new(2);
    let data = c.floats(&[1, 70, 8]).into_f32().unwrap().into_iter().map(|v| (v * 4.0).round() / 4.0).collect();
    let x = c.given(HostTensor::f32(&[1, 70, 8], data).unwrap());
    let op = Attention { q: x, k: x, v: x, heads: 1, causal: false, lengths: None, scale: 1024.0 };
    let out = c.graph.attention(op).unwrap();
    c.agrees("attention with large scores", &backends, out);
    // Scores that are not finite: one infinite key, all of a query's scores minus infinity, and a NaN that it sees.
    for (tokens, number) in [(70, f32::INFINITY), (70, f32::NEG_INFINITY), (20, f32::INFINITY), (20, f32::NAN)] {
        let mut c = Case::new(3);
        let mut data = c.floats(&[1, tokens, 8]).into_f32().unwrap();
        data.iter_mut().for_each(|v| *v = v.abs() + 0.1);
        let q = c.given(HostTensor::f32(&[1, tokens, 8], data.clone()).unwrap());
        let v = c.input(&[1, tokens, 8]);
        data[5 * 8..6 * 8].fill(number);
        let k = c.given(HostTensor::f32(&[1, tokens, 8], data).unwrap());
        let op = Attention { q, k, v, heads: 1, causal: true, lengths: None, scale: 0.5 };
        let out = c.graph.attention(op).unwrap();
        c.agrees(&format!("attention with a key of {number}"), &backends, out);
    }
    // What a query does not see is NaN, in the middle of a chunk and in a later one.
    for (tokens, from) in [(70, 3), (70, 66), (20, 3), (20, 19)] {
        let mut c = Case::new(2);
        let q = c.input(&[1, tokens, 8]);
        let mut data = c.floats(&[1, tokens, 8]).into_f32().unwrap();
        data[from * 8..].fill(f32::NAN);
        let k = c.given(HostTensor::f32(&[1, tokens, 8], data).unwrap());
        let op = Attention { q, k, v: k, heads: 2, causal: true, lengths: None, scale: 0.5 };
        let out = c.graph.attention(op).unwrap();
        c.agrees("attention that must not see NaN", &backends, out);
    }
}

#[test]
fn attention_of_sequences_with_lengths() {
    let backends = backends();
    for (queries, keys, heads, head_dim, causal, lengths) in [
        (1, 1, 1, 8, false, [1, 1, 1]),
        (7, 7, 2, 40, true, [1, 3, 7]),
        (30, 64, 1, 64, false, [17, 64, 16]),
        (32, 32, 1, 72, true, [1, 16, 31]),
        (66, 66, 1, 128, true, [8, 65, 9]),
        (65, 65, 3, 24, false, [65, 64, 2]),
        (130, 130, 1, 80, true, [129, 66, 1]),
        (2, 257, 2, 128, false, [64, 257, 65]),
    ] {
        let width = heads * head_dim;
        let mut c = Case::new(10);
        let q = c.input(&[3, queries, width]);
        // What is hidden is NaN.
        let hide = |mut data: Vec<f32>| {
            for (sequence, &length) in data.chunks_exact_mut(keys * width).zip(&lengths) {
                sequence[length as usize * width..].fill(f32::NAN);
            }
            HostTensor::f32(&[3, keys, width], data).unwrap()
        };
        let [k, v] = [0, 1].map(|_| {
            let data = c.floats(&[3, keys, width]).into_f32().unwrap();
            c.given(hide(data))
        });
        c.inputs.push(HostTensor::u32(&[3], lengths.to_vec()).unwrap());
        let lengths = Some(c.graph.index_input("lengths", &[3]).unwrap());
        let op = Attention { q, k, v, heads, causal, lengths, scale: 0.3 };
        let out = c.graph.attention(op).unwrap();
        c.agrees(&format!("attention {queries} x {keys} with lengths, causal {causal}"), &backends, out);
    }
}

#[test]
fn rope() {
    let backends = backends();
    for (batch, tokens, heads, head_dim) in [(1, 1, 1, 2), (2, 7, 3, 10), (3, 33, 4, 64), (1, 300, 2, 32)] {
        let mut c = Case::new(11);
        let x = c.input(&[batch, tokens, heads * head_dim]);
        let (cos, sin) = (c.weight(&[tokens, head_dim]), c.input(&[tokens, head_dim]));
        let out = c.graph.rope(x, cos, sin, heads).unwrap();
        c.agrees(&format!("rope of {batch} x {tokens}, {heads} heads of {head_dim}"), &backends, out);
    }
}

#[test]
fn norms() {
    let backends = backends();
    for (rows, width) in [(1, 1), (50, 72), (3, 513), (65_540, 3)] {
        let mut c = Case::new(4);
        let x = c.input(&[rows, width]);
        let (gamma, beta) = (c.weight(&[width]), c.weight(&[width]));
        let out = c.graph.layer_norm(x, gamma, beta, 1e-5).unwrap();
        c.agrees("layer_norm", &backends, out);
        let mut c = Case::new(5);
        let x = c.input(&[rows, width]);
        let out = c.graph.l2_normalize(x).unwrap();
        c.agrees("l2_normalize", &backends, out);
    }
    // A small spread on a large mean, all exact in f32.
    let mut c = Case::new(6);
    let data = (0..2 * 96).map(|i| 4096.0 + [-1.0, 0.5, 1.0, -0.5][i % 4]).collect();
    let x = c.given(HostTensor::f32(&[2, 96], data).unwrap());
    let (gamma, beta) = (c.weight(&[96]), c.weight(&[96]));
    let out = c.graph.layer_norm(x, gamma, beta, 1e-5).unwrap();
    c.agrees("layer_norm on a large mean", &backends, out);
    let mut c = Case::new(7);
    let x = c.given(HostTensor::f32(&[4, 2], vec![0.0, 0.0, 3e-13, 4e-13, f32::NAN, 1.0, 3.0, 4.0]).unwrap());
    let out = c.graph.l2_normalize(x).unwrap();
    c.agrees("l2_normalize of nothing and of NaN", &backends, out);
}

#[test]
fn activations() {
    let backends = backends();
    for activation in ACTIVATIONS {
        let mut c = Case::new(8);
        let data = (-1000..=1000).map(|i| i as f32 / 50.0).chain([0.0, f32::NAN]).collect();
        let x = c.given(HostTensor::f32(&[2003], data).unwrap());
        let out = c.graph.activation(x, activation).unwrap();
        c.agrees(&format!("{activation:?}"), &backends, out);
    }
}

#[test]
fn moving_values() {
    let backends = backends();
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
    c.agrees("embedding, add, activation, prepend, reshape, gather", &backends, out);
    for (height, width) in [(15, 20), (19, 21), (5, 9)] {
        let mut c = Case::new(7);
        let image = c.input(&[2, 3, height, width]);
        let out = c.graph.patchify(image, 5).unwrap();
        c.agrees(&format!("patchify {height} x {width}"), &backends, out);
    }
    let mut c = Case::new(8);
    let (x, one) = (c.input(&[3, 4]), c.weight(&[]));
    let out = c.graph.add(x, one).unwrap();
    c.agrees("add of a scalar", &backends, out);
    // A reshaped weight as a table, by reshaped ids, and the result as its own residual.
    let mut c = Case::new(9);
    let (ids, table) = (c.index(&[2, 2], 6), c.weight(&[3, 8]));
    let (ids, table) = (c.graph.reshape(ids, &[4]).unwrap(), c.graph.reshape(table, &[6, 4]).unwrap());
    let x = c.graph.gather_rows(table, ids).unwrap();
    let op = Linear { x, weight: x, bias: None, activation: Activation::None, residual: Some(x) };
    let out = c.graph.linear(op).unwrap();
    c.agrees("one value as x, weight and residual", &backends, out);
}

#[test]
fn convolutions() {
    let backends = backends();
    for ([height, width, channels], kernel, stride, padding) in [
        ([7, 10, 3], 3, 1, 1),
        ([7, 10, 3], 3, 2, 1),
        ([9, 5, 17], 5, 3, 2),
        ([6, 6, 8], 1, 1, 0),
        ([5, 8, 4], 5, 1, 0),
    ] {
        let mut c = Case::new(31);
        let x = c.input(&[2, height, width, channels]);
        let rows = c.graph.unfold(x, kernel, stride, padding).unwrap();
        let weight = c.weight(&[12, kernel * kernel * channels]);
        let bias = c.weight(&[12]);
        let op = Linear { x: rows, weight, bias: Some(bias), activation: Activation::Relu, residual: None };
        let out = c.graph.linear(op).unwrap();
        c.agrees(&format!("{kernel} x {kernel} of {height} x {width} at steps of {stride}"), &backends, out);
    }
    for (kernel, stride) in [(2, 2), (3, 2), (1, 1), (7, 1)] {
        let mut c = Case::new(32);
        let x = c.input(&[2, 7, 10, 5]);
        let out = c.graph.max_pool(x, kernel, stride).unwrap();
        c.agrees(&format!("maxima of {kernel} x {kernel} at steps of {stride}"), &backends, out);
    }
    for (rows, width) in [(1, 1), (16, 16), (33, 20), (100, 7)] {
        let mut c = Case::new(33);
        let x = c.input(&[3, rows, width]);
        let out = c.graph.gram(x, 1.0 / (rows * width) as f32).unwrap();
        c.agrees(&format!("gram of {rows} x {width}"), &backends, out);
    }
}

#[test]
fn attention_with_a_bias() {
    let backends = backends();
    // Windows with a bias each and one for all, fewer and more queries than a workgroup has, keys that fill no tile, and
    // heads of every variant, some not made of quads.
    for (batch, groups, [queries, keys], heads, head_dim) in [
        (1, 1, [1, 1], 1, 1),
        (6, 3, [16, 16], 2, 24),
        (4, 4, [64, 64], 2, 32),
        (4, 1, [65, 33], 1, 50),
        (2, 2, [5, 130], 3, 7),
        (2, 1, [70, 9], 1, 128),
    ] {
        let mut c = Case::new(21);
        let width = heads * head_dim;
        let [q, k, v] = [queries, keys, keys].map(|rows| c.input(&[batch, rows, width]));
        let bias = c.weight(&[groups, heads, queries, keys]);
        let out = c.graph.biased_attention(BiasedAttention { q, k, v, bias, heads, scale: 0.3 }).unwrap();
        c.agrees(&format!("{groups} biases, {queries} x {keys}, {heads} heads of {head_dim}"), &backends, out);
    }
}

/// Masks of windows (-100), keys that are hidden, a query that sees none, and scores of thousands.
#[test]
fn biases_that_hide_keys() {
    let backends = backends();
    for hidden in [-100.0, f32::NEG_INFINITY] {
        let mut c = Case::new(22);
        let x = c.input(&[4, 16, 24]);
        let keeps = |i: usize| i % 5 < 3 || i.is_multiple_of(17);
        let bias = (0..2 * 16 * 16).map(|i| if keeps(i) { (i % 7) as f32 * 0.25 } else { hidden }).collect();
        let bias = c.given(HostTensor::f32(&[2, 1, 16, 16], bias).unwrap());
        let op = BiasedAttention { q: x, k: x, v: x, bias, heads: 1, scale: 0.2 };
        let out = c.graph.biased_attention(op).unwrap();
        c.agrees(&format!("keys with a bias of {hidden}"), &backends, out);
    }
    let mut c = Case::new(23);
    let x = c.input(&[1, 3, 8]);
    let bias = c.given(HostTensor::f32(&[1, 1, 3, 3], [[0.0; 3], [f32::NEG_INFINITY; 3], [0.5; 3]].concat()).unwrap());
    let op = BiasedAttention { q: x, k: x, v: x, bias, heads: 1, scale: 1.0 };
    let out = c.graph.biased_attention(op).unwrap();
    c.agrees("a query that sees no key", &backends, out);
    let mut c = Case::new(24);
    let data = c.floats(&[1, 70, 8]).into_f32().unwrap().into_iter().map(|v| (v * 4.0).round() / 4.0).collect();
    let x = c.given(HostTensor::f32(&[1, 70, 8], data).unwrap());
    let bias = c.given(HostTensor::f32(&[1, 1, 70, 70], (0..4900).map(|i| (i % 9) as f32).collect()).unwrap());
    let op = BiasedAttention { q: x, k: x, v: x, bias, heads: 1, scale: 1024.0 };
    let out = c.graph.biased_attention(op).unwrap();
    c.agrees("large scores with a bias", &backends, out);
}

#[test]
fn means_and_blends() {
    let backends = backends();
    for (batch, tokens, width) in [(1, 1, 1), (3, 70, 50), (2, 1000, 16), (2, 7, 33)] {
        let mut c = Case::new(25);
        let x = c.input(&[batch, tokens, width]);
        let out = c.graph.mean_rows(x).unwrap();
        c.agrees(&format!("mean of {tokens} rows of {width}"), &backends, out);
        let mut c = Case::new(26);
        let [a, b, gate] = [(); 3].map(|()| c.input(&[batch, tokens, width]));
        let shared = c.input(&[batch, width]);
        let out = c.graph.blend([a, b], gate, shared).unwrap();
        c.agrees(&format!("blend of {tokens} rows of {width}"), &backends, out);
    }
    let mut c = Case::new(27);
    let [a, b] = [(); 2].map(|()| c.input(&[1, 1, 4]));
    let gate = c.given(HostTensor::f32(&[1, 1, 4], vec![1e30, -1e30, f32::NAN, 0.0]).unwrap());
    let shared = c.input(&[1, 4]);
    let out = c.graph.blend([a, b], gate, shared).unwrap();
    c.agrees("blends by gates that are wide open and shut", &backends, out);
}
