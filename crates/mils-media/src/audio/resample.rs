//! From one sample rate to another, as the references' resamplers do it.
//!
//! Both are windowed sinc filters evaluated at rational positions, and differ in the filter alone. The filters of the
//! crates for resampling are others; between them, near the edge of the band, lies as much as a tenth of a noise's
//! power, so that only the same filter gives the same features.

use std::f64::consts::PI;

/// Which resampler is followed. Both keep the first sample where it is and add zeros on both sides.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Filter {
    /// `soxr` at its high quality, the default of `librosa.load` and `librosa.resample`: a Kaiser window for 20 bits,
    /// passing up to 0.914 of the band. Over 60 dB of signal to difference on white noise.
    #[default]
    SoxrHq,
    /// `torchaudio.functional.resample` with its defaults: a Hann window over 6 zero crossings, rolled off at 0.99.
    Torchaudio,
}

/// Of soxr's high quality: where the band is halved, and the window. From its recipe (passband 0.91363, stopband 1, 20
/// bits: Kaiser's window for 126 dB); the half widths were fitted to what soxr 1.0 gives, whose stages come to a little
/// more than Kaiser's estimate, and differ between ratios of small numbers and others.
const SOXR_CUTOFF: f64 = 0.956_85;
const SOXR_BETA: f64 = 12.974;
const SOXR_HALF: (f64, f64) = (96.75, 99.0);
/// The largest number of a ratio of small ones.
const SMALL: u32 = 8;
/// Of torchaudio's defaults: `rolloff` and `lowpass_filter_width`.
const TORCH_ROLLOFF: f64 = 0.99;
const TORCH_WIDTH: f64 = 6.0;
/// Most phases of a filter that are tabled each for itself; others are interpolated between.
const MOST_PHASES: u32 = 1024;
/// The most that a rate may be reduced: the filter grows with it.
pub(super) const MOST_REDUCED: u32 = 4096;
/// Most numbers in a table of phases.
const MOST_TABLE: usize = 8 << 20;

impl Filter {
    /// Cutoff in parts of the source's band, and how far the filter reaches, in source samples.
    fn shape(self, from: u32, to: u32) -> (f64, f64) {
        let scale = (f64::from(to) / f64::from(from)).min(1.0);
        match self {
            Self::SoxrHq => {
                let (up, down) = ratio(from, to);
                let half = if up.max(down) <= SMALL { SOXR_HALF.0 } else { SOXR_HALF.1 };
                (SOXR_CUTOFF * scale, half / scale)
            }
            Self::Torchaudio => (TORCH_ROLLOFF * scale, TORCH_WIDTH / (TORCH_ROLLOFF * scale)),
        }
    }

    /// Source samples on either side of an output's place that it depends on.
    pub(super) fn reach(self, from: u32, to: u32) -> usize {
        self.shape(from, to).1.ceil() as usize
    }

    /// The window at `x` of its half width, which is below 1.
    fn window(self, x: f64) -> f64 {
        match self {
            Self::SoxrHq => bessel(SOXR_BETA * (1.0 - x * x).max(0.0).sqrt()) / bessel(SOXR_BETA),
            Self::Torchaudio => (x * PI / 2.0).cos().powi(2),
        }
    }
}

/// Modified Bessel function of the first kind and order 0, by its series.
fn bessel(x: f64) -> f64 {
    let square = x * x / 4.0;
    let (mut sum, mut term) = (1.0, 1.0);
    for k in 1..200 {
        term *= square / f64::from(k * k);
        sum += term;
        if term < sum * 1e-17 {
            break;
        }
    }
    sum
}

/// `to / from` in lowest terms: outputs and inputs of a period.
pub(super) fn ratio(from: u32, to: u32) -> (u32, u32) {
    let (mut a, mut b) = (from.max(1), to.max(1));
    while b != 0 {
        (a, b) = (b, a % b);
    }
    (to.max(1) / a, from.max(1) / a)
}

/// The filter at every phase: rows of taps.
struct Table {
    taps: usize,
    /// The first tap's place, relative to the source sample at or before the output.
    first: i64,
    phases: u32,
    rows: Vec<f32>,
}

impl Table {
    /// `exact` of `up` phases, or so many that a straight line between two is as good.
    fn new(filter: Filter, from: u32, to: u32, up: u32) -> Self {
        let (cutoff, half) = filter.shape(from, to);
        let reach = half.ceil() as i64;
        let taps = (2 * reach + 2) as usize;
        let exact = up <= MOST_PHASES && taps.saturating_mul(up as usize) <= MOST_TABLE;
        // A wide filter changes slowly from sample to sample.
        let phases = if exact { up } else { (f64::from(MOST_PHASES) * cutoff).ceil().max(2.0) as u32 };
        let row = |phase: u32| {
            let shift = f64::from(phase) / f64::from(phases);
            (0..taps).map(move |k| {
                let d = k as f64 - reach as f64 - shift;
                let x = d / half;
                if x.abs() >= 1.0 {
                    return 0.0;
                }
                let angle = PI * cutoff * d;
                let sinc = if angle == 0.0 { 1.0 } else { angle.sin() / angle };
                (cutoff * sinc * filter.window(x)) as f32
            })
        };
        // One row more, to interpolate towards.
        let rows = (0..=phases).flat_map(row).collect();
        Self { taps, first: -reach, phases, rows }
    }

    fn row(&self, phase: u32) -> &[f32] {
        let at = phase as usize * self.taps;
        &self.rows[at..at + self.taps]
    }
}

/// Sum of products, in eight lanes.
fn dot(a: &[f32], b: &[f32]) -> f32 {
    let mut lanes = [0.0_f32; 8];
    let (mut xs, mut ys) = (a.chunks_exact(8), b.chunks_exact(8));
    for (x, y) in xs.by_ref().zip(ys.by_ref()) {
        for ((lane, x), y) in lanes.iter_mut().zip(x).zip(y) {
            *lane += x * y;
        }
    }
    let rest: f32 = xs.remainder().iter().zip(ys.remainder()).map(|(x, y)| x * y).sum();
    lanes.iter().sum::<f32>() + rest
}

/// Resamples; `samples.len() * to / from` samples, rounded up. Both rates are above 0.
pub(super) fn resample(samples: &[f32], from: u32, to: u32, filter: Filter) -> Vec<f32> {
    let (up, down) = ratio(from, to);
    if up == down || samples.is_empty() {
        return samples.to_vec();
    }
    let table = Table::new(filter, from, to, up);
    let length = (samples.len() as u64 * u64::from(up)).div_ceil(u64::from(down));
    let output = |m: u64| {
        let place = u128::from(m) * u128::from(down);
        let (whole, part) = ((place / u128::from(up)) as i64, (place % u128::from(up)) as u32);
        let begin = whole + table.first;
        // Taps that lie on samples; beyond them is silence.
        let skip = usize::try_from(-begin).unwrap_or(0).min(table.taps);
        let start = usize::try_from(begin).unwrap_or(0).min(samples.len());
        let count = (table.taps - skip).min(samples.len() - start);
        let under = &samples[start..start + count];
        let at = |phase: u32| dot(&table.row(phase)[skip..skip + count], under);
        if table.phases == up {
            return at(part);
        }
        let phase = f64::from(part) / f64::from(up) * f64::from(table.phases);
        let (low, rest) = ((phase.floor() as u32).min(table.phases - 1), phase.fract() as f32);
        at(low) * (1.0 - rest) + at(low + 1) * rest
    };
    (0..length).map(output).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tone(rate: u32, hertz: f64, count: usize) -> Vec<f32> {
        (0..count).map(|i| (2.0 * PI * hertz * i as f64 / f64::from(rate)).sin() as f32).collect()
    }

    /// Signal to difference, in dB, away from the ends.
    fn decibels(a: &[f32], b: &[f32]) -> f64 {
        let within = 1000..a.len().min(b.len()) - 1000;
        let power: f64 = a[within.clone()].iter().map(|x| f64::from(*x).powi(2)).sum();
        let off: f64 = a[within.clone()].iter().zip(&b[within]).map(|(x, y)| f64::from(x - y).powi(2)).sum();
        10.0 * (power / off.max(1e-30)).log10()
    }

    #[test]
    fn a_tone_stays_the_tone() {
        // Rates whose phases are tabled, and such that have too many.
        for (from, to) in [(44_100, 48_000), (48_000, 16_000), (8_000, 48_000), (44_100, 47_999), (96_001, 16_000)] {
            let heard = resample(&tone(from, 997.0, 30_000), from, to, Filter::SoxrHq);
            let got = decibels(&heard, &tone(to, 997.0, heard.len()));
            assert!(got > 80.0, "{from} to {to}: {got:.1} dB");
        }
    }

    #[test]
    fn what_the_new_rate_cannot_hold_is_gone() {
        let heard = resample(&tone(48_000, 9_000.0, 30_000), 48_000, 16_000, Filter::SoxrHq);
        let loudest = heard[1000..heard.len() - 1000].iter().fold(0.0_f32, |m, s| m.max(s.abs()));
        assert!(loudest < 1e-5, "{loudest}");
    }

    #[test]
    fn lengths_are_rounded_up_and_nothing_is_done_without_need() {
        assert_eq!(ratio(44_100, 48_000), (160, 147));
        for (n, expected) in [(0, 0), (1, 2), (147, 160), (148, 162)] {
            assert_eq!(resample(&vec![0.5; n], 44_100, 48_000, Filter::Torchaudio).len(), expected);
        }
        assert_eq!(resample(&[0.25, -1.0], 7, 7, Filter::SoxrHq), [0.25, -1.0]);
        // The widest filter there can be.
        assert_eq!(resample(&[1.0; 50], 1_536_000, 1_536_000 / MOST_REDUCED, Filter::SoxrHq).len(), 1);
        assert_eq!(resample(&[1.0; 2], 1, 47_999, Filter::SoxrHq).len(), 95_998);
    }
}
