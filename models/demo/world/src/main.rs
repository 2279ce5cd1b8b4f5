//! `demo-world`: writes scenes and training data of the demo worlds.

mod sound_cli;

use anyhow::{Context, Result};
use clap::{Args, Parser, Subcommand, ValueEnum};
use fast_image_resize::{FilterType, PixelType, ResizeAlg, ResizeOptions, Resizer, images::Image};
use image::RgbImage;
use mils_demo_world::motion::{self, Videos};
use mils_demo_world::worlds::{self, Pictures, World};
use mils_demo_world::{Scene, Split, coco, facts, grammar, render, search, simulate, training};
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use rayon::prelude::*;
use serde_json::{Value, json};
use std::fs::{File, create_dir_all};
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};

/// Scenes, captions and training data of the demo worlds.
#[derive(Parser)]
#[command(version)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Clone, Copy, ValueEnum)]
enum SplitArg {
    Train,
    Heldout,
}

impl From<SplitArg> for Split {
    fn from(split: SplitArg) -> Self {
        match split {
            SplitArg::Train => Self::Train,
            SplitArg::Heldout => Self::HeldOut,
        }
    }
}

#[derive(Clone, Copy, ValueEnum)]
enum WorldArg {
    /// Scenes of one to three objects
    Picture,
    /// Scenes in which objects move, grow, turn, appear
    Video,
}

impl WorldArg {
    fn initial_set(self) -> Vec<String> {
        match self {
            Self::Picture => Pictures::initial_set(),
            Self::Video => Videos::initial_set(),
        }
    }

    fn atoms(self) -> Vec<String> {
        match self {
            Self::Picture => facts::atom_names(),
            Self::Video => motion::facts::atom_names(),
        }
    }
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

/// Which scenes a training set is of, and where it goes.
#[derive(Args)]
struct TrainArgs {
    #[arg(long, default_value = "train")]
    split: SplitArg,
    #[arg(long)]
    count: usize,
    #[arg(long, default_value_t = 1)]
    seed: u64,
    #[arg(long)]
    out: PathBuf,
}

/// How many lists for the generator are made, what they are like, and where they go.
#[derive(Args)]
pub(crate) struct ListArgs {
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
}

impl ListArgs {
    /// Writes the lists as JSON Lines.
    fn write(&self, examples: impl IntoIterator<Item = simulate::Example>) -> Result<()> {
        let mut file = create(&self.out)?;
        for example in examples {
            serde_json::to_writer(&mut file, &example)?;
            file.write_all(b"\n")?;
        }
        Ok(file.flush()?)
    }
}

/// Writes texts, one a line.
fn write_lines(out: &Path, texts: Vec<String>) -> Result<()> {
    let mut file = create(out)?;
    for text in texts {
        writeln!(file, "{text}")?;
    }
    Ok(file.flush()?)
}

#[derive(Subcommand)]
enum Command {
    /// Draw scenes beside a scenes.jsonl: PNG files, or of videos a folder of numbered frames each
    Scenes {
        /// Which world
        #[arg(long, value_enum, default_value = "picture")]
        world: WorldArg,
        #[arg(long, default_value = "heldout")]
        split: SplitArg,
        #[arg(long, default_value_t = 24)]
        count: usize,
        #[arg(long, default_value_t = 0)]
        seed: u64,
        /// Frames of a video
        #[arg(long, default_value_t = 32)]
        frames: usize,
        #[arg(long)]
        out: PathBuf,
    },
    /// Draw scenes as a data set of captions in COCO's layout, for `mils eval run coco`
    Coco {
        #[arg(long, default_value = "heldout")]
        split: SplitArg,
        #[arg(long, default_value_t = 200)]
        count: usize,
        #[arg(long, default_value_t = 1848)]
        seed: u64,
        #[arg(long)]
        out: PathBuf,
    },
    /// Write training pictures as raw bytes with captions, hard negatives and object boxes
    TrainImages {
        #[command(flatten)]
        scenes: TrainArgs,
        #[arg(long, default_value_t = 144)]
        size: u32,
    },
    /// Write training videos as raw bytes, eight frames each, with captions, hard negatives and object boxes
    TrainVideos {
        #[command(flatten)]
        scenes: TrainArgs,
        #[arg(long, default_value_t = 96)]
        size: u32,
    },
    /// Write training examples for the generator
    LmData {
        /// Which world
        #[arg(long, value_enum, default_value = "picture")]
        world: WorldArg,
        /// Where the lists come from
        #[arg(long, value_enum, default_value = "stuck")]
        from: Lists,
        #[command(flatten)]
        lists: ListArgs,
    },
    /// Write the initial set, a caption a line
    InitialSet {
        /// Which world
        #[arg(long, value_enum, default_value = "picture")]
        world: WorldArg,
        #[arg(long)]
        out: PathBuf,
    },
    /// Print the name of every atomic fact
    Atoms {
        /// Which world
        #[arg(long, value_enum, default_value = "picture")]
        world: WorldArg,
    },
    /// What the models for sounds are trained with
    Sound {
        #[command(subcommand)]
        command: sound_cli::SoundCommand,
    },
}

fn main() -> Result<()> {
    match Cli::parse().command {
        Command::Scenes { world: WorldArg::Picture, split, count, seed, out, .. } => scenes(split, count, seed, &out),
        Command::Scenes { world: WorldArg::Video, split, count, seed, frames, out } => {
            videos(split, count, seed, frames, &out)
        }
        Command::Coco { split, count, seed, out } => Ok(coco::write_coco(&out, split.into(), count, seed)?),
        Command::TrainImages { scenes, size } => {
            let draw = |rng: &mut _| worlds::scene::<Pictures>(scenes.split.into(), rng);
            train("images.u8", &scenes, draw, |scene| train_image(scene, size))
        }
        Command::TrainVideos { scenes, size } => {
            let draw = |rng: &mut _| worlds::scene::<Videos>(scenes.split.into(), rng);
            train("videos.u8", &scenes, draw, |scene| train_video(scene, size))
        }
        Command::LmData { world, from, lists } => lists.write(match world {
            WorldArg::Picture => examples::<Pictures>(from, &lists),
            WorldArg::Video => examples::<Videos>(from, &lists),
        }),
        Command::InitialSet { world, out } => write_lines(&out, world.initial_set()),
        Command::Sound { command } => command.run(),
        Command::Atoms { world } => Ok(writeln!(std::io::stdout(), "{}", world.atoms().join("\n"))?),
    }
}

fn examples<W: World>(from: Lists, lists: &ListArgs) -> Box<dyn Iterator<Item = simulate::Example>> {
    let &ListArgs { count, seed, keep, label_scale: scale, .. } = lists;
    match from {
        Lists::Around => Box::new(simulate::examples::<W>(count, seed, keep, scale)),
        Lists::Search => Box::new(search::examples::<W>(count, seed, keep, scale, false).into_iter()),
        Lists::Stuck => Box::new(search::examples::<W>(count, seed, keep, scale, true).into_iter()),
    }
}

fn create(path: &Path) -> Result<BufWriter<File>> {
    let file = File::create(path).with_context(|| format!("cannot write {}", path.display()))?;
    Ok(BufWriter::new(file))
}

fn scenes(split: SplitArg, count: usize, seed: u64, out: &Path) -> Result<()> {
    create_dir_all(out)?;
    let mut list = create(&out.join("scenes.jsonl"))?;
    for (i, scene) in worlds::scenes::<Pictures>(split.into(), count, seed).iter().enumerate() {
        let file = format!("{i:04}.png");
        render::render(scene).image.save(out.join(&file))?;
        let line = json!({"file": file, "caption": grammar::canonical(&scene.facts), "facts": scene.facts});
        writeln!(list, "{line}")?;
    }
    Ok(list.flush()?)
}

fn videos(split: SplitArg, count: usize, seed: u64, frames: usize, out: &Path) -> Result<()> {
    create_dir_all(out)?;
    let mut list = create(&out.join("scenes.jsonl"))?;
    for (i, scene) in worlds::scenes::<Videos>(split.into(), count, seed).iter().enumerate() {
        let folder = format!("{i:04}");
        create_dir_all(out.join(&folder))?;
        for (k, frame) in motion::render::Clip::new(scene).frames(frames).iter().enumerate() {
            frame.save(out.join(&folder).join(format!("{k:03}.png")))?;
        }
        let caption = motion::grammar::canonical(&scene.facts);
        writeln!(list, "{}", json!({"folder": folder, "caption": caption, "facts": scene.facts}))?;
    }
    Ok(list.flush()?)
}

/// The pixels of a frame in the encoder's size.
fn resized(image: RgbImage, size: u32, alg: ResizeAlg) -> Result<Vec<u8>> {
    let (w, h) = image.dimensions();
    let source = Image::from_vec_u8(w, h, image.into_raw(), PixelType::U8x3)?;
    let mut target = Image::new(size, size, PixelType::U8x3);
    Resizer::new().resize(&source, &mut target, &ResizeOptions::new().resize_alg(alg))?;
    Ok(target.into_vec())
}

fn train_image(scene: &Scene, size: u32) -> Result<(Vec<u8>, Value)> {
    let picture = render::render(scene);
    let mut meta = serde_json::to_value(training::texts::<Pictures>(&scene.facts, scene.seed))?;
    meta["objects"] = json!(picture.objects);
    meta["background"] = json!(scene.facts.background);
    Ok((resized(picture.image, size, ResizeAlg::Convolution(FilterType::CatmullRom))?, meta))
}

/// Frames that an encoder of videos looks at.
const LOOKS: usize = 8;

fn train_video(scene: &motion::Scene, size: u32) -> Result<(Vec<u8>, Value)> {
    let clip = motion::render::Clip::new(scene);
    // Files have any number of frames, of which the encoder's reference takes every so many-th.
    let count = ChaCha8Rng::seed_from_u64(scene.seed).random_range(24..=48_usize);
    let times: Vec<f32> = motion::render::times(count).step_by(count / LOOKS).take(LOOKS).collect();
    let mut pixels = Vec::with_capacity(LOOKS * (size * size * 3) as usize);
    for &t in &times {
        // As mils-media does what ViCLIP's reference does, without antialiasing.
        pixels.extend(resized(clip.frame(t), size, ResizeAlg::Interpolation(FilterType::Bilinear))?);
    }
    let mut meta = serde_json::to_value(training::texts::<Videos>(&scene.facts, scene.seed))?;
    meta["objects"] = times.iter().map(|&t| json!(clip.objects(t))).collect();
    Ok((pixels, meta))
}

/// Writes the pixels of `count` scenes into one file and what is known of them into another.
fn train<S: Sync>(
    pixels: &str,
    &TrainArgs { count, seed, ref out, .. }: &TrainArgs,
    draw: impl Fn(&mut ChaCha8Rng) -> S,
    make: impl Fn(&S) -> Result<(Vec<u8>, Value)> + Sync,
) -> Result<()> {
    create_dir_all(out)?;
    let mut images = create(&out.join(pixels))?;
    let mut meta = create(&out.join("meta.jsonl"))?;
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    let mut left = count;
    while left > 0 {
        let n = left.min(1024);
        left -= n;
        let scenes: Vec<S> = (0..n).map(|_| draw(&mut rng)).collect();
        let made: Vec<_> = scenes.par_iter().map(&make).collect::<Result<_>>()?;
        for (bytes, line) in made {
            images.write_all(&bytes)?;
            writeln!(meta, "{line}")?;
        }
    }
    images.flush()?;
    Ok(meta.flush()?)
}
