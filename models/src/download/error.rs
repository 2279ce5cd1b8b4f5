//! Why a file cannot be had.

/// Why a file cannot be had. Every message is one line, and says what to do.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DownloadError {
    /// There is no folder for the cache.
    #[error("there is no home folder for the hub cache; set HF_HUB_CACHE to a folder")]
    NoCache,
    /// [`super::Watch::cancelled`] said so.
    #[error("cancelled")]
    Cancelled,
}
