//! Several runs of the loop at once: each has a thread, the language model decodes for all of them together, and the
//! calling thread embeds for all of them.

use crate::session::{Between, Run, Seconds, Utilisation};
use anyhow::{Result, anyhow};
use mils_encoder::{DualEncoder, Embeddings, Encoder, EncoderError};
use mils_llm::{LlamaGenerator, Meter};
use mils_media::RgbImage;
use mils_optim::{BoxError, Config, Event, Generator, InitialSet, Optimizer, Proposals, Request, Scorer};
use std::collections::VecDeque;
use std::ops::ControlFlow;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::{Duration, Instant};

/// What is asked and told of runs in flight, from their threads. Runs are numbered from 0 as they begin.
pub struct Runway<'a> {
    /// The picture of the next run; `None`: no further one is to begin.
    pub next: &'a (dyn Fn(usize) -> Option<Result<RgbImage>> + Sync),
    /// Is told what happens in a run, and may end it.
    pub observer: &'a (dyn Fn(usize, &Event<'_>) -> ControlFlow<()> + Sync),
}

/// Is given each run's end, on the calling thread, in the order in which they end. `Break` ends the others.
pub type Done<'a> = dyn FnMut(usize, Result<(Arc<RgbImage>, Run)>) -> ControlFlow<()> + 'a;

/// Embeds texts, here or elsewhere.
type Embed<'a> = dyn FnMut(&[String]) -> Result<Embeddings, BoxError> + 'a;

/// What runs of one session share.
#[derive(Clone, Copy)]
pub(crate) struct Lane<'a> {
    pub config: &'a Config,
    pub initial: &'a InitialSet,
    /// The initial set's embeddings.
    pub rows: &'a Embeddings,
    pub load_seconds: f64,
    /// Times the encoder.
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

    /// One run of the loop, from the picture's embedding on.
    pub(crate) fn run(
        &self,
        Begin(begin, scored): Begin,
        generator: &mut LlamaGenerator,
        between: Option<&mut Between<'_>>,
        image: Embeddings,
        embed: &mut Embed<'_>,
        observer: &mut dyn FnMut(&Event<'_>) -> ControlFlow<()>,
    ) -> Result<Run> {
        let mut seconds =
            Seconds { load: self.load_seconds, image: begin.elapsed().as_secs_f64(), ..Seconds::default() };
        let watch = generator.another();
        let written = watch.busy();
        let mut scorer = ImageScorer { embed, image, rows: self.rows, seconds: 0.0 };
        let mut generator = Timed { inner: generator, between, lane: self, seconds: 0.0 };
        let outcome =
            Optimizer::new(self.config.clone()).run_from(self.initial, &mut generator, &mut scorer, observer)?;
        (seconds.generate, seconds.score) = (generator.seconds, scorer.seconds);
        let wall = begin.elapsed();
        seconds.total = wall.as_secs_f64();
        let utilisation = Utilisation::of(watch.busy() - written, self.meter.read().saturating_sub(scored), wall);
        Ok(Run { outcome, seconds, utilisation })
    }
}

impl Utilisation {
    fn of(generator: Duration, scorer: Duration, wall: Duration) -> Self {
        let share = |busy: Duration| (busy.as_secs_f64() / wall.as_secs_f64().max(1e-9)).min(1.0);
        Self { generator: share(generator), scorer: share(scorer) }
    }
}

/// What the threads of runs ask of the thread that has the encoder.
enum Message {
    Picture(Arc<RgbImage>, Sender<Result<Embeddings, EncoderError>>),
    Texts(Texts),
    Done(usize, Result<(Arc<RgbImage>, Run)>),
}

type Texts = (Vec<String>, Sender<Result<Embeddings, EncoderError>>);

/// Runs as many at a time as there are generators, until there is no next picture.
pub(crate) fn fly(
    encoder: &mut Encoder,
    generators: &mut [LlamaGenerator],
    lane: &Lane<'_>,
    runway: &Runway<'_>,
    done: &mut Done<'_>,
) -> Utilisation {
    let watch = generators.first().map(LlamaGenerator::another);
    let written = || watch.as_ref().map(LlamaGenerator::busy).unwrap_or_default();
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
        serve(encoder, lane.meter, &inbox, &mut |number, run| {
            if done(number, run).is_break() {
                stop.store(true, Ordering::Relaxed);
            }
        });
    });
    Utilisation::of(written() - before, lane.meter.read().saturating_sub(scored), begin.elapsed())
}

/// Embeds for all runs until the last has ended. What several ask for at the same time is embedded together.
fn serve(
    encoder: &mut Encoder,
    meter: &Meter,
    inbox: &Receiver<Message>,
    done: &mut dyn FnMut(usize, Result<(Arc<RgbImage>, Run)>),
) {
    let mut queue = VecDeque::new();
    while let Some(message) = queue.pop_front().or_else(|| inbox.recv().ok()) {
        queue.extend(inbox.try_iter());
        match message {
            // A run that does not wait for its embedding has ended; so in `embed_together`.
            Message::Picture(image, reply) => {
                let _ = reply.send(meter.time(|| encoder.embed_images(std::slice::from_ref(&*image))));
            }
            Message::Texts(first) => {
                let mut all = vec![first];
                let mut others = VecDeque::new();
                for message in queue.drain(..) {
                    match message {
                        Message::Texts(texts) => all.push(texts),
                        other => others.push_back(other),
                    }
                }
                queue = others;
                embed_together(all, &mut |texts| meter.time(|| encoder.embed_texts(texts)));
            }
            Message::Done(number, run) => done(number, run),
        }
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
    fn work(&self, generator: &mut LlamaGenerator) {
        while !self.lane.stopped() {
            let number = self.number.fetch_add(1, Ordering::Relaxed);
            let begin = self.lane.begin();
            let Some(image) = (self.runway.next)(number) else { return };
            let run = image.and_then(|image| {
                let image = Arc::new(image);
                Ok((Arc::clone(&image), self.run(number, begin, generator, image)?))
            });
            if self.tower.send(Message::Done(number, run)).is_err() {
                return;
            }
        }
    }

    fn run(&self, number: usize, begin: Begin, generator: &mut LlamaGenerator, image: Arc<RgbImage>) -> Result<Run> {
        let image = self.ask(|reply| Message::Picture(image, reply))?;
        let mut embed = |texts: &[String]| Ok(self.ask(|reply| Message::Texts((texts.to_vec(), reply)))?);
        let mut observer = |event: &Event<'_>| {
            let flow = (self.runway.observer)(number, event);
            if self.lane.stopped() { ControlFlow::Break(()) } else { flow }
        };
        self.lane.run(begin, generator, None, image, &mut embed, &mut observer)
    }

    fn ask(&self, message: impl FnOnce(Sender<Result<Embeddings, EncoderError>>) -> Message) -> Result<Embeddings> {
        let (reply, answer) = channel();
        let gone = || anyhow!("the scorer has ended");
        self.tower.send(message(reply)).map_err(|_| gone())?;
        Ok(answer.recv().map_err(|_| gone())??)
    }
}

/// Cosine of texts with one picture; the initial set's embeddings are there already.
struct ImageScorer<'a, 'b> {
    embed: &'a mut Embed<'b>,
    image: Embeddings,
    rows: &'a Embeddings,
    seconds: f64,
}

impl Scorer for ImageScorer<'_, '_> {
    fn score(&mut self, texts: &[String]) -> Result<Vec<f32>, BoxError> {
        let begin = Instant::now();
        let rows = (self.embed)(texts)?;
        let scores = self.image.dots(0, &rows);
        self.seconds += begin.elapsed().as_secs_f64();
        Ok(scores)
    }

    fn score_initial(&mut self, _: &InitialSet) -> Result<Vec<f32>, BoxError> {
        let begin = Instant::now();
        let scores = self.image.dots(0, self.rows);
        self.seconds += begin.elapsed().as_secs_f64();
        Ok(scores)
    }
}

/// The language model, with what may stand before it; timed, without what is scored meanwhile.
struct Timed<'a, 'b> {
    inner: &'a mut dyn Generator,
    between: Option<&'a mut Between<'b>>,
    lane: &'a Lane<'a>,
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

    fn stream(
        &mut self,
        request: &Request<'_>,
        take: &mut dyn FnMut(usize, Proposals) -> ControlFlow<()>,
    ) -> Result<(), BoxError> {
        if self.between.is_some() {
            // What stands between has the answer whole.
            let whole = self.propose(request)?;
            let _ = take(0, whole);
            return Ok(());
        }
        let (begin, mut scoring) = (Instant::now(), Duration::ZERO);
        let streamed = self.inner.stream(request, &mut |number, piece| {
            let begin = Instant::now();
            let flow = take(number, piece);
            scoring += begin.elapsed();
            if self.lane.stopped() { ControlFlow::Break(()) } else { flow }
        });
        self.seconds += begin.elapsed().saturating_sub(scoring).as_secs_f64();
        streamed
    }
}
