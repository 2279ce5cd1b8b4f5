// Gram matrices, [B, S, D] to [B, D, D]: the transposed rows times the rows, in f32, times a scale. A workgroup computes
// 16 x 16 elements, a thread each; 16 rows at a time pass through workgroup memory. A picture has tens of thousands of
// rows, of which a thousand are summed at a time, so that small terms are not lost in a large sum. Grid: (D / 16, D / 16, B).

struct Params { rows: u32, width: u32, scale: f32, pad0: u32 }

@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> x: array<elem>;
@group(0) @binding(2) var<storage, read_write> out: array<elem>;

const SIDE: u32 = 16u;
const SUMMED: u32 = 1024u;
var<workgroup> left: array<f32, 256>;
var<workgroup> right: array<f32, 256>;

@compute @workgroup_size(256)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
    let down = lane / SIDE;
    let across = lane % SIDE;
    let left_column = group.y * SIDE + across;
    let right_column = group.x * SIDE + across;
    var sum = 0.0;
    var part = 0.0;
    for (var begin = 0u; begin < params.rows; begin += SIDE) {
        let row = begin + down;
        let at = (group.z * params.rows + row) * params.width;
        var a = 0.0;
        var b = 0.0;
        if row < params.rows && left_column < params.width {
            a = f32(x[at + left_column]);
        }
        if row < params.rows && right_column < params.width {
            b = f32(x[at + right_column]);
        }
        left[lane] = a;
        right[lane] = b;
        workgroupBarrier();
        for (var i = 0u; i < SIDE; i += 1u) {
            part += left[i * SIDE + down] * right[i * SIDE + across];
        }
        if (begin + SIDE) % SUMMED == 0u {
            sum += part;
            part = 0.0;
        }
        workgroupBarrier();
    }
    sum += part;
    let result_row = group.y * SIDE + down;
    if result_row < params.width && right_column < params.width {
        out[(group.z * params.width + result_row) * params.width + right_column] = elem(sum * params.scale);
    }
}
