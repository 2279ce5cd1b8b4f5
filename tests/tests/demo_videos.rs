//! The bundled ViCLIP, which is trained: against what PyTorch computes with it (conformance/make_fixtures.py), on sample
//! files from their decoding on, and on held-out moving scenes.
#![allow(clippy::unwrap_used, reason = "tests")]

use mils_demo_world::facts::COLOURS;
use mils_demo_world::motion::facts::{Actor, BACKGROUNDS, NOUNS, VERBS};
use mils_demo_world::motion::{Facts, Videos, grammar, render::Clip, sample};
use mils_demo_world::{Split, worlds};
use mils_encoder::{DualEncoder, Encoder, ModelFiles};
use mils_media::RgbImage;
use mils_media::video::{self, VideoLimits};
use mils_models::{Modality, Pack};
use mils_tests::{PackReference, backends, tolerance};
use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;
use std::path::Path;

fn viclip(backend: &dyn mils_graph::Backend) -> Encoder {
    let scorer = Pack::find("demo").unwrap().task(Modality::Video).unwrap().scorer;
    ModelFiles::open(&scorer).unwrap().load(backend).unwrap()
}

/// What a sample file's frames are, as the model's reference takes them.
fn decoded(model: &Encoder, name: &str) -> Vec<RgbImage> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../models/demo/samples").join(name);
    let found = video::sample(&path, model.frames_wanted(), model.sampling(), &VideoLimits::default()).unwrap();
    found.frames.into_iter().map(|frame| frame.image).collect()
}

#[test]
fn the_bundled_viclip_scores_as_pytorch_does() {
    let reference = PackReference::read("demo-pack-video.json");
    assert!(reference.files.len() >= 2 && reference.texts.len() >= 8);
    for backend in backends() {
        let mut model = viclip(&*backend);
        assert_eq!(model.frames_wanted(), 8);
        let texts = model.embed_texts(&reference.texts).unwrap();
        let videos: Vec<Vec<RgbImage>> = reference.files.iter().map(|name| decoded(&model, name)).collect();
        let rows = model.embed_videos(&videos).unwrap();
        reference.hold(&backend.name(), &rows, &texts, tolerance::FILE_COSINE, 5e-3);
    }
}

/// True captions of the sample files.
const SAMPLES: [(&str, &str); 2] = [
    ("6-carrot-and-teapot.mp4", "an orange carrot moves to the left and a green teapot turns, on the grass"),
    ("7-apple-and-duck.webp", "an orange apple shrinks and a red duck moves to the right, on the sand"),
];

/// The facts with one object changed in one thing, in every way in which they stay facts.
fn changed_once(truth: &Facts) -> Vec<Facts> {
    let one = |actor: Actor| -> Vec<Actor> {
        let nouns = (0..NOUNS as u8).map(|noun| Actor { noun, ..actor });
        let colours = (0..COLOURS.len() as u8).map(|colour| Actor { colour, ..actor });
        let verbs = (0..VERBS.len() as u8).map(|verb| Actor { verb, ..actor });
        nouns.chain(colours).chain(verbs).filter(|changed| *changed != actor).collect()
    };
    let of = |first, second| match second {
        Some(second) => Facts::two(first, second, truth.background),
        None => Some(Facts { first, ..*truth }),
    };
    let firsts = one(truth.first).into_iter().filter_map(|first| of(first, truth.second));
    let seconds = truth.second.into_iter().flat_map(one).filter_map(|second| of(truth.first, Some(second)));
    let backgrounds = (0..BACKGROUNDS as u8).map(|b| Facts { background: Some(b), ..*truth });
    firsts.chain(seconds).chain(backgrounds.filter(|facts| facts != truth)).collect()
}

#[test]
fn decoded_samples_score_high_with_what_is_true_of_them() {
    let mut model = viclip(&mils_cpu::Cpu::new());
    for (name, caption) in SAMPLES {
        let truth = grammar::parse(caption).unwrap();
        assert_eq!(truth.split(), Split::HeldOut, "{name}");
        let mut texts = vec![caption.to_owned()];
        texts.extend(changed_once(&truth).iter().map(grammar::canonical));
        assert_eq!(texts.len(), 1 + 2 * (14 + 7 + 8) + 3);
        let row = model.embed_videos(&[decoded(&model, name)]).unwrap();
        let scores = row.dots(0, &model.embed_texts(&texts).unwrap());
        let above: Vec<&String> = (1..texts.len()).filter(|i| scores[*i] >= scores[0]).map(|i| &texts[i]).collect();
        // It is small: of two objects at once it may take what one does for something else.
        assert!(above.len() * 20 <= texts.len(), "{name}: {above:?}");
        assert!(above.iter().all(|text| grammar::parse(text).unwrap().nouns() == truth.nouns()), "{name}: {above:?}");
    }
}

#[test]
fn held_out_scenes_score_highest_with_what_is_true_of_them() {
    let mut model = viclip(&mils_cpu::Cpu::new());
    let mut rng = ChaCha8Rng::seed_from_u64(1);
    let (mut won, mut of) = (0, 0);
    for scene in worlds::scenes::<Videos>(Split::HeldOut, 40, 5) {
        let frames = Clip::new(&scene).frames(32).into_iter().step_by(4).collect();
        let mut texts = vec![grammar::canonical(&scene.facts)];
        for _ in 0..12 {
            let changed = sample::change(scene.facts, &mut rng);
            if changed != scene.facts {
                texts.push(grammar::canonical(&changed));
            }
        }
        let scores = model.embed_videos(&[frames]).unwrap().dots(0, &model.embed_texts(&texts).unwrap());
        won += scores[1..].iter().filter(|score| **score < scores[0]).count();
        of += scores.len() - 1;
    }
    assert!(won * 100 >= of * 90, "{won} of {of}");
}
