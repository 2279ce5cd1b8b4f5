//! What there is to tell of a file's run, put together from the records of its trace: as they are written, or as they
//! are read.

use crate::session::StepSeconds;
use crate::trace::{EndFacts, Of, Record, RunFacts, ScorerFacts};
use anyhow::{Context, Result, bail, ensure};
use mils_models::Modality;
use mils_optim::{Feedback, StepRecord, UnusableReason, top_of_fronts};
use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;

/// Of the kept texts of a step, so many of the best are remembered for its table.
const ROWS: usize = 25;
/// Of the texts of a step that were not kept, so many of the best; of a file's, so many in all.
const MISSED: usize = 100;
const MISSED_OF_FILE: usize = 20_000;
/// Of what was said and not scored, so many examples of each reason, and so many characters of each.
const EXAMPLES: usize = 3;
const EXCERPT: usize = 300;

/// A text that was scored.
#[derive(Clone, Debug, PartialEq)]
pub struct Text {
    /// The text.
    pub text: String,
    /// Its score.
    pub score: f32,
    /// The step that brought it; 0 is the initial set.
    pub step: usize,
    /// Which of the step's answers did, from 1.
    pub answer: Option<usize>,
    /// How many texts of the file had a score before it.
    came: usize,
    /// What is behind its score, where that is several things.
    pub objectives: Option<Vec<f32>>,
    /// Of the texts that the language model was shown when it wrote this one, that which shares most words with it, and
    /// its score. Where it came from is not known; this is where it may have come from.
    pub closest: Option<(String, f32)>,
}

/// Things that were said and not scored for one reason.
#[derive(Clone, Debug)]
pub struct Unused {
    /// The reason.
    pub reason: UnusableReason,
    /// How many.
    pub count: usize,
    /// The first of them, or their beginnings.
    pub examples: Vec<String>,
}

/// A step that is done.
#[derive(Debug)]
pub struct StepRun {
    /// Its summary.
    pub record: StepRecord,
    /// How long it took.
    pub seconds: StepSeconds,
    /// The best of the kept texts, best first.
    pub rows: Vec<Arc<Text>>,
    /// The least score of a kept text.
    pub least: f32,
    /// How many texts were kept.
    pub kept: usize,
    /// The best of its new texts that were not kept, best first.
    pub missed: Vec<Arc<Text>>,
    /// What it said and did not score.
    pub unused: Vec<Unused>,
}

/// A picture that was kept of a step's best prompt.
#[derive(Clone, Debug)]
pub struct Drawn {
    /// The step.
    pub step: usize,
    /// The prompt.
    pub text: String,
    /// Its score.
    pub score: f32,
    /// Where the picture is, as the file's name is.
    pub picture: String,
}

/// How a file's run ended.
#[derive(Debug)]
pub enum Ending {
    /// It has a caption.
    Done(Box<EndFacts>),
    /// It has failed, with this error.
    Failed(String),
    /// Its trace has no end: it goes on, or was killed.
    Open,
}

/// The run of a file.
#[derive(Debug)]
pub struct FileRun {
    /// Its place among all that are reported, from 1, in the order in which they began.
    pub place: usize,
    /// The name, as it was given.
    pub file: String,
    /// What it was taken for, where that is known.
    pub modality: Option<Modality>,
    /// The run of the command that it is of.
    pub facts: Arc<RunFacts>,
    /// How it was described; there once a text has a score.
    pub scorer: Option<Arc<ScorerFacts>>,
    /// Steps that are done, from 0.
    pub steps: Vec<StepRun>,
    /// What was said in a step that has no end.
    pub unused: Vec<Unused>,
    /// Pictures of steps' best prompts, where texts are prompts.
    pub pictures: Vec<Drawn>,
    /// How it ended.
    pub ending: Ending,
    /// What is kept, best first; with the texts of the step under way, if it has begun to score.
    pool: Vec<Arc<Text>>,
    /// What the language model was shown in the step under way: what was kept before it.
    shown: Vec<Arc<Text>>,
    missed: Vec<Arc<Text>>,
    /// Room for further missed texts.
    room: usize,
    /// Texts that had a score.
    came: usize,
}

impl FileRun {
    fn new(place: usize, file: &str, modality: Option<Modality>, facts: Arc<RunFacts>) -> Self {
        Self {
            place,
            file: file.to_owned(),
            modality,
            facts,
            scorer: None,
            steps: Vec::new(),
            unused: Vec::new(),
            pictures: Vec::new(),
            ending: Ending::Open,
            pool: Vec::new(),
            shown: Vec::new(),
            missed: Vec::new(),
            room: MISSED_OF_FILE,
            came: 0,
        }
    }

    /// The best text there is so far.
    pub fn best(&self) -> Option<&Text> {
        self.steps.last()?.rows.first().map(|text| &**text)
    }

    /// The step under way must be this one.
    fn within(&self, step: usize) -> Result<()> {
        let now = self.steps.len();
        ensure!(step == now, "a record of step {step} of {} comes in its step {now}", self.file);
        Ok(())
    }

    fn keep(&self) -> usize {
        self.scorer.as_ref().map_or(1, |scorer| scorer.settings.keep)
    }

    fn scored(&mut self, text: Text) -> Result<()> {
        let (keep, step, score) = (self.keep(), text.step, text.score);
        self.within(step)?;
        ensure!(score.is_finite(), "a score is no number");
        self.came += 1;
        if text.objectives.is_some() {
            // Which are kept depends on all of the step: see `fronts`.
            self.pool.push(Arc::new(text));
            return Ok(());
        }
        let at = after(&self.pool, score);
        let out = if at >= keep {
            // An initial set may have a million texts; those that are not kept are let go.
            (step > 0).then(|| Arc::new(text))
        } else {
            self.pool.insert(at, Arc::new(text));
            if self.pool.len() > keep { self.pool.pop().filter(|text| text.step == step && step > 0) } else { None }
        };
        out.into_iter().for_each(|out| self.miss(out));
        Ok(())
    }

    fn miss(&mut self, text: Arc<Text>) {
        let at = after(&self.missed, text.score);
        self.missed.insert(at, text);
        self.missed.truncate(MISSED);
    }

    /// Of texts with objectives, those that are kept.
    fn fronts(&mut self, step: usize) {
        // In the order in which they came, as the loop has them.
        let mut all = std::mem::take(&mut self.pool);
        all.sort_by_key(|text| text.came);
        let scores: Vec<f32> = all.iter().map(|text| text.score).collect();
        let Some(objectives) = all.iter().map(|text| text.objectives.clone()).collect::<Option<Vec<_>>>() else {
            // Some have none: by their scores alone.
            self.pool = all;
            self.pool.sort_by(|a, b| b.score.total_cmp(&a.score));
            return self.pool.truncate(self.keep());
        };
        let top = top_of_fronts(self.keep(), &scores, &objectives);
        self.pool = top.iter().map(|&i| Arc::clone(&all[i])).collect();
        let kept: HashSet<usize> = top.into_iter().collect();
        let left = all.into_iter().enumerate().filter(|(i, text)| !kept.contains(i) && text.step == step && step > 0);
        left.for_each(|(_, text)| self.miss(text));
    }

    fn finish_step(&mut self, record: &StepRecord, seconds: StepSeconds) -> Result<()> {
        self.within(record.step)?;
        if self.pool.iter().any(|text| text.objectives.is_some()) {
            self.fronts(record.step);
        }
        let best = self.pool.first().map(|text| &*text.text);
        ensure!(
            best == Some(&*record.best.text),
            "the best text of step {} of {} was not scored before; records are missing",
            record.step,
            self.file
        );
        let mut missed = std::mem::take(&mut self.missed);
        missed.truncate(self.room);
        self.room -= missed.len();
        // The other settings of feedback are for experiments, and show something else.
        let told = self.scorer.as_ref().is_some_and(|scorer| scorer.settings.feedback == Feedback::True);
        if record.step > 0 && told {
            let shown: Vec<_> = self.shown.iter().map(|text| (words(&text.text), text)).collect();
            let new = self.pool.iter_mut().take(ROWS).filter(|text| text.step == record.step);
            for text in new.chain(&mut missed) {
                let closest = closest(&text.text, &shown);
                Arc::make_mut(text).closest = closest;
            }
        }
        self.steps.push(StepRun {
            record: record.clone(),
            seconds,
            rows: self.pool.iter().take(ROWS).cloned().collect(),
            least: self.pool.iter().map(|text| text.score).min_by(f32::total_cmp).unwrap_or(0.0),
            kept: self.pool.len(),
            missed,
            unused: std::mem::take(&mut self.unused),
        });
        self.shown.clone_from(&self.pool);
        Ok(())
    }

    fn unusable(&mut self, text: &str, reason: UnusableReason) {
        let of = self.unused.iter().position(|unused| unused.reason == reason).unwrap_or_else(|| {
            self.unused.push(Unused { reason, count: 0, examples: Vec::new() });
            self.unused.len() - 1
        });
        let Unused { count, examples, .. } = &mut self.unused[of];
        *count += 1;
        if examples.len() < EXAMPLES && !text.trim().is_empty() {
            let cut = text.char_indices().nth(EXCERPT).map(|(at, _)| format!("{} …", &text[..at]));
            examples.push(cut.unwrap_or_else(|| text.to_owned()));
        }
    }
}

/// Where a text of this score belongs among others, best first: after those of the same score, which came before it.
fn after(texts: &[Arc<Text>], score: f32) -> usize {
    texts.partition_point(|text| text.score.total_cmp(&score).is_ge())
}

/// The words of a text, each once.
pub fn words(text: &str) -> HashSet<String> {
    let words = text.split(|c: char| !c.is_alphanumeric()).filter(|word| !word.is_empty());
    words.map(str::to_lowercase).collect()
}

/// Of texts, best first, that which shares the greatest part of all words of both; the better one where several do.
fn closest(text: &str, shown: &[(HashSet<String>, &Arc<Text>)]) -> Option<(String, f32)> {
    let own = words(text);
    let mut closest = (0.0, None);
    for (words, other) in shown {
        let shared = own.intersection(words).count();
        let share = shared as f32 / (own.len() + words.len() - shared).max(1) as f32;
        if share > closest.0 {
            closest = (share, Some(*other));
        }
    }
    closest.1.map(|text| (text.text.clone(), text.score))
}

/// The runs of files under way, to which records are given in the order in which they were made. What it holds depends
/// on how many files are under way at a time, and not on how many there are.
#[derive(Default)]
pub struct Runs {
    facts: Option<Arc<RunFacts>>,
    scorers: Vec<Arc<ScorerFacts>>,
    open: BTreeMap<usize, FileRun>,
    begun: usize,
}

impl Runs {
    /// Takes a record, and gives the runs of files that end with it.
    ///
    /// # Errors
    /// If it does not fit those before it.
    pub fn take(&mut self, record: &Record<'_>) -> Result<Vec<FileRun>> {
        match record {
            Record::Run(facts) => {
                let left = self.rest();
                (self.facts, self.scorers) = (Some(Arc::new(facts.clone())), Vec::new());
                return Ok(left);
            }
            Record::Scorer(facts) => self.scorers.push(Arc::new(facts.clone())),
            Record::File { of, modality } => self.begin(of, *modality)?,
            Record::Scored { of, step, answer, text, score, objectives } => {
                let run = run(&mut self.open, of)?;
                if run.scorer.is_none() {
                    let fits = |scorer: &&Arc<ScorerFacts>| scorer.modality == run.modality;
                    let scorer = self.scorers.iter().rev().find(fits).cloned();
                    run.scorer = Some(scorer.with_context(|| format!("no `scorer` that {} is for", run.file))?);
                }
                let (text, objectives) = (text.clone().into_owned(), objectives.as_ref().map(|own| own.to_vec()));
                let (step, answer, came) = (*step, *answer, run.came);
                run.scored(Text { text, score: *score, step, answer, came, objectives, closest: None })?;
            }
            Record::Unusable { of, step, text, reason } => {
                let run = run(&mut self.open, of)?;
                run.within(*step)?;
                run.unusable(text, *reason);
            }
            Record::Step { of, record, seconds } => run(&mut self.open, of)?.finish_step(record, *seconds)?,
            Record::Picture { of, step, text, score, picture } => {
                let (text, picture) = (text.clone().into_owned(), picture.clone().into_owned());
                run(&mut self.open, of)?.pictures.push(Drawn { step: *step, text, score: *score, picture });
            }
            Record::End { of, facts } => {
                let run = run(&mut self.open, of)?;
                run.modality = facts.modality;
                return Ok(self.end(of, Ending::Done(Box::new(facts.clone()))));
            }
            Record::Failed { of, error } => {
                run(&mut self.open, of)?;
                return Ok(self.end(of, Ending::Failed(error.clone().into_owned())));
            }
            Record::Total { .. } => {}
        }
        Ok(Vec::new())
    }

    /// The runs that have no end.
    pub fn rest(&mut self) -> Vec<FileRun> {
        std::mem::take(&mut self.open).into_values().collect()
    }

    /// Another trace follows, with a `run` of its own.
    pub fn forget(&mut self) {
        *self = Self { begun: self.begun, ..Self::default() };
    }

    /// How many files have begun.
    pub fn begun(&self) -> usize {
        self.begun
    }

    fn begin(&mut self, of: &Of<'_>, modality: Option<Modality>) -> Result<()> {
        let facts = self.facts.clone().context("no `run` comes before it")?;
        if self.open.contains_key(&of.number) {
            bail!("file number {} begins twice", of.number);
        }
        self.begun += 1;
        self.open.insert(of.number, FileRun::new(self.begun, &of.file, modality, facts));
        Ok(())
    }

    fn end(&mut self, of: &Of<'_>, ending: Ending) -> Vec<FileRun> {
        self.open.remove(&of.number).map(|run| FileRun { ending, ..run }).into_iter().collect()
    }
}

/// The run that a record is of.
fn run<'a>(open: &'a mut BTreeMap<usize, FileRun>, of: &Of<'_>) -> Result<&'a mut FileRun> {
    let run = open.get_mut(&of.number).filter(|run| run.file == of.file);
    run.with_context(|| format!("file number {}, {}, was not begun", of.number, of.file))
}
