//! Renderers in a process of their own: a model that crashes takes its worker with it and not the run, and libraries that
//! cannot be linked into one program need not be.
//!
//! The process speaks over its standard input and output, in frames (see [`frame`]): it says `ready` with its name and
//! abilities when it has begun, and answers each `render` with a `picture`, whose payload is a PNG file, or with `failed`.
//! What it writes to standard error is for people; the last of it is quoted where it dies. [`serve`] is the other side, for
//! whoever writes a worker: `mils-demo-worker` is one in a few lines.

mod client;
pub mod frame;
mod serve;

pub use client::{Worker, WorkerOptions};
pub use frame::{Message, VERSION};
pub use serve::serve;
