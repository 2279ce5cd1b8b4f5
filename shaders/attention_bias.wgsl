// softmax(scale * q k^T + bias) v with an online softmax in f32, without subgroups, for heads of any number of elements
// up to 4 * QUADS. The bias is [groups, heads, queries, keys]; sequence b takes the one of b % groups.
//
// One workgroup computes 64 queries of one head, a thread each: its row of q and its result stay in registers, keys and
// values pass through workgroup memory, KEYS at a time, and all threads read the same of them at the same time.
// Grid: (queries / 64, heads, batch).

struct Params { queries: u32, keys: u32, heads: u32, head_dim: u32, scale: f32, groups: u32, pad0: u32, pad1: u32 }

@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> q: array<elem>;
@group(0) @binding(2) var<storage, read> k: array<elem>;
@group(0) @binding(3) var<storage, read> v: array<elem>;
@group(0) @binding(4) var<storage, read> bias: array<elem>;
@group(0) @binding(5) var<storage, read_write> out: array<elem>;

const QUERIES: u32 = 64u;
var<workgroup> ks: array<vec4<f32>, KEYS * QUADS>;
var<workgroup> vs: array<vec4<f32>, KEYS * QUADS>;

// Which elements of the head's quad of this number there are.
fn part(quad: u32) -> vec4<bool> {
    let first = 4u * quad;
    return vec4(first, first + 1u, first + 2u, first + 3u) < vec4(params.head_dim);
}

@compute @workgroup_size(64)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
    let d = params.head_dim;
    let width = params.heads * d;
    let head = group.y * d;
    let quads = (d + 3u) / 4u;
    let query = group.x * QUERIES + lane;
    // Beyond the last query, the last one is computed and dropped.
    let row = min(query, params.queries - 1u);
    let at = (group.z * params.queries + row) * width + head;
    let added = ((group.z % params.groups * params.heads + group.y) * params.queries + row) * params.keys;
    var qs: array<vec4<f32>, QUADS>;
    var acc: array<vec4<f32>, QUADS>;
    for (var i = 0u; i < quads; i++) {
        let there = part(i);
        let place = at + 4u * i;
        var quad = vec4(f32(q[place]), 0.0, 0.0, 0.0);
        if there.y { quad.y = f32(q[place + 1u]); }
        if there.z { quad.z = f32(q[place + 2u]); }
        if there.w { quad.w = f32(q[place + 3u]); }
        qs[i] = quad * params.scale;
    }
    // Finite, so that a first tile of scores of minus infinity leaves no NaN behind; a row of nothing else ends as 0/0.
    var largest = -3.0e38;
    var total = 0.0;
    for (var start = 0u; start < params.keys; start += KEYS) {
        let count = min(KEYS, params.keys - start);
        for (var i = lane; i < count * quads; i += QUERIES) {
            let quad = i % quads;
            let there = part(quad);
            let place = (group.z * params.keys + start + i / quads) * width + head + 4u * quad;
            var key = vec4(f32(k[place]), 0.0, 0.0, 0.0);
            var value = vec4(f32(v[place]), 0.0, 0.0, 0.0);
            if there.y { key.y = f32(k[place + 1u]); value.y = f32(v[place + 1u]); }
            if there.z { key.z = f32(k[place + 2u]); value.z = f32(v[place + 2u]); }
            if there.w { key.w = f32(k[place + 3u]); value.w = f32(v[place + 3u]); }
            ks[i] = key;
            vs[i] = value;
        }
        workgroupBarrier();
        for (var j = 0u; j < count; j++) {
            var sum = vec4(0.0);
            for (var i = 0u; i < quads; i++) {
                sum = fma(qs[i], ks[j * quads + i], sum);
            }
            let score = sum.x + sum.y + (sum.z + sum.w) + f32(bias[added + start + j]);
            // Rarely a new maximum: then what was gathered is brought to it.
            if score > largest {
                let correction = exp(largest - score);
                largest = score;
                total *= correction;
                for (var i = 0u; i < quads; i++) {
                    acc[i] *= correction;
                }
            }
            let p = exp(score - largest);
            total += p;
            for (var i = 0u; i < quads; i++) {
                acc[i] = fma(vec4(p), vs[j * quads + i], acc[i]);
            }
        }
        workgroupBarrier();
    }
    if query < params.queries {
        for (var i = 0u; i < quads; i++) {
            let there = part(i);
            let result = acc[i] / total;
            let to = at + 4u * i;
            out[to] = elem(result.x);
            if there.y { out[to + 1u] = elem(result.y); }
            if there.z { out[to + 2u] = elem(result.z); }
            if there.w { out[to + 3u] = elem(result.w); }
        }
    }
}
