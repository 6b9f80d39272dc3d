//! Runs and their steps, as the database holds them.

use std::fmt;
use std::str::FromStr;

use serde::{Serialize, Serializer};
use serde_json::Value;
use sqlx::any::AnyRow;

use super::column;
use crate::Millis;
use crate::clock::time_text;
use crate::error::{Error, Result};
use crate::job::Job;

/// Names and their values, both ways.
macro_rules! words {
    ($(#[$doc:meta])* $name:ident { $($(#[$of:meta])* $variant:ident = $word:literal,)* }) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
        #[serde(rename_all = "snake_case")]
        pub enum $name {
            $($(#[$of])* $variant,)*
        }

        impl $name {
            /// The word for it.
            pub fn name(self) -> &'static str {
                match self { $(Self::$variant => $word,)* }
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
                formatter.write_str(self.name())
            }
        }

        impl FromStr for $name {
            type Err = Error;

            fn from_str(word: &str) -> Result<Self> {
                match word {
                    $($word => Ok(Self::$variant),)*
                    _ => {
                        let known = [$($word),*].join(", ");
                        Err(Error::Invalid(format!("`{word}` is none of {known}")))
                    }
                }
            }
        }
    };
}

words! {
    /// How a run stands.
    RunState {
        /// It waits for its time, or for its lock.
        Queued = "queued",
        /// A worker holds its lease.
        Running = "running",
        /// Every step has ended well.
        Succeeded = "succeeded",
        /// A step has not, and there is no retry left.
        Failed = "failed",
        /// A check has refused something (exit code 3), such as a gate.
        Refused = "refused",
        /// Somebody wanted it so.
        Cancelled = "cancelled",
        /// Its time came when nobody was there, or an earlier run still waited.
        Missed = "missed",
    }
}

words! {
    /// Why there is a run.
    Cause {
        /// A cron line came due.
        Cron = "cron",
        /// A condition on the data holds.
        Data = "data",
        /// Somebody wanted it.
        Hand = "hand",
    }
}

words! {
    /// How a step stands.
    StepState {
        /// Its process runs, or was running when its worker died.
        Running = "running",
        /// It has ended well.
        Succeeded = "succeeded",
        /// It has not.
        Failed = "failed",
        /// A check has refused something.
        Refused = "refused",
        /// It was stopped: the run was cancelled, or its worker ended.
        Stopped = "stopped",
        /// A step that it comes after has not ended well.
        Skipped = "skipped",
    }
}

impl RunState {
    /// Whether nothing more will come of it by itself.
    pub fn ended(self) -> bool {
        !matches!(self, Self::Queued | Self::Running)
    }
}

/// Times as other programs read them: RFC 3339.
#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde passes what it serialises by reference")]
fn moment<S: Serializer>(time: &Millis, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(&time_text(*time, MOMENT))
}

#[expect(clippy::ref_option, reason = "serde passes what it serialises by reference")]
fn moments<S: Serializer>(time: &Option<Millis>, serializer: S) -> Result<S::Ok, S::Error> {
    time.map(|time| time_text(time, MOMENT)).serialize(serializer)
}

const MOMENT: &str = "%Y-%m-%dT%H:%M:%S%.3fZ";

/// One run of a job.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Run {
    /// Job, time and a few letters.
    pub id: String,
    /// The job's name.
    pub job: String,
    /// The lock that it holds while it runs.
    pub lock: String,
    /// Why there is a run.
    pub cause: Cause,
    /// Why it is in its state, in words.
    pub reason: Option<String>,
    /// For which time it is.
    #[serde(serialize_with = "moment")]
    pub due_at: Millis,
    /// How it stands.
    pub state: RunState,
    /// How often it was taken up again after a failure.
    pub attempt: i64,
    /// It does not start before.
    #[serde(serialize_with = "moment")]
    pub not_before: Millis,
    /// When it came into the queue.
    #[serde(serialize_with = "moment")]
    pub created_at: Millis,
    /// When it first started.
    #[serde(serialize_with = "moments")]
    pub started_at: Option<Millis>,
    /// When it ended.
    #[serde(serialize_with = "moments")]
    pub ended_at: Option<Millis>,
    /// Who runs it.
    pub worker: Option<String>,
    /// Who wants it cancelled.
    pub cancel_by: Option<String>,
    /// How often it was taken by a worker: who holds an earlier number has lost it.
    #[serde(skip)]
    pub fence: i64,
    /// The job as it was when the run came into the queue.
    #[serde(skip)]
    pub plan: Job,
}

/// A run that is to be.
#[derive(Debug, Clone)]
pub struct NewRun<'a> {
    /// The job.
    pub job: &'a Job,
    /// Why.
    pub cause: Cause,
    /// Why, in words.
    pub reason: Option<String>,
    /// For which time.
    pub due_at: Millis,
    /// What there may be one run of: the time of a cron line, the turn of a condition. By hand there may be many.
    pub key: Option<String>,
    /// It is not to run, and this is why.
    pub missed: Option<String>,
}

impl NewRun<'_> {
    /// The key as the database has it.
    pub(super) fn occurrence(&self) -> String {
        let name = &self.job.name;
        match &self.key {
            Some(key) => format!("{name}/{}/{key}", self.cause),
            None => format!("{name}/{}/{}", self.cause, uuid::Uuid::now_v7().simple()),
        }
    }

    pub(super) fn run(&self, now: Millis) -> Run {
        let tail = uuid::Uuid::now_v7().simple().to_string();
        let tail = tail.get(26..).unwrap_or_default();
        let missed = self.missed.is_some();
        Run {
            id: format!("{}-{}-{tail}", self.job.name, time_text(self.due_at, "%Y%m%dt%H%M%S")),
            job: self.job.name.clone(),
            lock: self.job.lock().to_owned(),
            cause: self.cause,
            reason: self.missed.clone().or_else(|| self.reason.clone()),
            due_at: self.due_at,
            state: if missed { RunState::Missed } else { RunState::Queued },
            attempt: 0,
            not_before: now,
            created_at: now,
            started_at: None,
            ended_at: missed.then_some(now),
            worker: None,
            cancel_by: None,
            fence: 0,
            plan: self.job.clone(),
        }
    }
}

impl Run {
    pub(super) fn read(row: &AnyRow) -> Result<Self> {
        let plan: String = column(row, "plan")?;
        let word = |name: &str| column::<String>(row, name);
        let known = |error: Error| Error::Corrupt(error.to_string());
        Ok(Self {
            id: column(row, "id")?,
            job: column(row, "job")?,
            lock: column(row, "lock_name")?,
            cause: word("cause")?.parse().map_err(known)?,
            reason: column(row, "reason")?,
            due_at: column(row, "due_at")?,
            state: word("state")?.parse().map_err(known)?,
            attempt: column(row, "attempt")?,
            not_before: column(row, "not_before")?,
            created_at: column(row, "created_at")?,
            started_at: column(row, "started_at")?,
            ended_at: column(row, "ended_at")?,
            worker: column(row, "worker")?,
            cancel_by: column(row, "cancel_by")?,
            fence: column(row, "fence")?,
            plan: serde_json::from_str(&plan)
                .map_err(|error| Error::Corrupt(format!("a job that cannot be read ({error})")))?,
        })
    }
}

/// How a step of a run stands.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct StepRun {
    /// Its name.
    pub step: String,
    /// How many come before it.
    pub position: i64,
    /// How it stands.
    pub state: StepState,
    /// How often it was started.
    pub attempt: i64,
    /// When it last started.
    #[serde(serialize_with = "moments")]
    pub started_at: Option<Millis>,
    /// When it ended.
    #[serde(serialize_with = "moments")]
    pub ended_at: Option<Millis>,
    /// How its process ended.
    pub exit_code: Option<i64>,
    /// Machine, process and its start, so that a later worker finds what an earlier one left running.
    #[serde(skip)]
    pub process: Option<String>,
    /// Why it is in its state, in words.
    pub reason: Option<String>,
    /// What it wrote to its standard output, where that is JSON and not long.
    pub result: Option<Value>,
    /// The end of its log.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub log: Option<String>,
}

impl StepRun {
    pub(super) fn read(row: &AnyRow) -> Result<Self> {
        let state: String = column(row, "state")?;
        let result: Option<String> = column(row, "result")?;
        Ok(Self {
            step: column(row, "step")?,
            position: column(row, "position")?,
            state: state.parse().map_err(|error: Error| Error::Corrupt(error.to_string()))?,
            attempt: column(row, "attempt")?,
            started_at: column(row, "started_at")?,
            ended_at: column(row, "ended_at")?,
            exit_code: column(row, "exit_code")?,
            process: column(row, "process")?,
            reason: column(row, "reason")?,
            result: result.and_then(|text| serde_json::from_str(&text).ok()),
            log: column(row, "log")?,
        })
    }
}

/// Which runs are listed.
#[derive(Debug, Clone, Default)]
pub struct Filter {
    /// Of one job.
    pub job: Option<String>,
    /// In one state.
    pub state: Option<RunState>,
    /// At most so many.
    pub limit: usize,
}
