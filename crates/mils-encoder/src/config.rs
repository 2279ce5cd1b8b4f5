//! config.json and preprocessor_config.json, with the defaults that `transformers` has for fields left out.
//!
//! Reference: `transformers/models/clip/configuration_clip.py` and `image_processing_clip.py`.

use crate::EncoderError;
use mils_graph::Activation;
use mils_media::{Crop, Preprocess, Resample, Resize};
use serde::Deserialize;
use serde_json::Value;
use std::path::Path;

/// What both towers have.
#[derive(Clone, Debug, PartialEq)]
pub struct TowerConfig {
    /// Width of the residual stream.
    pub hidden_size: usize,
    /// Width of the MLP.
    pub intermediate_size: usize,
    /// Number of blocks.
    pub layers: usize,
    /// Attention heads.
    pub heads: usize,
    /// MLP activation.
    pub activation: Activation,
    /// Epsilon of the layer norms.
    pub layer_norm_eps: f32,
}

/// The text tower.
#[derive(Clone, Debug, PartialEq)]
pub struct TextConfig {
    /// What both towers have.
    pub tower: TowerConfig,
    /// Rows of the token table.
    pub vocab_size: usize,
    /// Most tokens, with begin and end.
    pub max_positions: usize,
    /// The end-of-text token; 2 stands for old files, whose texts are pooled at the largest id.
    pub eos_token_id: u32,
}

/// The image tower.
#[derive(Clone, Debug, PartialEq)]
pub struct VisionConfig {
    /// What both towers have.
    pub tower: TowerConfig,
    /// Side of the input, in pixels.
    pub image_size: usize,
    /// Side of a patch.
    pub patch_size: usize,
}

/// A whole CLIP model.
#[derive(Clone, Debug, PartialEq)]
pub struct ClipConfig {
    /// The text tower.
    pub text: TextConfig,
    /// The image tower.
    pub vision: VisionConfig,
    /// Width of the shared space.
    pub projection_dim: usize,
}

#[derive(Deserialize)]
#[serde(default)]
struct RawText {
    hidden_size: usize,
    intermediate_size: usize,
    num_hidden_layers: usize,
    num_attention_heads: usize,
    hidden_act: String,
    layer_norm_eps: f32,
    vocab_size: usize,
    max_position_embeddings: usize,
    eos_token_id: Option<u32>,
}

impl Default for RawText {
    fn default() -> Self {
        Self {
            hidden_size: 512,
            intermediate_size: 2048,
            num_hidden_layers: 12,
            num_attention_heads: 8,
            hidden_act: "quick_gelu".into(),
            layer_norm_eps: 1e-5,
            vocab_size: 49408,
            max_position_embeddings: 77,
            eos_token_id: Some(49407),
        }
    }
}

#[derive(Deserialize)]
#[serde(default)]
struct RawVision {
    hidden_size: usize,
    intermediate_size: usize,
    num_hidden_layers: usize,
    num_attention_heads: usize,
    num_channels: usize,
    hidden_act: String,
    layer_norm_eps: f32,
    image_size: usize,
    patch_size: usize,
}

impl Default for RawVision {
    fn default() -> Self {
        Self {
            hidden_size: 768,
            intermediate_size: 3072,
            num_hidden_layers: 12,
            num_attention_heads: 12,
            num_channels: 3,
            hidden_act: "quick_gelu".into(),
            layer_norm_eps: 1e-5,
            image_size: 224,
            patch_size: 32,
        }
    }
}

/// A JSON file as a value.
pub(crate) fn read_json(path: &Path) -> Result<Value, EncoderError> {
    let text = std::fs::read_to_string(path).map_err(|e| match e.kind() {
        std::io::ErrorKind::NotFound => EncoderError::file(path, "is missing; a CLIP checkpoint folder has it"),
        _ => EncoderError::file(path, e),
    })?;
    serde_json::from_str(&text).map_err(|e| EncoderError::file(path, format!("not valid JSON: {e}")))
}

impl ClipConfig {
    /// Reads config.json.
    ///
    /// # Errors
    /// If the file is missing or not JSON, is of another model type, or has numbers that no CLIP has.
    pub fn read(path: &Path) -> Result<Self, EncoderError> {
        Self::from_json(&read_json(path)?).map_err(|problem| EncoderError::file(path, problem))
    }

    fn from_json(json: &Value) -> Result<Self, String> {
        match json.get("model_type").and_then(Value::as_str) {
            Some("clip") | None => {}
            Some(other) => return Err(format!("model_type is `{other}`; this version reads `clip`")),
        }
        let text: RawText = section(json, "text_config")?;
        let vision: RawVision = section(json, "vision_config")?;
        let projection_dim = match json.get("projection_dim") {
            None | Some(Value::Null) => 512,
            Some(v) => v.as_u64().and_then(|v| usize::try_from(v).ok()).ok_or("projection_dim is not a number")?,
        };
        if vision.num_channels != 3 {
            return Err(format!("vision_config: {} channels; only RGB models are supported", vision.num_channels));
        }
        let config = Self {
            text: TextConfig {
                tower: TowerConfig {
                    hidden_size: text.hidden_size,
                    intermediate_size: text.intermediate_size,
                    layers: text.num_hidden_layers,
                    heads: text.num_attention_heads,
                    activation: activation(&text.hidden_act)?,
                    layer_norm_eps: text.layer_norm_eps,
                },
                vocab_size: text.vocab_size,
                max_positions: text.max_position_embeddings,
                eos_token_id: text.eos_token_id.unwrap_or(49407),
            },
            vision: VisionConfig {
                tower: TowerConfig {
                    hidden_size: vision.hidden_size,
                    intermediate_size: vision.intermediate_size,
                    layers: vision.num_hidden_layers,
                    heads: vision.num_attention_heads,
                    activation: activation(&vision.hidden_act)?,
                    layer_norm_eps: vision.layer_norm_eps,
                },
                image_size: vision.image_size,
                patch_size: vision.patch_size,
            },
            projection_dim,
        };
        config.check()?;
        Ok(config)
    }

    /// Bounds that keep a damaged file from asking for absurd amounts of work or memory.
    fn check(&self) -> Result<(), String> {
        let within = |name: &str, value: usize, most: usize| {
            if (1..=most).contains(&value) { Ok(()) } else { Err(format!("{name} is {value}; expected 1 to {most}")) }
        };
        for (part, tower) in [("text_config", &self.text.tower), ("vision_config", &self.vision.tower)] {
            within(&format!("{part}: hidden_size"), tower.hidden_size, 1 << 14)?;
            within(&format!("{part}: intermediate_size"), tower.intermediate_size, 1 << 17)?;
            within(&format!("{part}: num_hidden_layers"), tower.layers, 256)?;
            within(&format!("{part}: num_attention_heads"), tower.heads, 256)?;
            if !tower.hidden_size.is_multiple_of(tower.heads) {
                return Err(format!("{part}: {} heads do not divide hidden_size {}", tower.heads, tower.hidden_size));
            }
            if !(tower.layer_norm_eps > 0.0 && tower.layer_norm_eps < 1.0) {
                return Err(format!("{part}: layer_norm_eps is {}", tower.layer_norm_eps));
            }
        }
        within("projection_dim", self.projection_dim, 1 << 14)?;
        within("text_config: vocab_size", self.text.vocab_size, 1 << 22)?;
        within("text_config: max_position_embeddings", self.text.max_positions, 1 << 14)?;
        within("vision_config: image_size", self.vision.image_size, 1 << 12)?;
        within("vision_config: patch_size", self.vision.patch_size, self.vision.image_size)?;
        let (image, patch) = (self.vision.image_size, self.vision.patch_size);
        if !image.is_multiple_of(patch) {
            return Err(format!("vision_config: patch_size {patch} does not divide image_size {image}"));
        }
        Ok(())
    }
}

/// A tower's section; `*_config_dict`, which old files have beside it, overrides it as in the reference.
fn section<T: Default + serde::de::DeserializeOwned>(json: &Value, name: &str) -> Result<T, String> {
    let mut merged = serde_json::Map::new();
    for key in [name.to_owned(), format!("{name}_dict")] {
        match json.get(&key) {
            None | Some(Value::Null) => {}
            Some(Value::Object(fields)) => merged.extend(fields.clone().into_iter().filter(|(_, v)| !v.is_null())),
            Some(_) => return Err(format!("{key} is not an object")),
        }
    }
    serde_json::from_value(Value::Object(merged)).map_err(|e| format!("{name}: {e}"))
}

fn activation(name: &str) -> Result<Activation, String> {
    match name {
        "quick_gelu" => Ok(Activation::QuickGelu),
        "gelu" | "gelu_python" => Ok(Activation::Gelu),
        "gelu_new" | "gelu_fast" | "gelu_pytorch_tanh" | "gelu_accurate" => Ok(Activation::GeluTanh),
        other => Err(format!("hidden_act `{other}` is not supported (quick_gelu, gelu, gelu_new are)")),
    }
}

/// Reads preprocessor_config.json into the steps of [`Preprocess`].
pub(crate) fn read_preprocess(path: &Path) -> Result<Preprocess, EncoderError> {
    preprocess(&read_json(path)?).map_err(|problem| EncoderError::file(path, problem))
}

fn preprocess(json: &Value) -> Result<Preprocess, String> {
    let flag = |name: &str| json.get(name).and_then(Value::as_bool).unwrap_or(true);
    let side = |v: &Value| v.as_u64().and_then(|n| u32::try_from(n).ok()).filter(|n| (1..=4096).contains(n));
    let bad = |name: &str| format!("`{name}` is not a size between 1 and 4096");
    let pair = |v: &Value| Some((side(v.get("height")?)?, side(v.get("width")?)?));
    let size = json.get("size");
    let resize = match size {
        _ if !flag("do_resize") => None,
        None => Some(Resize::ShortestEdge(224)),
        Some(v) if v.is_number() => Some(Resize::ShortestEdge(side(v).ok_or_else(|| bad("size"))?)),
        Some(v) => match (v.get("shortest_edge").and_then(side), pair(v)) {
            (Some(edge), _) => Some(Resize::ShortestEdge(edge)),
            (None, Some((height, width))) => Some(Resize::Exact { height, width }),
            (None, None) => return Err(bad("size")),
        },
    };
    let crop = match json.get("crop_size") {
        _ if !flag("do_center_crop") => None,
        None => Some(Crop { height: 224, width: 224 }),
        Some(v) if v.is_number() => {
            let n = side(v).ok_or_else(|| bad("crop_size"))?;
            Some(Crop { height: n, width: n })
        }
        Some(v) => {
            let (height, width) = pair(v).ok_or_else(|| bad("crop_size"))?;
            Some(Crop { height, width })
        }
    };
    let triple = |name: &str, default: [f32; 3]| -> Result<[f32; 3], String> {
        let Some(value) = json.get(name) else { return Ok(default) };
        let numbers: Option<Vec<f32>> =
            value.as_array().and_then(|all| all.iter().map(|v| v.as_f64().map(|v| v as f32)).collect());
        numbers.and_then(|n| n.try_into().ok()).ok_or_else(|| format!("`{name}` is not three numbers"))
    };
    let mean = triple("image_mean", [0.481_454_66, 0.457_827_5, 0.408_210_73])?;
    let std = triple("image_std", [0.268_629_54, 0.261_302_6, 0.275_777_1])?;
    if std.iter().any(|s| s.abs() < 1e-6) {
        return Err("`image_std` has a zero".into());
    }
    let number = json.get("resample").and_then(Value::as_u64).unwrap_or(3);
    let factor = json.get("rescale_factor").and_then(Value::as_f64).unwrap_or(1.0 / 255.0) as f32;
    Ok(Preprocess {
        resize,
        resample: Resample::from_pillow(number).ok_or_else(|| format!("`resample` {number} is not a filter"))?,
        crop,
        rescale: flag("do_rescale").then_some(factor),
        normalize: flag("do_normalize").then_some((mean, std)),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn absent_fields_get_the_reference_defaults() {
        let config = ClipConfig::from_json(&json!({"model_type": "clip"})).unwrap();
        assert_eq!((config.text.vocab_size, config.vision.patch_size, config.projection_dim), (49408, 32, 512));
        let old = json!({"text_config": {"hidden_size": 64}, "text_config_dict": {"hidden_size": 128}});
        assert_eq!(ClipConfig::from_json(&old).unwrap().text.tower.hidden_size, 128);
    }

    #[test]
    fn absurd_numbers_are_refused() {
        for (bad, says) in [
            (json!({"model_type": "siglip"}), "siglip"),
            (json!({"text_config": {"num_attention_heads": 0}}), "num_attention_heads"),
            (json!({"text_config": {"hidden_size": 100}}), "do not divide"),
            (json!({"vision_config": {"num_hidden_layers": 4_000_000_000_u64}}), "num_hidden_layers"),
            (json!({"vision_config": {"patch_size": 33}}), "does not divide"),
            (json!({"vision_config": {"hidden_act": "relu6"}}), "relu6"),
            (json!({"vision_config": 3}), "not an object"),
            (json!({"text_config": {"hidden_size": -1}}), "text_config"),
        ] {
            let error = ClipConfig::from_json(&bad).unwrap_err();
            assert!(error.contains(says), "{error}");
        }
    }

    #[test]
    fn both_generations_of_preprocessor_files_are_read() {
        let old = preprocess(&json!({"size": 224, "crop_size": 224, "resample": 3})).unwrap();
        assert_eq!(old.resize, Some(Resize::ShortestEdge(224)));
        assert_eq!(old.crop, Some(Crop { height: 224, width: 224 }));
        let new = json!({"size": {"height": 30, "width": 40}, "do_center_crop": false, "resample": 2});
        let new = preprocess(&new).unwrap();
        assert_eq!((new.resize, new.crop), (Some(Resize::Exact { height: 30, width: 40 }), None));
        assert!(preprocess(&json!({"size": {"longest_edge": 3}})).is_err());
        assert!(preprocess(&json!({"size": 224, "image_std": [1, 0, 1]})).is_err());
    }
}
