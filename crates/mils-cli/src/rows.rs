//! Rows of embeddings as JSON Lines, npy and safetensors.
//!
//! The headers of npy and safetensors hold the number of rows, which is known at the end only: room is left for them
//! first. Both are written by hand: their crates want all rows, or their number, before the first.

use crate::args::EmbedFormat;
use crate::output::Output;
use anyhow::{Result, bail};
use serde::Serialize;
use serde_json::json;
use std::fmt;
use std::path::PathBuf;

/// What a row is the embedding of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Input {
    /// A text.
    Text(String),
    /// A picture's file.
    File(PathBuf),
}

impl fmt::Display for Input {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Text(text) => write!(f, "{:?}", text.chars().take(60).collect::<String>()),
            Self::File(file) => write!(f, "{}", file.display()),
        }
    }
}

/// A row in JSON.
#[derive(Serialize)]
struct Row<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    text: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    file: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    embedding: Option<&'a [f32]>,
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<&'a str>,
}

/// Embeddings being written.
pub struct Rows {
    output: Output,
    format: EmbedFormat,
    model: String,
    dim: usize,
    count: u64,
}

impl Rows {
    /// Begins with `dim` values a row, of a model that is called `model`.
    ///
    /// # Errors
    /// If the output cannot be written.
    pub fn begin(mut output: Output, format: EmbedFormat, model: &str, dim: usize) -> Result<Self> {
        output.write(&vec![b' '; head(format, model, dim, 0).len()])?;
        Ok(Self { output, format, model: model.to_owned(), dim, count: 0 })
    }

    /// Writes a row.
    ///
    /// # Errors
    /// If the output cannot be written, or the row is no embedding of this width.
    pub fn write(&mut self, of: &Input, embedding: &[f32]) -> Result<()> {
        if embedding.len() != self.dim {
            bail!("an embedding has {} values in place of {}", embedding.len(), self.dim);
        }
        self.count += 1;
        match self.format {
            EmbedFormat::Json => self.object(of, Some(embedding), None),
            EmbedFormat::Npy | EmbedFormat::Safetensors => {
                let bytes: Vec<u8> = embedding.iter().flat_map(|v| v.to_le_bytes()).collect();
                self.output.write(&bytes)
            }
        }
    }

    /// Whether an input without a row can be told of: only JSON has a place for it.
    pub fn can_fail(&self) -> bool {
        self.format == EmbedFormat::Json
    }

    /// Writes a line in JSON that says why there is no row.
    ///
    /// # Errors
    /// If the output cannot be written.
    pub fn failed(&mut self, of: &Input, error: &str) -> Result<()> {
        self.object(of, None, Some(error))
    }

    fn object(&mut self, of: &Input, embedding: Option<&[f32]>, error: Option<&str>) -> Result<()> {
        let (text, file) = match of {
            Input::Text(text) => (Some(&text[..]), None),
            Input::File(file) => (None, Some(file.display().to_string())),
        };
        let mut line = serde_json::to_vec(&Row { text, file, embedding, error })?;
        line.push(b'\n');
        self.output.write(&line)
    }

    /// Hands what was written so far to whoever reads it.
    ///
    /// # Errors
    /// If the output cannot be written.
    pub fn flush(&mut self) -> Result<()> {
        self.output.flush()
    }

    /// The end: the header is written, and a file put in its place.
    ///
    /// # Errors
    /// If the output cannot be written.
    pub fn finish(mut self) -> Result<()> {
        if self.format != EmbedFormat::Json {
            self.output.rewrite(&head(self.format, &self.model, self.dim, self.count))?;
        }
        self.output.finish()
    }
}

/// What stands before the rows; as long whatever their number.
fn head(format: EmbedFormat, model: &str, dim: usize, rows: u64) -> Vec<u8> {
    match format {
        EmbedFormat::Json => Vec::new(),
        EmbedFormat::Npy => npy(dim, rows),
        EmbedFormat::Safetensors => safetensors(model, dim, rows),
    }
}

/// Bytes before the rows of an npy file, as NumPy has it for an array of two dimensions.
const NPY: usize = 128;

fn npy(dim: usize, rows: u64) -> Vec<u8> {
    // Version 1.0, and the length of what follows.
    let mut head = b"\x93NUMPY\x01\x00".to_vec();
    head.extend((NPY as u16 - 10).to_le_bytes());
    head.extend(format!("{{'descr': '<f4', 'fortran_order': False, 'shape': ({rows}, {dim}), }}").bytes());
    // The widest numbers leave room for the end.
    head.resize(NPY - 1, b' ');
    head.push(b'\n');
    head
}

fn safetensors(model: &str, dim: usize, rows: u64) -> Vec<u8> {
    let text = |rows: u64| {
        let bytes = u128::from(rows) * dim as u128 * 4;
        // Beyond 64 bits JSON has no numbers; no disk has so many bytes.
        let end = u64::try_from(bytes).unwrap_or(u64::MAX);
        let tensor = json!({"dtype": "F32", "shape": [rows, dim], "data_offsets": [0, end]});
        json!({"__metadata__": {"model": model, "dim": dim.to_string()}, "embeddings": tensor}).to_string()
    };
    // Spaces may follow the header; the rows then begin at a multiple of 8.
    let room = text(u64::MAX).len().next_multiple_of(8);
    let mut head = (room as u64).to_le_bytes().to_vec();
    head.extend(text(rows).bytes());
    head.resize(8 + room, b' ');
    head
}

#[cfg(test)]
mod tests {
    use super::*;

    fn written(format: EmbedFormat, rows: &[[f32; 2]]) -> Vec<u8> {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("out");
        let mut out = Rows::begin(Output::open(Some(&path), true).unwrap(), format, "a \"model\"", 2).unwrap();
        for row in rows {
            out.write(&Input::Text("x\ny".into()), row).unwrap();
        }
        assert!(out.write(&Input::Text("short".into()), &[1.0]).is_err());
        out.finish().unwrap();
        std::fs::read(path).unwrap()
    }

    #[test]
    fn npy_is_byte_for_byte_what_numpy_saves() {
        // numpy.save of numpy.array([[0.6, -0.8], [1, 0], [0, 1e-8]], '<f4'), as NumPy 2.4 writes it.
        let mut theirs = b"\x93NUMPY\x01\x00v\x00{'descr': '<f4', 'fortran_order': False, 'shape': (3, 2), }".to_vec();
        theirs.extend([b' '; 58]);
        theirs.push(b'\n');
        theirs.extend(b"\x9a\x99\x19\x3f\xcd\xcc\x4c\xbf\0\0\x80\x3f\0\0\0\0\0\0\0\0\x77\xcc\x2b\x32");
        assert_eq!(written(EmbedFormat::Npy, &[[0.6, -0.8], [1.0, 0.0], [0.0, 1e-8]]), theirs);
        assert_eq!(written(EmbedFormat::Npy, &[]).len(), NPY);
        let widest = npy(usize::MAX, u64::MAX);
        assert!(widest.len() == NPY && widest.ends_with(b" \n"), "{}", String::from_utf8_lossy(&widest));
    }

    #[test]
    fn safetensors_can_be_read_whatever_the_number_of_rows() {
        for count in [0, 1, 1234] {
            let bytes = written(EmbedFormat::Safetensors, &vec![[0.6, -0.8]; count]);
            let read = ::safetensors::SafeTensors::deserialize(&bytes).unwrap();
            let tensor = read.tensor("embeddings").unwrap();
            assert_eq!((tensor.shape(), tensor.dtype()), (&[count, 2][..], ::safetensors::Dtype::F32));
            assert_eq!(tensor.data().as_ptr() as usize % 8, bytes.as_ptr() as usize % 8);
            let (_, metadata) = ::safetensors::SafeTensors::read_metadata(&bytes).unwrap();
            let metadata = metadata.metadata().clone().unwrap();
            assert_eq!((&metadata["model"][..], &metadata["dim"][..], metadata.len()), ("a \"model\"", "2", 2));
        }
        assert_eq!(safetensors("m", 768, u64::MAX).len(), safetensors("m", 768, 0).len());
    }

    #[test]
    fn json_has_a_line_an_input_and_keeps_every_bit() {
        let rows = [[0.1, -0.2], [f32::MIN_POSITIVE, 1.0 / 3.0]];
        let text = String::from_utf8(written(EmbedFormat::Json, &rows)).unwrap();
        assert!(text.starts_with("{\"text\":\"x\\ny\",\"embedding\":[0.1,-0.2]}\n"), "{text}");
        for (line, row) in text.lines().zip(rows) {
            let read: serde_json::Value = serde_json::from_str(line).unwrap();
            let read: Vec<f32> = serde_json::from_value(read["embedding"].clone()).unwrap();
            assert_eq!(read, row);
        }
    }
}
