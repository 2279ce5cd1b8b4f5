//! Checkpoints of true size with random weights from a fixed seed, in the layout of transformers: speed needs nothing
//! else of a model, and these need no download.

use anyhow::{Context, Result};
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use safetensors::{Dtype, View};
use serde_json::{Value, json};
use std::borrow::Cow;
use std::collections::HashMap;
use std::path::{Path, PathBuf};

/// Changes with what is written, so that files of an older version are not taken for it.
const VERSION: u32 = 1;

/// A tower's blocks.
#[derive(Clone, Copy, Debug)]
pub struct Tower {
    /// Width.
    pub width: usize,
    /// Width of the MLP.
    pub mlp: usize,
    /// Blocks.
    pub layers: usize,
    /// Heads.
    pub heads: usize,
}

/// Which class of transformers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Family {
    /// `CLIPModel`
    Clip,
    /// `SiglipModel`
    Siglip,
}

/// A checkpoint's sizes.
#[derive(Clone, Copy, Debug)]
pub struct Recipe {
    /// Its folder.
    pub name: &'static str,
    /// Which.
    pub family: Family,
    /// Image tower.
    pub image: Tower,
    /// Side of its pictures.
    pub side: usize,
    /// Side of its patches.
    pub patch: usize,
    /// Text tower.
    pub text: Tower,
    /// Tokens.
    pub vocab: usize,
    /// Positions.
    pub context: usize,
    /// Width of the shared space.
    pub dim: usize,
}

const fn tower(width: usize, mlp: usize, layers: usize, heads: usize) -> Tower {
    Tower { width, mlp, layers, heads }
}

/// OpenAI's CLIP ViT-B/32.
pub const CLIP_B32: Recipe = Recipe {
    name: "clip-vit-base-patch32",
    family: Family::Clip,
    image: tower(768, 3072, 12, 12),
    side: 224,
    patch: 32,
    text: tower(512, 2048, 12, 8),
    vocab: 49408,
    context: 77,
    dim: 512,
};

/// OpenAI's CLIP ViT-L/14.
pub const CLIP_L14: Recipe = Recipe {
    name: "clip-vit-large-patch14",
    image: tower(1024, 4096, 24, 16),
    patch: 14,
    text: tower(768, 3072, 12, 12),
    dim: 768,
    ..CLIP_B32
};

/// Google's SigLIP ViT-B/16 of 224 pixels.
pub const SIGLIP_B16: Recipe = Recipe {
    name: "siglip-base-patch16-224",
    family: Family::Siglip,
    image: tower(768, 3072, 12, 12),
    side: 224,
    patch: 16,
    text: tower(768, 3072, 12, 12),
    vocab: 32000,
    context: 64,
    dim: 768,
};

/// Google's SigLIP So400m/14 of 224 pixels.
pub const SIGLIP_SO400M: Recipe = Recipe {
    name: "siglip-so400m-patch14-224",
    image: tower(1152, 4304, 27, 16),
    patch: 14,
    text: tower(1152, 4304, 27, 16),
    context: 16,
    dim: 1152,
    ..SIGLIP_B16
};

/// What a tensor is filled with: uniform numbers of this deviation about this mean.
#[derive(Clone, Copy, Debug)]
struct Fill {
    mean: f32,
    deviation: f32,
}

/// A tensor that is made when it is written: a checkpoint need not fit the memory.
#[derive(Clone)]
pub(crate) struct Random {
    name: String,
    shape: Vec<usize>,
    fill: Fill,
}

impl Random {
    /// Elements.
    pub(crate) fn elements(&self) -> usize {
        self.shape.iter().product()
    }

    fn values(&self) -> impl Iterator<Item = f32> {
        // By name, so that the order in which tensors are written makes no difference.
        let seed = self
            .name
            .bytes()
            .fold(0xCBF2_9CE4_8422_2325_u64, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01B3));
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        // A uniform number of -1 to 1 has the deviation 1/sqrt(3).
        let (mean, half) = (self.fill.mean, self.fill.deviation * 3_f32.sqrt());
        (0..self.shape.iter().product::<usize>()).map(move |_| mean + half * (2.0 * rng.random::<f32>() - 1.0))
    }
}

impl View for &Random {
    fn dtype(&self) -> Dtype {
        Dtype::F32
    }
    fn shape(&self) -> &[usize] {
        &self.shape
    }
    fn data(&self) -> Cow<'_, [u8]> {
        Cow::Owned(self.values().flat_map(f32::to_le_bytes).collect())
    }
    fn data_len(&self) -> usize {
        self.shape.iter().product::<usize>() * size_of::<f32>()
    }
}

/// Every tensor of a checkpoint.
#[derive(Default)]
pub(crate) struct Tensors(pub(crate) Vec<Random>);

impl Tensors {
    pub(crate) fn add(&mut self, name: String, shape: &[usize], mean: f32, deviation: f32) {
        self.0.push(Random { name, shape: shape.to_vec(), fill: Fill { mean, deviation } });
    }

    /// A matrix that keeps the deviation of what it is applied to.
    pub(crate) fn matrix(&mut self, name: String, shape: &[usize]) {
        let fan_in: usize = shape[1..].iter().product();
        self.add(name, shape, 0.0, 1.0 / (fan_in as f32).sqrt());
    }

    pub(crate) fn linear(&mut self, at: &str, [out, width]: [usize; 2]) {
        self.matrix(format!("{at}.weight"), &[out, width]);
        self.add(format!("{at}.bias"), &[out], 0.0, 0.05);
    }

    pub(crate) fn norm(&mut self, at: &str, width: usize) {
        self.add(format!("{at}.weight"), &[width], 1.0, 0.05);
        self.add(format!("{at}.bias"), &[width], 0.0, 0.05);
    }

    fn mlp(&mut self, at: &str, width: usize, hidden: usize) {
        self.linear(&format!("{at}.fc1"), [hidden, width]);
        self.linear(&format!("{at}.fc2"), [width, hidden]);
    }

    fn blocks(&mut self, model: &str, tower: Tower) {
        for layer in 0..tower.layers {
            let at = format!("{model}.encoder.layers.{layer}");
            self.norm(&format!("{at}.layer_norm1"), tower.width);
            for part in ["q", "k", "v", "out"] {
                self.linear(&format!("{at}.self_attn.{part}_proj"), [tower.width; 2]);
            }
            self.norm(&format!("{at}.layer_norm2"), tower.width);
            self.mlp(&format!("{at}.mlp"), tower.width, tower.mlp);
        }
    }
}

impl Recipe {
    fn tensors(&self) -> Vec<Random> {
        let mut t = Tensors::default();
        let (image, text) = (self.image.width, self.text.width);
        let patches = (self.side / self.patch).pow(2);
        let (vision, texts) = ("vision_model", "text_model");
        t.matrix(format!("{vision}.embeddings.patch_embedding.weight"), &[image, 3, self.patch, self.patch]);
        t.blocks(vision, self.image);
        t.norm(&format!("{vision}.post_layernorm"), image);
        t.add(format!("{texts}.embeddings.token_embedding.weight"), &[self.vocab, text], 0.0, 0.5);
        t.add(format!("{texts}.embeddings.position_embedding.weight"), &[self.context, text], 0.0, 0.2);
        t.blocks(texts, self.text);
        t.norm(&format!("{texts}.final_layer_norm"), text);
        let positions = format!("{vision}.embeddings.position_embedding.weight");
        match self.family {
            Family::Clip => {
                t.add(positions, &[patches + 1, image], 0.0, 0.2);
                t.add(format!("{vision}.embeddings.class_embedding"), &[image], 0.0, 0.5);
                t.norm(&format!("{vision}.pre_layrnorm"), image);
                t.matrix("visual_projection.weight".into(), &[self.dim, image]);
                t.matrix("text_projection.weight".into(), &[self.dim, text]);
                // The logarithm of 100, which trained models end at.
                t.add("logit_scale".into(), &[], 4.6052, 0.0);
            }
            Family::Siglip => {
                t.add(positions, &[patches, image], 0.0, 0.2);
                t.add(format!("{vision}.embeddings.patch_embedding.bias"), &[image], 0.0, 0.05);
                let head = format!("{vision}.head");
                t.add(format!("{head}.probe"), &[1, 1, image], 0.0, 0.5);
                t.matrix(format!("{head}.attention.in_proj_weight"), &[3 * image, image]);
                t.add(format!("{head}.attention.in_proj_bias"), &[3 * image], 0.0, 0.05);
                t.linear(&format!("{head}.attention.out_proj"), [image; 2]);
                t.norm(&format!("{head}.layernorm"), image);
                t.mlp(&format!("{head}.mlp"), image, self.image.mlp);
                t.linear(&format!("{texts}.head"), [self.dim, text]);
                t.add("logit_scale".into(), &[1], 4.7, 0.0);
                t.add("logit_bias".into(), &[1], -12.0, 0.0);
            }
        }
        t.0
    }

    /// Bytes of the weights, with matrices and token tables in so many bytes an element and all else in four.
    pub fn weight_bytes(&self, matrix_element: usize) -> usize {
        let bytes = |t: &Random| {
            let elements: usize = t.shape.iter().product();
            // As the encoder has it: an image tower's positions and a probe are added, not multiplied.
            let held =
                t.shape.len() >= 2 && !t.name.ends_with("probe") && !t.name.starts_with("vision_model.embeddings.pos");
            elements * if held { matrix_element } else { size_of::<f32>() }
        };
        self.tensors().iter().map(bytes).sum()
    }

    fn config(&self) -> Value {
        let section = |tower: Tower| {
            json!({
                "hidden_size": tower.width,
                "intermediate_size": tower.mlp,
                "num_hidden_layers": tower.layers,
                "num_attention_heads": tower.heads,
            })
        };
        let (mut text, mut vision) = (section(self.text), section(self.image));
        text["vocab_size"] = self.vocab.into();
        text["max_position_embeddings"] = self.context.into();
        vision["image_size"] = self.side.into();
        vision["patch_size"] = self.patch.into();
        match self.family {
            Family::Clip => {
                for section in [&mut text, &mut vision] {
                    section["hidden_act"] = "quick_gelu".into();
                    section["projection_dim"] = self.dim.into();
                }
                text["bos_token_id"] = (self.vocab - 2).into();
                text["eos_token_id"] = (self.vocab - 1).into();
                json!({
                    "architectures": ["CLIPModel"], "model_type": "clip", "projection_dim": self.dim,
                    "text_config": text, "vision_config": vision,
                })
            }
            Family::Siglip => {
                text["projection_size"] = self.dim.into();
                text["model_type"] = "siglip_text_model".into();
                vision["model_type"] = "siglip_vision_model".into();
                json!({
                    "architectures": ["SiglipModel"], "model_type": "siglip",
                    "text_config": text, "vision_config": vision,
                })
            }
        }
    }

    fn processor(&self) -> Value {
        let (half, side) = ([0.5; 3], json!({"height": self.side, "width": self.side}));
        match self.family {
            Family::Clip => json!({
                "image_processor_type": "CLIPImageProcessor", "resample": 3,
                "size": {"shortest_edge": self.side}, "crop_size": side,
                "image_mean": [0.481_454_66, 0.457_827_5, 0.408_210_73],
                "image_std": [0.268_629_54, 0.261_302_58, 0.275_777_11],
            }),
            Family::Siglip => json!({
                "image_processor_type": "SiglipImageProcessor", "resample": 3, "size": side,
                "image_mean": half, "image_std": half,
            }),
        }
    }

    fn tokenizer(&self) -> Value {
        let (specials, processor) = match self.family {
            Family::Clip => {
                let (bos, eos) = (self.vocab - 2, self.vocab - 1);
                let names = ["<|startoftext|>", "<|endoftext|>"];
                let processor = json!({"type": "RobertaProcessing", "sep": [names[1], eos], "cls": [names[0], bos],
                    "trim_offsets": false, "add_prefix_space": false});
                (vec![(bos, names[0]), (eos, names[1])], processor)
            }
            Family::Siglip => {
                let processor = json!({"type": "TemplateProcessing",
                    "single": [{"Sequence": {"id": "A", "type_id": 0}}, {"SpecialToken": {"id": "</s>", "type_id": 0}}],
                    "pair": [{"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 1}}],
                    "special_tokens": {"</s>": {"id": "</s>", "ids": [1], "tokens": ["</s>"]}}});
                (vec![(0, "<pad>"), (1, "</s>")], processor)
            }
        };
        word_tokenizer(self.vocab, &specials, &processor)
    }

    /// The checkpoint's folder below `models`, made where it is not there yet. `say` is told if that takes a while.
    ///
    /// # Errors
    /// If it cannot be written.
    pub fn folder(&self, models: &Path, say: &mut dyn FnMut(&str)) -> Result<PathBuf> {
        let mut tokenizer_config = json!({"tokenizer_class": "CLIPTokenizer"});
        if self.family == Family::Siglip {
            tokenizer_config = json!({"tokenizer_class": "SiglipTokenizer", "pad_token": "</s>", "eos_token": "</s>"});
        }
        let files = || {
            [
                ("config.json", self.config()),
                ("preprocessor_config.json", self.processor()),
                ("tokenizer.json", self.tokenizer()),
                ("tokenizer_config.json", tokenizer_config.clone()),
            ]
        };
        write_checkpoint(models, self.name, files, &self.tensors(), say)
    }
}

/// A checkpoint's folder below `models`, made where it is not there yet.
pub(crate) fn write_checkpoint(
    models: &Path,
    name: &str,
    files: impl FnOnce() -> [(&'static str, Value); 4],
    tensors: &[Random],
    say: &mut dyn FnMut(&str),
) -> Result<PathBuf> {
    let folder = models.join(format!("{name}-v{VERSION}"));
    if folder.join("model.safetensors").is_file() {
        return Ok(folder);
    }
    let bytes = tensors.iter().map(Random::elements).sum::<usize>() * size_of::<f32>();
    say(&format!("making {} ({:.1} GB of random weights)", folder.display(), bytes as f64 / 1e9));
    std::fs::create_dir_all(&folder).with_context(|| format!("cannot make {}", folder.display()))?;
    for (name, value) in files() {
        let path = folder.join(name);
        std::fs::write(&path, value.to_string()).with_context(|| format!("cannot write {}", path.display()))?;
    }
    // Whole or not at all: the file has its name when it is complete.
    let (part, path) = (folder.join("model.safetensors.part"), folder.join("model.safetensors"));
    let metadata = HashMap::from([("format".to_owned(), "pt".to_owned())]);
    safetensors::serialize_to_file(tensors.iter().map(|t| (t.name.as_str(), t)), Some(metadata), &part)
        .with_context(|| format!("cannot write {}", part.display()))?;
    std::fs::rename(&part, &path).with_context(|| format!("cannot write {}", path.display()))?;
    Ok(folder)
}

/// A tokenizer of a word a token: those of [`captions`] and as many more as the vocabulary has room for.
pub(crate) fn word_tokenizer(size: usize, specials: &[(usize, &str)], processor: &Value) -> Value {
    let special = |id: usize, content: &str| {
        json!({"id": id, "content": content, "single_word": false, "lstrip": false, "rstrip": false,
               "normalized": false, "special": true})
    };
    let mut vocab: serde_json::Map<String, Value> =
        specials.iter().map(|(id, name)| ((*name).to_owned(), (*id).into())).collect();
    let known = ["<unk>"].into_iter().chain(WORDS.iter().flat_map(|w| w.iter().copied()));
    let mut known: Vec<String> = known.map(str::to_owned).collect();
    known.dedup();
    let free = (0..size).filter(|id| specials.iter().all(|(taken, _)| taken != id));
    let mut number = 0;
    let mut words = known.into_iter();
    for id in free {
        let mut word = words.next();
        while word.as_ref().is_some_and(|w| vocab.contains_key(w)) {
            word = words.next();
        }
        let word = word.unwrap_or_else(|| {
            number += 1;
            format!("w{number}")
        });
        vocab.insert(word, id.into());
    }
    let added: Vec<Value> = specials.iter().map(|(id, name)| special(*id, name)).collect();
    json!({
        "version": "1.0", "truncation": null, "padding": null, "added_tokens": added,
        "normalizer": {"type": "Lowercase"}, "pre_tokenizer": {"type": "Whitespace"},
        "post_processor": processor, "decoder": null,
        "model": {"type": "WordLevel", "vocab": vocab, "unk_token": "<unk>"},
    })
}

/// What captions are made of, column by column.
const WORDS: [[&str; 8]; 8] = [
    ["small", "big", "old", "young", "shiny", "dusty", "quiet", "wet"],
    ["red", "blue", "green", "white", "black", "brown", "grey", "orange"],
    ["dog", "cat", "horse", "car", "boat", "bird", "child", "bicycle"],
    ["beside", "behind", "under", "near", "above", "facing", "and", "with"],
    ["house", "tree", "river", "fence", "bench", "table", "window", "road"],
    ["in", "on", "at", "during", "after", "before", "through", "by"],
    ["snow", "rain", "grass", "night", "fog", "summer", "sunset", "shade"],
    ["a", "the", "of", "photo", "two", "people", "standing", "there"],
];

/// Captions of 10 to 14 words, the same for the same number.
pub fn captions(count: usize) -> Vec<String> {
    let mut rng = ChaCha8Rng::seed_from_u64(3);
    let mut word = |column: usize| WORDS[column][rng.random_range(0..8_usize)];
    (0..count)
        .map(|i| {
            let mut words = if i % 2 == 0 { vec!["a", "photo", "of", "a"] } else { vec!["there", "standing", "a"] };
            words.extend([word(0), word(1), word(2), word(3), "the", word(4)]);
            if i % 3 > 0 {
                words.extend([word(5), "the", word(6)]);
            }
            if i % 3 == 2 {
                words.insert(3, word(0));
            }
            words.truncate(14);
            words.join(" ")
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use mils_cpu::Cpu;
    use mils_encoder::{DualEncoder, Encoder, ModelFiles, Precision};

    const SMALL: [Recipe; 2] = [
        Recipe {
            name: "clip",
            image: tower(48, 96, 2, 3),
            side: 32,
            patch: 8,
            text: tower(32, 64, 2, 2),
            dim: 24,
            ..CLIP_B32
        },
        Recipe {
            name: "siglip",
            image: tower(48, 96, 2, 3),
            side: 32,
            patch: 8,
            text: tower(48, 64, 2, 2),
            vocab: 300,
            context: 20,
            dim: 48,
            ..SIGLIP_B16
        },
    ];

    fn encoder(recipe: &Recipe, folder: &Path) -> Encoder {
        let folder = recipe.folder(folder, &mut |_| {}).unwrap();
        ModelFiles::open_with(&folder, Precision::AsStored).unwrap().load(&Cpu::new()).unwrap()
    }

    #[test]
    fn checkpoints_load_and_give_embeddings_that_differ() {
        for recipe in &SMALL {
            let folder = tempfile::tempdir().unwrap();
            let mut encoder = encoder(recipe, folder.path());
            let captions = captions(6);
            let texts = encoder.embed_texts(&captions).unwrap();
            let pictures = crate::encoders::pictures(3, recipe.side as u32);
            let images = encoder.embed_images(&pictures).unwrap();
            for rows in [&texts, &images] {
                for i in 0..rows.len() {
                    assert!((rows.dot(i, rows, i) - 1.0).abs() < 1e-4);
                    assert!((0..i).all(|j| rows.dot(i, rows, j) < 0.999), "{} {i}", recipe.name);
                }
            }
            // The towers by themselves give the same.
            let pixels: Vec<_> = pictures.iter().map(|p| encoder.preprocess().apply(p).unwrap()).collect();
            assert_eq!(encoder.embed_pixels(&pixels).unwrap(), images);
            let ids: Vec<_> = captions.iter().map(|c| encoder.model_tokens(c).unwrap()).collect();
            assert_eq!(encoder.embed_tokens(&ids).unwrap(), texts);
            assert!(ids.iter().all(|row| (10..=20).contains(&row.len())), "{ids:?}");
            assert!(encoder.image_activation_bytes(2).unwrap() > encoder.image_activation_bytes(1).unwrap());
            // As many bytes as were said.
            let file = std::fs::metadata(recipe.folder(folder.path(), &mut |_| {}).unwrap().join("model.safetensors"));
            let (file, said) = (file.unwrap().len() as usize, recipe.weight_bytes(4));
            assert!(file > said && file < said + 20_000, "{file} {said}");
            assert!(recipe.weight_bytes(2) < said * 6 / 10);
        }
    }

    #[test]
    fn captions_padded_to_the_context_are_the_same_captions() {
        let folder = tempfile::tempdir().unwrap();
        let mut encoder = encoder(&SMALL[0], folder.path());
        let ids: Vec<_> = captions(5).iter().map(|c| encoder.model_tokens(c).unwrap()).collect();
        let padded = crate::encoders::padded(&ids, 77, 49407);
        assert!(padded.iter().all(|row| row.len() == 77));
        let (a, b) = (encoder.embed_tokens(&ids).unwrap(), encoder.embed_tokens(&padded).unwrap());
        assert!((0..5).all(|i| a.dot(i, &b, i) > 0.99999));
        // What the model has no place for is refused.
        assert!(encoder.embed_tokens(&[vec![]]).is_err() && encoder.embed_tokens(&[vec![5; 78]]).is_err());
        assert!(encoder.embed_tokens(&[vec![49408]]).is_err());
    }

    #[test]
    fn captions_are_of_the_length_of_captions_and_all_known() {
        let captions = captions(50);
        assert!(captions.iter().all(|c| (9..=14).contains(&c.split(' ').count())), "{captions:?}");
        let distinct: std::collections::HashSet<&String> = captions.iter().collect();
        assert!(distinct.len() > 45);
        let known: Vec<&str> = WORDS.iter().flatten().copied().collect();
        assert!(captions.iter().flat_map(|c| c.split(' ')).all(|w| known.contains(&w)));
    }

    #[test]
    fn sizes_are_the_models_own() {
        // Parameters as the hub has them: 151.3, 427.6, 203.2 and 877.4 millions.
        let millions = |r: &Recipe| (r.weight_bytes(4) / 4) as f64 / 1e6;
        for (recipe, wanted) in [(CLIP_B32, 151.3), (CLIP_L14, 427.6), (SIGLIP_B16, 203.2), (SIGLIP_SO400M, 877.4)] {
            assert!((millions(&recipe) - wanted).abs() < 0.1, "{} {}", recipe.name, millions(&recipe));
        }
    }
}
