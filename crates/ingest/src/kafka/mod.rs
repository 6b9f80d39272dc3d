//! Reading from Kafka: a consumer polled on its own thread, and everything it says as one closed enum on one bounded
//! channel, so that the order of records, assignments and revocations is total.

mod config;
mod context;
mod event;
mod probe;
mod publisher;
mod reader;
mod statistics;

pub(crate) use event::{Candidate, Command, Consumed, Item, SourceEvent, Start};
pub(crate) use probe::{end_without_records, first_unrecognised};
pub(crate) use publisher::{Outgoing, Publisher, Unpublished};
pub(crate) use reader::{Reader, spawn};
pub(crate) use statistics::Statistics;
