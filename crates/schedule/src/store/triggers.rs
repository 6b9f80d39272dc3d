//! What triggers have seen, so that no time and no state of the data makes a second run.

use sqlx::Row as _;

use super::{Store, column};
use crate::Millis;
use crate::condition::Seen;
use crate::error::{Error, Result};

/// What a trigger remembers.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Memory {
    /// Up to when a cron line was looked at.
    pub(crate) seen_at: Millis,
    /// What a condition saw.
    pub(crate) seen: Seen,
    /// Counts the changes: whoever changes it names the turn that it knows.
    pub(crate) turn: i64,
}

impl Store {
    /// What a trigger (`cron` or `data`) of a job remembers. One that is new, or whose definition has changed, begins now:
    /// what was due before it existed is not caught up.
    pub(crate) async fn memory(&self, job: &str, kind: &str, definition: &str, now: Millis) -> Result<Memory> {
        let select = || {
            sqlx::query(
                "SELECT definition, seen_at, value, fired_at, turn FROM uptake_triggers WHERE job = $1 AND kind = $2",
            )
            .bind(job)
            .bind(kind)
        };
        let action = "look up a trigger";
        let _ = sqlx::query(
            "INSERT INTO uptake_triggers (job, kind, definition, seen_at, turn) VALUES ($1, $2, $3, $4, 0) \
             ON CONFLICT (job, kind) DO UPDATE SET definition = excluded.definition, seen_at = excluded.seen_at, value = NULL, \
             fired_at = NULL, turn = uptake_triggers.turn + 1 WHERE uptake_triggers.definition <> excluded.definition",
        )
        .bind(job)
        .bind(kind)
        .bind(definition)
        .bind(now)
        .execute(&self.pool)
        .await
        .map_err(Error::database(action))?;
        let row = select().fetch_one(&self.pool).await.map_err(Error::database(action))?;
        let value: Option<f64> = row.try_get("value").map_err(Error::database(action))?;
        let seen = Seen { value, fired_at: column(&row, "fired_at")? };
        Ok(Memory { seen_at: column(&row, "seen_at")?, seen, turn: column(&row, "turn")? })
    }

    /// Whether a trigger of this job remembers anything.
    #[cfg(any(test, feature = "testing"))]
    pub(crate) async fn has_memory(&self, job: &str) -> Result<bool> {
        let row =
            sqlx::query("SELECT COUNT(*) AS n FROM uptake_triggers WHERE job = $1").bind(job).fetch_one(&self.pool);
        Ok(column::<i64>(&row.await.map_err(Error::database("look up a trigger"))?, "n")? > 0)
    }

    /// Remembers; nothing happens where another daemon has done so since.
    pub(crate) async fn remember(&self, job: &str, kind: &str, memory: &Memory) -> Result<()> {
        let _ = sqlx::query(
            "UPDATE uptake_triggers SET seen_at = $1, value = $2, fired_at = $3, turn = turn + 1 \
             WHERE job = $4 AND kind = $5 AND turn = $6",
        )
        .bind(memory.seen_at)
        .bind(memory.seen.value)
        .bind(memory.seen.fired_at)
        .bind(job)
        .bind(kind)
        .bind(memory.turn)
        .execute(&self.pool)
        .await
        .map_err(Error::database("remember what a trigger saw"))?;
        Ok(())
    }
}
