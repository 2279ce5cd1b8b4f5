//! The image processor's steps: preprocessor_config.json, or processor_config.json where it has an `image_processor`, as
//! transformers 5 writes it.
//!
//! Reference: `image_processing_clip.py`, `image_processing_siglip.py` and `image_processing_siglip2.py` of
//! transformers.

use super::fields::{Fields, as_float, read_json};
use crate::EncoderError;
use mils_media::{Crop, CropRounding, Preprocess, Resample, Resize};
use serde_json::Value;
use std::path::{Path, PathBuf};

/// Mean and deviation of the channels that CLIP was trained with.
pub(crate) const CLIP_MEAN: [f32; 3] = [0.481_454_66, 0.457_827_5, 0.408_210_73];
pub(crate) const CLIP_STD: [f32; 3] = [0.268_629_54, 0.261_302_6, 0.275_777_1];

/// Whose defaults a file is read with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// `CLIPImageProcessor`
    Clip,
    /// `SiglipImageProcessor`
    Siglip,
    /// `Siglip2ImageProcessor`
    Naflex {
        /// The model's patch.
        patch: usize,
    },
}

/// The steps, with the file that has them.
pub(crate) fn read(folder: &Path, kind: Kind) -> Result<(PathBuf, Preprocess), EncoderError> {
    let (nested, plain) = (folder.join("processor_config.json"), folder.join("preprocessor_config.json"));
    let mut json = if nested.exists() { read_json(&nested)? } else { Value::Null };
    let (path, json) = match json.get_mut("image_processor").map(Value::take) {
        Some(inner) if !inner.is_null() => (nested, inner),
        _ => (plain.clone(), read_json(&plain)?),
    };
    let steps = preprocess(&json, kind).map_err(|problem| EncoderError::file(&path, problem))?;
    Ok((path, steps))
}

fn preprocess(json: &Value, kind: Kind) -> Result<Preprocess, String> {
    let fields = Fields::whole(json)?;
    let half = [0.5; 3];
    let (mean, std) = match kind {
        Kind::Clip => (CLIP_MEAN, CLIP_STD),
        _ => (half, half),
    };
    let mean = fields.get("image_mean", mean, "three numbers", triple)?;
    let std = fields.get("image_std", std, "three numbers, none of them 0", nonzero)?;
    let filter = |v: &Value| Resample::from_pillow(v.as_u64()?);
    let factor = fields.float("rescale_factor", 1.0 / 255.0)?;
    let filter_default = if matches!(kind, Kind::Naflex { .. }) { Resample::Bilinear } else { Resample::Bicubic };
    Ok(Preprocess {
        resize: resize_of(&fields, json, kind)?,
        resample: fields.get("resample", filter_default, "Pillow's number of a filter, 0 to 5", filter)?,
        crop: if kind == Kind::Clip { crop_of(&fields, json)? } else { None },
        rescale: fields.flag("do_rescale")?.then_some(factor),
        normalize: fields.flag("do_normalize")?.then_some((mean, std)),
    })
}

fn resize_of(fields: &Fields, json: &Value, kind: Kind) -> Result<Option<Resize>, String> {
    if let Kind::Naflex { patch } = kind {
        if !fields.flag("do_resize")? {
            return Err("do_resize is false; pictures would have any number of patches".into());
        }
        let expected = "a whole number from 1 to 16384";
        let small = |v: &Value| u32::try_from(v.as_u64()?).ok().filter(|n| (1..=1 << 14).contains(n));
        let default = u32::try_from(patch).map_err(|_| "patch_size is too large")?;
        let patch = fields.get("patch_size", default, expected, small)?;
        let most = fields.get("max_num_patches", 256, expected, small)?;
        return Ok(Some(Resize::Patches { patch, most }));
    }
    match json.get("size") {
        _ if !fields.flag("do_resize")? => Ok(None),
        None if kind == Kind::Clip => Ok(Some(Resize::ShortestEdge(224))),
        None => Ok(Some(Resize::Exact { height: 224, width: 224 })),
        Some(v) => {
            let expected = "n, {\"shortest_edge\": n} or {\"height\": n, \"width\": n} with n from 1 to 4096";
            resize(v, kind).map(Some).ok_or_else(|| fields.unexpected("size", v, expected))
        }
    }
}

fn crop_of(fields: &Fields, json: &Value) -> Result<Option<Crop>, String> {
    let rounding = CropRounding::Down;
    match json.get("crop_size") {
        _ if !fields.flag("do_center_crop")? => Ok(None),
        None => Ok(Some(Crop { height: 224, width: 224, rounding })),
        Some(v) => {
            let size = side(v).map(|n| (n, n)).or_else(|| pair(v));
            let expected = "n or {\"height\": n, \"width\": n} with n from 1 to 4096";
            let (height, width) = size.ok_or_else(|| fields.unexpected("crop_size", v, expected))?;
            Ok(Some(Crop { height, width, rounding }))
        }
    }
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

fn resize(value: &Value, kind: Kind) -> Option<Resize> {
    // A longest edge would bound the result in a way of its own; no CLIP has one, and it must not be passed over.
    if value.get("longest_edge").is_some_and(|edge| !edge.is_null()) {
        return None;
    }
    match (side(value), side(value.get("shortest_edge").unwrap_or(&Value::Null))) {
        // A number is CLIP's shortest edge, and SigLIP's square.
        (Some(edge), _) if kind == Kind::Clip => Some(Resize::ShortestEdge(edge)),
        (Some(edge), _) => Some(Resize::Exact { height: edge, width: edge }),
        (None, Some(edge)) => Some(Resize::ShortestEdge(edge)),
        (None, None) => pair(value).map(|(height, width)| Resize::Exact { height, width }),
    }
}

/// A value for each channel, or one for all.
pub(crate) fn triple(value: &Value) -> Option<[f32; 3]> {
    match value.as_array() {
        Some(all) => all.iter().map(as_float).collect::<Option<Vec<_>>>()?.try_into().ok(),
        None => as_float(value).map(|v| [v; 3]),
    }
}

/// The same for what is divided by.
pub(crate) fn nonzero(value: &Value) -> Option<[f32; 3]> {
    triple(value).filter(|std| std.iter().all(|s| s.abs() >= 1e-6))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn clip(json: &Value) -> Result<Preprocess, String> {
        preprocess(json, Kind::Clip)
    }

    #[test]
    fn both_generations_of_preprocessor_files_are_read() {
        let old = clip(&json!({"size": 224, "crop_size": 224, "resample": 3})).unwrap();
        assert_eq!(old.resize, Some(Resize::ShortestEdge(224)));
        assert_eq!(old.crop.map(|c| (c.height, c.width)), Some((224, 224)));
        let new = json!({"size": {"height": 30, "width": 40}, "do_center_crop": false, "resample": 2});
        let new = clip(&new).unwrap();
        assert_eq!((new.resize, new.crop), (Some(Resize::Exact { height: 30, width: 40 }), None));
        let list = clip(&json!({"size": [30, 40], "image_mean": 0.5, "do_center_crop": null})).unwrap();
        assert_eq!((list.resize, list.crop), (new.resize, None));
        assert_eq!(list.normalize.unwrap().0, [0.5; 3]);
        let edge = clip(&json!({"size": {"shortest_edge": 9, "longest_edge": null}})).unwrap();
        assert_eq!(edge.resize, Some(Resize::ShortestEdge(9)));
    }

    #[test]
    fn siglips_have_defaults_of_their_own() {
        let plain = preprocess(&json!({"size": {"height": 40, "width": 40}}), Kind::Siglip).unwrap();
        assert_eq!((plain.crop, plain.normalize), (None, Some(([0.5; 3], [0.5; 3]))));
        let naflex = preprocess(&json!({"max_num_patches": 25}), Kind::Naflex { patch: 6 }).unwrap();
        assert_eq!(naflex.resize, Some(Resize::Patches { patch: 6, most: 25 }));
        assert_eq!(naflex.resample, Resample::Bilinear);
        assert!(preprocess(&json!({"do_resize": false}), Kind::Naflex { patch: 6 }).is_err());
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
            let error = clip(&bad).unwrap_err();
            assert!(error.contains(says), "{error}");
        }
    }
}
