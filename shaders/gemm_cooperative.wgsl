// out[M, N] = activate(x[M, K] * weight[N, K]^T + bias[N]) + residual[M, N] on cooperative matrices: factors in f16, sums
// in f32; K and N are multiples of 4.
//
// One workgroup of four subgroups computes a BLOCK x BLOCK block, each subgroup 2 x 2 matrices of SIDE x SIDE of it. Both
// operands pass through workgroup memory in slices of SLICE along K, with zeros for what is beyond the ends, so that the
// matrices are always whole. The sums pass through workgroup memory too, a matrix of each subgroup at a time: how a
// subgroup holds a matrix is its own affair.
// Control flow does not depend on the subgroup, as cooperative operations want it.
// Bindings that a variant does not use (bias, residual) are given the weight's buffer.

struct Params { m: u32, n: u32, k: u32, pad: u32 }

@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> x: array<elem4>;
@group(0) @binding(2) var<storage, read> weight: array<elem4>;
@group(0) @binding(3) var<storage, read> bias: array<elem4>;
@group(0) @binding(4) var<storage, read> residual: array<elem4>;
@group(0) @binding(5) var<storage, read_write> out: array<elem4>;

const BLOCK: u32 = 4u * SIDE;
const THREADS: u32 = 4u * SUBGROUP;
const SLICE: u32 = 32u;
const SLICE_QUADS: u32 = SLICE / 4u;
// Rows begin 80 bytes apart: at multiples of 16, as the matrices' loads want it, and in different banks.
const STRIDE: u32 = SLICE + 8u;
const MATRIX: u32 = SIDE * SIDE;

var<workgroup> sums: array<f32, 4u * MATRIX>;
var<workgroup> xs: array<elem, BLOCK * STRIDE>;
var<workgroup> ws: array<elem, BLOCK * STRIDE>;

fn load_slice(row0: u32, col0: u32, k0: u32, lane: u32) {
    let width = params.k / 4u;
    for (var i = lane; i < BLOCK * SLICE_QUADS; i += THREADS) {
        let line = i / SLICE_QUADS;
        let source = k0 / 4u + i % SLICE_QUADS;
        var a = elem4();
        var b = elem4();
        if source < width {
            if row0 + line < params.m {
                a = x[(row0 + line) * width + source];
            }
            if col0 + line < params.n {
                b = weight[(col0 + line) * width + source];
            }
        }
        let at = line * STRIDE + i % SLICE_QUADS * 4u;
        xs[at] = a.x;
        xs[at + 1u] = a.y;
        xs[at + 2u] = a.z;
        xs[at + 3u] = a.w;
        ws[at] = b.x;
        ws[at + 1u] = b.y;
        ws[at + 2u] = b.z;
        ws[at + 3u] = b.w;
    }
}

// The results of the matrix that each subgroup has put in `sums`: those at `down`, `across` of its 2 x 2.
fn finish(row0: u32, col0: u32, down: u32, across: u32, lane: u32) {
    let width = params.n / 4u;
    for (var i = lane; i < MATRIX; i += THREADS) {
        let owner = i / (MATRIX / 4u);
        let inside = i % (MATRIX / 4u);
        let row = row0 + (owner / 2u * 2u + down) * SIDE + inside / (SIDE / 4u);
        let col = (col0 + (owner % 2u * 2u + across) * SIDE) / 4u + inside % (SIDE / 4u);
        if row < params.m && col < width {
            let first = i * 4u;
            var v = vec4(sums[first], sums[first + 1u], sums[first + 2u], sums[first + 3u]);
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

@compute @workgroup_size(THREADS)
fn main(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(local_invocation_index) lane: u32,
    @builtin(subgroup_id) subgroup: u32,
) {
    let row0 = group.y * BLOCK;
    let col0 = group.x * BLOCK;
    let own = subgroup * MATRIX;
    let own_row = subgroup / 2u * 2u * SIDE;
    let own_col = subgroup % 2u * 2u * SIDE;
    // Matrices that are not initialised are not zero everywhere.
    for (var i = lane; i < 4u * MATRIX; i += THREADS) {
        sums[i] = 0.0;
    }
    workgroupBarrier();
    var c00 = coopLoadT<accumulator>(&sums[own], SIDE);
    var c01 = coopLoadT<accumulator>(&sums[own], SIDE);
    var c10 = coopLoadT<accumulator>(&sums[own], SIDE);
    var c11 = coopLoadT<accumulator>(&sums[own], SIDE);
    for (var k0 = 0u; k0 < params.k; k0 += SLICE) {
        load_slice(row0, col0, k0, lane);
        workgroupBarrier();
        for (var k = 0u; k < SLICE; k += SIDE) {
            let a0 = coopLoadT<left>(&xs[own_row * STRIDE + k], STRIDE);
            let a1 = coopLoadT<left>(&xs[(own_row + SIDE) * STRIDE + k], STRIDE);
            // [n][k] is [k][n] column by column.
            let b0 = coopLoad<right>(&ws[own_col * STRIDE + k], STRIDE);
            let b1 = coopLoad<right>(&ws[(own_col + SIDE) * STRIDE + k], STRIDE);
            c00 = coopMultiplyAdd(a0, b0, c00);
            c01 = coopMultiplyAdd(a0, b1, c01);
            c10 = coopMultiplyAdd(a1, b0, c10);
            c11 = coopMultiplyAdd(a1, b1, c11);
        }
        workgroupBarrier();
    }
    coopStoreT(c00, &sums[own], SIDE);
    workgroupBarrier();
    finish(row0, col0, 0u, 0u, lane);
    workgroupBarrier();
    coopStoreT(c01, &sums[own], SIDE);
    workgroupBarrier();
    finish(row0, col0, 0u, 1u, lane);
    workgroupBarrier();
    coopStoreT(c10, &sums[own], SIDE);
    workgroupBarrier();
    finish(row0, col0, 1u, 0u, lane);
    workgroupBarrier();
    coopStoreT(c11, &sums[own], SIDE);
    workgroupBarrier();
    finish(row0, col0, 1u, 1u, lane);
}
