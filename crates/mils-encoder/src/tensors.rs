//! Every tensor of a model under the names that [`crate::forward`] uses, and where a checkpoint keeps it.

use crate::arch::{Architecture, Blocks, ImagePool, ImageSize, Projection, TextTower};
use mils_graph::HostTensor;

/// What a tensor is read as.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Role {
    /// A linear layer's matrix or a table of embeddings: may stay in 16 bits.
    Matrix,
    /// Anything else: read as f32.
    Vector,
}

/// A tensor of a model.
#[derive(Clone, Debug)]
pub(crate) struct Tensor {
    /// `image.` or `text.`, the place in the tower, and `weight` or `bias` where it has both.
    pub(crate) name: String,
    /// As the graph reads it.
    pub(crate) shape: Vec<usize>,
    pub(crate) role: Role,
}

/// How a tensor is taken out of one of a checkpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum View {
    /// The same elements in the same order.
    Whole,
    /// One of several parts of equal size along the first dimension: fused projections.
    Part {
        /// Which.
        part: usize,
        /// Of how many.
        of: usize,
    },
    /// Rows and columns exchanged.
    Transposed,
    /// A convolution's weight [out, in, p, p] as [out, p, p, in].
    ChannelsLast,
}

/// Where a tensor is in a checkpoint.
#[derive(Clone, Debug)]
pub(crate) struct Source {
    /// Name in the file.
    pub(crate) name: String,
    /// Shape in the file.
    pub(crate) shape: Vec<usize>,
    pub(crate) view: View,
}

/// A tensor's name, taken apart.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Parts<'a> {
    /// Whether it is of the image tower.
    pub(crate) image: bool,
    /// The block's number.
    pub(crate) block: Option<&'a str>,
    /// `attn.q`, `norm_post`, `class`, …
    pub(crate) stem: &'a str,
    /// `weight`, `bias`, or nothing.
    pub(crate) leaf: &'a str,
}

impl Tensor {
    /// Takes its name apart.
    pub(crate) fn parts(&self) -> Parts<'_> {
        let (tower, rest) = self.name.split_once('.').unwrap_or_default();
        let (block, rest) = match rest.strip_prefix("blocks.").and_then(|r| r.split_once('.')) {
            Some((number, rest)) => (Some(number), rest),
            None => (None, rest),
        };
        let (stem, leaf) = match rest.rsplit_once('.') {
            Some((stem, leaf @ ("weight" | "bias"))) => (stem, leaf),
            _ => (rest, ""),
        };
        Parts { image: tower == "image", block, stem, leaf }
    }

    /// A source with this tensor's own shape.
    pub(crate) fn whole(&self, name: impl Into<String>) -> Source {
        Source { name: name.into(), shape: self.shape.clone(), view: View::Whole }
    }

    /// A source whose shape has dimensions of 1 before this tensor's.
    pub(crate) fn padded(&self, name: impl Into<String>, dimensions: usize) -> Source {
        let mut source = self.whole(name);
        source.shape.splice(0..0, std::iter::repeat_n(1, dimensions.saturating_sub(self.shape.len())));
        source
    }

    /// One of `of` parts of a fused tensor.
    pub(crate) fn part(&self, name: impl Into<String>, part: usize, of: usize) -> Source {
        let mut source = self.whole(name);
        if let Some(rows) = source.shape.first_mut() {
            *rows *= of;
        }
        Source { view: View::Part { part, of }, ..source }
    }

    /// The transposed of a matrix.
    pub(crate) fn transposed(&self, name: impl Into<String>) -> Source {
        let mut source = self.whole(name);
        source.shape.reverse();
        Source { view: View::Transposed, ..source }
    }

    /// A convolution over frames too, of one frame's depth: its weight [out, 3, 1, p, p], of which this is the matrix.
    pub(crate) fn convolution_of_frames(&self, name: impl Into<String>, patch: usize) -> Source {
        let shape = vec![self.shape[0], 3, 1, patch, patch];
        Source { name: name.into(), shape, view: View::Whole }
    }

    /// A convolution's weight [out, in, p, p], of which this is the matrix with the channels of a pixel together.
    pub(crate) fn channels_last(&self, name: impl Into<String>, channels: usize, kernel: usize) -> Source {
        let shape = vec![self.shape[0], channels, kernel, kernel];
        Source { name: name.into(), shape, view: View::ChannelsLast }
    }

    /// A convolution's weight [out, 3, p, p], of which this is the matrix.
    pub(crate) fn convolution(&self, name: impl Into<String>, patch: usize) -> Source {
        let shape = vec![self.shape[0], 3, patch, patch];
        Source { name: name.into(), shape, view: View::Whole }
    }
}

/// Tensors in the order in which they are read.
#[derive(Default)]
pub(crate) struct List(pub(crate) Vec<Tensor>);

impl List {
    fn add(&mut self, name: String, shape: &[usize], role: Role) {
        self.0.push(Tensor { name, shape: shape.to_vec(), role });
    }

    pub(crate) fn vector(&mut self, name: &str, shape: &[usize]) {
        self.add(name.to_owned(), shape, Role::Vector);
    }

    fn matrix(&mut self, name: &str, shape: &[usize]) {
        self.add(name.to_owned(), shape, Role::Matrix);
    }

    pub(crate) fn norm(&mut self, name: &str, d: usize) {
        self.vector(&format!("{name}.weight"), &[d]);
        self.vector(&format!("{name}.bias"), &[d]);
    }

    pub(crate) fn linear(&mut self, name: &str, [out, width]: [usize; 2], bias: bool) {
        self.matrix(&format!("{name}.weight"), &[out, width]);
        if bias {
            self.vector(&format!("{name}.bias"), &[out]);
        }
    }

    fn attention(&mut self, at: &str, d: usize) {
        for name in ["q", "k", "v", "out"] {
            self.linear(&format!("{at}.{name}"), [d, d], true);
        }
    }

    fn mlp(&mut self, at: &str, d: usize, hidden: usize) {
        self.linear(&format!("{at}.up"), [hidden, d], true);
        self.linear(&format!("{at}.down"), [d, hidden], true);
    }

    pub(crate) fn blocks(&mut self, tower: &str, blocks: &Blocks) {
        for layer in 0..blocks.layers {
            let at = format!("{tower}.blocks.{layer}");
            self.norm(&format!("{at}.norm1"), blocks.width);
            self.attention(&format!("{at}.attn"), blocks.width);
            self.norm(&format!("{at}.norm2"), blocks.width);
            self.mlp(&format!("{at}.mlp"), blocks.width, blocks.mlp);
        }
    }

    /// The text tower, into a space of width `dim`.
    pub(crate) fn text_tower(&mut self, text: &TextTower, dim: usize) {
        let d = text.blocks.width;
        self.matrix("text.tokens", &[text.vocab, d]);
        self.matrix("text.positions", &[text.context, d]);
        self.blocks("text", &text.blocks);
        self.norm("text.norm_post", d);
        self.projection("text", text.projection, [dim, d]);
    }

    pub(crate) fn projection(&mut self, tower: &str, projection: Option<Projection>, shape: [usize; 2]) {
        if let Some(Projection { bias }) = projection {
            self.linear(&format!("{tower}.projection"), shape, bias);
        }
    }
}

/// Every tensor of a model, but for its scale and bias of cosines.
pub(crate) fn tensors(arch: &Architecture) -> Vec<Tensor> {
    let mut list = List::default();
    let (image, text) = (&arch.image, &arch.text);
    let d = image.blocks.width;
    list.linear("image.patch", [d, 3 * image.patch * image.patch], image.patch_bias);
    if image.class_token {
        list.vector("image.class", &[d]);
    }
    let positions = match image.size {
        ImageSize::Fixed { .. } => image.most_patches() + usize::from(image.class_token),
        ImageSize::Flexible { grid, .. } => grid * grid,
    };
    list.vector("image.positions", &[positions, d]);
    if image.frames > 1 {
        list.vector("image.frames", &[image.frames, d]);
    }
    if image.norm_pre {
        list.norm("image.norm_pre", d);
    }
    list.blocks("image", &image.blocks);
    list.norm("image.norm_post", d);
    if let ImagePool::Attention { mlp, .. } = image.pool {
        list.vector("image.pool.probe", &[1, d]);
        list.attention("image.pool.attn", d);
        list.norm("image.pool.norm", d);
        list.mlp("image.pool.mlp", d, mlp);
    }
    list.projection("image", image.projection, [arch.dim, d]);
    list.text_tower(text, arch.dim);
    list.0
}

/// Tensors that no file has: the rotary positions of the image tower, by timm's `RotaryEmbeddingCat` in the layout of
/// interleaved pairs. For each token the columns' angles, then the rows'; a class token is not turned.
pub(crate) fn made(arch: &Architecture) -> Vec<(String, HostTensor)> {
    let (tower, Some(rope)) = (&arch.image, arch.image.rope) else { return vec![] };
    let ImageSize::Fixed { height, width } = tower.size else { return vec![] };
    let (rows, columns) = tower.grid(height, width);
    let head = tower.blocks.width / tower.blocks.heads;
    let bands: Vec<f32> = (0..head / 4).map(|i| 1.0 / rope.temperature.powf(i as f32 / (head / 4) as f32)).collect();
    let mut angles = vec![0.0_f32; if tower.class_token { head } else { 0 }];
    for row in 0..rows {
        for column in 0..columns {
            for place in [column, row] {
                let place = place as f32 + rope.offset;
                angles.extend(bands.iter().flat_map(|band| [place * band; 2]));
            }
        }
    }
    let shape = [tower.most_tokens(), head];
    let table = |f: fn(f32) -> f32| HostTensor::f32(&shape, angles.iter().map(|&a| f(a)).collect());
    // As many elements as the shape says, by construction; were it not so, the weights would be missing.
    [("image.rope.cos", table(f32::cos)), ("image.rope.sin", table(f32::sin))]
        .into_iter()
        .filter_map(|(name, tensor)| Some((name.to_owned(), tensor.ok()?)))
        .collect()
}
