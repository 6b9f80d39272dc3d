//! `uptake schedule`: the daemon that runs the jobs of the settings when they are due.

use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;

use anyhow::Context as _;
use async_trait::async_trait;
use futures::TryStreamExt as _;
use serde_json::json;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;
use uptake_lake::Lake;
use uptake_schedule::{Ask, Error, ErrorKind, Execution, Options, Scheduler, Store, SystemClock};
use uptake_serve::Session;

use crate::context::{Context, Usage};
use crate::telemetry::health::Finding;
use crate::telemetry::work;

/// Folder of the lake that says which scheduler is its own.
const OWNER: &str = "control/schedule";

/// Runs the jobs of the settings when they are due: at the times of their cron lines, and when a condition on the data holds.
///
/// Several daemons may share one database (Postgres): each run is made once, and runs once at a time per lock. A daemon that is
/// killed is followed by another, or by itself, at the step where it was. SIGTERM stops the steps under way, which are taken up
/// by whoever comes next.
#[derive(Debug, clap::Args)]
pub(crate) struct Schedule {
    /// Take the lake over from another scheduler's database, which must not schedule it any more.
    #[arg(long)]
    take_over: bool,
}

impl Schedule {
    /// Runs the command.
    pub(crate) async fn run(self, context: &Context) -> anyhow::Result<ExitCode> {
        let settings = &context.settings.schedule;
        if settings.jobs.is_empty() {
            return Err(
                Usage("there is nothing to schedule: add a [[schedule.jobs]] to the settings".to_owned()).into()
            );
        }
        let faults = settings.faults();
        if !faults.is_empty() {
            return Err(Usage(faults.join("\n       ")).into());
        }
        let lake = context.lake()?;
        let store = open(context).await?;
        own(&lake, store.id(), self.take_over).await?;
        let (stop, stopped) = watch::channel(false);
        let execution = execution(context, store, stopped)?;
        let options = Options {
            worker: worker(),
            poll: settings.poll,
            ask_every: settings.ask_every,
            concurrency: settings.concurrency,
        };
        let ask = Arc::new(Tables(lake));
        let scheduler = Scheduler::new(settings.jobs.clone(), execution, ask, options).map_err(usage)?;
        context.health.register(
            "schedule",
            || Finding::new(true, "the scheduler runs"),
            || Finding::new(true, "the scheduler has its database"),
        );
        tracing::info!(jobs = settings.jobs.len(), "the scheduler is ready");
        let mut terminated = signal(SignalKind::terminate()).context("listen for SIGTERM")?;
        let mut interrupted = signal(SignalKind::interrupt()).context("listen for SIGINT")?;
        let mut running = tokio::spawn(Arc::new(scheduler).run());
        tokio::select! {
            ended = &mut running => ended?.map_err(usage)?,
            _ = terminated.recv() => {}
            _ = interrupted.recv() => {}
        }
        if !running.is_finished() {
            tracing::info!("the scheduler stops; steps under way are told to end");
            let _ = stop.send_replace(true);
            running.await?.map_err(usage)?;
        }
        Ok(ExitCode::SUCCESS)
    }
}

/// The database of the settings.
pub(super) async fn open(context: &Context) -> anyhow::Result<Store> {
    Store::open(&context.settings.schedule.state()?).await.map_err(usage)
}

/// How steps are run: by this program, with the lake and the settings of this command.
pub(super) fn execution(context: &Context, store: Store, stop: watch::Receiver<bool>) -> anyhow::Result<Execution> {
    let mut arguments = Vec::new();
    if let Some(config) = &context.config {
        let config = std::path::absolute(config).context("find the settings")?;
        arguments.extend(["--config".to_owned(), config.to_string_lossy().into_owned()]);
    }
    if let Some(lake) = &context.settings.lake {
        arguments.extend(["--lake".to_owned(), absolute(lake)?]);
    }
    Ok(Execution {
        store,
        clock: Arc::new(SystemClock),
        program: program()?,
        arguments,
        environment: Vec::new(),
        directory: context.settings.schedule.directory()?,
        lease: context.settings.schedule.lease,
        stop,
        observer: work::observe_runs(),
    })
}

/// This program. After an upgrade in place Linux calls the old file `… (deleted)`: steps are then done by the new one.
fn program() -> anyhow::Result<PathBuf> {
    let program = std::env::current_exe().context("find this program")?;
    let name = program.to_string_lossy();
    Ok(name.strip_suffix(" (deleted)").filter(|_| !program.exists()).map_or_else(|| program.clone(), PathBuf::from))
}

/// A lake as steps find it, which run in directories of their own.
fn absolute(lake: &str) -> anyhow::Result<String> {
    if lake.contains("://") {
        return Ok(lake.to_owned());
    }
    Ok(std::path::absolute(lake).context("find the lake")?.to_string_lossy().into_owned())
}

/// The name of this process among the workers.
pub(super) fn worker() -> String {
    let machine = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_else(|_| "unknown".to_owned());
    format!("{}/{}", machine.trim().replace('/', "-"), std::process::id())
}

/// What the user gave wrong is a matter of usage.
pub(super) fn usage(error: Error) -> anyhow::Error {
    match error.kind() {
        ErrorKind::Invalid => Usage(error.to_string()).into(),
        _ => error.into(),
    }
}

/// Two databases that schedule one lake know nothing of each other: the lake says which one is its own. Like the history of
/// models, the last line holds, and a line is never overwritten.
async fn own(lake: &Lake, id: &str, take_over: bool) -> anyhow::Result<()> {
    let lines = lake.objects(OWNER).await?;
    let number = lines.len() + 1;
    if let Some((path, _)) = lines.last() {
        let bytes = lake.object(path).await?.unwrap_or_default();
        let owner: serde_json::Value = serde_json::from_slice(&bytes).with_context(|| format!("read {path}"))?;
        if owner["state"] == id {
            return Ok(());
        }
        if !take_over {
            return Err(Usage(format!(
                "another scheduler, with a database of its own, schedules this lake since {}: let both use one Postgres \
                 (schedule.state), or stop that one and start this one with --take-over",
                owner["since"].as_str().unwrap_or("some time")
            ))
            .into());
        }
    }
    let line = json!({"state": id, "since": chrono::Utc::now().to_rfc3339(), "by": worker()});
    let path = format!("{OWNER}/{number:012}.json");
    if lake.create_object(&path, serde_json::to_vec_pretty(&line)?.into()).await? {
        return Ok(());
    }
    // Another one was faster: perhaps a replica with the same database.
    Box::pin(own(lake, id, false)).await
}

/// Conditions are asked of the tables.
#[derive(Debug)]
struct Tables(Lake);

#[async_trait]
impl Ask for Tables {
    async fn ask(&self, query: &str) -> Result<String, String> {
        let answer = async {
            let session = Session::open(self.0.clone(), &uptake_serve::Options::default())?;
            let batches: Vec<_> = session.query(query).await?.rows.try_collect().await?;
            let Some(batch) = batches.iter().find(|batch| batch.num_rows() > 0 && batch.num_columns() > 0) else {
                return Ok(String::new());
            };
            anyhow::Ok(arrow::util::display::array_value_to_string(batch.column(0), 0)?)
        };
        answer.await.map_err(|error| format!("{error:#}"))
    }
}

/// What a run left, for a person to look at.
pub(super) fn place(context: &Context, run: &str) -> anyhow::Result<PathBuf> {
    Ok(context.settings.schedule.directory()?.join(run))
}
