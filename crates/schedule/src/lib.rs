//! When what runs: jobs with steps, cron lines and conditions on the data, runs and their state.
//!
//! Core types, one line each:
//! - [`Job`] and [`Step`]: what the settings say; [`Job::faults`] finds what cannot work before the night does.
//! - [`Cron`]: when a line comes due in a time zone; [`CatchUp`]: what becomes of the times that nobody was there for.
//! - [`Store`]: runs, their steps and what triggers have seen, in `SQLite` or Postgres, by the same statements.
//! - [`Scheduler`]: puts due runs into the queue, takes them out, and has them executed.
//! - [`execute`]: the steps of one run, as processes.
//!
//! Invariants:
//! 1. Of the runs that share a lock at most one is running: a unique index of the database says so, not a check before it.
//! 2. A time of a cron line, or a state of the data, makes one run, however many daemons look at it: it is the run's key.
//! 3. Whoever writes about a running run holds its lease and names its fence; who lost it stops its process and says nothing.
//! 4. A step that has ended well is not started again, whatever was killed. One whose worker was killed goes on, and is taken
//!    over by the next worker on the machine; one that was interrupted itself is started again.
//! 5. Nothing is dropped silently: a time that is not caught up is a run in the state `missed`, with the reason.
//!
//! Absent on purpose: what steps do (other programs, this one among them), tables, terminals.

mod clock;
mod condition;
mod cron;
mod error;
mod execute;
mod fill;
mod job;
mod observer;
mod process;
mod scheduler;
mod store;
#[cfg(any(test, feature = "testing"))]
pub mod testing;
#[cfg(test)]
mod tests;

pub use clock::{Clock, SystemClock};
pub use condition::{Ask, Condition};
pub use cron::{CatchUp, Cron};
pub use error::{Error, ErrorKind, Result};
pub use execute::{Execution, execute};
pub use job::{Job, Step};
pub use observer::Observer;
pub use scheduler::{Options, Scheduler};
pub use store::{Cause, Filter, NewRun, Run, RunState, StepRun, StepState, Store};

/// Milliseconds since 1970 (UTC).
pub type Millis = i64;
