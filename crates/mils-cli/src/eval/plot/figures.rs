//! What came of runs, step by step, as numbers and as charts.

use crate::eval::run::{Item, On, Scoring, corpus, mean_score, read_lines};
use crate::media::ModalityChoice;
use crate::plot::{Chart, Charts, Line, Point};
use crate::progress::Progress;
use anyhow::{Context, Result, bail};
use serde_json::{Map, Value, json};
use std::collections::HashMap;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};

/// The mean of the scorer's own scores, among the metrics.
const SCORE: &str = "score";
/// Parts of a metric of which the last says enough for a picture.
const PARTS: [&str; 6] = ["bleu-1", "bleu-2", "bleu-3", "self-bleu-1", "self-bleu-2", "self-bleu-3"];

/// A metric's value, with its interval where there is one.
type Valued = (f64, Option<(f64, f64)>);

/// A finished run.
#[derive(Clone, Debug)]
pub(super) struct Finished {
    folder: PathBuf,
    /// Of each step, from 0: metrics in order.
    steps: Vec<Vec<(String, Valued)>>,
}

/// Runs that differ in one thing.
#[derive(Clone, Debug)]
pub(super) struct Group {
    /// In what.
    pub(super) axis: String,
    /// By value.
    pub(super) values: Vec<(String, Finished)>,
    /// Only these steps, of the axis that is steps.
    pub(super) at: Vec<usize>,
}

/// What the files of a folder of results are.
///
/// # Errors
/// If it is none.
pub(super) fn modality(folder: &Path) -> Result<ModalityChoice> {
    let path = folder.join("results.json");
    let place = || format!("{} is no folder of finished results: {}", folder.display(), path.display());
    let report: Value =
        serde_json::from_str(&std::fs::read_to_string(&path).with_context(place)?).with_context(place)?;
    Ok(match report["settings"]["data"].as_str().unwrap_or_default() {
        "coco" | "nocaps" | "flickr30k" => ModalityChoice::Image,
        "msrvtt" | "msvd" => ModalityChoice::Video,
        _ => ModalityChoice::Sound,
    })
}

impl Finished {
    /// Reads a folder of results and scores it as it was after each step.
    ///
    /// # Errors
    /// If something of it is missing, or a metric cannot be computed.
    pub(super) fn read(folder: &Path, on: &On<'_>, progress: &Progress) -> Result<Self> {
        let mut items: Vec<Item> = Vec::new();
        for line in read_lines(&folder.join("items.jsonl"))? {
            let texts = line["references"].as_array().into_iter().flatten();
            items.push(Item {
                id: line["id"].as_str().unwrap_or_default().to_owned(),
                file: line["file"].as_str().map(PathBuf::from),
                references: texts.filter_map(Value::as_str).map(str::to_owned).collect(),
            });
        }
        if items.is_empty() || items.iter().any(|item| item.references.is_empty()) {
            bail!("{} is no folder of finished results", folder.display());
        }
        let mut by_file: HashMap<String, Value> = HashMap::new();
        for line in read_lines(&folder.join("captions.jsonl"))? {
            if let Some(file) = line["file"].as_str().map(str::to_owned) {
                by_file.insert(file, line);
            }
        }
        let mut line = |file: &PathBuf| by_file.remove(&file.display().to_string());
        let lines: Vec<Option<Value>> = items.iter().map(|item| item.file.as_ref().and_then(&mut line)).collect();
        let last = |line: &Value| line["history"].as_array()?.last()?["step"].as_u64();
        let most = lines.iter().flatten().filter_map(last).max().unwrap_or_default() as usize;
        let mut scoring = Scoring::new(on, &items, progress);
        let mut steps = Vec::new();
        for step in 0..=most {
            progress.say(&format!("{}: step {step} of {most}", folder.display()));
            let (measured, intervals) = scoring.measure(&corpus(&items, 0, &lines, Some(step)))?;
            let mut all: Vec<(String, Valued)> = Vec::new();
            all.extend(mean_score(&lines, step).map(|score| (SCORE.to_owned(), (score, None))));
            for (at, series) in measured.series.iter().enumerate().filter(|(_, s)| !PARTS.contains(&&*s.name)) {
                let interval = intervals.get(at).map(|i| (i.low, i.high));
                all.push((series.name.clone(), (series.score(), interval)));
            }
            steps.push(all);
        }
        Ok(Self { folder: folder.to_owned(), steps })
    }

    /// Metrics in order.
    fn metrics(&self) -> impl Iterator<Item = &str> {
        self.steps.first().into_iter().flatten().map(|(name, _)| &**name)
    }

    /// A metric after a step; a run that ended before keeps what it had.
    fn value(&self, metric: &str, step: usize) -> Option<Valued> {
        let of = self.steps.get(step.min(self.steps.len().checked_sub(1)?))?;
        of.iter().find(|(name, _)| name == metric).map(|(_, value)| *value)
    }

    fn last(&self, metric: &str) -> Option<Valued> {
        self.value(metric, usize::MAX)
    }
}

fn point(x: f64, (y, interval): Valued) -> Point {
    Point { x, y, interval }
}

fn title(metric: &str) -> String {
    match metric {
        SCORE => "score of the encoder, mean".into(),
        "cider" | "cider-d" => "CIDEr-D".into(),
        _ => metric.to_uppercase(),
    }
}

impl Group {
    /// Pictures by name: by value, where there are several, and over steps.
    pub(super) fn charts(&self) -> Vec<(String, Charts)> {
        let Some((_, first)) = self.values.first() else { return Vec::new() };
        let metrics: Vec<&str> = first.metrics().collect();
        let axis: String = self.axis.chars().map(|c| if c == '/' { '_' } else { c }).collect();
        let mut all = Vec::new();
        let most = self.values.iter().map(|(_, f)| f.steps.len()).max().unwrap_or_default();
        let over_steps = |metric: &&str| {
            let steps: Vec<usize> = if self.at.is_empty() { (0..most).collect() } else { self.at.clone() };
            let points =
                |f: &Finished| steps.iter().filter_map(|s| Some(point(*s as f64, f.value(metric, *s)?))).collect();
            let lines = self.values.iter().map(|(name, f)| Line { name: name.clone(), points: points(f) }).collect();
            Chart { title: title(metric), x: "step".into(), names: Vec::new(), lines }
        };
        let over_steps = Charts(metrics.iter().map(over_steps).collect());
        if !self.at.is_empty() {
            return vec![(axis, over_steps)];
        }
        let numbers: Option<Vec<f64>> = self.values.iter().map(|(name, _)| name.parse().ok()).collect();
        let by_value = |metric: &&str| {
            let places = numbers.clone().unwrap_or_else(|| (0..self.values.len()).map(|i| i as f64).collect());
            let mut points: Vec<Point> =
                places.iter().zip(&self.values).filter_map(|(x, (_, f))| Some(point(*x, f.last(metric)?))).collect();
            points.sort_by(|a, b| a.x.total_cmp(&b.x));
            let names = if numbers.is_some() { Vec::new() } else { self.values.iter().map(|v| v.0.clone()).collect() };
            Chart {
                title: title(metric),
                x: self.axis.clone(),
                names,
                lines: vec![Line { name: String::new(), points }],
            }
        };
        all.push((axis.clone(), Charts(metrics.iter().map(by_value).collect())));
        all.push((format!("{axis}-steps"), over_steps));
        all
    }
}

/// All numbers.
pub(super) fn json(groups: &[Group]) -> Value {
    let value = |(y, interval): &Valued| json!({"value": y, "interval_95": interval.map(|(low, high)| [low, high])});
    let step = |(at, metrics): (usize, &Vec<(String, Valued)>)| {
        let metrics: Map<String, Value> = metrics.iter().map(|(name, v)| (name.clone(), value(v))).collect();
        json!({"step": at, "metrics": metrics})
    };
    let run = |(name, f): &(String, Finished)| json!({"value": name, "folder": f.folder, "steps": f.steps.iter().enumerate().map(step).collect::<Vec<_>>()});
    let group = |g: &Group| json!({"axis": g.axis, "runs": g.values.iter().map(run).collect::<Vec<_>>()});
    json!({"axes": groups.iter().map(group).collect::<Vec<_>>()})
}

/// Markdown: a table an axis, with what came out at the end; of steps, after each that was asked for.
pub(super) fn table(groups: &[Group]) -> String {
    let mut out = String::new();
    for group in groups {
        let Some((_, first)) = group.values.first() else { continue };
        let metrics: Vec<&str> = first.metrics().collect();
        let _ = writeln!(out, "| {} | {} |\n|{}", group.axis, metrics.join(" | "), " --- |".repeat(metrics.len() + 1));
        let cell = |value: Option<Valued>| match value {
            Some((y, Some((low, high)))) => format!("{y:.3} [{low:.3} {high:.3}]"),
            Some((y, None)) => format!("{y:.3}"),
            None => String::new(),
        };
        let mut row = |name: &str, of: &dyn Fn(&str) -> Option<Valued>| {
            let cells: Vec<String> = metrics.iter().map(|m| cell(of(m))).collect();
            let _ = writeln!(out, "| {name} | {} |", cells.join(" | "));
        };
        if group.at.is_empty() {
            group.values.iter().for_each(|(name, f)| row(name, &|metric| f.last(metric)));
        } else {
            group.at.iter().for_each(|step| row(&step.to_string(), &|metric| first.value(metric, *step)));
        }
        out.push('\n');
    }
    out
}
