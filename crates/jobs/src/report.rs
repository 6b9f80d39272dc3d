//! What a run leaves behind.

use std::collections::BTreeMap;

use serde::Serialize;
use uptake_model::time::Micros;

use crate::checks::Outcome;

/// How a pipeline's run ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Status {
    /// Days were rebuilt.
    Built,
    /// Nothing that it reads has changed.
    Unchanged,
    /// A check did not hold: the table stands as it was.
    Refused,
    /// An error stopped it; the table holds whole days, old or new.
    Failed,
}

impl Status {
    /// The name in `control.job_runs`.
    pub fn name(self) -> &'static str {
        match self {
            Self::Built => "built",
            Self::Unchanged => "unchanged",
            Self::Refused => "refused",
            Self::Failed => "failed",
        }
    }
}

/// How far a source has been read.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct SourceVersion {
    /// Version read before this run.
    pub from: Option<i64>,
    /// Version read now.
    pub to: i64,
}

/// What one run of one pipeline did.
#[derive(Debug, Clone, Serialize)]
pub struct RunReport {
    /// Id of the run, the same for all its pipelines.
    pub run_id: String,
    /// Pipeline.
    pub pipeline: String,
    /// Table that it writes.
    pub output: String,
    /// How it ended.
    pub status: Status,
    /// When it started.
    #[serde(skip)]
    pub started_at: Micros,
    /// Seconds that it took.
    pub seconds: f64,
    /// Generation of the output: SQL, parameters and tagger.
    pub generation: String,
    /// Whether every day was rebuilt, and why.
    pub full_rebuild: Option<String>,
    /// Versions of the sources.
    pub sources: BTreeMap<String, SourceVersion>,
    /// Days that were rebuilt, `YYYY-MM-DD`.
    pub days: Vec<String>,
    /// Rows that the sources hold for these days, by table.
    pub rows_read: BTreeMap<String, u64>,
    /// Rows that `build.sql` gave: those that came through and those dropped.
    pub candidates: u64,
    /// Rows written.
    pub rows_out: u64,
    /// Rows that did not come through, by reason.
    pub dropped: BTreeMap<String, u64>,
    /// What `report.sql` counts: what waits, what is worth knowing.
    pub notes: BTreeMap<String, u64>,
    /// Exchanges that the tagger scored.
    pub tagged: u64,
    /// What the rows were held to.
    pub checks: Vec<Outcome>,
    /// Version of the output after the run.
    pub output_version: Option<i64>,
    /// Time up to which events have been seen: what is settled, is settled by it.
    pub watermark: Option<String>,
    /// Why it failed.
    pub error: Option<String>,
}

impl RunReport {
    /// Rows read, over all sources.
    pub fn rows_in(&self) -> u64 {
        self.rows_read.values().sum()
    }

    /// The checks that did not hold.
    pub fn broken_checks(&self) -> impl Iterator<Item = &Outcome> {
        self.checks.iter().filter(|outcome| !outcome.holds)
    }
}

/// Where a run stands, for whoever watches.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Progress {
    /// A pipeline begins.
    Started {
        /// Its name.
        pipeline: String,
        /// Days that it will rebuild.
        days: usize,
    },
    /// Days have been rebuilt.
    Days {
        /// How many, since the pipeline began.
        done: usize,
    },
    /// Exchanges have been tagged.
    Tagged {
        /// How many, since the pipeline began.
        done: u64,
    },
    /// A pipeline has ended.
    Ended {
        /// Its name.
        pipeline: String,
        /// How.
        status: Status,
    },
}
