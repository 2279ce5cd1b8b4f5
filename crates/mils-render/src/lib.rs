//! Renderers: a text, and for edits a picture, becomes a picture.
//!
//! | renderer | what it asks |
//! | --- | --- |
//! | [`OpenAi`] | an OpenAI-compatible server: `/v1/images/generations`, `/v1/images/edits` |
//! | [`Automatic`] | AUTOMATIC1111, Forge or SD.Next: `/sdapi/v1/txt2img`, `/sdapi/v1/img2img` |
//! | [`Comfy`] | ComfyUI, with a workflow in its API format |
//! | [`Worker`] | a process that speaks the protocol of [`worker`] over its standard input and output |
//! | `Demo` | nobody: it draws what it understands in the demo pack's world |
//!
//! All are one trait, [`Renderer`]; what one can do is asked of it ([`Renderer::abilities`]). [`Memo`] keeps pictures on
//! disk, so that none is rendered twice. Whatever goes wrong is a [`RenderError`] that says what to do; a picture of
//! another size, one that is damaged, and one that a safety filter has blanked are among them.
//!
//! It holds no diffusion model: those run in servers and workers. It judges nothing, and loops over nothing.
//!
//! ```
//! use mils_render::{Demo, Job, Renderer};
//! let job = Job { width: 144, height: 144, seed: 7, ..Job::new("a big red car on the left, in the snow") };
//! let picture = Demo.render(&job)?;
//! assert_eq!(picture.dimensions(), (144, 144));
//! assert_eq!(picture, Demo.render(&job)?, "the same job, the same picture");
//! # Ok::<(), mils_render::RenderError>(())
//! ```

mod a1111;
mod comfy;
#[cfg(feature = "demo")]
mod demo;
mod error;
mod job;
mod memo;
mod openai;
mod picture;
pub mod process;
mod server;
pub mod worker;
mod workflow;

pub use a1111::Automatic;
pub use comfy::Comfy;
#[cfg(feature = "demo")]
pub use demo::Demo;
pub use error::RenderError;
pub use image::RgbImage;
pub use job::{Abilities, Job, SIDES, Source};
pub use memo::Memo;
pub use openai::OpenAi;
pub use picture::to_png;
pub use server::ServerOptions;
pub use worker::Worker;
pub use workflow::Workflow;

/// Makes pictures. Several threads may ask it at the same time.
pub trait Renderer: Send + Sync {
    /// What makes the same pictures of the same jobs: what it is, where, and with which model. For memos and reports.
    fn identity(&self) -> String;

    /// What it can do.
    fn abilities(&self) -> Abilities;

    /// One picture, of the size that was asked for.
    ///
    /// # Errors
    /// If it cannot do what is asked ([`Abilities::check`]), or there is no good picture. See [`RenderError::is_fatal`]
    /// for whether others are worth asking for.
    fn render(&self, job: &Job<'_>) -> Result<RgbImage, RenderError>;
}
