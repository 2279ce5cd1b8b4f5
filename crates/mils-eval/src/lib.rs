//! Caption metrics as the official tools compute them: BLEU, ROUGE-L, CIDEr and METEOR 1.5 natively, SPICE by its authors'
//! program, CLIPScore from embeddings, and how much captions differ among each other; data sets' files, and whether the
//! difference of two systems is real.
//!
//! It makes no captions and runs no encoder. Texts are English: so are the tokenizer and METEOR's data. What other tools'
//! licences keep from being here is read from their own files ([`meteor::MeteorFiles`], [`spice::Spice`]).
//!
//! ```
//! use mils_eval::evaluate::{Corpus, Mismatch, Words};
//! use mils_eval::read::{Entries, Entry};
//!
//! let entry = |id: &str, texts: &[&str]| {
//!     let texts = texts.iter().map(|t| (*t).to_owned()).collect();
//!     Entry { id: id.into(), texts, error: None, line: 1 }
//! };
//! let candidates = Entries { entries: vec![entry("7.jpg", &["A dog runs on the grass."])], warnings: vec![] };
//! let references = Entries { entries: vec![entry("7", &["a dog runs", "a brown dog on the grass"])], warnings: vec![] };
//! let words = Words::of(&Corpus::join(&candidates, &references, Mismatch::Refuse)?);
//! let (_, bleu) = words.bleu();
//! assert_eq!(bleu[0].name, "bleu-1");
//! assert!(bleu[0].score() > 0.9 && words.rouge_l().score() < 1.0);
//! # Ok::<(), mils_eval::EvalError>(())
//! ```

pub mod bleu;
pub mod cider;
pub mod clipscore;
pub mod dataset;
pub mod diversity;
mod error;
pub mod evaluate;
pub mod meteor;
pub mod ngram;
pub mod ptb;
pub mod published;
pub mod read;
pub mod rouge;
pub mod spice;
pub mod stats;

pub use error::EvalError;
