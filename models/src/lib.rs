//! Model packs: which scorers, which generator, which prompts and settings belong together, and where they are.
//!
//! A pack is a TOML file. What it names is beside it (or under its `root`), or on the hub: then [`Source`] says in which
//! repository, at which revision. [`Pack::find`] takes a name or a path, reads the file and finds what it names there and
//! in the [`Store`]. The bundled pack `demo` is in this package; `small`, `default` and `paper` are to be downloaded.
//!
//! [`Model::find`] finds an encoder's checkpoint alone: a folder, a pack's scorer, or a model in the hub cache.
//!
//! [`find_bank`] finds an initial set alone, by name or path.
//!
//! [`download`] fetches files into that cache; nothing else here asks the network. This crate reads no model, and
//! converts none: what a pack wants converted is put together by its user, as [`Store::made`] and [`Manifest`] say.
//!
//! ```
//! let demo = mils_models::Pack::find("demo").unwrap();
//! assert_eq!(demo.name, "demo");
//! let images = demo.task(mils_models::Modality::Image).unwrap();
//! assert!(images.scorer.join("config.json").exists());
//! let error = mils_models::Pack::find("no-such-pack").unwrap_err();
//! assert!(error.to_string().contains("demo"));
//! let small = mils_models::Pack::open("small").unwrap();
//! assert!(small.amount(&small.modalities()).bytes > 1_000_000_000);
//! ```

mod amount;
pub mod download;
mod drawing;
mod error;
mod find;
mod hub;
mod modality;
mod pack;
mod sets;
mod settings;
mod source;
mod store;

pub use amount::Amount;
pub use drawing::{Drawing, DrawingWorker, EditFiles, Editing, GenerateFiles, StyleBy, WorkerFiles};
pub use error::PackError;
pub use find::{all, known, search_path};
pub use hub::{Model, ModelError, hub_cache};
pub use modality::Modality;
pub use pack::{GeneratorFiles, ModalityFiles, Pack, Task, read_texts, read_toml};
pub use sets::{find_bank, known_banks, labels_folder};
pub use settings::{LoopChanges, LoopSettings, PromptChanges, Prompts};
pub use source::{Conversion, Origin, ScorerFiles, Source, SourceFile};
pub use store::{Manifest, Part, Store, home, parse_id};
