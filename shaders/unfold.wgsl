// Neighbourhoods of a convolution as rows, [B, H, W, C] to [B, H', W', k*k*C], zero outside the image. One thread an
// output element.

struct Params {
    elements: u32, stride: u32, height: u32, width: u32,
    channels: u32, kernel: u32, step: u32, padding: u32,
    out_height: u32, out_width: u32, pad0: u32, pad1: u32,
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
    let k = params.kernel;
    let channel = i % params.channels;
    let place = i / params.channels;
    let inside = place % (k * k);
    let window = place / (k * k);
    let column = window % params.out_width;
    let row = window / params.out_width % params.out_height;
    let b = window / (params.out_width * params.out_height);
    // What lies before the image wraps round, beyond any side.
    let at_y = row * params.step + inside / k - params.padding;
    let at_x = column * params.step + inside % k - params.padding;
    var value = elem(0.0);
    if at_y < params.height && at_x < params.width {
        value = x[((b * params.height + at_y) * params.width + at_x) * params.channels + channel];
    }
    out[i] = value;
}
