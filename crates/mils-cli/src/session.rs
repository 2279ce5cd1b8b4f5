//! The models of a pack, loaded once, and the run of the loop on a picture.

use crate::backend::{BackendChoice, open_backend};
use anyhow::{Context, Result, bail};
use mils_encoder::{DualEncoder, Embeddings, Encoder, ModelFiles, Precision};
use mils_llm::{LlamaGenerator, LlamaOptions};
use mils_media::RgbImage;
use mils_models::{LoopSettings, Pack};
use mils_optim::prompt::PromptTemplate;
use mils_optim::{
    BoxError, Config, Event, Feedback, Generator, Optimizer, Outcome, Proposals, Request, Scorer, relative_labels,
};
use serde::Serialize;
use std::collections::HashMap;
use std::ops::ControlFlow;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

/// What the command line may set; the rest is the pack's.
#[derive(Clone, Debug, Default)]
pub struct Options {
    /// Most steps.
    pub steps: Option<usize>,
    /// Texts kept.
    pub keep: Option<usize>,
    /// Texts asked for.
    pub propose: Option<usize>,
    /// Sampling temperature.
    pub temperature: Option<f32>,
    /// Seed.
    pub seed: u64,
    /// What the generator gets to see; other than true for ablations only.
    pub feedback: Feedback,
    /// What the encoder's matrices are held in.
    pub precision: Precision,
    /// Set to end the loading or a generation early.
    pub cancel: Arc<AtomicBool>,
}

/// Is given the language model and each request of the loop, and answers in its place.
pub type Between<'a> = dyn FnMut(&mut dyn Generator, &Request<'_>) -> Result<Proposals, BoxError> + 'a;

/// Names of what took part in a run.
#[derive(Clone, Debug, Serialize)]
pub struct ModelNames {
    /// The pack.
    pub pack: String,
    /// The encoder.
    pub scorer: String,
    /// The language model.
    pub generator: String,
    /// Where the encoder ran.
    pub backend: String,
}

/// Wall-clock seconds by phase.
#[derive(Clone, Copy, Debug, Default, Serialize)]
pub struct Seconds {
    /// Loading the models and embedding the initial set; once a session.
    pub load: f64,
    /// Embedding the picture.
    pub image: f64,
    /// Language model.
    pub generate: f64,
    /// Embedding and comparing texts.
    pub score: f64,
    /// From the picture to the caption.
    pub total: f64,
}

/// A finished run.
#[derive(Clone, Debug)]
pub struct Run {
    /// The loop's result.
    pub outcome: Outcome,
    /// Times.
    pub seconds: Seconds,
}

/// A setting as it was written: widened to f64 as it is, 1.4 would be shown as 1.399999976158142.
pub(crate) fn decimal(value: f32) -> f64 {
    value.to_string().parse().unwrap_or(f64::from(value))
}

fn as_written<S: serde::Serializer>(value: &f32, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_f64(decimal(*value))
}

/// How the language model is sampled, beside its temperature.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Sampling {
    /// Nucleus sampling.
    #[serde(serialize_with = "as_written")]
    pub top_p: f32,
    /// Answers side by side.
    pub sequences: usize,
    /// Texts asked for in each.
    pub lines: usize,
    /// Tokens of prompt and answer.
    pub context: u32,
}

/// Models in memory, ready to caption.
pub struct Session {
    /// Names for reports.
    pub names: ModelNames,
    /// The settings in force.
    pub config: Config,
    /// The temperature in force.
    pub temperature: f32,
    /// The rest of the sampling, for whoever wants to repeat a run.
    pub sampling: Sampling,
    encoder: Encoder,
    generator: LlamaGenerator,
    initial: Vec<String>,
    /// Embeddings of the initial set, and where each text is in them.
    initial_rows: Embeddings,
    initial_index: HashMap<String, usize>,
    load_seconds: f64,
}

impl Session {
    /// Loads everything that a pack names. `say` is told what is going on.
    ///
    /// # Errors
    /// If a file is missing or damaged, a device cannot be had, or the loading was cancelled.
    pub fn open(pack: Pack, options: &Options, backend: BackendChoice, say: &mut dyn FnMut(&str)) -> Result<Self> {
        let begin = Instant::now();
        let (backend, chosen) = open_backend(backend)?;
        say(&format!("encoder on {chosen}"));
        let initial = pack.initial_texts()?;
        let config = config(&pack.settings, options);
        let temperature = options.temperature.unwrap_or(pack.settings.temperature);
        // Checked first: it is quick, and a damaged file should not cost the loading of a large language model.
        let files = ModelFiles::open_with(&pack.scorer_path(), options.precision)?;
        say("loading the language model");
        let sampling = Sampling {
            top_p: pack.settings.top_p,
            sequences: pack.generator.sequences,
            lines: pack.generator.lines,
            context: pack.generator.context,
        };
        let generator = open_generator(&pack, sampling, temperature, &options.cancel)?;
        let unless_cancelled = || if options.cancel.load(Ordering::SeqCst) { bail!("cancelled") } else { Ok(()) };
        unless_cancelled()?;
        say("loading the encoder");
        let mut encoder = files.load(&*backend)?;
        unless_cancelled()?;
        say(&format!("embedding {} initial texts", initial.len()));
        let initial_rows = encoder.embed_texts(&initial)?;
        let initial_index = initial.iter().enumerate().map(|(i, t)| (t.clone(), i)).collect();
        let names = ModelNames {
            scorer: format!("{}/{}", pack.name, encoder.name()),
            generator: generator.info().name.clone(),
            backend: backend.name(),
            pack: pack.name,
        };
        let load_seconds = begin.elapsed().as_secs_f64();
        Ok(Self {
            names,
            config,
            temperature,
            sampling,
            encoder,
            generator,
            initial,
            initial_rows,
            initial_index,
            load_seconds,
        })
    }

    /// Runs the loop on a picture with the pack's language model.
    ///
    /// # Errors
    /// If a model fails, or says nothing usable.
    pub fn caption(
        &mut self,
        image: &RgbImage,
        observer: &mut dyn FnMut(&Event<'_>) -> ControlFlow<()>,
    ) -> Result<Run> {
        self.run(image, None, observer)
    }

    /// As [`Session::caption`], with `between` standing between the loop and the language model: for ablations.
    ///
    /// # Errors
    /// As [`Session::caption`], and whatever `between` fails with.
    pub fn run(
        &mut self,
        image: &RgbImage,
        between: Option<&mut Between<'_>>,
        observer: &mut dyn FnMut(&Event<'_>) -> ControlFlow<()>,
    ) -> Result<Run> {
        let begin = Instant::now();
        let image_row = self.encoder.embed_images(std::slice::from_ref(image))?;
        let mut seconds =
            Seconds { load: self.load_seconds, image: begin.elapsed().as_secs_f64(), ..Seconds::default() };
        let mut scorer = ImageScorer {
            encoder: &mut self.encoder,
            image: image_row,
            rows: &self.initial_rows,
            index: &self.initial_index,
            seconds: 0.0,
        };
        let mut generator = Timed { inner: &mut self.generator, between, seconds: 0.0 };
        let outcome = Optimizer::new(self.config.clone()).run(&self.initial, &mut generator, &mut scorer, observer)?;
        (seconds.generate, seconds.score) = (generator.seconds, scorer.seconds);
        seconds.total = begin.elapsed().as_secs_f64();
        Ok(Run { outcome, seconds })
    }

    /// Scores of texts with a picture: cosine of their embeddings, -1 to 1.
    ///
    /// # Errors
    /// If the encoder fails.
    pub fn score(&mut self, image: &RgbImage, texts: &[String]) -> Result<Vec<f32>> {
        let image = self.encoder.embed_images(std::slice::from_ref(image))?;
        let rows = self.encoder.embed_texts(texts)?;
        Ok((0..texts.len()).map(|i| image.dot(0, &rows, i)).collect())
    }

    /// The texts that a run starts from.
    pub fn initial(&self) -> &[String] {
        &self.initial
    }

    /// Labels for showing scores to people, as the language model sees them.
    pub fn labels(&self, scores: &[f32]) -> Vec<u32> {
        relative_labels(scores, self.config.label_scale)
    }
}

/// The pack's settings with what the command line says over them.
fn config(settings: &LoopSettings, options: &Options) -> Config {
    Config {
        steps: options.steps.unwrap_or(settings.steps),
        keep: options.keep.unwrap_or(settings.keep),
        propose: options.propose.unwrap_or(settings.propose),
        asks: settings.asks,
        seed: options.seed,
        label_scale: settings.label_scale,
        patience: (settings.patience > 0).then_some(settings.patience),
        feedback: options.feedback,
    }
}

fn open_generator(
    pack: &Pack,
    sampling: Sampling,
    temperature: f32,
    cancel: &Arc<AtomicBool>,
) -> Result<LlamaGenerator> {
    let Sampling { top_p, sequences, lines, context } = sampling;
    let template =
        PromptTemplate::new(&pack.prompt.system, &pack.prompt.user).with_context(|| format!("pack `{}`", pack.name))?;
    let cancel = Arc::clone(cancel);
    let options = LlamaOptions { context, sequences, lines, temperature, top_p, cancel, ..LlamaOptions::default() };
    Ok(LlamaGenerator::open(&pack.generator_path(), options, template)?)
}

/// Cosine of texts with one picture; the initial set's embeddings are there already.
struct ImageScorer<'a> {
    encoder: &'a mut Encoder,
    image: Embeddings,
    rows: &'a Embeddings,
    index: &'a HashMap<String, usize>,
    seconds: f64,
}

impl Scorer for ImageScorer<'_> {
    fn score(&mut self, texts: &[String]) -> Result<Vec<f32>, BoxError> {
        let begin = Instant::now();
        let new: Vec<String> = texts.iter().filter(|t| !self.index.contains_key(*t)).cloned().collect();
        let new_rows = self.encoder.embed_texts(&new)?;
        let mut next = 0;
        let scores = texts
            .iter()
            .map(|text| match self.index.get(text) {
                Some(&row) => self.image.dot(0, self.rows, row),
                None => {
                    next += 1;
                    self.image.dot(0, &new_rows, next - 1)
                }
            })
            .collect();
        self.seconds += begin.elapsed().as_secs_f64();
        Ok(scores)
    }
}

/// The language model, timed, with what may stand before it.
struct Timed<'a, 'b> {
    inner: &'a mut dyn Generator,
    between: Option<&'a mut Between<'b>>,
    seconds: f64,
}

impl Generator for Timed<'_, '_> {
    fn propose(&mut self, request: &Request<'_>) -> Result<Proposals, BoxError> {
        let begin = Instant::now();
        let proposals = match &mut self.between {
            Some(between) => between(self.inner, request),
            None => self.inner.propose(request),
        };
        self.seconds += begin.elapsed().as_secs_f64();
        proposals
    }
}
