// Weights held as f16, where the device has them. See stored_f32.wgsl.

alias word = f16;
alias quad = vec4<f16>;
const PER_WORD: u32 = 1u;

fn element(held: word, i: u32) -> f32 {
    return f32(held);
}

fn elements(held: quad) -> vec4<f32> {
    return vec4<f32>(held);
}
