//! What can be wrong with a checkpoint or a run.

use mils_graph::{BackendError, GraphError, TensorError};
use std::path::PathBuf;

/// Why an encoder could not be opened or run. Every message is one line; what is wrong with a file names its path.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum EncoderError {
    /// A file of the checkpoint cannot be read.
    #[error("{}: {problem}", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// What is wrong with it, and what to do.
        problem: String,
    },
    /// A tensor is not there.
    #[error("{}: tensor `{name}` {expected:?} is missing; the file is another model's or incomplete", path.display())]
    MissingTensor {
        /// The file, or the folder of several.
        path: PathBuf,
        /// The tensor.
        name: String,
        /// Its shape by the configuration.
        expected: Vec<usize>,
    },
    /// A tensor has another shape than the configuration says.
    #[error("{}: tensor `{name}` should be {expected:?} by the configuration but is {found:?}", path.display())]
    TensorShape {
        /// The file.
        path: PathBuf,
        /// The tensor.
        name: String,
        /// By the configuration.
        expected: Vec<usize>,
        /// In the file.
        found: Vec<usize>,
    },
    /// Tensors that the model has no place for.
    #[error(
        "{}: {count} tensors do not belong to the configured model, the first is `{}`",
        path.display(),
        name.escape_debug()
    )]
    LeftOver {
        /// The file.
        path: PathBuf,
        /// The first of them, as the file has it.
        name: String,
        /// How many there are.
        count: usize,
    },
    /// A text cannot be tokenised.
    #[error("cannot tokenise {text:?}: {problem}")]
    Tokenize {
        /// The beginning of the text.
        text: String,
        /// Why.
        problem: String,
    },
    /// A sound has nothing that could be embedded, or cannot be heard.
    #[error("cannot embed a sound: {problem}")]
    Sound {
        /// Why.
        problem: String,
    },
    /// It takes other things.
    #[error("{model} is an encoder of {takes} and cannot embed {given}; name another model")]
    Sense {
        /// The encoder's name.
        model: String,
        /// What it takes, in the plural.
        takes: &'static str,
        /// What it was given, with its article.
        given: &'static str,
    },
    /// An image cannot be brought to the model's size.
    #[error(transparent)]
    Preprocess(#[from] mils_media::PreprocessError),
    /// A video has not as many frames as the model takes.
    #[error("video {video} has {found} frames; {model} takes {wanted}")]
    Frames {
        /// The encoder's name.
        model: String,
        /// Which of the videos, from 0.
        video: usize,
        /// Its frames.
        found: usize,
        /// What is taken: a number, or `at least 1`.
        wanted: String,
    },
    /// The shapes of the configuration do not fit together, or a batch of them is too large.
    #[error("the configuration asks for a model that cannot be built: {0}")]
    Graph(#[from] GraphError),
    /// An embedding has values that are no numbers.
    #[error(
        "{model}: the {tower} tower gives values that are not finite; its weights are damaged or too large for f32"
    )]
    NotFinite {
        /// The encoder's name.
        model: String,
        /// `image`, `audio` or `text`.
        tower: &'static str,
    },
    /// The device failed.
    #[error(transparent)]
    Backend(#[from] BackendError),
    /// Shape and data do not fit together.
    #[error(transparent)]
    Tensor(#[from] TensorError),
}

impl EncoderError {
    pub(crate) fn file(path: impl Into<PathBuf>, problem: impl std::fmt::Display) -> Self {
        let problem = problem.to_string();
        let problem = problem.split_whitespace().collect::<Vec<_>>().join(" ");
        Self::File { path: path.into(), problem }
    }
}
