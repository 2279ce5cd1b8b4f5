//! config.json and the image processor's file, with the defaults that `transformers` has for fields left out.
//!
//! Reference: `transformers/models/clip/configuration_clip.py` and `image_processing_clip.py`.

use crate::EncoderError;
use crate::files::read_text;
use mils_graph::Activation;
use mils_media::{Crop, Preprocess, Resample, Resize};
use serde_json::{Map, Value};
use std::path::{Path, PathBuf};

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
    /// Most tokens, with begin and end: rows of the position table.
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

/// An object of a JSON file, read field by field, so that an error names the field.
struct Fields {
    /// Where it is in the file, for messages: empty, or with a colon and a space behind it.
    at: &'static str,
    map: Map<String, Value>,
}

impl Fields {
    /// A field by `read`, or the default where it is absent or null.
    fn get<T>(&self, name: &str, default: T, expected: &str, read: impl Fn(&Value) -> Option<T>) -> Result<T, String> {
        match self.map.get(name) {
            None | Some(Value::Null) => Ok(default),
            Some(value) => read(value).ok_or_else(|| self.unexpected(name, value, expected)),
        }
    }

    fn unexpected(&self, name: &str, value: &Value, expected: &str) -> String {
        let found: String = value.to_string().chars().take(60).collect();
        format!("{}{name} is {found}; expected {expected}", self.at)
    }

    fn count(&self, name: &str, default: usize) -> Result<usize, String> {
        self.get(name, default, "a whole number", |v| usize::try_from(v.as_u64()?).ok())
    }

    fn float(&self, name: &str, default: f32) -> Result<f32, String> {
        self.get(name, default, "a number", float)
    }

    /// A switch: on where it is absent, off where it is null, as the reference's processors take it.
    fn flag(&self, name: &str) -> Result<bool, String> {
        match self.map.get(name) {
            None => Ok(true),
            Some(Value::Null) => Ok(false),
            Some(value) => value.as_bool().ok_or_else(|| self.unexpected(name, value, "true or false")),
        }
    }

    /// What both towers have; the defaults are width, MLP width and heads.
    fn tower(&self, [hidden, intermediate, heads]: [usize; 3]) -> Result<TowerConfig, String> {
        let name = self.get("hidden_act", "quick_gelu".into(), "a name", |v| v.as_str().map(str::to_owned))?;
        Ok(TowerConfig {
            hidden_size: self.count("hidden_size", hidden)?,
            intermediate_size: self.count("intermediate_size", intermediate)?,
            layers: self.count("num_hidden_layers", 12)?,
            heads: self.count("num_attention_heads", heads)?,
            activation: activation(&name).map_err(|problem| format!("{}{problem}", self.at))?,
            layer_norm_eps: self.float("layer_norm_eps", 1e-5)?,
        })
    }
}

/// A number that is finite in f32.
fn float(value: &Value) -> Option<f32> {
    value.as_f64().map(|v| v as f32).filter(|v| v.is_finite())
}

/// A JSON file as a value.
pub(crate) fn read_json(path: &Path) -> Result<Value, EncoderError> {
    serde_json::from_str(&read_text(path)?).map_err(|e| EncoderError::file(path, format!("not valid JSON: {e}")))
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
        let text = section(json, "text_config", "text_config: ")?;
        let vision = section(json, "vision_config", "vision_config: ")?;
        let top = Fields { at: "", map: json.as_object().cloned().ok_or("is not a JSON object")? };
        let channels = vision.count("num_channels", 3)?;
        if channels != 3 {
            return Err(format!("vision_config: {channels} channels; only RGB models are supported"));
        }
        let id = |v: &Value| u32::try_from(v.as_u64()?).ok();
        let config = Self {
            text: TextConfig {
                tower: text.tower([512, 2048, 8])?,
                vocab_size: text.count("vocab_size", 49408)?,
                max_positions: text.count("max_position_embeddings", 77)?,
                eos_token_id: text.get("eos_token_id", 49407, "one token id", id)?,
            },
            vision: VisionConfig {
                tower: vision.tower([768, 3072, 12])?,
                image_size: vision.count("image_size", 224)?,
                patch_size: vision.count("patch_size", 32)?,
            },
            projection_dim: top.count("projection_dim", 512)?,
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
        within("vision_config: the number of patches", (image / patch).pow(2), 1 << 14)?;
        Ok(())
    }
}

/// A tower's section. Old files have `*_config_dict` beside it: as in the reference it overrides the section whole,
/// with the defaults for what it leaves out.
fn section(json: &Value, name: &str, at: &'static str) -> Result<Fields, String> {
    for key in [&format!("{name}_dict"), name] {
        match json.get(key) {
            None | Some(Value::Null) => {}
            Some(Value::Object(map)) => return Ok(Fields { at, map: map.clone() }),
            Some(_) => return Err(format!("{key} is not an object")),
        }
    }
    Ok(Fields { at, map: Map::new() })
}

fn activation(name: &str) -> Result<Activation, String> {
    match name {
        "quick_gelu" => Ok(Activation::QuickGelu),
        "gelu" | "gelu_python" => Ok(Activation::Gelu),
        "gelu_new" | "gelu_fast" | "gelu_pytorch_tanh" | "gelu_accurate" => Ok(Activation::GeluTanh),
        other => Err(format!("hidden_act `{other}` is not supported (quick_gelu, gelu, gelu_new are)")),
    }
}

/// The image processor's steps, with the file that has them: processor_config.json where it has an `image_processor`,
/// as transformers 5 writes it, otherwise preprocessor_config.json.
pub(crate) fn read_preprocess(folder: &Path) -> Result<(PathBuf, Preprocess), EncoderError> {
    let (nested, plain) = (folder.join("processor_config.json"), folder.join("preprocessor_config.json"));
    let mut json = if nested.exists() { read_json(&nested)? } else { Value::Null };
    let (path, json) = match json.get_mut("image_processor").map(Value::take) {
        Some(inner) if !inner.is_null() => (nested, inner),
        _ => (plain.clone(), read_json(&plain)?),
    };
    let steps = preprocess(&json).map_err(|problem| EncoderError::file(&path, problem))?;
    Ok((path, steps))
}

fn preprocess(json: &Value) -> Result<Preprocess, String> {
    let fields = Fields { at: "", map: json.as_object().cloned().ok_or("is not a JSON object")? };
    let resize = match json.get("size") {
        _ if !fields.flag("do_resize")? => None,
        None => Some(Resize::ShortestEdge(224)),
        Some(v) => {
            let expected = "n, {\"shortest_edge\": n} or {\"height\": n, \"width\": n} with n from 1 to 4096";
            Some(resize(v).ok_or_else(|| fields.unexpected("size", v, expected))?)
        }
    };
    let crop = match json.get("crop_size") {
        _ if !fields.flag("do_center_crop")? => None,
        None => Some(Crop { height: 224, width: 224 }),
        Some(v) => {
            let size = side(v).map(|n| (n, n)).or_else(|| pair(v));
            let expected = "n or {\"height\": n, \"width\": n} with n from 1 to 4096";
            let (height, width) = size.ok_or_else(|| fields.unexpected("crop_size", v, expected))?;
            Some(Crop { height, width })
        }
    };
    let mean = fields.get("image_mean", [0.481_454_66, 0.457_827_5, 0.408_210_73], "three numbers", triple)?;
    let nonzero = |v: &Value| triple(v).filter(|std| std.iter().all(|s| s.abs() >= 1e-6));
    let std = [0.268_629_54, 0.261_302_6, 0.275_777_1];
    let std = fields.get("image_std", std, "three numbers, none of them 0", nonzero)?;
    let filter = |v: &Value| Resample::from_pillow(v.as_u64()?);
    let factor = fields.float("rescale_factor", 1.0 / 255.0)?;
    Ok(Preprocess {
        resize,
        resample: fields.get("resample", Resample::Bicubic, "Pillow's number of a filter, 0 to 5", filter)?,
        crop,
        rescale: fields.flag("do_rescale")?.then_some(factor),
        normalize: fields.flag("do_normalize")?.then_some((mean, std)),
    })
}

/// One side in pixels.
fn side(value: &Value) -> Option<u32> {
    value.as_u64().and_then(|n| u32::try_from(n).ok()).filter(|n| (1..=4096).contains(n))
}

/// Height and width, named or in this order.
fn pair(value: &Value) -> Option<(u32, u32)> {
    match value.as_array().map(Vec::as_slice) {
        Some([height, width]) => Some((side(height)?, side(width)?)),
        _ => Some((side(value.get("height")?)?, side(value.get("width")?)?)),
    }
}

fn resize(value: &Value) -> Option<Resize> {
    // A longest edge would bound the result in a way of its own; no CLIP has one, and it must not be passed over.
    if value.get("longest_edge").is_some_and(|edge| !edge.is_null()) {
        return None;
    }
    match side(value).or_else(|| side(value.get("shortest_edge")?)) {
        Some(edge) => Some(Resize::ShortestEdge(edge)),
        None => pair(value).map(|(height, width)| Resize::Exact { height, width }),
    }
}

/// A value for each channel, or one for all.
fn triple(value: &Value) -> Option<[f32; 3]> {
    match value.as_array() {
        Some(all) => all.iter().map(float).collect::<Option<Vec<_>>>()?.try_into().ok(),
        None => float(value).map(|v| [v; 3]),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn absent_fields_get_the_reference_defaults() {
        let config = ClipConfig::from_json(&json!({"model_type": "clip"})).unwrap();
        assert_eq!((config.text.vocab_size, config.vision.patch_size, config.projection_dim), (49408, 32, 512));
    }

    #[test]
    fn an_old_dict_overrides_its_section_whole() {
        let old = json!({
            "text_config": {"hidden_size": 64, "layer_norm_eps": 0.001, "num_hidden_layers": 3},
            "text_config_dict": {"hidden_size": 128, "num_hidden_layers": null},
        });
        // As CLIPConfig(text_config=..., text_config_dict=...) of transformers 5.
        let tower = ClipConfig::from_json(&old).unwrap().text.tower;
        assert_eq!((tower.hidden_size, tower.layer_norm_eps, tower.layers), (128, 1e-5, 12));
        let none = json!({"text_config": {"hidden_size": 64}, "text_config_dict": null});
        assert_eq!(ClipConfig::from_json(&none).unwrap().text.tower.hidden_size, 64);
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
            (json!({"text_config": {"hidden_size": -1}}), "text_config: hidden_size is -1; expected"),
            (json!({"text_config": {"eos_token_id": [1, 2]}}), "text_config: eos_token_id is [1,2]"),
            (json!({"text_config": {"hidden_act": 3}}), "text_config: hidden_act is 3"),
            (json!({"vision_config": {"hidden_act": "silu"}}), "vision_config: hidden_act `silu`"),
            (json!({"vision_config": {"layer_norm_eps": 1e300}}), "layer_norm_eps"),
            (json!({"vision_config": {"patch_size": 0}}), "patch_size"),
            (json!({"vision_config": {"patch_size": 1, "image_size": 4096}}), "number of patches is 16777216"),
            (json!({"vision_config_dict": []}), "vision_config_dict is not an object"),
            (json!({"projection_dim": "wide"}), "projection_dim is \"wide\""),
            (json!([1]), "not a JSON object"),
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
        let list = preprocess(&json!({"size": [30, 40], "image_mean": 0.5, "do_center_crop": null})).unwrap();
        assert_eq!((list.resize, list.crop), (new.resize, None));
        assert_eq!(list.normalize.unwrap().0, [0.5; 3]);
        let edge = preprocess(&json!({"size": {"shortest_edge": 9, "longest_edge": null}})).unwrap();
        assert_eq!(edge.resize, Some(Resize::ShortestEdge(9)));
    }

    #[test]
    fn a_processor_that_is_not_understood_is_refused() {
        for (bad, says) in [
            (json!({"size": {"longest_edge": 3}}), "size is {"),
            (json!({"size": {"shortest_edge": 224, "longest_edge": 300}}), "size is {"),
            (json!({"size": null}), "size is null"),
            (json!({"size": 0}), "size is 0"),
            (json!({"crop_size": {"shortest_edge": 224}}), "crop_size is"),
            (json!({"image_std": [1, 0, 1]}), "image_std"),
            (json!({"image_mean": [1, 2]}), "image_mean is [1,2]"),
            (json!({"image_mean": [1e300, 2, 3]}), "image_mean"),
            (json!({"resample": "bicubic"}), "resample is \"bicubic\""),
            (json!({"resample": 6}), "resample is 6"),
            (json!({"do_resize": "no"}), "do_resize is \"no\"; expected true or false"),
            (json!({"rescale_factor": "1/255"}), "rescale_factor"),
            (json!([]), "not a JSON object"),
        ] {
            let error = preprocess(&bad).unwrap_err();
            assert!(error.contains(says), "{error}");
        }
    }
}
