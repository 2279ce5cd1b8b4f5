//! The bundled CLIP, which is trained, against what transformers computes with it (conformance/make_fixtures.py).
#![allow(clippy::unwrap_used, reason = "tests")]

use mils_encoder::{DualEncoder, ModelFiles};
use mils_models::Pack;
use mils_tests::{backends, compare, cosine, fixtures, tolerance};
use std::path::Path;

#[derive(serde::Deserialize)]
struct Reference {
    samples: Vec<String>,
    texts: Vec<String>,
    image_embeds: Vec<Vec<f32>>,
    text_embeds: Vec<Vec<f32>>,
    cosines: Vec<Vec<f32>>,
}

#[test]
fn the_bundled_clip_scores_as_transformers_does() {
    let text = std::fs::read_to_string(fixtures().join("demo-pack.json")).unwrap();
    let reference: Reference = serde_json::from_str(&text).unwrap();
    let pack = Pack::find("demo").unwrap();
    let samples = Path::new(env!("CARGO_MANIFEST_DIR")).join("../models/demo/samples");
    let images: Vec<_> = reference
        .samples
        .iter()
        .map(|name| mils_media::decode_image(&samples.join(name), &Default::default()).unwrap())
        .collect();
    for backend in backends() {
        let mut clip = ModelFiles::open(&pack.task(mils_models::Modality::Image).unwrap().scorer)
            .unwrap()
            .load(&*backend)
            .unwrap();
        let texts = clip.embed_texts(&reference.texts).unwrap();
        for (i, theirs) in reference.text_embeds.iter().enumerate() {
            compare(&format!("{} {:?}", backend.name(), reference.texts[i]), texts.row(i), theirs);
        }
        let pictures = clip.embed_images(&images).unwrap();
        for (i, theirs) in reference.image_embeds.iter().enumerate() {
            let name = &reference.samples[i];
            let cosine = cosine(pictures.row(i), theirs);
            assert!(cosine >= tolerance::FILE_COSINE, "{} {name}: cosine {cosine}", backend.name());
            for (j, score) in reference.cosines[i].iter().enumerate() {
                let ours = pictures.dot(i, &texts, j);
                assert!((ours - score).abs() < 5e-3, "{} {name} {:?}: {ours}, not {score}", backend.name(), j);
            }
        }
    }
}
