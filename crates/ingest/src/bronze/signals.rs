//! How far signals have been published: kept beside the positions, so that whoever reads a partition next goes on there.

use std::collections::BTreeMap;
use std::sync::Arc;

use uptake_lake::CommitRequest;
use uptake_model::{Next, SourcePartition};

use super::Bronze;
use super::append::{Appended, Target};
use super::keys::signals_key;
use crate::error::Result;
use crate::signals::Ledger;

impl Bronze {
    /// Keeps the events of each flush for whoever publishes signals, and writes down how far they have come.
    pub(crate) fn with_ledger(mut self, ledger: Arc<Ledger>) -> Self {
        self.ledger = Some(ledger);
        self
    }

    /// Where the signals of each partition go on, given where its reader starts. One of which nothing is known begins
    /// there too, and that is written down at once: a kill before the first signal must not skip what was stored by then.
    ///
    /// # Errors
    /// When the lake cannot be read or written.
    pub(crate) async fn begin_signals(
        &mut self,
        starts: &[(SourcePartition, Next)],
    ) -> Result<BTreeMap<SourcePartition, Next>> {
        let Some(ledger) = self.ledger.clone() else { return Ok(BTreeMap::new()) };
        let mut begins = BTreeMap::new();
        for (source, at) in starts {
            let stored = self.stored(Target::Events, &signals_key(source, &self.pipeline, ledger.topic())).await?;
            let from = stored.map_or(*at, |stored| Next(stored).min(*at));
            ledger.begin(source, from, stored.is_some());
            let _ = begins.insert(source.clone(), from);
        }
        self.note_signals().await?;
        Ok(begins)
    }

    /// Writes down how far the signals have come, if that has changed since the last commit.
    ///
    /// # Errors
    /// When the lake cannot be written.
    pub(crate) async fn note_signals(&mut self) -> Result<()> {
        let acknowledged = self.acknowledged();
        let watermarks = self.signal_positions(&acknowledged);
        if watermarks.is_empty() {
            return Ok(());
        }
        // Who has lost a partition meanwhile writes nothing down; its next owner repeats a little, which harms nobody.
        let advances = acknowledged.keys().filter_map(|source| self.still_mine(source)).collect();
        let request = CommitRequest { advances, watermarks, metadata: self.metadata(), ..CommitRequest::default() };
        if let Appended::Written(_) = self.append(Target::Events, &request).await? {
            self.noted(acknowledged);
        }
        Ok(())
    }

    /// What is to be written down: of the partitions that are ours, what has changed.
    pub(super) fn acknowledged(&self) -> BTreeMap<SourcePartition, Next> {
        let Some(ledger) = &self.ledger else { return BTreeMap::new() };
        let mut changed = ledger.changed();
        changed.retain(|source, _| self.owners.contains_key(source));
        changed
    }

    pub(super) fn signal_positions(&self, acknowledged: &BTreeMap<SourcePartition, Next>) -> Vec<(String, i64)> {
        let Some(ledger) = &self.ledger else { return Vec::new() };
        let entry =
            |(source, next): (&SourcePartition, &Next)| (signals_key(source, &self.pipeline, ledger.topic()), next.0);
        acknowledged.iter().map(entry).collect()
    }

    pub(super) fn noted(&self, acknowledged: BTreeMap<SourcePartition, Next>) {
        if let Some(ledger) = &self.ledger {
            ledger.noted(acknowledged);
        }
    }
}
