//! What judges edits: how near the style has come, and whether what is shown has stayed.

use crate::args::EncoderArgs;
use crate::backend::{Opened, open_backend};
use crate::generate::judge::{Critic, Judge, Verdict};
use anyhow::{Context, Result};
use mils_encoder::{AnyEncoder, DualEncoder, StyleFeatures, Vgg, VggFiles};
use mils_media::RgbImage;
use mils_models::{Modality, Model};
use std::sync::atomic::{AtomicBool, Ordering};

/// A change that is no longer than this is none: a direction cannot be told of it.
const NO_CHANGE: f32 = 1e-6;

/// What the style is given by.
#[derive(Clone, Copy)]
pub(super) enum Target<'a> {
    /// A picture that has it.
    Picture(&'a RgbImage),
    /// What the content is, and what the result should be, in words.
    Text { from: &'a str, to: &'a str },
}

/// Makes one score of two things, of which each is the higher the better.
#[derive(Clone, Copy)]
struct Balance {
    style: f32,
    content: f32,
}

impl Balance {
    fn of((style, content): (f32, f32)) -> Self {
        Self { style, content }
    }

    /// What does not count is no objective either: it would keep texts that are good at nothing else.
    fn verdict(self, style: f32, content: f32) -> Verdict {
        let all = [(self.style, style), (self.content, content)];
        let counted = all.into_iter().filter(|(weight, _)| *weight > 0.0);
        let objectives: Vec<f32> = counted.clone().map(|(_, value)| value).collect();
        let score = counted.map(|(weight, value)| weight * value).sum();
        Verdict { score, objectives: if objectives.len() > 1 { objectives } else { Vec::new() } }
    }
}

/// By Gram matrices of VGG (arXiv 1508.06576), as arXiv 2501.18096 has it.
struct ByVgg {
    name: String,
    backend: String,
    vgg: Vgg,
    content: StyleFeatures,
    style: StyleFeatures,
    balance: Balance,
}

/// Loads a VGG and shows it the content and the style; `None` if `cancel` was set meanwhile.
///
/// # Errors
/// If it is not there or is damaged, or no device can be had.
pub(super) fn by_vgg(
    name: &str,
    (content, style): (&RgbImage, &RgbImage),
    weights: (f32, f32),
    args: &EncoderArgs,
    say: &dyn Fn(&str),
    cancel: &AtomicBool,
) -> Result<Option<Box<dyn Critic>>> {
    let Model { name, folder } = Model::find(name, Modality::Image)
        .context("no VGG to compare styles with; name one with --vgg, or compare with --by clip")?;
    say(&format!("reading {name}"));
    let files = VggFiles::open_with(&folder, args.dtype.into())?;
    let Opened { backend, name: place, chosen, .. } = open_backend(args.backend, args.math)?;
    say(&format!("VGG on {chosen}"));
    if cancel.load(Ordering::SeqCst) {
        return Ok(None);
    }
    let mut vgg = files.load(&*backend)?;
    let (content, style) = (vgg.features(content)?, vgg.features(style)?);
    Ok(Some(Box::new(ByVgg { name, backend: place, vgg, content, style, balance: Balance::of(weights) })))
}

impl Critic for ByVgg {
    fn name(&self) -> &str {
        &self.name
    }

    fn backend(&self) -> &str {
        &self.backend
    }

    fn verdicts(&mut self, pictures: &[RgbImage]) -> Result<Vec<Verdict>> {
        let Self { vgg, content, style, balance, .. } = self;
        let verdict = |picture: &RgbImage| -> Result<Verdict> {
            let features = vgg.features(picture)?;
            // Distances are the better the smaller.
            let (style, content) = (features.style_loss(style), features.content_loss(content));
            Ok(balance.verdict(-(style as f32), -(content as f32)))
        };
        pictures.iter().map(verdict).collect()
    }
}

/// By the direction in which embeddings move (arXiv 2108.00946).
struct ByClip {
    name: String,
    backend: String,
    encoder: AnyEncoder,
    content: Vec<f32>,
    direction: Vec<f32>,
    balance: Balance,
}

/// Loads an encoder and shows it the content and the style; `None` if `cancel` was set meanwhile.
///
/// # Errors
/// If it is not there, is damaged, or is none of pictures; if the style is as the content is; or no device can be had.
pub(super) fn by_clip(
    name: &str,
    (content, target): (&RgbImage, Target<'_>),
    weights: (f32, f32),
    args: &EncoderArgs,
    say: &dyn Fn(&str),
    note: &dyn Fn(&str),
    cancel: &AtomicBool,
) -> Result<Option<Box<dyn Critic>>> {
    let (name, files) = Judge::read(name, args, say, note)?;
    let Opened { backend, name: place, chosen, .. } = open_backend(args.backend, args.math)?;
    say(&format!("encoder on {chosen}"));
    if cancel.load(Ordering::SeqCst) {
        return Ok(None);
    }
    let mut encoder = files.load(&*backend)?;
    let rows = encoder.pictures()?.embed_images(std::slice::from_ref(content))?;
    let content = rows.row(0).to_vec();
    let direction = match target {
        Target::Picture(style) => {
            let rows = encoder.pictures()?.embed_images(std::slice::from_ref(style))?;
            towards(rows.row(0), &content)
        }
        Target::Text { from, to } => {
            let rows = encoder.embed_texts(&[from.to_owned(), to.to_owned()])?;
            towards(rows.row(1), rows.row(0))
        }
    };
    let direction =
        direction.with_context(|| format!("{name} sees no difference between the content and the style"))?;
    Ok(Some(Box::new(ByClip { name, backend: place, encoder, content, direction, balance: Balance::of(weights) })))
}

impl Critic for ByClip {
    fn name(&self) -> &str {
        &self.name
    }

    fn backend(&self) -> &str {
        &self.backend
    }

    fn verdicts(&mut self, pictures: &[RgbImage]) -> Result<Vec<Verdict>> {
        let rows = self.encoder.pictures()?.embed_images(pictures)?;
        let verdict = |i: usize| {
            let row = rows.row(i);
            // A picture that has not changed has gone nowhere.
            let style = towards(row, &self.content).map_or(0.0, |change| dot(&change, &self.direction));
            self.balance.verdict(style, dot(row, &self.content))
        };
        Ok((0..pictures.len()).map(verdict).collect())
    }
}

/// The direction from one row to another, of length 1; `None` where they are the same.
fn towards(to: &[f32], from: &[f32]) -> Option<Vec<f32>> {
    let change: Vec<f32> = to.iter().zip(from).map(|(to, from)| to - from).collect();
    let length = dot(&change, &change).sqrt();
    (length > NO_CHANGE).then(|| change.into_iter().map(|x| x / length).collect())
}

fn dot(a: &[f32], b: &[f32]) -> f32 {
    a.iter().zip(b).map(|(a, b)| a * b).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_score_is_the_weighted_sum_and_what_does_not_count_is_no_objective() {
        let verdict = |weights| Balance::of(weights).verdict(-0.25, -2.0);
        assert_eq!(verdict((1000.0, 1.0)), Verdict { score: -252.0, objectives: vec![-0.25, -2.0] });
        assert_eq!(verdict((1000.0, 0.0)), Verdict { score: -250.0, objectives: vec![] });
        assert_eq!(verdict((0.0, 2.0)), Verdict { score: -4.0, objectives: vec![] });
    }

    #[test]
    fn a_direction_has_length_one_and_no_change_has_none() {
        let found = towards(&[1.0, 3.0], &[1.0, 1.0]);
        assert_eq!(found, Some(vec![0.0, 1.0]));
        assert_eq!(towards(&[0.5, 0.5], &[0.5, 0.5]), None);
    }
}
