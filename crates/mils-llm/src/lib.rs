//! Text generators for `mils-optim`.
//!
//! [`LlamaGenerator`] runs a GGUF chat model through llama.cpp: one thread owns it, the KV cache of the prompt's
//! common prefix stays from step to step, and the answers are sampled as parallel sequences off one prefilled prompt.
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

mod chat;
mod generator;
mod gguf;
pub mod parse;
mod worker;

pub use generator::{LlamaError, LlamaGenerator, LlamaOptions, ModelInfo};
