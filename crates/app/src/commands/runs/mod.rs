//! `uptake runs`: what the scheduler has done, does, and will do.

pub(super) mod here;
mod page;
mod report;
pub(super) mod text;

use std::io::Write as _;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::Subcommand;
use serde_json::json;
use tokio::io::{AsyncReadExt as _, AsyncSeekExt as _};
use uptake_schedule::{Cause, Filter, NewRun, Run, RunState, StepRun, StepState, Store};

use super::schedule::{open, place, usage};
use super::snapshot::Output;
use crate::context::{Context, Usage};

/// Exit code for what a check refuses.
const REFUSED: u8 = 3;
/// Exit code for what was stopped.
const STOPPED: u8 = 4;
/// Between two looks at a log that grows.
const PAUSE: Duration = Duration::from_millis(200);

/// Shows the scheduler's runs, starts some, takes some up again, cancels some.
///
/// RUN is an id, its beginning or its end, or a job's name for its latest run.
#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, Subcommand)]
enum Action {
    /// Lists runs, the newest first.
    List {
        /// Of one job.
        #[arg(long, value_name = "NAME")]
        job: Option<String>,
        /// In one state: queued, running, succeeded, failed, refused, cancelled, missed.
        #[arg(long)]
        state: Option<RunState>,
        /// At most so many.
        #[arg(long, default_value_t = 20, value_name = "N")]
        limit: usize,
        /// How the list is written.
        #[arg(short, long, value_enum, default_value_t = Output::Table)]
        output: Output,
    },
    /// Shows a run and its steps.
    Show {
        /// The run.
        run: String,
        /// How it is written.
        #[arg(short, long, value_enum, default_value_t = Output::Table)]
        output: Output,
    },
    /// Shows what the steps of a run have said.
    Logs {
        /// The run.
        run: String,
        /// One step; all when none is named.
        step: Option<String>,
        /// Go on until the run has ended.
        #[arg(short, long)]
        follow: bool,
    },
    /// Takes a run up again that did not end well: what has ended well in it stays done.
    Retry {
        /// The run.
        run: String,
    },
    /// Cancels a run that waits, or stops one under way.
    Cancel {
        /// The run.
        run: String,
        /// Who; the user of this machine when nothing is said.
        #[arg(long, env = "UPTAKE_USER", value_name = "NAME")]
        by: Option<String>,
    },
    /// Starts a job now: by the daemon, or here.
    Trigger {
        /// The job.
        job: String,
        /// Run it in this process and wait for its end, for a Kubernetes `CronJob` or an Airflow task. The exit code is 0 when it
        /// has succeeded, 1 when it has failed, 3 when a check has refused something, 4 when it was cancelled.
        #[arg(long)]
        here: bool,
        /// How the run is written.
        #[arg(short, long, value_enum, default_value_t = Output::Table)]
        output: Output,
    },
    /// Writes report.json and report.html of a run: steps, rows, figures, gates, lineage.
    Report {
        /// The run.
        run: String,
        /// Directory for both files, and for copies of the pages that the run's steps have made.
        #[arg(short, long, value_name = "DIR")]
        output: PathBuf,
    },
}

/// Runs the command.
pub(crate) async fn run(arguments: Arguments, context: &Context) -> anyhow::Result<ExitCode> {
    let store = open(context).await?;
    match arguments.action {
        Action::List { job, state, limit, output } => {
            let runs = store.runs(&Filter { job, state, limit }).await.map_err(usage)?;
            print(&match output {
                Output::Table => text::list(&runs),
                Output::Json => json_text(&runs)?,
            })
        }
        Action::Show { run, output } => {
            let run = store.run(&run).await.map_err(usage)?;
            show(&store, &run, output).await
        }
        Action::Logs { run, step, follow } => logs(context, &store, &run, step.as_deref(), follow).await,
        Action::Retry { run } => {
            let run = store.run(&run).await.map_err(usage)?;
            let run = store.retry(&run.id, now()).await.map_err(usage)?;
            print(&format!("{} waits; a daemon takes it up, or `uptake runs trigger` does with --here\n", run.id))
        }
        Action::Cancel { run, by } => {
            let by = by.or_else(|| std::env::var("USER").ok()).unwrap_or_else(|| "unknown".to_owned());
            let run = store.run(&run).await.map_err(usage)?;
            let run = store.cancel(&run.id, &by, now()).await.map_err(usage)?;
            let what = if run.state == RunState::Running { "is told to stop" } else { "is cancelled" };
            print(&format!("{} {what}\n", run.id))
        }
        Action::Trigger { job, here, output } => trigger(context, store, &job, here, output).await,
        Action::Report { run, output } => {
            let run = store.run(&run).await.map_err(usage)?;
            let steps = store.steps(&run.id).await.map_err(usage)?;
            report::write(&place(context, &run.id)?, &run, &steps, &output)?;
            print(&format!("the page is {}\n", output.join("report.html").display()))
        }
    }
}

async fn trigger(context: &Context, store: Store, job: &str, here: bool, output: Output) -> anyhow::Result<ExitCode> {
    let faults = context.settings.schedule.faults();
    if !faults.is_empty() {
        return Err(Usage(faults.join("\n       ")).into());
    }
    let job = context.settings.schedule.job(job)?;
    let new = NewRun { job, cause: Cause::Hand, reason: None, due_at: now(), key: None, missed: None };
    let run = store.add(&new, now()).await.map_err(usage)?;
    let run = run.ok_or_else(|| anyhow::anyhow!("the database took the run for one that it has"))?;
    if !here {
        return match output {
            Output::Table => print(&format!("{} waits for a daemon (`uptake schedule`)\n", run.id)),
            Output::Json => print(&json_text(&json!({"run": run, "steps": []}))?),
        };
    }
    let ended = here::execute(context, &store, &run).await?;
    let _ = show(&store, &ended, output).await?;
    Ok(match ended.state {
        RunState::Succeeded => ExitCode::SUCCESS,
        RunState::Refused => ExitCode::from(REFUSED),
        RunState::Cancelled | RunState::Queued | RunState::Running => ExitCode::from(STOPPED),
        RunState::Failed | RunState::Missed => ExitCode::FAILURE,
    })
}

async fn show(store: &Store, run: &Run, output: Output) -> anyhow::Result<ExitCode> {
    let mut steps = store.steps(&run.id).await.map_err(usage)?;
    print(&match output {
        Output::Table => text::run(run, &steps),
        Output::Json => {
            // The logs have a command of their own.
            for step in &mut steps {
                step.log = None;
            }
            json_text(&json!({"run": run, "steps": steps}))?
        }
    })
}

async fn logs(
    context: &Context,
    store: &Store,
    wanted: &str,
    step: Option<&str>,
    follow: bool,
) -> anyhow::Result<ExitCode> {
    let run = store.run(wanted).await.map_err(usage)?;
    if let Some(name) = step.filter(|name| run.plan.step(name).is_none()) {
        let names: Vec<&str> = run.plan.steps.iter().map(|step| step.name.as_str()).collect();
        return Err(Usage(format!("{} has no step `{name}`; it has {}", run.id, names.join(", "))).into());
    }
    let folder = place(context, &run.id)?.join("logs");
    let mut pause = tokio::time::interval(PAUSE);
    for planned in run.plan.steps.iter().filter(|planned| step.is_none_or(|name| name == planned.name)) {
        let file = folder.join(format!("{}.log", planned.name));
        let mut read = 0;
        loop {
            // The state is asked for before the log is read: what is written in between comes with the next look.
            let over = is_over(store, &run.id, &planned.name).await?;
            match Box::pin(from(&file, read)).await? {
                Some(text) => {
                    if read == 0 && !text.is_empty() && step.is_none() {
                        let _ = print(&format!("── {} ──\n", planned.name))?;
                    }
                    read += text.len() as u64;
                    std::io::stdout().lock().write_all(&text)?;
                }
                // Another machine ran it: its end is in the database.
                None if over.as_ref().is_some_and(|over| over.log.is_some()) => {
                    let log = over.as_ref().and_then(|over| over.log.clone()).unwrap_or_default();
                    let _ = print(&format!("── {} (the end of its log) ──\n{log}", planned.name))?;
                }
                None => {}
            }
            if over.is_some() || !follow {
                break;
            }
            let _ = pause.tick().await;
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// The step, where it has ended, or its run has.
async fn is_over(store: &Store, run: &str, step: &str) -> anyhow::Result<Option<StepRun>> {
    let run = store.run(run).await.map_err(usage)?;
    let steps = store.steps(&run.id).await.map_err(usage)?;
    let found = steps.into_iter().find(|found| found.step == step);
    Ok(match found {
        Some(found) if found.state != StepState::Running || run.state.ended() => Some(found),
        _ => None,
    })
}

/// What a file holds beyond `read` bytes; nothing where there is no such file.
async fn from(file: &std::path::Path, read: u64) -> anyhow::Result<Option<Vec<u8>>> {
    let mut file = match tokio::fs::File::open(file).await {
        Ok(file) => file,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(anyhow::Error::from(error).context(format!("read {}", file.display()))),
    };
    let _ = file.seek(std::io::SeekFrom::Start(read)).await?;
    let mut text = Vec::new();
    let _ = file.read_to_end(&mut text).await?;
    Ok(Some(text))
}

fn print(text: &str) -> anyhow::Result<ExitCode> {
    std::io::stdout().lock().write_all(text.as_bytes())?;
    Ok(ExitCode::SUCCESS)
}

fn json_text(value: &impl serde::Serialize) -> anyhow::Result<String> {
    Ok(serde_json::to_string_pretty(value)? + "\n")
}

fn now() -> uptake_schedule::Millis {
    chrono::Utc::now().timestamp_millis()
}
