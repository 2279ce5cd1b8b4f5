//! Sets of texts that runs start from, as `mils bank` makes them: a text file, one caption a line.
//!
//! [`Grammar`] composes one from patterns and [`Labels`], [`import`] reads one out of caption files, and a
//! [`Cleaner`] says what gets in. A [`Store`] keeps the embeddings of sets on disk, under the [`Identity`] of their encoder.
//!
//! Nothing here knows an encoder or a language model.
//!
//! ```
//! use mils_bank::{Cleaner, Limits};
//! let mut cleaner = Cleaner::new(Limits::default());
//! assert_eq!(cleaner.take("  A red car. ").as_deref(), Some("A red car."));
//! assert_eq!(cleaner.take("a red car"), None);
//! assert_eq!(cleaner.counts().duplicates, 1);
//! ```

mod clean;
pub mod compose;
mod identity;
pub mod import;
mod labels;
pub mod store;

pub use clean::{Cleaner, Counts, Limits};
pub use compose::{ComposeError, Grammar};
pub use identity::Identity;
pub use labels::{Labels, LabelsError, read_labels};
pub use store::Store;

/// Texts in each of the sets that are shipped.
pub const SHIPPED: usize = 12_000;
