//! Reports of runs as rows of `control.job_runs`.

use std::error::Error as _;
use std::sync::Arc;

use datafusion::arrow::array::{ArrayRef, Int64Array, RecordBatch, StringArray, TimestampMicrosecondArray};
use uptake_lake::{CommitRequest, Lake};
use uptake_model::tables::{JOB_RUNS, utc};

use crate::error::{Error, Result};
use crate::report::RunReport;

/// Appends a report.
pub(crate) async fn append(lake: &Lake, report: &RunReport) -> Result<()> {
    let batch = batch(report).map_err(|error| Error::Bug(format!("make a row of control.job_runs: {error}")))?;
    let table = lake.table(&JOB_RUNS).await.map_err(Error::lake("open control.job_runs"))?;
    let request = CommitRequest { batches: vec![batch], ..CommitRequest::default() };
    let _ = table.append(request).await.map_err(Error::lake("append to control.job_runs"))?;
    Ok(())
}

fn batch(report: &RunReport) -> std::result::Result<RecordBatch, datafusion::arrow::error::ArrowError> {
    let text = |value: &str| -> ArrayRef { Arc::new(StringArray::from(vec![value.to_owned()])) };
    let long = |value: Option<i64>| -> ArrayRef { Arc::new(Int64Array::from(vec![value])) };
    let count = |value: u64| long(Some(i64::try_from(value).unwrap_or(i64::MAX)));
    let time = |value: i64| -> ArrayRef { Arc::new(TimestampMicrosecondArray::from(vec![value]).with_timezone(utc())) };
    #[expect(clippy::cast_possible_truncation, reason = "a run takes fewer than 300,000 years")]
    let micros = (report.seconds * 1e6) as i64;
    let json = serde_json::to_string(report).unwrap_or_default();
    RecordBatch::try_new(
        JOB_RUNS.schema(),
        vec![
            text(&report.run_id),
            text(&report.pipeline),
            text(&report.output),
            text(report.status.name()),
            time(report.started_at),
            time(report.started_at.saturating_add(micros)),
            long(report.output_version),
            count(report.rows_in()),
            count(report.rows_out),
            text(&json),
        ],
    )
}

/// An error with its causes, in one line.
pub(crate) fn chain(error: &Error) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(cause) = next {
        text.push_str(": ");
        text.push_str(&cause.to_string());
        next = cause.source();
    }
    text
}
