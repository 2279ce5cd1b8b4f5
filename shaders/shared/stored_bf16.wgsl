// Weights held as bf16, the upper half of an f32; two a u32, the first in its low half. See stored_f32.wgsl.

alias word = u32;
alias quad = vec2<u32>;
const PER_WORD: u32 = 2u;

fn element(held: word, i: u32) -> f32 {
    return bitcast<f32>(held >> (i % 2u * 16u) << 16u);
}

fn elements(held: quad) -> vec4<f32> {
    let low = bitcast<vec2<f32>>(held << vec2(16u));
    let high = bitcast<vec2<f32>>(held & vec2(0xffff0000u));
    return vec4(low.x, high.x, low.y, high.y);
}
