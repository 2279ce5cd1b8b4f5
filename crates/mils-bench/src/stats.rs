//! Means, medians and intervals.

use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

/// Resamples of a bootstrap.
const RESAMPLES: usize = 2000;

/// The mean; 0 of nothing.
pub fn mean(values: &[f64]) -> f64 {
    if values.is_empty() { 0.0 } else { values.iter().sum::<f64>() / values.len() as f64 }
}

/// The median: the middle value, or the mean of the two in the middle; 0 of nothing.
pub fn median(values: &[f64]) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    match (sorted.len(), sorted.len() / 2) {
        (0, _) => 0.0,
        (n, half) if n % 2 == 1 => sorted[half],
        (_, half) => f64::midpoint(sorted[half - 1], sorted[half]),
    }
}

/// A 95 % percentile-bootstrap interval of the mean, the same for the same values.
pub fn interval(values: &[f64]) -> (f64, f64) {
    bootstrap(values, mean)
}

/// A 95 % percentile-bootstrap interval of the median, the same for the same values.
pub fn median_interval(values: &[f64]) -> (f64, f64) {
    bootstrap(values, median)
}

fn bootstrap(values: &[f64], statistic: fn(&[f64]) -> f64) -> (f64, f64) {
    if values.is_empty() {
        return (0.0, 0.0);
    }
    let mut rng = ChaCha8Rng::seed_from_u64(1);
    let mut drawn = vec![0.0; values.len()];
    let mut all: Vec<f64> = (0..RESAMPLES)
        .map(|_| {
            drawn.fill_with(|| values[rng.random_range(0..values.len())]);
            statistic(&drawn)
        })
        .collect();
    all.sort_by(f64::total_cmp);
    (all[RESAMPLES / 40], all[RESAMPLES - 1 - RESAMPLES / 40])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_interval_holds_the_mean_and_narrows_with_more_values() {
        let few: Vec<f64> = (0..20).map(|i| f64::from(i % 2)).collect();
        let many: Vec<f64> = (0..2000).map(|i| f64::from(i % 2)).collect();
        let width = |v: &[f64]| {
            let (lo, hi) = interval(v);
            assert!(lo < mean(v) && mean(v) < hi);
            hi - lo
        };
        assert!(width(&few) > 5.0 * width(&many));
    }

    #[test]
    fn the_median_is_the_middle_and_outliers_do_not_move_it() {
        assert_eq!((median(&[]), median(&[3.0]), median(&[4.0, 1.0])), (0.0, 3.0, 2.5));
        assert_eq!(median(&[900.0, 2.0, 1.0]), 2.0);
        let mut values: Vec<f64> = (0..41).map(|i| 1.0 + f64::from(i - 20) * 0.001).collect();
        values[0] = 1000.0;
        let (low, high) = median_interval(&values);
        assert!(low > 0.98 && low <= 1.0 && (1.0..1.02).contains(&high), "{low} {high}");
    }

    #[test]
    fn the_interval_of_the_median_covers_it_about_as_often_as_it_says() {
        let mut rng = ChaCha8Rng::seed_from_u64(5);
        let covers = (0..200).filter(|_| {
            let values: Vec<f64> = (0..25).map(|_| rng.random::<f64>()).collect();
            let (low, high) = median_interval(&values);
            low <= 0.5 && 0.5 <= high
        });
        assert!((176..=200).contains(&covers.count()));
    }
}
