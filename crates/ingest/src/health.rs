//! What probes ask: is the loop turning, and is the member placed.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

/// The health of one consumer. Cheap to clone; it outlives the consumer.
#[derive(Debug, Clone)]
pub struct Health(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    began: Instant,
    patience: Duration,
    turned_at: AtomicU64,
    joined: AtomicBool,
    reachable: AtomicBool,
    refused: AtomicBool,
    stopping: AtomicBool,
    partitions: AtomicUsize,
}

impl Health {
    /// The health of a loop that must turn at least every `patience`.
    pub fn new(patience: Duration) -> Self {
        Self(Arc::new(Inner {
            began: Instant::now(),
            patience,
            turned_at: AtomicU64::new(0),
            joined: AtomicBool::new(false),
            reachable: AtomicBool::new(false),
            refused: AtomicBool::new(false),
            stopping: AtomicBool::new(false),
            partitions: AtomicUsize::new(0),
        }))
    }

    /// Live: the loop turned lately. A process that is not live should be started anew.
    pub fn live(&self) -> bool {
        let turned = Duration::from_millis(self.0.turned_at.load(Ordering::Acquire));
        self.0.began.elapsed().saturating_sub(turned) < self.0.patience
    }

    /// Ready: a broker answers and the group has given this member its place, which may be idle by right (more members
    /// than partitions). Lag is a metric, not a reason to be unready.
    pub fn ready(&self) -> bool {
        self.reachable() && self.0.joined.load(Ordering::Acquire) && !self.0.stopping.load(Ordering::Acquire)
    }

    /// Whether a broker answers.
    pub fn reachable(&self) -> bool {
        self.0.reachable.load(Ordering::Acquire)
    }

    /// Partitions held.
    pub fn partitions(&self) -> usize {
        self.0.partitions.load(Ordering::Acquire)
    }

    /// One line for a person who asks the probe.
    pub fn describe(&self) -> String {
        let broker = match (self.reachable(), self.0.refused.load(Ordering::Acquire)) {
            (true, _) => "broker answers",
            (false, true) => "the broker refuses the credentials or the encryption",
            (false, false) => "no broker answers",
        };
        let group = match (self.0.joined.load(Ordering::Acquire), self.partitions()) {
            (false, _) => "not yet placed by the group".to_owned(),
            (true, 0) => "placed by the group, idle".to_owned(),
            (true, count) => format!("{count} partitions"),
        };
        let stopping = if self.0.stopping.load(Ordering::Acquire) { ", stopping" } else { "" };
        format!("{broker}, {group}{stopping}")
    }

    pub(crate) fn turned(&self) {
        let millis = u64::try_from(self.0.began.elapsed().as_millis()).unwrap_or(u64::MAX);
        self.0.turned_at.store(millis, Ordering::Release);
    }

    pub(crate) fn placed(&self, partitions: usize) {
        self.0.joined.store(true, Ordering::Release);
        self.0.partitions.store(partitions, Ordering::Release);
    }

    pub(crate) fn displaced(&self) {
        self.0.joined.store(false, Ordering::Release);
        self.0.partitions.store(0, Ordering::Release);
    }

    /// Notes whether a broker answers; true when that changed.
    pub(crate) fn set_reachable(&self, reachable: bool) -> bool {
        self.0.reachable.swap(reachable, Ordering::AcqRel) != reachable
    }

    /// Notes whether brokers refuse this client.
    pub(crate) fn set_refused(&self, refused: bool) {
        self.0.refused.store(refused, Ordering::Release);
    }

    pub(crate) fn stopping(&self) {
        self.0.stopping.store(true, Ordering::Release);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn live_is_not_ready() {
        let health = Health::new(Duration::from_mins(1));
        assert!(health.live() && !health.ready());
        assert!(health.set_reachable(true) && !health.set_reachable(true));
        assert!(!health.ready(), "{}", health.describe());
        health.placed(0);
        assert!(health.ready(), "idle by right");
        health.set_reachable(false);
        assert!(!health.ready() && health.live());
        assert!(!Health::new(Duration::ZERO).live());
    }
}
