//! From log-mel spectrograms to the patches that the audio tower takes: normalised by band, stretched, folded into a square
//! picture, and cut in the order of the first layer's windows.
//!
//! Reference: `ClapAudioEncoder.reshape_mel2img` and `ClapAudioPatchEmbed` of transformers' `modeling_clap.py`.

use super::arch::AudioTower;
use super::features::Mels;
use mils_graph::TensorError;

/// What is done to every band: x · scale + shift.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Normalisation {
    pub(crate) scale: Vec<f32>,
    pub(crate) shift: Vec<f32>,
}

/// The patches of one sound.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Patches {
    /// Of the first picture, [tokens, p · p].
    pub(crate) global: Vec<f32>,
    /// Where pictures are fused, those of the other three, three times as wide and side by side, [tokens, p · 3p]; zeros
    /// where there are none.
    pub(crate) local: Vec<f32>,
}

/// Spectrograms as a tower takes them.
pub(crate) struct Spectra {
    normalisation: Normalisation,
    bands: usize,
    side: usize,
    patch: usize,
    folds: usize,
    stretched: [usize; 2],
    /// Which patch of the picture, row by row, stands at each place.
    order: Vec<usize>,
}

impl Spectra {
    pub(crate) fn new(tower: &AudioTower, normalisation: Normalisation) -> Self {
        Self {
            normalisation,
            bands: tower.bands,
            side: tower.side,
            patch: tower.patch,
            folds: tower.folds(),
            stretched: tower.stretched(),
            order: tower.windows(0, 0).order(),
        }
    }

    /// The patches of a sound; `fused` says whether all four of its pictures are wanted.
    ///
    /// # Errors
    /// If the spectrograms are not as many, as long or of as many bands as the tower takes.
    pub(crate) fn patches(&self, mels: &Mels, fused: bool) -> Result<Patches, TensorError> {
        let pictures = if fused { 4 } else { 1 };
        let one = mels.frames * self.bands;
        let fits = mels.bands == self.bands && (1..=self.stretched[0]).contains(&mels.frames);
        if !fits || mels.pictures < pictures || mels.data.len() != mels.pictures * one {
            return Err(TensorError::Elements {
                shape: vec![pictures, self.stretched[0], self.bands],
                found: mels.data.len(),
            });
        }
        let mut all = mels.data.chunks_exact(one).map(|mel| self.picture(mel, mels.frames));
        let first = all.next().unwrap_or_default();
        let global = self.cut(&[first], self.patch);
        let local = if fused { self.cut(&all.take(3).collect::<Vec<_>>(), 3 * self.patch) } else { vec![] };
        Ok(Patches { global, local })
    }

    /// One spectrogram [frames, bands] as a picture [side, side]: its pieces in time lie one below the other.
    fn picture(&self, mel: &[f32], frames: usize) -> Vec<f32> {
        let Normalisation { scale, shift } = &self.normalisation;
        let normal = |row: &[f32]| {
            row.iter().zip(scale).zip(shift).map(|((v, scale), shift)| v * scale + shift).collect::<Vec<_>>()
        };
        let rows: Vec<f32> = mel.chunks_exact(self.bands).flat_map(normal).collect();
        let [long, high] = self.stretched;
        let rows = if frames < long { stretched(&rows, [frames, long], self.bands) } else { rows };
        let mut out = vec![0.0; self.side * self.side];
        for (t, row) in rows.chunks_exact(self.bands).enumerate() {
            let wide = (self.bands < high).then(|| stretched(row, [self.bands, high], 1));
            let row = wide.as_deref().unwrap_or(row);
            let (fold, x) = (t / (long / self.folds), t % (long / self.folds));
            for (band, &v) in row.iter().enumerate() {
                out[(fold * high + band) * self.side + x] = v;
            }
        }
        out
    }

    /// Patches as rows, in the order of the tokens: those of each picture, `width` columns wide, side by side.
    fn cut(&self, pictures: &[Vec<f32>], width: usize) -> Vec<f32> {
        let (columns, each) = (self.side / self.patch, self.side / width);
        let mut out = Vec::with_capacity(self.order.len() * self.patch * width);
        for &token in &self.order {
            let (y, x) = (token / columns * self.patch, token % columns);
            match pictures.get(x / each) {
                Some(picture) => {
                    for line in 0..self.patch {
                        let at = (y + line) * self.side + x % each * width;
                        out.extend_from_slice(&picture[at..at + width]);
                    }
                }
                None => out.resize(out.len() + self.patch * width, 0.0),
            }
        }
        out
    }
}

/// Which places have a patch of the pictures that are fused, in the order of the tokens.
pub(crate) fn has_local(tower: &AudioTower) -> impl Iterator<Item = bool> {
    let (columns, there) = (tower.grid(0), tower.side / (3 * tower.patch) * 3);
    tower.windows(0, 0).order().into_iter().map(move |at| at % columns < there)
}

/// Rows of `width` numbers, so many made so many: PyTorch's bicubic interpolation with aligned corners, in f32 as there.
fn stretched(rows: &[f32], [from, to]: [usize; 2], width: usize) -> Vec<f32> {
    let scale = if to > 1 { (from - 1) as f32 / (to - 1) as f32 } else { 0.0 };
    let mut out = Vec::with_capacity(to * width);
    for i in 0..to {
        let place = scale * i as f32;
        let first = (place as usize).min(from - 1);
        let weights = cubic((place - first as f32).clamp(0.0, 1.0));
        // One row before it and two behind; beyond the ends the last one again.
        let sources = [0, 1, 2, 3].map(|k| (first + k).saturating_sub(1).min(from - 1) * width);
        for column in 0..width {
            out.push(sources.iter().zip(weights).map(|(at, weight)| rows[at + column] * weight).sum());
        }
    }
    out
}

/// Weights of four neighbours, `t` behind the second: Keys' kernel with a = -0.75.
fn cubic(t: f32) -> [f32; 4] {
    const A: f32 = -0.75;
    let near = |x: f32| ((A + 2.0) * x - (A + 3.0)) * x * x + 1.0;
    let far = |x: f32| ((A * x - 5.0 * A) * x + 8.0 * A) * x - 4.0 * A;
    [far(t + 1.0), near(t), near(1.0 - t), far(2.0 - t)]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sound::arch::{Stage, tests::htsat};

    fn tower() -> AudioTower {
        let stages = vec![Stage { layers: 1, heads: 1 }];
        AudioTower { bands: 4, side: 8, patch: 2, window: 2, stages, ..htsat() }
    }

    fn plain(bands: usize) -> Normalisation {
        Normalisation { scale: vec![1.0; bands], shift: vec![0.0; bands] }
    }

    #[test]
    fn stretching_keeps_ends_and_lines() {
        let line: Vec<f32> = (0..5).flat_map(|i| [i as f32, 10.0 - i as f32]).collect();
        let out = stretched(&line, [5, 9], 2);
        assert_eq!((out[..2].to_vec(), out[16..].to_vec()), (vec![0.0, 10.0], vec![4.0, 6.0]));
        // Within the ends, where all four neighbours are there, a line stays one.
        assert!((2..7).all(|i| (out[2 * i] - i as f32 / 2.0).abs() < 1e-6), "{out:?}");
        assert_eq!(stretched(&[3.0], [1, 3], 1), [3.0; 3]);
        assert!((cubic(0.3).iter().sum::<f32>() - 1.0).abs() < 1e-6);
    }

    #[test]
    fn time_is_folded_and_bands_are_rows() {
        let spectra = Spectra::new(&tower(), plain(4));
        assert_eq!((spectra.folds, spectra.stretched), (2, [16, 4]));
        // Frame t and band f are the number 10 t + f.
        let data: Vec<f32> = (0..16).flat_map(|t| (0..4).map(move |f| (10 * t + f) as f32)).collect();
        let picture = spectra.picture(&data, 16);
        assert_eq!(picture[..8], [0, 10, 20, 30, 40, 50, 60, 70].map(|v| v as f32));
        assert_eq!(picture[8 * 5 + 3], 10.0 * 11.0 + 1.0);
        let mels = Mels { data: data.clone(), pictures: 1, frames: 16, bands: 4, longer: false };
        let patches = spectra.patches(&mels, false).unwrap();
        // The second token of the first window, then the third: right of the first, and below it.
        assert_eq!(patches.global[4..12], [20.0, 30.0, 21.0, 31.0, 2.0, 12.0, 3.0, 13.0]);
        assert!(spectra.patches(&mels, true).is_err());
        assert!(spectra.patches(&Mels { frames: 17, ..mels.clone() }, false).is_err());
        assert!(spectra.patches(&Mels { bands: 2, ..mels }, false).is_err());
    }

    #[test]
    fn pictures_that_are_fused_lie_side_by_side() {
        let tower = AudioTower { bands: 8, side: 16, patch: 2, window: 4, ..tower() };
        let spectra = Spectra::new(&tower, plain(8));
        // Two patches of 6 columns fit a picture of 16; three pictures have 6 of the 8 columns of tokens.
        let there: Vec<bool> = has_local(&tower).collect();
        assert_eq!(there.iter().filter(|&&there| there).count(), 6 * 8);
        let data: Vec<f32> = (0..4 * 32 * 8).map(|i| (i / 256 + 1) as f32).collect();
        let mels = Mels { data, pictures: 4, frames: 32, bands: 8, longer: true };
        let patches = spectra.patches(&mels, true).unwrap();
        assert!(patches.global.iter().all(|&v| v == 1.0));
        for (token, (patch, there)) in patches.local.chunks_exact(12).zip(there).enumerate() {
            let column = spectra.order[token] % 8;
            let expected = if there { (column / 2 + 2) as f32 } else { 0.0 };
            assert!(patch.iter().all(|&v| v == expected), "token {token}: {patch:?}");
        }
    }
}
