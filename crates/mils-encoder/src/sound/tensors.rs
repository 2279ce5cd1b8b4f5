//! Every tensor of a CLAP under the names that [`super::forward`] uses, where `ClapModel` of transformers keeps it, and
//! what is made of several: biases of windows, and normalisations folded into the layers beside them.

use super::arch::{AudioTower, SoundArchitecture, Step};
use super::spectra::{Normalisation, has_local};
use crate::EncoderError;
use crate::tensors::{Role, Source, Tensor, View};
use crate::weights::{Checkpoint, Precision};
use mils_graph::{HostTensor, TensorError};
use std::collections::HashMap;

/// PyTorch's epsilon of batch norms.
const BATCH_NORM_EPS: f32 = 1e-5;
const AUDIO: &str = "audio_model.audio_encoder";
const TEXT: &str = "text_model";
/// Names of tensors that are read to make others of.
const RAW: &str = "raw.";
/// What a batch norm has, all of them vectors.
const BATCH_NORM: [&str; 4] = ["weight", "bias", "running_mean", "running_var"];

/// Tensors with their sources.
#[derive(Default)]
struct Wanted(Vec<(Tensor, Source)>);

impl Wanted {
    fn add(&mut self, (name, source): (String, String), shape: &[usize], role: Role, stored: &[usize]) {
        let source = Source { name: source, shape: stored.to_vec(), view: View::Whole };
        self.0.push((Tensor { name, shape: shape.to_vec(), role }, source));
    }

    fn vector(&mut self, name: String, source: String, shape: &[usize]) {
        self.add((name, source), shape, Role::Vector, shape);
    }

    fn matrix(&mut self, name: String, source: String, shape: [usize; 2]) {
        self.add((name, source), &shape, Role::Matrix, &shape);
    }

    fn norm(&mut self, name: &str, source: &str, d: usize) {
        for leaf in ["weight", "bias"] {
            self.vector(format!("{name}.{leaf}"), format!("{source}.{leaf}"), &[d]);
        }
    }

    fn linear(&mut self, name: &str, source: &str, shape: [usize; 2], bias: bool) {
        self.matrix(format!("{name}.weight"), format!("{source}.weight"), shape);
        if bias {
            self.vector(format!("{name}.bias"), format!("{source}.bias"), &shape[..1]);
        }
    }

    /// The weight of a convolution over patches [rows, columns] of one channel, as the matrix that it is.
    fn convolution(&mut self, name: &str, source: &str, out: usize, [rows, columns]: [usize; 2]) {
        let names = (format!("{name}.weight"), format!("{source}.weight"));
        self.add(names, &[out, rows * columns], Role::Matrix, &[out, 1, rows, columns]);
    }

    fn batch_norm(&mut self, name: &str, source: &str, d: usize) {
        for leaf in BATCH_NORM {
            self.vector(format!("{RAW}{name}.{leaf}"), format!("{source}.{leaf}"), &[d]);
        }
    }

    fn projection(&mut self, tower: &str, [width, dim]: [usize; 2]) {
        self.linear(&format!("{tower}.projection1"), &format!("{tower}_projection.linear1"), [dim, width], true);
        self.linear(&format!("{tower}.projection2"), &format!("{tower}_projection.linear2"), [dim, dim], true);
    }

    fn audio(&mut self, tower: &AudioTower) {
        let (width, patch) = (tower.width, tower.patch);
        self.batch_norm("bands", &format!("{AUDIO}.batch_norm"), tower.bands);
        let proj = format!("{AUDIO}.patch_embed.proj");
        self.convolution("audio.patch", &proj, width, [patch; 2]);
        self.vector("audio.patch.bias".into(), format!("{proj}.bias"), &[width]);
        if tower.patch_norm {
            self.norm("audio.patch_norm", &format!("{AUDIO}.patch_embed.norm"), width);
        }
        if let Some(inner) = tower.fused() {
            let local = format!("{AUDIO}.patch_embed.mel_conv2d");
            self.convolution("audio.local", &local, width, [patch, 3 * patch]);
            self.vector(format!("{RAW}local.bias"), format!("{local}.bias"), &[width]);
            for (name, first, module) in FUSIONS {
                for (part, at, [out, from]) in [("down", first, [inner, width]), ("up", first + 3, [width, inner])] {
                    let source = format!("{AUDIO}.patch_embed.fusion_model.{module}");
                    let raw = format!("{RAW}{name}.{part}");
                    let names = (format!("{raw}.matrix"), format!("{source}.{at}.weight"));
                    self.add(names, &[out, from], Role::Vector, &[out, from, 1, 1]);
                    self.vector(format!("{raw}.offset"), format!("{source}.{at}.bias"), &[out]);
                    self.batch_norm(&format!("{name}.{part}"), &format!("{source}.{}", at + 1), out);
                }
            }
        }
        for step in tower.steps() {
            match step {
                Step::Layer { stage, layer, .. } => self.layer(tower, stage, layer),
                Step::Merge { stage, .. } => {
                    let d = tower.width(stage);
                    let (name, source) = (format!("audio.merge{stage}"), format!("{AUDIO}.layers.{stage}.downsample"));
                    self.norm(&format!("{name}.norm"), &format!("{source}.norm"), 4 * d);
                    self.linear(&format!("{name}.reduction"), &format!("{source}.reduction"), [2 * d, 4 * d], false);
                }
            }
        }
        self.norm("audio.norm", &format!("{AUDIO}.norm"), tower.out());
    }

    fn layer(&mut self, tower: &AudioTower, stage: usize, layer: usize) {
        let (d, mlp, heads) = (tower.width(stage), tower.mlp(stage), tower.stages[stage].heads);
        let name = format!("audio.stage{stage}.{layer}");
        let source = format!("{AUDIO}.layers.{stage}.blocks.{layer}");
        self.norm(&format!("{name}.norm1"), &format!("{source}.layernorm_before"), d);
        for (ours, theirs) in [("q", "query"), ("k", "key"), ("v", "value")] {
            let source = format!("{source}.attention.self.{theirs}");
            self.linear(&format!("{name}.attn.{ours}"), &source, [d, d], tower.qkv_bias);
        }
        let table = format!("{source}.attention.self.relative_position_bias_table");
        self.vector(format!("{RAW}{name}.biases"), table, &[(2 * tower.window - 1).pow(2), heads]);
        self.linear(&format!("{name}.attn.out"), &format!("{source}.attention.output.dense"), [d, d], true);
        self.norm(&format!("{name}.norm2"), &format!("{source}.layernorm_after"), d);
        self.linear(&format!("{name}.mlp.up"), &format!("{source}.intermediate.dense"), [mlp, d], true);
        self.linear(&format!("{name}.mlp.down"), &format!("{source}.output.dense"), [d, mlp], true);
    }

    fn text(&mut self, arch: &SoundArchitecture) {
        let text = &arch.text;
        let (d, mlp) = (text.blocks.width, text.blocks.mlp);
        let embeddings = format!("{TEXT}.embeddings");
        self.matrix("text.tokens".into(), format!("{embeddings}.word_embeddings.weight"), [text.vocab, d]);
        self.matrix("text.positions".into(), format!("{embeddings}.position_embeddings.weight"), [text.positions, d]);
        let types = format!("{embeddings}.token_type_embeddings.weight");
        self.vector(format!("{RAW}text.types"), types, &[text.types, d]);
        self.norm("text.norm", &format!("{embeddings}.LayerNorm"), d);
        for layer in 0..text.blocks.layers {
            let (name, source) = (format!("text.blocks.{layer}"), format!("{TEXT}.encoder.layer.{layer}"));
            for (ours, theirs) in [("q", "query"), ("k", "key"), ("v", "value")] {
                let source = format!("{source}.attention.self.{theirs}");
                self.linear(&format!("{name}.attn.{ours}"), &source, [d, d], true);
            }
            self.linear(&format!("{name}.attn.out"), &format!("{source}.attention.output.dense"), [d, d], true);
            self.norm(&format!("{name}.norm1"), &format!("{source}.attention.output.LayerNorm"), d);
            self.linear(&format!("{name}.mlp.up"), &format!("{source}.intermediate.dense"), [mlp, d], true);
            self.linear(&format!("{name}.mlp.down"), &format!("{source}.output.dense"), [d, mlp], true);
            self.norm(&format!("{name}.norm2"), &format!("{source}.output.LayerNorm"), d);
        }
        self.linear("text.pooler", &format!("{TEXT}.pooler.dense"), [d, d], true);
    }
}

/// The two attentions of fusion: our name, where its first layer stands in the reference's list, and the list.
const FUSIONS: [(&str, usize, &str); 2] =
    [("audio.fuse.local", 0, "local_att"), ("audio.fuse.global", 1, "global_att")];

/// Every tensor of the two towers, with its source.
fn wanted(arch: &SoundArchitecture) -> Vec<(Tensor, Source)> {
    let mut wanted = Wanted::default();
    wanted.audio(&arch.audio);
    wanted.projection("audio", [arch.audio.out(), arch.dim]);
    wanted.text(arch);
    wanted.projection("text", [arch.text.blocks.width, arch.dim]);
    wanted.0
}

/// Buffers that the reference saves and that are computed here, or are not read: each is the same in every file.
fn buffers(arch: &SoundArchitecture) -> Vec<String> {
    let mut names = vec![format!("{TEXT}.embeddings.token_type_ids")];
    names.push(format!("{AUDIO}.batch_norm.num_batches_tracked"));
    for (stage, sizes) in arch.audio.stages.iter().enumerate() {
        let index = |layer| format!("{AUDIO}.layers.{stage}.blocks.{layer}.attention.self.relative_position_index");
        names.extend((0..sizes.layers).map(index));
    }
    for (_, first, module) in FUSIONS {
        let tracked = |at| format!("{AUDIO}.patch_embed.fusion_model.{module}.{at}.num_batches_tracked");
        names.extend([first + 1, first + 4].map(tracked).into_iter().filter(|_| arch.audio.fusion.is_some()));
    }
    names
}

/// Number of weights as the checkpoint has them.
pub(crate) fn parameters(arch: &SoundArchitecture) -> usize {
    let elements = |source: &Source| source.shape.iter().product::<usize>();
    let statistics = |source: &Source| source.name.ends_with("running_mean") || source.name.ends_with("running_var");
    // With the two scales of cosines.
    2 + wanted(arch).iter().map(|(_, source)| source).filter(|s| !statistics(s)).map(elements).sum::<usize>()
}

/// Reads all tensors, and makes those that are made of several. The normalisation of mel bands, which comes before a
/// spectrogram is folded, is given apart.
///
/// # Errors
/// If a tensor is missing, left over, misshapen or not finite.
pub(crate) fn read(
    arch: &SoundArchitecture,
    checkpoint: &Checkpoint,
    precision: Precision,
) -> Result<(Vec<(String, HostTensor)>, Normalisation), EncoderError> {
    let buffers = buffers(arch);
    let mut known: Vec<&str> = buffers.iter().map(String::as_str).collect();
    known.extend(["logit_scale_a", "logit_scale_t"]);
    let (raw, mut weights): (Vec<_>, Vec<_>) =
        checkpoint.read(&wanted(arch), &known, precision)?.into_iter().partition(|(name, _)| name.starts_with(RAW));
    let raw: HashMap<String, Vec<f32>> =
        raw.into_iter().filter_map(|(name, tensor)| Some((name, tensor.into_f32()?))).collect();
    let raw = Raw(&raw);
    let tower = &arch.audio;
    let mut add = |name: String, shape: &[usize], data: Vec<f32>| -> Result<(), TensorError> {
        weights.push((name, HostTensor::f32(shape, data)?));
        Ok(())
    };
    for step in tower.steps() {
        let Step::Layer { stage, layer, windows } = step else { continue };
        let (name, heads, area) =
            (format!("audio.stage{stage}.{layer}"), tower.stages[stage].heads, tower.window.pow(2));
        let biases = windows.biases(raw.get(&format!("{name}.biases")), heads);
        add(format!("{name}.attn.biases"), &[windows.groups(), heads, area, area], biases)?;
    }
    if let Some(inner) = tower.fused() {
        // Where there is no patch there is no bias either: the reference pads what the convolution gives.
        let (bias, none) = (raw.get("local.bias"), vec![0.0; tower.width]);
        let places: Vec<f32> = has_local(tower).flat_map(|there| if there { bias } else { &none }).copied().collect();
        add("audio.local.places".into(), &[places.len() / tower.width, tower.width], places)?;
        for (name, ..) in FUSIONS {
            for (part, out) in [("down", inner), ("up", tower.width)] {
                let (matrix, offset) = raw.folded(&format!("{name}.{part}"));
                add(format!("{name}.{part}.weight"), &[out, matrix.len() / out], matrix)?;
                add(format!("{name}.{part}.bias"), &[out], offset)?;
            }
        }
    }
    let width = arch.text.blocks.width;
    add("text.type".into(), &[width], raw.get("text.types").iter().take(width).copied().collect())?;
    let normalisation = raw.normalisation("bands");
    Ok((weights, normalisation))
}

/// What others are made of. All were read, with the shapes that were asked for.
struct Raw<'a>(&'a HashMap<String, Vec<f32>>);

impl Raw<'_> {
    fn get(&self, name: &str) -> &[f32] {
        self.0.get(&format!("{RAW}{name}")).map(Vec::as_slice).unwrap_or_default()
    }

    /// A batch norm as what it does when nothing is learnt.
    fn normalisation(&self, name: &str) -> Normalisation {
        let [weight, bias, mean, variance] = BATCH_NORM.map(|leaf| self.get(&format!("{name}.{leaf}")));
        let scale: Vec<f32> = weight.iter().zip(variance).map(|(w, v)| w / (v + BATCH_NORM_EPS).sqrt()).collect();
        let shift = bias.iter().zip(mean).zip(&scale).map(|((bias, mean), scale)| bias - mean * scale).collect();
        Normalisation { scale, shift }
    }

    /// A layer with the batch norm behind it: matrix and bias.
    fn folded(&self, name: &str) -> (Vec<f32>, Vec<f32>) {
        let Normalisation { scale, shift } = self.normalisation(name);
        let (matrix, offset) = (self.get(&format!("{name}.matrix")), self.get(&format!("{name}.offset")));
        let row = matrix.len() / scale.len().max(1);
        let rows = matrix.chunks_exact(row.max(1)).zip(&scale);
        let matrix = rows.flat_map(|(row, scale)| row.iter().map(move |w| w * scale)).collect();
        let offset = offset.iter().zip(&scale).zip(&shift).map(|((o, scale), shift)| o * scale + shift).collect();
        (matrix, offset)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sound::arch::RobertaTower;
    use mils_graph::Activation;

    fn published() -> SoundArchitecture {
        let blocks = crate::arch::Blocks {
            width: 768,
            mlp: 3072,
            layers: 12,
            heads: 12,
            activation: Activation::Gelu,
            eps: 1e-12,
        };
        SoundArchitecture {
            audio: crate::sound::arch::tests::htsat(),
            text: RobertaTower { blocks, vocab: 50265, positions: 514, types: 1, padding: 1 },
            dim: 512,
            projection: Activation::Relu,
        }
    }

    #[test]
    fn sizes_are_the_models_own() {
        // Parameters of ClapModel(ClapConfig()), without and with fusion.
        let mut arch = published();
        assert_eq!(parameters(&arch), PARAMETERS[0]);
        arch.audio.fusion = Some(4);
        assert_eq!(parameters(&arch), PARAMETERS[1]);
    }

    /// Counted by PyTorch.
    const PARAMETERS: [usize; 2] = [153_492_890, 153_507_530];

    #[test]
    fn a_folded_batch_norm_does_what_it_did() {
        let raw = [
            ("x.weight", vec![2.0, -1.0]),
            ("x.bias", vec![0.5, 0.25]),
            ("x.running_mean", vec![3.0, -2.0]),
            ("x.running_var", vec![4.0, 0.25]),
            ("x.matrix", vec![1.0, 2.0, 3.0, 4.0, 5.0, 6.0]),
            ("x.offset", vec![0.1, 0.2]),
        ];
        let raw: HashMap<String, Vec<f32>> =
            raw.into_iter().map(|(name, data)| (format!("{RAW}{name}"), data)).collect();
        let (matrix, offset) = Raw(&raw).folded("x");
        let input = [1.0, -1.0, 0.5];
        for i in 0..2 {
            let dot = |m: &[f32]| m[i * 3..i * 3 + 3].iter().zip(input).map(|(a, b)| a * b).sum::<f32>();
            let get = |name: &str| raw[&format!("{RAW}x.{name}")][i];
            let before = dot(&raw[&format!("{RAW}x.matrix")]) + get("offset");
            let expected =
                (before - get("running_mean")) / (get("running_var") + 1e-5).sqrt() * get("weight") + get("bias");
            assert!((dot(&matrix) + offset[i] - expected).abs() < 1e-5, "{i}");
        }
    }
}
