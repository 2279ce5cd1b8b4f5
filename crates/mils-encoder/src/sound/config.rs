//! What the files of a CLAP say: config.json and preprocessor_config.json, with the defaults that transformers has for
//! fields left out.
//!
//! Reference: `configuration_clap.py` and `feature_extraction_clap.py` of transformers.

use super::arch::{AudioTower, RobertaTower, SoundArchitecture, Stage};
use super::features::{Padding, Sizes, SoundFeatures, Truncation};
use crate::EncoderError;
use crate::arch::{Blocks, within};
use crate::layout::{Fields, activation, as_count, read_json};
use serde_json::Value;
use std::path::Path;

/// What a model is made of, and what it hears.
pub(crate) fn describe(folder: &Path) -> Result<(SoundArchitecture, SoundFeatures), EncoderError> {
    let path = folder.join("config.json");
    let json = read_json(&path)?;
    let fail = |problem: String| EncoderError::file(&path, problem);
    let arch = architecture(&json).map_err(fail)?;
    arch.check().map_err(fail)?;
    let (nested, plain) = (folder.join("processor_config.json"), folder.join("preprocessor_config.json"));
    let mut json = if nested.exists() { read_json(&nested)? } else { Value::Null };
    let (path, json) = match json.get_mut("feature_extractor").map(Value::take) {
        Some(inner) if !inner.is_null() => (nested, inner),
        _ => (plain.clone(), read_json(&plain)?),
    };
    let features = features(&json).map_err(|problem| EncoderError::file(&path, problem))?;
    fits(&arch.audio, &features).map_err(|problem| EncoderError::file(&path, problem))?;
    Ok((arch, features))
}

impl SoundFeatures {
    /// The features that a preprocessor_config.json describes: `ClapFeatureExtractor`, without a model.
    ///
    /// # Errors
    /// If it cannot be read, or asks for what cannot be.
    pub fn open(path: &Path) -> Result<Self, EncoderError> {
        features(&read_json(path)?).map_err(|problem| EncoderError::file(path, problem))
    }
}

/// Whole numbers.
fn counts(fields: &Fields, name: &str, default: &[usize]) -> Result<Vec<usize>, String> {
    fields.get(name, default.to_vec(), "a list of whole numbers", |v| v.as_array()?.iter().map(as_count).collect())
}

/// The activation of a field.
fn function(fields: &Fields, name: &str, default: &str) -> Result<mils_graph::Activation, String> {
    activation(&fields.text(name, default)?).map_err(|problem| fields.problem(problem))
}

fn architecture(json: &Value) -> Result<SoundArchitecture, String> {
    let top = Fields::whole(json)?;
    let text = Fields::section(json, "text_config", "text_config: ")?;
    let audio = Fields::section(json, "audio_config", "audio_config: ")?;
    let id = |v: &Value| u32::try_from(v.as_u64()?).ok();
    let arch = SoundArchitecture {
        audio: audio_tower(&audio)?,
        text: RobertaTower {
            blocks: Blocks {
                width: text.count("hidden_size", 768)?,
                mlp: text.count("intermediate_size", 3072)?,
                layers: text.count("num_hidden_layers", 12)?,
                heads: text.count("num_attention_heads", 12)?,
                activation: function(&text, "hidden_act", "gelu")?,
                eps: text.float("layer_norm_eps", 1e-12)?,
            },
            vocab: text.count("vocab_size", 50265)?,
            positions: text.count("max_position_embeddings", 514)?,
            types: text.count("type_vocab_size", 1)?,
            padding: text.get("pad_token_id", 1, "one token id", id)?,
        },
        dim: top.count("projection_dim", 512)?,
        projection: function(&top, "projection_hidden_act", "relu")?,
    };
    // The projection is made for this width; bounds come first, since a width is doubled with every stage.
    arch.check()?;
    let hidden = audio.count("hidden_size", 768)?;
    if hidden != arch.audio.out() {
        return Err(audio.problem(format!("hidden_size is {hidden}, but the last stage has {}", arch.audio.out())));
    }
    Ok(arch)
}

fn audio_tower(audio: &Fields) -> Result<AudioTower, String> {
    let (rows, columns) = audio.size("patch_size", 4)?;
    let stride = audio.size("patch_stride", 4)?;
    if rows != columns || stride != (rows, columns) {
        return Err(audio.problem("patches that overlap or are no squares are not supported"));
    }
    if audio.count("patch_embed_input_channels", 1)? != 1 {
        return Err(audio.problem("patch_embed_input_channels is not 1, which is not supported"));
    }
    if !audio.switch("flatten_patch_embeds", true)? {
        return Err(audio.problem("flatten_patch_embeds is false, which is not supported"));
    }
    let fusion = audio.switch("enable_fusion", false)?;
    let kind = audio.text("fusion_type", "")?;
    if fusion && kind == "channel_map" {
        return Err(audio.problem("fusion_type is \"channel_map\", which is not supported (attentional fusion is)"));
    }
    let (depths, heads) =
        (counts(audio, "depths", &[2, 2, 6, 2])?, counts(audio, "num_attention_heads", &[4, 8, 16, 32])?);
    if depths.len() != heads.len() {
        let (d, h) = (depths.len(), heads.len());
        return Err(audio.problem(format!("depths are of {d} stages, but num_attention_heads of {h}")));
    }
    Ok(AudioTower {
        bands: audio.count("num_mel_bins", 64)?,
        side: audio.count("spec_size", 256)?,
        patch: rows,
        width: audio.count("patch_embeds_hidden_size", 96)?,
        stages: depths.into_iter().zip(heads).map(|(layers, heads)| Stage { layers, heads }).collect(),
        window: audio.count("window_size", 8)?,
        mlp_ratio: audio.float("mlp_ratio", 4.0)?,
        activation: function(audio, "hidden_act", "gelu")?,
        eps: audio.float("layer_norm_eps", 1e-5)?,
        qkv_bias: audio.switch("qkv_bias", true)?,
        patch_norm: audio.switch("enable_patch_layer_norm", true)?,
        fusion: if fusion { Some(audio.count("aff_block_r", 4)?) } else { None },
    })
}

fn features(json: &Value) -> Result<SoundFeatures, String> {
    let fields = Fields::whole(json)?;
    let seconds = fields.count("max_length_s", 10)?;
    let sample_rate = fields.count("sampling_rate", 48_000)?;
    let (fft, hop) = (fields.count("fft_window_size", 1024)?, fields.count("hop_length", 480)?);
    let bands = fields.count("feature_size", 64)?;
    within("sampling_rate", sample_rate, 1 << 20)?;
    within("max_length_s", seconds, 600)?;
    within("fft_window_size", fft, 1 << 16)?;
    within("hop_length", hop, 1 << 16)?;
    within("feature_size", bands, 1 << 10)?;
    let samples = seconds * sample_rate;
    within("the number of samples of a window", samples, 1 << 24)?;
    if fft < 2 || fft / 2 >= samples {
        return Err(format!("fft_window_size is {fft}; a window of {seconds} s has {samples} samples"));
    }
    let range = [fields.float("frequency_min", 0.0)?, fields.float("frequency_max", 14_000.0)?].map(f64::from);
    if !(range[0] >= 0.0 && range[0] < range[1] && range[1] <= f64::from(1 << 20)) {
        return Err(format!("frequencies from {} to {} Hz are none", range[0], range[1]));
    }
    let padding = match &fields.text("padding", "repeatpad")?[..] {
        "repeatpad" => Padding::RepeatPad,
        "repeat" => Padding::Repeat,
        "pad" => Padding::Pad,
        other => return Err(format!("padding is `{other}`; expected repeatpad, repeat or pad")),
    };
    let truncation = match &fields.text("truncation", "fusion")?[..] {
        "fusion" => Truncation::Fusion,
        "rand_trunc" => Truncation::Window,
        other => return Err(format!("truncation is `{other}`; expected fusion or rand_trunc")),
    };
    within("the number of features of a window", (samples / hop + 1) * bands, 1 << 26)?;
    let sizes = Sizes { sample_rate, samples, fft, hop, bands, range };
    Ok(SoundFeatures::new(sizes, padding, truncation))
}

/// The features must be what the tower takes.
fn fits(tower: &AudioTower, features: &SoundFeatures) -> Result<(), String> {
    let bands = features.bands();
    if bands != tower.bands {
        return Err(format!("feature_size is {bands}, but config.json has num_mel_bins {}", tower.bands));
    }
    let (frames, most) = (features.frames(), tower.stretched()[0]);
    if frames > most {
        return Err(format!("makes {frames} frames, but the model takes at most {most}"));
    }
    match (features.truncation, tower.fusion) {
        (Truncation::Fusion, Some(_)) if bands != 64 => {
            Err(format!("feature_size is {bands}; the reference fuses 64 bands only"))
        }
        (Truncation::Fusion, Some(_)) | (Truncation::Window, None) => Ok(()),
        (Truncation::Fusion, None) => Err("truncation is `fusion`, but the model has no fusion; say rand_trunc".into()),
        (Truncation::Window, Some(_)) => Err("truncation is `rand_trunc`, but the model fuses; say fusion".into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn absent_fields_get_the_reference_defaults() {
        let arch = architecture(&json!({"model_type": "clap"})).unwrap();
        assert_eq!(arch.audio, super::super::arch::tests::htsat());
        assert_eq!((arch.text.vocab, arch.text.context(), arch.dim), (50265, 512, 512));
        assert_eq!((arch.text.blocks.eps, arch.projection), (1e-12, mils_graph::Activation::Relu));
        let f = features(&json!({})).unwrap();
        assert_eq!((f.sample_rate(), f.window(), f.frames(), f.bands()), (48_000, 480_000, 1001, 64));
        assert_eq!((f.padding(), f.truncation()), (Padding::RepeatPad, Truncation::Fusion));
    }

    /// As the hub has them, with all that other versions of transformers wrote.
    #[test]
    fn published_configurations_are_read() {
        let extractor = |truncation| {
            json!({"chunk_length_s": 10, "feature_extractor_type": "ClapFeatureExtractor", "feature_size": 64,
                "fft_window_size": 1024, "frequency_max": 14000, "frequency_min": 50, "hop_length": 480,
                "max_length_s": 10, "n_fft": 1024, "nb_frequency_bins": 513, "nb_max_samples": 480000,
                "padding": "repeatpad", "padding_side": "right", "padding_value": 0.0, "return_attention_mask": false,
                "sampling_rate": 48000, "top_db": null, "truncation": truncation})
        };
        let larger = json!({"model_type": "clap", "projection_dim": 512, "projection_hidden_act": "relu",
            "text_config": {"model_type": "clap_text_model", "vocab_size": 50265, "pad_token_id": 1},
            "audio_config": {"model_type": "clap_audio_model", "patch_embeds_hidden_size": 128, "hidden_size": 1024,
                "depths": [2, 2, 12, 2], "num_attention_heads": [4, 8, 16, 32], "patch_stride": [4, 4], "patch_size": 4,
                "fusion_type": null, "enable_fusion": false, "layer_norm_eps": 1e-5, "mlp_ratio": 4.0}});
        let arch = architecture(&larger).unwrap();
        assert_eq!((arch.audio.out(), arch.audio.stages[2].layers), (1024, 12));
        assert!(fits(&arch.audio, &features(&extractor("rand_trunc")).unwrap()).is_ok());
        let fused = json!({"audio_config": {"enable_fusion": true, "fusion_type": "aff_2d", "aff_block_r": 4}});
        let arch = architecture(&fused).unwrap();
        assert_eq!(arch.audio.fused(), Some(24));
        assert!(fits(&arch.audio, &features(&extractor("fusion")).unwrap()).is_ok());
        assert!(fits(&arch.audio, &features(&extractor("rand_trunc")).unwrap()).is_err());
    }

    #[test]
    fn absurd_numbers_are_refused() {
        for (bad, says) in [
            (json!({"audio_config": {"depths": [2, 2]}}), "depths are of 2 stages, but num_attention_heads of 4"),
            (json!({"audio_config": {"depths": 3}}), "audio_config: depths is 3"),
            (json!({"audio_config": {"hidden_size": 1024}}), "hidden_size is 1024, but the last stage has 768"),
            (json!({"audio_config": {"patch_stride": [2, 4]}}), "overlap"),
            (json!({"audio_config": {"enable_fusion": true, "fusion_type": "channel_map"}}), "channel_map"),
            (json!({"audio_config": {"patch_embed_input_channels": 4}}), "input_channels"),
            (json!({"audio_config": {"depths": vec![1; 70], "num_attention_heads": vec![1; 70]}}), "number of stages"),
            (json!({"audio_config": {"num_mel_bins": 0}}), "num_mel_bins is 0"),
            (json!({"text_config": {"pad_token_id": 60_000}}), "positions behind the padding's is 0"),
            (json!({"text_config": {"num_attention_heads": 7}}), "do not divide"),
            (json!({"projection_hidden_act": "swish"}), "swish"),
            (json!([]), "not a JSON object"),
        ] {
            let error = architecture(&bad).unwrap_err();
            assert!(error.contains(says), "{error}");
        }
        for (bad, says) in [
            (json!({"sampling_rate": 0}), "sampling_rate is 0"),
            (json!({"hop_length": 0}), "hop_length is 0"),
            (json!({"max_length_s": 1_000_000}), "max_length_s"),
            (json!({"max_length_s": 600}), "samples of a window is 28800000"),
            (json!({"hop_length": 1, "feature_size": 1000}), "features of a window"),
            (json!({"fft_window_size": 1}), "fft_window_size is 1"),
            (json!({"sampling_rate": 100, "max_length_s": 1, "fft_window_size": 1024}), "has 100 samples"),
            (json!({"frequency_min": 20_000}), "from 20000 to 14000 Hz"),
            (json!({"padding": "loop"}), "loop"),
            (json!({"truncation": "middle"}), "middle"),
        ] {
            let error = features(&bad).err().unwrap();
            assert!(error.contains(says), "{error}");
        }
        let tower = architecture(&json!({})).unwrap().audio;
        let problem = |json| fits(&tower, &features(&json).unwrap()).unwrap_err();
        assert!(problem(json!({"feature_size": 80})).contains("num_mel_bins 64"));
        assert!(problem(json!({"hop_length": 100})).contains("makes 4801 frames"));
        assert!(problem(json!({})).contains("no fusion"));
    }
}
