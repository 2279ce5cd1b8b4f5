// Weights held as f16, two a u32, the first in its low half. See stored_f32.wgsl.

alias word = u32;
alias quad = vec2<u32>;
const PER_WORD: u32 = 2u;

// Halves in the low bits. By hand: unpack2x16float is not on every device, and may take subnormals for 0.
fn widen(halves: vec4<u32>) -> vec4<f32> {
    let magnitude = halves & vec4(0x7fffu);
    // The exponent's bias is 15 in f16 and 127 in f32; the largest, of infinities and NaN, becomes the largest.
    let bias = select(vec4(112u << 23u), vec4(224u << 23u), magnitude >= vec4(0x7c00u));
    let normal = bitcast<vec4<f32>>((magnitude << vec4(13u)) + bias);
    let subnormal = vec4<f32>(magnitude) * 5.9604645e-8;
    let value = select(normal, subnormal, magnitude < vec4(0x400u));
    return bitcast<vec4<f32>>(bitcast<vec4<u32>>(value) | ((halves & vec4(0x8000u)) << vec4(16u)));
}

fn element(held: word, i: u32) -> f32 {
    return widen(vec4((held >> (i % 2u * 16u)) & 0xffffu, 0u, 0u, 0u)).x;
}

fn elements(held: quad) -> vec4<f32> {
    let low = held & vec2(0xffffu);
    let high = held >> vec2(16u);
    return widen(vec4(low.x, high.x, low.y, high.y));
}
