//! The audio tower as a graph; the text tower is CLIP's ([`crate::forward::text`]).

use super::arch::ImageBindArchitecture;
use crate::forward::{Builder, Pooled, Stack};
use mils_graph::{Graph, GraphError};

/// Inputs: patches f32 [clips, patches, patch · patch]; rows u32 [clips], where in [clips · tokens] each class token is.
/// Output: [clips, dim], length 1.
pub(crate) fn audio(arch: &ImageBindArchitecture, clips: usize) -> Result<Graph, GraphError> {
    let tower = &arch.audio;
    let (blocks, d) = (&tower.blocks, tower.blocks.width);
    let mut b = Builder::new();
    let patches = b.g.input("patches", &[clips, tower.tokens() - 1, tower.patch * tower.patch])?;
    let rows = b.g.index_input("pooled rows", &[clips])?;
    let x = b.project("audio.patch", patches, d, false)?;
    let x = b.layer_norm("audio.patch_norm", x, tower.patch_eps)?;
    let class = b.g.weight("audio.class", &[d])?;
    let x = b.g.prepend_token(class, x)?;
    let positions = b.g.weight("audio.positions", &[tower.tokens(), d])?;
    let x = b.g.add(x, positions)?;
    let pooled = Some(Pooled { rows, sees: None });
    let stack = Stack { tower: "audio", blocks, causal: false, bias_kv: true, lengths: None, rope: None, pooled };
    let x = b.blocks(&stack, x)?;
    let x = b.layer_norm("audio.norm_post", x, blocks.eps)?;
    let x = b.project("audio.projection", x, arch.dim, false)?;
    b.finish(x)
}
