//! One search: the scorer and the language model are opened, the loop runs, and what happens is written down.

use super::args::OptimizeArgs;
use super::program::{Program, ProgramOptions};
use super::scorer::{TaskScorer, Tell};
use super::task::{self, Objective, Task};
use crate::args::Format;
use crate::batch::StepDone;
use crate::choose::{self, Choice};
use crate::flight::{Lane, Writing};
use crate::interrupt::{INTERRUPTED, on_ctrl_c};
use crate::log::Log;
use crate::output::replace;
use crate::report::{Embedding, Site, Subject};
use crate::session::{Doing, ModelNames, Options, Run, Sampling, StepSeconds, Writer, decimal};
use crate::show::{Display, one_line, tell};
use crate::single::{Found, Single};
use crate::trace::{EndFacts, Of, Record, RunFacts, ScorerFacts, TaskFacts, Trace};
use anyhow::{Context, Result, anyhow};
use mils_llm::Meter;
use mils_models::{Modality, Pack, Prompts};
use mils_optim::prompt::PromptTemplate;
use mils_optim::{Candidate, Config, Event, InitialSet, Scorer, StoppedBy, Unusable, UnusableReason, non_dominated};
use serde_json::{Value, json};
use std::cell::{Cell, RefCell};
use std::collections::HashSet;
use std::io::Write;
use std::ops::ControlFlow;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

/// What a search has.
struct Search<'a> {
    args: &'a OptimizeArgs,
    task: &'a Task,
    pack: &'a Pack,
    prompts: &'a Prompts,
    options: &'a Options,
    config: &'a Config,
    cancel: Arc<AtomicBool>,
    display: Display,
    log: RefCell<Log>,
    folder: RefCell<Option<Box<Single>>>,
    /// Something failed that did not stop the rest.
    failed: Cell<bool>,
}

/// Runs the command.
///
/// # Errors
/// If the task file, a model or the scorer fails, or the folder cannot be written.
pub(super) fn run(args: &OptimizeArgs) -> Result<ExitCode> {
    let task = Task::read(&args.config)?;
    let initial = task.initial()?;
    let cancel = on_ctrl_c()?;
    let choice = match (task.pack(args), task.endpoint(args)) {
        (None, Some(_)) => Choice::Installed(Box::new(Task::settings_alone()?)),
        (name, _) => choose::named(name, || Modality::Image)?,
    };
    let Some(mut pack) = choice.with_models(args.quiet, &cancel)? else { return Ok(ExitCode::from(INTERRUPTED)) };
    let (options, config) = task.configure(args, &mut pack, &cancel);
    let prompts = task.prompts(&pack, options.endpoint.is_some())?;
    let identity = task.identity(&pack, &prompts, &initial, &options, &config);
    let folder = args.output.as_deref().map(|output| Single::open(output, &task.name(), &identity, args.overwrite));
    let folder = match folder.transpose()? {
        Some(Found::Done(result)) => {
            if let (false, Some(output)) = (args.quiet, &args.output) {
                tell(&format!("{} has it already; --overwrite begins anew", output.display()));
            }
            return print(args, &result).map(|()| ExitCode::SUCCESS);
        }
        Some(Found::Open(folder)) => Some(folder),
        None => None,
    };
    let search = Search {
        args,
        task: &task,
        pack: &pack,
        prompts: &prompts,
        options: &options,
        config: &config,
        cancel,
        display: Display::new(args.quiet, args.verbose),
        log: RefCell::default(),
        folder: RefCell::new(folder),
        failed: Cell::new(false),
    };
    let result = search.go(&initial);
    search.display.finish();
    let (code, value) = match result {
        // Whatever was under way has ended for that.
        Err(_) if search.cancelled() => return Ok(ExitCode::from(INTERRUPTED)),
        result => result?,
    };
    // What was interrupted is not done.
    if let Some(folder) = search.folder.into_inner() {
        folder.finish(Some(&value).filter(|value| value["interrupted"] == false))?;
    }
    print(args, &value)?;
    Ok(code)
}

/// The texts that have a score to begin with.
struct Start {
    initial: InitialSet,
    /// The others.
    unusable: Vec<Unusable>,
}

impl Search<'_> {
    fn go(&self, texts: &[String]) -> Result<(ExitCode, Value)> {
        let begin = Instant::now();
        let (program, arguments) = self.task.command();
        let program = Program::new(ProgramOptions {
            program,
            arguments,
            folder: self.task.folder(),
            batch: self.task.scorer.batch,
            timeout: self.task.timeout(),
            cancel: Arc::clone(&self.cancel),
        });
        let mut scorer = TaskScorer::new(program, &self.task.objectives, self);
        // Before the language model is loaded: the scorer is the likelier to be wrong.
        self.display.say("scoring the texts to begin with");
        let Some(start) = self.start(texts, &mut scorer)? else {
            return Ok((ExitCode::from(INTERRUPTED), json!({"file": self.task.name(), "interrupted": true})));
        };
        let asked = if self.options.endpoint.is_some() { "asking for" } else { "loading" };
        self.display.say(&format!("{asked} the language model"));
        let writer = Writer::open(self.pack, self.options, self.args.backend, self.config.propose)?;
        let facts = self.facts(&writer);
        self.begin(&facts, &start)?;
        let mut run = match self.search(writer, &start, &mut scorer, begin.elapsed().as_secs_f64()) {
            Ok(run) => run,
            Err(error) => {
                self.log(|log| log.record(&Record::Failed { of: self.of(), error: one_line(&error).into() }));
                self.report()?;
                return Err(error);
            }
        };
        run.outcome.counts.unusable += start.unusable.len();
        self.end(&run)?;
        let value = self.value(&run, &facts, &scorer);
        self.display.finish();
        self.summary(&value, &run);
        let code = match run.outcome.stopped_by {
            StoppedBy::Interrupted => ExitCode::from(INTERRUPTED),
            _ if self.failed.get() => ExitCode::FAILURE,
            _ => ExitCode::SUCCESS,
        };
        Ok((code, value))
    }

    /// Scores the texts to begin with, or takes the scores that were kept; `None` if that was interrupted.
    fn start(&self, texts: &[String], scorer: &mut TaskScorer<'_>) -> Result<Option<Start>> {
        let all = InitialSet::new(texts.iter().cloned());
        let (begun, kept) = match &*self.folder.borrow() {
            Some(folder) => (folder.begun(), folder.start()),
            None => (Vec::new(), None),
        };
        for step in begun.iter().chain(&kept) {
            scorer.remember(&step.texts, &step.scores, &step.objectives);
        }
        // One that was kept by a run that was killed within its first line is as none.
        let kept = kept.filter(|step| !step.texts.is_empty() && step.texts.iter().all(|text| all.contains(text)));
        let step = match kept {
            Some(step) => step,
            None => {
                let scores = scorer.score_texts(all.texts())?;
                if self.cancelled() {
                    return Ok(None);
                }
                let (texts, scores) = scorer.scored(all.texts(), &scores)?;
                let objectives = texts.iter().filter_map(|text| scorer.objectives(text)).collect();
                let unscored = all.texts().iter().filter(|text| scorer.values(text).is_none()).cloned().collect();
                let step = StepDone { texts, scores, objectives, unscored, ..StepDone::default() };
                self.keep(&step);
                step
            }
        };
        if !begun.is_empty() {
            self.note(&format!("going on after step {}", begun.len()));
        }
        let StepDone { texts, unscored, .. } = step;
        let mut unusable = all.unusable().to_vec();
        unusable.extend(unscored.into_iter().map(|text| Unusable { text, reason: UnusableReason::Unscored }));
        Ok(Some(Start { initial: InitialSet::new(texts), unusable }))
    }

    /// Runs the loop.
    fn search(&self, mut writer: Writer, start: &Start, scorer: &mut TaskScorer<'_>, load_seconds: f64) -> Result<Run> {
        let template = PromptTemplate::new(&self.prompts.system, &self.prompts.user)?.about(&self.task.about);
        writer.generator.set_template(Arc::new(template));
        let (meter, steps) = (Meter::new(), self.config.steps);
        let lane = Lane { load_seconds, meter: &meter, stop: Some(&*self.cancel) };
        let name = self.task.name();
        // Texts that are as good as they are to be.
        let (mut reached, target) = (HashSet::new(), Cell::new(false));
        let mut observer = |event: &Event<'_>, seconds: StepSeconds| {
            self.log(|log| log.event((0, &name), event, seconds));
            match event {
                Event::Scored { texts, scores, objectives, .. } => {
                    let values = |i: usize| objectives.get(i).map_or(&scores[i..=i], Vec::as_slice);
                    let good = (0..texts.len()).filter(|&i| task::reached(&self.task.objectives, values(i)));
                    reached.extend(good.map(|i| texts[i].clone()));
                }
                Event::Proposed { step, fresh, .. } => {
                    self.display.status(0, &format!("step {step}/{steps} · scoring {fresh} new texts"));
                    return self.flow();
                }
                Event::StepFinished { record, .. } => {
                    self.display.event(0, steps, event);
                    let done = reached.contains(&record.best.text);
                    target.set(done);
                    return if done { ControlFlow::Break(()) } else { self.flow() };
                }
                _ => {}
            }
            self.display.event(0, steps, event);
            self.flow()
        };
        let begun = self.folder.borrow().as_ref().map(|folder| folder.begun()).unwrap_or_default();
        let keep = |step: &StepDone| {
            // What was interrupted within is no step.
            if !self.cancelled() {
                self.keep(step);
            }
        };
        let keeps = self.folder.borrow().is_some();
        let keep = keeps.then_some((begun, &keep as &dyn Fn(&StepDone)));
        let writing = Writing { generator: &mut writer.generator, between: None, keep };
        let mut run = lane.search(self.config, &start.initial, lane.begin(), writing, scorer, &mut observer)?;
        if target.get() && !self.cancelled() {
            run.outcome.stopped_by = StoppedBy::Target;
        }
        Ok(run)
    }

    fn facts(&self, writer: &Writer) -> RunFacts {
        RunFacts {
            version: env!("CARGO_PKG_VERSION").into(),
            names: ModelNames {
                pack: self.pack.name.clone(),
                generator: writer.name.clone(),
                backend: "a process".into(),
                generator_on: writer.on.clone(),
            },
            temperature: decimal(self.options.temperature.unwrap_or(self.pack.settings.temperature)),
            sampling: Sampling {
                top_p: self.pack.settings.top_p,
                sequences: writer.sequences,
                lines: self.pack.generator.lines,
                context: self.pack.generator.context,
            },
            in_flight: 1,
            folder: RunFacts::here(),
            drawing: None,
            task: Some(Box::new(TaskFacts {
                about: self.task.about.clone(),
                objectives: self.task.objectives.iter().map(Objective::told).collect(),
            })),
        }
    }

    /// The trace and the report begin.
    fn begin(&self, facts: &RunFacts, start: &Start) -> Result<()> {
        if let Some(folder) = &*self.folder.borrow() {
            *self.log.borrow_mut() = Log::new(Some(Trace::open(&folder.file("trace.jsonl"))?), true);
        }
        let (scorer, initial_texts) = (self.task.told(), start.initial.texts().len());
        self.log(|log| log.record(&Record::Run(facts.clone())));
        let scorer = ScorerFacts { modality: None, scorer, initial_texts, settings: self.config.clone() };
        self.log(|log| log.record(&Record::Scorer(scorer)));
        self.log(|log| log.record(&Record::File { of: self.of(), modality: None }));
        for Unusable { text, reason } in &start.unusable {
            let (text, reason) = (text.as_str().into(), *reason);
            self.log(|log| log.record(&Record::Unusable { of: self.of(), step: 0, text, reason }));
        }
        self.display.begin(0, &self.task.name());
        Ok(())
    }

    /// The trace and the report end, and the best text is written.
    fn end(&self, run: &Run) -> Result<()> {
        let outcome = &run.outcome;
        let facts = EndFacts::of(None, run);
        self.log(|log| log.record(&Record::End { of: self.of(), facts }));
        self.log(|log| log.total(1, run.seconds.total, run.utilisation));
        if let Some(folder) = &*self.folder.borrow() {
            let file = folder.file("best.txt");
            let text = format!("{}\n", outcome.best.text);
            replace(&file, [text.as_bytes()]).with_context(|| format!("cannot write {}", file.display()))?;
        }
        self.report()
    }

    fn value(&self, run: &Run, facts: &RunFacts, scorer: &TaskScorer<'_>) -> Value {
        let outcome = &run.outcome;
        let told = |candidate: &Candidate| {
            json!({
                "text": candidate.text, "score": candidate.score, "scores": scorer.named(&candidate.text),
                "step": candidate.step,
            })
        };
        let values = |candidate: &Candidate| scorer.values(&candidate.text).unwrap_or_default().to_vec();
        let objectives: Vec<Vec<f32>> = outcome.pool.iter().map(values).collect();
        let front: Vec<Value> = non_dominated(&objectives).into_iter().map(|i| told(&outcome.pool[i])).collect();
        json!({
            "file": self.task.name(),
            "about": self.task.about,
            "text": outcome.best.text,
            // As results of captions have it.
            "caption": outcome.best.text,
            "score": outcome.best.score,
            "scores": scorer.named(&outcome.best.text),
            "step": outcome.best.step,
            "first_score": outcome.steps.first().map(|step| step.best.score),
            "steps": outcome.steps.len().saturating_sub(1),
            "stopped_by": outcome.stopped_by,
            "interrupted": outcome.stopped_by == StoppedBy::Interrupted,
            "front": front,
            "kept": outcome.pool.iter().map(told).collect::<Vec<_>>(),
            "counts": {"scored": outcome.counts.scored, "unusable": outcome.counts.unusable},
            "scorer": {"command": self.task.told(), "started": scorer.started(), "unscored": scorer.unscored()},
            "objectives": self.task.objectives.iter().map(Objective::told).collect::<Vec<_>>(),
            "seconds": run.seconds,
            "models": {"pack": facts.names.pack, "generator": facts.names.generator},
            "settings": self.config,
            "temperature": facts.temperature,
            "sampling": facts.sampling,
        })
    }

    fn summary(&self, value: &Value, run: &Run) {
        if self.args.quiet {
            return;
        }
        let outcome = &run.outcome;
        let scores: Vec<String> =
            value["scores"].as_object().into_iter().flatten().map(|(n, v)| format!("{n} {v}")).collect();
        let front = value["front"].as_array().map_or(0, Vec::len);
        let front =
            if front > 1 { format!("; {front} texts that none other beats in everything") } else { String::new() };
        let end = match outcome.stopped_by {
            StoppedBy::Interrupted if self.folder.borrow().is_some() => "; interrupted, the same command goes on",
            StoppedBy::Interrupted => "; interrupted",
            StoppedBy::Target => "; what was wanted is reached",
            _ => "",
        };
        tell(&format!(
            "{} after {} steps, {} texts scored, in {:.1} s{front}{end}",
            scores.join(", "),
            outcome.steps.len().saturating_sub(1),
            outcome.counts.scored,
            run.seconds.total,
        ));
    }

    fn report(&self) -> Result<()> {
        let Some(page) = self.folder.borrow().as_ref().map(|folder| folder.file("report.html")) else { return Ok(()) };
        let Some(run) = self.log.borrow_mut().run(0) else { return Ok(()) };
        let mut site = Site::open(&page, Embedding::default())?;
        let nothing = Subject { media: Err(anyhow!("texts describe nothing here")), file: None, modality: None };
        site.add(&run, &nothing)?;
        site.finish(self.cancelled().then_some(1)).map(drop)
    }

    fn of(&self) -> Of<'static> {
        Of { file: self.task.name().into(), number: 0 }
    }

    fn keep(&self, step: &StepDone) {
        let mut folder = self.folder.borrow_mut();
        let Some(Err(error)) = folder.as_mut().map(|folder| folder.keep(step)) else { return };
        self.failed.set(true);
        self.display.line(&format!("mils: {}; going on without", one_line(&error)));
    }

    /// Writes to the trace. One that cannot be written is said once, and the search goes on without it.
    fn log(&self, write: impl FnOnce(&mut Log) -> Result<()>) {
        let Err(error) = write(&mut self.log.borrow_mut()) else { return };
        self.failed.set(true);
        self.display.line(&format!("mils: {}; going on without it", one_line(&error)));
    }

    fn note(&self, what: &str) {
        if !self.args.quiet {
            self.display.line(what);
        }
    }

    fn cancelled(&self) -> bool {
        self.cancel.load(Ordering::SeqCst)
    }

    fn flow(&self) -> ControlFlow<()> {
        if self.cancelled() { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    }
}

impl Tell for Search<'_> {
    /// A text without a score is left out; the result is one all the same.
    fn complain(&self, what: &str) {
        self.display.line(&format!("mils: {what}"));
    }

    fn progress(&self, done: usize, all: usize) {
        self.display.doing(Doing::Goes(&format!("scoring · {done} of {all} texts")));
    }
}

fn print(args: &OptimizeArgs, result: &Value) -> Result<()> {
    let mut out = std::io::stdout().lock();
    let printed = match (args.format, result["text"].as_str()) {
        // Interrupted before there was one.
        (_, None) => Ok(()),
        (Format::Text, Some(text)) => writeln!(out, "{text}"),
        (Format::Json, _) => writeln!(out, "{result}"),
    };
    printed.and_then(|()| out.flush()).context("cannot print the result")
}
