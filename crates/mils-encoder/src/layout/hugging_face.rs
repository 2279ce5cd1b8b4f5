//! Checkpoints of transformers: `CLIPModel`, `SiglipModel` (SigLIP, and SigLIP 2 of one resolution) and `Siglip2Model`
//! (NaFlex), with the defaults that transformers has for fields left out.
//!
//! Reference: `configuration_clip.py`, `configuration_siglip.py` and `configuration_siglip2.py` of transformers.

use super::fields::{Fields, activation, as_count, read_json};
use super::{Description, Names, check_size, processor};
use crate::EncoderError;
use crate::arch::{
    Architecture, Blocks, Calibration, ImagePool, ImageSize, ImageTower, Projection, TextPool, TextTower,
};
use crate::tensors::{Source, Tensor};
use crate::tokenizer::Cleaning;
use mils_media::Resize;
use serde_json::Value;
use std::path::Path;

/// The file of the weights.
pub(crate) const WEIGHTS: &str = "model.safetensors";

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Family {
    Clip,
    Siglip,
    Naflex,
}

/// Whether there is a config.json of a family that is read here.
pub(crate) fn reads(path: &Path) -> Result<bool, EncoderError> {
    Ok(path.exists() && family(&read_json(path)?).is_ok())
}

/// Reads config.json and the processor's file.
pub(crate) fn describe(folder: &Path, path: &Path) -> Result<Description, EncoderError> {
    let fail = |problem: String| EncoderError::file(path, problem);
    let json = read_json(path)?;
    let family = family(&json).map_err(fail)?;
    let mut arch = architecture(&json, family).map_err(fail)?;
    let kind = match family {
        Family::Clip => processor::Kind::Clip,
        Family::Siglip => processor::Kind::Siglip,
        Family::Naflex => processor::Kind::Naflex { patch: arch.image.patch },
    };
    let (processor_path, preprocess) = processor::read(folder, kind)?;
    if let (ImageSize::Flexible { most_patches, .. }, Some(Resize::Patches { patch, most })) =
        (&mut arch.image.size, preprocess.resize)
    {
        if patch as usize != arch.image.patch {
            let problem = format!("patch_size is {patch}, but config.json has {}", arch.image.patch);
            return Err(EncoderError::file(&processor_path, problem));
        }
        *most_patches = most as usize;
    }
    check_size(&arch, &preprocess).map_err(|problem| EncoderError::file(&processor_path, problem))?;
    let cleaning = cleaning(folder, family)?;
    let config = path.into();
    Ok(Description { arch, preprocess, names: Names::HuggingFace, config, weights: WEIGHTS, cleaning })
}

/// What the reference's tokenizer classes do and tokenizer.json does not have. `SiglipTokenizer` takes punctuation and
/// capitals away. SigLIP 2 was trained on lower-cased text, which `Siglip2Tokenizer` does where config.json says
/// `siglip2`; other files of it name Gemma's tokenizer, and say `do_lower_case`.
fn cleaning(folder: &Path, family: Family) -> Result<Option<Cleaning>, EncoderError> {
    let path = folder.join("tokenizer_config.json");
    let json = if path.exists() { read_json(&path)? } else { Value::Null };
    let class = json.get("tokenizer_class").and_then(Value::as_str).unwrap_or_default();
    let lower = json.get("do_lower_case").and_then(Value::as_bool) == Some(true);
    Ok(match (class.trim_end_matches("Fast"), family) {
        (_, Family::Clip) => None,
        ("SiglipTokenizer", _) => Some(Cleaning::Siglip),
        (_, Family::Naflex) => Some(Cleaning::Lower),
        ("Siglip2Tokenizer", _) => Some(Cleaning::Lower),
        (_, Family::Siglip) => lower.then_some(Cleaning::Lower),
    })
}

fn family(json: &Value) -> Result<Family, String> {
    match json.get("model_type").and_then(Value::as_str) {
        Some("clip") | None => Ok(Family::Clip),
        Some("siglip") => Ok(Family::Siglip),
        Some("siglip2") => Ok(Family::Naflex),
        Some("clap") => Err("model_type is `clap`: this model compares sounds with texts, not pictures".into()),
        Some(other) => Err(format!("model_type is `{other}`; this version reads `clip`, `siglip` and `siglip2`")),
    }
}

fn architecture(json: &Value, family: Family) -> Result<Architecture, String> {
    match family {
        Family::Clip => clip(json),
        Family::Siglip => siglip(json, false),
        Family::Naflex => siglip(json, true),
    }
}

/// A tower's section. Old files have `*_config_dict` beside it: as in the reference it overrides the section whole,
/// with the defaults for what it leaves out.
fn section(json: &Value, name: &str, at: &'static str) -> Result<Fields, String> {
    let old = format!("{name}_dict");
    let old = Some(old).filter(|key| json.get(key).is_some_and(|v| !v.is_null()));
    Fields::section(json, old.as_deref().unwrap_or(name), at)
}

/// What both towers have; the defaults are width, MLP width and heads, activation, and epsilon.
fn blocks(fields: &Fields, [width, mlp, heads]: [usize; 3], act: &str, eps: f32) -> Result<Blocks, String> {
    let name = fields.text("hidden_act", act)?;
    Ok(Blocks {
        width: fields.count("hidden_size", width)?,
        mlp: fields.count("intermediate_size", mlp)?,
        layers: fields.count("num_hidden_layers", 12)?,
        heads: fields.count("num_attention_heads", heads)?,
        activation: activation(&name).map_err(|problem| fields.problem(problem))?,
        eps: fields.float("layer_norm_eps", eps)?,
    })
}

/// Both sections; the models are for three channels.
fn sections(json: &Value) -> Result<(Fields, Fields), String> {
    let text = section(json, "text_config", "text_config: ")?;
    let vision = section(json, "vision_config", "vision_config: ")?;
    let channels = vision.count("num_channels", 3)?;
    if channels == 3 {
        Ok((text, vision))
    } else {
        Err(vision.problem(format!("{channels} channels; only RGB models are supported")))
    }
}

/// `patch_size`, which is a square's.
fn patch(vision: &Fields, default: usize) -> Result<usize, String> {
    let (height, width) = vision.size("patch_size", default)?;
    if height == width { Ok(height) } else { Err(vision.problem("patches that are no squares are not supported")) }
}

fn clip(json: &Value) -> Result<Architecture, String> {
    let top = Fields::whole(json)?;
    let (text, vision) = sections(json)?;
    let id = |v: &Value| u32::try_from(v.as_u64()?).ok();
    // Old files say 2 and mean the largest id.
    let pool = match text.get("eos_token_id", 49407, "one token id", id)? {
        2 => TextPool::LargestId,
        end => TextPool::EndToken(end),
    };
    let (height, width) = vision.size("image_size", 224)?;
    let projection = Some(Projection { bias: false });
    Ok(Architecture {
        image: ImageTower {
            blocks: blocks(&vision, [768, 3072, 12], "quick_gelu", 1e-5)?,
            frames: 1,
            patch: patch(&vision, 32)?,
            size: ImageSize::Fixed { height, width },
            class_token: true,
            patch_bias: false,
            norm_pre: true,
            rope: None,
            pool: ImagePool::ClassToken,
            projection,
        },
        text: TextTower {
            blocks: blocks(&text, [512, 2048, 8], "quick_gelu", 1e-5)?,
            vocab: text.count("vocab_size", 49408)?,
            context: text.count("max_position_embeddings", 77)?,
            causal: true,
            pool,
            projection,
        },
        dim: top.count("projection_dim", 512)?,
        calibration: Calibration::Softmax,
    })
}

fn siglip(json: &Value, naflex: bool) -> Result<Architecture, String> {
    let (text, vision) = sections(json)?;
    if !vision.switch("vision_use_head", true)? {
        return Err(vision.problem("vision_use_head is false; a model without its head has no embeddings to compare"));
    }
    let image = blocks(&vision, [768, 3072, 12], "gelu_pytorch_tanh", 1e-6)?;
    let size = if naflex {
        let patches = vision.count("num_patches", 256)?;
        let grid = patches.isqrt();
        if grid * grid != patches {
            return Err(vision.problem(format!("num_patches is {patches}; expected a square number")));
        }
        // The processor says how many patches a picture may have.
        ImageSize::Flexible { most_patches: patches, grid }
    } else {
        let (height, width) = vision.size("image_size", 224)?;
        ImageSize::Fixed { height, width }
    };
    let pool = ImagePool::Attention { heads: image.heads, mlp: image.mlp };
    let blocks = blocks(&text, [768, 3072, 12], "gelu_pytorch_tanh", 1e-6)?;
    Ok(Architecture {
        dim: text.get("projection_size", blocks.width, "a whole number", as_count)?,
        image: ImageTower {
            blocks: image,
            frames: 1,
            patch: patch(&vision, 16)?,
            size,
            class_token: false,
            patch_bias: true,
            norm_pre: false,
            rope: None,
            pool,
            projection: None,
        },
        text: TextTower {
            blocks,
            vocab: text.count("vocab_size", 32000)?,
            context: text.count("max_position_embeddings", 64)?,
            causal: false,
            pool: TextPool::Last,
            projection: Some(Projection { bias: true }),
        },
        calibration: Calibration::Sigmoid,
    })
}

/// Where a tensor is.
pub(crate) fn source(arch: &Architecture, tensor: &Tensor) -> Source {
    let parts = tensor.parts();
    let leaf = parts.leaf;
    let tower = if parts.image { "vision_model" } else { "text_model" };
    let pooling = ["q", "k", "v"].iter().position(|name| parts.stem.strip_prefix("pool.attn.") == Some(name));
    let stem = match parts.stem {
        "norm1" => "layer_norm1",
        "norm2" => "layer_norm2",
        "attn.q" => "self_attn.q_proj",
        "attn.k" => "self_attn.k_proj",
        "attn.v" => "self_attn.v_proj",
        "attn.out" => "self_attn.out_proj",
        "mlp.up" => "mlp.fc1",
        "mlp.down" => "mlp.fc2",
        "patch" if matches!(arch.image.size, ImageSize::Fixed { .. }) && leaf == "weight" => {
            return tensor.convolution(format!("{tower}.embeddings.patch_embedding.weight"), arch.image.patch);
        }
        "patch" => "embeddings.patch_embedding",
        "class" => return tensor.whole(format!("{tower}.embeddings.class_embedding")),
        "tokens" => return tensor.whole(format!("{tower}.embeddings.token_embedding.weight")),
        "positions" => return tensor.whole(format!("{tower}.embeddings.position_embedding.weight")),
        "norm_pre" => "pre_layrnorm",
        "norm_post" if parts.image => "post_layernorm",
        "norm_post" => "final_layer_norm",
        "pool.probe" => return tensor.padded(format!("{tower}.head.probe"), 3),
        "pool.attn.out" => "head.attention.out_proj",
        "pool.norm" => "head.layernorm",
        "pool.mlp.up" => "head.mlp.fc1",
        "pool.mlp.down" => "head.mlp.fc2",
        "projection" if arch.calibration == Calibration::Sigmoid => "head",
        "projection" if parts.image => return tensor.whole(format!("visual_projection.{leaf}")),
        "projection" => return tensor.whole(format!("text_projection.{leaf}")),
        other => other,
    };
    match (pooling, parts.block) {
        (Some(part), _) => tensor.part(format!("{tower}.head.attention.in_proj_{leaf}"), part, 3),
        (None, Some(block)) => tensor.whole(format!("{tower}.encoder.layers.{block}.{stem}.{leaf}")),
        (None, None) => tensor.whole(format!("{tower}.{stem}.{leaf}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn read(json: &Value) -> Result<Architecture, String> {
        let arch = architecture(json, family(json)?)?;
        arch.check().map(|()| arch)
    }

    #[test]
    fn absent_fields_get_the_reference_defaults() {
        let clip = read(&json!({"model_type": "clip"})).unwrap();
        assert_eq!((clip.text.vocab, clip.image.patch, clip.dim), (49408, 32, 512));
        let siglip = read(&json!({"model_type": "siglip"})).unwrap();
        assert_eq!((siglip.text.vocab, siglip.image.patch, siglip.dim, siglip.text.context), (32000, 16, 768, 64));
        let naflex = read(&json!({"model_type": "siglip2"})).unwrap();
        assert_eq!(naflex.image.size, ImageSize::Flexible { most_patches: 256, grid: 16 });
    }

    #[test]
    fn an_old_dict_overrides_its_section_whole() {
        let old = json!({
            "text_config": {"hidden_size": 64, "layer_norm_eps": 0.001, "num_hidden_layers": 3},
            "text_config_dict": {"hidden_size": 128, "num_hidden_layers": null},
        });
        // As CLIPConfig(text_config=..., text_config_dict=...) of transformers 5.
        let blocks = read(&old).unwrap().text.blocks;
        assert_eq!((blocks.width, blocks.eps, blocks.layers), (128, 1e-5, 12));
        let none = json!({"text_config": {"hidden_size": 64}, "text_config_dict": null});
        assert_eq!(read(&none).unwrap().text.blocks.width, 64);
    }

    #[test]
    fn absurd_numbers_are_refused() {
        for (bad, says) in [
            (json!({"model_type": "blip"}), "blip"),
            (json!({"text_config": {"num_attention_heads": 0}}), "attention heads is 0"),
            (json!({"text_config": {"hidden_size": 100}}), "do not divide"),
            (json!({"vision_config": {"num_hidden_layers": 4_000_000_000_u64}}), "number of layers"),
            (json!({"vision_config": {"patch_size": 333}}), "patch size is 333; expected 1 to 224"),
            (json!({"vision_config": {"hidden_act": "relu6"}}), "relu6"),
            (json!({"vision_config": 3}), "not an object"),
            (json!({"text_config": {"hidden_size": -1}}), "text_config: hidden_size is -1; expected"),
            (json!({"text_config": {"eos_token_id": [1, 2]}}), "text_config: eos_token_id is [1,2]"),
            (json!({"text_config": {"hidden_act": 3}}), "text_config: hidden_act is 3"),
            (json!({"vision_config": {"hidden_act": "silu"}}), "vision_config: hidden_act `silu`"),
            (json!({"vision_config": {"layer_norm_eps": 1e300}}), "layer_norm_eps"),
            (json!({"vision_config": {"patch_size": 0}}), "patch size"),
            (json!({"vision_config": {"patch_size": 1, "image_size": 4096}}), "number of patches is 16777216"),
            (json!({"vision_config": {"patch_size": [16, 14]}}), "no squares"),
            (json!({"vision_config": {"num_channels": 1}}), "1 channels"),
            (json!({"vision_config_dict": []}), "vision_config_dict is not an object"),
            (json!({"projection_dim": "wide"}), "projection_dim is \"wide\""),
            (json!({"model_type": "siglip", "vision_config": {"vision_use_head": false}}), "vision_use_head"),
            (json!({"model_type": "siglip", "text_config": {"hidden_size": 144, "projection_size": 100}}), "width 768"),
            (json!({"model_type": "siglip2", "vision_config": {"num_patches": 255}}), "square number"),
            (json!([1]), "not a JSON object"),
        ] {
            let error = read(&bad).unwrap_err();
            assert!(error.contains(says), "{error}");
        }
    }
}
