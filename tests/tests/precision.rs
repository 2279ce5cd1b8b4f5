//! What 16 bits cost: with weights held in f16 or bf16, on either backend, and with activations in f16 on the GPU, searches
//! must find the same texts as in f32 on the CPU. A search keeps the best of many texts, so that the best sets are compared and not single numbers.
#![allow(clippy::unwrap_used, reason = "tests")]

use mils_demo_world::{Split, grammar, render, sample, worlds};
use mils_encoder::{DualEncoder, ModelFiles, Precision};
use mils_gpu::{Activations, Gpu};
use mils_graph::Backend;
use mils_media::RgbImage;
use mils_tests::{backends, tolerance};
use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;
use std::collections::{BTreeSet, HashSet};

const TEXTS: usize = 1000;
const IMAGES: usize = 20;
const BEST: usize = 50;

/// Different captions of the demo world.
fn texts() -> Vec<String> {
    let mut rng = ChaCha8Rng::seed_from_u64(3);
    let mut all = BTreeSet::new();
    while all.len() < TEXTS {
        all.insert(grammar::caption(&sample::facts(&mut rng), &mut rng));
    }
    all.into_iter().collect()
}

fn images() -> Vec<RgbImage> {
    worlds::scenes::<worlds::Pictures>(Split::HeldOut, IMAGES, 4)
        .iter()
        .map(|scene| render::render(scene).image)
        .collect()
}

/// For every image, the numbers of its best texts.
fn best(backend: &dyn Backend, precision: Precision, images: &[RgbImage], texts: &[String]) -> Vec<HashSet<usize>> {
    let pack = mils_models::Pack::find("demo").unwrap();
    let mut model = ModelFiles::open_with(&pack.task(mils_models::Modality::Image).unwrap().scorer, precision)
        .unwrap()
        .load(backend)
        .unwrap();
    let (images, rows) = (model.embed_images(images).unwrap(), model.embed_texts(texts).unwrap());
    let of = |image: usize| {
        let mut order: Vec<usize> = (0..rows.len()).collect();
        let score = |text: usize| images.dot(image, &rows, text);
        order.sort_by(|&a, &b| score(b).total_cmp(&score(a)));
        order.into_iter().take(BEST).collect()
    };
    (0..images.len()).map(of).collect()
}

/// The backends under test, and what to call them; the CPU first.
fn all_backends() -> Vec<(String, Box<dyn Backend>)> {
    let mut all: Vec<(String, Box<dyn Backend>)> = backends().into_iter().map(|b| (b.name(), b)).collect();
    if mils_tests::skips_gpu() {
        return all;
    }
    let half = Gpu::open_with(Activations::F16).unwrap();
    let name = half.name();
    if half.activations() == Activations::F16 {
        let matrices = half.cooperative().map(|c| format!(" on {c:?}")).unwrap_or_default();
        all.push((format!("{name}, activations in f16{matrices}"), Box::new(half)));
    } else {
        eprintln!("{name} has no f16: ACTIVATIONS IN F16 ARE NOT TESTED");
    }
    all
}

#[test]
fn the_best_texts_are_the_same_in_every_precision() {
    let (images, texts) = (images(), texts());
    let backends = all_backends();
    let reference = best(&*backends[0].1, Precision::F32, &images, &texts);
    for (name, backend) in &backends {
        for (precision, least) in tolerance::RANKS {
            let found = best(&**backend, precision, &images, &texts);
            let jaccard = |(a, b): (&HashSet<usize>, &HashSet<usize>)| {
                a.intersection(b).count() as f64 / a.union(b).count() as f64
            };
            let all: Vec<f64> = reference.iter().zip(&found).map(jaccard).collect();
            let mean = all.iter().sum::<f64>() / all.len() as f64;
            let worst = all.iter().copied().fold(1.0, f64::min);
            eprintln!("{name} {precision:?}: Jaccard of the best {BEST}: mean {mean:.4}, least {worst:.3}");
            assert!(mean >= least, "{name} {precision:?}: mean Jaccard {mean:.4}");
        }
    }
}
