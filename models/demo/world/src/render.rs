//! Draws a scene: background, objects, and what a camera does to them.

use crate::Scene;
use crate::facts::{Content, Relation};
use crate::icons::{self, VIEW};
use image::RgbImage;
use rand::{Rng, RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use tiny_skia::{FillRule, LineJoin, Paint, Pixmap, Stroke, Transform};

/// One object as placed: what the training script's hints are made from.
#[derive(Clone, Debug, serde::Serialize)]
pub struct Placed {
    /// Index of the noun.
    pub noun: u8,
    /// Index of the colour.
    pub colour: u8,
    /// Index of the size.
    pub size: u8,
    /// x0, y0, x1, y1 as shares of the picture's width and height.
    #[serde(rename = "box")]
    pub bounds: [f32; 4],
}

/// A drawn scene.
pub struct Picture {
    /// The pixels.
    pub image: RgbImage,
    /// Where the objects are.
    pub objects: Vec<Placed>,
}

#[derive(Clone)]
struct Spot {
    noun: u8,
    colour: u8,
    size: u8,
    x: f32,
    y: f32,
    side: f32,
}

/// Draws `scene`; everything that the facts leave open follows from `scene.seed`.
pub fn render(scene: &Scene) -> Picture {
    let mut rng = ChaCha8Rng::seed_from_u64(scene.seed);
    let short = rng.random_range(144..=264_u32);
    let long = (short as f32 * rng.random_range(1.0..1.16)) as u32;
    let (w, h) = if rng.random_bool(0.5) { (long, short) } else { (short, long) };
    picture(Some(scene.facts.content), scene.facts.background.unwrap_or(0), (w, h), &mut rng)
}

/// Draws what there is in a picture of so many pixels, which may be nothing but the background. The rest follows from the
/// seed. No side may be 0.
pub fn render_sized(content: Option<Content>, background: u8, (w, h): (u32, u32), seed: u64) -> Picture {
    picture(content, background, (w, h), &mut ChaCha8Rng::seed_from_u64(seed))
}

fn picture(content: Option<Content>, kind: u8, (w, h): (u32, u32), rng: &mut ChaCha8Rng) -> Picture {
    let spots = content.map(|content| place(content, w as f32, h as f32, rng)).unwrap_or_default();
    let mut canvas = background(kind, w, h, rng);
    if let Some(mut pixmap) = Pixmap::new(w, h) {
        for spot in &spots {
            draw(&mut pixmap, spot, rng);
        }
        lay_over(&mut canvas, &pixmap);
    }
    let camera = Camera::new(rng);
    let bytes = camera.develop(&canvas, w as usize, camera.noise);
    let objects = spots
        .iter()
        .map(|s| Placed {
            noun: s.noun,
            colour: s.colour,
            size: s.size,
            bounds: [
                (s.x - s.side / 2.0) / w as f32,
                (s.y - s.side / 2.0) / h as f32,
                (s.x + s.side / 2.0) / w as f32,
                (s.y + s.side / 2.0) / h as f32,
            ],
        })
        .collect();
    // The buffer has exactly w*h*3 bytes: `develop` maps the canvas one to one.
    let image = RgbImage::from_raw(w, h, bytes).unwrap_or_default();
    Picture { image, objects }
}

/// Cells of the invisible grid that objects stand on, along each side. Small objects take one cell, big ones 2 x 2, and
/// a cell is a patch of the demo's encoder: what a patch shows can then be told from that patch alone, which keeps the
/// world easy enough for so small an encoder. Real encoders need no such help.
const CELLS: f32 = 6.0;
/// The share of its cells that an object fills.
const FILL: f32 = 0.95;

fn cells(size: u8) -> u32 {
    u32::from(size) + 1
}

/// Turns cells into pixels: `(column, row)` is the upper left cell, `n` the object's cells.
fn spot((noun, colour, size): (u8, u8, u8), (column, row): (f32, f32), n: u32, (w, h): (f32, f32)) -> Spot {
    let (cell_w, cell_h, n) = (w / CELLS, h / CELLS, n as f32);
    let side = n * cell_w.min(cell_h) * FILL;
    Spot { noun, colour, size, x: (column + n / 2.0) * cell_w, y: (row + n / 2.0) * cell_h, side }
}

fn place(content: Content, w: f32, h: f32, rng: &mut ChaCha8Rng) -> Vec<Spot> {
    match content {
        Content::One { noun, colour, count, size, position } => {
            let size = size.unwrap_or(0);
            let (n, room) = (cells(size) as f32, CELLS);
            let many = f32::from(count);
            // Three big objects are closer than their cells.
            let pitch = if many * n > room { (room - n) / (many - 1.0) } else { n };
            let slack = ((room - (pitch * (many - 1.0) + n)) / 2.0).max(0.0);
            let wander = slack.min(1.0);
            let start = (slack + rng.random_range(-1.0..=1.0) * wander).round().clamp(0.0, 2.0 * slack);
            let middle = (room - n) / 2.0;
            let cross = match position.unwrap_or(4) {
                0 | 2 => 0.0,
                1 | 3 => room - n,
                _ if rng.random_bool(0.5) => middle.floor(),
                _ => middle.ceil(),
            };
            let vertical = position.unwrap_or(4) < 2;
            (0..count)
                .map(|i| {
                    let along = start + pitch * f32::from(i);
                    let at = if vertical { (cross, along) } else { (along, cross) };
                    spot((noun, colour, size), at, cells(size), (w, h))
                })
                .collect()
        }
        Content::Two { a, relation, b } => {
            let (na, nb) = (cells(a.size), cells(b.size));
            let room = CELLS as u32;
            let first = rng.random_range(0..=room - na - nb);
            let second = rng.random_range(first + na..=room - nb);
            let cross = rng.random_range(0..=room - na);
            let beside = (cross + rng.random_range(0..3)).saturating_sub(1).min(room - nb);
            [(a, first, cross, na), (b, second, beside, nb)]
                .map(|(t, along, cross, n)| {
                    let (along, cross) = (along as f32, cross as f32);
                    let at = if relation == Relation::Above { (cross, along) } else { (along, cross) };
                    spot((t.noun, t.colour, t.size), at, n, (w, h))
                })
                .to_vec()
        }
        Content::Three(objects) => scatter(&objects, w, h, rng),
    }
}

/// Places three objects on free cells, starting over when one finds no place.
fn scatter(objects: &[(u8, u8); 3], w: f32, h: f32, rng: &mut ChaCha8Rng) -> Vec<Spot> {
    loop {
        let mut taken: Vec<(u32, u32, u32)> = Vec::new();
        let mut spots: Vec<Spot> = Vec::new();
        for &(noun, colour) in objects {
            let size = rng.random_range(0..2_u8);
            let n = cells(size);
            for _ in 0..30 {
                let (x, y) = (rng.random_range(0..=CELLS as u32 - n), rng.random_range(0..=CELLS as u32 - n));
                let free = taken.iter().all(|&(tx, ty, tn)| x >= tx + tn || tx >= x + n || y >= ty + tn || ty >= y + n);
                if free {
                    taken.push((x, y, n));
                    spots.push(spot((noun, colour, size), (x as f32, y as f32), n, (w, h)));
                    break;
                }
            }
        }
        if spots.len() == objects.len() {
            return spots;
        }
    }
}

/// An RGB triple, 0 to 255.
pub(crate) type Rgb = [f32; 3];

/// Blends what was drawn over a canvas of the same size.
pub(crate) fn lay_over(canvas: &mut [f32], pixmap: &Pixmap) {
    for (under, over) in canvas.chunks_exact_mut(3).zip(pixmap.pixels()) {
        let keep = 1.0 - f32::from(over.alpha()) / 255.0;
        let over = [over.red(), over.green(), over.blue()];
        for (u, o) in under.iter_mut().zip(over) {
            *u = *u * keep + f32::from(o);
        }
    }
}

fn hsv(hue: f32, saturation: f32, value: f32) -> Rgb {
    let h = hue.rem_euclid(360.0) / 60.0;
    let f = |n: f32| {
        let k = (n + h) % 6.0;
        255.0 * value * (1.0 - saturation * k.min(4.0 - k).clamp(0.0, 1.0))
    };
    [f(5.0), f(3.0), f(1.0)]
}

/// A shade of a colour.
pub(crate) fn ink(colour: u8, rng: &mut impl Rng) -> Rgb {
    let mut near = |mid: f32, spread: f32| mid + rng.random_range(-spread..spread);
    match colour {
        0 => hsv(near(0.0, 6.0), near(0.9, 0.08), near(0.86, 0.1)),
        1 => hsv(near(28.0, 4.0), near(0.93, 0.06), near(0.96, 0.04)),
        2 => hsv(near(54.0, 4.0), near(0.88, 0.1), near(0.96, 0.04)),
        3 => hsv(near(125.0, 14.0), near(0.8, 0.15), near(0.72, 0.12)),
        4 => hsv(near(220.0, 10.0), near(0.85, 0.12), near(0.85, 0.12)),
        5 => hsv(near(277.0, 8.0), near(0.72, 0.12), near(0.7, 0.12)),
        6 => hsv(near(330.0, 8.0), near(0.42, 0.08), near(0.98, 0.02)),
        _ => hsv(near(40.0, 40.0), near(0.03, 0.03), near(0.97, 0.03)),
    }
}

fn paint(rgb: Rgb, shade: f32) -> Paint<'static> {
    let mut paint = Paint::default();
    let [r, g, b] = rgb.map(|v| (v * shade).clamp(0.0, 255.0) as u8);
    paint.set_color_rgba8(r, g, b, 255);
    paint.anti_alias = true;
    paint
}

/// An object, slightly turned.
fn draw(pixmap: &mut Pixmap, spot: &Spot, rng: &mut ChaCha8Rng) {
    let rgb = ink(spot.colour, rng);
    stamp(pixmap, spot.noun, rgb, spot.side, rng.random_range(-4.0..4.0), (spot.x, spot.y));
}

/// Silhouette, details and a thin dark outline; `side` in pixels, turned by `angle` degrees about the middle, which is at
/// `(x, y)`.
pub(crate) fn stamp(pixmap: &mut Pixmap, noun: u8, rgb: Rgb, side: f32, angle: f32, (x, y): (f32, f32)) {
    let icon = icons::icon(noun);
    let scale = side / VIEW;
    let transform = Transform::from_translate(-VIEW / 2.0, -VIEW / 2.0)
        .post_scale(scale, scale)
        .post_rotate(angle)
        .post_translate(x, y);
    let (body, detail) = if icon.solid { (0.45, 1.0) } else { (1.0, 0.5) };
    let outline = Stroke { width: 1.6, line_join: LineJoin::Round, ..Stroke::default() };
    for contour in &icon.contours {
        pixmap.stroke_path(contour, &paint(rgb, 0.25), &outline, transform, None);
    }
    for contour in &icon.contours {
        pixmap.fill_path(contour, &paint(rgb, body), FillRule::Winding, transform, None);
    }
    for path in &icon.glyph {
        pixmap.fill_path(path, &paint(rgb, detail), FillRule::Winding, transform, None);
    }
}

/// A cheap generator for pixel noise; its quality does not matter, its speed does.
struct Quick(u32);

impl Quick {
    fn next(&mut self) -> f32 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 17;
        self.0 ^= self.0 << 5;
        (self.0 >> 8) as f32 / (1 << 24) as f32
    }
}

/// What is behind everything: `w * h` pixels of three values, 0 to 255.
pub(crate) fn background(kind: u8, w: u32, h: u32, rng: &mut ChaCha8Rng) -> Vec<f32> {
    let mut quick = Quick(rng.random::<u32>() | 1);
    let mut vary = |mid: f32, spread: f32| mid + rng.random_range(-spread..spread);
    let tone = vary(1.0, 0.12);
    let (p, q, r) = (vary(0.0, 3.0), vary(0.0, 3.0), vary(1.0, 0.3));
    let base = match kind {
        0 => hsv(vary(95.0, 8.0), 0.5, 0.45),
        1 => hsv(vary(210.0, 10.0), 0.05, 0.9),
        2 => hsv(vary(43.0, 4.0), 0.38, 0.8),
        3 => hsv(vary(235.0, 10.0), 0.6, 0.16),
        4 => hsv(vary(192.0, 6.0), 0.5, 0.52),
        5 => hsv(vary(205.0, 5.0), 0.35, 0.88),
        6 => hsv(vary(28.0, 4.0), 0.55, 0.48),
        _ => hsv(vary(12.0, 4.0), 0.5, 0.46),
    };
    let (fw, fh) = (w as f32, h as f32);
    let mut out = Vec::with_capacity((w * h * 3) as usize);
    for y in 0..h {
        for x in 0..w {
            let (u, v) = (x as f32 / fw.min(fh), y as f32 / fw.min(fh));
            let noise = quick.next();
            let (mut shade, mut mix) = (tone, [0.0; 3]);
            match kind {
                0 => {
                    let blade = (u * 90.0 * r + (v * 7.0 + p).sin() * 3.0).sin();
                    shade *= 0.9 + 0.14 * blade * (v * 23.0 + u * 11.0 + q).sin() + 0.2 * (noise - 0.5);
                }
                1 => {
                    shade *= 0.98 + 0.04 * ((u * 5.0 + p).sin() + (v * 6.0 + q).sin());
                    if noise > 0.985 {
                        mix = [40.0; 3];
                    }
                }
                2 => {
                    shade *= 0.96 + 0.05 * ((v * 22.0 + (u * 4.0 + p).sin() * 1.5) * r).sin() + 0.16 * (noise - 0.5);
                }
                3 => {
                    shade *= 0.7 + 0.5 * v;
                    if noise > 0.994 {
                        mix = [190.0; 3];
                    }
                }
                4 => {
                    let wave = ((v * 34.0 + (u * 9.0 + p).sin() * 1.3) * r).sin();
                    shade *= 0.95 + 0.17 * wave;
                }
                5 => {
                    let cloud = (u * 5.0 + p).sin() * (v * 7.0 + q).sin() + 0.5 * (u * 11.0 + v * 6.0 + q).sin();
                    mix = [((cloud - 0.35).clamp(0.0, 0.5)) * 110.0; 3];
                    shade *= 0.9 + 0.12 * v;
                }
                6 => {
                    let plank = (v * 5.0 * r + p).rem_euclid(1.0);
                    shade *= 0.92 + 0.09 * (v * 60.0 + (u * 6.0 + q).sin() * 2.0).sin();
                    if plank < 0.06 {
                        shade *= 0.5;
                    }
                }
                _ => {
                    let row = (v * 9.0 * r + 30.0).floor();
                    let column = u * 4.5 * r + 0.5 * (row % 2.0) + p + 30.0;
                    let mortar = (v * 9.0 * r + 30.0 - row) < 0.16 || column.fract() < 0.07;
                    if mortar {
                        mix = [70.0, 78.0, 78.0];
                    } else {
                        shade *= 0.86 + 0.28 * ((row * 12.99 + column.floor() * 78.2).sin() * 43758.55).rem_euclid(1.0);
                    }
                }
            }
            for c in 0..3 {
                out.push(base[c] * shade + mix[c]);
            }
        }
    }
    out
}

/// What a camera does to a picture: exposure, contrast, sometimes a slight blur, and sensor noise.
pub(crate) struct Camera {
    contrast: f32,
    lift: f32,
    sigma: f32,
    blur: bool,
    /// Seed of the noise.
    pub(crate) noise: u32,
}

impl Camera {
    pub(crate) fn new(rng: &mut impl Rng) -> Self {
        Self {
            contrast: rng.random_range(0.85..1.12),
            lift: rng.random_range(-14.0..14.0),
            sigma: rng.random_range(0.0..14.0),
            blur: rng.random_bool(0.2),
            noise: rng.random(),
        }
    }

    pub(crate) fn develop(&self, canvas: &[f32], width: usize, noise: u32) -> Vec<u8> {
        let mut quick = Quick(noise | 1);
        let stride = width * 3;
        let at = |i: usize, d: isize| -> f32 {
            let j = i.wrapping_add_signed(d);
            canvas.get(j).copied().unwrap_or(canvas[i])
        };
        (0..canvas.len())
            .map(|i| {
                let v = if self.blur {
                    let cross = at(i, -3) + at(i, 3) + at(i, -(stride as isize)) + at(i, stride as isize);
                    canvas[i] * 0.5 + cross * 0.125
                } else {
                    canvas[i]
                };
                // A sum of three uniforms is near enough to a Gaussian; its variance is 3/12.
                let noise = (quick.next() + quick.next() + quick.next() - 1.5) * 2.0 * self.sigma;
                ((v - 128.0) * self.contrast + 128.0 + self.lift + noise).clamp(0.0, 255.0) as u8
            })
            .collect()
    }
}
