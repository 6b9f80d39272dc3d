//! What can go wrong: only that the built-in texts are not what the code expects.

/// A fault of the built-in texts, or of the filter on them.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A built-in text cannot be read.
    #[error("{file}, line {line}: {reason}")]
    Text {
        /// Which file.
        file: &'static str,
        /// Line, from 1.
        line: usize,
        /// What is wrong.
        reason: String,
    },
    /// The filter leaves no labelled follow-up of some kind.
    #[error("no labelled follow-up {0} is usable; let the plan's filter pass more conversations")]
    NothingUsable(&'static str),
    /// A record of the log cannot be written as JSON, or read back.
    #[error("make a record: {0}")]
    Record(String),
}
