//! Instruments of what the library crates do without a meter of their own: jobs, the tagger, the state of tables.

use std::time::Instant;

use opentelemetry::metrics::Histogram;
use opentelemetry::{KeyValue, global};
use uptake_jobs::{RunReport, Scored, Tag};
use uptake_lake::Lake;
use uptake_model::tables;
use uptake_schedule::Observer;
use uptake_tagger::Exchange;

/// Files smaller than this are counted as small: too many of them make every reader slow.
const SMALL_FILE: u64 = 32 << 20;

/// A tagger whose batches are measured.
#[derive(Debug)]
pub(crate) struct Metered<T> {
    tagger: T,
    rows: Histogram<u64>,
    seconds: Histogram<f64>,
}

impl<T: Tag> Metered<T> {
    /// Measures the batches of `tagger`.
    pub(crate) fn new(tagger: T) -> Self {
        let meter = global::meter("uptake.tagger");
        Self {
            tagger,
            rows: meter.u64_histogram("tagger_batch_rows").build(),
            seconds: meter.f64_histogram("tagger_batch_seconds").build(),
        }
    }
}

impl<T: Tag> Tag for Metered<T> {
    fn version(&self) -> &str {
        self.tagger.version()
    }

    fn tag(&self, exchanges: &[Exchange<'_>]) -> Result<Vec<Scored>, String> {
        let started = Instant::now();
        let scored = self.tagger.tag(exchanges)?;
        self.rows.record(exchanges.len() as u64, &[]);
        self.seconds.record(started.elapsed().as_secs_f64(), &[]);
        Ok(scored)
    }
}

/// Counts how the scheduler's runs end, and how long they took.
pub(crate) fn observe_runs() -> Observer {
    let meter = global::meter("uptake.schedule");
    let runs = meter.u64_counter("schedule_runs_total").build();
    let seconds = meter.f64_histogram("schedule_run_seconds").build();
    Observer::new(move |run, state, took| {
        let job = KeyValue::new("job", run.job.clone());
        runs.add(1, &[job.clone(), KeyValue::new("state", state.name())]);
        if state.ended() {
            seconds.record(took, &[job]);
        }
    })
}

/// What jobs did.
pub(crate) fn record_reports(reports: &[RunReport]) {
    let meter = global::meter("uptake.jobs");
    let rows = meter.u64_counter("job_rows_total").build();
    let dropped = meter.u64_counter("job_dropped_rows_total").build();
    let seconds = meter.f64_histogram("job_seconds").build();
    for report in reports {
        let job = KeyValue::new("job", report.pipeline.clone());
        rows.add(report.rows_out, &[job.clone(), KeyValue::new("table", report.output.clone())]);
        for (reason, count) in &report.dropped {
            dropped.add(*count, &[job.clone(), KeyValue::new("reason", reason.clone())]);
        }
        seconds.record(report.seconds, &[job, KeyValue::new("status", report.status.name())]);
    }
}

/// Label rates that left their history in the days of the latest run.
pub(crate) fn record_alarms(count: usize) {
    global::meter("uptake.jobs").u64_gauge("label_rate_alarms").build().record(count as u64, &[]);
}

/// How the tables stand.
///
/// # Errors
/// What the store says.
pub(crate) async fn record_tables(lake: &Lake) -> Result<(), uptake_lake::Error> {
    let meter = global::meter("uptake.lake");
    let files = meter.u64_gauge("table_files").build();
    let small = meter.u64_gauge("table_small_files").build();
    let version = meter.i64_gauge("table_version").build();
    for spec in tables::ALL {
        let Some(table) = lake.existing(spec).await? else { continue };
        let label = [KeyValue::new("table", spec.qualified())];
        let live = table.files();
        files.record(live.len() as u64, &label);
        small.record(live.iter().filter(|file| file.size < SMALL_FILE).count() as u64, &label);
        version.record(table.version(), &label);
    }
    Ok(())
}
