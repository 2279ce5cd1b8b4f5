// softmax(scale * q k^T) v with an online softmax in f32, without subgroups; heads have a multiple of 4 elements.
//
// One workgroup computes QUERIES rows of one head. Keys and values pass through workgroup memory once for all of them,
// KEYS at a time. A query is computed by PARTS threads, which hold QUADS quads each of its row and of its result in
// registers: the head's elements, and zeros beyond. All threads of a part read the same keys and values at the same
// time. Partial scores meet in workgroup memory.
// Grid: (queries / QUERIES, heads, batch). Bounded, keys from lengths[batch] on are hidden; otherwise the binding of
// lengths is given any buffer. Tiles of hidden keys are passed over.

struct Params { queries: u32, keys: u32, heads: u32, head_dim: u32, scale: f32, causal: u32, bounded: u32, pad: u32 }

@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> q: array<elem4>;
@group(0) @binding(2) var<storage, read> k: array<elem4>;
@group(0) @binding(3) var<storage, read> v: array<elem4>;
@group(0) @binding(4) var<storage, read> lengths: array<u32>;
@group(0) @binding(5) var<storage, read_write> out: array<elem4>;

const LANES: u32 = QUERIES * PARTS;
const WIDTH: u32 = PARTS * QUADS;

var<workgroup> ks: array<vec4<f32>, KEYS * WIDTH>;
var<workgroup> vs: array<vec4<f32>, KEYS * WIDTH>;
var<workgroup> partial: array<f32, KEYS * LANES>;

fn score(j: u32, query: u32) -> f32 {
    var sum = partial[j * LANES + query];
    for (var p = 1u; p < PARTS; p++) {
        sum += partial[j * LANES + p * QUERIES + query];
    }
    return sum;
}

@compute @workgroup_size(LANES)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
    let quads = params.head_dim / 4u;
    let width = params.heads * quads;
    let head = group.y * quads;
    let query = lane % QUERIES;
    let own = lane / QUERIES * QUADS;
    let first = group.x * QUERIES;
    // Beyond the last query, the last one is computed and dropped.
    let row = min(first + query, params.queries - 1u);
    let at = (group.z * params.queries + row) * width + head;
    var qs: array<vec4<f32>, QUADS>;
    var acc: array<vec4<f32>, QUADS>;
    for (var i = 0u; i < QUADS; i++) {
        if own + i < quads {
            qs[i] = vec4<f32>(q[at + own + i]) * params.scale;
        }
    }
    // Keys that any, that all, and that this query sees.
    var end = params.keys;
    var all = params.keys;
    var seen = params.keys;
    if params.causal != 0u {
        end = min(first + QUERIES, params.keys);
        all = first + 1u;
        seen = row + 1u;
    }
    var shown = end;
    if params.bounded != 0u {
        shown = min(end, lengths[group.z]);
        seen = min(seen, shown);
    }
    all = min(all, shown);
    // Every query sees a key, so that total is above 0 unless the scores are not finite; then the row is NaN, as the
    // softmax of the formula is.
    var largest = -3.0e38;
    var total = 0.0;
    // To the end, not only to what is shown: FXC refuses barriers in a loop whose end may come from a buffer.
    for (var start = 0u; start < end; start += KEYS) {
        let count = min(KEYS, max(shown, start) - start);
        for (var i = lane; i < count * WIDTH; i += LANES) {
            let quad = i % WIDTH;
            var key = vec4(0.0);
            var value = vec4(0.0);
            if quad < quads {
                let source = (group.z * params.keys + start + i / WIDTH) * width + head + quad;
                key = vec4<f32>(k[source]);
                value = vec4<f32>(v[source]);
            }
            ks[i] = key;
            vs[i] = value;
        }
        workgroupBarrier();
        for (var j = 0u; j < count; j++) {
            var sum = vec4(0.0);
            for (var i = 0u; i < QUADS; i++) {
                sum = fma(qs[i], ks[j * WIDTH + own + i], sum);
            }
            partial[j * LANES + lane] = sum.x + sum.y + (sum.z + sum.w);
        }
        if PARTS > 1u {
            workgroupBarrier();
        }
        let visible = min(count, max(seen, start) - start);
        var most = largest;
        for (var j = 0u; j < visible; j++) {
            most = max(most, score(j, query));
        }
        let correction = exp(largest - most);
        largest = most;
        total *= correction;
        for (var i = 0u; i < QUADS; i++) {
            acc[i] *= correction;
        }
        // Only what is visible: 0 times a hidden NaN is NaN.
        if start + count <= all {
            for (var j = 0u; j < count; j++) {
                let p = exp(score(j, query) - largest);
                total += p;
                for (var i = 0u; i < QUADS; i++) {
                    acc[i] = fma(vec4(p), vs[j * WIDTH + own + i], acc[i]);
                }
            }
        } else {
            for (var j = 0u; j < visible; j++) {
                let p = exp(score(j, query) - largest);
                total += p;
                for (var i = 0u; i < QUADS; i++) {
                    acc[i] = fma(vec4(p), vs[j * WIDTH + own + i], acc[i]);
                }
            }
        }
        workgroupBarrier();
    }
    if first + query < params.queries {
        for (var i = 0u; i < QUADS; i++) {
            if own + i < quads {
                out[at + own + i] = elem4(acc[i] / total);
            }
        }
    }
}
