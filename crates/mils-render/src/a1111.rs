//! AUTOMATIC1111's web UI, and Forge and SD.Next, which speak the same.
//!
//! Reference: the web UI's own description of its API (`/docs` of a server that was started with `--api`).

use crate::server::Server;
use crate::{Abilities, Job, RenderError, Renderer, ServerOptions, picture};
use image::RgbImage;
use mils_http::Words;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

/// A server that speaks AUTOMATIC1111's API.
pub struct Automatic {
    server: Server,
    /// The checkpoint that draws.
    checkpoint: String,
    /// Asked for with every picture, where it was named.
    wanted: Option<String>,
}

#[derive(Serialize)]
struct Question<'a> {
    prompt: &'a str,
    negative_prompt: &'a str,
    seed: u64,
    width: u32,
    height: u32,
    batch_size: u32,
    n_iter: u32,
    #[serde(skip_serializing_if = "Option::is_none")]
    steps: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    cfg_scale: Option<f32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    override_settings: Option<Value>,
    #[serde(skip_serializing_if = "Option::is_none")]
    init_images: Option<[String; 1]>,
    #[serde(skip_serializing_if = "Option::is_none")]
    denoising_strength: Option<f32>,
}

#[derive(Deserialize)]
struct Answer {
    images: Option<Vec<String>>,
}

impl Automatic {
    /// Finds out whether it is there, and which checkpoint it draws with.
    ///
    /// # Errors
    /// If an option makes no sense, or nobody answers, or not in this way.
    pub fn open(options: &ServerOptions) -> Result<Self, RenderError> {
        let words = Words {
            server: "AUTOMATIC1111's API",
            key: "set MILS_RENDERER_KEY",
            path: "there is no /sdapi/v1 here; was the server started with --api?",
        };
        let server = Server::new(options, words)?;
        let settings: Value = server.look("sdapi/v1/options")?;
        let current = settings["sd_model_checkpoint"].as_str().unwrap_or("its own model");
        let checkpoint = options.model.as_deref().unwrap_or(current).to_owned();
        Ok(Self { server, checkpoint, wanted: options.model.clone() })
    }
}

impl Renderer for Automatic {
    fn identity(&self) -> String {
        format!("a1111 {} {}", self.server.base(), self.checkpoint)
    }

    fn abilities(&self) -> Abilities {
        Abilities {
            generates: true,
            edits: true,
            seed: true,
            size: true,
            steps: true,
            guidance: true,
            negative: true,
            strength: true,
        }
    }

    fn render(&self, job: &Job<'_>) -> Result<RgbImage, RenderError> {
        self.abilities().check(job)?;
        let question = Question {
            prompt: job.prompt,
            negative_prompt: job.negative.unwrap_or_default(),
            // It knows 32 bits, of which -1 is another's choice.
            seed: job.seed & u64::from(u32::MAX >> 1),
            width: job.width,
            height: job.height,
            batch_size: 1,
            n_iter: 1,
            steps: job.steps,
            cfg_scale: job.guidance,
            override_settings: self.wanted.as_ref().map(|model| json!({ "sd_model_checkpoint": model })),
            init_images: job.source.map(|source| picture::to_base64(source.image)).transpose()?.map(|data| [data]),
            denoising_strength: job.source.and_then(|source| source.strength),
        };
        let url = self.server.url(if job.source.is_some() { "sdapi/v1/img2img" } else { "sdapi/v1/txt2img" });
        let answer: Answer = self.server.json(&|| self.server.client().post(&url).send_json(&question))?;
        let images = answer.images.ok_or_else(|| self.server.protocol("an answer without `images`"))?;
        // What comes after the first are the inputs of its extensions.
        let first = images.first().ok_or_else(|| self.server.failed("no picture in the answer"))?;
        picture::checked(picture::decode_base64(first)?, job)
    }
}
