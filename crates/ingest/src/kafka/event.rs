//! Everything that the reader says, and everything that it can be told.

use std::sync::Arc;

use tokio::sync::oneshot;
use uptake_model::contract::ErrorClass;
use uptake_model::decode::Outcome;
use uptake_model::{Next, Offset, SourcePartition};
use uptake_progress::ownership::{Departure, Epoch};

use super::statistics::Statistics;
use crate::buffer::Pass;
use crate::error::Error;
use crate::memory::Held;

/// Everything that the reader says, in one order.
#[derive(Debug)]
pub(crate) enum SourceEvent {
    /// A record, decoded.
    Record(Consumed),
    /// Partitions come. The reader waits for the answer; no answer means that they are not read.
    Assign {
        /// Which, and what the broker holds of them.
        partitions: Vec<Candidate>,
        /// Where each starts.
        answer: oneshot::Sender<Vec<Start>>,
    },
    /// Partitions go. The reader waits for the answer.
    Revoke {
        /// Which.
        partitions: Vec<SourcePartition>,
        /// Whether what is held may still be written.
        departure: Departure,
        /// Positions to commit to the group.
        answer: oneshot::Sender<Vec<(SourcePartition, Next)>>,
    },
    /// librdkafka's statistics, once a second.
    Statistics(Statistics),
    /// How many partitions the topics have, told once before a bounded read.
    Partitions(usize),
    /// No record follows: the answer to [`Command::Quiet`].
    Quiet,
    /// The source cannot go on.
    Failed(Error),
}

/// A record, decoded.
#[derive(Debug)]
pub(crate) struct Consumed {
    /// Its partition.
    pub(crate) source: Arc<SourcePartition>,
    /// The assignment that it was read under.
    pub(crate) epoch: Epoch,
    /// The account that its bytes are held on.
    pub(crate) held: Held,
    /// Its offset.
    pub(crate) offset: Offset,
    /// What became of it.
    pub(crate) item: Item,
    /// Bytes that its row holds.
    pub(crate) size: u64,
    /// Bytes of its payload.
    pub(crate) payload_bytes: usize,
    /// The time that the broker holds for it, milliseconds since 1970.
    pub(crate) broker_millis: Option<i64>,
}

/// What became of a record.
#[derive(Debug)]
pub(crate) enum Item {
    /// A row or a letter.
    Row(Outcome),
    /// Nothing but the position.
    Pass(Pass),
}

impl Item {
    /// The reason for which the record was refused, if it was.
    pub(crate) fn refusal(&self) -> Option<ErrorClass> {
        match self {
            Self::Row(Outcome::Letter(letter)) => Some(letter.class),
            _ => None,
        }
    }

    /// Bytes that the row holds.
    pub(crate) fn size(&self) -> u64 {
        match self {
            Self::Row(Outcome::Event(row)) => row.size() as u64,
            Self::Row(Outcome::Letter(row)) => row.size() as u64,
            Self::Row(Outcome::Tombstone) | Self::Pass(_) => 0,
        }
    }
}

/// A partition that comes, and what the broker holds of it.
#[derive(Debug, Clone)]
pub(crate) struct Candidate {
    /// Which partition.
    pub(crate) source: SourcePartition,
    /// First offset that the broker holds.
    pub(crate) low: Next,
    /// Offset behind the last record that may be read.
    pub(crate) high: Next,
    /// Where the operator's time lies, if one was named.
    pub(crate) explicit: Option<Next>,
}

/// Where a partition starts.
#[derive(Debug, Clone)]
pub(crate) struct Start {
    /// Which partition.
    pub(crate) source: SourcePartition,
    /// The assignment.
    pub(crate) epoch: Epoch,
    /// What the table holds.
    pub(crate) stored: Option<Next>,
    /// The first offset to read.
    pub(crate) at: Next,
    /// The account for its bytes.
    pub(crate) held: Held,
}

/// Everything that the reader can be told.
#[derive(Debug)]
pub(crate) enum Command {
    /// Commit these positions to the group, best effort.
    Commit(Vec<(SourcePartition, Next)>),
    /// Read no more records, and say [`SourceEvent::Quiet`]; stay in the group.
    Quiet,
    /// Leave the group and end.
    Stop,
}
