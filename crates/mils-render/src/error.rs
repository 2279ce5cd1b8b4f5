//! Why there is no picture.

use mils_http::{Fault, FaultKind};
use std::path::PathBuf;

/// Why there is no picture. Every message is one line that says what to do.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RenderError {
    /// An option makes no sense.
    #[error("{0}")]
    Option(String),
    /// The renderer cannot do this at all.
    #[error("this renderer cannot {what}; leave that out, or take another renderer")]
    Cannot {
        /// What it cannot do.
        what: &'static str,
    },
    /// Nobody answers.
    #[error("{at}: {problem}")]
    Down {
        /// Its address.
        at: String,
        /// What happened.
        problem: String,
    },
    /// It took longer than it may.
    #[error("{at}: {problem} Allow for more time, or ask for fewer steps or a smaller picture")]
    Slow {
        /// Its address, or its program.
        at: String,
        /// What happened.
        problem: String,
    },
    /// The server answers with an error status.
    #[error("{at}: {problem}")]
    Status {
        /// Its address.
        at: String,
        /// The status.
        status: u16,
        /// What it says.
        problem: String,
        /// Whether the same will come of any other job.
        fatal: bool,
    },
    /// What answers speaks another protocol.
    #[error("{at}: {problem}; is it the kind of renderer that it is taken for?")]
    Protocol {
        /// Its address, or its program.
        at: String,
        /// What is wrong.
        problem: String,
    },
    /// The renderer tried, and says that it failed.
    #[error("{at}: it could not draw this: {said}")]
    Failed {
        /// Its address, or its program.
        at: String,
        /// What it says.
        said: String,
    },
    /// The picture has another size.
    #[error("the picture is {} x {} pixels where {} x {} were asked for; ask for what the renderer makes", found.0, found.1, wanted.0, wanted.1)]
    Size {
        /// What was asked for.
        wanted: (u32, u32),
        /// What came.
        found: (u32, u32),
    },
    /// The picture cannot be read.
    #[error("the picture cannot be read ({0}); look into the renderer's log")]
    Corrupt(String),
    /// The picture is black all over, as safety filters leave it.
    #[error(
        "the picture is black all over, as safety filters and broken 16-bit decoders leave it; change the prompt, switch the filter off, or decode in 32 bits"
    )]
    Blank,
    /// The worker's process has died, and died again when it was started anew.
    #[error(
        "{program}: the worker has died ({problem}); it may lack memory for its model, or its model may be damaged"
    )]
    Crashed {
        /// The program.
        program: String,
        /// How it ended, and what it said last.
        problem: String,
        /// It has died so often that others are not worth asking for.
        fatal: bool,
    },
    /// The workflow cannot be used.
    #[error("{}: {problem}", path.display())]
    Workflow {
        /// Its file.
        path: PathBuf,
        /// What is wrong, and what to do.
        problem: String,
    },
    /// The memo cannot be used.
    #[error("cannot keep pictures in {}: {problem}; name another folder, or make room", path.display())]
    Memo {
        /// Its folder.
        path: PathBuf,
        /// What is wrong.
        problem: String,
    },
    /// It was asked to stop.
    #[error("cancelled")]
    Cancelled,
}

impl RenderError {
    /// Whether nothing else will come of other prompts either. A renderer that is down is: it was tried for a while.
    pub fn is_fatal(&self) -> bool {
        match self {
            Self::Status { fatal, .. } | Self::Crashed { fatal, .. } => *fatal,
            Self::Slow { .. } | Self::Failed { .. } | Self::Size { .. } | Self::Corrupt(_) | Self::Blank => false,
            _ => true,
        }
    }

    pub(crate) fn of(fault: Fault, at: &str) -> Self {
        let (at, problem) = (at.to_owned(), fault.problem);
        match fault.kind {
            FaultKind::Cancelled => Self::Cancelled,
            FaultKind::Slow => Self::Slow { at, problem: problem + "." },
            // What a server refuses of one prompt it may take of another.
            FaultKind::Status(status) => {
                Self::Status { at, status, problem, fatal: matches!(status, 401 | 403 | 404 | 405) }
            }
            FaultKind::Answer => Self::Protocol { at, problem },
            _ => Self::Down { at, problem },
        }
    }
}
