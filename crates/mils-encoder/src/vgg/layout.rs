//! What torchvision calls the tensors of a VGG, and what their names and shapes say of it: `features.N` are its modules in
//! order, a ReLU follows each convolution, and a pooling layer stands wherever a number more is left out.

use super::{CONTENT, STYLE};
use crate::tensors::{List, Source, Tensor};

/// Side of every kernel.
pub(crate) const KERNEL: usize = 3;

/// A convolution of 3 x 3 with a padding of 1.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Convolution {
    /// Its number among torchvision's `features`.
    pub module: usize,
    /// Channels that it reads.
    pub input: usize,
    /// Channels that it gives.
    pub output: usize,
    /// Whether maxima over 2 x 2 are taken before it.
    pub pooled: bool,
}

/// The convolutions that are needed, in order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VggArchitecture {
    /// At least one.
    pub convolutions: Vec<Convolution>,
}

/// How many convolutions are read, for style or content.
fn needed() -> usize {
    STYLE.into_iter().chain([CONTENT]).max().unwrap_or_default()
}

/// By the shapes of tensors, all of whose names are given.
///
/// # Errors
/// What is wrong, for people.
pub(super) fn architecture<'a>(
    names: impl Iterator<Item = &'a str>,
    shape: impl Fn(&str) -> Option<&'a [usize]>,
) -> Result<VggArchitecture, String> {
    let module = |name: &str| name.strip_prefix("features.")?.strip_suffix(".weight")?.parse::<usize>().ok();
    let mut modules: Vec<usize> = names.filter_map(module).collect();
    modules.sort_unstable();
    let mut convolutions: Vec<Convolution> = Vec::new();
    for module in modules.into_iter().take(needed()) {
        let name = format!("features.{module}.weight");
        let found = shape(&name).unwrap_or_default();
        if found.len() == 1 {
            return Err(format!("tensor `{name}` is a norm's; VGG without batch normalisation is read"));
        }
        // A convolution and its ReLU, and perhaps a pooling layer.
        let pooled = match convolutions.last().map_or(module + 2, |before| module - before.module) {
            2 => false,
            3 if !convolutions.is_empty() => true,
            _ => return Err(format!("tensor `{name}` does not stand where VGG has a convolution")),
        };
        let channels = convolutions.last().map_or(3, |before| before.output);
        let output = match found {
            &[output, input, KERNEL, KERNEL] if input == channels && output > 0 => output,
            _ => {
                let expected = format!("[channels, {channels}, {KERNEL}, {KERNEL}]");
                return Err(format!("tensor `{name}` should be {expected} but is {found:?}; is this a VGG?"));
            }
        };
        convolutions.push(Convolution { module, input: channels, output, pooled });
    }
    if convolutions.len() < needed() {
        return Err(format!(
            "has {} convolutions that are called `features.N.weight`, and {} are read; is this torchvision's VGG?",
            convolutions.len(),
            needed()
        ));
    }
    Ok(VggArchitecture { convolutions })
}

/// Every tensor that is read, and where it is.
pub(super) fn tensors(arch: &VggArchitecture) -> Vec<(Tensor, Source)> {
    let mut all = Vec::new();
    for (i, of) in arch.convolutions.iter().enumerate() {
        let mut list = List::default();
        list.linear(&format!("image.conv{}", i + 1), [of.output, KERNEL * KERNEL * of.input], true);
        for tensor in list.0 {
            let at = |leaf: &str| format!("features.{}.{leaf}", of.module);
            let source = match tensor.shape.len() {
                1 => tensor.whole(at("bias")),
                _ => tensor.channels_last(at("weight"), of.input, KERNEL),
            };
            all.push((tensor, source));
        }
    }
    all
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeMap;

    fn of(tensors: &[(usize, &[usize])]) -> Result<VggArchitecture, String> {
        let named: BTreeMap<String, &[usize]> =
            tensors.iter().map(|(module, shape)| (format!("features.{module}.weight"), *shape)).collect();
        architecture(named.keys().map(String::as_str), |name| named.get(name).copied())
    }

    #[test]
    fn names_and_shapes_say_what_it_is() {
        let vgg19: [(usize, &[usize]); 6] = [
            (0, &[64, 3, 3, 3]),
            (2, &[64, 64, 3, 3]),
            (5, &[128, 64, 3, 3]),
            (7, &[128, 128, 3, 3]),
            (10, &[256, 128, 3, 3]),
            (12, &[256, 256, 3, 3]),
        ];
        let arch = of(&vgg19).unwrap();
        let found: Vec<_> = arch.convolutions.iter().map(|c| (c.module, c.input, c.output, c.pooled)).collect();
        let expected =
            [(0, 3, 64, false), (2, 64, 64, false), (5, 64, 128, true), (7, 128, 128, false), (10, 128, 256, true)];
        assert_eq!(found, expected);
        assert_eq!(tensors(&arch).len(), 10);
        for (change, says) in [
            (&[(0, &[64, 1, 3, 3][..])][..], "should be [channels, 3, 3, 3]"),
            (&[(0, &[64, 3, 3, 3]), (1, &[64])], "batch normalisation"),
            (&[(0, &[64, 3, 3, 3]), (6, &[64, 64, 3, 3])], "does not stand where"),
            (&[(1, &[64, 3, 3, 3])], "does not stand where"),
            (&[(0, &[64, 3, 3, 3]), (2, &[64, 64, 3, 3])], "has 2 convolutions"),
            (&[], "torchvision's VGG"),
        ] {
            let error = of(change).unwrap_err();
            assert!(error.contains(says), "{error}");
        }
    }
}
