//! Which words of two texts belong together.
//!
//! Every stage proposes matches. Those that no other touches are taken; of the others a beam search over the reference
//! takes a set without overlaps that covers most words, in fewest chunks, with most matches and the least distance. As in
//! METEOR 1.5, what a match adds to the words covered is cut to a whole number, so that a single word by its stem (weight
//! 0.6) adds nothing: it is taken if it lengthens a chunk, and not if it would be one of its own.

/// What a match was found by, in the order of the stages.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Stage {
    Exact,
    Stem,
    Synonym,
    Paraphrase,
}

/// Words of the candidate that may belong to words of the reference.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Match {
    pub(super) stage: Stage,
    /// The first in the reference, and how many.
    pub(super) start: usize,
    pub(super) length: usize,
    /// The same in the candidate.
    pub(super) other: usize,
    pub(super) other_length: usize,
}

impl Match {
    /// What so many words are worth when the search compares.
    fn worth(self, words: usize) -> usize {
        match self.stage {
            Stage::Exact => words,
            // Half of them, in whole words.
            Stage::Stem | Stage::Synonym | Stage::Paraphrase => words * 6 / 10,
        }
    }
}

/// Places that are taken, of a text.
#[derive(Clone, Debug)]
struct Used(Vec<u64>);

impl Used {
    fn new(words: usize) -> Self {
        Self(vec![0; words.div_ceil(64)])
    }

    fn any(&self, start: usize, length: usize) -> bool {
        (start..start + length).any(|at| self.0[at / 64] >> (at % 64) & 1 == 1)
    }

    fn take(&mut self, start: usize, length: usize) {
        for at in start..start + length {
            self.0[at / 64] |= 1 << (at % 64);
        }
    }
}

/// A beginning of an alignment.
#[derive(Clone, Debug)]
struct Path {
    /// Places of the reference's matches, by their numbers, as a list from the last one.
    chosen: Vec<usize>,
    worth: usize,
    /// Matches.
    count: usize,
    chunks: usize,
    distance: usize,
    /// The place in the reference that comes next.
    next: usize,
    /// Where the candidate goes on, if the last match ended right before `next`.
    open: Option<usize>,
    reference: Used,
    candidate: Used,
}

impl Path {
    fn with(mut self, number: usize, m: Match) -> Self {
        self.reference.take(m.start, m.length);
        self.candidate.take(m.other, m.other_length);
        if self.open.is_some_and(|place| place != m.other) {
            self.chunks += 1;
        }
        self.open = Some(m.other + m.other_length);
        self.next = m.start + m.length;
        self.worth += m.worth(m.length) + m.worth(m.other_length);
        self.count += 1;
        self.distance += m.start.abs_diff(m.other);
        self.chosen.push(number);
        self
    }

    /// Goes on without a match.
    fn without(mut self) -> Self {
        self.chunks += usize::from(self.open.take().is_some());
        self.next += 1;
        self
    }
}

/// The matches that are taken, in the order of the reference. `matches` are by their start in the reference, and of one
/// start in the order of stages.
pub(super) fn align(matches: &[Match], candidate: usize, reference: usize, beam: usize) -> Vec<Match> {
    let (mut in_candidate, mut in_reference) = (vec![0u32; candidate], vec![0u32; reference]);
    for m in matches {
        in_candidate[m.other..m.other + m.other_length].iter_mut().for_each(|n| *n += 1);
        in_reference[m.start..m.start + m.length].iter_mut().for_each(|n| *n += 1);
    }
    let alone = |m: &Match| {
        in_candidate[m.other..m.other + m.other_length].iter().all(|n| *n == 1)
            && in_reference[m.start..m.start + m.length].iter().all(|n| *n == 1)
    };
    // Those that start at each place, and whether it is one that no other touches.
    let mut at: Vec<(Vec<usize>, bool)> = vec![(Vec::new(), false); reference];
    for (number, m) in matches.iter().enumerate() {
        at[m.start].0.push(number);
        at[m.start].1 |= alone(m);
    }
    let mut paths = vec![Path {
        chosen: Vec::new(),
        worth: 0,
        count: 0,
        chunks: 0,
        distance: 0,
        next: 0,
        open: None,
        reference: Used::new(reference),
        candidate: Used::new(candidate),
    }];
    for (place, (numbers, alone)) in at.iter().enumerate() {
        let mut longer = Vec::with_capacity(paths.len() * (numbers.len() + 1));
        for path in paths {
            if path.next > place {
                longer.push(path);
                continue;
            }
            for number in numbers {
                let m = matches[*number];
                if !path.reference.any(m.start, m.length) && !path.candidate.any(m.other, m.other_length) {
                    longer.push(path.clone().with(*number, m));
                }
            }
            if !alone {
                longer.push(path.without());
            }
        }
        paths = longer;
        sort(&mut paths);
        paths.truncate(beam.max(1));
    }
    for path in &mut paths {
        path.chunks += usize::from(path.open.take().is_some());
    }
    sort(&mut paths);
    paths.first().map(|p| p.chosen.iter().map(|n| matches[*n]).collect()).unwrap_or_default()
}

/// Best first; those that are as good stay in their order.
fn sort(paths: &mut [Path]) {
    paths.sort_by(|a, b| (b.worth, a.chunks, b.count, a.distance).cmp(&(a.worth, b.chunks, a.count, b.distance)));
}

/// Runs of matches that stand in both texts in the same order without gaps.
pub(super) fn chunks(matches: &[Match]) -> u64 {
    let next = |pair: &[Match]| {
        pair[0].start + pair[0].length == pair[1].start && pair[0].other + pair[0].other_length == pair[1].other
    };
    u64::from(!matches.is_empty()) + matches.windows(2).filter(|pair| !next(pair)).count() as u64
}
