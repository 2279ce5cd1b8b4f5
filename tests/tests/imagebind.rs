//! ImageBind's audio and text towers against a reference of PyTorch's own layers and torchaudio's Kaldi features, on
//! both backends (see ../conformance/fixtures/imagebind.py).
#![allow(clippy::unwrap_used, reason = "tests")]

use mils_encoder::{
    Calibration, DualEncoder, ImageBindFiles, ModelFiles, Precision, SoundEncoder, is_imagebind, kaldi_fbank,
};
use mils_tests::{backends, compare, cosine, fixtures, tolerance};
use serde::Deserialize;
use std::path::{Path, PathBuf};

const BANDS: usize = 128;
const FRAMES: usize = 204;
/// The features' mean and deviation.
const NORMAL: (f32, f32) = (-4.268, 9.138);

#[derive(Deserialize)]
struct Reference {
    texts: Vec<String>,
    token_ids: Vec<Vec<u32>>,
    text_embeds: Vec<Vec<f32>>,
    /// Lengths of the sounds.
    samples: Vec<usize>,
    /// Of all samples as whole numbers: that these are the same sounds.
    sums: Vec<i64>,
    /// Of the three clips of the last sound but one.
    clip_embeds: Vec<Vec<f32>>,
    sound_embeds: Vec<Vec<f32>>,
    scale_audio: f32,
    scale_text: f32,
}

fn folder() -> PathBuf {
    fixtures().join("imagebind")
}

fn reference() -> Reference {
    serde_json::from_str(&std::fs::read_to_string(folder().join("imagebind.json")).unwrap()).unwrap()
}

/// Numbers of a NumPy file of f32.
fn numbers(name: &str) -> Vec<f32> {
    let bytes = std::fs::read(folder().join(name)).unwrap();
    assert!(bytes.starts_with(b"\x93NUMPY\x01\x00"));
    let begin = 10 + usize::from(u16::from_le_bytes([bytes[8], bytes[9]]));
    bytes[begin..].as_chunks::<4>().0.iter().map(|b| f32::from_le_bytes(*b)).collect()
}

/// `sound` of the fixture's script.
fn sound(samples: usize, seed: i64) -> Vec<i64> {
    let (mut state, mut low) = (seed, 0_i64);
    let one = |i: usize| {
        let i = i as i64;
        state = (state * 1_103_515_245 + 12_345) % (1 << 31);
        let noise = (state >> 16) % 4001 - 2000;
        low += (noise - low).div_euclid(8);
        let period = 20 + (i / 997) % (60 + seed);
        let tone = (i % period * 2 - period).abs() * 16_000 / period - 8000;
        let loud = (i / 311) % 7;
        (tone * loud).div_euclid(7) + if (i / 4001) % 2 == 1 { noise } else { low } + 300
    };
    (0..samples).map(one).collect()
}

fn sounds(reference: &Reference) -> Vec<Vec<f32>> {
    let all = reference.samples.iter().zip(&reference.sums).zip(1..);
    all.map(|((&samples, &sum), seed)| {
        let whole = sound(samples, seed);
        assert_eq!(whole.iter().sum::<i64>(), sum, "sound {seed} is another than the reference's");
        whole.iter().map(|&v| v as f32 / 32_768.0).collect()
    })
    .collect()
}

#[test]
fn features_are_kaldis() {
    let reference = reference();
    let theirs = numbers("features.npy");
    let kept = FRAMES.div_ceil(17);
    for (i, (sound, theirs)) in sounds(&reference).iter().zip(theirs.chunks_exact(BANDS * kept)).enumerate() {
        // The second clip's beginning, by the lengths that the fixture has.
        let begin = [82_304, 24_000, 0, 0, 666, 0][i];
        let mut clip = sound[begin..(begin + 32_000).min(sound.len())].to_vec();
        let mean = clip.iter().map(|&v| f64::from(v)).sum::<f64>() / clip.len() as f64;
        clip.iter_mut().for_each(|v| *v -= mean as f32);
        let rows = kaldi_fbank(&clip);
        let mut worst = 0.0_f32;
        for (at, frame) in (0..FRAMES).step_by(17).enumerate() {
            for band in 0..BANDS {
                let ours = rows.get(frame * BANDS + band).copied().unwrap_or(0.0);
                worst = worst.max(((ours - NORMAL.0) / NORMAL.1 - theirs[band * kept + at]).abs());
            }
        }
        eprintln!("sound {i}: features differ by {worst:.1e}");
        assert!(worst <= 1e-4, "sound {i}: features differ by {worst}");
    }
}

#[test]
fn sounds_and_texts_get_the_embeddings_of_the_reference() {
    let reference = reference();
    let sounds = sounds(&reference);
    for backend in backends() {
        let name = backend.name();
        let mut model = ImageBindFiles::open(&folder()).unwrap().load(&*backend).unwrap();
        assert_eq!((model.sample_rate(), model.dim(), model.calibration()), (16_000, 40, Calibration::Softmax));
        for (text, ids) in reference.texts.iter().zip(&reference.token_ids) {
            assert_eq!(&model.tokenize(text).unwrap(), ids, "{name}: {text:?}");
        }
        let texts = model.embed_texts(&reference.texts).unwrap();
        for (i, theirs) in reference.text_embeds.iter().enumerate() {
            compare(&format!("{name} text {i}"), texts.row(i), theirs);
        }
        // With the reference's own features every difference is the tower's.
        let clips = model.embed_clips(&numbers("clips.npy")).unwrap();
        assert_eq!(clips.len(), 3);
        for (i, theirs) in reference.clip_embeds.iter().enumerate() {
            compare(&format!("{name} clip {i}"), clips.row(i), theirs);
        }
        let all: Vec<&[f32]> = sounds.iter().map(Vec::as_slice).collect();
        let embedded = model.embed_sounds(&all).unwrap();
        for (i, theirs) in reference.sound_embeds.iter().enumerate() {
            compare(&format!("{name} sound {i} from its samples"), embedded.row(i), theirs);
        }
        let wanted = reference.scale_audio * reference.scale_text;
        assert!((model.logit_scale() - wanted).abs() < wanted * 1e-3, "{name}: {}", model.logit_scale());
        let error = model.embed_sounds(&[&sounds[0], &[0.0; 10]]).unwrap_err().to_string();
        assert!(error.contains("10 samples"), "{error}");
        assert!(model.embed_clips(&[0.0; 7]).is_err());
        assert!(model.embed_sounds(&[]).unwrap().is_empty());
    }
}

#[test]
fn a_folder_says_what_it_is_and_under_which_terms() {
    assert!(is_imagebind(&folder()).unwrap());
    assert!(!is_imagebind(&fixtures().join("viclip")).unwrap() && !is_imagebind(&fixtures()).unwrap());
    let files = ImageBindFiles::open(&folder()).unwrap();
    assert_eq!((files.licence().spdx, files.licence().commercial_use), ("CC-BY-NC-4.0", false));
    assert!(ModelFiles::open(&folder()).is_err());
    let error = ImageBindFiles::open(&fixtures().join("viclip")).err().unwrap().to_string();
    assert!(error.contains("which ImageBind has"), "{error}");
    let half = ImageBindFiles::open_with(&folder(), Precision::BF16).unwrap();
    let mut half = half.load(&mils_cpu::Cpu::new()).unwrap();
    let reference = reference();
    let texts = half.embed_texts(&reference.texts).unwrap();
    for (i, theirs) in reference.text_embeds.iter().enumerate() {
        assert!(cosine(texts.row(i), theirs) >= tolerance::BF16_COSINE, "text {i}");
    }
}

/// A copy of a fixture without a file, or with it changed.
fn copy(of: &str, edit: impl Fn(&Path)) -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    for entry in std::fs::read_dir(fixtures().join(of)).unwrap().flatten() {
        std::fs::copy(entry.path(), folder.path().join(entry.file_name())).unwrap();
    }
    edit(folder.path());
    folder
}

#[test]
fn what_is_missing_is_said_with_where_it_is_found() {
    let without = |file: &'static str| move |folder: &Path| std::fs::remove_file(folder.join(file)).unwrap();
    for (of, from) in [("imagebind", "openai/clip-vit-base-patch32"), ("viclip", "openai/clip-vit-large-patch14")] {
        let folder = copy(of, without("tokenizer.json"));
        let error = match of {
            "viclip" => ModelFiles::open(folder.path()).err().unwrap().to_string(),
            _ => ImageBindFiles::open(folder.path()).err().unwrap().to_string(),
        };
        assert!(error.contains(from) && error.contains("tokenizer.json: is missing"), "{error}");
    }
    let folder = copy("imagebind", without("model.safetensors"));
    assert!(ImageBindFiles::open(folder.path()).err().unwrap().to_string().contains("is missing"));
    assert!(ImageBindFiles::open(Path::new("no such folder")).is_err());
    // The hub's copy of ViCLIP has a config.json that only its own code reads.
    let folder = copy("viclip", |folder| {
        std::fs::write(folder.join("config.json"), r#"{"model_type": "viclip", "size": "l"}"#).unwrap();
    });
    let mut model = ModelFiles::open(folder.path()).unwrap().load(&mils_cpu::Cpu::new()).unwrap();
    assert_eq!(model.embed_texts(&["a dog".into()]).unwrap().dim(), 48);
}
