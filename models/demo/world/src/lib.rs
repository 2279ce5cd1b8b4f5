//! The demo world: small scenes that can be drawn, described and judged exactly.
//!
//! A scene holds one to three objects out of 48 nouns, with colour, size, number, place and background. This crate
//! draws it ([`render::render`]), says it in English ([`grammar::caption`]), reads such English back
//! ([`grammar::parse`]) and judges one against the other ([`facts`]). The bundled demo models are trained on it and
//! the caption-quality benchmark is measured in it.
//!
//! It is not a general captioning data set: `mils caption` treats the rendered pictures like any others. Of the product,
//! only the renderer that the demo pack has for `mils generate` depends on it; that reads prompts loosely
//! ([`reader::read`]) and draws what it understood.
//!
//! ```
//! use mils_demo_world::{facts, grammar};
//! let said = grammar::parse("A big red car on the left, in the snow.").unwrap();
//! let true_of_it = grammar::parse("a big blue car on the left, in the snow").unwrap();
//! assert_eq!(facts::noun_recall(&true_of_it, &said), 1.0);
//! assert_eq!(facts::attribute_accuracy(&true_of_it, &said), 0.8);
//! assert!(!facts::exact(&true_of_it, &said));
//! ```

pub mod coco;
pub mod facts;
pub mod garble;
pub mod grammar;
pub mod icons;
pub mod motion;
pub mod reader;
pub mod render;
pub mod sample;
pub mod search;
pub mod simulate;
pub mod sound;
pub mod training;
pub mod worlds;

pub use facts::{Facts, Split};
pub use worlds::World;

/// A scene of the world of pictures.
pub type Scene = worlds::Scene<Facts>;
