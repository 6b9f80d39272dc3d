//! What the scheduler remembers, in a file of `SQLite` or in Postgres.
//!
//! Both take the same statements: text, 64-bit integers, `$1`, `ON CONFLICT`, partial indexes. Every change of a run's state is
//! one statement that names the state it expects, so that no two daemons can both make it. What no statement can see, that two
//! runs of one lock start at once, the unique index on running runs refuses.

mod record;
mod schema;
mod triggers;

use std::path::Path;

use sqlx::any::{AnyPoolOptions, AnyRow};
use sqlx::{AnyPool, Row as _};

use crate::Millis;
use crate::error::{Error, Result};
use crate::job::Job;
pub use record::{Cause, Filter, NewRun, Run, RunState, StepRun, StepState};

/// Connections of one process.
const CONNECTIONS: u32 = 4;
/// Runs that are looked at in one go for one that can start.
const CANDIDATES: i64 = 100;
/// The columns of a run.
const RUN: &str = "SELECT id, job, lock_name, cause, reason, due_at, state, attempt, not_before, created_at, started_at, \
                   ended_at, worker, fence, cancel_by, plan FROM uptake_runs";

/// The scheduler's database.
#[derive(Debug, Clone)]
pub struct Store {
    pool: AnyPool,
    id: String,
}

impl Store {
    /// Opens `sqlite://PATH` (made where there is none) or `postgres://…`, and makes the tables where there are none.
    ///
    /// # Errors
    /// Invalid when the address is of another kind; the database's errors.
    pub async fn open(url: &str) -> Result<Self> {
        sqlx::any::install_default_drivers();
        let file = url.strip_prefix("sqlite://");
        if file.is_none() && !url.starts_with("postgres://") && !url.starts_with("postgresql://") {
            return Err(Error::Invalid(format!(
                "`{url}` is no database of the scheduler: write sqlite:///PATH or postgres://USER@HOST/DATABASE"
            )));
        }
        let mut address = url.to_owned();
        if let Some(file) = file {
            if let Some(parent) = Path::new(file).parent() {
                std::fs::create_dir_all(parent).map_err(Error::system("make", parent))?;
            }
            address.push_str("?mode=rwc");
        }
        let pool = AnyPoolOptions::new()
            .max_connections(CONNECTIONS)
            .connect(&address)
            .await
            .map_err(Error::database("connect"))?;
        if file.is_some() {
            // Readers do not wait for writers; what was committed survives a kill of the process.
            let _ =
                sqlx::query("PRAGMA journal_mode = WAL").fetch_all(&pool).await.map_err(Error::database("set up"))?;
        }
        let id = schema::make(&pool).await?;
        Ok(Self { pool, id })
    }

    /// What tells this database from others.
    pub fn id(&self) -> &str {
        &self.id
    }

    /// Puts a run into the queue, or among the missed; nothing where there is one of this key already.
    ///
    /// # Errors
    /// The database's errors.
    pub async fn add(&self, new: &NewRun<'_>, now: Millis) -> Result<Option<Run>> {
        let run = new.run(now);
        let plan = serde_json::to_string(&run.plan).map_err(|error| Error::Invalid(error.to_string()))?;
        let state = run.state.name();
        let added = sqlx::query(
            "INSERT INTO uptake_runs (id, occurrence, job, lock_name, cause, reason, due_at, state, attempt, not_before, \
             created_at, ended_at, fence, plan) VALUES ($1, $2, $3, $4, $5, $6, $7, $8, 0, $9, $10, $11, 0, $12) \
             ON CONFLICT (occurrence) DO NOTHING",
        )
        .bind(&run.id)
        .bind(new.occurrence())
        .bind(&run.job)
        .bind(&run.lock)
        .bind(run.cause.name())
        .bind(run.reason.as_deref())
        .bind(run.due_at)
        .bind(state)
        .bind(run.not_before)
        .bind(run.created_at)
        .bind(run.ended_at)
        .bind(plan)
        .execute(&self.pool)
        .await
        .map_err(Error::database("add a run"))?;
        Ok((added.rows_affected() == 1).then_some(run))
    }

    /// The newest runs first.
    ///
    /// # Errors
    /// The database's errors.
    pub async fn runs(&self, filter: &Filter) -> Result<Vec<Run>> {
        let sql = format!(
            "{RUN} WHERE ($1 = '' OR job = $1) AND ($2 = '' OR state = $2) ORDER BY due_at DESC, created_at DESC, id LIMIT $3"
        );
        let rows = sqlx::query(sqlx::AssertSqlSafe(sql))
            .bind(filter.job.as_deref().unwrap_or_default())
            .bind(filter.state.map(RunState::name).unwrap_or_default())
            .bind(i64::try_from(filter.limit).unwrap_or(i64::MAX))
            .fetch_all(&self.pool)
            .await
            .map_err(Error::database("list the runs"))?;
        rows.iter().map(Run::read).collect()
    }

    /// The run of this id, or whose id begins or ends so; a job's name means its latest run.
    ///
    /// # Errors
    /// Invalid when there is none, or several; the database's errors.
    pub async fn run(&self, wanted: &str) -> Result<Run> {
        if let Some(run) = self.by_id(wanted).await? {
            return Ok(run);
        }
        let latest = self.runs(&Filter { job: Some(wanted.to_owned()), state: None, limit: 1 }).await?;
        if let Some(run) = latest.into_iter().next() {
            return Ok(run);
        }
        let all = self.runs(&Filter { job: None, state: None, limit: 10_000 }).await?;
        let fits = |run: &&Run| !wanted.is_empty() && (run.id.starts_with(wanted) || run.id.ends_with(wanted));
        let mut found = all.iter().filter(fits);
        match (found.next(), found.next()) {
            (Some(run), None) => Ok(run.clone()),
            (None, _) => Err(Error::Invalid(format!("there is no run `{wanted}`; `uptake runs list` shows them"))),
            (Some(one), Some(other)) => {
                Err(Error::Invalid(format!("`{wanted}` is more than one run, such as {} and {}", one.id, other.id)))
            }
        }
    }

    async fn by_id(&self, id: &str) -> Result<Option<Run>> {
        let row = sqlx::query(sqlx::AssertSqlSafe(format!("{RUN} WHERE id = $1")))
            .bind(id)
            .fetch_optional(&self.pool)
            .await
            .map_err(Error::database("look up a run"))?;
        row.as_ref().map(Run::read).transpose()
    }

    /// Takes a run that can start, or one whose worker has not been heard of for the length of its lease. Of several the one
    /// that was due first.
    ///
    /// # Errors
    /// The database's errors.
    pub async fn claim(&self, worker: &str, now: Millis, lease: Millis) -> Result<Option<Run>> {
        let sql = format!(
            "{RUN} WHERE (state = 'queued' AND not_before <= $1) OR (state = 'running' AND lease_until < $1) \
             ORDER BY due_at, created_at, id LIMIT $2"
        );
        let rows = sqlx::query(sqlx::AssertSqlSafe(sql))
            .bind(now)
            .bind(CANDIDATES)
            .fetch_all(&self.pool)
            .await
            .map_err(Error::database("look for runs"))?;
        for row in &rows {
            if let Some(run) = self.take(Run::read(row)?, worker, now, lease).await? {
                return Ok(Some(run));
            }
        }
        Ok(None)
    }

    /// Takes this run, if it can start now.
    ///
    /// # Errors
    /// The database's errors.
    pub async fn claim_this(&self, id: &str, worker: &str, now: Millis, lease: Millis) -> Result<Option<Run>> {
        match self.by_id(id).await? {
            Some(run) => self.take(run, worker, now, lease).await,
            None => Ok(None),
        }
    }

    async fn take(&self, run: Run, worker: &str, now: Millis, lease: Millis) -> Result<Option<Run>> {
        let taken = sqlx::query(
            "UPDATE uptake_runs SET state = 'running', worker = $1, fence = fence + 1, lease_until = $2, \
             started_at = COALESCE(started_at, $3), reason = NULL \
             WHERE id = $4 AND fence = $5 AND ((state = 'queued' AND not_before <= $3 AND NOT EXISTS ( \
                 SELECT 1 FROM uptake_runs AS other WHERE other.lock_name = uptake_runs.lock_name AND other.state = 'running')) \
                 OR (state = 'running' AND lease_until < $3))",
        )
        .bind(worker)
        .bind(now.saturating_add(lease))
        .bind(now)
        .bind(&run.id)
        .bind(run.fence)
        .execute(&self.pool)
        .await;
        match taken {
            Ok(taken) if taken.rows_affected() == 1 => self.by_id(&run.id).await,
            Ok(_) => Ok(None),
            // Another daemon has started a run of this lock since the statement looked.
            Err(sqlx::Error::Database(error)) if error.is_unique_violation() => Ok(None),
            Err(source) => Err(Error::Database { action: "start a run", source }),
        }
    }

    /// Says that the worker lives. Gives who wants the run cancelled, if somebody does; nothing where the lease is lost.
    ///
    /// # Errors
    /// The database's errors.
    pub async fn renew(&self, run: &Run, until: Millis) -> Result<Option<Option<String>>> {
        let renewed =
            sqlx::query("UPDATE uptake_runs SET lease_until = $1 WHERE id = $2 AND fence = $3 AND state = 'running'")
                .bind(until)
                .bind(&run.id)
                .bind(run.fence)
                .execute(&self.pool)
                .await
                .map_err(Error::database("renew a lease"))?;
        if renewed.rows_affected() == 0 {
            return Ok(None);
        }
        Ok(self.by_id(&run.id).await?.map(|run| run.cancel_by))
    }

    /// Ends a run, or puts it back into the queue for a time not before `not_before`. False where the lease is lost.
    ///
    /// # Errors
    /// The database's errors.
    pub async fn leave(
        &self,
        run: &Run,
        state: RunState,
        reason: Option<&str>,
        not_before: Millis,
        now: Millis,
    ) -> Result<bool> {
        let attempts = i64::from(state == RunState::Queued && not_before > now);
        let left = sqlx::query(
            "UPDATE uptake_runs SET state = $1, reason = $2, not_before = $3, ended_at = $4, worker = NULL, lease_until = NULL, \
             attempt = attempt + $5 WHERE id = $6 AND fence = $7 AND state = 'running'",
        )
        .bind(state.name())
        .bind(reason)
        .bind(not_before)
        .bind(state.ended().then_some(now))
        .bind(attempts)
        .bind(&run.id)
        .bind(run.fence)
        .execute(&self.pool)
        .await
        .map_err(Error::database("end a run"))?;
        Ok(left.rows_affected() == 1)
    }

    /// Cancels a run that waits at once, and asks the worker of a running one to stop. Gives the run as it is then.
    ///
    /// # Errors
    /// Invalid when the run has ended; the database's errors.
    pub async fn cancel(&self, id: &str, by: &str, now: Millis) -> Result<Run> {
        let changed = sqlx::query(
            "UPDATE uptake_runs SET cancel_by = $1, ended_at = CASE WHEN state = 'queued' THEN $2 ELSE ended_at END, \
             reason = CASE WHEN state = 'queued' THEN $3 ELSE reason END, \
             state = CASE WHEN state = 'queued' THEN 'cancelled' ELSE state END \
             WHERE id = $4 AND state IN ('queued', 'running')",
        )
        .bind(by)
        .bind(now)
        .bind(format!("cancelled by {by} before it was run"))
        .bind(id)
        .execute(&self.pool)
        .await
        .map_err(Error::database("cancel a run"))?;
        let run = self.run(id).await?;
        if changed.rows_affected() == 0 {
            return Err(Error::Invalid(format!("{id} has ended already: it is {}", run.state)));
        }
        Ok(run)
    }

    /// Puts a run that has ended back into the queue; the steps that ended well stay done.
    ///
    /// # Errors
    /// Invalid when the run waits or runs, or has ended well; the database's errors.
    pub async fn retry(&self, id: &str, now: Millis) -> Result<Run> {
        let changed = sqlx::query(
            "UPDATE uptake_runs SET state = 'queued', not_before = $1, ended_at = NULL, started_at = NULL, cancel_by = NULL, \
             attempt = 0, reason = 'taken up again by hand' \
             WHERE id = $2 AND state IN ('failed', 'refused', 'cancelled', 'missed')",
        )
        .bind(now)
        .bind(id)
        .execute(&self.pool)
        .await
        .map_err(Error::database("retry a run"))?;
        let run = self.run(id).await?;
        if changed.rows_affected() == 0 {
            return Err(Error::Invalid(format!(
                "{id} is {}: only what did not end well can be taken up again",
                run.state
            )));
        }
        Ok(run)
    }

    /// The steps of a run, in order.
    ///
    /// # Errors
    /// The database's errors.
    pub async fn steps(&self, run: &str) -> Result<Vec<StepRun>> {
        let rows = sqlx::query(
            "SELECT step, position, state, attempt, started_at, ended_at, exit_code, process, reason, result, log \
             FROM uptake_steps WHERE run = $1 ORDER BY position",
        )
        .bind(run)
        .fetch_all(&self.pool)
        .await
        .map_err(Error::database("list the steps"))?;
        rows.iter().map(StepRun::read).collect()
    }

    /// Writes how a step stands, while the run's lease is held. False where it is lost.
    ///
    /// # Errors
    /// The database's errors.
    pub async fn write_step(&self, run: &Run, step: &StepRun) -> Result<bool> {
        let result = step.result.as_ref().map(ToString::to_string);
        let written = sqlx::query(
            "INSERT INTO uptake_steps (run, step, position, state, attempt, started_at, ended_at, exit_code, process, reason, \
             result, log) SELECT $1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12 FROM uptake_runs \
             WHERE id = $1 AND fence = $13 AND state = 'running' \
             ON CONFLICT (run, step) DO UPDATE SET state = excluded.state, attempt = excluded.attempt, \
             started_at = excluded.started_at, ended_at = excluded.ended_at, exit_code = excluded.exit_code, \
             process = excluded.process, reason = excluded.reason, result = excluded.result, log = excluded.log",
        )
        .bind(&run.id)
        .bind(&step.step)
        .bind(step.position)
        .bind(step.state.name())
        .bind(step.attempt)
        .bind(step.started_at)
        .bind(step.ended_at)
        .bind(step.exit_code)
        .bind(step.process.as_deref())
        .bind(step.reason.as_deref())
        .bind(result.as_deref())
        .bind(step.log.as_deref())
        .bind(run.fence)
        .execute(&self.pool)
        .await
        .map_err(Error::database("write a step"))?;
        Ok(written.rows_affected() == 1)
    }

    /// The earliest time at which a run that waits may start; none where none waits.
    ///
    /// # Errors
    /// The database's errors.
    pub async fn next_start(&self, now: Millis) -> Result<Option<Millis>> {
        let row =
            sqlx::query("SELECT MIN(not_before) AS next FROM uptake_runs WHERE state = 'queued' AND not_before > $1")
                .bind(now)
                .fetch_one(&self.pool)
                .await
                .map_err(Error::database("look for runs"))?;
        column(&row, "next")
    }

    /// Whether a run of this job waits.
    ///
    /// # Errors
    /// The database's errors.
    pub async fn waits(&self, job: &Job) -> Result<bool> {
        let filter = Filter { job: Some(job.name.clone()), state: Some(RunState::Queued), limit: 1 };
        Ok(!self.runs(&filter).await?.is_empty())
    }
}

/// A column of a row.
fn column<'r, T>(row: &'r AnyRow, name: &str) -> Result<T>
where
    T: sqlx::Decode<'r, sqlx::Any> + sqlx::Type<sqlx::Any>,
{
    row.try_get(name).map_err(|error| Error::Corrupt(format!("a column `{name}` that cannot be read ({error})")))
}
