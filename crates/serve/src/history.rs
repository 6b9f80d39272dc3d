//! `history('gold.preference_pairs')`: the versions of a table, newest first.

use std::sync::Arc;

use arrow::array::{ArrayRef, Int64Array, RecordBatch, StringArray, TimestampMicrosecondArray};
use arrow::datatypes::{DataType, Field, Schema, SchemaRef, TimeUnit};
use datafusion::catalog::TableProvider;
use datafusion::datasource::MemTable;
use uptake_lake::{Error, Lake};
use uptake_model::TableSpec;
use uptake_model::tables::utc;

/// Versions that are listed at most; the log is cleaned up long before.
const MOST: usize = 10_000;

fn schema() -> SchemaRef {
    Arc::new(Schema::new(vec![
        Field::new("version", DataType::Int64, false),
        Field::new("committed_at", DataType::Timestamp(TimeUnit::Microsecond, Some(utc())), true),
        Field::new("operation", DataType::Utf8, true),
        Field::new("info", DataType::Utf8, false),
    ]))
}

/// The history of a table as a table; empty when nothing was written.
pub(crate) async fn table(lake: &Lake, spec: &'static TableSpec) -> Result<Arc<dyn TableProvider>, Error> {
    let entries = match lake.existing(spec).await? {
        Some(table) => table.history(MOST).await?,
        None => Vec::new(),
    };
    let times: TimestampMicrosecondArray =
        entries.iter().map(|entry| entry.timestamp.map(|millis| millis.saturating_mul(1000))).collect();
    let operations: StringArray = entries.iter().map(|entry| entry.operation.as_deref()).collect();
    let columns: Vec<ArrayRef> = vec![
        Arc::new(Int64Array::from_iter_values(entries.iter().map(|entry| entry.version))),
        Arc::new(times.with_timezone("UTC")),
        Arc::new(operations),
        Arc::new(StringArray::from_iter_values(entries.iter().map(|entry| entry.info.to_string()))),
    ];
    let table = RecordBatch::try_new(schema(), columns)
        .map_err(datafusion::common::DataFusionError::from)
        .and_then(|batch| MemTable::try_new(schema(), vec![vec![batch]]))
        .map_err(|error| Error::Invalid(format!("the history of {spec} does not fit its columns: {error}")))?;
    Ok(Arc::new(table))
}
