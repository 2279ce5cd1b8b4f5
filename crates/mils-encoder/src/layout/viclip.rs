//! ViCLIP (arXiv 2307.06942): CLIP's image tower over all frames of a video at once, and CLIP's text tower with 32
//! positions, from the tensors of its published file. There is no configuration to read: sizes are those of the
//! tensors, and what they do not say (heads of 64, quick GELU, epsilon 1e-5) is the same in all of its sizes.
//!
//! Reference: `viclip.py`, `viclip_vision.py`, `viclip_text.py` and `__init__.py` (`frames2tensor`) under
//! `Data/InternVid/viclip` of OpenGVLab/InternVideo.

use super::{Description, Names, open_clip};
use crate::EncoderError;
use crate::arch::{
    Architecture, Blocks, Calibration, ImagePool, ImageSize, ImageTower, Projection, TextPool, TextTower,
};
use crate::tensors::{Source, Tensor};
use crate::tokenizer::Cleaning;
use crate::weights::Checkpoint;
use mils_graph::Activation;
use mils_media::{Preprocess, Resample, Resize};
use std::path::Path;

/// The file of the weights.
const WEIGHTS: &str = "model.safetensors";
/// What only ViCLIP has.
const FRAMES: &str = "vision_encoder.temporal_positional_embedding";
/// Width of a head, in both towers.
const HEAD: usize = 64;
/// ImageNet's mean and deviation, which it normalises with in place of CLIP's.
const MEAN: [f32; 3] = [0.485, 0.456, 0.406];
const STD: [f32; 3] = [0.229, 0.224, 0.225];

/// What is in a folder whose weights are a ViCLIP's; `None` where they are not.
pub(crate) fn describe(folder: &Path) -> Result<Option<Description>, EncoderError> {
    let config = folder.join(WEIGHTS);
    if !config.exists() && !folder.join(format!("{WEIGHTS}.index.json")).exists() {
        return Ok(None);
    }
    let file = Checkpoint::open(folder, WEIGHTS)?;
    if file.shape(FRAMES).is_none() {
        return Ok(None);
    }
    let arch = architecture(|name| file.shape(name)).map_err(|problem| EncoderError::file(&config, problem))?;
    let ImageSize::Fixed { height, width } = arch.image.size else { return Ok(None) };
    let side = |n: usize| u32::try_from(n).map_err(|e| EncoderError::file(&config, e));
    // The reference stretches frames with OpenCV's `resize`, whose default does not antialias.
    let preprocess = Preprocess {
        resize: Some(Resize::Exact { height: side(height)?, width: side(width)? }),
        resample: Resample::Interpolate,
        crop: None,
        rescale: Some(1.0 / 255.0),
        normalize: Some((MEAN, STD)),
    };
    let (names, weights, cleaning) = (Names::ViClip, WEIGHTS, Some(Cleaning::Spaces));
    Ok(Some(Description { arch, preprocess, names, config, weights, cleaning }))
}

fn architecture<'a>(shape: impl Fn(&str) -> Option<&'a [usize]>) -> Result<Architecture, String> {
    let of = |name: &str| shape(name).ok_or_else(|| format!("has no tensor `{name}`, which a ViCLIP has"));
    let two = |name: &str| match of(name)? {
        &[rows, columns] => Ok((rows, columns)),
        found => Err(format!("tensor `{name}` should be a matrix but is {found:?}")),
    };
    let conv = "vision_encoder.conv1.weight";
    let patch = match of(conv)? {
        // A depth of one frame is all that any ViCLIP was trained with.
        &[_, 3, 1, rows, columns] if rows == columns => rows,
        found => return Err(format!("tensor `{conv}` should be [width, 3, 1, patch, patch] but is {found:?}")),
    };
    let frames = match of(FRAMES)? {
        &[1, frames, _] => frames,
        found => return Err(format!("tensor `{FRAMES}` should be [1, frames, width] but is {found:?}")),
    };
    let (places, _) = two("vision_encoder.positional_embedding")?;
    let grid = places.saturating_sub(1).isqrt();
    if grid * grid + 1 != places {
        return Err(format!("has {places} positions, which are no square and a class token"));
    }
    let side = grid.checked_mul(patch).ok_or("has too many positions")?;
    let (vocab, _) = two("text_encoder.token_embedding.weight")?;
    let (context, _) = two("text_encoder.positional_embedding")?;
    let (_, dim) = two("vision_encoder.proj")?;
    let blocks = |tower: &str| {
        let at = |layer: usize, name: &str| format!("{tower}.transformer.resblocks.{layer}.{name}");
        let (mlp, width) = two(&at(0, "mlp.c_fc.weight"))?;
        let layers = (0..).take_while(|&layer| shape(&at(layer, "ln_1.weight")).is_some()).count();
        let (heads, activation) = (width / HEAD, Activation::QuickGelu);
        Ok::<_, String>(Blocks { width, mlp, layers, heads, activation, eps: 1e-5 })
    };
    let projection = Some(Projection { bias: false });
    Ok(Architecture {
        image: ImageTower {
            blocks: blocks("vision_encoder")?,
            frames,
            patch,
            size: ImageSize::Fixed { height: side, width: side },
            class_token: true,
            patch_bias: false,
            norm_pre: true,
            rope: None,
            pool: ImagePool::ClassToken,
            projection,
        },
        text: TextTower {
            blocks: blocks("text_encoder")?,
            vocab,
            context,
            causal: true,
            pool: TextPool::LargestId,
            projection,
        },
        dim,
        calibration: Calibration::Softmax,
    })
}

/// Where a tensor is: as open_clip's own towers have it, but for the convolution and what is of frames.
pub(crate) fn source(arch: &Architecture, tensor: &Tensor) -> Source {
    let parts = tensor.parts();
    match (parts.image, parts.stem) {
        (true, "patch") => tensor.convolution_of_frames("vision_encoder.conv1.weight", arch.image.patch),
        (true, "frames") => tensor.padded(FRAMES, 3),
        (image, _) => open_clip::own(arch, tensor, if image { "vision_encoder." } else { "text_encoder." }),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]

    use super::*;
    use std::collections::BTreeMap;

    /// Shapes of ViCLIP L/14, as published; of its blocks, two in place of 24 and 12.
    fn published() -> BTreeMap<String, Vec<usize>> {
        let mut all = BTreeMap::new();
        let mut add = |name: &str, shape: &[usize]| all.insert(name.to_owned(), shape.to_vec());
        add("vision_encoder.conv1.weight", &[1024, 3, 1, 14, 14]);
        add(FRAMES, &[1, 8, 1024]);
        add("vision_encoder.positional_embedding", &[257, 1024]);
        add("vision_encoder.proj", &[1024, 768]);
        add("text_encoder.token_embedding.weight", &[49408, 768]);
        add("text_encoder.positional_embedding", &[32, 768]);
        for (tower, width) in [("vision_encoder", 1024), ("text_encoder", 768)] {
            for layer in 0..2 {
                add(&format!("{tower}.transformer.resblocks.{layer}.ln_1.weight"), &[width]);
                add(&format!("{tower}.transformer.resblocks.{layer}.mlp.c_fc.weight"), &[4 * width, width]);
            }
        }
        all
    }

    fn read(shapes: &BTreeMap<String, Vec<usize>>) -> Result<Architecture, String> {
        let arch = architecture(|name| shapes.get(name).map(Vec::as_slice))?;
        arch.check().map(|()| arch)
    }

    #[test]
    fn sizes_are_those_of_the_published_file() {
        let arch = read(&published()).unwrap();
        assert_eq!((arch.image.frames, arch.image.patch, arch.image.blocks.heads, arch.dim), (8, 14, 16, 768));
        assert_eq!(arch.image.size, ImageSize::Fixed { height: 224, width: 224 });
        assert_eq!(arch.image.most_tokens(), 1 + 8 * 256);
        assert_eq!((arch.text.context, arch.text.blocks.heads, arch.text.blocks.layers), (32, 12, 2));
    }

    #[test]
    fn shapes_that_cannot_be_are_refused() {
        for (name, shape, says) in [
            ("vision_encoder.conv1.weight", vec![1024, 3, 2, 14, 14], "should be [width, 3, 1"),
            ("vision_encoder.positional_embedding", vec![256, 1024], "256 positions"),
            ("vision_encoder.positional_embedding", vec![], "should be a matrix"),
            ("text_encoder.token_embedding.weight", vec![0, 768], "the vocabulary is 0"),
            (FRAMES, vec![1, 4096, 1024], "the number of frames is 4096"),
            (FRAMES, vec![8, 1024], "should be [1, frames, width]"),
            ("vision_encoder.transformer.resblocks.0.mlp.c_fc.weight", vec![4, 1000], "do not divide"),
        ] {
            let mut shapes = published();
            shapes.insert(name.to_owned(), shape);
            let error = read(&shapes).unwrap_err();
            assert!(error.contains(says), "{error}");
        }
        let mut shapes = published();
        shapes.remove("vision_encoder.proj");
        assert!(read(&shapes).unwrap_err().contains("has no tensor `vision_encoder.proj`"));
    }
}
