//! The encoders of a pack, each loaded when the first thing of its modality comes.

use crate::backend::{BackendChoice, Opened, open_backend};
use crate::kept::{self, Kept};
use crate::media::Senses;
use crate::session::{Doing, Options, Say};
use anyhow::{Context, Result, bail};
use mils_encoder::{AnyEncoder, AnyFiles, Embeddings, Licence};
use mils_graph::{Account, Meter};
use mils_models::{LoopSettings, Modality, Pack, Task};
use mils_optim::prompt::PromptTemplate;
use mils_optim::{Config, InitialSet};
use std::borrow::Cow;
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::Ordering;

/// How things of one modality are described.
#[derive(Clone)]
pub struct Mode {
    /// Which.
    pub modality: Modality,
    /// The encoder, as reports call it.
    pub scorer: String,
    /// Settings of the loop.
    pub config: Config,
    /// What the encoder is given of a file.
    pub senses: Senses,
    /// Terms of the encoder's weights, where they are known to restrict their use.
    pub licence: Option<Licence>,
    /// What the language model is asked.
    pub(crate) template: Arc<PromptTemplate>,
    /// The texts that a run starts from.
    pub(crate) initial: Arc<InitialSet>,
    /// Their embeddings, in their order.
    pub(crate) rows: Arc<Embeddings>,
    /// The encoder's number in [`Scorers`].
    pub(crate) encoder: usize,
}

impl Mode {
    /// The texts that a run starts from.
    pub fn initial(&self) -> &[String] {
        self.initial.texts()
    }
}

/// The encoders of a pack on one device.
pub(crate) struct Scorers {
    pack: Pack,
    backend: Meter<'static>,
    /// Its name, with the arithmetic.
    place: String,
    options: Options,
    /// How many texts are scored ahead; see [`Config::score_ahead`].
    score_ahead: usize,
    encoders: Vec<Loaded>,
    modes: BTreeMap<Modality, Arc<Mode>>,
}

/// An encoder on the device.
struct Loaded {
    folder: PathBuf,
    encoder: AnyEncoder,
    licence: Option<Licence>,
}

/// Where the encoders run.
pub(crate) struct Place {
    /// For reports.
    pub name: String,
    /// Whether that is the CPU.
    pub on_cpu: bool,
}

impl Scorers {
    /// Opens the device.
    ///
    /// # Errors
    /// If it cannot be had.
    pub(crate) fn open(
        pack: Pack,
        options: &Options,
        backend: BackendChoice,
        say: &mut Say<'_>,
    ) -> Result<(Self, Place)> {
        let Opened { backend, name, chosen, on_cpu } = open_backend(backend, options.math)?;
        say(Doing::Begins(&format!("encoder on {chosen}")));
        let (encoders, modes) = (Vec::new(), BTreeMap::new());
        let place = name.clone();
        let backend = Meter::counting(backend);
        let scorers = Self { pack, backend, place, options: options.clone(), score_ahead: 0, encoders, modes };
        Ok((scorers, Place { name, on_cpu }))
    }

    /// What the encoders do, for whichever run.
    pub(crate) fn account(&self) -> Account {
        self.backend.account()
    }

    pub(crate) fn score_ahead(&mut self, texts: usize) {
        self.score_ahead = texts;
    }

    /// Reads and checks the encoder's files, without loading them.
    ///
    /// # Errors
    /// If they are damaged, or of an encoder of something else.
    pub(crate) fn files(&self, task: &Task) -> Result<AnyFiles> {
        let modality = task.modality;
        let files = AnyFiles::open_with(&task.scorer, self.options.precision)?;
        let hears = !matches!(files, AnyFiles::Pictures(_));
        if hears != (modality == Modality::Sound) {
            let is = if hears { "sounds" } else { "pictures" };
            bail!(
                "pack `{}`: {} is an encoder of {is}, not one for {modality}s",
                self.pack.name,
                task.scorer.display()
            );
        }
        Ok(files)
    }

    /// How things of a modality are described; loads what is not there yet. `say` is told what is going on.
    ///
    /// # Errors
    /// If the pack has nothing for it, a file is damaged, the device fails, or it was cancelled.
    pub(crate) fn mode(&mut self, modality: Modality, say: &mut Say<'_>) -> Result<Arc<Mode>> {
        if let Some(mode) = self.modes.get(&modality) {
            return Ok(Arc::clone(mode));
        }
        let task = self.pack.task(modality)?;
        if let Some(loaded) = self.encoders.iter().position(|loaded| loaded.folder == task.scorer) {
            return self.begin(&task, loaded, say);
        }
        let files = self.files(&task)?;
        self.load(&task, files, say)
    }

    /// As [`Scorers::mode`], with files that are read already.
    pub(crate) fn load(&mut self, task: &Task, files: AnyFiles, say: &mut Say<'_>) -> Result<Arc<Mode>> {
        say(Doing::Begins("loading the encoder"));
        let licence = files.licence();
        let encoder = files.load(&self.backend)?;
        self.encoders.push(Loaded { folder: task.scorer.clone(), encoder, licence });
        self.begin(task, self.encoders.len() - 1, say)
    }

    fn begin(&mut self, task: &Task, encoder: usize, say: &mut Say<'_>) -> Result<Arc<Mode>> {
        let initial = Arc::new(InitialSet::new(self.initial(task).initial_texts()?));
        let prompt = &task.prompt;
        let template = PromptTemplate::new(&prompt.system, &prompt.user)
            .with_context(|| format!("pack `{}`, {}s", self.pack.name, task.modality))?;
        let known = self.modes.values().find(|m| m.encoder == encoder && m.initial.texts() == initial.texts());
        let rows = match known {
            Some(mode) => Arc::clone(&mode.rows),
            None => {
                self.unless_cancelled()?;
                let Loaded { folder, encoder, .. } = &mut self.encoders[encoder];
                let kept = Kept::of(folder, &self.place, &self.options, say);
                Arc::new(kept::embed(kept.as_ref(), encoder, initial.texts(), &self.options.cancel, say)?)
            }
        };
        self.unless_cancelled()?;
        // The initial set is of no run.
        self.account().take();
        let called = self.pack.scorer_name(task.modality);
        let Loaded { encoder: loaded, licence, .. } = &self.encoders[encoder];
        let mode = Arc::new(Mode {
            modality: task.modality,
            scorer: format!("{}/{}", self.pack.name, called.as_deref().unwrap_or(loaded.name())),
            config: Config { score_ahead: self.score_ahead, ..config(&task.settings, &self.options) },
            senses: Senses::of(loaded),
            licence: *licence,
            template: Arc::new(template),
            initial,
            rows,
            encoder,
        });
        self.modes.insert(task.modality, Arc::clone(&mode));
        Ok(mode)
    }

    /// The mode of a modality that is open, to be changed.
    pub(crate) fn mode_mut(&mut self, modality: Modality) -> Option<&mut Mode> {
        self.modes.get_mut(&modality).map(Arc::make_mut)
    }

    /// The encoder of a mode.
    pub(crate) fn encoder(&mut self, mode: &Mode) -> &mut AnyEncoder {
        self.numbered(mode.encoder)
    }

    /// The encoder of this number, which is a mode's.
    pub(crate) fn numbered(&mut self, encoder: usize) -> &mut AnyEncoder {
        &mut self.encoders[encoder].encoder
    }

    /// The task with the initial set that was asked for.
    fn initial<'a>(&self, task: &'a Task) -> Cow<'a, Task> {
        match &self.options.initial {
            Some(initial) => Cow::Owned(Task { initial: initial.clone(), ..task.clone() }),
            None => Cow::Borrowed(task),
        }
    }

    fn unless_cancelled(&self) -> Result<()> {
        if self.options.cancel.load(Ordering::SeqCst) { bail!("cancelled") } else { Ok(()) }
    }
}

/// The pack's settings with what the command line says over them.
pub(crate) fn config(settings: &LoopSettings, options: &Options) -> Config {
    Config {
        steps: options.steps.unwrap_or(settings.steps),
        keep: options.keep.unwrap_or(settings.keep),
        propose: options.propose.unwrap_or(settings.propose),
        asks: settings.asks,
        seed: options.seed,
        label_scale: settings.label_scale,
        patience: (settings.patience > 0).then_some(settings.patience),
        feedback: options.feedback,
        score_ahead: 0,
    }
}
