//! Read-only SQL over the lake: DataFusion with the tables, time travel, functions and formats of this product.
//!
//! Core types, one line each:
//! - [`Session`]: the catalog of one lake; parses, plans and runs queries, and refuses what would write.
//! - [`Statement`]: one parsed statement; [`Answer`]: its columns and a stream of batches.
//! - [`functions`]: `last_user_message`, `conversation_text`, `rate`, `share`, …
//! - [`views`]: `silver.signal_labels`, `silver.shadow_labels`, `silver.label_drift`, `gold.provisional`.
//! - [`format`]: rows as a table for people, as CSV, JSON lines or Parquet.
//!
//! Invariants: nothing that comes through here writes to the lake; one query sees one state of each table; memory is
//! bounded (what does not fit spills to disk); every error that the user can mend says how.
//!
//! Absent on purpose: terminals and files (the binary's), network protocols.

mod catalog;
mod dialect;
mod error;
pub mod format;
pub mod functions;
mod hints;
mod history;
mod reference;
mod session;
mod time_travel;
pub mod views;

pub use error::{Error, Result};
pub use session::{Answer, Options, Relation, Session, Statement};
