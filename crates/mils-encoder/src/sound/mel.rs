//! Mel filter banks, HTK's and Slaney's.
//!
//! Reference: `mel_filter_bank` of transformers' `audio_utils.py`, which follows torchaudio and librosa.

/// Which mel scale, with the normalisation that goes with it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum MelScale {
    /// `2595 log10(1 + f / 700)`, triangles of height 1: torchaudio's default.
    Htk,
    /// Linear below 1 kHz and logarithmic above, triangles of equal area: librosa's default.
    Slaney,
}

impl MelScale {
    fn of_hertz(self, hertz: f64) -> f64 {
        match self {
            Self::Htk => 2595.0 * (1.0 + hertz / 700.0).log10(),
            Self::Slaney if hertz >= 1000.0 => 15.0 + (hertz / 1000.0).ln() * (27.0 / 6.4_f64.ln()),
            Self::Slaney => 3.0 * hertz / 200.0,
        }
    }

    fn to_hertz(self, mel: f64) -> f64 {
        match self {
            Self::Htk => 700.0 * (10_f64.powf(mel / 2595.0) - 1.0),
            Self::Slaney if mel >= 15.0 => 1000.0 * (6.4_f64.ln() / 27.0 * (mel - 15.0)).exp(),
            Self::Slaney => 200.0 * mel / 3.0,
        }
    }
}

/// A triangle over the bins of a spectrum; zero elsewhere.
#[derive(Clone, Debug)]
struct Filter {
    first: usize,
    weights: Vec<f64>,
}

/// Triangles over the bins of a spectrum, one a mel band.
#[derive(Clone, Debug)]
pub(crate) struct MelBank(Vec<Filter>);

impl MelBank {
    /// `bands` filters between two frequencies in Hz, over `bins` bins from 0 Hz to half the sample rate.
    pub(crate) fn new(scale: MelScale, bands: usize, [low, high]: [f64; 2], bins: usize, sample_rate: usize) -> Self {
        let edges: Vec<f64> = linspace([low, high].map(|f| scale.of_hertz(f)), bands + 2)
            .into_iter()
            .map(|mel| scale.to_hertz(mel))
            .collect();
        // Rounded down where the rate is odd, as in the reference.
        let frequencies = linspace([0.0, (sample_rate / 2) as f64], bins);
        let filter = |edges: &[f64]| {
            let [left, centre, right] = [edges[0], edges[1], edges[2]];
            let height = if scale == MelScale::Slaney { 2.0 / (right - left) } else { 1.0 };
            let weight = |f: &f64| ((f - left) / (centre - left)).min((right - f) / (right - centre)).max(0.0) * height;
            let all: Vec<f64> = frequencies.iter().map(weight).collect();
            let first = all.iter().position(|&w| w > 0.0).unwrap_or_default();
            let end = all.iter().rposition(|&w| w > 0.0).map_or(first, |last| last + 1);
            Filter { first, weights: all[first..end].to_vec() }
        };
        Self(edges.windows(3).map(filter).collect())
    }

    /// Number of filters.
    pub(crate) fn len(&self) -> usize {
        self.0.len()
    }

    /// What every filter lets through of a spectrum of powers, at most as long as the bank was made for.
    pub(crate) fn apply<'a>(&'a self, powers: &'a [f64]) -> impl Iterator<Item = f64> + 'a {
        self.0.iter().map(|f| f.weights.iter().zip(&powers[f.first..]).map(|(w, p)| w * p).sum())
    }
}

/// Numbers at equal steps with both ends, as NumPy has them.
fn linspace([begin, end]: [f64; 2], count: usize) -> Vec<f64> {
    let step = (end - begin) / (count.max(2) - 1) as f64;
    (0..count).map(|i| if i + 1 == count { end } else { begin + step * i as f64 }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scales_are_their_own_inverse_and_have_known_points() {
        for scale in [MelScale::Htk, MelScale::Slaney] {
            for hertz in [0.0, 50.0, 999.0, 1000.0, 1001.0, 14_000.0] {
                assert!((scale.to_hertz(scale.of_hertz(hertz)) - hertz).abs() < 1e-8, "{scale:?} {hertz}");
            }
        }
        // librosa's: 1 kHz is 15 mels, and 27 mels more are a factor of 6.4.
        assert!((MelScale::Slaney.of_hertz(1000.0) - 15.0).abs() < 1e-12);
        assert!((MelScale::Slaney.of_hertz(6400.0) - 42.0).abs() < 1e-12);
        assert!((MelScale::Htk.of_hertz(1000.0) - 999.985_5).abs() < 1e-3);
    }

    #[test]
    fn slaney_triangles_have_equal_areas_and_htk_ones_equal_heights() {
        let (bins, rate) = (4097, 48_000);
        let step = f64::from(rate) / 2.0 / (bins - 1) as f64;
        for band in MelBank::new(MelScale::Slaney, 64, [50.0, 14_000.0], bins, rate as usize).0 {
            let area: f64 = band.weights.iter().sum::<f64>() * step;
            assert!((area - 1.0).abs() < 0.02, "{area}");
        }
        for band in MelBank::new(MelScale::Htk, 64, [50.0, 14_000.0], bins, rate as usize).0 {
            let top = band.weights.iter().copied().fold(0.0, f64::max);
            assert!(top > 0.8 && top <= 1.0, "{top}");
        }
    }

    #[test]
    fn a_band_that_no_bin_lies_in_lets_nothing_through() {
        let bank = MelBank::new(MelScale::Htk, 40, [0.0, 400.0], 9, 800);
        assert_eq!(bank.len(), 40);
        let through: Vec<f64> = bank.apply(&[1.0; 9]).collect();
        assert!(through.iter().filter(|&&p| p == 0.0).count() > 20 && through.iter().any(|&p| p > 0.0));
    }
}
