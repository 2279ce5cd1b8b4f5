//! What a CLAP is made of: an HTSAT audio tower (a Swin transformer over a log-mel spectrogram) and a RoBERTa text tower.

use super::windows::Windows;
use crate::arch::{Blocks, within};
use mils_graph::Activation;

/// The layers of one resolution.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stage {
    /// Layers; every second one attends in shifted windows.
    pub layers: usize,
    /// Attention heads.
    pub heads: usize,
}

/// The audio tower: HTSAT (arXiv 2202.00874).
#[derive(Clone, Debug, PartialEq)]
pub struct AudioTower {
    /// Mel bands of a frame.
    pub bands: usize,
    /// Rows and columns of the square picture that a spectrogram is folded into.
    pub side: usize,
    /// Rows and columns of a patch of it.
    pub patch: usize,
    /// Width of the first stage; each next one has twice that, and half the rows and columns.
    pub width: usize,
    /// The stages.
    pub stages: Vec<Stage>,
    /// Rows and columns of the windows that attention sees.
    pub window: usize,
    /// Width of a layer's MLP over its own.
    pub mlp_ratio: f32,
    /// MLP activation.
    pub activation: Activation,
    /// Epsilon of the layers' norms.
    pub eps: f32,
    /// Whether queries, keys and values have a bias.
    pub qkv_bias: bool,
    /// Whether there is a norm after the patch embedding.
    pub patch_norm: bool,
    /// Width of the layers that fuse a long sound's pictures, over the first stage's, as a divisor; none where a model
    /// takes one picture.
    pub fusion: Option<usize>,
}

/// The text tower: RoBERTa, post-norm, pooled at its first token.
#[derive(Clone, Debug, PartialEq)]
pub struct RobertaTower {
    /// The transformer.
    pub blocks: Blocks,
    /// Rows of the token table.
    pub vocab: usize,
    /// Rows of the position table: two more than the most tokens where padding is token 1.
    pub positions: usize,
    /// Rows of the table of token types, of which the first is used.
    pub types: usize,
    /// The padding token: positions are counted from behind its number.
    pub padding: u32,
}

/// A whole model.
#[derive(Clone, Debug, PartialEq)]
pub struct SoundArchitecture {
    /// The audio tower.
    pub audio: AudioTower,
    /// The text tower.
    pub text: RobertaTower,
    /// Width of the shared space.
    pub dim: usize,
    /// Between the two layers of both projections.
    pub projection: Activation,
}

/// A step of the audio tower, with the order in which rows stand in it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Step {
    /// A layer's number in its stage.
    Layer { stage: usize, layer: usize, windows: Windows },
    /// Four neighbours become one, as the next stage's first layer has them.
    Merge { stage: usize, windows: Windows, next: Windows },
}

impl AudioTower {
    /// How many times the picture is as high as the spectrogram has bands: pieces of it lie one below the other.
    pub(crate) fn folds(&self) -> usize {
        self.side / self.bands.max(1)
    }

    /// Frames and bands that a spectrogram is stretched to before it is folded.
    pub(crate) fn stretched(&self) -> [usize; 2] {
        [self.side * self.folds(), self.side / self.folds().max(1)]
    }

    /// Rows and columns of tokens in a stage.
    pub(crate) fn grid(&self, stage: usize) -> usize {
        (self.side / self.patch) >> stage
    }

    /// Width of a stage.
    pub(crate) fn width(&self, stage: usize) -> usize {
        self.width << stage
    }

    /// Width of a stage's MLP.
    pub(crate) fn mlp(&self, stage: usize) -> usize {
        (self.mlp_ratio * self.width(stage) as f32) as usize
    }

    /// Width of the last stage.
    pub(crate) fn out(&self) -> usize {
        self.width(self.stages.len() - 1)
    }

    /// Width of the middle layers of fusion.
    pub(crate) fn fused(&self) -> Option<usize> {
        self.fusion.map(|divisor| self.width / divisor)
    }

    /// The windows of a layer. A grid of one window is not shifted.
    pub(crate) fn windows(&self, stage: usize, layer: usize) -> Windows {
        let (side, window) = (self.grid(stage), self.window);
        let shift = if layer.is_multiple_of(2) || side <= window { 0 } else { window / 2 };
        Windows { side, window, shift }
    }

    /// All steps in their order.
    pub(crate) fn steps(&self) -> Vec<Step> {
        let mut steps = Vec::new();
        for (stage, Stage { layers, .. }) in self.stages.iter().enumerate() {
            for layer in 0..*layers {
                steps.push(Step::Layer { stage, layer, windows: self.windows(stage, layer) });
            }
            if stage + 1 < self.stages.len() {
                // Rows stand as the last layer left them.
                let windows = self.windows(stage, layers - 1);
                steps.push(Step::Merge { stage, windows, next: self.windows(stage + 1, 0) });
            }
        }
        steps
    }

    fn check(&self) -> Result<(), String> {
        let at = "audio_config";
        within(&format!("{at}: num_mel_bins"), self.bands, 1 << 10)?;
        within(&format!("{at}: spec_size"), self.side, 1 << 11)?;
        within(&format!("{at}: patch_size"), self.patch, self.side)?;
        within(&format!("{at}: the number of stages"), self.stages.len(), 8)?;
        within(&format!("{at}: patch_embeds_hidden_size"), self.width, 1 << 12)?;
        // Not before the number of stages is known to be small.
        within(&format!("{at}: the width of the last stage"), self.out(), 1 << 14)?;
        within(&format!("{at}: window_size"), self.window, 1 << 6)?;
        if !(self.mlp_ratio > 0.0 && self.mlp_ratio <= 16.0) || self.mlp(0) == 0 {
            return Err(format!("{at}: mlp_ratio is {}", self.mlp_ratio));
        }
        if !(self.eps > 0.0 && self.eps < 1.0) {
            return Err(format!("{at}: layer_norm_eps is {}", self.eps));
        }
        if let Some(divisor) = self.fusion {
            within(&format!("{at}: aff_block_r"), divisor, self.width)?;
        }
        let folds = self.folds();
        if folds == 0 || !self.side.is_multiple_of(folds) || !self.side.is_multiple_of(self.patch) {
            return Err(format!(
                "{at}: a spec_size of {} does not fit {} mel bins and patches of {}",
                self.side, self.bands, self.patch
            ));
        }
        within(&format!("{at}: the number of patches"), self.grid(0) * self.grid(0), 1 << 16)?;
        for (i, stage) in self.stages.iter().enumerate() {
            let (width, side) = (self.width(i), self.grid(i));
            within(&format!("{at}: depths"), stage.layers, 64)?;
            within(&format!("{at}: num_attention_heads"), stage.heads, width)?;
            if !width.is_multiple_of(stage.heads) {
                return Err(format!("{at}: {} heads do not divide width {width}", stage.heads));
            }
            let even = i + 1 == self.stages.len() || side.is_multiple_of(2);
            if side < self.window || !side.is_multiple_of(self.window) || !even {
                return Err(format!(
                    "{at}: stage {i} has {side} x {side} tokens, which windows of {} and the next stage do not divide",
                    self.window
                ));
            }
        }
        within(&format!("{at}: the number of biases of attention"), self.biases(), 1 << 26)
    }

    /// Elements of the biases of all layers, which are many times those of the tables that they are made from.
    fn biases(&self) -> usize {
        let area = self.window * self.window;
        let of = |step: Step| match step {
            Step::Layer { stage, windows, .. } => windows.groups() * self.stages[stage].heads * area * area,
            Step::Merge { .. } => 0,
        };
        self.steps().into_iter().map(of).sum()
    }
}

impl RobertaTower {
    /// Most tokens of a text, with begin and end.
    pub fn context(&self) -> usize {
        self.positions.saturating_sub(self.padding as usize + 1)
    }
}

impl SoundArchitecture {
    /// Bounds that keep a damaged file from asking for absurd amounts of work or memory.
    ///
    /// # Errors
    /// Says which number is out of bounds, for people.
    pub(crate) fn check(&self) -> Result<(), String> {
        self.audio.check()?;
        let text = &self.text;
        text.blocks.check("text tower")?;
        within("the width of the shared space", self.dim, 1 << 14)?;
        within("text tower: the vocabulary", text.vocab, 1 << 22)?;
        within("text tower: type_vocab_size", text.types, 1 << 10)?;
        within("text tower: the number of positions", text.positions, 1 << 14)?;
        within("text tower: the number of positions behind the padding's", text.context(), 1 << 14)?;
        within("text tower: the padding token", text.padding as usize + 1, text.vocab)
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// `laion/clap-htsat-unfused`.
    pub(crate) fn htsat() -> AudioTower {
        AudioTower {
            bands: 64,
            side: 256,
            patch: 4,
            width: 96,
            stages: [(2, 4), (2, 8), (6, 16), (2, 32)].map(|(layers, heads)| Stage { layers, heads }).to_vec(),
            window: 8,
            mlp_ratio: 4.0,
            activation: Activation::Gelu,
            eps: 1e-5,
            qkv_bias: true,
            patch_norm: true,
            fusion: None,
        }
    }

    #[test]
    fn the_published_tower_has_its_sizes() {
        let tower = htsat();
        assert!(tower.check().is_ok());
        assert_eq!((tower.folds(), tower.stretched(), tower.out()), (4, [1024, 64], 768));
        assert_eq!([0, 1, 2, 3].map(|i| tower.grid(i)), [64, 32, 16, 8]);
        let steps = tower.steps();
        assert_eq!(steps.len(), 12 + 3);
        let shift = |step: &Step| if let Step::Layer { windows, .. } = step { windows.shift } else { 9 };
        assert_eq!(steps.iter().map(shift).collect::<Vec<_>>(), [0, 4, 9, 0, 4, 9, 0, 4, 0, 4, 0, 4, 9, 0, 0]);
    }

    #[test]
    fn grids_that_windows_do_not_divide_are_refused() {
        for (tower, says) in [
            (AudioTower { window: 7, ..htsat() }, "stage 0 has 64 x 64 tokens"),
            (AudioTower { window: 16, ..htsat() }, "stage 3 has 8 x 8 tokens"),
            (AudioTower { side: 255, ..htsat() }, "does not fit 64 mel bins"),
            (AudioTower { bands: 300, ..htsat() }, "does not fit 300 mel bins"),
            (AudioTower { width: 4000, ..htsat() }, "width of the last stage"),
            (AudioTower { width: 98, ..htsat() }, "4 heads do not divide width 98"),
            (AudioTower { mlp_ratio: f32::NAN, ..htsat() }, "mlp_ratio"),
            (AudioTower { stages: vec![], ..htsat() }, "number of stages is 0"),
            (AudioTower { patch: 0, ..htsat() }, "patch_size is 0"),
            (AudioTower { bands: 0, ..htsat() }, "num_mel_bins is 0"),
            (
                AudioTower { window: 64, patch: 1, stages: vec![Stage { layers: 2, heads: 4 }], ..htsat() },
                "number of biases",
            ),
            (AudioTower { fusion: Some(0), ..htsat() }, "aff_block_r"),
        ] {
            let error = tower.check().unwrap_err();
            assert!(error.contains(says), "{error}");
        }
    }
}
