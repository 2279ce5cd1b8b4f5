//! Mixtures of two recordings at equal loudness.

use rand::seq::SliceRandom;
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

/// Root mean square of a mixture, unless its peaks would be too high.
const LOUDNESS: f64 = 0.1;
/// The highest peak of a mixture.
const PEAK: f32 = 0.9;

fn loudness(samples: &[f32]) -> f64 {
    (samples.iter().map(|s| f64::from(*s).powi(2)).sum::<f64>() / samples.len().max(1) as f64).sqrt()
}

/// Two sounds at once, each with the same root mean square over its length; the shorter one is repeated. Samples of one
/// rate; as many as the longer has.
pub fn mix(a: &[f32], b: &[f32]) -> Vec<f32> {
    let length = a.len().max(b.len());
    let mut out = vec![0.0_f32; length];
    for sound in [a, b] {
        let own = loudness(sound);
        if own > 0.0 {
            let gain = (LOUDNESS / own) as f32;
            out.iter_mut().zip(sound.iter().cycle()).for_each(|(o, s)| *o += gain * s);
        }
    }
    let (whole, peak) = (loudness(&out), out.iter().fold(0.0_f32, |m, s| m.max(s.abs())));
    if whole > 0.0 {
        let gain = ((LOUDNESS / whole) as f32).min(PEAK / peak);
        out.iter_mut().for_each(|s| *s *= gain);
    }
    out
}

/// Which recordings are mixed, by the sounds that they are of: `count` pairs of different sounds, every recording about as
/// often as any other, the same for the same seed. Fewer where there are no more such pairs.
pub fn pairs(sounds: &[u8], count: usize, seed: u64) -> Vec<[usize; 2]> {
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    let mut all: Vec<[usize; 2]> = (0..sounds.len())
        .flat_map(|a| (a + 1..sounds.len()).map(move |b| [a, b]))
        .filter(|[a, b]| sounds[*a] != sounds[*b])
        .collect();
    all.shuffle(&mut rng);
    let mut used = vec![0_usize; sounds.len()];
    let mut out = Vec::with_capacity(count.min(all.len()));
    let mut most = 1;
    while out.len() < count && !all.is_empty() {
        all.retain(|&[a, b]| {
            let takes = out.len() < count && used[a] < most && used[b] < most;
            if takes {
                used[a] += 1;
                used[b] += 1;
                out.push(if rng.random_bool(0.5) { [a, b] } else { [b, a] });
            }
            !takes
        });
        most += 1;
    }
    out
}
