//! The names under which the tables keep what they know of a partition, and the number that recognises a record.

use uptake_model::{Next, Offset, SourcePartition};

use crate::buffer::Seen;
use crate::error::{Error, Result};

/// Refuses a pipeline name that cannot be part of a key.
pub(super) fn check_pipeline(pipeline: &str) -> Result<()> {
    let fits = !pipeline.is_empty()
        && pipeline.len() <= 64
        && pipeline.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte));
    if fits {
        return Ok(());
    }
    Err(Error::Invalid(format!(
        "`{pipeline}` is no pipeline name: use 1 to 64 letters, digits, `-`, `_` and `.` (positions are kept under it)"
    )))
}

/// The application id under which the table notes whether a source is idle (1) or not (0).
pub(super) fn idle_key(source: &SourcePartition) -> String {
    format!("idle/{}/{}", source.topic, source.partition)
}

/// The application id under which the table keeps how to recognise the last record before a position.
pub(super) fn last_key(source: &SourcePartition, pipeline: &str) -> String {
    format!("last/{}", source.position_key(pipeline))
}

/// The application id under which the table keeps up to where a partition's signals have been published to a topic.
pub(super) fn signals_key(source: &SourcePartition, pipeline: &str, topic: &str) -> String {
    format!("signals/{topic}/{}", source.position_key(pipeline))
}

/// How far before the position the last record may lie; beyond that it is not looked for.
const FARTHEST: i64 = (1 << 20) - 1;

/// Time and distance to the position in one number, as the log keeps numbers only: 43 bits of milliseconds, 20 of distance.
pub(super) fn pack(last: Seen, to: Next) -> i64 {
    let distance = to.0.saturating_sub(last.offset.0).clamp(0, FARTHEST);
    last.broker_millis.clamp(0, (1 << 43) - 1) << 20 | distance
}

/// The record that a number recognises, given the position that it was stored with.
pub(super) fn unpack(packed: i64, next: Next) -> Seen {
    Seen { offset: Offset(next.0 - (packed & FARTHEST)), broker_millis: packed >> 20 }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_is_recognised_through_one_number() {
        for (offset, to, millis) in [(0, 1, 0), (41, 42, 1_795_000_000_000), (100, 1_000, 1_795_000_000_001)] {
            let seen = Seen { offset: Offset(offset), broker_millis: millis };
            assert_eq!(unpack(pack(seen, Next(to)), Next(to)), seen);
            assert!(pack(seen, Next(to)) >= 0);
        }
    }

    #[test]
    fn pipeline_names_are_those_that_keys_can_hold() {
        assert!(check_pipeline("backfill-2026.1_a").is_ok());
        for name in ["", "a/b", "with space", &"x".repeat(65)] {
            assert!(check_pipeline(name).unwrap_err().to_string().contains("letters, digits"), "{name}");
        }
    }
}
