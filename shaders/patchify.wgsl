// [B, C, H, W] to rows of patches [B, H/p * W/p, C*p*p], the divisions rounded down. One thread an output element.

struct Params { elements: u32, stride: u32, channels: u32, height: u32, width: u32, side: u32, pad0: u32, pad1: u32 }

@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> image: array<elem>;
@group(0) @binding(2) var<storage, read_write> out: array<elem>;

@compute @workgroup_size(256)
fn main(@builtin(global_invocation_id) id: vec3<u32>) {
    let i = id.y * params.stride + id.x;
    if i >= params.elements {
        return;
    }
    let p = params.side;
    let grid_w = params.width / p;
    let per_row = params.channels * p * p;
    let patches = (params.height / p) * grid_w;
    let row = i / per_row;
    let inside = i % per_row;
    let channel = inside / (p * p);
    let b = row / patches;
    let index = row % patches;
    let y = index / grid_w * p + inside % (p * p) / p;
    let x = index % grid_w * p + inside % p;
    out[i] = image[((b * params.channels + channel) * params.height + y) * params.width + x];
}
