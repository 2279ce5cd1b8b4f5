//! The arguments: which model, and how it draws.

use clap::{Parser, ValueEnum};
use std::path::PathBuf;

const EXAMPLES: &str = "\
Examples (mils passes on what stands after --renderer-arg):
  mils generate 'an owl that reads' -o owl/ --renderer worker --renderer-arg=--model=sd-v1-5.safetensors
  mils generate 'an owl that reads' -o owl/ --renderer worker --size 1024x1024 \\
      --renderer-arg=--diffusion-model=flux1-schnell-Q4_K.gguf --renderer-arg=--vae=ae.safetensors \\
      --renderer-arg=--clip-l=clip_l.safetensors --renderer-arg=--t5xxl=t5xxl_fp16.safetensors \\
      --renderer-arg=--steps=4 --renderer-arg=--guidance=1

Models are safetensors, GGUF and ckpt files that stable-diffusion.cpp reads. SD 1.x, 2.x, SDXL and their
turbo forms are one file (--model); FLUX, SD 3 and others are a diffusion model with a VAE and text
encoders of their own. Turbo and schnell models want few steps (1 to 4) and a guidance of 1.

Exit codes: 0 its input has ended, 1 the model cannot be loaded or the input is no frame, 2 wrong usage.";

/// How pictures are edited.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Edits {
    /// The picture with noise, drawn anew: any model; --strength says how much noise
    Img2img,
    /// Beside the prompt: models that follow instructions, as InstructPix2Pix, FLUX Kontext and Qwen Image Edit
    Reference,
    /// Not at all
    None,
}

/// Draws pictures with stable-diffusion.cpp for `mils generate` and others that speak the protocol of MILS's workers.
#[derive(Clone, Debug, Parser)]
#[command(name = "mils-render-worker", version, after_help = EXAMPLES)]
pub(crate) struct Args {
    /// A model that is one file
    #[arg(long, value_name = "FILE", required_unless_present = "diffusion_model")]
    pub(crate) model: Option<PathBuf>,

    /// A diffusion model without its VAE and text encoders
    #[arg(long, value_name = "FILE", conflicts_with = "model")]
    pub(crate) diffusion_model: Option<PathBuf>,

    /// The VAE [default: the model's own]
    #[arg(long, value_name = "FILE")]
    pub(crate) vae: Option<PathBuf>,

    /// A tiny autoencoder in place of the VAE: faster and coarser
    #[arg(long, value_name = "FILE")]
    pub(crate) taesd: Option<PathBuf>,

    /// The text encoder CLIP-L
    #[arg(long, value_name = "FILE")]
    pub(crate) clip_l: Option<PathBuf>,

    /// The text encoder CLIP-G
    #[arg(long, value_name = "FILE")]
    pub(crate) clip_g: Option<PathBuf>,

    /// The text encoder T5-XXL
    #[arg(long, value_name = "FILE")]
    pub t5xxl: Option<PathBuf>,

    /// The language model that encodes texts, as of Qwen Image
    #[arg(long, value_name = "FILE")]
    pub(crate) llm: Option<PathBuf>,

    /// The part of it that sees, for edits
    #[arg(long, value_name = "FILE")]
    pub(crate) llm_vision: Option<PathBuf>,

    /// Steps of the diffusion where a job says nothing
    #[arg(long, value_name = "N", default_value_t = 20, value_parser = clap::value_parser!(u32).range(1..=1000))]
    pub(crate) steps: u32,

    /// Classifier-free guidance where a job says nothing; 1 is none
    #[arg(long, value_name = "SCALE", default_value_t = 7.0, value_parser = scale)]
    pub(crate) guidance: f32,

    /// The guidance is distilled into the model (FLUX.1 dev, Kontext): that is what jobs set, and there is no other
    #[arg(long)]
    pub(crate) distilled: bool,

    /// How far edits may go from the picture where a job says nothing, 0 to 1
    #[arg(long, value_name = "STRENGTH", default_value_t = 0.75, value_parser = share)]
    pub(crate) strength: f32,

    /// Guidance by the picture that is edited, of models that have it (InstructPix2Pix: 1.5) [default: none]
    #[arg(long, value_name = "SCALE", value_parser = scale)]
    pub(crate) image_guidance: Option<f32>,

    /// How pictures are edited
    #[arg(long, value_enum, default_value_t = Edits::Img2img)]
    pub(crate) edits: Edits,

    /// The sampler: euler, euler_a, heun, dpm++2m, lcm, … [default: what suits the model]
    #[arg(long, value_name = "NAME")]
    pub(crate) sampler: Option<String>,

    /// The schedule of noise: discrete, karras, exponential, simple, … [default: what suits the model]
    #[arg(long, value_name = "NAME")]
    pub(crate) scheduler: Option<String>,

    /// What weights are held in: f16, q8_0, q4_K, … [default: as in the file]
    #[arg(long, value_name = "TYPE")]
    pub(crate) r#type: Option<String>,

    /// Flash attention in the diffusion model: less memory
    #[arg(long)]
    pub(crate) flash_attention: bool,

    /// Decode in tiles: less memory for large pictures
    #[arg(long)]
    pub(crate) vae_tiling: bool,

    /// Map the files in place of reading them
    #[arg(long)]
    pub(crate) mmap: bool,

    /// Threads [default: one a core]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=1024))]
    pub(crate) threads: Option<u16>,

    /// Say all that stable-diffusion.cpp says
    #[arg(long, short)]
    pub(crate) verbose: bool,
}

impl Args {
    /// The model's files with their arguments' names.
    pub(crate) fn files(&self) -> impl Iterator<Item = (&'static str, &PathBuf)> {
        let all = [
            ("--model", &self.model),
            ("--diffusion-model", &self.diffusion_model),
            ("--vae", &self.vae),
            ("--taesd", &self.taesd),
            ("--clip-l", &self.clip_l),
            ("--clip-g", &self.clip_g),
            ("--t5xxl", &self.t5xxl),
            ("--llm", &self.llm),
            ("--llm-vision", &self.llm_vision),
        ];
        all.into_iter().filter_map(|(name, path)| Some((name, path.as_ref()?)))
    }
}

fn number(text: &str, most: f32) -> Result<f32, String> {
    let value = text.parse().ok().filter(|value: &f32| (0.0..=most).contains(value));
    value.ok_or_else(|| format!("`{text}` is no number from 0 to {most}"))
}

fn scale(text: &str) -> Result<f32, String> {
    number(text, 1000.0)
}

fn share(text: &str) -> Result<f32, String> {
    number(text, 1.0)
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn a_model_is_one_file_or_a_diffusion_model() {
        Args::command().debug_assert();
        let parse = |more: &[&str]| Args::try_parse_from(["worker"].iter().chain(more));
        assert!(parse(&[]).is_err() && parse(&["--model", "a", "--diffusion-model", "b"]).is_err());
        let args = parse(&["--diffusion-model", "a", "--vae=b", "--steps=4"]).unwrap();
        let names: Vec<_> = args.files().map(|(name, _)| name).collect();
        assert_eq!((names, args.steps), (vec!["--diffusion-model", "--vae"], 4));
        for wrong in [["--guidance", "NaN"], ["--strength", "2"], ["--steps", "0"]] {
            assert!(parse(&[&["--model", "a"][..], &wrong].concat()).is_err(), "{wrong:?}");
        }
    }
}
