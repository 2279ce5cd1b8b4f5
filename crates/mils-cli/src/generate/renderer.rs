//! The renderer that is meant, ready to draw.

use super::args::{RendererArgs, RendererKind};
use anyhow::{Context, Result, anyhow, bail};
use image::DynamicImage;
use image::imageops::FilterType;
use mils_media::RgbImage;
use mils_models::{Drawing, DrawingWorker, home};
use mils_render::worker::WorkerOptions;
use mils_render::{
    Automatic, Comfy, Demo, Job, Memo, OpenAi, Renderer, SIDES, ServerOptions, Source, Worker, Workflow,
};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

/// Pictures side by side where nobody says how many, by a server that many share.
const SHARED: usize = 4;

/// A renderer, and how it is asked.
pub struct Easel {
    /// What draws.
    pub renderer: Drawer,
    /// Pixels.
    pub size: (u32, u32),
    /// Steps of the diffusion.
    pub steps: Option<u32>,
    /// Classifier-free guidance.
    pub guidance: Option<f32>,
    /// What is not to be seen.
    pub negative: Option<String>,
    /// Pictures side by side.
    pub at_a_time: usize,
    /// What is edited, in the size of the pictures.
    pub original: Option<Original>,
}

/// A picture that is edited.
#[derive(Clone, Debug)]
pub struct Original {
    /// The picture.
    pub picture: RgbImage,
    /// How far results may be from it, 0 to 1; `None` leaves it to the renderer.
    pub strength: Option<f32>,
}

/// Sides of edited pictures are multiples of this, as diffusion models need it.
const GRAIN: u32 = 8;

impl Original {
    /// The size for its edits: as many pixels as `usual` has, in its own proportions.
    fn size(&self, usual: [u32; 2]) -> (u32, u32) {
        let (width, height) = self.picture.dimensions();
        let area = f64::from(usual[0]) * f64::from(usual[1]);
        let scale = (area / (f64::from(width.max(1)) * f64::from(height.max(1)))).sqrt();
        let side = |side: u32| {
            let steps = (f64::from(side) * scale / f64::from(GRAIN)).round() as u32;
            // A very long picture is cut.
            (steps * GRAIN).clamp(GRAIN.max(*SIDES.start()), *SIDES.end())
        };
        (side(width), side(height))
    }

    /// In another size; what does not fit its proportions is cut off at both ends.
    fn fitted(self, (width, height): (u32, u32)) -> Self {
        let picture = DynamicImage::from(self.picture).resize_to_fill(width, height, FilterType::CatmullRom);
        Self { picture: picture.into_rgb8(), ..self }
    }
}

/// A renderer, with or without a memo.
pub enum Drawer {
    /// Keeps what it draws.
    Kept(Memo<Box<dyn Renderer>>),
    /// Does not.
    Plain(Box<dyn Renderer>),
}

impl Drawer {
    /// The renderer.
    pub fn get(&self) -> &dyn Renderer {
        match self {
            Self::Kept(memo) => memo,
            Self::Plain(renderer) => renderer,
        }
    }

    /// How many pictures were there already.
    pub fn hits(&self) -> usize {
        match self {
            Self::Kept(memo) => memo.hits(),
            Self::Plain(_) => 0,
        }
    }
}

impl Easel {
    /// Opens what the arguments name, or the pack's, to make pictures or to edit one.
    ///
    /// # Errors
    /// If none is named, it is not there, or it cannot do what is asked for.
    pub fn open(
        args: &RendererArgs,
        drawing: &Drawing,
        original: Option<Original>,
        cancel: &Arc<AtomicBool>,
    ) -> Result<Self> {
        let kind = match (&args.renderer, drawing.renderer.as_deref()) {
            (Some(_), _) => args.kind().map_err(|problem| anyhow!(problem))?,
            (None, Some("demo")) => RendererKind::Demo,
            (None, Some("worker")) => RendererKind::Worker,
            (None, Some(other)) => bail!("the pack's renderer `{other}` is not known here; name one with --renderer"),
            (None, None) => bail!(
                "no renderer is named; give --renderer with the address of an image server (ComfyUI, AUTOMATIC1111, or \
                 any OpenAI-compatible one), or `worker` with a model, or try `--pack demo`, which has its own"
            ),
        };
        let renderer = open(kind, args, drawing, cancel)?;
        let can = renderer.abilities();
        let [width, height] = drawing.size;
        let usual = match &original {
            Some(original) if can.size => original.size(drawing.size),
            _ => (width, height),
        };
        let size = args.size.unwrap_or(usual);
        let easel = Self {
            size,
            original: original.map(|original| original.fitted(size)),
            steps: args.render_steps,
            guidance: args.guidance,
            negative: args.negative.clone(),
            at_a_time: args.renders.map_or(if kind == RendererKind::Openai { SHARED } else { 1 }, |n| n as usize),
            renderer: keep(renderer, args)?,
        };
        can.check(&easel.job("", 0)).context("the renderer")?;
        if args.size.is_some() && !can.size {
            bail!("the renderer takes no size; leave --size out, or give its workflow a width and a height");
        }
        Ok(easel)
    }

    /// What is asked for.
    pub fn job<'a>(&'a self, prompt: &'a str, seed: u64) -> Job<'a> {
        let (width, height) = self.size;
        Job {
            negative: self.negative.as_deref(),
            source: self.original.as_ref().map(|of| Source { image: &of.picture, strength: of.strength }),
            seed,
            width,
            height,
            steps: self.steps,
            guidance: self.guidance,
            ..Job::new(prompt)
        }
    }

    /// What it is told beside prompt, seed and size, for people.
    pub fn settings(&self) -> String {
        let steps = self.steps.map(|steps| format!("{steps} steps"));
        let guidance = self.guidance.map(|guidance| format!("guidance {guidance}"));
        let negative = self.negative.as_ref().map(|negative| format!("without: {negative}"));
        let strength = self.original.as_ref().and_then(|of| of.strength).map(|strength| format!("strength {strength}"));
        [steps, guidance, strength, negative].into_iter().flatten().collect::<Vec<_>>().join(", ")
    }
}

fn open(
    kind: RendererKind,
    args: &RendererArgs,
    drawing: &Drawing,
    cancel: &Arc<AtomicBool>,
) -> Result<Box<dyn Renderer>> {
    let named = args.renderer.clone().unwrap_or_default();
    let timeout = Duration::from_secs(u64::from(args.render_timeout));
    let cancel = Arc::clone(cancel);
    if kind == RendererKind::Demo {
        return Ok(Box::new(Demo));
    }
    if kind == RendererKind::Worker {
        let (program, arguments) = worker(&named, args, drawing)?;
        let options = WorkerOptions { program, arguments, timeout, cancel, ..WorkerOptions::default() };
        return Ok(Box::new(Worker::open(options)?));
    }
    let variable = |name: &str| std::env::var(name).ok().filter(|key| !key.is_empty());
    let own = variable("MILS_RENDERER_KEY");
    let key = match kind {
        RendererKind::Openai => own.or_else(|| variable("MILS_API_KEY")).or_else(|| variable("OPENAI_API_KEY")),
        _ => own,
    };
    let model = args.renderer_model.clone();
    let options = ServerOptions { url: named, model, key, timeout, cancel, ..ServerOptions::default() };
    Ok(match (kind, &args.workflow) {
        (RendererKind::Comfy, Some(workflow)) => Box::new(Comfy::open(&options, Workflow::read(workflow)?)?),
        (RendererKind::Comfy, None) => bail!("ComfyUI needs a --workflow"),
        (RendererKind::A1111, _) => Box::new(Automatic::open(&options)?),
        _ => Box::new(OpenAi::open(&options)?),
    })
}

/// A worker's program and its arguments. One that is named by its path is told what the command line says; ours what the
/// pack does, if that says nothing.
fn worker(named: &str, args: &RendererArgs, drawing: &Drawing) -> Result<(PathBuf, Vec<String>)> {
    let own = args.renderer_args.clone();
    if !matches!(named, "" | "worker") {
        return Ok((named.into(), own));
    }
    let pack = drawing.worker.as_ref().filter(|_| own.is_empty());
    let program = match pack.and_then(|worker| worker.program.clone()) {
        Some(program) => program,
        None => installed()?,
    };
    match pack {
        Some(DrawingWorker { arguments: Some(arguments), .. }) => Ok((program, arguments.clone())),
        Some(DrawingWorker { get, .. }) => bail!("the models of the pack's renderer are not there; run `{get}`"),
        None if own.is_empty() => bail!(
            "the worker is told no model; give one, as --renderer-arg=--model=FILE (see `mils-render-worker --help`), or \
             take a pack that has one"
        ),
        None => Ok((program, own)),
    }
}

/// `mils-render-worker`: beside this program, or where programs are.
fn installed() -> Result<PathBuf> {
    let name = Path::new("mils-render-worker").with_extension(std::env::consts::EXE_EXTENSION);
    let beside = std::env::current_exe().ok().and_then(|own| Some(own.parent()?.to_owned()));
    let path = std::env::var_os("PATH").unwrap_or_default();
    let mut all = beside.into_iter().chain(std::env::split_paths(&path)).map(|folder| folder.join(&name));
    all.find(|program| program.is_file()).context(
        "there is no mils-render-worker beside this program or in PATH; `cargo xtask render-worker` builds and installs it",
    )
}

fn keep(renderer: Box<dyn Renderer>, args: &RendererArgs) -> Result<Drawer> {
    if args.memo_size == 0 {
        return Ok(Drawer::Plain(renderer));
    }
    let folder = args.memo.clone().or_else(|| Some(home()?.join("renders")));
    let folder = folder.context("there is no home folder to keep pictures in; name a folder with --memo")?;
    Ok(Drawer::Kept(Memo::new(renderer, &folder, args.memo_size << 20)?))
}
