//! Tagging, the jobs, and publication.

use std::sync::Arc;

use anyhow::Context as _;
use uptake_jobs::{Progress, RunOptions};
use uptake_lake::Lake;
use uptake_lake::snapshot::{self, Manifest, Outcome, PublishRequest};
use uptake_sample::Log;

use super::stage::Stage;
use super::text;
use crate::commands;
use crate::context::Context;
use crate::telemetry::work;

/// Runs all pipelines. The log is complete up to its last record, and nothing else will come: that is the watermark.
pub(super) async fn run(context: &Context, lake: &Lake, log: &Log, seed: u64) -> anyhow::Result<()> {
    let pipelines = commands::run::pipelines(context)?;
    let tagger = commands::run::tagger(context).await?;
    let stage = Stage::begin(context.terminal, "tag and assemble", Some(pipelines.all().count()), "pipelines");
    let bar = stage.bar();
    let mut options = RunOptions::new(format!("demo-{seed}"), chrono::Utc::now().timestamp_micros());
    options.watermark = Some(log.complete_until);
    options.progress = Arc::new(move |progress| match progress {
        Progress::Started { pipeline, .. } => bar.set_message(pipeline),
        Progress::Tagged { done } => bar.set_message(format!("tag ({done} follow-ups)")),
        Progress::Ended { .. } => bar.inc(1),
        Progress::Days { .. } => {}
    });
    let reports = Box::pin(uptake_jobs::run(lake, &pipelines, &[], tagger, &options)).await?;
    work::record_reports(&reports);
    work::record_tables(lake).await?;
    let broken: Vec<String> = reports
        .iter()
        .flat_map(|report| {
            report.broken_checks().map(|check| format!("{}: {}: {}", report.pipeline, check.check, check.message))
        })
        .collect();
    anyhow::ensure!(broken.is_empty(), "checks did not hold: {}", broken.join("; "));
    let read: u64 = reports.iter().map(|report| report.tagged).sum();
    let written: u64 = reports.iter().map(|report| report.rows_out).sum();
    stage.done(&format!("{} follow-ups tagged, {} rows in silver and gold", text::count(read), text::count(written)));
    Ok(())
}

/// Publishes every gold table that has rows; gives the manifests, and why the others were left out.
pub(super) async fn publish(
    context: &Context,
    lake: &Lake,
    seed: u64,
) -> anyhow::Result<Vec<Result<Manifest, String>>> {
    let names = snapshot::publishable();
    let stage = Stage::begin(context.terminal, "publish", Some(names.len()), "snapshots");
    let mut published = Vec::new();
    for name in names {
        let request = PublishRequest {
            table: name.to_owned(),
            seed,
            tokenizer: uptake_jobs::TOKENIZER.to_owned(),
            ..PublishRequest::default()
        };
        match Box::pin(snapshot::publish(lake, &request)).await.with_context(|| format!("publish {name}"))? {
            Outcome::Published(manifest) | Outcome::AlreadyThere(manifest) => published.push(Ok(*manifest)),
            Outcome::Refused(reason) => published.push(Err(format!("{name}: {reason}"))),
            Outcome::Broken(report) => anyhow::bail!("the snapshot of {name} breaks a rule: {report:?}"),
        }
        stage.set(published.len() as u64);
    }
    let rows: u64 = published.iter().flatten().flat_map(|manifest| manifest.rows.values()).sum();
    let count = published.iter().filter(|snapshot| snapshot.is_ok()).count();
    stage.done(&format!("{count} snapshots with {} rows", text::count(rows)));
    Ok(published)
}
