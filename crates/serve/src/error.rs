//! What can go wrong between a query and its rows.

use datafusion::common::DataFusionError;
use uptake_lake as lake;

/// A result of this crate.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// What can go wrong between a query and its rows.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The query is not one that can be answered; the message says what to write instead.
    #[error("{message}")]
    Invalid {
        /// What is wrong, with a hint where there is one.
        message: String,
    },
    /// The query would write; the session only reads.
    #[error(
        "`{statement}` would change something, and SQL here only reads: tables are written by `uptake consume`, `import` and `run`"
    )]
    ReadOnly {
        /// The statement's first words.
        statement: String,
    },
    /// The tables could not be read.
    #[error("read the lake")]
    Lake(#[from] lake::Error),
    /// The query failed while it ran.
    #[error("run the query")]
    Query(#[source] Box<DataFusionError>),
    /// The rows could not be written where they were to go.
    #[error("write the rows")]
    Output(#[from] std::io::Error),
}

impl Error {
    /// A query that cannot be answered.
    pub(crate) fn invalid(message: impl Into<String>) -> Self {
        Self::Invalid { message: message.into() }
    }

    /// Whether the user has to change the query.
    pub fn is_invalid(&self) -> bool {
        matches!(self, Self::Invalid { .. } | Self::ReadOnly { .. })
    }
}

impl From<DataFusionError> for Error {
    fn from(error: DataFusionError) -> Self {
        Self::Query(Box::new(error))
    }
}

impl From<arrow::error::ArrowError> for Error {
    fn from(error: arrow::error::ArrowError) -> Self {
        match error {
            arrow::error::ArrowError::IoError(_, error) => Self::Output(error),
            other => DataFusionError::from(other).into(),
        }
    }
}
