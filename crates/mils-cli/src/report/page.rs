//! What the page of a file says, in the words and figures in which it stands there.

use super::chart::Chart;
use super::exhibit::{Exhibit, thumbnail};
use super::run::{Drawn, Ending, FileRun, StepRun, Text, Unused, words};
use crate::session::StepSeconds;
use mils_models::Modality;
use mils_optim::{StoppedBy, UnusableReason, relative_labels};
use serde::Serialize;
use std::collections::{BTreeSet, HashSet};

/// Of a longer run, the tables of so many steps are shown.
const STEPS: usize = 150;

/// All that the page tells of a file. Everything is text for the template, which escapes it.
#[derive(Debug, Serialize)]
pub struct Section {
    place: usize,
    name: String,
    modality: &'static str,
    caption: Option<String>,
    score: Option<String>,
    /// What became of it, where that is not a caption.
    status: Option<String>,
    failed: bool,
    first: Option<Shown>,
    steps_done: usize,
    stopped_by: Option<&'static str>,
    exhibit: Exhibit,
    chart: Option<Chart>,
    lineage: Vec<Best>,
    /// What was asked for, where texts are prompts, or what they are about.
    wish: Option<String>,
    /// What its texts are: captions, prompts, instructions, or no more than that.
    texts_are: &'static str,
    /// What the score is.
    measure: String,
    pictures: Vec<PictureView>,
    steps: Vec<StepView>,
    /// Steps whose tables are left out.
    left_out: usize,
    times: Option<Times>,
    unused: Vec<UnusedView>,
    facts: Vec<(&'static str, String)>,
}

/// A picture of a step's best prompt.
#[derive(Debug, Serialize)]
struct PictureView {
    title: String,
    score: String,
    text: String,
    address: String,
}

/// A text with its score.
#[derive(Debug, Serialize)]
struct Shown {
    text: String,
    score: String,
}

/// A best text, and how it came.
#[derive(Debug, Serialize)]
struct Best {
    step: usize,
    score: String,
    /// By how much it is better than the one before.
    gain: Option<String>,
    parts: Vec<Part>,
    from: String,
    closest: Option<Shown>,
    /// For how many further steps it was the best.
    stayed: usize,
}

/// Words of a text, and whether the other text has them not.
#[derive(Debug, PartialEq, Serialize)]
struct Part {
    text: String,
    new: bool,
}

#[derive(Debug, Serialize)]
struct StepView {
    step: usize,
    title: String,
    note: String,
    open: bool,
    rows: Vec<Row>,
    /// Kept texts that are not shown.
    more: usize,
    missed: Vec<Row>,
    /// How many there are.
    missed_count: usize,
}

#[derive(Debug, Serialize)]
struct Row {
    rank: usize,
    score: String,
    /// As the language model sees it.
    label: u32,
    /// The label in per cent of the scale.
    bar: u32,
    parts: Vec<Part>,
    new: bool,
    from: String,
    closest: Option<Shown>,
}

/// Where the time went.
#[derive(Debug, Serialize)]
struct Times {
    rows: Vec<TimeRow>,
    all: TimeRow,
}

#[derive(Debug, Serialize)]
struct TimeRow {
    name: String,
    /// Where each phase begins in the bar, and how wide it is, in thousandths of the longest step.
    bars: Vec<(u32, u32, &'static str)>,
    figures: [String; 5],
    tokens: u64,
}

#[derive(Debug, Serialize)]
struct UnusedView {
    reason: &'static str,
    count: usize,
    examples: Vec<String>,
}

impl Section {
    /// Of a run.
    pub fn new(run: &FileRun, mut exhibit: Exhibit) -> Self {
        let (best, steps) = (run.best(), &run.steps);
        let (status, stopped_by) = match &run.ending {
            Ending::Done(facts) => (None, Some(stopped_by(facts.stopped_by))),
            Ending::Failed(error) => {
                // It is not said twice.
                exhibit.notes.retain(|note| !note.contains(&**error));
                (Some(error.clone()), None)
            }
            Ending::Open => (Some(unfinished(run)), None),
        };
        let first = steps
            .first()
            .map(|step| Shown { text: step.record.best.text.clone(), score: score(step.record.best.score) });
        let shown = chosen(steps);
        Self {
            place: run.place,
            name: run.file.clone(),
            modality: kind(run),
            caption: best.map(|best| best.text.clone()),
            score: best.map(|best| score(best.score)),
            status,
            failed: matches!(run.ending, Ending::Failed(_)),
            first,
            steps_done: steps.len().saturating_sub(1),
            stopped_by,
            exhibit,
            chart: (!steps.is_empty()).then(|| Chart::new(steps)),
            lineage: lineage(steps),
            wish: wish(run),
            texts_are: match (&run.facts.drawing, &run.facts.task) {
                (Some(drawing), _) if drawing.edit.content.is_some() => "instruction",
                (Some(_), _) => "prompt",
                (None, Some(_)) => "text",
                (None, None) => "caption",
            },
            measure: match (&run.facts.drawing, &run.facts.task) {
                (Some(drawing), _) => {
                    drawing.edit.measure.clone().unwrap_or_else(|| "cosine with what was asked for".to_owned())
                }
                (None, Some(_)) => "score".to_owned(),
                (None, None) => format!("cosine with the {}", kind(run)),
            },
            pictures: pictures(run),
            steps: shown.iter().map(|&i| StepView::new(&steps[i], run, i + 1 == steps.len())).collect(),
            left_out: steps.len() - shown.len(),
            times: Times::new(steps, &shown),
            unused: unused(run),
            facts: facts(run),
        }
    }
}

pub(super) fn score(value: f32) -> String {
    format!("{value:.4}")
}

/// What a run is about.
pub(super) fn kind(run: &FileRun) -> &'static str {
    match run.modality {
        Some(Modality::Image) => "picture",
        Some(Modality::Video) => "video",
        Some(Modality::Sound) => "sound",
        None if run.facts.task.is_some() => "search",
        None => "file",
    }
}

fn wish(run: &FileRun) -> Option<String> {
    let drawing = run.facts.drawing.as_ref().map(|drawing| &drawing.prompt);
    let about = run.facts.task.as_ref().map(|task| &task.about);
    drawing.or(about).filter(|text| !text.is_empty()).cloned()
}

fn stopped_by(why: StoppedBy) -> &'static str {
    match why {
        StoppedBy::Steps => "all steps done",
        StoppedBy::Converged => "nothing better came",
        StoppedBy::Interrupted => "interrupted",
        StoppedBy::Target => "what was wanted is reached",
    }
}

fn unfinished(run: &FileRun) -> String {
    let within = match run.steps.len() {
        0 => "before its first texts had scores".to_owned(),
        step => format!("in step {step}"),
    };
    format!("Its trace has no end: it goes on, or it was killed {within}.")
}

/// Which steps are shown: all; of many those at which the best text changed, the first and the last, and the first of
/// the others.
fn chosen(steps: &[StepRun]) -> Vec<usize> {
    let changed = |i: &usize| *i == 0 || *i + 1 == steps.len() || came_then(steps, *i);
    let (first, then): (Vec<usize>, Vec<usize>) = (0..steps.len()).partition(changed);
    let chosen: BTreeSet<usize> = first.into_iter().rev().chain(then).take(STEPS).collect();
    chosen.into_iter().collect()
}

/// Whether the best text of a step was not that of the one before.
fn came_then(steps: &[StepRun], i: usize) -> bool {
    i == 0 || steps[i].record.best.text != steps[i - 1].record.best.text
}

fn from(text: &Text) -> String {
    match (text.step, text.answer) {
        (0, _) => "initial set".into(),
        (step, Some(answer)) => format!("step {step}, answer {answer}"),
        (step, None) => format!("step {step}"),
    }
}

fn closest(text: &Text) -> Option<Shown> {
    text.closest.as_ref().map(|(text, value)| Shown { text: text.clone(), score: score(*value) })
}

/// A text in parts, by whether another has their words. Of a text without another nothing is new.
fn parts(text: &str, other: Option<&str>) -> Vec<Part> {
    let known: Option<HashSet<String>> = other.map(words);
    let is_new = |word: &str| known.as_ref().is_some_and(|known| words(word).iter().any(|word| !known.contains(word)));
    let mut parts: Vec<Part> = Vec::new();
    for (i, word) in text.split(' ').enumerate() {
        let new = is_new(word);
        // A space is marked between two words that are.
        let space = if i > 0 { " " } else { "" };
        match parts.last_mut() {
            Some(part) if part.new == new => part.text.extend([space, word]),
            Some(part) if !part.new => {
                part.text += space;
                parts.push(Part { text: word.to_owned(), new });
            }
            _ => parts.push(Part { text: format!("{space}{word}"), new }),
        }
    }
    parts
}

/// What an edit was given, and the pictures of steps whose best was not the one before's, as far as they are still there.
fn pictures(run: &FileRun) -> Vec<PictureView> {
    let mut before = None;
    let edit = run.facts.drawing.as_ref().map(|drawing| &drawing.edit);
    let given = [("content", edit.and_then(|e| e.content.as_ref())), ("style", edit.and_then(|e| e.style.as_ref()))];
    let given = given.into_iter().filter_map(|(title, file)| {
        let address = thumbnail(file?, &run.facts)?;
        Some(PictureView { title: title.into(), score: String::new(), text: file?.clone(), address })
    });
    let changed = run.pictures.iter().filter(|drawn| before.replace(&drawn.picture) != Some(&drawn.picture));
    let view = |drawn: &Drawn| {
        let address = thumbnail(&drawn.picture, &run.facts)?;
        let title = match drawn.step {
            0 => "start".into(),
            // Drawn with further seeds, after the last step.
            step if step >= run.steps.len() => "end".into(),
            step => format!("step {step}"),
        };
        Some(PictureView { title, score: score(drawn.score), text: drawn.text.clone(), address })
    };
    given.chain(changed.filter_map(view)).collect()
}

fn lineage(steps: &[StepRun]) -> Vec<Best> {
    let mut all: Vec<Best> = Vec::new();
    let mut before: Option<&Text> = None;
    for (i, step) in steps.iter().enumerate() {
        let Some(best) = step.rows.first() else { continue };
        if let (Some(last), false) = (all.last_mut(), came_then(steps, i)) {
            last.stayed += 1;
            continue;
        }
        all.push(Best {
            step: step.record.step,
            score: score(best.score),
            gain: before.map(|before| format!("{:+.4}", best.score - before.score)),
            parts: parts(&best.text, before.map(|before| &*before.text)),
            from: from(best),
            closest: closest(best).filter(|closest| before.is_none_or(|before| before.text != closest.text)),
            stayed: 0,
        });
        before = Some(best);
    }
    all
}

impl StepView {
    fn new(step: &StepRun, run: &FileRun, last: bool) -> Self {
        let record = &step.record;
        let title = if record.step == 0 { "Start".to_owned() } else { format!("Step {}", record.step) };
        let of = if record.step == 0 { " of the initial set" } else { "" };
        let note = format!(
            "{} scored{of}, {} kept, {} unusable or known · mean of the kept {:.4}",
            record.scored, record.entered, record.unusable, record.mean_kept
        );
        let scale = run.scorer.as_ref().map_or(100, |scorer| scorer.settings.label_scale);
        let row = |(i, text): (usize, &Text), label: u32| Row {
            rank: i + 1,
            score: score(text.score),
            label,
            bar: (u64::from(label) * 100 / u64::from(scale.max(1))) as u32,
            parts: parts(&text.text, text.closest.as_ref().filter(|_| text.step == record.step).map(|(t, _)| &**t)),
            new: text.step == record.step && record.step > 0,
            from: from(text),
            closest: closest(text).filter(|_| text.step == record.step),
        };
        // Labels are of the whole list, of which the last is the least.
        let scores: Vec<f32> = step.rows.iter().map(|text| text.score).chain([step.least]).collect();
        let labels = relative_labels(&scores, scale);
        let texts = step.rows.iter().map(|text| &**text).enumerate();
        let missed = step.missed.iter().map(|text| &**text).enumerate();
        Self {
            step: record.step,
            title,
            note,
            open: last || record.step == 0,
            rows: texts.zip(labels).map(|(text, label)| row(text, label)).collect(),
            more: step.kept - step.rows.len(),
            missed: missed.map(|text| row(text, 0)).collect(),
            missed_count: if record.step == 0 { 0 } else { record.scored.saturating_sub(record.entered) },
        }
    }
}

impl Times {
    fn new(steps: &[StepRun], shown: &[usize]) -> Option<Self> {
        let longest = steps.iter().map(|step| step.seconds.total).fold(0.0, f64::max);
        let mut all = (StepSeconds::default(), 0);
        for step in steps {
            let (sum, own) = (&mut all.0, &step.seconds);
            sum.input += own.input;
            sum.generate += own.generate;
            sum.score += own.score;
            sum.total += own.total;
            all.1 += step.record.usage.generated_tokens;
        }
        let row = |step: &StepRun| {
            let name = if step.record.step == 0 { "start".into() } else { step.record.step.to_string() };
            TimeRow::new(name, &step.seconds, step.record.usage.generated_tokens, longest)
        };
        let rows: Vec<TimeRow> = shown.iter().map(|&i| row(&steps[i])).collect();
        let whole = TimeRow::new("all".into(), &all.0, all.1, all.0.total);
        (!rows.is_empty()).then_some(Self { rows, all: whole })
    }
}

impl TimeRow {
    fn new(name: String, seconds: &StepSeconds, tokens: u64, longest: f64) -> Self {
        let StepSeconds { input, generate, score, total } = *seconds;
        let other = (total - input - generate - score).max(0.0);
        let phases = [(input, "input"), (generate, "generate"), (score, "score"), (other, "other")];
        let mut at = 0.0;
        let bars = phases.map(|(seconds, class)| {
            let from = at;
            at += seconds / longest.max(1e-9) * 1000.0;
            (from as u32, (at as u32).saturating_sub(from as u32), class)
        });
        let figures = [input, generate, score, other, total].map(|seconds| format!("{seconds:.2}"));
        Self { name, bars: bars.into_iter().filter(|bar| bar.1 > 0).collect(), figures, tokens }
    }
}

/// What was said and not scored in the whole run, by reason; most first.
fn unused(run: &FileRun) -> Vec<UnusedView> {
    let mut all: Vec<UnusedView> = Vec::new();
    for Unused { reason, count, examples } in run.steps.iter().flat_map(|step| &step.unused).chain(&run.unused) {
        let reason = reason_in_words(*reason);
        let of = all.iter().position(|view| view.reason == reason).unwrap_or_else(|| {
            all.push(UnusedView { reason, count: 0, examples: Vec::new() });
            all.len() - 1
        });
        all[of].count += count;
        let room = 3_usize.saturating_sub(all[of].examples.len());
        all[of].examples.extend(examples.iter().take(room).cloned());
    }
    all.sort_by_key(|view| std::cmp::Reverse(view.count));
    all
}

fn reason_in_words(reason: UnusableReason) -> &'static str {
    match reason {
        UnusableReason::Empty => "nothing was left of it after cleaning",
        UnusableReason::Truncated => "cut off by the token limit",
        UnusableReason::TooLong => "longer than a caption may be",
        UnusableReason::Chatter => "talk around the list",
        UnusableReason::Thinking => "a reasoning block",
        UnusableReason::Surplus => "more than was asked for",
        UnusableReason::Duplicate => "said or scored before",
        UnusableReason::Interrupted => "the run ended before it could be scored",
        UnusableReason::Failed => "no answer came",
        UnusableReason::Unscored => "no score of it: it could not be drawn, or its scorer failed",
        _ => "another reason",
    }
}

fn facts(run: &FileRun) -> Vec<(&'static str, String)> {
    let names = &run.facts.names;
    let mut all = vec![
        ("language model", names.generator.clone()),
        ("it runs on", names.generator_on.clone()),
        ("sampling", {
            let sampling = &run.facts.sampling;
            let (temperature, top_p) = (run.facts.temperature, sampling.top_p);
            let (sequences, lines) = (sampling.sequences, sampling.lines);
            format!(
                "temperature {temperature}, top-p {top_p}, {sequences} answers at a time, {lines} {} in each",
                if lines == 1 { "text" } else { "texts" }
            )
        }),
    ];
    if let Some(drawing) = &run.facts.drawing {
        let (width, height) = drawing.size;
        let seeds: Vec<String> = drawing.seeds.iter().map(u64::to_string).collect();
        let of = [("content", &drawing.edit.content), ("style", &drawing.edit.style), ("score", &drawing.edit.measure)];
        all.extend(of.into_iter().filter_map(|(what, value)| Some((what, value.clone()?))));
        all.push(("renderer", drawing.renderer.clone()));
        let settings = if drawing.settings.is_empty() { String::new() } else { format!(", {}", drawing.settings) };
        all.push(("pictures", format!("{width} x {height} pixels, seeds {}{settings}", seeds.join(", "))));
    }
    if let Some(task) = &run.facts.task {
        all.push(("objectives", task.objectives.join("; ")));
    }
    if let Some(scorer) = &run.scorer {
        let settings = &scorer.settings;
        let patience = settings.patience.map(|n| format!(", ends after {n} without a change")).unwrap_or_default();
        all.push(("scorer", scorer.scorer.clone()));
        all.push(("scorers run on", names.backend.clone()));
        all.push((
            "loop",
            format!(
                "keeps {}, asks for {}, at most {} steps{patience}, seed {}",
                settings.keep, settings.propose, settings.steps, settings.seed
            ),
        ));
        all.push(("initial set", format!("{} texts", scorer.initial_texts)));
    }
    if let Ending::Done(end) = &run.ending {
        let (counts, usage, percent) = (&end.counts, &end.counts.usage, |share: f64| share * 100.0);
        all.push((
            "texts",
            format!("{} scored, {} known already, {} unusable", counts.scored, counts.memo_hits, counts.unusable),
        ));
        all.push((
            "tokens",
            format!(
                "{} of prompts ({} from the cache), {} generated",
                usage.prompt_tokens, usage.reused_tokens, usage.generated_tokens
            ),
        ));
        all.push((
            "seconds",
            format!("{:.2} in all; models loaded before in {:.2}", end.seconds.total, end.seconds.load),
        ));
        let (generator, scorer) = (percent(end.utilisation.generator), percent(end.utilisation.scorer));
        all.push(("busy meanwhile", format!("language model {generator:.0} %, scorer {scorer:.0} %")));
    }
    let side_by_side = match run.facts.in_flight {
        1 => "one file".to_owned(),
        files => format!("{files} files"),
    };
    all.push(("run of", format!("mils {}, pack {}, {side_by_side} at a time", run.facts.version, names.pack)));
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_that_the_other_text_has_not_are_told_apart() {
        let part = |text: &str, new| Part { text: text.to_owned(), new };
        assert_eq!(
            parts("a big red car, parked", Some("A red  car")),
            [part("a ", false), part("big", true), part(" red car, ", false), part("parked", true)]
        );
        assert_eq!(parts("a car", None), [part("a car", false)]);
        assert_eq!(parts("", Some("x")), [part("", false)]);
    }

    #[test]
    fn bars_are_as_long_as_the_phases() {
        let seconds = StepSeconds { input: 0.0, generate: 1.0, score: 0.5, total: 2.0 };
        let row = TimeRow::new("1".into(), &seconds, 7, 4.0);
        assert_eq!(row.bars, [(0, 250, "generate"), (250, 125, "score"), (375, 125, "other")]);
        assert_eq!(row.figures, ["0.00", "1.00", "0.50", "0.50", "2.00"]);
        assert!(TimeRow::new("0".into(), &StepSeconds::default(), 0, 0.0).bars.is_empty());
    }
}
