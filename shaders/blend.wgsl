// 2 (w a + (1 - w) b) with w = sigmoid(gate + shared), [B, S, D]; `shared` has one row for all rows of a sequence. One
// thread an element.

struct Params { elements: u32, stride: u32, tokens: u32, width: u32 }

@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> a: array<elem>;
@group(0) @binding(2) var<storage, read> b: array<elem>;
@group(0) @binding(3) var<storage, read> gate: array<elem>;
@group(0) @binding(4) var<storage, read> shared_gate: array<elem>;
@group(0) @binding(5) var<storage, read_write> out: array<elem>;

@compute @workgroup_size(256)
fn main(@builtin(global_invocation_id) id: vec3<u32>) {
    let i = id.y * params.stride + id.x;
    if i >= params.elements {
        return;
    }
    let row = i / params.width;
    let joint = f32(shared_gate[row / params.tokens * params.width + i % params.width]);
    let w = 1.0 / (1.0 + exp(-(f32(gate[i]) + joint)));
    out[i] = elem(2.0 * (w * f32(a[i]) + (1.0 - w) * f32(b[i])));
}
