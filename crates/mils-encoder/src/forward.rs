//! The two towers as graphs, over the tensors that [`crate::tensors`] names.
//!
//! Papers: CLIP arXiv 2103.00020, SigLIP arXiv 2303.15343, SigLIP 2 arXiv 2502.14786, Perception Encoder arXiv
//! 2504.13181, ViCLIP arXiv 2307.06942. References: `modeling_clip.py`, `modeling_siglip.py` and `modeling_siglip2.py` of transformers,
//! `transformer.py` of open_clip, `eva.py` of timm.

use crate::arch::{Architecture, Blocks, ImagePool, ImageSize, ImageTower, TextTower};
use mils_graph::{Activation, Attention, Graph, GraphError, Linear, ValueId};

/// A graph under construction; weights are named `image.…` and `text.…`.
pub(crate) struct Builder {
    pub(crate) g: Graph,
}

pub(crate) type Built = Result<ValueId, GraphError>;

/// What the blocks of a tower have in common.
pub(crate) struct Stack<'a> {
    pub(crate) tower: &'a str,
    pub(crate) blocks: &'a Blocks,
    pub(crate) causal: bool,
    /// Whether attention has a learnt key and value beside those of the tokens: `add_bias_kv` of PyTorch's
    /// `MultiheadAttention`.
    pub(crate) bias_kv: bool,
    /// Keys of each sequence that are there, u32 [batch].
    pub(crate) lengths: Option<ValueId>,
    /// Cosines and sines, [tokens, head dim].
    pub(crate) rope: Option<(ValueId, ValueId)>,
    /// What alone is read of the last block's output.
    pub(crate) pooled: Option<Pooled>,
}

/// One row of each sequence.
#[derive(Clone, Copy)]
pub(crate) struct Pooled {
    /// u32 [batch], numbered over batch · tokens.
    pub(crate) rows: ValueId,
    /// u32 [batch]: how many keys that row sees; without it, as many as all rows do.
    pub(crate) sees: Option<ValueId>,
}

impl Builder {
    pub(crate) fn new() -> Self {
        Self { g: Graph::new() }
    }

    pub(crate) fn layer_norm(&mut self, name: &str, x: ValueId, eps: f32) -> Built {
        let d = [self.g.node(x).width()];
        let gamma = self.g.weight(&format!("{name}.weight"), &d)?;
        let beta = self.g.weight(&format!("{name}.bias"), &d)?;
        self.g.layer_norm(x, gamma, beta, eps)
    }

    /// A linear layer without activation.
    pub(crate) fn project(&mut self, name: &str, x: ValueId, out: usize, bias: bool) -> Built {
        if bias {
            return self.linear(name, x, out, Activation::None, None);
        }
        let weight = self.g.weight(&format!("{name}.weight"), &[out, self.g.node(x).width()])?;
        self.g.linear(Linear { x, weight, bias: None, activation: Activation::None, residual: None })
    }

    pub(crate) fn linear(
        &mut self,
        name: &str,
        x: ValueId,
        out: usize,
        activation: Activation,
        residual: Option<ValueId>,
    ) -> Built {
        let weight = self.g.weight(&format!("{name}.weight"), &[out, self.g.node(x).width()])?;
        let bias = Some(self.g.weight(&format!("{name}.bias"), &[out])?);
        self.g.linear(Linear { x, weight, bias, activation, residual })
    }

    /// x + mlp(norm(x))
    fn mlp(&mut self, at: &str, norm: &str, x: ValueId, hidden: usize, blocks: &Blocks) -> Built {
        let h = self.layer_norm(norm, x, blocks.eps)?;
        let h = self.linear(&format!("{at}.up"), h, hidden, blocks.activation, None)?;
        self.linear(&format!("{at}.down"), h, blocks.width, Activation::None, Some(x))
    }

    fn block(&mut self, stack: &Stack<'_>, layer: usize, x: ValueId) -> Built {
        let blocks = stack.blocks;
        let (d, heads) = (blocks.width, blocks.heads);
        let at = format!("{}.blocks.{layer}", stack.tower);
        let h = self.layer_norm(&format!("{at}.norm1"), x, blocks.eps)?;
        let mut k = self.project(&format!("{at}.attn.k"), h, d, true)?;
        let mut v = self.project(&format!("{at}.attn.v"), h, d, true)?;
        // After the last keys and values, rows no longer look at each other: what is not pooled need not be computed.
        let pooled = stack.pooled.filter(|_| layer + 1 == blocks.layers);
        let few = |builder: &mut Self, x| pooled.map_or(Ok(x), |p| builder.rows(x, p.rows));
        let q = &format!("{at}.attn.q");
        let mut q = if let Some((cos, sin)) = stack.rope {
            k = self.g.rope(k, cos, sin, heads)?;
            let q = self.project(q, h, d, true)?;
            let q = self.g.rope(q, cos, sin, heads)?;
            few(self, q)?
        } else {
            let h = few(self, h)?;
            self.project(q, h, d, true)?
        };
        let x = few(self, x)?;
        if stack.bias_kv {
            // PyTorch puts them behind the others; attention does not know the order of keys.
            let [key, value] = ["k", "v"].map(|name| self.g.weight(&format!("{at}.attn.bias_{name}"), &[d]));
            (k, v) = (self.g.prepend_token(key?, k)?, self.g.prepend_token(value?, v)?);
        }
        let scale = ((d / heads) as f32).powf(-0.5);
        let (mut causal, mut lengths) = (stack.causal, stack.lengths);
        if let Some(Pooled { sees, .. }) = pooled {
            let batch = self.g.shape(k)[0];
            q = self.g.reshape(q, &[batch, 1, d])?;
            (causal, lengths) = (false, sees.or(lengths));
        }
        let mut h = self.g.attention(Attention { q, k, v, heads, causal, lengths, scale })?;
        if pooled.is_some() {
            let shape = self.g.shape(x).to_vec();
            h = self.g.reshape(h, &shape)?;
        }
        let x = self.linear(&format!("{at}.attn.out"), h, d, Activation::None, Some(x))?;
        self.mlp(&format!("{at}.mlp"), &format!("{at}.norm2"), x, blocks.mlp, blocks)
    }

    /// All blocks: [batch, tokens, d], or [batch, d] of what is pooled.
    pub(crate) fn blocks(&mut self, stack: &Stack<'_>, mut x: ValueId) -> Built {
        for layer in 0..stack.blocks.layers {
            x = self.block(stack, layer, x)?;
        }
        match stack.pooled {
            // Without a block there was none to leave rows out.
            Some(Pooled { rows, .. }) if stack.blocks.layers == 0 => self.rows(x, rows),
            _ => Ok(x),
        }
    }

    /// Rows of x [batch, tokens, d], numbered over batch · tokens.
    pub(crate) fn rows(&mut self, x: ValueId, rows: ValueId) -> Built {
        let shape = self.g.shape(x).to_vec();
        let flat = self.g.reshape(x, &[shape[0] * shape[1], shape[2]])?;
        self.g.gather_rows(flat, rows)
    }

    /// One learnt query a picture attends to all tokens (x, normalised): timm's `AttentionPoolLatent`, SigLIP's
    /// `MultiheadAttentionPoolingHead`. `rows` are zeros [batch]: the query is the same for all.
    fn attention_pool(
        &mut self,
        tower: &ImageTower,
        (heads, mlp): (usize, usize),
        x: ValueId,
        rows: ValueId,
        lengths: Option<ValueId>,
    ) -> Built {
        let d = tower.blocks.width;
        let batch = self.g.shape(x)[0];
        let probe = self.g.weight("image.pool.probe", &[1, d])?;
        let probe = self.g.gather_rows(probe, rows)?;
        let q = self.project("image.pool.attn.q", probe, d, true)?;
        let q = self.g.reshape(q, &[batch, 1, d])?;
        let k = self.project("image.pool.attn.k", x, d, true)?;
        let v = self.project("image.pool.attn.v", x, d, true)?;
        let scale = ((d / heads) as f32).powf(-0.5);
        let h = self.g.attention(Attention { q, k, v, heads, causal: false, lengths, scale })?;
        let h = self.g.reshape(h, &[batch, d])?;
        let h = self.project("image.pool.attn.out", h, d, true)?;
        self.mlp("image.pool.mlp", "image.pool.norm", h, mlp, &tower.blocks)
    }

    /// Scaled to length 1, as the output.
    pub(crate) fn finish(mut self, x: ValueId) -> Result<Graph, GraphError> {
        let normal = self.g.l2_normalize(x)?;
        self.g.output(normal);
        Ok(self.g)
    }
}

/// The text tower. Inputs: ids u32 [batch, tokens]; positions u32 [tokens]; rows u32 [batch], where in
/// [batch · tokens] each text is pooled; of a causal tower, how many tokens of each text the pooled one sees, u32
/// [batch]. Output: [batch, dim], length 1.
///
/// Where attention is causal and the end-of-text row is what is read, nothing that stands after it can matter: such
/// texts need no padding to the full context.
pub(crate) fn text(tower: &TextTower, dim: usize, batch: usize, tokens: usize) -> Result<Graph, GraphError> {
    let TextTower { blocks, vocab, context, causal, projection, .. } = tower;
    let mut b = Builder::new();
    let ids = b.g.index_input("token ids", &[batch, tokens])?;
    let positions = b.g.index_input("positions", &[tokens])?;
    let rows = b.g.index_input("pooled rows", &[batch])?;
    let table = b.g.weight("text.tokens", &[*vocab, blocks.width])?;
    let position_table = b.g.weight("text.positions", &[*context, blocks.width])?;
    let embedded = b.g.embedding(table, ids)?;
    let position = b.g.embedding(position_table, positions)?;
    let x = b.g.add(embedded, position)?;
    let sees = if *causal { Some(b.g.index_input("seen tokens", &[batch])?) } else { None };
    let pooled = Some(Pooled { rows, sees });
    let stack = Stack { tower: "text", blocks, causal: *causal, bias_kv: false, lengths: None, rope: None, pooled };
    let x = b.blocks(&stack, x)?;
    let mut x = b.layer_norm("text.norm_post", x, blocks.eps)?;
    if let Some(projection) = projection {
        x = b.project("text.projection", x, dim, projection.bias)?;
    }
    b.finish(x)
}

/// The image tower. Output: [batch, dim], length 1. Inputs with pictures of one size: pixels f32
/// [batch · frames, 3, height, width], a video's frames one after the other; rows u32 [batch], where in [batch · tokens] each class token is, or zeros where there is
/// attention pooling. With pictures of any size (`patches` of them, padded): patches f32 [batch, patches, patch ·
/// patch · 3], channels last; positions f32 [batch, patches, width]; lengths u32 [batch]; rows.
pub(crate) fn image(arch: &Architecture, batch: usize, patches: usize) -> Result<Graph, GraphError> {
    let tower = &arch.image;
    let (blocks, p) = (&tower.blocks, tower.patch);
    let d = blocks.width;
    let mut b = Builder::new();
    let (mut x, positions, lengths) = match tower.size {
        ImageSize::Fixed { height, width } => {
            let pixels = b.g.input("pixels", &[batch * tower.frames, 3, height, width])?;
            let x = b.g.patchify(pixels, p)?;
            let x = b.g.reshape(x, &[batch, tower.frames * tower.most_patches(), 3 * p * p])?;
            let positions = b.g.weight("image.positions", &[tower.most_tokens(), d])?;
            (x, positions, None)
        }
        ImageSize::Flexible { .. } => {
            let x = b.g.input("patches", &[batch, patches, p * p * 3])?;
            let positions = b.g.input("positions", &[batch, patches, d])?;
            let lengths = b.g.index_input("lengths", &[batch])?;
            (x, positions, Some(lengths))
        }
    };
    let rows = b.g.index_input("pooled rows", &[batch])?;
    // A convolution's weight [d, 3, p, p] was reshaped to a matrix when it was loaded.
    x = b.project("image.patch", x, d, tower.patch_bias)?;
    if tower.class_token {
        let class = b.g.weight("image.class", &[d])?;
        x = b.g.prepend_token(class, x)?;
    }
    x = b.g.add(x, positions)?;
    if tower.norm_pre {
        x = b.layer_norm("image.norm_pre", x, blocks.eps)?;
    }
    let rope = match tower.rope {
        None => None,
        Some(_) => {
            let shape = [tower.most_tokens(), d / blocks.heads];
            Some((b.g.weight("image.rope.cos", &shape)?, b.g.weight("image.rope.sin", &shape)?))
        }
    };
    let pooled = (tower.pool == ImagePool::ClassToken).then_some(Pooled { rows, sees: None });
    x = b.blocks(&Stack { tower: "image", blocks, causal: false, bias_kv: false, lengths, rope, pooled }, x)?;
    x = match tower.pool {
        ImagePool::ClassToken => b.layer_norm("image.norm_post", x, blocks.eps)?,
        ImagePool::Attention { heads, mlp } => {
            let x = b.layer_norm("image.norm_post", x, blocks.eps)?;
            b.attention_pool(tower, (heads, mlp), x, rows, lengths)?
        }
    };
    if let Some(projection) = tower.projection {
        x = b.project("image.projection", x, arch.dim, projection.bias)?;
    }
    b.finish(x)
}
