//! The sound world: what a recording of one sound, or of two at once, may be called.
//!
//! Unlike the pictures of the demo world, its recordings are real: the ten classes of ESC-10, and mixtures of two of them
//! ([`mix`]). Captions name sounds ([`facts`]) in a small English of its own ([`grammar`]), which also names sounds that no
//! recording has, so that a search has something to be wrong about.
//!
//! ```
//! use mils_demo_world::sound::{facts, grammar};
//! let said = grammar::parse("The ticking of a clock and a barking dog.").unwrap();
//! let true_of_it = grammar::parse("a dog barks while rain falls").unwrap();
//! assert_eq!(facts::recall(&true_of_it, &said), 0.5);
//! assert_eq!(grammar::canonical(&said), "a dog barks while a clock ticks");
//! ```

pub mod facts;
pub mod grammar;
pub mod mix;
pub mod recordings;
pub mod sample;
pub mod search;

pub use facts::Facts;
