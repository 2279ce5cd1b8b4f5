// Loads of gemm.wgsl for K a multiple of 4, four elements at a time.

alias operand = vec4<f32>;
alias weights = quad;

fn load_slice(row0: u32, col0: u32, k0: u32, lane: u32) {
    let width = params.k / 4u;
    for (var i = lane; i < SLICE / 4u * TILE; i += THREADS) {
        let line = i / (SLICE / 4u);
        let quad = i % (SLICE / 4u);
        let k = k0 / 4u + quad;
        var a = vec4(0.0);
        var b = vec4(0.0);
        if k < width {
            if row0 + line < params.m {
                a = x[(row0 + line) * width + k];
            }
            if col0 + line < params.n {
                b = elements(weight[(col0 + line) * width + k]);
            }
        }
        for (var c = 0u; c < 4u; c++) {
            xs[(quad * 4u + c) * TILE + line] = a[c];
            ws[(quad * 4u + c) * TILE + line] = b[c];
        }
    }
}
