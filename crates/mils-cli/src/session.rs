//! The models of a pack, loaded once, and the run of the loop on a picture, a video or a sound.

use crate::backend::{BackendChoice, MathChoice, generator_placement};
use crate::flight::{self, Crew, Lane, Runway};
use crate::media::Media;
use crate::scorers::{Mode, Scorers, config};
use anyhow::{Context, Result, bail};
use mils_encoder::{Embeddings, Precision};
use mils_graph::Account;
use mils_llm::{
    AnyGenerator, DeviceKind, EndpointGenerator, EndpointOptions, LlamaGenerator, LlamaOptions, MOST_CALLS,
    MOST_PROMPTS, MOST_SEQUENCES, Meter, Placement,
};
use mils_models::{GeneratorFiles, Modality, Pack};
use mils_optim::prompt::PromptTemplate;
use mils_optim::{BoxError, Config, Event, Feedback, Generator, Outcome, Proposals, Request, relative_labels};
use serde::{Deserialize, Serialize};
use std::ops::ControlFlow;
use std::path::PathBuf;
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
    /// How the encoder computes.
    pub math: MathChoice,
    /// What is loaded at once; the other encoders when something for them comes. `None` is what the pack has first.
    pub first: Option<Modality>,
    /// Files that will be captioned, as far as that is known.
    pub files: usize,
    /// Runs that go on side by side, at most; `None` is what suits the devices. Never more than there are files.
    pub in_flight: Option<usize>,
    /// Answers written side by side; `None` is the pack's, or what suits the model and the machine.
    pub sequences: Option<usize>,
    /// Asks this endpoint in place of the pack's language model.
    pub endpoint: Option<Endpoint>,
    /// Takes the place of the pack's initial sets.
    pub initial: Option<PathBuf>,
    /// Where the embeddings of initial sets are kept from one process to the next; `None` computes them.
    pub embeddings: Option<mils_bank::Store>,
    /// Set to end the loading or a generation early.
    pub cancel: Arc<AtomicBool>,
}

/// What is going on while models are loaded, for people.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Doing<'a> {
    /// Something begins.
    Begins(&'a str),
    /// It goes on: how far it is.
    Goes(&'a str),
    /// What is good to know, though nothing failed.
    Note(&'a str),
}

/// Is told what is going on.
pub type Say<'a> = dyn FnMut(Doing<'_>) + 'a;

/// A language model behind an OpenAI-compatible endpoint.
#[derive(Clone, Debug)]
pub struct Endpoint {
    /// Its base, as `http://localhost:8080/v1`.
    pub url: String,
    /// The model's name there; `None` is the only one that there is.
    pub model: Option<String>,
}

/// Is given the language model and each request of the loop, and answers in its place.
pub type Between<'a> = dyn FnMut(&mut dyn Generator, &Request<'_>) -> Result<Proposals, BoxError> + 'a;

/// Names of what took part in a run.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub struct ModelNames {
    /// The pack.
    pub pack: String,
    /// The language model.
    pub generator: String,
    /// Where the encoders ran.
    pub backend: String,
    /// Where the language model ran, for people.
    pub generator_on: String,
}

/// Wall-clock seconds by phase.
#[derive(Clone, Copy, Debug, Default, Deserialize, Serialize)]
pub struct Seconds {
    /// Loading the first models and embedding the initial set; once a session.
    pub load: f64,
    /// Reading what is described, and embedding it.
    pub input: f64,
    /// Language model.
    pub generate: f64,
    /// Embedding and comparing texts.
    pub score: f64,
    /// From the file to the caption.
    pub total: f64,
}

/// Wall-clock seconds of one step, from the end of the one before. What is in none of the phases went into choosing and
/// telling, or into waiting for other files.
#[derive(Clone, Copy, Debug, Default, Deserialize, PartialEq, Serialize)]
pub struct StepSeconds {
    /// Reading what is described, and embedding it; in step 0 alone.
    pub input: f64,
    /// Language model.
    pub generate: f64,
    /// Embedding and comparing texts.
    pub score: f64,
    /// The whole step.
    pub total: f64,
}

/// The share of a stretch of wall time, 0 to 1, in which each model was at work, for whichever file. Together they
/// are more than 1 where they worked at the same time.
#[derive(Clone, Copy, Debug, Default, Deserialize, PartialEq, Serialize)]
pub struct Utilisation {
    /// The language model.
    pub generator: f64,
    /// The encoder.
    pub scorer: f64,
}

/// What the encoder did, without the initial set.
#[derive(Clone, Copy, Debug, Default, Deserialize, PartialEq, Eq, Serialize)]
pub struct EncoderWork {
    /// Graphs that were run; a batch is one, or some.
    pub runs: u64,
    /// Floating-point operations of matrix products: 2 for a multiplication with its addition.
    pub flops: u64,
}

impl EncoderWork {
    /// What was done since it was asked for last.
    pub(crate) fn since(account: &Account) -> Self {
        let work = account.take();
        Self { runs: work.dispatches(), flops: work.cost().flops }
    }
}

/// A finished run.
#[derive(Clone, Debug)]
pub struct Run {
    /// The loop's result.
    pub outcome: Outcome,
    /// What the encoder did from the end of the run before. Of a run among others that is not all for this one, but of
    /// all runs together it is theirs.
    pub encoder: EncoderWork,
    /// Times. Of a run among others they hold what it waited for: the models work for the others meanwhile.
    pub seconds: Seconds,
    /// How busy the models were from its file to its caption.
    pub utilisation: Utilisation,
}

/// A setting as it was written: widened to f64 as it is, 1.4 would be shown as 1.399999976158142.
pub(crate) fn decimal(value: f32) -> f64 {
    value.to_string().parse().unwrap_or(f64::from(value))
}

fn as_written<S: serde::Serializer>(value: &f32, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_f64(decimal(*value))
}

/// How the language model is sampled, beside its temperature.
#[derive(Clone, Copy, Debug, Deserialize, Serialize)]
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

/// What there is to tell of all of a session's runs.
#[derive(Clone, Debug)]
pub struct Facts {
    /// See [`Session::names`].
    pub names: ModelNames,
    /// See [`Session::temperature`].
    pub temperature: f32,
    /// See [`Session::sampling`].
    pub sampling: Sampling,
    /// See [`Session::in_flight`].
    pub in_flight: usize,
    /// Parameters of the language model, where they are known.
    pub generator_parameters: Option<u64>,
}

/// Models in memory, ready to caption.
pub struct Session {
    /// Names for reports.
    pub names: ModelNames,
    /// The temperature in force.
    pub temperature: f32,
    /// The rest of the sampling, for whoever wants to repeat a run.
    pub sampling: Sampling,
    scorers: Scorers,
    /// One for each run that may be in flight.
    generators: Vec<AnyGenerator>,
    /// Parameters of the language model, where they are known.
    generator_parameters: Option<u64>,
    load_seconds: f64,
    /// Times the encoders.
    meter: Meter,
}

impl Session {
    /// Loads the generator and the first encoder that a pack names. `say` is told what is going on.
    ///
    /// # Errors
    /// If a file is missing or damaged, a device cannot be had, or the loading was cancelled.
    pub fn open(pack: Pack, options: &Options, backend: BackendChoice, say: &mut Say<'_>) -> Result<Self> {
        let begin = Instant::now();
        let placement = generator_placement(backend);
        let tasks = pack.tasks();
        let first = match options.first.or(tasks.first().map(|task| task.modality)) {
            Some(first) => pack.task(first)?,
            None => bail!("pack `{}` describes nothing", pack.name),
        };
        let (mut scorers, place) = Scorers::open(pack.clone(), options, backend, say)?;
        let temperature = options.temperature.unwrap_or(pack.settings.temperature);
        // Checked first: it is quick, and a damaged file should not cost the loading of a large language model.
        let files = scorers.files(&first)?;
        let elsewhere = options.endpoint.is_some();
        say(Doing::Begins(if elsewhere { "asking for the language model" } else { "loading the language model" }));
        let overlap = Overlap::of(place.on_cpu, !elsewhere && generator_on_cpu(placement)?);
        scorers.score_ahead(overlap.score_ahead);
        let in_flight = options.in_flight.unwrap_or(overlap.in_flight);
        let in_flight = in_flight.clamp(1, options.files.clamp(1, MOST_PROMPTS));
        let most = tasks.iter().map(|task| config(&task.settings, options).propose).max().unwrap_or(1);
        let Writer { generator, name, on, sequences, parameters } =
            open_writer(&pack, temperature, in_flight, placement, options, most)?;
        let sampling = Sampling {
            top_p: pack.settings.top_p,
            sequences,
            lines: pack.generator.lines,
            context: pack.generator.context,
        };
        if options.cancel.load(Ordering::SeqCst) {
            bail!("cancelled");
        }
        scorers.load(&first, files, say)?;
        let names = ModelNames { generator: name, backend: place.name, generator_on: on, pack: pack.name };
        let generators = (1..in_flight).map(|_| generator.another()).collect::<Vec<_>>();
        let generators = std::iter::once(generator).chain(generators).collect();
        let load_seconds = begin.elapsed().as_secs_f64();
        let meter = Meter::new();
        let generator_parameters = parameters;
        Ok(Self { names, temperature, sampling, scorers, generators, generator_parameters, load_seconds, meter })
    }

    /// Runs the loop with the pack's language model.
    ///
    /// # Errors
    /// If the pack has nothing for it, a model fails, or says nothing usable.
    pub fn caption(&mut self, media: &Media, observer: &mut dyn FnMut(&Event<'_>) -> ControlFlow<()>) -> Result<Run> {
        self.run(media, None, observer)
    }

    /// As [`Session::caption`], with `between` standing between the loop and the language model: for ablations.
    ///
    /// # Errors
    /// As [`Session::caption`], and whatever `between` fails with.
    pub fn run(
        &mut self,
        media: &Media,
        between: Option<&mut Between<'_>>,
        observer: &mut dyn FnMut(&Event<'_>) -> ControlFlow<()>,
    ) -> Result<Run> {
        let mode = self.mode(media.modality())?;
        let (scorers, generators, lane) = self.parts();
        let encoder = scorers.encoder(&mode);
        let begin = lane.begin();
        let row = lane.meter.time(|| media.embed(encoder))?;
        let mut embed = |texts: &[String]| Ok(lane.meter.time(|| encoder.embed_texts(texts))?);
        // A session has at least one.
        let generator = generators.first_mut().context("a session without a generator")?;
        generator.set_template(Arc::clone(&mode.template));
        let crew = Crew { generator, between, embed: &mut embed, keep: None };
        let mut run = lane.run(&mode, begin, row, crew, &mut |event, _| observer(event))?;
        run.encoder = EncoderWork::since(&scorers.account());
        Ok(run)
    }

    /// Asks the language model in words of its own, outside any run.
    ///
    /// # Errors
    /// If it fails.
    pub(crate) fn propose(&mut self, template: PromptTemplate, request: &Request<'_>) -> Result<Proposals> {
        let generator = self.generators.first_mut().context("a session without a generator")?;
        generator.set_template(Arc::new(template));
        generator.propose(request).map_err(|error| anyhow::anyhow!("the language model failed: {error}"))
    }

    /// Embeds texts by the encoder of a modality; it is loaded if it is not there yet.
    ///
    /// # Errors
    /// If the pack has nothing for it, or the encoder fails.
    pub(crate) fn embed_texts(&mut self, modality: Modality, texts: &[String]) -> Result<Embeddings> {
        let mode = self.mode(modality)?;
        Ok(self.scorers.encoder(&mode).embed_texts(texts)?)
    }

    /// Captions files, [`Session::in_flight`] at a time: while one is scored, others are written for. See [`Runway`]
    /// for what it is told and asked.
    pub fn caption_all(&mut self, runway: &Runway<'_>, done: &mut flight::Done<'_>) -> Utilisation {
        let (scorers, generators, lane) = self.parts();
        flight::fly(scorers, generators, &lane, runway, done)
    }

    /// What there is to tell of runs, also while they go on.
    pub fn facts(&self) -> Facts {
        let (temperature, sampling, in_flight) = (self.temperature, self.sampling, self.in_flight());
        let (names, generator_parameters) = (self.names.clone(), self.generator_parameters);
        Facts { names, temperature, sampling, in_flight, generator_parameters }
    }

    /// Runs that can be in flight.
    pub fn in_flight(&self) -> usize {
        self.generators.len()
    }

    /// How things of a modality are described; its encoder is loaded if it is not there yet.
    ///
    /// # Errors
    /// If the pack has nothing for it, or it cannot be loaded.
    pub fn mode(&mut self, modality: Modality) -> Result<Arc<Mode>> {
        self.scorers.mode(modality, &mut |_| {})
    }

    /// The settings in force for a modality, to be changed; its encoder is loaded if it is not there yet.
    ///
    /// # Errors
    /// As [`Session::mode`].
    pub fn config(&mut self, modality: Modality) -> Result<&mut Config> {
        self.mode(modality)?;
        let mode = self.scorers.mode_mut(modality).context("a mode that was opened is gone")?;
        Ok(&mut mode.config)
    }

    /// What changes in a run, and what all share.
    fn parts(&mut self) -> (&mut Scorers, &mut [AnyGenerator], Lane<'_>) {
        let lane = Lane { load_seconds: self.load_seconds, meter: &self.meter, stop: None };
        (&mut self.scorers, &mut self.generators, lane)
    }

    /// Scores of texts: cosine of their embeddings with that of what they describe, -1 to 1.
    ///
    /// # Errors
    /// If the pack has nothing for it, or the encoder fails.
    pub fn score(&mut self, media: &Media, texts: &[String]) -> Result<Vec<f32>> {
        let mode = self.mode(media.modality())?;
        let encoder = self.scorers.encoder(&mode);
        let row = media.embed(encoder)?;
        Ok(row.dots(0, &encoder.embed_texts(texts)?))
    }
}

impl Mode {
    /// Labels for showing scores to people, as the language model sees them.
    pub fn labels(&self, scores: &[f32]) -> Vec<u32> {
        relative_labels(scores, self.config.label_scale)
    }
}

/// How far the language model and the encoder work side by side.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Overlap {
    /// Runs at a time, where nobody says how many.
    in_flight: usize,
    /// See [`Config::score_ahead`].
    score_ahead: usize,
}

impl Overlap {
    /// By whether each is on the CPU. Where both are, they would only take the cores from each other: in one run each on
    /// two cores, the demo's five samples took 7.7 s one after another and 8.7 s four at a time.
    fn of(encoder_on_cpu: bool, generator_on_cpu: bool) -> Self {
        if encoder_on_cpu && generator_on_cpu {
            Self { in_flight: 1, score_ahead: 0 }
        } else {
            // Not measured: a run that is scored leaves three to write for, and 16 texts should be worth a GPU's while.
            Self { in_flight: 4, score_ahead: 16 }
        }
    }
}

/// On the CPU, whatever else there is?
fn generator_on_cpu(placement: Placement) -> Result<bool> {
    Ok(mils_llm::chosen(&mils_llm::devices()?, placement).iter().all(|d| d.kind == DeviceKind::Cpu))
}

/// A generator, and what it says of itself.
pub(crate) struct Writer {
    pub generator: AnyGenerator,
    pub name: String,
    /// Where it runs.
    pub on: String,
    /// Answers side by side.
    pub sequences: usize,
    /// Its parameters, where they are known.
    pub parameters: Option<u64>,
}

impl Writer {
    /// As [`open_writer`], for one run at a time that asks for so many texts.
    ///
    /// # Errors
    /// As there.
    pub(crate) fn open(pack: &Pack, options: &Options, backend: BackendChoice, propose: usize) -> Result<Self> {
        let temperature = options.temperature.unwrap_or(pack.settings.temperature);
        open_writer(pack, temperature, 1, generator_placement(backend), options, propose)
    }
}

/// The language model of a pack, or the one that is asked in its place, for so many requests side by side of so many texts.
///
/// # Errors
/// If it is not there, or damaged, or was cancelled.
pub(crate) fn open_writer(
    pack: &Pack,
    temperature: f32,
    in_flight: usize,
    placement: Placement,
    options: &Options,
    propose: usize,
) -> Result<Writer> {
    match &options.endpoint {
        Some(endpoint) => open_endpoint(pack, endpoint, temperature, in_flight, options),
        None => open_llama(pack, temperature, in_flight, placement, options, propose),
    }
}

/// Calls that are under way at a time where nobody says how many.
const CALLS: usize = 8;

fn open_endpoint(
    pack: &Pack,
    endpoint: &Endpoint,
    temperature: f32,
    in_flight: usize,
    options: &Options,
) -> Result<Writer> {
    let calls = options.sequences.unwrap_or(CALLS * in_flight).clamp(1, MOST_CALLS);
    let variable = |name: &str| std::env::var(name).ok().filter(|key| !key.is_empty());
    let options = EndpointOptions {
        url: endpoint.url.clone(),
        model: endpoint.model.clone(),
        key: variable("MILS_API_KEY").or_else(|| variable("OPENAI_API_KEY")),
        lines: pack.generator.lines,
        temperature,
        top_p: pack.settings.top_p,
        calls,
        cancel: Arc::clone(&options.cancel),
        ..EndpointOptions::default()
    };
    // Each mode has a template of its own, which is set before it is asked.
    let generator = EndpointGenerator::open(options, template(pack)?)?;
    let (name, on) = (generator.model().to_owned(), endpoint.url.clone());
    Ok(Writer { generator: AnyGenerator::Endpoint(generator), name, on, sequences: calls, parameters: None })
}

fn template(pack: &Pack) -> Result<PromptTemplate> {
    PromptTemplate::new(&pack.prompt.system, &pack.prompt.user).with_context(|| format!("pack `{}`", pack.name))
}

fn open_llama(
    pack: &Pack,
    temperature: f32,
    in_flight: usize,
    placement: Placement,
    options: &Options,
    propose: usize,
) -> Result<Writer> {
    let GeneratorFiles { context, sequences, lines, .. } = pack.generator;
    let most = MOST_SEQUENCES - in_flight;
    let told = options.sequences.or(sequences).map(|n| n.min(most));
    let wanted = propose.div_ceil(lines.max(1)).saturating_mul(in_flight).clamp(1, most);
    let options = LlamaOptions {
        context,
        sequences: told.unwrap_or(wanted),
        fit: told.is_none(),
        prompts: in_flight,
        lines,
        temperature,
        top_p: pack.settings.top_p,
        placement,
        cancel: Arc::clone(&options.cancel),
        ..LlamaOptions::default()
    };
    let generator = LlamaGenerator::open(&pack.generator_path()?, options, template(pack)?)?;
    let info = generator.info();
    let (name, on, sequences) = (info.name.clone(), info.device.clone(), info.sequences);
    let parameters = Some(info.parameters);
    Ok(Writer { generator: AnyGenerator::Llama(generator), name, on, sequences, parameters })
}
