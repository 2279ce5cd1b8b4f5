//! Frames: two lengths, a message in JSON, and bytes that go with it.
//!
//! | bytes | what |
//! | --- | --- |
//! | 4 | length of the message, little-endian, at most 1 MiB |
//! | 4 | length of the payload, little-endian, at most 256 MiB |
//! | … | the message: a JSON object with a `type` |
//! | … | the payload: of `picture` a PNG file, of `render` the PNG of what is edited, else nothing |

use crate::{Abilities, Job};
use serde::{Deserialize, Serialize};
use std::io::{Error, ErrorKind, Read, Result, Write};

/// Of the protocol.
pub const VERSION: u32 = 1;
/// Most bytes of a message.
const MOST_MESSAGE: u32 = 1 << 20;
/// Most bytes of a payload.
const MOST_PAYLOAD: u32 = 256 << 20;

/// What is said.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum Message {
    /// By a worker, once, when it can be asked.
    Ready {
        /// See [`VERSION`].
        version: u32,
        /// What makes the same pictures: the program and its model.
        name: String,
        /// What it can do.
        abilities: Abilities,
    },
    /// To a worker: draw this.
    Render(Box<Wanted>),
    /// By a worker: here it is.
    Picture {
        /// Of the job.
        id: u64,
    },
    /// By a worker: there will be none.
    Failed {
        /// Of the job.
        id: u64,
        /// Why, on one line.
        problem: String,
    },
}

/// A job.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Wanted {
    /// Its answer has the same.
    pub id: u64,
    /// See [`Job`], also for what follows.
    pub prompt: String,
    /// See there.
    pub negative: Option<String>,
    /// See there.
    pub seed: u64,
    /// See there.
    pub width: u32,
    /// See there.
    pub height: u32,
    /// See there.
    pub steps: Option<u32>,
    /// See there.
    pub guidance: Option<f32>,
    /// Whether the payload is a picture to be edited.
    pub edits: bool,
    /// See [`crate::Source::strength`].
    pub strength: Option<f32>,
}

impl Wanted {
    pub(super) fn of(id: u64, job: &Job<'_>) -> Self {
        Self {
            id,
            prompt: job.prompt.to_owned(),
            negative: job.negative.map(str::to_owned),
            seed: job.seed,
            width: job.width,
            height: job.height,
            steps: job.steps,
            guidance: job.guidance,
            edits: job.source.is_some(),
            strength: job.source.and_then(|source| source.strength),
        }
    }
}

/// Writes a frame, and sends it off.
///
/// # Errors
/// If it is too large, or cannot be written.
pub fn write(out: &mut impl Write, message: &Message, payload: &[u8]) -> Result<()> {
    let text = serde_json::to_vec(message)?;
    let length = |bytes: &[u8], most: u32| {
        let length = u32::try_from(bytes.len()).ok().filter(|length| *length <= most);
        length.ok_or_else(|| Error::new(ErrorKind::InvalidInput, "a message is too long"))
    };
    let (message, bytes) = (length(&text, MOST_MESSAGE)?, length(payload, MOST_PAYLOAD)?);
    out.write_all(&message.to_le_bytes())?;
    out.write_all(&bytes.to_le_bytes())?;
    out.write_all(&text)?;
    out.write_all(payload)?;
    out.flush()
}

/// Reads a frame; `None` at the end.
///
/// # Errors
/// If what comes is no frame, or breaks off within one.
pub fn read(from: &mut impl Read) -> Result<Option<(Message, Vec<u8>)>> {
    let mut first = [0];
    if from.read(&mut first)? == 0 {
        return Ok(None);
    }
    let mut message = [first[0], 0, 0, 0];
    from.read_exact(&mut message[1..]).map_err(broken_off)?;
    let message = length(message, MOST_MESSAGE)?;
    let mut payload = [0; 4];
    from.read_exact(&mut payload).map_err(broken_off)?;
    let payload = length(payload, MOST_PAYLOAD)?;
    let text = exactly(from, message)?;
    let message = serde_json::from_slice(&text).map_err(|e| Error::new(ErrorKind::InvalidData, e))?;
    Ok(Some((message, exactly(from, payload)?)))
}

/// A length that makes sense.
fn length(bytes: [u8; 4], most: u32) -> Result<u32> {
    let length = u32::from_le_bytes(bytes);
    if length <= most { Ok(length) } else { Err(no_frame("what it writes is no frame")) }
}

fn no_frame(what: &str) -> Error {
    Error::new(ErrorKind::InvalidData, format!("{what}; does it print to standard output?"))
}

fn broken_off(error: Error) -> Error {
    if error.kind() == ErrorKind::UnexpectedEof { no_frame("what it writes breaks off within a frame") } else { error }
}

/// So many bytes. Memory is taken as they come: a length alone costs nothing.
fn exactly(from: &mut impl Read, length: u32) -> Result<Vec<u8>> {
    let mut bytes = Vec::new();
    from.by_ref().take(u64::from(length)).read_to_end(&mut bytes)?;
    if bytes.len() as u64 == u64::from(length) { Ok(bytes) } else { Err(broken_off(ErrorKind::UnexpectedEof.into())) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_are_read_as_they_were_written() {
        let ready = Message::Ready { version: VERSION, name: "x".into(), abilities: Abilities::default() };
        let render = Message::Render(Box::new(Wanted::of(3, &Job { seed: u64::MAX, ..Job::new("a\n\"b\"") })));
        let mut bytes = Vec::new();
        write(&mut bytes, &ready, b"").unwrap();
        write(&mut bytes, &render, &[7; 3000]).unwrap();
        let mut rest = &bytes[..];
        assert_eq!(read(&mut rest).unwrap(), Some((ready, vec![])));
        assert_eq!(read(&mut rest).unwrap(), Some((render, vec![7; 3000])));
        assert_eq!(read(&mut rest).unwrap(), None);
        for end in 1..bytes.len() - 1 {
            let mut cut = &bytes[..end];
            let read: Result<Vec<_>> = std::iter::from_fn(|| read(&mut cut).transpose()).collect();
            // Between two frames is an end; within one is none.
            assert!(read.is_err() || read.is_ok_and(|frames| frames.len() == 1), "{end}");
        }
    }

    #[test]
    fn what_is_no_frame_is_an_error_and_costs_no_memory() {
        for bytes in
            [&b"Loading the model ...\n"[..], &[255; 64], b"\x02\0\0\0\0\0\0\0{}", b"\x02\0\0\0\xff\xff\xff\x0f{}"]
        {
            assert!(read(&mut &*bytes).is_err());
        }
        let long = Message::Failed { id: 0, problem: "x".repeat(2 << 20) };
        assert!(write(&mut Vec::new(), &long, b"").is_err());
    }
}
