//! Times the matrix product and the attention of the shapes that encoders have: seconds, FLOP/s, on whatever GPU opens.
//! Arguments narrow it to cases whose name contains one of them.
use mils_gpu::Gpu;
use mils_graph::{Activation, Attention, Backend, Graph, HostTensor, Linear};
use std::time::Instant;

fn ramp(shape: &[usize]) -> Result<HostTensor, Box<dyn std::error::Error>> {
    let n = shape.iter().product::<usize>();
    Ok(HostTensor::f32(shape, (0..n).map(|i| ((i * 7919) % 1999) as f32 / 1999.0 - 0.5).collect())?)
}

fn time(
    backend: &dyn Backend,
    g: &Graph,
    inputs: &[HostTensor],
    weights: Vec<(String, HostTensor)>,
) -> Result<f64, Box<dyn std::error::Error>> {
    let mut program = backend.load(weights)?.compile(g)?;
    program.run(inputs)?;
    let mut all = Vec::new();
    for _ in 0..7 {
        let start = Instant::now();
        program.run(inputs)?;
        all.push(start.elapsed().as_secs_f64());
    }
    all.sort_by(f64::total_cmp);
    Ok(all[all.len() / 2])
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let only: Vec<String> = std::env::args().skip(1).collect();
    let wanted = |name: &str| only.is_empty() || only.iter().any(|o| name.contains(o.as_str()));
    let gpu = Gpu::open()?;
    println!("{}", gpu.name());
    if wanted("peaks") {
        println!("{:?}", gpu.peaks()?);
    }
    for (m, n, k) in [
        (8, 768, 768),
        (50, 512, 512),
        (128, 512, 512),
        (400, 768, 768),
        (400, 3072, 768),
        (400, 768, 3072),
        (800, 512, 2048),
        (512, 512, 512),
    ] {
        let name = format!("gemm {m} x {n} x {k}");
        if !wanted(&name) {
            continue;
        }
        let mut g = Graph::new();
        let x = g.input("x", &[m, k])?;
        let weight = g.weight("w", &[n, k])?;
        let bias = Some(g.weight("b", &[n])?);
        let out = g.linear(Linear { x, weight, bias, activation: Activation::QuickGelu, residual: None })?;
        let rows = g.index_input("rows", &[1])?;
        let out = g.gather_rows(out, rows)?;
        g.output(out);
        let weights = vec![("w".to_owned(), ramp(&[n, k])?), ("b".to_owned(), ramp(&[n])?)];
        let s = time(&gpu, &g, &[ramp(&[m, k])?, HostTensor::u32(&[1], vec![0])?], weights)?;
        println!("{name:<24}{:>10.3} ms {:>8.2} GFLOP/s", s * 1e3, 2e-9 * (m * n * k) as f64 / s);
    }
    for (batch, queries, keys, heads, d, causal) in [
        (8, 50, 50, 12, 64, false),
        (2, 197, 197, 12, 64, false),
        (8, 1, 196, 12, 64, false),
        (32, 16, 16, 8, 64, true),
        (4, 77, 77, 8, 64, true),
        (1, 256, 256, 8, 72, false),
        (1, 256, 256, 4, 128, false),
    ] {
        let name = format!("attention {batch} {queries}x{keys} h{heads} d{d} {}", if causal { "causal" } else { "" });
        if !wanted(&name) {
            continue;
        }
        let mut g = Graph::new();
        let width = heads * d;
        let q = g.input("q", &[batch, queries, width])?;
        let k = g.input("k", &[batch, keys, width])?;
        let v = g.input("v", &[batch, keys, width])?;
        let out = g.attention(Attention { q, k, v, heads, causal, lengths: None, scale: 0.125 })?;
        let out = g.reshape(out, &[batch * queries, width])?;
        let rows = g.index_input("rows", &[1])?;
        let out = g.gather_rows(out, rows)?;
        g.output(out);
        let (a, b) = (ramp(&[batch, queries, width])?, ramp(&[batch, keys, width])?);
        let s = time(&gpu, &g, &[a, b.clone(), b, HostTensor::u32(&[1], vec![0])?], vec![])?;
        let flops = 4.0 * (batch * queries * keys * width) as f64 * if causal { 0.5 } else { 1.0 };
        println!("{name:<36}{:>10.3} ms {:>8.2} GFLOP/s", s * 1e3, 1e-9 * flops / s);
    }
    Ok(())
}
