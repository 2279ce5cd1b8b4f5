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
pub use identity::{Identity, blob};
pub use labels::{Labels, LabelsError, read_labels};
pub use store::Store;

/// A set that is shipped.
#[derive(Clone, Copy, Debug)]
pub struct Shipped {
    /// Its name, and that of its grammar.
    pub name: &'static str,
    /// Folders of labels that the grammar draws from.
    pub labels: &'static [&'static str],
    /// How many texts it has.
    pub texts: usize,
}

/// The sets that are shipped: captions of each modality, and instructions to editors of pictures.
pub const SHIPPED: [Shipped; 4] = [
    Shipped { name: "image", labels: &["image"], texts: 12_000 },
    Shipped { name: "video", labels: &["image", "video"], texts: 12_000 },
    Shipped { name: "sound", labels: &["sound"], texts: 12_000 },
    Shipped { name: "edit", labels: &["edit"], texts: 600 },
];

impl Shipped {
    /// What its grammar gives, from the files in a folder with `labels/` and `grammar/`.
    ///
    /// # Errors
    /// If a file cannot be read or is wrong.
    pub fn compose(&self, folder: &std::path::Path) -> Result<Vec<String>, ComposeError> {
        let mut all = Labels::default();
        for name in self.labels {
            all = all.and(Labels::read(&folder.join("labels").join(name))?);
        }
        let grammar = Grammar::read(&folder.join("grammar").join(format!("{}.txt", self.name)), &all)?;
        grammar.compose(self.texts, 0)
    }
}
