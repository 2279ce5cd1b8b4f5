//! tokenizer.json, with truncation that keeps the end-of-text token.

use crate::EncoderError;
use crate::config::TextConfig;
use crate::files::read_text;
use std::path::Path;
use std::str::FromStr;
use tokenizers::Tokenizer;

pub(crate) struct TextTokenizer {
    inner: Tokenizer,
    max_tokens: usize,
    vocab_size: usize,
}

impl TextTokenizer {
    /// Reads tokenizer.json. Its own truncation and padding are switched off: they are settings of the file's writer.
    /// The end-of-text token must be put behind every text: there the model is read.
    pub(crate) fn open(path: &Path, config: &TextConfig) -> Result<Self, EncoderError> {
        let mut inner = Tokenizer::from_str(&read_text(path)?).map_err(|e| EncoderError::file(path, e))?;
        inner.with_padding(None);
        inner.with_truncation(None).map_err(|e| EncoderError::file(path, e))?;
        let (found, vocab_size) = (inner.get_vocab_size(true), config.vocab_size);
        if found > vocab_size {
            let problem = format!("has {found} tokens, but config.json has room for {vocab_size}");
            return Err(EncoderError::file(path, problem));
        }
        let specials = inner.encode_fast("", true).map_err(|e| EncoderError::file(path, e))?;
        let (last, largest) = (specials.get_ids().last(), specials.get_ids().iter().max());
        let end = config.eos_token_id;
        // Old files say 2 and mean the largest id.
        let ends = if end == 2 { last.is_some() && last == largest } else { last == Some(&end) };
        if !ends {
            let wanted = if end == 2 { "whose id is the largest".into() } else { format!("{end} of config.json") };
            let found = last.map_or("no token".into(), |id| format!("token {id}"));
            let problem =
                format!("puts {found} behind a text, not the end-of-text token {wanted}; take the model's own");
            return Err(EncoderError::file(path, problem));
        }
        Ok(Self { inner, max_tokens: config.max_positions, vocab_size })
    }

    /// Token ids with begin and end; a long text loses its tail, not its end token.
    pub(crate) fn encode(&self, text: &str) -> Result<Vec<u32>, EncoderError> {
        let fail = |problem: String| EncoderError::Tokenize { text: text.chars().take(60).collect(), problem };
        let encoding = self.inner.encode_fast(text, true).map_err(|e| fail(e.to_string()))?;
        let mut ids = encoding.get_ids().to_vec();
        if ids.len() > self.max_tokens {
            let end = ids.last().copied();
            ids.truncate(self.max_tokens);
            if let (Some(last), Some(end)) = (ids.last_mut(), end) {
                *last = end;
            }
        }
        if let Some(id) = ids.iter().find(|&&id| id as usize >= self.vocab_size) {
            return Err(fail(format!("token {id} is outside the vocabulary of {}", self.vocab_size)));
        }
        if ids.is_empty() {
            return Err(fail("it gives no tokens".into()));
        }
        Ok(ids)
    }
}
