//! Event time: how far it is known to be complete, per partition and overall.
//!
//! A partition's watermark is its greatest event time less the disorder that is allowed, and never moves back. Overall
//! it is the least over the partitions that are not idle, so that one slow partition holds it back and a silent one
//! does not. When all are idle it is the greatest: nothing is to be waited for.

use std::collections::BTreeMap;
use std::time::Duration;

use uptake_model::SourcePartition;
use uptake_model::time::Micros;

/// One partition as the overall watermark sees it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PartitionWatermark {
    /// The partition's own watermark.
    pub at: Micros,
    /// Whether it is to be left out: silent for long, or a file that has been imported to its end.
    pub idle: bool,
}

/// The overall watermark: least over those that are not idle; greatest when all are; none without partitions.
pub fn overall(partitions: impl IntoIterator<Item = PartitionWatermark>) -> Option<Micros> {
    let mut least_active: Option<Micros> = None;
    let mut greatest: Option<Micros> = None;
    for partition in partitions {
        greatest = greatest.max(Some(partition.at));
        if !partition.idle {
            least_active = Some(least_active.map_or(partition.at, |least| least.min(partition.at)));
        }
    }
    least_active.or(greatest)
}

#[derive(Debug, Clone, Copy)]
struct Progress {
    at: Option<Micros>,
    heard: Duration,
}

/// The watermarks of the partitions that one process reads.
///
/// Times of the monotonic clock are durations since any fixed start.
#[derive(Debug, Clone)]
pub struct Watermarks {
    disorder: Micros,
    idle_after: Duration,
    partitions: BTreeMap<SourcePartition, Progress>,
}

impl Watermarks {
    /// Watermarks that allow events to come `disorder` microseconds late, and count a partition as idle after it has
    /// been silent for `idle_after`.
    pub fn new(disorder: Micros, idle_after: Duration) -> Self {
        Self { disorder: disorder.max(0), idle_after, partitions: BTreeMap::new() }
    }

    /// Begins with a partition, at the watermark that was stored for it, if any.
    pub fn assign(&mut self, partition: SourcePartition, stored: Option<Micros>, now: Duration) {
        let progress = self.partitions.entry(partition).or_insert(Progress { at: None, heard: now });
        progress.at = progress.at.max(stored);
    }

    /// Ends with a partition.
    pub fn release(&mut self, partition: &SourcePartition) {
        self.partitions.remove(partition);
    }

    /// Takes note of a record. Event times ahead of the broker's clock would carry the watermark away, so the caller
    /// passes the event time already bounded by the time of ingest.
    pub fn observe(&mut self, partition: &SourcePartition, event_time: Micros, now: Duration) {
        if let Some(progress) = self.partitions.get_mut(partition) {
            progress.at = progress.at.max(Some(event_time.saturating_sub(self.disorder)));
            progress.heard = progress.heard.max(now);
        }
    }

    /// The watermark of one partition; none before its first event.
    pub fn of(&self, partition: &SourcePartition) -> Option<Micros> {
        self.partitions.get(partition).and_then(|progress| progress.at)
    }

    /// Whether a partition has been silent for too long to be waited for.
    pub fn is_idle(&self, partition: &SourcePartition, now: Duration) -> bool {
        self.partitions.get(partition).is_none_or(|progress| now.saturating_sub(progress.heard) >= self.idle_after)
    }

    /// The overall watermark. A partition that is assigned, not idle, and without an event yet holds it back altogether.
    pub fn overall(&self, now: Duration) -> Option<Micros> {
        let mut known = Vec::with_capacity(self.partitions.len());
        for progress in self.partitions.values() {
            let idle = now.saturating_sub(progress.heard) >= self.idle_after;
            match progress.at {
                Some(at) => known.push(PartitionWatermark { at, idle }),
                None if !idle => return None,
                None => {}
            }
        }
        overall(known)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn partition(number: i32) -> SourcePartition {
        SourcePartition::new("messages", number)
    }

    fn seconds(count: u64) -> Duration {
        Duration::from_secs(count)
    }

    #[test]
    fn the_slowest_partition_holds_it_back_and_an_idle_one_does_not() {
        let mut watermarks = Watermarks::new(10, seconds(60));
        watermarks.assign(partition(0), None, seconds(0));
        watermarks.assign(partition(1), None, seconds(0));
        assert_eq!(watermarks.overall(seconds(0)), None);
        watermarks.observe(&partition(0), 1_000, seconds(1));
        assert_eq!(watermarks.overall(seconds(1)), None, "the other has said nothing yet");
        watermarks.observe(&partition(1), 500, seconds(2));
        assert_eq!(watermarks.overall(seconds(2)), Some(490));
        watermarks.observe(&partition(0), 2_000, seconds(50));
        assert_eq!(watermarks.overall(seconds(62)), Some(1_990), "partition 1 is idle");
        assert_eq!(watermarks.overall(seconds(500)), Some(1_990), "all are idle: the greatest");
    }

    #[test]
    fn a_stored_watermark_is_taken_up() {
        let mut watermarks = Watermarks::new(10, seconds(60));
        watermarks.assign(partition(0), Some(700), seconds(0));
        watermarks.observe(&partition(0), 100, seconds(1));
        assert_eq!(watermarks.of(&partition(0)), Some(700));
        assert_eq!(watermarks.of(&partition(1)), None);
    }

    proptest! {
        #[test]
        fn a_partition_never_moves_back(times in prop::collection::vec(any::<i64>(), 1..50), disorder in 0..1_000_000_i64) {
            let mut watermarks = Watermarks::new(disorder, seconds(60));
            watermarks.assign(partition(0), None, seconds(0));
            let mut last = None;
            for time in times {
                watermarks.observe(&partition(0), time, seconds(0));
                let now = watermarks.of(&partition(0));
                prop_assert!(now >= last);
                prop_assert!(now >= Some(time.saturating_sub(disorder)));
                last = now;
            }
        }

        #[test]
        fn overall_lies_between_the_partitions(parts in prop::collection::vec((any::<i64>(), any::<bool>()), 0..8)) {
            let parts: Vec<PartitionWatermark> = parts.into_iter().map(|(at, idle)| PartitionWatermark { at, idle }).collect();
            let active: Vec<i64> = parts.iter().filter(|part| !part.idle).map(|part| part.at).collect();
            let expected = if active.is_empty() {
                parts.iter().map(|part| part.at).max()
            } else {
                active.iter().copied().min()
            };
            prop_assert_eq!(overall(parts), expected);
        }
    }
}
