//! Learnt positions on a square grid, brought to the grids of pictures of any shape (SigLIP 2 NaFlex); and positions of
//! a picture, brought to all frames of a video (ViCLIP).
//!
//! Reference: `Siglip2VisionEmbeddings.resize_positional_embeddings` of transformers: bilinear with antialias, as
//! `torch.nn.functional.interpolate(align_corners=False)`.

use crate::arch::ImageTower;
use mils_graph::HostTensor;

/// Makes one table of `image.positions`, [class token + patches, width], and `image.frames`, [frames, width]: first the
/// class token's row, which has no frame, then for every frame the positions of its patches with the frame's added.
/// Adding them once here costs nothing at every run. ViCLIP lays its tokens out by patch and then by frame, which
/// changes nothing: attention does not know their order.
pub(crate) fn spread_over_frames(weights: &mut Vec<(String, HostTensor)>, tower: &ImageTower) {
    let place = |weights: &[(String, HostTensor)], name: &str| weights.iter().position(|(n, _)| n == name);
    let Some(at) = place(weights, "image.frames") else { return };
    let (_, frames) = weights.swap_remove(at);
    let Some(at) = place(weights, "image.positions") else { return };
    let (name, positions) = weights.swap_remove(at);
    // Both were read as f32; were they not, the table would be missing, which is an error.
    let (Some(frames), Some(positions)) = (frames.into_f32(), positions.into_f32()) else { return };
    let width = tower.blocks.width;
    let (class, patches) = positions.split_at(if tower.class_token { width } else { 0 });
    let mut table = class.to_vec();
    for frame in frames.chunks_exact(width) {
        for patch in patches.chunks_exact(width) {
            table.extend(patch.iter().zip(frame).map(|(a, b)| a + b));
        }
    }
    if let Ok(table) = HostTensor::f32(&[tower.most_tokens(), width], table) {
        weights.push((name, table));
    }
}

/// Embeddings of the places of a square grid.
pub(crate) struct PositionGrid {
    side: usize,
    width: usize,
    /// [side, side, width]
    data: Vec<f32>,
}

/// What a place of the new grid takes from the places of the old one, along one axis: (first, weights).
fn weights(from: usize, to: usize) -> Vec<(usize, Vec<f32>)> {
    let scale = from as f32 / to as f32;
    let support = scale.max(1.0);
    (0..to)
        .map(|i| {
            let centre = (i as f32 + 0.5) * scale - 0.5;
            let all: Vec<f32> = (0..from).map(|s| (1.0 - ((s as f32 - centre).abs() / support)).max(0.0)).collect();
            let total: f32 = all.iter().sum();
            let first = all.iter().position(|&w| w > 0.0).unwrap_or_default();
            let behind = all.iter().rposition(|&w| w > 0.0).map_or(first, |last| last + 1);
            (first, all[first..behind].iter().map(|w| w / total).collect())
        })
        .collect()
}

impl PositionGrid {
    /// Takes `image.positions`, [side · side, width], out of the weights.
    pub(crate) fn take(weights: &mut Vec<(String, HostTensor)>, side: usize) -> Option<Self> {
        let at = weights.iter().position(|(name, _)| name == "image.positions")?;
        let (_, tensor) = weights.swap_remove(at);
        let data = tensor.into_f32()?;
        Some(Self { side, width: data.len() / (side * side), data })
    }

    /// Embeddings of a grid's places in rows, [rows · columns, width].
    pub(crate) fn resized(&self, rows: usize, columns: usize) -> Vec<f32> {
        let (down, across) = (weights(self.side, rows), weights(self.side, columns));
        let mut out = vec![0.0; rows * columns * self.width];
        let mut places = out.chunks_exact_mut(self.width);
        for (top, vertical) in &down {
            for (left, horizontal) in &across {
                let Some(place) = places.next() else { continue };
                for (y, wy) in vertical.iter().enumerate() {
                    for (x, wx) in horizontal.iter().enumerate() {
                        let at = ((top + y) * self.side + left + x) * self.width;
                        let (weight, from) = (wy * wx, &self.data[at..at + self.width]);
                        place.iter_mut().zip(from).for_each(|(o, v)| *o += weight * v);
                    }
                }
            }
        }
        out
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn grid(side: usize, width: usize) -> PositionGrid {
        PositionGrid { side, width, data: (0..side * side * width).map(|i| i as f32).collect() }
    }

    #[test]
    fn the_same_grid_is_unchanged() {
        let grid = grid(3, 2);
        assert_eq!(grid.resized(3, 3), grid.data);
    }

    #[test]
    fn a_single_place_is_the_weighted_mean() {
        // A triangle over three places around the middle one: weights 2/7, 3/7, 2/7 along each axis.
        let grid = grid(3, 1);
        let middle = grid.resized(1, 1)[0];
        assert!((middle - 4.0).abs() < 1e-5, "{middle}");
        let weights = weights(3, 1);
        assert!((weights[0].1[0] - 2.0 / 7.0).abs() < 1e-6 && weights[0].0 == 0, "{weights:?}");
    }

    #[test]
    fn growing_interpolates_and_keeps_the_ends() {
        let line = grid(2, 1);
        let row: Vec<f32> = line.resized(2, 4)[..4].to_vec();
        assert_eq!(row, [0.0, 0.25, 0.75, 1.0]);
    }
}
