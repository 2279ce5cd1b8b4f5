// What a device can read from memory at most: all threads together read the whole of `x`, `rounds` times, neighbours next
// to each other.

struct Params { rounds: u32, quads: u32, threads: u32, pad: u32 }

@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> x: array<vec4<f32>>;
@group(0) @binding(2) var<storage, read_write> out: array<vec4<f32>>;

@compute @workgroup_size(256)
fn main(@builtin(global_invocation_id) id: vec3<u32>) {
    var sum = vec4(0.0);
    for (var round = 0u; round < params.rounds; round++) {
        for (var i = id.x; i < params.quads; i += params.threads) {
            sum += x[i];
        }
        // Not the same in the next round, so that none is left out.
        sum *= 0.5;
    }
    out[id.x] = sum;
}
