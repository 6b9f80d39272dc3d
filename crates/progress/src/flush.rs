//! When a buffer is written, and which partitions pause when memory runs short.

use std::time::Duration;

use uptake_model::SourcePartition;

/// When a buffer must be written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Bytes held.
    pub bytes: u64,
    /// Rows held.
    pub rows: u64,
    /// Age of the oldest record held, by a monotonic clock.
    pub age: Duration,
}

/// What a buffer holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Buffered {
    /// Bytes held.
    pub bytes: u64,
    /// Rows held.
    pub rows: u64,
    /// Age of the oldest thing that waits: a row, or a consumed offset without one. None when nothing waits.
    pub oldest: Option<Duration>,
}

/// Why a buffer is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reason {
    /// Enough bytes.
    Bytes,
    /// Enough rows.
    Rows,
    /// The oldest record has waited long enough.
    Age,
    /// A partition is being taken away.
    Revoke,
    /// The process ends, or a bounded read has come to its end.
    Shutdown,
}

impl Reason {
    /// The label in metrics.
    pub fn name(self) -> &'static str {
        match self {
            Self::Bytes => "bytes",
            Self::Rows => "rows",
            Self::Age => "age",
            Self::Revoke => "revoke",
            Self::Shutdown => "shutdown",
        }
    }
}

impl Limits {
    /// Why the buffer is due, if it is. An empty buffer in which nothing waits is never due.
    pub fn due(&self, buffered: &Buffered) -> Option<Reason> {
        let oldest = buffered.oldest?;
        if buffered.bytes >= self.bytes {
            Some(Reason::Bytes)
        } else if buffered.rows >= self.rows {
            Some(Reason::Rows)
        } else if oldest >= self.age {
            Some(Reason::Age)
        } else {
            None
        }
    }

    /// How long until the buffer is due by age alone; zero when it is due already, none when nothing waits.
    pub fn wait(&self, buffered: &Buffered) -> Option<Duration> {
        buffered.oldest.map(|oldest| self.age.saturating_sub(oldest))
    }
}

/// One partition's share of the memory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Share {
    /// Which partition.
    pub partition: SourcePartition,
    /// Bytes held for it, buffered or in flight.
    pub bytes: u64,
    /// Whether it is paused now.
    pub paused: bool,
}

/// Which partitions to pause and which to let run again.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Regulation {
    /// To be paused.
    pub pause: Vec<SourcePartition>,
    /// To be resumed.
    pub resume: Vec<SourcePartition>,
}

/// Decides on pausing at the memory bound.
///
/// At or above `bound` bytes every running partition that holds something is paused, and those that hold nothing too:
/// the next record may come from any of them, and the bound is hard. Below `resume_below` all are resumed; between the
/// two nothing changes, so that the state does not flutter. From three quarters of the bound on, the fullest running
/// partitions are paused first, as many as hold half of the bytes.
pub fn regulate(bound: u64, resume_below: u64, shares: &[Share]) -> Regulation {
    let total: u64 = shares.iter().map(|share| share.bytes).sum();
    let mut regulation = Regulation::default();
    if total >= bound {
        regulation.pause = names(shares.iter().filter(|share| !share.paused));
    } else if total < resume_below.min(bound) {
        regulation.resume = names(shares.iter().filter(|share| share.paused));
    } else if total >= bound - bound / 4 {
        let mut fullest: Vec<&Share> = shares.iter().collect();
        fullest.sort_by(|left, right| right.bytes.cmp(&left.bytes).then_with(|| left.partition.cmp(&right.partition)));
        let mut covered = 0;
        let heavy = fullest.into_iter().take_while(|share| {
            let take = covered < total.div_ceil(2) && share.bytes > 0;
            covered += share.bytes;
            take
        });
        regulation.pause = names(heavy.filter(|share| !share.paused));
    }
    regulation
}

fn names<'a>(shares: impl Iterator<Item = &'a Share>) -> Vec<SourcePartition> {
    shares.map(|share| share.partition.clone()).collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const LIMITS: Limits = Limits { bytes: 100, rows: 10, age: Duration::from_mins(1) };

    fn buffered(bytes: u64, rows: u64, age: u64) -> Buffered {
        Buffered { bytes, rows, oldest: Some(Duration::from_secs(age)) }
    }

    #[test]
    fn a_buffer_is_due_by_bytes_rows_or_age() {
        assert_eq!(LIMITS.due(&buffered(99, 9, 59)), None);
        assert_eq!(LIMITS.due(&buffered(100, 0, 0)), Some(Reason::Bytes));
        assert_eq!(LIMITS.due(&buffered(0, 10, 0)), Some(Reason::Rows));
        assert_eq!(LIMITS.due(&buffered(0, 0, 60)), Some(Reason::Age), "offsets without a row count too");
        assert_eq!(LIMITS.due(&Buffered::default()), None);
        assert_eq!(LIMITS.wait(&buffered(0, 0, 45)), Some(Duration::from_secs(15)));
        assert_eq!(LIMITS.wait(&buffered(0, 0, 90)), Some(Duration::ZERO));
        assert_eq!(LIMITS.wait(&Buffered::default()), None);
    }

    fn share(number: i32, bytes: u64, paused: bool) -> Share {
        Share { partition: SourcePartition::new("messages", number), bytes, paused }
    }

    #[test]
    fn the_fullest_pause_first_and_all_at_the_bound() {
        let near = regulate(100, 50, &[share(0, 5, false), share(1, 60, false), share(2, 15, false)]);
        assert_eq!(near.pause, vec![SourcePartition::new("messages", 1)]);
        let at = regulate(100, 50, &[share(0, 0, false), share(1, 60, true), share(2, 40, false)]);
        assert_eq!(at.pause, vec![SourcePartition::new("messages", 0), SourcePartition::new("messages", 2)]);
        let between = regulate(100, 50, &[share(0, 30, true), share(1, 30, false)]);
        assert_eq!(between, Regulation::default());
        let low = regulate(100, 50, &[share(0, 30, true), share(1, 10, false)]);
        assert_eq!(low.resume, vec![SourcePartition::new("messages", 0)]);
    }

    proptest! {
        #[test]
        fn at_the_bound_nothing_runs_on_and_it_always_ends(
            held in prop::collection::vec((0..200_u64, any::<bool>()), 1..8), bound in 1..500_u64
        ) {
            let shares: Vec<Share> = held.iter().enumerate()
                .map(|(number, (bytes, paused))| share(i32::try_from(number).unwrap(), *bytes, *paused)).collect();
            let total: u64 = held.iter().map(|(bytes, _)| bytes).sum();
            let regulation = regulate(bound, bound / 2, &shares);
            for share in &shares {
                let runs = (!share.paused && !regulation.pause.contains(&share.partition))
                    || regulation.resume.contains(&share.partition);
                if total >= bound {
                    prop_assert!(!runs, "{share:?} runs at the bound");
                }
            }
            prop_assert!(regulation.pause.is_empty() || regulation.resume.is_empty());
            // An empty buffer lets everything run again, so a pause cannot last for ever.
            let emptied: Vec<Share> = shares.iter().map(|share| Share { bytes: 0, ..share.clone() }).collect();
            let after = regulate(bound.max(2), bound.max(2) / 2, &emptied);
            prop_assert_eq!(after.resume.len(), emptied.iter().filter(|share| share.paused).count());
        }
    }
}
