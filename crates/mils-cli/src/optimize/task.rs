//! A task file, and what it says once the command line and a pack have been heard.

use super::args::OptimizeArgs;
use crate::session::{Endpoint, Options, decimal};
use anyhow::{Context, Result, bail, ensure};
use mils_models::download::hexadecimal;
use mils_models::{LoopChanges, Pack, Prompts, find_bank, read_toml};
use mils_optim::Config;
use serde::Deserialize;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use std::collections::HashSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

/// The prompts of tasks that have none of their own, for language models that follow instructions.
const PROMPTS: &str = include_str!("prompts.toml");
/// The pack whose settings an endpoint is asked with where none is named.
const SETTINGS: &str = "small";

/// A task file. Paths in it are relative to its folder.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Task {
    /// What is searched for: `about` in the prompts.
    #[serde(default)]
    pub(super) about: String,
    #[serde(default)]
    generator: GeneratorPart,
    #[serde(default)]
    prompt: PromptPart,
    #[serde(default)]
    initial: InitialPart,
    pub(super) scorer: ScorerPart,
    #[serde(default)]
    pub(super) objectives: Vec<Objective>,
    #[serde(default, rename = "loop")]
    settings: LoopPart,
    /// The file.
    #[serde(skip)]
    file: PathBuf,
}

/// Which language model writes, where the command line says nothing.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct GeneratorPart {
    pack: Option<String>,
    url: Option<String>,
    model: Option<String>,
    /// Texts asked for in one answer.
    lines: Option<usize>,
    /// Answers written side by side.
    sequences: Option<usize>,
}

/// Templates in place of those that are built in.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct PromptPart {
    system: Option<String>,
    user: Option<String>,
}

/// What is begun with: all of these together.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct InitialPart {
    texts: Vec<String>,
    /// One text a line.
    file: Option<PathBuf>,
    /// An initial set by its name.
    bank: Option<String>,
}

/// A program and its arguments, or a line for the shell.
#[derive(Clone, Debug, Deserialize)]
#[serde(untagged)]
enum CommandPart {
    Words(Vec<String>),
    Line(String),
}

/// What scores texts.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct ScorerPart {
    command: CommandPart,
    /// Most texts of a batch.
    #[serde(default = "batch")]
    pub(super) batch: usize,
    /// Seconds that it may say nothing.
    #[serde(default = "timeout")]
    timeout: f64,
}

fn batch() -> usize {
    64
}

fn timeout() -> f64 {
    60.0
}

/// Which way is better.
#[derive(Clone, Copy, Debug, Default, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "snake_case")]
pub(super) enum Goal {
    #[default]
    Maximise,
    Minimise,
}

/// Something that texts are scored by.
#[derive(Clone, Debug, Deserialize, PartialEq)]
#[serde(deny_unknown_fields)]
pub(super) struct Objective {
    pub(super) name: String,
    #[serde(default)]
    pub(super) goal: Goal,
    /// What a step of 1 counts in the sum that orders texts which do not dominate each other.
    #[serde(default = "one")]
    pub(super) weight: f64,
    /// The search ends when the best text is as good as this, in all objectives that have one.
    #[serde(default)]
    pub(super) target: Option<f64>,
}

fn one() -> f64 {
    1.0
}

/// Settings of the loop.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct LoopPart {
    steps: Option<usize>,
    keep: Option<usize>,
    propose: Option<usize>,
    asks: Option<usize>,
    patience: Option<usize>,
    temperature: Option<f32>,
    top_p: Option<f32>,
    seed: Option<u64>,
}

impl Objective {
    /// 1 where more is better, and -1 where less is.
    pub(super) fn sign(&self) -> f32 {
        if self.goal == Goal::Minimise { -1.0 } else { 1.0 }
    }

    /// Whether a value is as good as it is to be; one without a target always is.
    pub(super) fn reached(&self, value: f32) -> bool {
        let sign = f64::from(self.sign());
        self.target.is_none_or(|target| sign * decimal(value) >= sign * target)
    }

    /// For people.
    pub(super) fn told(&self) -> String {
        let goal = if self.goal == Goal::Minimise { "minimise" } else { "maximise" };
        let target = self.target.map(|target| format!(", to {target}")).unwrap_or_default();
        format!("{goal} {} (weight {}{target})", self.name, self.weight)
    }
}

/// Whether the signed values of a text are as good as they are to be; never where nothing was said of that.
pub(super) fn reached(objectives: &[Objective], values: &[f32]) -> bool {
    let any = objectives.iter().any(|objective| objective.target.is_some());
    any && objectives.iter().zip(values).all(|(objective, value)| objective.reached(objective.sign() * value))
}

impl Task {
    /// Reads a file.
    ///
    /// # Errors
    /// If it cannot be read, or something in it makes no sense.
    pub(super) fn read(file: &Path) -> Result<Self> {
        let mut task: Self =
            read_toml(file, "there is no such task file; see `mils optimize --help` for what is in one")?;
        file.clone_into(&mut task.file);
        let named = std::mem::take(&mut task.objectives);
        task.objectives = if named.is_empty() {
            vec![Objective { name: "score".into(), goal: Goal::Maximise, weight: 1.0, target: None }]
        } else {
            named
        };
        task.check().map_err(|problem| anyhow::anyhow!("{}: {problem}", file.display()))?;
        Ok(task)
    }

    fn check(&self) -> Result<(), String> {
        let mut names = HashSet::new();
        for Objective { name, weight, target, .. } in &self.objectives {
            if name.trim().is_empty() || !names.insert(name) {
                return Err(format!("an objective is called {name:?}; each needs a name of its own"));
            }
            if !(*weight > 0.0 && *weight <= 1e9) {
                return Err(format!("the weight of {name} is {weight}; expected more than 0"));
            }
            if target.is_some_and(|target| !target.is_finite()) {
                return Err(format!("the target of {name} is no number"));
            }
        }
        let ScorerPart { command, batch, timeout } = &self.scorer;
        let empty = match command {
            CommandPart::Words(words) => words.first().is_none_or(|word| word.is_empty()),
            CommandPart::Line(line) => line.trim().is_empty(),
        };
        if empty {
            return Err("`scorer.command` names no program".into());
        }
        if !(*timeout > 0.0 && *timeout <= 86_400.0) {
            return Err(format!("`scorer.timeout` is {timeout}; expected seconds, up to 86400"));
        }
        let LoopPart { steps, keep, propose, asks, temperature, top_p, .. } = &self.settings;
        let numbers = [
            ("scorer.batch", Some(*batch), 1, 100_000),
            ("loop.steps", *steps, 0, 10_000),
            ("loop.keep", *keep, 1, 10_000),
            ("loop.propose", *propose, 1, 100_000),
            ("loop.asks", *asks, 1, 100),
            ("generator.lines", self.generator.lines, 1, 1000),
            ("generator.sequences", self.generator.sequences, 1, 255),
        ];
        for (name, value, least, most) in numbers {
            if let Some(value) = value.filter(|value| !(least..=most).contains(value)) {
                return Err(format!("`{name}` is {value}; expected {least} to {most}"));
            }
        }
        for (name, value, most) in [("loop.temperature", temperature, 10.0), ("loop.top_p", top_p, 1.0)] {
            if let Some(value) = value.filter(|value| !(0.0..=most).contains(value)) {
                return Err(format!("`{name}` is {value}; expected 0 to {most}"));
            }
        }
        Ok(())
    }

    /// The file's name: what the search is called.
    pub(super) fn name(&self) -> String {
        self.file.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default()
    }

    /// The folder that paths are relative to.
    pub(super) fn folder(&self) -> PathBuf {
        let folder = self.file.parent().filter(|folder| !folder.as_os_str().is_empty());
        folder.unwrap_or(Path::new(".")).to_owned()
    }

    /// The scorer's program with its arguments.
    pub(super) fn command(&self) -> (PathBuf, Vec<String>) {
        match &self.scorer.command {
            CommandPart::Words(words) => {
                let (first, rest) = words.split_first().map_or((Path::new(""), &[][..]), |(f, r)| (Path::new(f), r));
                // A bare word is looked for where programs are; what is a path is relative to the task file, wherever
                // the command is run.
                let path = first.components().count() > 1;
                let absolute = || std::path::absolute(self.folder().join(first)).unwrap_or_else(|_| first.to_owned());
                (if path { absolute() } else { first.to_owned() }, rest.to_vec())
            }
            CommandPart::Line(line) if cfg!(windows) => ("cmd".into(), vec!["/C".into(), line.clone()]),
            CommandPart::Line(line) => ("/bin/sh".into(), vec!["-c".into(), line.clone()]),
        }
    }

    /// The command as it was written, for people.
    pub(super) fn told(&self) -> String {
        match &self.scorer.command {
            CommandPart::Words(words) => words.join(" "),
            CommandPart::Line(line) => line.clone(),
        }
    }

    /// How long the scorer may say nothing.
    pub(super) fn timeout(&self) -> Duration {
        Duration::from_secs_f64(self.scorer.timeout)
    }

    /// The texts that are begun with, in the order of the file.
    ///
    /// # Errors
    /// If one of their files cannot be read, or there is none.
    pub(super) fn initial(&self) -> Result<Vec<String>> {
        let InitialPart { texts, file, bank } = &self.initial;
        let mut all = texts.clone();
        let file = file.as_ref().map(|file| self.folder().join(file));
        let bank = bank.as_deref().map(find_bank).transpose()?;
        for path in file.iter().chain(&bank) {
            let text = std::fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))?;
            all.extend(text.lines().map(str::to_owned));
        }
        all.retain(|text| !text.trim().is_empty());
        ensure!(
            !all.is_empty(),
            "{}: there is no text to begin with; give some under [initial], as `texts`, `file` or `bank`",
            self.file.display()
        );
        Ok(all)
    }

    /// The pack that is named, here or on the command line.
    pub(super) fn pack<'a>(&'a self, args: &'a OptimizeArgs) -> Option<&'a str> {
        args.writer.pack.as_deref().or(self.generator.pack.as_deref())
    }

    /// The endpoint that is asked in place of the pack's language model.
    pub(super) fn endpoint(&self, args: &OptimizeArgs) -> Option<Endpoint> {
        let own = || Some(Endpoint { url: self.generator.url.clone()?, model: self.generator.model.clone() });
        args.writer.endpoint().or_else(own)
    }

    /// The pack whose settings an endpoint is asked with where none is named: nothing of it need be there.
    ///
    /// # Errors
    /// If it was not installed with the program.
    pub(super) fn settings_alone() -> Result<Pack> {
        Ok(Pack::open(SETTINGS)?)
    }

    /// The prompts. A pack whose language model knows nothing but captions is asked as it is for these.
    ///
    /// # Errors
    /// If those that are built in are damaged.
    pub(super) fn prompts(&self, pack: &Pack, elsewhere: bool) -> Result<Prompts> {
        let captions = !elsewhere && pack.generate.as_ref().is_some_and(|generate| generate.captions);
        let built_in = || toml::from_str(PROMPTS).context("the prompts that are built in");
        let Prompts { system, user } = if captions { pack.prompt.clone() } else { built_in()? };
        let PromptPart { system: own_system, user: own } = self.prompt.clone();
        // Whoever writes the one has thought of the other: it is not mixed with ours.
        match (own_system, own) {
            (None, None) => Ok(Prompts { system, user }),
            (own_system, Some(user)) => Ok(Prompts { system: own_system.unwrap_or_default(), user }),
            (Some(_), None) => bail!("{}: [prompt] has a `system` and no `user`", self.file.display()),
        }
    }

    /// What the pack is told otherwise, and settings of the loop: the command line's, else the task's, else the pack's.
    pub(super) fn configure(
        &self,
        args: &OptimizeArgs,
        pack: &mut Pack,
        cancel: &Arc<AtomicBool>,
    ) -> (Options, Config) {
        let LoopPart { steps, keep, propose, asks, patience, temperature, top_p, seed } = self.settings;
        let or = |given: Option<u32>, own: Option<usize>| given.map(|n| n as usize).or(own);
        pack.settings.top_p = top_p.unwrap_or(pack.settings.top_p);
        pack.generator.lines = self.generator.lines.unwrap_or(pack.generator.lines);
        let changes = LoopChanges { asks, patience, ..LoopChanges::default() };
        let settings = pack.settings.with(&changes);
        let options = Options {
            steps: or(args.steps, steps),
            keep: or(args.keep, keep),
            propose: or(args.propose, propose),
            temperature: args.temperature.or(temperature),
            seed: args.seed.or(seed).unwrap_or(0),
            endpoint: self.endpoint(args),
            sequences: self.generator.sequences,
            cancel: Arc::clone(cancel),
            ..Options::default()
        };
        let config = crate::scorers::config(&settings, &options);
        (options, config)
    }

    /// What makes another search.
    pub(super) fn identity(
        &self,
        pack: &Pack,
        prompts: &Prompts,
        initial: &[String],
        options: &Options,
        config: &Config,
    ) -> Value {
        let hash = hexadecimal(&Sha256::digest(initial.join("\n").as_bytes()));
        let temperature = options.temperature.unwrap_or(pack.settings.temperature);
        json!({
            "pack": pack.name, "about": self.about, "prompt": prompts, "initial": hash,
            "generator": options.endpoint.as_ref().map(|endpoint| json!([endpoint.url, endpoint.model])),
            "scorer": self.told(), "objectives": self.objectives.iter().map(Objective::told).collect::<Vec<_>>(),
            "temperature": decimal(temperature), "top_p": decimal(pack.settings.top_p),
            "lines": pack.generator.lines, "loop": config,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<Task> {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("task.toml");
        std::fs::write(&file, text).unwrap();
        Task::read(&file)
    }

    const LEAST: &str = "[scorer]\ncommand = 'cat'\n";

    #[test]
    fn the_least_task_has_one_objective() {
        let task = read(LEAST).unwrap();
        assert_eq!((task.objectives.len(), task.objectives[0].told().as_str()), (1, "maximise score (weight 1)"));
        assert_eq!(task.told(), "cat");
        assert!(task.initial().unwrap_err().to_string().contains("[initial]"));
    }

    #[test]
    fn what_makes_no_sense_is_named() {
        for (text, says) in [
            ("", "scorer"),
            ("[scorer]\ncommand = []", "names no program"),
            ("[scorer]\ncommand = 'x'\ntimeout = 0", "timeout"),
            ("[scorer]\ncommand = 'x'\nbatch = 0", "`scorer.batch` is 0"),
            ("[scorer]\ncommand = 'x'\nbath = 1", "line 3"),
            ("[scorer]\ncommand = 'x'\n[loop]\nkeep = 0", "`loop.keep` is 0"),
            ("[scorer]\ncommand = 'x'\n[loop]\ntemperature = nan", "temperature"),
            ("[scorer]\ncommand = 'x'\n[[objectives]]\nname = 'a'\n[[objectives]]\nname = 'a'", "\"a\""),
            ("[scorer]\ncommand = 'x'\n[[objectives]]\nname = 'a'\nweight = 0", "weight of a"),
            ("[scorer]\ncommand = 'x'\n[[objectives]]\nname = 'a'\ngoal = 'max'", "maximise"),
        ] {
            let error = crate::show::one_line(&read(text).unwrap_err());
            assert!(error.contains("task.toml") && error.contains(says), "{error}");
        }
        let prompts = read(&format!("{LEAST}[prompt]\nsystem = 'x'")).unwrap();
        let pack = Task::settings_alone().unwrap();
        assert!(prompts.prompts(&pack, true).unwrap_err().to_string().contains("no `user`"));
    }

    #[test]
    fn targets_are_reached_from_the_side_of_their_goal() {
        let objective = |goal, target| Objective { name: "x".into(), goal, weight: 1.0, target };
        assert!(
            objective(Goal::Maximise, Some(0.9)).reached(0.9) && !objective(Goal::Maximise, Some(0.9)).reached(0.8)
        );
        assert!(
            objective(Goal::Minimise, Some(5.0)).reached(5.0) && !objective(Goal::Minimise, Some(5.0)).reached(6.0)
        );
        assert!(objective(Goal::Minimise, None).reached(f32::MAX));
        let both = [objective(Goal::Minimise, Some(5.0)), objective(Goal::Maximise, None)];
        assert!(reached(&both, &[-5.0, 0.0]) && !reached(&both, &[-6.0, 9.0]) && !reached(&both[1..], &[9.0]));
    }

    #[test]
    fn the_demo_is_asked_as_it_knows_and_others_by_what_is_built_in() {
        let task = read(LEAST).unwrap();
        let demo = Pack::find("demo").unwrap();
        assert_eq!(task.prompts(&demo, false).unwrap(), demo.prompt);
        let chat = task.prompts(&demo, true).unwrap();
        assert!(chat.user.contains("{{ about }}") && chat.user.contains("{{ count }}"));
        let own = read(&format!("{LEAST}[prompt]\nuser = 'u'")).unwrap().prompts(&demo, false).unwrap();
        assert_eq!((own.system.as_str(), own.user.as_str()), ("", "u"));
    }
}
