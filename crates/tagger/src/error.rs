//! What can go wrong in tagging, by what the caller can do about it.

use std::path::PathBuf;

/// A failure of the tagger. [`Error::kind`] says what to do about it.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A file of the model directory, the input or the output could not be read or written.
    #[error("{action} `{path}`", path = path.display())]
    File {
        /// What was tried: "read" or "write".
        action: &'static str,
        /// The file.
        path: PathBuf,
        /// The system's answer.
        source: std::io::Error,
    },
    /// The stream of conversations, or of results, broke off.
    #[error("{action} conversations")]
    Stream {
        /// What was tried: "read" or "write".
        action: &'static str,
        /// The system's answer.
        source: std::io::Error,
    },
    /// A file of the model says something that cannot be served.
    #[error("`{file}` of the tagger is not valid: {reason}")]
    Model {
        /// Which of the files.
        file: &'static str,
        /// What is wrong and what to do.
        reason: String,
    },
    /// The model computes something else than what it computed when it was made.
    #[error(
        "the tagger computes {computed} for output `{output}` of golden example {example}, its tagger.json says {expected}: \
         its files do not belong together, fetch the model again"
    )]
    Golden {
        /// Position of the example in tagger.json.
        example: usize,
        /// Name of the output.
        output: &'static str,
        /// What tagger.json says.
        expected: f32,
        /// What came out.
        computed: f32,
    },
    /// A line of the input is no conversation.
    #[error("line {line}: {reason}")]
    Line {
        /// Counted from 1.
        line: u64,
        /// What is wrong with it.
        reason: String,
    },
    /// Tensor arithmetic failed, which valid files never cause.
    #[error("compute signals")]
    Compute(#[from] candle_core::Error),
    /// The tokenizer refused a text, which normalised text never causes.
    #[error("tokenise text")]
    Tokenise(#[source] tokenizers::Error),
    /// Worker threads could not be started.
    #[error("start worker threads")]
    Threads(#[from] rayon::ThreadPoolBuildError),
    /// A promise of this crate to itself was broken.
    #[error("bug in the tagger: {0}")]
    Bug(&'static str),
}

/// What a caller can do about an [`Error`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ErrorKind {
    /// Try again: the system was short of something.
    Retry,
    /// Mend the input, the settings or the path.
    Invalid,
    /// The model's files are broken: fetch them again.
    Corrupt,
    /// A mistake in this program.
    Bug,
}

impl Error {
    /// What a caller can do about it.
    #[must_use]
    pub const fn kind(&self) -> ErrorKind {
        match self {
            Self::File { .. } | Self::Line { .. } => ErrorKind::Invalid,
            Self::Stream { .. } | Self::Threads(_) => ErrorKind::Retry,
            Self::Model { .. } | Self::Golden { .. } => ErrorKind::Corrupt,
            Self::Compute(_) | Self::Tokenise(_) | Self::Bug(_) => ErrorKind::Bug,
        }
    }

    pub(crate) fn model(file: &'static str, reason: impl Into<String>) -> Self {
        Self::Model { file, reason: reason.into() }
    }
}

/// Result of this crate.
pub type Result<T, E = Error> = std::result::Result<T, E>;
