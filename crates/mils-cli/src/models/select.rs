//! Which files of a repository are fetched, where nobody says.

use anyhow::{Result, bail};
use glob::{MatchOptions, Pattern};
use mils_models::download::RemoteFile;
use mils_models::{Conversion, SourceFile};

/// What belongs to weights in transformers' layout, and in open_clip's.
const BESIDE: [&str; 9] = [
    "config.json",
    "preprocessor_config.json",
    "processor_config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "generation_config.json",
    "open_clip_config.json",
];

/// Names of weights, by layout: safetensors or their index, and the pickle that older repositories have instead.
const LAYOUTS: [(&str, &str, &str); 2] = [
    ("model.safetensors", "model.safetensors.index.json", "pytorch_model.bin"),
    ("open_clip_model.safetensors", "open_clip_model.safetensors.index.json", "open_clip_pytorch_model.bin"),
];

/// The files that fit one of the patterns, in the repository's order.
///
/// # Errors
/// If a pattern is none, or fits nothing.
pub(super) fn by_patterns(repo: &str, files: &[RemoteFile], patterns: &[String]) -> Result<Vec<SourceFile>> {
    let options = MatchOptions { case_sensitive: true, ..MatchOptions::default() };
    let mut wanted = vec![false; files.len()];
    for text in patterns {
        let pattern = match Pattern::new(text) {
            Ok(pattern) => pattern,
            Err(error) => bail!("`{text}` is no pattern: {error}"),
        };
        let mut any = false;
        for (file, wanted) in files.iter().zip(&mut wanted) {
            let fits = file.file == *text || pattern.matches_with(&file.file, options);
            *wanted |= fits;
            any |= fits;
        }
        if !any {
            bail!("{repo} has no file that fits `{text}`; it has: {}", names(files.iter()));
        }
    }
    Ok(files.iter().zip(wanted).filter(|(_, wanted)| *wanted).map(|(file, _)| source(file, None)).collect())
}

/// The files of an encoder: configuration, tokenizer and weights, safetensors where there are any. A pickle is to be
/// converted.
///
/// # Errors
/// If there are no weights of an encoder.
pub(super) fn of_encoder(repo: &str, files: &[RemoteFile]) -> Result<Vec<SourceFile>> {
    let find = |name: &str| files.iter().find(|file| file.file == name);
    let beside = files.iter().filter(|file| BESIDE.contains(&&file.file[..])).map(|file| source(file, None));
    let safetensors = LAYOUTS.iter().find_map(|(whole, index, _)| {
        let stem = whole.strip_suffix(".safetensors")?;
        let shard = |file: &&RemoteFile| {
            let rest = file.file.strip_prefix(stem).and_then(|rest| rest.strip_suffix(".safetensors"));
            rest.is_some_and(|rest| rest.starts_with('-') && rest.contains("-of-"))
        };
        match (find(whole), find(index)) {
            (Some(file), _) => Some(vec![source(file, None)]),
            (None, Some(index)) => {
                Some(std::iter::once(index).chain(files.iter().filter(shard)).map(|file| source(file, None)).collect())
            }
            (None, None) => None,
        }
    });
    let pickle = || {
        LAYOUTS.iter().find_map(|(whole, _, pickle)| {
            let conversion = Conversion { to: (*whole).to_owned(), ..Conversion::default() };
            Some(vec![source(find(pickle)?, Some(conversion))])
        })
    };
    match safetensors.or_else(pickle) {
        Some(weights) => Ok(beside.chain(weights).collect()),
        None if files.iter().any(|file| file.file.ends_with(".gguf")) => {
            let all = files.iter().filter(|file| file.file.ends_with(".gguf"));
            bail!("{repo} has language models; choose one with --file, as `--file '*Q4_K_M.gguf'`: {}", names(all))
        }
        None => bail!("{repo} has no weights that are known; choose files with --file: {}", names(files.iter())),
    }
}

fn source(file: &RemoteFile, convert: Option<Conversion>) -> SourceFile {
    // What it hashes to is between the hub and its record: here it is only told how large it is.
    SourceFile { about: Some(file.size), convert, ..SourceFile::new(&file.file) }
}

/// Some names, for people.
fn names<'a>(files: impl Iterator<Item = &'a RemoteFile>) -> String {
    const MOST: usize = 20;
    let all: Vec<&str> = files.map(|file| file.file.as_str()).collect();
    let more = if all.len() > MOST { format!(" and {} more", all.len() - MOST) } else { String::new() };
    format!("{}{more}", all[..all.len().min(MOST)].join(", "))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn files(names: &[&str]) -> Vec<RemoteFile> {
        names.iter().map(|name| RemoteFile { file: (*name).into(), size: 1, sha256: None }).collect()
    }

    fn chosen(names: &[&str]) -> Result<Vec<String>, String> {
        let files = of_encoder("org/name", &files(names)).map_err(|e| e.to_string())?;
        Ok(files.iter().map(|file| format!("{}{}", file.file, if file.convert.is_some() { "!" } else { "" })).collect())
    }

    #[test]
    fn an_encoder_is_its_configuration_its_tokenizer_and_one_set_of_weights() {
        let all = [
            ".gitattributes",
            "README.md",
            "config.json",
            "flax_model.msgpack",
            "model.safetensors",
            "onnx/config.json",
            "open_clip_config.json",
            "open_clip_model.safetensors",
            "preprocessor_config.json",
            "pytorch_model.bin",
            "tf_model.h5",
            "tokenizer.json",
        ];
        let whole =
            ["config.json", "open_clip_config.json", "preprocessor_config.json", "tokenizer.json", "model.safetensors"];
        assert_eq!(chosen(&all).unwrap(), whole);
        let shards = [
            "config.json",
            "model-00001-of-00002.safetensors",
            "model-00002-of-00002.safetensors",
            "model.safetensors.index.json",
            "model_fp16.safetensors",
        ];
        let expected = [
            "config.json",
            "model.safetensors.index.json",
            "model-00001-of-00002.safetensors",
            "model-00002-of-00002.safetensors",
        ];
        assert_eq!(chosen(&shards).unwrap(), expected);
        let pickle = ["config.json", "pytorch_model.bin", "tokenizer.json"];
        assert_eq!(chosen(&pickle).unwrap(), ["config.json", "tokenizer.json", "pytorch_model.bin!"]);
        let clip = ["open_clip_config.json", "open_clip_pytorch_model.bin", "tokenizer.json"];
        assert_eq!(chosen(&clip).unwrap(), ["open_clip_config.json", "tokenizer.json", "open_clip_pytorch_model.bin!"]);
        let error = chosen(&["m-Q4_K_M.gguf", "m-Q8_0.gguf"]).unwrap_err();
        assert!(error.contains("--file '*Q4_K_M.gguf'") && error.contains("m-Q8_0.gguf"), "{error}");
        let error = chosen(&["README.md"]).unwrap_err();
        assert!(error.contains("choose files with --file: README.md"), "{error}");
    }

    #[test]
    fn patterns_choose_and_must_fit() {
        let all = files(&["a-Q4.gguf", "a-Q8.gguf", "b[1].txt", "sub/c.json"]);
        let names = |patterns: &[&str]| {
            let patterns: Vec<String> = patterns.iter().map(|p| (*p).to_owned()).collect();
            let chosen = by_patterns("org/name", &all, &patterns).map_err(|e| e.to_string())?;
            Ok::<_, String>(chosen.iter().map(|file| file.file.clone()).collect::<Vec<_>>())
        };
        assert_eq!(names(&["*Q8*"]).unwrap(), ["a-Q8.gguf"]);
        assert_eq!(names(&["*.json", "a-*"]).unwrap(), ["a-Q4.gguf", "a-Q8.gguf", "sub/c.json"]);
        assert_eq!(names(&["b[1].txt"]).unwrap(), ["b[1].txt"], "a name is taken as it is");
        let error = names(&["*Q4*", "*Q5*"]).unwrap_err();
        assert!(error.contains("fits `*Q5*`; it has: a-Q4.gguf"), "{error}");
        assert!(names(&["***"]).unwrap_err().contains("is no pattern"));
    }
}
