//! The chart of a report: scores over steps, in the units of an SVG.

use super::run::StepRun;
use serde::Serialize;

/// The chart's size, and its margins.
const SIZE: (f32, f32) = (640.0, 230.0);
const LEFT: f32 = 56.0;
const RIGHT: f32 = 14.0;
const TOP: f32 = 12.0;
const BOTTOM: f32 = 40.0;
/// Of more steps, only those are dots at which the best text changed.
const DOTS: usize = 120;

/// Lines over steps.
#[derive(Debug, Serialize)]
pub struct Chart {
    width: f32,
    height: f32,
    left: f32,
    right: f32,
    top: f32,
    floor: f32,
    /// Points of the lines.
    best: String,
    mean: String,
    dots: Vec<Dot>,
    x_ticks: Vec<Tick>,
    y_ticks: Vec<Tick>,
}

/// A dot, and what it tells.
#[derive(Debug, Serialize)]
struct Dot {
    x: f64,
    y: f64,
    /// Of the best texts, not of the mean.
    best: bool,
    title: String,
}

/// A place on an axis.
#[derive(Debug, Serialize)]
struct Tick {
    at: f64,
    label: String,
}

impl Chart {
    /// Of the steps of a run.
    pub fn new(steps: &[StepRun]) -> Self {
        let (width, height) = SIZE;
        let (right, floor) = (width - RIGHT, height - BOTTOM);
        let all = steps.iter().flat_map(|step| [step.record.best.score, step.record.mean_kept]);
        let (lo, hi) = all.fold((f32::INFINITY, f32::NEG_INFINITY), |(lo, hi), v| (lo.min(v), hi.max(v)));
        let ticks = ticks(lo, hi);
        let (lo, hi) = (ticks[0], ticks[ticks.len() - 1]);
        let last = steps.len().max(2) - 1;
        let x = |i: usize| LEFT + (right - LEFT) * i as f32 / last as f32;
        let y = |v: f32| floor - (floor - TOP) * (v - lo) / (hi - lo);
        let line = |value: &dyn Fn(&StepRun) -> f32| {
            let point = |(i, step)| format!("{:.1},{:.1}", x(i), y(value(step)));
            steps.iter().enumerate().map(point).collect::<Vec<_>>().join(" ")
        };
        let changed = |i: usize| i == 0 || steps[i].record.best.text != steps[i - 1].record.best.text;
        let dots = steps.iter().enumerate().flat_map(|(i, step)| {
            let (record, few) = (&step.record, steps.len() <= DOTS);
            let (best, mean) = (record.best.score, record.mean_kept);
            let title = format!("Step {}, mean of the kept: {mean:.4}", record.step);
            let mean = few.then(|| Dot { x: tenth(x(i)), y: tenth(y(mean)), best: false, title });
            let title = format!("Step {}: {best:.4} {}", record.step, record.best.text);
            let best = (few || changed(i)).then(|| Dot { x: tenth(x(i)), y: tenth(y(best)), best: true, title });
            mean.into_iter().chain(best)
        });
        let every = whole_step(last as f32 / 12.0);
        let decimals = decimals(&ticks);
        Self {
            width,
            height,
            left: LEFT,
            right,
            top: TOP,
            floor,
            best: line(&|step| step.record.best.score),
            mean: line(&|step| step.record.mean_kept),
            dots: dots.collect(),
            x_ticks: (0..steps.len()).step_by(every).map(|i| Tick { at: tenth(x(i)), label: i.to_string() }).collect(),
            y_ticks: ticks.iter().map(|&v| Tick { at: tenth(y(v)), label: format!("{v:.decimals$}") }).collect(),
        }
    }
}

/// As exact as the eye; a float that is widened would be told with all its digits.
fn tenth(value: f32) -> f64 {
    (f64::from(value) * 10.0).round() / 10.0
}

/// Round values from at or below the least to at or above the greatest; at least two.
fn ticks(lo: f32, hi: f32) -> Vec<f32> {
    // Nothing there, or the same everywhere.
    let (lo, hi) = if lo <= hi { (f64::from(lo), f64::from(hi)) } else { (0.0, 1.0) };
    let step = round_step((hi - lo).max(1e-3) / 4.0);
    let first = (lo / step).floor();
    let count = ((hi / step).ceil() - first).max(1.0);
    // A run has few of these: scores are between -1 and 1, steps no less than a 4000th of what they span.
    (0..=count as usize).map(|i| ((first + i as f64) * step) as f32).collect()
}

/// 1, 2 or 5 times a power of ten, no less than this.
fn round_step(least: f64) -> f64 {
    let power = 10_f64.powf(least.log10().floor());
    let fits = |factor: &f64| factor * power >= least * (1.0 - 1e-9);
    [1.0, 2.0, 5.0].into_iter().find(fits).unwrap_or(10.0) * power
}

/// The same of whole numbers.
fn whole_step(least: f32) -> usize {
    round_step(f64::from(least.max(1.0))) as usize
}

/// Digits behind the point that tell neighbours apart.
fn decimals(ticks: &[f32]) -> usize {
    let step = f64::from(ticks[1]) - f64::from(ticks[0]);
    (-(step * 1.001).log10().floor()).clamp(0.0, 6.0) as usize
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ticks_are_round_and_hold_all_values() {
        let labels = |lo, hi| {
            let ticks = ticks(lo, hi);
            let decimals = decimals(&ticks);
            ticks.iter().map(|v| format!("{v:.decimals$}")).collect::<Vec<_>>()
        };
        assert_eq!(labels(0.31, 0.87), ["0.2", "0.4", "0.6", "0.8", "1.0"]);
        assert_eq!(labels(0.2, 0.21), ["0.200", "0.205", "0.210"]);
        assert_eq!(labels(-0.03, 0.04), ["-0.04", "-0.02", "0.00", "0.02", "0.04"]);
        for (lo, hi) in [(0.5, 0.5), (0.0, 0.0), (-1.0, 1.0), (0.123, 0.124), (f32::INFINITY, f32::NEG_INFINITY)] {
            let ticks = ticks(lo, hi);
            assert!((2..8).contains(&ticks.len()) && ticks.is_sorted(), "{ticks:?}");
            assert!(lo > hi || ticks[0] <= lo + 1e-6 && ticks[ticks.len() - 1] >= hi - 1e-6, "{ticks:?}");
        }
        assert_eq!([0.5, 1.0, 1.2, 3.0, 9.0, 800.0].map(whole_step), [1, 1, 2, 5, 10, 1000]);
    }

    #[test]
    fn a_run_without_steps_has_an_empty_chart() {
        let chart = Chart::new(&[]);
        assert!(chart.best.is_empty() && chart.dots.is_empty() && chart.x_ticks.is_empty());
    }
}
