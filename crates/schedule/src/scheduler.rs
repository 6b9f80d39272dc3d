//! The daemon: puts due runs into the queue, takes them out, and has them executed.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Mutex;
use tokio::task::JoinSet;

use crate::Millis;
use crate::clock::millis;
use crate::condition::{Ask, Verdict};
use crate::cron::{CatchUp, Cron};
use crate::error::{Error, ErrorKind, Result};
use crate::execute::{Execution, execute, stopped};
use crate::job::Job;
use crate::store::{Cause, NewRun, Run, RunState};

/// A time that came due so short a while ago is not missed: a daemon was busy, or is being replaced.
const GRACE: Millis = 5 * 60_000;

/// How a daemon works.
#[derive(Debug, Clone)]
pub struct Options {
    /// Its name among the workers: the machine, a slash, and what tells it from others there.
    pub worker: String,
    /// How often it looks into the queue, where nothing else wakes it.
    pub poll: Duration,
    /// How often conditions are asked about.
    pub ask_every: Duration,
    /// Runs at a time, each of another lock.
    pub concurrency: usize,
}

/// A scheduler over some jobs.
#[derive(Debug)]
pub struct Scheduler {
    jobs: Vec<(Job, Option<Cron>)>,
    execution: Execution,
    ask: Arc<dyn Ask>,
    options: Options,
    asked: Mutex<BTreeMap<String, Millis>>,
}

impl Scheduler {
    /// A scheduler over jobs without faults.
    ///
    /// # Errors
    /// Invalid, with all faults.
    pub fn new(jobs: Vec<Job>, execution: Execution, ask: Arc<dyn Ask>, options: Options) -> Result<Self> {
        let faults: Vec<String> = jobs.iter().flat_map(Job::faults).collect();
        if !faults.is_empty() {
            return Err(Error::Invalid(faults.join("; ")));
        }
        let with_cron = |job: Job| job.cron().map(|cron| (job, cron)).map_err(Error::Invalid);
        let jobs = jobs.into_iter().map(with_cron).collect::<Result<_>>()?;
        Ok(Self { jobs, execution, ask, options, asked: Mutex::default() })
    }

    /// Works until it is told to stop; the runs under way are then stopped, and taken up by whoever comes next.
    ///
    /// # Errors
    /// What cannot get better by itself. While the database or the tables are away, it waits for them.
    pub async fn run(self: Arc<Self>) -> Result<()> {
        let mut stop = self.execution.stop.clone();
        let mut workers: JoinSet<Result<Option<RunState>>> = JoinSet::new();
        while !*stop.borrow() {
            let wake = match self.round(&mut workers).await {
                Ok(wake) => wake,
                Err(error) if error.kind() == ErrorKind::Retry => {
                    tracing::warn!(%error, "the scheduler tries again");
                    self.execution.clock.now().saturating_add(millis(self.options.poll))
                }
                Err(error) => return Err(error),
            };
            tokio::select! {
                () = stopped(&mut stop) => {}
                Some(ended) = workers.join_next() => said(ended),
                () = self.execution.clock.wait_until(wake) => {}
            }
        }
        while let Some(ended) = workers.join_next().await {
            said(ended);
        }
        Ok(())
    }

    /// One look at everything; gives when to look again.
    async fn round(&self, workers: &mut JoinSet<Result<Option<RunState>>>) -> Result<Millis> {
        let now = self.execution.clock.now();
        self.enqueue(now).await?;
        let lease = millis(self.execution.lease);
        while workers.len() < self.options.concurrency {
            let Some(run) = self.execution.store.claim(&self.options.worker, now, lease).await? else { break };
            let execution = self.execution.clone();
            let _ = workers.spawn(async move { execute(&execution, &run).await });
        }
        let mut wake = now.saturating_add(millis(self.options.poll));
        for cron in self.jobs.iter().filter_map(|(_, cron)| cron.as_ref()) {
            wake = wake.min(cron.next_after(now).unwrap_or(Millis::MAX));
        }
        Ok(wake.min(self.execution.store.next_start(now).await?.unwrap_or(Millis::MAX)))
    }

    /// Puts what is due into the queue.
    async fn enqueue(&self, now: Millis) -> Result<()> {
        for (job, cron) in &self.jobs {
            if let Some(cron) = cron {
                self.cron(job, cron, now).await?;
            }
            if let Err(error) = self.data(job, now).await {
                // One job's broken query is no reason to let the others wait.
                match error.kind() {
                    ErrorKind::Retry => tracing::warn!(job = job.name, %error, "the condition cannot be judged"),
                    _ => return Err(error),
                }
            }
        }
        Ok(())
    }

    async fn cron(&self, job: &Job, cron: &Cron, now: Millis) -> Result<()> {
        let store = &self.execution.store;
        let zone = job.timezone.as_deref().unwrap_or("UTC");
        let definition = format!("{} {zone}", job.cron.as_deref().unwrap_or_default());
        let mut memory = store.memory(&job.name, "cron", &definition, now).await?;
        let due = cron.due(memory.seen_at, now);
        let Some(&last) = due.last() else { return Ok(()) };
        let waits = store.waits(job).await?;
        for &time in &due {
            let missed = match job.catch_up {
                CatchUp::All => None,
                _ if time != last => Some("a later time was due as well when the scheduler came to it"),
                CatchUp::None if time < now.saturating_sub(GRACE) => Some("no scheduler was there when it was due"),
                _ if waits => Some("an earlier run of the job still waits"),
                _ => None,
            };
            let new = NewRun {
                job,
                cause: Cause::Cron,
                reason: None,
                due_at: time,
                key: Some(time.to_string()),
                missed: missed.map(ToOwned::to_owned),
            };
            if let Some(run) = store.add(&new, now).await? {
                tell(&run);
                if run.state == RunState::Missed {
                    self.execution.observer.tell(&run, run.state, now);
                }
            }
        }
        memory.seen_at = last;
        store.remember(&job.name, "cron", &memory).await
    }

    async fn data(&self, job: &Job, now: Millis) -> Result<()> {
        let Some(condition) = &job.when else { return Ok(()) };
        {
            let mut asked = self.asked.lock().await;
            if asked.get(&job.name).is_some_and(|last| now < last.saturating_add(millis(self.options.ask_every))) {
                return Ok(());
            }
            let _ = asked.insert(job.name.clone(), now);
        }
        let store = &self.execution.store;
        let definition = serde_json::to_string(condition).map_err(|error| Error::Invalid(error.to_string()))?;
        let mut memory = store.memory(&job.name, "data", &definition, now).await?;
        let failed = |reason| Error::Ask { job: job.name.clone(), reason };
        let value = self.ask.ask(&condition.query).await.map_err(failed)?;
        match condition.judge(&value, memory.seen, now).map_err(failed)? {
            Verdict::Rest => return Ok(()),
            Verdict::Remember(seen) => memory.seen = seen,
            Verdict::Fire(seen, reason) => {
                // The turn is the run's key: two daemons that see the same make one run, and a kill in between loses none.
                let key = Some(format!("{} {}", memory.turn, memory.seen_at));
                let new = NewRun { job, cause: Cause::Data, reason: Some(reason), due_at: now, key, missed: None };
                if let Some(run) = store.add(&new, now).await? {
                    tell(&run);
                }
                memory.seen = seen;
            }
        }
        store.remember(&job.name, "data", &memory).await
    }
}

fn tell(run: &Run) {
    if run.state == RunState::Missed {
        tracing::warn!(run = run.id, reason = run.reason, "a run is missed");
    } else {
        tracing::info!(run = run.id, cause = run.cause.name(), "a run waits");
    }
}

fn said(ended: std::result::Result<Result<Option<RunState>>, tokio::task::JoinError>) {
    match ended {
        Ok(Ok(Some(_))) => {}
        Ok(Ok(None)) => tracing::warn!("a run was lost to another worker"),
        Ok(Err(error)) => tracing::error!(%error, "a run could not be executed; it is taken up when its lease is over"),
        Err(error) => tracing::error!(%error, "a run ended abnormally; it is taken up when its lease is over"),
    }
}
