//! Composes the sets that are shipped: `cargo run --release -p mils-bank --example compose -- models/banks`.
//!
//! Of a folder with `labels/` and `grammar/`, it writes a set for each grammar. tests/tests/banks.rs holds the files to it.

use mils_bank::SHIPPED;
use std::error::Error;
use std::path::Path;

fn main() -> Result<(), Box<dyn Error>> {
    let folder = std::env::args().nth(1).ok_or("name the folder of the sets, as models/banks")?;
    let folder = Path::new(&folder);
    for set in SHIPPED {
        let texts = set.compose(folder)?;
        std::fs::write(folder.join(format!("{}.txt", set.name)), texts.join("\n") + "\n")?;
        println!("{}: {} texts", set.name, texts.len());
    }
    Ok(())
}
