//! What a caller asks of a table.

use std::collections::BTreeMap;

use arrow::array::RecordBatch;
use serde_json::{Map, Value};

/// One position that a commit moves.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Advance {
    /// Application id of the position (`txn.appId`), such as `live/messages/0`.
    pub key: String,
    /// The position as this writer read it when it began; none when the table held none.
    pub from: Option<i64>,
    /// The position after the commit: the next offset to read, or the source version that has been read.
    pub to: i64,
}

/// What one commit writes.
#[derive(Debug, Clone, Default)]
pub struct CommitRequest {
    /// Rows, with the columns of the table by name; strings may be views, they are cast.
    pub batches: Vec<RecordBatch>,
    /// Positions that move with the rows, all or none.
    pub advances: Vec<Advance>,
    /// Watermarks and states: application ids `watermark/…` (milliseconds; only ever raised), and others that are taken as
    /// given, such as `idle/…` (1 idle or finished, 0 active). See [`crate::Lake::watermark`].
    pub watermarks: Vec<(String, i64)>,
    /// What people find in the table's history. Never put text of users here: the log is not cleaned by an erasure.
    pub metadata: Map<String, Value>,
}

/// How a commit ended well.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Committed {
    /// This request is in the table.
    Written {
        /// The version that holds it.
        version: i64,
    },
    /// The span was in the table already; nothing was written.
    AlreadyThere {
        /// The version that was looked at.
        version: i64,
    },
}

impl Committed {
    /// The version that holds the span, or a later one.
    pub fn version(self) -> i64 {
        match self {
            Self::Written { version } | Self::AlreadyThere { version } => version,
        }
    }

    /// Whether this request wrote something.
    pub fn is_written(self) -> bool {
        matches!(self, Self::Written { .. })
    }
}

/// One data file of a table.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct File {
    /// Path below the table's directory.
    pub path: String,
    /// Bytes.
    pub size: u64,
    /// Partition values as the log writes them (dates as `YYYY-MM-DD`).
    pub partition: BTreeMap<String, Option<String>>,
    /// Rows, if the log says it.
    pub rows: Option<u64>,
}

/// One commit of a table, as its history shows it.
#[derive(Debug, Clone)]
pub struct HistoryEntry {
    /// Version.
    pub version: i64,
    /// When it was committed, milliseconds since 1970.
    pub timestamp: Option<i64>,
    /// What was done: `WRITE`, `CREATE TABLE`, `DELETE`, …
    pub operation: Option<String>,
    /// Parameters and metadata of the commit.
    pub info: Value,
}
