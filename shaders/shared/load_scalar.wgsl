// Loads of gemm.wgsl for any K, one element at a time.

alias operand = f32;
alias weights = word;

fn load_slice(row0: u32, col0: u32, k0: u32, lane: u32) {
    for (var i = lane; i < SLICE * TILE; i += THREADS) {
        let line = i / SLICE;
        let k = i % SLICE;
        var a = 0.0;
        var b = 0.0;
        if k0 + k < params.k {
            if row0 + line < params.m {
                a = x[(row0 + line) * params.k + k0 + k];
            }
            if col0 + line < params.n {
                let at = (col0 + line) * params.k + k0 + k;
                b = element(weight[at / PER_WORD], at);
            }
        }
        xs[k * TILE + line] = a;
        ws[k * TILE + line] = b;
    }
}
