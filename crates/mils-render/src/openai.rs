//! OpenAI-compatible servers of pictures: OpenAI itself, LocalAI, vLLM-Omni, SGLang, stable-diffusion.cpp's server, …
//!
//! Reference: OpenAI's API reference, "Create image" and "Create image edit".

use crate::server::Server;
use crate::{Abilities, Job, RenderError, Renderer, ServerOptions, picture};
use image::RgbImage;
use mils_http::Words;
use mils_http::ureq::unversioned::multipart::{Form, Part};
use serde::{Deserialize, Serialize};

/// A server that speaks OpenAI's API for pictures. Seeds, steps and guidance are not part of that.
pub struct OpenAi {
    server: Server,
    model: Option<String>,
}

#[derive(Serialize)]
struct Question<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    model: Option<&'a str>,
    prompt: &'a str,
    n: u32,
    size: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    response_format: Option<&'static str>,
}

#[derive(Deserialize)]
struct Answer {
    data: Vec<Made>,
}

#[derive(Deserialize)]
struct Made {
    b64_json: Option<String>,
    url: Option<String>,
}

#[derive(Deserialize)]
struct Models {
    data: Vec<Model>,
}

#[derive(Deserialize)]
struct Model {
    id: String,
}

impl OpenAi {
    /// Finds out whether it is there, and which model it has if none is named. Of several, the server takes its own.
    ///
    /// # Errors
    /// If an option makes no sense, or nobody answers.
    pub fn open(options: &ServerOptions) -> Result<Self, RenderError> {
        let words = Words {
            server: "an OpenAI-compatible server of pictures",
            key: "set MILS_RENDERER_KEY, MILS_API_KEY or OPENAI_API_KEY",
            ..Words::default()
        };
        let server = Server::new(options, words)?;
        let model = match &options.model {
            Some(model) => Some(model.clone()),
            None => match server.look::<Models>("models") {
                Ok(models) if models.data.len() == 1 => models.data.into_iter().next().map(|model| model.id),
                // Not every server lists its models.
                Ok(_) | Err(RenderError::Status { status: 404 | 405, .. } | RenderError::Protocol { .. }) => None,
                Err(error) => return Err(error),
            },
        };
        Ok(Self { server, model })
    }

    /// OpenAI's own newer models give base64 always and refuse to be asked for it.
    fn response_format(&self) -> Option<&'static str> {
        let own = self.model.as_ref().is_some_and(|model| model.starts_with("gpt-image"));
        (!own).then_some("b64_json")
    }

    fn edit(&self, job: &Job<'_>, source: &RgbImage) -> Result<Answer, RenderError> {
        let (png, size) = (picture::to_png(source)?, format!("{}x{}", job.width, job.height));
        self.server.json(&|| {
            let part = Part::bytes(&png).file_name("source.png").mime_str("image/png")?;
            let mut form =
                Form::new().text("prompt", job.prompt).text("n", "1").text("size", &size).part("image", part);
            if let Some(model) = &self.model {
                form = form.text("model", model);
            }
            if let Some(format) = self.response_format() {
                form = form.text("response_format", format);
            }
            self.server.client().post(&self.server.url("images/edits")).send(form)
        })
    }
}

impl Renderer for OpenAi {
    fn identity(&self) -> String {
        format!("openai {} {}", self.server.base(), self.model.as_deref().unwrap_or("its own model"))
    }

    fn abilities(&self) -> Abilities {
        Abilities { generates: true, edits: true, size: true, ..Abilities::default() }
    }

    fn render(&self, job: &Job<'_>) -> Result<RgbImage, RenderError> {
        self.abilities().check(job)?;
        let answer: Answer = match job.source {
            Some(source) => self.edit(job, source.image)?,
            None => {
                let question = Question {
                    model: self.model.as_deref(),
                    prompt: job.prompt,
                    n: 1,
                    size: format!("{}x{}", job.width, job.height),
                    response_format: self.response_format(),
                };
                let url = self.server.url("images/generations");
                self.server.json(&|| self.server.client().post(&url).send_json(&question))?
            }
        };
        let made = answer.data.into_iter().next().ok_or_else(|| self.server.failed("no picture in the answer"))?;
        let image = match made {
            Made { b64_json: Some(data), .. } => picture::decode_base64(&data)?,
            Made { url: Some(url), .. } if url.starts_with("data:") => picture::decode_base64(&url)?,
            Made { url: Some(url), .. } => {
                let url = self.server.absolute(&url);
                picture::decode(&self.server.bytes(&|| self.server.client().get_elsewhere(&url).call())?)?
            }
            Made { b64_json: None, url: None } => return Err(self.server.protocol("neither b64_json nor url in it")),
        };
        picture::checked(image, job)
    }
}
