// Means over the rows of every sequence, [B, S, D] to [B, D], in f32. A workgroup computes 16 columns of one sequence:
// 16 threads take every 16th row of a column each, and their sums meet in workgroup memory. Grid: (D / 16, B).

struct Params { tokens: u32, width: u32, pad0: u32, pad1: u32 }

@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> x: array<elem>;
@group(0) @binding(2) var<storage, read_write> out: array<elem>;

const SIDE: u32 = 16u;
var<workgroup> sums: array<f32, 256>;

@compute @workgroup_size(256)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
    let column = group.x * SIDE + lane % SIDE;
    var sum = 0.0;
    if column < params.width {
        for (var row = lane / SIDE; row < params.tokens; row += SIDE) {
            sum += f32(x[(group.y * params.tokens + row) * params.width + column]);
        }
    }
    sums[lane] = sum;
    workgroupBarrier();
    for (var half = SIDE / 2u; half > 0u; half /= 2u) {
        if lane < half * SIDE {
            sums[lane] += sums[lane + half * SIDE];
        }
        workgroupBarrier();
    }
    if lane < SIDE && column < params.width {
        out[group.y * params.width + column] = elem(sums[lane] / f32(params.tokens));
    }
}
