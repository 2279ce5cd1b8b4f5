//! Edits by the demo's renderer: it carries out what it understands of an instruction, by plain operations on pixels.

use image::imageops::{self, FilterType};
use image::{Rgb, RgbImage};
use rand::{Rng, RngExt};

/// Most things that are done of one instruction, in the order of their words.
const MOST: usize = 4;
/// Grain that the seed decides: two edits of one instruction differ, as those of a diffusion model do.
const GRAIN: i32 = 3;

/// What can be done.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Effect {
    /// Towards one colour.
    Tint([u8; 3]),
    /// Without colours.
    Grey,
    /// Darker or brighter, by so much of 255.
    Light(i32),
    /// More contrast or less, in percent.
    Contrast(f32),
    /// Less sharp.
    Soft,
    /// As squares.
    Blocks,
    /// With black lines where edges are.
    Lines,
    /// With few tones.
    Flat,
    /// With the tones turned round.
    Negative,
}

/// Words, and what they ask for.
const WORDS: &[(&[&str], Effect)] = &[
    (&["red", "reds", "crimson", "copper"], Effect::Tint([200, 60, 50])),
    (&["orange", "coral", "firelight", "candle"], Effect::Tint([230, 130, 50])),
    (&["yellow", "lemon", "gold", "golds", "golden", "ochre", "sunset"], Effect::Tint([225, 185, 60])),
    (&["sepia", "umber", "brown", "faded", "old", "autumn", "wood"], Effect::Tint([150, 110, 70])),
    (&["green", "greens", "moss", "sage", "verdigris"], Effect::Tint([70, 140, 80])),
    (&["blue", "teal", "turquoise", "cold", "cool", "winter", "moonlight"], Effect::Tint([60, 110, 190])),
    (&["purple", "violet"], Effect::Tint([130, 70, 170])),
    (&["pink", "rose"], Effect::Tint([230, 140, 170])),
    (&["grey", "greys", "silver", "black-and-white", "charcoal", "newspaper", "silent", "engraving"], Effect::Grey),
    (&["dark", "darker", "night", "shadow", "shadows", "gloomy", "eerie"], Effect::Light(-60)),
    (&["bright", "brighter", "light", "lighter", "sunny", "cheerful", "glow"], Effect::Light(45)),
    (&["bold", "hard", "strong", "neon", "poster"], Effect::Contrast(45.0)),
    (&["pale", "pastel", "mist", "quiet"], Effect::Contrast(-35.0)),
    (&["soft", "softer", "blurred", "blended", "smooth", "wash", "washes", "watercolour", "tender"], Effect::Soft),
    (&["pixel", "blocks", "bricks", "mosaic", "game", "squares"], Effect::Blocks),
    (&["ink", "pencil", "line", "lines", "outline", "outlines", "contours", "sketch", "scribbles"], Effect::Lines),
    (&["flat", "flatter", "cut", "print", "pop", "paper", "woodcut", "linocut", "gouache"], Effect::Flat),
    (&["x-ray", "negative"], Effect::Negative),
];

/// What an instruction asks for, as far as it is understood.
fn hear(instruction: &str) -> Vec<Effect> {
    let lower = instruction.to_lowercase();
    let words = lower.split(|c: char| !c.is_alphanumeric() && c != '-').filter(|word| !word.is_empty());
    let meant = |word: &str| WORDS.iter().find(|(words, _)| words.contains(&word)).map(|(_, effect)| *effect);
    let mut effects: Vec<Effect> = Vec::new();
    for effect in words.filter_map(meant) {
        if !effects.contains(&effect) && effects.len() < MOST {
            effects.push(effect);
        }
    }
    effects
}

/// A picture after an instruction; `strength` from 0, which leaves it as it is, to 1.
pub(super) fn edit(picture: &RgbImage, instruction: &str, strength: f32, rng: &mut impl Rng) -> RgbImage {
    let mut edited = picture.clone();
    for effect in hear(instruction) {
        edited = effect.on(&edited);
    }
    for (pixel, before) in edited.pixels_mut().zip(picture.pixels()) {
        let grain = rng.random_range(-GRAIN..=GRAIN);
        for (to, from) in pixel.0.iter_mut().zip(before.0) {
            let value = f32::from(from) + (f32::from(*to) - f32::from(from)) * strength;
            *to = (value.round() as i32 + grain).clamp(0, 255) as u8;
        }
    }
    edited
}

impl Effect {
    fn on(self, picture: &RgbImage) -> RgbImage {
        let (width, height) = picture.dimensions();
        let side = (width.max(height) / 36).max(2);
        match self {
            Self::Tint(colour) => each(picture, |rgb| {
                let tone = luma(rgb);
                std::array::from_fn(|i| 0.45 * rgb[i] + 0.55 * (tone * f32::from(colour[i]) / 128.0))
            }),
            Self::Grey => each(picture, |rgb| [luma(rgb); 3]),
            Self::Light(by) => imageops::brighten(picture, by),
            Self::Contrast(by) => imageops::contrast(picture, by),
            Self::Soft => imageops::blur(picture, side as f32 / 2.0),
            Self::Blocks => {
                let small =
                    imageops::resize(picture, width.div_ceil(side), height.div_ceil(side), FilterType::Triangle);
                imageops::resize(&small, width, height, FilterType::Nearest)
            }
            Self::Lines => {
                let edges = imageops::filter3x3(picture, &[-1.0, -1.0, -1.0, -1.0, 8.0, -1.0, -1.0, -1.0, -1.0]);
                let mut lines = picture.clone();
                for (pixel, edge) in lines.pixels_mut().zip(edges.pixels()) {
                    let line = (luma(edge.0.map(f32::from)) / 64.0).min(1.0);
                    pixel.0 = pixel.0.map(|value| (f32::from(value) * (1.0 - line)) as u8);
                }
                lines
            }
            Self::Flat => each(picture, |rgb| rgb.map(|value| (value / 64.0).floor() * 64.0 + 32.0)),
            Self::Negative => each(picture, |rgb| rgb.map(|value| 255.0 - value)),
        }
    }
}

fn each(picture: &RgbImage, change: impl Fn([f32; 3]) -> [f32; 3]) -> RgbImage {
    let mut changed = picture.clone();
    for pixel in changed.pixels_mut() {
        *pixel = Rgb(change(pixel.0.map(f32::from)).map(|value| value.clamp(0.0, 255.0) as u8));
    }
    changed
}

/// ITU-R BT.601.
fn luma([r, g, b]: [f32; 3]) -> f32 {
    0.299 * r + 0.587 * g + 0.114 * b
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand::SeedableRng;
    use rand_chacha::ChaCha8Rng;

    #[test]
    fn what_is_understood_is_done_and_the_rest_is_left() {
        let colours = |x: u32, y: u32| Rgb([(x * 6) as u8, (y * 6) as u8, 120]);
        let picture = RgbImage::from_fn(40, 30, colours);
        let with = |text: &str, strength| edit(&picture, text, strength, &mut ChaCha8Rng::seed_from_u64(1));
        let near =
            |a: &RgbImage, b: &RgbImage| a.as_raw().iter().zip(b.as_raw()).all(|(a, b)| a.abs_diff(*b) <= GRAIN as u8);
        assert!(near(&with("something else", 1.0), &picture));
        assert!(near(&with("make it a dark ink drawing", 0.0), &picture));
        assert!(!near(&with("make it a dark ink drawing", 1.0), &picture));
        let grey = with("redo it in GREY, grey.", 1.0);
        assert!(grey.pixels().all(|p| p.0.iter().max().unwrap() - p.0.iter().min().unwrap() <= 1));
        assert_eq!(
            hear("dark ink, dark, in soft reds"),
            [Effect::Light(-60), Effect::Lines, Effect::Soft, Effect::Tint([200, 60, 50])]
        );
        for (words, _) in WORDS {
            let edited = edit(&RgbImage::new(16, 1), words[0], 1.0, &mut ChaCha8Rng::seed_from_u64(1));
            assert_eq!(edited.dimensions(), (16, 1));
        }
    }
}
