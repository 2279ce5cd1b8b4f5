//! CLIPScore: captions judged by an encoder that sees what they describe.

use crate::args::{EncoderArgs, ModelArgs};
use crate::inputs::{Ahead, Files, leading};
use crate::media::ModalityChoice;
use crate::model::Model;
use crate::progress::Progress;
use crate::show::one_line;
use crate::sources;
use anyhow::{Result, anyhow, bail};
use mils_eval::clipscore::{PREFIX, clip_score, ref_clip_score};
use mils_eval::evaluate::{Corpus, Series, some};
use mils_eval::read::files_of;
use mils_models::Modality;
use serde_json::{Value, json};
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicBool;

/// Items whose texts are embedded together.
const ITEMS: usize = 64;
/// The encoder that the paper's numbers are of.
const PAPERS: &str = "clip-vit-base-patch32";

/// An encoder, and what it saw of each item.
pub(super) struct Sight {
    model: Model,
    prefix: &'static str,
    /// Of each item its embedding, or why there is none.
    rows: Vec<Result<Vec<f32>, String>>,
}

/// What came of it; a series is taken once.
pub(super) struct ClipScores {
    pub(super) clip: Option<Series>,
    pub(super) with_references: Option<Series>,
}

/// The file of each item in a folder; what failed needs none.
///
/// # Errors
/// If one is missing, or there are two.
pub(super) fn find(corpus: &Corpus, folder: &Path, progress: &Progress) -> Result<Vec<Option<PathBuf>>> {
    progress.say("looking for the pictures");
    let found = sources::find(&[folder.to_owned()], true)?;
    if let Some(error) = found.unread.into_iter().next() {
        return Err(error);
    }
    let files = files_of(&corpus.ids, folder, &found.files)?;
    let lacks = |at: &usize| files[*at].is_none() && corpus.errors[*at].is_none();
    let missing: Vec<String> = (0..files.len()).filter(lacks).map(|at| format!("`{}`", corpus.ids[at])).collect();
    if !missing.is_empty() {
        bail!(
            "{} items have no file in {} (by its name, its stem, or the number at the stem's end): {}",
            missing.len(),
            folder.display(),
            some(&missing)
        );
    }
    Ok(files)
}

impl Sight {
    /// Loads the encoder and embeds these files.
    ///
    /// # Errors
    /// If it cannot be loaded, or the device fails.
    pub(super) fn open(
        scorer: Option<&str>,
        encoder: &EncoderArgs,
        files: &[Option<PathBuf>],
        modality: ModalityChoice,
        progress: &Progress,
    ) -> Result<Self> {
        let Some(scorer) = scorer else {
            bail!("CLIPScore needs an encoder: name one with --scorer (the paper's is openai/{PAPERS})");
        };
        let there: Vec<PathBuf> = files.iter().flatten().cloned().collect();
        let modality = leading(modality, &there);
        let args = ModelArgs { model: scorer.to_owned(), encoder: *encoder };
        // Nothing has been made yet that an interruption could lose: Ctrl-C ends the process.
        let go_on = AtomicBool::new(false);
        let Some(mut model) = Model::open(&args, modality, progress, &go_on)? else { bail!("cancelled") };
        let prefix = if modality == Modality::Sound { "" } else { PREFIX };
        let mut rows = Vec::with_capacity(there.len());
        let total = there.len();
        let mut files_read = Ahead::of(Files::new(there, modality.into(), model.senses()));
        while let Some(batch) = files_read.next(&go_on)? {
            let (names, media): (Vec<PathBuf>, Vec<_>) = batch.into_iter().map(|read| (read.file, read.media)).unzip();
            let embedded = model.media(media)?.into_iter().zip(names);
            rows.extend(embedded.map(|(row, file)| row.map_err(|e| format!("{}: {}", file.display(), one_line(&e)))));
            progress.say(&format!("{} of {total} files embedded", rows.len()));
        }
        let mut rows = rows.into_iter();
        let none = || Err("it has no file".to_owned());
        let rows = files.iter().map(|file| file.as_ref().and_then(|_| rows.next()).unwrap_or_else(none)).collect();
        Ok(Self { model, prefix, rows })
    }

    /// What results say of it.
    pub(super) fn settings(&self) -> Value {
        json!({"scorer": self.model.name, "prefix": self.prefix})
    }

    /// What is good to know.
    pub(super) fn note(&self) -> Option<String> {
        let name = &self.model.name;
        (!name.contains(PAPERS)).then(|| format!("CLIPScore by {name}; published ones are of openai/{PAPERS}"))
    }

    /// CLIPScore of each caption, and RefCLIPScore if it is asked for; what failed has 0.
    ///
    /// # Errors
    /// If a caption or a file cannot be embedded, or the device fails.
    pub(super) fn scores(&mut self, corpus: &Corpus, references: bool, progress: &Progress) -> Result<ClipScores> {
        let all = corpus.ids.len();
        let (mut clip, mut with) = (vec![0.0; all], vec![0.0; all]);
        let usable: Vec<usize> = (0..all).filter(|at| corpus.errors[*at].is_none()).collect();
        for items in usable.chunks(ITEMS) {
            let mut texts = Vec::new();
            for at in items {
                let own = if references { &corpus.references[*at][..] } else { &[] };
                texts.extend([&corpus.candidates[*at]].into_iter().chain(own).map(|t| format!("{}{t}", self.prefix)));
            }
            let mut rows = self.model.texts(&texts)?.into_iter();
            for at in items {
                let place = |e: &dyn std::fmt::Display| anyhow!("item `{}`: {e}", corpus.ids[*at]);
                let seen = self.rows[*at].as_ref().map_err(|e| place(e))?;
                let count = if references { corpus.references[*at].len() } else { 0 };
                let texts: Vec<Vec<f32>> =
                    rows.by_ref().take(count + 1).collect::<Result<_>>().map_err(|e| place(&one_line(&e)))?;
                let Some((caption, references)) = texts.split_first() else {
                    bail!(place(&"its embedding is missing"))
                };
                clip[*at] = clip_score(seen, caption).map_err(|e| place(&e))?;
                with[*at] =
                    ref_clip_score(clip[*at], caption, references.iter().map(Vec::as_slice)).map_err(|e| place(&e))?;
            }
            progress.say(&format!("{} of {all} captions compared", items.last().map_or(0, |at| at + 1)));
        }
        let with_references = references.then(|| Series::mean("refclipscore", with));
        Ok(ClipScores { clip: Some(Series::mean("clipscore", clip)), with_references })
    }
}
