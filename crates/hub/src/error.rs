//! What can go wrong, by what the caller can do about it.

use std::path::{Path, PathBuf};

/// A model cannot be had. [`Error::kind`] says what to do about it.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The environment says something that cannot be used.
    #[error("{0}")]
    Invalid(String),
    /// The hub knows no such repository.
    #[error(
        "there is no directory `{name}`, and {endpoint} has no model of that name (or it is private: set HF_TOKEN to a token that may read it)"
    )]
    NoRepository {
        /// What was asked for.
        name: String,
        /// Where.
        endpoint: String,
    },
    /// The repository has no such branch, tag or commit.
    #[error("the model `{repository}` has no revision `{revision}`")]
    NoRevision {
        /// Which model.
        repository: String,
        /// What was asked for.
        revision: String,
    },
    /// The hub wants to know who asks.
    #[error("{endpoint} does not let everybody read `{name}`: {advice}")]
    Denied {
        /// What was asked for.
        name: String,
        /// Where.
        endpoint: String,
        /// What to do.
        advice: String,
    },
    /// The repository lacks files that a base model has.
    #[error("the model `{name}` has no {missing}: {advice}")]
    Missing {
        /// What was asked for.
        name: String,
        /// Names of files.
        missing: String,
        /// What to do.
        advice: &'static str,
    },
    /// Nothing may be asked, and the cache does not have it.
    #[error("the model `{name}` is not whole in `{cache}` ({missing} is missing) and HF_HUB_OFFLINE is set: unset it, or name a directory", cache = cache.display())]
    Offline {
        /// What was asked for.
        name: String,
        /// Where it was looked for.
        cache: PathBuf,
        /// What is not there.
        missing: String,
    },
    /// No connection, or one that breaks again and again.
    #[error(
        "{endpoint} cannot be reached for `{name}` ({reason}): look at the network or HF_ENDPOINT, or name a directory; what was fetched is kept"
    )]
    Network {
        /// What was asked for.
        name: String,
        /// Where.
        endpoint: String,
        /// What the last attempt came to.
        reason: String,
    },
    /// The hub answers with an error.
    #[error("{endpoint} answers {status} for `{name}`{words}")]
    Server {
        /// What was asked for.
        name: String,
        /// Where.
        endpoint: String,
        /// The HTTP status.
        status: u16,
        /// Its own words, after a colon; empty where it has none.
        words: String,
    },
    /// What came is not what was announced.
    #[error("`{file}` of `{name}` is not what the hub announced ({reason}): run it again; what came was thrown away")]
    Corrupt {
        /// What was asked for.
        name: String,
        /// The file.
        file: String,
        /// What differs.
        reason: String,
    },
    /// A file of the cache could not be read or written.
    #[error("{action} `{path}`", path = path.display())]
    File {
        /// What was tried.
        action: &'static str,
        /// The file.
        path: PathBuf,
        /// The system's answer.
        source: std::io::Error,
    },
}

/// What a caller can do about an [`Error`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ErrorKind {
    /// Try again later.
    Retry,
    /// Mend the name, the token or the environment.
    Invalid,
    /// What was fetched is broken.
    Corrupt,
}

impl Error {
    /// What a caller can do about it.
    #[must_use]
    pub const fn kind(&self) -> ErrorKind {
        match self {
            Self::Network { .. } | Self::Server { .. } => ErrorKind::Retry,
            Self::Corrupt { .. } => ErrorKind::Corrupt,
            Self::Invalid(_)
            | Self::NoRepository { .. }
            | Self::NoRevision { .. }
            | Self::Denied { .. }
            | Self::Missing { .. }
            | Self::Offline { .. }
            | Self::File { .. } => ErrorKind::Invalid,
        }
    }

    pub(crate) fn file(action: &'static str, path: &Path) -> impl FnOnce(std::io::Error) -> Self {
        let path = path.to_owned();
        move |source| Self::File { action, path, source }
    }
}

/// Result of this crate.
pub type Result<T, E = Error> = std::result::Result<T, E>;
