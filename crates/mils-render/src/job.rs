//! What a renderer is asked, and what it can do.

use crate::RenderError;
use image::RgbImage;
use serde::{Deserialize, Serialize};

/// Pixels that a side of a picture may have.
pub const SIDES: std::ops::RangeInclusive<u32> = 16..=8192;

/// One picture that is wanted.
#[derive(Clone, Copy, Debug)]
pub struct Job<'a> {
    /// What is to be seen in it; for edits, what is to be done.
    pub prompt: &'a str,
    /// What is not to be seen in it.
    pub negative: Option<&'a str>,
    /// What is edited.
    pub source: Option<Source<'a>>,
    /// Where its randomness comes from.
    pub seed: u64,
    /// Pixels.
    pub width: u32,
    /// Pixels.
    pub height: u32,
    /// Steps of the diffusion; `None` leaves it to the renderer.
    pub steps: Option<u32>,
    /// Scale of the classifier-free guidance; `None` leaves it to the renderer.
    pub guidance: Option<f32>,
}

/// A picture that is edited.
#[derive(Clone, Copy, Debug)]
pub struct Source<'a> {
    /// The picture.
    pub image: &'a RgbImage,
    /// How far the result may be from it, 0 to 1; `None` leaves it to the renderer.
    pub strength: Option<f32>,
}

impl<'a> Job<'a> {
    /// A picture of 512 x 512 pixels, with everything else left to the renderer.
    pub fn new(prompt: &'a str) -> Self {
        Self { prompt, negative: None, source: None, seed: 0, width: 512, height: 512, steps: None, guidance: None }
    }
}

/// What a renderer can do. What it cannot is refused, but for the seed: without it, the same job has other pictures.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Abilities {
    /// Makes pictures of texts alone.
    pub generates: bool,
    /// Edits pictures.
    pub edits: bool,
    /// Takes a seed.
    pub seed: bool,
    /// Takes a size. Without it the size is its own, and a job must name that.
    pub size: bool,
    /// Takes a number of steps.
    pub steps: bool,
    /// Takes a guidance scale.
    pub guidance: bool,
    /// Takes a negative prompt.
    pub negative: bool,
    /// Takes the strength of an edit.
    pub strength: bool,
}

impl Abilities {
    /// An error that names what of a job it cannot do, or what makes no sense.
    ///
    /// # Errors
    /// See there.
    pub fn check(&self, job: &Job<'_>) -> Result<(), RenderError> {
        if !SIDES.contains(&job.width) || !SIDES.contains(&job.height) {
            let (least, most) = (SIDES.start(), SIDES.end());
            let size = format!("{}x{}", job.width, job.height);
            return Err(RenderError::Option(format!("a size of {size}; expected sides of {least} to {most} pixels")));
        }
        if let Some(guidance) = job.guidance.filter(|g| !(g.is_finite() && *g >= 0.0)) {
            return Err(RenderError::Option(format!("a guidance of {guidance}; expected a number from 0")));
        }
        if let Some(strength) = job.source.and_then(|s| s.strength).filter(|s| !(0.0..=1.0).contains(s)) {
            return Err(RenderError::Option(format!("a strength of {strength}; expected 0 to 1")));
        }
        let wants = [
            (job.source.is_none(), self.generates, "make a picture of a text alone"),
            (job.source.is_some(), self.edits, "edit pictures"),
            (job.steps.is_some(), self.steps, "be told the number of steps"),
            (job.guidance.is_some(), self.guidance, "be told the guidance"),
            (job.negative.is_some(), self.negative, "be told what not to draw (a negative prompt)"),
            (job.source.is_some_and(|s| s.strength.is_some()), self.strength, "be told the strength of an edit"),
        ];
        match wants.into_iter().find(|(wanted, can, _)| *wanted && !can) {
            Some((_, _, what)) => Err(RenderError::Cannot { what }),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_renderer_cannot_do_is_named() {
        let can = Abilities { generates: true, steps: true, ..Abilities::default() };
        assert!(can.check(&Job { steps: Some(20), ..Job::new("x") }).is_ok());
        let says = |job: &Job<'_>| can.check(job).unwrap_err().to_string();
        assert!(says(&Job { guidance: Some(7.0), ..Job::new("x") }).contains("be told the guidance"));
        assert!(says(&Job { width: 0, ..Job::new("x") }).contains("0x512"));
        assert!(says(&Job { guidance: Some(f32::NAN), ..Job::new("x") }).contains("NaN"));
        let image = RgbImage::new(16, 16);
        let source = |strength| Some(Source { image: &image, strength });
        assert!(says(&Job { source: source(None), ..Job::new("x") }).contains("edit pictures"));
        assert!(says(&Job { source: source(Some(2.0)), ..Job::new("x") }).contains("strength of 2"));
    }
}
