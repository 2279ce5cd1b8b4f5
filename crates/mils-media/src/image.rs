//! Still images.

pub(crate) mod decode;
pub(crate) mod preprocess;
mod resample;
