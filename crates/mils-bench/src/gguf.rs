//! A llama-architecture GGUF of true size with random weights, of which the output is known in form: every candidate is
//! one line of a fixed number of tokens. Speed needs no more of a language model, and this one needs no download.
//!
//! Tokens are of classes. The output matrix gives a token of class k the scores that lead to one of class k + 1: both
//! are near one random direction a class. The last class ends a line, and what the chat template ends with is of it.
//! The blocks between are of full size and cost what they cost, but add little to the residual stream.

use anyhow::{Context, Result};
use half::{bf16, f16};
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};

/// Changes with what is written, so that files of an older version are not taken for it.
const VERSION: u32 = 2;
/// Tensors begin at multiples of this.
const ALIGNMENT: u64 = 32;
/// Weights that share a scale in Q4_0 and Q8_0.
const BLOCK: usize = 32;
/// GGUF's numbers of value types.
const U32: u32 = 4;
const F32: u32 = 6;
const BOOL: u32 = 7;
const STRING: u32 = 8;
const ARRAY: u32 = 9;
/// ggml's numbers of tensor types.
const TENSOR_F32: u32 = 0;

/// How a model's matrices are stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stored {
    /// 4 bits each and a scale for 32: about what people run.
    Q4,
    /// 8 bits each and a scale for 32.
    Q8,
    /// The upper half of an f32.
    Bf16,
}

impl Stored {
    /// As llama.cpp calls it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Q4 => "Q4_0",
            Self::Q8 => "Q8_0",
            Self::Bf16 => "BF16",
        }
    }

    /// ggml's number of the tensor type.
    fn tensor(self) -> u32 {
        match self {
            Self::Q4 => 2,
            Self::Q8 => 8,
            Self::Bf16 => 30,
        }
    }

    /// llama.cpp's number of the file type.
    fn file(self) -> usize {
        match self {
            Self::Q4 => 2,
            Self::Q8 => 7,
            Self::Bf16 => 32,
        }
    }

    /// Bytes of a block.
    fn block(self) -> usize {
        match self {
            Self::Q4 => 2 + BLOCK / 2,
            Self::Q8 => 2 + BLOCK,
            Self::Bf16 => 2 * BLOCK,
        }
    }

    /// Writes a block of 32 numbers.
    fn write(self, out: &mut dyn Write, block: &[f32]) -> std::io::Result<()> {
        let scaled = |most: f32| {
            let largest = block.iter().fold(0.0_f32, |most, v| most.max(v.abs()));
            let scale = f16::from_f32(largest / most);
            let inverse = if scale.to_f32() > 0.0 { 1.0 / scale.to_f32() } else { 0.0 };
            (scale, move |v: f32| (v * inverse).round().clamp(-most, most))
        };
        match self {
            Self::Q4 => {
                let (scale, level) = scaled(7.0);
                out.write_all(&scale.to_le_bytes())?;
                let (low, high) = block.split_at(BLOCK / 2);
                let nibble = |v: f32| (level(v) + 8.0) as u8;
                let bytes: Vec<u8> = low.iter().zip(high).map(|(&l, &h)| nibble(l) | (nibble(h) << 4)).collect();
                out.write_all(&bytes)
            }
            Self::Q8 => {
                let (scale, level) = scaled(127.0);
                out.write_all(&scale.to_le_bytes())?;
                let bytes: Vec<u8> = block.iter().map(|&v| level(v) as i8 as u8).collect();
                out.write_all(&bytes)
            }
            Self::Bf16 => block.iter().try_for_each(|&v| out.write_all(&bf16::from_f32(v).to_le_bytes())),
        }
    }

    /// A row of uniform numbers of this deviation, in blocks: where they are whole numbers with a scale, their bytes are
    /// random bytes.
    fn random(self, out: &mut dyn Write, columns: usize, deviation: f32, rng: &mut ChaCha8Rng) -> std::io::Result<()> {
        // The deviations of the whole numbers from -8 to 7 and from -128 to 127.
        let level = match self {
            Self::Q4 => 4.61,
            Self::Q8 => 73.9,
            Self::Bf16 => {
                let wide = 12.0_f32.sqrt() * deviation;
                let mut number = || bf16::from_f32(wide * (rng.random::<f32>() - 0.5)).to_le_bytes();
                return (0..columns).try_for_each(|_| out.write_all(&number()));
            }
        };
        let scale = f16::from_f32(deviation / level).to_le_bytes();
        let mut bytes = vec![0_u8; self.block() - 2];
        for _ in 0..columns / BLOCK {
            rng.fill(&mut bytes[..]);
            out.write_all(&scale)?;
            out.write_all(&bytes)?;
        }
        Ok(())
    }
}

/// Sizes of a model.
#[derive(Clone, Copy, Debug)]
pub struct Llama {
    /// Its file.
    pub name: &'static str,
    /// Width.
    pub width: usize,
    /// Blocks.
    pub layers: usize,
    /// Heads of queries.
    pub heads: usize,
    /// Heads of keys and values.
    pub kv_heads: usize,
    /// Width of the MLP.
    pub mlp: usize,
    /// Tokens.
    pub vocab: usize,
    /// Tokens of a candidate, with the end of its line.
    pub line: usize,
    /// How its matrices are stored.
    pub stored: Stored,
}

/// The sizes of Llama 3.2 1B, with a smaller vocabulary.
pub const ONE_BILLION: Llama = Llama {
    name: "llama-1b",
    width: 2048,
    layers: 16,
    heads: 32,
    kv_heads: 8,
    mlp: 8192,
    vocab: 32000,
    line: 14,
    stored: Stored::Q4,
};

/// What the tokens are: two special ones, every byte, and words.
const SPECIALS: [&str; 2] = ["<|im_start|>", "<|im_end|>"];
const BYTES: usize = 256;

const TEMPLATE: &str = "{% for message in messages %}{{'<|im_start|>' + message['role'] + '\\n' + message['content'] + \
                        '<|im_end|>' + '\\n'}}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' \
                        }}{% endif %}";

impl Llama {
    /// The token's text as GPT-2's tokenizer writes it: a letter for each byte.
    fn token(&self, id: usize) -> String {
        let words = SPECIALS.len() + BYTES;
        match id {
            id if id < SPECIALS.len() => SPECIALS[id].to_owned(),
            id if id < words => letter((id - SPECIALS.len()) as u8).to_string(),
            // Each word begins with the mark of a list's item, so that each line is one.
            id => {
                let end = if self.class(id) == Some(self.line - 1) { "\n" } else { "" };
                format!("- w{id}{end}").bytes().map(letter).collect()
            }
        }
    }

    /// The class; none of the special tokens, which nothing leads to.
    fn class(&self, id: usize) -> Option<usize> {
        let words = SPECIALS.len() + BYTES;
        match id {
            id if id < SPECIALS.len() => None,
            // Bytes are read in prompts, and never written but for this: a prompt ends with it.
            id if id < words => (id - SPECIALS.len() == usize::from(b'\n')).then_some(self.line - 1),
            id => Some((id - words) % self.line),
        }
    }

    /// Whether the token may be written.
    fn written(&self, id: usize) -> bool {
        id >= SPECIALS.len() + BYTES
    }

    /// Rows of ± 1, a direction a class.
    fn directions(&self) -> Vec<Vec<f32>> {
        let mut rng = ChaCha8Rng::seed_from_u64(17);
        let sign = |rng: &mut ChaCha8Rng| if rng.random::<bool>() { 1.0 } else { -1.0 };
        (0..self.line).map(|_| (0..self.width).map(|_| sign(&mut rng)).collect()).collect()
    }

    /// Names, shapes (rows, columns) and fillings.
    fn tensors(&self) -> Vec<Tensor> {
        let (d, head) = (self.width, self.width / self.heads);
        let linear = |name: String, rows, columns: usize, gain: f32| {
            let deviation = gain / (columns as f32).sqrt();
            Tensor { name, rows, columns, fill: Fill::Random { deviation } }
        };
        let norm = |name: String| Tensor { name, rows: 1, columns: d, fill: Fill::Ones };
        let mut out = vec![
            Tensor { name: "token_embd.weight".into(), rows: self.vocab, columns: d, fill: Fill::Tokens },
            norm("output_norm.weight".into()),
            Tensor { name: "output.weight".into(), rows: self.vocab, columns: d, fill: Fill::Output },
        ];
        for layer in 0..self.layers {
            let at = |part: &str| format!("blk.{layer}.{part}.weight");
            out.push(norm(at("attn_norm")));
            out.push(linear(at("attn_q"), d, d, 1.0));
            out.push(linear(at("attn_k"), self.kv_heads * head, d, 1.0));
            out.push(linear(at("attn_v"), self.kv_heads * head, d, 1.0));
            // What goes back into the stream is small.
            out.push(linear(at("attn_output"), d, d, 0.05));
            out.push(norm(at("ffn_norm")));
            out.push(linear(at("ffn_gate"), self.mlp, d, 1.0));
            out.push(linear(at("ffn_up"), self.mlp, d, 1.0));
            out.push(linear(at("ffn_down"), d, self.mlp, 0.05));
        }
        out
    }

    /// The file below `models`, made where it is not there. `say` is told if that takes a while.
    ///
    /// # Errors
    /// If it cannot be written.
    pub fn file(&self, models: &Path, say: &mut dyn FnMut(&str)) -> Result<PathBuf> {
        let path = models.join(format!("{}-{}-v{VERSION}.gguf", self.name, self.stored.name()));
        if path.is_file() {
            return Ok(path);
        }
        let bytes: u64 = self.tensors().iter().map(|t| t.bytes(self.stored)).sum();
        say(&format!("making {} ({:.1} GB of random weights)", path.display(), bytes as f64 / 1e9));
        std::fs::create_dir_all(models).with_context(|| format!("cannot make {}", models.display()))?;
        let part = path.with_extension("part");
        let write = || -> std::io::Result<()> {
            let mut out = BufWriter::with_capacity(1 << 20, File::create(&part)?);
            self.write(&mut out)?;
            out.flush()?;
            std::fs::rename(&part, &path)
        };
        write().with_context(|| format!("cannot write {}", path.display()))?;
        Ok(path)
    }

    fn write(&self, out: &mut dyn Write) -> std::io::Result<()> {
        let tensors = self.tensors();
        let (count, values) = self.metadata();
        let mut head = b"GGUF".to_vec();
        head.extend(3_u32.to_le_bytes());
        head.extend((tensors.len() as u64).to_le_bytes());
        head.extend(count.to_le_bytes());
        head.extend(values);
        let mut offset = 0_u64;
        for tensor in &tensors {
            text(&mut head, &tensor.name);
            // Fastest dimension first; a vector has one.
            let shape: &[usize] = if tensor.rows == 1 { &[tensor.columns] } else { &[tensor.columns, tensor.rows] };
            head.extend((shape.len() as u32).to_le_bytes());
            shape.iter().for_each(|&n| head.extend((n as u64).to_le_bytes()));
            head.extend(tensor.kind(self.stored).to_le_bytes());
            head.extend(offset.to_le_bytes());
            offset += tensor.bytes(self.stored).next_multiple_of(ALIGNMENT);
        }
        head.resize((head.len() as u64).next_multiple_of(ALIGNMENT) as usize, 0);
        out.write_all(&head)?;
        let directions = self.directions();
        for (i, tensor) in tensors.iter().enumerate() {
            let mut rng = ChaCha8Rng::seed_from_u64(1000 + i as u64);
            for row in 0..tensor.rows {
                self.write_row(out, tensor, row, &directions, &mut rng)?;
            }
            let bytes = tensor.bytes(self.stored);
            let padding = bytes.next_multiple_of(ALIGNMENT) - bytes;
            out.write_all(&vec![0; padding as usize])?;
        }
        Ok(())
    }

    fn write_row(
        &self,
        out: &mut dyn Write,
        tensor: &Tensor,
        row: usize,
        directions: &[Vec<f32>],
        rng: &mut ChaCha8Rng,
    ) -> std::io::Result<()> {
        let near = |class: Option<usize>, gain: f32, noise: f32, rng: &mut ChaCha8Rng| -> Vec<f32> {
            let at = class.map(|c| &directions[c]);
            (0..tensor.columns)
                .map(|i| at.map_or(0.0, |d| gain * d[i]) + noise * 1.73 * (2.0 * rng.random::<f32>() - 1.0))
                .collect()
        };
        // The norm before the output makes a state near a direction that direction itself, of length sqrt(width): what
        // leads on scores `gain * width` in the mean, all else about `noise * sqrt(width)`.
        let width = self.width as f32;
        let values = match tensor.fill {
            Fill::Ones => return (0..tensor.columns).try_for_each(|_| out.write_all(&1.0_f32.to_le_bytes())),
            Fill::Random { deviation } => return self.stored.random(out, tensor.columns, deviation, rng),
            Fill::Tokens => near(self.class(row), 1.0, 0.3, rng),
            Fill::Output => {
                let before = self.class(row).map(|c| (c + self.line - 1) % self.line);
                near(before.filter(|_| self.written(row)), 40.0 / width, 1.0 / width.sqrt(), rng)
            }
        };
        values.chunks(BLOCK).try_for_each(|block| self.stored.write(out, block))
    }

    /// How many values, and they.
    fn metadata(&self) -> (u64, Vec<u8>) {
        let (mut out, mut count) = (Vec::new(), 0);
        let mut key = |out: &mut Vec<u8>, name: &str, kind: u32| {
            count += 1;
            text(out, name);
            out.extend(kind.to_le_bytes());
        };
        let texts = [
            ("general.architecture", "llama"),
            ("general.name", self.name),
            ("tokenizer.ggml.model", "gpt2"),
            ("tokenizer.ggml.pre", "gpt-2"),
            ("tokenizer.chat_template", TEMPLATE),
        ];
        for (name, value) in texts {
            key(&mut out, name, STRING);
            text(&mut out, value);
        }
        let numbers = [
            ("general.file_type", self.stored.file()),
            ("llama.context_length", 8192),
            ("llama.embedding_length", self.width),
            ("llama.block_count", self.layers),
            ("llama.feed_forward_length", self.mlp),
            ("llama.attention.head_count", self.heads),
            ("llama.attention.head_count_kv", self.kv_heads),
            ("llama.rope.dimension_count", self.width / self.heads),
            ("llama.vocab_size", self.vocab),
            ("tokenizer.ggml.bos_token_id", 0),
            ("tokenizer.ggml.eos_token_id", 1),
            ("tokenizer.ggml.padding_token_id", 1),
        ];
        for (name, value) in numbers {
            key(&mut out, name, U32);
            out.extend((value as u32).to_le_bytes());
        }
        for (name, value) in [("llama.rope.freq_base", 10_000.0_f32), ("llama.attention.layer_norm_rms_epsilon", 1e-5)]
        {
            key(&mut out, name, F32);
            out.extend(value.to_le_bytes());
        }
        for name in ["tokenizer.ggml.add_bos_token", "tokenizer.ggml.add_eos_token"] {
            key(&mut out, name, BOOL);
            out.push(0);
        }
        let list = |out: &mut Vec<u8>, kind: u32, count: usize| {
            out.extend(kind.to_le_bytes());
            out.extend((count as u64).to_le_bytes());
        };
        key(&mut out, "tokenizer.ggml.tokens", ARRAY);
        list(&mut out, STRING, self.vocab);
        (0..self.vocab).for_each(|id| text(&mut out, &self.token(id)));
        key(&mut out, "tokenizer.ggml.token_type", ARRAY);
        list(&mut out, 5, self.vocab);
        // 3 is a control token, 1 a normal one.
        (0..self.vocab).for_each(|id| out.extend((if id < SPECIALS.len() { 3_i32 } else { 1 }).to_le_bytes()));
        // Without merges a prompt is a token a byte; llama.cpp wants to see some.
        key(&mut out, "tokenizer.ggml.merges", ARRAY);
        list(&mut out, STRING, 1);
        text(&mut out, "\u{1} \u{1}");
        (count, out)
    }
}

/// A tensor of the file.
struct Tensor {
    name: String,
    rows: usize,
    columns: usize,
    fill: Fill,
}

enum Fill {
    /// Of a norm.
    Ones,
    /// Of a linear layer.
    Random { deviation: f32 },
    /// Near the class's direction.
    Tokens,
    /// Near the direction of the class before.
    Output,
}

impl Tensor {
    fn kind(&self, stored: Stored) -> u32 {
        if matches!(self.fill, Fill::Ones) { TENSOR_F32 } else { stored.tensor() }
    }

    fn bytes(&self, stored: Stored) -> u64 {
        let elements = self.rows * self.columns;
        let bytes = if matches!(self.fill, Fill::Ones) { elements * 4 } else { elements / BLOCK * stored.block() };
        bytes as u64
    }
}

/// The letter that GPT-2's tokenizer writes for a byte.
fn letter(byte: u8) -> char {
    let plain = |b: u8| matches!(b, b'!'..=b'~' | 0xA1..=0xAC | 0xAE..=0xFF);
    if plain(byte) {
        return char::from(byte);
    }
    // Those that cannot be seen are numbered from 256 on.
    let before = (0..byte).filter(|&b| !plain(b)).count() as u32;
    char::from_u32(256 + before).unwrap_or('?')
}

fn text(out: &mut Vec<u8>, text: &str) {
    out.extend((text.len() as u64).to_le_bytes());
    out.extend(text.as_bytes());
}

#[cfg(test)]
mod tests {
    use super::*;
    use mils_llm::{LlamaGenerator, LlamaOptions};
    use mils_optim::prompt::PromptTemplate;
    use mils_optim::{Generator, Labelled, Request};

    const SMALL: Llama = Llama {
        name: "small",
        width: 256,
        layers: 2,
        heads: 4,
        kv_heads: 2,
        mlp: 512,
        vocab: 1200,
        line: 6,
        stored: Stored::Q8,
    };

    #[test]
    fn every_byte_has_a_letter_of_its_own() {
        let all: std::collections::HashSet<char> = (0..=255).map(letter).collect();
        assert_eq!(all.len(), 256);
        assert_eq!([letter(b' '), letter(b'\n'), letter(b'a')], ['Ġ', 'Ċ', 'a']);
    }

    #[test]
    fn sizes_are_those_of_a_billion() {
        let parameters: usize = ONE_BILLION.tensors().iter().map(|t| t.rows * t.columns).sum();
        assert!((1.0e9..1.2e9).contains(&(parameters as f64)), "{parameters}");
    }

    #[test]
    fn llama_cpp_reads_it_and_writes_lines_of_the_length_that_was_asked_for() {
        for stored in [Stored::Q4, Stored::Q8, Stored::Bf16] {
            read_and_written(&Llama { stored, ..SMALL });
        }
    }

    fn read_and_written(model: &Llama) {
        let folder = tempfile::tempdir().unwrap();
        let path = model.file(folder.path(), &mut |_| {}).unwrap();
        let options = LlamaOptions {
            context: 2048,
            sequences: 8,
            lines: 1,
            temperature: 1.0,
            top_p: 0.98,
            threads: Some(1),
            ..LlamaOptions::default()
        };
        let pool = [Labelled { text: "a red car".into(), score: 0.1, label: 0 }];
        let ask = |options: LlamaOptions, count| {
            let mut generator = LlamaGenerator::open(&path, options, template()).unwrap();
            generator.propose(&Request { step: 1, pool: &pool, count, seed: 3 }).unwrap()
        };
        let side_by_side = ask(options.clone(), 16);
        assert_eq!(side_by_side.texts.len(), 16, "{side_by_side:?}");
        assert_eq!(side_by_side.usage.generated_tokens, 16 * 6);
        let distinct: std::collections::HashSet<&String> = side_by_side.texts.iter().collect();
        assert!(distinct.len() > 12, "{distinct:?}");
        // One long list takes as many tokens.
        let list = ask(LlamaOptions { sequences: 1, lines: 16, ..options }, 16);
        assert_eq!((list.texts.len(), list.usage.generated_tokens), (16, 16 * 6), "{list:?}");
    }

    fn template() -> PromptTemplate {
        PromptTemplate::new("", "{% for i in items %}{{ i.text }}\n{% endfor %}").unwrap()
    }
}
