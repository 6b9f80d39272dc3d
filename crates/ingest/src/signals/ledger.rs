//! How far the signals of each partition have come.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use uptake_model::{Next, SourcePartition};

/// How far the signals of each partition have been acknowledged, and how much of that is written down.
#[derive(Debug)]
pub(crate) struct Ledger {
    topic: String,
    entries: Mutex<BTreeMap<SourcePartition, Entry>>,
}

#[derive(Debug, Clone, Copy)]
struct Entry {
    acknowledged: Next,
    noted: Option<Next>,
}

impl Ledger {
    pub(crate) fn new(topic: &str) -> Self {
        Self { topic: topic.to_owned(), entries: Mutex::default() }
    }

    /// The topic of the signals.
    pub(crate) fn topic(&self) -> &str {
        &self.topic
    }

    fn entries(&self) -> MutexGuard<'_, BTreeMap<SourcePartition, Entry>> {
        self.entries.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A partition comes whose signals go on at `from`; whether that is written down already.
    pub(crate) fn begin(&self, source: &SourcePartition, from: Next, is_noted: bool) {
        let entry = Entry { acknowledged: from, noted: is_noted.then_some(from) };
        let _ = self.entries().insert(source.clone(), entry);
    }

    /// A partition goes.
    pub(crate) fn release(&self, source: &SourcePartition) {
        let _ = self.entries().remove(source);
    }

    /// The signals of all that lies before `to` are with the broker.
    pub(crate) fn acknowledge(&self, source: &SourcePartition, to: Next) {
        if let Some(entry) = self.entries().get_mut(source) {
            entry.acknowledged = entry.acknowledged.max(to);
        }
    }

    /// What has come further than is written down.
    pub(crate) fn changed(&self) -> BTreeMap<SourcePartition, Next> {
        let entries = self.entries();
        let changed = entries.iter().filter(|(_, entry)| entry.noted != Some(entry.acknowledged));
        changed.map(|(source, entry)| (source.clone(), entry.acknowledged)).collect()
    }

    /// This is written down now.
    pub(crate) fn noted(&self, written: BTreeMap<SourcePartition, Next>) {
        let mut entries = self.entries();
        for (source, next) in written {
            if let Some(entry) = entries.get_mut(&source) {
                entry.noted = Some(next);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_down_follows_what_is_acknowledged() {
        let (one, other) = (SourcePartition::new("chat", 0), SourcePartition::new("chat", 1));
        let ledger = Ledger::new("signals");
        ledger.begin(&one, Next(5), true);
        ledger.begin(&other, Next(0), false);
        assert_eq!(ledger.changed(), BTreeMap::from([(other.clone(), Next(0))]), "a beginning is written down");
        ledger.noted(ledger.changed());
        assert!(ledger.changed().is_empty());
        ledger.acknowledge(&one, Next(9));
        ledger.acknowledge(&one, Next(7));
        assert_eq!(ledger.changed(), BTreeMap::from([(one.clone(), Next(9))]));
        ledger.release(&one);
        ledger.acknowledge(&one, Next(12));
        assert!(ledger.changed().is_empty(), "what is not ours is not ours to write down");
    }
}
