//! What can go wrong with the registry.

use std::path::PathBuf;

/// A `Result` with this crate's [`Error`].
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// What the caller should do about an error.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ErrorKind {
    /// A person must change something.
    Invalid,
    /// Somebody else came first: look again.
    Conflict,
    /// What the lake holds cannot be read.
    Corrupt,
    /// What the lake's store says.
    Lake,
    /// A mistake in this program.
    Bug,
}

/// An error of the registry.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// What was asked for is wrong.
    #[error("{0}")]
    Invalid(String),
    /// Somebody else changed what is in use at the same time.
    #[error("{0}; look at `uptake models list` and decide again")]
    Conflict(String),
    /// What the lake holds cannot be read.
    #[error("`{path}` in the lake {fault}")]
    Corrupt {
        /// Where.
        path: String,
        /// What is wrong, and what to do.
        fault: String,
    },
    /// A file of this machine.
    #[error("{action} `{}`: {source}", path.display())]
    File {
        /// What was being done.
        action: &'static str,
        /// Which file.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// The lake's store.
    #[error(transparent)]
    Lake(#[from] uptake_lake::Error),
    /// A mistake in this program.
    #[error("a mistake in this program, please report it: {0}")]
    Bug(String),
}

impl Error {
    /// What the caller should do.
    pub fn kind(&self) -> ErrorKind {
        match self {
            Self::Invalid(_) | Self::File { .. } => ErrorKind::Invalid,
            Self::Conflict(_) => ErrorKind::Conflict,
            Self::Corrupt { .. } => ErrorKind::Corrupt,
            Self::Lake(_) => ErrorKind::Lake,
            Self::Bug(_) => ErrorKind::Bug,
        }
    }
}
