//! Draws a moving scene at any time.

use super::Scene;
use super::facts::{Actor, ICONS};
use crate::render::{Camera, Rgb, background, ink, lay_over, stamp};
use image::RgbImage;
use rand::{Rng, RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use tiny_skia::Pixmap;

/// Cells of the invisible grid that objects stand on and move between, along each side: the patches of the demo's
/// encoder, as in the world of pictures.
const CELLS: u8 = 4;
/// The share of its cells that an object fills.
const FILL: f32 = 0.95;

/// Where an object is at some time: what the training script's hints are made from.
#[derive(Clone, Copy, Debug, PartialEq, serde::Serialize)]
pub struct Placed {
    /// Index of the noun.
    pub noun: u8,
    /// Index of the colour.
    pub colour: u8,
    /// Index of the verb.
    pub verb: u8,
    /// x0, y0, x1, y1 as shares of the frame's width and height.
    #[serde(rename = "box")]
    pub bounds: [f32; 4],
}

/// Upper left cell and number of cells along a side.
type Square = (u8, u8, u8);

/// An object with its way through the scene.
struct Path {
    actor: Actor,
    from: Square,
    to: Square,
    rgb: Rgb,
    tilt: f32,
    /// Degrees that it turns.
    turn: f32,
    /// When it begins and ends to do what it does, as shares of the scene's time.
    begin: f32,
    end: f32,
}

/// A moving scene, ready to be drawn.
pub struct Clip {
    width: u32,
    height: u32,
    canvas: Vec<f32>,
    camera: Camera,
    paths: Vec<Path>,
}

impl Clip {
    /// Everything that the facts leave open follows from `scene.seed`.
    pub fn new(scene: &Scene) -> Self {
        let mut rng = ChaCha8Rng::seed_from_u64(scene.seed);
        let short = rng.random_range(112..=208_u32);
        let long = (short as f32 * rng.random_range(1.0..1.16)) as u32;
        let (width, height) = if rng.random_bool(0.5) { (long, short) } else { (short, long) };
        let actors: Vec<Actor> = scene.facts.actors().collect();
        let paths = place(&actors, &mut rng);
        let canvas = background(scene.facts.background.unwrap_or(0), width, height, &mut rng);
        Self { width, height, canvas, camera: Camera::new(&mut rng), paths }
    }

    /// The frame at time `t`, 0 for the begin and 1 for the end.
    pub fn frame(&self, t: f32) -> RgbImage {
        let mut canvas = self.canvas.clone();
        if let Some(mut pixmap) = Pixmap::new(self.width, self.height) {
            for path in self.paths.iter().filter(|path| path.is_seen(t)) {
                let (x, y, side) = self.square(path, t);
                let angle = path.tilt + path.turn * path.done(t);
                stamp(&mut pixmap, ICONS[usize::from(path.actor.noun)], path.rgb, side, angle, (x, y));
            }
            lay_over(&mut canvas, &pixmap);
        }
        // Noise of its own for every frame, the same for the same time.
        let noise = self.camera.noise.wrapping_add(t.to_bits()).wrapping_mul(0x9E37_79B9);
        let bytes = self.camera.develop(&canvas, self.width as usize, noise);
        // The buffer has exactly width * height * 3 bytes: `develop` maps the canvas one to one.
        RgbImage::from_raw(self.width, self.height, bytes).unwrap_or_default()
    }

    /// `count` frames at equal steps from the begin to the end.
    pub fn frames(&self, count: usize) -> Vec<RgbImage> {
        times(count).map(|t| self.frame(t)).collect()
    }

    /// The objects that are seen at time `t`.
    pub fn objects(&self, t: f32) -> Vec<Placed> {
        let (w, h) = (self.width as f32, self.height as f32);
        let placed = |path: &Path| {
            let (x, y, side) = self.square(path, t);
            let half = side / 2.0;
            let bounds = [(x - half) / w, (y - half) / h, (x + half) / w, (y + half) / h];
            let Actor { noun, colour, verb } = path.actor;
            Placed { noun, colour, verb, bounds }
        };
        self.paths.iter().filter(|path| path.is_seen(t)).map(placed).collect()
    }

    /// Middle and side in pixels.
    fn square(&self, path: &Path, t: f32) -> (f32, f32, f32) {
        let cells = f32::from(CELLS);
        let (cell_w, cell_h) = (self.width as f32 / cells, self.height as f32 / cells);
        let done = path.done(t);
        let mix = |of: fn(Square) -> f32| of(path.from) + (of(path.to) - of(path.from)) * done;
        let x = mix(|(column, _, n)| f32::from(column) + f32::from(n) / 2.0) * cell_w;
        let y = mix(|(_, row, n)| f32::from(row) + f32::from(n) / 2.0) * cell_h;
        (x, y, mix(|(_, _, n)| f32::from(n)) * cell_w.min(cell_h) * FILL)
    }
}

/// The times of `count` frames at equal steps from 0 to 1; one alone is at 0.
pub fn times(count: usize) -> impl Iterator<Item = f32> {
    (0..count).map(move |i| i as f32 / (count - 1).max(1) as f32)
}

impl Path {
    /// How much of what it does is done, 0 to 1; it starts and ends softly.
    fn done(&self, t: f32) -> f32 {
        if matches!(self.actor.verb, 7 | 8) {
            return 0.0;
        }
        let x = ((t - self.begin) / (self.end - self.begin)).clamp(0.0, 1.0);
        x * x * (3.0 - 2.0 * x)
    }

    fn is_seen(&self, t: f32) -> bool {
        match self.actor.verb {
            7 => t >= self.end,
            8 => t < self.end,
            _ => true,
        }
    }
}

/// Ways that never come upon each other, so that nothing is ever hidden.
fn place(actors: &[Actor], rng: &mut ChaCha8Rng) -> Vec<Path> {
    for attempt in 0.. {
        let squares: Vec<(Square, Square)> = actors.iter().map(|a| way(a.verb, attempt < 20, rng)).collect();
        let apart = match squares[..] {
            [a, b] => {
                let (a, b) = (swept(a), swept(b));
                a.0 > b.2 || b.0 > a.2 || a.1 > b.3 || b.1 > a.3
            }
            _ => true,
        };
        if apart {
            return actors.iter().zip(squares).map(|(&actor, squares)| Path::new(actor, squares, rng)).collect();
        }
    }
    Vec::new()
}

/// First and last column and row of all that lies on the way.
fn swept((from, to): (Square, Square)) -> (u8, u8, u8, u8) {
    let last = |a: u8, n: u8| a + n - 1;
    let right = last(from.0, from.2).max(last(to.0, to.2));
    let below = last(from.1, from.2).max(last(to.1, to.2));
    (from.0.min(to.0), from.1.min(to.1), right, below)
}

/// A random way of an object that does something; `roomy`: it may be of two by two cells and go far.
fn way(verb: u8, roomy: bool, rng: &mut impl Rng) -> (Square, Square) {
    let n = if roomy && rng.random_bool(0.4) { 2 } else { 1 };
    let mut at = |room: u8| rng.random_range(0..=CELLS - room);
    match verb {
        0..4 => {
            let (along, across) = (at(n + 2), at(n));
            // From one end of the way to the other, which is as long as there is room for, or of two cells.
            let far = if roomy && n == 1 && at(CELLS - 1) == 0 { CELLS - 1 } else { 2 };
            let along = if far == 2 { along } else { 0 };
            let (near, end) = if verb < 2 {
                ((along, across, n), (along + far, across, n))
            } else {
                ((across, along, n), (across, along + far, n))
            };
            // To the left and up is towards 0.
            if verb == 0 || verb == 2 { (end, near) } else { (near, end) }
        }
        4 | 5 => {
            // The small one stands in a corner of the big one's cells.
            let (column, row) = (at(2), at(2));
            let small = (column + at(3), row + at(3), 1);
            let big = (column, row, 2);
            if verb == 4 { (small, big) } else { (big, small) }
        }
        _ => {
            let square = (at(n), at(n), n);
            (square, square)
        }
    }
}

impl Path {
    fn new(actor: Actor, (from, to): (Square, Square), rng: &mut impl Rng) -> Self {
        let rgb = ink(actor.colour, rng);
        let tilt = rng.random_range(-4.0..4.0);
        let turn = match actor.verb {
            6 => rng.random_range(300.0..420.0) * if rng.random_bool(0.5) { 1.0 } else { -1.0 },
            _ => 0.0,
        };
        // Early enough that the last of eight frames at whole steps, which may be at two thirds, sees it done.
        let begin = rng.random_range(0.02..0.15);
        let end = if matches!(actor.verb, 7 | 8) { rng.random_range(0.2..0.58) } else { rng.random_range(0.52..0.68) };
        Self { actor, from, to, rgb, tilt, turn, begin, end }
    }
}
