//! The metrics that were asked for.

use super::args::{MeasureArgs, Metric};
use super::sight::{ClipScores, Sight};
use crate::output::Output;
use crate::progress::Progress;
use anyhow::{Context, Result, bail};
use mils_eval::cider::{DocumentFrequencies, Variant};
use mils_eval::evaluate::{Corpus, Series, Words};
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

/// Opens an encoder on what items are of.
type OpenSight<'a> = dyn Fn(&Corpus) -> Result<Sight> + 'a;

/// What metrics take, read where one needs it and kept for a second system.
pub(super) struct Tools<'a> {
    args: &'a MeasureArgs,
    /// Opens the encoder of CLIPScore on what the items are of.
    open_sight: Box<OpenSight<'a>>,
    meteor: Option<Meteor>,
    sight: Option<Sight>,
}

impl<'a> Tools<'a> {
    /// Nothing is read yet.
    pub(super) fn new(args: &'a MeasureArgs, open_sight: impl Fn(&Corpus) -> Result<Sight> + 'a) -> Self {
        Self { args, open_sight: Box::new(open_sight), meteor: None, sight: None }
    }

    /// Computes the metrics.
    ///
    /// # Errors
    /// If data, a picture or a program that one needs is missing.
    pub(super) fn measure(&mut self, corpus: &Corpus, words: &Words, progress: &Progress) -> Result<Measured> {
        let args = self.args;
        let mut made = Measured { series: Vec::new(), of_all: Vec::new(), details: Vec::new(), notes: Vec::new() };
        let frequencies = frequencies(words, args)?;
        let cider = |name, variant| words.cider(name, &frequencies, variant);
        // SPIDEr has it as a part, and it takes minutes.
        let mut spice_series: Option<Series> = None;
        let mut clip: Option<ClipScores> = None;
        let mut asked: Vec<Metric> = Vec::new();
        for metric in &args.metrics {
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
                Metric::Meteor => meteor(words, args, once(&mut self.meteor, || open_meteor(args))?, &mut made)?,
                Metric::Spice => made.series.push(once(&mut spice_series, || spice(words, args))?.clone()),
                Metric::Spider => {
                    let cider = cider("cider", Variant::D);
                    let spice = once(&mut spice_series, || spice(words, args))?;
                    let items = (0..cider.len()).map(|i| (spice.item(i) + cider.item(i)) / 2.0).collect();
                    made.series.push(Series::mean("spider", items));
                }
                Metric::SelfBleu => made.series.extend(words.self_bleu()),
                Metric::Distinct => {
                    let all = words.distinct().into_iter().enumerate();
                    made.of_all.extend(all.map(|(n, score)| (format!("distinct-{}", n + 1), score)));
                }
                Metric::Clipscore | Metric::Refclipscore => {
                    if self.sight.is_none() {
                        self.sight = Some((self.open_sight)(corpus)?);
                    }
                    let sight = self.sight.as_mut().context("the encoder is gone")?;
                    if clip.is_none() {
                        let references = args.metrics.contains(&Metric::Refclipscore);
                        made.details.push(("clipscore", sight.settings()));
                        made.notes.extend(sight.note());
                        clip = Some(sight.scores(corpus, references, progress)?);
                    }
                    let scores = clip.as_mut().and_then(|c| match metric {
                        Metric::Clipscore => c.clip.take(),
                        _ => c.with_references.take(),
                    });
                    made.series.extend(scores);
                }
            }
        }
        Ok(made)
    }
}

/// What was made before, or is made now.
fn once<T>(made: &mut Option<T>, make: impl FnOnce() -> Result<T>) -> Result<&T> {
    let it = match made.take() {
        Some(it) => it,
        None => make()?,
    };
    Ok(made.insert(it))
}

fn frequencies(words: &Words, args: &MeasureArgs) -> Result<DocumentFrequencies> {
    if let Some(path) = &args.frequencies {
        let mut vocabulary: Vocabulary = words.vocabulary.clone();
        return Ok(DocumentFrequencies::read(path, &mut vocabulary)?);
    }
    let frequencies = words.frequencies();
    if let Some(path) = &args.save_frequencies {
        let mut out = Output::open(Some(path), false)?;
        let mut bytes = Vec::new();
        frequencies.write(&mut bytes, &words.vocabulary).context("cannot write the frequencies")?;
        out.write(&bytes)?;
        out.finish()?;
    }
    Ok(frequencies)
}

fn open_meteor(args: &MeasureArgs) -> Result<Meteor> {
    Ok(match &args.meteor {
        Some(path) => Meteor::open(MeteorFiles::find(path)?)?,
        None => Meteor::without_data([]),
    })
}

fn meteor(words: &Words, args: &MeasureArgs, meteor: &Meteor, made: &mut Measured) -> Result<()> {
    let stages = meteor.stages();
    if stages.len() < 4 {
        made.notes.push(format!(
            "METEOR by {} alone, which nobody else calls METEOR; its data are not ours to bring: name its folder with \
             --meteor or MILS_METEOR (pycocoevalcap has one)",
            stages.join(", ")
        ));
    }
    made.details.push(("meteor", json!({"stages": stages, "data": args.meteor})));
    made.series.push(words.meteor(meteor)?);
    Ok(())
}

fn spice(words: &Words, args: &MeasureArgs) -> Result<Series> {
    let Some(folder) = &args.spice else {
        bail!(
            "SPICE is its authors' Java program: name its folder, with spice-1.0.jar and lib, with --spice or MILS_SPICE"
        );
    };
    let spice = Spice::find(folder, Path::new("java"), args.spice_cache.clone())?;
    Ok(Series::mean("spice", words.zeroed(spice.scores(&words.candidates, &words.references)?)))
}
