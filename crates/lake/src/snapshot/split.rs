//! Which rows are kept for testing: whole conversations, and everything from a day on.
//!
//! Two questions need two kinds of test rows. *Does it hold for conversations it has not seen?* The gold tables answer that:
//! their `split` follows from a hash of the conversation. *Does it hold next week?* Only rows later than every training row
//! can say: so all conversations that began on or after `test_from` are kept back too, whatever their hash. `held_out_by`
//! tells the two apart. A conversation has one start day and one hash, so no rule can cut one in two; the survey checks that.

use std::collections::BTreeMap;

use uptake_model::time::{Day, day_text};

/// The largest share of the rows that the automatic choice of `test_from` keeps back.
const SHARE_BY_TIME: f64 = 0.1;

/// Where a row goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) enum Side {
    Train,
    /// In test because of its conversation's hash.
    ByConversation,
    /// In test because of its day.
    ByTime,
}

impl Side {
    /// The name of the split.
    pub(super) fn split(self) -> &'static str {
        if self == Self::Train { "train" } else { "test" }
    }

    /// The value of `held_out_by`.
    pub(super) fn held_out_by(self) -> Option<&'static str> {
        match self {
            Self::Train => None,
            Self::ByConversation => Some("conversation"),
            Self::ByTime => Some("time"),
        }
    }
}

/// The rule of one snapshot.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Splitter {
    /// The first day that is kept back whole.
    pub(super) test_from: Option<Day>,
}

impl Splitter {
    /// Where a row of that day and that `split` of the gold table goes.
    pub(super) fn side(self, split: &str, day: Day) -> Side {
        if split == "test" {
            Side::ByConversation
        } else if self.test_from.is_some_and(|from| day >= from) {
            Side::ByTime
        } else {
            Side::Train
        }
    }

    /// The rule that was asked for, or the latest days that hold at most a tenth of the rows. With it, the reason.
    pub(super) fn choose(asked: Option<Day>, rows: &BTreeMap<Day, u64>) -> (Self, String) {
        if let Some(day) = asked {
            return (Self { test_from: Some(day) }, "as asked".to_owned());
        }
        let total: u64 = rows.values().sum();
        let (mut kept, mut test_from) = (0, None);
        for (day, count) in rows.iter().rev() {
            kept += count;
            if kept as f64 > SHARE_BY_TIME * total as f64 {
                break;
            }
            test_from = Some(*day);
        }
        let reason = match (test_from, rows.last_key_value()) {
            (Some(_), _) => "the latest days that hold at most a tenth of the rows".to_owned(),
            (None, Some((day, count))) => format!(
                "none: the last day, {}, alone holds {:.0} % of the rows",
                day_text(*day),
                100.0 * *count as f64 / total as f64
            ),
            (None, None) => "none: there are no rows".to_owned(),
        };
        (Self { test_from }, reason)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_latest_days_are_kept_back_while_they_are_few() {
        let rows = BTreeMap::from([(1, 80), (2, 12), (3, 5), (4, 3)]);
        assert_eq!(Splitter::choose(None, &rows).0.test_from, Some(3));
        assert_eq!(Splitter::choose(Some(2), &rows).0.test_from, Some(2));
        let (splitter, reason) = Splitter::choose(None, &BTreeMap::from([(1, 50), (2, 50)]));
        assert_eq!(splitter.test_from, None);
        assert!(reason.contains("50 %"), "{reason}");
    }

    #[test]
    fn the_hash_goes_before_the_day() {
        let splitter = Splitter { test_from: Some(10) };
        assert_eq!(splitter.side("train", 9), Side::Train);
        assert_eq!(splitter.side("train", 10), Side::ByTime);
        assert_eq!(splitter.side("test", 10), Side::ByConversation);
        assert_eq!(splitter.side("test", 1), Side::ByConversation);
    }
}
