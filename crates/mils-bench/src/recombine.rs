//! What the controls need: random recombination of the shown texts by the grammar, in the language model's place, and
//! a quota that holds every control to the loop's number of scored texts.

use crate::quality::Subject;
use mils_optim::{BoxError, Generator, Proposals, Request};
use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;
use std::collections::{BTreeSet, HashMap, HashSet};

/// Questions to the generator for each of the loop's: a pool that knows only few captions stays short of its quota.
const MOST_ASKS: u64 = 2;

/// Holds a control to the number of new texts that the loop had scored in each step, so that all arms are compared at
/// the same number of scored texts.
#[derive(Clone, Debug)]
pub struct Quota {
    per_step: Vec<usize>,
    seen: HashSet<String>,
    /// New texts that each step has had so far.
    given: HashMap<usize, usize>,
}

impl Quota {
    /// `per_step[i]` new texts in step `i + 1`; what is in `initial` is not new.
    pub fn new(per_step: Vec<usize>, initial: &[String]) -> Self {
        Self { per_step, seen: initial.iter().cloned().collect(), given: HashMap::new() }
    }

    /// Asks `generator`, again with other seeds if need be, and passes on as many new texts as the step may have.
    ///
    /// # Errors
    /// As the generator.
    pub fn propose(&mut self, generator: &mut dyn Generator, request: &Request<'_>) -> Result<Proposals, BoxError> {
        let quota = request.step.checked_sub(1).and_then(|i| self.per_step.get(i)).copied().unwrap_or_default();
        let given = self.given.entry(request.step).or_default();
        let want = quota - (*given).min(quota);
        let mut out = Proposals::default();
        for ask in 0..MOST_ASKS {
            if out.texts.len() >= want {
                break;
            }
            let seed = request.seed.wrapping_add(ask.wrapping_mul(0x51_7C_C1_B7));
            let more = generator.propose(&Request { seed, ..*request })?;
            out.unusable.extend(more.unusable);
            out.usage += more.usage;
            for text in more.texts {
                if out.texts.len() < want && self.seen.insert(text.clone()) {
                    out.texts.push(text);
                }
            }
        }
        *given += out.texts.len();
        if out.texts.is_empty() {
            // Nothing new is a step without news, not a generator that fails: a known text says so.
            out.texts.extend(request.pool.last().map(|known| known.text.clone()));
        }
        Ok(out)
    }
}

/// Proposes captions of a subject whose every part stands in some shown caption.
#[derive(Clone, Copy, Debug)]
pub struct Recombine<'s, S>(pub &'s S);

impl<S: Subject> Generator for Recombine<'_, S> {
    fn propose(&mut self, request: &Request<'_>) -> Result<Proposals, BoxError> {
        let mut rng = ChaCha8Rng::seed_from_u64(request.seed);
        let shown: Vec<&str> = request.pool.iter().map(|c| c.text.as_str()).collect();
        let mut texts = BTreeSet::new();
        // Recombinations repeat; tries are bounded so that a uniform pool does not hang the loop.
        for _ in 0..request.count * 4 {
            if texts.len() < request.count {
                texts.insert(self.0.recombined(&shown, &mut rng));
            }
        }
        Ok(Proposals { texts: texts.into_iter().collect(), ..Proposals::default() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::quality::Pictures;
    use mils_optim::Labelled;

    fn ask(quota: &mut Quota, step: usize, pool: &[Labelled]) -> Vec<String> {
        quota.propose(&mut Recombine(&Pictures), &Request { step, pool, count: 32, seed: 1 }).unwrap_or_default().texts
    }

    #[test]
    fn a_control_scores_as_many_new_texts_as_the_loop() {
        let texts = ["two big red cats on the left, at night", "a small blue dog at the top, in the snow"];
        let shown = |(label, text): (u32, &&str)| Labelled { text: (*text).to_owned(), score: label as f32, label };
        let pool: Vec<Labelled> = (0..).zip(&texts).map(shown).collect();
        let mut quota = Quota::new(vec![5, 0, 3], &texts.map(str::to_owned));
        let first = ask(&mut quota, 1, &pool);
        assert_eq!(first.len(), 5);
        assert!(first.iter().all(|t| !texts.contains(&t.as_str())));
        assert_eq!(ask(&mut quota, 1, &pool), [texts[1]], "asked again, the step has had its share");
        assert_eq!(ask(&mut quota, 2, &pool), [texts[1]], "a known text stands for none");
        let third = ask(&mut quota, 3, &pool);
        assert!(third.len() == 3 && third.iter().all(|t| !first.contains(t)));
    }
}
