//! What waits to be tagged: spans of partitions, in order, in a bounded space.
//!
//! A span brings its events along while there is room. Where there is none it is kept without them, which costs next to
//! nothing, and they are read back from the tables when its turn comes: at overload signals come later, and none is lost.

use std::collections::{BTreeMap, VecDeque};

use uptake_model::facts::Telling;
use uptake_model::{Next, SourcePartition};

/// Offsets that are read back from the tables at a time.
const SPAN_READ_BACK: i64 = 4_096;

/// A span of a partition that is stored and waits to be tagged.
#[derive(Debug)]
pub(super) struct Waiting {
    pub(super) source: SourcePartition,
    pub(super) from: Next,
    pub(super) to: Next,
    /// Its events; none where they are to be read back.
    pub(super) told: Option<Vec<Telling>>,
}

impl Waiting {
    fn records(&self) -> u64 {
        self.to.0.saturating_sub(self.from.0).unsigned_abs()
    }

    fn bytes(&self) -> u64 {
        self.told.iter().flatten().map(|telling| telling.size() as u64).sum()
    }
}

/// What waits.
#[derive(Debug)]
pub(super) struct Queue {
    bound: u64,
    bytes: u64,
    spans: VecDeque<Waiting>,
    /// Up to where the spans of each partition have been put in.
    fronts: BTreeMap<SourcePartition, Next>,
}

impl Queue {
    /// A queue that holds events of at most `bound` bytes.
    pub(super) fn new(bound: u64) -> Self {
        Self { bound, bytes: 0, spans: VecDeque::new(), fronts: BTreeMap::new() }
    }

    /// A partition comes: what was stored in `[from, to)` waits still.
    pub(super) fn assign(&mut self, source: &SourcePartition, from: Next, to: Next) {
        let _ = self.fronts.insert(source.clone(), to);
        if from < to {
            self.spans.push_back(Waiting { source: source.clone(), from, to, told: None });
        }
    }

    /// Puts in what was stored of a partition up to `to`; `told` is none where the events must be read back. The number
    /// of records whose events did not fit.
    pub(super) fn put(&mut self, source: &SourcePartition, to: Next, told: Option<Vec<Telling>>) -> u64 {
        let Some(front) = self.fronts.get_mut(source) else { return 0 };
        let from = *front;
        if to <= from {
            return 0;
        }
        *front = to;
        let mut waiting = Waiting { source: source.clone(), from, to, told };
        let size = waiting.bytes();
        // One that is larger than all the room goes in alone, or it would never go in.
        let fits = waiting.told.is_some() && (self.bytes == 0 || self.bytes + size <= self.bound);
        if fits {
            self.bytes += size;
            self.spans.push_back(waiting);
            return 0;
        }
        let records = waiting.records();
        waiting.told = None;
        // Spans without events that follow each other are one.
        match self.spans.back_mut() {
            Some(last) if last.told.is_none() && last.source == *source && last.to == from => last.to = to,
            _ => self.spans.push_back(waiting),
        }
        records
    }

    /// The next span; of one that is read back, as much as is read at a time.
    pub(super) fn take(&mut self) -> Option<Waiting> {
        let first = self.spans.front_mut()?;
        let cut = Next(first.from.0.saturating_add(SPAN_READ_BACK));
        if first.told.is_none() && cut < first.to {
            let taken = Waiting { source: first.source.clone(), from: first.from, to: cut, told: None };
            first.from = cut;
            return Some(taken);
        }
        let taken = self.spans.pop_front()?;
        self.bytes = self.bytes.saturating_sub(taken.bytes());
        Some(taken)
    }

    /// A partition goes: what waits of it is left to its next owner.
    pub(super) fn release(&mut self, source: &SourcePartition) {
        let _ = self.fronts.remove(source);
        self.spans.retain(|waiting| waiting.source != *source);
        self.bytes = self.spans.iter().map(Waiting::bytes).sum();
    }

    /// Records that wait.
    pub(super) fn records(&self) -> u64 {
        self.spans.iter().map(Waiting::records).sum()
    }

    #[cfg(test)]
    fn is_empty(&self) -> bool {
        self.spans.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told(offset: i64, length: usize) -> Vec<Telling> {
        vec![Telling {
            topic: "chat".to_owned(),
            partition: 0,
            offset,
            event_id: String::new(),
            kind: "message".to_owned(),
            conversation_date: None,
            event_time: 0,
            ingest_time: 0,
            broker_time: None,
            skewed: false,
            subject_key: None,
            payload: "x".repeat(length),
        }]
    }

    fn spans(queue: &mut Queue) -> Vec<(i64, i64, bool)> {
        std::iter::from_fn(|| queue.take()).map(|taken| (taken.from.0, taken.to.0, taken.told.is_some())).collect()
    }

    #[test]
    fn spans_follow_each_other_without_gap_or_overlap() {
        let source = SourcePartition::new("chat", 0);
        let mut queue = Queue::new(10_000);
        assert_eq!(queue.put(&source, Next(9), Some(told(8, 1))), 0, "a partition that nobody holds");
        queue.assign(&source, Next(3), Next(5));
        assert_eq!(queue.put(&source, Next(7), Some(told(6, 10))), 0);
        assert_eq!(queue.put(&source, Next(7), Some(told(6, 10))), 0, "what is in already");
        assert_eq!(queue.records(), 4);
        assert_eq!(spans(&mut queue), [(3, 5, false), (5, 7, true)]);
        assert!(queue.is_empty() && queue.bytes == 0);
    }

    #[test]
    fn what_does_not_fit_is_kept_without_its_events_and_read_back_in_pieces() {
        let source = SourcePartition::new("chat", 0);
        let mut queue = Queue::new(2_000);
        queue.assign(&source, Next(0), Next(0));
        assert_eq!(queue.put(&source, Next(1), Some(told(0, 5_000))), 0, "larger than the room, but alone");
        assert_eq!(queue.put(&source, Next(2), Some(told(1, 10))), 1);
        assert_eq!(queue.put(&source, Next(10_000), Some(told(2, 10))), 9_998);
        assert_eq!(queue.spans.len(), 2, "spans without events grow together");
        assert_eq!(spans(&mut queue), [(0, 1, true), (1, 4_097, false), (4_097, 8_193, false), (8_193, 10_000, false)]);
        assert_eq!(queue.put(&source, Next(10_001), None), 1, "events that only the tables hold");
        assert_eq!(queue.put(&source, Next(10_002), Some(told(10_001, 10))), 0, "room again");
        assert_eq!(spans(&mut queue), [(10_000, 10_001, false), (10_001, 10_002, true)]);
    }

    #[test]
    fn a_partition_that_goes_takes_its_spans_along() {
        let (one, other) = (SourcePartition::new("chat", 0), SourcePartition::new("chat", 1));
        let mut queue = Queue::new(10_000);
        for source in [&one, &other] {
            queue.assign(source, Next(0), Next(0));
            assert_eq!(queue.put(source, Next(1), Some(told(0, 100))), 0);
        }
        queue.release(&one);
        assert_eq!(queue.put(&one, Next(2), Some(told(1, 100))), 0);
        assert_eq!(queue.records(), 1);
        assert_eq!(queue.take().unwrap().source, other);
        assert_eq!(queue.bytes, 0);
    }
}
