//! Times as producers write them, and the date that a conversation lives under.

use chrono::{DateTime, NaiveDate, NaiveDateTime, Utc};
use serde_json::Value;
use uuid::Uuid;

/// Microseconds since 1970-01-01 UTC, the unit of every timestamp column.
pub type Micros = i64;

/// Days since 1970-01-01, the unit of every date column.
pub type Day = i32;

/// Microseconds in a day.
pub const DAY_MICROS: i64 = 86_400_000_000;

/// An event time further ahead of the clock than this is implausible (five minutes).
pub const FUTURE_TOLERANCE: i64 = 5 * 60 * 1_000_000;

/// Event times before 2015-01-01 are implausible: no chat product of this kind has logs that old.
pub const PLAUSIBLE_SINCE: Micros = 1_420_070_400_000_000;

/// Reads a time: an RFC 3339 string, `YYYY-MM-DD HH:MM:SS` (taken as UTC), or a number of seconds or
/// milliseconds since 1970 (told apart by size).
///
/// # Errors
/// A sentence that says what was expected, when the value is neither.
pub fn parse(value: &Value) -> Result<Micros, String> {
    match value {
        Value::String(text) => parse_text(text),
        Value::Number(number) => {
            let seconds = number
                .as_f64()
                .filter(|value| value.is_finite())
                .ok_or_else(|| format!("time `{number}` is out of range"))?;
            // Above 1e11, seconds would lie after the year 5138: the number counts milliseconds.
            let scale = if seconds.abs() >= 1e11 { 1e3 } else { 1e6 };
            let micros = seconds * scale;
            if micros.abs() > 9e18 {
                return Err(format!("time `{number}` is out of range"));
            }
            #[expect(clippy::cast_possible_truncation, reason = "bounded just above")]
            Ok(micros as i64)
        }
        other => {
            Err(format!("expected an RFC 3339 time or a number of seconds or milliseconds, found {}", kind_of(other)))
        }
    }
}

fn parse_text(text: &str) -> Result<Micros, String> {
    let text = text.trim();
    if let Ok(time) = DateTime::parse_from_rfc3339(text) {
        return Ok(time.timestamp_micros());
    }
    for format in ["%Y-%m-%d %H:%M:%S%.f", "%Y-%m-%dT%H:%M:%S%.f"] {
        if let Ok(time) = NaiveDateTime::parse_from_str(text, format) {
            return Ok(time.and_utc().timestamp_micros());
        }
    }
    Err(format!("`{}` is no RFC 3339 time such as 2026-01-31T12:00:00Z", text.chars().take(40).collect::<String>()))
}

fn kind_of(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "a boolean",
        Value::Number(_) => "a number",
        Value::String(_) => "a string",
        Value::Array(_) => "an array",
        Value::Object(_) => "an object",
    }
}

/// The UTC day of a time.
pub fn day_of(time: Micros) -> Day {
    Day::try_from(time.div_euclid(DAY_MICROS)).unwrap_or(Day::MAX)
}

/// A day as `YYYY-MM-DD`; days outside the calendar's range print as their number.
pub fn day_text(day: Day) -> String {
    NaiveDate::from_epoch_days(day).map_or_else(|| day.to_string(), |date| date.to_string())
}

/// Reads `YYYY-MM-DD`.
pub fn parse_day(text: &str) -> Option<Day> {
    let date = NaiveDate::parse_from_str(text, "%Y-%m-%d").ok()?;
    Some(date.to_epoch_days())
}

/// A time as RFC 3339 with microseconds.
pub fn time_text(time: Micros) -> String {
    DateTime::<Utc>::from_timestamp_micros(time)
        .map_or_else(|| time.to_string(), |time| time.to_rfc3339_opts(chrono::SecondsFormat::Micros, true))
}

/// How a time strays from what is plausible, for the `clock_skew` column and its counter.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Skew {
    /// More than [`FUTURE_TOLERANCE`] ahead of the reader's clock.
    Future,
    /// Before [`PLAUSIBLE_SINCE`].
    Ancient,
}

impl Skew {
    /// The name stored in `clock_skew`.
    pub fn name(self) -> &'static str {
        match self {
            Self::Future => "future",
            Self::Ancient => "ancient",
        }
    }

    /// Whether `time`, seen at `now`, is implausible, and how.
    pub fn of(time: Micros, now: Micros) -> Option<Self> {
        if time > now.saturating_add(FUTURE_TOLERANCE) {
            Some(Self::Future)
        } else if time < PLAUSIBLE_SINCE {
            Some(Self::Ancient)
        } else {
            None
        }
    }
}

/// The time inside a `UUIDv7` (RFC 9562, section 5.7), if `id` is one.
pub fn uuid_v7_time(id: &str) -> Option<Micros> {
    let uuid = Uuid::try_parse(id).ok()?;
    if uuid.get_version_num() != 7 {
        return None;
    }
    let (seconds, nanos) = uuid.get_timestamp()?.to_unix();
    i64::try_from(seconds).ok()?.checked_mul(1_000_000)?.checked_add(i64::from(nanos / 1_000))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn seconds_milliseconds_and_text_agree() {
        let expected = 1_767_225_600_000_000;
        for value in [
            json!(1_767_225_600),
            json!(1_767_225_600_000_i64),
            json!("2026-01-01T00:00:00Z"),
            json!("2026-01-01 00:00:00"),
            json!("2026-01-01T01:00:00+01:00"),
        ] {
            assert_eq!(parse(&value), Ok(expected), "{value}");
        }
    }

    #[test]
    fn what_is_no_time_is_refused() {
        for value in [json!("yesterday"), json!(null), json!({}), json!(1e300)] {
            assert!(parse(&value).is_err(), "{value}");
        }
    }

    #[test]
    fn skew_is_told_apart() {
        let now = 1_767_225_600_000_000;
        assert_eq!(Skew::of(now, now), None);
        assert_eq!(Skew::of(now + 6 * 60 * 1_000_000, now), Some(Skew::Future));
        assert_eq!(Skew::of(0, now), Some(Skew::Ancient));
    }

    #[test]
    fn a_uuid_v7_carries_its_time() {
        // RFC 9562, appendix A.6: 2022-02-22T19:22:22Z.
        assert_eq!(uuid_v7_time("017F22E2-79B0-7CC3-98C4-DC0C0C07398F"), Some(1_645_557_742_000_000));
        assert_eq!(uuid_v7_time("conversation-7"), None);
    }

    #[test]
    fn days_round_trip() {
        assert_eq!(parse_day("2026-01-01").map(day_text).as_deref(), Some("2026-01-01"));
        assert_eq!(day_of(-1), -1);
    }
}
