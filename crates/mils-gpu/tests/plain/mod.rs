//! Every op by its formula, in f64 and without a thought for speed: what backends are compared with.

use mils_graph::{Activation, Attention, BiasedAttention, Graph, HostTensor, Linear, Op, TensorData, ValueId};
use std::collections::HashMap;

/// The values of all nodes.
pub(crate) fn evaluate(graph: &Graph, inputs: &[HostTensor], weights: &[(String, HostTensor)]) -> Vec<Vec<f64>> {
    let weights: HashMap<&str, &HostTensor> = weights.iter().map(|(name, tensor)| (name.as_str(), tensor)).collect();
    let mut values: Vec<Vec<f64>> = Vec::new();
    let mut next = inputs.iter();
    for node in graph.nodes() {
        let value = match &node.op {
            Op::Input { .. } => wide(next.next().unwrap()),
            Op::Weight { name } => wide(weights[name.as_str()]),
            op => compute(graph, op, &|id| values[id.index()].as_slice()),
        };
        assert_eq!(value.len(), node.elements(), "{:?}", node.op);
        values.push(value);
    }
    values
}

fn wide(tensor: &HostTensor) -> Vec<f64> {
    match tensor.data() {
        TensorData::U32(data) => data.iter().map(|&i| f64::from(i)).collect(),
        TensorData::F32(data) => data.iter().map(|&v| f64::from(v)).collect(),
        TensorData::F16(data) => data.iter().map(|v| v.to_f64()).collect(),
        TensorData::BF16(data) => data.iter().map(|v| v.to_f64()).collect(),
    }
}

fn compute<'a>(graph: &Graph, op: &Op, value: &dyn Fn(ValueId) -> &'a [f64]) -> Vec<f64> {
    let shape = |id| graph.shape(id);
    let rows = |x: ValueId| value(x).chunks(graph.node(x).width());
    let gather = |table: ValueId, ids: ValueId| {
        let width = graph.node(table).width();
        value(ids).iter().flat_map(|&i| value(table)[i as usize * width..][..width].to_vec()).collect()
    };
    match *op {
        Op::Input { .. } | Op::Weight { .. } => unreachable!("given"),
        Op::Linear(Linear { x, weight, bias, activation, residual }) => {
            let mut out = Vec::new();
            for row in rows(x) {
                for (j, column) in rows(weight).enumerate() {
                    let product: f64 = row.iter().zip(column).map(|(a, b)| a * b).sum();
                    let sum = activate(activation, product + bias.map_or(0.0, |b| value(b)[j]));
                    out.push(sum + residual.map_or(0.0, |r| value(r)[out.len()]));
                }
            }
            out
        }
        Op::LayerNorm { x, gamma, beta, eps } => {
            let normal = |row: &[f64]| {
                let mean = row.iter().sum::<f64>() / row.len() as f64;
                let var = row.iter().map(|v| (v - mean) * (v - mean)).sum::<f64>() / row.len() as f64;
                let affine = value(gamma).iter().zip(value(beta));
                let out = row.iter().zip(affine).map(|(v, (g, b))| (v - mean) / (var + f64::from(eps)).sqrt() * g + b);
                out.collect::<Vec<_>>()
            };
            rows(x).flat_map(normal).collect()
        }
        Op::Attention(op) => {
            attention([shape(op.q), shape(op.k)], [op.q, op.k, op.v].map(value), op.lengths.map(value), op)
        }
        Op::BiasedAttention(op) => {
            biased_attention([shape(op.q), shape(op.k), shape(op.bias)], [op.q, op.k, op.v, op.bias].map(value), op)
        }
        Op::MeanRows { x } => {
            let s = shape(x);
            let mean = |i: usize| {
                (0..s[1]).map(|row| value(x)[(i / s[2] * s[1] + row) * s[2] + i % s[2]]).sum::<f64>() / s[1] as f64
            };
            (0..s[0] * s[2]).map(mean).collect()
        }
        Op::Blend { a, b, gate, shared } => {
            let s = shape(a);
            let element = |i: usize| {
                let common = value(shared)[i / (s[1] * s[2]) * s[2] + i % s[2]];
                let w = 1.0 / (1.0 + (-(value(gate)[i] + common)).exp());
                2.0 * value(a)[i] * w + 2.0 * value(b)[i] * (1.0 - w)
            };
            (0..value(a).len()).map(element).collect()
        }
        Op::Embedding { table, ids } => gather(table, ids),
        Op::GatherRows { x, rows } => gather(x, rows),
        Op::Add { a, b } => value(a).iter().zip(value(b).iter().cycle()).map(|(a, b)| a + b).collect(),
        Op::Patchify { image, patch } => patchify(value(image), shape(image), patch),
        Op::Unfold { x, kernel, stride, padding } => {
            let &[batch, height, width, channels] = shape(x) else { unreachable!("checked by the graph") };
            let at = |b: usize, y: usize, column: usize, c: usize| match (
                y.checked_sub(padding),
                column.checked_sub(padding),
            ) {
                (Some(y), Some(column)) if y < height && column < width => {
                    value(x)[((b * height + y) * width + column) * channels + c]
                }
                _ => 0.0,
            };
            let fits =
                |side: usize| (0..).map(move |i| i * stride).take_while(move |i| i + kernel <= side + 2 * padding);
            let mut out = Vec::new();
            for (b, (top, left)) in
                (0..batch).flat_map(|b| fits(height).flat_map(move |y| fits(width).map(move |x| (b, (y, x)))))
            {
                for (y, column) in (0..kernel).flat_map(|y| (0..kernel).map(move |x| (y, x))) {
                    out.extend((0..channels).map(|c| at(b, top + y, left + column, c)));
                }
            }
            out
        }
        Op::MaxPool { x, kernel, stride } => {
            let &[batch, height, width, channels] = shape(x) else { unreachable!("checked by the graph") };
            let fits = |side: usize| (0..).map(move |i| i * stride).take_while(move |i| i + kernel <= side);
            let mut out = Vec::new();
            for (b, (top, left)) in
                (0..batch).flat_map(|b| fits(height).flat_map(move |y| fits(width).map(move |x| (b, (y, x)))))
            {
                for c in 0..channels {
                    let inside = (0..kernel * kernel).map(|i| (top + i / kernel, left + i % kernel));
                    let all = inside.map(|(y, column)| value(x)[((b * height + y) * width + column) * channels + c]);
                    out.push(all.fold(f64::NEG_INFINITY, f64::max));
                }
            }
            out
        }
        Op::Gram { x, scale } => {
            let (rows, width) = (shape(x)[1], shape(x)[2]);
            let element = |sequence: &[f64], i: usize, j: usize| {
                sequence.chunks(width).map(|row| row[i] * row[j]).sum::<f64>() * f64::from(scale)
            };
            let all = |sequence: &[f64]| -> Vec<f64> {
                (0..width * width).map(|n| element(sequence, n / width, n % width)).collect()
            };
            value(x).chunks(rows * width).flat_map(all).collect()
        }
        Op::PrependToken { token, x } => {
            let sequences = value(x).chunks(shape(x)[1] * shape(x)[2]);
            sequences.flat_map(|sequence| [value(token), sequence].concat()).collect()
        }
        Op::Rope { x, cos, sin, heads } => {
            let (d, tokens) = (shape(x)[2] / heads, shape(x)[1]);
            let element = |n: usize| {
                let at = n / (heads * d) % tokens * d + n % d;
                // The reference's rot(x): the pair (a, b) becomes (-b, a).
                let turned = if n.is_multiple_of(2) { -value(x)[n + 1] } else { value(x)[n - 1] };
                value(x)[n] * value(cos)[at] + turned * value(sin)[at]
            };
            (0..value(x).len()).map(element).collect()
        }
        Op::L2Normalize { x } => {
            let scale = |row: &[f64]| {
                let length = row.iter().map(|v| v * v).sum::<f64>().sqrt();
                let length = if length < 1e-12 { 1e-12 } else { length };
                row.iter().map(|v| v / length).collect::<Vec<_>>()
            };
            rows(x).flat_map(scale).collect()
        }
        Op::Activation { x, activation } => value(x).iter().map(|&v| activate(activation, v)).collect(),
        Op::Reshape { x } => value(x).to_vec(),
    }
}

fn attention(shapes: [&[usize]; 2], [q, k, v]: [&[f64]; 3], lengths: Option<&[f64]>, op: Attention) -> Vec<f64> {
    let [&[batch, queries, width], &[_, keys, _]] = shapes else { unreachable!("checked by the graph") };
    let d = width / op.heads;
    let mut out = vec![0.0; q.len()];
    for n in 0..batch * queries * op.heads {
        let (b, i, h) = (n / op.heads / queries, n / op.heads % queries, n % op.heads);
        let head = |all: usize, row: usize| ((b * all + row) * width + h * d)..((b * all + row) * width + h * d + d);
        let query = &q[head(queries, i)];
        let there = lengths.map_or(keys, |lengths| lengths[b] as usize);
        let seen = if op.causal { there.min(i + 1) } else { there };
        let dot = |j| query.iter().zip(&k[head(keys, j)]).map(|(a, b)| a * b).sum::<f64>();
        let scores: Vec<f64> = (0..seen).map(|j| f64::from(op.scale) * dot(j)).collect();
        let most = scores.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        let weights: Vec<f64> = scores.iter().map(|s| (s - most).exp()).collect();
        let total: f64 = weights.iter().sum();
        for (j, weight) in weights.iter().enumerate() {
            for (o, v) in out[head(queries, i)].iter_mut().zip(&v[head(keys, j)]) {
                *o += weight / total * v;
            }
        }
    }
    out
}

fn biased_attention(shapes: [&[usize]; 3], [q, k, v, bias]: [&[f64]; 4], op: BiasedAttention) -> Vec<f64> {
    let [&[batch, queries, width], &[_, keys, _], &[groups, heads, ..]] = shapes else {
        unreachable!("checked by the graph")
    };
    let d = width / heads;
    let mut out = vec![0.0; q.len()];
    for n in 0..batch * queries * heads {
        let (b, i, h) = (n / heads / queries, n / heads % queries, n % heads);
        let head = |all: usize, row: usize| ((b * all + row) * width + h * d)..((b * all + row) * width + h * d + d);
        let dot = |j| q[head(queries, i)].iter().zip(&k[head(keys, j)]).map(|(a, b)| a * b).sum::<f64>();
        let added = |j| bias[((b % groups * heads + h) * queries + i) * keys + j];
        let scores: Vec<f64> = (0..keys).map(|j| f64::from(op.scale) * dot(j) + added(j)).collect();
        let most = scores.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        let weights: Vec<f64> = scores.iter().map(|s| (s - most).exp()).collect();
        let total: f64 = weights.iter().sum();
        for (j, weight) in weights.iter().enumerate() {
            for (o, v) in out[head(queries, i)].iter_mut().zip(&v[head(keys, j)]) {
                *o += weight / total * v;
            }
        }
    }
    out
}

fn patchify(image: &[f64], shape: &[usize], p: usize) -> Vec<f64> {
    let &[batch, channels, height, width] = shape else { unreachable!("checked by the graph") };
    let mut out = Vec::new();
    for b in 0..batch {
        for (top, left) in (0..height / p).flat_map(|y| (0..width / p).map(move |x| (y * p, x * p))) {
            for c in 0..channels {
                for y in top..top + p {
                    let at = ((b * channels + c) * height + y) * width + left;
                    out.extend(&image[at..at + p]);
                }
            }
        }
    }
    out
}

fn activate(activation: Activation, x: f64) -> f64 {
    match activation {
        Activation::None => x,
        Activation::QuickGelu => x / (1.0 + (-1.702 * x).exp()),
        Activation::Gelu => 0.5 * x * (1.0 + erf(x / 2.0_f64.sqrt())),
        Activation::GeluTanh => {
            let z = (2.0 / std::f64::consts::PI).sqrt() * (x + 0.044_715 * x * x * x);
            0.5 * x * (1.0 + z.tanh())
        }
        Activation::Relu if x < 0.0 => 0.0,
        Activation::Relu => x,
        Activation::Tanh => x.tanh(),
    }
}

/// The integral that defines it, by Simpson's rule.
fn erf(x: f64) -> f64 {
    let end = x.clamp(-6.0, 6.0);
    let n = 200;
    let f = |i: i32| (-(end * f64::from(i) / f64::from(n)).powi(2)).exp();
    let inner: f64 = (1..n).map(|i| if i % 2 == 0 { 2.0 * f(i) } else { 4.0 * f(i) }).sum();
    2.0 / std::f64::consts::PI.sqrt() * end / f64::from(n) / 3.0 * (f(0) + inner + f(n))
}
