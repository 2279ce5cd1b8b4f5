//! Both backends against embeddings that transformers and open_clip computed (see ../conformance/README.md), with every
//! checkpoint that there is. Single ops are compared with their formulas in mils-gpu's tests.
#![allow(clippy::unwrap_used, reason = "tests")]

use mils_encoder::{DualEncoder, Embeddings, Encoder, ImageSize, ModelFiles, Precision};
use mils_media::{Preprocess, RgbImage};
use mils_tests::{backends, compare, cosine, fixtures, tolerance};
use serde::Deserialize;
use std::path::{Path, PathBuf};

/// reference.json of a checkpoint.
#[derive(Deserialize)]
struct Reference {
    texts: Vec<String>,
    token_ids: Option<Vec<Vec<u32>>>,
    /// Where padding is attended to.
    padded_token_ids: Option<Vec<Vec<u32>>>,
    logit_scale: f32,
    logit_bias: Option<f32>,
    /// The pictures' files.
    #[serde(default = "first_three")]
    images: Vec<String>,
    text_embeds: Vec<Vec<f32>>,
    image_embeds: Vec<Vec<f32>>,
    /// The model's own, [images, texts].
    #[serde(default)]
    scores: Vec<Vec<f32>>,
    /// The frames' files of every video, of a model of videos.
    #[serde(default)]
    videos: Vec<Vec<String>>,
    #[serde(default)]
    video_embeds: Vec<Vec<f32>>,
    /// Rows and columns of patches, where pictures have any number of them.
    spatial_shapes: Option<Vec<[usize; 2]>>,
}

fn first_three() -> Vec<String> {
    (0..3).map(|i| format!("{i}.png")).collect()
}

/// All checkpoints, by folder.
fn checkpoints() -> Vec<(PathBuf, Reference)> {
    let mut all: Vec<_> = std::fs::read_dir(fixtures())
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|folder| folder.join("reference.json").exists())
        .map(|folder| {
            let text = std::fs::read_to_string(folder.join("reference.json")).unwrap();
            (folder, serde_json::from_str(&text).unwrap())
        })
        .collect();
    all.sort_by(|a, b| a.0.cmp(&b.0));
    assert!(all.len() >= 15, "some fixtures are missing");
    all
}

fn image(path: &Path) -> RgbImage {
    mils_media::decode_image(path, &Default::default()).unwrap()
}

/// What Pillow made of the pictures.
fn resized(folder: &Path, reference: &Reference) -> Vec<RgbImage> {
    (0..reference.images.len()).map(|i| image(&folder.join(format!("pixels{i}.png")))).collect()
}

fn originals(reference: &Reference) -> Vec<RgbImage> {
    reference.images.iter().map(|name| image(&fixtures().join("images").join(name))).collect()
}

#[test]
fn texts_and_pictures_get_the_embeddings_of_the_references() {
    for backend in backends() {
        for (folder, reference) in checkpoints() {
            let name = format!("{} {}", backend.name(), folder.file_name().unwrap().display());
            let mut model = ModelFiles::open(&folder).unwrap().load(&*backend).unwrap();
            let embedded_texts = texts(&name, &mut model, &reference);
            // What Pillow resized and cropped has the model's size already: here every difference is the model's.
            let pictures = resized(&folder, &reference);
            let embedded = model.embed_images(&pictures).unwrap();
            for (i, theirs) in reference.image_embeds.iter().enumerate() {
                compare(&format!("{name} image {i}"), embedded.row(i), theirs);
            }
            scores(&name, &model, &reference, &embedded, &embedded_texts);
            let files = model.embed_images(&originals(&reference)).unwrap();
            for (i, theirs) in reference.image_embeds.iter().enumerate() {
                let cosine = cosine(files.row(i), theirs);
                assert!(cosine >= tolerance::FILE_COSINE, "{name} file {i}: cosine {cosine}");
            }
            eprintln!("{name}: {} texts and {} images agree", reference.texts.len(), pictures.len());
        }
    }
}

#[test]
fn videos_get_the_embeddings_of_the_references() {
    for backend in backends() {
        let mut joint = 0;
        for (folder, reference) in checkpoints() {
            let name = format!("{} {}", backend.name(), folder.file_name().unwrap().display());
            let mut model = ModelFiles::open(&folder).unwrap().load(&*backend).unwrap();
            let pictures = resized(&folder, &reference);
            if reference.videos.is_empty() {
                pooled(&name, &mut model, &pictures, &reference);
                continue;
            }
            joint += 1;
            let place = |file: &String| reference.images.iter().position(|name| name == file).unwrap();
            let frames = |pictures: &[RgbImage]| -> Vec<Vec<RgbImage>> {
                let video = |files: &Vec<String>| files.iter().map(|file| pictures[place(file)].clone()).collect();
                reference.videos.iter().map(video).collect()
            };
            let videos = frames(&pictures);
            assert_eq!(model.frames_wanted(), videos[0].len(), "{name}");
            let embedded = model.embed_videos(&videos).unwrap();
            let from_files = model.embed_videos(&frames(&originals(&reference))).unwrap();
            for (i, theirs) in reference.video_embeds.iter().enumerate() {
                compare(&format!("{name} video {i}"), embedded.row(i), theirs);
                let cosine = cosine(from_files.row(i), theirs);
                assert!(cosine >= tolerance::FILE_COSINE, "{name} video {i} from files: cosine {cosine}");
            }
            let error = model.embed_videos(&[videos[0][1..].to_vec()]).unwrap_err().to_string();
            assert!(error.contains("video 0 has 3 frames") && error.contains("takes exactly 4"), "{error}");
        }
        assert_eq!(joint, 1, "of models of videos there is one fixture");
    }
}

/// A model of pictures pools the frames: the mean of what the reference says of each, normalised.
fn pooled(name: &str, model: &mut Encoder, pictures: &[RgbImage], reference: &Reference) {
    let mut wanted = vec![0.0; model.dim()];
    for frame in &reference.image_embeds {
        wanted.iter_mut().zip(frame).for_each(|(sum, v)| *sum += v / reference.image_embeds.len() as f32);
    }
    let length = wanted.iter().map(|v| v * v).sum::<f32>().sqrt();
    wanted.iter_mut().for_each(|v| *v /= length);
    assert_eq!(model.frames_wanted(), 8, "{name}");
    // One picture is a video too: its own embedding.
    let videos = [pictures.to_vec(), pictures[..1].to_vec()];
    let embedded = model.embed_videos(&videos).unwrap();
    compare(&format!("{name} pooled"), embedded.row(0), &wanted);
    compare(&format!("{name} one frame"), embedded.row(1), &reference.image_embeds[0]);
    let error = model.embed_videos(&[vec![]]).unwrap_err().to_string();
    assert!(error.contains("has 0 frames") && error.contains("at least 1"), "{error}");
}

/// Gives the embeddings.
fn texts(name: &str, model: &mut Encoder, reference: &Reference) -> Embeddings {
    for (i, text) in reference.texts.iter().enumerate() {
        if let Some(ids) = &reference.token_ids {
            assert_eq!(model.tokenize(text).unwrap(), ids[i], "{name}: {text:?}");
        }
        if let Some(padded) = &reference.padded_token_ids {
            assert_eq!(model.model_tokens(text).unwrap(), padded[i], "{name}: {text:?}");
        }
    }
    let embedded = model.embed_texts(&reference.texts).unwrap();
    for (i, theirs) in reference.text_embeds.iter().enumerate() {
        compare(&format!("{name} text {i}"), embedded.row(i), theirs);
    }
    embedded
}

fn scores(name: &str, model: &Encoder, reference: &Reference, images: &Embeddings, texts: &Embeddings) {
    assert!((model.logit_scale() - reference.logit_scale).abs() < reference.logit_scale * 1e-3, "{name}");
    assert!((model.logit_bias() - reference.logit_bias.unwrap_or(0.0)).abs() < 1e-2, "{name}");
    for (i, theirs) in reference.scores.iter().enumerate() {
        let cosines: Vec<f32> = (0..texts.len()).map(|j| images.dot(i, texts, j)).collect();
        for (ours, theirs) in model.scores(&cosines).iter().zip(theirs) {
            assert!((ours - theirs).abs() <= tolerance::SCORE, "{name} image {i}: {ours} {theirs}");
        }
    }
}

/// `cargo xtask conformance --model`: a checkpoint that is not in the repository, with a reference that
/// conformance/make_reference.py computed. Pictures are resized here, and weights held in every precision.
#[test]
fn a_checkpoint_that_was_named_agrees_with_its_reference() {
    let (Ok(model), Ok(file)) = (std::env::var("MILS_CONFORMANCE_MODEL"), std::env::var("MILS_CONFORMANCE_REFERENCE"))
    else {
        eprintln!("NO REAL CHECKPOINT IS TESTED: `cargo xtask conformance --model … --reference …` names one");
        return;
    };
    let folder = mils_models::Model::find(&model, mils_models::Modality::Image).unwrap().folder;
    let reference: Reference = serde_json::from_str(&std::fs::read_to_string(&file).unwrap()).unwrap();
    for backend in backends() {
        let name = format!("{} {model}", backend.name());
        let mut encoder = ModelFiles::open(&folder).unwrap().load(&*backend).unwrap();
        texts(&name, &mut encoder, &reference);
        for precision in [Precision::F32, Precision::F16, Precision::BF16] {
            let mut encoder = ModelFiles::open_with(&folder, precision).unwrap().load(&*backend).unwrap();
            let found = encoder.embed_images(&originals(&reference)).unwrap();
            let all = reference.image_embeds.iter().enumerate().map(|(i, theirs)| cosine(found.row(i), theirs));
            let least = all.fold(1.0, f32::min);
            eprintln!("{name} {precision:?}: least cosine of {} pictures {least:.6}", reference.image_embeds.len());
            let wanted = if precision == Precision::BF16 { tolerance::BF16_COSINE } else { tolerance::FILE_COSINE };
            assert!(least >= wanted, "{name} {precision:?}: cosine {least}");
        }
    }
}

#[test]
fn resizing_and_cropping_are_pillows() {
    for (folder, reference) in checkpoints() {
        let name = folder.file_name().unwrap().display();
        let model = ModelFiles::open(&folder).unwrap();
        let steps = Preprocess { rescale: None, normalize: None, ..model.preprocess().clone() };
        let plain = Preprocess { resize: None, crop: None, ..steps.clone() };
        let theirs = resized(&folder, &reference);
        for (i, (original, theirs)) in originals(&reference).iter().zip(&theirs).enumerate() {
            let (ours, theirs) = (steps.apply(original).unwrap(), plain.apply(theirs).unwrap());
            assert_eq!((ours.height, ours.width), (theirs.height, theirs.width), "{name}, image {i}");
            if let (ImageSize::Flexible { .. }, Some(shapes)) =
                (model.architecture().image.size, &reference.spatial_shapes)
            {
                let patch = model.architecture().image.patch;
                assert_eq!([ours.height / patch, ours.width / patch], shapes[i], "{name}, image {i}");
            }
            let worst = ours.data.iter().zip(&theirs.data).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
            assert!(worst <= tolerance::PIXEL, "{name}, image {i}: differs by {worst}");
        }
    }
}
