//! Tables as a picture: a panel a table, a bar a row, with the interval of its median and its ratio.

use super::report::{Report, time};
use super::{Kind, Row, Table};
use anyhow::{Result, anyhow};
use plotters::coord::Shift;
use plotters::prelude::*;
use plotters::style::text_anchor::{HPos, Pos, VPos};
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
const FONT: &str = "sans-serif";
const INK: RGBColor = RGBColor(34, 34, 34);
const FAINT: RGBColor = RGBColor(110, 110, 110);

type Area<'a> = DrawingArea<SVGBackend<'a>, Shift>;

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

/// Draws all tables of a report as an SVG.
///
/// # Errors
/// If there is nothing to draw or the file cannot be written.
pub fn draw(report: &Report, path: &Path) -> Result<()> {
    let tables: Vec<&Table> = report.tables.iter().filter(|t| !shown(t).is_empty()).collect();
    if tables.is_empty() {
        return Err(anyhow!("{}: nothing was measured that could be drawn", path.display()));
    }
    let total = HEAD + tables.iter().map(|t| height(t)).sum::<u32>();
    let area = SVGBackend::new(path, (WIDTH, total)).into_drawing_area();
    let drawn = (|| -> Result<()> {
        area.fill(&WHITE).map_err(|e| anyhow!("{e}"))?;
        let (head, mut rest) = area.split_vertically(HEAD);
        draw_head(&head, report)?;
        for table in tables {
            let (panel, below) = rest.split_vertically(height(table));
            draw_table(&panel, table)?;
            rest = below;
        }
        area.present().map_err(|e| anyhow!("{e}"))
    })();
    drawn.map_err(|e| anyhow!("cannot draw {}: {e:#}", path.display()))
}

fn text(area: &Area<'_>, text: &str, at: (i32, i32), size: i32, colour: RGBColor, anchor: HPos) -> Result<()> {
    let style = TextStyle::from((FONT, size).into_font()).color(&colour).pos(Pos::new(anchor, VPos::Center));
    area.draw_text(text, &style, at).map_err(|e| anyhow!("{e}"))
}

/// The machine, and what the colours mean.
fn draw_head(area: &Area<'_>, report: &Report) -> Result<()> {
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

fn fill(area: &Area<'_>, from: (i32, i32), to: (i32, i32), colour: RGBColor) -> Result<()> {
    area.draw(&Rectangle::new([from, to], colour.filled())).map_err(|e| anyhow!("{e}"))
}

/// A step of 1, 2 or 5 times a power of ten, of which about five fit.
fn step(most: f64) -> f64 {
    let raw = most / 5.0;
    let power = 10_f64.powf(raw.log10().floor());
    [1.0, 2.0, 5.0, 10.0].map(|n| n * power).into_iter().find(|s| *s >= raw).unwrap_or(raw)
}

fn draw_table(area: &Area<'_>, table: &Table) -> Result<()> {
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
    let line = |from: (i32, i32), to: (i32, i32), style: ShapeStyle| {
        area.draw(&PathElement::new([from, to], style)).map_err(|e| anyhow!("{e}"))
    };
    let tick = step(most);
    for n in 0..=(most / tick) as u32 {
        let at = x(f64::from(n) * tick);
        line((at, top), (at, bottom), RGBColor(228, 228, 228).stroke_width(1))?;
        let label = if n == 0 { "0".to_owned() } else { time(f64::from(n) * tick) };
        text(area, &label, (at, bottom + 12), 12, FAINT, HPos::Center)?;
    }
    for (i, row) in rows.iter().enumerate() {
        let middle = top + (ROW * i as u32 + ROW / 2) as i32;
        let (low, high) = (x(row.seconds.low), x(row.seconds.high));
        text(area, &row.name, (left - 8, middle), 14, INK, HPos::Right)?;
        fill(area, (left, middle - 9), (x(row.seconds.median), middle + 9), colour(row.kind))?;
        line((low, middle), (high, middle), INK.stroke_width(1))?;
        for end in [low, high] {
            line((end, middle - 4), (end, middle + 4), INK.stroke_width(1))?;
        }
        let ratio = row.ratio.map(|r| format!("   {:.2}x", r.median)).unwrap_or_default();
        text(area, &format!("{}{ratio}", time(row.seconds.median)), (high + 8, middle), 13, INK, HPos::Left)?;
    }
    line((left, top), (left, bottom), FAINT.stroke_width(1))
}

#[cfg(test)]
mod tests {
    use super::super::Measured;
    use super::*;

    #[test]
    fn steps_are_round_and_about_five() {
        assert_eq!([1.0, 0.37, 12.0].map(step), [0.2, 0.1, 5.0]);
        for most in [0.001, 0.5, 7.0, 99.0, 1234.5] {
            assert!((2.0..=5.01).contains(&(most / step(most))), "{most}");
        }
    }

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
