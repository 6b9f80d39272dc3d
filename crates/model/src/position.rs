//! Positions in a log: an [`Offset`] is a record's place, [`Next`] is the place a reader stands at.
//!
//! Keeping the two apart is what prevents the classic off-by-one of Kafka sinks: a stored position is always
//! the *next* offset to read, and a [`Span`] is always half-open.

use std::fmt;

use serde::{Deserialize, Serialize};

/// The place of one record in a partition, as Kafka numbers it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Offset(pub i64);

/// The next offset to read: everything below it has been consumed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Next(pub i64);

impl Offset {
    /// Where a reader stands after having consumed this record.
    pub fn next(self) -> Next {
        Next(self.0.saturating_add(1))
    }
}

impl fmt::Display for Offset {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}", self.0)
    }
}

impl fmt::Display for Next {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}", self.0)
    }
}

/// A half-open range of consumed positions, `[from, to)`; `from <= to` by construction.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Span {
    from: Next,
    to: Next,
}

impl Span {
    /// A span, or `None` where `to` lies before `from`.
    pub fn new(from: Next, to: Next) -> Option<Self> {
        (from <= to).then_some(Self { from, to })
    }

    /// The first position inside.
    pub fn from(self) -> Next {
        self.from
    }

    /// The first position behind.
    pub fn to(self) -> Next {
        self.to
    }

    /// Whether nothing lies inside.
    pub fn is_empty(self) -> bool {
        self.from == self.to
    }

    /// Whether a record at `offset` lies inside.
    pub fn contains(self, offset: Offset) -> bool {
        self.from.0 <= offset.0 && offset.0 < self.to.0
    }
}

impl fmt::Display for Span {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "[{}, {})", self.from, self.to)
    }
}

/// One partition of one topic, or one imported file (topic `file:<hash>`, partition 0).
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct SourcePartition {
    /// Topic name.
    pub topic: String,
    /// Partition number.
    pub partition: i32,
}

impl SourcePartition {
    /// A source partition.
    pub fn new(topic: impl Into<String>, partition: i32) -> Self {
        Self { topic: topic.into(), partition }
    }

    /// The application id under which Delta keeps this partition's position for `pipeline`
    /// (`txn.appId`, Delta protocol, "Transaction Identifiers"): `<pipeline>/<topic>/<partition>`.
    pub fn position_key(&self, pipeline: &str) -> String {
        format!("{pipeline}/{}/{}", self.topic, self.partition)
    }

    /// The application id under which Delta keeps this partition's watermark (milliseconds since 1970).
    pub fn watermark_key(&self) -> String {
        format!("watermark/{}/{}", self.topic, self.partition)
    }

    /// The application id under which Delta keeps whether this partition is idle or read to its end (1), or active (0).
    pub fn idle_key(&self) -> String {
        format!("idle/{}/{}", self.topic, self.partition)
    }
}

impl fmt::Display for SourcePartition {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}/{}", self.topic, self.partition)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_offset_is_not_its_next() {
        assert_eq!(Offset(41).next(), Next(42));
    }

    #[test]
    fn spans_are_half_open() {
        let span = Span::new(Next(3), Next(5)).unwrap();
        assert!(span.contains(Offset(3)) && span.contains(Offset(4)));
        assert!(!span.contains(Offset(5)) && !span.contains(Offset(2)));
        assert!(Span::new(Next(5), Next(3)).is_none());
        assert!(Span::new(Next(5), Next(5)).unwrap().is_empty());
    }
}
