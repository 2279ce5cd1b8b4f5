//! What a pack says of making pictures: how the language model is asked for better prompts, and what draws them.

use crate::settings::{PromptFile, within};
use crate::{LoopChanges, LoopSettings, Pack, PromptChanges, Prompts};
use serde::Deserialize;

/// Prompts for language models that follow instructions; taken where a pack has no others.
const CHAT: &str = include_str!("../prompts/chat.toml");
/// The paper's text-to-image search.
const PAPER: LoopChanges =
    LoopChanges { steps: Some(19), keep: Some(20), propose: Some(50), asks: None, patience: None };
/// Pixels of a side where nothing else is said: the least that diffusion models draw well.
const SIDE: u32 = 512;

/// The section `[generate]` of a pack.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct GenerateFiles {
    /// What differs from the prompts that are built in.
    pub prompt: PromptChanges,
    /// The same of what makes one prompt of several texts.
    pub blend: PromptChanges,
    /// The language model knows how to propose captions and nothing else: it is asked by the pack's own prompts for
    /// captions of what the pictures should show.
    pub captions: bool,
    /// What differs from the paper's settings for it.
    #[serde(rename = "loop")]
    pub settings: LoopChanges,
    /// What draws where nothing is named: `demo` is the demo world's renderer.
    pub renderer: Option<String>,
    /// Width and height of the pictures, in pixels.
    pub size: Option<[u32; 2]>,
}

/// How pictures are made with a pack.
#[derive(Clone, Debug, PartialEq)]
pub struct Drawing {
    /// What the language model is asked. `about` in it is what was asked for.
    pub prompt: Prompts,
    /// What it is asked to make one prompt of several texts. Their labels say how much each counts; `about` is what is to be
    /// left out, or nothing.
    pub blend: Prompts,
    /// Settings of the loop.
    pub settings: LoopSettings,
    /// See [`GenerateFiles::renderer`].
    pub renderer: Option<String>,
    /// Width and height of the pictures, in pixels.
    pub size: [u32; 2],
}

impl Pack {
    /// How pictures are made with it: every pack with an encoder of pictures can.
    pub fn drawing(&self) -> Drawing {
        let GenerateFiles { prompt, blend, captions, settings, renderer, size } =
            self.generate.clone().unwrap_or_default();
        let (search, merge) = if captions { (self.prompt.clone(), self.prompt.clone()) } else { built_in() };
        Drawing {
            prompt: search.with(&prompt),
            blend: merge.with(&blend),
            settings: self.settings.with(&PAPER).with(&settings),
            renderer,
            size: size.unwrap_or([SIDE; 2]),
        }
    }

    /// Numbers that make no sense are found before anything is loaded.
    pub(crate) fn check_drawing(&self) -> Result<(), String> {
        let Drawing { settings, size, .. } = self.drawing();
        settings.check("generate.loop")?;
        size.iter().try_for_each(|side| within("generate.size", *side as usize, 16, 8192))
    }
}

/// The prompts that are built in: for the search, and for several texts.
fn built_in() -> (Prompts, Prompts) {
    // The file is compiled in; the test below reads it.
    let (search, merge) =
        toml::from_str::<PromptFile>(CHAT).map(|file| (file.generate, file.blend)).unwrap_or_default();
    let whole = |part: PromptChanges| {
        let (system, user) = (part.system.unwrap_or_default(), part.user.unwrap_or_default());
        Prompts { system, user }
    };
    (whole(search), whole(merge))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn packs_are_asked_for_prompts_as_they_can_be() {
        let demo = Pack::find("demo").unwrap().drawing();
        assert!(demo.prompt.user.contains("better caption") && !demo.prompt.user.contains("about"));
        assert_eq!((demo.renderer.as_deref(), demo.size), (Some("demo"), [144, 144]));
        let small = Pack::open("small").unwrap().drawing();
        assert!(small.prompt.user.contains("{{ about }}") && !small.prompt.system.is_empty());
        assert!(small.blend.user.contains("{{ about }}") && small.blend != small.prompt);
        assert_eq!(demo.blend, demo.prompt);
        assert_eq!((small.settings.steps, small.settings.keep, small.settings.propose), (19, 20, 50));
        assert_eq!((small.renderer, small.size), (None, [512, 512]));
    }
}
