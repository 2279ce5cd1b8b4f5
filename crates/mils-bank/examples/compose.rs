//! Composes the sets that are shipped: `cargo run --release -p mils-bank --example compose -- models/banks`.
//!
//! Of a folder with `labels/` and `grammar/`, it writes a set for each grammar. tests/tests/banks.rs holds the files to it.

use mils_bank::{Grammar, Labels};
use std::error::Error;
use std::path::Path;

fn main() -> Result<(), Box<dyn Error>> {
    let folder = std::env::args().nth(1).ok_or("name the folder of the sets, as models/banks")?;
    let folder = Path::new(&folder);
    let labels = |name: &str| Labels::read(&folder.join("labels").join(name));
    for (name, labels) in
        [("image", labels("image")?), ("video", labels("image")?.and(labels("video")?)), ("sound", labels("sound")?)]
    {
        let grammar = Grammar::read(&folder.join("grammar").join(format!("{name}.txt")), &labels)?;
        let texts = grammar.compose(mils_bank::SHIPPED, 0)?;
        std::fs::write(folder.join(format!("{name}.txt")), texts.join("\n") + "\n")?;
        println!("{name}: {} texts", texts.len());
    }
    Ok(())
}
