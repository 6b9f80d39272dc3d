//! Lengths in tokens, and what a trainer's limit would drop.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// The limits that trainers come with or people set: `OpenRLHF` drops above 512 unless told otherwise, TRL above 1024.
const LIMITS: [u64; 6] = [512, 1024, 2048, 4096, 8192, 16384];

/// How long rows are, in tokens of the declared tokenizer; chat templates add a few for each message.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Lengths {
    /// Rows measured.
    pub rows: u64,
    /// Half of the rows are at most this long.
    pub p50: u64,
    /// 90 % are.
    pub p90: u64,
    /// 99 % are.
    pub p99: u64,
    /// The longest.
    pub longest: u64,
    /// Rows longer than a limit, which a trainer with that limit drops or cuts without a word.
    pub over: BTreeMap<u64, u64>,
}

/// Counts lengths.
#[derive(Debug, Default)]
pub(super) struct Histogram {
    counts: BTreeMap<u64, u64>,
}

impl Histogram {
    pub(super) fn add(&mut self, length: u64) {
        *self.counts.entry(length).or_default() += 1;
    }

    pub(super) fn is_empty(&self) -> bool {
        self.counts.is_empty()
    }

    /// The summary; `limit` joins the usual limits.
    pub(super) fn summary(&self, limit: Option<u64>) -> Lengths {
        let rows = self.counts.values().sum();
        let over = |limit: u64| self.counts.range(limit + 1..).map(|(_, count)| count).sum();
        Lengths {
            rows,
            p50: self.quantile(rows, 50),
            p90: self.quantile(rows, 90),
            p99: self.quantile(rows, 99),
            longest: self.counts.last_key_value().map_or(0, |(length, _)| *length),
            over: LIMITS.into_iter().chain(limit).map(|limit| (limit, over(limit))).collect(),
        }
    }

    /// The smallest length that `percent` of the rows do not exceed.
    fn quantile(&self, rows: u64, percent: u64) -> u64 {
        let wanted = (rows * percent).div_ceil(100);
        let mut seen = 0;
        for (length, count) in &self.counts {
            seen += count;
            if seen >= wanted {
                return *length;
            }
        }
        0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_and_limits_are_exact() {
        let mut histogram = Histogram::default();
        (1..=1000).for_each(|length| histogram.add(length));
        let lengths = histogram.summary(Some(990));
        assert_eq!((lengths.p50, lengths.p90, lengths.p99, lengths.longest), (500, 900, 990, 1000));
        assert_eq!((lengths.over[&512], lengths.over[&990], lengths.over[&1024]), (488, 10, 0));
        assert_eq!(Histogram::default().summary(None).longest, 0);
    }
}
