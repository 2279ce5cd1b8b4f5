//! A checkpoint with the tensors of Stable Diffusion 1.5 and random numbers in them: what loads it loads real ones.

use std::fs::File;
use std::io::{BufWriter, Result, Write};
use std::path::Path;

/// What a tensor is filled with.
#[derive(Clone, Copy)]
enum Fill {
    Ones,
    Zeros,
    /// Uniform, with the variance that keeps that of what is multiplied with it.
    Random(usize),
}

#[derive(Default)]
struct Tensors(Vec<(String, Vec<usize>, Fill)>);

impl Tensors {
    fn put(&mut self, name: String, shape: &[usize], fill: Fill) {
        self.0.push((name, shape.to_vec(), fill));
    }

    fn weight(&mut self, name: &str, shape: &[usize]) {
        let fan_in = shape[1..].iter().product();
        self.put(format!("{name}.weight"), shape, Fill::Random(fan_in));
    }

    /// A linear layer or a convolution, with a bias.
    fn layer(&mut self, name: &str, shape: &[usize]) {
        self.weight(name, shape);
        self.put(format!("{name}.bias"), &shape[..1], Fill::Zeros);
    }

    fn norm(&mut self, name: &str, width: usize) {
        self.put(format!("{name}.weight"), &[width], Fill::Ones);
        self.put(format!("{name}.bias"), &[width], Fill::Zeros);
    }

    fn conv(&mut self, name: &str, out: usize, from: usize) {
        self.layer(name, &[out, from, 3, 3]);
    }

    fn unet_block(&mut self, name: &str, from: usize, out: usize) {
        self.norm(&format!("{name}.in_layers.0"), from);
        self.conv(&format!("{name}.in_layers.2"), out, from);
        self.layer(&format!("{name}.emb_layers.1"), &[out, 1280]);
        self.norm(&format!("{name}.out_layers.0"), out);
        self.conv(&format!("{name}.out_layers.3"), out, out);
        if from != out {
            self.layer(&format!("{name}.skip_connection"), &[out, from, 1, 1]);
        }
    }

    fn transformer(&mut self, name: &str, c: usize) {
        self.norm(&format!("{name}.norm"), c);
        self.layer(&format!("{name}.proj_in"), &[c, c, 1, 1]);
        self.layer(&format!("{name}.proj_out"), &[c, c, 1, 1]);
        let block = format!("{name}.transformer_blocks.0");
        for (attention, context) in [("attn1", c), ("attn2", 768)] {
            self.weight(&format!("{block}.{attention}.to_q"), &[c, c]);
            self.weight(&format!("{block}.{attention}.to_k"), &[c, context]);
            self.weight(&format!("{block}.{attention}.to_v"), &[c, context]);
            self.layer(&format!("{block}.{attention}.to_out.0"), &[c, c]);
        }
        self.layer(&format!("{block}.ff.net.0.proj"), &[8 * c, c]);
        self.layer(&format!("{block}.ff.net.2"), &[c, 4 * c]);
        for norm in ["norm1", "norm2", "norm3"] {
            self.norm(&format!("{block}.{norm}"), c);
        }
    }

    fn unet(&mut self) {
        let name = |part: String| format!("model.diffusion_model.{part}");
        self.layer(&name("time_embed.0".into()), &[1280, 320]);
        self.layer(&name("time_embed.2".into()), &[1280, 1280]);
        self.conv(&name("input_blocks.0.0".into()), 320, 4);
        let (mut at, mut width, mut skips) = (1, 320, vec![320]);
        for (level, out) in [320, 640, 1280, 1280].into_iter().enumerate() {
            for _ in 0..2 {
                self.unet_block(&name(format!("input_blocks.{at}.0")), width, out);
                if level < 3 {
                    self.transformer(&name(format!("input_blocks.{at}.1")), out);
                }
                (width, at) = (out, at + 1);
                skips.push(out);
            }
            if level < 3 {
                self.conv(&name(format!("input_blocks.{at}.0.op")), width, width);
                at += 1;
                skips.push(width);
            }
        }
        self.unet_block(&name("middle_block.0".into()), 1280, 1280);
        self.transformer(&name("middle_block.1".into()), 1280);
        self.unet_block(&name("middle_block.2".into()), 1280, 1280);
        let mut at = 0;
        for (level, out) in [320, 640, 1280, 1280].into_iter().enumerate().rev() {
            for block in 0..3 {
                let skip = skips.pop().unwrap();
                self.unet_block(&name(format!("output_blocks.{at}.0")), width + skip, out);
                if level < 3 {
                    self.transformer(&name(format!("output_blocks.{at}.1")), out);
                }
                if level > 0 && block == 2 {
                    let place = if level < 3 { 2 } else { 1 };
                    self.conv(&name(format!("output_blocks.{at}.{place}.conv")), out, out);
                }
                (width, at) = (out, at + 1);
            }
        }
        self.norm(&name("out.0".into()), 320);
        self.conv(&name("out.2".into()), 4, 320);
    }

    fn vae_block(&mut self, name: &str, from: usize, out: usize) {
        self.norm(&format!("{name}.norm1"), from);
        self.conv(&format!("{name}.conv1"), out, from);
        self.norm(&format!("{name}.norm2"), out);
        self.conv(&format!("{name}.conv2"), out, out);
        if from != out {
            self.layer(&format!("{name}.nin_shortcut"), &[out, from, 1, 1]);
        }
    }

    fn vae(&mut self) {
        for (side, first, last, end) in [("encoder", 3, 8, 512), ("decoder", 4, 3, 128)] {
            let name = |part: String| format!("first_stage_model.{side}.{part}");
            let mut width = if side == "encoder" { 128 } else { 512 };
            self.conv(&name("conv_in".into()), width, first);
            for block in ["mid.block_1", "mid.block_2"] {
                self.vae_block(&name(block.into()), 512, 512);
            }
            self.norm(&name("mid.attn_1.norm".into()), 512);
            for part in ["q", "k", "v", "proj_out"] {
                self.layer(&name(format!("mid.attn_1.{part}")), &[512, 512, 1, 1]);
            }
            let levels = [128, 256, 512, 512];
            for step in 0..4 {
                let level = if side == "encoder" { step } else { 3 - step };
                let (kind, blocks) = if side == "encoder" { ("down", 2) } else { ("up", 3) };
                for block in 0..blocks {
                    self.vae_block(&name(format!("{kind}.{level}.block.{block}")), width, levels[level]);
                    width = levels[level];
                }
                if step < 3 {
                    self.conv(&name(format!("{kind}.{level}.{kind}sample.conv")), width, width);
                }
            }
            self.norm(&name("norm_out".into()), end);
            self.conv(&name("conv_out".into()), last, end);
        }
        self.layer("first_stage_model.quant_conv", &[8, 8, 1, 1]);
        self.layer("first_stage_model.post_quant_conv", &[4, 4, 1, 1]);
    }

    fn text(&mut self) {
        let name = |part: &str| format!("cond_stage_model.transformer.text_model.{part}");
        self.weight(&name("embeddings.token_embedding"), &[49_408, 768]);
        self.weight(&name("embeddings.position_embedding"), &[77, 768]);
        for layer in 0..12 {
            let name = |part: &str| name(&format!("encoder.layers.{layer}.{part}"));
            for part in ["q_proj", "k_proj", "v_proj", "out_proj"] {
                self.layer(&name(&format!("self_attn.{part}")), &[768, 768]);
            }
            self.layer(&name("mlp.fc1"), &[3072, 768]);
            self.layer(&name("mlp.fc2"), &[768, 3072]);
            self.norm(&name("layer_norm1"), 768);
            self.norm(&name("layer_norm2"), 768);
        }
        self.norm(&name("final_layer_norm"), 768);
    }
}

/// A number from 0 to 1 in half precision; what is too small for that is nothing.
fn half(value: f32) -> u16 {
    let bits = value.to_bits();
    let exponent = (bits >> 23 & 0xff) as i32 - 112;
    if exponent <= 0 { 0 } else { (bits >> 16 & 0x8000) as u16 | (exponent as u16) << 10 | (bits >> 13 & 0x3ff) as u16 }
}

/// Writes it: 2 GB.
pub(crate) fn write(path: &Path) -> Result<()> {
    let mut tensors = Tensors::default();
    tensors.unet();
    tensors.vae();
    tensors.text();
    let (mut at, mut header) = (0, serde_json::Map::new());
    for (name, shape, _) in &tensors.0 {
        let end = at + 2 * shape.iter().product::<usize>();
        header.insert(name.clone(), serde_json::json!({"dtype": "F16", "shape": shape, "data_offsets": [at, end]}));
        at = end;
    }
    let header = serde_json::to_vec(&header)?;
    let mut out = BufWriter::with_capacity(1 << 20, File::create(path)?);
    out.write_all(&(header.len() as u64).to_le_bytes())?;
    out.write_all(&header)?;
    let mut state = 0x9E37_79B9_7F4A_7C15_u64;
    for (_, shape, fill) in &tensors.0 {
        let count: usize = shape.iter().product();
        let value = |value: f32| half(value).to_le_bytes();
        match *fill {
            Fill::Ones => out.write_all(&value(1.0).repeat(count))?,
            Fill::Zeros => out.write_all(&value(0.0).repeat(count))?,
            Fill::Random(fan_in) => {
                let width = (3.0 / fan_in as f32).sqrt();
                for _ in 0..count {
                    state ^= state << 13;
                    state ^= state >> 7;
                    state ^= state << 17;
                    out.write_all(&value(((state >> 40) as f32 / (1 << 23) as f32 - 1.0) * width))?;
                }
            }
        }
    }
    out.flush()
}
