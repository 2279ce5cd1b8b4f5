//! The protocol from end to end, on small models with random weights.
#![allow(clippy::unwrap_used, reason = "tests")]

use super::*;
use candle_core::DType;
use candle_nn::{VarBuilder, VarMap};
use model::Config;

const CLIP: &str = r#"{"model_type": "clip", "projection_dim": 6,
    "text_config": {"hidden_size": 8, "intermediate_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2,
        "hidden_act": "quick_gelu", "max_position_embeddings": 7, "vocab_size": 20, "eos_token_id": 19},
    "vision_config": {"hidden_size": 12, "intermediate_size": 16, "num_hidden_layers": 2, "num_attention_heads": 3,
        "image_size": 8, "patch_size": 4}}"#;
const SIGLIP: &str = r#"{"model_type": "siglip",
    "text_config": {"hidden_size": 8, "intermediate_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2,
        "max_position_embeddings": 7, "vocab_size": 20, "projection_size": 8},
    "vision_config": {"hidden_size": 8, "intermediate_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2,
        "image_size": 8, "patch_size": 4}}"#;

/// Writes a checkpoint: what is asked of a `VarMap` and not there, it makes.
fn checkpoint(config: &str, folder: &Path) {
    std::fs::write(folder.join("config.json"), config).unwrap();
    let map = VarMap::new();
    Config::read(config).unwrap().build(VarBuilder::from_varmap(&map, DType::F32, &Device::Cpu)).unwrap();
    // Much of it is made of zeros and ones.
    for var in map.all_vars() {
        var.set(&var.randn_like(0.0, 0.5).unwrap()).unwrap();
    }
    map.save(folder.join("model.safetensors")).unwrap();
}

/// Answers to these lines, without the greeting.
fn answers(lines: &[Value]) -> Vec<Value> {
    let asked = lines.iter().map(|l| format!("{l}\n")).collect::<String>();
    let mut out = Vec::new();
    serve(asked.as_bytes(), &mut out).unwrap();
    let mut said = std::str::from_utf8(&out).unwrap().lines().map(|l| serde_json::from_str(l).unwrap());
    let greeting: Value = said.next().unwrap();
    for part in MADE_OF {
        assert!(greeting["versions"][part].as_str().is_some_and(|v| v.contains('.')), "{greeting}");
    }
    let said: Vec<_> = said.collect();
    assert_eq!(said.len(), lines.len());
    said
}

fn raw(folder: &Path, name: &str, numbers: impl IntoIterator<Item = [u8; 4]>) -> PathBuf {
    let file = folder.join(name);
    std::fs::write(&file, numbers.into_iter().flatten().collect::<Vec<_>>()).unwrap();
    file
}

/// What comes of two pictures, and of two texts at each of these lengths.
fn embedded(config: &str, lengths: &[usize]) -> Vec<Value> {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    checkpoint(config, folder);
    let pixels = raw(folder, "pixels", (0..2 * 3 * 8 * 8).map(|i| ((i as f32 * 0.7).sin()).to_le_bytes()));
    let mut asked = vec![
        json!({"op": "load", "model": folder, "cache": folder.join("cache")}),
        json!({"op": "input", "id": "p", "kind": "pixels", "shape": [2, 3, 8, 8], "file": pixels}),
        json!({"op": "run", "id": "p", "repeats": 3}),
        json!({"op": "embed", "id": "p"}),
    ];
    for &length in lengths {
        // The end token is padding too.
        let row = |ids: [u32; 4]| ids.into_iter().chain(std::iter::repeat(19)).take(length).map(u32::to_le_bytes);
        let file = raw(folder, &format!("tokens{length}"), row([18, 3, 5, 19]).chain(row([18, 4, 19, 19])));
        asked.push(json!({"op": "input", "id": "t", "kind": "tokens", "shape": [2, length], "file": file}));
        asked.push(json!({"op": "embed", "id": "t"}));
    }
    let mut said = answers(&asked);
    assert!(said[0]["seconds"].as_f64().unwrap() > 0.0, "{}", said[0]);
    assert_eq!(said[1], json!({}));
    let seconds = said[2]["seconds"].as_array().unwrap();
    assert!(seconds.len() == 3 && seconds.iter().all(|s| s.as_f64().unwrap() > 0.0), "{seconds:?}");
    said.drain(..3);
    said.into_iter().filter(|answer| *answer != json!({})).collect()
}

fn rows(answer: &Value, dim: usize) -> Vec<Vec<f64>> {
    assert_eq!(answer["shape"], json!([2, dim]), "{answer}");
    let data: Vec<f64> = answer["data"].as_array().unwrap().iter().map(|v| v.as_f64().unwrap()).collect();
    let rows: Vec<_> = data.chunks(dim).map(<[f64]>::to_vec).collect();
    assert_eq!(rows.len(), 2);
    rows.iter().for_each(|row| assert!((cosine(row, row) - 1.0).abs() < 1e-5, "{row:?}"));
    assert!(cosine(&rows[0], &rows[1]) < 0.9999, "both are {:?}", rows[0]);
    rows
}

fn cosine(a: &[f64], b: &[f64]) -> f64 {
    a.iter().zip(b).map(|(a, b)| a * b).sum()
}

#[test]
fn clip_embeds_pictures_and_texts_whatever_their_padding() {
    let said = embedded(CLIP, &[4, 7]);
    assert_eq!(said.len(), 3);
    rows(&said[0], 6);
    let (short, long) = (rows(&said[1], 6), rows(&said[2], 6));
    for (short, long) in short.iter().zip(&long) {
        assert!((cosine(short, long) - 1.0).abs() < 1e-5, "{short:?} {long:?}");
    }
}

#[test]
fn siglip_embeds_pictures_and_texts() {
    let said = embedded(SIGLIP, &[7]);
    assert_eq!(said.len(), 2);
    said.iter().for_each(|answer| drop(rows(answer, 8)));
}

#[test]
fn what_candle_would_compute_otherwise_is_refused() {
    let refused = |json: &str| Config::read(json).err().unwrap().to_string();
    assert!(refused(&CLIP.replace("quick_gelu", "gelu")).contains("wants gelu"));
    let eps = CLIP.replace("\"image_size\"", "\"layer_norm_eps\": 1e-6, \"image_size\"");
    assert!(refused(&eps).contains("epsilon of 0.00001 only"), "{}", refused(&eps));
    assert!(refused(&CLIP.replace("\"clip\"", "\"clap\"")).contains("type clap"));
    assert!(refused(&CLIP.replace("projection_dim", "dim")).contains("projection_dim"));
}

#[test]
fn a_fault_is_an_answer_of_one_line_and_not_the_end() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    let file = raw(folder, "five", (0..5_u32).map(u32::to_le_bytes));
    let load = json!({"op": "load", "model": folder});
    let input = |id: &str, kind: &str, shape: &[usize]| json!({"op": "input", "id": id, "kind": kind, "shape": shape, "file": file});
    let embed = |id: &str| json!({"op": "embed", "id": id});
    let before = answers(&[load.clone(), embed("x"), json!({"op": "frames"}), input("x", "mels", &[5])]);
    let words = |answer: &Value| answer["error"].as_str().unwrap().to_owned();
    let expected = ["cannot read", "no model", "does not know", "no use for mels"];
    for (answer, part) in before.iter().zip(expected) {
        assert!(words(answer).contains(part) && !words(answer).contains('\n'), "{answer} has no {part:?}");
    }
    checkpoint(SIGLIP, folder);
    let after = answers(&[
        load,
        embed("x"),
        input("x", "tokens", &[2, 3]),
        input("x", "tokens", &[usize::MAX, 5]),
        // Not what the model takes, which it says itself.
        input("x", "pixels", &[1, 5]),
        embed("x"),
        input("y", "tokens", &[1, 5]),
        embed("y"),
    ]);
    let failed: Vec<bool> = after.iter().map(|answer| answer.get("error").is_some()).collect();
    assert_eq!(failed, [false, true, true, true, false, true, false, false], "{after:?}");
    assert!(words(&after[1]).contains("no input x") && words(&after[2]).contains("20 bytes"), "{after:?}");
}
