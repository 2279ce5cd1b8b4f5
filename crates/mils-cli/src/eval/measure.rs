//! The metrics that were asked for.

use super::args::{Metric, SourceArgs};
use crate::output::Output;
use crate::progress::Progress;
use anyhow::{Context, Result, bail};
use mils_eval::cider::{DocumentFrequencies, Variant};
use mils_eval::evaluate::{Series, Words};
use mils_eval::meteor::{Meteor, MeteorFiles};
use mils_eval::ngram::Vocabulary;
use mils_eval::spice::Spice;
use serde_json::{Value, json};
use std::path::Path;

/// What came of the metrics.
pub(super) struct Measured {
    /// Metrics that items have values of.
    pub(super) series: Vec<Series>,
    /// Metrics of all items together.
    of_all: Vec<(String, f64)>,
    /// What belongs to some of them, for JSON.
    pub(super) details: Vec<(&'static str, Value)>,
    /// What is good to know, for people.
    pub(super) notes: Vec<String>,
}

impl Measured {
    /// All scores by name.
    pub(super) fn scores(&self) -> Vec<(String, f64)> {
        self.series.iter().map(|s| (s.name.clone(), s.score())).chain(self.of_all.clone()).collect()
    }
}

/// Computes them. METEOR's data are read where they are needed and stay in `meteor_data`, for a second system.
///
/// # Errors
/// If data or a program that one needs is missing.
pub(super) fn measure(
    words: &Words,
    source: &SourceArgs,
    meteor_data: &mut Option<Meteor>,
    progress: &Progress,
) -> Result<Measured> {
    let mut made = Measured { series: Vec::new(), of_all: Vec::new(), details: Vec::new(), notes: Vec::new() };
    let frequencies = frequencies(words, source)?;
    let cider = |name, variant| words.cider(name, &frequencies, variant);
    // SPIDEr has it as a part, and it takes minutes.
    let mut spice_series: Option<Series> = None;
    let mut asked: Vec<Metric> = Vec::new();
    for metric in &source.metrics {
        if asked.contains(metric) {
            continue;
        }
        asked.push(*metric);
        progress.say(&format!("computing {metric:?}"));
        match metric {
            Metric::Bleu => {
                let (counts, series) = words.bleu();
                made.details.push(("bleu", json!(counts)));
                made.series.extend(series);
            }
            Metric::RougeL => made.series.push(words.rouge_l()),
            Metric::Cider => made.series.push(cider("cider", Variant::D)),
            Metric::CiderD => made.series.push(cider("cider-d", Variant::D)),
            Metric::CiderPlain => made.series.push(cider("cider-plain", Variant::Plain)),
            Metric::Meteor => meteor(words, source, once(meteor_data, || open_meteor(source))?, &mut made)?,
            Metric::Spice => made.series.push(once(&mut spice_series, || spice(words, source))?.clone()),
            Metric::Spider => {
                let cider = cider("cider", Variant::D);
                let spice = once(&mut spice_series, || spice(words, source))?;
                let items = (0..cider.len()).map(|i| (spice.item(i) + cider.item(i)) / 2.0).collect();
                made.series.push(Series::mean("spider", items));
            }
            Metric::SelfBleu => made.series.extend(words.self_bleu()),
            Metric::Distinct => {
                let all = words.distinct().into_iter().enumerate();
                made.of_all.extend(all.map(|(n, score)| (format!("distinct-{}", n + 1), score)));
            }
        }
    }
    Ok(made)
}

/// What was made before, or is made now.
fn once<T>(made: &mut Option<T>, make: impl FnOnce() -> Result<T>) -> Result<&T> {
    let it = match made.take() {
        Some(it) => it,
        None => make()?,
    };
    Ok(made.insert(it))
}

fn frequencies(words: &Words, source: &SourceArgs) -> Result<DocumentFrequencies> {
    if let Some(path) = &source.frequencies {
        let mut vocabulary: Vocabulary = words.vocabulary.clone();
        return Ok(DocumentFrequencies::read(path, &mut vocabulary)?);
    }
    let frequencies = words.frequencies();
    if let Some(path) = &source.save_frequencies {
        let mut out = Output::open(Some(path), false)?;
        let mut bytes = Vec::new();
        frequencies.write(&mut bytes, &words.vocabulary).context("cannot write the frequencies")?;
        out.write(&bytes)?;
        out.finish()?;
    }
    Ok(frequencies)
}

fn open_meteor(source: &SourceArgs) -> Result<Meteor> {
    Ok(match &source.meteor {
        Some(path) => Meteor::open(MeteorFiles::find(path)?)?,
        None => Meteor::without_data([]),
    })
}

fn meteor(words: &Words, source: &SourceArgs, meteor: &Meteor, made: &mut Measured) -> Result<()> {
    let stages = meteor.stages();
    if stages.len() < 4 {
        made.notes.push(format!(
            "METEOR by {} alone, which nobody else calls METEOR; its data are not ours to bring: name its folder with \
             --meteor or MILS_METEOR (pycocoevalcap has one)",
            stages.join(", ")
        ));
    }
    made.details.push(("meteor", json!({"stages": stages, "data": source.meteor})));
    made.series.push(words.meteor(meteor)?);
    Ok(())
}

fn spice(words: &Words, source: &SourceArgs) -> Result<Series> {
    let Some(folder) = &source.spice else {
        bail!(
            "SPICE is its authors' Java program: name its folder, with spice-1.0.jar and lib, with --spice or MILS_SPICE"
        );
    };
    let spice = Spice::find(folder, Path::new("java"), source.spice_cache.clone())?;
    Ok(Series::mean("spice", words.zeroed(spice.scores(&words.candidates, &words.references)?)))
}
