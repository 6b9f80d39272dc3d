//! What can go wrong in annotating, by what the caller can do about it.

use std::path::{Path, PathBuf};

use crate::budget::Exhausted;

/// A failure of annotating. [`Error::kind`] says what to do about it.
#[derive(Clone, Debug, thiserror::Error)]
pub enum Error {
    /// A file could not be read or written.
    #[error("{action} `{path}`: {reason}", path = path.display())]
    File {
        /// What was tried: "read", "write", "create".
        action: &'static str,
        /// The file.
        path: PathBuf,
        /// The system's answer.
        reason: String,
    },
    /// A line of the input is not what it should be.
    #[error("`{path}` line {line}: {reason}", path = path.display())]
    Data {
        /// The file.
        path: PathBuf,
        /// Counted from 1.
        line: u64,
        /// What is wrong with it.
        reason: String,
    },
    /// A rubric cannot be used.
    #[error("the rubric {0}")]
    Rubric(String),
    /// Options that cannot work.
    #[error("{0}")]
    Invalid(String),
    /// An output file belongs to another run, or another process writes it.
    #[error("`{path}` {reason}", path = path.display())]
    Output {
        /// The file.
        path: PathBuf,
        /// Why nothing may be appended to it, and what to do.
        reason: String,
    },
    /// The endpoint refuses in a way that no repetition mends: the key, the model, the address.
    #[error("the endpoint refuses: {0}")]
    Refused(String),
    /// So many rows in a row got no answer that the endpoint must be down.
    #[error(
        "{rows} rows in a row got no answer from the endpoint (last: {last}); run it again when the endpoint is back, what is done is kept"
    )]
    Unanswered {
        /// How many.
        rows: u64,
        /// What became of the last one.
        last: String,
    },
    /// The budget is used up.
    #[error(transparent)]
    Budget(#[from] Exhausted),
    /// Somebody asked for the end.
    #[error("stopped before everything was asked; run it again to go on")]
    Stopped,
    /// A promise of this crate to itself was broken.
    #[error("bug in annotating: {0}")]
    Bug(String),
}

/// What a caller can do about an [`Error`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ErrorKind {
    /// Try again later.
    Retry,
    /// Somebody else is at it, or it belongs to something else.
    Conflict,
    /// Mend the data, the options, the key or the path.
    Invalid,
    /// Ended in order before the work was complete: by a budget or on request.
    Stopped,
    /// A mistake in this program.
    Bug,
}

impl Error {
    /// What a caller can do about it.
    #[must_use]
    pub const fn kind(&self) -> ErrorKind {
        match self {
            Self::File { .. } | Self::Data { .. } | Self::Rubric(_) | Self::Invalid(_) | Self::Refused(_) => {
                ErrorKind::Invalid
            }
            Self::Output { .. } => ErrorKind::Conflict,
            Self::Unanswered { .. } => ErrorKind::Retry,
            Self::Budget(_) | Self::Stopped => ErrorKind::Stopped,
            Self::Bug(_) => ErrorKind::Bug,
        }
    }

    /// A [`Error::File`] from what the system said.
    pub(crate) fn file(action: &'static str, path: &Path, error: &std::io::Error) -> Self {
        Self::File { action, path: path.to_owned(), reason: error.to_string() }
    }
}

/// Result of this crate.
pub type Result<T, E = Error> = std::result::Result<T, E>;
