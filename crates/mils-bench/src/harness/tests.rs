//! Tests of the pairing.

use super::*;
use std::cell::RefCell;
use std::rc::Rc;

/// Takes what its closure says, and writes down that it ran.
struct Fake {
    name: &'static str,
    kind: Kind,
    log: Rc<RefCell<Vec<&'static str>>>,
    seconds: Box<dyn FnMut() -> Result<f64>>,
}

impl Contestant for Fake {
    fn name(&self) -> String {
        self.name.into()
    }
    fn kind(&self) -> Kind {
        self.kind
    }
    fn turn(&mut self) -> Result<f64> {
        self.log.borrow_mut().push(self.name);
        (self.seconds)()
    }
}

type Log = Rc<RefCell<Vec<&'static str>>>;

fn fake(
    name: &'static str,
    kind: Kind,
    log: &Log,
    seconds: impl FnMut() -> Result<f64> + 'static,
) -> Box<dyn Contestant> {
    Box::new(Fake { name, kind, log: Rc::clone(log), seconds: Box::new(seconds) })
}

const LIMITS: Limits = Limits { rounds: 12, seconds: 60.0, warm_up: 1 };

fn table(contestants: &mut [Box<dyn Contestant>], baseline: Option<&str>) -> Table {
    measure(("t", "a table"), contestants, baseline, LIMITS, &AtomicBool::new(false), &mut |_| {})
}

/// The machine slows down tenfold over the rounds: the same for all of a round.
fn drifting(factor: f64) -> impl FnMut() -> Result<f64> {
    let mut round = 0.0;
    move || {
        round += 1.0;
        Ok(factor * round)
    }
}

#[test]
fn ratios_within_a_round_stand_however_the_machine_drifts() {
    let log = Log::default();
    let mut contestants = vec![
        fake("ours", Kind::Ours, &log, drifting(1.0)),
        fake("ours again", Kind::Again, &log, drifting(1.0)),
        fake("peer", Kind::Peer, &log, drifting(2.0)),
    ];
    let table = table(&mut contestants, Some("peer"));
    assert_eq!((table.rounds, table.baseline.as_deref()), (12, Some("peer")));
    assert_eq!(table.rows[0].ratio, Some(Measured { median: 0.5, low: 0.5, high: 0.5 }));
    assert_eq!(table.rows[2].ratio.map(|r| r.median), Some(1.0));
    assert_eq!(table.pairs.len(), 1);
    assert_eq!((&table.pairs[0].ours[..], table.pairs[0].ratio.median), ("ours", 0.5));
    assert!(table.notes.iter().any(|n| n.starts_with("check: ours again / ours = 1.000")), "{:?}", table.notes);
    // The warm-up is not among the samples.
    assert_eq!(table.rows[0].samples, (2..=13).map(f64::from).collect::<Vec<_>>());
    // Every round has each once, and not always in the same order.
    let rounds: Vec<Vec<&str>> = log.borrow().chunks(3).map(<[_]>::to_vec).collect();
    assert_eq!(rounds.len(), 13);
    let firsts: std::collections::HashSet<&str> = rounds.iter().map(|r| r[0]).collect();
    assert_eq!(firsts.len(), 3, "{rounds:?}");
    for mut round in rounds {
        round.sort_unstable();
        assert_eq!(round, ["ours", "ours again", "peer"]);
    }
}

#[test]
fn two_of_the_same_that_differ_are_told() {
    let log = Log::default();
    let mut contestants =
        vec![fake("ours", Kind::Ours, &log, || Ok(1.0)), fake("ours again", Kind::Again, &log, || Ok(1.1))];
    let table = table(&mut contestants, None);
    assert_eq!(table.baseline.as_deref(), Some("ours"));
    assert!(table.notes.iter().any(|n| n.starts_with("check FAILS") && n.contains("10.0 %")), "{:?}", table.notes);
}

#[test]
fn the_check_is_against_the_row_before() {
    let log = Log::default();
    let mut contestants = vec![
        fake("small", Kind::Ours, &log, || Ok(1.0)),
        fake("large", Kind::Ours, &log, || Ok(9.0)),
        fake("large again", Kind::Again, &log, || Ok(9.0)),
    ];
    let table = table(&mut contestants, None);
    assert!(table.notes.iter().any(|n| n.starts_with("check: large again / large = 1.000")), "{:?}", table.notes);
}

#[test]
fn whoever_fails_is_left_out_with_the_reason_and_the_others_go_on() {
    let log = Log::default();
    let mut turns = 0;
    let mut contestants = vec![
        fake("ours", Kind::Ours, &log, || Ok(1.0)),
        fake("peer", Kind::Peer, &log, move || {
            turns += 1;
            if turns > 4 { Err(anyhow::anyhow!("no memory")) } else { Ok(2.0) }
        }),
    ];
    let table = table(&mut contestants, Some("peer"));
    assert_eq!((table.rows[0].samples.len(), table.rows[1].samples.len()), (12, 3));
    assert!(table.rows[1].ratio.is_none() && table.pairs.is_empty());
    // Ratios are over what is there.
    assert_eq!(table.baseline.as_deref(), Some("ours"));
    assert!(table.notes.iter().any(|n| n.contains("peer failed") && n.contains("no memory")));
}

#[test]
fn a_stop_keeps_whole_rounds() {
    let stop = std::sync::Arc::new(AtomicBool::new(false));
    let log = Log::default();
    let mut turns = 0;
    let flag = std::sync::Arc::clone(&stop);
    let mut contestants = vec![
        fake("ours", Kind::Ours, &log, move || {
            turns += 1;
            flag.store(turns == 5, Ordering::SeqCst);
            Ok(1.0)
        }),
        fake("peer", Kind::Peer, &log, || Ok(2.0)),
    ];
    let table = measure(("t", "t"), &mut contestants, None, LIMITS, &stop, &mut |_| {});
    let lengths: Vec<usize> = table.rows.iter().map(|r| r.samples.len()).collect();
    // Stopped in the fifth turn of ours, which is the fourth that counts; last of its round, it completes it.
    assert!(lengths == [3, 3] || lengths == [4, 4], "{lengths:?}");
    assert!(table.notes.iter().any(|n| n.starts_with("only")));
}

#[test]
fn time_that_is_up_ends_it_but_not_before_three_rounds() {
    let log = Log::default();
    let mut contestants = vec![fake("ours", Kind::Ours, &log, || Ok(1.0))];
    let limits = Limits { rounds: 100, seconds: 0.0, warm_up: 0 };
    let table = measure(("t", "t"), &mut contestants, None, limits, &AtomicBool::new(false), &mut |_| {});
    assert_eq!(table.rounds, 3);
}
