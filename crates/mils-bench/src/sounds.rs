//! CLAP beside its peer: features of sounds by themselves, the audio tower from features to embeddings, and the text tower.

use crate::bench::Bench;
use crate::checkpoint::{Tensors, captions, word_tokenizer, write_checkpoint};
use crate::encoders::{Ours, PRECISIONS, Peer, padded};
use crate::harness::{Contestant, Kind};
use crate::peer::{Ask, Loaded, Worker};
use anyhow::{Context, Result};
use mils_cpu::{Cpu, Math};
use mils_encoder::{ClapEncoder, ClapFiles, Crops, Embeddings, Mels, Precision, SoundFeatures};
use mils_graph::Backend;
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use serde_json::{Value, json};
use std::cell::RefCell;
use std::path::{Path, PathBuf};
use std::rc::Rc;

/// Padding among the text tower's tokens.
const PAD: u32 = 1;
const VOCAB: usize = 50_265;

/// Sounds of so many seconds at 48 kHz: a tone in noise that swells, the same for the same number.
fn sounds(count: usize, seconds: usize) -> Vec<Vec<f32>> {
    let mut rng = ChaCha8Rng::seed_from_u64(17);
    let sample = |rng: &mut ChaCha8Rng, i: usize, t: usize| {
        let t = t as f32 / 48_000.0;
        let tone = (t * 440.0 * (i + 1) as f32 * std::f32::consts::TAU).sin();
        0.3 * tone + 0.3 * (t * 2.0).sin() * (rng.random::<f32>() - 0.5)
    };
    (0..count).map(|i| (0..48_000 * seconds).map(|t| sample(&mut rng, i, t)).collect()).collect()
}

/// Random weights of the sizes of `laion/clap-htsat-unfused`, in its layout, but for the buffers that its reference makes
/// anew.
///
/// # Errors
/// If it cannot be written.
pub(crate) fn checkpoint(models: &Path, say: &mut dyn FnMut(&str)) -> Result<PathBuf> {
    let files = || {
        [
            ("config.json", config()),
            ("preprocessor_config.json", processor()),
            ("tokenizer.json", tokenizer()),
            ("tokenizer_config.json", json!({"tokenizer_class": "RobertaTokenizer", "pad_token": "<pad>"})),
        ]
    };
    let mut t = Tensors::default();
    audio_tower(&mut t);
    text_tower(&mut t);
    write_checkpoint(models, "clap-htsat-unfused", files, &t.0, say)
}

fn config() -> Value {
    // All else is as transformers has it by default.
    json!({
        "architectures": ["ClapModel"], "model_type": "clap", "projection_dim": 512, "projection_hidden_act": "relu",
        "text_config": {"model_type": "clap_text_model", "vocab_size": VOCAB, "pad_token_id": PAD},
        "audio_config": {"model_type": "clap_audio_model", "enable_fusion": false},
    })
}

fn processor() -> Value {
    json!({
        "feature_extractor_type": "ClapFeatureExtractor", "feature_size": 64, "fft_window_size": 1024,
        "frequency_min": 50, "frequency_max": 14_000, "hop_length": 480, "max_length_s": 10, "sampling_rate": 48_000,
        "padding": "repeatpad", "truncation": "rand_trunc",
    })
}

fn tokenizer() -> Value {
    let names = [(0, "<s>"), (1, "<pad>"), (2, "</s>"), (3, "<unk>")];
    let processor = json!({"type": "RobertaProcessing", "sep": ["</s>", 2], "cls": ["<s>", 0],
        "trim_offsets": true, "add_prefix_space": false});
    word_tokenizer(VOCAB, &names, &processor)
}

fn audio_tower(t: &mut Tensors) {
    let audio = "audio_model.audio_encoder";
    t.norm(&format!("{audio}.batch_norm"), 64);
    t.add(format!("{audio}.batch_norm.running_mean"), &[64], -30.0, 5.0);
    t.add(format!("{audio}.batch_norm.running_var"), &[64], 400.0, 50.0);
    t.matrix(format!("{audio}.patch_embed.proj.weight"), &[96, 1, 4, 4]);
    t.add(format!("{audio}.patch_embed.proj.bias"), &[96], 0.0, 0.05);
    t.norm(&format!("{audio}.patch_embed.norm"), 96);
    for (stage, (layers, heads)) in [(2, 4), (2, 8), (6, 16), (2, 32)].into_iter().enumerate() {
        let d = 96 << stage;
        for layer in 0..layers {
            let at = format!("{audio}.layers.{stage}.blocks.{layer}");
            let attention = format!("{at}.attention.self");
            t.norm(&format!("{at}.layernorm_before"), d);
            t.add(format!("{attention}.relative_position_bias_table"), &[225, heads], 0.0, 0.5);
            ["query", "key", "value"].iter().for_each(|part| t.linear(&format!("{attention}.{part}"), [d, d]));
            t.linear(&format!("{at}.attention.output.dense"), [d, d]);
            t.norm(&format!("{at}.layernorm_after"), d);
            t.linear(&format!("{at}.intermediate.dense"), [4 * d, d]);
            t.linear(&format!("{at}.output.dense"), [d, 4 * d]);
        }
        if stage < 3 {
            let at = format!("{audio}.layers.{stage}.downsample");
            t.norm(&format!("{at}.norm"), 4 * d);
            t.matrix(format!("{at}.reduction.weight"), &[2 * d, 4 * d]);
        }
    }
    t.norm(&format!("{audio}.norm"), 768);
    projection(t, "audio");
    // The logarithm of 1/0.07, at which models begin.
    t.add("logit_scale_a".into(), &[], 2.6593, 0.0);
    t.add("logit_scale_t".into(), &[], 2.6593, 0.0);
}

fn projection(t: &mut Tensors, tower: &str) {
    t.linear(&format!("{tower}_projection.linear1"), [512, 768]);
    t.linear(&format!("{tower}_projection.linear2"), [512, 512]);
}

fn text_tower(t: &mut Tensors) {
    let (text, d) = ("text_model", 768);
    for (table, rows, deviation) in [("word", VOCAB, 0.5), ("position", 514, 0.2), ("token_type", 1, 0.1)] {
        t.add(format!("{text}.embeddings.{table}_embeddings.weight"), &[rows, d], 0.0, deviation);
    }
    t.norm(&format!("{text}.embeddings.LayerNorm"), d);
    for layer in 0..12 {
        let at = format!("{text}.encoder.layer.{layer}");
        for part in ["query", "key", "value"] {
            t.linear(&format!("{at}.attention.self.{part}"), [d, d]);
        }
        t.linear(&format!("{at}.attention.output.dense"), [d, d]);
        t.norm(&format!("{at}.attention.output.LayerNorm"), d);
        t.linear(&format!("{at}.intermediate.dense"), [4 * d, d]);
        t.linear(&format!("{at}.output.dense"), [d, 4 * d]);
        t.norm(&format!("{at}.output.LayerNorm"), d);
    }
    t.linear(&format!("{text}.pooler.dense"), [d, d]);
    projection(t, "text");
}

/// What is computed.
enum Input {
    Sounds(Vec<Vec<f32>>),
    Mels(Vec<Mels>),
    Texts(Vec<Vec<u32>>),
}

/// One table's work.
struct Work {
    id: &'static str,
    title: String,
    input: Input,
}

impl Work {
    /// What a peer gets: kind, shape, and the numbers as bytes.
    fn raw(&self) -> (&'static str, Vec<usize>, Vec<u8>) {
        let floats = |all: &mut dyn Iterator<Item = f32>| all.flat_map(f32::to_le_bytes).collect();
        match &self.input {
            Input::Sounds(sounds) => {
                let shape = vec![sounds.len(), sounds.first().map_or(0, Vec::len)];
                ("samples", shape, floats(&mut sounds.iter().flatten().copied()))
            }
            Input::Mels(mels) => {
                let (frames, bands) = mels.first().map_or((0, 0), |m| (m.frames, m.bands));
                ("mels", vec![mels.len(), 1, frames, bands], floats(&mut mels.iter().flat_map(|m| &m.data).copied()))
            }
            Input::Texts(rows) => {
                let longest = rows.iter().map(Vec::len).max().unwrap_or_default();
                let bytes = padded(rows, longest, PAD).iter().flatten().flat_map(|v| v.to_le_bytes()).collect();
                ("tokens", vec![rows.len(), longest], bytes)
            }
        }
    }

    fn run(&self, encoder: &mut ClapEncoder) -> Result<Embeddings> {
        Ok(match &self.input {
            Input::Sounds(sounds) => features(encoder.features(), sounds)?,
            Input::Mels(mels) => encoder.embed_mels(mels)?,
            Input::Texts(ids) => encoder.embed_tokens(ids)?,
        })
    }
}

/// Spectrograms, a row a sound.
fn features(of: &SoundFeatures, sounds: &[Vec<f32>]) -> Result<Embeddings> {
    let mut rows = Vec::new();
    for sound in sounds {
        of.extract(sound, Crops::default())?.into_iter().for_each(|mels| rows.extend(mels.data));
    }
    Ok(Embeddings::new(rows.len() / sounds.len().max(1), rows)?)
}

/// Our encoders: each precision on each device, the first of them twice, and products in bf16 where the CPU has them.
type OurEncoders = Vec<(String, Kind, Rc<RefCell<ClapEncoder>>)>;

fn ours(folder: &Path, devices: &[(&str, &dyn Backend)], bench: &Bench) -> Result<OurEncoders> {
    let open = |precision, backend: &dyn Backend| -> Result<_> {
        Ok(Rc::new(RefCell::new(ClapFiles::open_with(folder, precision)?.load(backend)?)))
    };
    let mut out: OurEncoders = Vec::new();
    for (device, backend) in devices {
        for (name, precision) in PRECISIONS {
            bench.say(&format!("loading CLAP in {name} on the {device}"));
            let name = if *device == "CPU" { format!("ours {name}") } else { format!("ours {name} on the {device}") };
            out.push((name, Kind::Ours, open(precision, *backend)?));
        }
    }
    if Cpu::has_bf16() {
        let encoder = open(Precision::BF16, &Cpu::with_math(Math::BF16))?;
        out.push(("ours bf16 products".into(), Kind::Ours, encoder));
    }
    if let Some((_, cpu)) = devices.first() {
        out.insert(1, ("ours f32 again".into(), Kind::Again, open(Precision::F32, *cpu)?));
    }
    Ok(out)
}

fn works(encoder: &ClapEncoder) -> Result<Vec<Work>> {
    let ids = captions(50).iter().map(|c| encoder.tokenize(c)).collect::<Result<Vec<_>, _>>()?;
    let longest = ids.iter().map(Vec::len).max().unwrap_or_default();
    let ten = sounds(8, 10);
    let mels: Vec<Mels> = ten
        .iter()
        .map(|sound| encoder.features().extract(sound, Crops::default()))
        .collect::<Result<Vec<_>, _>>()?
        .into_iter()
        .flatten()
        .collect();
    let name = "clap-htsat-unfused";
    let first = mels.first().cloned().context("no sounds")?;
    Ok(vec![
        Work { id: IDS[0], title: format!("{name}: features of 8 sounds of 10 s"), input: Input::Sounds(ten) },
        Work { id: IDS[1], title: format!("{name}: audio tower, 8 sounds of 10 s"), input: Input::Mels(mels) },
        Work { id: IDS[2], title: format!("{name}: audio tower, 1 sound of 10 s"), input: Input::Mels(vec![first]) },
        Work {
            id: IDS[3],
            title: format!("{name}: 50 captions, the longest of {longest} tokens"),
            input: Input::Texts(ids),
        },
    ])
}

/// The tables.
const IDS: [&str; 4] = ["clap-features-8", "clap-sounds-8", "clap-sound-1", "clap-texts-50"];

/// Runs the tables of sounds.
///
/// # Errors
/// If the checkpoint cannot be made or loaded; peers that fail are left out with a note.
pub fn run(bench: &mut Bench) -> Result<()> {
    if !bench.any_wanted(&IDS.map(str::to_owned)) {
        return Ok(());
    }
    let folder = bench.sound_checkpoint()?;
    let workers = bench.start_peers();
    let gpus = bench.gpus()?;
    let cpu = Cpu::new();
    let mut devices: Vec<(&str, &dyn Backend)> = vec![("CPU", &cpu)];
    devices.extend(gpus.iter().zip(["GPU", "GPU, activations in f16"]).map(|(gpu, name)| (name, gpu as &dyn Backend)));
    let encoders = ours(&folder, &devices, bench)?;
    let mut able = Vec::new();
    for (name, worker) in &workers {
        bench.say(&format!("{name} loads CLAP"));
        let ask = Ask::Load { model: &folder, cache: &folder.join("onnx") };
        let loaded = worker.borrow_mut().ask::<Loaded>(&ask);
        match loaded {
            Ok(_) => able.push((name.as_str(), worker)),
            Err(problem) => bench.note(format!("{name} is left out of CLAP: {problem:#}")),
        }
    }
    let works = works(&encoders[0].2.borrow())?;
    for work in works.into_iter().map(Rc::new) {
        if bench.wanted(work.id) && !bench.stopped() {
            table(bench, &work, &encoders, &able)?;
        }
    }
    Ok(())
}

fn table(
    bench: &mut Bench,
    work: &Rc<Work>,
    encoders: &OurEncoders,
    workers: &[(&str, &Rc<RefCell<Worker>>)],
) -> Result<()> {
    let reference = Rc::new(work.run(&mut encoders[0].2.borrow_mut())?);
    // Features know neither precision nor device.
    let those = if matches!(work.input, Input::Sounds(_)) { &encoders[..2] } else { &encoders[..] };
    let mut contestants: Vec<Box<dyn Contestant>> = Vec::new();
    for (name, kind, encoder) in those {
        let (encoder, work) = (Rc::clone(encoder), Rc::clone(work));
        let embed = move || work.run(&mut encoder.borrow_mut());
        contestants.push(Box::new(Ours::new((name, *kind), &reference, embed)));
    }
    let scratch = tempfile::tempdir()?;
    let (kind, shape, bytes) = work.raw();
    for (name, worker) in workers {
        bench.say(&format!("{name} prepares {}", work.title));
        let named = (work.id.to_owned(), "");
        match Peer::new((name, worker), named, (kind, &shape, &bytes), scratch.path(), &reference) {
            Ok(peer) => contestants.push(Box::new(peer)),
            Err(problem) => bench.note(format!("{name} is left out of {}: {problem:#}", work.id)),
        }
    }
    bench.measure((work.id, &work.title), &mut contestants, &["torch-f32"]);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use mils_encoder::SoundEncoder;

    #[test]
    fn the_checkpoint_is_a_clap_of_its_size() {
        let models = tempfile::tempdir().unwrap();
        let folder = checkpoint(models.path(), &mut |_| {}).unwrap();
        let files = ClapFiles::open(&folder).unwrap();
        assert_eq!(files.parameters(), 153_492_890);
        let mut encoder = files.load(&Cpu::new()).unwrap();
        assert_eq!((encoder.sample_rate(), encoder.dim()), (48_000, 512));
        let works = works(&encoder).unwrap();
        let sounds = works[2].run(&mut encoder).unwrap();
        assert!((sounds.dot(0, &sounds, 0) - 1.0).abs() < 1e-4);
        let texts = works[3].run(&mut encoder).unwrap();
        assert!((1..50).all(|i| texts.dot(0, &texts, i) < 0.9999));
        let (kind, shape, bytes) = works[1].raw();
        assert_eq!((kind, &shape[..], bytes.len()), ("mels", &[8, 1, 1001, 64][..], 8 * 1001 * 64 * 4));
    }
}
