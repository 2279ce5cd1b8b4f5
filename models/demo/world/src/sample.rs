//! Draws scenes, changes them, recombines them, and makes the initial set.

use crate::facts::{Content, Facts, NOUNS, Relation, Split, Thing};
use crate::grammar;
use crate::worlds::{Pictures, within};
use rand::{Rng, RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

fn noun(rng: &mut impl Rng) -> u8 {
    rng.random_range(0..NOUNS as u8)
}

fn colour(rng: &mut impl Rng) -> u8 {
    rng.random_range(0..8)
}

fn distinct<const N: usize>(rng: &mut impl Rng) -> [u8; N] {
    let mut out = [0; N];
    for i in 0..N {
        out[i] = loop {
            let n = noun(rng);
            if !out[..i].contains(&n) {
                break n;
            }
        };
    }
    out
}

fn relation(rng: &mut impl Rng) -> Relation {
    if rng.random_bool(0.5) { Relation::LeftOf } else { Relation::Above }
}

/// Complete facts, of any split: 45 % one kind, 35 % two, 20 % three.
pub fn facts(rng: &mut impl Rng) -> Facts {
    let content = match rng.random_range(0..20) {
        0..9 => Content::One {
            noun: noun(rng),
            colour: colour(rng),
            count: rng.random_range(1..=3),
            size: Some(rng.random_range(0..2)),
            position: Some(rng.random_range(0..5)),
        },
        9..16 => {
            let [a, b] = distinct(rng).map(|noun| Thing { noun, colour: colour(rng), size: rng.random_range(0..2) });
            Content::Two { a, relation: relation(rng), b }
        }
        _ => {
            let mut objects = distinct(rng).map(|n| (n, colour(rng)));
            objects.sort_unstable();
            Content::Three(objects)
        }
    };
    Facts { content, background: Some(rng.random_range(0..8)) }
}

/// The texts that a run starts from: 768 short captions of one kind each, most of them saying little, none
/// with a held-out combination.
pub fn initial_set(seed: u64) -> Vec<String> {
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    let mut out = std::collections::BTreeSet::new();
    for noun in 0..NOUNS as u8 {
        let mut left = 16;
        while left > 0 {
            let facts = Facts {
                content: Content::One {
                    noun,
                    colour: colour(&mut rng),
                    count: [1, 1, 1, 2, 3][rng.random_range(0..5)],
                    size: rng.random_bool(0.5).then(|| rng.random_range(0..2)),
                    position: rng.random_bool(0.5).then(|| rng.random_range(0..5)),
                },
                background: rng.random_bool(0.5).then(|| rng.random_range(0..8)),
            };
            let fresh = facts.split() == Split::Train && out.insert(grammar::caption(&facts, &mut rng));
            left -= usize::from(fresh);
        }
    }
    out.into_iter().collect()
}

/// Changes one thing, staying in the part of the world that training sees.
pub fn perturb(facts: &Facts, rng: &mut impl Rng) -> Facts {
    within::<Pictures>(facts, || change(*facts, rng))
}

/// Changes how things go together and not what is there, staying in the part of the world that training sees: what a
/// scorer that hears captions as bags of words does not notice. Of one kind, its place, size or number; of several
/// things, which of them has which colour, size or place. Returns the facts as they were where nothing can change so.
pub fn confuse(facts: &Facts, rng: &mut impl Rng) -> Facts {
    within::<Pictures>(facts, || Facts { content: confuse_once(facts.content, rng), ..*facts })
}

fn confuse_once(content: Content, rng: &mut impl Rng) -> Content {
    match content {
        Content::One { noun, colour, count, size, position } => {
            let mut out = (count, size, position);
            match rng.random_range(0..4) {
                0 => out.0 = rng.random_range(1..=3),
                1 => out.1 = size.map(|s| 1 - s),
                _ => out.2 = position.map(|_| rng.random_range(0..5)),
            }
            Content::One { noun, colour, count: out.0, size: out.1, position: out.2 }
        }
        Content::Two { mut a, mut relation, mut b } => {
            match rng.random_range(0..6) {
                0..3 => std::mem::swap(&mut a.colour, &mut b.colour),
                3 => std::mem::swap(&mut a.size, &mut b.size),
                4 => std::mem::swap(&mut a, &mut b),
                _ => relation = if relation == Relation::Above { Relation::LeftOf } else { Relation::Above },
            }
            Content::Two { a, relation, b }
        }
        Content::Three(mut objects) => {
            let i = rng.random_range(0..3_usize);
            let j = (i + rng.random_range(1..3_usize)) % 3;
            let colours = (objects[i].1, objects[j].1);
            (objects[j].1, objects[i].1) = colours;
            Content::Three(objects)
        }
    }
}

/// Changes one thing, in any split; now and then what comes out is what went in.
pub fn change(mut facts: Facts, rng: &mut impl Rng) -> Facts {
    if rng.random_bool(0.15) {
        facts.background = Some(rng.random_range(0..8));
        return facts;
    }
    if rng.random_bool(0.05) {
        facts.background = None;
        return facts;
    }
    facts.content = match facts.content {
        Content::One { .. } => change_one(facts.content, rng),
        Content::Two { a, relation, b } => change_two(a, relation, b, rng),
        Content::Three(objects) => change_three(objects, rng),
    };
    facts
}

fn change_one(content: Content, rng: &mut impl Rng) -> Content {
    let Content::One { mut noun, mut colour, mut count, mut size, mut position } = content else {
        return content;
    };
    match rng.random_range(0..100) {
        0..38 => noun = self::noun(rng),
        38..56 => colour = self::colour(rng),
        56..67 => count = rng.random_range(1..=3),
        67..77 => size = Some(rng.random_range(0..2)),
        77..89 => position = Some(rng.random_range(0..5)),
        89..93 => (if rng.random_bool(0.5) { &mut size } else { &mut position }).take().map_or((), |_| ()),
        _ => {
            let a = Thing { noun, colour, size: size.unwrap_or(0) };
            let b = Thing { noun: other(noun, rng), colour: self::colour(rng), size: rng.random_range(0..2) };
            return Content::Two { a, relation: relation(rng), b };
        }
    }
    Content::One { noun, colour, count, size, position }
}

fn other(not: u8, rng: &mut impl Rng) -> u8 {
    loop {
        let n = noun(rng);
        if n != not {
            return n;
        }
    }
}

fn change_two(mut a: Thing, mut relation: Relation, mut b: Thing, rng: &mut impl Rng) -> Content {
    if rng.random_bool(0.5) {
        // Either end of the pair is changed equally often; the relation is read backwards with it.
        std::mem::swap(&mut a, &mut b);
        let changed = change_pair(a, &mut relation, b, rng);
        return match changed {
            Content::Two { a, relation, b } => Content::Two { a: b, relation, b: a },
            other => other,
        };
    }
    change_pair(a, &mut relation, b, rng)
}

fn change_pair(mut a: Thing, relation: &mut Relation, mut b: Thing, rng: &mut impl Rng) -> Content {
    match rng.random_range(0..100) {
        0..36 => a.noun = other(b.noun, rng),
        36..54 => a.colour = colour(rng),
        54..62 => a.size = 1 - a.size,
        62..66 => std::mem::swap(&mut a, &mut b),
        66..74 => *relation = self::relation(rng),
        74..82 => std::mem::swap(&mut a.colour, &mut b.colour),
        82..88 => std::mem::swap(&mut a.size, &mut b.size),
        88..94 => {
            return Content::One { noun: a.noun, colour: a.colour, count: 1, size: Some(a.size), position: None };
        }
        _ => {
            let third = loop {
                let n = noun(rng);
                if n != a.noun && n != b.noun {
                    break n;
                }
            };
            let mut objects = [(a.noun, a.colour), (b.noun, b.colour), (third, colour(rng))];
            objects.sort_unstable();
            return Content::Three(objects);
        }
    }
    Content::Two { a, relation: *relation, b }
}

fn change_three(mut objects: [(u8, u8); 3], rng: &mut impl Rng) -> Content {
    let i = rng.random_range(0..3_usize);
    let j = (i + rng.random_range(1..3_usize)) % 3;
    match rng.random_range(0..100) {
        0..42 => {
            let fresh = noun(rng);
            if objects.iter().all(|o| o.0 != fresh) {
                objects[i].0 = fresh;
            }
        }
        42..68 => objects[i].1 = colour(rng),
        68..90 => {
            let kept = objects[i].1;
            objects[i].1 = objects[j].1;
            objects[j].1 = kept;
        }
        _ => {
            let [a, b] =
                [objects[i], objects[j]].map(|(noun, colour)| Thing { noun, colour, size: rng.random_range(0..2) });
            return Content::Two { a, relation: relation(rng), b };
        }
    }
    objects.sort_unstable();
    Content::Three(objects)
}

/// True facts that leave something out.
pub fn shortened(mut facts: Facts, rng: &mut impl Rng) -> Facts {
    if rng.random_bool(0.4) {
        facts.background = None;
    }
    let coloured = facts.coloured();
    let (noun, colour) = coloured[rng.random_range(0..coloured.len())];
    facts.content = match facts.content {
        Content::One { count, size, position, .. } => Content::One {
            noun,
            colour,
            count,
            size: size.filter(|_| rng.random_bool(0.5)),
            position: position.filter(|_| rng.random_bool(0.5)),
        },
        Content::Two { a, b, .. } if rng.random_bool(0.6) => {
            let t = if rng.random_bool(0.5) { a } else { b };
            let size = rng.random_bool(0.7).then_some(t.size);
            Content::One { noun: t.noun, colour: t.colour, count: 1, size, position: None }
        }
        Content::Three(_) if rng.random_bool(0.6) => {
            Content::One { noun, colour, count: 1, size: None, position: None }
        }
        other => other,
    };
    facts
}

/// Recombines the pool by the grammar: the kind of a random member, then every part independently from a random
/// member that states it (at random where none does). May reach combinations of either split.
pub fn recombine(pool: &[Facts], rng: &mut impl Rng) -> Facts {
    fn pick<T: Copy>(from: &[T], rng: &mut impl Rng) -> Option<T> {
        (!from.is_empty()).then(|| from[rng.random_range(0..from.len())])
    }
    let nouns: Vec<u8> = pool.iter().flat_map(Facts::nouns).collect();
    let coloured: Vec<(u8, u8)> = pool.iter().flat_map(Facts::coloured).collect();
    let (mut sizes, mut counts, mut positions, mut relations) = (vec![], vec![], vec![], vec![]);
    for facts in pool {
        match facts.content {
            Content::One { count, size, position, .. } => {
                counts.push(count);
                sizes.extend(size);
                positions.extend(position);
            }
            Content::Two { a, relation, b } => {
                sizes.extend([a.size, b.size]);
                relations.push(relation);
            }
            Content::Three(_) => {}
        }
    }
    let backgrounds: Vec<u8> = pool.iter().filter_map(|f| f.background).collect();
    let mut taken = Vec::new();
    let mut fresh_noun = |rng: &mut _| {
        let chosen = (0..20).filter_map(|_| pick(&nouns, rng)).find(|n| !taken.contains(n)).unwrap_or_else(|| {
            loop {
                let n = noun(rng);
                if !taken.contains(&n) {
                    break n;
                }
            }
        });
        taken.push(chosen);
        chosen
    };
    let hue = |rng: &mut _| pick(&coloured, rng).map_or_else(|| colour(rng), |c| c.1);
    let extent = |rng: &mut _| pick(&sizes, rng).unwrap_or_else(|| RngExt::random_range(rng, 0..2));
    let content = match pick(pool, rng).map(|f| f.content) {
        Some(Content::Two { .. }) => {
            let a = Thing { noun: fresh_noun(rng), colour: hue(rng), size: extent(rng) };
            let b = Thing { noun: fresh_noun(rng), colour: hue(rng), size: extent(rng) };
            let relation = pick(&relations, rng).unwrap_or_else(|| relation(rng));
            Content::Two { a, relation, b }
        }
        Some(Content::Three(_)) => {
            let mut objects = [(); 3].map(|()| (fresh_noun(rng), hue(rng)));
            objects.sort_unstable();
            Content::Three(objects)
        }
        _ => Content::One {
            noun: fresh_noun(rng),
            colour: hue(rng),
            count: pick(&counts, rng).unwrap_or_else(|| rng.random_range(1..=3)),
            size: Some(extent(rng)),
            position: Some(pick(&positions, rng).unwrap_or_else(|| rng.random_range(0..5))),
        },
    };
    Facts { content, background: Some(pick(&backgrounds, rng).unwrap_or_else(|| rng.random_range(0..8))) }
}
