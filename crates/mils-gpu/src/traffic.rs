//! How often a dispatch's threads access each buffer, as the shaders are written: for the counts that tests pin, and for
//! the share of a card's bandwidth. A test runs every kernel with counters in it and compares.

use mils_shaders::{Element, Gemm, Kernel, Tile};

/// Accesses of a dispatch to each of its bindings, the first of them (the parameters) left out: loads of what it reads,
/// then stores. Lengths of sequences are known only when it runs: all are taken to be full.
pub(crate) fn accesses(kernel: Kernel, params: &[u32], grid: [u32; 3]) -> Vec<u64> {
    // Parameters of the kernel's `Params`, which lower.rs gives in this order.
    let p = |i: usize| params.get(i).map_or(0, |&v| u64::from(v));
    let elements = p(0);
    match kernel {
        Kernel::Gemm(g) => gemm(g, [p(0), p(1), p(2)], grid),
        Kernel::Attention(a) => {
            let (queries, head_dim, bounded) = (p(0), p(3), p(6));
            let [blocks, heads, batch] = grid.map(u64::from);
            let (quads, block) = (head_dim / 4, u64::from(a.queries));
            let keys = seen(params, (0..blocks).map(|b| (b + 1) * block));
            let all = heads * batch;
            let threads = blocks * all * block * u64::from(a.parts);
            vec![
                all * blocks * block * quads,
                all * keys * quads,
                all * keys * quads,
                bounded.min(1) * threads,
                all * queries * quads,
            ]
        }
        Kernel::AttentionBias(_) => {
            let (queries, keys, head_dim) = (p(0), p(1), p(3));
            let [blocks, heads, batch] = grid.map(u64::from);
            // A thread a query, and as many beyond the last one as fill the block.
            let (groups, threads) = (blocks * heads * batch, 64 * blocks * heads * batch);
            let read = groups * keys * head_dim;
            vec![threads * head_dim, read, read, threads * keys, heads * batch * queries * head_dim]
        }
        Kernel::AttentionRow => {
            let (queries, head_dim, bounded) = (p(0), p(3), p(6));
            let all = u64::from(grid[1]) * u64::from(grid[2]);
            let keys = seen(params, 1..=queries);
            let row = all * queries * head_dim;
            vec![row, all * keys * head_dim, all * keys * head_dim, bounded.min(1) * all * queries * 64, row]
        }
        Kernel::LayerNorm => {
            // The mean, the variance, and the result.
            let all = p(0) * p(1);
            vec![3 * all, all, all, all]
        }
        Kernel::L2Normalize => vec![2 * p(0) * p(1), p(0) * p(1)],
        Kernel::Gather(_) => {
            // Of a table in parts, each element is in one of them.
            let found = if p(3) == 0 { elements } else { 0 };
            vec![found, elements, found]
        }
        Kernel::MeanRows => {
            let (tokens, width, batch) = (p(0), p(1), u64::from(grid[1]));
            vec![batch * tokens * width, batch * width]
        }
        Kernel::Blend => vec![elements; 5],
        Kernel::Unfold => {
            let [height, width, channels, kernel, step, padding, down, across] = [2, 3, 4, 5, 6, 7, 8, 9].map(p);
            // Places of windows along a side that lie in the image.
            let inside = |side: u64, windows: u64| {
                let places = (0..windows).flat_map(|w| (0..kernel).map(move |k| w * step + k));
                places.filter(|&place| (padding..padding + side).contains(&place)).count() as u64
            };
            let batch = elements / (down * across * kernel * kernel * channels).max(1);
            vec![batch * inside(height, down) * inside(width, across) * channels, elements]
        }
        Kernel::MaxPool => vec![elements * p(5) * p(5), elements],
        Kernel::Gram => {
            let (rows, width, batch) = (p(0), p(1), u64::from(grid[2]));
            vec![2 * batch * rows * width * u64::from(grid[0]), batch * width * width]
        }
        Kernel::Add => vec![elements; 3],
        Kernel::Activation(_) | Kernel::Patchify => vec![elements; 2],
        Kernel::PrependToken => {
            let (width, tokens) = (p(2), p(3));
            let sequences = elements / ((tokens + 1) * width).max(1);
            vec![sequences * width, sequences * tokens * width, elements]
        }
        // Part of no graph.
        Kernel::Probe(_) => vec![],
        Kernel::Rope => vec![2 * elements, elements, elements, elements],
    }
}

/// Keys that are read by all that compute queries up to these numbers.
fn seen(params: &[u32], ends: impl Iterator<Item = u64>) -> u64 {
    let (keys, causal) = (u64::from(params[1]), params[5] != 0);
    ends.map(|end| if causal { end.min(keys) } else { keys }).sum()
}

fn gemm(g: Gemm, [m, n, k]: [u64; 3], grid: [u32; 3]) -> Vec<u64> {
    let (across, down) = (u64::from(grid[0]), u64::from(grid[1]));
    // What one access reads.
    let each = if g.tile == Tile::Any { 1 } else { 4 };
    let results = m * (n / each);
    let (x, weight) = match g.tile {
        Tile::Any | Tile::Cooperative(_) => (across * m * (k / each), down * n * (k / each)),
        // Rows beyond the end read the last ones.
        Tile::Small | Tile::Medium | Tile::Large => {
            let [rows, columns] = g.tile.block().map(u64::from);
            (across * down * rows * (k / each), across * down * columns * (k / each))
        }
    };
    vec![x, weight, u64::from(g.bias) * results, u64::from(g.residual) * results, results]
}

/// Bytes that a dispatch's threads load from buffers and store to them; the parameters, which are a few, left out.
pub(crate) fn moved(kernel: Kernel, params: &[u32], grid: [u32; 3], element: Element) -> u64 {
    let bytes = &kernel.interface(element).element_bytes;
    let each = bytes.iter().skip(1).map(|&b| u64::from(b));
    accesses(kernel, params, grid).into_iter().zip(each).map(|(count, bytes)| count * bytes).sum()
}

#[cfg(test)]
mod tests;
