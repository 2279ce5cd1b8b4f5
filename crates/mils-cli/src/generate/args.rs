//! The arguments of `mils generate`.

use crate::args::generator::GeneratorArgs;
use crate::args::{EncoderArgs, Format};
use clap::builder::NonEmptyStringValueParser;
use clap::{Args, ValueEnum};
use std::path::PathBuf;

const EXAMPLES: &str = "\
Examples:
  mils generate 'a big red car on the left, in the snow' -o car/ --pack demo
                                              (offline, in the demo's own small world)
  mils generate 'an owl that reads by candlelight' -o owl/ \\
      --renderer http://localhost:7860 --renderer-kind a1111 --size 768x768 --render-steps 20
  mils generate @wish.txt -o wish/ --renderer http://localhost:8188 --workflow flux.json
                                              (ComfyUI, with a workflow in its API format)
  mils generate 'a lighthouse in a storm' -o storm/ --renderer https://api.openai.com/v1 \\
      --renderer-model gpt-image-1 --size 1024x1024 --propose 6 --steps 3
                                              (a key is read from MILS_RENDERER_KEY, MILS_API_KEY or OPENAI_API_KEY)
  mils generate 'a lighthouse in a storm' -o storm/ --pack sd15
                                              (a local model, drawn by mils-render-worker, which
                                              `cargo xtask render-worker` installs; or without a pack of it:)
  mils generate 'a lighthouse in a storm' -o storm/ --renderer worker \\
      --renderer-arg=--model=v1-5-pruned-emaonly.safetensors --render-steps 20
  mils generate 'two cats' -o cats/ --renderer http://localhost:7860 --renderer-kind a1111 \\
      --scorer yuvalkirstain/PickScore_v1 --scorer openai/clip-vit-large-patch14=0.5 --seeds 2
  mils generate 'two cats' -o cats/ --renderer http://localhost:8188 --workflow sdxl.json \
      --aesthetic sac+logos+ava1-l14-linearMSE.safetensors=0.3 --aesthetic-encoder openai/clip-vit-large-patch14
  mils generate 'a red car' -o car/ --pack demo --format json | jq -r .prompt

Each step, the language model is shown the best prompts so far with their scores and writes new
ones; each is drawn, and its pictures are compared with what was asked for, by the pack's encoder
of pictures or by those of --scorer. With several seeds a prompt's score is the mean over its
pictures, so that it suits the wish and not one seed alone. At the end the best few prompts are
drawn with further seeds (--finals), and the best picture of all is taken.

The folder gets best.png, prompt.txt (its prompt), steps/ (each step's best), grid.png (these in
one), trace.jsonl and report.html. Killed at any moment, the same command goes on; pictures that
were drawn are kept (--memo) and not drawn again. A picture that fails is said and left out; where
the renderer is gone the run ends, and what it has is in the folder.

In a ComfyUI workflow write {{prompt}}, {{seed}}, {{width}}, {{height}}, {{steps}}, {{guidance}}
or {{negative}} where these belong, or give nodes titles as mils:prompt or mils:seed,steps,guidance.

Exit codes: 0 done, 1 the renderer or a model failed, 2 wrong usage, 130 interrupted (the best so
far is in the folder).";

/// What sort of renderer it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum RendererKind {
    /// An OpenAI-compatible server: URL/images/generations
    Openai,
    /// AUTOMATIC1111, Forge or SD.Next, started with --api
    A1111,
    /// ComfyUI, with --workflow
    Comfy,
    /// A program that speaks the protocol of workers; the renderer is its path
    Worker,
    /// The demo world's own
    Demo,
}

/// What draws, and how: of every command that has pictures made.
#[derive(Clone, Debug, Default, Args)]
pub struct RendererArgs {
    /// What draws: the address of a server, the path of a worker, `worker` for mils-render-worker, or `demo` [default: the
    /// pack's, if it has one]
    #[arg(long, value_name = "URL|PROGRAM|worker|demo", value_parser = NonEmptyStringValueParser::new())]
    pub renderer: Option<String>,

    /// What sort of renderer that is [default: comfy with --workflow, openai where the address ends with /v1]
    #[arg(long, value_enum, requires = "renderer")]
    pub renderer_kind: Option<RendererKind>,

    /// The model's name there, where it has several [default: what it draws with now]
    #[arg(long, value_name = "NAME", requires = "renderer", value_parser = NonEmptyStringValueParser::new())]
    pub renderer_model: Option<String>,

    /// What a worker is told, as --renderer-arg=--model=FILE; once for each [default: the pack's]
    #[arg(long = "renderer-arg", value_name = "ARG", allow_hyphen_values = true)]
    pub renderer_args: Vec<String>,

    /// A ComfyUI workflow, as it exports them for its API, with a place for the prompt
    #[arg(long, value_name = "FILE.json", requires = "renderer")]
    pub workflow: Option<PathBuf>,

    /// Pixels of the pictures [default: the pack's, else 512x512]
    #[arg(long, value_name = "WxH", value_parser = size)]
    pub size: Option<(u32, u32)>,

    /// Steps of the diffusion [default: the renderer's]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=1000))]
    pub render_steps: Option<u32>,

    /// Classifier-free guidance [default: the renderer's]
    #[arg(long, value_name = "SCALE", value_parser = guidance, allow_negative_numbers = true)]
    pub guidance: Option<f32>,

    /// What the pictures should not show
    #[arg(long, value_name = "TEXT", value_parser = NonEmptyStringValueParser::new())]
    pub negative: Option<String>,

    /// Pictures drawn side by side [default: 1 of a server with one model, 4 of an OpenAI-compatible one]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=64))]
    pub renders: Option<u32>,

    /// Seconds that one picture may take
    #[arg(long, value_name = "SECONDS", default_value_t = 300, value_parser = clap::value_parser!(u32).range(1..=86_400))]
    pub render_timeout: u32,

    /// Where pictures are kept that were drawn [default: `renders` in MILS_HOME]
    #[arg(long, value_name = "DIR")]
    pub memo: Option<PathBuf>,

    /// MiB of pictures that are kept there, the oldest go first; 0 keeps none
    #[arg(long, value_name = "MIB", default_value_t = 2048)]
    pub memo_size: u64,
}

/// `mils generate`.
#[derive(Clone, Debug, Args)]
#[command(after_help = EXAMPLES)]
pub struct GenerateArgs {
    /// What the picture should show; @FILE for the text in a file
    #[arg(value_name = "PROMPT|@FILE", value_parser = NonEmptyStringValueParser::new())]
    pub prompt: String,

    /// The folder for the pictures and everything else
    #[arg(long, short, value_name = "DIR")]
    pub output: PathBuf,

    /// What draws, and how.
    #[command(flatten)]
    pub drawing: RendererArgs,

    /// How the search goes.
    #[command(flatten)]
    pub search: SearchArgs,
}

/// How the search for a prompt goes: of every command that makes one.
#[derive(Clone, Debug, Args)]
pub struct SearchArgs {
    /// Begin anew, whatever is in the folder
    #[arg(long)]
    pub overwrite: bool,

    /// Which language model writes.
    #[command(flatten)]
    pub writer: GeneratorArgs,

    /// An encoder of pictures that judges them: a checkpoint folder, a pack, or ORG/NAME in the hub cache; with several,
    /// a weight after each [default: the pack's]
    #[arg(long = "scorer", value_name = "DIR|ID[=WEIGHT]", value_parser = scorer)]
    pub scorers: Vec<(String, f32)>,

    /// A head on an encoder's embeddings that judges pictures by themselves, as LAION's aesthetic predictors do: a
    /// safetensors file, with a weight beside those of the scorers; its value counts as a tenth [default weight: 1]
    #[arg(long, value_name = "FILE[=WEIGHT]", value_parser = scorer)]
    pub aesthetic: Option<(String, f32)>,

    /// The encoder that the head is for [default: the first scorer]
    #[arg(long, value_name = "DIR|ID", requires = "aesthetic", value_parser = NonEmptyStringValueParser::new())]
    pub aesthetic_encoder: Option<String>,

    /// Seed of the language model, and the first of the pictures
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub seed: u64,

    /// Pictures of each prompt, with seeds one after the other; its score is their mean
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=64))]
    pub seeds: u32,

    /// Pictures of the best prompts that are drawn at the end, with other seeds, to choose the best from [default: the
    /// pack's, else 8]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(0..=10_000))]
    pub finals: Option<u32>,

    /// Most steps; 0 only draws what it begins with [default: the pack's]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(0..=10_000))]
    pub steps: Option<u32>,

    /// Prompts that go back to the language model in each step [default: the pack's]
    #[arg(long, value_name = "K", value_parser = clap::value_parser!(u32).range(1..=10_000))]
    pub keep: Option<u32>,

    /// Prompts asked for in each step [default: the pack's]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=100_000))]
    pub propose: Option<u32>,

    /// Sampling temperature of the language model, 0 to 10 [default: the pack's]
    #[arg(long, value_name = "T", value_parser = crate::args::temperature, allow_negative_numbers = true)]
    pub temperature: Option<f32>,

    /// Where and how the encoders run.
    #[command(flatten)]
    pub encoder: EncoderArgs,

    /// How the result is printed: the prompt alone, or one JSON object
    #[arg(long, value_enum, default_value_t = Format::Text)]
    pub format: Format,

    /// Print the score table of each step even when stderr is no terminal
    #[arg(long, short, conflicts_with = "quiet")]
    pub verbose: bool,

    /// Print nothing but the result and errors
    #[arg(long, short)]
    pub quiet: bool,
}

impl RendererArgs {
    /// What can only be told of several arguments together.
    ///
    /// # Errors
    /// What is wrong, for people.
    pub fn check(&self) -> Result<(), String> {
        if self.renderer.is_some() {
            self.kind()?;
        }
        match (self.renderer_kind, &self.workflow) {
            (Some(RendererKind::Comfy), None) => Err("--renderer-kind comfy needs a --workflow".into()),
            (Some(kind), _) if kind != RendererKind::Worker && !self.renderer_args.is_empty() => {
                Err("--renderer-arg is for workers alone".into())
            }
            (Some(kind), Some(_)) if kind != RendererKind::Comfy => Err("a --workflow is for ComfyUI alone".into()),
            _ => Ok(()),
        }
    }

    /// What sort of renderer is named.
    ///
    /// # Errors
    /// If that cannot be told.
    pub(crate) fn kind(&self) -> Result<RendererKind, String> {
        let named = self.renderer.as_deref().unwrap_or_default();
        if let Some(kind) = self.renderer_kind {
            return Ok(kind);
        }
        match named.trim_end_matches('/') {
            "demo" => Ok(RendererKind::Demo),
            "worker" => Ok(RendererKind::Worker),
            _ if self.workflow.is_some() => Ok(RendererKind::Comfy),
            url if url.ends_with("/v1") => Ok(RendererKind::Openai),
            _ => Err(format!("what sort of renderer is {named}? Say it with --renderer-kind")),
        }
    }
}

impl GenerateArgs {
    /// As [`RendererArgs::check`].
    ///
    /// # Errors
    /// What is wrong, for people.
    pub fn check(&self) -> Result<(), String> {
        if self.output.as_os_str() == "-" || self.output.is_file() {
            return Err(format!("--output is a folder, and {} is none", self.output.display()));
        }
        self.drawing.check()
    }
}

fn size(text: &str) -> Result<(u32, u32), String> {
    let wrong = || format!("`{text}` is no size; expected pixels as 512x512, of 16 to 8192 a side");
    let (width, height) = text.split_once(['x', 'X']).ok_or_else(wrong)?;
    let side = |text: &str| text.parse().ok().filter(|side| mils_render::SIDES.contains(side)).ok_or_else(wrong);
    Ok((side(width)?, side(height)?))
}

fn guidance(text: &str) -> Result<f32, String> {
    let value = text.parse().ok().filter(|value: &f32| value.is_finite() && *value >= 0.0);
    value.ok_or_else(|| format!("`{text}` is no guidance; expected a number from 0"))
}

fn scorer(text: &str) -> Result<(String, f32), String> {
    let (name, weight) = match text.rsplit_once('=') {
        Some((name, weight)) => (name, weight.parse().map_err(|_| format!("`{weight}` is no weight"))?),
        None => (text, 1.0),
    };
    if name.is_empty() {
        return Err("a scorer without a name".into());
    }
    let fits = weight > 0.0 && weight <= 1e6;
    if fits { Ok((name.to_owned(), weight)) } else { Err(format!("a weight of {weight}; expected more than 0")) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::args::{Cli, Command};
    use clap::Parser;

    fn parse(more: &[&str]) -> Result<GenerateArgs, String> {
        let cli = Cli::try_parse_from(["mils", "generate", "a car", "-o", "out"].iter().chain(more));
        match cli.map_err(|e| e.to_string())?.command {
            Command::Generate(args) => args.check().map(|()| *args),
            _ => Err("another command".into()),
        }
    }

    #[test]
    fn renderers_are_told_by_what_is_given() {
        let kind = |more: &[&str]| parse(more).and_then(|args| args.drawing.kind());
        assert_eq!(kind(&["--renderer", "demo"]), Ok(RendererKind::Demo));
        assert_eq!(kind(&["--renderer", "worker", "--renderer-arg=--model=x"]), Ok(RendererKind::Worker));
        assert_eq!(kind(&["--renderer", "http://x/v1/"]), Ok(RendererKind::Openai));
        assert_eq!(kind(&["--renderer", "http://x", "--workflow", "w.json"]), Ok(RendererKind::Comfy));
        assert_eq!(kind(&["--renderer", "http://x", "--renderer-kind", "a1111"]), Ok(RendererKind::A1111));
        assert!(kind(&["--renderer", "http://x"]).unwrap_err().contains("--renderer-kind"));
        assert!(kind(&["--renderer", "http://x", "--renderer-kind", "comfy"]).unwrap_err().contains("--workflow"));
        assert!(kind(&["--renderer", "x/v1", "--renderer-kind", "openai", "--workflow", "w"]).is_err());
    }

    #[test]
    fn numbers_that_make_no_sense_are_refused() {
        for wrong in [
            ["--size", "512"],
            ["--size", "0x512"],
            ["--guidance", "-1"],
            ["--guidance", "NaN"],
            ["--scorer", "x=0"],
            ["--scorer", "=1"],
            ["--scorer", "x=y"],
            ["--seeds", "0"],
        ] {
            assert!(parse(&wrong).is_err(), "{wrong:?}");
        }
        let args = parse(&["--size", "640x512", "--scorer", "a=b=2", "--scorer", "c"]).unwrap();
        assert_eq!(args.drawing.size, Some((640, 512)));
        assert_eq!(args.search.scorers, [("a=b".to_owned(), 2.0), ("c".to_owned(), 1.0)]);
    }
}
