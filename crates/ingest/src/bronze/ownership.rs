//! Taking partitions over: who writes, for everybody to see, in both tables.

use uptake_lake::{Advance, CommitRequest};
use uptake_model::SourcePartition;

use super::append::{Appended, Target};
use super::{Bronze, MOST_CONFLICTS, list};
use crate::error::{Error, Result};

impl Bronze {
    /// Puts a number of this process's own into both tables. Letters first: once it stands there, no letter is added by
    /// anybody else.
    pub(super) async fn take_over(&mut self, sources: &[SourcePartition]) -> Result<()> {
        if sources.is_empty() {
            return Ok(());
        }
        for _ in 0..MOST_CONFLICTS {
            self.refresh().await?;
            let mut mine = unlikely_to_meet();
            for source in sources {
                for target in [Target::Letters, Target::Events] {
                    mine = mine.max(self.owner(target, source).await?.unwrap_or(0) + 1);
                }
            }
            if self.claim(Target::Letters, sources, mine).await? && self.claim(Target::Events, sources, mine).await? {
                self.owners.extend(sources.iter().map(|source| (source.clone(), mine)));
                return Ok(());
            }
        }
        Err(Error::Conflict(format!(
            "other processes keep taking over {} of pipeline `{}`",
            list(sources),
            self.pipeline
        )))
    }

    async fn claim(&self, target: Target, sources: &[SourcePartition], mine: i64) -> Result<bool> {
        let mut advances = Vec::with_capacity(sources.len());
        for source in sources {
            advances.push(Advance { key: self.owner_key(source), from: self.owner(target, source).await?, to: mine });
        }
        let request = CommitRequest { advances, metadata: self.metadata(), ..CommitRequest::default() };
        if let Appended::Written(_) = self.append(target, &request).await? {
            return Ok(true);
        }
        // Mine all the same, if only the answer was lost.
        self.refresh().await?;
        for source in sources {
            if self.owner(target, source).await? != Some(mine) {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Who owns a partition, as a table said when it was last refreshed.
    pub(super) async fn owner(&self, target: Target, source: &SourcePartition) -> Result<Option<i64>> {
        self.stored(target, &self.owner_key(source)).await
    }

    fn owner_key(&self, source: &SourcePartition) -> String {
        format!("owner/{}", source.position_key(&self.pipeline))
    }

    /// What every commit of a partition's rows says: nobody has taken it over since.
    pub(super) fn still_mine(&self, source: &SourcePartition) -> Option<Advance> {
        let mine = *self.owners.get(source)?;
        Some(Advance { key: self.owner_key(source), from: Some(mine), to: mine })
    }
}

/// A number that two processes hardly ever draw both, and that grows from one to the next.
fn unlikely_to_meet() -> i64 {
    chrono::Utc::now().timestamp_micros() + i64::from(std::process::id() % 1_000)
}
