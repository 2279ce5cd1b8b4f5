//! Texts in batches of about one length, for every tower that reads one row of each.

use crate::EncoderError;
use crate::arch::TextTower;
use crate::encoder::{Embeddings, MOST_TEXTS, TOKEN_STEP, batches};
use crate::tokenizer::Tokens;
use mils_graph::HostTensor;
use std::collections::BTreeMap;

/// The inputs of [`crate::forward::text`] of so many texts with so many tokens, run: [batch, dim].
pub(crate) type Run<'a> = &'a mut dyn FnMut(usize, usize, &[HostTensor]) -> Result<Vec<f32>, EncoderError>;

/// One row a text, in order; texts of about one length go through together.
pub(crate) fn embed(
    tower: &TextTower,
    dim: usize,
    texts: Vec<Tokens>,
    run: Run<'_>,
) -> Result<Embeddings, EncoderError> {
    let mut data = vec![0.0; texts.len() * dim];
    let mut groups: BTreeMap<usize, Vec<(usize, Tokens)>> = BTreeMap::new();
    for (i, text) in texts.into_iter().enumerate() {
        let tokens = text.ids.len().next_multiple_of(TOKEN_STEP).min(tower.context);
        groups.entry(tokens).or_default().push((i, text));
    }
    for (tokens, group) in groups {
        for now in batches(&group, MOST_TEXTS) {
            let batch = now.len();
            let mut ids = Vec::with_capacity(batch * tokens);
            let mut rows = Vec::with_capacity(batch);
            let mut sees = Vec::with_capacity(batch);
            for (k, (_, text)) in now.iter().enumerate() {
                rows.push((k * tokens + text.pooled) as u32);
                sees.push(text.pooled as u32 + 1);
                ids.extend(&text.ids);
                // Texts that are shorter are causal: nothing before the end token can see what is put here.
                ids.resize((k + 1) * tokens, 0);
            }
            let mut inputs = vec![
                HostTensor::u32(&[batch, tokens], ids)?,
                HostTensor::u32(&[tokens], (0..tokens as u32).collect())?,
                HostTensor::u32(&[batch], rows)?,
            ];
            if tower.causal {
                inputs.push(HostTensor::u32(&[batch], sees)?);
            }
            let out = run(batch, tokens, &inputs)?;
            for ((i, _), row) in now.iter().zip(out.chunks_exact(dim)) {
                data[i * dim..(i + 1) * dim].copy_from_slice(row);
            }
        }
    }
    Ok(Embeddings::new(dim, data)?)
}
