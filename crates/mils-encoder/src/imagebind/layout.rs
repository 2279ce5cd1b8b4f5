//! What the tensors of the published file are called, and the sizes that they say. There is no configuration to read:
//! what tensors do not say (heads of 64, GELU, epsilons, the stride) is that of `imagebind_huge`.

use super::arch::{AudioTower, ImageBindArchitecture};
use crate::arch::{Blocks, Projection, TextPool, TextTower};
use crate::tensors::{List, Source, Tensor};
use mils_graph::Activation;

/// What every checkpoint with the audio tower has.
pub(crate) const SIGN: &str = "modality_trunks.audio.blocks.0.attn.bias_k";
/// Logarithm of the factor of normalised texts; the reference holds the factor itself at [`MOST_SCALE`].
pub(crate) const TEXT_SCALE: &str = "modality_postprocessors.text.1.log_logit_scale";
/// The same of normalised clips.
pub(crate) const AUDIO_SCALE: &str = "modality_postprocessors.audio.1.log_logit_scale";
/// Largest factor.
pub(crate) const MOST_SCALE: f32 = 100.0;
/// Width of a head, in both towers.
const HEAD: usize = 64;
/// From one patch to the next.
const STRIDE: usize = 10;

/// Whether a tensor belongs to what is not read here: the other senses, and the causal mask.
pub(crate) fn is_elsewhere(name: &str) -> bool {
    let mut parts = name.split('.');
    let (group, sense) = (parts.next().unwrap_or_default(), parts.next().unwrap_or_default());
    name == "modality_preprocessors.text.mask"
        || group.starts_with("modality_") && matches!(sense, "vision" | "depth" | "thermal" | "imu")
}

pub(crate) fn architecture<'a>(shape: impl Fn(&str) -> Option<&'a [usize]>) -> Result<ImageBindArchitecture, String> {
    let of = |name: &str| shape(name).ok_or_else(|| format!("has no tensor `{name}`, which ImageBind has"));
    let two = |name: &str| match of(name)? {
        &[rows, columns] => Ok((rows, columns)),
        found => Err(format!("tensor `{name}` should be a matrix but is {found:?}")),
    };
    let conv = "modality_preprocessors.audio.rgbt_stem.proj.weight";
    let patch = match of(conv)? {
        &[_, 1, rows, columns] if rows == columns => rows,
        found => return Err(format!("tensor `{conv}` should be [width, 1, patch, patch] but is {found:?}")),
    };
    let positions = "modality_preprocessors.text.pos_embed";
    let context = match of(positions)? {
        &[1, context, _] => context,
        found => return Err(format!("tensor `{positions}` should be [1, tokens, width] but is {found:?}")),
    };
    let (vocab, _) = two("modality_preprocessors.text.token_embedding.weight")?;
    let (dim, _) = two("modality_heads.audio.2.weight")?;
    let blocks = |sense: &str| {
        let at = |layer: usize, name: &str| format!("modality_trunks.{sense}.blocks.{layer}.{name}");
        let (mlp, width) = two(&at(0, "mlp.fc1.weight"))?;
        let layers = (0..).take_while(|&layer| shape(&at(layer, "norm_1.weight")).is_some()).count();
        Ok::<_, String>(Blocks { width, mlp, layers, heads: width / HEAD, activation: Activation::Gelu, eps: 1e-6 })
    };
    Ok(ImageBindArchitecture {
        audio: AudioTower { blocks: blocks("audio")?, patch, stride: STRIDE, patch_eps: 1e-5 },
        text: TextTower {
            blocks: blocks("text")?,
            vocab,
            context,
            causal: true,
            pool: TextPool::LargestId,
            projection: Some(Projection { bias: false }),
        },
        dim,
    })
}

/// Every tensor, but for the scales.
pub(crate) fn tensors(arch: &ImageBindArchitecture) -> Vec<Tensor> {
    let mut list = List::default();
    let (audio, d) = (&arch.audio, arch.audio.blocks.width);
    list.linear("audio.patch", [d, audio.patch * audio.patch], false);
    list.norm("audio.patch_norm", d);
    list.vector("audio.class", &[d]);
    list.vector("audio.positions", &[audio.tokens(), d]);
    list.blocks("audio", &audio.blocks);
    for layer in 0..audio.blocks.layers {
        for name in ["bias_k", "bias_v"] {
            list.vector(&format!("audio.blocks.{layer}.attn.{name}"), &[d]);
        }
    }
    list.norm("audio.norm_post", d);
    list.projection("audio", Some(Projection { bias: false }), [arch.dim, d]);
    list.text_tower(&arch.text, arch.dim);
    list.0
}

/// Where a tensor is.
pub(crate) fn source(arch: &ImageBindArchitecture, tensor: &Tensor) -> Source {
    let parts = tensor.parts();
    let (leaf, audio) = (parts.leaf, tensor.name.starts_with("audio."));
    let sense = if audio { "audio" } else { "text" };
    let before = format!("modality_preprocessors.{sense}");
    let head = format!("modality_heads.{sense}");
    if let Some(block) = parts.block {
        let at = format!("modality_trunks.{sense}.blocks.{block}");
        let name = match parts.stem {
            "norm1" => "norm_1",
            "norm2" => "norm_2",
            "attn.q" => return tensor.part(format!("{at}.attn.in_proj_{leaf}"), 0, 3),
            "attn.k" => return tensor.part(format!("{at}.attn.in_proj_{leaf}"), 1, 3),
            "attn.v" => return tensor.part(format!("{at}.attn.in_proj_{leaf}"), 2, 3),
            "attn.bias_k" | "attn.bias_v" => return tensor.padded(format!("{at}.{}", parts.stem), 3),
            "attn.out" => "attn.out_proj",
            "mlp.up" => "mlp.fc1",
            "mlp.down" => "mlp.fc2",
            other => other,
        };
        return tensor.whole(format!("{at}.{name}.{leaf}"));
    }
    match (parts.stem, audio) {
        ("patch", _) => {
            let shape = vec![arch.audio.blocks.width, 1, arch.audio.patch, arch.audio.patch];
            Source { shape, ..tensor.whole(format!("{before}.rgbt_stem.proj.{leaf}")) }
        }
        ("patch_norm", _) => tensor.whole(format!("{before}.rgbt_stem.norm_layer.{leaf}")),
        ("class", _) => tensor.padded(format!("{before}.cls_token"), 3),
        ("positions", true) => tensor.padded(format!("{before}.pos_embedding_helper.pos_embed"), 3),
        ("positions", false) => tensor.padded(format!("{before}.pos_embed"), 3),
        ("tokens", _) => tensor.whole(format!("{before}.token_embedding.weight")),
        ("norm_post", true) => tensor.whole(format!("{head}.0.{leaf}")),
        ("norm_post", false) => tensor.whole(format!("{head}.proj.0.{leaf}")),
        ("projection", true) => tensor.whole(format!("{head}.2.{leaf}")),
        ("projection", false) => tensor.whole(format!("{head}.proj.1.{leaf}")),
        (other, _) => tensor.whole(format!("{head}.{other}.{leaf}")),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]

    use super::*;
    use std::collections::BTreeMap;

    /// Shapes of `imagebind_huge.pth`; of its blocks, one in place of 12 and 24.
    fn published() -> BTreeMap<&'static str, Vec<usize>> {
        BTreeMap::from([
            ("modality_preprocessors.audio.rgbt_stem.proj.weight", vec![768, 1, 16, 16]),
            ("modality_preprocessors.text.pos_embed", vec![1, 77, 1024]),
            ("modality_preprocessors.text.token_embedding.weight", vec![49408, 1024]),
            ("modality_heads.audio.2.weight", vec![1024, 768]),
            ("modality_trunks.audio.blocks.0.mlp.fc1.weight", vec![3072, 768]),
            ("modality_trunks.audio.blocks.0.norm_1.weight", vec![768]),
            ("modality_trunks.text.blocks.0.mlp.fc1.weight", vec![4096, 1024]),
            ("modality_trunks.text.blocks.0.norm_1.weight", vec![1024]),
        ])
    }

    #[test]
    fn sizes_are_those_of_the_published_file() {
        let shapes = published();
        let arch = architecture(|name| shapes.get(name).map(Vec::as_slice)).unwrap();
        assert!(arch.check().is_ok());
        assert_eq!((arch.audio.blocks.heads, arch.audio.tokens(), arch.dim), (12, 229, 1024));
        assert_eq!((arch.text.blocks.heads, arch.text.context, arch.text.vocab), (16, 77, 49408));
    }

    #[test]
    fn shapes_that_cannot_be_are_refused() {
        for (name, shape, says) in [
            ("modality_preprocessors.audio.rgbt_stem.proj.weight", vec![768, 3, 16, 16], "should be [width, 1,"),
            ("modality_preprocessors.audio.rgbt_stem.proj.weight", vec![768, 1, 200, 200], "patch size is 200"),
            ("modality_preprocessors.text.pos_embed", vec![77, 1024], "should be [1, tokens"),
            ("modality_trunks.audio.blocks.0.mlp.fc1.weight", vec![3072, 0], "the width is 0"),
            ("modality_heads.audio.2.weight", vec![0, 768], "shared space is 0"),
        ] {
            let mut shapes = published();
            shapes.insert(name, shape);
            let arch = architecture(|name| shapes.get(name).map(Vec::as_slice));
            let error = arch.and_then(|arch| arch.check()).unwrap_err();
            assert!(error.contains(says), "{error}");
        }
    }

    #[test]
    fn other_senses_are_passed_over_and_nothing_else() {
        for name in [
            "modality_preprocessors.vision.cls_token",
            "modality_trunks.imu.blocks.3.attn.bias_k",
            "modality_heads.depth.0.weight",
            "modality_postprocessors.thermal.1.log_logit_scale",
            "modality_preprocessors.text.mask",
        ] {
            assert!(is_elsewhere(name), "{name}");
        }
        for name in [SIGN, TEXT_SCALE, "vision", "other.vision.x", "modality_heads.smell.0.weight"] {
            assert!(!is_elsewhere(name), "{name}");
        }
    }
}
