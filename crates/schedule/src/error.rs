//! What can go wrong with the scheduler.

use std::path::PathBuf;

/// A `Result` with this crate's [`Error`].
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// What the caller should do about an error.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ErrorKind {
    /// A person must change something.
    Invalid,
    /// The database may answer later.
    Retry,
    /// What the database holds cannot be read.
    Corrupt,
    /// A file or a process of this machine.
    System,
}

/// An error of the scheduler.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// What was asked for is wrong.
    #[error("{0}")]
    Invalid(String),
    /// The database.
    #[error("{action} in the scheduler's database: {source}")]
    Database {
        /// What was being done.
        action: &'static str,
        /// What the driver said.
        source: sqlx::Error,
    },
    /// What the database holds cannot be read.
    #[error("the scheduler's database holds {0}: a newer version of uptake may have written it")]
    Corrupt(String),
    /// A file or a process.
    #[error("{action} `{}`: {source}", path.display())]
    System {
        /// What was being done.
        action: &'static str,
        /// With what.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// Whoever is asked about the data.
    #[error("ask the tables for job `{job}`: {reason}")]
    Ask {
        /// The job whose condition it is.
        job: String,
        /// What was said.
        reason: String,
    },
}

impl Error {
    /// What the caller should do.
    pub fn kind(&self) -> ErrorKind {
        match self {
            Self::Invalid(_) => ErrorKind::Invalid,
            Self::Database { .. } | Self::Ask { .. } => ErrorKind::Retry,
            Self::Corrupt(_) => ErrorKind::Corrupt,
            Self::System { .. } => ErrorKind::System,
        }
    }

    /// For `map_err`: a failure of the database in the middle of something.
    pub(crate) fn database(action: &'static str) -> impl FnOnce(sqlx::Error) -> Self {
        move |source| Self::Database { action, source }
    }

    /// For `map_err`: a failure with a file or a process.
    pub(crate) fn system(action: &'static str, path: impl Into<PathBuf>) -> impl FnOnce(std::io::Error) -> Self {
        move |source| Self::System { action, path: path.into(), source }
    }
}
