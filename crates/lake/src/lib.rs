//! The only crate that knows Delta and object stores.
//!
//! Core types, one line each:
//! - [`Lake`]: a root (a directory or `s3://…`) below which every table has a directory; cheap to clone.
//! - [`Table`]: one Delta table: append with positions, replace whole partitions, changes since a version, time travel.
//! - [`CommitRequest`], [`Advance`], [`Committed`]: what one commit writes and how it ended.
//! - [`Staged`]: rows that are written and that nobody sees until all of a replacement is ready.
//! - [`Lake::object`], [`Lake::create_object`], [`Lake::upload_object`]: what lies beside the tables.
//! - [`Tellings`]: what bronze was told of conversations, and at spans of offsets.
//! - [`Changes`], [`File`]: what a reader has not seen yet.
//! - [`Error`] with its [`Kind`]: what to do when something fails.
//!
//! Invariants:
//! - A span of positions is in a table once: the writer compares with a fresh snapshot, and puts its commit on exactly
//!   the version after it. A lost answer is resolved by reading the log, never by trying blindly again.
//! - Free text and subject keys never reach `_delta_log`: statistics are written for the columns that the table's
//!   specification names, and for no others, in the log as in the Parquet files.
//! - The same rows give the same bytes: nothing in a data file depends on the clock, on chance, or on how the rows were cut
//!   into batches.
//!
//! Absent on purpose: `MERGE` and `UPDATE` (facts are appended, derived tables are replaced by whole days), and any
//! background task: checkpoints and log clean-up happen behind a commit, every hundredth version.

mod changes;
mod commit;
mod create;
mod encode;
mod error;
mod lake;
mod log;
mod notes;
mod objects;
mod provider;
mod request;
mod scope;
mod shape;
mod statistics;
mod store;
mod table;
mod tellings;
mod upload;

pub mod snapshot;

#[cfg(any(test, feature = "testing"))]
pub mod conformance;
#[cfg(any(test, feature = "testing"))]
pub mod lossy;

#[cfg(test)]
mod exam;

pub use changes::Changes;
pub use error::{Error, Kind, Result};
pub use lake::Lake;
pub use objects::Digested;
pub use request::{Advance, CommitRequest, Committed, File, HistoryEntry};
pub use scope::Staged;
pub use table::Table;
pub use tellings::Tellings;
