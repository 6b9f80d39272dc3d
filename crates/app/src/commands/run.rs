//! `uptake run`: the pipelines, once.

use std::fmt::Write as _;
use std::io::Write as _;
use std::process::ExitCode;
use std::sync::{Arc, Mutex, PoisonError};

use anyhow::Context as _;
use indicatif::ProgressBar;
use uptake_jobs::{Pipelines, Progress, RunOptions, RunReport, Status, Tag};
use uptake_lake::Lake;
use uptake_model::tables::LABEL_RATES;
use uptake_model::time::{self, Micros};
use uptake_tagger::Tagger;
use uuid::Uuid;

use crate::commands::models;
use crate::context::{Context, Usage};
use crate::progress;
use crate::telemetry::work;

/// Exit code of a run in which a check refused a build.
const REFUSED: u8 = 3;

/// Builds the tables from what has come in: what changed since the last run, and no more.
///
/// A pipeline whose rows break one of its checks leaves its table as it was; the exit code is then 3.
#[derive(Debug, clap::Args)]
pub(crate) struct Run {
    /// Pipelines to run, with what they depend on; all when none is named.
    pipelines: Vec<String>,

    /// Build every day anew.
    #[arg(long)]
    full: bool,

    /// Print the reports as JSON, one a line.
    #[arg(long)]
    json: bool,

    /// Count conversations as settled by this time (RFC 3339) rather than by how far the topics have been read.
    #[arg(long, value_name = "TIME")]
    watermark: Option<String>,

    /// Days built at a time; fewer take less memory. All days of a table are shown together, whatever their number.
    #[arg(long, default_value_t = 16, value_name = "DAYS", value_parser = clap::value_parser!(u16).range(1..))]
    days_per_group: u16,
}

impl Run {
    /// Runs the command.
    pub(crate) async fn run(self, context: &Context) -> anyhow::Result<ExitCode> {
        run(self, context).await
    }
}

async fn run(arguments: Run, context: &Context) -> anyhow::Result<ExitCode> {
    let lake = context.lake()?;
    let pipelines = pipelines(context)?;
    let tagger = tagger(context).await?;
    let now = now();
    let mut options = RunOptions::new(Uuid::now_v7().to_string(), now);
    options.full_rebuild = arguments.full;
    options.days_per_group = usize::from(arguments.days_per_group);
    options.watermark = arguments.watermark.as_deref().map(watermark).transpose()?;
    let display = Display::new(context.terminal && !arguments.json);
    options.progress = display.callback();
    options.shadow = shadow(context).await?;
    let reports = Box::pin(uptake_jobs::run(&lake, &pipelines, &arguments.pipelines, tagger, &options)).await;
    display.finish();
    let reports = reports.map_err(usage)?;
    work::record_reports(&reports);
    work::record_tables(&lake).await?;
    let drifted = drifted(&lake, &reports).await?;
    let mut out = std::io::stdout().lock();
    if arguments.json {
        for report in &reports {
            writeln!(out, "{}", serde_json::to_string(report)?)?;
        }
    } else {
        write!(out, "{}", summary(&reports))?;
        for rate in &drifted {
            writeln!(out, "label_rates: ALARM: {}", rate.sentence())?;
        }
    }
    let refused = reports.iter().any(|report| report.status == Status::Refused);
    Ok(if refused { ExitCode::from(REFUSED) } else { ExitCode::SUCCESS })
}

/// The pipelines of the settings, or those that the program carries.
pub(crate) fn pipelines(context: &Context) -> anyhow::Result<Pipelines> {
    match &context.settings.pipelines {
        Some(directory) => Pipelines::from_directory(directory).map_err(usage),
        None => Ok(Pipelines::embedded()?),
    }
}

/// Label rates that left their history, on days that this run has built: told in the log, counted for who watches.
async fn drifted(lake: &Lake, reports: &[RunReport]) -> anyhow::Result<Vec<models::Rate>> {
    let days = reports.iter().filter(|report| report.output == LABEL_RATES.qualified()).flat_map(|report| &report.days);
    let days: Vec<String> = days.cloned().collect();
    if days.is_empty() {
        return Ok(Vec::new());
    }
    let alarms = models::alarms(lake.clone(), &days).await.context("hold label rates against their history")?;
    for alarm in &alarms {
        tracing::warn!(
            label = alarm.cell("label"),
            day = alarm.cell("conversation_date"),
            tagger = alarm.cell("tagger_id"),
            rate = alarm.cell("rate"),
            before = alarm.cell("history_rate"),
            z = alarm.cell("z"),
            "a label's rate left its history"
        );
    }
    work::record_alarms(alarms.len());
    Ok(alarms)
}

/// The tagger on trial, where the settings name one.
pub(crate) async fn shadow(context: &Context) -> anyhow::Result<Option<Arc<dyn Tag>>> {
    let Some(directory) = models::shadow_tagger(context).await? else { return Ok(None) };
    let tagger = tokio::task::spawn_blocking(move || Tagger::open(&directory, uptake_tagger::Options::default()))
        .await?
        .context("load the tagger on trial (shadow_tagger)")?;
    tracing::info!(tagger = tagger.version(), "a tagger on trial reads into silver.signals_shadow");
    Ok(Some(Arc::new(work::Metered::new(tagger))))
}

/// The tagger of the settings, or the one that the program carries; loaded off the async threads.
pub(crate) async fn tagger(context: &Context) -> anyhow::Result<Arc<dyn Tag>> {
    let directory = match &context.settings.tagger {
        Some(directory) => Some(directory.clone()),
        None => models::production_tagger(context).await?,
    };
    let tagger = tokio::task::spawn_blocking(move || match directory {
        Some(directory) => Tagger::open(&directory, uptake_tagger::Options::default()),
        None => Tagger::embedded(uptake_tagger::Options::default()),
    })
    .await?
    .context("load the tagger")?;
    Ok(Arc::new(work::Metered::new(tagger)))
}

fn now() -> Micros {
    chrono::Utc::now().timestamp_micros()
}

fn watermark(text: &str) -> anyhow::Result<Micros> {
    let time = time::parse(&serde_json::Value::from(text)).map_err(|fault| Usage(format!("--watermark: {fault}")))?;
    Ok(time)
}

/// What the user gave wrong is a matter of usage.
fn usage(error: uptake_jobs::Error) -> anyhow::Error {
    match error.kind() {
        uptake_jobs::ErrorKind::Invalid => Usage(error.to_string()).into(),
        _ => error.into(),
    }
}

/// The pipelines' progress on a terminal.
#[derive(Clone)]
pub(crate) struct Display {
    terminal: bool,
    shown: Arc<Mutex<Shown>>,
}

#[derive(Default)]
struct Shown {
    bar: Option<ProgressBar>,
    tagged: u64,
    name: String,
}

impl Display {
    /// Draws on standard error if that is a terminal.
    pub(crate) fn new(terminal: bool) -> Self {
        Self { terminal, shown: Arc::default() }
    }

    /// What the jobs tell.
    pub(crate) fn callback(&self) -> Arc<dyn Fn(Progress) + Send + Sync> {
        let display = self.clone();
        Arc::new(move |progress| display.show(progress))
    }

    /// Clears what stands on the terminal.
    pub(crate) fn finish(&self) {
        let mut shown = self.shown.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(bar) = shown.bar.take() {
            bar.finish_and_clear();
        }
    }

    fn show(&self, progress: Progress) {
        let mut shown = self.shown.lock().unwrap_or_else(PoisonError::into_inner);
        match progress {
            Progress::Started { pipeline, days } => {
                let bar = progress::bar(self.terminal, Some(days as u64), "days");
                bar.set_message(pipeline.clone());
                *shown = Shown { bar: Some(bar), tagged: 0, name: pipeline };
            }
            Progress::Days { done } => {
                if let Some(bar) = &shown.bar {
                    bar.set_position(done as u64);
                }
            }
            Progress::Tagged { done } => {
                shown.tagged = done;
                if let Some(bar) = &shown.bar {
                    let rate = done as f64 / bar.elapsed().as_secs_f64().max(1e-3);
                    bar.set_message(format!("{}: {done} tagged, {rate:.0}/s", shown.name));
                }
            }
            Progress::Ended { pipeline, status } => {
                if let Some(bar) = shown.bar.take() {
                    bar.finish_and_clear();
                }
                if status == Status::Built {
                    tracing::debug!(pipeline, "built");
                }
            }
        }
    }
}

/// The reports as a table, and below it what did not come through and what was refused.
pub(crate) fn summary(reports: &[RunReport]) -> String {
    let mut rows =
        vec![["pipeline", "table", "status", "days", "in", "candidates", "out", "seconds"].map(str::to_owned)];
    for report in reports {
        rows.push([
            report.pipeline.clone(),
            report.output.clone(),
            report.status.name().to_owned(),
            report.days.len().to_string(),
            report.rows_in().to_string(),
            report.candidates.to_string(),
            report.rows_out.to_string(),
            format!("{:.1}", report.seconds),
        ]);
    }
    let mut text = aligned(&rows);
    for report in reports {
        let dropped = counts(&report.dropped);
        if !dropped.is_empty() {
            let _ = writeln!(text, "{}: not taken: {dropped}", report.pipeline);
        }
        let notes = counts(&report.notes);
        if !notes.is_empty() {
            let _ = writeln!(text, "{}: {notes}", report.pipeline);
        }
        if let Some(reason) = report.full_rebuild.as_ref().filter(|reason| *reason != "first build") {
            let _ = writeln!(text, "{}: every day was built anew: {reason}", report.pipeline);
        }
        for check in report.broken_checks() {
            let _ = writeln!(
                text,
                "{}: REFUSED by the check \"{}\": {}; {} stands as it was",
                report.pipeline, check.check, check.message, report.output
            );
        }
    }
    text
}

fn counts(counts: &std::collections::BTreeMap<String, u64>) -> String {
    counts.iter().map(|(name, count)| format!("{name} {count}")).collect::<Vec<_>>().join(", ")
}

/// Columns under each other: words to the left, numbers to the right.
fn aligned<const N: usize>(rows: &[[String; N]]) -> String {
    let width = |column: usize| rows.iter().map(|row| row[column].chars().count()).max().unwrap_or(0);
    let widths: [usize; N] = std::array::from_fn(width);
    let mut text = String::new();
    for row in rows {
        let cells = row.iter().zip(widths).enumerate().map(|(column, (cell, width))| {
            if column < 3 { format!("{cell:<width$}") } else { format!("{cell:>width$}") }
        });
        let line = cells.collect::<Vec<_>>().join("  ");
        text.push_str(line.trim_end());
        text.push('\n');
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_stand_under_each_other() {
        let rows = [["a", "b", "c", "1"], ["aa", "b", "ccc", "22"]].map(|row| row.map(str::to_owned));
        assert_eq!(aligned(&rows), "a   b  c     1\naa  b  ccc  22\n");
    }

    #[test]
    fn a_watermark_is_a_time() {
        assert_eq!(watermark("2026-01-01T00:00:00Z").unwrap(), 1_767_225_600_000_000);
        assert!(watermark("soon").unwrap_err().to_string().contains("--watermark"));
    }
}
