//! The worker's side.

use super::frame::{Message, VERSION, Wanted, read, write};
use crate::{Job, RenderError, Renderer, Source, picture};
use std::io::{Error, ErrorKind, Read, Result, Write};

/// Answers with a renderer's pictures until the input ends.
///
/// # Errors
/// If what comes is no frame of this protocol, or answers cannot be written.
pub fn serve(renderer: &dyn Renderer, input: &mut impl Read, output: &mut impl Write) -> Result<()> {
    let (name, abilities) = (renderer.identity(), renderer.abilities());
    write(output, &Message::Ready { version: VERSION, name, abilities }, b"")?;
    while let Some((message, payload)) = read(input)? {
        let Message::Render(wanted) = message else {
            return Err(Error::new(ErrorKind::InvalidData, "a message that is not for workers"));
        };
        match draw(renderer, &wanted, &payload) {
            Ok(png) => write(output, &Message::Picture { id: wanted.id }, &png)?,
            Err(error) => write(output, &Message::Failed { id: wanted.id, problem: error.to_string() }, b"")?,
        }
    }
    Ok(())
}

fn draw(renderer: &dyn Renderer, wanted: &Wanted, payload: &[u8]) -> std::result::Result<Vec<u8>, RenderError> {
    let image = if wanted.edits { Some(picture::decode(payload)?) } else { None };
    let job = Job {
        prompt: &wanted.prompt,
        negative: wanted.negative.as_deref(),
        source: image.as_ref().map(|image| Source { image, strength: wanted.strength }),
        seed: wanted.seed,
        width: wanted.width,
        height: wanted.height,
        steps: wanted.steps,
        guidance: wanted.guidance,
    };
    picture::to_png(&renderer.render(&job)?)
}
