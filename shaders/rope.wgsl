// Rotary position embedding of interleaved pairs, x [B, S, H*D] with cos and sin [S, D]. One thread an element.

struct Params {
    elements: u32,
    stride: u32,
    tokens: u32,
    width: u32,
    head_dim: u32,
    pad0: u32,
    pad1: u32,
    pad2: u32,
}

@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> x: array<elem>;
@group(0) @binding(2) var<storage, read> cos_table: array<elem>;
@group(0) @binding(3) var<storage, read> sin_table: array<elem>;
@group(0) @binding(4) var<storage, read_write> out: array<elem>;

@compute @workgroup_size(256)
fn main(@builtin(global_invocation_id) id: vec3<u32>) {
    let i = id.y * params.stride + id.x;
    if i >= params.elements {
        return;
    }
    let position = i / params.width % params.tokens;
    let at = position * params.head_dim + i % params.head_dim;
    // Heads and rows have even lengths, so that the other of a pair differs in the last bit.
    var other = f32(x[i ^ 1u]);
    if (i & 1u) == 0u {
        other = -other;
    }
    out[i] = elem(f32(x[i]) * f32(cos_table[at]) + other * f32(sin_table[at]));
}
