// One row `token` before every sequence of `tokens` rows. One thread an output element.

struct Params { elements: u32, stride: u32, width: u32, tokens: u32 }

@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> token: array<elem>;
@group(0) @binding(2) var<storage, read> x: array<elem>;
@group(0) @binding(3) var<storage, read_write> out: array<elem>;

@compute @workgroup_size(256)
fn main(@builtin(global_invocation_id) id: vec3<u32>) {
    let i = id.y * params.stride + id.x;
    if i >= params.elements {
        return;
    }
    let per_sequence = (params.tokens + 1u) * params.width;
    let b = i / per_sequence;
    let inside = i % per_sequence;
    if inside < params.width {
        out[i] = token[inside];
    } else {
        out[i] = x[b * params.tokens * params.width + inside - params.width];
    }
}
