// out[M, N] = activate(x[M, K] * weight[N, K]^T + bias[N]) + residual[M, N], accumulated in f32; K and N are multiples
// of 4, and all is read and written four elements at a time.
//
// One workgroup computes a ROWS x COLUMNS block, each of its threads an M_EACH x N_EACH part of it in registers. Both
// operands pass through workgroup memory in slices of 16 along K. Of each slice a thread brings one 4 x 4 block, turned
// on its way: there are as many threads as blocks. The next slice is fetched before this one is used, so that memory
// works while the threads compute. Rows and columns beyond the end read the last ones; what comes of them is dropped.
// Bindings that a variant does not use (bias, residual) are given the weight's buffer.

struct Params { m: u32, n: u32, k: u32, pad: u32 }

@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> x: array<elem4>;
@group(0) @binding(2) var<storage, read> weight: array<quad>;
@group(0) @binding(3) var<storage, read> bias: array<elem4>;
@group(0) @binding(4) var<storage, read> residual: array<elem4>;
@group(0) @binding(5) var<storage, read_write> out: array<elem4>;

const SLICE: u32 = 16u;
const ROW_THREADS: u32 = ROWS / M_EACH;
const COLUMN_THREADS: u32 = COLUMNS / N_EACH;
const N_QUADS: u32 = N_EACH / 4u;
const ROW_QUADS: u32 = ROWS / 4u;
const COLUMN_QUADS: u32 = COLUMNS / 4u;

// [k][row], four rows together.
var<workgroup> xs: array<vec4<f32>, SLICE * ROW_QUADS>;
var<workgroup> ws: array<vec4<f32>, SLICE * COLUMN_QUADS>;

// Four rows of x, or of the weight, four elements of each.
fn fetch(block: u32, row0: u32, col0: u32, k0: u32) -> mat4x4<f32> {
    let width = params.k / 4u;
    let at = k0 / 4u + block % 4u;
    if at >= width {
        return mat4x4<f32>();
    }
    if block < ROWS {
        let row = row0 + block / 4u * 4u;
        let last = params.m - 1u;
        return mat4x4<f32>(
            vec4<f32>(x[min(row, last) * width + at]),
            vec4<f32>(x[min(row + 1u, last) * width + at]),
            vec4<f32>(x[min(row + 2u, last) * width + at]),
            vec4<f32>(x[min(row + 3u, last) * width + at]),
        );
    }
    let col = col0 + (block - ROWS) / 4u * 4u;
    let last = params.n - 1u;
    return mat4x4<f32>(
        elements(weight[min(col, last) * width + at]),
        elements(weight[min(col + 1u, last) * width + at]),
        elements(weight[min(col + 2u, last) * width + at]),
        elements(weight[min(col + 3u, last) * width + at]),
    );
}

fn store(block: u32, rows: mat4x4<f32>) {
    let turned = transpose(rows);
    let k = block % 4u * 4u;
    if block < ROWS {
        let at = k * ROW_QUADS + block / 4u;
        xs[at] = turned[0];
        xs[at + ROW_QUADS] = turned[1];
        xs[at + 2u * ROW_QUADS] = turned[2];
        xs[at + 3u * ROW_QUADS] = turned[3];
    } else {
        let at = k * COLUMN_QUADS + (block - ROWS) / 4u;
        ws[at] = turned[0];
        ws[at + COLUMN_QUADS] = turned[1];
        ws[at + 2u * COLUMN_QUADS] = turned[2];
        ws[at + 3u * COLUMN_QUADS] = turned[3];
    }
}

@compute @workgroup_size(COLUMN_THREADS, ROW_THREADS)
fn main(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(local_invocation_id) local: vec3<u32>,
    @builtin(local_invocation_index) lane: u32,
) {
    let row0 = group.y * ROWS;
    let col0 = group.x * COLUMNS;
    var acc: array<vec4<f32>, M_EACH * N_QUADS>;
    var next = fetch(lane, row0, col0, 0u);
    for (var k0 = 0u; k0 < params.k; k0 += SLICE) {
        store(lane, next);
        workgroupBarrier();
        if k0 + SLICE < params.k {
            next = fetch(lane, row0, col0, k0 + SLICE);
        }
        for (var k = 0u; k < SLICE; k++) {
            var w: array<vec4<f32>, N_QUADS>;
            for (var j = 0u; j < N_QUADS; j++) {
                w[j] = ws[k * COLUMN_QUADS + local.x + j * COLUMN_THREADS];
            }
            for (var i = 0u; i < M_EACH / 4u; i++) {
                let a = xs[k * ROW_QUADS + local.y + i * ROW_THREADS];
                for (var j = 0u; j < N_QUADS; j++) {
                    let at = i * 4u * N_QUADS + j;
                    acc[at] = fma(vec4(a.x), w[j], acc[at]);
                    acc[at + N_QUADS] = fma(vec4(a.y), w[j], acc[at + N_QUADS]);
                    acc[at + 2u * N_QUADS] = fma(vec4(a.z), w[j], acc[at + 2u * N_QUADS]);
                    acc[at + 3u * N_QUADS] = fma(vec4(a.w), w[j], acc[at + 3u * N_QUADS]);
                }
            }
        }
        workgroupBarrier();
    }
    let width = params.n / 4u;
    for (var j = 0u; j < N_QUADS; j++) {
        let col = col0 / 4u + local.x + j * COLUMN_THREADS;
        if col >= width {
            continue;
        }
        for (var i = 0u; i < M_EACH; i++) {
            let row = row0 + (local.y + i / 4u * ROW_THREADS) * 4u + i % 4u;
            if row < params.m {
                var v = acc[i * N_QUADS + j];
                if BIAS {
                    v += vec4<f32>(bias[col]);
                }
                v = vec4(activate(v.x), activate(v.y), activate(v.z), activate(v.w));
                let at = row * width + col;
                if RESIDUAL {
                    v += vec4<f32>(residual[at]);
                }
                out[at] = elem4(v);
            }
        }
    }
}
