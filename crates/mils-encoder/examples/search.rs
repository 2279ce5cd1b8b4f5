//! Semantic image search: lists the pictures of a folder, those that fit a text best first.
//!
//! `cargo run --release -p mils-encoder --example search -- MODEL_DIR "a red car" FOLDER`

use mils_cpu::Cpu;
use mils_encoder::{DualEncoder, ModelFiles};
use std::path::Path;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [model, query, folder] = &arguments[..] else { return Err("usage: search MODEL_DIR QUERY FOLDER".into()) };
    let mut model = ModelFiles::open(Path::new(model))?.load(&Cpu::new())?;
    let query = model.embed_texts(std::slice::from_ref(query))?;
    let mut found = Vec::new();
    for entry in std::fs::read_dir(folder)? {
        let path = entry?.path();
        // What is no picture is passed over.
        let Ok(image) = mils_media::decode_image(&path, &Default::default()) else { continue };
        found.push((model.embed_images(&[image])?.dot(0, &query, 0), path));
    }
    found.sort_by(|a, b| b.0.total_cmp(&a.0));
    found.iter().for_each(|(cosine, path)| println!("{cosine:.4}  {}", path.display()));
    Ok(())
}
