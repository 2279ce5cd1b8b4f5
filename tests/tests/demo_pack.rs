//! The bundled CLIP, which is trained, against what transformers computes with it (conformance/make_fixtures.py).
#![allow(clippy::unwrap_used, reason = "tests")]

use mils_encoder::{DualEncoder, ModelFiles};
use mils_models::Pack;
use mils_tests::{PackReference, backends, tolerance};
use std::path::Path;

#[test]
fn the_bundled_clip_scores_as_transformers_does() {
    let reference = PackReference::read("demo-pack.json");
    let pack = Pack::find("demo").unwrap();
    let samples = Path::new(env!("CARGO_MANIFEST_DIR")).join("../models/demo/samples");
    let images: Vec<_> = reference
        .files
        .iter()
        .map(|name| mils_media::decode_image(&samples.join(name), &Default::default()).unwrap())
        .collect();
    for backend in backends() {
        let mut clip = ModelFiles::open(&pack.task(mils_models::Modality::Image).unwrap().scorer)
            .unwrap()
            .load(&*backend)
            .unwrap();
        let texts = clip.embed_texts(&reference.texts).unwrap();
        let pictures = clip.embed_images(&images).unwrap();
        reference.hold(&backend.name(), &pictures, &texts, tolerance::FILE_COSINE, 5e-3);
    }
}
