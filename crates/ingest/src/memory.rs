//! The hard bound on bytes held: rows that were decoded and are not yet committed.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// The process's bound and what is held against it. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Memory(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    bound: u64,
    used: AtomicU64,
    peak: AtomicU64,
    waiting: AtomicU64,
}

/// What one partition holds against the bound. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Held {
    memory: Memory,
    bytes: Arc<AtomicU64>,
}

impl Memory {
    /// A bound in bytes.
    pub fn new(bound: u64) -> Self {
        Self(Arc::new(Inner {
            bound: bound.max(1),
            used: AtomicU64::new(0),
            peak: AtomicU64::new(0),
            waiting: AtomicU64::new(0),
        }))
    }

    /// The bound.
    pub fn bound(&self) -> u64 {
        self.0.bound
    }

    /// Bytes held now.
    pub fn used(&self) -> u64 {
        self.0.used.load(Ordering::Acquire)
    }

    /// The most that was ever held.
    pub fn peak(&self) -> u64 {
        self.0.peak.load(Ordering::Acquire)
    }

    /// Records that wait outside because they do not fit.
    pub fn waiting(&self) -> u64 {
        self.0.waiting.load(Ordering::Acquire)
    }

    /// Says how many records wait outside.
    pub(crate) fn set_waiting(&self, records: usize) {
        self.0.waiting.store(records as u64, Ordering::Release);
    }

    /// Below this, paused partitions run again.
    pub fn resume_below(&self) -> u64 {
        self.0.bound / 2
    }

    /// From here on the fullest partitions pause.
    pub fn is_tight(&self) -> bool {
        self.used() >= self.0.bound - self.0.bound / 4
    }

    /// An account for one partition.
    pub fn partition(&self) -> Held {
        Held { memory: self.clone(), bytes: Arc::new(AtomicU64::new(0)) }
    }
}

impl Held {
    /// Bytes held for this partition, buffered or being written.
    pub fn bytes(&self) -> u64 {
        self.bytes.load(Ordering::Acquire)
    }

    /// Takes `bytes`, if the bound allows. A record larger than the whole bound is let in alone, when nothing else is held.
    ///
    /// Only the reader takes, so checking before adding cannot race with another taker.
    pub fn take(&self, bytes: u64) -> bool {
        let inner = &self.memory.0;
        let used = inner.used.load(Ordering::Acquire);
        if used > 0 && used + bytes > inner.bound {
            return false;
        }
        let now = inner.used.fetch_add(bytes, Ordering::AcqRel) + bytes;
        inner.peak.fetch_max(now, Ordering::AcqRel);
        self.bytes.fetch_add(bytes, Ordering::AcqRel);
        true
    }

    /// Gives `bytes` back.
    pub fn give_back(&self, bytes: u64) {
        self.bytes.fetch_sub(bytes, Ordering::AcqRel);
        self.memory.0.used.fetch_sub(bytes, Ordering::AcqRel);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_bound_is_hard_and_a_giant_passes_alone() {
        let memory = Memory::new(100);
        let (one, two) = (memory.partition(), memory.partition());
        assert!(one.take(60) && !two.take(41) && two.take(40));
        assert!(memory.is_tight() && memory.used() == 100 && !one.take(1));
        one.give_back(60);
        two.give_back(40);
        assert!(one.take(1_000) && !two.take(1), "a record larger than the bound is alone");
        one.give_back(1_000);
        assert_eq!((memory.used(), memory.peak(), one.bytes(), two.bytes()), (0, 1_000, 0, 0));
    }
}
