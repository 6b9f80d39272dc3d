//! Training: from labelled data to a model directory that the tagger serves.
//!
//! Core types, one line each:
//! - [`classifier::train`]: fine-tunes an encoder on labelled follow-ups, calibrates it, measures it on conversations held
//!   out, writes the model with its card.
//! - [`classifier::evaluate`]: the same figures for any model directory and labelled files.
//! - [`data::Example`]: one follow-up and what is known of it, labelled or judged by ratings, thumbs, breakdowns;
//!   [`data::Split`]: which part of the data a conversation belongs to.
//! - [`policy::train`]: fine-tunes a language model from preferences (SFT, DPO, KTO) into a PEFT adapter.
//! - [`reward::train`]: fine-tunes an encoder into a reward model; [`reward::RewardModel`] scores with it.
//! - [`decoder`]: the language model with gradients for its adapter alone.
//! - [`generate`]: answers of a language model, with or without an adapter.
//! - [`metrics`]: AUROC, average precision, F1, calibration error, and their intervals over conversations.
//!
//! Invariants: a conversation is in one part of the split only; nothing measured on the test part decides anything; all
//! randomness comes from one seed, which is told; every weight that the loss depends on gets a gradient (a test proves it,
//! since candle's fused operations silently have none).
//!
//! Absent on purpose: drawing progress (the caller is told of events) and serving.

mod adamw;
pub mod answers;
mod average;
mod base;
mod batches;
mod calibration;
mod checkpoint;
pub mod classifier;
pub mod data;
pub mod decoder;
mod encoder;
mod error;
mod fused;
pub mod generate;
pub mod metrics;
mod model_files;
pub mod policy;
pub mod reward;
mod rows;
pub mod stand_in;

pub use error::{Error, ErrorKind, Result};
