//! How much there is to download.

use crate::download::size;
use std::fmt;
use std::iter::Sum;

/// Bytes, and whether all of them are known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Amount {
    /// Those that are known.
    pub bytes: u64,
    /// Whether they are all.
    pub exact: bool,
}

impl Amount {
    /// Nothing.
    pub const NONE: Self = Self { bytes: 0, exact: true };
}

impl Sum for Amount {
    fn sum<I: Iterator<Item = Self>>(all: I) -> Self {
        all.fold(Self::NONE, |sum, one| Self {
            bytes: sum.bytes.saturating_add(one.bytes),
            exact: sum.exact && one.exact,
        })
    }
}

/// For people.
impl fmt::Display for Amount {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if !self.exact {
            f.write_str("about ")?;
        }
        f.write_str(&size(self.bytes))
    }
}
