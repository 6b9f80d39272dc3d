//! What was consumed and is not yet in bronze, by partition.

use std::collections::BTreeMap;
use std::time::Instant;

use uptake_model::decode::Outcome;
use uptake_model::rows::{EventRow, LetterRow};
use uptake_model::time::Micros;
use uptake_model::{Next, Offset, SourcePartition};
use uptake_progress::ownership::Epoch;

/// Why a record moves the position without leaving a row.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Pass {
    /// A null payload: this contract gives it no other meaning than "nothing".
    Tombstone,
    /// The same event id with the same content was seen in the window.
    Duplicate,
}

/// What was consumed of one partition since its last flush.
#[derive(Debug)]
pub struct Part {
    pub(crate) epoch: Option<Epoch>,
    pub(crate) to: Next,
    pub(crate) events: Vec<EventRow>,
    pub(crate) letters: Vec<LetterRow>,
    /// Bytes that the rows hold.
    pub(crate) bytes: usize,
    /// Payload bytes as they came, for the counters.
    pub(crate) payload_bytes: u64,
    pub(crate) tombstones: u64,
    pub(crate) duplicates: u64,
    /// The latest plausible event time.
    pub(crate) newest: Option<Micros>,
    /// Whether the partition fell silent, or came to its end: then it holds the overall watermark back no longer.
    pub(crate) idle: bool,
    /// The last record consumed, by which a topic that was made again is told from the one that was read.
    pub(crate) last: Option<Seen>,
}

/// A record as it can be recognised: its place, and the time that the broker holds for it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Seen {
    /// Offset.
    pub offset: Offset,
    /// Milliseconds since 1970.
    pub broker_millis: i64,
}

impl Part {
    fn new(epoch: Option<Epoch>, at: Next) -> Self {
        Self {
            epoch,
            to: at,
            events: Vec::new(),
            letters: Vec::new(),
            bytes: 0,
            payload_bytes: 0,
            tombstones: 0,
            duplicates: 0,
            newest: None,
            idle: false,
            last: None,
        }
    }

    /// Where the reader of this partition stands.
    pub fn to(&self) -> Next {
        self.to
    }

    /// Rows held, good and bad.
    pub fn rows(&self) -> usize {
        self.events.len() + self.letters.len()
    }

    fn reach(&mut self, offset: Offset) {
        self.to = self.to.max(offset.next());
    }
}

/// What was consumed and is not yet in bronze.
///
/// Rows of a partition must be added in the order of their offsets.
#[derive(Debug, Default)]
pub struct Buffer {
    pub(crate) parts: BTreeMap<SourcePartition, Part>,
    bytes: usize,
    rows: usize,
    oldest: Option<Instant>,
}

impl Buffer {
    /// An empty buffer.
    pub fn new() -> Self {
        Self::default()
    }

    /// Bytes that the rows hold.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// Rows held, good and bad.
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// Whether nothing was consumed, not even a tombstone.
    pub fn is_empty(&self) -> bool {
        self.parts.is_empty()
    }

    /// When the first record since the last flush was added, by the monotonic clock.
    pub fn oldest(&self) -> Option<Instant> {
        self.oldest
    }

    /// The partitions and what is held of each.
    pub fn parts(&self) -> impl Iterator<Item = (&SourcePartition, &Part)> {
        self.parts.iter()
    }

    /// Adds what a record became. `payload_bytes` is the size of the payload as it came.
    pub fn add(
        &mut self,
        source: &SourcePartition,
        epoch: Option<Epoch>,
        offset: Offset,
        outcome: Outcome,
        payload_bytes: usize,
    ) {
        match outcome {
            Outcome::Event(row) => {
                let size = row.size();
                let plausible = row.clock_skew.is_none().then_some(row.event_time);
                let part = self.part(source, epoch, offset);
                part.newest = part.newest.max(plausible);
                part.events.push(*row);
                self.grow(source, size, payload_bytes);
            }
            Outcome::Letter(row) => {
                let size = row.size();
                self.part(source, epoch, offset).letters.push(*row);
                self.grow(source, size, payload_bytes);
            }
            Outcome::Tombstone => self.pass(source, epoch, offset, Pass::Tombstone),
        }
    }

    /// Notes a record that leaves no row.
    pub fn pass(&mut self, source: &SourcePartition, epoch: Option<Epoch>, offset: Offset, why: Pass) {
        let part = self.part(source, epoch, offset);
        match why {
            Pass::Tombstone => part.tombstones += 1,
            Pass::Duplicate => part.duplicates += 1,
        }
    }

    /// Notes the record that was just added or passed, so that it can be recognised.
    pub fn recognise(&mut self, source: &SourcePartition, seen: Seen) {
        if let Some(part) = self.parts.get_mut(source) {
            part.last = Some(seen);
        }
    }

    /// Notes that everything before `next` was read, although no record says so (control records at a partition's end).
    pub fn reach(&mut self, source: &SourcePartition, epoch: Option<Epoch>, next: Next) {
        self.oldest.get_or_insert_with(Instant::now);
        let part = self.entry(source, epoch, next);
        part.to = part.to.max(next);
    }

    /// Notes that a partition fell silent, or that a file came to its end, at `next`: the next flush says so in the table.
    pub fn set_idle(&mut self, source: &SourcePartition, epoch: Option<Epoch>, next: Next) {
        self.reach(source, epoch, next);
        if let Some(part) = self.parts.get_mut(source) {
            part.idle = true;
        }
    }

    /// Takes out the parts of these partitions.
    pub fn split_off(&mut self, mut wanted: impl FnMut(&SourcePartition) -> bool) -> Self {
        let mut taken = Self { oldest: self.oldest, ..Self::default() };
        let all = std::mem::take(&mut self.parts);
        for (source, part) in all {
            let target = if wanted(&source) { &mut taken } else { &mut *self };
            target.parts.insert(source, part);
        }
        self.recount();
        taken.recount();
        taken
    }

    fn recount(&mut self) {
        self.bytes = self.parts.values().map(|part| part.bytes).sum();
        self.rows = self.parts.values().map(Part::rows).sum();
        if self.parts.is_empty() {
            self.oldest = None;
        }
    }

    fn part(&mut self, source: &SourcePartition, epoch: Option<Epoch>, offset: Offset) -> &mut Part {
        self.oldest.get_or_insert_with(Instant::now);
        let part = self.entry(source, epoch, Next(offset.0));
        part.reach(offset);
        part.idle = false;
        part
    }

    fn entry(&mut self, source: &SourcePartition, epoch: Option<Epoch>, at: Next) -> &mut Part {
        self.parts.entry(source.clone()).or_insert_with(|| Part::new(epoch, at))
    }

    fn grow(&mut self, source: &SourcePartition, size: usize, payload_bytes: usize) {
        if let Some(part) = self.parts.get_mut(source) {
            part.bytes += size;
            part.payload_bytes += payload_bytes as u64;
        }
        self.bytes += size;
        self.rows += 1;
    }
}
