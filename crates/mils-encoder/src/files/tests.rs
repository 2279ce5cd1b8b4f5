//! A tiny checkpoint, and what is said when one of its files is damaged.
#![allow(clippy::unwrap_used, reason = "tests")]

use crate::layout::describe;
use crate::{DualEncoder, EncoderError, ModelFiles, Precision, tensors};
use mils_cpu::Cpu;
use mils_media::RgbImage;
use safetensors::Dtype;
use safetensors::tensor::TensorView;
use serde_json::{Value, json};
use std::fs;
use std::path::Path;
use tempfile::TempDir;

type Tensors = Vec<(String, Vec<usize>, Vec<f32>)>;

fn config() -> Value {
    json!({
        "model_type": "clip",
        "projection_dim": 3,
        "text_config": {
            "hidden_size": 4, "intermediate_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2,
            "vocab_size": 6, "max_position_embeddings": 5, "eos_token_id": 5,
        },
        "vision_config": {
            "hidden_size": 4, "intermediate_size": 8, "num_hidden_layers": 1, "num_attention_heads": 1,
            "image_size": 4, "patch_size": 2,
        },
    })
}

fn tokenizer() -> Value {
    let special = |id: u32, content: &str| {
        json!({
            "id": id, "content": content, "special": true,
            "single_word": false, "lstrip": false, "rstrip": false, "normalized": false,
        })
    };
    json!({
        "version": "1.0",
        "truncation": null,
        "padding": null,
        "added_tokens": [special(4, "<s>"), special(5, "</s>")],
        "normalizer": null,
        "pre_tokenizer": {"type": "WhitespaceSplit"},
        "post_processor": {
            "type": "RobertaProcessing", "sep": ["</s>", 5], "cls": ["<s>", 4],
            "trim_offsets": false, "add_prefix_space": false,
        },
        "decoder": null,
        "model": {"type": "WordLevel", "vocab": {"a": 0, "dog": 1, "cat": 2, "?": 3}, "unk_token": "?"},
    })
}

/// The tensors of the file, the scale first.
fn tensors() -> Tensors {
    let folder = tempfile::tempdir().unwrap();
    write_configs(folder.path());
    let described = describe(folder.path()).unwrap();
    let mut n = 0_usize;
    let mut fill = |name: String, shape: Vec<usize>| {
        let value = |_| {
            n += 1;
            (n * 37 % 19) as f32 / 10.0 - 0.9
        };
        let data = (0..shape.iter().product()).map(value).collect();
        (name, shape, data)
    };
    let mut all = vec![fill("logit_scale".into(), vec![])];
    for tensor in tensors::tensors(&described.arch) {
        let source = described.names.source(&described.arch, &tensor, false);
        all.push(fill(source.name, source.shape));
    }
    all
}

fn write_configs(folder: &Path) {
    let write = |name: &str, json: &Value| fs::write(folder.join(name), json.to_string()).unwrap();
    write("config.json", &config());
    write("preprocessor_config.json", &json!({"size": 4, "crop_size": 4}));
    write("tokenizer.json", &tokenizer());
}

fn write_tensors(path: &Path, tensors: &Tensors) {
    let bytes: Vec<Vec<u8>> =
        tensors.iter().map(|(_, _, data)| data.iter().flat_map(|v| v.to_le_bytes()).collect()).collect();
    let views = tensors
        .iter()
        .zip(&bytes)
        .map(|((name, shape, _), bytes)| (name.clone(), TensorView::new(Dtype::F32, shape.clone(), bytes).unwrap()));
    fs::write(path, safetensors::serialize(views, None).unwrap()).unwrap();
}

/// The whole checkpoint.
fn checkpoint() -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    write_configs(folder.path());
    write_tensors(&folder.path().join("model.safetensors"), &tensors());
    folder
}

/// Opens the checkpoint after a change, which must be an error: one line that names the file, or "" for the folder.
fn fails(change: impl Fn(&Path), file: &str, says: &str) {
    let folder = checkpoint();
    change(folder.path());
    let error = ModelFiles::open(folder.path()).err().unwrap().to_string();
    let path = if file.is_empty() { folder.path().to_owned() } else { folder.path().join(file) };
    let named = error.starts_with(&format!("{}: ", path.display()));
    assert!(named && error.contains(says) && !error.contains('\n'), "expected {file}, {says}: {error}");
}

fn write(name: &'static str, text: impl AsRef<[u8]>) -> impl Fn(&Path) {
    move |folder| fs::write(folder.join(name), &text).unwrap()
}

/// Changes the tensors.
fn with(change: impl Fn(&mut Tensors)) -> impl Fn(&Path) {
    move |folder| {
        let mut all = tensors();
        change(&mut all);
        write_tensors(&folder.join("model.safetensors"), &all);
    }
}

fn named<'a>(all: &'a mut Tensors, name: &str) -> &'a mut Vec<f32> {
    &mut all.iter_mut().find(|t| t.0 == name).unwrap().2
}

#[test]
fn weights_lie_in_their_file_unless_they_are_converted() {
    let folder = checkpoint();
    let open = |precision| ModelFiles::open_with(folder.path(), precision).unwrap().weights;
    let stored = open(Precision::AsStored);
    // A fixture's numbers need not be aligned in its file; a real file's are.
    let lent: Vec<bool> = stored.iter().map(|(_, tensor)| tensor.is_lent()).collect();
    assert!(lent.iter().any(|&l| l), "{lent:?}");
    let before: Vec<_> = stored.iter().map(|(_, tensor)| tensor.as_f32().unwrap().to_vec()).collect();
    stored.iter().for_each(|(_, tensor)| tensor.release());
    let after: Vec<_> = stored.iter().map(|(_, tensor)| tensor.as_f32().unwrap().to_vec()).collect();
    assert_eq!(before, after);
    let halves = open(Precision::F16);
    assert!(halves.iter().all(|(_, tensor)| tensor.as_f16().is_none() || !tensor.is_lent()));
    assert!(halves.iter().any(|(_, tensor)| tensor.as_f16().is_some()));
}

#[test]
fn a_whole_checkpoint_embeds_and_truncation_keeps_the_end() {
    let folder = checkpoint();
    let files = ModelFiles::open(folder.path()).unwrap();
    assert_eq!(files.parameters(), tensors().iter().skip(1).map(|t| t.2.len()).sum::<usize>());
    let mut clip = files.load(&Cpu::new()).unwrap();
    assert_eq!(clip.tokenize("a dog").unwrap(), [4, 0, 1, 5]);
    assert_eq!(clip.tokenize("a dog a cat a dog").unwrap(), [4, 0, 1, 0, 5]);
    let texts = ["a dog", "cat", "", "a a a a a a a"].map(String::from);
    let together = clip.embed_texts(&texts).unwrap();
    assert_eq!((together.len(), together.dim()), (4, 3));
    for (i, text) in texts.iter().enumerate() {
        let alone = clip.embed_texts(std::slice::from_ref(text)).unwrap();
        assert!((together.dot(i, &together, i) - 1.0).abs() < 1e-5);
        assert!((together.dot(i, &alone, 0) - 1.0).abs() < 1e-5, "{text:?} depends on its neighbours");
    }
    let images = [RgbImage::new(9, 5), RgbImage::from_pixel(4, 4, [200, 9, 90].into())];
    assert_eq!(clip.embed_images(&images).unwrap().len(), 2);
    assert!(clip.embed_images(&[]).unwrap().is_empty() && clip.embed_texts(&[]).unwrap().is_empty());
    assert!(clip.embed_images(&[RgbImage::new(0, 0)]).is_err());
}

#[test]
fn text_files_are_read_with_care() {
    fails(write("config.json", [b'"', 0xFF, b'"']), "config.json", "UTF-8");
    fails(write("config.json", "version https://git-lfs.github.com/spec/v1\n"), "config.json", "git lfs pull");
    fails(write("config.json", r#"{"projection_dim": NaN}"#), "config.json", "not valid JSON");
    fails(write("config.json", "[".repeat(100_000)), "config.json", "not valid JSON");
    fails(write("preprocessor_config.json", r#"{"crop_size": 3}"#), "preprocessor_config.json", "3x3");
    let without = |folder: &Path| fs::remove_file(folder.join("preprocessor_config.json")).unwrap();
    fails(without, "preprocessor_config.json", "is missing");
}

#[test]
fn the_processor_of_transformers_5_is_preferred() {
    let folder = checkpoint();
    fs::write(folder.path().join("preprocessor_config.json"), "{").unwrap();
    let nested = json!({"processor_class": "CLIPProcessor", "image_processor": {"size": 4, "crop_size": 4}});
    fs::write(folder.path().join("processor_config.json"), nested.to_string()).unwrap();
    ModelFiles::open(folder.path()).unwrap();
    fails(write("processor_config.json", r#"{"image_processor": {}}"#), "processor_config.json", "224x224");
    // An older one has no image processor in it.
    fs::write(folder.path().join("processor_config.json"), r#"{"processor_class": "CLIPProcessor"}"#).unwrap();
    fs::write(folder.path().join("preprocessor_config.json"), r#"{"size": 4, "crop_size": 4}"#).unwrap();
    ModelFiles::open(folder.path()).unwrap();
}

#[test]
fn a_tokenizer_must_put_the_end_behind_every_text() {
    let changed = |change: &dyn Fn(&mut Value)| {
        let mut json = tokenizer();
        change(&mut json);
        write("tokenizer.json", json.to_string())
    };
    let bare = changed(&|json| json["post_processor"] = Value::Null);
    fails(&bare, "tokenizer.json", "puts no token behind a text, not the end-of-text token 5");
    let other = |id: u32| {
        let mut json = config();
        json["text_config"]["eos_token_id"] = id.into();
        write("config.json", json.to_string())
    };
    fails(other(4), "tokenizer.json", "puts token 5 behind a text, not the end-of-text token 4");
    // An old file's 2 means the largest id.
    let old = checkpoint();
    other(2)(old.path());
    ModelFiles::open(old.path()).unwrap();
    let bare_and_old = |folder: &Path| {
        bare(folder);
        other(2)(folder);
    };
    fails(bare_and_old, "tokenizer.json", "whose id is the largest");
    let large = changed(&|json| json["model"]["vocab"]["boat"] = 6.into());
    fails(large, "tokenizer.json", "the model has room for 6");
    fails(write("tokenizer.json", "{}"), "tokenizer.json", "");
    fails(write("tokenizer.json", [0xFF]), "tokenizer.json", "UTF-8");
}

#[test]
fn damaged_weights_are_named() {
    let norm = "text_model.final_layer_norm.bias";
    fails(with(|all| named(all, norm)[2] = f32::NAN), "model.safetensors", "final_layer_norm.bias`: element 2 is NaN");
    fails(with(|all| named(all, norm)[0] = f32::INFINITY), "model.safetensors", "element 0 is inf");
    fails(with(|all| named(all, "logit_scale")[0] = 100.0), "model.safetensors", "logit_scale");
    fails(with(|all| all[1].0 = "two\nlines".into()), "model.safetensors", r"`two\nlines`");
    fails(with(|all| drop(all.remove(3))), "model.safetensors", "is missing");
    fails(with(|all| all[0].1 = vec![1, 1]), "model.safetensors", "should be []");
    fails(write("model.safetensors", "version https://git-lfs.github.com/"), "model.safetensors", "git lfs pull");
    fails(write("model.safetensors", ""), "model.safetensors", "");
    let header = br#"{"logit_scale":{"dtype":"F32","shape":[],"data_offsets":[4000000000,4000000004]}}"#;
    let beyond = [&(header.len() as u64).to_le_bytes()[..], header, &[0; 8]].concat();
    fails(write("model.safetensors", beyond), "model.safetensors", "not a complete");
    fails(write("model.safetensors", u64::MAX.to_le_bytes()), "model.safetensors", "not a complete");
    let pickled = |folder: &Path| {
        fs::rename(folder.join("model.safetensors"), folder.join("pytorch_model.bin")).unwrap();
    };
    fails(pickled, "model.safetensors", "convert it to safetensors");
}

#[test]
fn shards_stay_in_their_folder() {
    let indexed = |json: Value| {
        move |folder: &Path| {
            fs::rename(folder.join("model.safetensors"), folder.join("part.safetensors")).unwrap();
            fs::write(folder.join("model.safetensors.index.json"), json.to_string()).unwrap();
        }
    };
    let index = "model.safetensors.index.json";
    for name in [json!("../x"), json!("/x"), json!("a\\b"), json!("C:x"), json!(".."), json!(""), json!(3)] {
        fails(indexed(json!({"weight_map": {"logit_scale": name}})), index, "no file of this folder");
    }
    fails(indexed(json!({"weight_map": {}})), index, "names no tensors");
    fails(indexed(json!({"metadata": {}})), index, "weight_map");
    fails(indexed(json!({"weight_map": {"x": "other.safetensors"}})), "other.safetensors", "is missing");
    let whole = checkpoint();
    indexed(json!({"weight_map": {"x": "part.safetensors"}}))(whole.path());
    ModelFiles::open(whole.path()).unwrap();
    let twice = |folder: &Path| {
        fs::copy(folder.join("model.safetensors"), folder.join("second.safetensors")).unwrap();
        indexed(json!({"weight_map": {"x": "part.safetensors", "y": "second.safetensors"}}))(folder);
    };
    fails(twice, "second.safetensors", "which another shard has too");
    let lacking = |folder: &Path| {
        write_tensors(&folder.join("model.safetensors"), &tensors()[..9].to_vec());
        write_tensors(&folder.join("second.safetensors"), &tensors()[10..].to_vec());
        indexed(json!({"weight_map": {"x": "part.safetensors", "y": "second.safetensors"}}))(folder);
    };
    fails(lacking, "", "is missing");
}

#[test]
fn embeddings_that_are_no_numbers_are_errors() {
    let folder = checkpoint();
    with(|all| {
        let patches = "vision_model.embeddings.patch_embedding.weight";
        let (tokens, positions) = ("token_embedding.weight", "position_embedding.weight");
        for name in
            [patches.into(), format!("text_model.embeddings.{tokens}"), format!("text_model.embeddings.{positions}")]
        {
            // Finite, but not what is made of them.
            named(all, &name).fill(3e38);
        }
    })(folder.path());
    let mut clip = ModelFiles::open(folder.path()).unwrap().load(&Cpu::new()).unwrap();
    let image = clip.embed_images(&[RgbImage::from_pixel(4, 4, [255; 3].into())]);
    assert!(matches!(image, Err(EncoderError::NotFinite { tower: "image", .. })), "{image:?}");
    let text = clip.embed_texts(&["a".into()]);
    assert!(matches!(text, Err(EncoderError::NotFinite { tower: "text", .. })), "{text:?}");
}

#[test]
fn matrices_are_held_in_any_precision() {
    let folder = checkpoint();
    let texts = ["a dog", "cat"].map(String::from);
    let embed = |precision| {
        let mut model = ModelFiles::open_with(folder.path(), precision).unwrap().load(&Cpu::new()).unwrap();
        model.embed_texts(&texts).unwrap()
    };
    let full = embed(Precision::F32);
    assert_eq!(embed(Precision::AsStored), full);
    for (precision, least) in [(Precision::F16, 0.99999), (Precision::BF16, 0.999)] {
        let rounded = embed(precision);
        assert_ne!(rounded, full);
        assert!((0..2).all(|i| full.dot(i, &rounded, i) > least), "{precision:?}");
    }
    with(|all| named(all, "text_projection.weight")[1] = 70_000.0)(folder.path());
    let error = ModelFiles::open_with(folder.path(), Precision::F16).err().unwrap().to_string();
    assert!(error.contains("`text_projection.weight`: element 1 is 70000, which is too large for 16 bits"), "{error}");
    assert!(ModelFiles::open_with(folder.path(), Precision::BF16).is_ok());
}
