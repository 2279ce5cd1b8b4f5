//! The control without a language model: random recombination of the shown texts by the grammar.

use mils_demo_world::{Facts, grammar, sample};
use mils_optim::{BoxError, Generator, Proposals, Request};
use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;
use std::collections::BTreeSet;

/// Proposes captions whose every part stands in some shown caption.
#[derive(Clone, Copy, Debug, Default)]
pub struct Recombine;

impl Generator for Recombine {
    fn propose(&mut self, request: &Request<'_>) -> Result<Proposals, BoxError> {
        let mut rng = ChaCha8Rng::seed_from_u64(request.seed);
        let pool: Vec<Facts> = request.pool.iter().filter_map(|c| grammar::parse(&c.text)).collect();
        let mut texts = BTreeSet::new();
        // Recombinations repeat; tries are bounded so that a uniform pool does not hang the loop.
        for _ in 0..request.count * 4 {
            if texts.len() < request.count {
                texts.insert(grammar::caption(&sample::recombine(&pool, &mut rng), &mut rng));
            }
        }
        Ok(Proposals { texts: texts.into_iter().collect(), ..Proposals::default() })
    }
}
