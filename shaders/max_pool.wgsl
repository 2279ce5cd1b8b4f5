// Maxima over windows, [B, H, W, C] to [B, H', W', C]. One thread an output element.

struct Params {
    elements: u32, stride: u32, height: u32, width: u32,
    channels: u32, kernel: u32, step: u32, out_height: u32,
    out_width: u32, pad0: u32, pad1: u32, pad2: u32,
}

@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> x: array<elem>;
@group(0) @binding(2) var<storage, read_write> out: array<elem>;

@compute @workgroup_size(256)
fn main(@builtin(global_invocation_id) id: vec3<u32>) {
    let i = id.y * params.stride + id.x;
    if i >= params.elements {
        return;
    }
    let channel = i % params.channels;
    let window = i / params.channels;
    let column = window % params.out_width * params.step;
    let row = window / params.out_width % params.out_height * params.step;
    let b = window / (params.out_width * params.out_height);
    let first = ((b * params.height + row) * params.width + column) * params.channels + channel;
    var most = -3.402823e38;
    for (var inside = 0u; inside < params.kernel * params.kernel; inside += 1u) {
        let place = inside / params.kernel * params.width + inside % params.kernel;
        most = max(most, f32(x[first + place * params.channels]));
    }
    out[i] = elem(most);
}
