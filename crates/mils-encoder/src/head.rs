//! A head on an encoder's embeddings, as aesthetic predictors are: one number of a picture, without any text.
//!
//! It is a chain of linear layers over the embedding of length 1. LAION's predictors are read as they are: version 1 is one
//! layer (`weight`, `bias`); version 2 (github.com/christophschuhmann/improved-aesthetic-predictor) is five
//! (`layers.0.weight`, `layers.2.weight`, …) without anything between them, what stands at the other numbers being
//! dropout. A head with something between its layers says so in its file's metadata: `activation` is
//! `relu`.

use crate::EncoderError;
use half::{bf16, f16};
use safetensors::{Dtype, SafeTensors};
use std::path::Path;

/// A larger file is no head.
const MOST_BYTES: u64 = 1 << 30;

/// What stands between layers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Activation {
    None,
    Relu,
}

/// A linear layer.
#[derive(Clone, Debug)]
struct Layer {
    /// [outputs, inputs]
    weight: Vec<f32>,
    /// [outputs]
    bias: Vec<f32>,
    inputs: usize,
}

/// A head: see the module.
#[derive(Clone, Debug)]
pub struct Head {
    layers: Vec<Layer>,
    activation: Activation,
}

impl Head {
    /// Reads a safetensors file.
    ///
    /// # Errors
    /// If it cannot be read, is damaged, or holds no chain of linear layers that ends in one number.
    pub fn open(path: &Path) -> Result<Self, EncoderError> {
        let fail = |problem: String| EncoderError::file(path, problem);
        let size = std::fs::metadata(path).map_err(|e| fail(format!("cannot be read: {e}")))?.len();
        if size > MOST_BYTES {
            return Err(fail(format!("has {size} bytes, and is no head of an encoder")));
        }
        let bytes = std::fs::read(path).map_err(|e| fail(format!("cannot be read: {e}")))?;
        Self::read(&bytes).map_err(fail)
    }

    fn read(bytes: &[u8]) -> Result<Self, String> {
        let no_file = |e| format!("is no whole safetensors file ({e}); `mils models convert` makes one of a .pth file");
        let (_, header) = SafeTensors::read_metadata(bytes).map_err(no_file)?;
        let tensors = SafeTensors::deserialize(bytes).map_err(no_file)?;
        let said = header.metadata().as_ref().and_then(|all| all.get("activation")).map(String::as_str);
        let activation = match said {
            None | Some("none" | "identity") => Activation::None,
            Some("relu") => Activation::Relu,
            Some(other) => return Err(format!("names the activation `{other}`; expected none or relu")),
        };
        let mut named: Vec<(usize, &str)> = Vec::new();
        for name in tensors.names() {
            if let Some(stem) = name.strip_suffix("weight") {
                let stem = stem.strip_suffix('.').unwrap_or(stem);
                let last = stem.rsplit('.').next().unwrap_or_default();
                named.push((last.parse().unwrap_or(0), name));
            }
        }
        named.sort_unstable();
        if named.windows(2).any(|pair| pair[0].0 == pair[1].0) {
            return Err("has layers whose order their names do not tell".into());
        }
        let mut layers: Vec<Layer> = Vec::new();
        for (_, name) in named {
            let layer = layer(&tensors, name)?;
            if let Some(before) = layers.last().filter(|before| before.bias.len() != layer.inputs) {
                let gives = before.bias.len();
                return Err(format!(
                    "tensor `{name}` reads {} numbers, and the layer before gives {gives}",
                    layer.inputs
                ));
            }
            layers.push(layer);
        }
        match layers.last().map(|last| last.bias.len()) {
            Some(1) => Ok(Self { layers, activation }),
            Some(outputs) => Err(format!("gives {outputs} numbers of a picture, and one is expected")),
            None => Err("has no tensor whose name ends in `weight`".into()),
        }
    }

    /// Numbers of the embeddings that it reads.
    pub fn width(&self) -> usize {
        self.layers.first().map_or(0, |layer| layer.inputs)
    }

    /// What it makes of an embedding of length 1 and of its width.
    ///
    /// # Panics
    /// If the width is another.
    pub fn score(&self, embedding: &[f32]) -> f32 {
        assert_eq!(embedding.len(), self.width(), "an embedding of the head's width");
        let mut values = embedding.to_vec();
        for (i, layer) in self.layers.iter().enumerate() {
            if i > 0 {
                values.iter_mut().for_each(|x| *x = self.activation.of(*x));
            }
            let dot = |row: &[f32]| row.iter().zip(&values).map(|(a, b)| a * b).sum::<f32>();
            values = layer.weight.chunks_exact(layer.inputs).zip(&layer.bias).map(|(row, b)| dot(row) + b).collect();
        }
        values.first().copied().unwrap_or_default()
    }
}

impl Activation {
    fn of(self, x: f32) -> f32 {
        match self {
            Self::None => x,
            Self::Relu => x.max(0.0),
        }
    }
}

fn layer(tensors: &SafeTensors<'_>, name: &str) -> Result<Layer, String> {
    let weight = tensors.tensor(name).map_err(|e| format!("tensor `{name}`: {e}"))?;
    let &[outputs, inputs] = weight.shape() else {
        return Err(format!("tensor `{name}` has the shape {:?}, and a linear layer's has two sides", weight.shape()));
    };
    if outputs == 0 || inputs == 0 {
        return Err(format!("tensor `{name}` is empty"));
    }
    let stem = name.strip_suffix("weight").unwrap_or(name);
    let bias = match tensors.tensor(&format!("{stem}bias")) {
        Ok(bias) if bias.shape() == [outputs] => floats(bias.dtype(), bias.data(), &format!("{stem}bias"))?,
        Ok(bias) => return Err(format!("tensor `{stem}bias` has the shape {:?}; expected [{outputs}]", bias.shape())),
        Err(_) => vec![0.0; outputs],
    };
    Ok(Layer { weight: floats(weight.dtype(), weight.data(), name)?, bias, inputs })
}

fn floats(dtype: Dtype, bytes: &[u8], name: &str) -> Result<Vec<f32>, String> {
    let pairs = || bytes.as_chunks::<2>().0.iter();
    let values: Vec<f32> = match dtype {
        Dtype::F32 => bytes.as_chunks::<4>().0.iter().map(|b| f32::from_le_bytes(*b)).collect(),
        Dtype::F16 => pairs().map(|b| f16::from_le_bytes(*b).to_f32()).collect(),
        Dtype::BF16 => pairs().map(|b| bf16::from_le_bytes(*b).to_f32()).collect(),
        other => return Err(format!("tensor `{name}` is {other:?}; expected F32, F16 or BF16")),
    };
    if values.iter().all(|value| value.is_finite()) {
        Ok(values)
    } else {
        Err(format!("tensor `{name}` is not finite"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use safetensors::tensor::{TensorView, serialize};
    use std::collections::HashMap;

    fn file(tensors: &[(&str, &[usize], &[f32])], activation: Option<&str>) -> Vec<u8> {
        let bytes: Vec<Vec<u8>> =
            tensors.iter().map(|(.., values)| values.iter().flat_map(|v| v.to_le_bytes()).collect()).collect();
        let views = tensors.iter().zip(&bytes).map(|((name, shape, _), bytes)| {
            (name.to_string(), TensorView::new(Dtype::F32, shape.to_vec(), bytes).unwrap())
        });
        let metadata = activation.map(|a| HashMap::from([("activation".to_owned(), a.to_owned())]));
        serialize(views, metadata).unwrap()
    }

    #[test]
    fn layers_follow_each_other_by_their_numbers() {
        // Ten comes after two.
        let tensors: [(&str, &[usize], &[f32]); 4] = [
            ("layers.10.weight", &[1, 2], &[1.0, -2.0]),
            ("layers.10.bias", &[1], &[5.0]),
            ("layers.2.weight", &[2, 3], &[1.0, 0.0, 0.0, 0.0, 1.0, 1.0]),
            ("layers.2.bias", &[2], &[0.5, -4.0]),
        ];
        let score = |activation| Head::read(&file(&tensors, activation)).unwrap().score(&[1.0, 2.0, 1.0]);
        // (1.5, -1.0) to 1.5 + 2 + 5, or with the second number cut off to 1.5 + 5.
        assert_eq!((score(None), score(Some("none")), score(Some("relu"))), (8.5, 8.5, 6.5));
        let one = Head::read(&file(&[("weight", &[1, 2], &[2.0, 3.0]), ("bias", &[1], &[1.0])], None)).unwrap();
        assert_eq!((one.width(), one.score(&[1.0, -1.0])), (2, 0.0));
    }

    #[test]
    fn what_is_no_head_is_said() {
        for (tensors, activation, says) in [
            (&[("weight", &[2, 2][..], &[1.0; 4][..])][..], None, "gives 2 numbers"),
            (&[("a.0.weight", &[2, 3], &[1.0; 6]), ("a.1.weight", &[1, 3], &[1.0; 3])], None, "reads 3 numbers"),
            (&[("a.weight", &[1, 2], &[1.0; 2]), ("b.weight", &[1, 1], &[1.0; 1])], None, "order"),
            (&[("weight", &[2], &[1.0; 2])], None, "two sides"),
            (&[("weight", &[1, 0], &[])], None, "is empty"),
            (&[("weight", &[1, 2], &[1.0; 2]), ("bias", &[2], &[1.0; 2])], None, "expected [1]"),
            (&[("weight", &[1, 2], &[1.0, f32::NAN])], None, "not finite"),
            (&[("weight", &[1, 1], &[1.0])], Some("swish"), "swish"),
            (&[("bias", &[1], &[1.0])], None, "no tensor"),
        ] {
            let error = Head::read(&file(tensors, activation)).unwrap_err();
            assert!(error.contains(says), "{error}");
        }
        assert!(Head::read(b"nothing").unwrap_err().contains("mils models convert"));
        assert!(Head::open(Path::new("/nowhere/head.safetensors")).is_err());
    }
}
