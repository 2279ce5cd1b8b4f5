//! Videos by a model of images: frame pooling.

use crate::encoder::{DualEncoder, Embeddings};
use crate::error::EncoderError;
use crate::pool::mean;
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
        data.extend(mean(encoder.embed_images(frames)?.data(), dim));
    }
    Ok(Embeddings::new(dim, data)?)
}
