//! Reading tables back as plain rows.

use arrow::array::{AsArray as _, RecordBatch};
use arrow::datatypes::{Int32Type, Int64Type};
use datafusion::prelude::SessionContext;
use uptake_lake::Lake;
use uptake_model::TableSpec;

/// Where a record came from: topic, partition, offset.
pub type Place = (String, i32, i64);

/// All rows of a table, the named columns only; none while the table does not exist.
///
/// # Panics
/// When the table cannot be read.
pub async fn read(lake: &Lake, spec: &'static TableSpec, columns: &[&str]) -> Vec<RecordBatch> {
    let Some(table) = lake.existing(spec).await.expect("open a table") else { return Vec::new() };
    let session = SessionContext::new();
    let frame = session.read_table(table.provider().await.expect("a provider")).expect("read a table");
    frame.select_columns(columns).expect("the columns").collect().await.expect("the rows")
}

/// The places of all records of a bronze table, sorted.
///
/// # Panics
/// When the table cannot be read.
pub async fn places(lake: &Lake, spec: &'static TableSpec) -> Vec<Place> {
    let mut places = Vec::new();
    for batch in read(lake, spec, &["topic", "partition", "offset"]).await {
        let topics = texts(&batch, 0);
        let partitions = batch.column(1).as_primitive::<Int32Type>();
        let offsets = batch.column(2).as_primitive::<Int64Type>();
        places
            .extend((0..batch.num_rows()).map(|row| (topics[row].clone(), partitions.value(row), offsets.value(row))));
    }
    places.sort();
    places
}

/// A text column of a batch, whatever its encoding; null becomes the empty text.
///
/// # Panics
/// When it is no text column.
pub fn texts(batch: &RecordBatch, column: usize) -> Vec<String> {
    let utf8 = arrow::compute::cast(batch.column(column), &arrow::datatypes::DataType::Utf8).expect("a text column");
    utf8.as_string::<i32>().iter().map(|text| text.unwrap_or_default().to_owned()).collect()
}
