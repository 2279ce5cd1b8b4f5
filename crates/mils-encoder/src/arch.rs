//! What a dual encoder is made of, whatever family it is of and whatever its files look like.
//!
//! Every model here is two towers of pre-norm transformer blocks into one space. What differs between families is
//! said by these types: how a picture becomes tokens, what the attention may see, and how the tokens are pooled.

use mils_graph::Activation;

/// A stack of pre-norm transformer blocks: x + attention(norm(x)), then + mlp(norm(·)).
#[derive(Clone, Debug, PartialEq)]
pub struct Blocks {
    /// Width of the residual stream.
    pub width: usize,
    /// Width of the MLP.
    pub mlp: usize,
    /// Number of blocks.
    pub layers: usize,
    /// Attention heads; they divide the width.
    pub heads: usize,
    /// MLP activation.
    pub activation: Activation,
    /// Epsilon of all layer norms.
    pub eps: f32,
}

/// The pictures that a tower takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ImageSize {
    /// Pictures of one size, in pixels.
    Fixed {
        /// Rows.
        height: usize,
        /// Columns.
        width: usize,
    },
    /// Pictures of any size with at most so many patches (SigLIP 2 NaFlex); positions are interpolated from a square
    /// grid of so many patches a side.
    Flexible {
        /// Most patches of a picture.
        most_patches: usize,
        /// Side of the grid of learnt positions.
        grid: usize,
    },
}

/// How the tokens of a picture become one vector.
#[derive(Clone, Debug, PartialEq)]
pub enum ImagePool {
    /// The class token's row.
    ClassToken,
    /// A learnt query attends to all tokens; an MLP with a residual follows.
    Attention {
        /// Heads of that attention.
        heads: usize,
        /// Width of the MLP.
        mlp: usize,
    },
}

/// How a text's rows become one vector.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TextPool {
    /// The row of the first token with this id: end-of-text.
    EndToken(u32),
    /// The row of the largest id, which in CLIP's vocabulary is end-of-text.
    LargestId,
    /// The last row of the full context, padding included (SigLIP).
    Last,
}

/// Rotary positions on the patch grid (Perception Encoder).
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Rope {
    /// Added to the number of a row or column: 1 where there is a class token.
    pub offset: f32,
    /// Base of the frequencies.
    pub temperature: f32,
}

/// The image tower.
#[derive(Clone, Debug, PartialEq)]
pub struct ImageTower {
    /// The transformer.
    pub blocks: Blocks,
    /// Frames that go through together, which see each other in every block: 1 but for a tower of videos.
    pub frames: usize,
    /// Side of a patch, in pixels.
    pub patch: usize,
    /// Pictures that it takes.
    pub size: ImageSize,
    /// Whether a learnt token stands before the patches.
    pub class_token: bool,
    /// Whether the patch embedding has a bias.
    pub patch_bias: bool,
    /// Whether there is a layer norm before the blocks.
    pub norm_pre: bool,
    /// Rotary positions, beside the learnt ones.
    pub rope: Option<Rope>,
    /// Pooling.
    pub pool: ImagePool,
    /// The last linear layer, if there is one.
    pub projection: Option<Projection>,
}

/// The text tower.
#[derive(Clone, Debug, PartialEq)]
pub struct TextTower {
    /// The transformer.
    pub blocks: Blocks,
    /// Rows of the token table.
    pub vocab: usize,
    /// Most tokens, with begin and end: rows of the position table.
    pub context: usize,
    /// Whether a token sees no later one.
    pub causal: bool,
    /// Pooling.
    pub pool: TextPool,
    /// The last linear layer, if there is one.
    pub projection: Option<Projection>,
}

/// A last linear layer, into the shared space.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Projection {
    /// Whether it has a bias.
    pub bias: bool,
}

/// What the model was trained to make of cosines.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Calibration {
    /// `softmax(scale · cosine)` over the texts compared (CLIP).
    Softmax,
    /// `sigmoid(scale · cosine + bias)` of each pair (SigLIP).
    Sigmoid,
}

/// A whole model.
#[derive(Clone, Debug, PartialEq)]
pub struct Architecture {
    /// The image tower.
    pub image: ImageTower,
    /// The text tower.
    pub text: TextTower,
    /// Width of the shared space.
    pub dim: usize,
    /// What its scores are.
    pub calibration: Calibration,
}

impl ImageTower {
    /// Rows and columns of patches of a picture of this size; pixels left over at the end are not seen.
    pub(crate) fn grid(&self, height: usize, width: usize) -> (usize, usize) {
        (height / self.patch, width / self.patch)
    }

    /// Most patches of a picture, or of one frame.
    pub(crate) fn most_patches(&self) -> usize {
        match self.size {
            ImageSize::Fixed { height, width } => {
                let (rows, columns) = self.grid(height, width);
                rows * columns
            }
            ImageSize::Flexible { most_patches, .. } => most_patches,
        }
    }

    /// Most tokens that go through together: the patches of all frames, and one class token.
    pub(crate) fn most_tokens(&self) -> usize {
        self.frames * self.most_patches() + usize::from(self.class_token)
    }
}

/// `Err` unless `value` is from 1 to `most`.
pub(crate) fn within(name: &str, value: usize, most: usize) -> Result<(), String> {
    if (1..=most).contains(&value) { Ok(()) } else { Err(format!("{name} is {value}; expected 1 to {most}")) }
}

impl Blocks {
    pub(crate) fn check(&self, tower: &str) -> Result<(), String> {
        within(&format!("{tower}: the width"), self.width, 1 << 14)?;
        within(&format!("{tower}: the width of the MLP"), self.mlp, 1 << 17)?;
        within(&format!("{tower}: the number of layers"), self.layers, 256)?;
        heads(tower, self.heads, self.width)?;
        if !(self.eps > 0.0 && self.eps < 1.0) {
            return Err(format!("{tower}: the epsilon of the layer norms is {}", self.eps));
        }
        Ok(())
    }
}

fn heads(at: &str, heads: usize, width: usize) -> Result<(), String> {
    within(&format!("{at}: the number of attention heads"), heads, 256)?;
    if width.is_multiple_of(heads) { Ok(()) } else { Err(format!("{at}: {heads} heads do not divide width {width}")) }
}

impl TextTower {
    /// As [`Architecture::check`].
    pub(crate) fn check(&self) -> Result<(), String> {
        self.blocks.check("text tower")?;
        within("text tower: the vocabulary", self.vocab, 1 << 22)?;
        within("text tower: the number of positions", self.context, 1 << 14)
    }
}

impl Architecture {
    /// Bounds that keep a damaged file from asking for absurd amounts of work or memory.
    ///
    /// # Errors
    /// Says which number is out of bounds, for people.
    pub(crate) fn check(&self) -> Result<(), String> {
        let (image, text) = (&self.image, &self.text);
        image.blocks.check("image tower")?;
        within("the width of the shared space", self.dim, 1 << 14)?;
        text.check()?;
        match image.size {
            ImageSize::Fixed { height, width } => {
                within("image tower: the image size", height.max(width), 1 << 12)?;
                within("image tower: the patch size", image.patch, height.min(width))?;
            }
            ImageSize::Flexible { most_patches, grid } => {
                within("image tower: the patch size", image.patch, 1 << 10)?;
                within("image tower: max_num_patches", most_patches, 1 << 14)?;
                within("image tower: the side of the position grid", grid, 1 << 7)?;
            }
        }
        within("image tower: the number of frames", image.frames, 1 << 8)?;
        if image.frames > 1 && !matches!(image.size, ImageSize::Fixed { .. }) {
            return Err("image tower: frames of a video must have one size".into());
        }
        within("image tower: the number of patches", image.most_patches(), 1 << 14)?;
        within("image tower: the number of tokens", image.most_tokens(), 1 << 14)?;
        if let ImagePool::Attention { heads: n, mlp } = image.pool {
            heads("attention pooling", n, image.blocks.width)?;
            within("attention pooling: the width of the MLP", mlp, 1 << 17)?;
        }
        if image.pool == ImagePool::ClassToken && !image.class_token {
            return Err("image tower: there is no class token to pool at".into());
        }
        if image.rope.is_some() && !(image.blocks.width / image.blocks.heads).is_multiple_of(4) {
            return Err("image tower: rotary positions need heads of a multiple of 4".into());
        }
        for (tower, projection, width) in
            [("image tower", image.projection, image.blocks.width), ("text tower", text.projection, text.blocks.width)]
        {
            if projection.is_none() && width != self.dim {
                return Err(format!("{tower}: its width {width} is not the shared space's {}", self.dim));
            }
        }
        Ok(())
    }
}
