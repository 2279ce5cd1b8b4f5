//! VGG's style and content against torchvision's, on both backends (see ../conformance/fixtures/vgg.py).
#![allow(clippy::unwrap_used, reason = "tests")]

use mils_encoder::{Precision, StyleFeatures, VggFiles};
use mils_media::{DecodeLimits, RgbImage, decode_image};
use mils_tests::{backends, fixtures};
use safetensors::tensor::TensorView;
use safetensors::{Dtype, SafeTensors, serialize};
use serde::Deserialize;
use std::path::{Path, PathBuf};

/// Largest difference, over the largest element of what is compared.
const EXACT: f32 = 5e-6;

#[derive(Deserialize)]
struct Reference {
    /// Of every picture and convolution.
    grams: Vec<Vec<Vec<f32>>>,
    /// Every 997th element.
    content: Vec<Vec<f32>>,
    /// Of all pairs.
    style_losses: Vec<Vec<f64>>,
    content_losses: Vec<Vec<f64>>,
}

fn folder() -> PathBuf {
    fixtures().join("vgg")
}

fn agrees(what: &str, ours: &[f32], theirs: &[f32], tolerance: f32) {
    assert_eq!(ours.len(), theirs.len(), "{what}");
    let most = theirs.iter().fold(0.0_f32, |most, v| most.max(v.abs()));
    let worst = ours.iter().zip(theirs).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
    assert!(worst <= tolerance * most, "{what}: differs by {worst} of {most}");
}

fn reference() -> Reference {
    serde_json::from_str(&std::fs::read_to_string(folder().join("vgg.json")).unwrap()).unwrap()
}

fn picture(path: &Path) -> RgbImage {
    decode_image(path, &DecodeLimits::default()).unwrap()
}

/// The picture as the reference has resized it, where that was kept: then every difference is the model's.
fn resized(i: usize) -> RgbImage {
    let kept = folder().join(format!("pixels{i}.png"));
    if kept.exists() { picture(&kept) } else { original(i) }
}

fn original(i: usize) -> RgbImage {
    picture(&fixtures().join(format!("images/{i}.png")))
}

#[test]
fn style_and_content_are_the_references() {
    let reference = reference();
    for backend in backends() {
        let name = backend.name();
        let mut vgg = VggFiles::open(&folder()).unwrap().load(&*backend).unwrap();
        let count = reference.grams.len();
        let all: Vec<StyleFeatures> = (0..count).map(|i| vgg.features(&resized(i)).unwrap()).collect();
        for (i, (ours, (grams, content))) in all.iter().zip(reference.grams.iter().zip(&reference.content)).enumerate()
        {
            assert_eq!(ours.grams().len(), 5);
            for (layer, (ours, theirs)) in ours.grams().iter().zip(grams).enumerate() {
                agrees(&format!("{name}: gram {layer} of picture {i}"), ours, theirs, EXACT);
            }
            let sampled: Vec<f32> = ours.content().iter().copied().step_by(997).collect();
            agrees(&format!("{name}: content of picture {i}"), &sampled, content, EXACT);
            // With our own resizing a pixel here and there is one of 256 steps off.
            let own = vgg.features(&original(i)).unwrap();
            for (ours, theirs) in own.grams().iter().zip(grams) {
                agrees(&format!("{name}: grams of picture {i}, resized here"), ours, theirs, 2e-4);
            }
        }
        for (i, j) in (0..count).flat_map(|i| (0..count).map(move |j| (i, j))) {
            let (style, content) = (reference.style_losses[i][j], reference.content_losses[i][j]);
            for (kind, ours, theirs) in
                [("style", all[i].style_loss(&all[j]), style), ("content", all[i].content_loss(&all[j]), content)]
            {
                assert!((ours - theirs).abs() <= 1e-5 * theirs + 1e-12, "{name}: {kind} of {i}, {j}: {ours}, {theirs}");
            }
        }
    }
}

/// The folder's weights with some of them changed: left out where there is no shape.
fn changed(dir: &Path, change: &[(&str, Option<&[usize]>)]) -> PathBuf {
    let bytes = std::fs::read(folder().join("model.safetensors")).unwrap();
    let tensors = SafeTensors::deserialize(&bytes).unwrap();
    let zeros = vec![0; 1 << 16];
    let mut kept: Vec<(String, TensorView<'_>)> = Vec::new();
    for (name, view) in tensors.iter() {
        match change.iter().find(|(of, _)| *of == name) {
            None => kept.push((name.to_owned(), view)),
            Some((_, None)) => {}
            Some((_, Some(shape))) => {
                let bytes = 2 * shape.iter().product::<usize>();
                kept.push((name.to_owned(), TensorView::new(Dtype::F16, shape.to_vec(), &zeros[..bytes]).unwrap()));
            }
        }
    }
    let place = dir.join("model.safetensors");
    std::fs::write(&place, serialize(kept, None).unwrap()).unwrap();
    dir.to_owned()
}

#[test]
fn weights_that_are_no_vgg_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    let refuses =
        |change: &[(&str, Option<&[usize]>)]| VggFiles::open(&changed(dir.path(), change)).err().unwrap().to_string();
    for (change, says) in [
        (("features.5.bias", None), "tensor `features.5.bias` [12] is missing"),
        (("features.5.weight", None), "does not stand where VGG has a convolution"),
        (("features.5.weight", Some(&[12, 7, 3, 3][..])), "should be [channels, 8, 3, 3] but is [12, 7, 3, 3]"),
        (("features.7.bias", Some(&[21])), "`features.7.bias` should be [20]"),
    ] {
        let error = refuses(&[change]);
        assert!(error.contains(says) && error.contains("model.safetensors") && !error.contains('\n'), "{error}");
    }
    // What is not read may be missing.
    let part = changed(dir.path(), &[("classifier.weight", None), ("features.12.weight", None)]);
    assert_eq!(VggFiles::open(&part).unwrap().architecture().convolutions.len(), 5);
    for (other, says) in [("clip-257", "torchvision's VGG"), ("images", "model.safetensors"), ("none", "not a folder")]
    {
        let error = VggFiles::open(&fixtures().join(other)).err().unwrap().to_string();
        assert!(error.contains(says) && !error.contains('\n'), "{error}");
    }
}

#[test]
fn weights_in_other_precisions_come_near() {
    let picture = original(1);
    let backend = mils_cpu::Cpu::new();
    let of = |precision| {
        VggFiles::open_with(&folder(), precision).unwrap().load(&backend).unwrap().features(&picture).unwrap()
    };
    let exact = of(Precision::AsStored);
    assert_eq!(exact, of(Precision::F32));
    let coarse = of(Precision::BF16);
    let size: f64 = exact.content().iter().map(|v| f64::from(*v).powi(2)).sum::<f64>() / exact.content().len() as f64;
    assert!(coarse.content_loss(&exact) < 1e-3 * size && coarse.content_loss(&exact) > 0.0);
}
