//! Scenes as a data set of captions, in the layout that COCO has with Karpathy's splits.

use crate::worlds::{self, Pictures};
use crate::{Split, grammar, render};
use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;
use serde_json::{Value, json};
use std::fs::{create_dir_all, write};
use std::io::{Error, Result};
use std::path::Path;

/// References of a picture, as COCO has them.
const REFERENCES: usize = 5;

/// Writes `dataset_coco.json` and `val2014/`: pictures of scenes as its split `test`, each with five captions that say the
/// same in different ways. The same for the same seed.
///
/// # Errors
/// If something cannot be written.
pub fn write_coco(folder: &Path, split: Split, count: usize, seed: u64) -> Result<()> {
    let pictures = folder.join("val2014");
    create_dir_all(&pictures)?;
    let mut images: Vec<Value> = Vec::with_capacity(count);
    for (i, scene) in worlds::scenes::<Pictures>(split, count, seed).iter().enumerate() {
        let id = i + 1;
        let name = format!("COCO_val2014_{id:012}.png");
        render::render(scene).image.save(pictures.join(&name)).map_err(Error::other)?;
        let mut rng = ChaCha8Rng::seed_from_u64(scene.seed);
        let mut texts = vec![grammar::canonical(&scene.facts)];
        texts.extend((1..REFERENCES).map(|_| grammar::caption(&scene.facts, &mut rng)));
        let sentences: Vec<Value> = texts.iter().map(|text| json!({ "raw": text })).collect();
        images.push(json!({
            "filepath": "val2014", "filename": name, "cocoid": id, "split": "test", "sentences": sentences,
        }));
    }
    write(folder.join("dataset_coco.json"), json!({"images": images, "dataset": "coco"}).to_string())
}
