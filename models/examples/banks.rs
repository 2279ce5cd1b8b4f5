//! Makes models/banks/*.txt anew from their grammars.

use mils_models::banks::{SET_TEXTS, SETS, compose};
use std::error::Error;
use std::path::Path;

fn main() -> Result<(), Box<dyn Error>> {
    for (name, grammars) in SETS {
        let file = Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("banks/{name}.txt"));
        std::fs::write(&file, compose(grammars, SET_TEXTS, 0)?.join("\n") + "\n")?;
        println!("{}: {SET_TEXTS} texts", file.display());
    }
    Ok(())
}
