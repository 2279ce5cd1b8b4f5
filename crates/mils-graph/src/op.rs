//! The ops. Each says its shapes and its formula; fused ops name the plain ops that they stand for.

use crate::ValueId;

/// Element type. Values of a graph are f32, or u32 for indices; a weight may be held in 16 bits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum DType {
    /// 32-bit float.
    F32,
    /// 32-bit unsigned index.
    U32,
    /// IEEE half precision, of a weight as it is held.
    F16,
    /// The upper half of an f32, of a weight as it is held.
    BF16,
}

/// Elementwise functions, named as in `transformers.activations`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Activation {
    /// x
    None,
    /// x * sigmoid(1.702 x), as in OpenAI's CLIP.
    QuickGelu,
    /// x * 0.5 * (1 + erf(x / sqrt 2)).
    Gelu,
    /// 0.5 x (1 + tanh(sqrt(2/pi) (x + 0.044715 x^3))).
    GeluTanh,
    /// max(x, 0); of NaN, NaN.
    Relu,
    /// tanh x
    Tanh,
}

/// A fused linear layer: `activation(x · weightᵀ + bias) + residual`.
///
/// Its plain form, which is its specification: matrix product, then [`Op::Add`] of the bias, then
/// [`Op::Activation`], then [`Op::Add`] of the residual.
#[derive(Clone, Copy, Debug)]
pub struct Linear {
    /// `[.., K]`
    pub x: ValueId,
    /// [N, K]: PyTorch's layout
    pub weight: ValueId,
    /// `[N]`
    pub bias: Option<ValueId>,
    /// Applied after the bias.
    pub activation: Activation,
    /// `[.., N]`, added last
    pub residual: Option<ValueId>,
}

/// Scaled dot-product attention over heads that lie side by side in the last dimension:
/// `softmax(scale · q kᵀ + mask) v`, the softmax in f32.
#[derive(Clone, Copy, Debug)]
pub struct Attention {
    /// [B, Sq, H·D]
    pub q: ValueId,
    /// [B, Sk, H·D]
    pub k: ValueId,
    /// [B, Sk, H·D]
    pub v: ValueId,
    /// H
    pub heads: usize,
    /// A query at position i sees keys 0..=i; needs Sq = Sk.
    pub causal: bool,
    /// u32 `[B]`: how many keys of each sequence are there, 1 to Sk, which a run checks. No query sees the later ones.
    pub lengths: Option<ValueId>,
    /// Usually 1/sqrt(D)
    pub scale: f32,
}

/// Attention with a bias that is added to the scores, over heads that lie side by side in the last dimension:
/// `softmax(scale · q kᵀ + bias) v`, the softmax in f32. Sequences take the G biases in turn: sequence b takes b mod G.
/// So windows of pictures have a bias for each window, and a G of 1 is one bias for all (relative positions).
///
/// What must not be seen has a bias of minus infinity, or so low a number that its weight is nothing. Every query must
/// see a key; a row of nothing else is NaN, as the formula has it.
#[derive(Clone, Copy, Debug)]
pub struct BiasedAttention {
    /// [B, Sq, H·D]
    pub q: ValueId,
    /// [B, Sk, H·D]
    pub k: ValueId,
    /// [B, Sk, H·D]
    pub v: ValueId,
    /// [G, H, Sq, Sk]; G divides B
    pub bias: ValueId,
    /// H
    pub heads: usize,
    /// Usually 1/sqrt(D)
    pub scale: f32,
}

/// One step of a graph.
#[derive(Clone, Debug)]
pub enum Op {
    /// Given at every run, by position.
    Input {
        /// For error messages.
        name: String,
    },
    /// Held by the backend, by name.
    Weight {
        /// The tensor's name in the checkpoint, or the name the encoder gave to a tensor made from it.
        name: String,
    },
    /// See [`Linear`].
    Linear(Linear),
    /// `(x - mean) / sqrt(var + eps) * gamma + beta` over the last dimension, population variance.
    LayerNorm {
        /// `[.., D]`
        x: ValueId,
        /// `[D]`
        gamma: ValueId,
        /// `[D]`
        beta: ValueId,
        /// Added to the variance.
        eps: f32,
    },
    /// See [`Attention`].
    Attention(Attention),
    /// See [`BiasedAttention`].
    BiasedAttention(BiasedAttention),
    /// Rows of `table` by `ids`: `[V, D]`, u32 `[..]` -> `[.., D]`.
    Embedding {
        /// `[V, D]`
        table: ValueId,
        /// u32 `[..]`; a run checks that all are below V
        ids: ValueId,
    },
    /// a + b, where b's shape is a's trailing dimensions: `[.., S]` + `[S]`.
    Add {
        /// `[.., S]`
        a: ValueId,
        /// `[S]`
        b: ValueId,
    },
    /// Non-overlapping patches as rows: `[B, C, H, W]` -> `[B, ⌊H/p⌋ · ⌊W/p⌋, C·p·p]`. With a convolution weight
    /// `[N, C, p, p]` read as `[N, C·p·p]`, [`Op::Linear`] of it is the patch embedding: a convolution of stride p,
    /// which leaves out what remains of the image at the bottom and at the right.
    Patchify {
        /// `[B, C, H, W]`
        image: ValueId,
        /// p, at most H and W
        patch: usize,
    },
    /// The neighbourhoods of a convolution as rows: `[B, H, W, C]` -> `[B, H', W', k·k·C]` with H' = ⌊(H + 2·padding - k) /
    /// stride⌋ + 1, and W' alike. Element (y·k + x)·C + c of a row is channel c of its window at (y, x), 0 outside the image.
    /// With a convolution weight `[N, C, k, k]` laid out as `[N, k·k·C]`, [`Op::Linear`] of it is that convolution
    /// (`torch.nn.functional.conv2d`, channels last).
    Unfold {
        /// `[B, H, W, C]`
        x: ValueId,
        /// k
        kernel: usize,
        /// From one window to the next.
        stride: usize,
        /// Rows and columns of zeros on every side, fewer than k.
        padding: usize,
    },
    /// Maxima over windows: `[B, H, W, C]` -> `[B, ⌊(H - k) / stride⌋ + 1, ⌊(W - k) / stride⌋ + 1, C]`
    /// (`torch.nn.functional.max_pool2d`, channels last). NaN may be lost.
    MaxPool {
        /// `[B, H, W, C]`
        x: ValueId,
        /// k
        kernel: usize,
        /// From one window to the next.
        stride: usize,
    },
    /// Gram matrices: `scale · xᵀ x` of every sequence, `[B, S, D]` -> `[B, D, D]`.
    Gram {
        /// `[B, S, D]`
        x: ValueId,
        /// Usually 1/(S·D)
        scale: f32,
    },
    /// Puts one row before every sequence: `[D]`, `[B, S, D]` -> `[B, S+1, D]`.
    PrependToken {
        /// `[D]`
        token: ValueId,
        /// `[B, S, D]`
        x: ValueId,
    },
    /// Rotary position embedding of interleaved pairs. Each head's pair (a, b), elements 2i and 2i + 1 of a row at
    /// position s, becomes (a · cos[s, 2i] - b · sin[s, 2i], b · cos[s, 2i+1] + a · sin[s, 2i+1]).
    Rope {
        /// `[B, S, H·D]`
        x: ValueId,
        /// `[S, D]`
        cos: ValueId,
        /// `[S, D]`
        sin: ValueId,
        /// H; D is even
        heads: usize,
    },
    /// Rows of x by number: `[R, D]`, u32 `[M]` -> `[M, D]`.
    GatherRows {
        /// `[R, D]`
        x: ValueId,
        /// u32 `[M]`; a run checks that all are below R
        rows: ValueId,
    },
    /// The mean over the rows of every sequence: `[B, S, D]` -> `[B, D]`.
    MeanRows {
        /// `[B, S, D]`
        x: ValueId,
    },
    /// Two values mixed by a gate: `2 (w a + (1 - w) b)` with `w = sigmoid(gate + shared)`, where all rows of a sequence
    /// have one row of `shared`. Attentional feature fusion (arXiv 2009.14082) without its layers. All `[B, S, D]`.
    Blend {
        /// `[B, S, D]`
        a: ValueId,
        /// `[B, S, D]`
        b: ValueId,
        /// `[B, S, D]`
        gate: ValueId,
        /// `[B, D]`
        shared: ValueId,
    },
    /// x / max(|x|, 1e-12) over the last dimension, as `torch.nn.functional.normalize`.
    L2Normalize {
        /// `[.., D]`
        x: ValueId,
    },
    /// Elementwise.
    Activation {
        /// Any shape
        x: ValueId,
        /// Which function.
        activation: Activation,
    },
    /// The same elements under another shape; costs nothing.
    Reshape {
        /// Any shape
        x: ValueId,
    },
}

impl Op {
    /// The values that this op reads, in a fixed order.
    pub fn operands(&self) -> Vec<ValueId> {
        match *self {
            Op::Input { .. } | Op::Weight { .. } => vec![],
            Op::Linear(Linear { x, weight, bias, residual, .. }) => {
                let mut all = vec![x, weight];
                all.extend(bias);
                all.extend(residual);
                all
            }
            Op::LayerNorm { x, gamma, beta, .. } => vec![x, gamma, beta],
            Op::Attention(Attention { q, k, v, lengths, .. }) => {
                let mut all = vec![q, k, v];
                all.extend(lengths);
                all
            }
            Op::BiasedAttention(BiasedAttention { q, k, v, bias, .. }) => vec![q, k, v, bias],
            Op::Embedding { table, ids } => vec![table, ids],
            Op::Add { a, b } => vec![a, b],
            Op::Patchify { image, .. } => vec![image],
            Op::PrependToken { token, x } => vec![token, x],
            Op::Rope { x, cos, sin, .. } => vec![x, cos, sin],
            Op::GatherRows { x, rows } => vec![x, rows],
            Op::Blend { a, b, gate, shared } => vec![a, b, gate, shared],
            Op::MeanRows { x }
            | Op::L2Normalize { x }
            | Op::Activation { x, .. }
            | Op::Reshape { x }
            | Op::Unfold { x, .. }
            | Op::MaxPool { x, .. }
            | Op::Gram { x, .. } => vec![x],
        }
    }
}
