//! The forward pass, channels last (torchvision, models/vgg.py; Simonyan and Zisserman, arXiv 1409.1556).

use super::layout::{KERNEL, VggArchitecture};
use super::{CONTENT, STYLE};
use mils_graph::{Activation, Graph, GraphError, Linear};

/// Pixels [1, side, side, 3] to the Gram matrix of each convolution that is read for style, in order, and last what the
/// one for content gives.
pub(super) fn features(arch: &VggArchitecture, side: usize) -> Result<Graph, GraphError> {
    let mut g = Graph::new();
    let mut x = g.input("pixels", &[1, side, side, 3])?;
    let mut content = None;
    for (number, of) in (1..).zip(&arch.convolutions) {
        if number > 1 {
            x = g.activation(x, Activation::Relu)?;
        }
        if of.pooled {
            x = g.max_pool(x, 2, 2)?;
        }
        let rows = g.unfold(x, KERNEL, 1, 1)?;
        let weight = g.weight(&format!("image.conv{number}.weight"), &[of.output, KERNEL * KERNEL * of.input])?;
        let bias = g.weight(&format!("image.conv{number}.bias"), &[of.output])?;
        x = g.linear(Linear { x: rows, weight, bias: Some(bias), activation: Activation::None, residual: None })?;
        if STYLE.contains(&number) {
            let &[_, height, width, channels] = g.shape(x) else { continue };
            let pixels = g.reshape(x, &[1, height * width, channels])?;
            let gram = g.gram(pixels, 1.0 / (channels * height * width) as f32)?;
            g.output(gram);
        }
        if number == CONTENT {
            content = Some(x);
        }
    }
    content.into_iter().for_each(|x| g.output(x));
    Ok(g)
}
