//! Pictures of numbers, as SVG and PNG: what charts here and those of the benchmarks are drawn with, and charts of lines.

use anyhow::{Context, Result, anyhow, bail};
use noto_sans_mono_bitmap::{FontWeight, RasterHeight, get_raster, get_raster_width};
use plotters::coord::Shift;
use plotters::prelude::*;
use plotters::style::text_anchor::{HPos, Pos, VPos};
use plotters_backend::{BackendColor, BackendCoord, BackendStyle, BackendTextStyle, DrawingBackend, DrawingErrorKind};
use std::path::Path;

/// Of what is read.
pub const INK: RGBColor = RGBColor(34, 34, 34);
/// Of what stands beside it.
pub const FAINT: RGBColor = RGBColor(110, 110, 110);
/// Of lines behind it.
pub const GRID: RGBColor = RGBColor(228, 228, 228);
const FONT: &str = "sans-serif";
/// Colours that are told apart by most eyes (Okabe and Ito's).
const COLOURS: [RGBColor; 7] = [
    RGBColor(0, 114, 178),
    RGBColor(230, 159, 0),
    RGBColor(0, 158, 115),
    RGBColor(204, 121, 167),
    RGBColor(213, 94, 0),
    RGBColor(86, 180, 233),
    RGBColor(34, 34, 34),
];

/// Where something is drawn.
pub type Area<B> = DrawingArea<B, Shift>;

/// Something that can be drawn on any canvas.
pub trait Picture {
    /// Width and height in pixels.
    fn size(&self) -> (u32, u32);

    /// Draws it.
    ///
    /// # Errors
    /// If the canvas fails.
    fn paint<B: DrawingBackend>(&self, area: &Area<B>) -> Result<()>;
}

/// Draws a picture into a file: PNG where its name ends so, else SVG.
///
/// # Errors
/// If it cannot be drawn or written.
pub fn save(picture: &impl Picture, path: &Path) -> Result<()> {
    let place = || format!("cannot draw {}", path.display());
    let size = picture.size();
    if path.extension().is_some_and(|e| e.eq_ignore_ascii_case("png")) {
        let mut pixels = vec![0; size.0 as usize * size.1 as usize * 3];
        paint(picture, Pixels(BitMapBackend::with_buffer(&mut pixels, size))).with_context(place)?;
        let image = image::RgbImage::from_raw(size.0, size.1, pixels).context("the picture is of another size")?;
        return image.save_with_format(path, image::ImageFormat::Png).with_context(place);
    }
    let mut text = String::new();
    paint(picture, SVGBackend::with_string(&mut text, size)).with_context(place)?;
    crate::output::replace(path, [text]).with_context(place)
}

fn paint<B: DrawingBackend>(picture: &impl Picture, canvas: B) -> Result<()> {
    let area = canvas.into_drawing_area();
    area.fill(&WHITE).map_err(|e| anyhow!("{e}"))?;
    picture.paint(&area)?;
    area.present().map_err(|e| anyhow!("{e}"))
}

/// Writes a text.
///
/// # Errors
/// If the canvas fails; so with all that follow.
pub fn text<B: DrawingBackend>(
    area: &Area<B>,
    text: &str,
    at: (i32, i32),
    size: i32,
    colour: RGBColor,
    anchor: HPos,
) -> Result<()> {
    let style = TextStyle::from((FONT, size).into_font()).color(&colour).pos(Pos::new(anchor, VPos::Center));
    area.draw_text(text, &style, at).map_err(|e| anyhow!("{e}"))
}

/// Fills a box.
///
/// # Errors
/// See [`text`].
pub fn fill<B: DrawingBackend>(area: &Area<B>, from: (i32, i32), to: (i32, i32), colour: RGBColor) -> Result<()> {
    area.draw(&Rectangle::new([from, to], colour.filled())).map_err(|e| anyhow!("{e}"))
}

/// Draws a line through points.
///
/// # Errors
/// See [`text`].
pub fn line<B: DrawingBackend>(area: &Area<B>, points: &[(i32, i32)], colour: RGBColor, width: u32) -> Result<()> {
    area.draw(&PathElement::new(points.to_vec(), Color::stroke_width(&colour, width))).map_err(|e| anyhow!("{e}"))
}

/// A step of 1, 2 or 5 times a power of ten, of which about five fit.
pub fn step(range: f64) -> f64 {
    let raw = range / 5.0;
    let power = 10_f64.powf(raw.log10().floor());
    [1.0, 2.0, 5.0, 10.0].map(|n| n * power).into_iter().find(|s| *s >= raw).unwrap_or(raw)
}

/// A point of a line.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Point {
    /// Along the axis below.
    pub x: f64,
    /// The value.
    pub y: f64,
    /// Its 95 % interval, where there is one.
    pub interval: Option<(f64, f64)>,
}

/// A line of a chart.
#[derive(Clone, Debug)]
pub struct Line {
    /// Its name.
    pub name: String,
    /// From left to right.
    pub points: Vec<Point>,
}

/// A chart of lines.
#[derive(Clone, Debug)]
pub struct Chart {
    /// What the values are.
    pub title: String,
    /// What is along the axis below.
    pub x: String,
    /// Names of places along it, from 0, where they are no numbers.
    pub names: Vec<String>,
    /// The lines.
    pub lines: Vec<Line>,
}

/// Charts in two columns.
#[derive(Clone, Debug)]
pub struct Charts(pub Vec<Chart>);

const WIDE: u32 = 480;
const HIGH: u32 = 320;
const LEFT: i32 = 70;
const RIGHT: i32 = 20;
const TOP: i32 = 44;
const BOTTOM: i32 = 46;
const LEGEND: i32 = 20;

impl Picture for Charts {
    fn size(&self) -> (u32, u32) {
        let columns = self.0.len().clamp(1, 2) as u32;
        (WIDE * columns, HIGH * (self.0.len() as u32).div_ceil(columns).max(1))
    }

    fn paint<B: DrawingBackend>(&self, area: &Area<B>) -> Result<()> {
        if self.0.iter().flat_map(|c| &c.lines).all(|l| l.points.is_empty()) {
            bail!("there is nothing to draw");
        }
        let columns = self.0.len().clamp(1, 2);
        let panels = area.split_evenly((self.0.len().div_ceil(columns), columns));
        self.0.iter().zip(&panels).try_for_each(|(chart, panel)| chart.paint(panel))
    }
}

/// How values lie along an axis.
struct Scale {
    low: f64,
    high: f64,
    log: bool,
}

impl Scale {
    fn at(&self, value: f64) -> f64 {
        let of = |v: f64| if self.log { v.ln() } else { v };
        let range = of(self.high) - of(self.low);
        if range > 0.0 { (of(value) - of(self.low)) / range } else { 0.5 }
    }

    /// Values that are written beside it.
    fn ticks(&self) -> Vec<f64> {
        if self.log {
            let powers = (self.low.log10().floor() as i32)..=(self.high.log10().ceil() as i32);
            let all = powers.flat_map(|p| [1.0, 3.0].map(|n| n * 10_f64.powi(p)));
            return all.filter(|v| (self.low * 0.999..=self.high * 1.001).contains(v)).collect();
        }
        let by = step(self.high - self.low);
        if !by.is_finite() || by <= 0.0 {
            return vec![self.low];
        }
        let first = (self.low / by).ceil() as i64;
        (first..).map(|n| n as f64 * by).take_while(|v| *v <= self.high + by * 1e-9).take(20).collect()
    }
}

/// A number with as many digits as tell it from its neighbours.
fn number(value: f64, by: f64) -> String {
    let digits = if by >= 1.0 || by <= 0.0 { 0 } else { (-by.log10()).ceil() as usize };
    format!("{value:.digits$}")
}

impl Chart {
    fn points(&self) -> impl Iterator<Item = &Point> {
        self.lines.iter().flat_map(|l| &l.points)
    }

    fn scales(&self) -> (Scale, Scale) {
        let of = |values: &mut dyn Iterator<Item = f64>| {
            values.fold((f64::INFINITY, f64::NEG_INFINITY), |(low, high), v| (low.min(v), high.max(v)))
        };
        let (left, right) = of(&mut self.points().map(|p| p.x));
        let ends = |p: &Point| p.interval.map_or([p.y, p.y], |(low, high)| [low.min(p.y), high.max(p.y)]);
        let (low, high) = of(&mut self.points().flat_map(ends));
        let room = if high > low { (high - low) * 0.06 } else { high.abs().max(1.0) * 0.1 };
        let low = if low >= 0.0 { (low - room).max(0.0) } else { low - room };
        let x = if self.names.is_empty() {
            Scale { low: left, high: right, log: left > 0.0 && right / left > 30.0 }
        } else {
            Scale { low: -0.5, high: self.names.len() as f64 - 0.5, log: false }
        };
        (x, Scale { low, high: high + room, log: false })
    }

    fn paint<B: DrawingBackend>(&self, area: &Area<B>) -> Result<()> {
        let (wide, high) = area.dim_in_pixel();
        let (x_scale, y_scale) = self.scales();
        let named = self.lines.len() > 1;
        let top = TOP + if named { LEGEND } else { 0 };
        let (right, bottom) = (wide as i32 - RIGHT, high as i32 - BOTTOM);
        let x = |value: f64| LEFT + (x_scale.at(value) * f64::from(right - LEFT)) as i32;
        let y = |value: f64| bottom - (y_scale.at(value) * f64::from(bottom - top)) as i32;
        text(area, &self.title, (LEFT, 22), 16, INK, HPos::Left)?;
        let ticks = y_scale.ticks();
        let by = ticks.windows(2).map(|t| t[1] - t[0]).next().unwrap_or(1.0);
        for tick in ticks {
            line(area, &[(LEFT, y(tick)), (right, y(tick))], GRID, 1)?;
            text(area, &number(tick, by), (LEFT - 6, y(tick)), 12, FAINT, HPos::Right)?;
        }
        if self.names.is_empty() {
            let ticks = x_scale.ticks();
            let by = ticks.windows(2).map(|t| t[1] - t[0]).fold(1.0, f64::min);
            for tick in ticks {
                text(area, &number(tick, by), (x(tick), bottom + 14), 12, FAINT, HPos::Center)?;
            }
        }
        for (at, name) in self.names.iter().enumerate() {
            text(area, name, (x(at as f64), bottom + 14), 12, FAINT, HPos::Center)?;
        }
        line(area, &[(LEFT, bottom), (right, bottom)], FAINT, 1)?;
        text(area, &self.x, ((LEFT + right) / 2, bottom + 32), 13, FAINT, HPos::Center)?;
        let mut legend = LEFT;
        for (number, one) in self.lines.iter().enumerate() {
            let colour = COLOURS[number % COLOURS.len()];
            if named {
                fill(area, (legend, TOP - 4), (legend + 10, TOP + 6), colour)?;
                text(area, &one.name, (legend + 15, TOP + 1), 13, INK, HPos::Left)?;
                legend += 30 + 9 * one.name.chars().count() as i32;
            }
            let points: Vec<(i32, i32)> = one.points.iter().map(|p| (x(p.x), y(p.y))).collect();
            if self.names.is_empty() && points.len() > 1 {
                line(area, &points, colour, 2)?;
            }
            for (point, at) in one.points.iter().zip(points) {
                fill(area, (at.0 - 2, at.1 - 2), (at.0 + 3, at.1 + 3), colour)?;
                if let Some((low, high)) = point.interval {
                    line(area, &[(at.0, y(low)), (at.0, y(high))], colour, 1)?;
                }
            }
        }
        Ok(())
    }
}

/// A bitmap whose texts need no fonts of the machine: they are of one size.
struct Pixels<'a>(BitMapBackend<'a>);

const HEIGHT: RasterHeight = RasterHeight::Size16;

type Failed<'a> = DrawingErrorKind<<BitMapBackend<'a> as DrawingBackend>::ErrorType>;

impl<'a> DrawingBackend for Pixels<'a> {
    type ErrorType = <BitMapBackend<'a> as DrawingBackend>::ErrorType;

    fn get_size(&self) -> (u32, u32) {
        self.0.get_size()
    }

    fn ensure_prepared(&mut self) -> Result<(), Failed<'a>> {
        self.0.ensure_prepared()
    }

    fn present(&mut self) -> Result<(), Failed<'a>> {
        self.0.present()
    }

    fn draw_pixel(&mut self, point: BackendCoord, color: BackendColor) -> Result<(), Failed<'a>> {
        self.0.draw_pixel(point, color)
    }

    fn draw_text<S: BackendTextStyle>(&mut self, text: &str, style: &S, at: BackendCoord) -> Result<(), Failed<'a>> {
        let (width, height) = self.estimate_text_size(text, style)?;
        let anchor = style.anchor();
        let left = at.0
            - match anchor.h_pos {
                HPos::Left => 0,
                HPos::Center => width as i32 / 2,
                HPos::Right => width as i32,
            };
        let top = at.1
            - match anchor.v_pos {
                VPos::Top => 0,
                VPos::Center => height as i32 / 2,
                VPos::Bottom => height as i32,
            };
        let colour = style.color();
        let each = get_raster_width(FontWeight::Regular, HEIGHT) as i32;
        for (number, c) in text.chars().enumerate() {
            let known = get_raster(c, FontWeight::Regular, HEIGHT);
            let Some(glyph) = known.or_else(|| get_raster('?', FontWeight::Regular, HEIGHT)) else { continue };
            for (row, values) in glyph.rows().enumerate() {
                for (column, value) in values.iter().enumerate().filter(|(_, value)| **value > 0) {
                    let point = (left + number as i32 * each + column as i32, top + row as i32);
                    let alpha = colour.alpha * f64::from(*value) / 255.0;
                    self.0.draw_pixel(point, BackendColor { alpha, rgb: colour.rgb })?;
                }
            }
        }
        Ok(())
    }

    fn estimate_text_size<S: BackendTextStyle>(&self, text: &str, _: &S) -> Result<(u32, u32), Failed<'a>> {
        let each = get_raster_width(FontWeight::Regular, HEIGHT);
        Ok(((text.chars().count() * each) as u32, HEIGHT.val() as u32))
    }

    fn draw_path<S: BackendStyle, I: IntoIterator<Item = BackendCoord>>(
        &mut self,
        path: I,
        style: &S,
    ) -> Result<(), Failed<'a>> {
        self.0.draw_path(path, style)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    fn chart(names: &[&str]) -> Charts {
        let point = |x: usize, y: f64| Point { x: x as f64, y, interval: Some((y - 0.1, y + 0.1)) };
        let line =
            |name: &str, up: f64| Line { name: name.into(), points: (0..3).map(|x| point(x, up * x as f64)).collect() };
        let lines = vec![line("with <feedback>", 0.4), line("without", 0.0)];
        let names = names.iter().map(|n| (*n).to_owned()).collect();
        Charts(vec![Chart { title: "CIDEr".into(), x: "step".into(), names, lines }; 3])
    }

    #[test]
    fn steps_are_round_and_about_five() {
        assert_eq!([1.0, 0.37, 12.0].map(step), [0.2, 0.1, 5.0]);
        for most in [0.001, 0.5, 7.0, 99.0, 1234.5] {
            assert!((2.0..=5.01).contains(&(most / step(most))), "{most}");
        }
        let scale = Scale { low: 10.0, high: 30_000.0, log: true };
        assert_eq!(scale.ticks(), [10.0, 30.0, 100.0, 300.0, 1000.0, 3000.0, 10_000.0, 30_000.0]);
        assert!((scale.at(10.0), scale.at(30_000.0)) == (0.0, 1.0));
        assert_eq!((number(0.25, 0.05), number(20.0, 10.0)), ("0.25".into(), "20".into()));
    }

    #[test]
    fn charts_are_drawn_as_svg_and_as_png_with_texts() {
        let dir = tempfile::tempdir().unwrap();
        let (svg, png) = (dir.path().join("a.svg"), dir.path().join("a.png"));
        for charts in [chart(&[]), chart(&["a", "b", "c"])] {
            save(&charts, &svg).unwrap();
            save(&charts, &png).unwrap();
            let text = fs::read_to_string(&svg).unwrap();
            assert!(text.contains("with &lt;feedback&gt;") && text.contains("CIDEr"), "{text}");
            let image = image::open(&png).unwrap().to_rgb8();
            assert_eq!(image.dimensions(), (960, 640));
            // The title is there, and both lines are.
            let title = (70..120).any(|x| (14..30).any(|y| image.get_pixel(x, y).0[0] < 100));
            let colours = [COLOURS[0], COLOURS[1]].map(|c| image.pixels().any(|p| p.0 == [c.0, c.1, c.2]));
            assert!(title && colours == [true, true]);
        }
        let nothing = Charts(vec![Chart { lines: vec![], ..chart(&[]).0.remove(0) }]);
        assert!(format!("{:#}", save(&nothing, &svg).unwrap_err()).contains("nothing to draw"));
    }
}
