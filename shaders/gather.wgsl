// Rows of a table by number: token embeddings, positions, pooling. One thread an element.

struct Params { elements: u32, width: u32, stride: u32, pad: u32 }

@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> table: array<word>;
@group(0) @binding(2) var<storage, read> rows: array<u32>;
@group(0) @binding(3) var<storage, read_write> out: array<f32>;

@compute @workgroup_size(256)
fn main(@builtin(global_invocation_id) id: vec3<u32>) {
    let i = id.y * params.stride + id.x;
    if i < params.elements {
        let at = rows[i / params.width] * params.width + i % params.width;
        out[i] = element(table[at / PER_WORD], at);
    }
}
