//! The two towers of CLIP as graphs.
//!
//! Paper: arXiv 2103.00020. Reference: `transformers/models/clip/modeling_clip.py`.

use crate::config::{ClipConfig, TextConfig, TowerConfig, VisionConfig};
use mils_graph::{Activation, Attention, Graph, GraphError, Linear, ValueId};

/// Every tensor of the checkpoint with its shape by config.json, `logit_scale` first.
pub(crate) fn tensors(config: &ClipConfig) -> Vec<(String, Vec<usize>)> {
    let (text, vision, p) = (&config.text, &config.vision, config.projection_dim);
    let (t, v) = (text.tower.hidden_size, vision.tower.hidden_size);
    let positions = (vision.image_size / vision.patch_size).pow(2) + 1;
    let mut all = vec![("logit_scale".to_owned(), vec![])];
    let mut add = |name: &str, shape: &[usize]| all.push((name.to_owned(), shape.to_vec()));
    add("text_model.embeddings.token_embedding.weight", &[text.vocab_size, t]);
    add("text_model.embeddings.position_embedding.weight", &[text.max_positions, t]);
    add("text_model.final_layer_norm.weight", &[t]);
    add("text_model.final_layer_norm.bias", &[t]);
    add("text_projection.weight", &[p, t]);
    add("vision_model.embeddings.class_embedding", &[v]);
    add("vision_model.embeddings.patch_embedding.weight", &[v, 3, vision.patch_size, vision.patch_size]);
    add("vision_model.embeddings.position_embedding.weight", &[positions, v]);
    for norm in ["pre_layrnorm", "post_layernorm"] {
        add(&format!("vision_model.{norm}.weight"), &[v]);
        add(&format!("vision_model.{norm}.bias"), &[v]);
    }
    add("visual_projection.weight", &[p, v]);
    for (prefix, tower) in [("text_model", &text.tower), ("vision_model", &vision.tower)] {
        let (d, m) = (tower.hidden_size, tower.intermediate_size);
        for layer in 0..tower.layers {
            let mut part = |name: &str, shape: &[usize]| {
                all.push((format!("{prefix}.encoder.layers.{layer}.{name}"), shape.to_vec()));
            };
            for name in ["self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "self_attn.out_proj"] {
                part(&format!("{name}.weight"), &[d, d]);
                part(&format!("{name}.bias"), &[d]);
            }
            for name in ["layer_norm1", "layer_norm2"] {
                part(&format!("{name}.weight"), &[d]);
                part(&format!("{name}.bias"), &[d]);
            }
            part("mlp.fc1.weight", &[m, d]);
            part("mlp.fc1.bias", &[m]);
            part("mlp.fc2.weight", &[d, m]);
            part("mlp.fc2.bias", &[d]);
        }
    }
    all
}

/// A graph under construction with the names of a tower's weights.
struct Builder<'a> {
    g: Graph,
    prefix: &'a str,
    tower: &'a TowerConfig,
}

type Built = Result<ValueId, GraphError>;

impl Builder<'_> {
    fn weight(&mut self, name: &str, shape: &[usize]) -> Built {
        let name = format!("{}.{name}", self.prefix);
        self.g.weight(&name, shape)
    }

    fn layer_norm(&mut self, name: &str, x: ValueId) -> Built {
        let d = [self.tower.hidden_size];
        let gamma = self.weight(&format!("{name}.weight"), &d)?;
        let beta = self.weight(&format!("{name}.bias"), &d)?;
        self.g.layer_norm(x, gamma, beta, self.tower.layer_norm_eps)
    }

    fn linear(
        &mut self,
        name: &str,
        x: ValueId,
        out: usize,
        activation: Activation,
        residual: Option<ValueId>,
    ) -> Built {
        let width = self.g.node(x).width();
        let weight = self.weight(&format!("{name}.weight"), &[out, width])?;
        let bias = Some(self.weight(&format!("{name}.bias"), &[out])?);
        self.g.linear(Linear { x, weight, bias, activation, residual })
    }

    /// One pre-norm block: x + attention(norm(x)), then + mlp(norm(·)).
    fn block(&mut self, layer: usize, x: ValueId, causal: bool) -> Built {
        let TowerConfig { hidden_size: d, intermediate_size, heads, activation, .. } = *self.tower;
        let at = format!("encoder.layers.{layer}");
        let h = self.layer_norm(&format!("{at}.layer_norm1"), x)?;
        let [q, k, v] = ["q_proj", "k_proj", "v_proj"]
            .map(|name| self.linear(&format!("{at}.self_attn.{name}"), h, d, Activation::None, None));
        let scale = ((d / heads) as f32).powf(-0.5);
        let h = self.g.attention(Attention { q: q?, k: k?, v: v?, heads, causal, lengths: None, scale })?;
        let x = self.linear(&format!("{at}.self_attn.out_proj"), h, d, Activation::None, Some(x))?;
        let h = self.layer_norm(&format!("{at}.layer_norm2"), x)?;
        let h = self.linear(&format!("{at}.mlp.fc1"), h, intermediate_size, activation, None)?;
        self.linear(&format!("{at}.mlp.fc2"), h, d, Activation::None, Some(x))
    }

    /// One row a sequence, normalised, projected, scaled to length 1.
    fn pool(
        &mut self,
        x: ValueId,
        rows: ValueId,
        norm: &str,
        projection: &str,
        dim: usize,
    ) -> Result<Graph, GraphError> {
        let shape = self.g.shape(x).to_vec();
        let flat = self.g.reshape(x, &[shape[0] * shape[1], shape[2]])?;
        let pooled = self.g.gather_rows(flat, rows)?;
        let pooled = self.layer_norm(norm, pooled)?;
        let weight = self.g.weight(projection, &[dim, shape[2]])?;
        let linear = Linear { x: pooled, weight, bias: None, activation: Activation::None, residual: None };
        let projected = self.g.linear(linear)?;
        let normal = self.g.l2_normalize(projected)?;
        self.g.output(normal);
        Ok(std::mem::take(&mut self.g))
    }
}

/// `CLIPTextTransformer` and `text_projection`. Inputs: ids u32 [batch, tokens]; positions u32 [tokens]; rows
/// u32 [batch], where in [batch · tokens] each text ends. Output: [batch, projection_dim], length 1.
///
/// Attention is causal and the end-of-text row is what is read, so that what stands after it cannot matter: texts
/// need no padding to the full context.
pub(crate) fn text(config: &TextConfig, dim: usize, batch: usize, tokens: usize) -> Result<Graph, GraphError> {
    let mut b = Builder { g: Graph::new(), prefix: "text_model", tower: &config.tower };
    let d = config.tower.hidden_size;
    let ids = b.g.index_input("token ids", &[batch, tokens])?;
    let positions = b.g.index_input("positions", &[tokens])?;
    let rows = b.g.index_input("end-of-text rows", &[batch])?;
    let table = b.weight("embeddings.token_embedding.weight", &[config.vocab_size, d])?;
    let position_table = b.weight("embeddings.position_embedding.weight", &[config.max_positions, d])?;
    let embedded = b.g.embedding(table, ids)?;
    let position = b.g.embedding(position_table, positions)?;
    let mut x = b.g.add(embedded, position)?;
    for layer in 0..config.tower.layers {
        x = b.block(layer, x, true)?;
    }
    b.pool(x, rows, "final_layer_norm", "text_projection.weight", dim)
}

/// `CLIPVisionTransformer` and `visual_projection`. Inputs: pixels f32 [batch, 3, size, size]; rows u32 [batch], where
/// in [batch · (patches + 1)] each class token is. Output: [batch, projection_dim], length 1.
pub(crate) fn vision(config: &VisionConfig, dim: usize, batch: usize) -> Result<Graph, GraphError> {
    let mut b = Builder { g: Graph::new(), prefix: "vision_model", tower: &config.tower };
    let (d, size, p) = (config.tower.hidden_size, config.image_size, config.patch_size);
    let pixels = b.g.input("pixels", &[batch, 3, size, size])?;
    let rows = b.g.index_input("class rows", &[batch])?;
    let patches = b.g.patchify(pixels, p)?;
    // The convolution's weight [d, 3, p, p] was reshaped to a matrix when it was loaded.
    let weight = b.weight("embeddings.patch_embedding.weight", &[d, 3 * p * p])?;
    let linear = Linear { x: patches, weight, bias: None, activation: Activation::None, residual: None };
    let embedded = b.g.linear(linear)?;
    let class = b.weight("embeddings.class_embedding", &[d])?;
    let x = b.g.prepend_token(class, embedded)?;
    let tokens = b.g.shape(x)[1];
    let positions = b.weight("embeddings.position_embedding.weight", &[tokens, d])?;
    let x = b.g.add(x, positions)?;
    let mut x = b.layer_norm("pre_layrnorm", x)?;
    for layer in 0..config.tower.layers {
        x = b.block(layer, x, false)?;
    }
    b.pool(x, rows, "post_layernorm", "visual_projection.weight", dim)
}
