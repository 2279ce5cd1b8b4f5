//! Where windows and clips of a long sound begin.

/// Starts of `count` clips of `seconds` in a sound of `total` seconds, at equal steps: the first at the start, the last
/// ends with the sound. All at 0 where the sound is not longer than a clip.
///
/// ```
/// assert_eq!(mils_media::audio::clip_starts(10.0, 3, 2.0), [0.0, 4.0, 8.0]);
/// assert_eq!(mils_media::audio::clip_starts(1.5, 3, 2.0), [0.0, 0.0, 0.0]);
/// ```
pub fn clip_starts(total: f64, count: usize, seconds: f64) -> Vec<f64> {
    let room = if (total - seconds).is_finite() { (total - seconds).max(0.0) } else { 0.0 };
    let step = room / count.saturating_sub(1).max(1) as f64;
    (0..count).map(|i| i as f64 * step).collect()
}

/// Starts of windows of `seconds`, `hop` apart, that cover a sound of `total` seconds; the last may reach beyond its
/// end. At most `most` of them: of a longer sound so many at equal steps.
///
/// ```
/// assert_eq!(mils_media::audio::window_starts(25.0, 10.0, 10.0, 100), [0.0, 10.0, 20.0]);
/// assert_eq!(mils_media::audio::window_starts(3.0, 10.0, 10.0, 100), [0.0]);
/// assert_eq!(mils_media::audio::window_starts(10_800.0, 10.0, 10.0, 3), [0.0, 5395.0, 10_790.0]);
/// ```
pub fn window_starts(total: f64, seconds: f64, hop: f64, most: usize) -> Vec<f64> {
    let most = most.max(1);
    let usable = total.is_finite() && hop.is_finite() && hop > 0.0;
    let count = if usable { ((total - seconds).max(0.0) / hop).ceil() + 1.0 } else { 1.0 };
    if count > most as f64 {
        return clip_starts(total, most, seconds);
    }
    (0..count as usize).map(|i| i as f64 * hop).collect()
}
