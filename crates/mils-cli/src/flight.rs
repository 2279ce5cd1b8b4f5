//! Several runs of the loop at once: each has a thread, the language model decodes for all of them together, and the
//! calling thread embeds for all of them.

mod tape;

use self::tape::{Tape, Taped};
use crate::batch::{Keeper, StepDone};
use crate::media::{Input, Media};
use crate::scorers::{Mode, Scorers};
use crate::session::{Between, Doing, EncoderWork, Run, Seconds, StepSeconds, Utilisation};
use anyhow::{Result, anyhow};
use mils_encoder::{Embeddings, EncoderError};
use mils_llm::{AnyGenerator, Meter};
use mils_models::Modality;
use mils_optim::{BoxError, Config, Event, Generator, InitialSet, Optimizer, Proposals, Request, Scorer};
use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::ops::ControlFlow;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::{Duration, Instant};

/// What is asked and told of runs in flight, from their threads. Runs are numbered from 0 as they begin.
pub struct Runway<'a> {
    /// What the next run is about; `None`: no further one is to begin.
    pub next: &'a (dyn Fn(usize) -> Option<Result<Input>> + Sync),
    /// Is told what happens in a run, with the seconds of the step so far, and may end it.
    pub observer: &'a (dyn Fn(usize, &Mode, &Event<'_>, StepSeconds) -> ControlFlow<()> + Sync),
    /// Is told of encoders that are loaded meanwhile.
    pub news: &'a (dyn Fn(News<'_>) + Sync),
    /// Keeps the steps of runs, and says which were done before; they are not done again.
    pub keeper: Option<&'a dyn Keeper>,
}

/// What happens beside the runs.
pub enum News<'a> {
    /// What is being done.
    Doing(Doing<'a>),
    /// Things of a modality can be described from now on. Said of each that comes up, once.
    Opened(&'a Mode),
}

/// A run that has ended.
pub struct Flown {
    /// What was described.
    pub media: Arc<Media>,
    /// How.
    pub mode: Arc<Mode>,
    /// The run.
    pub run: Run,
}

/// Is given each run's end, on the calling thread, in the order in which they end. `Break` ends the others.
pub type Done<'a> = dyn FnMut(usize, Result<Flown>) -> ControlFlow<()> + 'a;

/// Embeds texts, here or elsewhere.
type Embed<'a> = dyn FnMut(&[String]) -> Result<Embeddings, BoxError> + 'a;

/// Is told what happens in a run, with the seconds of the step so far.
type Observer<'a> = dyn FnMut(&Event<'_>, StepSeconds) -> ControlFlow<()> + 'a;

/// What runs of one session share.
#[derive(Clone, Copy)]
pub(crate) struct Lane<'a> {
    pub load_seconds: f64,
    /// Times the encoders.
    pub meter: &'a Meter,
    /// Set to end a run early, also while it is written for.
    pub stop: Option<&'a AtomicBool>,
}

/// When a run began, and how long the encoder had worked by then.
pub(crate) struct Begin(Instant, Duration);

impl Lane<'_> {
    pub(crate) fn begin(&self) -> Begin {
        Begin(Instant::now(), self.meter.read())
    }

    fn stopped(&self) -> bool {
        self.stop.is_some_and(|stop| stop.load(Ordering::Relaxed))
    }

    /// One run of the loop, from the embedding of what is described on.
    pub(crate) fn run(
        &self,
        mode: &Mode,
        Begin(begin, scored): Begin,
        media: Embeddings,
        Crew { generator, between, embed, keep }: Crew<'_, '_, '_>,
        observer: &mut Observer<'_>,
    ) -> Result<Run> {
        let mut scorer = MediaScorer { embed, media, rows: &mode.rows };
        let writing = Writing { generator, between, keep };
        self.search(&mode.config, &mode.initial, Begin(begin, scored), writing, &mut scorer, observer)
    }

    /// One run of the loop with any scorer, after what is described was read.
    pub(crate) fn search(
        &self,
        config: &Config,
        initial: &InitialSet,
        Begin(begin, scored): Begin,
        Writing { generator, between, keep }: Writing<'_, '_>,
        scorer: &mut dyn Scorer,
        observer: &mut Observer<'_>,
    ) -> Result<Run> {
        let mut seconds =
            Seconds { load: self.load_seconds, input: begin.elapsed().as_secs_f64(), ..Seconds::default() };
        let watch = generator.another();
        let written = watch.busy();
        let (tape, clock) = (RefCell::new(Tape::new(keep)), Clock::default());
        let mut scorer = Taped::new(scorer, &tape, &clock.score);
        let mut generator = Timed { inner: generator, between, lane: self, tape: &tape, clock: &clock };
        // What was spent by the end of the last step, and on what is described.
        let (mut before, mut input) = (StepSeconds::default(), seconds.input);
        let mut observer = |event: &Event<'_>| {
            tape.borrow_mut().event(event);
            let now = clock.read(begin);
            let flow = observer(event, now.since(before, input));
            if matches!(event, Event::StepFinished { .. }) {
                (before, input) = (now, 0.0);
            }
            flow
        };
        let outcome = Optimizer::new(config.clone()).run_from(initial, &mut generator, &mut scorer, &mut observer)?;
        (seconds.generate, seconds.score) = (clock.generate.get(), clock.score.get());
        let wall = begin.elapsed();
        seconds.total = wall.as_secs_f64();
        let utilisation = Utilisation::of(watch.busy() - written, self.meter.read().saturating_sub(scored), wall);
        Ok(Run { outcome, encoder: EncoderWork::default(), seconds, utilisation })
    }
}

/// Seconds that the models have worked for a run, or that it has waited for them.
#[derive(Default)]
struct Clock {
    generate: Cell<f64>,
    score: Cell<f64>,
}

impl Clock {
    fn add(to: &Cell<f64>, time: Duration) {
        to.set(to.get() + time.as_secs_f64());
    }

    fn read(&self, begin: Instant) -> StepSeconds {
        let total = begin.elapsed().as_secs_f64();
        StepSeconds { input: 0.0, generate: self.generate.get(), score: self.score.get(), total }
    }
}

impl StepSeconds {
    fn since(self, before: Self, input: f64) -> Self {
        let (generate, score) = (self.generate - before.generate, self.score - before.score);
        Self { input, generate, score, total: self.total - before.total }
    }
}

/// Who takes part in a run.
pub(crate) struct Crew<'a, 'b, 'c> {
    pub generator: &'a mut AnyGenerator,
    /// Stands between the loop and the generator.
    pub between: Option<&'a mut Between<'b>>,
    pub embed: &'a mut Embed<'c>,
    /// Steps that were done before, and who keeps those that are done now.
    pub keep: Option<Keep<'a>>,
}

/// Who writes in a run: as in [`Crew`].
pub(crate) struct Writing<'a, 'b> {
    pub generator: &'a mut AnyGenerator,
    pub between: Option<&'a mut Between<'b>>,
    pub keep: Option<Keep<'a>>,
}

/// Steps that were done before, and who keeps further ones.
pub(crate) type Keep<'a> = (Vec<StepDone>, &'a dyn Fn(&StepDone));

impl Utilisation {
    fn of(generator: Duration, scorer: Duration, wall: Duration) -> Self {
        let share = |busy: Duration| (busy.as_secs_f64() / wall.as_secs_f64().max(1e-9)).min(1.0);
        Self { generator: share(generator), scorer: share(scorer) }
    }
}

/// What the threads of runs ask of the thread that has the encoders.
enum Message {
    Mode(Modality, Sender<Result<Arc<Mode>>>),
    Media(Arc<Mode>, Arc<Media>, Reply),
    Texts(usize, Texts),
    Done(usize, Result<Flown>),
}

type Reply = Sender<Result<Embeddings, EncoderError>>;
type Texts = (Vec<String>, Reply);

/// Runs as many at a time as there are generators, until there is nothing next.
pub(crate) fn fly(
    scorers: &mut Scorers,
    generators: &mut [AnyGenerator],
    lane: &Lane<'_>,
    runway: &Runway<'_>,
    done: &mut Done<'_>,
) -> Utilisation {
    let watch = generators.first().map(AnyGenerator::another);
    let written = || watch.as_ref().map(AnyGenerator::busy).unwrap_or_default();
    let Begin(begin, scored) = lane.begin();
    let before = written();
    let (number, stop) = (AtomicUsize::new(0), AtomicBool::new(false));
    std::thread::scope(|scope| {
        let (outbox, inbox) = channel();
        let lane = Lane { stop: Some(&stop), ..*lane };
        for generator in generators {
            let pilot = Pilot { lane, runway, number: &number, tower: outbox.clone() };
            scope.spawn(move || pilot.work(generator));
        }
        // The inbox closes with the last of the threads.
        drop(outbox);
        let mut tower = Tower { scorers, meter: lane.meter, news: runway.news, told: Vec::new() };
        tower.serve(&inbox, &mut |number, run| {
            if done(number, run).is_break() {
                stop.store(true, Ordering::Relaxed);
            }
        });
    });
    Utilisation::of(written() - before, lane.meter.read().saturating_sub(scored), begin.elapsed())
}

/// The thread that has the encoders.
struct Tower<'a> {
    scorers: &'a mut Scorers,
    meter: &'a Meter,
    news: &'a (dyn Fn(News<'_>) + Sync),
    /// Modalities whose opening was told.
    told: Vec<Modality>,
}

impl Tower<'_> {
    /// Embeds for all runs until the last has ended. What several ask for at the same time is embedded together.
    fn serve(&mut self, inbox: &Receiver<Message>, done: &mut dyn FnMut(usize, Result<Flown>)) {
        let mut queue = VecDeque::new();
        while let Some(message) = queue.pop_front().or_else(|| inbox.recv().ok()) {
            queue.extend(inbox.try_iter());
            match message {
                // A run that does not wait for its answer has ended; so in what follows.
                Message::Mode(modality, reply) => drop(reply.send(self.mode(modality))),
                Message::Media(mode, media, reply) => {
                    let encoder = self.scorers.encoder(&mode);
                    let _ = reply.send(self.meter.time(|| media.embed(encoder)));
                }
                Message::Texts(encoder, first) => {
                    let mut all = vec![first];
                    let mut others = VecDeque::new();
                    for message in queue.drain(..) {
                        match message {
                            Message::Texts(own, texts) if own == encoder => all.push(texts),
                            other => others.push_back(other),
                        }
                    }
                    queue = others;
                    let encoder = self.scorers.numbered(encoder);
                    embed_together(all, &mut |texts| self.meter.time(|| encoder.embed_texts(texts)));
                }
                Message::Done(number, mut run) => {
                    if let Ok(flown) = &mut run {
                        flown.run.encoder = EncoderWork::since(&self.scorers.account());
                    }
                    done(number, run);
                }
            }
        }
    }

    fn mode(&mut self, modality: Modality) -> Result<Arc<Mode>> {
        let mode = self.scorers.mode(modality, &mut |doing| (self.news)(News::Doing(doing)))?;
        if !self.told.contains(&modality) {
            self.told.push(modality);
            (self.news)(News::Opened(&mode));
        }
        Ok(mode)
    }
}

/// Embeds the texts of several runs in one go. Where that fails, each gets its own error or its own rows.
fn embed_together(all: Vec<Texts>, embed: &mut dyn FnMut(&[String]) -> Result<Embeddings, EncoderError>) {
    if all.len() > 1 {
        let texts: Vec<String> = all.iter().flat_map(|(texts, _)| texts).cloned().collect();
        if let Ok(rows) = embed(&texts) {
            let mut from = 0;
            for (texts, reply) in all {
                let to = from + texts.len();
                let own = rows.data()[from * rows.dim()..to * rows.dim()].to_vec();
                from = to;
                let _ = reply.send(Embeddings::new(rows.dim(), own).map_err(Into::into));
            }
            return;
        }
    }
    for (texts, reply) in all {
        let _ = reply.send(embed(&texts));
    }
}

/// The thread of a run, and of the next one when that has ended.
struct Pilot<'a> {
    lane: Lane<'a>,
    runway: &'a Runway<'a>,
    number: &'a AtomicUsize,
    tower: Sender<Message>,
}

impl Pilot<'_> {
    fn work(&self, generator: &mut AnyGenerator) {
        while !self.lane.stopped() {
            let number = self.number.fetch_add(1, Ordering::Relaxed);
            let begin = self.lane.begin();
            let Some(input) = (self.runway.next)(number) else { return };
            let flown = input.and_then(|input| {
                let mode = self.ask(|reply| Message::Mode(input.modality(), reply))??;
                let media = Arc::new(input.read(&mode.senses)?);
                let run = self.run(number, &mode, begin, generator, &media)?;
                Ok(Flown { media, mode, run })
            });
            if self.tower.send(Message::Done(number, flown)).is_err() {
                return;
            }
        }
    }

    fn run(
        &self,
        number: usize,
        mode: &Arc<Mode>,
        begin: Begin,
        generator: &mut AnyGenerator,
        media: &Arc<Media>,
    ) -> Result<Run> {
        let row = self.ask(|reply| Message::Media(Arc::clone(mode), Arc::clone(media), reply))??;
        let mut embed =
            |texts: &[String]| Ok(self.ask(|reply| Message::Texts(mode.encoder, (texts.to_vec(), reply)))??);
        let mut observer = |event: &Event<'_>, seconds: StepSeconds| {
            let flow = (self.runway.observer)(number, mode, event, seconds);
            if self.lane.stopped() { ControlFlow::Break(()) } else { flow }
        };
        generator.set_template(Arc::clone(&mode.template));
        let keeper = self.runway.keeper;
        let keep_step = |step: &StepDone| keeper.into_iter().for_each(|keeper| keeper.step(number, step));
        let keep = keeper.map(|keeper| (keeper.begun(number), &keep_step as &dyn Fn(&StepDone)));
        let crew = Crew { generator, between: None, embed: &mut embed, keep };
        self.lane.run(mode, begin, row, crew, &mut observer)
    }

    fn ask<T>(&self, message: impl FnOnce(Sender<T>) -> Message) -> Result<T> {
        let (reply, answer) = channel();
        let gone = || anyhow!("the scorer has ended");
        self.tower.send(message(reply)).map_err(|_| gone())?;
        answer.recv().map_err(|_| gone())
    }
}

/// Cosine of texts with what is described; the initial set's embeddings are there already.
struct MediaScorer<'a, 'b> {
    embed: &'a mut Embed<'b>,
    media: Embeddings,
    rows: &'a Embeddings,
}

impl Scorer for MediaScorer<'_, '_> {
    fn score(&mut self, texts: &[String]) -> Result<Vec<f32>, BoxError> {
        let rows = (self.embed)(texts)?;
        Ok(self.media.dots(0, &rows))
    }

    fn score_initial(&mut self, _: &InitialSet) -> Result<Vec<f32>, BoxError> {
        Ok(self.media.dots(0, self.rows))
    }
}

/// The language model, with what may stand before it; timed, without what is scored meanwhile.
struct Timed<'a, 'b> {
    inner: &'a mut dyn Generator,
    between: Option<&'a mut Between<'b>>,
    lane: &'a Lane<'a>,
    tape: &'a RefCell<Tape<'a>>,
    clock: &'a Clock,
}

impl Generator for Timed<'_, '_> {
    fn propose(&mut self, request: &Request<'_>) -> Result<Proposals, BoxError> {
        let begin = Instant::now();
        let proposals = match &mut self.between {
            Some(between) => between(self.inner, request),
            None => self.inner.propose(request),
        };
        Clock::add(&self.clock.generate, begin.elapsed());
        proposals
    }

    fn stream(
        &mut self,
        request: &Request<'_>,
        take: &mut dyn FnMut(usize, Proposals) -> ControlFlow<()>,
    ) -> Result<(), BoxError> {
        // Let go of before it is taken: what takes it may look at scores.
        let said = self.tape.borrow_mut().next();
        if let Some(said) = said {
            let _ = take(0, said);
            return Ok(());
        }
        if self.between.is_some() {
            // What stands between has the answer whole.
            let whole = self.propose(request)?;
            let _ = take(0, whole);
            return Ok(());
        }
        let (begin, mut scoring) = (Instant::now(), Duration::ZERO);
        let (keeps, mut pieces) = (self.tape.borrow().keeps(), Vec::new());
        let streamed = self.inner.stream(request, &mut |number, piece| {
            let begin = Instant::now();
            if keeps {
                pieces.push((number, piece.clone()));
            }
            let flow = take(number, piece);
            scoring += begin.elapsed();
            if self.lane.stopped() { ControlFlow::Break(()) } else { flow }
        });
        Clock::add(&self.clock.generate, begin.elapsed().saturating_sub(scoring));
        if keeps {
            self.tape.borrow_mut().said(Proposals::gather(pieces));
        }
        streamed
    }
}
