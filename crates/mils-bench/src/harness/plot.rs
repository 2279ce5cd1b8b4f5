//! Tables as a picture: a panel a table, a bar a row, with the interval of its median and its ratio.

use super::report::{Report, time};
use super::{Kind, Row, Table};
use anyhow::{Result, anyhow};
use mils_cli::plot::{Area, FAINT, GRID, INK, Picture, fill, line, save, step, text};
use plotters::prelude::{DrawingBackend, RGBColor};
use plotters::style::text_anchor::HPos;
use std::path::Path;

const WIDTH: u32 = 960;
/// Of the names, left of the bars.
const NAMES: u32 = 250;
/// Right of the bars.
const MARGIN: u32 = 20;
const HEAD: u32 = 62;
const TITLE: u32 = 36;
const ROW: u32 = 26;
const AXIS: u32 = 46;

fn colour(kind: Kind) -> RGBColor {
    match kind {
        Kind::Ours => RGBColor(31, 119, 180),
        Kind::Again => RGBColor(160, 196, 224),
        Kind::Peer => RGBColor(240, 150, 60),
    }
}

/// Rows that have something to show.
fn shown(table: &Table) -> Vec<&Row> {
    table.rows.iter().filter(|r| !r.samples.is_empty()).collect()
}

fn height(table: &Table) -> u32 {
    TITLE + ROW * shown(table).len() as u32 + AXIS
}

/// Draws all tables of a report, as SVG or PNG.
///
/// # Errors
/// If there is nothing to draw or the file cannot be written.
pub fn draw(report: &Report, path: &Path) -> Result<()> {
    let tables: Vec<&Table> = report.tables.iter().filter(|t| !shown(t).is_empty()).collect();
    if tables.is_empty() {
        return Err(anyhow!("{}: nothing was measured that could be drawn", path.display()));
    }
    save(&Tables { report, tables }, path)
}

/// Tables with something in them.
struct Tables<'a> {
    report: &'a Report,
    tables: Vec<&'a Table>,
}

impl Picture for Tables<'_> {
    fn size(&self) -> (u32, u32) {
        (WIDTH, HEAD + self.tables.iter().map(|t| height(t)).sum::<u32>())
    }

    fn paint<B: DrawingBackend>(&self, area: &Area<B>) -> Result<()> {
        let (head, mut rest) = area.split_vertically(HEAD);
        draw_head(&head, self.report)?;
        for table in &self.tables {
            let (panel, below) = rest.split_vertically(height(table));
            draw_table(&panel, table)?;
            rest = below;
        }
        Ok(())
    }
}

/// The machine, and what the colours mean.
fn draw_head<B: DrawingBackend>(area: &Area<B>, report: &Report) -> Result<()> {
    let machine = &report.machine;
    let line = format!("{}, {} threads. Shorter is faster.", machine.cpu, machine.threads);
    text(area, &line, (MARGIN as i32, 20), 15, INK, HPos::Left)?;
    let kinds = [(Kind::Ours, "ours"), (Kind::Again, "ours again (must equal ours)"), (Kind::Peer, "peers")];
    for ((kind, name), x) in kinds.into_iter().zip([MARGIN as i32, 90, 290]) {
        fill(area, (x, 36), (x + 12, 48), colour(kind))?;
        text(area, name, (x + 17, 42), 13, FAINT, HPos::Left)?;
    }
    let said = "whiskers: 95 % interval of the median";
    text(area, said, ((WIDTH - MARGIN) as i32, 42), 13, FAINT, HPos::Right)
}

fn draw_table<B: DrawingBackend>(area: &Area<B>, table: &Table) -> Result<()> {
    let rows = shown(table);
    text(area, &table.title, (MARGIN as i32, 20), 16, INK, HPos::Left)?;
    if let Some(baseline) = &table.baseline {
        let said = format!("x: times {baseline}, {} rounds", table.rounds);
        text(area, &said, ((WIDTH - MARGIN) as i32, 20), 13, FAINT, HPos::Right)?;
    }
    // What is written behind the longest bar needs room too.
    let most = rows.iter().map(|r| r.seconds.high).fold(0.0, f64::max).max(f64::MIN_POSITIVE) * 1.25;
    let (left, right) = (NAMES as i32, (WIDTH - MARGIN) as i32);
    let x = |seconds: f64| left + (seconds / most * f64::from(right - left)) as i32;
    let (top, bottom) = (TITLE as i32, (TITLE + ROW * rows.len() as u32) as i32);
    let tick = step(most);
    for n in 0..=(most / tick) as u32 {
        let at = x(f64::from(n) * tick);
        line(area, &[(at, top), (at, bottom)], GRID, 1)?;
        let label = if n == 0 { "0".to_owned() } else { time(f64::from(n) * tick) };
        text(area, &label, (at, bottom + 12), 12, FAINT, HPos::Center)?;
    }
    for (i, row) in rows.iter().enumerate() {
        let middle = top + (ROW * i as u32 + ROW / 2) as i32;
        let (low, high) = (x(row.seconds.low), x(row.seconds.high));
        text(area, &row.name, (left - 8, middle), 14, INK, HPos::Right)?;
        fill(area, (left, middle - 9), (x(row.seconds.median), middle + 9), colour(row.kind))?;
        line(area, &[(low, middle), (high, middle)], INK, 1)?;
        for end in [low, high] {
            line(area, &[(end, middle - 4), (end, middle + 4)], INK, 1)?;
        }
        let ratio = row.ratio.map(|r| format!("   {:.2}x", r.median)).unwrap_or_default();
        text(area, &format!("{}{ratio}", time(row.seconds.median)), (high + 8, middle), 13, INK, HPos::Left)?;
    }
    line(area, &[(left, top), (left, bottom)], FAINT, 1)
}

#[cfg(test)]
mod tests {
    use super::super::Measured;
    use super::*;

    #[test]
    fn every_row_that_was_measured_is_drawn_and_longer_is_longer() {
        let m = |median: f64| Measured { median, low: median * 0.9, high: median * 1.1 };
        let row = |name: &str, kind, median: f64, samples| Row {
            name: name.into(),
            kind,
            samples,
            seconds: m(median),
            ratio: Some(m(1.0)),
            figures: vec![],
            idle_share: None,
            failed: None,
        };
        let rows = vec![
            row("ours <f32>", Kind::Ours, 0.1, vec![0.1]),
            row("peer", Kind::Peer, 0.2, vec![0.2]),
            row("broken", Kind::Peer, 0.0, vec![]),
        ];
        let table = Table {
            id: "t".into(),
            title: "eight images".into(),
            baseline: Some("peer".into()),
            rounds: 1,
            rows,
            pairs: vec![],
            check: None,
            notes: vec![],
        };
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("p.svg");
        let mut report = Report::new(1);
        assert!(draw(&report, &path).is_err());
        report.tables = vec![table];
        draw(&report, &path).unwrap();
        let svg = std::fs::read_to_string(&path).unwrap();
        assert!(svg.starts_with("<svg") && svg.contains("eight images") && svg.contains("ours &lt;f32&gt;"), "{svg}");
        assert!(svg.contains("100 ms") && svg.contains("200 ms") && !svg.contains("broken"));
        // The two bars stand at the left end, one twice as long as the other.
        let widths = |colour: &str| -> Vec<f64> {
            let bar = format!("x=\"{NAMES}\"");
            let of = |line: &str| line.split("width=\"").nth(1)?.split('"').next()?.parse().ok();
            svg.lines().filter(|l| l.contains(&bar) && l.contains(colour)).filter_map(of).collect()
        };
        let (ours, peer) = (widths("#1F77B4"), widths("#F0963C"));
        assert!(
            ours.len() == 1 && peer.len() == 1 && (peer[0] / ours[0] - 2.0).abs() < 0.02,
            "{ours:?} {peer:?}\n{svg}"
        );
        assert!(draw(&report, folder.path()).is_err());
    }
}
