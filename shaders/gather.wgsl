// Rows of a table by number: token embeddings, positions, pooling. One thread an element. The table may be only a part,
// with `count` rows from `first` on: then what is of other rows is left alone, for the dispatches of the other parts.

struct Params { elements: u32, width: u32, stride: u32, first: u32, count: u32, pad0: u32, pad1: u32, pad2: u32 }

@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> table: array<word>;
@group(0) @binding(2) var<storage, read> rows: array<u32>;
@group(0) @binding(3) var<storage, read_write> out: array<elem>;

@compute @workgroup_size(256)
fn main(@builtin(global_invocation_id) id: vec3<u32>) {
    let i = id.y * params.stride + id.x;
    if i >= params.elements {
        return;
    }
    // Of rows before the first this wraps round, beyond any count.
    let row = rows[i / params.width] - params.first;
    if row < params.count {
        let at = row * params.width + i % params.width;
        out[i] = elem(element(table[at / PER_WORD], at));
    }
}
