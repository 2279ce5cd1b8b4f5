//! Paired measurement: the contestants of a table are run in turn, round by round, in an order that is drawn anew for
//! each round. What slows the machine down for a while then slows all of them, and ratios within a round stand.

pub mod machine;
pub mod plot;
pub mod report;

use crate::stats::{median, median_interval};
use anyhow::Result;
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use serde::Serialize;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

/// Rounds that are made even if the time is up: fewer say nothing.
const LEAST_ROUNDS: usize = 3;
/// Rounds from which on intervals mean something.
const ENOUGH_ROUNDS: usize = 5;
/// Before each turn, so that threads of the one before, which spin for a moment when their work is done, have slept.
const PAUSE: Duration = Duration::from_millis(20);
/// A share of one core that an idle contestant may take while others run.
const MOST_IDLE: f64 = 0.05;

/// Who a row is of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    /// This project.
    Ours,
    /// A second instance of the row that it stands after, which must show no difference.
    Again,
    /// Something else that computes the same.
    Peer,
}

/// Something that can be timed.
pub trait Contestant {
    /// Its row's name.
    fn name(&self) -> String;

    /// Who it is of.
    fn kind(&self) -> Kind;

    /// Runs once and returns the seconds that it took.
    ///
    /// # Errors
    /// Whatever keeps it from running; it is then left out of the rest of the table.
    fn turn(&mut self) -> Result<f64>;

    /// What else is to be told of it, asked when the table is done: columns in order.
    fn figures(&mut self) -> Vec<Extra> {
        vec![]
    }

    /// Its own process, if it has one, with the CPU seconds that it has taken: tells whether it spins while others run.
    fn cpu_seconds(&self) -> Option<(u32, f64)> {
        None
    }
}

/// A figure beside the time.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Extra {
    /// The column.
    pub name: &'static str,
    /// The value.
    pub value: f64,
    /// Digits behind the point in text.
    pub digits: usize,
}

impl Extra {
    /// A column with its value, shown with so many digits behind the point.
    pub fn new(name: &'static str, value: f64, digits: usize) -> Self {
        Self { name, value, digits }
    }
}

/// How long to measure.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Most rounds.
    pub rounds: usize,
    /// No round is begun after so many seconds, except to have three.
    pub seconds: f64,
    /// Rounds before the first that counts.
    pub warm_up: usize,
}

/// Median with its 95 % interval.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Measured {
    /// The median.
    pub median: f64,
    /// Lower end.
    pub low: f64,
    /// Upper end.
    pub high: f64,
}

impl Measured {
    /// Of samples.
    pub fn of(samples: &[f64]) -> Self {
        let (low, high) = median_interval(samples);
        Self { median: median(samples), low, high }
    }
}

/// One contestant's result.
#[derive(Clone, Debug, Serialize)]
pub struct Row {
    /// Its name.
    pub name: String,
    /// Who it is of.
    pub kind: Kind,
    /// Seconds of each round.
    pub samples: Vec<f64>,
    /// Of the samples.
    pub seconds: Measured,
    /// Time over the baseline's, by round; none without a baseline or if one of both failed.
    pub ratio: Option<Measured>,
    /// What else is known.
    pub figures: Vec<Extra>,
    /// Share of a core that its process took while others ran.
    pub idle_share: Option<f64>,
    /// Why it failed, if it did.
    pub failed: Option<String>,
}

/// Ours over a peer.
#[derive(Clone, Debug, Serialize)]
pub struct Pair {
    /// Whose time is divided.
    pub ours: String,
    /// By whose.
    pub peer: String,
    /// By round.
    pub ratio: Measured,
}

/// One table of measurements.
#[derive(Clone, Debug, Serialize)]
pub struct Table {
    /// A short name without spaces.
    pub id: String,
    /// What is measured.
    pub title: String,
    /// Name of the row that ratios are over.
    pub baseline: Option<String>,
    /// Rounds that were made.
    pub rounds: usize,
    /// By contestant.
    pub rows: Vec<Row>,
    /// Time of each of our rows over each peer's.
    pub pairs: Vec<Pair>,
    /// "Ours again" over ours: must hold 1.
    pub check: Option<Pair>,
    /// What is to be said below it.
    pub notes: Vec<String>,
}

/// The order of one round: a permutation drawn from the round's number.
fn order(count: usize, round: usize) -> Vec<usize> {
    let mut rng = ChaCha8Rng::seed_from_u64(round as u64);
    let mut order: Vec<usize> = (0..count).collect();
    for i in (1..count).rev() {
        order.swap(i, rng.random_range(0..=i));
    }
    order
}

/// A table under way.
struct State<'a> {
    contestants: &'a mut [Box<dyn Contestant>],
    samples: Vec<Vec<f64>>,
    failed: Vec<Option<String>>,
    /// CPU seconds while others ran, and how long they did.
    idle: Vec<(f64, f64)>,
}

impl State<'_> {
    fn alive(&self) -> usize {
        self.failed.iter().filter(|f| f.is_none()).count()
    }

    /// One round; what it measured counts only where all who are alive have run.
    fn round(&mut self, round: usize, counts: bool, stop: &AtomicBool, say: &mut dyn FnMut(&str)) {
        let mut now = vec![None; self.contestants.len()];
        for i in order(self.contestants.len(), round) {
            if self.failed[i].is_some() {
                continue;
            }
            if stop.load(Ordering::SeqCst) {
                return;
            }
            say(&self.contestants[i].name());
            std::thread::sleep(PAUSE);
            let before: Vec<Option<(u32, f64)>> = self.contestants.iter().map(|c| c.cpu_seconds()).collect();
            let begin = Instant::now();
            match self.contestants[i].turn() {
                Ok(seconds) => now[i] = Some(seconds),
                // Told to stop, it had no time to finish.
                Err(_) if stop.load(Ordering::SeqCst) => return,
                Err(error) => self.failed[i] = Some(format!("{error:#}")),
            }
            let wall = begin.elapsed().as_secs_f64();
            // Several contestants may be of one process.
            let running = before[i].map(|(process, _)| process);
            for (other, before) in before.into_iter().enumerate().filter(|(other, _)| *other != i) {
                if let (Some((process, before)), Some((_, after))) = (before, self.contestants[other].cpu_seconds())
                    && running != Some(process)
                {
                    self.idle[other].0 += (after - before).max(0.0);
                    self.idle[other].1 += wall;
                }
            }
        }
        if counts {
            for ((samples, now), failed) in self.samples.iter_mut().zip(now).zip(&self.failed) {
                if failed.is_none() {
                    samples.extend(now);
                }
            }
        }
    }
}

/// Measures the contestants in turn. `say` is told who is on.
///
/// `baseline` names the row that ratios are over; where there is none of that name, ratios are over the first of ours.
pub fn measure(
    (id, title): (&str, &str),
    contestants: &mut [Box<dyn Contestant>],
    baseline: Option<&str>,
    limits: Limits,
    stop: &AtomicBool,
    say: &mut dyn FnMut(&str),
) -> Table {
    let count = contestants.len();
    let mut state =
        State { contestants, samples: vec![vec![]; count], failed: vec![None; count], idle: vec![(0.0, 0.0); count] };
    let begin = Instant::now();
    for warm in 0..limits.warm_up {
        // What takes long by itself needs warming least.
        if warm > 0 && begin.elapsed().as_secs_f64() > limits.seconds / 4.0 {
            break;
        }
        state.round(warm, false, stop, &mut |who| say(&format!("warming up: {who}")));
    }
    let begin = Instant::now();
    let mut rounds = 0;
    while rounds < limits.rounds && state.alive() > 0 && !stop.load(Ordering::SeqCst) {
        if rounds >= LEAST_ROUNDS && begin.elapsed().as_secs_f64() > limits.seconds {
            break;
        }
        state.round(rounds, true, stop, &mut |who| say(&format!("round {} of {}: {who}", rounds + 1, limits.rounds)));
        rounds += 1;
    }
    let State { contestants, samples, failed, idle } = state;
    let mut rows = Vec::new();
    for (((contestant, samples), failed), (cpu, wall)) in contestants.iter_mut().zip(samples).zip(failed).zip(idle) {
        rows.push(Row {
            name: contestant.name(),
            kind: contestant.kind(),
            seconds: Measured::of(&samples),
            samples,
            ratio: None,
            figures: if failed.is_some() { vec![] } else { contestant.figures() },
            idle_share: (wall > 0.0 && contestant.cpu_seconds().is_some()).then(|| cpu / wall),
            failed,
        });
    }
    judged(Table {
        id: id.into(),
        title: title.into(),
        baseline: baseline.map(str::to_owned),
        rounds: rows.iter().map(|r| r.samples.len()).max().unwrap_or_default(),
        rows,
        pairs: vec![],
        check: None,
        notes: vec![],
    })
}

/// Fills in ratios, pairs, the check and the notes, from the samples.
fn judged(mut table: Table) -> Table {
    let ratio = |a: &Row, b: &Row| -> Option<Measured> {
        // Of unequal length where one failed midway; what it did until then is of the first rounds.
        let ratios: Vec<f64> = a.samples.iter().zip(&b.samples).map(|(a, b)| a / b).collect();
        let usable = a.failed.is_none() && b.failed.is_none() && !ratios.is_empty();
        usable.then(|| Measured::of(&ratios))
    };
    let named = |wanted: &str| table.rows.iter().position(|r| r.name == wanted && r.failed.is_none());
    let first = table.rows.iter().position(|r| r.kind == Kind::Ours);
    let base = table.baseline.as_deref().and_then(named).or(first);
    let ratios: Vec<Option<Measured>> =
        table.rows.iter().map(|row| base.and_then(|b| ratio(row, &table.rows[b]))).collect();
    table.baseline = base.map(|b| table.rows[b].name.clone());
    let pair = |ours: &Row, peer: &Row| {
        ratio(ours, peer).map(|ratio| Pair { ours: ours.name.clone(), peer: peer.name.clone(), ratio })
    };
    let of = |kind: Kind| table.rows.iter().filter(move |r| r.kind == kind);
    table.pairs = of(Kind::Ours).flat_map(|o| of(Kind::Peer).filter_map(move |p| pair(o, p))).collect();
    let again = table.rows.iter().position(|r| r.kind == Kind::Again);
    table.check = again.filter(|at| *at > 0).and_then(|at| pair(&table.rows[at], &table.rows[at - 1]));
    let mut notes = Vec::new();
    for row in &table.rows {
        if let Some(problem) = &row.failed {
            notes.push(format!("{} failed and was left out: {problem}", row.name));
        }
        if let Some(share) = row.idle_share.filter(|s| *s > MOST_IDLE) {
            let percent = share * 100.0;
            notes.push(format!("{} took {percent:.0} % of a core while others ran: times may be too long", row.name));
        }
    }
    if table.rounds < ENOUGH_ROUNDS {
        notes.push(format!("only {} rounds: too few for intervals, and to check ours against itself", table.rounds));
    } else {
        notes.extend(table.check.as_ref().map(verdict));
    }
    table.notes = notes;
    for (row, ratio) in table.rows.iter_mut().zip(ratios) {
        row.ratio = ratio;
    }
    table
}

/// What the row that must show no difference says.
fn verdict(check: &Pair) -> String {
    let Measured { median, low, high } = check.ratio;
    let figures = format!("{} / {} = {median:.3} [{low:.3} {high:.3}]", check.ours, check.peer);
    if low <= 1.0 && 1.0 <= high {
        format!("check: {figures}: no difference between two of the same, as it must be")
    } else {
        format!(
            "check FAILS: {figures}: two of the same differ, so differences of about {:.1} % mean nothing here",
            (median - 1.0).abs() * 100.0
        )
    }
}

#[cfg(test)]
mod tests;
