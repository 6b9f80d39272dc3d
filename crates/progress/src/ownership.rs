//! Which reader of a partition may still publish: an epoch per assignment.
//!
//! Work carries the epoch under which it was read. Once a revoke has been answered, no epoch of before may publish;
//! the table's own range check would refuse it too, and this check keeps it from getting that far.

use std::collections::BTreeMap;

use uptake_model::SourcePartition;

/// One assignment of one partition; a later one is greater.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Epoch(u64);

/// What to do with the work in hand when a partition goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Departure {
    /// A clean revoke: the group waits for the answer, so the work may be flushed first.
    Revoked,
    /// The session is over and another member may read already: drop, never flush.
    Lost,
}

/// The partitions that this process holds.
#[derive(Debug, Default)]
pub struct Ownership {
    held: BTreeMap<SourcePartition, Epoch>,
    last: u64,
}

impl Ownership {
    /// Takes a partition; the returned epoch is greater than every one before.
    pub fn assign(&mut self, partition: SourcePartition) -> Epoch {
        self.last += 1;
        let epoch = Epoch(self.last);
        self.held.insert(partition, epoch);
        epoch
    }

    /// Gives a partition up; the epoch that ended, none when it was not held.
    pub fn release(&mut self, partition: &SourcePartition) -> Option<Epoch> {
        self.held.remove(partition)
    }

    /// The epoch under which a partition is held.
    pub fn epoch(&self, partition: &SourcePartition) -> Option<Epoch> {
        self.held.get(partition).copied()
    }

    /// Whether work read under `epoch` may be published.
    pub fn may_publish(&self, partition: &SourcePartition, epoch: Epoch) -> bool {
        self.held.get(partition) == Some(&epoch)
    }

    /// The partitions held, in order.
    pub fn partitions(&self) -> impl Iterator<Item = &SourcePartition> {
        self.held.keys()
    }

    /// Whether nothing is held: idle by right, not an error.
    pub fn is_empty(&self) -> bool {
        self.held.is_empty()
    }
}

impl Departure {
    /// Whether the work in hand may be flushed before the answer.
    pub fn may_flush(self) -> bool {
        self == Self::Revoked
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_lost_partition_is_never_flushed() {
        assert!(Departure::Revoked.may_flush());
        assert!(!Departure::Lost.may_flush());
    }

    proptest! {
        #[test]
        fn only_the_last_assignment_publishes(steps in prop::collection::vec((0..3_i32, any::<bool>()), 1..60)) {
            let mut ownership = Ownership::default();
            let mut given: Vec<(SourcePartition, Epoch)> = Vec::new();
            for (number, assign) in steps {
                let partition = SourcePartition::new("messages", number);
                if assign {
                    let epoch = ownership.assign(partition.clone());
                    prop_assert!(given.iter().all(|(_, earlier)| *earlier < epoch));
                    given.push((partition, epoch));
                } else {
                    ownership.release(&partition);
                    for (_, epoch) in given.iter().filter(|(other, _)| *other == partition) {
                        prop_assert!(!ownership.may_publish(&partition, *epoch));
                    }
                }
                for number in 0..3 {
                    let partition = SourcePartition::new("messages", number);
                    let publishing = given
                        .iter()
                        .filter(|(other, epoch)| *other == partition && ownership.may_publish(other, *epoch))
                        .count();
                    prop_assert_eq!(publishing, usize::from(ownership.epoch(&partition).is_some()));
                }
            }
        }
    }
}
