//! Intervals and significance by resampling: the paired bootstrap, and approximate randomisation.
//!
//! Koehn, *Statistical significance tests for machine translation evaluation*, 2004; Riezler and Maxwell, *On some pitfalls
//! in automatic evaluation and significance testing for MT*, 2005. Replicates run in parallel, each from a stream of its own
//! of the seed: the same seed gives the same numbers on any machine.

use crate::evaluate::Series;
use rand::Rng;
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::SeedableRng;
use rayon::prelude::*;

/// An interval that holds 95 % of the replicates.
#[derive(Clone, Copy, Debug, PartialEq, serde::Serialize)]
pub struct Interval {
    /// 2.5 % are below.
    pub low: f64,
    /// 2.5 % are above.
    pub high: f64,
}

/// How two systems differ on the same items.
#[derive(Clone, Copy, Debug, PartialEq, serde::Serialize)]
pub struct Difference {
    /// The first's score.
    pub a: f64,
    /// The second's.
    pub b: f64,
    /// The second's less the first's.
    pub difference: f64,
    /// Of the difference, by the paired bootstrap.
    pub interval: Interval,
    /// How likely a difference as large is if it does not matter which system made a caption, by approximate randomisation.
    pub p: f64,
}

fn rng(seed: u64, replicate: u64) -> ChaCha8Rng {
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    rng.set_stream(replicate);
    rng
}

/// A number below `n`; of no more than 32 bits the bias is none that matters.
fn below(rng: &mut ChaCha8Rng, n: usize) -> usize {
    ((u64::from(rng.next_u32()) * n as u64) >> 32) as usize
}

fn draw(rng: &mut ChaCha8Rng, n: usize) -> Vec<usize> {
    (0..n).map(|_| below(rng, n)).collect()
}

fn interval(mut values: Vec<f64>) -> Interval {
    values.sort_by(f64::total_cmp);
    let at = |share: f64| values.get((share * values.len().saturating_sub(1) as f64).round() as usize).copied();
    Interval { low: at(0.025).unwrap_or(f64::NAN), high: at(0.975).unwrap_or(f64::NAN) }
}

/// The interval of a score over items drawn with replacement.
pub fn bootstrap(series: &Series, replicates: u64, seed: u64) -> Interval {
    let one = |r| series.over(draw(&mut rng(seed, r), series.len()));
    interval((0..replicates).into_par_iter().map(one).collect())
}

/// Compares two systems by one metric on the same items in the same order.
pub fn compare(a: &Series, b: &Series, replicates: u64, seed: u64) -> Difference {
    let items = a.len().min(b.len());
    let (score_a, score_b) = (a.over(0..items), b.over(0..items));
    let difference = score_b - score_a;
    let drawn = |r| {
        let drawn = draw(&mut rng(seed, r), items);
        b.over(drawn.iter().copied()) - a.over(drawn)
    };
    let swapped = |r| {
        let mut rng = rng(seed, replicates + r);
        let swap: Vec<bool> = (0..items).map(|_| rng.next_u32() & 1 == 1).collect();
        let of = |other: bool| Series::mixed(a, b, &swap, other);
        // A rounding of the sums must not make as large a difference a smaller one.
        (of(true) - of(false)).abs() >= difference.abs() - 1e-12
    };
    let larger = (0..replicates).into_par_iter().filter(|r| swapped(*r)).count();
    Difference {
        a: score_a,
        b: score_b,
        difference,
        interval: interval((0..replicates).into_par_iter().map(drawn).collect()),
        p: (larger + 1) as f64 / (replicates + 1) as f64,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn series(values: impl Iterator<Item = f64>) -> Series {
        Series::mean("x", values.collect())
    }

    #[test]
    fn a_real_difference_is_told_from_none() {
        let noise = |i: usize| ((i * 7919) % 101) as f64 / 101.0;
        let (a, b) = (series((0..400).map(noise)), series((0..400).map(|i| noise(i) + 0.05 * noise(i * 31 + 7))));
        let real = compare(&a, &b, 500, 1);
        assert!(real.p < 0.01 && real.interval.low > 0.0, "{real:?}");
        let c = series((0..400).map(|i| noise(i * 13 + 5)));
        let none = compare(&a, &c, 500, 1);
        assert!(none.p > 0.05 && none.interval.low < 0.0 && none.interval.high > 0.0, "{none:?}");
        assert_eq!(compare(&a, &a, 200, 1).p, 1.0);
        assert_eq!(compare(&a, &b, 200, 9), compare(&a, &b, 200, 9));
        let of = bootstrap(&a, 500, 3);
        // Four standard errors of the mean of 400 numbers that are even from 0 to 1.
        assert!(of.low < 0.5 && of.high > 0.5 && of.high - of.low < 0.06 && of.high - of.low > 0.05, "{of:?}");
    }
}
