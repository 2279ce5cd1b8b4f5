// What a device can multiply and add at most, in f32: chains of fused multiplications and additions that wait for nothing
// but their own chain. Each thread computes 8 chains of 4 numbers, `rounds` long.

struct Params { rounds: u32, pad0: u32, pad1: u32, pad2: u32 }

@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> x: array<vec4<f32>>;
@group(0) @binding(2) var<storage, read_write> out: array<vec4<f32>>;

@compute @workgroup_size(256)
fn main(@builtin(global_invocation_id) id: vec3<u32>) {
    let a = x[0];
    let b = x[1];
    var c0 = b * f32(id.x);
    var c1 = c0 + b;
    var c2 = c1 + b;
    var c3 = c2 + b;
    var c4 = c3 + b;
    var c5 = c4 + b;
    var c6 = c5 + b;
    var c7 = c6 + b;
    for (var i = 0u; i < params.rounds; i++) {
        c0 = fma(c0, a, b);
        c1 = fma(c1, a, b);
        c2 = fma(c2, a, b);
        c3 = fma(c3, a, b);
        c4 = fma(c4, a, b);
        c5 = fma(c5, a, b);
        c6 = fma(c6, a, b);
        c7 = fma(c7, a, b);
    }
    out[id.x] = c0 + c1 + c2 + c3 + (c4 + c5 + c6 + c7);
}
