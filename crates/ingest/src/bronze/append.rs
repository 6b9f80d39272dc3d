//! One append to one of the two tables, passing faults tried again.

use std::time::{Duration, Instant};

use arrow::array::RecordBatch;
use futures::FutureExt as _;
use futures::future::BoxFuture;
use tracing::{info, warn};
use uptake_lake::{CommitRequest, Committed, Table};
use uptake_model::tables::{DEAD_LETTERS, EVENTS};

use super::{Bronze, source_chain};
use crate::error::{Error, ErrorKind, Result};
use crate::metrics::Metrics;

/// Rows are turned into record batches of about this many bytes each.
const BATCH_BYTES: usize = 8 << 20;

/// How often and how patiently passing faults are tried again.
#[derive(Debug, Clone, Copy)]
pub struct Retries {
    /// Attempts in all, at least one.
    pub attempts: u32,
    /// First pause; it doubles each time.
    pub pause: Duration,
    /// Longest pause.
    pub longest_pause: Duration,
}

impl Default for Retries {
    fn default() -> Self {
        Self { attempts: 8, pause: Duration::from_millis(200), longest_pause: Duration::from_secs(10) }
    }
}

/// Which of the two tables.
#[derive(Debug, Clone, Copy)]
pub(super) enum Target {
    Events,
    Letters,
}

impl Target {
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Events => EVENTS.name,
            Self::Letters => DEAD_LETTERS.name,
        }
    }
}

/// How an append ended.
pub(super) enum Appended {
    /// Committed as this version.
    Written(i64),
    /// A position was another one than expected: read it again.
    Moved,
}

impl Bronze {
    pub(super) fn table(&self, target: Target) -> &Table {
        match target {
            Target::Events => &self.events,
            Target::Letters => &self.letters,
        }
    }

    /// One append.
    pub(super) async fn append(&self, target: Target, request: &CommitRequest) -> Result<Appended> {
        let name = target.name();
        let started = Instant::now();
        let committed = self
            .patiently(name, || {
                async move {
                    let committed = self.table(target).append(request.clone()).await;
                    committed.map_err(Error::lake(format!("append to bronze.{name}")))
                }
                .boxed()
            })
            .await;
        match committed {
            Ok(Committed::Written { version }) => {
                self.metrics.committed(name, started.elapsed());
                Ok(Appended::Written(version))
            }
            Ok(Committed::AlreadyThere { .. }) => {
                self.metrics.conflict(name, "already_there");
                Ok(Appended::Moved)
            }
            Err(error) if error.kind() == ErrorKind::Conflict => {
                self.metrics.conflict(name, "moved");
                info!(table = name, error = %source_chain(&error), "a position moved; reading it again");
                Ok(Appended::Moved)
            }
            Err(error) => Err(error),
        }
    }

    /// What a table keeps under a key, as of its last refresh.
    pub(super) async fn stored(&self, target: Target, key: &str) -> Result<Option<i64>> {
        let name = target.name();
        self.patiently(name, || {
            async move {
                let stored = self.table(target).position(key).await;
                stored.map_err(Error::lake(format!("read `{key}` in bronze.{name}")))
            }
            .boxed()
        })
        .await
    }

    /// See [`patiently`].
    pub(super) async fn patiently<'a, T>(
        &self,
        table: &'static str,
        work: impl Fn() -> BoxFuture<'a, Result<T>> + Send,
    ) -> Result<T> {
        patiently(&self.retries, &self.metrics, table, work).await
    }
}

/// Tries passing faults again, with bounded, growing, jittered pauses.
pub(super) async fn patiently<'a, T>(
    retries: &Retries,
    metrics: &Metrics,
    table: &'static str,
    work: impl Fn() -> BoxFuture<'a, Result<T>> + Send,
) -> Result<T> {
    let mut pause = retries.pause;
    let mut attempt = 1;
    loop {
        let error = match work().await {
            Err(error) if error.kind() == ErrorKind::Retry && attempt < retries.attempts => error,
            done => return done,
        };
        metrics.retry(table);
        let wait = jittered(pause, attempt);
        warn!(
            table, attempt, wait_ms = u64::try_from(wait.as_millis()).unwrap_or(u64::MAX), error = %source_chain(&error),
            "the store failed, trying again; nothing is lost"
        );
        tokio::time::sleep(wait).await;
        pause = (pause * 2).min(retries.longest_pause);
        attempt += 1;
    }
}

/// A pause between half and all of `pause`; which, follows from the process and the attempt, so that a fleet spreads.
fn jittered(pause: Duration, attempt: u32) -> Duration {
    let mixed = (u64::from(std::process::id()) << 8 | u64::from(attempt)).wrapping_mul(0x9E37_79B9_7F4A_7C15);
    let share = (mixed >> 40) as f64 / f64::from(1_u32 << 24);
    pause.mul_f64(0.5 + share / 2.0)
}

/// Record batches of about [`BATCH_BYTES`] each.
pub(super) fn batches<T>(
    rows: &[T],
    size: impl Fn(&T) -> usize,
    build: impl Fn(&[T]) -> Result<RecordBatch, arrow::error::ArrowError>,
) -> Result<Vec<RecordBatch>> {
    let mut batches = Vec::new();
    let mut start = 0;
    let mut bytes = 0;
    for (index, row) in rows.iter().enumerate() {
        bytes += size(row);
        if bytes >= BATCH_BYTES || index + 1 == rows.len() {
            let batch =
                build(&rows[start..=index]).map_err(|error| Error::Bug(format!("build a batch of bronze: {error}")))?;
            batches.push(batch);
            start = index + 1;
            bytes = 0;
        }
    }
    Ok(batches)
}
