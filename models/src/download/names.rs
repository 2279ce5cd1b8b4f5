//! What may be called how: names end up in paths, and what a server says is not trusted.

use super::DownloadError;
use crate::hub::is_part;

/// The folder of a repository in the cache.
///
/// # Errors
/// If it is no `ORG/NAME`, or one that would not be a folder of its own.
pub(super) fn repository(repo: &str) -> Result<String, DownloadError> {
    let parts: Vec<&str> = repo.split('/').collect();
    // `--` stands for the slash in the folder's name. Old repositories have no organisation.
    let fits = parts.len() <= 2 && parts.iter().all(|part| is_part(part)) && !repo.contains("--") && repo.len() <= 96;
    if !fits || repo.contains("..") {
        return Err(DownloadError::Name { name: one_line(repo), what: "repository of the hub (ORG/NAME)" });
    }
    Ok(format!("models--{}", parts.join("--")))
}

/// # Errors
/// If it is no branch, tag or commit.
pub(super) fn revision(revision: &str) -> Result<(), DownloadError> {
    // All may have slashes, as `refs/pr/1` has.
    let fits = revision.split('/').all(is_part) && !revision.contains("..") && revision.len() <= 200;
    if fits { Ok(()) } else { Err(DownloadError::Name { name: one_line(revision), what: "branch, tag or commit" }) }
}

/// # Errors
/// If it is no path of a file that stays in its folder, on any system.
pub(super) fn file(file: &str) -> Result<(), DownloadError> {
    let part = |part: &str| {
        let plain = |c: char| !c.is_control() && !matches!(c, '\\' | ':' | '*' | '?' | '"' | '<' | '>' | '|');
        // Windows takes off a dot or a space at the end, and what is left may be `..`.
        !part.is_empty() && part.len() <= 200 && part.chars().all(plain) && !part.ends_with(['.', ' '])
    };
    let fits = file.len() <= 1000 && file.split('/').all(part);
    if fits {
        Ok(())
    } else {
        Err(DownloadError::Name { name: one_line(file), what: "path of a file in a repository" })
    }
}

/// Whether it is a whole commit, and no branch or tag.
pub(super) fn is_commit(text: &str) -> bool {
    text.len() == 40 && is_hex(text)
}

/// Whether it reads as a SHA-256.
pub(super) fn is_sha256(text: &str) -> bool {
    text.len() == 64 && is_hex(text)
}

/// Whether it reads as the hash of a file in git.
pub(super) fn is_git(text: &str) -> bool {
    text.len() == 40 && is_hex(text)
}

/// In lower case, as all compare and name them.
fn is_hex(text: &str) -> bool {
    text.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'))
}

/// A tag as it was sent, without its quotes; `None` if it could not be the name of a file.
pub(super) fn etag(sent: &str) -> Option<String> {
    let bare = sent.trim().trim_start_matches("W/").trim_matches('"');
    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
    let fits = !bare.is_empty() && bare.len() <= 128 && bare.chars().all(plain) && !bare.starts_with(['.', '-']);
    // Some systems do not tell the cases of a name apart, and a hash in upper case is the same hash.
    fits.then(|| if is_hex(&bare.to_ascii_lowercase()) { bare.to_ascii_lowercase() } else { bare.to_owned() })
}

/// What others say, on one line and not too long.
pub(super) fn one_line(text: &str) -> String {
    const MOST: usize = 160;
    let words: Vec<&str> =
        text.split(|c: char| c.is_whitespace() || c.is_control()).filter(|word| !word.is_empty()).collect();
    let line = words.join(" ");
    match line.char_indices().nth(MOST) {
        Some((end, _)) => format!("{}…", &line[..end]),
        None => line,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_stay_in_their_folder() {
        assert_eq!(repository("org/clip-vit.b_32").unwrap(), "models--org--clip-vit.b_32");
        assert_eq!(repository("gpt2").unwrap(), "models--gpt2");
        for repo in ["", "/", "a/", "/a", "a/b/c", "../a", "a/..", "a/b--c", "a/b..c", "a\\b", "a/b c", "a/.b", "C:/a"]
        {
            assert!(repository(repo).is_err(), "{repo}");
        }
        for name in ["main", "v1.0", "refs/pr/1"] {
            revision(name).unwrap();
        }
        for name in ["", "/", "a//b", "../main", "a/../../b", "a..b", "/etc", "-x", "a b"] {
            assert!(revision(name).is_err(), "{name}");
        }
        for name in ["config.json", "a/b/c.bin", "a file.txt", ".gitattributes", "größe.txt", "1_Pooling/config.json"]
        {
            file(name).unwrap();
        }
        for name in [
            "",
            "/etc/passwd",
            "../x",
            "a/../x",
            "a/..",
            ".",
            "a//b",
            "a\\..\\x",
            "C:x",
            "a/.. /x",
            "a/...",
            "a\0b",
            "a\nb",
        ] {
            assert!(file(name).is_err(), "{name:?}");
        }
    }

    #[test]
    fn tags_are_hashes_or_at_least_names() {
        let hash = "0123456789abcdef0123456789abcdef01234567";
        assert_eq!(etag(&format!("W/\"{hash}\"")).as_deref(), Some(hash));
        assert_eq!(etag(&format!("\"{}\"", hash.to_uppercase())).as_deref(), Some(hash));
        assert_eq!(etag("\"5d41402a-3\"").as_deref(), Some("5d41402a-3"));
        for sent in ["", "\"\"", "\"../../x\"", "\"a/b\"", "\"..\"", "\".x\"", "a b", "\"a\\b\"", &"a".repeat(200)] {
            assert_eq!(etag(sent), None, "{sent}");
        }
        assert!(is_commit(hash) && is_git(hash) && !is_sha256(hash) && !is_commit("main"));
    }

    #[test]
    fn what_others_say_is_cut() {
        assert_eq!(one_line("a\n\tb\u{7}c"), "a b c");
        assert_eq!(one_line(&"x".repeat(500)).chars().count(), 161);
    }
}
