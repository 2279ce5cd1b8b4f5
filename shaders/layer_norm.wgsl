// (x - mean) / sqrt(var + eps) * gamma + beta over rows of `width`. One workgroup a row.

struct Params { rows: u32, width: u32, eps: f32, stride: u32 }

@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> x: array<elem>;
@group(0) @binding(2) var<storage, read> gamma: array<elem>;
@group(0) @binding(3) var<storage, read> beta: array<elem>;
@group(0) @binding(4) var<storage, read_write> out: array<elem>;

@compute @workgroup_size(64)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
    let row = group.y * params.stride + group.x;
    if row >= params.rows {
        return;
    }
    let at = row * params.width;
    var sum = 0.0;
    for (var i = lane; i < params.width; i += LANES) {
        sum += f32(x[at + i]);
    }
    let mean = workgroup_sum(sum, lane) / f32(params.width);
    var squares = 0.0;
    for (var i = lane; i < params.width; i += LANES) {
        let d = f32(x[at + i]) - mean;
        squares = fma(d, d, squares);
    }
    let scale = inverseSqrt(workgroup_sum(squares, lane) / f32(params.width) + params.eps);
    for (var i = lane; i < params.width; i += LANES) {
        out[at + i] = elem((f32(x[at + i]) - mean) * scale * f32(gamma[i]) + f32(beta[i]));
    }
}
