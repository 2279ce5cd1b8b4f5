// x / max(|x|, 1e-12) over rows of `width`. One workgroup a row.

struct Params { rows: u32, width: u32, stride: u32, pad: u32 }

@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> x: array<elem>;
@group(0) @binding(2) var<storage, read_write> out: array<elem>;

@compute @workgroup_size(64)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
    let row = group.y * params.stride + group.x;
    if row >= params.rows {
        return;
    }
    let at = row * params.width;
    var squares = 0.0;
    for (var i = lane; i < params.width; i += LANES) {
        let v = f32(x[at + i]);
        squares = fma(v, v, squares);
    }
    let length = sqrt(workgroup_sum(squares, lane));
    // Not max, which may drop a NaN.
    let norm = select(length, 1e-12, length < 1e-12);
    for (var i = lane; i < params.width; i += LANES) {
        out[at + i] = elem(f32(x[at + i]) / norm);
    }
}
