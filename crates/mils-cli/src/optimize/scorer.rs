//! The program's answers as the loop has scores.

use super::program::{Answer, Answered, Program, Watch};
use super::task::Objective;
use anyhow::{Result, bail};
use mils_optim::{BoxError, InitialSet, Scorer, UnusableReason};
use serde_json::{Map, Value};
use std::collections::HashMap;

/// Of texts without a score in a batch, so many are named.
const NAMED: usize = 5;

/// Scores texts by a program's answers. Scores and objectives are the higher the better, whatever their goals.
pub(super) struct TaskScorer<'a> {
    program: Program,
    objectives: &'a [Objective],
    /// The signed values of texts, one for each objective.
    known: HashMap<String, Vec<f32>>,
    tell: &'a dyn Tell,
    /// Texts that it has no score for, and why that is so of the first.
    unscored: usize,
    problem: Option<String>,
}

/// Is told what people should know.
pub(super) trait Tell {
    /// Something failed that does not stop the rest.
    fn complain(&self, what: &str);
    /// So many of so many texts have answers.
    fn progress(&self, done: usize, all: usize);
}

struct Watching<'a>(&'a dyn Tell, usize);

impl Watch for Watching<'_> {
    fn complain(&mut self, what: &str) {
        self.0.complain(what);
    }

    fn answered(&mut self, count: usize) {
        self.0.progress(count, self.1);
    }
}

/// A score of each text, or why there is none.
type Scores = Vec<Result<f32, UnusableReason>>;

impl<'a> TaskScorer<'a> {
    pub(super) fn new(program: Program, objectives: &'a [Objective], tell: &'a dyn Tell) -> Self {
        Self { program, objectives, known: HashMap::new(), tell, unscored: 0, problem: None }
    }

    /// How often the program was started.
    pub(super) fn started(&self) -> usize {
        self.program.started()
    }

    /// How many texts have no score.
    pub(super) fn unscored(&self) -> usize {
        self.unscored
    }

    /// What was known of texts before: with one objective their scores are it.
    pub(super) fn remember(&mut self, texts: &[String], scores: &[f32], objectives: &[Vec<f32>]) {
        for (i, (text, score)) in texts.iter().zip(scores).enumerate() {
            let values = objectives.get(i).cloned().unwrap_or_else(|| vec![*score]);
            if values.len() == self.objectives.len() {
                self.known.insert(text.clone(), values);
            }
        }
    }

    /// The signed values of a text.
    pub(super) fn values(&self, text: &str) -> Option<&[f32]> {
        self.known.get(text).map(Vec::as_slice)
    }

    /// The values of a text as the program gave them, by name.
    pub(super) fn named(&self, text: &str) -> Value {
        let values = self.values(text).unwrap_or_default().iter().zip(self.objectives);
        let named: Map<String, Value> =
            values.map(|(value, own)| (own.name.clone(), crate::session::decimal(own.sign() * value).into())).collect();
        named.into()
    }

    /// The sum that orders texts. One objective is the score itself.
    fn sum(&self, values: &[f32]) -> Result<f32, String> {
        let sum = match values {
            [only] => *only,
            _ => {
                let parts = values.iter().zip(self.objectives).map(|(value, own)| f64::from(*value) * own.weight);
                parts.sum::<f64>() as f32
            }
        };
        if sum.is_finite() { Ok(sum) } else { Err(format!("the sum of its scores is {sum}")) }
    }

    /// The signed values in an answer.
    fn signed(&self, answer: Answer) -> Result<Vec<f32>, String> {
        let value = |objective: &Objective, value: f64| {
            let signed = objective.sign() * value as f32;
            if signed.is_finite() {
                Ok(signed)
            } else {
                Err(format!("its {} is {value}, which is too large", objective.name))
            }
        };
        match answer {
            Answer::Score(score) => match self.objectives {
                [only] => Ok(vec![value(only, score)?]),
                _ => Err("the scorer gives one `score`, where `scores` are wanted".into()),
            },
            Answer::Scores(scores) => {
                let own = |objective: &Objective| {
                    let found = scores.get(&objective.name);
                    value(objective, *found.ok_or_else(|| format!("the scorer gives no {:?}", objective.name))?)
                };
                self.objectives.iter().map(own).collect()
            }
        }
    }

    /// Scores texts, and says which have none and why. All are interrupted where the waiting was cancelled.
    ///
    /// # Errors
    /// If the program cannot be started, or fails again and again.
    pub(super) fn score_texts(&mut self, texts: &[String]) -> Result<Scores> {
        let Some(answers) = self.program.ask(texts, &mut Watching(self.tell, texts.len()))? else {
            return Ok(vec![Err(UnusableReason::Interrupted); texts.len()]);
        };
        let mut failed = Vec::new();
        let mut scores = Scores::with_capacity(texts.len());
        for (text, answer) in texts.iter().zip(answers) {
            match self.score_of(text, answer) {
                Ok(score) => scores.push(Ok(score)),
                Err(why) => {
                    failed.push(format!("{text:?} has no score: {why}"));
                    scores.push(Err(UnusableReason::Unscored));
                }
            }
        }
        self.unscored += failed.len();
        self.problem = self.problem.take().or_else(|| failed.first().cloned());
        failed.iter().take(NAMED).for_each(|problem| self.tell.complain(problem));
        if let Some(more) = failed.len().checked_sub(NAMED + 1) {
            self.tell.complain(&format!("and {} more texts have no score", more + 1));
        }
        Ok(scores)
    }

    /// Of texts that were just scored, those that have scores, in their order, with these.
    ///
    /// # Errors
    /// If none has.
    pub(super) fn scored(&self, texts: &[String], scores: &Scores) -> Result<(Vec<String>, Vec<f32>)> {
        let good: (Vec<String>, Vec<f32>) =
            texts.iter().zip(scores).filter_map(|(text, score)| Some((text.clone(), (*score).ok()?))).unzip();
        if good.0.is_empty() {
            let why = self.problem.as_deref().unwrap_or_default();
            bail!("none of the texts to begin with has a score; {why}");
        }
        Ok(good)
    }

    fn score_of(&mut self, text: &str, answer: Answered) -> Result<f32, String> {
        let values = self.signed(answer?)?;
        let score = self.sum(&values)?;
        self.known.insert(text.to_owned(), values);
        Ok(score)
    }
}

impl Scorer for TaskScorer<'_> {
    fn score(&mut self, texts: &[String]) -> Result<Vec<f32>, BoxError> {
        let scores = self.score_texts(texts)?;
        scores.into_iter().map(|score| score.map_err(|_| "a text that has to have a score has none".into())).collect()
    }

    /// It was scored before the loop began: what failed is not in it.
    fn score_initial(&mut self, initial: &InitialSet) -> Result<Vec<f32>, BoxError> {
        let score = |text: &String| {
            let values = self.known.get(text).ok_or_else(|| BoxError::from(format!("{text:?} was not scored")))?;
            self.sum(values).map_err(BoxError::from)
        };
        initial.texts().iter().map(score).collect()
    }

    fn score_some(&mut self, texts: &[String]) -> Result<Scores, BoxError> {
        Ok(self.score_texts(texts)?)
    }

    fn objectives(&mut self, text: &str) -> Option<Vec<f32>> {
        self.known.get(text).filter(|values| values.len() > 1).cloned()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::optimize::program::ProgramOptions;
    use crate::optimize::task::Goal;
    use std::cell::RefCell;
    use std::collections::BTreeMap;
    use std::time::Duration;

    #[derive(Default)]
    struct Told(RefCell<Vec<String>>);

    impl Tell for Told {
        fn complain(&self, what: &str) {
            self.0.borrow_mut().push(what.to_owned());
        }

        fn progress(&self, _: usize, _: usize) {}
    }

    fn program(line: &str, batch: usize) -> Program {
        Program::new(ProgramOptions {
            program: "/bin/sh".into(),
            arguments: vec!["-c".into(), line.into()],
            folder: ".".into(),
            batch,
            timeout: Duration::from_millis(600),
            cancel: Default::default(),
        })
    }

    fn objective(name: &str, goal: Goal, weight: f64) -> Objective {
        Objective { name: name.into(), goal, weight, target: None }
    }

    fn texts(words: &[&str]) -> Vec<String> {
        words.iter().map(|word| (*word).to_owned()).collect()
    }

    #[test]
    fn values_have_signs_weights_and_names() {
        let told = Told::default();
        let two = [objective("clear", Goal::Maximise, 2.0), objective("length", Goal::Minimise, 0.5)];
        let mut scorer = TaskScorer::new(program("", 8), &two, &told);
        let scores =
            |clear, length| Answer::Scores(BTreeMap::from([("clear".into(), clear), ("length".into(), length)]));
        assert_eq!(scorer.score_of("a", Ok(scores(3.0, 4.0))), Ok(4.0));
        assert_eq!(scorer.objectives("a"), Some(vec![3.0, -4.0]));
        assert_eq!(scorer.named("a"), serde_json::json!({"clear": 3.0, "length": 4.0}));
        for (answer, says) in [
            (Answer::Score(1.0), "`scores` are wanted"),
            (Answer::Scores(BTreeMap::from([("clear".into(), 1.0)])), "no \"length\""),
            (scores(1e300, 1.0), "too large"),
        ] {
            let why = scorer.score_of("b", Ok(answer)).unwrap_err();
            assert!(why.contains(says), "{why}");
        }
        // One objective is its own sum, whatever its weight.
        let one = [objective("length", Goal::Minimise, 3.0)];
        let mut scorer = TaskScorer::new(program("", 8), &one, &told);
        assert_eq!(scorer.score_of("a", Ok(Answer::Score(5.0))), Ok(-5.0));
        assert_eq!((scorer.objectives("a"), scorer.named("a")), (None, serde_json::json!({"length": 5.0})));
    }

    /// Answers with the id, dies at "die", says nothing at "hang" and nonsense at "what".
    #[cfg(unix)]
    const FICKLE: &str = r#"
        while read -r line; do
            id=${line#*:}; id=${id%%,*}
            case $line in
                '') ;;
                *die*) echo 'out of memory' >&2; exit 3 ;;
                *hang*) sleep 60 ;;
                *what*) echo '{"id":' ;;
                *nan*) echo "{\"id\":$id,\"score\":NaN}" ;;
                *none*) echo "{\"id\":$id,\"error\":\"no idea\"}" ;;
                *) echo "{\"id\":$id,\"score\":1}" ;;
            esac
        done"#;

    #[cfg(unix)]
    #[test]
    fn a_text_that_the_program_cannot_stand_costs_no_other_its_score() {
        let told = Told::default();
        let one = [objective("score", Goal::Maximise, 1.0)];
        let mut scorer = TaskScorer::new(program(FICKLE, 4), &one, &told);
        let all = texts(&["a", "die", "b", "hang", "c", "what", "nan", "none", "d"]);
        let scores = scorer.score_texts(&all).unwrap();
        let good: Vec<bool> = scores.iter().map(Result::is_ok).collect();
        assert_eq!(good, [true, false, true, false, true, false, false, false, true]);
        assert_eq!(scorer.unscored(), 5);
        let told = told.0.borrow().join("\n");
        for says in [
            "\"die\" has no score: the scorer failed on it: the scorer has died (exit status: 3; it said last: out of memory)",
            "\"hang\" has no score: the scorer failed on it: the scorer has given no answer in 0.6 s",
            "\"what\" has no score: the scorer gave no answer for it",
            "the scorer wrote \"{\\\"id\\\":\"",
            "\"nan\" has no score: its score is no number",
            "\"none\" has no score: the scorer says: no idea",
            "it is started again",
        ] {
            assert!(told.contains(says), "{says} is not in {told}");
        }
    }

    #[cfg(unix)]
    #[test]
    fn a_program_that_never_answers_is_given_up() {
        let told = Told::default();
        let one = [objective("score", Goal::Maximise, 1.0)];
        for (line, says) in [
            ("exit 7", "exit status: 7"),
            ("while read -r x; do echo hello; done", "it wrote \"hello\", which is no answer"),
            ("exec /nowhere/program", "not found"),
        ] {
            let mut scorer = TaskScorer::new(program(line, 4), &one, &told);
            let error =
                crate::show::one_line(&scorer.score_texts(&texts(&["a", "b", "c", "d", "e", "f"])).unwrap_err());
            assert!(error.contains(says) && error.contains("5th time"), "{error}");
        }
    }

    #[cfg(unix)]
    #[test]
    fn a_batch_ends_with_an_empty_line_on_either_side() {
        let told = Told::default();
        let one = [objective("score", Goal::Maximise, 1.0)];
        // Answers all but the first of a batch, in reverse, at its end, and says so.
        let line = r#"
            all=''
            while read -r line; do
                id=${line#*:}; id=${id%%,*}
                if [ -n "$line" ]; then all="$id $all"; continue; fi
                n=$(echo $all | wc -w)
                for id in $all; do n=$((n - 1)); [ $n -gt 0 ] && echo "{\"id\":$id,\"score\":$id}"; done
                all=''; echo
            done"#;
        let mut scorer = TaskScorer::new(program(line, 3), &one, &told);
        let scores = scorer.score_texts(&texts(&["a", "b", "c", "d", "e"])).unwrap();
        let lost = Err(UnusableReason::Unscored);
        assert_eq!(scores, [lost, Ok(1.0), Ok(2.0), lost, Ok(4.0)]);
        assert_eq!(scorer.started(), 1);
    }
}
