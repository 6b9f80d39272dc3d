//! What can go wrong between a source and bronze.

use rdkafka::error::KafkaError;
use uptake_model::SourcePartition;
use uptake_progress::start::Refusal;

/// Result of this crate.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// What the caller should do about an error.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ErrorKind {
    /// A passing fault that outlasted the retries: start again later, nothing is lost.
    Retry,
    /// Another writer moved the same positions.
    Conflict,
    /// Settings, arguments or input are wrong: mend them.
    Invalid,
    /// What is stored contradicts itself or the source.
    Corrupt,
    /// Stopped on request before the work was complete.
    Stopped,
    /// A fault in this program.
    Bug,
}

/// What can go wrong between a source and bronze.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The lake refused or could not be reached; positions stand where they stood.
    #[error("{what}")]
    Lake {
        /// What was tried.
        what: String,
        /// What the lake says.
        source: uptake_lake::Error,
    },
    /// Kafka refused or could not be reached.
    #[error("{what}")]
    Kafka {
        /// What was tried.
        what: String,
        /// What librdkafka says.
        source: KafkaError,
    },
    /// Settings or arguments that cannot work.
    #[error("{0}")]
    Invalid(String),
    /// A partition must not be read as things are; the refusal names the way on.
    #[error("refuse to read {partition}")]
    Start {
        /// Which partition.
        partition: SourcePartition,
        /// Why, and what to do.
        source: Refusal,
    },
    /// The record before the stored position is another one than was read there.
    #[error(
        "the topic of {partition} was deleted and made again: the record before the stored position is another one than was \
         read there. Consume it under another pipeline name (--pipeline) to read it from its start; nothing stored is touched"
    )]
    Recreated {
        /// Which partition.
        partition: SourcePartition,
    },
    /// Too many of the last records were refused.
    #[error(
        "{bad} of the last {window} records of topic {topic} are bad ({reasons}); stopped before a whole topic becomes dead letters. \
         Check the producer and the topic's contract, or raise ingest.max_bad_share; nothing after the last commit is stored"
    )]
    TooManyBad {
        /// Which topic.
        topic: String,
        /// Bad records in the window.
        bad: usize,
        /// Size of the window.
        window: usize,
        /// The reasons and how often each.
        reasons: String,
    },
    /// Another writer moved the same positions again and again.
    #[error("{0}")]
    Conflict(String),
    /// What is stored contradicts itself or the source.
    #[error("{0}")]
    Corrupt(String),
    /// A file could not be read.
    #[error("read {path}")]
    File {
        /// Which file.
        path: String,
        /// Why.
        source: std::io::Error,
    },
    /// Stopped on request before the work was complete.
    #[error("stopped before the work was complete; what was not committed is read again at the next start")]
    Stopped,
    /// A fault in this program.
    #[error("{0} (a fault in uptake: please report it)")]
    Bug(String),
}

impl Error {
    /// What the caller should do about it.
    pub fn kind(&self) -> ErrorKind {
        match self {
            Self::Lake { source, .. } => lake_kind(source),
            Self::Kafka { .. } => ErrorKind::Retry,
            Self::Invalid(_)
            | Self::Start { .. }
            | Self::Recreated { .. }
            | Self::TooManyBad { .. }
            | Self::File { .. } => ErrorKind::Invalid,
            Self::Conflict(_) => ErrorKind::Conflict,
            Self::Corrupt(_) => ErrorKind::Corrupt,
            Self::Stopped => ErrorKind::Stopped,
            Self::Bug(_) => ErrorKind::Bug,
        }
    }

    /// A lake error under what was tried.
    pub fn lake(what: impl Into<String>) -> impl FnOnce(uptake_lake::Error) -> Self {
        let what = what.into();
        move |source| Self::Lake { what, source }
    }

    /// A Kafka error under what was tried.
    pub fn kafka(what: impl Into<String>) -> impl FnOnce(KafkaError) -> Self {
        let what = what.into();
        move |source| Self::Kafka { what, source }
    }
}

fn lake_kind(error: &uptake_lake::Error) -> ErrorKind {
    use uptake_lake::Kind as Lake;
    match error.kind() {
        Lake::Retry => ErrorKind::Retry,
        Lake::Conflict => ErrorKind::Conflict,
        Lake::Invalid => ErrorKind::Invalid,
        Lake::Corrupt => ErrorKind::Corrupt,
        Lake::Stopped => ErrorKind::Stopped,
        Lake::Bug => ErrorKind::Bug,
    }
}
