//! Searches that leave nothing behind: for benchmarks.

use super::args::RendererArgs;
use super::judge::{Judge, Panel};
use super::renderer::Easel;
use super::studio::{Studio, StudioScorer};
use crate::args::EncoderArgs;
use crate::scorers::config;
use crate::session::{Options, Writer};
use anyhow::{Context, Result, bail};
use mils_models::{Pack, Prompts};
use mils_optim::prompt::PromptTemplate;
use mils_optim::{Config, Generator, InitialSet, Labelled, Optimizer, Outcome, Request};
use std::collections::HashSet;
use std::ops::ControlFlow;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

/// A pack's models with its own renderer.
pub struct Painter {
    writer: Writer,
    /// There but for the time of a search.
    judge: Option<Judge>,
    easel: Arc<Easel>,
    prompts: Prompts,
    /// Settings of the loop.
    pub config: Config,
    finals: usize,
}

/// How a search went.
pub struct Painted {
    /// The loop's end.
    pub outcome: Outcome,
    /// The score of the picture that is taken.
    pub score: f32,
    /// Its prompt.
    pub prompt: String,
    /// How many pictures were drawn.
    pub pictures: usize,
}

impl Painter {
    /// Loads the models of a pack that has a renderer.
    ///
    /// # Errors
    /// If it has none, or a model cannot be had.
    pub fn open(pack: &Pack, options: &Options, encoder: &EncoderArgs) -> Result<Self> {
        let drawing = pack.drawing();
        let cancel = Arc::<AtomicBool>::default();
        // Without a memo.
        let easel = Arc::new(Easel::open(&RendererArgs::default(), &drawing, None, &cancel)?);
        let scorers = [(pack.given().to_owned(), 1.0)];
        let judge = Judge::open(
            &Panel { scorers: &scorers, aesthetic: None, aesthetic_encoder: None },
            "",
            encoder,
            &|_| {},
            &|_| {},
            &cancel,
        )?;
        let config = config(&drawing.settings, options);
        let writer = Writer::open(pack, options, encoder.backend, config.propose)?;
        Ok(Self { writer, judge, easel, prompts: drawing.prompt, config, finals: drawing.finals })
    }

    fn begin(&mut self, wish: &str) -> Result<Judge> {
        let template = PromptTemplate::new(&self.prompts.system, &self.prompts.user)?.about(wish);
        self.writer.generator.set_template(Arc::new(template));
        let mut judge = self.judge.take().context("the judge was lost in a search that failed")?;
        judge.about(wish)?;
        Ok(judge)
    }

    fn studio(&self, judge: Judge, seeds: &[u64]) -> Studio<'static, Judge> {
        Studio::new(Arc::clone(&self.easel), judge, seeds.into(), Arc::default(), &|_, _| {}, &|_| {})
    }

    /// One search, with one picture a prompt.
    ///
    /// # Errors
    /// If a model or the renderer fails.
    pub fn search(&mut self, wish: &str, seed: u64) -> Result<Painted> {
        let judge = self.begin(wish)?;
        let studio = self.studio(judge, &[seed]);
        let config = Config { seed, ..self.config.clone() };
        let initial = InitialSet::new([wish.to_owned()]);
        let generator = &mut self.writer.generator;
        let go_on = &mut |_: &mils_optim::Event<'_>| ControlFlow::Continue(());
        let outcome = Optimizer::new(config).run_from(&initial, generator, &mut StudioScorer(&studio), go_on)?;
        let best = &outcome.best;
        let last = studio.finals(&outcome.pool, self.finals)?.filter(|(_, shot)| shot.score > best.score);
        let (prompt, score) =
            last.map_or_else(|| (best.text.clone(), best.score), |(prompt, shot)| (prompt, shot.score));
        let pictures = studio.counts().pictures;
        self.judge = Some(studio.into_critic());
        Ok(Painted { outcome, score, prompt, pictures })
    }

    /// So many different rewrites by the language model, which is shown the wish alone: what it writes without feedback.
    ///
    /// # Errors
    /// If it fails, or says nothing new for long.
    pub fn rewrites(&mut self, wish: &str, count: usize, seed: u64) -> Result<Vec<String>> {
        let judge = self.begin(wish)?;
        self.judge = Some(judge);
        let pool = [Labelled { text: wish.to_owned(), score: 1.0, label: self.config.label_scale }];
        let (mut seen, mut all) = (HashSet::from([wish.to_owned()]), Vec::new());
        for round in 0..50_u64 {
            if all.len() >= count {
                all.truncate(count);
                return Ok(all);
            }
            let seed = seed.wrapping_mul(1009).wrapping_add(round);
            let request = Request { step: 1, pool: &pool, count: count - all.len(), seed };
            let said = self.writer.generator.propose(&request);
            let texts = said.map_err(|error| anyhow::anyhow!("the language model failed: {error}"))?.texts;
            all.extend(texts.into_iter().filter(|text| seen.insert(text.clone())));
        }
        bail!("the language model has no {count} rewrites of {wish:?}")
    }

    /// The score of the best picture of each prompt, drawn with each of the seeds.
    ///
    /// # Errors
    /// If a model or the renderer fails.
    pub fn scores(&mut self, wish: &str, prompts: &[String], seeds: &[u64]) -> Result<Vec<f32>> {
        let judge = self.begin(wish)?;
        let studio = self.studio(judge, seeds);
        let scores = studio.best_scores(prompts);
        self.judge = Some(studio.into_critic());
        scores
    }
}
