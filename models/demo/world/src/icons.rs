//! The 48 nouns and their drawings (see data/LICENSE-icons).

use std::sync::LazyLock;
use svgtypes::{SimplePathSegment, SimplifyingPathParser};
use tiny_skia::{FillRule, Mask, Path, PathBuilder, Transform};

/// Side of the square that the drawings live in.
pub(crate) const VIEW: f32 = 32.0;

#[derive(serde::Deserialize)]
struct Entry {
    noun: String,
    plural: String,
    paths: Vec<String>,
}

/// One drawing, ready to fill.
pub(crate) struct Icon {
    /// Every contour by itself: filled one by one they give the silhouette, holes closed.
    pub contours: Vec<Path>,
    /// The drawing as drawn, with its holes.
    pub glyph: Vec<Path>,
    /// Whether the glyph covers most of its silhouette, so that the glyph is the body and the holes are the detail.
    pub solid: bool,
}

static ENTRIES: LazyLock<Vec<Entry>> = LazyLock::new(|| {
    // The file is compiled in; tests/ of this crate reads every entry of it.
    serde_json::from_str(include_str!("../data/icons.json")).unwrap_or_default()
});
static NOUNS: LazyLock<Vec<&'static str>> = LazyLock::new(|| ENTRIES.iter().map(|e| e.noun.as_str()).collect());
static PLURALS: LazyLock<Vec<&'static str>> = LazyLock::new(|| ENTRIES.iter().map(|e| e.plural.as_str()).collect());
static ICONS: LazyLock<Vec<Icon>> = LazyLock::new(|| ENTRIES.iter().map(build).collect());

/// The nouns, by index.
pub fn nouns() -> &'static [&'static str] {
    &NOUNS
}

/// Their plurals, by index.
pub fn plurals() -> &'static [&'static str] {
    &PLURALS
}

/// The plural of a noun and the singular of a plural; `None` for any other word.
pub(crate) fn other_number(word: &str) -> Option<&'static str> {
    let find = |names: &[&str]| names.iter().position(|n| *n == word);
    find(&NOUNS).map(|i| PLURALS[i]).or_else(|| find(&PLURALS).map(|i| NOUNS[i]))
}

pub(crate) fn icon(noun: u8) -> &'static Icon {
    &ICONS[usize::from(noun)]
}

fn build(entry: &Entry) -> Icon {
    let mut contours = Vec::new();
    let mut glyph = Vec::new();
    for data in &entry.paths {
        let mut whole = PathBuilder::new();
        let mut part = PathBuilder::new();
        for segment in SimplifyingPathParser::from(data.as_str()).flatten() {
            if matches!(segment, SimplePathSegment::MoveTo { .. }) {
                let done = std::mem::replace(&mut part, PathBuilder::new());
                contours.extend(done.finish());
            }
            add(&mut whole, &segment);
            add(&mut part, &segment);
        }
        contours.extend(part.finish());
        glyph.extend(whole.finish());
    }
    let solid = coverage(&glyph) > 0.6 * coverage(&contours);
    Icon { contours, glyph, solid }
}

fn add(builder: &mut PathBuilder, segment: &SimplePathSegment) {
    match *segment {
        SimplePathSegment::MoveTo { x, y } => builder.move_to(x as f32, y as f32),
        SimplePathSegment::LineTo { x, y } => builder.line_to(x as f32, y as f32),
        SimplePathSegment::CurveTo { x1, y1, x2, y2, x, y } => {
            builder.cubic_to(x1 as f32, y1 as f32, x2 as f32, y2 as f32, x as f32, y as f32);
        }
        SimplePathSegment::Quadratic { x1, y1, x, y } => {
            builder.quad_to(x1 as f32, y1 as f32, x as f32, y as f32);
        }
        SimplePathSegment::ClosePath => builder.close(),
    }
}

/// Covered area in square units of the view.
fn coverage(paths: &[Path]) -> f32 {
    let Some(mut mask) = Mask::new(VIEW as u32, VIEW as u32) else {
        return 0.0;
    };
    for path in paths {
        mask.fill_path(path, FillRule::Winding, true, Transform::identity());
    }
    mask.data().iter().map(|&v| f32::from(v)).sum::<f32>() / 255.0
}
