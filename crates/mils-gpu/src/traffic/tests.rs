//! The formulas against the kernels themselves: every kernel is run with a counter in each access to a buffer. A kernel
//! that reads anything more often than its formula says fails here.

use super::*;
use crate::choose::Class;
use crate::cooperative::Use;
use crate::lower::{Dispatch, Target, lower};
use crate::program::read_back;
use crate::{Activations, Gpu};
use mils_graph::{Activation, Attention, BiasedAttention, DType, Graph, Linear, ValueId};
use mils_shaders::Binding;
use std::fmt::Write;
use std::sync::Arc;

/// The source with `name[index]` counted for each storage buffer, and how many bindings it had.
fn with_counters(kernel: Kernel, element: Element) -> (String, usize) {
    let mut source = kernel.source(element);
    let bindings = kernel.interface(element).bindings.len();
    for binding in 1..bindings {
        let declared = format!("@group(0) @binding({binding}) var<storage");
        let line = source.lines().find(|l| l.starts_with(&declared)).unwrap();
        let name = line.split_once("> ").unwrap().1.split_once(':').unwrap().0.to_owned();
        source = count(&source, &format!("{name}["), binding);
    }
    let hits = "var<storage, read_write> hits: array<atomic<u32>, 16>;";
    write!(
        source,
        "\n@group(0) @binding({bindings}) {hits}\n\
         fn hit(which: u32, at: u32) -> u32 {{ atomicAdd(&hits[which], 1u); return at; }}\n"
    )
    .unwrap();
    (source, bindings)
}

fn count(source: &str, access: &str, binding: usize) -> String {
    let mut out = String::new();
    let mut rest = source;
    while let Some(at) = rest.find(access) {
        let (before, found) = rest.split_at(at);
        let inside = &found[access.len()..];
        out.push_str(before);
        out.push_str(access);
        // `ws[` is no access to `s`.
        if before.ends_with(|c: char| c.is_alphanumeric() || c == '_') {
            rest = inside;
            continue;
        }
        let mut depth = 1;
        let end = inside.find(|c| {
            depth += i32::from(c == '[') - i32::from(c == ']');
            depth == 0
        });
        let (index, after) = inside.split_at(end.unwrap());
        write!(out, "hit({binding}u, {index})").unwrap();
        rest = after;
    }
    out + rest
}

/// What a dispatch's threads access of each binding, found by running it on buffers of these numbers.
fn found(gpu: &Gpu, graph: &Graph, (node, d): &(usize, Dispatch), fill: u32) -> Vec<u64> {
    let shared = &gpu.shared;
    let (source, count) = with_counters(d.kernel, shared.element);
    let kinds = [d.kernel.interface(shared.element).bindings, &[Binding::ReadWrite]].concat();
    let read_back = shared.scope("counting", || {
        let pipeline = shared.compile_source("with counters", &source, &kinds);
        let mut params: Vec<u8> = bytemuck::cast_slice(&d.params).to_vec();
        params.resize(64, 0);
        let operands = d.reads.iter().map(|read| match read {
            crate::lower::Read::Whole(id) | crate::lower::Read::Part(id, _) => graph.node(*id),
        });
        let mut buffers = vec![shared.uniform(&params)];
        for of in operands.chain([&graph.nodes()[*node]]) {
            let buffer = shared.buffer("operand", of.elements() as u64 * 4);
            if of.dtype == DType::U32 {
                shared.write(&buffer, bytemuck::cast_slice(&vec![fill; of.elements()]));
            }
            buffers.push(buffer);
        }
        let hits = shared.buffer("hits", 64);
        buffers.push(hits.clone());
        let entries =
            (0..).zip(&buffers).map(|(binding, b)| wgpu::BindGroupEntry { binding, resource: b.as_entire_binding() });
        let bindings = shared.device.create_bind_group(&wgpu::BindGroupDescriptor {
            label: None,
            layout: &pipeline.layout,
            entries: &entries.collect::<Vec<_>>(),
        });
        let mut encoder = shared.device.create_command_encoder(&wgpu::CommandEncoderDescriptor::default());
        {
            let mut pass = encoder.begin_compute_pass(&wgpu::ComputePassDescriptor::default());
            pass.set_pipeline(&pipeline.pipeline);
            pass.set_bind_group(0, &bindings, &[0]);
            pass.dispatch_workgroups(d.grid[0], d.grid[1], d.grid[2]);
        }
        let staging = shared.device.create_buffer(&wgpu::BufferDescriptor {
            label: None,
            size: 64,
            usage: wgpu::BufferUsages::MAP_READ | wgpu::BufferUsages::COPY_DST,
            mapped_at_creation: false,
        });
        encoder.copy_buffer_to_buffer(&hits, 0, &staging, 0, 64);
        shared.queue.submit([encoder.finish()]);
        read_back(shared, &staging)
    });
    let all: Vec<u32> = bytemuck::pod_collect_to_vec(&read_back.unwrap());
    all[1..count].iter().map(|&n| u64::from(n)).collect()
}

/// Holds every dispatch of a graph against its formula. `held` is how weights lie; indices are all `fill`.
fn agrees(gpu: &Gpu, graph: &Graph, held: DType, fill: u32) -> Vec<Kernel> {
    let lie = |_: &str| Some(crate::lower::Lie { dtype: held, parts: vec![(0, 1)] });
    let (class, element, cooperative) = (gpu.shared.class, gpu.shared.element, gpu.shared.cooperative);
    let target = Target { class, most: 65_535, element, cooperative, weights: &lie };
    let all = lower(graph, &target).unwrap();
    for dispatch in &all {
        let d = &dispatch.1;
        let what = format!("{:?} {:?}, {:?}", d.kernel, d.params, gpu.shared.element);
        assert_eq!(found(gpu, graph, dispatch, fill), accesses(d.kernel, &d.params, d.grid), "{what}");
        assert!(d.moved >= d.cost.bytes() / 2, "{what}: {} of {:?}", d.moved, d.cost);
    }
    all.into_iter().map(|(_, d)| d.kernel).collect()
}

fn gpus() -> Vec<Gpu> {
    if mils_tests::skips_gpu() {
        return vec![];
    }
    let ways = [(Activations::F32, Use::Off), (Activations::F16, Use::Off), (Activations::F16, Use::On)];
    let all = ways.map(|(activations, matrices)| Gpu::open_as(activations, matrices).unwrap());
    let name = mils_graph::Backend::name(&all[0]);
    if all[1].activations() == Activations::F32 {
        eprintln!("{name} has no f16: ACCESSES IN F16 ARE NOT COUNTED");
    }
    if all[2].cooperative().is_none() {
        eprintln!("{name} has no cooperative matrices: THEIR ACCESSES ARE NOT COUNTED");
    }
    all.into_iter().collect()
}

fn linear(g: &mut Graph, x: ValueId, n: usize, bias: bool, residual: Option<ValueId>) -> ValueId {
    let k = g.node(x).width();
    let weight = g.weight("w", &[n, k]).unwrap();
    let bias = bias.then(|| g.weight("b", &[n]).unwrap());
    g.linear(Linear { x, weight, bias, activation: Activation::Gelu, residual }).unwrap()
}

#[test]
fn products_access_what_is_counted() {
    for mut gpu in gpus() {
        let mut tiles = std::collections::HashSet::new();
        for class in [Class::Large, Class::Small, Class::Software] {
            Arc::get_mut(&mut gpu.shared).unwrap().class = class;
            for (m, n, k) in [(5, 12, 8), (100, 204, 36), (400, 3072, 20), (35, 33, 7)] {
                for (held, bias) in [(DType::F32, true), (DType::F16, false), (DType::BF16, true)] {
                    let mut g = Graph::new();
                    let x = g.input("x", &[m, k]).unwrap();
                    let residual = (held != DType::BF16).then(|| g.input("r", &[m, n]).unwrap());
                    let y = linear(&mut g, x, n, bias, residual);
                    g.output(y);
                    let held = crate::weights::held_as(held, gpu.shared.element);
                    let kernels = agrees(&gpu, &g, held, 0);
                    tiles.extend(kernels.iter().map(|k| if let Kernel::Gemm(g) = k { g.tile } else { Tile::Any }));
                }
            }
        }
        let more = usize::from(gpu.cooperative().is_some());
        assert_eq!(tiles.len(), 4 + more, "{tiles:?}");
    }
}

#[test]
fn attention_accesses_what_is_counted() {
    for gpu in gpus() {
        for (queries, keys, head_dim, causal, bounded) in [
            (1, 77, 64, false, false),
            (3, 3, 50, true, true),
            (7, 7, 40, true, false),
            (50, 50, 64, false, true),
            (77, 77, 64, true, true),
            (130, 130, 72, true, false),
            (66, 18, 256, false, false),
        ] {
            let mut g = Graph::new();
            let width = 2 * head_dim;
            let q = g.input("q", &[2, queries, width]).unwrap();
            let [k, v] = ["k", "v"].map(|name| g.input(name, &[2, keys, width]).unwrap());
            let lengths = bounded.then(|| g.index_input("lengths", &[2]).unwrap());
            let y = g.attention(Attention { q, k, v, heads: 2, causal, lengths, scale: 1.0 }).unwrap();
            g.output(y);
            agrees(&gpu, &g, DType::F32, keys as u32);
        }
    }
}

#[test]
fn attention_with_a_bias_accesses_what_is_counted() {
    for gpu in gpus() {
        for (queries, keys, head_dim) in [(16, 16, 8), (70, 33, 24), (3, 130, 5)] {
            let mut g = Graph::new();
            let width = 2 * head_dim;
            let q = g.input("q", &[4, queries, width]).unwrap();
            let [k, v] = ["k", "v"].map(|name| g.input(name, &[4, keys, width]).unwrap());
            let bias = g.input("bias", &[2, 2, queries, keys]).unwrap();
            let y = g.biased_attention(BiasedAttention { q, k, v, bias, heads: 2, scale: 1.0 }).unwrap();
            g.output(y);
            agrees(&gpu, &g, DType::F32, 0);
        }
    }
}

#[test]
fn all_else_accesses_what_is_counted() {
    for gpu in gpus() {
        let mut g = Graph::new();
        let image = g.input("image", &[2, 3, 11, 14]).unwrap();
        let patches = g.patchify(image, 5).unwrap();
        let ids = g.index_input("ids", &[2, 7]).unwrap();
        let table = g.weight("table", &[11, 75]).unwrap();
        let embedded = g.embedding(table, ids).unwrap();
        let position = g.weight("p", &[7, 75]).unwrap();
        let x = g.add(embedded, position).unwrap();
        let x = g.activation(x, Activation::QuickGelu).unwrap();
        let class = g.weight("class", &[75]).unwrap();
        let x = g.prepend_token(class, x).unwrap();
        let x = g.layer_norm(x, class, class, 1e-5).unwrap();
        let x = g.l2_normalize(x).unwrap();
        let turned = g.input("turned", &[2, 9, 24]).unwrap();
        let [cos, sin] = ["cos", "sin"].map(|name| g.input(name, &[9, 12]).unwrap());
        let turned = g.rope(turned, cos, sin, 2).unwrap();
        let shared = g.mean_rows(turned).unwrap();
        let blended = g.blend([turned, turned], turned, shared).unwrap();
        let picture = g.input("picture", &[2, 7, 10, 5]).unwrap();
        let windows = g.unfold(picture, 3, 2, 1).unwrap();
        let pooled = g.max_pool(windows, 2, 1).unwrap();
        let rows = g.reshape(windows, &[2, 20, 45]).unwrap();
        let gram = g.gram(rows, 0.01).unwrap();
        [patches, x, blended, pooled, gram].into_iter().for_each(|id| g.output(id));
        let kernels = agrees(&gpu, &g, DType::F16, 0);
        assert_eq!(kernels.len(), 13, "{kernels:?}");
    }
}
