//! ComfyUI: a workflow is queued, its end is waited for, and its picture fetched.
//!
//! Reference: ComfyUI's `server.py` and its example `script_examples/basic_api_example.py` (routes `/prompt`, `/history`,
//! `/view`, `/upload/image`, `/queue`, `/interrupt`).

use crate::server::Server;
use crate::{Abilities, Job, RenderError, Renderer, ServerOptions, Workflow, picture};
use image::RgbImage;
use mils_http::Words;
use mils_http::ureq::unversioned::multipart::{Form, Part};
use serde::Deserialize;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use std::fmt::Write;
use std::time::{Duration, Instant};

/// The first pause before the history is looked at again, and the longest.
const PAUSES: (Duration, Duration) = (Duration::from_millis(50), Duration::from_secs(1));
/// How often a pause is looked up from.
const GLANCE: Duration = Duration::from_millis(50);

/// A ComfyUI server with a workflow.
pub struct Comfy {
    server: Server,
    workflow: Workflow,
    /// How long a picture may take, with its waiting in the queue.
    timeout: Duration,
}

#[derive(Deserialize)]
struct Queued {
    prompt_id: String,
}

#[derive(Deserialize)]
struct Uploaded {
    name: String,
    #[serde(default)]
    subfolder: String,
}

impl Comfy {
    /// Finds out whether it is there.
    ///
    /// # Errors
    /// If an option makes no sense, or nobody answers, or not in this way.
    pub fn open(options: &ServerOptions, workflow: Workflow) -> Result<Self, RenderError> {
        if options.model.is_some() {
            return Err(RenderError::Option("ComfyUI's model is named in the workflow; change it there".into()));
        }
        let words = Words {
            server: "ComfyUI",
            key: "set MILS_RENDERER_KEY",
            path: "there is no such path; the address is ComfyUI's own, without anything behind it",
        };
        let server = Server::new(options, words)?;
        let stats: Value = server.look("system_stats")?;
        if !stats["system"].is_object() {
            return Err(server.protocol("no `system` in /system_stats"));
        }
        Ok(Self { server, workflow, timeout: options.timeout })
    }

    fn upload(&self, source: &RgbImage) -> Result<String, RenderError> {
        let png = picture::to_png(source)?;
        // The same picture has the same name, so that runs do not fill the server's folder.
        let name = format!("mils-{}.png", &hex(&Sha256::digest(&png))[..16]);
        let url = self.server.url("upload/image");
        let uploaded: Uploaded = self.server.json(&|| {
            let part = Part::bytes(&png).file_name(&name).mime_str("image/png")?;
            self.server.client().post(&url).send(Form::new().text("overwrite", "true").part("image", part))
        })?;
        let Uploaded { name, subfolder } = uploaded;
        Ok(if subfolder.is_empty() { name } else { format!("{subfolder}/{name}") })
    }

    /// Waits for the end of what was queued, and gives its entry in the history.
    fn wait(&self, id: &str) -> Result<Value, RenderError> {
        let (begin, mut pause) = (Instant::now(), PAUSES.0);
        loop {
            let mut history: Value = self.server.json(&|| {
                let url = self.server.url(&format!("history/{id}"));
                self.server.client().get(&url).call()
            })?;
            if let Some(entry) = history.get_mut(id) {
                let status = &entry["status"];
                // Servers from before there was a status have an entry only of what has ended.
                let ended = status.is_null() || status["completed"] == true || status["status_str"] == "error";
                if ended {
                    return Ok(entry.take());
                }
            }
            let end = Instant::now() + pause;
            while Instant::now() < end && !self.server.cancelled() {
                std::thread::sleep(GLANCE.min(end.saturating_duration_since(Instant::now())));
            }
            if self.server.cancelled() {
                self.give_up(id);
                return Err(RenderError::Cancelled);
            }
            if begin.elapsed() >= self.timeout {
                self.give_up(id);
                let problem = format!("no picture in {} s.", self.timeout.as_secs_f32());
                return Err(RenderError::Slow { at: self.server.base().to_owned(), problem });
            }
            pause = (pause * 2).min(PAUSES.1);
        }
    }

    /// Takes what nobody waits for out of the queue, or ends it. Servers that know no `prompt_id` there would end what is
    /// another's, but only while this is at work.
    fn give_up(&self, id: &str) {
        let send = |path: &str, body: Value| {
            // Whether that works does not matter any more.
            let _ = self.server.client().post(&self.server.url(path)).send_json(body);
        };
        send("queue", json!({ "delete": [id] }));
        send("interrupt", json!({ "prompt_id": id }));
    }

    /// What ComfyUI says of a run that has failed.
    fn failure(entry: &Value) -> Option<String> {
        let status = &entry["status"];
        if status["status_str"] != "error" {
            return None;
        }
        let messages = status["messages"].as_array().into_iter().flatten();
        let mut said = messages.filter(|message| message[0] == "execution_error").map(|message| {
            let of = |name: &str| message[1][name].as_str().unwrap_or_default().to_owned();
            format!("{} in the node {}", of("exception_message").trim(), of("node_type"))
        });
        Some(said.next().unwrap_or_else(|| "the workflow failed; look into ComfyUI's log".into()))
    }

    /// The first picture of the outputs: of what is saved, or else of what is only shown.
    fn picture(entry: &Value) -> Option<&Value> {
        let outputs = entry["outputs"].as_object()?;
        let images = || outputs.values().filter_map(|node| node["images"].as_array()).flatten();
        images().find(|image| image["type"] == "output").or_else(|| images().next())
    }
}

impl Renderer for Comfy {
    fn identity(&self) -> String {
        let workflow = hex(&Sha256::digest(self.workflow.text()));
        let name = self.workflow.path().file_name().unwrap_or_default().to_string_lossy();
        format!("comfy {} {name} {}", self.server.base(), &workflow[..16])
    }

    fn abilities(&self) -> Abilities {
        let has = |place: &str| self.workflow.has(place);
        Abilities {
            // A workflow that loads a picture needs one.
            generates: !has("source"),
            edits: has("source"),
            seed: has("seed"),
            size: has("width") && has("height"),
            steps: has("steps"),
            guidance: has("guidance"),
            negative: has("negative"),
            strength: has("strength"),
        }
    }

    fn render(&self, job: &Job<'_>) -> Result<RgbImage, RenderError> {
        self.abilities().check(job)?;
        if let Some(place) = self.workflow.open(job) {
            let problem = format!("has a place for {{{{{place}}}}}, and no {place} was given");
            return Err(RenderError::Workflow { path: self.workflow.path().to_owned(), problem });
        }
        let source = job.source.map(|source| self.upload(source.image)).transpose()?;
        let body = json!({ "prompt": self.workflow.filled(job, source.as_deref()), "client_id": "mils" });
        let url = self.server.url("prompt");
        let queued: Queued = self.server.json(&|| self.server.client().post(&url).send_json(&body))?;
        let entry = self.wait(&queued.prompt_id)?;
        if let Some(said) = Self::failure(&entry) {
            return Err(self.server.failed(&said));
        }
        let Some(image) = Self::picture(&entry) else {
            return Err(self.server.failed("the workflow saves no picture; end it with Save Image"));
        };
        let bytes = self.server.bytes(&|| {
            let mut request = self.server.client().get(&self.server.url("view"));
            for name in ["filename", "subfolder", "type"] {
                request = request.query(name, image[name].as_str().unwrap_or_default());
            }
            request.call()
        })?;
        picture::checked(picture::decode(&bytes)?, job)
    }
}

pub(crate) fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut text, byte| {
        // Writing to a string does not fail.
        let _ = write!(text, "{byte:02x}");
        text
    })
}
