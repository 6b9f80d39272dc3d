//! Runs pipelines: finds the days that changed, builds them, checks them, replaces them.
//!
//! The same exactly-once rule as from Kafka to bronze: an output stores, in the commit that holds the rows, the source
//! versions that they were made from. A run that is killed leaves whole days, old or new, and the old positions; the
//! next run does those days again, with the same bytes.

mod build;
mod plan;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, PoisonError};
use std::time::Instant;

use tracing::Instrument as _;
use uptake_lake::{Kind, Lake};
use uptake_model::tables::EVENTS;
use uptake_model::time::{self, Micros};

use crate::error::{Error, Result};
use crate::functions::Tagging;
use crate::journal;
use crate::options::RunOptions;
use crate::pipeline::{Pipeline, Pipelines};
use crate::reader::Reader;
use crate::report::{Progress, RunReport, Status};
use crate::rows;
use crate::session::Session;
use crate::statement::{Literals, quoted, time_literal};
use crate::tag::Tag;

/// How often a pipeline is begun again when another writer came in between.
const ATTEMPTS: usize = 3;

/// Runs the named pipelines and what they depend on; all when none is named. Every run of a pipeline is appended to
/// `control.job_runs`.
///
/// A pipeline whose rows are refused by a check leaves its table as it was; the others go on, from that table.
///
/// # Errors
/// [`Error::Unknown`], [`Error::Pipeline`] before anything is written; the first error of a pipeline afterwards, which
/// is in `control.job_runs` as well.
pub async fn run(
    lake: &Lake,
    pipelines: &Pipelines,
    names: &[String],
    tagger: Arc<dyn Tag>,
    options: &RunOptions,
) -> Result<Vec<RunReport>> {
    let order = with_taggers(pipelines.ordered(names)?, names, &tagger, options)?;
    for (pipeline, tagger) in &order {
        let generation = pipeline.generation(tagger.version());
        let known = |planned: &BTreeSet<String>| planned.contains(&generation);
        if !known(&pipelines.planned.lock().unwrap_or_else(PoisonError::into_inner)) {
            Box::pin(check(pipeline, Arc::clone(tagger))).await?;
            let _ = pipelines.planned.lock().unwrap_or_else(PoisonError::into_inner).insert(generation);
        }
    }
    let watermark = match options.watermark {
        Some(watermark) => Some(watermark),
        None => watermark_of(lake, options.now).await?,
    };
    // Milliseconds are what the positions hold: what is compared is what will be stored.
    let watermark = watermark.map(|watermark| watermark.div_euclid(1_000).saturating_mul(1_000));
    let mut reports = Vec::new();
    for (pipeline, tagger) in order {
        let job = Job { lake, pipeline, options, watermark, tagger };
        let started = Instant::now();
        let mut report = job.empty_report();
        let span = tracing::info_span!("job", pipeline = pipeline.name);
        let outcome = Box::pin(job.run_again_on_conflict(&mut report)).instrument(span).await;
        report.seconds = started.elapsed().as_secs_f64();
        if let Err(error) = &outcome {
            report.status = Status::Failed;
            report.error = Some(journal::chain(error));
        }
        if report.status != Status::Unchanged {
            let written = journal::append(lake, &report).await;
            match (&outcome, written) {
                (Ok(()), written) => written?,
                // The first error is the one to tell.
                (Err(_), Err(error)) => tracing::warn!(%error, "the failed run is not in control.job_runs"),
                (Err(_), Ok(())) => {}
            }
        }
        tracing::info!(
            pipeline = report.pipeline,
            status = report.status.name(),
            days = report.days.len(),
            rows_in = report.rows_in(),
            rows_out = report.rows_out,
            seconds = report.seconds,
            "pipeline ended"
        );
        (options.progress)(Progress::Ended { pipeline: pipeline.name.clone(), status: report.status });
        reports.push(report);
        outcome?;
    }
    Ok(reports)
}

/// Each pipeline with the tagger that it reads with. Without a tagger on trial, pipelines that read with one do not run.
fn with_taggers<'a>(
    order: Vec<&'a Pipeline>,
    names: &[String],
    tagger: &Arc<dyn Tag>,
    options: &RunOptions,
) -> Result<Vec<(&'a Pipeline, Arc<dyn Tag>)>> {
    let mut with = Vec::with_capacity(order.len());
    for pipeline in order {
        match (pipeline.tagger, &options.shadow) {
            (Reader::Shadow, Some(shadow)) => with.push((pipeline, Arc::clone(shadow))),
            (Reader::Shadow, None) if names.contains(&pipeline.name) => {
                return Err(Error::pipeline(
                    &pipeline.name,
                    "it reads with a tagger on trial, and none is named: set `shadow_tagger`",
                ));
            }
            (Reader::Shadow, None) => {}
            (Reader::None | Reader::InUse, _) => with.push((pipeline, Arc::clone(tagger))),
        }
    }
    Ok(with)
}

/// Whether a pipeline's SQL can be planned over its tables and gives the columns of its output.
///
/// # Errors
/// [`Error::Pipeline`] that names the column, [`Error::Query`] with what the engine said.
pub async fn check(pipeline: &Pipeline, tagger: Arc<dyn Tag>) -> Result<()> {
    let tagging = Tagging::new(tagger, Arc::new(|_| ()));
    let literals = run_literals(pipeline, &tagging, Some(0), Some(0));
    let failed = || Error::query(&pipeline.name, "plan its SQL");
    let session = Session::new(pipeline, &tagging, literals).map_err(failed())?;
    for spec in &pipeline.sources {
        session.register_source(spec.layer.name(), spec, None, None, None).map_err(failed())?;
        session.register_source("changed", spec, None, None, None).map_err(failed())?;
    }
    session.register_source("previous", pipeline.output, None, None, None).map_err(failed())?;
    session.register_views(pipeline).await.map_err(failed())?;
    let built = session.build(pipeline).await.map_err(failed())?;
    rows::check_columns(built.schema().as_arrow(), pipeline.output, pipeline.slice.as_ref())
        .map_err(|fault| Error::pipeline(&pipeline.name, fault))?;
    for statement in [&pipeline.days, &pipeline.report].into_iter().flatten() {
        let _ = session.frame(statement).await.map_err(failed())?;
    }
    Ok(())
}

/// Up to when events are complete: what the lake's readers say; where all of them are files, which nothing is added
/// to, the clock.
async fn watermark_of(lake: &Lake, now: Micros) -> Result<Option<Micros>> {
    let action = || Error::lake("read the watermarks of bronze.events");
    let Some(events) = lake.existing(&EVENTS).await.map_err(action())? else { return Ok(None) };
    let sources = events.positions("watermark/").await.map_err(action())?;
    if !sources.is_empty() && sources.iter().all(|(key, _)| key.starts_with("watermark/file:")) {
        return Ok(Some(now));
    }
    lake.watermark().await.map_err(action())
}

fn run_literals(
    pipeline: &Pipeline,
    tagging: &Tagging,
    watermark: Option<Micros>,
    previous: Option<Micros>,
) -> Literals {
    let mut literals = pipeline.literals.clone();
    let _ = literals.insert("tagger_id".to_owned(), quoted(tagging.version()));
    let _ = literals.insert("watermark".to_owned(), time_literal(watermark));
    let _ = literals.insert("previous_watermark".to_owned(), time_literal(previous));
    literals
}

/// One pipeline in one run.
struct Job<'a> {
    lake: &'a Lake,
    pipeline: &'a Pipeline,
    options: &'a RunOptions,
    watermark: Option<Micros>,
    tagger: Arc<dyn Tag>,
}

impl Job<'_> {
    fn lake_error(&self, action: &str) -> impl FnOnce(uptake_lake::Error) -> Error + use<> {
        Error::lake(format!("pipeline `{}`: {action}", self.pipeline.name))
    }

    fn query_error(&self, action: &'static str) -> impl FnOnce(datafusion::error::DataFusionError) -> Error + use<> {
        Error::query(&self.pipeline.name, action)
    }

    fn empty_report(&self) -> RunReport {
        RunReport {
            run_id: self.options.run_id.clone(),
            pipeline: self.pipeline.name.clone(),
            output: self.pipeline.output.qualified(),
            status: Status::Unchanged,
            started_at: self.options.now,
            seconds: 0.0,
            generation: self.pipeline.generation(self.tagger.version()),
            full_rebuild: None,
            sources: BTreeMap::new(),
            days: vec![],
            rows_read: BTreeMap::new(),
            candidates: 0,
            rows_out: 0,
            dropped: BTreeMap::new(),
            notes: BTreeMap::new(),
            tagged: 0,
            checks: vec![],
            output_version: None,
            watermark: self.watermark.map(time::time_text),
            error: None,
        }
    }

    async fn run_again_on_conflict(&self, report: &mut RunReport) -> Result<()> {
        let mut attempt = 1;
        loop {
            *report = self.empty_report();
            match Box::pin(self.run(report)).await {
                Err(Error::Lake { source, .. }) if source.kind() == Kind::Conflict && attempt < ATTEMPTS => {
                    tracing::info!(pipeline = self.pipeline.name, %source, "begun again: another writer came in between");
                    attempt += 1;
                }
                outcome => return outcome,
            }
        }
    }

    async fn run(&self, report: &mut RunReport) -> Result<()> {
        let watch = Arc::clone(&self.options.progress);
        let tagging = Tagging::new(Arc::clone(&self.tagger), Arc::new(move |done| watch(Progress::Tagged { done })));
        let work = Box::pin(self.plan(&tagging, report)).await?;
        let started = Progress::Started { pipeline: self.pipeline.name.clone(), days: work.days.len() };
        (self.options.progress)(started);
        report.output_version = Some(work.output.version());
        if work.days.is_empty() {
            return Ok(());
        }
        Box::pin(self.build(work, &tagging, report)).await
    }
}
