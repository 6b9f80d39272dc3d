//! Decisions on positions, watermarks, flushing and settling: facts in, verdict out.
//!
//! Nothing here reads a clock, a store or a network; `ingest` and `lake` observe, ask, and carry the answer out. That
//! is what lets property tests run every interleaving of assign, revoke, flush, crash and lost answer.
//!
//! Core types, one line each:
//! - [`judge`], [`judge_all`]: may a writer commit the span that it holds, is it there already, or has another writer been here.
//! - [`Tracker`]: what one partition's reader has consumed since its last flush, gaps counted, overlaps refused.
//! - [`ownership::Ownership`]: which epoch of a partition may still publish.
//! - [`watermark::Watermarks`]: event time per partition and overall, idle partitions left out.
//! - [`flush::Limits`], [`flush::regulate`]: when a buffer is written, which partitions pause at the memory bound.
//! - [`settle`]: when a conversation has had its time.
//! - [`start::decide`]: where a partition begins, and when that must be refused.
//! - [`breaker::Breaker`]: when so much is bad that stopping is kinder than going on.
//!
//! Invariants: a span is committed once (its `from` is what the store holds); a watermark never moves back; a position
//! moves over every consumed record, good or bad.
//!
//! Absent on purpose: retries, timers, randomness. Whoever acts on a verdict owns those.

pub mod breaker;
pub mod flush;
pub mod ownership;
mod position;
pub mod settle;
pub mod start;
pub mod watermark;

pub use position::{Claim, Judgement, Observed, Tracker, Verdict, judge, judge_all};

#[cfg(test)]
mod exactly_once;
