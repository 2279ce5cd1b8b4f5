// Weights held as f32. `element` is element i of a buffer of words, `elements` are four of a buffer of quads.

alias word = f32;
alias quad = vec4<f32>;
const PER_WORD: u32 = 1u;

fn element(held: word, i: u32) -> f32 {
    return held;
}

fn elements(held: quad) -> vec4<f32> {
    return held;
}
