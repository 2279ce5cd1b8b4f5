//! The two towers of CLAP as graphs, over the tensors that [`super::tensors`] names.
//!
//! Papers: CLAP arXiv 2211.06687, HTSAT arXiv 2202.00874, Swin arXiv 2103.14030, attentional feature fusion arXiv
//! 2009.14082. Reference: `modeling_clap.py` of transformers.

use super::arch::{AudioTower, RobertaTower, SoundArchitecture, Step};
use super::windows::Windows;
use crate::forward::{Builder, Built};
use mils_graph::{Activation, Attention, BiasedAttention, Graph, GraphError, ValueId};

/// Epsilon of the norms that the configuration does not name: PyTorch's own.
const EPS: f32 = 1e-5;

/// The gathers of the audio tower between two orders of rows, of one sound; by the step that they come before, or are.
pub(crate) fn moves(tower: &AudioTower) -> Vec<(usize, Vec<usize>)> {
    let mut all = Vec::new();
    let mut order: Option<Windows> = None;
    for (i, step) in tower.steps().into_iter().enumerate() {
        match step {
            Step::Layer { windows, .. } => {
                // Patches come in the order of the first layer.
                if let Some(before) = order.filter(|&before| before != windows) {
                    all.push((i, before.moves(windows)));
                }
                order = Some(windows);
            }
            Step::Merge { windows, next, .. } => {
                all.push((i, windows.merges(next)));
                order = Some(next);
            }
        }
    }
    all
}

/// One of the audio tower's layers: windowed attention, then an MLP, each behind its norm.
fn layer(b: &mut Builder, tower: &AudioTower, (stage, layer): (usize, usize), windows: Windows, x: ValueId) -> Built {
    let (d, heads, area) = (tower.width(stage), tower.stages[stage].heads, tower.window * tower.window);
    let at = format!("audio.stage{stage}.{layer}");
    let shape = b.g.shape(x).to_vec();
    let normal = b.layer_norm(&format!("{at}.norm1"), x, tower.eps)?;
    let part = |b: &mut Builder, name: &str| {
        let y = b.project(&format!("{at}.attn.{name}"), normal, d, tower.qkv_bias)?;
        b.g.reshape(y, &[shape[0] * windows.tokens() / area, area, d])
    };
    let (q, k, v) = (part(b, "q")?, part(b, "k")?, part(b, "v")?);
    let bias = b.g.weight(&format!("{at}.attn.biases"), &[windows.groups(), heads, area, area])?;
    let scale = ((d / heads) as f32).powf(-0.5);
    let seen = b.g.biased_attention(BiasedAttention { q, k, v, bias, heads, scale })?;
    let seen = b.g.reshape(seen, &shape)?;
    let x = b.linear(&format!("{at}.attn.out"), seen, d, Activation::None, Some(x))?;
    let h = b.layer_norm(&format!("{at}.norm2"), x, tower.eps)?;
    let h = b.linear(&format!("{at}.mlp.up"), h, tower.mlp(stage), tower.activation, None)?;
    b.linear(&format!("{at}.mlp.down"), h, d, Activation::None, Some(x))
}

/// The patches of the whole sound and those of its chunks as one: `ClapAudioAFFBlock`. Batch norms are folded into the
/// layers before them.
fn fuse(b: &mut Builder, tower: &AudioTower, inner: usize, [global, patches]: [ValueId; 2]) -> Built {
    let width = tower.width;
    let local = b.project("audio.local", patches, width, false)?;
    // The convolution's bias, which is not there where there is no patch.
    let tokens = b.g.shape(local)[1];
    let places = b.g.weight("audio.local.places", &[tokens, width])?;
    let local = b.g.add(local, places)?;
    let both = b.g.add(global, local)?;
    let attend = |b: &mut Builder, name: &str, x| {
        let h = b.linear(&format!("audio.fuse.{name}.down"), x, inner, Activation::Relu, None)?;
        b.linear(&format!("audio.fuse.{name}.up"), h, width, Activation::None, None)
    };
    let gate = attend(b, "local", both)?;
    let mean = b.g.mean_rows(both)?;
    let shared = attend(b, "global", mean)?;
    b.g.blend([global, local], gate, shared)
}

/// Two layers into the shared space, and to length 1.
fn project(mut b: Builder, arch: &SoundArchitecture, tower: &str, x: ValueId) -> Result<Graph, GraphError> {
    let x = b.linear(&format!("{tower}.projection1"), x, arch.dim, arch.projection, None)?;
    let x = b.linear(&format!("{tower}.projection2"), x, arch.dim, Activation::None, None)?;
    b.finish(x)
}

/// The audio tower. Inputs: patches f32 [batch, tokens, p · p], in the order of the first layer's windows; where `fused`,
/// those of the chunks f32 [batch, tokens, p · 3p]; then the rows of every gather of [`moves`], u32 [batch · tokens],
/// numbered over the batch. Output: [batch, dim], length 1.
pub(crate) fn audio(arch: &SoundArchitecture, batch: usize, fused: bool) -> Result<Graph, GraphError> {
    let tower = &arch.audio;
    let (tokens, p) = (tower.grid(0) * tower.grid(0), tower.patch);
    let mut b = Builder::new();
    let patches = b.g.input("patches", &[batch, tokens, p * p])?;
    let chunks = if fused { Some(b.g.input("chunks' patches", &[batch, tokens, 3 * p * p])?) } else { None };
    let mut gathers = Vec::new();
    for (step, rows) in moves(tower) {
        gathers.push((step, b.g.index_input("rows", &[batch * rows.len()])?));
    }
    let mut gathers = gathers.into_iter().peekable();
    let mut x = b.project("audio.patch", patches, tower.width, true)?;
    if let (Some(chunks), Some(inner)) = (chunks, tower.fused()) {
        x = fuse(&mut b, tower, inner, [x, chunks])?;
    }
    if tower.patch_norm {
        x = b.layer_norm("audio.patch_norm", x, EPS)?;
    }
    for (i, step) in tower.steps().into_iter().enumerate() {
        if let Some((_, rows)) = gathers.next_if(|(step, _)| *step == i) {
            let shape = b.g.shape(x).to_vec();
            let moved = b.rows(x, rows)?;
            x = b.g.reshape(moved, &shape)?;
        }
        match step {
            Step::Layer { stage, layer: number, windows } => x = layer(&mut b, tower, (stage, number), windows, x)?,
            Step::Merge { stage, next, .. } => {
                let d = tower.width(stage);
                let at = format!("audio.merge{stage}");
                x = b.g.reshape(x, &[batch, next.tokens(), 4 * d])?;
                x = b.layer_norm(&format!("{at}.norm"), x, EPS)?;
                x = b.project(&format!("{at}.reduction"), x, 2 * d, false)?;
            }
        }
    }
    let x = b.layer_norm("audio.norm", x, EPS)?;
    // The reference lays time and bands out anew before it takes the mean over both.
    let x = b.g.mean_rows(x)?;
    project(b, arch, "audio", x)
}

/// The text tower. Inputs: ids and positions u32 [batch, tokens]; lengths u32 [batch]; rows u32 [batch], where in
/// [batch · tokens] each text begins. Output: [batch, dim], length 1.
pub(crate) fn text(arch: &SoundArchitecture, batch: usize, tokens: usize) -> Result<Graph, GraphError> {
    let RobertaTower { blocks, vocab, positions, .. } = &arch.text;
    let d = blocks.width;
    let mut b = Builder::new();
    let ids = b.g.index_input("token ids", &[batch, tokens])?;
    let places = b.g.index_input("positions", &[batch, tokens])?;
    let lengths = b.g.index_input("lengths", &[batch])?;
    let firsts = b.g.index_input("first rows", &[batch])?;
    let table = b.g.weight("text.tokens", &[*vocab, d])?;
    let x = b.g.embedding(table, ids)?;
    let kind = b.g.weight("text.type", &[d])?;
    let x = b.g.add(x, kind)?;
    let table = b.g.weight("text.positions", &[*positions, d])?;
    let place = b.g.embedding(table, places)?;
    let x = b.g.add(x, place)?;
    let mut x = b.layer_norm("text.norm", x, blocks.eps)?;
    for number in 0..blocks.layers {
        // Of the last block, only the first rows are read.
        let firsts = (number + 1 == blocks.layers).then_some(firsts);
        x = post_norm(&mut b, &arch.text, number, (x, lengths, firsts))?;
    }
    let x = b.linear("text.pooler", x, d, Activation::Tanh, None)?;
    project(b, arch, "text", x)
}

/// norm(x + attention(x)), then norm(· + mlp(·)). Only of `firsts`, where they are given: [batch, d].
fn post_norm(
    b: &mut Builder,
    tower: &RobertaTower,
    number: usize,
    (x, lengths, firsts): (ValueId, ValueId, Option<ValueId>),
) -> Built {
    let blocks = &tower.blocks;
    let (d, heads) = (blocks.width, blocks.heads);
    let at = format!("text.blocks.{number}");
    let k = b.project(&format!("{at}.attn.k"), x, d, true)?;
    let v = b.project(&format!("{at}.attn.v"), x, d, true)?;
    let own = firsts.map_or(Ok(x), |rows| b.rows(x, rows))?;
    let shape = b.g.shape(own).to_vec();
    let q = b.project(&format!("{at}.attn.q"), own, d, true)?;
    let q = b.g.reshape(q, &[b.g.shape(k)[0], if firsts.is_some() { 1 } else { shape[1] }, d])?;
    let scale = ((d / heads) as f32).powf(-0.5);
    let seen = Attention { q, k, v, heads, causal: false, lengths: Some(lengths), scale };
    let seen = b.g.attention(seen)?;
    let seen = b.g.reshape(seen, &shape)?;
    let x = b.linear(&format!("{at}.attn.out"), seen, d, Activation::None, Some(own))?;
    let x = b.layer_norm(&format!("{at}.norm1"), x, blocks.eps)?;
    let h = b.linear(&format!("{at}.mlp.up"), x, blocks.mlp, blocks.activation, None)?;
    let h = b.linear(&format!("{at}.mlp.down"), h, d, Activation::None, Some(x))?;
    b.layer_norm(&format!("{at}.norm2"), h, blocks.eps)
}
