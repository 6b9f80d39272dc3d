//! Runs pipelines: finds the days that changed, builds them, checks them, replaces them.
//!
//! The same exactly-once rule as from Kafka to bronze: an output stores, in the commit that holds the rows, the source
//! versions that they were made from. A run that is killed leaves whole days, old or new, and the old positions; the
//! next run does those days again, with the same bytes.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, PoisonError};
use std::time::Instant;

use tracing::Instrument as _;
use uptake_lake::{Advance, Changes, CommitRequest, Kind, Lake, Table};
use uptake_model::TableSpec;
use uptake_model::tables::EVENTS;
use uptake_model::time::{self, Day, Micros};

use crate::checks::Outcome;
use crate::error::{Error, Result};
use crate::functions::Tagging;
use crate::journal;
use crate::options::RunOptions;
use crate::pipeline::{Pipeline, Pipelines};
use crate::report::{Progress, RunReport, SourceVersion, Status};
use crate::rows;
use crate::session::{Session, empty};
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
    let order = pipelines.ordered(names)?;
    for pipeline in &order {
        let generation = pipeline.generation(tagger.version());
        let known = |planned: &BTreeSet<String>| planned.contains(&generation);
        if !known(&pipelines.planned.lock().unwrap_or_else(PoisonError::into_inner)) {
            Box::pin(check(pipeline, Arc::clone(&tagger))).await?;
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
    for pipeline in order {
        let job = Job { lake, pipeline, options, watermark, tagger: Arc::clone(&tagger) };
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

/// A table that the pipeline reads, with what is new in it.
struct Source {
    spec: &'static TableSpec,
    /// None where the lake does not hold it yet.
    table: Option<Table>,
    key: String,
    stored: Option<i64>,
    changes: Option<Changes>,
}

/// What is to be done.
struct Work {
    output: Table,
    sources: Vec<Source>,
    days: BTreeSet<Day>,
    generation: String,
    previous_watermark: Option<Micros>,
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

    /// Finds what has changed.
    async fn plan(&self, tagging: &Tagging, report: &mut RunReport) -> Result<Work> {
        let output = self.lake.table(self.pipeline.output).await.map_err(self.lake_error("open the output"))?;
        let generation = report.generation.clone();
        let watermark_key = watermark_key(&self.pipeline.name, &generation);
        let previous_watermark = output
            .position(&watermark_key)
            .await
            .map_err(self.lake_error("read the output's positions"))?
            .map(|millis| millis.saturating_mul(1_000));
        let mut sources = Vec::new();
        let mut full = self.options.full_rebuild.then(|| "asked for".to_owned());
        for spec in &self.pipeline.sources {
            let table = self.lake.existing(spec).await.map_err(self.lake_error("open a source"))?;
            let mut source = Source { spec, table, key: String::new(), stored: None, changes: None };
            if let Some(fault) = self.changes(&output, &generation, &mut source).await? {
                full = full.or(Some(fault));
            }
            if let Some(table) = &source.table {
                let version = SourceVersion { from: source.stored, to: table.version() };
                let _ = report.sources.insert(spec.qualified(), version);
            }
            sources.push(source);
        }
        // A source that this generation has not read: nothing was read yet, or the table was made anew.
        if sources.iter().any(|source| source.table.is_some() && source.stored.is_none()) {
            let earlier = output.positions(&format!("{}/", self.pipeline.name)).await;
            let earlier = earlier.map_err(self.lake_error("read the output's positions"))?;
            let reason = match (earlier.is_empty(), sources.iter().any(|source| source.stored.is_some())) {
                (true, _) => "first build",
                (false, true) => "a table that it reads is new",
                (false, false) => "its SQL, parameters or tagger changed",
            };
            full = full.or(Some(reason.to_owned()));
        }
        let mut work = Work { output, sources, days: BTreeSet::new(), generation, previous_watermark };
        work.days = if full.is_some() {
            Box::pin(self.all_days(&work, tagging)).await?
        } else {
            Box::pin(self.dirty_days(&work, tagging)).await?
        };
        report.full_rebuild = full.filter(|_| !work.days.is_empty());
        Ok(work)
    }

    /// Fills in what is new in a source. Says why where that cannot be told, so that everything is built anew.
    async fn changes(&self, output: &Table, generation: &str, source: &mut Source) -> Result<Option<String>> {
        let Some(table) = &source.table else { return Ok(None) };
        source.key = format!("{}/{}/{generation}", self.pipeline.name, table.table_id());
        let stored = output.position(&source.key).await;
        source.stored = stored.map_err(self.lake_error("read the output's positions"))?;
        if source.stored.is_none() {
            return Ok(None);
        }
        match table.changes_since(source.stored).await {
            Ok(changes) => {
                source.changes = Some(changes);
                Ok(None)
            }
            Err(error @ (uptake_lake::Error::LogGone { .. } | uptake_lake::Error::Rewritten { .. })) => {
                tracing::warn!(pipeline = self.pipeline.name, %error, "every day is built anew");
                Ok(Some(format!("what changed in {} can no longer be told", source.spec)))
            }
            Err(error) => Err(self.lake_error("read what changed in a source")(error)),
        }
    }

    /// A session over whole tables.
    async fn session(&self, work: &Work, tagging: &Tagging, days: Option<&[Day]>) -> Result<Session> {
        let failed = || self.query_error("prepare its tables");
        let literals = run_literals(self.pipeline, tagging, self.watermark, work.previous_watermark);
        let session = Session::new(self.pipeline, tagging, literals).map_err(failed())?;
        for source in &work.sources {
            let provider = match &source.table {
                Some(table) => Some(table.provider().await.map_err(self.lake_error("open a source"))?),
                None => None,
            };
            session.register_source(source.spec.layer.name(), source.spec, provider, days, None).map_err(failed())?;
        }
        let output = work.output.provider().await.map_err(self.lake_error("open the output"))?;
        session
            .register_source("previous", self.pipeline.output, Some(output), days, self.pipeline.slice.as_ref())
            .map_err(failed())?;
        Ok(session)
    }

    /// Every day that the sources or the output hold.
    async fn all_days(&self, work: &Work, tagging: &Tagging) -> Result<BTreeSet<Day>> {
        let session = self.session(work, tagging, None).await?;
        let mut days = BTreeSet::new();
        for source in work.sources.iter().filter(|source| source.spec.column("conversation_date").is_some()) {
            let found = session.days(source.spec.layer.name(), source.spec.name).await;
            days.extend(found.map_err(self.query_error("find the days of its tables"))?);
        }
        let found = session.days("previous", self.pipeline.output.name).await;
        days.extend(found.map_err(self.query_error("find the days of its tables"))?);
        Ok(days)
    }

    /// The days that changed files name, and those that `days.sql` adds.
    async fn dirty_days(&self, work: &Work, tagging: &Tagging) -> Result<BTreeSet<Day>> {
        let failed = || self.query_error("find the days that changed");
        let session = self.session(work, tagging, None).await?;
        let mut days = BTreeSet::new();
        for source in &work.sources {
            let provider = match (&source.table, &source.changes) {
                (Some(table), Some(changes)) if !changes.added.is_empty() => {
                    table.provider_of(&changes.added).map_err(self.lake_error("open what changed"))?
                }
                _ => empty(source.spec).map_err(failed())?,
            };
            session.register("changed", source.spec.name, provider).map_err(failed())?;
            match &source.changes {
                Some(changes) if source.spec.partition.contains(&"conversation_date") => days.extend(&changes.days),
                _ if source.spec.column("conversation_date").is_some() => {
                    days.extend(session.days("changed", source.spec.name).await.map_err(failed())?);
                }
                _ => {}
            }
        }
        if let Some(statement) = &self.pipeline.days {
            session.register_views(self.pipeline).await.map_err(failed())?;
            let more = session.frame(statement).await.map_err(failed())?.collect().await.map_err(failed())?;
            days.extend(crate::session::days_of(&more).map_err(failed())?);
        }
        Ok(days)
    }

    /// Builds the days in groups, and lets the positions move with the last one.
    async fn build(&self, work: Work, tagging: &Tagging, report: &mut RunReport) -> Result<()> {
        let days: Vec<Day> = work.days.iter().copied().collect();
        let groups: Vec<&[Day]> = days.chunks(self.options.days_per_commit.max(1)).collect();
        let mut done = 0;
        for (number, group) in groups.iter().enumerate() {
            let last = number + 1 == groups.len();
            let rows = Box::pin(self.rows(&work, tagging, group, number == 0, report)).await?;
            report.tagged = tagging.tagged();
            if report.broken_checks().next().is_some() {
                report.status = Status::Refused;
                return Ok(());
            }
            let request = self.request(&work, group, rows, last);
            let slice = self.pipeline.slice.as_ref().map(|(column, value)| (column.as_str(), value.as_str()));
            let committed = Box::pin(work.output.replace(group, slice, request)).await;
            let committed = committed.map_err(self.lake_error("replace the days that were built"))?;
            report.output_version = Some(committed.version());
            report.status = Status::Built;
            report.days.extend(group.iter().map(|day| time::day_text(*day)));
            done += group.len();
            (self.options.progress)(Progress::Days { done });
        }
        Box::pin(self.notes(&work, tagging, report)).await
    }

    /// The rows of some days, counted and checked.
    async fn rows(
        &self,
        work: &Work,
        tagging: &Tagging,
        days: &[Day],
        first: bool,
        report: &mut RunReport,
    ) -> Result<Vec<datafusion::arrow::array::RecordBatch>> {
        let failed = || self.query_error("build its rows");
        let session = self.session(work, tagging, Some(days)).await?;
        session.register_views(self.pipeline).await.map_err(failed())?;
        for source in &work.sources {
            let count = session.count(source.spec, first).await.map_err(failed())?;
            *report.rows_read.entry(source.spec.qualified()).or_default() += count;
        }
        let built = session.build(self.pipeline).await.map_err(failed())?.collect().await.map_err(failed())?;
        let rows = rows::shape(&built, self.pipeline.output, self.pipeline.slice.as_ref())
            .map_err(|error| self.query_error("bring its rows into the table's columns")(error.into()))?;
        report.candidates += rows.candidates as u64;
        for (reason, count) in rows.dropped {
            *report.dropped.entry(reason).or_default() += count;
        }
        report.checks.extend(rows.missing);
        if report.broken_checks().next().is_some() {
            return Ok(vec![]);
        }
        let batches: Vec<_> = rows.batch.into_iter().collect();
        let outcomes =
            self.pipeline.checks.run(&self.pipeline.name, self.pipeline.output, &batches, rows.candidates).await?;
        merge(&mut report.checks, outcomes);
        report.rows_out += batches.iter().map(|batch| batch.num_rows() as u64).sum::<u64>();
        Ok(batches)
    }

    fn request(
        &self,
        work: &Work,
        days: &[Day],
        batches: Vec<datafusion::arrow::array::RecordBatch>,
        last: bool,
    ) -> CommitRequest {
        let mut request = CommitRequest { batches, ..CommitRequest::default() };
        let days: Vec<String> = days.iter().map(|day| time::day_text(*day)).collect();
        let facts = [
            ("run_id", self.options.run_id.clone()),
            ("pipeline", self.pipeline.name.clone()),
            ("generation", work.generation.clone()),
            ("days", days.join(" ")),
        ];
        for (name, value) in facts {
            let _ = request.metadata.insert(name.to_owned(), value.into());
        }
        if !last {
            return request;
        }
        for source in &work.sources {
            let Some(table) = &source.table else { continue };
            if source.stored != Some(table.version()) {
                let (key, from, to) = (source.key.clone(), source.stored, table.version());
                request.advances.push(Advance { key, from, to });
            }
        }
        if let Some(watermark) = self.watermark {
            let key = watermark_key(&self.pipeline.name, &work.generation);
            request.watermarks.push((key, watermark.div_euclid(1_000)));
        }
        request
    }

    /// What `report.sql` counts, over whole tables as they are now.
    async fn notes(&self, work: &Work, tagging: &Tagging, report: &mut RunReport) -> Result<()> {
        let Some(statement) = &self.pipeline.report else { return Ok(()) };
        let failed = || self.query_error("count what waits");
        let session = self.session(work, tagging, None).await?;
        session.register_views(self.pipeline).await.map_err(failed())?;
        let found = session.frame(statement).await.map_err(failed())?.collect().await.map_err(failed())?;
        for batch in &found {
            for row in 0..batch.num_rows() {
                let show = |column: usize| {
                    datafusion::arrow::util::display::array_value_to_string(batch.column(column), row)
                        .unwrap_or_default()
                };
                if let Ok(count) = show(1).parse() {
                    let _ = report.notes.insert(show(0), count);
                }
            }
        }
        Ok(())
    }
}

/// The watermark's key has the lake's own prefix, so that it is only ever raised.
fn watermark_key(pipeline: &str, generation: &str) -> String {
    format!("watermark/jobs/{pipeline}/{generation}")
}

/// One line a check, whatever the number of groups.
fn merge(all: &mut Vec<Outcome>, more: Vec<Outcome>) {
    for outcome in more {
        match all.iter_mut().find(|known| known.check == outcome.check) {
            Some(known) => {
                known.offending += outcome.offending;
                known.holds &= outcome.holds;
                if known.message.is_empty() {
                    known.message = outcome.message;
                }
            }
            None => all.push(outcome),
        }
    }
}
