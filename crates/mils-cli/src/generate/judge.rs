//! What judges pictures: encoders that compare them with what was asked for, and whatever else is a [`Critic`].

use crate::args::EncoderArgs;
use crate::backend::{Opened, open_backend};
use anyhow::{Result, bail};
use mils_encoder::{AnyEncoder, AnyFiles, DualEncoder, Embeddings};
use mils_media::RgbImage;
use mils_models::{Modality, Model};
use std::sync::atomic::{AtomicBool, Ordering};

/// What a picture is worth.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Verdict {
    /// The higher the better.
    pub score: f32,
    /// What is behind it, where that is several things that a picture may be good at; else empty. As many for all
    /// pictures, the higher the better.
    pub objectives: Vec<f32>,
}

/// Judges pictures.
pub trait Critic {
    /// What it is called.
    fn name(&self) -> &str;

    /// Where it runs.
    fn backend(&self) -> &str;

    /// One verdict a picture.
    ///
    /// # Errors
    /// If a model fails.
    fn verdicts(&mut self, pictures: &[RgbImage]) -> Result<Vec<Verdict>>;
}

impl Critic for Box<dyn Critic> {
    fn name(&self) -> &str {
        (**self).name()
    }

    fn backend(&self) -> &str {
        (**self).backend()
    }

    fn verdicts(&mut self, pictures: &[RgbImage]) -> Result<Vec<Verdict>> {
        (**self).verdicts(pictures)
    }
}

/// Encoders of pictures, and what they make of the wish.
pub struct Judge {
    name: String,
    backend: String,
    judges: Vec<One>,
}

/// What an encoder makes of what pictures are compared with.
pub type Target<'a> = dyn Fn(&mut AnyEncoder) -> Result<Embeddings> + 'a;

struct One {
    encoder: AnyEncoder,
    wish: Embeddings,
    /// Its share of the score.
    share: f32,
}

impl Judge {
    /// Loads the encoders of these names, each with a weight; `None` if `cancel` was set meanwhile.
    ///
    /// # Errors
    /// If one is not there, is damaged, or is none of pictures, or no device can be had.
    pub fn open(
        scorers: &[(String, f32)],
        wish: &str,
        args: &EncoderArgs,
        say: &dyn Fn(&str),
        note: &dyn Fn(&str),
        cancel: &AtomicBool,
    ) -> Result<Option<Self>> {
        let mut files = Vec::new();
        for (name, weight) in scorers {
            let Model { name, folder } = Model::find(name, Modality::Image)?;
            say(&format!("reading {name}"));
            let read = AnyFiles::open_with(&folder, args.dtype.into())?;
            if !matches!(read, AnyFiles::Pictures(_)) {
                bail!("{name} is an encoder of sounds, and cannot judge pictures; name another --scorer");
            }
            if let Some(licence) = read.licence() {
                note(&format!("mils: the weights of {name} are {licence}"));
            }
            files.push((name, read, *weight));
        }
        let Opened { backend, name: place, chosen, .. } = open_backend(args.backend, args.math)?;
        say(&format!("encoder on {chosen}"));
        let all: f32 = files.iter().map(|(_, _, weight)| weight).sum();
        let several = files.len() > 1;
        let (mut judges, mut names) = (Vec::new(), Vec::new());
        for (name, files, weight) in files {
            if cancel.load(Ordering::SeqCst) {
                return Ok(None);
            }
            say(&format!("loading {name}"));
            let mut encoder = files.load(&*backend)?;
            let wish = encoder.embed_texts(&[wish.to_owned()])?;
            judges.push(One { encoder, wish, share: weight / all });
            names.push(if several { format!("{name} ({weight})") } else { name });
        }
        Ok(Some(Self { name: names.join(" + "), backend: place, judges }))
    }

    /// Compares with another wish from now on.
    ///
    /// # Errors
    /// If an encoder fails.
    pub fn about(&mut self, wish: &str) -> Result<()> {
        self.towards(&|encoder| Ok(encoder.embed_texts(&[wish.to_owned()])?))
    }

    /// Compares with what each encoder makes of something: one row.
    ///
    /// # Errors
    /// If one fails.
    pub fn towards(&mut self, target: &Target<'_>) -> Result<()> {
        for judge in &mut self.judges {
            judge.wish = target(&mut judge.encoder)?;
        }
        Ok(())
    }
}

impl Critic for Judge {
    fn name(&self) -> &str {
        &self.name
    }

    fn backend(&self) -> &str {
        &self.backend
    }

    /// The cosine with the wish, or the weighted mean of several encoders' cosines.
    fn verdicts(&mut self, pictures: &[RgbImage]) -> Result<Vec<Verdict>> {
        let mut verdicts = vec![Verdict::default(); pictures.len()];
        for One { encoder, wish, share } in &mut self.judges {
            let rows = encoder.pictures()?.embed_images(pictures)?;
            for (verdict, cosine) in verdicts.iter_mut().zip(wish.dots(0, &rows)) {
                verdict.score += *share * cosine;
            }
        }
        Ok(verdicts)
    }
}
