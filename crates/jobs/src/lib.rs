//! Jobs over the tables: bronze → silver → signals → gold, as data in `pipelines/`.
//!
//! Core types, one line each:
//! - [`Pipelines`], [`Pipeline`]: the folder of pipelines, checked; which of them reads which, and so their order.
//! - [`run`]: finds the days that changed, builds them with DataFusion, checks them, replaces them.
//! - [`RunReport`]: rows in, out, and dropped by reason; versions, days, checks.
//! - [`Tag`]: what the jobs ask of a tagger.
//!
//! Invariants:
//! - Derived tables are replaced by whole days, and only days whose sources changed; the positions of the sources stand
//!   in the same commit as the last of the rows.
//! - The same inputs give the same bytes: rows are sorted by a unique key, and nothing reads the clock.
//! - Rows that break a check are never written, and no row is dropped without a reason that is counted.
//!
//! Absent on purpose: `MERGE`, state between runs other than the tables themselves, and a scheduler.

mod checks;
mod error;
mod functions;
mod journal;
mod options;
mod pipeline;
mod reader;
mod report;
mod rows;
mod run;
mod session;
mod statement;
mod tag;

pub use checks::{Checks, Outcome};
pub use error::{Error, ErrorKind, Result};
pub use functions::TOKENIZER;
pub use options::RunOptions;
pub use pipeline::{Pipeline, Pipelines};
pub use report::{Progress, RunReport, SourceVersion, Status};
pub use run::{check, run};
pub use tag::{Scored, Tag};
