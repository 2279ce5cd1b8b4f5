//! Checkpoints of open_clip: open_clip_config.json and open_clip_model.safetensors. The image tower is open_clip's own
//! `VisionTransformer`, or one of timm's: SigLIP's and Perception Encoder's.
//!
//! Reference: `model.py`, `transformer.py`, `timm_model.py` and `transform.py` of open_clip; `vision_transformer.py`,
//! `eva.py` and `attention_pool.py` of timm.

use super::fields::{Fields, as_float, read_json};
use super::processor::{CLIP_MEAN, CLIP_STD, nonzero, triple};
use super::{Description, Names, check_size};
use crate::EncoderError;
use crate::arch::{
    Architecture, Blocks, Calibration, ImagePool, ImageSize, ImageTower, Projection, Rope, TextPool, TextTower,
};
use crate::tensors::{Source, Tensor};
use crate::tokenizer::Cleaning;
use crate::weights::Checkpoint;
use mils_graph::Activation;
use mils_media::{Crop, CropRounding, Preprocess, Resample, Resize};
use serde_json::Value;
use std::path::Path;

/// The file of the weights.
pub(crate) const WEIGHTS: &str = "open_clip_model.safetensors";

/// Settings of either tower that change what is computed and are not built here.
const REFUSED: [&str; 8] = [
    "ls_init_value",
    "block_type",
    "qk_norm",
    "scaled_cosine_attn",
    "scale_heads",
    "scale_attn_inner",
    "scale_attn",
    "scale_fc",
];

/// Reads open_clip_config.json.
pub(crate) fn describe(folder: &Path, path: &Path) -> Result<Description, EncoderError> {
    let fail = |problem: String| EncoderError::file(path, problem);
    let json = read_json(path)?;
    let model = json.get("model_cfg").ok_or_else(|| fail("has no `model_cfg`".into()))?;
    let vision = Fields::section(model, "vision_cfg", "vision_cfg: ").map_err(fail)?;
    let timm = vision.text("timm_model_name", "").map_err(fail)?;
    let (arch, head) = if timm.is_empty() {
        (architecture(model, |quick| own_vision(&vision, quick)), Head::Own)
    } else {
        // The sizes of one of timm's towers are not in the configuration: they go with its name.
        let checkpoint = Checkpoint::open(folder, WEIGHTS)?;
        let head = head(&vision).map_err(fail)?;
        (architecture(model, |_| timm_vision(&vision, &timm, head, &checkpoint)), head.unwrap_or(Head::Trunk))
    };
    let arch = arch.map_err(fail)?;
    let preprocess = preprocess(&json, &arch).map_err(fail)?;
    check_size(&arch, &preprocess).map_err(fail)?;
    let cleaning = cleaning(model).map_err(fail)?;
    let names = Names::OpenClip(head);
    Ok(Description { arch, preprocess, names, config: path.into(), weights: WEIGHTS, cleaning })
}

/// `HFTokenizer` squeezes white space unless it is told otherwise; CLIP's own tokenizer lower-cases too, as its
/// tokenizer.json does.
fn cleaning(model: &Value) -> Result<Option<Cleaning>, String> {
    let text = Fields::section(model, "text_cfg", "text_cfg: ")?;
    let options = text.map.get("tokenizer_kwargs").cloned().unwrap_or_default();
    let clean = options.get("clean").and_then(Value::as_str);
    match clean {
        None | Some("whitespace") => Ok(Some(Cleaning::Spaces)),
        Some("lower") => Ok(Some(Cleaning::SpacesLower)),
        Some("canonicalize") => Ok(Some(Cleaning::Canonical)),
        Some(other) => {
            Err(text
                .problem(format!("tokenizer_kwargs: clean is `{other}`; expected whitespace, lower or canonicalize")))
        }
    }
}

fn architecture(model: &Value, image: impl FnOnce(bool) -> Result<ImageTower, String>) -> Result<Architecture, String> {
    let top = Fields { at: "model_cfg: ", map: model.as_object().cloned().ok_or("model_cfg is not an object")? };
    top.refuse("multimodal_cfg")?;
    let dim = top.count("embed_dim", 0)?;
    let quick = top.switch("quick_gelu", false)?;
    let text = Fields::section(model, "text_cfg", "text_cfg: ")?;
    for name in REFUSED.into_iter().chain(["embed_cls", "hf_model_name"]) {
        text.refuse(name)?;
    }
    let bias = top.map.get("init_logit_bias").is_some_and(|v| !v.is_null());
    let pool = match text.text("pool_type", "argmax")?.as_str() {
        "argmax" => TextPool::LargestId,
        "last" => TextPool::Last,
        "eos" => TextPool::EndToken(u32::try_from(text.count("eos_id", 2)?).map_err(|e| e.to_string())?),
        other => return Err(text.problem(format!("pool_type is `{other}`; expected argmax, last or eos"))),
    };
    let projection = match text.text("proj_type", "linear")?.as_str() {
        "linear" => Some(Projection { bias: text.switch("proj_bias", false)? }),
        "none" => None,
        other => return Err(text.problem(format!("proj_type is `{other}`; expected linear or none"))),
    };
    let (width, heads) = (text.count("width", 512)?, text.count("heads", 8)?);
    Ok(Architecture {
        image: image(quick)?,
        text: TextTower {
            blocks: blocks(&text, width, heads, quick)?,
            vocab: text.count("vocab_size", 49408)?,
            context: text.count("context_length", 77)?,
            causal: !text.switch("no_causal_mask", false)?,
            pool,
            projection,
        },
        dim,
        calibration: if bias { Calibration::Sigmoid } else { Calibration::Softmax },
    })
}

/// `int(width * ratio)`
fn scaled(width: usize, ratio: f64) -> usize {
    (width as f64 * ratio) as usize
}

fn blocks(fields: &Fields, width: usize, heads: usize, quick: bool) -> Result<Blocks, String> {
    let ratio =
        fields.get("mlp_ratio", 4.0, "a positive number", |v| v.as_f64().filter(|r| (0.01..100.0).contains(r)))?;
    let activation = match fields.map.get("act_kwargs").and_then(|v| v.get("approximate")).and_then(Value::as_str) {
        _ if quick => Activation::QuickGelu,
        None | Some("none") => Activation::Gelu,
        Some("tanh") => Activation::GeluTanh,
        Some(other) => return Err(fields.problem(format!("act_kwargs: approximate is `{other}`"))),
    };
    let eps = fields.map.get("norm_kwargs").and_then(|v| v.get("eps"));
    let eps = eps.map_or(Some(1e-5), as_float).ok_or_else(|| fields.problem("norm_kwargs: eps is not a number"))?;
    let layers = fields.count("layers", 12)?;
    Ok(Blocks { width, mlp: scaled(width, ratio), layers, heads, activation, eps })
}

/// open_clip's `VisionTransformer`.
fn own_vision(vision: &Fields, quick: bool) -> Result<ImageTower, String> {
    for name in REFUSED.into_iter().chain(["attentional_pool"]) {
        vision.refuse(name)?;
    }
    if vision.map.get("layers").is_some_and(Value::is_array) {
        return Err(vision.problem("layers is a list: a ResNet; only vision transformers are supported"));
    }
    let pool = vision.text("pool_type", "tok")?;
    if pool != "tok" {
        return Err(vision.problem(format!("pool_type is `{pool}`; only `tok`, the class token, is supported")));
    }
    let (width, head) = (vision.count("width", 768)?, vision.count("head_width", 64)?);
    let (height, columns) = vision.size("image_size", 224)?;
    Ok(ImageTower {
        blocks: blocks(vision, width, width.checked_div(head).unwrap_or_default(), quick)?,
        frames: 1,
        patch: vision.count("patch_size", 16)?,
        size: ImageSize::Fixed { height, width: columns },
        class_token: true,
        patch_bias: false,
        norm_pre: !vision.switch("no_ln_pre", false)?,
        rope: None,
        pool: ImagePool::ClassToken,
        projection: Some(Projection { bias: false }),
    })
}

/// Blocks, and width of the heads, of timm's vision transformers by the size in their names.
const SIZES: [(&str, usize, usize); 7] = [
    ("tiny", 12, 64),
    ("small", 12, 64),
    ("base", 12, 64),
    ("large", 24, 64),
    ("so400m", 27, 72),
    ("giantopt", 40, 96),
    ("gigantic", 50, 96),
];

/// timm's SigLIP towers with GELU by tanh; the others have the exact one.
const TANH: [&str; 4] = [
    "vit_base_patch32_siglip",
    "vit_large_patch16_siglip_512",
    "vit_so400m_patch16_siglip",
    "vit_giantopt_patch16_siglip",
];

/// The last layers of an image tower.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Head {
    /// `visual.proj` of open_clip's own tower.
    Own,
    /// timm's own last layer: `visual.trunk.head`.
    Trunk,
    /// open_clip's behind timm's tower: `visual.head.proj`.
    Behind,
}

/// `timm_proj`: absent it is a linear layer behind the tower, null or empty the tower's own last layer, `none` no layer.
fn head(vision: &Fields) -> Result<Option<Head>, String> {
    match vision.map.get("timm_proj") {
        None => Ok(Some(Head::Behind)),
        Some(Value::Null) => Ok(Some(Head::Trunk)),
        Some(Value::String(kind)) => match kind.as_str() {
            "" => Ok(Some(Head::Trunk)),
            "linear" => Ok(Some(Head::Behind)),
            "none" => Ok(None),
            other => Err(vision.problem(format!("timm_proj is `{other}`; expected none, linear or null"))),
        },
        Some(other) => Err(vision.unexpected("timm_proj", other, "a name")),
    }
}

/// One of timm's: `vit_…_patch16_siglip_…` or `vit_pe_core_…_patch14_…`.
fn timm_vision(vision: &Fields, name: &str, head: Option<Head>, file: &Checkpoint) -> Result<ImageTower, String> {
    let unknown =
        || vision.problem(format!("timm_model_name is `{name}`; only vit_*_siglip_* and vit_pe_core_* are supported"));
    let pe = name.starts_with("vit_pe_core_");
    let parts: Vec<&str> = name.split('_').collect();
    if !(pe || parts[0] == "vit" && parts.contains(&"siglip")) || parts.contains(&"gap") {
        return Err(unknown());
    }
    let pool = vision.text("timm_pool", "avg")?;
    if pool != "map" {
        return Err(vision.problem(format!("timm_pool is `{pool}`; only `map`, attention pooling, is supported")));
    }
    let patch = parts.iter().find_map(|part| part.strip_prefix("patch")?.parse::<usize>().ok()).ok_or_else(unknown)?;
    let shape = |tensor: &str| {
        let found = file.shape(&format!("visual.trunk.{tensor}"));
        found.ok_or_else(|| format!("{} has no tensor `visual.trunk.{tensor}`", file.path().display()))
    };
    let first = |tensor: &str| shape(tensor).map(|s| s.first().copied().unwrap_or_default());
    let width = first("norm.weight")?;
    // Sizes without a name that is known have heads of 64, and as many blocks as the file.
    let size = SIZES.iter().find(|(size, ..)| parts.contains(size));
    let head_width = size.map_or(64, |(.., width)| *width);
    let in_file = (0..).take_while(|i| shape(&format!("blocks.{i}.norm1.weight")).is_ok()).count();
    let layers = size.map_or(in_file, |(_, layers, _)| *layers);
    let class_token = shape("cls_token").is_ok();
    let tanh = TANH.iter().any(|begin| name.starts_with(begin));
    let activation = if tanh { Activation::GeluTanh } else { Activation::Gelu };
    let eps = if pe { 1e-5 } else { 1e-6 };
    let heads = width / head_width;
    let (height, columns) = vision.size("image_size", 224)?;
    let projection = match head {
        None => None,
        Some(Head::Behind) => Some(Projection { bias: vision.switch("timm_proj_bias", false)? }),
        Some(_) => Some(Projection { bias: true }),
    };
    Ok(ImageTower {
        blocks: Blocks { width, mlp: first("blocks.0.mlp.fc1.weight")?, layers, heads, activation, eps },
        frames: 1,
        patch,
        size: ImageSize::Fixed { height, width: columns },
        class_token,
        patch_bias: !pe,
        norm_pre: pe,
        rope: pe.then_some(Rope { offset: if class_token { 1.0 } else { 0.0 }, temperature: 10_000.0 }),
        pool: ImagePool::Attention { heads: if pe { 8 } else { heads }, mlp: first("attn_pool.mlp.fc1.weight")? },
        projection,
    })
}

/// `preprocess_cfg` with open_clip's defaults, as `image_transform` takes it.
fn preprocess(json: &Value, arch: &Architecture) -> Result<Preprocess, String> {
    let fields = Fields::section(json, "preprocess_cfg", "preprocess_cfg: ")?;
    let ImageSize::Fixed { height, width } = arch.image.size else { return Err("has no image size".into()) };
    let side = |n: usize| u32::try_from(n).map_err(|e| e.to_string());
    let (height, width) = (side(height)?, side(width)?);
    let mean = fields.get("mean", CLIP_MEAN, "three numbers", triple)?;
    let std = fields.get("std", CLIP_STD, "three numbers, none of them 0", nonzero)?;
    let resample = match fields.text("interpolation", "bicubic")?.as_str() {
        "bilinear" => Resample::Bilinear,
        "bicubic" | "random" => Resample::Bicubic,
        other => return Err(fields.problem(format!("interpolation is `{other}`; expected bicubic or bilinear"))),
    };
    let crop = Some(Crop { height, width, rounding: CropRounding::HalfEven });
    let mode = fields.text("resize_mode", "shortest")?;
    if mode == "longest" && fields.count("fill_color", 0)? != 0 {
        return Err(fields.problem("fill_color is not 0; only black is supported"));
    }
    let (resize, resample, crop) = match mode.as_str() {
        "squash" => (Resize::Exact { height, width }, resample, None),
        "longest" => (Resize::Inside { height, width }, resample, crop),
        "shortest" if height == width => (Resize::ShortestEdge(height), resample, crop),
        // The reference leaves the setting of the filter out here.
        "shortest" => (Resize::Cover { height, width }, Resample::Bicubic, crop),
        other => {
            return Err(fields.problem(format!("resize_mode is `{other}`; expected shortest, longest or squash")));
        }
    };
    let resize = Some(resize);
    Ok(Preprocess { resize, resample, crop, rescale: Some(1.0 / 255.0), normalize: Some((mean, std)) })
}

/// Where a tensor is. `custom`: the text tower's names begin with `text.`.
pub(crate) fn source(arch: &Architecture, tensor: &Tensor, head: Head, custom: bool) -> Source {
    match tensor.parts().image {
        true if head != Head::Own => trunk(arch, tensor, head),
        image => own(
            arch,
            tensor,
            if image {
                "visual."
            } else if custom {
                "text."
            } else {
                ""
            },
        ),
    }
}

/// A tensor of open_clip's own towers.
pub(crate) fn own(arch: &Architecture, tensor: &Tensor, prefix: &str) -> Source {
    let parts = tensor.parts();
    let leaf = parts.leaf;
    let at = parts.block.map(|block| format!("{prefix}transformer.resblocks.{block}.")).unwrap_or(prefix.to_owned());
    let name = match parts.stem {
        "norm1" => "ln_1",
        "norm2" => "ln_2",
        "attn.q" => return tensor.part(format!("{at}attn.in_proj_{leaf}"), 0, 3),
        "attn.k" => return tensor.part(format!("{at}attn.in_proj_{leaf}"), 1, 3),
        "attn.v" => return tensor.part(format!("{at}attn.in_proj_{leaf}"), 2, 3),
        "attn.out" => "attn.out_proj",
        "mlp.up" => "mlp.c_fc",
        "mlp.down" => "mlp.c_proj",
        "patch" => return tensor.convolution(format!("{at}conv1.weight"), arch.image.patch),
        "class" => return tensor.whole(format!("{at}class_embedding")),
        "positions" => return tensor.whole(format!("{at}positional_embedding")),
        "tokens" => "token_embedding.weight",
        "norm_pre" => "ln_pre",
        "norm_post" if parts.image => "ln_post",
        "norm_post" => "ln_final",
        "projection" if parts.image => return tensor.transposed(format!("{at}proj")),
        "projection" if arch.text.projection.is_none_or(|p| !p.bias) => {
            return tensor.transposed(format!("{at}text_projection"));
        }
        "projection" => "text_projection",
        other => other,
    };
    tensor.whole(if leaf.is_empty() { format!("{at}{name}") } else { format!("{at}{name}.{leaf}") })
}

/// A tensor of timm's image tower.
fn trunk(arch: &Architecture, tensor: &Tensor, head: Head) -> Source {
    let parts = tensor.parts();
    let leaf = parts.leaf;
    let prefix = "visual.trunk.";
    let at = parts.block.map(|block| format!("{prefix}blocks.{block}.")).unwrap_or(prefix.to_owned());
    let name = match parts.stem {
        "attn.q" => return tensor.part(format!("{at}attn.qkv.{leaf}"), 0, 3),
        "attn.k" => return tensor.part(format!("{at}attn.qkv.{leaf}"), 1, 3),
        "attn.v" => return tensor.part(format!("{at}attn.qkv.{leaf}"), 2, 3),
        "attn.out" => "attn.proj",
        "mlp.up" => "mlp.fc1",
        "mlp.down" => "mlp.fc2",
        "patch" if leaf == "weight" => {
            return tensor.convolution(format!("{at}patch_embed.proj.weight"), arch.image.patch);
        }
        "patch" => "patch_embed.proj",
        "class" => return tensor.padded(format!("{at}cls_token"), 3),
        "positions" => return tensor.padded(format!("{at}pos_embed"), 3),
        "norm_post" => "norm",
        "pool.probe" => return tensor.padded(format!("{at}attn_pool.latent"), 3),
        "pool.attn.q" => "attn_pool.q",
        "pool.attn.k" => return tensor.part(format!("{at}attn_pool.kv.{leaf}"), 0, 2),
        "pool.attn.v" => return tensor.part(format!("{at}attn_pool.kv.{leaf}"), 1, 2),
        "pool.attn.out" => "attn_pool.proj",
        "pool.norm" => "attn_pool.norm",
        "pool.mlp.up" => "attn_pool.mlp.fc1",
        "pool.mlp.down" => "attn_pool.mlp.fc2",
        "projection" if head == Head::Behind => return tensor.whole(format!("visual.head.proj.{leaf}")),
        "projection" => "head",
        other => other,
    };
    tensor.whole(format!("{at}{name}.{leaf}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn read(model: &Value) -> Result<Architecture, String> {
        let vision = Fields::section(model, "vision_cfg", "vision_cfg: ")?;
        let arch = architecture(model, |quick| own_vision(&vision, quick))?;
        arch.check().map(|()| arch)
    }

    /// ViT-B/32 with a setting over it.
    fn with(section: &str, name: &str, value: Value) -> Value {
        let mut all = json!({
            "embed_dim": 512,
            "vision_cfg": {"image_size": 224, "layers": 12, "width": 768, "patch_size": 32},
            "text_cfg": {"context_length": 77, "vocab_size": 49408, "width": 512, "heads": 8, "layers": 12},
        });
        if section.is_empty() {
            all[name] = value;
        } else {
            all[section][name] = value;
        }
        all
    }

    #[test]
    fn configurations_are_read_with_the_defaults_of_open_clip() {
        let plain = read(&with("", "quick_gelu", json!(true))).unwrap();
        assert_eq!((plain.image.blocks.heads, plain.image.blocks.mlp, plain.image.patch), (12, 3072, 32));
        assert_eq!((plain.image.blocks.activation, plain.text.pool), (Activation::QuickGelu, TextPool::LargestId));
        assert_eq!((plain.calibration, plain.text.causal), (Calibration::Softmax, true));
        let big = read(&with("vision_cfg", "mlp_ratio", json!(4.9231))).unwrap();
        assert_eq!(big.image.blocks.mlp, 3780);
        let tanh = read(&with("text_cfg", "act_kwargs", json!({"approximate": "tanh"}))).unwrap();
        assert_eq!(
            (tanh.text.blocks.activation, tanh.image.blocks.activation),
            (Activation::GeluTanh, Activation::Gelu)
        );
        let wide = read(&with("vision_cfg", "image_size", json!([64, 96]))).unwrap();
        assert_eq!(wide.image.most_tokens(), 2 * 3 + 1);
        assert_eq!(read(&with("", "init_logit_bias", json!(-10))).unwrap().calibration, Calibration::Sigmoid);
    }

    #[test]
    fn what_is_not_built_is_refused_by_name() {
        for (section, name, value, says) in [
            ("vision_cfg", "layers", json!([3, 4, 6, 3]), "a ResNet"),
            ("vision_cfg", "attentional_pool", json!(true), "attentional_pool is true"),
            ("vision_cfg", "pool_type", json!("avg"), "pool_type is `avg`"),
            ("vision_cfg", "ls_init_value", json!(1e-5), "ls_init_value"),
            ("vision_cfg", "head_width", json!(0), "attention heads is 0"),
            ("vision_cfg", "mlp_ratio", json!("4"), "mlp_ratio is \"4\""),
            ("text_cfg", "hf_model_name", json!("xlm-roberta-base"), "hf_model_name"),
            ("text_cfg", "embed_cls", json!(true), "embed_cls"),
            ("text_cfg", "pool_type", json!("mean"), "pool_type is `mean`"),
            ("text_cfg", "act_kwargs", json!({"approximate": "sin"}), "approximate is `sin`"),
            ("text_cfg", "norm_kwargs", json!({"eps": "small"}), "eps is not a number"),
            ("", "multimodal_cfg", json!({"layers": 1}), "multimodal_cfg"),
            ("", "embed_dim", json!(0), "shared space is 0"),
        ] {
            let error = read(&with(section, name, value)).unwrap_err();
            assert!(error.contains(says), "{error}");
        }
    }

    #[test]
    fn pictures_are_resized_as_open_clip_does_it() {
        let arch = |size: Value| read(&with("vision_cfg", "image_size", size)).unwrap();
        let steps = |arch: &Architecture, mode: &str| {
            preprocess(&json!({"preprocess_cfg": {"resize_mode": mode, "interpolation": "bilinear"}}), arch)
        };
        let (square, wide) = (arch(json!(224)), arch(json!([64, 96])));
        let shortest = steps(&square, "shortest").unwrap();
        assert_eq!((shortest.resize, shortest.resample), (Some(Resize::ShortestEdge(224)), Resample::Bilinear));
        assert_eq!(shortest.crop.map(|c| c.rounding), Some(CropRounding::HalfEven));
        let cover = steps(&wide, "shortest").unwrap();
        assert_eq!(cover.resize, Some(Resize::Cover { height: 64, width: 96 }));
        assert_eq!(steps(&wide, "squash").unwrap().resize, Some(Resize::Exact { height: 64, width: 96 }));
        assert_eq!(steps(&wide, "longest").unwrap().resize, Some(Resize::Inside { height: 64, width: 96 }));
        assert!(steps(&wide, "stretch").unwrap_err().contains("stretch"));
        let filled = json!({"preprocess_cfg": {"resize_mode": "longest", "fill_color": 255}});
        assert!(preprocess(&filled, &wide).unwrap_err().contains("fill_color"));
    }
}
