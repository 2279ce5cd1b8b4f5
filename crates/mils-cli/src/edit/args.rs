//! The arguments of `mils edit`.

use crate::generate::args::{RendererArgs, SearchArgs};
use clap::builder::NonEmptyStringValueParser;
use clap::{Args, ValueEnum};
use mils_models::StyleBy;
use std::path::{Path, PathBuf};

/// The VGG that is looked for where none is named.
pub const VGG: &str = "timm/vgg19.tv_in1k";
/// What a photograph is called where a style is given in words.
pub const CONTENT: &str = "a photo";

const EXAMPLES: &str = "\
Examples:
  mils edit beach.jpg --style starry.jpg -o starry-beach.png \\
      --renderer http://localhost:7860 --renderer-kind a1111 --strength 0.6
  mils edit portrait.jpg --style woodcut.png -o woodcut/ --renderer http://localhost:8188 --workflow edit.json \\
      --instruction-like 'make it a woodcut with rough black lines'
                                              (begins with these words in place of the project's instructions)
  mils edit street.jpg --style-text 'a watercolour painting' -o watercolour.png --by clip \\
      --renderer https://api.openai.com/v1 --renderer-model gpt-image-1 --start 10 --propose 6 --steps 3
  mils edit beach.jpg --style starry.jpg -o strong.png --style-weight 5000 --content-weight 0.5 \\
      --renderer http://localhost:7860 --renderer-kind a1111
  mils edit models/demo/samples/3-castles.png --style models/demo/samples/4-clock.png -o out/ --pack demo
                                              (offline; the demo's renderer knows a few words of editing)

Each step, the language model is shown the best edit instructions so far with their scores and writes
new ones; the renderer carries each out on CONTENT. Two things are wanted of a result, that its style
comes near to STYLE's and that what CONTENT shows stays; an instruction that another beats in both
goes before those that none does, and within these the weighted sum decides.

--by vgg compares as the paper does: style is the distance of Gram matrices of VGG19's first five
convolutions, content that of the fourth (`mils models get timm/vgg19.tv_in1k` fetches it, 575 MB,
BSD-3-Clause). --by clip needs no VGG: style is how well the picture moves, in the embedding of the
pack's encoder or --scorer's, in the direction from CONTENT to STYLE (with --style-text from \"a photo\"
to the text); content is the cosine with CONTENT.

The language model begins with instructions of the project's own; --initial names others, one a line.
With -o FILE.png the picture is put there, and everything else into FILE.search/; otherwise all goes
into the folder, as that of `mils generate`. Killed at any moment, the same command goes on.

Exit codes: 0 done, 1 a file, the renderer or a model failed, 2 wrong usage, 130 interrupted (the best
so far is in the folder).";

/// `mils edit`.
#[derive(Clone, Debug, Args)]
#[command(after_help = EXAMPLES)]
#[group(skip)]
pub struct EditArgs {
    /// The picture that is edited
    #[arg(value_name = "CONTENT")]
    pub content: PathBuf,

    /// A picture that has the style
    #[arg(long, value_name = "FILE", required_unless_present = "style_text", conflicts_with = "style_text")]
    pub style: Option<PathBuf>,

    /// The style in words: what the result should be, as "an oil painting"; judged by CLIP
    #[arg(long, value_name = "TEXT", value_parser = NonEmptyStringValueParser::new())]
    pub style_text: Option<String>,

    /// What CONTENT is, in the same words [default: a photo]
    #[arg(long, value_name = "TEXT", value_parser = NonEmptyStringValueParser::new())]
    pub content_text: Option<String>,

    /// What compares styles [default: the pack's, else vgg; clip with --style-text]
    #[arg(long, value_enum)]
    pub by: Option<By>,

    /// The VGG: a checkpoint folder, or ORG/NAME in the hub cache [default: timm/vgg19.tv_in1k]
    #[arg(long, value_name = "DIR|ID", value_parser = NonEmptyStringValueParser::new())]
    pub vgg: Option<String>,

    /// How much the style counts; 0 leaves it out [default: 1000 by vgg, 1 by clip]
    #[arg(long, value_name = "W", value_parser = weight, allow_negative_numbers = true)]
    pub style_weight: Option<f32>,

    /// How much it counts that what is shown stays; 0 leaves it out [default: 1]
    #[arg(long, value_name = "W", value_parser = weight, allow_negative_numbers = true)]
    pub content_weight: Option<f32>,

    /// Begin with these words, and tell the language model that they are what is wanted; can be given several times
    #[arg(long = "instruction-like", value_name = "TEXT", value_parser = NonEmptyStringValueParser::new())]
    pub like: Vec<String>,

    /// Begin with the instructions of this set, a name or a file with one a line [default: the pack's, else `edit`; none
    /// with --instruction-like]
    #[arg(long, value_name = "NAME|FILE", value_parser = NonEmptyStringValueParser::new())]
    pub initial: Option<String>,

    /// How many of them are drawn before the language model is asked, from the first [default: the pack's, else 100]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=100_000))]
    pub start: Option<u32>,

    /// How far results may be from CONTENT, 0 to 1, where the renderer takes that (img2img's denoising strength)
    #[arg(long, value_name = "S", value_parser = strength, allow_negative_numbers = true)]
    pub strength: Option<f32>,

    /// The picture's file (.png, .jpg, .webp), or a folder for it and everything else
    #[arg(long, short, value_name = "FILE|DIR")]
    pub output: PathBuf,

    /// What draws, and how.
    #[command(flatten)]
    pub drawing: RendererArgs,

    /// How the search goes.
    #[command(flatten)]
    pub search: SearchArgs,
}

/// What compares styles.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum By {
    /// Gram matrices of VGG19, as the paper
    Vgg,
    /// The direction in which embeddings move
    Clip,
}

impl From<StyleBy> for By {
    fn from(by: StyleBy) -> Self {
        match by {
            StyleBy::Vgg => Self::Vgg,
            StyleBy::Clip => Self::Clip,
        }
    }
}

impl EditArgs {
    /// What can only be told of several arguments together.
    ///
    /// # Errors
    /// What is wrong, for people.
    pub fn check(&self) -> Result<(), String> {
        if self.output.as_os_str() == "-" {
            return Err("--output is a file or a folder; a picture is not written to standard output".into());
        }
        let (folder, picture) = self.places();
        if folder.is_file() {
            return Err(format!("{} is a file; everything but the picture goes into a folder", folder.display()));
        }
        if let Some(picture) = picture.filter(|picture| picture.is_dir()) {
            return Err(format!("{} is a folder", picture.display()));
        }
        if self.by == Some(By::Vgg) && self.style_text.is_some() {
            return Err("VGG compares pictures and knows no words; leave --by out, or give --style FILE".into());
        }
        if self.content_text.is_some() && self.style_text.is_none() {
            return Err("--content-text is for --style-text".into());
        }
        let by_vgg = self.by == Some(By::Vgg) || self.vgg.is_some();
        if by_vgg && !self.search.scorers.is_empty() {
            return Err("--scorer is for --by clip".into());
        }
        if self.vgg.is_some() && (self.by == Some(By::Clip) || self.style_text.is_some()) {
            return Err("--vgg is for --by vgg".into());
        }
        if self.search.scorers.len() > 1 {
            return Err("edits are judged by one --scorer".into());
        }
        if self.search.aesthetic.is_some() {
            return Err("--aesthetic is for `mils generate` and `mils blend`".into());
        }
        if self.style_weight == Some(0.0) && self.content_weight == Some(0.0) {
            return Err("with both weights 0 nothing is wanted".into());
        }
        self.drawing.check()
    }

    /// What compares styles, where the pack may say.
    pub(super) fn by(&self, pack: Option<StyleBy>) -> By {
        match self.by {
            Some(by) => by,
            None if self.style_text.is_some() || !self.search.scorers.is_empty() => By::Clip,
            None if self.vgg.is_some() => By::Vgg,
            None => pack.map_or(By::Vgg, By::from),
        }
    }

    /// The folder, and the picture's file where one is named.
    pub(super) fn places(&self) -> (PathBuf, Option<&Path>) {
        let extension = self.output.extension().map(|e| e.to_string_lossy().to_lowercase());
        let picture = extension.is_some_and(|e| ["png", "jpg", "jpeg", "webp"].contains(&e.as_str()));
        if picture { (self.output.with_extension("search"), Some(&self.output)) } else { (self.output.clone(), None) }
    }
}

fn weight(text: &str) -> Result<f32, String> {
    let value = text.parse().ok().filter(|value: &f32| (0.0..=1e9).contains(value));
    value.ok_or_else(|| format!("`{text}` is no weight; expected a number from 0"))
}

fn strength(text: &str) -> Result<f32, String> {
    let value = text.parse().ok().filter(|value: &f32| (0.0..=1.0).contains(value));
    value.ok_or_else(|| format!("`{text}` is no strength; expected 0 to 1"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::args::{Cli, Command};
    use clap::Parser;

    fn parse(more: &[&str]) -> Result<EditArgs, String> {
        let cli = Cli::try_parse_from(["mils", "edit", "a.jpg"].iter().chain(more));
        match cli.map_err(|e| e.to_string())?.command {
            Command::Edit(args) => args.check().map(|()| *args),
            _ => Err("another command".into()),
        }
    }

    #[test]
    fn a_picture_or_a_folder_is_told_by_its_name() {
        let places = |output: &str| {
            let args = parse(&["--style", "s.png", "-o", output]).unwrap();
            let (folder, picture) = args.places();
            (folder.display().to_string(), picture.map(|p| p.display().to_string()))
        };
        assert_eq!(places("x/out.PNG"), ("x/out.search".into(), Some("x/out.PNG".into())));
        assert_eq!(places("out"), ("out".into(), None));
        assert_eq!(places("v1.2"), ("v1.2".into(), None));
    }

    #[test]
    fn what_judges_follows_from_what_is_given() {
        let by = |more: &[&str]| parse(&[more, &["-o", "out"]].concat()).map(|args| args.by(Some(StyleBy::Vgg)));
        assert_eq!(by(&["--style", "s.png"]), Ok(By::Vgg));
        assert_eq!(by(&["--style", "s.png", "--scorer", "x/y"]), Ok(By::Clip));
        assert_eq!(by(&["--style-text", "an etching"]), Ok(By::Clip));
        assert_eq!(by(&["--style", "s.png", "--vgg", "x"]), Ok(By::Vgg));
        for (wrong, says) in [
            (&[][..], "--style"),
            (&["--style", "s", "--style-text", "t"], "cannot be used"),
            (&["--style-text", "t", "--by", "vgg"], "knows no words"),
            (&["--style", "s", "--content-text", "t"], "--content-text is for"),
            (&["--style", "s", "--by", "clip", "--vgg", "x"], "--vgg is for"),
            (&["--style", "s", "--vgg", "x", "--scorer", "y"], "--scorer is for"),
            (&["--style", "s", "--style-weight", "0", "--content-weight", "0"], "nothing is wanted"),
            (&["--style", "s", "--aesthetic", "a.safetensors"], "--aesthetic is for"),
            (&["--style", "s", "--style-weight", "-1"], "no weight"),
            (&["--style", "s", "--strength", "1.5"], "no strength"),
        ] {
            let error = by(wrong).unwrap_err();
            assert!(error.contains(says), "{wrong:?}: {error}");
        }
    }
}
