//! tokenizer.json, with truncation that keeps the end-of-text token, and padding where the model attends to it.

use crate::EncoderError;
use crate::arch::{TextPool, TextTower};
use crate::files::read_text;
use crate::layout::read_json;
use crate::sound::RobertaTower;
use serde_json::Value;
use std::borrow::Cow;
use std::path::Path;
use std::str::FromStr;
use tokenizers::Tokenizer;

/// What is done to a text before tokenizer.json has it: code of the reference's tokenizer classes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Cleaning {
    /// White space squeezed and quotes straight: open_clip.
    Spaces,
    /// The same, in lower case.
    SpacesLower,
    /// Lower case alone: `Siglip2Tokenizer`.
    Lower,
    /// Lower case, no ASCII punctuation, white space squeezed: `SiglipTokenizer`.
    Siglip,
    /// The same with underscores as spaces: open_clip's `canonicalize`.
    Canonical,
}

impl Cleaning {
    fn apply(self, text: &str) -> String {
        let squeeze = |text: &str| text.split_whitespace().collect::<Vec<_>>().join(" ");
        let bare = |text: &str| {
            let lower = text.to_lowercase();
            squeeze(&lower.chars().filter(|c| !c.is_ascii_punctuation()).collect::<String>())
        };
        match self {
            Self::Spaces => squeeze(&straight(text)),
            Self::SpacesLower => squeeze(&straight(text).to_lowercase()),
            Self::Lower => text.to_lowercase(),
            Self::Siglip => bare(text),
            Self::Canonical => bare(&straight(text).replace('_', " ")),
        }
    }
}

/// Curly quotes as straight ones, which language models write and open_clip's ftfy repairs. (It repairs more: HTML's
/// entities, ligatures, text decoded wrongly.)
fn straight(text: &str) -> String {
    text.replace(['\u{2bc}', '\u{2018}', '\u{2019}', '\u{201a}', '\u{201b}'], "'")
        .replace(['\u{201c}', '\u{201d}', '\u{201e}', '\u{201f}'], "\"")
}

/// How texts are brought to the full context.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Padding {
    id: u32,
    left: bool,
}

pub(crate) struct TextTokenizer {
    inner: Tokenizer,
    cleaning: Option<Cleaning>,
    /// Put before and behind every text.
    specials: (Vec<u32>, Vec<u32>),
    padding: Option<Padding>,
    pool: TextPool,
    context: usize,
    vocab: usize,
}

/// What a tower wants of its texts.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Reading {
    vocab: usize,
    /// Most tokens, with begin and end.
    context: usize,
    pool: TextPool,
    /// Whether texts are brought to the full context.
    padded: bool,
    /// Whether the token that is read is one that must end a text.
    ends: bool,
}

impl Reading {
    fn of(tower: &TextTower) -> Self {
        // A tower that sees what is behind the end of a text must be given what it was trained on.
        let padded = !tower.causal || tower.pool == TextPool::Last;
        Self { vocab: tower.vocab, context: tower.context, pool: tower.pool, padded, ends: true }
    }

    /// RoBERTa reads its first token and hides padding.
    pub(crate) fn roberta(tower: &RobertaTower) -> Self {
        Self { vocab: tower.vocab, context: tower.context(), pool: TextPool::EndToken(0), padded: false, ends: false }
    }
}

/// A text as the model gets it.
pub(crate) struct Tokens {
    /// At most as many as the context; all of it where the model attends to padding.
    pub(crate) ids: Vec<u32>,
    /// Which row is read.
    pub(crate) pooled: usize,
}

impl TextTokenizer {
    /// Reads tokenizer.json and, where there is one, tokenizer_config.json. The file's own truncation and padding are
    /// switched off: they are settings of its writer.
    pub(crate) fn open(folder: &Path, tower: &TextTower, cleaning: Option<Cleaning>) -> Result<Self, EncoderError> {
        Self::open_as(folder, Reading::of(tower), cleaning)
    }

    /// The same for a tower of another kind.
    pub(crate) fn open_as(folder: &Path, reading: Reading, cleaning: Option<Cleaning>) -> Result<Self, EncoderError> {
        let Reading { vocab, context, pool, padded, ends } = reading;
        let path = folder.join("tokenizer.json");
        let mut inner = Tokenizer::from_str(&read_text(&path)?).map_err(|e| EncoderError::file(&path, e))?;
        let written = inner.get_padding().map(|p| p.pad_id);
        inner.with_padding(None);
        inner.with_truncation(None).map_err(|e| EncoderError::file(&path, e))?;
        let found = inner.get_vocab_size(true);
        if found > vocab {
            let problem = format!("has {found} tokens, but the model has room for {vocab}");
            return Err(EncoderError::file(&path, problem));
        }
        let config_path = folder.join("tokenizer_config.json");
        let config = if config_path.exists() { read_json(&config_path)? } else { Value::Null };
        let specials = specials(&inner, &config).map_err(|problem| EncoderError::file(&path, problem))?;
        let padding = if padded { Some(padding(&inner, &config, written)) } else { None };
        if let Some(Padding { id, .. }) = padding
            && id as usize >= vocab
        {
            return Err(EncoderError::file(&path, format!("pads with token {id}, but the model has room for {vocab}")));
        }
        let all = Self { inner, cleaning, specials, padding, pool, context, vocab };
        if ends {
            all.check_end().map_err(|problem| EncoderError::file(&path, problem))?;
        } else if all.specials.0.is_empty() {
            return Err(EncoderError::file(&path, "puts no token before a text, which the model reads there"));
        }
        Ok(all)
    }

    /// The end-of-text token must be put behind every text where the model is read there.
    fn check_end(&self) -> Result<(), String> {
        let all = || self.specials.0.iter().chain(&self.specials.1);
        let (last, largest) = (all().last(), all().max());
        let (ends, wanted) = match self.pool {
            TextPool::Last => return Ok(()),
            // Old files say 2 and mean the largest id.
            TextPool::LargestId => (last.is_some() && last == largest, "whose id is the largest".to_owned()),
            TextPool::EndToken(end) => (last == Some(&end), format!("{end} of the model's configuration")),
        };
        if ends {
            return Ok(());
        }
        let found = last.map_or("no token".into(), |id| format!("token {id}"));
        Err(format!("puts {found} behind a text, not the end-of-text token {wanted}; take the model's own"))
    }

    /// Token ids with begin and end; a long text loses its tail, not its end token.
    pub(crate) fn encode(&self, text: &str) -> Result<Vec<u32>, EncoderError> {
        let fail = |problem: String| EncoderError::Tokenize { text: text.chars().take(60).collect(), problem };
        let clean = self.cleaning.map_or(Cow::Borrowed(text), |cleaning| Cow::Owned(cleaning.apply(text)));
        let encoding = self.inner.encode_fast(&*clean, false).map_err(|e| fail(e.to_string()))?;
        let (before, behind) = &self.specials;
        let room = self.context.saturating_sub(before.len() + behind.len());
        let body = encoding.get_ids();
        let mut ids: Vec<u32> = before.iter().chain(&body[..body.len().min(room)]).chain(behind).copied().collect();
        // A context of one or two tokens, of which begin and end are more.
        ids.drain(..ids.len().saturating_sub(self.context));
        if let Some(id) = ids.iter().find(|&&id| id as usize >= self.vocab) {
            return Err(fail(format!("token {id} is outside the vocabulary of {}", self.vocab)));
        }
        if ids.is_empty() && self.padding.is_none() {
            return Err(fail("it gives no tokens".into()));
        }
        Ok(ids)
    }

    /// The same as the model takes it.
    pub(crate) fn tokens(&self, text: &str) -> Result<Tokens, EncoderError> {
        let mut ids = self.encode(text)?;
        let mut begin = 0;
        if let Some(Padding { id, left }) = self.padding {
            let missing = self.context.saturating_sub(ids.len());
            begin = if left { missing } else { 0 };
            let at = if left { 0 } else { ids.len() };
            ids.splice(at..at, std::iter::repeat_n(id, missing));
        }
        self.pooled(ids, begin)
    }

    /// Checks ids: 1 to as many as the context, all of the vocabulary.
    pub(crate) fn check(&self, ids: &[u32]) -> Result<(), EncoderError> {
        let fail = |problem: String| Err(EncoderError::Tokenize { text: format!("{} ids", ids.len()), problem });
        if ids.is_empty() || ids.len() > self.context {
            return fail(format!("the model takes 1 to {}", self.context));
        }
        match ids.iter().find(|&&id| id as usize >= self.vocab) {
            Some(id) => fail(format!("token {id} is outside the vocabulary of {}", self.vocab)),
            None => Ok(()),
        }
    }

    /// Ids that are the model's input, of which those before `begin` are padding, with the row that is read.
    pub(crate) fn pooled(&self, ids: Vec<u32>, begin: usize) -> Result<Tokens, EncoderError> {
        self.check(&ids)?;
        let pooled = match self.pool {
            TextPool::Last => self.context - 1,
            TextPool::EndToken(end) => begin + first(&ids[begin..], end),
            TextPool::LargestId => first(&ids, ids.iter().copied().max().unwrap_or_default()),
        };
        // Where it is the last token that is read, nothing but the whole context will do.
        if pooled >= ids.len() {
            let problem = format!("the model takes {}, with padding", self.context);
            return Err(EncoderError::Tokenize { text: format!("{} ids", ids.len()), problem });
        }
        Ok(Tokens { ids, pooled })
    }
}

/// Where an id is first; 0 where it is not, as the reference's argmax over "is it the end token" has it.
fn first(ids: &[u32], wanted: u32) -> usize {
    ids.iter().position(|&id| id == wanted).unwrap_or_default()
}

/// What stands before and behind a text: by tokenizer.json, unless tokenizer_config.json says otherwise.
fn specials(inner: &Tokenizer, config: &Value) -> Result<(Vec<u32>, Vec<u32>), String> {
    let ids =
        |text: &str, special| inner.encode_fast(text, special).map(|e| e.get_ids().to_vec()).map_err(|e| e.to_string());
    // Around a text that gives tokens, so that it is known which of them stand before.
    let (bare, full) = (ids("a", false)?, ids("a", true)?);
    let at = if bare.is_empty() { None } else { full.windows(bare.len()).position(|w| w == bare) };
    let at = at.unwrap_or_default();
    let (mut before, mut behind) = (full[..at].to_vec(), full[(at + bare.len()).min(full.len())..].to_vec());
    for (switch, name, place) in
        [("add_bos_token", "bos_token", &mut before), ("add_eos_token", "eos_token", &mut behind)]
    {
        match config.get(switch).and_then(Value::as_bool) {
            None => {}
            Some(false) => place.clear(),
            Some(true) => *place = token(inner, config, name).into_iter().collect(),
        }
    }
    Ok((before, behind))
}

/// The id of a token that tokenizer_config.json names, as text or with its settings.
fn token(inner: &Tokenizer, config: &Value, name: &str) -> Option<u32> {
    let value = config.get(name)?;
    let text = value.as_str().or_else(|| value.get("content")?.as_str())?;
    inner.token_to_id(text)
}

/// What texts are padded with, and where.
fn padding(inner: &Tokenizer, config: &Value, written: Option<u32>) -> Padding {
    let named = ["<pad>", "[PAD]", "</s>"].iter().find_map(|name| inner.token_to_id(name));
    let id = token(inner, config, "pad_token").or(written).or(named).unwrap_or_default();
    Padding { id, left: config.get("padding_side").and_then(Value::as_str) == Some("left") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_are_pooled_at_the_first_of_an_id() {
        assert_eq!(first(&[8, 3, 9, 4, 9], 9), 2);
        assert_eq!(first(&[8, 3], 9), 0);
    }

    #[test]
    fn cleaning_is_that_of_the_references() {
        let text = "  A_photo of\ttwo CATS, on the grass!  ";
        assert_eq!(Cleaning::Spaces.apply(text), "A_photo of two CATS, on the grass!");
        assert_eq!(Cleaning::Lower.apply("A  Photo"), "a  photo");
        assert_eq!(Cleaning::SpacesLower.apply(text), "a_photo of two cats, on the grass!");
        assert_eq!(Cleaning::Siglip.apply(text), "aphoto of two cats on the grass");
        assert_eq!(Cleaning::Canonical.apply(text), "a photo of two cats on the grass");
        assert_eq!(Cleaning::Spaces.apply("it’s a “dog”"), "it's a \"dog\"");
        assert_eq!(Cleaning::Siglip.apply("naïve café — 😀"), "naïve café — 😀");
    }
}
