//! Videos by a model of images: frame pooling.

use crate::encoder::{DualEncoder, Embeddings};
use crate::error::EncoderError;
use mils_media::RgbImage;

/// Frames that are pooled where nobody asks for another number: as many as ViCLIP looks at, so that scorers compare.
pub(crate) const FRAMES: usize = 8;

/// The mean of each video's normalised frames, normalised.
pub(crate) fn pooled<E: DualEncoder + ?Sized>(
    encoder: &mut E,
    videos: &[Vec<RgbImage>],
) -> Result<Embeddings, EncoderError> {
    let dim = encoder.dim();
    let mut data = Vec::with_capacity(videos.len() * dim);
    for (video, frames) in videos.iter().enumerate() {
        if frames.is_empty() {
            let (model, wanted) = (encoder.name().to_owned(), "at least 1".to_owned());
            return Err(EncoderError::Frames { model, video, found: 0, wanted });
        }
        // One video at a time: the pixels of many would not fit the memory.
        data.extend(mean(&encoder.embed_images(frames)?));
    }
    Ok(Embeddings::new(dim, data)?)
}

/// The mean of rows of length 1, brought to length 1; of rows that cancel out, zeros.
pub(crate) fn mean(rows: &Embeddings) -> Vec<f32> {
    let mut sum = vec![0.0_f64; rows.dim()];
    for row in rows.data().chunks_exact(rows.dim()) {
        sum.iter_mut().zip(row).for_each(|(sum, &v)| *sum += f64::from(v));
    }
    let length = sum.iter().map(|v| v * v).sum::<f64>().sqrt().max(1e-12);
    sum.iter().map(|v| (v / length) as f32).collect()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]

    use super::*;

    #[test]
    fn the_mean_has_length_one() {
        let rows = Embeddings::new(2, vec![1.0, 0.0, 0.0, 1.0]).unwrap();
        let half = 0.5_f32.sqrt();
        assert!(mean(&rows).iter().all(|v| (v - half).abs() < 1e-6));
        let opposite = Embeddings::new(2, vec![1.0, 0.0, -1.0, 0.0]).unwrap();
        assert_eq!(mean(&opposite), [0.0, 0.0]);
        let one = Embeddings::new(2, vec![0.6, 0.8]).unwrap();
        assert_eq!(mean(&one), [0.6, 0.8]);
    }
}
