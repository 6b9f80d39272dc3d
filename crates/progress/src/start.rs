//! Where a partition begins: stored position, then an explicit offset, then the earliest or latest record.
//!
//! A stored position that the broker can no longer serve is refused unless the operator has named what to do.

use uptake_model::Next;

/// Where a partition without a stored position and without an explicit one begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Origin {
    /// At the first record that the broker still holds. A new partition of a known topic always begins here.
    #[default]
    Earliest,
    /// Behind the last record.
    Latest,
}

/// What is known when a partition is assigned.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Facts {
    /// The position that the table holds.
    pub stored: Option<Next>,
    /// A position that the operator has named (an offset, or what a timestamp resolved to).
    pub explicit: Option<Next>,
    /// First offset that the broker still holds.
    pub low: Next,
    /// Offset behind the last record.
    pub high: Next,
    /// Where to begin without any position.
    pub origin: Origin,
    /// Whether other partitions of the topic have a stored position: then this one is new and begins at the earliest.
    pub topic_is_known: bool,
    /// Whether records lost to retention may be skipped (option `skip-lost-records`).
    pub skip_lost: bool,
}

/// Where to begin.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Start {
    /// The first offset to read.
    pub at: Next,
    /// Records between the stored position and there that the broker has lost.
    pub lost: u64,
}

/// Why a partition must not be read as things are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// Retention has deleted records that were never read.
    #[error(
        "records {stored} to {low} were deleted by retention before they were read; set `skip-lost-records` to go on behind the gap"
    )]
    Lost {
        /// Stored position.
        stored: Next,
        /// First offset that the broker still holds.
        low: Next,
    },
    /// The stored position lies behind the end: the topic was deleted and created anew, or truncated.
    #[error(
        "the table stands at offset {stored} but the topic ends at {high}: it was recreated or truncated; consume it under another `pipeline` name to read it from its start"
    )]
    Recreated {
        /// Stored position.
        stored: Next,
        /// Offset behind the last record.
        high: Next,
    },
    /// The named offset does not exist.
    #[error("offset {explicit} lies outside of what the topic holds, {low} to {high}; name one inside")]
    OutOfRange {
        /// The named offset.
        explicit: Next,
        /// First offset that the broker still holds.
        low: Next,
        /// Offset behind the last record.
        high: Next,
    },
}

/// Decides where a partition begins.
///
/// # Errors
/// A [`Refusal`] that names the option with which to go on.
pub fn decide(facts: &Facts) -> Result<Start, Refusal> {
    let Facts { low, high, .. } = *facts;
    let at = |at| Ok(Start { at, lost: 0 });
    match (facts.stored, facts.explicit) {
        (Some(stored), _) if stored > high => Err(Refusal::Recreated { stored, high }),
        (Some(stored), _) if stored >= low => at(stored),
        (Some(stored), _) if facts.skip_lost => Ok(Start { at: low, lost: low.0.abs_diff(stored.0) }),
        (Some(stored), _) => Err(Refusal::Lost { stored, low }),
        (None, Some(explicit)) if explicit < low || explicit > high => Err(Refusal::OutOfRange { explicit, low, high }),
        (None, Some(explicit)) => at(explicit),
        (None, None) if facts.origin == Origin::Earliest || facts.topic_is_known => at(low),
        (None, None) => at(high),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn facts() -> Facts {
        Facts {
            stored: None,
            explicit: None,
            low: Next(100),
            high: Next(200),
            origin: Origin::Earliest,
            topic_is_known: false,
            skip_lost: false,
        }
    }

    #[test]
    fn stored_beats_explicit_beats_origin() {
        let check = |facts: Facts, at| assert_eq!(decide(&facts), Ok(Start { at: Next(at), lost: 0 }), "{facts:?}");
        let (stored, explicit) = (Some(Next(150)), Some(Next(120)));
        check(Facts { stored, explicit, ..facts() }, 150);
        check(Facts { explicit, origin: Origin::Latest, ..facts() }, 120);
        check(facts(), 100);
        check(Facts { origin: Origin::Latest, ..facts() }, 200);
        check(Facts { origin: Origin::Latest, topic_is_known: true, ..facts() }, 100);
        check(Facts { stored: Some(Next(200)), ..facts() }, 200);
    }

    #[test]
    fn what_the_broker_cannot_serve_is_refused_with_the_way_on() {
        let lost = Facts { stored: Some(Next(40)), ..facts() };
        let refusal = decide(&lost).unwrap_err();
        assert!(refusal.to_string().contains("skip-lost-records"), "{refusal}");
        assert_eq!(decide(&Facts { skip_lost: true, ..lost }), Ok(Start { at: Next(100), lost: 60 }));
        let recreated = decide(&Facts { stored: Some(Next(201)), skip_lost: true, ..facts() }).unwrap_err();
        assert!(recreated.to_string().contains("pipeline"), "{recreated}");
        let outside = decide(&Facts { explicit: Some(Next(99)), ..facts() }).unwrap_err();
        assert_eq!(outside, Refusal::OutOfRange { explicit: Next(99), low: Next(100), high: Next(200) });
    }

    proptest! {
        #[test]
        fn a_start_is_always_served_and_never_rereads(
            stored in prop::option::of(0..300_i64), explicit in prop::option::of(0..300_i64), low in 0..200_i64,
            length in 0..100_i64, latest in any::<bool>(), known in any::<bool>(), skip in any::<bool>()
        ) {
            let facts = Facts {
                stored: stored.map(Next), explicit: explicit.map(Next), low: Next(low), high: Next(low + length),
                origin: if latest { Origin::Latest } else { Origin::Earliest }, topic_is_known: known, skip_lost: skip,
            };
            if let Ok(start) = decide(&facts) {
                prop_assert!(facts.low <= start.at && start.at <= facts.high);
                if let Some(stored) = facts.stored {
                    prop_assert!(start.at >= stored);
                    prop_assert_eq!(start.lost, start.at.0.abs_diff(stored.0));
                    prop_assert!(start.lost == 0 || skip);
                }
            }
        }
    }
}
