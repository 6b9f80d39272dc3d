//! How long a piece of work took: by the clock, and in seconds of processor time, which other processes on the same
//! machine disturb less.

use std::time::{Duration, Instant};

use serde::Serialize;

use crate::Failure;

/// How long something took, in seconds.
#[derive(Debug, Clone, Copy, Serialize)]
pub(crate) struct Took {
    /// By the clock.
    wall: f64,
    /// Of processor time, over all threads of this process.
    processor: f64,
}

/// Processor time of all threads of this process that are alive, as Linux counts it for its scheduler.
///
/// `/proc` is read instead of `getrusage`, which needs unsafe code.
fn spent() -> Result<Duration, Failure> {
    let mut nanoseconds = 0;
    for thread in std::fs::read_dir("/proc/self/task")? {
        let statistics = std::fs::read_to_string(thread?.path().join("schedstat"))?;
        nanoseconds += statistics.split_whitespace().next().unwrap_or_default().parse::<u64>()?;
    }
    Ok(Duration::from_nanos(nanoseconds))
}

/// Does the work and says how long it took.
pub(crate) fn take<T>(work: impl FnOnce() -> Result<T, Failure>) -> Result<(T, Took), Failure> {
    let (begun, before) = (Instant::now(), spent()?);
    let result = work()?;
    let took = Took { wall: begun.elapsed().as_secs_f64(), processor: spent()?.saturating_sub(before).as_secs_f64() };
    Ok((result, took))
}
