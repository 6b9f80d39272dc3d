//! Sources into bronze: Kafka topics and files, each record stored once or kept as a dead letter with its reason.
//!
//! The only crate that names Kafka.
//!
//! Core types, one line each:
//! - [`consume::Consumer`], [`consume::Handle`]: the consumer service and what others hold of it.
//! - [`options::ConsumeOptions`]: what it is told, checked together at the start.
//! - [`files::import`]: a chat log from a file, through the same decoder and the same writer.
//! - [`bronze::Bronze`]: the one writer of bronze: rows, dead letters and positions of a flush.
//! - [`buffer::Buffer`]: what was consumed and is not yet written, by partition.
//! - [`signals::Tagging`], [`signals::Score`]: live signals of what was stored, and what is asked of a tagger.
//! - [`memory::Memory`]: the hard bound on bytes held.
//! - [`health::Health`]: what probes ask.
//! - [`mock::MockBroker`]: a broker in this process, for the demo and for tests.
//!
//! Invariants: every consumed record moves its partition's position, good or bad; a partition that was given up is never
//! written under its old epoch; memory held is bounded.
//!
//! Absent on purpose: a schema registry client (the wire format's prefix is recognised by the decoder), and resets of
//! offsets that nobody asked for.

pub mod bronze;
pub mod buffer;
pub mod consume;
mod error;
pub mod files;
pub mod health;
mod kafka;
pub mod memory;
pub mod metrics;
pub mod mock;
pub mod options;
pub mod signals;
#[cfg(feature = "testing")]
pub mod testing;
mod window;

pub use error::{Error, ErrorKind, Result};
