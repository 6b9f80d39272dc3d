//! Integration and end-to-end tests: one binary, a module per subject.

mod architecture;
mod demo;
mod import;
mod ingest;
mod snapshot;
mod sql;
