//! Which sounds there are, what a caption says of a recording, and how the one is judged by the other.

use serde::{Deserialize, Serialize};

/// A sound, and the ways to name it.
#[derive(Debug)]
pub struct Sound {
    /// Its name in ESC-10, or ours for one that is not in it.
    pub name: &'static str,
    /// Whole sentences; the first is the plainest.
    pub clauses: &'static [&'static str],
    /// What can stand after "the sound of", and what cannot.
    pub phrases: [&'static str; 2],
}

const fn sound(name: &'static str, clauses: &'static [&'static str], phrases: [&'static str; 2]) -> Sound {
    Sound { name, clauses, phrases }
}

/// The first so many sounds are ESC-10's, in its order: those that recordings have.
pub const RECORDED: u8 = 10;

/// All sounds. A sound is an index into this.
pub const SOUNDS: [Sound; 28] = [
    sound("Dog bark", &["a dog barks", "a dog is barking"], ["a barking dog", "the bark of a dog"]),
    sound("Rain", &["rain falls", "rain is falling", "it is raining"], ["falling rain", "the patter of rain"]),
    sound(
        "Sea waves",
        &["waves break on the shore", "waves are breaking on the shore"],
        ["breaking waves", "the surf of the sea"],
    ),
    sound("Baby cry", &["a baby cries", "a baby is crying"], ["a crying baby", "the cry of a baby"]),
    sound("Clock tick", &["a clock ticks", "a clock is ticking"], ["a ticking clock", "the ticking of a clock"]),
    sound("Person sneeze", &["a person sneezes", "a person is sneezing"], ["a sneezing person", "a loud sneeze"]),
    sound(
        "Helicopter",
        &["a helicopter flies", "a helicopter is flying"],
        ["a flying helicopter", "the rotor of a helicopter"],
    ),
    sound("Chainsaw", &["a chainsaw runs", "a chainsaw is running"], ["a running chainsaw", "the roar of a chainsaw"]),
    sound("Rooster", &["a rooster crows", "a rooster is crowing"], ["a crowing rooster", "the crow of a rooster"]),
    sound("Fire crackling", &["a fire crackles", "a fire is crackling"], ["a crackling fire", "the crackle of a fire"]),
    sound("Guitar", &["a guitar plays", "a guitar is playing"], ["a strummed guitar", "the strings of a guitar"]),
    sound("Piano", &["a piano plays", "a piano is playing"], ["a played piano", "the keys of a piano"]),
    sound("Drum", &["a drum beats", "a drum is beating"], ["a beating drum", "the beat of a drum"]),
    sound("Cat", &["a cat meows", "a cat is meowing"], ["a meowing cat", "the meow of a cat"]),
    sound("Bird", &["a bird sings", "a bird is singing"], ["a singing bird", "the song of a bird"]),
    sound("Cow", &["a cow moos", "a cow is mooing"], ["a mooing cow", "the moo of a cow"]),
    sound("Sheep", &["a sheep bleats", "a sheep is bleating"], ["a bleating sheep", "the bleat of a sheep"]),
    sound("Frog", &["a frog croaks", "a frog is croaking"], ["a croaking frog", "the croak of a frog"]),
    sound("Bell", &["a bell rings", "a bell is ringing"], ["a ringing bell", "the chime of a bell"]),
    sound("Siren", &["a siren wails", "a siren is wailing"], ["a wailing siren", "the wail of a siren"]),
    sound("Car", &["a car passes", "a car is passing"], ["a passing car", "the engine of a car"]),
    sound("Train", &["a train rolls by", "a train is rolling by"], ["a rolling train", "the rattle of a train"]),
    sound("Door", &["a door creaks", "a door is creaking"], ["a creaking door", "the creak of a door"]),
    sound("Wind", &["wind howls", "wind is howling"], ["howling wind", "the howl of the wind"]),
    sound("Crowd", &["people talk", "people are talking"], ["talking people", "the chatter of people"]),
    sound("Laughter", &["a woman laughs", "a woman is laughing"], ["a laughing woman", "the laugh of a woman"]),
    sound("Snoring", &["a man snores", "a man is snoring"], ["a snoring man", "the snore of a man"]),
    sound("Phone", &["a phone buzzes", "a phone is buzzing"], ["a buzzing phone", "the buzz of a phone"]),
];

/// What a caption says is heard, or what is: one sound, or two at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Facts {
    first: u8,
    second: Option<u8>,
}

impl Facts {
    /// One sound.
    ///
    /// # Panics
    /// If there is no such sound.
    pub fn one(sound: u8) -> Self {
        assert!(usize::from(sound) < SOUNDS.len(), "there is no sound {sound}");
        Self { first: sound, second: None }
    }

    /// Two sounds, in any order; one if they are the same.
    ///
    /// # Panics
    /// If there is no such sound.
    pub fn two(a: u8, b: u8) -> Self {
        assert!(usize::from(a.max(b)) < SOUNDS.len(), "there is no sound {}", a.max(b));
        Self { first: a.min(b), second: (a != b).then_some(a.max(b)) }
    }

    /// Its sounds, ascending.
    pub fn sounds(&self) -> Vec<u8> {
        std::iter::once(self.first).chain(self.second).collect()
    }

    /// Whether it says so of this sound.
    pub fn has(&self, sound: u8) -> bool {
        self.first == sound || self.second == Some(sound)
    }

    /// Whether a recording can be so.
    pub fn is_recorded(&self) -> bool {
        self.sounds().iter().all(|s| *s < RECORDED)
    }
}

/// The share of the sounds that are heard which the caption names, 0 to 1.
pub fn recall(truth: &Facts, caption: &Facts) -> f32 {
    let sounds = truth.sounds();
    sounds.iter().filter(|s| caption.has(**s)).count() as f32 / sounds.len() as f32
}

/// The share of the sounds that the caption names which are heard, 0 to 1.
pub fn precision(truth: &Facts, caption: &Facts) -> f32 {
    recall(caption, truth)
}

/// Whether the caption names every sound that is heard, and no other.
pub fn exact(truth: &Facts, caption: &Facts) -> bool {
    truth == caption
}
