//! Held-out recordings of ESC-10, alone and two at once.

use super::subject::{Mark, Subject, changed, judged, recombined_of};
use anyhow::{Context, Result, bail};
use mils_cli::media::{Media, Senses};
use mils_demo_world::sound::facts::{exact, recall};
use mils_demo_world::sound::recordings::{HELD_OUT_FOLD, Recording, list};
use mils_demo_world::sound::{Facts, grammar, mix, sample};
use mils_encoder::{Listening, Sound};
use mils_media::audio::{Audio, AudioFile};
use mils_models::Modality;
use rand::SeedableRng;
use rand::seq::SliceRandom;
use rand_chacha::ChaCha8Rng;
use std::path::{Path, PathBuf};

/// The world of sounds: recordings, or mixtures of two.
#[derive(Clone, Debug)]
pub struct Sounds {
    recordings: Vec<Recording>,
    mixed: bool,
}

/// One recording, or two that are heard at once.
#[derive(Clone, Debug)]
pub struct SoundScene {
    files: Vec<PathBuf>,
    facts: Facts,
}

impl Sounds {
    /// Those of a folder that the demo pack's encoder was not trained on: ESC-10, or its held-out part.
    ///
    /// # Errors
    /// If there are none, or the folder cannot be read.
    pub fn open(folder: &Path, mixed: bool) -> Result<Self> {
        let mut recordings = list(folder).with_context(|| format!("cannot read {}", folder.display()))?;
        recordings.retain(|r| r.fold == HELD_OUT_FOLD);
        if recordings.is_empty() {
            bail!(
                "{} has no recordings of fold {HELD_OUT_FOLD} of ESC-10, such as `001 - Dog bark/5-9032-A.ogg`",
                folder.display()
            );
        }
        Ok(Self { recordings, mixed })
    }

    /// What it is, for people.
    pub fn title(&self) -> &'static str {
        if self.mixed { "mixtures of two held-out recordings" } else { "held-out recordings" }
    }
}

fn hear(listening: &Listening, file: &Path) -> Result<Sound> {
    let open = || listening.read(&mut AudioFile::open(file)?);
    open().with_context(|| format!("cannot read {}", file.display()))
}

impl Subject for Sounds {
    type Scene = SoundScene;

    fn modality(&self) -> Modality {
        Modality::Sound
    }

    fn marks(&self) -> &'static [Mark] {
        const ALONE: [Mark; 2] = [
            Mark { at_least: Some(0.75), ..Mark::new("class_named", "sound named") },
            Mark { at_least: Some(0.75), ..Mark::new("class_accuracy", "it and no other") },
        ];
        const MIXED: [Mark; 2] = [
            Mark { gains: Some(0.25), ..Mark::new("class_recall", "sounds named") },
            Mark { at_least: Some(0.5), starts_at_zero: true, ..Mark::new("both_named", "both named") },
        ];
        if self.mixed { &MIXED } else { &ALONE }
    }

    fn scenes(&self, count: usize, seed: u64) -> Result<Vec<SoundScene>> {
        let sounds: Vec<u8> = self.recordings.iter().map(|r| r.sound).collect();
        if self.mixed {
            let of = |[a, b]: [usize; 2]| SoundScene {
                files: [a, b].map(|i| self.recordings[i].path.clone()).to_vec(),
                facts: Facts::two(sounds[a], sounds[b]),
            };
            return Ok(mix::pairs(&sounds, count, seed).into_iter().map(of).collect());
        }
        let mut order: Vec<usize> = (0..sounds.len()).collect();
        order.shuffle(&mut ChaCha8Rng::seed_from_u64(seed));
        order.truncate(count);
        let of = |i: usize| SoundScene { files: vec![self.recordings[i].path.clone()], facts: Facts::one(sounds[i]) };
        Ok(order.into_iter().map(of).collect())
    }

    fn media(&self, scene: &SoundScene, senses: &Senses) -> Result<Media> {
        let Senses::Sounds(listening) = senses else { bail!("the pack's scorer is not one of sounds") };
        let heard = scene.files.iter().map(|file| hear(listening, file)).collect::<Result<Vec<_>>>()?;
        Ok(Media::Sound(match <[Sound; 2]>::try_from(heard) {
            Ok(both) => mixture(&both, listening.sample_rate)?,
            Err(mut one) => one.pop().context("a scene without a recording")?,
        }))
    }

    fn truth(&self, scene: &SoundScene) -> String {
        grammar::canonical(&scene.facts)
    }

    fn judge(&self, scene: &SoundScene, caption: &str) -> Vec<f64> {
        let truth = &scene.facts;
        judged(self.marks(), grammar::parse(caption), |said| {
            vec![recall(truth, said), f32::from(u8::from(exact(truth, said)))]
        })
    }

    fn changed(&self, scene: &SoundScene, rng: &mut ChaCha8Rng) -> Option<String> {
        changed(&scene.facts, &sample::perturb(&scene.facts, rng), grammar::canonical)
    }

    fn recombined(&self, shown: &[&str], rng: &mut ChaCha8Rng) -> String {
        recombined_of(shown, grammar::parse, |pool| grammar::caption(&sample::recombine(pool, rng), rng))
    }

    fn vocabulary(&self) -> Vec<String> {
        grammar::all().iter().map(grammar::canonical).collect()
    }
}

/// Both at once, as loud as each other. Recordings of some seconds are heard whole.
fn mixture([a, b]: &[Sound; 2], sample_rate: u32) -> Result<Sound> {
    let ([a], [b]) = (&a.pieces[..], &b.pieces[..]) else { bail!("recordings that are mixed are to be short") };
    let samples = mix::mix(&a.samples, &b.samples);
    let audio = Audio { samples, sample_rate };
    Ok(Sound { seconds: audio.seconds(), pieces: vec![audio] })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn held_out() -> PathBuf {
        Path::new(env!("CARGO_MANIFEST_DIR")).join("../../models/demo/recordings")
    }

    #[test]
    fn scenes_are_of_held_out_recordings_and_their_truth_is_exact() {
        for (mixed, count) in [(false, 80), (true, 60)] {
            let subject = Sounds::open(&held_out(), mixed).unwrap();
            let scenes = subject.scenes(count, 1848).unwrap();
            assert_eq!(scenes.len(), count);
            for scene in &scenes {
                assert_eq!(scene.files.len(), if mixed { 2 } else { 1 });
                assert_eq!(subject.judge(scene, &subject.truth(scene)), [1.0, 1.0]);
                assert_eq!(subject.judge(scene, "a dog cries"), [0.0, 0.0]);
                assert!(subject.vocabulary().contains(&subject.truth(scene)));
            }
        }
        let dogs = Sounds::open(&held_out(), true).unwrap();
        let scene = SoundScene { files: vec![], facts: Facts::two(0, 1) };
        assert_eq!(dogs.judge(&scene, "a barking dog"), [0.5, 0.0]);
    }

    #[test]
    fn recordings_are_mixed_at_the_rate_of_the_encoder() {
        let subject = Sounds::open(&held_out(), true).unwrap();
        let listening =
            Listening { sample_rate: 8000, filter: Default::default(), whole: 60.0, window: 10.0, windows: 3 };
        let scene = subject.scenes(1, 3).unwrap().remove(0);
        let Media::Sound(sound) = subject.media(&scene, &Senses::Sounds(listening)).unwrap() else { panic!("a sound") };
        assert_eq!((sound.pieces.len(), sound.pieces[0].sample_rate), (1, 8000));
        assert!((4.5..8.0).contains(&sound.seconds), "{}", sound.seconds);
    }

    #[test]
    fn a_folder_without_held_out_recordings_is_refused() {
        let empty = tempfile::tempdir().unwrap();
        let error = Sounds::open(empty.path(), false).unwrap_err().to_string();
        assert!(error.contains("no recordings of fold 5"), "{error}");
        assert!(Sounds::open(&empty.path().join("none"), true).unwrap_err().to_string().contains("cannot read"));
    }
}
