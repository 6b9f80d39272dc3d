//! What can go wrong, by what the caller does about it.

use datafusion::error::DataFusionError;

/// The result of this crate's functions.
pub type Result<T> = std::result::Result<T, Error>;

/// What the caller does about an error.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ErrorKind {
    /// Something that the user gave is wrong: mend it.
    Invalid,
    /// The tables could not be read or written: see the source; a later run takes up where this one stopped.
    Lake,
    /// A statement failed while it ran.
    Query,
    /// A fault of this program.
    Bug,
}

/// An error of the jobs.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The files of the pipelines cannot be read.
    #[error("read the pipelines in {path}")]
    Read {
        /// Directory or file.
        path: String,
        /// What the system said.
        source: std::io::Error,
    },
    /// A pipeline is not what it must be.
    #[error("pipeline `{pipeline}`: {message}")]
    Pipeline {
        /// Its name.
        pipeline: String,
        /// What is wrong, and what to do.
        message: String,
    },
    /// No pipeline of that name.
    #[error("no pipeline `{name}`; there are {known}")]
    Unknown {
        /// What was asked for.
        name: String,
        /// What there is.
        known: String,
    },
    /// Pipelines that read each other.
    #[error("pipelines read each other in a circle: {}; read an earlier build of the own output as `previous.<table>`", names.join(" → "))]
    Circle {
        /// The circle, its first name again at the end.
        names: Vec<String>,
    },
    /// A statement of a pipeline failed.
    #[error("pipeline `{pipeline}`: {action}")]
    Query {
        /// The pipeline.
        pipeline: String,
        /// What was being done.
        action: &'static str,
        /// What the engine said.
        source: Box<DataFusionError>,
    },
    /// The tables could not be read or written.
    #[error("{action}")]
    Lake {
        /// What was being done.
        action: String,
        /// What the lake said.
        source: Box<uptake_lake::Error>,
    },
    /// A fault of this program.
    #[error("{0}")]
    Bug(String),
}

impl Error {
    /// What the caller does about it.
    pub fn kind(&self) -> ErrorKind {
        match self {
            Self::Read { .. } | Self::Pipeline { .. } | Self::Unknown { .. } | Self::Circle { .. } => {
                ErrorKind::Invalid
            }
            Self::Lake { .. } => ErrorKind::Lake,
            Self::Query { .. } => ErrorKind::Query,
            Self::Bug(_) => ErrorKind::Bug,
        }
    }

    pub(crate) fn pipeline(pipeline: &str, message: impl Into<String>) -> Self {
        Self::Pipeline { pipeline: pipeline.to_owned(), message: message.into() }
    }

    pub(crate) fn query(pipeline: &str, action: &'static str) -> impl FnOnce(DataFusionError) -> Self + use<> {
        let pipeline = pipeline.to_owned();
        move |source| Self::Query { pipeline, action, source: Box::new(source) }
    }

    pub(crate) fn lake(action: impl Into<String>) -> impl FnOnce(uptake_lake::Error) -> Self {
        let action = action.into();
        move |source| Self::Lake { action, source: Box::new(source) }
    }
}
