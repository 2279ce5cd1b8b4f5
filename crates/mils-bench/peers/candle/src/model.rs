//! CLIP and SigLIP as candle-transformers has them, opened from a folder in the layout of transformers.

use anyhow::{Context, Result, bail};
use candle_core::{DType, Device, Tensor};
use candle_nn::VarBuilder;
use candle_transformers::models::clip::text_model::{Activation, ClipTextConfig};
use candle_transformers::models::clip::vision_model::ClipVisionConfig;
use candle_transformers::models::clip::{self, ClipConfig, ClipModel};
use candle_transformers::models::siglip;
use serde::Deserialize;
use std::path::Path;

/// A checkpoint in memory, in f32.
pub enum Model {
    /// Of `CLIPModel`.
    Clip(Box<ClipModel>),
    /// Of `SiglipModel`.
    Siglip(Box<siglip::Model>),
}

/// What a checkpoint is, before anything else of its configuration is read.
#[derive(Deserialize)]
struct Which {
    model_type: String,
}

/// What candle's CLIP takes of a CLIP's configuration.
#[derive(Deserialize)]
struct ClipFile {
    projection_dim: usize,
    text_config: ClipText,
    vision_config: ClipVision,
}

#[derive(Deserialize)]
struct ClipText {
    #[serde(flatten)]
    tower: ClipTower,
    max_position_embeddings: usize,
    vocab_size: usize,
}

#[derive(Deserialize)]
struct ClipVision {
    #[serde(flatten)]
    tower: ClipTower,
    image_size: usize,
    patch_size: usize,
}

#[derive(Deserialize)]
struct ClipTower {
    hidden_size: usize,
    intermediate_size: usize,
    num_hidden_layers: usize,
    num_attention_heads: usize,
    #[serde(default = "ClipTower::usual_act")]
    hidden_act: String,
    #[serde(default = "ClipTower::usual_eps")]
    layer_norm_eps: f64,
}

impl ClipTower {
    // Both as transformers has them.
    fn usual_act() -> String {
        "quick_gelu".into()
    }

    fn usual_eps() -> f64 {
        1e-5
    }

    /// candle's CLIP knows one activation and one epsilon, whatever the configuration says.
    fn check(&self) -> Result<()> {
        if self.hidden_act != Self::usual_act() {
            bail!("candle's CLIP has {} only, and this one wants {}", Self::usual_act(), self.hidden_act);
        }
        if self.layer_norm_eps != Self::usual_eps() {
            bail!("candle's CLIP has an epsilon of {} only, not {}", Self::usual_eps(), self.layer_norm_eps);
        }
        Ok(())
    }
}

impl ClipFile {
    fn candle(self) -> Result<ClipConfig> {
        let (dim, text, vision) = (self.projection_dim, self.text_config, self.vision_config);
        text.tower.check()?;
        vision.tower.check()?;
        Ok(ClipConfig {
            text_config: ClipTextConfig {
                vocab_size: text.vocab_size,
                embed_dim: text.tower.hidden_size,
                activation: Activation::QuickGelu,
                intermediate_size: text.tower.intermediate_size,
                max_position_embeddings: text.max_position_embeddings,
                pad_with: None,
                num_hidden_layers: text.tower.num_hidden_layers,
                num_attention_heads: text.tower.num_attention_heads,
                projection_dim: dim,
            },
            vision_config: ClipVisionConfig {
                embed_dim: vision.tower.hidden_size,
                activation: Activation::QuickGelu,
                intermediate_size: vision.tower.intermediate_size,
                num_hidden_layers: vision.tower.num_hidden_layers,
                num_attention_heads: vision.tower.num_attention_heads,
                projection_dim: dim,
                num_channels: 3,
                image_size: vision.image_size,
                patch_size: vision.patch_size,
            },
            // For models without one of their own; embeddings do not depend on it.
            logit_scale_init_value: 2.6592,
            image_size: vision.image_size,
        })
    }
}

/// A checkpoint's configuration, for the model that candle has of it.
pub enum Config {
    /// Of `CLIPModel`.
    Clip(ClipConfig),
    /// Of `SiglipModel`.
    Siglip(siglip::Config),
}

impl Config {
    /// Reads a `config.json`.
    ///
    /// # Errors
    /// If it is of a model that candle has not, or lacks something.
    pub fn read(json: &str) -> Result<Self> {
        match serde_json::from_str::<Which>(json)?.model_type.as_str() {
            "clip" => Ok(Self::Clip(serde_json::from_str::<ClipFile>(json)?.candle()?)),
            "siglip" => Ok(Self::Siglip(serde_json::from_str(json)?)),
            other => bail!("only clip and siglip run in candle here, and this is a model of the type {other}"),
        }
    }

    /// Takes the weights from wherever they are.
    ///
    /// # Errors
    /// If one is missing or misshapen.
    pub fn build(&self, weights: VarBuilder<'_>) -> Result<Model> {
        Ok(match self {
            Self::Clip(config) => Model::Clip(Box::new(ClipModel::new(weights, config)?)),
            Self::Siglip(config) => Model::Siglip(Box::new(siglip::Model::new(config, weights)?)),
        })
    }
}

/// What is embedded.
pub enum Input {
    /// Preprocessed pictures, `[pictures, 3, height, width]`.
    Pixels(Tensor),
    /// Token ids, `[texts, tokens]`, all texts of one length. CLIP pools where the largest id is for the first time, which
    /// is at the end token where the padding is the end token too; SigLIP pools at the last place.
    Tokens(Tensor),
}

impl Model {
    /// Opens a folder.
    ///
    /// # Errors
    /// If a file is missing or not what candle wants.
    pub fn open(folder: &Path) -> Result<Self> {
        let (config, weights) = (folder.join("config.json"), folder.join("model.safetensors"));
        let json = std::fs::read_to_string(&config).with_context(|| format!("cannot read {}", config.display()))?;
        let config = Config::read(&json).with_context(|| format!("cannot use {}", config.display()))?;
        let bytes = std::fs::read(&weights).with_context(|| format!("cannot read {}", weights.display()))?;
        let named = || format!("cannot use {}", weights.display());
        // candle's matrices on the CPU are multiplied in f32 or f16, and in f16 no faster.
        let builder = VarBuilder::from_buffered_safetensors(bytes, DType::F32, &Device::Cpu).with_context(named)?;
        config.build(builder).with_context(named)
    }

    /// Rows of length 1.
    ///
    /// # Errors
    /// If the input is not what the model takes.
    pub fn embed(&self, input: &Input) -> Result<Tensor> {
        let rows = match (self, input) {
            (Self::Clip(model), Input::Pixels(pixels)) => model.get_image_features(pixels),
            (Self::Clip(model), Input::Tokens(ids)) => model.get_text_features(ids),
            (Self::Siglip(model), Input::Pixels(pixels)) => model.get_image_features(pixels),
            (Self::Siglip(model), Input::Tokens(ids)) => model.get_text_features(ids),
        };
        Ok(clip::div_l2_norm(&rows?)?)
    }
}
