//! What can be captioned and judged: the worlds of the demo, each behind the same few questions.

use anyhow::Result;
use mils_cli::media::{Media, Senses};
use mils_demo_world::motion::{self, render::Clip};
use mils_demo_world::worlds::{self, World};
use mils_demo_world::{Scene, Split, facts, render};
use mils_models::Modality;
use rand_chacha::ChaCha8Rng;

/// One way in which a caption is judged, and what is claimed of it.
#[derive(Clone, Copy, Debug)]
pub struct Mark {
    /// Its name in JSON.
    pub key: &'static str,
    /// Its name for people, of up to 20 characters.
    pub title: &'static str,
    /// What the loop must end at.
    pub at_least: Option<f64>,
    /// What the loop must gain over step 0.
    pub gains: Option<f64>,
    /// No text of the initial set may have any of it.
    pub starts_at_zero: bool,
    /// The loop must end ahead of random recombination.
    pub beats_recombination: bool,
}

impl Mark {
    pub(super) const fn new(key: &'static str, title: &'static str) -> Self {
        Self { key, title, at_least: None, gains: None, starts_at_zero: false, beats_recombination: false }
    }
}

/// Held-out scenes of a world, which are captioned.
pub trait Subject {
    /// One of them.
    type Scene;

    /// What its scenes are given to the loop as.
    fn modality(&self) -> Modality;

    /// How captions are judged; the last mark is whether a caption says everything and nothing else.
    fn marks(&self) -> &'static [Mark];

    /// Held-out scenes, the same for the same seed.
    ///
    /// # Errors
    /// If something cannot be read.
    fn scenes(&self, count: usize, seed: u64) -> Result<Vec<Self::Scene>>;

    /// What is given to the loop, as the encoder takes it.
    ///
    /// # Errors
    /// If something cannot be read.
    fn media(&self, scene: &Self::Scene, senses: &Senses) -> Result<Media>;

    /// A true caption.
    fn truth(&self, scene: &Self::Scene) -> String;

    /// As many as there are marks, each 0 to 1. A caption that is outside the grammar counts as wrong in everything.
    fn judge(&self, scene: &Self::Scene, caption: &str) -> Vec<f64>;

    /// A caption with one thing changed; nothing where the change changed nothing.
    fn changed(&self, scene: &Self::Scene, rng: &mut ChaCha8Rng) -> Option<String>;

    /// A caption whose every part stands in some of those shown.
    fn recombined(&self, shown: &[&str], rng: &mut ChaCha8Rng) -> String;

    /// All that can be said, plainly, of a world that is so small: what a search through everything would take. Empty
    /// for the others.
    fn vocabulary(&self) -> Vec<String> {
        Vec::new()
    }
}

/// The world of pictures.
#[derive(Clone, Copy, Debug)]
pub struct Pictures;

/// The world of moving scenes.
#[derive(Clone, Copy, Debug)]
pub struct Videos;

/// How often [`Videos`] hands out a frame of the two or three seconds that its scenes last.
const FRAMES: usize = 32;

/// The marks of what a caption says; none for one that was not read.
pub(super) fn judged<F>(marks: &[Mark], said: Option<F>, judge: impl Fn(&F) -> Vec<f32>) -> Vec<f64> {
    let said = said.map(|said| judge(&said).into_iter().map(f64::from).collect());
    said.unwrap_or_else(|| vec![0.0; marks.len()])
}

/// Changed facts as a caption, unless they are the same.
pub(super) fn changed<F: PartialEq>(truth: &F, changed: &F, say: impl Fn(&F) -> String) -> Option<String> {
    (changed != truth).then(|| say(changed))
}

/// A caption of what is read of those shown.
pub(super) fn recombined_of<F>(
    shown: &[&str],
    parse: impl Fn(&str) -> Option<F>,
    mix: impl FnOnce(&[F]) -> String,
) -> String {
    mix(&shown.iter().filter_map(|text| parse(text)).collect::<Vec<_>>())
}

fn recombined<W: World>(shown: &[&str], rng: &mut ChaCha8Rng) -> String {
    recombined_of(shown, W::parse, |pool| {
        let mixed = W::recombine(pool, rng);
        W::caption(&mixed, rng)
    })
}

fn truth_value(holds: bool) -> f32 {
    f32::from(u8::from(holds))
}

impl Subject for Pictures {
    type Scene = Scene;

    fn modality(&self) -> Modality {
        Modality::Image
    }

    fn marks(&self) -> &'static [Mark] {
        const MARKS: [Mark; 3] = [
            Mark { at_least: Some(0.90), ..Mark::new("noun_recall", "noun recall") },
            Mark { gains: Some(0.25), beats_recombination: true, ..Mark::new("attribute_accuracy", "attributes") },
            Mark {
                at_least: Some(0.30),
                starts_at_zero: true,
                beats_recombination: true,
                ..Mark::new("exact", "exact")
            },
        ];
        &MARKS
    }

    fn scenes(&self, count: usize, seed: u64) -> Result<Vec<Scene>> {
        Ok(worlds::scenes::<worlds::Pictures>(Split::HeldOut, count, seed))
    }

    fn media(&self, scene: &Scene, _: &Senses) -> Result<Media> {
        Ok(render::render(scene).image.into())
    }

    fn truth(&self, scene: &Scene) -> String {
        worlds::Pictures::canonical(&scene.facts)
    }

    fn judge(&self, scene: &Scene, caption: &str) -> Vec<f64> {
        let truth = &scene.facts;
        judged(self.marks(), worlds::Pictures::parse(caption), |said| {
            let exact = truth_value(facts::exact(truth, said));
            vec![facts::noun_recall(truth, said), facts::attribute_accuracy(truth, said), exact]
        })
    }

    fn changed(&self, scene: &Scene, rng: &mut ChaCha8Rng) -> Option<String> {
        changed(&scene.facts, &worlds::Pictures::change(&scene.facts, rng), worlds::Pictures::canonical)
    }

    fn recombined(&self, shown: &[&str], rng: &mut ChaCha8Rng) -> String {
        recombined::<worlds::Pictures>(shown, rng)
    }
}

impl Subject for Videos {
    type Scene = motion::Scene;

    fn modality(&self) -> Modality {
        Modality::Video
    }

    fn marks(&self) -> &'static [Mark] {
        const MARKS: [Mark; 4] = [
            Mark { gains: Some(0.25), ..Mark::new("noun_recall", "noun recall") },
            Mark { gains: Some(0.25), beats_recombination: true, ..Mark::new("verb_accuracy", "verbs") },
            Mark { gains: Some(0.25), beats_recombination: true, ..Mark::new("attribute_accuracy", "attributes") },
            Mark { starts_at_zero: true, beats_recombination: true, ..Mark::new("exact", "exact") },
        ];
        &MARKS
    }

    fn scenes(&self, count: usize, seed: u64) -> Result<Vec<motion::Scene>> {
        Ok(worlds::scenes::<motion::Videos>(Split::HeldOut, count, seed))
    }

    fn media(&self, scene: &motion::Scene, _: &Senses) -> Result<Media> {
        // Of a file's frames, those that an encoder of eight would be given.
        Ok(Media::Video(Clip::new(scene).frames(FRAMES).into_iter().step_by(FRAMES / 8).collect()))
    }

    fn truth(&self, scene: &motion::Scene) -> String {
        motion::grammar::canonical(&scene.facts)
    }

    fn judge(&self, scene: &motion::Scene, caption: &str) -> Vec<f64> {
        let truth = &scene.facts;
        judged(self.marks(), motion::Videos::parse(caption), |said| {
            use motion::facts::{attribute_accuracy, exact, noun_recall, verb_accuracy};
            let exact = truth_value(exact(truth, said));
            vec![noun_recall(truth, said), verb_accuracy(truth, said), attribute_accuracy(truth, said), exact]
        })
    }

    fn changed(&self, scene: &motion::Scene, rng: &mut ChaCha8Rng) -> Option<String> {
        changed(&scene.facts, &motion::Videos::change(&scene.facts, rng), motion::Videos::canonical)
    }

    fn recombined(&self, shown: &[&str], rng: &mut ChaCha8Rng) -> String {
        recombined::<motion::Videos>(shown, rng)
    }
}
