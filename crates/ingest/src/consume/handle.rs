//! What others hold of a running consumer.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::watch;
use uptake_model::{Next, SourcePartition};

use crate::health::Health;
use crate::memory::Memory;

/// How far a consumer is to go on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Stage {
    /// Consume.
    Running,
    /// Stop reading, write what is held, leave the group.
    Draining,
    /// Leave everything as it is.
    Now,
}

/// What a consumer has done so far.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Summary {
    /// Rows added to bronze `events`.
    pub events: u64,
    /// Rows added to bronze `dead_letters`.
    pub letters: u64,
    /// Exact copies dropped.
    pub duplicates: u64,
    /// Null payloads.
    pub tombstones: u64,
    /// Flushes committed.
    pub flushes: u64,
    /// Times that partitions came or went.
    pub rebalances: u64,
    /// Records consumed, committed or not; a record that is read again after a drop counts again.
    pub consumed: u64,
    /// Where the table stands for each partition that was flushed.
    pub positions: BTreeMap<SourcePartition, Next>,
}

/// What others hold of a running consumer. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Handle {
    pub(super) stage: Arc<watch::Sender<Stage>>,
    pub(super) health: Health,
    pub(super) memory: Memory,
    pub(super) summary: Arc<Mutex<Summary>>,
}

impl Handle {
    /// Stops: read no more, write what is held within the deadline, commit, leave the group.
    pub fn stop(&self) {
        self.raise(Stage::Draining);
    }

    /// Stops now: what is not committed is read again at the next start.
    pub fn stop_now(&self) {
        self.raise(Stage::Now);
    }

    /// The first call stops in order, the second at once; what a signal handler needs.
    pub fn stop_harder(&self) {
        self.stage.send_modify(|stage| {
            *stage = if *stage == Stage::Running { Stage::Draining } else { Stage::Now };
        });
    }

    fn raise(&self, to: Stage) {
        self.stage.send_modify(|stage| *stage = (*stage).max(to));
    }

    /// What probes ask.
    pub fn health(&self) -> &Health {
        &self.health
    }

    /// The memory bound and what is held against it.
    pub fn memory(&self) -> &Memory {
        &self.memory
    }

    /// What was done so far.
    pub fn summary(&self) -> Summary {
        self.summary.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub(super) fn note(&self, change: impl FnOnce(&mut Summary)) {
        change(&mut self.summary.lock().unwrap_or_else(PoisonError::into_inner));
    }
}
