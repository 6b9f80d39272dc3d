//! What can go wrong in training, by what the caller can do about it.

use std::path::PathBuf;

/// A failure of training. [`Error::kind`] says what to do about it.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A file could not be read or written.
    #[error("{action} `{path}`", path = path.display())]
    File {
        /// What was tried: "read", "write", "create".
        action: &'static str,
        /// The file.
        path: PathBuf,
        /// The system's answer.
        source: std::io::Error,
    },
    /// A line of the data is no example.
    #[error("`{path}` line {line}: {reason}", path = path.display())]
    Data {
        /// The file.
        path: PathBuf,
        /// Counted from 1.
        line: u64,
        /// What is wrong with it.
        reason: String,
    },
    /// A line to be scored cannot be.
    #[error("line {line}: {reason}")]
    Line {
        /// Counted from 1.
        line: u64,
        /// What is wrong with it.
        reason: String,
    },
    /// The stream of lines, or of scores, broke off.
    #[error("{action} lines")]
    Stream {
        /// What was tried: "read" or "write".
        action: &'static str,
        /// The system's answer.
        source: std::io::Error,
    },
    /// A file of a reward model says something that cannot be served.
    #[error("`{file}` of the reward model is not valid: {reason}")]
    Model {
        /// Which of the files.
        file: &'static str,
        /// What is wrong and what to do.
        reason: String,
    },
    /// The data or the options cannot be trained with.
    #[error("{0}")]
    Invalid(String),
    /// The loss or a gradient is no number any more.
    #[error("training diverged at step {step}: use a lower learning rate")]
    Diverged {
        /// Counted from 0.
        step: usize,
    },
    /// The base encoder cannot be used, or the model that was made does not serve.
    #[error(transparent)]
    Tagger(#[from] uptake_tagger::Error),
    /// Tensor arithmetic failed.
    #[error("compute")]
    Compute(#[from] candle_core::Error),
    /// A promise of this crate to itself was broken.
    #[error("bug in training: {0}")]
    Bug(String),
}

/// What a caller can do about an [`Error`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ErrorKind {
    /// Try again: the system was short of something.
    Retry,
    /// Mend the data, the options or the path.
    Invalid,
    /// Files are broken: fetch them again.
    Corrupt,
    /// A mistake in this program.
    Bug,
}

impl Error {
    /// What a caller can do about it.
    #[must_use]
    pub const fn kind(&self) -> ErrorKind {
        match self {
            Self::File { .. } | Self::Data { .. } | Self::Line { .. } | Self::Invalid(_) | Self::Diverged { .. } => {
                ErrorKind::Invalid
            }
            Self::Stream { .. } => ErrorKind::Retry,
            Self::Model { .. } => ErrorKind::Corrupt,
            Self::Tagger(error) => match error.kind() {
                uptake_tagger::ErrorKind::Retry => ErrorKind::Retry,
                uptake_tagger::ErrorKind::Invalid => ErrorKind::Invalid,
                uptake_tagger::ErrorKind::Corrupt => ErrorKind::Corrupt,
                uptake_tagger::ErrorKind::Bug => ErrorKind::Bug,
            },
            Self::Compute(_) | Self::Bug(_) => ErrorKind::Bug,
        }
    }
}

/// Result of this crate.
pub type Result<T, E = Error> = std::result::Result<T, E>;
