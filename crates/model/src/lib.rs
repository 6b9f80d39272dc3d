//! The nouns of uptake: positions, events, rows and the Arrow schemas of every table.
//!
//! Core types, one line each:
//! - [`position::Next`], [`position::Span`]: where a reader stands in a log; spans are half-open by construction.
//! - [`tables::TableSpec`]: one table: its columns, partition, order and which columns may carry statistics.
//! - [`decode::decode`]: bytes of one record → an [`rows::EventRow`], a [`rows::LetterRow`] with its reason, or nothing (a tombstone).
//! - [`facts::TurnFact`], [`facts::ReactionFact`]: what the payload of a stored event says, as silver rows need it.
//! - [`tree::resolve`]: the exchanges (prompt path, response, follow-up) of one conversation tree.
//! - [`subject::Pepper`]: user ids become HMAC subject keys here and nowhere else.
//! - [`phrases`]: refusals, apologies and emoji in answers, as guards and tripwires count them.
//! - [`html`]: the frame and style of the pages that reports are.
//! - [`signal::Signal`]: a signal as it is published, its id and the hash of what was read.
//! - [`labels`], [`text`]: the 18 feedback signals and the one text normalisation of training and serving.
//! - [`words`]: where words and sentences stand in a text.
//!
//! Absent on purpose: I/O, async, clocks and randomness. Whoever calls passes the time in.

pub mod completion;
pub mod contract;
pub mod decode;
pub mod facts;
pub mod html;
pub mod labels;
pub mod letter;
mod person;
pub mod phrases;
pub mod position;
pub mod rows;
pub mod signal;
pub mod subject;
pub mod tables;
pub mod text;
pub mod time;
pub mod tree;
pub mod words;

pub use position::{Next, Offset, SourcePartition, Span};
pub use subject::{Pepper, SubjectKey};
pub use tables::{Column, Kind, Layer, TableSpec};
