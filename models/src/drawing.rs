//! What a pack says of making pictures: how the language model is asked for better prompts, and what draws them.

use crate::settings::{PromptFile, within};
use crate::{LoopChanges, LoopSettings, Pack, PromptChanges, Prompts, Source};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::path::PathBuf;

/// Prompts for language models that follow instructions; taken where a pack has no others.
const CHAT: &str = include_str!("../prompts/chat.toml");
/// The paper's text-to-image search.
const PAPER: LoopChanges =
    LoopChanges { steps: Some(19), keep: Some(20), propose: Some(50), asks: None, patience: None };
/// Pictures at the end, to choose from.
const FINALS: usize = 8;
/// Edits. The paper's 20 steps of 1,000 instructions from 531, of which 100 are kept, are more pictures than most wait for;
/// its pack has them.
const EDITS: LoopChanges =
    LoopChanges { steps: Some(10), keep: Some(30), propose: Some(50), asks: None, patience: None };
/// Instructions that are drawn before the language model is asked.
const EDITS_START: usize = 100;
/// The set that these are of.
const EDITS_INITIAL: &str = "edit";
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
    /// What draws where nothing is named: `demo` is the demo world's renderer, `worker` a process.
    pub renderer: Option<String>,
    /// That process.
    pub worker: Option<WorkerFiles>,
    /// Pictures of the best prompts that are drawn at the end, with other seeds; 8 where it does not say.
    pub finals: Option<usize>,
    /// Width and height of the pictures, in pixels.
    pub size: Option<[u32; 2]>,
}

/// The section `[generate.worker]`: a worker process and the models that it draws with.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct WorkerFiles {
    /// The program, where it is not `mils-render-worker`.
    pub program: Option<PathBuf>,
    /// What it is told beside the files.
    pub arguments: Vec<String>,
    /// One file each, by the name of the argument that it is given as: `model`, `diffusion-model`, `vae`, …
    pub files: BTreeMap<String, Source>,
}

/// A worker process, ready to be started.
#[derive(Clone, Debug, PartialEq)]
pub struct DrawingWorker {
    /// The program, where it is not `mils-render-worker`.
    pub program: Option<PathBuf>,
    /// Its arguments; `None` where its models are still to be downloaded …
    pub arguments: Option<Vec<String>>,
    /// … which this does, for people.
    pub get: String,
}

/// The section `[edit]` of a pack.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct EditFiles {
    /// What differs from the prompts that are built in.
    pub prompt: PromptChanges,
    /// What differs from the settings that are built in.
    #[serde(rename = "loop")]
    pub settings: LoopChanges,
    /// Instructions to begin with: a file, relative to the pack's root, or the name of a set that [`crate::find_bank`]
    /// finds; `edit` where it does not say.
    pub initial: Option<PathBuf>,
    /// How many of them are drawn, from the first; 100 where it does not say.
    pub start: Option<usize>,
    /// What compares styles where nothing else is named.
    pub by: Option<StyleBy>,
}

/// What compares the styles of pictures.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum StyleBy {
    /// Gram matrices of VGG19 (arXiv 1508.06576).
    Vgg,
    /// The direction of an encoder's embeddings (arXiv 2108.00946).
    Clip,
}

/// How pictures are edited with a pack.
#[derive(Clone, Debug, PartialEq)]
pub struct Editing {
    /// What the language model is asked. `about` in it is what the user wants, in words, or nothing.
    pub prompt: Prompts,
    /// Settings of the loop.
    pub settings: LoopSettings,
    /// The file of the instructions to begin with.
    pub initial: PathBuf,
    /// How many of them are drawn.
    pub start: usize,
    /// See [`EditFiles::by`].
    pub by: Option<StyleBy>,
}

/// How pictures are made with a pack.
#[derive(Clone, Debug, PartialEq)]
pub struct Drawing {
    /// What the language model is asked. `about` in it is what was asked for.
    pub prompt: Prompts,
    /// What it is asked to make one prompt of several texts. Their labels say how much each counts; `about` is what is to be
    /// left out, or nothing.
    pub blend: Prompts,
    /// See [`GenerateFiles::captions`].
    pub captions: bool,
    /// Settings of the loop.
    pub settings: LoopSettings,
    /// See [`GenerateFiles::renderer`].
    pub renderer: Option<String>,
    /// See [`GenerateFiles::worker`].
    pub worker: Option<DrawingWorker>,
    /// See [`GenerateFiles::finals`].
    pub finals: usize,
    /// Width and height of the pictures, in pixels.
    pub size: [u32; 2],
}

impl Pack {
    /// How pictures are made with it: every pack with an encoder of pictures can.
    pub fn drawing(&self) -> Drawing {
        let GenerateFiles { prompt, blend, captions, settings, renderer, worker, finals, size } =
            self.generate.clone().unwrap_or_default();
        let (search, merge) = if captions {
            (self.prompt.clone(), self.prompt.clone())
        } else {
            let PromptFile { generate, blend, .. } = built_in();
            (whole(generate), whole(blend))
        };
        Drawing {
            prompt: search.with(&prompt),
            blend: merge.with(&blend),
            captions,
            settings: self.settings.with(&PAPER).with(&settings),
            renderer,
            worker: worker.map(|worker| self.drawing_worker(worker)),
            finals: finals.unwrap_or(FINALS),
            size: size.unwrap_or([SIDE; 2]),
        }
    }

    fn drawing_worker(&self, WorkerFiles { program, arguments, .. }: WorkerFiles) -> DrawingWorker {
        let named = self.worker_paths().map(|paths| {
            let files = paths.iter().map(|(name, path)| format!("--{name}={}", path.display()));
            files.chain(arguments).collect()
        });
        DrawingWorker { program, arguments: named, get: self.get_command() }
    }

    /// The files that its worker draws with, by argument.
    pub(crate) fn worker_files(&self) -> impl Iterator<Item = (&str, &Source)> {
        let worker = self.generate.as_ref().and_then(|generate| generate.worker.as_ref());
        worker.into_iter().flat_map(|worker| worker.files.iter().map(|(name, source)| (name.as_str(), source)))
    }

    /// How pictures are edited with it.
    pub fn editing(&self) -> Editing {
        let EditFiles { prompt, settings, initial, start, by } = self.edit.clone().unwrap_or_default();
        Editing {
            prompt: whole(built_in().edit).with(&prompt),
            settings: self.settings.with(&EDITS).with(&settings),
            initial: self.initial(&initial.unwrap_or_else(|| EDITS_INITIAL.into())),
            start: start.unwrap_or(EDITS_START),
            by,
        }
    }

    /// Numbers that make no sense are found before anything is loaded.
    pub(crate) fn check_drawing(&self) -> Result<(), String> {
        let Editing { settings, start, .. } = self.editing();
        settings.check("edit.loop")?;
        within("edit.start", start, 1, 100_000)?;
        let Drawing { settings, size, finals, .. } = self.drawing();
        within("generate.finals", finals, 0, 10_000)?;
        settings.check("generate.loop")?;
        if let Some((name, _)) = self.worker_files().find(|(_, source)| source.files.len() != 1) {
            return Err(format!("`generate.worker.files.{name}` has one `file`"));
        }
        size.iter().try_for_each(|side| within("generate.size", *side as usize, 16, 8192))
    }
}

/// The prompts that are built in.
fn built_in() -> PromptFile {
    // The file is compiled in; the tests below read it.
    toml::from_str(CHAT).unwrap_or_default()
}

fn whole(part: PromptChanges) -> Prompts {
    let (system, user) = (part.system.unwrap_or_default(), part.user.unwrap_or_default());
    Prompts { system, user }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::download::Hub;
    use crate::{Modality, Store};

    #[test]
    fn packs_are_asked_for_prompts_as_they_can_be() {
        let demo = Pack::find("demo").unwrap().drawing();
        assert!(demo.prompt.user.contains("better caption") && demo.prompt.user.ends_with("100 {{ about }}"));
        assert_eq!((demo.renderer.as_deref(), demo.size), (Some("demo"), [144, 144]));
        let small = Pack::open("small").unwrap().drawing();
        assert!(small.prompt.user.contains("{{ about }}") && !small.prompt.system.is_empty());
        assert!(small.blend.user.contains("{{ about }}") && small.blend != small.prompt);
        assert!(demo.blend.user.contains("better caption") && !demo.blend.user.contains("about"));
        assert_eq!((small.settings.steps, small.settings.keep, small.settings.propose), (19, 20, 50));
        assert_eq!((small.renderer, small.worker, small.size), (None, None, [512, 512]));
    }

    #[test]
    fn a_worker_draws_with_files_of_the_hub() {
        let (dir, hub) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let store = Store::new(Hub::new("https://huggingface.co", hub.path()).unwrap(), dir.path());
        let read = |file: &str| {
            let path = dir.path().join("pack.toml");
            let text = format!(
                "name = 'x'\n[generator]\npath = 'g.gguf'\n[image]\nscorer = 'm'\ninitial = 'i'\n[prompt]\nuser = 'u'\n\
                 [generate]\nrenderer = 'worker'\n[generate.worker]\narguments = ['--steps=4']\nfiles.vae = {file}\n"
            );
            std::fs::write(&path, text).unwrap();
            Pack::read(&path, &store)
        };
        // Of a file that its user puts there, all is known without a hub.
        let pack = read("{ url = 'https://x.org/vae.gguf', file = 'vae.gguf', size = 3, licence = 'MIT' }").unwrap();
        let worker = pack.drawing().worker.unwrap();
        assert_eq!((worker.program, worker.arguments), (None, None));
        let sources = pack.sources(&[Modality::Image]);
        assert_eq!((sources.len(), sources[0].licence.as_str()), (1, "MIT"));
        assert_eq!(pack.missing(&[Modality::Image], &store).len(), 1);
        assert!(pack.missing(&[Modality::Sound], &store).is_empty(), "only who draws needs it");
        let own = store.own_file(&sources[0].files[0]);
        std::fs::create_dir_all(own.parent().unwrap()).unwrap();
        std::fs::write(&own, "vae").unwrap();
        let pack = read("{ url = 'https://x.org/vae.gguf', file = 'vae.gguf', size = 3, licence = 'MIT' }").unwrap();
        let worker = pack.drawing().worker.unwrap();
        assert_eq!(worker.arguments, Some(vec![format!("--vae={}", own.display()), "--steps=4".into()]));
        let two = read("{ repo = 'a/b', files = ['x', 'y'] }").unwrap_err().to_string();
        assert!(two.contains("generate.worker.files.vae"), "{two}");
    }

    #[test]
    fn packs_are_asked_for_edits_as_they_can_be() {
        let small = Pack::open("small").unwrap().editing();
        assert!(small.prompt.user.contains("{{ about }}") && !small.prompt.system.is_empty());
        assert_eq!((small.settings.steps, small.settings.keep, small.settings.propose, small.start), (10, 30, 50, 100));
        assert!(small.initial.ends_with("banks/edit.txt") && small.by.is_none());
        let paper = Pack::open("paper").unwrap().editing();
        assert_eq!((paper.settings.steps, paper.settings.keep, paper.settings.propose), (20, 100, 1000));
    }
}
