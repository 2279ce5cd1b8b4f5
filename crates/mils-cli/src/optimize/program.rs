//! The scorer's program: started once, given texts as JSON lines, and started anew where it dies or hangs.

use anyhow::{Context, Result, bail};
use mils_render::process::Attended;
use serde::Serialize;
use serde_json::Value;
use std::collections::{BTreeMap, HashMap};
use std::io::{BufRead, BufReader, Read, Write};
use std::path::PathBuf;
use std::process::{ChildStdin, ChildStdout, Command};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::time::{Duration, Instant};

/// How often it is looked whether the waiting is to end.
const GLANCE: Duration = Duration::from_millis(50);
/// How long a program may take to end by itself, once its input has.
const LEAVE: Duration = Duration::from_secs(2);
/// So many deaths or silences in a row, without an answer in between, and it is given up.
const FAULTS: usize = 5;
/// Most bytes of a line of it.
const LONGEST: u64 = 1 << 20;
/// Of lines in a batch that are no answers, so many are quoted.
const QUOTED: usize = 3;

/// Which program, and how it is asked.
pub(super) struct ProgramOptions {
    pub(super) program: PathBuf,
    pub(super) arguments: Vec<String>,
    /// Where it runs.
    pub(super) folder: PathBuf,
    /// Most texts of a batch.
    pub(super) batch: usize,
    /// How long it may say nothing.
    pub(super) timeout: Duration,
    /// Set by another thread to end the waiting.
    pub(super) cancel: Arc<AtomicBool>,
}

/// What it said of a text.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Answer {
    Score(f64),
    Scores(BTreeMap<String, f64>),
}

/// An answer, or why there is none.
pub(super) type Answered = Result<Answer, String>;

/// Is told what is wrong with the program's answers, and how many there are so far.
pub(super) trait Watch {
    fn complain(&mut self, what: &str);
    fn answered(&mut self, count: usize);
}

/// The program.
pub(super) struct Program {
    options: ProgramOptions,
    running: Option<Running>,
    next: u64,
    /// Deaths and silences since it last answered.
    faults: usize,
    started: usize,
}

/// A process of it.
struct Running {
    child: Attended,
    /// Batches, to the thread that writes them: it may not read what it is given.
    input: Sender<Vec<u8>>,
    output: Receiver<Line>,
}

/// What a process wrote.
enum Line {
    Text(String),
    TooLong,
}

/// Why a process is of no further use.
enum Fault {
    Died(String),
    Silent(Option<String>),
    Cancelled,
    /// There is no such program, or it is none.
    NotStarted(String),
}

#[derive(Serialize)]
struct Asked<'a> {
    id: u64,
    text: &'a str,
}

impl Program {
    /// Nothing is started yet.
    pub(super) fn new(options: ProgramOptions) -> Self {
        Self { options, running: None, next: 0, faults: 0, started: 0 }
    }

    /// How often it was started.
    pub(super) fn started(&self) -> usize {
        self.started
    }

    /// What it says of each text; `None` where the waiting was cancelled.
    ///
    /// # Errors
    /// If it cannot be started, or dies or says nothing again and again.
    pub(super) fn ask(&mut self, texts: &[String], watch: &mut dyn Watch) -> Result<Option<Vec<Answered>>> {
        let mut all = Vec::with_capacity(texts.len());
        for batch in texts.chunks(self.options.batch.max(1)) {
            let before = all.len();
            let mut answers: Vec<Option<Answered>> = vec![None; batch.len()];
            // The batch; where that ends with the process, what is left of it one by one, to find which it was.
            let mut rounds = vec![((0..batch.len()).collect::<Vec<_>>(), false)];
            while let Some((asked, alone)) = rounds.pop() {
                let mut count = |count| watch.answered(before + count);
                let fault = match self.exchange(&asked, batch, &mut answers, &mut count) {
                    Ok(problems) => {
                        problems.iter().for_each(|problem| watch.complain(problem));
                        for i in asked {
                            answers[i].get_or_insert_with(|| Err("the scorer gave no answer for it".into()));
                        }
                        continue;
                    }
                    Err(Fault::Cancelled) => return Ok(None),
                    Err(Fault::NotStarted(why)) => bail!("the scorer cannot be started: {why}"),
                    Err(fault) => self.told(fault),
                };
                self.faults += 1;
                if self.faults >= FAULTS {
                    bail!("{}: {fault}; this was the {FAULTS}th time without an answer", self.place());
                }
                let left = asked.into_iter().filter(|&i| answers[i].is_none()).collect::<Vec<_>>();
                if alone {
                    left.into_iter().for_each(|i| answers[i] = Some(Err(format!("the scorer failed on it: {fault}"))));
                } else {
                    watch.complain(&format!("{fault}; it is started again"));
                    rounds.extend(left.into_iter().rev().map(|i| (vec![i], true)));
                }
            }
            all.extend(answers.into_iter().map(|answer| answer.unwrap_or_else(|| Err("no answer".into()))));
        }
        Ok(Some(all))
    }

    fn place(&self) -> String {
        self.options.program.display().to_string()
    }

    fn told(&self, fault: Fault) -> String {
        match fault {
            Fault::Died(how) => format!("the scorer has died ({how})"),
            Fault::Silent(said) => {
                let seconds = self.options.timeout.as_secs_f64();
                let said = said.map(|said| format!("; it wrote {said:?}, which is no answer")).unwrap_or_default();
                format!("the scorer has given no answer in {seconds} s{said}")
            }
            Fault::NotStarted(why) => why,
            Fault::Cancelled => "cancelled".into(),
        }
    }

    /// Gives some texts to the process, which is started if there is none, and takes what it answers. Gives what was wrong
    /// with single lines.
    fn exchange(
        &mut self,
        asked: &[usize],
        texts: &[String],
        answers: &mut [Option<Answered>],
        count: &mut dyn FnMut(usize),
    ) -> Result<Vec<String>, Fault> {
        let mut running = match self.running.take() {
            Some(running) => running,
            None => {
                self.started += 1;
                Running::start(&self.options).map_err(|error| Fault::NotStarted(crate::show::one_line(&error)))?
            }
        };
        let mut numbers = HashMap::new();
        let mut lines = Vec::new();
        for &i in asked {
            let line = serde_json::to_vec(&Asked { id: self.next, text: &texts[i] });
            lines.extend(line.map_err(|error| Fault::Died(error.to_string()))?);
            lines.push(b'\n');
            numbers.insert(self.next, i);
            self.next += 1;
        }
        lines.push(b'\n');
        // A process that has died is known by its output.
        let _ = running.input.send(lines);
        let (mut bad, mut problems, mut strange) = (0, Problems::default(), None);
        let mut heard = Instant::now();
        while bad < numbers.len() {
            let line = match running.output.recv_timeout(GLANCE) {
                Ok(Line::Text(line)) => line,
                Ok(Line::TooLong) => {
                    return Err(Fault::Died(running.child.how(Some("it writes a line of more than a mebibyte"))));
                }
                Err(RecvTimeoutError::Disconnected) => return Err(Fault::Died(running.child.how(None))),
                Err(RecvTimeoutError::Timeout) if self.options.cancel.load(Ordering::SeqCst) => {
                    return Err(Fault::Cancelled);
                }
                Err(RecvTimeoutError::Timeout) if heard.elapsed() >= self.options.timeout => {
                    return Err(Fault::Silent(strange));
                }
                Err(RecvTimeoutError::Timeout) => continue,
            };
            if line.trim().is_empty() {
                // It has no more for this batch.
                break;
            }
            match read(&line) {
                Ok((id, answer)) => match numbers.remove(&id) {
                    Some(i) => {
                        (self.faults, heard) = (0, Instant::now());
                        answers[i] = Some(answer);
                        count(answers.iter().flatten().count());
                    }
                    None => problems.push(format!("the scorer answers {id}, which is not asked, or was answered")),
                },
                Err(problem) => {
                    // One that was meant as an answer is all that will come for its text; others may be chatter.
                    bad += usize::from(line.trim_start().starts_with('{'));
                    strange.get_or_insert_with(|| excerpt(&line));
                    problems.push(format!("the scorer wrote {:?}, {problem}", excerpt(&line)));
                }
            }
        }
        self.running = Some(running);
        Ok(problems.told())
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        let Some(Running { mut child, input, .. }) = self.running.take() else { return };
        drop(input);
        child.leave(LEAVE);
    }
}

impl Running {
    fn start(options: &ProgramOptions) -> Result<Self> {
        let mut command = Command::new(&options.program);
        let started = Attended::start(command.args(&options.arguments).current_dir(&options.folder));
        let (child, stdin, stdout) = started.with_context(|| options.program.display().to_string())?;
        let (input, batches) = channel();
        let (lines, output) = channel();
        std::thread::spawn(move || give(stdin, &batches));
        std::thread::spawn(move || take(stdout, &lines));
        Ok(Self { child, input, output })
    }
}

/// Writes batches until there are no more; the process's input ends then.
fn give(mut stdin: ChildStdin, batches: &Receiver<Vec<u8>>) {
    for batch in batches {
        if stdin.write_all(&batch).and_then(|()| stdin.flush()).is_err() {
            return;
        }
    }
}

/// Reads lines until nobody wants them or there are no more.
fn take(stdout: ChildStdout, lines: &Sender<Line>) {
    let mut stdout = BufReader::new(stdout);
    loop {
        let mut line = Vec::new();
        match stdout.by_ref().take(LONGEST).read_until(b'\n', &mut line) {
            Ok(0) | Err(_) => return,
            Ok(_) => {}
        }
        let whole = line.last() == Some(&b'\n') || (line.len() as u64) < LONGEST;
        let line = if whole { Line::Text(String::from_utf8_lossy(&line).trim_end().to_owned()) } else { Line::TooLong };
        if lines.send(line).is_err() || !whole {
            return;
        }
    }
}

/// What is wrong with single lines: the first of them, and how many more.
#[derive(Default)]
struct Problems {
    first: Vec<String>,
    more: usize,
}

impl Problems {
    fn push(&mut self, problem: String) {
        if self.first.len() < QUOTED { self.first.push(problem) } else { self.more += 1 }
    }

    fn told(mut self) -> Vec<String> {
        if self.more > 0 {
            self.first.push(format!("and {} more lines of the scorer like these", self.more));
        }
        self.first
    }
}

fn excerpt(line: &str) -> String {
    const MOST: usize = 100;
    let cut = line.char_indices().nth(MOST).map(|(at, _)| format!("{}…", &line[..at]));
    cut.unwrap_or_else(|| line.to_owned())
}

/// The answer in a line with the number that it is for. What it says in place of a score is the text's problem, what is no
/// answer at all is the line's.
fn read(line: &str) -> Result<(u64, Answered), String> {
    // Not JSON, but what programs write where a number is none; the text is told by it all the same.
    let value: Value = serde_json::from_str(line).or_else(|error| {
        let nulls = ["-Infinity", "Infinity", "NaN", "-inf", "inf", "nan"];
        let line = nulls.iter().fold(line.to_owned(), |line, word| line.replace(&format!(":{word}"), ":null"));
        let line = nulls.iter().fold(line, |line, word| line.replace(&format!(": {word}"), ":null"));
        serde_json::from_str(&line).map_err(|_| format!("which is no JSON ({error})"))
    })?;
    let id = value["id"].as_u64().ok_or("which has no `id` of a text")?;
    let number = |value: &Value| value.as_f64().filter(|number| number.is_finite());
    let answer = match (&value["error"], &value["score"], &value["scores"]) {
        (Value::String(why), _, _) => Err(format!("the scorer says: {why}")),
        (Value::Null, Value::Null, Value::Object(scores)) => scores
            .iter()
            .map(|(name, value)| {
                let value = number(value).ok_or_else(|| format!("its {name:?} is no number"))?;
                Ok((name.clone(), value))
            })
            .collect::<Result<_, String>>()
            .map(Answer::Scores),
        (Value::Null, score, Value::Null) => {
            number(score).map(Answer::Score).ok_or_else(|| "its score is no number".to_owned())
        }
        _ => Err("the answer is neither a `score`, nor `scores`, nor an `error`".into()),
    };
    Ok((id, answer))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_answers_or_say_what_is_wrong() {
        assert_eq!(read(r#"{"id":7,"score":-2}"#), Ok((7, Ok(Answer::Score(-2.0)))));
        let scores = BTreeMap::from([("a".to_owned(), 1.0), ("b".to_owned(), 0.5)]);
        assert_eq!(read(r#"{"scores":{"b":0.5,"a":1},"id":0,"more":[]}"#), Ok((0, Ok(Answer::Scores(scores)))));
        let text = |line: &str| read(line).unwrap().1.unwrap_err();
        assert_eq!(text(r#"{"id":1,"error":"no"}"#), "the scorer says: no");
        for line in
            [r#"{"id":1,"score":NaN}"#, r#"{"id": 1, "score": -Infinity}"#, r#"{"id":1}"#, r#"{"id":1,"score":"2"}"#]
        {
            assert_eq!(text(line), "its score is no number", "{line}");
        }
        assert!(text(r#"{"id":1,"scores":{"x":nan}}"#).contains("\"x\""));
        assert!(text(r#"{"id":1,"score":1,"scores":{}}"#).contains("neither"));
        for line in ["hello", "{", "[1]", r#"{"id":-1,"score":1}"#, r#"{"score":1}"#, r#"{"id":"1","score":1}"#] {
            assert!(read(line).is_err(), "{line}");
        }
    }
}
