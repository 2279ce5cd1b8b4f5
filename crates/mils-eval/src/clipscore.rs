//! CLIPScore and RefCLIPScore from embeddings, whichever encoder made them.
//!
//! Hessel et al., *CLIPScore: a reference-free evaluation metric for image captioning*, EMNLP 2021: w · max(cos, 0) with
//! w = 2.5, and the harmonic mean of that and of the highest cosine of the caption with a reference. The paper's
//! numbers are of CLIP ViT-B/32 with `A photo depicts ` before each caption ([`PREFIX`]).

use crate::EvalError;

/// Factor of the cosine.
const WEIGHT: f64 = 2.5;

/// What the paper puts before each caption and reference.
pub const PREFIX: &str = "A photo depicts ";

/// Cosine of two embeddings.
///
/// # Errors
/// If they differ in width, or have a value that is no number, or no length.
pub fn cosine(a: &[f32], b: &[f32]) -> Result<f64, EvalError> {
    if a.len() != b.len() {
        return Err(EvalError::Numbers(format!(
            "embeddings of {} and {} values do not belong together",
            a.len(),
            b.len()
        )));
    }
    let dot = |x: &[f32], y: &[f32]| x.iter().zip(y).map(|(x, y)| f64::from(*x) * f64::from(*y)).sum::<f64>();
    let cosine = dot(a, b) / (dot(a, a).sqrt() * dot(b, b).sqrt());
    if cosine.is_finite() {
        Ok(cosine)
    } else {
        Err(EvalError::Numbers("an embedding has values that are no numbers, or is all zeros".into()))
    }
}

/// CLIPScore of an image and its caption.
///
/// # Errors
/// As [`cosine`].
pub fn clip_score(image: &[f32], caption: &[f32]) -> Result<f64, EvalError> {
    Ok(WEIGHT * cosine(image, caption)?.max(0.0))
}

/// RefCLIPScore: the harmonic mean of a CLIPScore and of the caption's best cosine with a reference; 0 where either is.
///
/// # Errors
/// As [`cosine`].
pub fn ref_clip_score<'a>(
    clip_score: f64,
    caption: &[f32],
    references: impl IntoIterator<Item = &'a [f32]>,
) -> Result<f64, EvalError> {
    let mut best = 0.0f64;
    for reference in references {
        best = best.max(cosine(caption, reference)?);
    }
    Ok(if clip_score > 0.0 && best > 0.0 { 2.0 * clip_score * best / (clip_score + best) } else { 0.0 })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scores_are_the_papers_formulas() {
        let (image, caption) = ([2.0, 0.0], [0.6, 0.8]);
        let clip = clip_score(&image, &caption).unwrap();
        assert!((clip - 1.5).abs() < 1e-6);
        let references: [&[f32]; 2] = [&[0.0, 3.0], &[-1.0, 0.0]];
        let with = ref_clip_score(clip, &caption, references).unwrap();
        assert!((with - 2.0 * 1.5 * 0.8 / 2.3).abs() < 1e-6);
        assert_eq!(clip_score(&[-1.0, 0.0], &caption).unwrap(), 0.0);
        assert_eq!(ref_clip_score(clip, &caption, []).unwrap(), 0.0);
        assert!(clip_score(&[f32::NAN, 0.0], &caption).is_err() && clip_score(&[0.0, 0.0], &caption).is_err());
        assert!(clip_score(&[1.0], &caption).is_err());
    }
}
