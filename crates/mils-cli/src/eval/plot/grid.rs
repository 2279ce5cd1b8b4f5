//! A grid file: what all runs have in common, and what is varied, one thing at a time.

use super::figures::{Finished, Group};
use crate::eval::run::RunArgs;
use anyhow::{Context, Result, anyhow, bail};
use clap::Parser;
use serde::Deserialize;
use std::path::Path;
use toml::{Table, Value};

/// The axis that needs no runs of its own.
const STEPS: &str = "steps";

/// As the file has it.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    run: Table,
    axes: Table,
}

/// The options of `mils eval run`, read by the same parser.
#[derive(Debug, Parser)]
#[command(name = "run", no_binary_name = true)]
struct Options {
    #[command(flatten)]
    run: RunArgs,
}

/// A grid.
#[derive(Debug)]
pub(super) struct Grid {
    /// What is run; each folder once.
    pub(super) runs: Vec<RunArgs>,
    axes: Vec<Axis>,
}

#[derive(Debug)]
struct Axis {
    name: String,
    /// A value, and the run that has it.
    values: Vec<(String, usize)>,
    /// Steps that are asked for, of the axis of steps.
    at: Vec<usize>,
}

impl Grid {
    /// Reads a grid whose runs go into a folder.
    ///
    /// # Errors
    /// If it is wrong in anything: nothing has been run then.
    pub(super) fn read(path: &Path, runs: &Path, quiet: bool) -> Result<Self> {
        let place = || format!("{}", path.display());
        let text = std::fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))?;
        let File { run, axes } = toml::from_str(&text).map_err(|e| anyhow!("{}", e.message())).with_context(place)?;
        if axes.is_empty() {
            bail!("{}: there is nothing in [axes]", path.display());
        }
        let mut grid = Self { runs: Vec::new(), axes: Vec::new() };
        for (name, values) in &axes {
            let Some(values) = values.as_array().filter(|values| !values.is_empty()) else {
                bail!("{}: axes.{name} is no list of values", path.display());
            };
            let mut axis = Axis { name: name.clone(), values: Vec::new(), at: Vec::new() };
            if name == STEPS {
                let at: Option<Vec<usize>> =
                    values.iter().map(|v| v.as_integer().and_then(|n| usize::try_from(n).ok())).collect();
                axis.at = at.with_context(|| format!("{}: axes.steps are numbers from 0", path.display()))?;
                let most = axis.at.iter().max().copied().unwrap_or_default() as i64;
                let at = grid.add(&run, STEPS, &Value::Integer(most), runs, quiet).with_context(place)?;
                axis.values.push(("all".into(), at));
            } else {
                for value in values {
                    let at = grid.add(&run, name, value, runs, quiet).with_context(place)?;
                    axis.values.push((word(value), at));
                }
            }
            grid.axes.push(axis);
        }
        Ok(grid)
    }

    /// The number of the run that has this value and all else as it is in common.
    fn add(&mut self, common: &Table, axis: &str, value: &Value, runs: &Path, quiet: bool) -> Result<usize> {
        let mut table = common.clone();
        let before = table.insert(axis.to_owned(), value.clone());
        let name = if before.as_ref() == Some(value) { "base".to_owned() } else { file_name(axis, value) };
        let output = runs.join(name);
        if let Some(at) = self.runs.iter().position(|run| run.output == output) {
            return Ok(at);
        }
        self.runs.push(parse(&table, &output, quiet)?);
        Ok(self.runs.len() - 1)
    }

    /// What came of the runs, in their order, by axis.
    pub(super) fn groups(self, finished: &[Finished]) -> Vec<Group> {
        let of = |(name, at): (String, usize)| Some((name, finished.get(at)?.clone()));
        let group = |axis: Axis| Group {
            values: axis.values.into_iter().filter_map(of).collect(),
            axis: axis.name,
            at: axis.at,
        };
        self.axes.into_iter().map(group).collect()
    }
}

/// A value as it stands on a command line.
fn word(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        Value::Array(all) => all.iter().map(word).collect::<Vec<_>>().join(","),
        other => other.to_string(),
    }
}

fn file_name(axis: &str, value: &Value) -> String {
    let plain = |c: char| if c.is_ascii_alphanumeric() || "._-".contains(c) { c } else { '_' };
    format!("{axis}={}", word(value).chars().map(plain).collect::<String>())
}

/// The options that a table stands for.
fn parse(table: &Table, output: &Path, quiet: bool) -> Result<RunArgs> {
    let mut words: Vec<String> = Vec::new();
    for (key, value) in table {
        match value {
            _ if key == "output" => bail!("run.output is not to be said: runs go where --output says"),
            _ if key == "data" => words.insert(0, word(value)),
            Value::Boolean(true) => words.push(format!("--{key}")),
            Value::Boolean(false) => {}
            // In one word: a value may begin with a dash.
            _ => words.push(format!("--{key}={}", word(value))),
        }
    }
    words.push("--output".into());
    words.push(output.display().to_string());
    if quiet {
        words.push("--quiet".into());
    }
    let options = Options::try_parse_from(words).map_err(|error| {
        let text = error.to_string();
        let first = text.lines().next().unwrap_or_default();
        anyhow!("{}", first.trim_start_matches("error: "))
    })?;
    options.run.check().map_err(|problem| anyhow!(problem))?;
    Ok(options.run)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::path::PathBuf;

    fn read(text: &str) -> Result<Grid, String> {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("grid.toml");
        std::fs::write(&path, text).unwrap();
        Grid::read(&path, Path::new("runs"), true)
            .map_err(|e| format!("{e:#}").replace(&path.display().to_string(), "grid"))
    }

    #[test]
    fn a_grid_varies_one_thing_at_a_time() {
        let common = "[run]\ndata = 'coco'\nroot = 'x'\nkeep = 12\nmetrics = ['cider', 'bleu']\n";
        let grid =
            read(&format!("{common}[axes]\nkeep = [3, 12]\nfeedback = ['true', 'none']\nsteps = [0, 1, 8]\n")).unwrap();
        let outputs: Vec<PathBuf> = grid.runs.iter().map(|r| r.output.clone()).collect();
        let names: Vec<&str> = outputs.iter().map(|p| p.to_str().unwrap()).collect();
        assert_eq!(names, ["runs/feedback=true", "runs/feedback=none", "runs/keep=3", "runs/base", "runs/steps=8"]);
        assert_eq!(
            (grid.runs[2].run.keep, grid.runs[3].run.keep, grid.runs[4].run.steps),
            (Some(3), Some(12), Some(8))
        );
        assert_eq!(grid.runs[0].measures.metrics.len(), 2);
        assert_eq!((&*grid.axes[2].name, &grid.axes[2].at[..]), ("steps", &[0, 1, 8][..]));
        for (text, wants) in [
            ("[run]\ndata = 'coco'\n[axes]\nkeep = [1]\n", "grid: the following required arguments"),
            ("[run]\ndata = 'coco'\nroot = 'x'\n[axes]\nkeep = 1\n", "grid: axes.keep is no list of values"),
            ("[run]\ndata = 'coco'\nroot = 'x'\n[axes]\n", "grid: there is nothing in [axes]"),
            ("[run]\ndata = 'coco'\nroot = 'x'\n[axes]\nkep = [1]\n", "grid: unexpected argument '--kep'"),
            ("[run]\ndata = 'coco'\nroot = 'x'\n[axes]\nsteps = ['all']\n", "grid: axes.steps are numbers from 0"),
            ("[run]\n", "grid: missing field `axes`"),
        ] {
            let error = read(text).unwrap_err();
            assert!(error.contains(wants), "{error} does not say {wants}");
        }
    }
}
