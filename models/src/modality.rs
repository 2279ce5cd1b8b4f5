//! What sort of thing is described.

use serde::{Deserialize, Serialize};

/// What sort of thing is described.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Deserialize, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Modality {
    /// One picture.
    Image,
    /// Moving pictures.
    Video,
    /// A recording.
    Sound,
}

impl Modality {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Image, Self::Video, Self::Sound];

    /// As packs and flags call it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Image => "image",
            Self::Video => "video",
            Self::Sound => "sound",
        }
    }
}

impl std::fmt::Display for Modality {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.pad(self.name())
    }
}
