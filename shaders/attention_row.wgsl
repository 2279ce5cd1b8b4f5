// softmax(scale * q k^T) v with an online softmax in f32, for few queries and for heads of any number of elements.
// One workgroup of 64 computes one query row of one head: keys come in chunks of 64, a lane scores one key of the
// chunk, then each lane accumulates its columns of v. Where there are many queries, attention.wgsl reads keys less.
// Grid: (queries, heads, batch). Head dimension at most 256.
// Bounded, keys from lengths[batch] on are hidden; otherwise the binding of lengths is given any buffer.

struct Params { queries: u32, keys: u32, heads: u32, head_dim: u32, scale: f32, causal: u32, bounded: u32, pad: u32 }

@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> q: array<elem>;
@group(0) @binding(2) var<storage, read> k: array<elem>;
@group(0) @binding(3) var<storage, read> v: array<elem>;
@group(0) @binding(4) var<storage, read> lengths: array<u32>;
@group(0) @binding(5) var<storage, read_write> out: array<elem>;

const CHUNK: u32 = 64u;
var<workgroup> query: array<f32, 256>;
var<workgroup> weights: array<f32, 64>;
var<workgroup> maxima: array<f32, 64>;

@compute @workgroup_size(64)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
    let d = params.head_dim;
    let width = params.heads * d;
    let head = group.y * d;
    let q_row = (group.z * params.queries + group.x) * width + head;
    for (var i = lane; i < d; i += CHUNK) {
        query[i] = f32(q[q_row + i]) * params.scale;
    }
    workgroupBarrier();
    var end = params.keys;
    if params.causal != 0u {
        end = group.x + 1u;
    }
    var seen = end;
    if params.bounded != 0u {
        seen = min(end, lengths[group.z]);
    }
    // An array, not a vec4: FXC (DX12 without dxcompiler.dll) refuses to store to a vector at a computed index.
    var acc: array<f32, 4>;
    // Every query sees a key, so that total is above 0 unless the scores are not finite; then the row is NaN, as the
    // softmax of the formula is.
    var largest = -3.0e38;
    var total = 0.0;
    // To the end, not only to what is seen: FXC refuses barriers in a loop whose end may come from a buffer.
    for (var start = 0u; start < end; start += CHUNK) {
        let key = start + lane;
        var score = -3.0e38;
        if key < seen {
            let row = (group.z * params.keys + key) * width + head;
            score = 0.0;
            for (var i = 0u; i < d; i++) {
                score = fma(query[i], f32(k[row + i]), score);
            }
        }
        maxima[lane] = score;
        workgroupBarrier();
        for (var half = 32u; half > 0u; half /= 2u) {
            if lane < half {
                maxima[lane] = max(maxima[lane], maxima[lane + half]);
            }
            workgroupBarrier();
        }
        let new_largest = max(largest, maxima[0]);
        let correction = exp(largest - new_largest);
        largest = new_largest;
        var weight = 0.0;
        if key < seen {
            weight = exp(score - largest);
        }
        weights[lane] = weight;
        workgroupBarrier();
        let count = min(CHUNK, max(seen, start) - start);
        total *= correction;
        for (var c = 0u; c < 4u; c++) {
            acc[c] *= correction;
        }
        for (var j = 0u; j < count; j++) {
            let p = weights[j];
            total += p;
            let row = (group.z * params.keys + start + j) * width + head;
            for (var c = 0u; c < 4u; c++) {
                let column = lane + c * CHUNK;
                if column < d {
                    acc[c] = fma(p, f32(v[row + column]), acc[c]);
                }
            }
        }
        workgroupBarrier();
    }
    for (var c = 0u; c < 4u; c++) {
        let column = lane + c * CHUNK;
        if column < d {
            out[q_row + column] = elem(acc[c] / total);
        }
    }
}
