//! Cron lines: when they come due, and what becomes of the times that nobody was there for.

use std::str::FromStr as _;

use chrono::{DateTime, Utc};
use chrono_tz::Tz;
use serde::{Deserialize, Serialize};

use crate::Millis;

/// Times that a daemon looks back at, at most: a line of every second after a year of downtime is no reason to hang.
const MOST_MISSED: usize = 1_000;

/// What becomes of the times that came due while no daemon was there, or while an earlier run still waited.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum CatchUp {
    /// The latest of them is run, the others are missed.
    #[default]
    Once,
    /// Each is run, one after the other.
    All,
    /// None is run.
    None,
}

/// A cron line in a time zone: five fields, or six with seconds first; `@daily` and its kin.
#[derive(Debug, Clone)]
pub struct Cron {
    pattern: croner::Cron,
    zone: Tz,
}

impl Cron {
    /// Reads a line.
    ///
    /// # Errors
    /// A sentence that says what is wrong with it: the line, the zone, or that it never comes due.
    pub fn parse(line: &str, zone: &str) -> Result<Self, String> {
        let zone: Tz = zone
            .parse()
            .map_err(|_| format!("`{zone}` is no time zone; write it as `UTC`, `Europe/Berlin`, `America/New_York`"))?;
        let pattern = croner::Cron::from_str(line).map_err(|error| format!("`{line}` is no cron line: {error}"))?;
        let cron = Self { pattern, zone };
        // Any start will do: what comes due at all does so within the eight years between two leap days around 2100.
        match cron.next_after(Utc::now().timestamp_millis()) {
            Some(_) => Ok(cron),
            None => Err(format!("`{line}` never comes due: there is no such day")),
        }
    }

    /// The first time after this one.
    pub fn next_after(&self, time: Millis) -> Option<Millis> {
        let start = DateTime::from_timestamp_millis(time)?.with_timezone(&self.zone);
        self.pattern.find_next_occurrence(&start, false).ok().map(|next| next.timestamp_millis())
    }

    /// The times after `after` up to and with `until`, oldest first; of very many, the latest.
    pub(crate) fn due(&self, after: Millis, until: Millis) -> Vec<Millis> {
        let Some(end) = DateTime::from_timestamp_millis(until) else { return Vec::new() };
        let end = end.with_timezone(&self.zone);
        let mut times = Vec::new();
        let mut at = self.pattern.find_previous_occurrence(&end, true);
        while let Ok(time) = at {
            if time.timestamp_millis() <= after || times.len() == MOST_MISSED {
                break;
            }
            times.push(time.timestamp_millis());
            at = self.pattern.find_previous_occurrence(&time, false);
        }
        times.reverse();
        times
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(text: &str) -> Millis {
        DateTime::parse_from_rfc3339(text).unwrap().timestamp_millis()
    }

    #[test]
    fn lines_come_due_in_their_zone_and_over_a_change_of_the_clocks() {
        let night = Cron::parse("30 2 * * *", "Europe/Berlin").unwrap();
        assert_eq!(night.next_after(at("2026-11-21T00:00:00Z")), Some(at("2026-11-21T01:30:00Z")));
        // 2:30 does not exist on 29 March 2026 there: the run is not lost.
        let spring = night.due(at("2026-03-28T12:00:00Z"), at("2026-03-30T12:00:00Z"));
        assert_eq!(spring.len(), 2, "{spring:?}");
        // And exists twice on 25 October 2026: one run all the same.
        let autumn = night.due(at("2026-10-24T12:00:00Z"), at("2026-10-25T12:00:00Z"));
        assert_eq!(autumn.len(), 1, "{autumn:?}");
    }

    #[test]
    fn what_is_due_lies_between_the_two_ends() {
        let hourly = Cron::parse("@hourly", "UTC").unwrap();
        let due = hourly.due(at("2026-11-21T01:00:00Z"), at("2026-11-21T03:00:00Z"));
        assert_eq!(due, [at("2026-11-21T02:00:00Z"), at("2026-11-21T03:00:00Z")]);
        assert!(hourly.due(at("2026-11-21T01:00:00Z"), at("2026-11-21T01:59:59Z")).is_empty());
        let often = Cron::parse("* * * * * *", "UTC").unwrap();
        let due = often.due(at("2025-11-21T01:00:00Z"), at("2026-11-21T01:00:00Z"));
        assert_eq!((due.len(), due.last()), (MOST_MISSED, Some(&at("2026-11-21T01:00:00Z"))));
    }

    #[test]
    fn what_cannot_work_is_said() {
        assert!(Cron::parse("0 0 30 2 *", "UTC").unwrap_err().contains("never comes due"));
        assert!(Cron::parse("0 25 * * *", "UTC").unwrap_err().contains("is no cron line"));
        assert!(Cron::parse("0 2 * * *", "Berlin").unwrap_err().contains("is no time zone"));
    }
}
