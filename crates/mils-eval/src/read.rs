//! wip
use crate::EvalError;
use std::path::Path;
pub(crate) fn text(path: &Path) -> Result<String, EvalError> {
    std::fs::read_to_string(path).map_err(|e| EvalError::read(path, e))
}
