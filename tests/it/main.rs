//! Integration and end-to-end tests: one binary, a module per subject.

#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::print_stdout,
    reason = "helpers of tests stand outside of test functions; there too a panic is the report, and seeds are printed"
)]

mod annotate;
mod architecture;
mod demo;
mod engine;
mod evaluate;
mod generate;
mod hub;
mod import;
mod ingest;
mod life;
mod local_judge;
mod models;
mod object_store;
mod policy;
mod reward;
mod schedule;
mod snapshot;
mod sql;
mod tag;
