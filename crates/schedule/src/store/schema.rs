//! The tables of the scheduler.

use sqlx::{AnyPool, Row as _};

use crate::error::{Error, Result};

/// Version of the tables that this program makes and reads.
const FORMAT: &str = "1";

/// What makes them; each does nothing where it is done already.
const TABLES: [&str; 6] = [
    "CREATE TABLE IF NOT EXISTS uptake_schedule (name TEXT PRIMARY KEY, value TEXT NOT NULL)",
    "CREATE TABLE IF NOT EXISTS uptake_runs (id TEXT PRIMARY KEY, occurrence TEXT NOT NULL UNIQUE, job TEXT NOT NULL, \
     lock_name TEXT NOT NULL, cause TEXT NOT NULL, reason TEXT, due_at BIGINT NOT NULL, state TEXT NOT NULL, \
     attempt BIGINT NOT NULL, not_before BIGINT NOT NULL, created_at BIGINT NOT NULL, started_at BIGINT, ended_at BIGINT, \
     worker TEXT, lease_until BIGINT, fence BIGINT NOT NULL, cancel_by TEXT, plan TEXT NOT NULL)",
    "CREATE UNIQUE INDEX IF NOT EXISTS uptake_one_run_per_lock ON uptake_runs (lock_name) WHERE state = 'running'",
    "CREATE INDEX IF NOT EXISTS uptake_runs_by_state ON uptake_runs (state, due_at)",
    "CREATE TABLE IF NOT EXISTS uptake_steps (run TEXT NOT NULL, step TEXT NOT NULL, position BIGINT NOT NULL, \
     state TEXT NOT NULL, attempt BIGINT NOT NULL, started_at BIGINT, ended_at BIGINT, exit_code BIGINT, process TEXT, \
     reason TEXT, result TEXT, log TEXT, PRIMARY KEY (run, step))",
    "CREATE TABLE IF NOT EXISTS uptake_triggers (job TEXT NOT NULL, kind TEXT NOT NULL, definition TEXT NOT NULL, \
     seen_at BIGINT NOT NULL, value DOUBLE PRECISION, fired_at BIGINT, turn BIGINT NOT NULL, PRIMARY KEY (job, kind))",
];

/// Daemons that start together make the tables together, and Postgres lets all but one of them fail.
const TRIES: usize = 5;

/// Makes the tables where there are none; gives the id of the database.
pub(super) async fn make(pool: &AnyPool) -> Result<String> {
    let mut tries = 0;
    while let Err(source) = statements(pool).await {
        tries += 1;
        if tries == TRIES {
            return Err(Error::Database { action: "make the tables", source });
        }
    }
    let read = async |name: &'static str| {
        let row = sqlx::query("SELECT value FROM uptake_schedule WHERE name = $1").bind(name).fetch_one(pool).await;
        row.and_then(|row| row.try_get::<String, _>("value")).map_err(Error::database("read what database this is"))
    };
    let format = read("format").await?;
    if format != FORMAT {
        return Err(Error::Corrupt(format!("tables of format {format}, and this program knows {FORMAT}")));
    }
    read("id").await
}

async fn statements(pool: &AnyPool) -> sqlx::Result<()> {
    for table in TABLES {
        let _ = sqlx::query(table).execute(pool).await?;
    }
    let id = uuid::Uuid::now_v7().simple().to_string();
    for (name, value) in [("format", FORMAT), ("id", id.as_str())] {
        let _ = sqlx::query("INSERT INTO uptake_schedule (name, value) VALUES ($1, $2) ON CONFLICT (name) DO NOTHING")
            .bind(name)
            .bind(value)
            .execute(pool)
            .await?;
    }
    Ok(())
}
