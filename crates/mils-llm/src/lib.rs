//! Text generators for `mils-optim`.
//!
//! [`LlamaGenerator`] runs a GGUF chat model through llama.cpp: one thread owns it and decodes everything that is being
//! answered together, for however many handles. What a prompt shares with earlier ones stays in the KV cache, its
//! answers are sampled as parallel sequences off it, and each is given away as soon as it ends.
//!
//! [`EndpointGenerator`] asks an OpenAI-compatible endpoint for the same, on this machine or another.
//!
//! [`parse`] reads what chat models answer when they are asked for a list.
//!
//! It is no general chat client: it asks one kind of question.
//!
//! ```
//! use mils_llm::parse::parse_list;
//! let said = "Sure, here are two:\n1. **A red car**\n2) \"A blue boat\n   on a lake\"\n3. unfini";
//! let parsed = parse_list(said, true, 5);
//! assert_eq!(parsed.texts, ["A red car", "A blue boat on a lake"]);
//! assert_eq!(parsed.unusable.len(), 2); // the talk before the list, and the line that was cut off
//! ```

mod any;
mod chat;
mod devices;
mod endpoint;
mod engine;
mod generator;
mod gguf;
mod meter;
pub mod parse;
mod plan;
mod prompts;
mod sequence;
mod threads;

pub use any::AnyGenerator;
pub use devices::{Device, DeviceKind, Placement, chosen, devices};
pub use endpoint::{EndpointError, EndpointGenerator, EndpointOptions, MOST_CALLS};
pub use generator::{LlamaError, LlamaGenerator, LlamaOptions, MOST_PROMPTS, MOST_SEQUENCES, ModelInfo};
pub use meter::Meter;
