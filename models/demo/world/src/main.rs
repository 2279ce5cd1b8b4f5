//! `demo-world`: writes scenes and training data of the demo world.

mod sound_cli;

use anyhow::{Context, Result};
use clap::{Parser, Subcommand, ValueEnum};
use fast_image_resize::{FilterType, PixelType, ResizeAlg, ResizeOptions, Resizer, images::Image};
use mils_demo_world::{Facts, Scene, Split, facts, garble, grammar, icons, render, sample, search, simulate};
use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;
use rayon::prelude::*;
use serde_json::json;
use std::fs::{File, create_dir_all};
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};

/// Scenes, captions and training data of the demo world.
#[derive(Parser)]
#[command(version)]
struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Clone, Copy, ValueEnum)]
enum SplitArg {
    Train,
    Heldout,
}

#[derive(Clone, Copy, ValueEnum)]
enum Lists {
    /// Captions drawn around the truth
    Around,
    /// What a simulated search holds before it has found the truth
    Search,
    /// The same, with most searches blind to some fact of the truth
    Stuck,
}

#[derive(Subcommand)]
enum Command {
    /// Draw scenes as PNG files beside a scenes.jsonl
    Scenes {
        #[arg(long, default_value = "heldout")]
        split: SplitArg,
        #[arg(long, default_value_t = 24)]
        count: usize,
        #[arg(long, default_value_t = 0)]
        seed: u64,
        #[arg(long)]
        out: PathBuf,
    },
    /// Write training pictures as raw bytes with captions, hard negatives and object boxes
    TrainImages {
        #[arg(long)]
        count: usize,
        #[arg(long, default_value_t = 1)]
        seed: u64,
        #[arg(long, default_value_t = 144)]
        size: u32,
        #[arg(long)]
        out: PathBuf,
    },
    /// Write training examples for the generator
    LmData {
        /// Where the lists come from
        #[arg(long, value_enum, default_value = "stuck")]
        from: Lists,
        #[arg(long)]
        count: usize,
        #[arg(long, default_value_t = 1)]
        seed: u64,
        #[arg(long, default_value_t = 12)]
        keep: usize,
        #[arg(long, default_value_t = 100)]
        label_scale: u32,
        #[arg(long)]
        out: PathBuf,
    },
    /// Write the initial set, a caption a line
    InitialSet {
        #[arg(long)]
        out: PathBuf,
    },
    /// Print the name of every atomic fact
    Atoms,
    /// The same for sounds
    Sound {
        #[command(subcommand)]
        command: sound_cli::SoundCommand,
    },
}

fn main() -> Result<()> {
    match Args::parse().command {
        Command::Scenes { split, count, seed, out } => scenes(split, count, seed, &out),
        Command::TrainImages { count, seed, size, out } => train_images(count, seed, size, &out),
        Command::LmData { from, count, seed, keep, label_scale, out } => {
            let mut file = create(&out)?;
            let examples: Box<dyn Iterator<Item = simulate::Example>> = match from {
                Lists::Around => Box::new(simulate::examples(count, seed, keep, label_scale)),
                Lists::Search => Box::new(search::examples(count, seed, keep, label_scale, false).into_iter()),
                Lists::Stuck => Box::new(search::examples(count, seed, keep, label_scale, true).into_iter()),
            };
            for example in examples {
                serde_json::to_writer(&mut file, &example)?;
                file.write_all(b"\n")?;
            }
            Ok(file.flush()?)
        }
        Command::InitialSet { out } => {
            let mut file = create(&out)?;
            for text in sample::initial_set(0) {
                writeln!(file, "{text}")?;
            }
            Ok(file.flush()?)
        }
        Command::Sound { command } => command.run(),
        Command::Atoms => {
            let names = facts::atom_names().join("\n");
            Ok(writeln!(std::io::stdout(), "{names}")?)
        }
    }
}

fn create(path: &Path) -> Result<BufWriter<File>> {
    let file = File::create(path).with_context(|| format!("cannot write {}", path.display()))?;
    Ok(BufWriter::new(file))
}

fn scenes(split: SplitArg, count: usize, seed: u64, out: &Path) -> Result<()> {
    create_dir_all(out)?;
    let split = match split {
        SplitArg::Train => Split::Train,
        SplitArg::Heldout => Split::HeldOut,
    };
    let mut list = create(&out.join("scenes.jsonl"))?;
    for (i, scene) in sample::scenes(split, count, seed).iter().enumerate() {
        let file = format!("{i:04}.png");
        render::render(scene).image.save(out.join(&file))?;
        let line = json!({"file": file, "caption": grammar::canonical(&scene.facts), "facts": scene.facts});
        writeln!(list, "{line}")?;
    }
    Ok(list.flush()?)
}

/// What a training picture's captions are: (text, atoms).
fn described(facts: &Facts, rng: &mut ChaCha8Rng) -> (String, Vec<u16>) {
    (grammar::caption(facts, rng), facts.atoms().into_iter().collect())
}

/// A true caption that leaves something out.
fn shortened(mut facts: Facts, rng: &mut ChaCha8Rng) -> Facts {
    use rand::RngExt;
    if rng.random_bool(0.4) {
        facts.background = None;
    }
    let coloured = facts.coloured();
    let (noun, colour) = coloured[rng.random_range(0..coloured.len())];
    facts.content = match facts.content {
        facts::Content::One { count, size, position, .. } => facts::Content::One {
            noun,
            colour,
            count,
            size: size.filter(|_| rng.random_bool(0.5)),
            position: position.filter(|_| rng.random_bool(0.5)),
        },
        facts::Content::Two { a, b, .. } if rng.random_bool(0.6) => {
            let t = if rng.random_bool(0.5) { a } else { b };
            let size = rng.random_bool(0.7).then_some(t.size);
            facts::Content::One { noun: t.noun, colour: t.colour, count: 1, size, position: None }
        }
        facts::Content::Three(_) if rng.random_bool(0.6) => {
            facts::Content::One { noun, colour, count: 1, size: None, position: None }
        }
        other => other,
    };
    facts
}

/// The caption with one of its nouns in the wrong number: "a small orange tulips".
fn disagreeing(words: &[&str], rng: &mut ChaCha8Rng) -> Option<String> {
    use rand::RngExt;
    let (singular, plural) = (icons::nouns(), icons::plurals());
    let other = |word: &str| {
        let find = |names: &[&str]| names.iter().position(|n| *n == word);
        find(singular).map(|i| plural[i]).or_else(|| find(plural).map(|i| singular[i]))
    };
    let changed = |word: &str| match word.strip_suffix(',') {
        Some(bare) => other(bare).map(|w| format!("{w},")),
        None => other(word).map(String::from),
    };
    let nouns: Vec<(usize, String)> =
        words.iter().enumerate().filter_map(|(i, w)| changed(w).map(|new| (i, new))).collect();
    let (at, new) = nouns.get(rng.random_range(0..nouns.len().max(1)))?;
    let mut words = words.to_vec();
    words[*at] = new;
    Some(words.join(" "))
}

/// Something that a language model may say and nobody would: a caption with a word too many or too few, with the end of
/// another one, or with a noun in the wrong number. None where every attempt came out as a sentence of the grammar.
fn garbled(caption: &str, other: &str, rng: &mut ChaCha8Rng) -> Option<String> {
    use rand::RngExt;
    let words = caption.split(' ').collect::<Vec<_>>();
    let text = |rng: &mut ChaCha8Rng| {
        if rng.random_bool(0.3) { disagreeing(&words, rng) } else { Some(garble::spliced(caption, other, rng)) }
    };
    (0..20).find_map(|_| text(rng).filter(|text| grammar::parse(text).is_none()))
}

fn train_image(scene: &Scene, size: u32) -> Result<(Vec<u8>, serde_json::Value)> {
    use rand::RngExt;
    let picture = render::render(scene);
    let (w, h) = picture.image.dimensions();
    let source = Image::from_vec_u8(w, h, picture.image.into_raw(), PixelType::U8x3)?;
    let mut target = Image::new(size, size, PixelType::U8x3);
    let options = ResizeOptions::new().resize_alg(ResizeAlg::Convolution(FilterType::CatmullRom));
    Resizer::new().resize(&source, &mut target, &options)?;

    let mut rng = ChaCha8Rng::seed_from_u64(scene.seed ^ 0x5eed);
    let full = described(&scene.facts, &mut rng);
    let again = described(&scene.facts, &mut rng);
    let short = described(&shortened(scene.facts, &mut rng), &mut rng);
    let negatives: Vec<_> = (0..6)
        .map(|i| {
            // Two say the same words of other things, two are one change away, and two are further off.
            let changes = if i < 4 { 1 } else { rng.random_range(2..=3) };
            let confused = if i < 2 { sample::confuse(&scene.facts, &mut rng) } else { scene.facts };
            let left = changes - usize::from(confused != scene.facts);
            let facts = (0..left).fold(confused, |facts, _| sample::perturb(&facts, &mut rng));
            described(&facts, &mut rng)
        })
        .collect();
    let texts = || [&full.0, &again.0].into_iter().zip([&negatives[2].0, &negatives[3].0]);
    let garbles: Vec<_> = texts().filter_map(|(own, other)| garbled(own, other, &mut rng)).collect();
    let meta = json!({
        "garbled": garbles,
        "caption": grammar::canonical(&scene.facts),
        "atoms": scene.facts.atoms(),
        "captions": [full.0, again.0, short.0],
        "caption_atoms": [full.1, again.1, short.1],
        "negatives": negatives.iter().map(|n| &n.0).collect::<Vec<_>>(),
        "neg_atoms": negatives.iter().map(|n| &n.1).collect::<Vec<_>>(),
        "objects": picture.objects,
        "background": scene.facts.background,
    });
    Ok((target.into_vec(), meta))
}

fn train_images(count: usize, seed: u64, size: u32, out: &Path) -> Result<()> {
    create_dir_all(out)?;
    let mut images = create(&out.join("images.u8"))?;
    let mut meta = create(&out.join("meta.jsonl"))?;
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    let mut left = count;
    while left > 0 {
        let n = left.min(1024);
        left -= n;
        let scenes: Vec<Scene> = (0..n).map(|_| sample::scene(Split::Train, &mut rng)).collect();
        let made: Vec<_> = scenes.par_iter().map(|s| train_image(s, size)).collect::<Result<_>>()?;
        for (bytes, line) in made {
            images.write_all(&bytes)?;
            writeln!(meta, "{line}")?;
        }
    }
    images.flush()?;
    Ok(meta.flush()?)
}
