//! The report: one HTML file that tells what a run did. No scripts, nothing loaded from elsewhere.

use crate::caption::StepView;
use crate::flight::Flown;
use crate::output::{self, Replacement};
use crate::scorers::Mode;
use crate::session::Facts;
use crate::thumbnail::Thumbnail;
use anyhow::{Context, Result};
use minijinja::value::Serde;
use minijinja::{AutoEscape, Environment, Value, context};
use serde::Serialize;
use std::io::Write;
use std::path::Path;

const TEMPLATE: &str = include_str!("../templates/report.html");
/// Rows shown of each step's table.
const ROWS: usize = 12;
/// The chart's size in SVG units, and its margins.
const CHART: (f32, f32) = (560.0, 200.0);
const LEFT: f32 = 58.0;
const BOTTOM: f32 = 26.0;
const TOP: f32 = 12.0;

/// A report being collected.
#[derive(Default)]
pub struct Report {
    /// One part a file.
    pub files: Vec<FileReport>,
}

/// All that the report tells of one file.
#[derive(Serialize)]
pub struct FileReport {
    name: String,
    modality: &'static str,
    scorer: String,
    settings: String,
    thumbnail: Thumbnail,
    caption: String,
    score: String,
    started_with: String,
    started_score: String,
    stopped_by: String,
    chart: Chart,
    steps: Vec<StepRows>,
    facts: Vec<(&'static str, String)>,
}

#[derive(Serialize)]
struct StepRows {
    title: String,
    note: String,
    rows: Vec<Row>,
}

#[derive(Serialize)]
struct Row {
    score: String,
    /// Length of the bar in per cent, by the label the language model sees.
    bar: u32,
    text: String,
    new: bool,
    step: usize,
}

/// Lines over steps, in SVG coordinates.
#[derive(Serialize)]
struct Chart {
    width: f32,
    height: f32,
    best: String,
    mean: String,
    points: Vec<(f32, f32, String)>,
    x_labels: Vec<(f32, String)>,
    y_labels: Vec<(f32, String)>,
    left: f32,
    floor: f32,
}

impl FileReport {
    /// Collects what there is to tell.
    ///
    /// # Errors
    /// If the thumbnail cannot be encoded.
    pub fn new(name: &str, Flown { media, mode, run }: &Flown, steps: &[StepView]) -> Result<Self> {
        let config = &mode.config;
        let outcome = &run.outcome;
        let first = outcome.steps.first().map(|r| r.best.clone()).unwrap_or_else(|| outcome.best.clone());
        let counts = &outcome.counts;
        let usage = counts.usage;
        let seconds = |s: f64| format!("{s:.2} s");
        let rows = vec![
            ("captions scored", counts.scored.to_string()),
            ("known already", counts.memo_hits.to_string()),
            ("unusable", counts.unusable.to_string()),
            ("prompt tokens", format!("{} ({} from the cache)", usage.prompt_tokens, usage.reused_tokens)),
            ("generated tokens", usage.generated_tokens.to_string()),
            ("language model", seconds(run.seconds.generate)),
            ("scoring", seconds(run.seconds.score)),
            ("in all", seconds(run.seconds.total)),
        ];
        Ok(Self {
            name: name.to_owned(),
            modality: mode.modality.name(),
            scorer: mode.scorer.clone(),
            settings: format!(
                "keep {}, propose {}, at most {} steps, seed {}",
                config.keep, config.propose, config.steps, config.seed
            ),
            thumbnail: Thumbnail::new(media)?,
            caption: outcome.best.text.clone(),
            score: format!("{:.4}", outcome.best.score),
            started_with: first.text,
            started_score: format!("{:.4}", first.score),
            stopped_by: match outcome.stopped_by {
                mils_optim::StoppedBy::Steps => "all steps done",
                mils_optim::StoppedBy::Converged => "nothing better came",
                mils_optim::StoppedBy::Interrupted => "interrupted",
            }
            .to_owned(),
            chart: Chart::new(steps),
            steps: steps.iter().map(|s| StepRows::new(s, mode)).collect(),
            facts: rows,
        })
    }
}

impl StepRows {
    fn new(step: &StepView, mode: &Mode) -> Self {
        let record = &step.record;
        let title =
            if record.step == 0 { "Start: the initial set".to_owned() } else { format!("Step {}", record.step) };
        let note = format!("{} scored, {} kept, {} unusable or known", record.scored, record.entered, record.unusable);
        let scores: Vec<f32> = step.pool.iter().map(|c| c.score).collect();
        let scale = mode.config.label_scale;
        let rows = step.pool.iter().zip(mode.labels(&scores)).take(ROWS);
        let rows = rows.map(|(c, label)| Row {
            score: format!("{:.4}", c.score),
            bar: (u64::from(label) * 100 / u64::from(scale.max(1))) as u32,
            text: c.text.clone(),
            new: c.step == record.step && record.step > 0,
            step: c.step,
        });
        Self { title, note, rows: rows.collect() }
    }
}

impl Chart {
    fn new(steps: &[StepView]) -> Self {
        let (width, height) = CHART;
        let all = steps.iter().flat_map(|s| [s.record.best.score, s.record.mean_kept]);
        let (lo, hi) = all.fold((f32::INFINITY, f32::NEG_INFINITY), |(lo, hi), v| (lo.min(v), hi.max(v)));
        let span = (hi - lo).max(1e-4);
        let floor = height - BOTTOM;
        let x = |i: usize| LEFT + (width - LEFT - 12.0) * i as f32 / (steps.len().max(2) - 1) as f32;
        let y = |v: f32| floor - (floor - TOP) * (v - lo) / span;
        let line = |value: &dyn Fn(&StepView) -> f32| {
            let point = |(i, s)| format!("{:.1},{:.1}", x(i), y(value(s)));
            steps.iter().enumerate().map(point).collect::<Vec<_>>().join(" ")
        };
        let every = steps.len().div_ceil(12).max(1);
        Self {
            width,
            height,
            best: line(&|s| s.record.best.score),
            mean: line(&|s| s.record.mean_kept),
            points: steps
                .iter()
                .enumerate()
                .map(|(i, s)| {
                    (x(i), y(s.record.best.score), format!("{:.4} {}", s.record.best.score, s.record.best.text))
                })
                .collect(),
            x_labels: (0..steps.len()).step_by(every).map(|i| (x(i), i.to_string())).collect(),
            y_labels: [lo, lo + span / 2.0, lo + span].map(|v| (y(v), format!("{v:.4}"))).to_vec(),
            left: LEFT,
            floor,
        }
    }
}

impl Report {
    /// Writes the file, whole or not at all.
    ///
    /// # Errors
    /// If it cannot be written.
    pub fn write(&self, path: &Path, facts: &Facts) -> Result<()> {
        let mut environment = Environment::new();
        environment.set_auto_escape_callback(|_| AutoEscape::Html);
        environment.add_template("report", TEMPLATE)?;
        let html = environment.get_template("report")?.render(context! {
            files => Value::from(Serde(&self.files)),
            names => Value::from(Serde(&facts.names)),
            temperature => facts.temperature,
            version => env!("CARGO_PKG_VERSION"),
        })?;
        let place = || format!("cannot write the report {}", path.display());
        // A device or a pipe is written to; put in its place, the report would destroy it.
        if output::is_stream(path) {
            return std::fs::write(path, html).with_context(place);
        }
        let mut file = Replacement::begin(path).with_context(place)?;
        file.write_all(html.as_bytes()).with_context(place)?;
        file.finish().map(drop).with_context(place)
    }
}

/// Whether a report could be written here; asked before the work, not after it.
///
/// # Errors
/// If it could not.
pub fn check(path: &Path) -> Result<()> {
    output::check(path).with_context(|| format!("cannot write the report {}", path.display()))
}
