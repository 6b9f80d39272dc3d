//! Conditions on the data: a run when there is something new to learn from, or when something has drifted.

use std::fmt;
use std::time::Duration;

use async_trait::async_trait;
use serde::{Deserialize, Serialize};

use crate::Millis;
use crate::clock::millis;

/// A run when a query says so.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Condition {
    /// A query of one value: a number where `grew_by` is given, else true or false.
    pub query: String,
    /// The number has grown by so much since it last made a run; the first time, since nothing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub grew_by: Option<f64>,
    /// How long to wait at least between two runs of this condition.
    #[serde(default, with = "humantime_serde", skip_serializing_if = "Option::is_none")]
    pub at_most_every: Option<Duration>,
}

/// Whoever answers the queries of conditions.
#[async_trait]
pub trait Ask: fmt::Debug + Send + Sync {
    /// The one value that the query gives, as text.
    ///
    /// # Errors
    /// A sentence that says what is wrong: the query, or the tables.
    async fn ask(&self, query: &str) -> Result<String, String>;
}

/// What a condition has seen so far.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub(crate) struct Seen {
    /// The value at which it last made a run; for true or false, whether it was true when last looked at.
    pub(crate) value: Option<f64>,
    /// When it last made a run.
    pub(crate) fired_at: Option<Millis>,
}

/// What to do about a value.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Verdict {
    /// Nothing, and nothing to remember.
    Rest,
    /// No run, but this is to be remembered.
    Remember(Seen),
    /// A run, for this reason; then this is to be remembered.
    Fire(Seen, String),
}

impl Condition {
    /// What a value means, after what was seen before.
    ///
    /// # Errors
    /// When the value is not what the condition needs.
    pub(crate) fn judge(&self, value: &str, seen: Seen, now: Millis) -> Result<Verdict, String> {
        let waiting = match (self.at_most_every, seen.fired_at) {
            (Some(every), Some(fired)) => now < fired.saturating_add(millis(every)),
            _ => false,
        };
        let Some(step) = self.grew_by else { return self.judge_truth(value, seen, now, waiting) };
        let number: f64 =
            value.parse().map_err(|_| format!("`{}` gave `{value}`, and grew_by wants a number", self.query))?;
        let before = seen.value.unwrap_or_default();
        if number < before {
            // A table that was rebuilt smaller: growth counts from there.
            return Ok(Verdict::Remember(Seen { value: Some(number), ..seen }));
        }
        if waiting || number - before < step {
            return Ok(Verdict::Rest);
        }
        let reason = format!("the query gives {number}, {} more than at the last run", number - before);
        Ok(Verdict::Fire(Seen { value: Some(number), fired_at: Some(now) }, reason))
    }

    /// True makes one run; the next one needs it to have been false in between.
    fn judge_truth(&self, value: &str, seen: Seen, now: Millis, waiting: bool) -> Result<Verdict, String> {
        let truth = match value {
            "true" | "t" => true,
            // A query over no rows at all gives nothing.
            "false" | "f" | "" => false,
            _ => return Err(format!("`{}` gave `{value}`, not true or false; or say grew_by", self.query)),
        };
        let before = seen.value == Some(1.0);
        Ok(match (before, truth) {
            (false, true) if !waiting => {
                let seen = Seen { value: Some(1.0), fired_at: Some(now) };
                Verdict::Fire(seen, "the query gives true".to_owned())
            }
            (true, false) => Verdict::Remember(Seen { value: Some(0.0), ..seen }),
            _ => Verdict::Rest,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn growth() -> Condition {
        let every = Some(Duration::from_mins(1));
        Condition { query: "SELECT count(*)".to_owned(), grew_by: Some(100.0), at_most_every: every }
    }

    fn seen(value: f64, fired_at: Millis) -> Seen {
        Seen { value: Some(value), fired_at: Some(fired_at) }
    }

    #[test]
    fn growth_counts_from_the_last_run() {
        let judge = |value: &str, seen, now| growth().judge(value, seen, now).unwrap();
        assert_eq!(judge("99", Seen::default(), 0), Verdict::Rest);
        assert!(matches!(judge("100", Seen::default(), 5), Verdict::Fire(now, _) if now == seen(100.0, 5)));
        assert_eq!(judge("199", seen(100.0, 0), 100_000), Verdict::Rest);
        assert_eq!(judge("250", seen(100.0, 0), 59_999), Verdict::Rest, "too soon");
        assert!(matches!(judge("250", seen(100.0, 0), 60_000), Verdict::Fire(now, _) if now == seen(250.0, 60_000)));
        assert_eq!(judge("40", seen(100.0, 7), 60_000), Verdict::Remember(seen(40.0, 7)), "the table was rebuilt");
        assert!(growth().judge("many", Seen::default(), 0).unwrap_err().contains("wants a number"));
    }

    #[test]
    fn truth_fires_once_until_it_was_false() {
        let condition = Condition { grew_by: None, at_most_every: None, ..growth() };
        let judge = |value: &str, seen| condition.judge(value, seen, 9).unwrap();
        assert!(matches!(judge("true", Seen::default()), Verdict::Fire(now, _) if now == seen(1.0, 9)));
        assert_eq!(judge("true", seen(1.0, 9)), Verdict::Rest);
        assert_eq!(judge("false", seen(1.0, 9)), Verdict::Remember(seen(0.0, 9)));
        assert!(matches!(judge("true", seen(0.0, 9)), Verdict::Fire(..)));
        assert_eq!(judge("", Seen::default()), Verdict::Rest);
        assert!(condition.judge("3", Seen::default(), 0).is_err());
    }
}
