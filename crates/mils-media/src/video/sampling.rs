//! At which times frames are taken.

/// Which frames of a video are taken. All are times, so that a variable frame rate changes nothing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Sampling {
    /// The middle of each of n equal parts: at `(i + 1/2) T / n`.
    #[default]
    Centres,
    /// The start of each of n equal parts: at `i T / n`.
    Starts,
    /// Every `floor(N / n)`-th of N frames from the first on, as ViCLIP's reference takes them
    /// (`frames[::len(frames) // n][:n]`); as [`Self::Starts`] where there are fewer frames than parts.
    WholeSteps,
    /// From the first frame to the last at equal steps, as `numpy.linspace(0, N - 1, n)` over N frames; one frame alone is
    /// the first.
    Ends,
}

impl Sampling {
    /// The times of `count` frames in a video of so many seconds, ascending, in seconds from its start.
    pub fn times(self, count: usize, seconds: f64, frame_rate: Option<f64>) -> Vec<f64> {
        let seconds = if seconds.is_finite() { seconds.max(0.0) } else { 0.0 };
        let n = count as f64;
        let rate = frame_rate.filter(|r| r.is_finite() && *r > 0.0);
        let frames = rate.map(|r| (seconds * r).round());
        let starts = |i: f64| i * seconds / n;
        let time = |i: f64| match (self, rate, frames) {
            (Self::Centres, ..) => (i + 0.5) * seconds / n,
            (Self::Starts, ..) => starts(i),
            // In the middle of the time that a frame is shown, so that no rounding takes its neighbour.
            (Self::WholeSteps, Some(rate), Some(frames)) if frames >= n => (i * (frames / n).floor() + 0.5) / rate,
            (Self::WholeSteps, ..) => starts(i),
            (Self::Ends, Some(rate), Some(frames)) if frames >= 1.0 && count > 1 => {
                ((i * (frames - 1.0) / (n - 1.0)).floor() + 0.5) / rate
            }
            (Self::Ends, ..) if count > 1 => i * seconds / (n - 1.0),
            (Self::Ends, ..) => 0.0,
        };
        (0..count).map(|i| time(i as f64)).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_those_of_the_references() {
        assert_eq!(Sampling::Centres.times(4, 8.0, None), [1.0, 3.0, 5.0, 7.0]);
        assert_eq!(Sampling::Starts.times(4, 8.0, None), [0.0, 2.0, 4.0, 6.0]);
        // 43 frames, steps of 5: frames 0, 5, …, 35.
        let frame = |t: &f64| (t * 10.0) as usize;
        let whole = Sampling::WholeSteps.times(8, 4.3, Some(10.0));
        assert_eq!(whole.iter().map(frame).collect::<Vec<_>>(), [0, 5, 10, 15, 20, 25, 30, 35]);
        let ends = Sampling::Ends.times(8, 4.3, Some(10.0));
        assert_eq!(ends.iter().map(frame).collect::<Vec<_>>(), [0, 6, 12, 18, 24, 30, 36, 42]);
        assert_eq!(Sampling::WholeSteps.times(8, 0.3, Some(10.0)).len(), 8);
        assert_eq!(Sampling::Ends.times(1, 5.0, Some(10.0)), [0.0]);
        for policy in [Sampling::Centres, Sampling::Starts, Sampling::WholeSteps, Sampling::Ends] {
            for seconds in [0.0, 0.01, 1e9, f64::NAN, f64::INFINITY] {
                let times = policy.times(5, seconds, Some(29.97));
                assert!(times.iter().all(|t| t.is_finite()) && times.is_sorted(), "{policy:?} {seconds}");
            }
        }
    }
}
