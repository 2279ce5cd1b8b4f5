//! How far apart style and content of pictures are from those of the first:
//! `cargo run --release -p mils-encoder --example style -- FOLDER FIRST.jpg OTHER.jpg…`, FOLDER with a VGG's model.safetensors.

use mils_cpu::Cpu;
use mils_encoder::VggFiles;
use mils_media::{DecodeLimits, decode_image};
use std::error::Error;
use std::path::Path;
use std::time::Instant;

fn main() -> Result<(), Box<dyn Error>> {
    let mut arguments = std::env::args().skip(1);
    let folder = arguments.next().ok_or("name a folder with a VGG, and pictures")?;
    let mut vgg = VggFiles::open(Path::new(&folder))?.load(&Cpu::new())?;
    let mut first = None;
    for path in arguments {
        let picture = decode_image(Path::new(&path), &DecodeLimits::default())?;
        let begin = Instant::now();
        let features = vgg.features(&picture)?;
        let seconds = begin.elapsed().as_secs_f64();
        let target = first.get_or_insert_with(|| features.clone());
        let (style, content) = (features.style_loss(target), features.content_loss(target));
        println!("{path}: style {style:.3e}, content {content:.3e} ({seconds:.2} s)");
    }
    Ok(())
}
