//! The steps of one run.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use serde_json::Value;
use tokio::sync::watch;

use crate::Millis;
use crate::clock::{Clock, millis, time_text};
use crate::error::{Error, Result};
use crate::fill::Values;
use crate::job::Step;
use crate::observer::Observer;
use crate::process::{Ended, Process, Request};
use crate::store::{Run, RunState, StepRun, StepState, Store};

/// Longest wait between two retries.
const LONGEST_BACKOFF: Millis = 6 * 3_600_000;
/// How often a worker says that it lives, and looks whether it is to stop: in parts of the lease, and in real time.
const BEATS: u32 = 4;
const LONGEST_BEAT: Duration = Duration::from_secs(1);
/// Of a log, what the database keeps.
const LOG_TAIL: u64 = 16 << 10;
/// Standard output that is read as JSON, at most.
const LONGEST_OUTPUT: u64 = 1 << 20;
/// Of results, what the database keeps.
const LONGEST_RESULT: usize = 64 << 10;

/// Whoever executes runs, and where.
#[derive(Debug, Clone)]
pub struct Execution {
    /// The scheduler's database.
    pub store: Store,
    /// What time it is.
    pub clock: Arc<dyn Clock>,
    /// This program, for the steps that are its own commands.
    pub program: PathBuf,
    /// What comes before the arguments of such a step, such as `--config FILE`.
    pub arguments: Vec<String>,
    /// What every step finds in its environment, beside what this process has.
    pub environment: Vec<(String, String)>,
    /// Where each run has a directory of its own.
    pub directory: PathBuf,
    /// How long a worker that is not heard of keeps a run.
    pub lease: Duration,
    /// Turns true when this process is to end.
    pub stop: watch::Receiver<bool>,
    /// Hears how runs end.
    pub observer: Observer,
}

/// How the process of a step came to its end.
enum Verdict {
    Ended(Ended),
    Cancelled(String),
    OverTime,
    Stopped,
    Lost,
}

/// What came of a step.
enum Outcome {
    Ended { state: StepState, again: bool, reason: Option<String> },
    Cancelled(String),
    Stopped,
    Lost,
}

/// What a step that has ended well leaves in the run's directory: it is not started again.
#[derive(Serialize, Deserialize)]
struct Done {
    result: Value,
}

/// A run under way.
struct Work<'a> {
    execution: &'a Execution,
    run: &'a Run,
    directory: PathBuf,
    values: Values,
    earlier: BTreeMap<String, StepRun>,
}

/// Executes the steps of a run that was claimed, and says in the store how it ended. Gives the state that it is in then:
/// queued, where it is taken up again later; nothing where the lease was lost to another worker.
///
/// # Errors
/// The database's, and those of the run's directory. The run then stays claimed until its lease ends.
pub async fn execute(execution: &Execution, run: &Run) -> Result<Option<RunState>> {
    let span = tracing::info_span!("run", run = run.id, job = run.job);
    span.in_scope(|| tracing::info!(attempt = run.attempt, cause = run.cause.name(), "the run starts"));
    let mut work = Work::begin(execution, run).await?;
    let Some((state, reason, not_before)) = work.steps().await? else { return Ok(None) };
    let now = execution.clock.now();
    span.in_scope(|| {
        // A refusal is a decision and no fault.
        if state == RunState::Failed {
            tracing::warn!(reason, "the run has failed");
        } else {
            tracing::info!(state = state.name(), reason, "the run has ended");
        }
    });
    let left = execution.store.leave(run, state, reason.as_deref(), not_before.unwrap_or(now), now).await?;
    if left {
        execution.observer.tell(run, state, now);
    }
    Ok(left.then_some(state))
}

/// State, reason, and the time of the next try.
type Ending = (RunState, Option<String>, Option<Millis>);

impl<'a> Work<'a> {
    async fn begin(execution: &'a Execution, run: &'a Run) -> Result<Self> {
        let directory = std::path::absolute(execution.directory.join(&run.id))
            .map_err(Error::system("find", &execution.directory))?;
        for folder in ["steps", "logs"] {
            let folder = directory.join(folder);
            std::fs::create_dir_all(&folder).map_err(Error::system("make", &folder))?;
        }
        let steps = execution.store.steps(&run.id).await?;
        let known = [
            ("directory", directory.to_string_lossy().into_owned()),
            ("run", run.id.clone()),
            ("job", run.job.clone()),
            ("due", time_text(run.due_at, "%Y-%m-%dT%H:%M:%SZ")),
            ("day", time_text(run.due_at, "%Y-%m-%d")),
        ];
        Ok(Self {
            execution,
            run,
            directory,
            values: Values { known: known.into(), results: BTreeMap::new() },
            earlier: steps.into_iter().map(|step| (step.step.clone(), step)).collect(),
        })
    }

    /// All steps; nothing where the lease was lost.
    async fn steps(&mut self) -> Result<Option<Ending>> {
        let mut states: BTreeMap<&str, (StepState, Option<String>)> = BTreeMap::new();
        let run = self.run;
        for (position, step) in run.plan.steps.iter().enumerate() {
            if let Some(result) = self.done(step) {
                if !self.told(position, step, &result).await? {
                    return Ok(None);
                }
                let _ = self.values.results.insert(step.name.clone(), result);
                let _ = states.insert(&step.name, (StepState::Succeeded, None));
                continue;
            }
            let missing = run
                .plan
                .needs(position)
                .into_iter()
                .find(|name| states.get(name).is_none_or(|(state, _)| *state != StepState::Succeeded));
            if let Some(missing) = missing.filter(|_| !step.always) {
                let reason = format!("`{missing}` has not ended well");
                let mut skipped = self.record(position, step, StepState::Skipped);
                skipped.reason = Some(reason.clone());
                if !self.execution.store.write_step(run, &skipped).await? {
                    return Ok(None);
                }
                let _ = states.insert(&step.name, (StepState::Skipped, Some(reason)));
                continue;
            }
            match self.step(position, step).await? {
                Outcome::Lost => return Ok(None),
                Outcome::Stopped => {
                    return Ok(Some((RunState::Queued, Some("its worker was stopped".to_owned()), None)));
                }
                Outcome::Cancelled(by) => {
                    return Ok(Some((RunState::Cancelled, Some(format!("cancelled by {by}")), None)));
                }
                Outcome::Ended { state, again, reason } => {
                    if let Some(ending) = self.again(step, state, again, reason.as_deref()) {
                        return Ok(Some(ending));
                    }
                    let _ = states.insert(&step.name, (state, reason));
                }
            }
        }
        Ok(Some(ending(&states)))
    }

    /// The next try, where a step has failed and there is one left.
    fn again(&self, step: &Step, state: StepState, again: bool, reason: Option<&str>) -> Option<Ending> {
        let plan = &self.run.plan;
        if state != StepState::Failed || !again || self.run.attempt >= i64::from(plan.retries) {
            return None;
        }
        let doublings = u32::try_from(self.run.attempt).unwrap_or(u32::MAX).min(20);
        let wait = millis(plan.backoff).saturating_mul(1 << doublings).clamp(1, LONGEST_BACKOFF);
        let at = self.execution.clock.now().saturating_add(wait);
        let reason = format!(
            "step `{}`: {}; try {} of {} follows",
            step.name,
            reason.unwrap_or("failed"),
            self.run.attempt + 2,
            plan.retries + 1
        );
        Some((RunState::Queued, Some(reason), Some(at)))
    }

    fn record(&self, position: usize, step: &Step, state: StepState) -> StepRun {
        let earlier = self.earlier.get(&step.name);
        StepRun {
            step: step.name.clone(),
            position: i64::try_from(position).unwrap_or(i64::MAX),
            state,
            attempt: earlier.map_or(0, |step| step.attempt),
            started_at: None,
            ended_at: None,
            exit_code: None,
            process: None,
            reason: None,
            result: None,
            log: None,
        }
    }

    fn marker(&self, step: &Step) -> PathBuf {
        self.directory.join("steps").join(format!("{}.json", step.name))
    }

    /// What a step has left that ended well in an earlier try, on this machine: what later steps need of it lies here, too.
    fn done(&self, step: &Step) -> Option<Value> {
        let bytes = std::fs::read(self.marker(step)).ok()?;
        serde_json::from_slice::<Done>(&bytes).ok().map(|done| done.result)
    }

    /// The store says so, too: a worker may have been killed between the two. False where the lease is lost.
    async fn told(&self, position: usize, step: &Step, result: &Value) -> Result<bool> {
        let earlier = self.earlier.get(&step.name);
        if earlier.is_some_and(|earlier| earlier.state == StepState::Succeeded) {
            return Ok(true);
        }
        let mut record = self.record(position, step, StepState::Succeeded);
        record.started_at = earlier.and_then(|earlier| earlier.started_at);
        record.ended_at = Some(self.execution.clock.now());
        record.exit_code = Some(0);
        record.result = kept(result);
        self.execution.store.write_step(self.run, &record).await
    }

    async fn step(&mut self, position: usize, step: &Step) -> Result<Outcome> {
        let request = match self.request(step) {
            Ok(request) => request,
            Err(reason) => {
                let record = self.record(position, step, StepState::Failed);
                return self.end(record, StepState::Failed, false, Some(reason), None).await;
            }
        };
        let (mut process, mut record) = match self.begin_step(position, step, &request).await {
            (Ok(process), record) => (process, record),
            (Err(error), record) => {
                return self.end(record, StepState::Failed, true, Some(error.to_string()), None).await;
            }
        };
        record.process = Some(process.identity());
        let verdict = if self.execution.store.write_step(self.run, &record).await? {
            self.watch(step, &mut process, record.started_at.unwrap_or_default()).await?
        } else {
            Verdict::Lost
        };
        record.log = tail(&request.log);
        match verdict {
            Verdict::Lost => {
                if !self.is_next_door().await? {
                    process.end().await;
                }
                Ok(Outcome::Lost)
            }
            Verdict::Stopped => {
                process.end().await;
                let reason = Some("its worker was stopped".to_owned());
                let _ = self.end(record, StepState::Stopped, true, reason, None).await?;
                Ok(Outcome::Stopped)
            }
            Verdict::Cancelled(by) => {
                process.end().await;
                let reason = Some(format!("cancelled by {by}"));
                let _ = self.end(record, StepState::Stopped, true, reason, None).await?;
                Ok(Outcome::Cancelled(by))
            }
            Verdict::OverTime => {
                process.end().await;
                let reason = Some("it took longer than its time_limit, or that of the job".to_owned());
                self.end(record, StepState::Failed, false, reason, None).await
            }
            Verdict::Ended(ended) => self.judge(step, &request, record, ended).await,
        }
    }

    /// The process of a step: what an earlier worker has left running or ended on this machine, else a new one.
    async fn begin_step(&self, position: usize, step: &Step, request: &Request) -> (Result<Process>, StepRun) {
        let mut record = self.record(position, step, StepState::Running);
        let left = self.earlier.get(&step.name).filter(|earlier| earlier.state == StepState::Running);
        if let Some(earlier) = left
            && let Some(process) = earlier.process.as_ref().and_then(|identity| Process::find(identity, &request.ended))
        {
            tracing::info!(run = self.run.id, step = step.name, "the step is taken over as the worker before left it");
            record.started_at = earlier.started_at;
            return (Ok(process), record);
        }
        record.attempt += 1;
        record.started_at = Some(self.execution.clock.now());
        tracing::info!(run = self.run.id, step = step.name, "the step starts");
        (Process::start(request).await, record)
    }

    /// Whether who has the run now is on this machine: then the process is taken over, too, and not ours to end.
    async fn is_next_door(&self) -> Result<bool> {
        let machine =
            |worker: &Option<String>| worker.as_ref().and_then(|name| name.split('/').next().map(str::to_owned));
        let now = self.execution.store.run(&self.run.id).await?;
        Ok(now.state == RunState::Running && machine(&now.worker) == machine(&self.run.worker))
    }

    async fn judge(&mut self, step: &Step, request: &Request, mut record: StepRun, ended: Ended) -> Result<Outcome> {
        record.exit_code = ended.0.map(i64::from);
        let (state, again, reason) = judged(ended, record.log.as_deref());
        let result = result_of(&request.output);
        if state != StepState::Succeeded {
            // What a gate has refused is worth reading, too.
            return self.end(record, state, again, reason, Some(result)).await;
        }
        if let Err(error) = self.keep(step, request, &result) {
            return self.end(record, StepState::Failed, true, Some(error.to_string()), None).await;
        }
        self.end(record, state, again, reason, Some(result)).await
    }

    /// What a step leaves when it has ended well: its output under its name, and the marker, last.
    fn keep(&self, step: &Step, request: &Request, result: &Value) -> Result<()> {
        if let Some(name) = &step.output {
            let target = self.directory.join(self.values.fill(name).map_err(Error::Invalid)?);
            std::fs::rename(&request.output, &target).map_err(Error::system("write", &target))?;
        }
        let marker = self.marker(step);
        let part = marker.with_extension("part");
        let bytes = serde_json::to_vec(&Done { result: result.clone() }).unwrap_or_default();
        std::fs::write(&part, bytes).map_err(Error::system("write", &part))?;
        std::fs::rename(&part, &marker).map_err(Error::system("write", &marker))
    }

    fn request(&self, step: &Step) -> Result<Request, String> {
        let fill = |words: &[String]| words.iter().map(|word| self.values.fill(word)).collect::<Result<Vec<_>, _>>();
        let (program, arguments) = if step.command.is_empty() {
            let arguments = self.execution.arguments.iter().cloned().chain(fill(&step.run)?).collect();
            (self.execution.program.clone(), arguments)
        } else {
            let mut words = fill(&step.command)?;
            (PathBuf::from(words.remove(0)), words)
        };
        if let Some(name) = &step.output {
            // What cannot be filled in is said before the step, not after it.
            let _ = self.values.fill(name)?;
        }
        let mut environment = self.execution.environment.clone();
        for (name, value) in &self.values.known {
            environment.push((format!("UPTAKE_RUN_{}", name.to_uppercase()), value.clone()));
        }
        let of = |folder: &str, ending: &str| self.directory.join(folder).join(format!("{}.{ending}", step.name));
        Ok(Request {
            program,
            arguments,
            environment,
            directory: self.directory.clone(),
            log: of("logs", "log"),
            output: of("logs", "out"),
            ended: of("steps", "code"),
        })
    }

    /// Waits for the process, and says meanwhile that this worker lives.
    async fn watch(&self, step: &Step, process: &mut Process, started: Millis) -> Result<Verdict> {
        let Execution { store, clock, lease, .. } = self.execution;
        let mut told = self.execution.stop.clone();
        let mut beat = tokio::time::interval((*lease / BEATS).min(LONGEST_BEAT));
        let limits = [
            step.time_limit.map(|limit| started.saturating_add(millis(limit))),
            self.run.plan.time_limit.zip(self.run.started_at).map(|(limit, at)| at.saturating_add(millis(limit))),
        ];
        let limit = limits.into_iter().flatten().min();
        let mut until = clock.now().saturating_add(millis(*lease));
        loop {
            tokio::select! {
                ended = process.wait() => return ended.map(Verdict::Ended),
                () = clock.wait_until(limit.unwrap_or(Millis::MAX)), if limit.is_some() => return Ok(Verdict::OverTime),
                () = stopped(&mut told) => return Ok(Verdict::Stopped),
                _ = beat.tick() => {
                    let next = clock.now().saturating_add(millis(*lease));
                    match store.renew(self.run, next).await {
                        Ok(None) => return Ok(Verdict::Lost),
                        Ok(Some(Some(by))) => return Ok(Verdict::Cancelled(by)),
                        Ok(Some(None)) => until = next,
                        // The work goes on while the database is away, as long as the run is surely still ours.
                        Err(error) if clock.now() < until => tracing::warn!(%error, "the lease could not be renewed"),
                        Err(error) => {
                            tracing::error!(%error, "the lease is over; the step is stopped");
                            return Ok(Verdict::Lost);
                        }
                    }
                }
            }
        }
    }

    async fn end(
        &mut self,
        mut record: StepRun,
        state: StepState,
        again: bool,
        reason: Option<String>,
        result: Option<Value>,
    ) -> Result<Outcome> {
        record.state = state;
        record.ended_at = Some(self.execution.clock.now());
        record.process = None;
        record.reason.clone_from(&reason);
        record.result = result.as_ref().and_then(kept);
        tracing::info!(run = self.run.id, step = record.step, state = state.name(), reason, "the step has ended");
        if !self.execution.store.write_step(self.run, &record).await? {
            return Ok(Outcome::Lost);
        }
        if let Some(result) = result.filter(|_| state == StepState::Succeeded) {
            let _ = self.values.results.insert(record.step.clone(), result);
        }
        let _ = self.earlier.insert(record.step.clone(), record);
        Ok(Outcome::Ended { state, again, reason })
    }
}

/// Waits until this process is to end. What the channel lends is given back here: it may not be held over an await.
pub(crate) async fn stopped(stop: &mut watch::Receiver<bool>) {
    if stop.wait_for(|stop| *stop).await.is_err() {
        // Nobody is left who could say so.
        std::future::pending::<()>().await;
    }
}

/// How a run ends whose steps have: what failed weighs more than what was refused.
fn ending(states: &BTreeMap<&str, (StepState, Option<String>)>) -> Ending {
    let of = |wanted: StepState| {
        states
            .iter()
            .find(|(_, (state, _))| *state == wanted)
            .map(|(name, (_, reason))| Some(format!("step `{name}`: {}", reason.as_deref().unwrap_or(wanted.name()))))
    };
    match (of(StepState::Failed), of(StepState::Refused)) {
        (Some(reason), _) => (RunState::Failed, reason, None),
        (None, Some(reason)) => (RunState::Refused, reason, None),
        (None, None) => (RunState::Succeeded, None, None),
    }
}

/// What an exit code means: those of this program, which others may use, too. With it whether another try may help.
fn judged(ended: Ended, log: Option<&str>) -> (StepState, bool, Option<String>) {
    let said = log.and_then(last_error).map(|line| format!(": {line}")).unwrap_or_default();
    match ended.0 {
        Some(0) => (StepState::Succeeded, false, None),
        Some(3) => (StepState::Refused, false, Some(format!("refused by a check (exit code 3){said}"))),
        Some(2) => (StepState::Failed, false, Some(format!("wrong usage or settings (exit code 2){said}"))),
        Some(5) => (StepState::Failed, false, Some(format!("stopped by a budget (exit code 5){said}"))),
        Some(code) => (StepState::Failed, true, Some(format!("exit code {code}{said}"))),
        None => (StepState::Failed, true, Some(format!("ended by a signal{said}"))),
    }
}

/// A result as the database keeps it.
fn kept(result: &Value) -> Option<Value> {
    (!result.is_null() && result.to_string().len() <= LONGEST_RESULT).then(|| result.clone())
}

/// What a step wrote to its standard output, where that is one JSON document and no book.
fn result_of(output: &Path) -> Value {
    let short = std::fs::metadata(output).is_ok_and(|metadata| metadata.len() <= LONGEST_OUTPUT);
    let bytes = short.then(|| std::fs::read(output).ok()).flatten().unwrap_or_default();
    serde_json::from_slice(&bytes).unwrap_or(Value::Null)
}

/// What says what went wrong: the last line that begins as errors do, with its cause, else the last line.
fn last_error(log: &str) -> Option<String> {
    let lines: Vec<&str> = log.lines().map(str::trim).filter(|line| !line.is_empty()).collect();
    let at = lines.iter().rposition(|line| line.starts_with("error:") || line.starts_with("refused"));
    let Some(at) = at else { return lines.last().map(|line| (*line).to_owned()) };
    let causes = lines[at + 1..].iter().take_while(|line| line.starts_with("because:"));
    Some(std::iter::once(&lines[at]).chain(causes).copied().collect::<Vec<_>>().join(" "))
}

/// The end of a log, as text.
fn tail(path: &Path) -> Option<String> {
    use std::io::{Read as _, Seek as _, SeekFrom};
    let mut file = std::fs::File::open(path).ok()?;
    let length = file.metadata().ok()?.len();
    let _ = file.seek(SeekFrom::Start(length.saturating_sub(LOG_TAIL))).ok()?;
    let mut bytes = Vec::new();
    let _ = file.read_to_end(&mut bytes).ok()?;
    // Postgres takes no NUL in text.
    Some(String::from_utf8_lossy(&bytes).replace('\0', "\u{fffd}"))
}
