// out[M, N] = activate(x[M, K] * weight[N, K]^T + bias[N]) + residual[M, N], accumulated in f32, of any sizes: what
// gemm.wgsl does where K and N are multiples of 4, element by element. One workgroup computes a TILE x TILE block; each
// of its threads a 4 x 4 block in registers. Both operands pass through workgroup memory in slices of 16 along K.
// Bindings that a variant does not use (bias, residual) are given the weight's buffer.

struct Params { m: u32, n: u32, k: u32, pad: u32 }

@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> x: array<elem>;
@group(0) @binding(2) var<storage, read> weight: array<word>;
@group(0) @binding(3) var<storage, read> bias: array<elem>;
@group(0) @binding(4) var<storage, read> residual: array<elem>;
@group(0) @binding(5) var<storage, read_write> out: array<elem>;

const TILE: u32 = 32u;
const SLICE: u32 = 16u;
const SIDE: u32 = TILE / 4u;
const THREADS: u32 = SIDE * SIDE;

// [k][row], so that a thread's four rows are next to each other.
var<workgroup> xs: array<f32, SLICE * TILE>;
var<workgroup> ws: array<f32, SLICE * TILE>;

fn load_slice(row0: u32, col0: u32, k0: u32, lane: u32) {
    for (var i = lane; i < SLICE * TILE; i += THREADS) {
        let line = i / SLICE;
        let k = i % SLICE;
        var a = 0.0;
        var b = 0.0;
        if k0 + k < params.k {
            if row0 + line < params.m {
                a = f32(x[(row0 + line) * params.k + k0 + k]);
            }
            if col0 + line < params.n {
                let at = (col0 + line) * params.k + k0 + k;
                b = element(weight[at / PER_WORD], at);
            }
        }
        xs[k * TILE + line] = a;
        ws[k * TILE + line] = b;
    }
}

@compute @workgroup_size(SIDE, SIDE)
fn main(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(local_invocation_id) local: vec3<u32>,
    @builtin(local_invocation_index) lane: u32,
) {
    let row0 = group.y * TILE;
    let col0 = group.x * TILE;
    var acc: array<vec4<f32>, 4>;
    for (var k0 = 0u; k0 < params.k; k0 += SLICE) {
        load_slice(row0, col0, k0, lane);
        workgroupBarrier();
        for (var k = 0u; k < SLICE; k++) {
            let at_x = k * TILE + local.y * 4u;
            let at_w = k * TILE + local.x * 4u;
            let w = vec4(ws[at_w], ws[at_w + 1u], ws[at_w + 2u], ws[at_w + 3u]);
            for (var i = 0u; i < 4u; i++) {
                acc[i] = fma(vec4(xs[at_x + i]), w, acc[i]);
            }
        }
        workgroupBarrier();
    }
    for (var i = 0u; i < 4u; i++) {
        let row = row0 + local.y * 4u + i;
        for (var j = 0u; j < 4u; j++) {
            let col = col0 + local.x * 4u + j;
            if row < params.m && col < params.n {
                var v = acc[i][j];
                if BIAS {
                    v += f32(bias[col]);
                }
                v = activate(v);
                let at = row * params.n + col;
                if RESIDUAL {
                    v += f32(residual[at]);
                }
                out[at] = elem(v);
            }
        }
    }
}
