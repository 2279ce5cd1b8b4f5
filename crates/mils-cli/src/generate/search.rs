//! One search for a prompt or an instruction: models and the renderer are opened, the loop runs, and what happens is
//! written down.

use super::args::{RendererArgs, SearchArgs};
use super::folder::Folder;
use super::judge::{Critic, Judge, Panel, Target};
use super::renderer::{Easel, Original};
use super::studio::{Shot, Studio, StudioScorer};
use crate::args::Format;
use crate::batch::StepDone;
use crate::choose;
use crate::flight::{Lane, Writing};
use crate::interrupt::{INTERRUPTED, on_ctrl_c};
use crate::log::Log;
use crate::media::Media;
use crate::report::{Embedding, Site, Subject, copied};
use crate::scorers::config;
use crate::session::{ModelNames, Options, Run, Sampling, StepSeconds, Writer, decimal};
use crate::show::{Display, one_line, tell};
use crate::single::Found;
use crate::trace::{DrawingFacts, EditFacts, EndFacts, Of, Record, RunFacts, ScorerFacts, Trace};
use anyhow::{Context, Result};
use mils_llm::{AnyGenerator, Meter};
use mils_models::{LoopSettings, Modality, Pack, Prompts};
use mils_optim::prompt::PromptTemplate;
use mils_optim::{Config, Event, InitialSet, StoppedBy};
use serde_json::{Value, json};
use std::cell::{Cell, RefCell};
use std::io::Write;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

/// What a search is for.
pub(crate) struct Plan<'a> {
    /// What was asked for: it names the search in its folder and report.
    pub(crate) wish: String,
    /// What the language model is told of it.
    pub(crate) about: String,
    /// What the language model is asked.
    pub(crate) prompts: Prompts,
    /// Settings of the loop.
    pub(crate) settings: LoopSettings,
    /// What is drawn first.
    pub(crate) initial: Vec<String>,
    /// What is edited, if anything is.
    pub(crate) original: Option<Original>,
    /// Opens what judges the pictures.
    pub(crate) critic: &'a Opening<'a>,
    /// What makes another search, beside what all searches have.
    pub(crate) key: Value,
    /// What there is to tell of it, beside that.
    pub(crate) facts: EditFacts,
    /// Where the best picture is put too.
    pub(crate) copy: Option<PathBuf>,
}

/// Says what is being done, and what there is to know of a model; opens what judges, of pictures as they are drawn, or
/// `None` if that was interrupted.
pub(crate) type Opening<'a> =
    dyn Fn(&Easel, &dyn Fn(&str), &dyn Fn(&str), &AtomicBool) -> Result<Option<Box<dyn Critic>>> + 'a;

/// What a search has.
pub(crate) struct Search<'a> {
    plan: &'a Plan<'a>,
    args: &'a SearchArgs,
    pack: Pack,
    easel: Arc<Easel>,
    cancel: Arc<AtomicBool>,
    display: Display,
    log: RefCell<Log>,
    folder: RefCell<Box<Folder>>,
    /// Something failed that did not stop the rest.
    failed: Cell<bool>,
    /// Pictures that are drawn at the end.
    finals: usize,
}

/// How a search has ended.
struct End {
    run: Run,
    best: Best,
    /// Pictures that were drawn, were there, and failed.
    pictures: (usize, usize, usize),
}

/// The picture that is taken.
struct Best {
    prompt: String,
    score: f32,
    /// `None` where that is not known any more.
    seed: Option<u64>,
}

/// The models.
struct Models {
    writer: Writer,
    critic: Box<dyn Critic>,
    config: Config,
    facts: RunFacts,
    load: f64,
}

impl<'a> Search<'a> {
    /// Searches for the prompt whose pictures show best what is wished for, in a folder.
    ///
    /// # Errors
    /// If a model or the renderer fails, or the folder cannot be written.
    pub(crate) fn run(wish: &str, output: &Path, renderer: &RendererArgs, args: &SearchArgs) -> Result<ExitCode> {
        let choice = choose::named(args.writer.pack.as_deref(), || Modality::Image)?;
        let cancel = on_ctrl_c()?;
        let Some(pack) = choice.with_models(args.quiet, &cancel)? else { return Ok(ExitCode::from(INTERRUPTED)) };
        Self::with_pack(wish, None, output, renderer, args, pack, cancel)
    }

    /// As [`Search::run`], with a pack that is there. Pictures are compared with `target`, if there is one: its name, and
    /// what encoders make of it; else with the wish.
    pub(crate) fn with_pack(
        wish: &str,
        target: Option<(&str, &Target<'_>)>,
        output: &Path,
        renderer: &RendererArgs,
        args: &SearchArgs,
        pack: Pack,
        cancel: Arc<AtomicBool>,
    ) -> Result<ExitCode> {
        let drawing = pack.drawing();
        let own = [(pack.given().to_owned(), 1.0)];
        let scorers = if args.scorers.is_empty() { &own[..] } else { &args.scorers };
        let critic = |_: &Easel, say: &dyn Fn(&str), note: &dyn Fn(&str), cancel: &AtomicBool| {
            let panel = Panel {
                scorers,
                aesthetic: args.aesthetic.as_ref(),
                aesthetic_encoder: args.aesthetic_encoder.as_deref(),
            };
            let Some(mut judge) = Judge::open(&panel, wish, &args.encoder, say, note, cancel)? else {
                return Ok(None);
            };
            if let Some((_, target)) = target {
                judge.towards(target)?;
            }
            Ok(Some(Box::new(judge) as Box<dyn Critic>))
        };
        let plan = Plan {
            wish: wish.to_owned(),
            about: wish.to_owned(),
            prompts: drawing.prompt,
            settings: drawing.settings,
            initial: vec![wish.to_owned()],
            original: None,
            critic: &critic,
            key: json!(target.map(|(name, _)| name)),
            facts: EditFacts { measure: target.map(|(name, _)| format!("cosine with {name}")), ..EditFacts::default() },
            copy: None,
        };
        Search::go(&plan, output, renderer, args, pack, cancel)
    }

    /// Runs a search.
    ///
    /// # Errors
    /// If a model or the renderer fails, or the folder cannot be written.
    pub(crate) fn go(
        plan: &'a Plan<'a>,
        output: &Path,
        renderer: &RendererArgs,
        args: &'a SearchArgs,
        pack: Pack,
        cancel: Arc<AtomicBool>,
    ) -> Result<ExitCode> {
        let display = Display::new(args.quiet, args.verbose);
        display.say("asking for the renderer");
        // Before the models: it is the likelier not to be there.
        let drawing = pack.drawing();
        let easel = match Easel::open(renderer, &drawing, plan.original.clone(), &cancel) {
            Err(_) if cancel.load(Ordering::SeqCst) => return Ok(ExitCode::from(INTERRUPTED)),
            easel => Arc::new(easel?),
        };
        let identity = identity(plan, args, &pack, &easel);
        let folder = match Folder::open(output, &plan.wish, &identity, args.overwrite, plan.copy.as_deref())? {
            Found::Open(folder) => RefCell::new(folder),
            Found::Done(result) => {
                display.finish();
                if !args.quiet {
                    tell(&format!("{} has it already; --overwrite begins anew", output.display()));
                }
                return print(args, &result).map(|()| ExitCode::SUCCESS);
            }
        };
        let finals = args.finals.map_or(drawing.finals, |n| n as usize);
        let (log, failed) = (RefCell::default(), Cell::new(false));
        let mut search = Self { plan, args, pack, easel, cancel, display, log, folder, failed, finals };
        let result = search.all();
        search.display.finish();
        let Self { folder, .. } = search;
        match result {
            Ok((code, value)) => folder.into_inner().finish(value.as_ref()).map(|()| code),
            // What was done is kept.
            Err(error) => Err(error),
        }
    }

    fn cancelled(&self) -> bool {
        self.cancel.load(Ordering::SeqCst)
    }

    /// The exit code, and the result if the search is done.
    fn all(&mut self) -> Result<(ExitCode, Option<Value>)> {
        let interrupted = (ExitCode::from(INTERRUPTED), None);
        let models = match self.open() {
            Err(_) if self.cancelled() => return Ok(interrupted),
            opened => opened?,
        };
        let Some(models) = models else { return Ok(interrupted) };
        self.begin(&models)?;
        let (scorer, names) = (models.critic.name().to_owned(), models.facts.names.clone());
        let (temperature, sampling) = (models.facts.temperature, models.facts.sampling);
        let config = models.config.clone();
        let End { run, best, pictures } = match self.search(models) {
            Err(_) if self.cancelled() => return Ok(interrupted),
            Err(error) => {
                self.log(|log| log.record(&Record::Failed { of: self.of(), error: one_line(&error).into() }));
                self.report()?;
                let best = self.folder.borrow().file("best.png");
                let kept = format!("what there is by then is in {}, and the same command goes on", best.display());
                return Err(if best.is_file() {
                    error.context(format!("the search has ended early; {kept}"))
                } else {
                    error
                });
            }
            Ok(done) => done,
        };
        let outcome = &run.outcome;
        let facts = EndFacts::of(Some(Modality::Image), &run);
        self.log(|log| log.record(&Record::End { of: self.of(), facts }));
        self.log(|log| log.total(1, run.seconds.total, run.utilisation));
        let reported = self.report();
        let first = outcome.steps.first().map(|step| step.best.score);
        let file = |name: &str| self.folder.borrow().file(name).display().to_string();
        let done = outcome.stopped_by != StoppedBy::Interrupted && !self.cancelled();
        let value = json!({
            "file": self.plan.wish,
            "wish": self.plan.wish,
            "prompt": best.prompt,
            // As results of captions have it.
            "caption": best.prompt,
            "score": best.score,
            "seed": best.seed,
            // Of a prompt it is the mean over its pictures.
            "prompt_score": outcome.best.score,
            "first_score": first,
            "steps": outcome.steps.len().saturating_sub(1),
            "stopped_by": outcome.stopped_by,
            "interrupted": !done,
            "picture": file("best.png"), "grid": file("grid.png"), "trace": file("trace.jsonl"),
            "report": file("report.html"),
            "renderer": self.easel.renderer.get().identity(),
            "pictures": {"drawn": pictures.0, "kept_before": pictures.1, "failed": pictures.2},
            "counts": {"scored": outcome.counts.scored, "unusable": outcome.counts.unusable},
            "seconds": run.seconds,
            "models": {"pack": names.pack, "scorer": scorer, "generator": names.generator, "backend": names.backend},
            "settings": config,
            "temperature": temperature,
            "sampling": sampling,
        });
        self.display.finish();
        if !self.args.quiet {
            let gain = first.map(|first| format!(" (began at {first:.4})")).unwrap_or_default();
            let failed = if pictures.2 > 0 { format!(", {} failed", pictures.2) } else { String::new() };
            tell(&format!(
                "{}: {:.4}{gain}; {} pictures drawn, {} were there{failed}, in {:.1} s{}",
                file("best.png"),
                best.score,
                pictures.0,
                pictures.1,
                run.seconds.total,
                if done { "" } else { "; interrupted, the same command goes on" },
            ));
        }
        print(self.args, &value)?;
        reported?;
        Ok(match done {
            true if self.failed.get() => (ExitCode::FAILURE, Some(value)),
            true => (ExitCode::SUCCESS, Some(value)),
            false => (ExitCode::from(INTERRUPTED), None),
        })
    }

    /// Loads the models; `None` if that was interrupted.
    fn open(&self) -> Result<Option<Models>> {
        let begin = Instant::now();
        let args = self.args;
        let options = Options {
            steps: args.steps.map(|n| n as usize),
            keep: args.keep.map(|n| n as usize),
            propose: args.propose.map(|n| n as usize),
            temperature: args.temperature,
            seed: args.seed,
            endpoint: args.writer.endpoint(),
            cancel: Arc::clone(&self.cancel),
            ..Options::default()
        };
        let (say, note) = (|what: &str| self.display.say(what), |what: &str| self.note(what));
        let Some(critic) = (self.plan.critic)(&self.easel, &say, &note, &self.cancel)? else { return Ok(None) };
        let config = config(&self.plan.settings, &options);
        let asked =
            if options.endpoint.is_some() { "asking for the language model" } else { "loading the language model" };
        self.display.say(asked);
        let mut writer = Writer::open(&self.pack, &options, args.encoder.backend, config.propose)?;
        let prompt = &self.plan.prompts;
        let template = PromptTemplate::new(&prompt.system, &prompt.user);
        let template = template.with_context(|| format!("the prompts of pack `{}`", self.pack.name))?;
        let template = template.about(&self.plan.about);
        writer.generator.set_template(Arc::new(template));
        let (width, height) = self.easel.size;
        let facts = RunFacts {
            version: env!("CARGO_PKG_VERSION").into(),
            names: ModelNames {
                pack: self.pack.name.clone(),
                generator: writer.name.clone(),
                backend: critic.backend().to_owned(),
                generator_on: writer.on.clone(),
            },
            temperature: decimal(options.temperature.unwrap_or(self.pack.settings.temperature)),
            sampling: Sampling {
                top_p: self.pack.settings.top_p,
                sequences: writer.sequences,
                lines: self.pack.generator.lines,
                context: self.pack.generator.context,
            },
            in_flight: 1,
            folder: RunFacts::here(),
            drawing: Some(DrawingFacts {
                prompt: self.plan.wish.clone(),
                renderer: self.easel.renderer.get().identity(),
                size: (width, height),
                seeds: self.seeds().to_vec(),
                settings: self.easel.settings(),
                edit: self.plan.facts.clone(),
            }),
            task: None,
        };
        Ok(Some(Models { writer, critic, config, facts, load: begin.elapsed().as_secs_f64() }))
    }

    fn seeds(&self) -> Arc<[u64]> {
        (0..u64::from(self.args.seeds)).map(|i| self.args.seed.wrapping_add(i)).collect()
    }

    /// The trace and the report begin.
    fn begin(&mut self, models: &Models) -> Result<()> {
        let trace = self.folder.borrow().file("trace.jsonl");
        self.log = RefCell::new(Log::new(Some(Trace::open(&trace)?), true));
        let (modality, scorer) = (Some(Modality::Image), models.critic.name().to_owned());
        let (initial_texts, settings) = (self.plan.initial.len(), models.config.clone());
        self.log(|log| log.record(&Record::Run(models.facts.clone())));
        self.log(|log| log.record(&Record::Scorer(ScorerFacts { modality, scorer, initial_texts, settings })));
        self.log(|log| log.record(&Record::File { of: self.of(), modality }));
        self.display.begin(0, &self.plan.wish);
        let begun = self.folder.borrow().begun().len();
        if begun > 0 {
            self.note(&format!("going on after step {begun}"));
        }
        Ok(())
    }

    /// Runs the loop, and chooses among pictures of its best prompts.
    fn search(&self, models: Models) -> Result<End> {
        let Models { mut writer, critic, config, load, .. } = models;
        let (meter, steps, now) = (Meter::new(), config.steps, Cell::new(0));
        let progress = |done: usize, all: usize| {
            self.display.status(0, &format!("step {}/{steps} · {done} of {all} pictures", now.get()));
        };
        // A picture that fails is left out; the result is one all the same.
        let complain = |what: &str| self.display.line(&format!("mils: {what}"));
        let cancel = Arc::clone(&self.cancel);
        let studio = Studio::new(Arc::clone(&self.easel), critic, self.seeds(), cancel, &progress, &complain);
        let lane = Lane { load_seconds: load, meter: &meter, stop: Some(&*self.cancel) };
        let problem = RefCell::new(None);
        let mut observer = |event: &Event<'_>, seconds: StepSeconds| {
            self.log(|log| log.event((0, &self.name()), event, seconds));
            match event {
                Event::Proposing { step, .. } => now.set(*step),
                Event::Proposed { step, fresh, .. } => {
                    self.display.status(0, &format!("step {step}/{steps} · drawing {fresh} new prompts"));
                    return self.flow();
                }
                Event::StepFinished { record, .. } if !self.cancelled() => {
                    let best = &record.best;
                    if let Err(error) = self.step(&studio, record.step, &best.text, best.score) {
                        *problem.borrow_mut() = Some(error);
                        return ControlFlow::Break(());
                    }
                }
                _ => {}
            }
            self.display.event(0, steps, event);
            self.flow()
        };
        let begun = self.folder.borrow().begun();
        let keep = |step: &StepDone| {
            // What was interrupted within is no step.
            if !self.cancelled() {
                let kept = self.folder.borrow_mut().keep(step);
                kept.unwrap_or_else(|error| self.complain(&format!("{}; going on without", one_line(&error))));
            }
        };
        let (first, begin) = (&self.plan.initial, lane.begin());
        // Of several, some may have no picture; without one of the only one there is nothing to search from.
        let initial = InitialSet::new(if first.len() > 1 { studio.prepare(first)? } else { first.clone() });
        let generator: &mut AnyGenerator = &mut writer.generator;
        let writing = Writing { generator, between: None, keep: Some((begun, &keep)) };
        let run = lane.search(&config, &initial, begin, writing, &mut StudioScorer(&studio), &mut observer)?;
        if let Some(error) = problem.into_inner() {
            return Err(error);
        }
        let best = self.finals(&studio, &run)?;
        let (counts, hits) = (studio.counts(), self.easel.renderer.hits());
        let pictures = (counts.pictures.saturating_sub(hits), hits, counts.failed);
        Ok(End { run, best, pictures })
    }

    /// Draws the best prompts with further seeds, and puts the best picture of all into the folder.
    fn finals(&self, studio: &Studio<'_, Box<dyn Critic>>, run: &Run) -> Result<Best> {
        let outcome = &run.outcome;
        let best = |prompt: String, shot: &Shot| Best { prompt, score: shot.score, seed: Some(shot.seed) };
        let prompt = outcome.best.text.clone();
        let first = match studio.picture(&prompt) {
            // Of a run that was taken up and interrupted nothing is drawn again; its folder has the picture.
            Err(_) if self.cancelled() => return Ok(Best { prompt, score: outcome.best.score, seed: None }),
            shot => best(prompt, &shot?),
        };
        if self.cancelled() || outcome.stopped_by == StoppedBy::Interrupted || self.finals == 0 {
            return Ok(first);
        }
        self.display.status(0, &format!("the last {} pictures", self.finals));
        let last = studio.finals(&outcome.pool, self.finals)?;
        let last = last.filter(|(_, shot)| shot.score > first.score && !self.cancelled());
        let Some((prompt, shot)) = last else { return Ok(first) };
        self.put(outcome.steps.len(), &prompt, shot.score, &shot)?;
        Ok(best(prompt, &shot))
    }

    /// A step is done: its best picture goes into the folder.
    fn step(&self, studio: &Studio<'_, Box<dyn Critic>>, step: usize, prompt: &str, score: f32) -> Result<()> {
        self.put(step, prompt, score, &studio.picture(prompt)?)
    }

    /// Puts the best picture so far into the folder and the trace.
    fn put(&self, step: usize, prompt: &str, score: f32, shot: &Shot) -> Result<()> {
        let file = self.folder.borrow_mut().step(step, prompt, &shot.picture, shot.seed)?;
        let picture = file.display().to_string().into();
        self.log(|log| log.record(&Record::Picture { of: self.of(), step, text: prompt.into(), score, picture }));
        Ok(())
    }

    fn flow(&self) -> ControlFlow<()> {
        if self.cancelled() { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    }

    /// The best picture's file stands for the search in its trace.
    fn name(&self) -> String {
        self.folder.borrow().file("best.png").display().to_string()
    }

    fn of(&self) -> Of<'static> {
        Of { file: self.name().into(), number: 0 }
    }

    fn report(&self) -> Result<()> {
        let Some(run) = self.log.borrow_mut().run(0) else { return Ok(()) };
        let (page, best) = (self.folder.borrow().file("report.html"), self.folder.borrow().file("best.png"));
        let mut site = Site::open(&page, Embedding::default())?;
        let media = mils_media::decode_image(&best, &mils_media::DecodeLimits::default());
        let media = media.map(Media::Image).map_err(anyhow::Error::from);
        let file = best.is_file().then_some(best.as_path());
        site.add(&run, &Subject { media: media.as_ref().map_err(copied), file, modality: Some(Modality::Image) })?;
        site.finish(self.cancelled().then_some(1)).map(drop)
    }

    /// Writes to the trace. One that cannot be written is said once, and the search goes on without it.
    fn log(&self, write: impl FnOnce(&mut Log) -> Result<()>) {
        let Err(error) = write(&mut self.log.borrow_mut()) else { return };
        self.complain(&format!("{}; going on without it", one_line(&error)));
    }

    fn complain(&self, what: &str) {
        self.failed.set(true);
        self.display.line(&format!("mils: {what}"));
    }

    fn note(&self, what: &str) {
        if !self.args.quiet {
            self.display.line(what);
        }
    }
}

/// What makes another search.
fn identity(plan: &Plan<'_>, args: &SearchArgs, pack: &Pack, easel: &Easel) -> Value {
    let aesthetic = args.aesthetic.as_ref().map(|(file, w)| json!([file, decimal(*w), args.aesthetic_encoder]));
    let scorers: Vec<Value> = args.scorers.iter().map(|(name, weight)| json!([name, decimal(*weight)])).collect();
    json!({
        "wish": plan.wish, "of": plan.key, "pack": pack.name, "scorers": scorers, "aesthetic": aesthetic, "renderer": easel.renderer.get().identity(),
        "size": easel.size, "render": easel.settings(), "generator": args.writer.generator,
        "generator_model": args.writer.generator_model, "steps": args.steps, "keep": args.keep, "propose": args.propose,
        "temperature": args.temperature.map(decimal), "seed": args.seed, "seeds": args.seeds, "finals": args.finals,
    })
}

fn print(args: &SearchArgs, result: &Value) -> Result<()> {
    let mut out = std::io::stdout().lock();
    let printed = match args.format {
        Format::Text => writeln!(out, "{}", result["prompt"].as_str().unwrap_or_default()),
        Format::Json => writeln!(out, "{result}"),
    };
    printed.and_then(|()| out.flush()).context("cannot print the result")
}
