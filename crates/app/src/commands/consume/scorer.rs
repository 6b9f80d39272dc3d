//! The tagger as live signals ask for it.

use std::fmt;
use std::sync::Arc;

use uptake_ingest::signals::{FollowUp, Score, Scored};
use uptake_jobs::Tag;
use uptake_tagger::{Exchange, LOOKED_AT, Message, Role};

/// The tagger that the jobs use: both read an exchange through [`Exchange::after`], so both give the same scores.
#[derive(Clone)]
pub(super) struct Scorer(pub(super) Arc<dyn Tag>);

impl fmt::Debug for Scorer {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_tuple("Scorer").field(&self.0.version()).finish()
    }
}

impl Score for Scorer {
    fn version(&self) -> &str {
        self.0.version()
    }

    fn looks_back(&self) -> usize {
        LOOKED_AT
    }

    fn score(&self, follow_ups: &[FollowUp<'_>]) -> Result<Vec<Scored>, String> {
        let exchanges: Vec<Exchange<'_>> = follow_ups
            .iter()
            .map(|asked| {
                let newest_first = asked.before.iter().rev().map(|(role, text)| Message { role: Role::of(role), text });
                Exchange::after(newest_first, asked.response, asked.follow_up)
            })
            .collect();
        let scores = self.0.tag(&exchanges)?;
        Ok(scores
            .into_iter()
            .map(|scored| Scored { probabilities: scored.probabilities, fires: scored.fires })
            .collect())
    }
}
