//! Features and embeddings of sounds, on both backends, against those of transformers' `ClapFeatureExtractor` and `ClapModel`
//! (see ../conformance/README.md).
#![allow(clippy::unwrap_used, clippy::panic, reason = "tests")]

use mils_encoder::{
    ClapEncoder, ClapFiles, Crops, Embeddings, Mels, ModelFiles, Padding, Precision, SoundEncoder, SoundFeatures,
    hears_sounds,
};
use mils_tests::{backends, compare, cosine, fixtures, tolerance};
use safetensors::SafeTensors;
use serde::Deserialize;
use std::path::{Path, PathBuf};

/// sounds.json of a checkpoint.
#[derive(Deserialize)]
struct Reference {
    texts: Vec<String>,
    token_ids: Vec<Vec<u32>>,
    logit_scale: f32,
    logit_scale_of_texts: f32,
    text_embeds: Vec<Vec<f32>>,
    /// The model's own, [sounds, texts].
    scores: Vec<Vec<f32>>,
    sounds: Vec<Case>,
}

/// A sound and what becomes of it.
#[derive(Deserialize)]
struct Case {
    seed: u64,
    samples: usize,
    /// Where it is cut.
    places: Option<Vec<usize>>,
    padding: Option<String>,
    /// Which extractor, where there is no model.
    truncation: Option<String>,
    longer: Option<bool>,
    #[serde(default)]
    embeds: Vec<f32>,
}

impl Case {
    /// A tone, a sweep and noise, as fixtures/clap.py makes them.
    fn sound(&self) -> Vec<f32> {
        let mut state = self.seed;
        let triangle = |phase: u64| (phase % 4096).abs_diff(2048) as i64 - 1024;
        let sample = |i: u64| {
            state = (state * 1_664_525 + 1_013_904_223) % (1 << 32);
            let noise = (state >> 20) as i64 - 2048;
            let (tone, sweep) = (triangle(i * (300 + 41 * self.seed)), triangle(i * i / (90 + self.seed)));
            let swell = (i * 7 % 8192).abs_diff(4096) as i64;
            (3 * tone + 5 * sweep + (noise * swell).div_euclid(4096)) as f32 / 32768.0
        };
        (0..self.samples as u64).map(sample).collect()
    }

    fn crops(&self) -> Crops {
        match self.places.as_deref() {
            None => Crops::default(),
            Some(&[start]) => Crops::At([start, 0, 0]),
            Some(places) => Crops::At(places.try_into().unwrap()),
        }
    }

    fn mels(&self, features: &SoundFeatures) -> Mels {
        let padding = match self.padding.as_deref().unwrap_or("repeatpad") {
            "repeat" => Padding::Repeat,
            "pad" => Padding::Pad,
            _ => Padding::RepeatPad,
        };
        let features = features.clone().with_padding(padding);
        let mut mels = features.extract(&self.sound(), self.crops()).unwrap();
        assert_eq!(mels.len(), 1);
        mels.remove(0)
    }
}

/// The kept frames of the reference's features, by sound: shape and decibels.
fn kept(folder: &Path) -> Vec<(Vec<usize>, Vec<f32>)> {
    let bytes = std::fs::read(folder.join("features.safetensors")).unwrap();
    let all = SafeTensors::deserialize(&bytes).unwrap();
    let floats = |data: &[u8]| data.as_chunks().0.iter().map(|&b| f32::from_le_bytes(b)).collect();
    (0..all.len())
        .map(|i| {
            let one = all.tensor(&format!("sound{i}")).unwrap();
            (one.shape().to_vec(), floats(one.data()))
        })
        .collect()
}

/// Largest difference of features from those kept, of every `step`th frame.
fn worst(mels: &Mels, (shape, theirs): &(Vec<usize>, Vec<f32>), step: usize) -> f32 {
    let &[pictures, frames, bands] = &shape[..] else { panic!("{shape:?}") };
    assert_eq!((mels.bands, mels.frames.div_ceil(step)), (bands, frames));
    let one = mels.frames * bands;
    let mut worst = 0.0_f32;
    for (picture, ours) in mels.data.chunks_exact(one).enumerate() {
        // Where all pictures are the same, one is kept.
        let picture = if pictures == 1 { 0 } else { picture };
        for frame in 0..frames {
            let theirs = &theirs[(picture * frames + frame) * bands..][..bands];
            let ours = &ours[frame * step * bands..][..bands];
            worst = ours.iter().zip(theirs).map(|(a, b)| (a - b).abs()).fold(worst, f32::max);
        }
    }
    worst
}

/// The checkpoints, by folder: those of the repository, and what MILS_CONFORMANCE_SOUNDS names, colons between them (see
/// ../conformance/README.md for how to make some of true size).
fn checkpoints() -> Vec<(PathBuf, Reference)> {
    let mut folders: Vec<PathBuf> = ["clap-unfused", "clap-fused"].map(|name| fixtures().join(name)).into();
    folders.extend(std::env::var_os("MILS_CONFORMANCE_SOUNDS").iter().flat_map(std::env::split_paths));
    let open = |folder: PathBuf| {
        let text = std::fs::read_to_string(folder.join("sounds.json")).unwrap();
        (folder, serde_json::from_str(&text).unwrap())
    };
    folders.into_iter().map(open).collect()
}

#[test]
fn features_are_those_of_the_reference() {
    for (folder, reference) in checkpoints() {
        let model = ClapFiles::open(&folder).unwrap();
        let theirs = kept(&folder);
        assert_eq!(theirs.len(), reference.sounds.len());
        for (i, (case, theirs)) in reference.sounds.iter().zip(&theirs).enumerate() {
            let worst = worst(&case.mels(model.features()), theirs, 5);
            eprintln!("{} sound {i}: differs by {worst:.1e} dB", folder.display());
            assert!(worst <= tolerance::DECIBELS, "{} sound {i}: differs by {worst} dB", folder.display());
        }
    }
}

/// Both filter banks at 48 kHz, as `laion/clap-htsat-unfused` and `-fused` have them.
#[test]
fn features_of_published_sizes_are_those_of_the_reference() {
    let folder = fixtures().join("clap-features");
    let cases: Vec<Case> =
        serde_json::from_str(&std::fs::read_to_string(folder.join("features.json")).unwrap()).unwrap();
    for (i, (case, theirs)) in cases.iter().zip(&kept(&folder)).enumerate() {
        let file = folder.join(format!("{}.json", case.truncation.as_deref().unwrap()));
        let worst = worst(&case.mels(&SoundFeatures::open(&file).unwrap()), theirs, 50);
        eprintln!("{} sound {i}: differs by {worst:.1e} dB", file.display());
        assert!(worst <= tolerance::DECIBELS, "{} sound {i}: differs by {worst} dB", file.display());
    }
}

#[test]
fn sounds_and_texts_get_the_embeddings_of_the_reference() {
    for backend in backends() {
        for (folder, reference) in checkpoints() {
            let name = format!("{} {}", backend.name(), folder.file_name().unwrap().display());
            let mut model = ClapFiles::open(&folder).unwrap().load(&*backend).unwrap();
            let texts = texts(&name, &mut model, &reference);
            // All in one batch: of both kinds where the model fuses, and more than one run takes.
            let mels: Vec<Mels> = reference
                .sounds
                .iter()
                .map(|case| Mels { longer: case.longer.unwrap(), ..case.mels(model.features()) })
                .collect();
            let sounds = model.embed_mels(&mels).unwrap();
            for (i, case) in reference.sounds.iter().enumerate() {
                compare(&format!("{name} sound {i}"), sounds.row(i), &case.embeds);
                let cosines: Vec<f32> = (0..texts.len()).map(|j| sounds.dot(i, &texts, j)).collect();
                for (ours, theirs) in model.scores(&cosines).iter().zip(&reference.scores[i]) {
                    assert!((ours - theirs).abs() <= tolerance::SCORE, "{name} sound {i}: {ours} {theirs}");
                }
            }
            let worst = reference.sounds.iter().enumerate().map(|(i, case)| farthest(sounds.row(i), &case.embeds));
            let of_texts = reference.text_embeds.iter().enumerate().map(|(i, row)| farthest(texts.row(i), row));
            let [worst, of_texts] = [worst.fold(0.0, f32::max), of_texts.fold(0.0, f32::max)];
            eprintln!("{name}: sounds differ by {worst:.1e} at most, texts by {of_texts:.1e}");
            // From samples, those that the model's own file describes.
            for (i, case) in reference.sounds.iter().enumerate() {
                let alone = case.padding.as_deref() == Some("repeatpad")
                    && mels[i].longer == case.mels(model.features()).longer;
                if alone {
                    model.set_crops(case.crops());
                    let sound = case.sound();
                    let row = model.embed_sounds(&[&sound]).unwrap();
                    compare(&format!("{name} sound {i} from its samples"), row.row(0), &case.embeds);
                }
            }
        }
    }
}

/// Largest difference of an element.
fn farthest(ours: &[f32], theirs: &[f32]) -> f32 {
    ours.iter().zip(theirs).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max)
}

/// Gives the embeddings.
fn texts(name: &str, model: &mut ClapEncoder, reference: &Reference) -> Embeddings {
    for (text, ids) in reference.texts.iter().zip(&reference.token_ids) {
        assert_eq!(&model.tokenize(text).unwrap(), ids, "{name}: {text:?}");
    }
    let embedded = model.embed_texts(&reference.texts).unwrap();
    for (i, theirs) in reference.text_embeds.iter().enumerate() {
        compare(&format!("{name} text {i}"), embedded.row(i), theirs);
    }
    let near = |found: f32, wanted: f32| (found - wanted).abs() < wanted * 1e-3;
    assert!(near(model.logit_scale(), reference.logit_scale), "{name}");
    assert!(near(model.logit_scale_of_texts(), reference.logit_scale_of_texts), "{name}");
    embedded
}

#[test]
fn long_sounds_are_the_mean_of_their_windows() {
    let mut model = ClapFiles::open(&fixtures().join("clap-unfused")).unwrap().load(&mils_cpu::Cpu::new()).unwrap();
    let case =
        Case { seed: 7, samples: 20_000, places: None, padding: None, truncation: None, longer: None, embeds: vec![] };
    let (sound, short) = (case.sound(), Case { samples: 900, ..case }.sound());
    assert_eq!((model.sample_rate(), model.features().window()), (8000, 8000));
    let rows = model.embed_sounds(&[&short, &sound, &short]).unwrap();
    assert_eq!(rows.row(0), rows.row(2));
    let windows: Vec<&[f32]> = [0, 6000, 12_000].map(|start| &sound[start..start + 8000]).to_vec();
    let windows = model.embed_sounds(&windows).unwrap();
    let sum: Vec<f32> = (0..rows.dim()).map(|i| (0..3).map(|w| windows.row(w)[i]).sum()).collect();
    let length = sum.iter().map(|v| v * v).sum::<f32>().sqrt();
    let mean: Vec<f32> = sum.iter().map(|v| v / length).collect();
    assert!(cosine(rows.row(1), &mean) > 0.999_999);
    assert!(windows.dot(0, &windows, 1) < 0.9999, "windows that sound alike show nothing");
    // One window by a seed: the same again, and another by another.
    model.set_crops(Crops::Random(3));
    let [a, b] = [(); 2].map(|()| model.embed_sounds(&[&sound]).unwrap());
    model.set_crops(Crops::Random(4));
    let c = model.embed_sounds(&[&sound]).unwrap();
    assert!(a == b && a != c);
    assert!(model.embed_sounds(&[]).unwrap().is_empty());
    assert!(model.embed_sounds(&[&short, &[]]).unwrap_err().to_string().contains("no samples"));
}

#[test]
fn weights_in_16_bits_are_near() {
    for (folder, reference) in checkpoints() {
        for (precision, least) in [(Precision::F16, tolerance::FILE_COSINE), (Precision::BF16, tolerance::BF16_COSINE)]
        {
            let files = ClapFiles::open_with(&folder, precision).unwrap();
            let mut model = files.load(&mils_cpu::Cpu::new()).unwrap();
            let texts = model.embed_texts(&reference.texts).unwrap();
            for (i, theirs) in reference.text_embeds.iter().enumerate() {
                let cosine = cosine(texts.row(i), theirs);
                assert!(cosine >= least, "{} {precision:?} text {i}: cosine {cosine}", folder.display());
            }
            let mels: Vec<Mels> = reference.sounds.iter().map(|case| case.mels(model.features())).collect();
            let sounds = model.embed_mels(&mels).unwrap();
            for (i, case) in
                reference.sounds.iter().enumerate().filter(|(i, case)| case.longer == Some(mels[*i].longer))
            {
                let cosine = cosine(sounds.row(i), &case.embeds);
                assert!(cosine >= least, "{} {precision:?} sound {i}: cosine {cosine}", folder.display());
            }
        }
    }
}

#[test]
fn a_folder_says_what_it_is() {
    let (sounds, pictures) = (fixtures().join("clap-fused"), fixtures().join("gelu-f16"));
    assert_eq!([&sounds, &pictures].map(|folder| hears_sounds(folder).unwrap()), [true, false]);
    assert!(!hears_sounds(&fixtures()).unwrap());
    let error = ModelFiles::open(&sounds).err().unwrap().to_string();
    assert!(error.contains("compares sounds with texts"), "{error}");
    let error = ClapFiles::open(&pictures).err().unwrap().to_string();
    assert!(error.contains("not a CLAP's"), "{error}");
    assert!(ClapFiles::open(Path::new("no such folder")).is_err());
}

/// What a damaged or foreign folder says: the file, what was wanted and what is there.
#[test]
fn folders_that_do_not_fit_are_refused() {
    let copy = |edit: &dyn Fn(&Path)| {
        let folder = tempfile::tempdir().unwrap();
        for entry in std::fs::read_dir(fixtures().join("clap-fused")).unwrap().flatten() {
            std::fs::copy(entry.path(), folder.path().join(entry.file_name())).unwrap();
        }
        edit(folder.path());
        ClapFiles::open(folder.path()).err().map(|e| e.to_string()).unwrap_or_default()
    };
    let changed = |file: &'static str, from: &'static str, to: &'static str| {
        move |folder: &Path| {
            let path = folder.join(file);
            let text = std::fs::read_to_string(&path).unwrap();
            assert!(text.contains(from), "{file} has no {from}");
            std::fs::write(&path, text.replacen(from, to, 1)).unwrap();
        }
    };
    assert_eq!(copy(&|_| {}), "");
    for (edit, says) in [
        (
            changed("config.json", "\"num_mel_bins\": 64", "\"num_mel_bins\": 32"),
            "feature_size is 64, but config.json has",
        ),
        (
            changed("config.json", "\"window_size\": 8", "\"window_size\": 4"),
            "should be [49, 2] by the configuration but",
        ),
        (changed("config.json", "\"enable_fusion\": true", "\"enable_fusion\": false"), "say rand_trunc"),
        (changed("config.json", "\n  \"projection_dim\": 40", "\n  \"projection_dim\": 44"), "_projection.linear"),
        (changed("preprocessor_config.json", "\"fusion\"", "\"rand_trunc\""), "say fusion"),
        (changed("preprocessor_config.json", "\"hop_length\": 80", "\"hop_length\": 8"), "makes 1001 frames"),
    ] {
        let error = copy(&edit);
        assert!(error.contains(says) && !error.contains('\n'), "{error:?} does not say {says:?}");
    }
    let bare = |folder: &Path| {
        let path = folder.join("tokenizer.json");
        let mut json: serde_json::Value = serde_json::from_str(&std::fs::read_to_string(&path).unwrap()).unwrap();
        json["post_processor"] = serde_json::Value::Null;
        std::fs::write(&path, json.to_string()).unwrap();
    };
    assert!(copy(&bare).contains("puts no token before a text"));
    let missing = |file: &'static str| move |folder: &Path| std::fs::remove_file(folder.join(file)).unwrap();
    for file in ["config.json", "preprocessor_config.json", "tokenizer.json", "model.safetensors"] {
        assert!(copy(&missing(file)).contains("is missing"), "{file}");
    }
    let cut = |folder: &Path| {
        let path = folder.join("model.safetensors");
        let bytes = std::fs::read(&path).unwrap();
        std::fs::write(&path, &bytes[..bytes.len() / 2]).unwrap();
    };
    assert!(copy(&cut).contains("not a complete safetensors file"));
}
