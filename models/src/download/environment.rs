//! The hub as the environment has it, by the variables that Python's `huggingface_hub` reads.

use super::{DownloadError, Hub};
use crate::hub::of_python;
use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Where the hub is, unless a variable says otherwise.
const ENDPOINT: &str = "https://huggingface.co";

/// # Errors
/// If a variable makes no sense, or there is no folder for the cache.
pub(super) fn hub(
    variable: &dyn Fn(&str) -> Option<OsString>,
    home: Option<&Path>,
    cache: Option<&Path>,
) -> Result<Hub, DownloadError> {
    let text = |name: &str| {
        let value = variable(name).filter(|value| !value.is_empty());
        value.map(|value| value.to_string_lossy().trim().to_owned())
    };
    let is_true = |name: &str| {
        text(name).is_some_and(|value| ["1", "ON", "YES", "TRUE"].contains(&value.to_uppercase().as_str()))
    };
    let endpoint = text("HF_ENDPOINT").unwrap_or_else(|| ENDPOINT.to_owned());
    let mut hub = Hub::new(&endpoint, cache.ok_or(DownloadError::NoCache)?).map_err(|error| match error {
        DownloadError::Setting { problem, .. } => DownloadError::Setting { setting: "HF_ENDPOINT".into(), problem },
        error => error,
    })?;
    hub = hub.offline(is_true("HF_HUB_OFFLINE") || is_true("TRANSFORMERS_OFFLINE"));
    if let Some(seconds) = text("HF_HUB_DOWNLOAD_TIMEOUT") {
        let stall = seconds.parse().ok().and_then(|s| Duration::try_from_secs_f64(s).ok()).filter(|s| !s.is_zero());
        hub = hub.stall(stall.ok_or_else(|| DownloadError::Setting {
            setting: "HF_HUB_DOWNLOAD_TIMEOUT".into(),
            problem: format!("is `{seconds}`; expected a number of seconds"),
        })?);
    }
    if is_true("HF_HUB_DISABLE_IMPLICIT_TOKEN") {
        return Ok(hub);
    }
    let token = match text("HF_TOKEN").or_else(|| text("HUGGING_FACE_HUB_TOKEN")) {
        Some(token) => Some(token),
        None => token_file(variable, home).map(|path| read_token(&path)).transpose()?.flatten(),
    };
    // It goes into a header, where some characters would begin another.
    if token.as_ref().is_some_and(|token| !token.chars().all(|c| c.is_ascii_graphic())) {
        let problem = "has characters that no token has; copy it once more".to_owned();
        return Err(DownloadError::Setting { setting: "the token (HF_TOKEN, or its file)".into(), problem });
    }
    Ok(hub.token(token.as_deref()))
}

/// Where `hf auth login` puts the token.
fn token_file(variable: &dyn Fn(&str) -> Option<OsString>, home: Option<&Path>) -> Option<PathBuf> {
    of_python("HF_TOKEN_PATH", "token", |name| variable(name).map(PathBuf::from), home)
}

fn read_token(path: &Path) -> Result<Option<String>, DownloadError> {
    match std::fs::read_to_string(path) {
        Ok(text) => Ok(Some(text.trim().to_owned()).filter(|token| !token.is_empty())),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(DownloadError::disk("read the token in", path)(error)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn by(set: &[(&str, &str)], home: &Path) -> Result<Hub, DownloadError> {
        let variable = |name: &str| set.iter().find(|(n, _)| *n == name).map(|(_, value)| OsString::from(value));
        hub(&variable, Some(home), Some(Path::new("cache")))
    }

    #[test]
    fn variables_are_pythons() {
        let home = tempfile::tempdir().unwrap();
        let plain = by(&[], home.path()).unwrap();
        assert_eq!((plain.endpoint.as_str(), plain.offline, &plain.token), ("https://huggingface.co/", false, &None));
        let set = [("HF_ENDPOINT", "http://mirror:8080/hf/"), ("HF_HUB_OFFLINE", "yes"), ("HF_TOKEN", " hf_x\n")];
        let hub = by(&set, home.path()).unwrap();
        assert_eq!((hub.endpoint.as_str(), hub.offline), ("http://mirror:8080/hf/", true));
        assert_eq!(hub.token.as_deref(), Some("hf_x"));
        assert!(!by(&[("HF_HUB_OFFLINE", "0")], home.path()).unwrap().offline);
        assert!(by(&[("TRANSFORMERS_OFFLINE", "1")], home.path()).unwrap().offline);
        let patient = by(&[("HF_HUB_DOWNLOAD_TIMEOUT", "2.5")], home.path()).unwrap();
        assert_eq!(patient.stall, Duration::from_millis(2500));
    }

    #[test]
    fn a_token_is_in_a_variable_or_in_a_file() {
        let home = tempfile::tempdir().unwrap();
        let write = |path: &str, token: &str| {
            let path = home.path().join(path);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, token).unwrap();
        };
        let token = |set: &[(&str, &str)]| by(set, home.path()).unwrap().token;
        assert_eq!(token(&[]), None);
        write(".cache/huggingface/token", "hf_home\n");
        write("other/token", "hf_other");
        write("named", "hf_named");
        write("empty", "\n");
        assert_eq!(token(&[]).as_deref(), Some("hf_home"));
        assert_eq!(token(&[("HF_HOME", "~/other")]).as_deref(), Some("hf_other"));
        let named = [("HF_TOKEN_PATH", "~/named"), ("HF_HOME", "~/other")];
        assert_eq!(token(&named).as_deref(), Some("hf_named"));
        assert_eq!(token(&[("HF_TOKEN_PATH", "~/empty")]), None);
        assert_eq!(token(&[("HF_TOKEN", "hf_first"), named[0]]).as_deref(), Some("hf_first"));
        assert_eq!(token(&[("HF_HUB_DISABLE_IMPLICIT_TOKEN", "1"), named[0]]), None);
    }

    #[test]
    fn nonsense_is_said_without_saying_the_token() {
        let home = tempfile::tempdir().unwrap();
        for (name, value) in [
            ("HF_ENDPOINT", "huggingface.co"),
            ("HF_ENDPOINT", "ftp://huggingface.co"),
            ("HF_HUB_DOWNLOAD_TIMEOUT", "soon"),
            ("HF_HUB_DOWNLOAD_TIMEOUT", "0"),
            ("HF_TOKEN", "hf_a\r\nX-Evil: b"),
        ] {
            let error = by(&[(name, value)], home.path()).err().unwrap().to_string();
            assert!(error.contains(name) && !error.contains("Evil") && !error.contains('\n'), "{error}");
        }
        assert!(matches!(hub(&|_| None, None, None), Err(DownloadError::NoCache)));
    }

    #[test]
    fn a_token_is_not_shown() {
        let hub = Hub::new("https://hub", Path::new("cache")).unwrap().token(Some("hf_secret"));
        assert!(!format!("{hub:?}").contains("secret"));
    }
}
