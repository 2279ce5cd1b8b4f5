//! Both backends against embeddings that transformers computed (see ../conformance/make_fixtures.py). Single
//! ops are compared with their formulas in mils-gpu's tests.
#![allow(clippy::unwrap_used, reason = "tests")]

use mils_encoder::{DualEncoder, ModelFiles};
use mils_tests::{backends, compare, fixtures, tolerance};
use std::path::Path;

fn rows(json: &serde_json::Value) -> Vec<Vec<f32>> {
    serde_json::from_value(json.clone()).unwrap()
}

#[test]
fn clip_gives_the_embeddings_of_transformers() {
    for backend in backends() {
        for model in ["quick-gelu-old-eos", "gelu-f16", "sharded-bf16"] {
            let folder = fixtures().join(model);
            let mut clip = ModelFiles::open(&folder).unwrap().load(&*backend).unwrap();
            let reference = std::fs::read_to_string(folder.join("reference.json")).unwrap();
            let reference: serde_json::Value = serde_json::from_str(&reference).unwrap();
            let scale = reference["logit_scale"].as_f64().unwrap() as f32;
            assert!((clip.logit_scale() - scale).abs() < scale * 1e-2);

            let texts: Vec<String> = serde_json::from_value(reference["texts"].clone()).unwrap();
            let ids: Vec<Vec<u32>> = serde_json::from_value(reference["token_ids"].clone()).unwrap();
            for (text, ids) in texts.iter().zip(&ids) {
                assert_eq!(&clip.tokenize(text).unwrap(), ids, "{model}: {text:?}");
            }
            let embedded = clip.embed_texts(&texts).unwrap();
            for (i, theirs) in rows(&reference["text_embeds"]).iter().enumerate() {
                compare(&format!("{} {model} text {i}", backend.name()), embedded.row(i), theirs);
            }
            // What Pillow resized and cropped has the model's size already: here every difference is the model's.
            let images: Vec<_> = (0..3).map(|i| image(&folder.join(format!("pixels{i}.png")))).collect();
            let embedded = clip.embed_images(&images).unwrap();
            for (i, theirs) in rows(&reference["image_embeds"]).iter().enumerate() {
                compare(&format!("{} {model} image {i}", backend.name()), embedded.row(i), theirs);
            }
            let files: Vec<_> = (0..3).map(|i| image(&fixtures().join(format!("images/{i}.png")))).collect();
            let embedded = clip.embed_images(&files).unwrap();
            for (i, theirs) in rows(&reference["image_embeds"]).iter().enumerate() {
                let cosine: f32 = embedded.row(i).iter().zip(theirs).map(|(a, b)| a * b).sum();
                assert!(cosine >= tolerance::FILE_COSINE, "{} {model} file {i}: cosine {cosine}", backend.name());
            }
            eprintln!("{}: {model}: {} texts and {} images agree", backend.name(), texts.len(), images.len());
        }
    }
}

fn image(path: &Path) -> mils_media::RgbImage {
    mils_media::decode_image(path, &Default::default()).unwrap()
}

#[test]
fn resizing_and_cropping_are_pillows() {
    use mils_media::{Crop, CropRounding, Preprocess, Resample, Resize};
    for (model, resize, crop, resample) in [
        ("quick-gelu-old-eos", Resize::ShortestEdge(42), Some(42), Resample::Bicubic),
        ("gelu-f16", Resize::ShortestEdge(64), Some(64), Resample::Bilinear),
        ("sharded-bf16", Resize::Exact { height: 35, width: 35 }, None, Resample::Bicubic),
    ] {
        let crop = crop.map(|n| Crop { height: n, width: n, rounding: CropRounding::Down });
        let steps = Preprocess { resize: Some(resize), resample, crop, rescale: None, normalize: None };
        let plain = Preprocess { resize: None, crop: None, ..steps.clone() };
        for i in 0..3 {
            let ours = steps.apply(&image(&fixtures().join(format!("images/{i}.png")))).unwrap();
            let theirs = plain.apply(&image(&fixtures().join(model).join(format!("pixels{i}.png")))).unwrap();
            assert_eq!((ours.height, ours.width), (theirs.height, theirs.width));
            let worst = ours.data.iter().zip(&theirs.data).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
            assert!(worst <= tolerance::PIXEL, "{model}, image {i}: differs by {worst}");
        }
    }
}
