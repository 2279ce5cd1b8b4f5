//! What judges pictures: encoders that compare them with what was asked for, and whatever else is a [`Critic`].

use crate::args::EncoderArgs;
use crate::backend::{Opened, open_backend};
use anyhow::{Context, Result, bail};
use mils_encoder::{AnyEncoder, AnyFiles, DualEncoder, Embeddings, Head};
use mils_media::RgbImage;
use mils_models::{Modality, Model};
use std::path::Path;
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

/// An encoder, and what its embeddings of pictures are good for.
struct One {
    /// What it was named by.
    given: String,
    encoder: AnyEncoder,
    /// They are compared with this, where the encoder is a scorer; and its share of the score.
    wish: Option<(Embeddings, f32)>,
    /// They are read by this, with its share.
    head: Option<(Head, f32)>,
}

/// What judges.
#[derive(Clone, Copy, Debug)]
pub struct Panel<'a> {
    /// Encoders that compare pictures with the wish, each with a weight: at least one.
    pub scorers: &'a [(String, f32)],
    /// A head that judges pictures by themselves, with a weight.
    pub aesthetic: Option<&'a (String, f32)>,
    /// The encoder that the head is for; `None`: the first scorer.
    pub aesthetic_encoder: Option<&'a str>,
}

/// A head's value of ten is as much as a cosine of one.
const HEAD_SCALE: f32 = 0.1;

impl Judge {
    /// Loads the encoders of these names; `None` if `cancel` was set meanwhile.
    ///
    /// # Errors
    /// If one is not there, is damaged, or is none of pictures, a head does not fit, or no device can be had.
    pub fn open(
        panel: &Panel<'_>,
        wish: &str,
        args: &EncoderArgs,
        say: &dyn Fn(&str),
        note: &dyn Fn(&str),
        cancel: &AtomicBool,
    ) -> Result<Option<Self>> {
        let Panel { scorers, aesthetic, aesthetic_encoder } = *panel;
        let mut wanted: Vec<(&str, Option<f32>)> =
            scorers.iter().map(|(name, weight)| (name.as_str(), Some(*weight))).collect();
        let head_on = match aesthetic_encoder {
            Some(name) => wanted.iter().position(|(given, _)| *given == name).unwrap_or_else(|| {
                wanted.push((name, None));
                wanted.len() - 1
            }),
            None => 0,
        };
        let mut files = Vec::new();
        for (name, weight) in wanted {
            files.push((name, Self::read(name, args, say, note)?, weight));
        }
        let head = aesthetic.map(|(file, weight)| Ok::<_, anyhow::Error>((Head::open(Path::new(file))?, *weight)));
        let mut head = head.transpose()?;
        let Opened { backend, name: place, chosen, .. } = open_backend(args.backend, args.math)?;
        say(&format!("encoder on {chosen}"));
        let all: f32 = scorers.iter().map(|(_, weight)| weight).sum::<f32>() + head.as_ref().map_or(0.0, |h| h.1);
        let several = files.len() > 1 || head.is_some();
        let (mut judges, mut names) = (Vec::new(), Vec::new());
        for (i, (given, (name, files), weight)) in files.into_iter().enumerate() {
            if cancel.load(Ordering::SeqCst) {
                return Ok(None);
            }
            say(&format!("loading {name}"));
            let mut encoder = files.load(&*backend)?;
            let row = encoder.embed_texts(&[wish.to_owned()])?;
            let head = if i == head_on { head.take() } else { None };
            if let Some((head, _)) = head.as_ref().filter(|(head, _)| head.width() != row.dim()) {
                bail!(
                    "the head is for embeddings of {} numbers, and those of {name} have {}; name its encoder with \
                     --aesthetic-encoder",
                    head.width(),
                    row.dim()
                );
            }
            names.extend(weight.map(|weight| if several { format!("{name} ({weight})") } else { name.clone() }));
            let file = aesthetic.map_or("", |(file, _)| file);
            let short = Path::new(file).file_name().map_or(file.into(), |name| name.to_string_lossy());
            names.extend(head.as_ref().map(|(_, weight)| format!("{short} on {name} ({weight})")));
            let (wish, head) = (weight.map(|w| (row, w / all)), head.map(|(head, w)| (head, w / all)));
            judges.push(One { given: given.to_owned(), encoder, wish, head });
        }
        Ok(Some(Self { name: names.join(" + "), backend: place, judges }))
    }

    /// The files of an encoder of pictures, and what it is called.
    ///
    /// # Errors
    /// If it is not there, is damaged, or hears sounds.
    pub(crate) fn read(
        name: &str,
        args: &EncoderArgs,
        say: &dyn Fn(&str),
        note: &dyn Fn(&str),
    ) -> Result<(String, AnyFiles)> {
        let Model { name, folder } = Model::find(name, Modality::Image)?;
        say(&format!("reading {name}"));
        let files = AnyFiles::open_with(&folder, args.dtype.into())?;
        if !matches!(files, AnyFiles::Pictures(_)) {
            bail!("{name} is an encoder of sounds, and cannot judge pictures; name another --scorer");
        }
        if let Some(licence) = files.licence() {
            note(&format!("mils: the weights of {name} are {licence}"));
        }
        Ok((name, files))
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
        for One { encoder, wish, given, .. } in &mut self.judges {
            if let Some((row, _)) = wish {
                *row = target(encoder).with_context(|| given.clone())?;
            }
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

    /// The cosine with the wish, or the weighted mean of several encoders' cosines and of a head's tenth.
    fn verdicts(&mut self, pictures: &[RgbImage]) -> Result<Vec<Verdict>> {
        let mut verdicts = vec![Verdict::default(); pictures.len()];
        for One { encoder, wish, head, .. } in &mut self.judges {
            let rows = encoder.pictures()?.embed_images(pictures)?;
            if let Some((wish, share)) = wish {
                for (verdict, cosine) in verdicts.iter_mut().zip(wish.dots(0, &rows)) {
                    verdict.score += *share * cosine;
                }
            }
            if let Some((head, share)) = head {
                for (i, verdict) in verdicts.iter_mut().enumerate() {
                    verdict.score += *share * HEAD_SCALE * head.score(rows.row(i));
                }
            }
        }
        Ok(verdicts)
    }
}
