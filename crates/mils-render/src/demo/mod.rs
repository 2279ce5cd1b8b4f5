//! The demo pack's renderer: it draws what it understands of a prompt, as the scenes were drawn that the pack's encoder
//! was trained on, and edits what it is given.

mod edit;

use crate::{Abilities, Job, RenderError, Renderer};
use image::RgbImage;
use image::imageops::{FilterType, resize};
use mils_demo_world::{reader, render};
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use sha2::{Digest, Sha256};

/// Longest side of a picture: it is drawn by hand, pixel by pixel.
const MOST_SIDE: u32 = 2048;

/// Draws scenes of the demo world. What a prompt names is drawn, as far as it is understood (see
/// [`mils_demo_world::reader`]); what it leaves open is drawn as prompt and seed will have it. Pictures of any kind are edited
/// by plain operations on their pixels, as far as the words of an instruction are known.
#[derive(Clone, Copy, Debug, Default)]
pub struct Demo;

impl Renderer for Demo {
    fn identity(&self) -> String {
        // The number changes when what is drawn does.
        "demo world 1".into()
    }

    fn abilities(&self) -> Abilities {
        Abilities { generates: true, edits: true, seed: true, size: true, strength: true, ..Abilities::default() }
    }

    fn render(&self, job: &Job<'_>) -> Result<RgbImage, RenderError> {
        self.abilities().check(job)?;
        let (width, height) = (job.width, job.height);
        if width.max(height) > MOST_SIDE {
            let problem = format!("a size of {width}x{height}; the demo draws up to {MOST_SIDE} pixels a side");
            return Err(RenderError::Option(problem));
        }
        let mut rng = ChaCha8Rng::seed_from_u64(seed(job));
        if let Some(source) = job.source {
            let same = source.image.dimensions() == (width, height);
            let fitted = (!same).then(|| resize(source.image, width, height, FilterType::Triangle));
            let picture = fitted.as_ref().unwrap_or(source.image);
            return Ok(edit::edit(picture, job.prompt, source.strength.unwrap_or(1.0), &mut rng));
        }
        let heard = reader::read(job.prompt);
        let (content, background) = (heard.content(&mut rng), heard.background(&mut rng));
        Ok(render::render_sized(content, background, (width, height), rng.random()).image)
    }
}

/// Of the words and of the seed, on every machine alike.
fn seed(job: &Job<'_>) -> u64 {
    let mut hash = Sha256::new();
    for word in job.prompt.split_whitespace() {
        hash.update(word.to_lowercase());
        hash.update([0]);
    }
    hash.update(job.seed.to_le_bytes());
    let hash = hash.finalize();
    hash.iter().take(8).fold(0, |seed, byte| seed << 8 | u64::from(*byte))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn draw(prompt: &str, seed: u64) -> RgbImage {
        Demo.render(&Job { width: 144, height: 144, seed, ..Job::new(prompt) }).unwrap()
    }

    #[test]
    fn pictures_follow_from_prompt_and_seed() {
        let prompt = "a big red car to the left of a small blue duck, in the snow";
        assert_eq!(draw(prompt, 1), draw("A  BIG red car to the left of a small blue duck, in the snow", 1));
        assert_ne!(draw(prompt, 1), draw(prompt, 2));
        assert_ne!(draw(prompt, 1), draw("a car", 1));
        for odd in ["", "nothing that it knows", "ä\u{0}\u{202e}🦀", "three big cars, three small cars and a car"] {
            assert_eq!(draw(odd, 0).dimensions(), (144, 144));
        }
        assert_eq!(Demo.render(&Job { width: 16, height: 64, ..Job::new("a duck") }).unwrap().dimensions(), (16, 64));
        assert!(Demo.render(&Job { width: 4096, ..Job::new("a duck") }).is_err());
    }
}
