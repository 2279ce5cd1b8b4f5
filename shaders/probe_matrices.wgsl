// What a device's cooperative matrices can multiply at most, in f16 with sums in f32: each subgroup multiplies the same
// two matrices `rounds` times, into four sums that do not wait for each other.

struct Params { rounds: u32, pad0: u32, pad1: u32, pad2: u32 }

@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> x: array<vec4<f32>>;
@group(0) @binding(2) var<storage, read_write> out: array<vec4<f32>>;

const MATRIX: u32 = SIDE * SIDE;

// One matrix after the other: all four are wanted, so that no compiler leaves one out.
var<workgroup> sums: array<f32, 4u * MATRIX>;
var<workgroup> factors: array<f16, MATRIX>;

@compute @workgroup_size(SUBGROUP)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
    let scale = x[0].x;
    for (var i = lane; i < MATRIX; i += SUBGROUP) {
        sums[i] = 0.0;
        factors[i] = f16(scale * f32(i % 7u));
    }
    workgroupBarrier();
    let a = coopLoadT<left>(&factors[0], SIDE);
    let b = coopLoad<right>(&factors[0], SIDE);
    var c0 = coopLoadT<accumulator>(&sums[0], SIDE);
    var c1 = coopLoadT<accumulator>(&sums[0], SIDE);
    var c2 = coopLoadT<accumulator>(&sums[0], SIDE);
    var c3 = coopLoadT<accumulator>(&sums[0], SIDE);
    for (var i = 0u; i < params.rounds; i++) {
        c0 = coopMultiplyAdd(a, b, c0);
        c1 = coopMultiplyAdd(a, b, c1);
        c2 = coopMultiplyAdd(a, b, c2);
        c3 = coopMultiplyAdd(a, b, c3);
    }
    workgroupBarrier();
    coopStoreT(c0, &sums[0], SIDE);
    coopStoreT(c1, &sums[MATRIX], SIDE);
    coopStoreT(c2, &sums[2u * MATRIX], SIDE);
    coopStoreT(c3, &sums[3u * MATRIX], SIDE);
    workgroupBarrier();
    if lane == 0u {
        out[group.x] = vec4(sums[0], sums[MATRIX], sums[2u * MATRIX], sums[3u * MATRIX]);
    }
}
