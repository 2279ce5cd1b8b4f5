//! What a benchmark prints and writes: the machine, and its tables as text and JSON.

use super::machine::Machine;
use super::{Kind, Measured, Row, Table};
use crate::roofline::KernelTable;
use anyhow::{Context, Result};
use serde::Serialize;
use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::Path;

/// All that one call measured.
#[derive(Clone, Debug, Serialize)]
pub struct Report {
    /// This program's version.
    pub version: &'static str,
    /// Seconds since 1970 at the start.
    pub started: u64,
    /// What it ran on.
    pub machine: Machine,
    /// The GPU, if one was used.
    pub gpu: Option<String>,
    /// Names and versions of what peers are made of, by peer.
    pub peers: BTreeMap<String, BTreeMap<String, String>>,
    /// The measurements.
    pub tables: Vec<Table>,
    /// Times of kernels on a GPU.
    pub kernels: Vec<KernelTable>,
    /// Figures that are not times.
    pub facts: Vec<Fact>,
    /// What was left out, and why.
    pub notes: Vec<String>,
    /// Whether it was ended early.
    pub interrupted: bool,
}

/// A figure that is not a time.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Fact {
    /// A short name without spaces.
    pub id: &'static str,
    /// What it is.
    pub what: &'static str,
    /// The figure.
    pub value: f64,
}

impl Report {
    /// Without tables yet.
    pub fn new(threads: usize) -> Self {
        let machine = Machine::look(threads);
        let started = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
        Self {
            version: env!("CARGO_PKG_VERSION"),
            started: started.map_or(0, |d| d.as_secs()),
            notes: machine.busy().into_iter().collect(),
            machine,
            gpu: None,
            peers: BTreeMap::new(),
            tables: vec![],
            kernels: vec![],
            facts: vec![],
            interrupted: false,
        }
    }

    /// What stands above the tables.
    pub fn head(&self) -> String {
        let mut out = format!("{}\n", self.machine);
        if let Some(gpu) = &self.gpu {
            let _ = writeln!(out, "  GPU: {gpu}");
        }
        for (peer, versions) in &self.peers {
            let versions: Vec<String> = versions.iter().map(|(name, version)| format!("{name} {version}")).collect();
            let _ = writeln!(out, "  {peer}: {}", versions.join(", "));
        }
        for note in &self.notes {
            let _ = writeln!(out, "  note: {note}");
        }
        out
    }

    /// Writes all of it, samples too, as JSON.
    ///
    /// # Errors
    /// If the file cannot be written.
    pub fn write(&self, path: &Path) -> Result<()> {
        let text = serde_json::to_string_pretty(self)?;
        std::fs::write(path, text + "\n").with_context(|| format!("cannot write {}", path.display()))
    }
}

/// Seconds in a unit that suits them.
pub(crate) fn time(seconds: f64) -> String {
    let (value, unit) = match seconds {
        s if s < 1e-3 => (s * 1e6, "us"),
        s if s < 1.0 => (s * 1e3, "ms"),
        s => (s, "s"),
    };
    let digits = 2_usize.saturating_sub(value.max(1.0).log10() as usize);
    format!("{value:.digits$} {unit}")
}

fn interval(m: &Measured) -> String {
    format!("{:.2} [{:.2} {:.2}]", m.median, m.low, m.high)
}

/// The cells of a row, without its name.
fn cells(row: &Row, columns: &[(&'static str, usize)]) -> Vec<String> {
    let unmeasured = row.samples.is_empty();
    let mut out = if unmeasured {
        vec!["-".into(), String::new()]
    } else {
        vec![time(row.seconds.median), format!("[{} {}]", time(row.seconds.low), time(row.seconds.high))]
    };
    out.push(row.ratio.as_ref().map_or("-".into(), interval));
    out.extend(columns.iter().map(|(name, digits)| {
        let found = row.figures.iter().find(|f| f.name == *name);
        found.map_or("-".into(), |f| format!("{:.digits$}", f.value))
    }));
    out
}

/// A table as text.
pub fn text(table: &Table) -> String {
    let mut columns: Vec<(&'static str, usize)> = Vec::new();
    for figure in table.rows.iter().flat_map(|r| &r.figures) {
        if !columns.iter().any(|(name, _)| *name == figure.name) {
            columns.push((figure.name, figure.digits));
        }
    }
    let over = table.baseline.as_ref().map_or("ratio".to_owned(), |b| format!("over {b}"));
    let mut lines = vec![["", "median", "[95 %]", &over].map(str::to_owned).to_vec()];
    lines[0].extend(columns.iter().map(|(name, _)| (*name).to_owned()));
    for row in &table.rows {
        lines.push(std::iter::once(row.name.clone()).chain(cells(row, &columns)).collect());
    }
    let mut out = format!("{} ({} rounds)\n", table.title, table.rounds);
    aligned(&mut out, &lines);
    pairs(&mut out, table);
    for note in &table.notes {
        let _ = writeln!(out, "  {note}");
    }
    out
}

/// Columns side by side: the first to the left, the others to the right.
pub(crate) fn aligned(out: &mut String, lines: &[Vec<String>]) {
    let columns = lines.iter().map(Vec::len).max().unwrap_or_default();
    let width = |c: usize| lines.iter().filter_map(|l| l.get(c)).map(|cell| cell.chars().count()).max().unwrap_or(0);
    let widths: Vec<usize> = (0..columns).map(width).collect();
    for line in lines {
        let mut text = String::from("  ");
        for (c, (cell, width)) in line.iter().zip(&widths).enumerate() {
            let _ = if c == 0 { write!(text, "{cell:<width$}") } else { write!(text, "  {cell:>width$}") };
        }
        let _ = writeln!(out, "{}", text.trim_end());
    }
}

/// Time of ours over each peer's, as a matrix.
fn pairs(out: &mut String, table: &Table) {
    let names = |kind: Kind| -> Vec<&str> {
        table.rows.iter().filter(|r| r.kind == kind && r.failed.is_none()).map(|r| &r.name[..]).collect()
    };
    let (ours, peers) = (names(Kind::Ours), names(Kind::Peer));
    if table.pairs.is_empty() || peers.is_empty() {
        return;
    }
    let _ = writeln!(out, "  time of ours over theirs, median of the rounds' ratios [95 %]:");
    let mut lines = vec![std::iter::once("").chain(peers.iter().copied()).map(str::to_owned).collect::<Vec<_>>()];
    for o in ours {
        let cell = |peer: &&str| {
            let found = table.pairs.iter().find(|p| p.ours == o && p.peer == **peer);
            found.map_or("-".into(), |p| interval(&p.ratio))
        };
        lines.push(std::iter::once(o.to_owned()).chain(peers.iter().map(cell)).collect());
    }
    aligned(out, &lines);
}

#[cfg(test)]
mod tests {
    use super::super::{Extra, Pair};
    use super::*;

    fn table() -> Table {
        let m = |median: f64| Measured { median, low: median * 0.9, high: median * 1.1 };
        let row = |name: &str, kind, median: f64| Row {
            name: name.into(),
            kind,
            samples: vec![median; 3],
            seconds: m(median),
            ratio: Some(m(median / 0.2)),
            figures: vec![Extra::new("cosine", 0.99996, 4)],
            idle_share: None,
            failed: None,
        };
        Table {
            id: "a".into(),
            title: "eight images".into(),
            baseline: Some("ort-f32".into()),
            rounds: 3,
            rows: vec![row("ours f32", Kind::Ours, 0.1), row("ort-f32", Kind::Peer, 0.2)],
            pairs: vec![Pair { ours: "ours f32".into(), peer: "ort-f32".into(), ratio: m(0.5) }],
            check: None,
            notes: vec!["a note".into()],
        }
    }

    #[test]
    fn times_have_a_unit_that_suits_them() {
        let all = [1.23456, 12.3456, 0.0123456, 0.000_123_456, 123.456, 0.99999];
        assert_eq!(all.map(time), ["1.23 s", "12.3 s", "12.3 ms", "123 us", "123 s", "1000 ms"]);
    }

    #[test]
    fn text_has_rows_columns_pairs_and_notes() {
        let text = text(&table());
        for part in
            ["eight images (3 rounds)", "over ort-f32", "cosine", "100 ms", "0.50 [0.45 0.55]", "a note", "1.0000"]
        {
            assert!(text.contains(part), "{part} is not in\n{text}");
        }
        let columns: Vec<usize> = text.lines().filter(|l| l.contains("ms")).map(|l| l.chars().count()).collect();
        assert!(columns.windows(2).all(|w| w[0] == w[1]), "{text}");
    }

    #[test]
    fn json_has_every_sample() {
        let report = Report { tables: vec![table()], ..Report::new(2) };
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("r.json");
        report.write(&path).unwrap();
        let json: serde_json::Value = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
        let row = &json["tables"][0]["rows"][0];
        assert_eq!(row["samples"], serde_json::json!([0.1, 0.1, 0.1]));
        assert_eq!((&row["kind"], &row["seconds"]["median"]), (&"ours".into(), &0.1.into()));
        assert_eq!(json["tables"][0]["pairs"][0]["ratio"]["low"], 0.45);
        assert_eq!(row["figures"][0]["name"], "cosine");
        assert!(json["machine"]["cores"].as_u64().unwrap() >= 1 && json["interrupted"] == false);
        assert!(report.write(folder.path()).is_err());
    }
}
