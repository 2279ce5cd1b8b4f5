//! tokenizer.json, with truncation that keeps the end-of-text token.

use crate::EncoderError;
use std::path::Path;
use tokenizers::Tokenizer;

pub(crate) struct TextTokenizer {
    inner: Tokenizer,
    max_tokens: usize,
    vocab_size: usize,
}

impl TextTokenizer {
    /// Reads tokenizer.json. Its own truncation and padding are switched off: they are settings of the file's writer.
    pub(crate) fn open(path: &Path, max_tokens: usize, vocab_size: usize) -> Result<Self, EncoderError> {
        if !path.exists() {
            return Err(EncoderError::file(path, "is missing; a CLIP checkpoint folder has it"));
        }
        let mut inner = Tokenizer::from_file(path).map_err(|e| EncoderError::file(path, e))?;
        inner.with_padding(None);
        inner.with_truncation(None).map_err(|e| EncoderError::file(path, e))?;
        let found = inner.get_vocab_size(true);
        if found > vocab_size {
            let problem = format!("has {found} tokens, but config.json has room for {vocab_size}");
            return Err(EncoderError::file(path, problem));
        }
        Ok(Self { inner, max_tokens, vocab_size })
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
