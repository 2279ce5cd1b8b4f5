//! What came of a run: scores of captions as they are, or were after some step, what they cost, and published rows.

use super::args::RunArgs;
use super::folder::Folder;
use super::plan::{Item, Plan};
use crate::args::EncoderArgs;
use crate::eval::args::MeasureArgs;
use crate::eval::measure::{Measured, Tools};
use crate::eval::sight::Sight;
use crate::media::ModalityChoice;
use crate::progress::Progress;
use anyhow::Result;
use mils_eval::dataset::DataSet;
use mils_eval::evaluate::{Corpus, Words};
use mils_eval::published::{Published, published};
use mils_eval::stats::{Interval, bootstrap};
use serde_json::{Map, Value, json};
use std::collections::HashMap;
use std::fmt::Write as _;
use std::path::PathBuf;

/// Columns of a table, in the order in which papers have them.
const COLUMNS: [&str; 15] = [
    "bleu-1",
    "bleu-2",
    "bleu-3",
    "bleu-4",
    "cider",
    "cider-d",
    "cider-plain",
    "meteor",
    "spice",
    "spider",
    "rouge-l",
    "clipscore",
    "refclipscore",
    "self-bleu-4",
    "distinct-4",
];

/// A run that is done.
pub(crate) struct Done {
    failed: usize,
    /// For programs.
    pub(crate) report: Value,
    /// For people.
    pub(crate) table: String,
}

impl Done {
    /// Items without a caption.
    pub(crate) fn failed(&self) -> usize {
        self.failed
    }
}

/// By what captions are scored.
#[derive(Clone, Copy)]
pub(crate) struct On<'a> {
    pub(crate) measures: &'a MeasureArgs,
    /// Where CLIPScore's encoder runs.
    pub(crate) encoder: &'a EncoderArgs,
    pub(crate) modality: ModalityChoice,
    /// Samples, and their seed.
    pub(crate) bootstrap: u64,
    pub(crate) seed: u64,
}

/// That of a run.
pub(crate) fn on(args: &RunArgs) -> On<'_> {
    On {
        measures: &args.measures,
        encoder: &args.run.encoder,
        modality: args.data.modality().into(),
        bootstrap: args.bootstrap,
        seed: args.run.seed,
    }
}

/// Scores a run's captions; what metrics read is read once.
pub(crate) struct Scoring<'a> {
    on: On<'a>,
    tools: Tools<'a>,
    progress: &'a Progress,
}

impl<'a> Scoring<'a> {
    /// Nothing is read yet.
    pub(crate) fn new(on: &On<'a>, items: &[Item], progress: &'a Progress) -> Self {
        let files: Vec<Option<PathBuf>> = items.iter().map(|item| item.file.clone()).collect();
        let on = *on;
        let tools = Tools::new(on.measures, move |_| {
            Sight::open(on.measures.scorer.as_deref(), on.encoder, &files, on.modality, progress)
        });
        Self { on, tools, progress }
    }

    /// All metrics of a corpus, with their intervals.
    ///
    /// # Errors
    /// If what one needs is missing.
    pub(crate) fn measure(&mut self, corpus: &Corpus) -> Result<(Measured, Vec<Interval>)> {
        self.progress.say("cutting texts into words");
        let measured = self.tools.measure(corpus, &Words::of(corpus), self.progress)?;
        let (samples, seed) = (self.on.bootstrap, self.on.seed);
        let intervals = match samples {
            0 => Vec::new(),
            _ => measured.series.iter().map(|s| bootstrap(s, samples, seed)).collect(),
        };
        Ok((measured, intervals))
    }

    /// Scores everything and writes it into the folder.
    ///
    /// # Errors
    /// If a metric cannot be computed, or something cannot be written.
    pub(super) fn all(mut self, data: DataSet, plan: &Plan, folder: &Folder) -> Result<Done> {
        let mut by_file: HashMap<String, Value> = HashMap::new();
        for line in folder.lines()? {
            if let Some(file) = line["file"].as_str().map(str::to_owned) {
                by_file.insert(file, line);
            }
        }
        let mut line = |file: &PathBuf| by_file.remove(&file.display().to_string());
        let lines: Vec<Option<Value>> = plan.items.iter().map(|item| item.file.as_ref().and_then(&mut line)).collect();
        let corpus = corpus(&plan.items, plan.left_out, &lines, None);
        let (measured, intervals) = self.measure(&corpus)?;
        let costs: Vec<Option<Cost>> = lines.iter().map(|line| line.as_ref().and_then(Cost::of)).collect();
        folder.write("items.jsonl", &items(plan, &corpus, &lines, &measured, &costs))?;
        let rows = published(data, &plan.split)?;
        let report = report(plan, folder, &corpus, &measured, &intervals, &costs, &rows);
        folder.write("results.json", &format!("{report:#}\n"))?;
        let table = table(&report, &measured, &rows);
        folder.write("table.md", &table)?;
        Ok(Done { failed: corpus.failed(), report, table })
    }
}

/// The captions of all items, or those that the runs had after a step; with their references.
pub(crate) fn corpus(items: &[Item], left_out: usize, lines: &[Option<Value>], step: Option<usize>) -> Corpus {
    let mut made = Corpus { left_out, ..Corpus::default() };
    for (item, line) in items.iter().zip(lines) {
        let caption = line.as_ref().and_then(|line| caption_at(line, step));
        let error = match (&caption, line) {
            (Some(_), _) => None,
            (None, Some(line)) => Some(line["error"].as_str().unwrap_or("there is no caption").to_owned()),
            (None, None) if item.file.is_none() => Some("its file is missing".into()),
            (None, None) => Some("there is no caption".into()),
        };
        made.ids.push(item.id.clone());
        made.candidates.push(caption.unwrap_or_default());
        made.errors.push(error);
        made.references.push(item.references.clone());
    }
    made
}

/// What was the best after a step; runs that ended before keep what they had.
fn caption_at(line: &Value, step: Option<usize>) -> Option<String> {
    let last = || line["caption"].as_str().map(str::to_owned);
    let Some(step) = step else { return last() };
    let history = line["history"].as_array()?;
    let by_then = |record: &&Value| record["step"].as_u64().is_some_and(|s| s as usize <= step);
    history.iter().rev().find(by_then).and_then(|record| record["caption"].as_str()).map(str::to_owned)
}

/// The mean of the scorer's own scores after a step.
pub(crate) fn mean_score(lines: &[Option<Value>], step: usize) -> Option<f64> {
    let by_then = |record: &&Value| record["step"].as_u64().is_some_and(|s| s as usize <= step);
    let score = |line: &Value| line["history"].as_array()?.iter().rev().find(by_then)?["score"].as_f64();
    let all: Vec<f64> = lines.iter().flatten().filter_map(score).collect();
    (!all.is_empty()).then(|| all.iter().sum::<f64>() / all.len() as f64)
}

/// What a caption took.
#[derive(Clone, Copy, Debug, Default)]
struct Cost {
    seconds: f64,
    prompt_tokens: f64,
    /// Of those, taken from the KV cache.
    reused_tokens: f64,
    generated_tokens: f64,
    /// New texts that the encoder was given.
    texts: f64,
    encoder_runs: f64,
    encoder_flops: f64,
    /// Two operations a parameter and token; `None` where the parameters are not known.
    generator_flops: Option<f64>,
}

impl Cost {
    /// `None` where there is no caption.
    fn of(line: &Value) -> Option<Self> {
        line["caption"].as_str()?;
        let number = |value: &Value| value.as_f64().unwrap_or_default();
        let counts = &line["counts"];
        let tokens = ["prompt_tokens", "reused_tokens", "generated_tokens"].map(|name| number(&counts[name]));
        let [prompt_tokens, reused_tokens, generated_tokens] = tokens;
        let texts = line["history"].as_array().into_iter().flatten().skip(1).map(|s| number(&s["scored"])).sum();
        let computed = prompt_tokens - reused_tokens + generated_tokens;
        Some(Self {
            seconds: number(&line["seconds"]["total"]),
            prompt_tokens,
            reused_tokens,
            generated_tokens,
            texts,
            encoder_runs: number(&line["encoder"]["runs"]),
            encoder_flops: number(&line["encoder"]["flops"]),
            generator_flops: line["models"]["generator_parameters"].as_f64().map(|p| 2.0 * p * computed),
        })
    }

    fn json(&self) -> Value {
        json!({
            "seconds": self.seconds, "prompt_tokens": self.prompt_tokens, "reused_tokens": self.reused_tokens,
            "generated_tokens": self.generated_tokens, "texts_scored": self.texts, "encoder_runs": self.encoder_runs,
            "encoder_flops": self.encoder_flops, "generator_flops": self.generator_flops,
        })
    }

    /// Of a caption, on average.
    fn mean(all: &[Option<Self>]) -> Option<Self> {
        let there: Vec<&Self> = all.iter().flatten().collect();
        let mean = |of: &dyn Fn(&Self) -> f64| there.iter().map(|c| of(c)).sum::<f64>() / there.len() as f64;
        let known = there.iter().all(|c| c.generator_flops.is_some());
        (!there.is_empty()).then(|| Self {
            seconds: mean(&|c| c.seconds),
            prompt_tokens: mean(&|c| c.prompt_tokens),
            reused_tokens: mean(&|c| c.reused_tokens),
            generated_tokens: mean(&|c| c.generated_tokens),
            texts: mean(&|c| c.texts),
            encoder_runs: mean(&|c| c.encoder_runs),
            encoder_flops: mean(&|c| c.encoder_flops),
            generator_flops: known.then(|| mean(&|c| c.generator_flops.unwrap_or_default())),
        })
    }
}

/// A line of JSON for each item.
fn items(plan: &Plan, corpus: &Corpus, lines: &[Option<Value>], measured: &Measured, costs: &[Option<Cost>]) -> String {
    let mut out = String::new();
    for (at, item) in plan.items.iter().enumerate() {
        let mut line = json!({
            "id": item.id, "file": item.file, "caption": corpus.candidates[at], "references": item.references,
        });
        if let Some(error) = &corpus.errors[at] {
            line["error"] = json!(error);
        }
        line["score"] = lines[at].as_ref().map_or(Value::Null, |l| l["score"].clone());
        for series in &measured.series {
            line[&series.name] = json!(series.item(at));
        }
        line["cost"] = costs[at].as_ref().map_or(Value::Null, Cost::json);
        out.push_str(&format!("{line}\n"));
    }
    out
}

fn report(
    plan: &Plan,
    folder: &Folder,
    corpus: &Corpus,
    measured: &Measured,
    intervals: &[Interval],
    costs: &[Option<Cost>],
    rows: &[Published],
) -> Value {
    let metrics: Map<String, Value> = measured.scores().into_iter().map(|(name, score)| (name, json!(score))).collect();
    let intervals = measured.series.iter().zip(intervals).map(|(s, i)| (s.name.clone(), json!([i.low, i.high])));
    let row = |row: &Published| {
        let metrics: Map<String, Value> =
            row.metrics.iter().map(|(name, value)| (name.clone(), json!(value))).collect();
        json!({"system": row.system, "items": row.items, "percent": metrics, "source": row.source})
    };
    let mut report = json!({
        "version": env!("CARGO_PKG_VERSION"),
        "settings": folder.settings,
        "items": corpus.ids.len(),
        "of": plan.of,
        "failed": corpus.failed(),
        "left_out": corpus.left_out,
        "metrics": metrics,
        "intervals_95": Value::Object(intervals.collect()),
        "cost_of_a_sample": Cost::mean(costs).map(|c| c.json()),
        "published": rows.iter().map(row).collect::<Vec<_>>(),
        "notes": measured.notes,
    });
    for (name, detail) in &measured.details {
        report[name] = detail.clone();
    }
    report
}

/// Markdown: the metrics in percent beside published ones, and the cost.
fn table(report: &Value, measured: &Measured, rows: &[Published]) -> String {
    let ours = measured.scores();
    let has = |name: &&&str| {
        ours.iter().any(|(own, _)| own == **name) || rows.iter().any(|r| r.metrics.iter().any(|(m, _)| m == **name))
    };
    let columns: Vec<&str> = COLUMNS.iter().filter(has).copied().collect();
    let percent = |value: f64| format!("{:.1}", value * 100.0);
    let own = |name: &str| {
        let Some((_, score)) = ours.iter().find(|(own, _)| own == name) else { return String::new() };
        let interval = &report["intervals_95"][name];
        let ends = interval[0].as_f64().zip(interval[1].as_f64());
        percent(*score) + &ends.map(|(low, high)| format!(" [{} {}]", percent(low), percent(high))).unwrap_or_default()
    };
    let mut out = format!("| | {} | |\n|{}\n", columns.join(" | "), " --- |".repeat(columns.len() + 2));
    let settings = &report["settings"];
    let word = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let cells: Vec<String> = columns.iter().map(|name| own(name)).collect();
    let _ = writeln!(out, "| this run, pack {} | {} | |", word(&settings["pack"]), cells.join(" | "));
    for row in rows {
        let cell = |name: &&str| {
            row.metrics.iter().find(|(m, _)| m == *name).map(|(_, v)| format!("{v:.1}")).unwrap_or_default()
        };
        let cells: Vec<String> = columns.iter().map(cell).collect();
        let _ = writeln!(out, "| {} | {} | {} |", row.system, cells.join(" | "), row.source);
    }
    let number = |name: &str| report[name].as_u64().unwrap_or_default();
    let (items, of) = (number("items"), number("of"));
    let _ = write!(out, "\n{} {}: {items} of {of} items", word(&settings["data"]), word(&settings["split"]));
    let _ = write!(out, ", {} failed (they score 0)", number("failed"));
    if number("left_out") > 0 {
        let _ = write!(out, ", {} left out", number("left_out"));
    }
    out.push_str(". In percent, [95 % interval].");
    if let Some(row) = rows.iter().find(|row| row.items as u64 != items) {
        let _ =
            write!(out, " Published rows are of all {} items: they are not to be compared with this one.", row.items);
    }
    out.push('\n');
    let cost = &report["cost_of_a_sample"];
    if let Some(seconds) = cost["seconds"].as_f64() {
        let of = |name: &str| cost[name].as_f64().unwrap_or_default();
        let _ = write!(
            out,
            "A sample took {seconds:.1} s, {:.0} tokens in ({:.0} of them not computed again) and {:.0} out, {:.0} texts \
             scored, and {:.1} runs of the encoder with {:.2} GFLOP",
            of("prompt_tokens"),
            of("reused_tokens"),
            of("generated_tokens"),
            of("texts_scored"),
            of("encoder_runs"),
            of("encoder_flops") / 1e9
        );
        if let Some(flops) = cost["generator_flops"].as_f64() {
            let _ = write!(out, "; the language model about {:.2} (2 a parameter and token)", flops / 1e9);
        }
        out.push_str(".\n");
    }
    for note in &measured.notes {
        let _ = writeln!(out, "{note}.");
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn captions_are_those_of_a_step() {
        let line = json!({"caption": "c", "score": 0.9, "history": [
            {"step": 0, "caption": "a", "score": 0.1, "scored": 100}, {"step": 1, "caption": "b", "score": 0.5, "scored": 7},
            {"step": 2, "caption": "c", "score": 0.9, "scored": 5},
        ], "counts": {"prompt_tokens": 30, "reused_tokens": 10, "generated_tokens": 5},
            "models": {"generator_parameters": 1000}});
        let at = |step| caption_at(&line, step).unwrap();
        assert_eq!([at(None), at(Some(0)), at(Some(1)), at(Some(9))], ["c", "a", "b", "c"]);
        let cost = Cost::of(&line).unwrap();
        assert_eq!((cost.texts, cost.generator_flops), (12.0, Some(50_000.0)));
        let lines = [Some(line), None];
        assert_eq!(mean_score(&lines, 1), Some(0.5));
        assert!(Cost::of(&json!({"file": "x", "error": "damaged"})).is_none());
    }
}
