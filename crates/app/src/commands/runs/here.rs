//! A run in this process: one command with an exit code, for schedulers that a team has already.

use std::io::Write as _;

use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;
use uptake_schedule::{Filter, Run, RunState, Store};

use crate::commands::schedule::{execution, usage, worker};
use crate::context::Context;

/// Executes a run until it has ended, with its retries; waits while another run holds its lock. Where a daemon has taken it,
/// that one's end is waited for. Gives the run as it is then.
pub(in crate::commands) async fn execute(context: &Context, store: &Store, run: &Run) -> anyhow::Result<Run> {
    let (stop, stopped) = watch::channel(false);
    let mut terminated = signal(SignalKind::terminate())?;
    let mut interrupted = signal(SignalKind::interrupt())?;
    let listener = tokio::spawn(async move {
        tokio::select! {
            _ = terminated.recv() => {}
            _ = interrupted.recv() => {}
        }
        let _ = stop.send_replace(true);
    });
    let ended = until_ended(context, store, run, stopped).await;
    listener.abort();
    ended
}

async fn until_ended(
    context: &Context,
    store: &Store,
    run: &Run,
    mut stopped: watch::Receiver<bool>,
) -> anyhow::Result<Run> {
    let settings = &context.settings.schedule;
    let execution = execution(context, store.clone(), stopped.clone())?;
    let lease = i64::try_from(settings.lease.as_millis()).unwrap_or(i64::MAX);
    let mut told = false;
    loop {
        if let Some(claimed) = store.claim_this(&run.id, &worker(), super::now(), lease).await.map_err(usage)? {
            let _ = execute_once(&execution, &claimed).await?;
        }
        let now = store.run(&run.id).await.map_err(usage)?;
        if now.state.ended() || *stopped.borrow() {
            return Ok(now);
        }
        if !told && now.state == RunState::Queued && now.attempt == 0 {
            told = true;
            let filter = Filter { job: None, state: Some(RunState::Running), limit: 1_000 };
            let runs = store.runs(&filter).await.map_err(usage)?;
            if let Some(holder) = runs.iter().find(|other| other.lock == now.lock) {
                writeln!(std::io::stderr(), "waits for {}, which holds the lock `{}`", holder.id, holder.lock)?;
            }
        }
        tokio::select! {
            () = tokio::time::sleep(settings.poll) => {}
            _ = async { stopped.wait_for(|stop| *stop).await.map(|_| ()) } => {}
        }
    }
}

async fn execute_once(execution: &uptake_schedule::Execution, run: &Run) -> anyhow::Result<Option<RunState>> {
    uptake_schedule::execute(execution, run).await.map_err(usage)
}
