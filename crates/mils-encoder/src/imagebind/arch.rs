//! What ImageBind's audio side is made of.

use super::clips::{BANDS, FRAMES};
use crate::arch::{Blocks, TextTower, within};

/// The audio tower: a vision transformer over a log-mel spectrogram of 128 bands and 204 frames, with patches that
/// overlap, and a learnt key and value in every attention.
#[derive(Clone, Debug, PartialEq)]
pub struct AudioTower {
    /// The transformer.
    pub blocks: Blocks,
    /// Side of a patch, in bands and frames.
    pub patch: usize,
    /// From one patch to the next, in bands and frames.
    pub stride: usize,
    /// Epsilon of the layer norm behind the patch embedding.
    pub patch_eps: f32,
}

/// Both towers.
#[derive(Clone, Debug, PartialEq)]
pub struct ImageBindArchitecture {
    /// The audio tower.
    pub audio: AudioTower,
    /// The text tower.
    pub text: TextTower,
    /// Width of the shared space.
    pub dim: usize,
}

impl AudioTower {
    /// Patches along the bands and along the frames.
    pub(crate) fn grid(&self) -> [usize; 2] {
        [BANDS, FRAMES].map(|size| size.checked_sub(self.patch).map_or(0, |room| room / self.stride + 1))
    }

    /// Tokens of a clip, with the class token.
    pub(crate) fn tokens(&self) -> usize {
        let [rows, columns] = self.grid();
        rows * columns + 1
    }

    /// Patches as rows, [patches, patch · patch], of features [bands, frames]: what a convolution of this kernel and
    /// stride sees, in its order.
    pub(crate) fn patches(&self, features: &[f32]) -> Vec<f32> {
        let ([rows, columns], patch) = (self.grid(), self.patch);
        let mut out = Vec::with_capacity(rows * columns * patch * patch);
        for top in (0..rows).map(|row| row * self.stride) {
            for left in (0..columns).map(|column| column * self.stride) {
                for band in top..top + patch {
                    out.extend(&features[band * FRAMES + left..band * FRAMES + left + patch]);
                }
            }
        }
        out
    }
}

impl ImageBindArchitecture {
    /// Bounds that keep a damaged file from asking for absurd amounts of work or memory.
    ///
    /// # Errors
    /// Says which number is out of bounds, for people.
    pub(crate) fn check(&self) -> Result<(), String> {
        self.audio.blocks.check("audio tower")?;
        within("audio tower: the patch size", self.audio.patch, BANDS)?;
        within("audio tower: the stride", self.audio.stride, BANDS)?;
        within("the width of the shared space", self.dim, 1 << 14)?;
        self.text.check()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use mils_graph::Activation;

    #[test]
    fn patches_are_those_of_the_published_convolution() {
        let blocks = Blocks { width: 768, mlp: 3072, layers: 12, heads: 12, activation: Activation::Gelu, eps: 1e-6 };
        let tower = AudioTower { blocks, patch: 16, stride: 10, patch_eps: 1e-5 };
        assert_eq!((tower.grid(), tower.tokens()), ([12, 19], 229));
        let features: Vec<f32> = (0..BANDS * FRAMES).map(|i| i as f32).collect();
        let patches = tower.patches(&features);
        assert_eq!(patches.len(), 228 * 256);
        // The second row of the second patch, and the last element of the last one.
        assert_eq!(patches[256 + 16], (FRAMES + 10) as f32);
        assert_eq!(patches.last(), Some(&((125 * FRAMES + 195) as f32)));
    }
}
