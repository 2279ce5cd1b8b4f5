// Activations. ACTIVATION is 0 none, 1 quick GELU, 2 GELU (erf), 3 GELU (tanh), 4 ReLU, 5 tanh, set by the variant.

fn erf(x: f32) -> f32 {
    // Abramowitz and Stegun 7.1.26: absolute error below 5e-7 in f32.
    let a = abs(x);
    let t = 1.0 / (1.0 + 0.3275911 * a);
    let p = t * (0.2548296 + t * (-0.28449672 + t * (1.4214138 + t * (-1.453152 + t * 1.0614054))));
    return sign(x) * (1.0 - p * exp(-a * a));
}

fn activate(x: f32) -> f32 {
    if ACTIVATION == 1u {
        return x / (1.0 + exp(-1.702 * x));
    }
    if ACTIVATION == 2u {
        return 0.5 * x * (1.0 + erf(x * 0.70710678));
    }
    if ACTIVATION == 3u {
        // 0.5 (1 + tanh z) = 1 / (1 + e^-2z), which does not overflow to NaN.
        let z = 0.7978846 * (x + 0.044715 * x * x * x);
        return x / (1.0 + exp(-2.0 * z));
    }
    if ACTIVATION == 4u {
        // Not max, which may drop a NaN.
        return select(x, 0.0, x < 0.0);
    }
    if ACTIVATION == 5u {
        return 1.0 - 2.0 / (1.0 + exp(2.0 * x));
    }
    return x;
}
