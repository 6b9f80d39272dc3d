//! What became of the requests of a run, for its summary.

use std::collections::BTreeMap;

use crate::endpoint::Retry;

/// Counts over all requests of a [`Judge`](crate::Judge).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    /// Attempts that were sent.
    pub requests: u64,
    /// Answers that were known already.
    pub cache_hits: u64,
    /// Entries of the cache that could not be read and were asked for again.
    pub cache_broken: u64,
    /// Questions put a second time because the first answer did not hold.
    pub asked_again: u64,
    /// Answers whose tokens the server did not count; they are booked by an upper estimate.
    pub estimated: u64,
    /// Attempts that failed and could be repeated, by reason.
    pub failed: BTreeMap<Retry, u64>,
}
