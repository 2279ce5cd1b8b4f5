//! Elementwise functions in f32, written so that the compiler can vectorise them.

use mils_graph::Activation;

/// Partial results side by side, so that they fill vectors of any width.
const LANES: usize = 16;

/// `e^x` to about 1 ulp, without a library call: range reduction by ln 2 (Cody and Waite, two constants) and a
/// polynomial of degree 6. Below -87.3 it is 0 and above 88.3 infinite, a little before f32 ends; NaN stays NaN.
#[inline(always)]
pub fn exp(x: f32) -> f32 {
    const LOG2_E: f32 = std::f32::consts::LOG2_E;
    const LN2_HI: f32 = 0.693_359_4;
    const LN2_LO: f32 = -2.121_944_4e-4;
    // Adding 1.5 * 2^23 leaves the rounded integer in the low mantissa bits.
    const ROUND: f32 = 12_582_912.0;
    const LEAST: f32 = -87.3;
    const MOST: f32 = 88.3;
    let whole = x;
    let x = x.clamp(LEAST, MOST);
    let shifted = x * LOG2_E + ROUND;
    let n = shifted - ROUND;
    let r = (x - n * LN2_HI) - n * LN2_LO;
    let p = 1.987_569_1e-4;
    let p = p * r + 1.398_199_9e-3;
    let p = p * r + 8.333_452e-3;
    let p = p * r + 4.166_579_6e-2;
    let p = p * r + 1.666_666_5e-1;
    let p = p * r + 0.5;
    let p = p * (r * r) + r + 1.0;
    // The integer in place of the exponent; a cast would be scalar, for it minds what no integer can be.
    let power = f32::from_bits((shifted.to_bits() << 23).wrapping_add(1.0_f32.to_bits()));
    // Not the clamped ends: a weight of -inf must be 0, and x / (1 + e^-x) must go to 0.
    if whole < LEAST {
        0.0
    } else if whole > MOST {
        f32::INFINITY
    } else {
        p * power
    }
}

/// The error function, absolute error below 5e-7 (Abramowitz and Stegun, formula 7.1.26).
#[inline(always)]
pub fn erf(x: f32) -> f32 {
    let a = x.abs();
    let t = 1.0 / (1.0 + 0.327_591_1 * a);
    let p = t * (0.254_829_6 + t * (-0.284_496_72 + t * (1.421_413_8 + t * (-1.453_152 + t * 1.061_405_4))));
    (1.0 - p * exp(-a * a)).copysign(x)
}

/// One activation of one number; see [`Activation`] for the formulas.
#[inline(always)]
pub fn activate(activation: Activation, x: f32) -> f32 {
    match activation {
        Activation::None => x,
        Activation::QuickGelu => x / (1.0 + exp(-1.702 * x)),
        Activation::Gelu => 0.5 * x * (1.0 + erf(x * std::f32::consts::FRAC_1_SQRT_2)),
        Activation::GeluTanh => {
            // 0.5 (1 + tanh z) = 1 / (1 + e^-2z)
            let z = 0.797_884_6 * (x + 0.044_715 * x * x * x);
            x / (1.0 + exp(-2.0 * z))
        }
        // Not `max`, which would drop a NaN.
        Activation::Relu => {
            if x < 0.0 {
                0.0
            } else {
                x
            }
        }
        Activation::Tanh => 1.0 - 2.0 / (1.0 + exp(2.0 * x)),
    }
}

/// In place; the branch is outside the loop so that each loop vectorises.
#[inline(always)]
pub(crate) fn activate_row(row: &mut [f32], activation: Activation) {
    match activation {
        Activation::None => {}
        Activation::QuickGelu => row.iter_mut().for_each(|v| *v = activate(Activation::QuickGelu, *v)),
        Activation::Gelu => row.iter_mut().for_each(|v| *v = activate(Activation::Gelu, *v)),
        Activation::GeluTanh => row.iter_mut().for_each(|v| *v = activate(Activation::GeluTanh, *v)),
        Activation::Relu => row.iter_mut().for_each(|v| *v = activate(Activation::Relu, *v)),
        Activation::Tanh => row.iter_mut().for_each(|v| *v = activate(Activation::Tanh, *v)),
    }
}

/// The largest element; NaN where there is one.
#[inline(always)]
pub(crate) fn max(row: &[f32]) -> f32 {
    let (lanes, rest) = row.as_chunks::<LANES>();
    let mut most = [f32::NEG_INFINITY; LANES];
    // Not `f32::max`, which would drop a NaN.
    let larger = |a: f32, b: f32| if a > b || a.is_nan() { a } else { b };
    for lane in lanes {
        most.iter_mut().zip(lane).for_each(|(most, &v)| *most = larger(*most, v));
    }
    most.into_iter().chain(rest.iter().copied()).fold(f32::NEG_INFINITY, larger)
}

/// The sum over a row of what `f` makes of its elements, in f64. Sixteen sums side by side: the compiler may not
/// reorder one.
#[inline(always)]
pub(crate) fn sum(row: &[f32], f: impl Fn(f64) -> f64) -> f64 {
    let (lanes, rest) = row.as_chunks::<LANES>();
    let mut sums = [0.0; LANES];
    for lane in lanes {
        sums.iter_mut().zip(lane).for_each(|(sum, &v)| *sum += f(f64::from(v)));
    }
    sums.into_iter().sum::<f64>() + rest.iter().map(|&v| f(f64::from(v))).sum::<f64>()
}

/// Runs a closure that is compiled for the widest vectors that the CPU has. It must be marked `#[inline(always)]`, and
/// so must what it calls.
#[inline(always)]
pub(crate) fn wide<R>(f: impl FnOnce() -> R) -> R {
    pulp::Arch::new().dispatch(f)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exp_is_close_to_the_library() {
        for i in -8730..=8830 {
            let x = i as f32 / 100.0;
            let (ours, theirs) = (exp(x), x.exp());
            assert!((ours - theirs).abs() <= theirs * 3e-7, "exp({x}) = {ours}, not {theirs}");
        }
        for (x, y) in [(-1e9, 0.0), (f32::NEG_INFINITY, 0.0), (1e9, f32::INFINITY), (f32::INFINITY, f32::INFINITY)] {
            assert_eq!(exp(x), y);
        }
        assert!(exp(f32::NAN).is_nan());
    }

    #[test]
    fn activations_end_where_their_formulas_do() {
        for activation in [Activation::QuickGelu, Activation::Gelu, Activation::GeluTanh] {
            for x in [20.0, 1e9, 1e38] {
                assert_eq!(activate(activation, x), x, "{activation:?}");
                assert!(activate(activation, -x).abs() < 1e-6, "{activation:?}({}) = {}", -x, activate(activation, -x));
            }
            assert_eq!(activate(activation, 0.0), 0.0);
            assert!(activate(activation, f32::NAN).is_nan(), "{activation:?}");
        }
    }

    #[test]
    fn relu_and_tanh_at_known_points() {
        for (x, y) in [(-2.0, 0.0), (0.0, 0.0), (3.5, 3.5), (f32::INFINITY, f32::INFINITY), (f32::NEG_INFINITY, 0.0)] {
            assert_eq!(activate(Activation::Relu, x), y, "relu({x})");
        }
        for i in -1000..=1000 {
            let x = i as f32 / 50.0;
            let found = activate(Activation::Tanh, x);
            assert!((found - x.tanh()).abs() < 3e-7, "tanh({x}) = {found}");
        }
        assert_eq!([1e9, -1e9, f32::INFINITY].map(|x| activate(Activation::Tanh, x)), [1.0, -1.0, 1.0]);
        assert!(activate(Activation::Relu, f32::NAN).is_nan() && activate(Activation::Tanh, f32::NAN).is_nan());
    }

    #[test]
    fn erf_and_gelu_at_known_points() {
        // Values from tables of the error function.
        for (x, y) in [(0.0, 0.0), (0.5, 0.520_499_9), (1.0, 0.842_700_8), (2.0, 0.995_322_3), (-1.0, -0.842_700_8)] {
            assert!((erf(x) - y).abs() < 5e-7, "erf({x}) = {}", erf(x));
        }
        assert!((activate(Activation::Gelu, 1.0) - 0.841_344_8).abs() < 1e-6);
        assert!((activate(Activation::GeluTanh, 1.0) - 0.841_192).abs() < 1e-6);
        assert!((activate(Activation::QuickGelu, 1.0) - 0.845_795_8).abs() < 1e-6);
    }
}
