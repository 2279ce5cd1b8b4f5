//! `mils edit`: a picture and a style in, the picture in that style out, and the instruction that made it.
//!
//! The search is that of `mils generate`: the texts are edit instructions, a renderer carries each out on the picture, and
//! `style` judges what comes. What is wanted is two things at once, so that the search keeps instructions by fronts
//! ([`mils_optim::top_of_fronts`]).

pub mod args;
mod style;

pub use args::EditArgs;

use crate::choose;
use crate::generate::renderer::{Easel, Original};
use crate::generate::search::{Plan, Search};
use crate::generate::text_of;
use crate::interrupt::{INTERRUPTED, on_ctrl_c};
use crate::session::decimal;
use crate::trace::EditFacts;
use anyhow::{Context, Result};
use args::{By, CONTENT, VGG};
use mils_media::{DecodeLimits, RgbImage, decode_image};
use mils_models::download::hexadecimal;
use mils_models::{Editing, Modality, find_bank, read_texts};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use std::path::Path;
use std::process::ExitCode;
use std::sync::atomic::AtomicBool;
use style::{Target, by_clip, by_vgg};

/// Runs the command.
///
/// # Errors
/// If a file cannot be read, a model or the renderer fails, or the folder cannot be written.
pub fn run(args: &EditArgs) -> Result<ExitCode> {
    let picture = read(&args.content)?;
    let style = args.style.as_deref().map(read).transpose()?;
    let choice = choose::named(args.search.writer.pack.as_deref(), || Modality::Image)?;
    let cancel = on_ctrl_c()?;
    let Some(pack) = choice.with_models(args.search.quiet, &cancel)? else { return Ok(ExitCode::from(INTERRUPTED)) };
    let editing = pack.editing();
    let by = args.by(editing.by);
    let (initial, about) = beginning(args, &editing)?;
    let weights = weights(args, by);
    let target = match (&style, &args.style_text) {
        (_, Some(to)) => Target::Text { from: args.content_text.as_deref().unwrap_or(CONTENT), to },
        (Some(style), None) => Target::Picture(style),
        // The arguments' parser asks for one of them.
        (None, None) => anyhow::bail!("there is no style; give --style or --style-text"),
    };
    let named = [(pack.given().to_owned(), 1.0)];
    let scorer = args.search.scorers.first().unwrap_or(&named[0]).0.as_str();
    let vgg = args.vgg.as_deref().unwrap_or(VGG);
    let critic = |easel: &Easel, say: &dyn Fn(&str), note: &dyn Fn(&str), cancel: &AtomicBool| {
        // What was resized for the renderer: distances from it are the edit's alone.
        let content = easel.original.as_ref().map(|original| &original.picture).context("nothing is edited")?;
        let encoder = &args.search.encoder;
        match (by, target) {
            (By::Vgg, Target::Picture(style)) => by_vgg(vgg, (content, style), weights, encoder, say, cancel),
            _ => by_clip(scorer, (content, target), weights, encoder, say, note, cancel),
        }
    };
    let (folder, copy) = args.places();
    let of = |path: &Path| path.display().to_string();
    let style_name = args.style.as_deref().map(of);
    let short = |path: &Path| path.file_name().map_or_else(|| of(path), |name| name.to_string_lossy().into_owned());
    let in_style = args.style_text.clone().or(args.style.as_deref().map(short)).unwrap_or_default();
    let plan = Plan {
        wish: format!("{} in the style of {in_style}", short(&args.content)),
        about,
        prompts: editing.prompt,
        settings: editing.settings,
        initial,
        key: key(args, by, weights, [Some(&picture), style.as_ref()]),
        original: Some(Original { picture, strength: args.strength }),
        critic: &critic,
        facts: EditFacts { content: Some(of(&args.content)), style: style_name, measure: Some(measure(by, weights)) },
        copy: copy.map(Path::to_owned),
    };
    Search::go(&plan, &folder, &args.drawing, &args.search, pack, cancel)
}

fn read(path: &Path) -> Result<RgbImage> {
    decode_image(path, &DecodeLimits::default()).with_context(|| format!("cannot read {}", path.display()))
}

/// What is drawn first, and what the language model is told that is wanted.
fn beginning(args: &EditArgs, editing: &Editing) -> Result<(Vec<String>, String)> {
    let like = args.like.iter().map(|text| text_of(text)).collect::<Result<Vec<_>>>()?;
    let about = like.join("; ");
    let mut initial = like;
    if initial.is_empty() || args.initial.is_some() {
        let file = match &args.initial {
            Some(name) => find_bank(name)?,
            None => editing.initial.clone(),
        };
        let start = args.start.map_or(editing.start, |n| n as usize);
        initial.extend(read_texts(&file)?.into_iter().take(start));
    }
    Ok((initial, about))
}

/// Of style and content.
fn weights(args: &EditArgs, by: By) -> (f32, f32) {
    // The paper's.
    let style = if by == By::Vgg { 1000.0 } else { 1.0 };
    (args.style_weight.unwrap_or(style), args.content_weight.unwrap_or(1.0))
}

fn measure(by: By, (style, content): (f32, f32)) -> String {
    match by {
        By::Vgg => format!("minus {style} x the distance of the style and {content} x that of the content"),
        By::Clip => {
            format!("{style} x the cosine with the direction of the style and {content} x that with the content")
        }
    }
}

/// What makes another search. Pictures count by what is in them.
fn key(args: &EditArgs, by: By, weights: (f32, f32), pictures: [Option<&RgbImage>; 2]) -> Value {
    let digest = |picture: &RgbImage| hexadecimal(&Sha256::digest(picture.as_raw())[..16]);
    let EditArgs { style_text, content_text, vgg, like, initial, start, .. } = args;
    json!({
        "pictures": pictures.map(|picture| picture.map(digest)), "by": format!("{by:?}"), "vgg": vgg,
        "style": style_text, "content": content_text, "like": like, "initial": initial, "start": start,
        "weights": [decimal(weights.0), decimal(weights.1)],
    })
}
