//! The worker of the peer `candle`: reads requests from stdin and answers on stdout, a line of JSON each, as `peer.rs` of
//! the benchmarks says. Threads are as many as `RAYON_NUM_THREADS` says, which is candle's own setting.
//!
//! Times are of a tower's forward pass alone, from a tensor in memory to embeddings of length 1 in memory.

mod model;

use anyhow::{Context, Result, bail};
use candle_core::{Device, Tensor};
use model::{Input, Model};
use serde::Deserialize;
use serde_json::{Map, Value, json};
use std::collections::HashMap;
use std::io::{BufRead, Write, stdin, stdout};
use std::path::{Path, PathBuf};
use std::time::Instant;

/// What may be asked; fields that do not concern candle are passed over.
#[derive(Deserialize)]
#[serde(tag = "op", rename_all = "snake_case")]
enum Ask {
    Load { model: PathBuf },
    Input { id: String, kind: String, shape: Vec<usize>, file: PathBuf },
    Run { id: String, repeats: usize },
    Embed { id: String },
}

/// Longest message of an error, in characters.
const WORDS: usize = 300;
/// What embeddings are computed by.
const MADE_OF: [&str; 4] = ["candle-core", "candle-nn", "candle-transformers", "gemm"];

#[derive(Default)]
struct Peer {
    model: Option<Model>,
    inputs: HashMap<String, Input>,
}

impl Peer {
    fn answer(&mut self, ask: Ask) -> Result<Value> {
        match ask {
            Ask::Load { model } => {
                // One model at a time is in memory.
                *self = Self::default();
                let begin = Instant::now();
                self.model = Some(Model::open(&model)?);
                Ok(json!({"seconds": begin.elapsed().as_secs_f64()}))
            }
            Ask::Input { id, kind, shape, file } => {
                self.inputs.insert(id, input(&kind, &shape, &file)?);
                Ok(json!({}))
            }
            Ask::Run { id, repeats } => {
                let run = || -> Result<f64> {
                    let begin = Instant::now();
                    self.embed(&id)?;
                    Ok(begin.elapsed().as_secs_f64())
                };
                let seconds = (0..repeats).map(|_| run()).collect::<Result<Vec<_>>>()?;
                Ok(json!({"seconds": seconds}))
            }
            Ask::Embed { id } => {
                let rows = self.embed(&id)?;
                Ok(json!({"shape": rows.dims(), "data": rows.flatten_all()?.to_vec1::<f32>()?}))
            }
        }
    }

    fn embed(&self, id: &str) -> Result<Tensor> {
        let model = self.model.as_ref().context("no model is loaded")?;
        model.embed(self.inputs.get(id).with_context(|| format!("there is no input {id}"))?)
    }
}

/// Reads raw numbers, four bytes each.
fn input(kind: &str, shape: &[usize], file: &Path) -> Result<Input> {
    let bytes = std::fs::read(file).with_context(|| format!("cannot read {}", file.display()))?;
    let (numbers, rest) = bytes.as_chunks::<4>();
    if !rest.is_empty() || shape.iter().try_fold(1, |n: usize, s| n.checked_mul(*s)) != Some(numbers.len()) {
        bail!("{} has {} bytes, which is not a {shape:?} of numbers", file.display(), bytes.len());
    }
    let numbers = numbers.iter();
    Ok(match kind {
        "pixels" => {
            let values = numbers.map(|b| f32::from_le_bytes(*b)).collect();
            Input::Pixels(Tensor::from_vec(values, shape, &Device::Cpu)?)
        }
        "tokens" => {
            let values = numbers.map(|b| u32::from_le_bytes(*b)).collect();
            Input::Tokens(Tensor::from_vec(values, shape, &Device::Cpu)?)
        }
        other => bail!("candle has no use for {other} here"),
    })
}

/// The versions that this was built with.
fn versions() -> Map<String, Value> {
    let lock = include_str!("../Cargo.lock");
    let version = |name: &str| {
        let (_, found) = lock.split_once(&format!("name = \"{name}\"\nversion = \""))?;
        Some((name.to_owned(), found.split_once('"')?.0.into()))
    };
    MADE_OF.into_iter().filter_map(version).collect()
}

/// Answers until there is nothing more to read.
fn serve(asked: impl BufRead, mut answers: impl Write) -> Result<()> {
    let mut tell = |answer: Value| writeln!(answers, "{answer}").and_then(|()| answers.flush());
    tell(json!({"versions": versions()}))?;
    let mut peer = Peer::default();
    for line in asked.lines() {
        let ask = serde_json::from_str::<Ask>(&line?).context("a request that candle does not know");
        tell(ask.and_then(|ask| peer.answer(ask)).unwrap_or_else(|problem| {
            // One line, whatever a library has to say.
            let words = format!("{problem:#}").split_whitespace().collect::<Vec<_>>().join(" ");
            json!({"error": words.chars().take(WORDS).collect::<String>()})
        }))?;
    }
    Ok(())
}

fn main() -> Result<()> {
    serve(stdin().lock(), stdout().lock())
}

#[cfg(test)]
mod tests;
