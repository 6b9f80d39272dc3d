//! The data files of a directory, whoever wrote it, read as rows of JSON values.
//!
//! Rules about rows are the same for Parquet and JSON lines; reading both as JSON values keeps them in one place. Only the
//! columns that rules look at are converted. Memory is bounded by a batch of a Parquet file, or a line of a text file.

use std::sync::Arc;

use arrow::array::RecordBatch;
use arrow::datatypes::{DataType, FieldRef, SchemaRef};
use arrow::json::WriterBuilder;
use arrow::json::writer::JsonArray;
use futures::StreamExt;
use object_store::buffered::BufReader;
use object_store::{ObjectMeta, ObjectStore};
use parquet::arrow::async_reader::{ParquetRecordBatchStream, ParquetRecordBatchStreamBuilder};
use serde_json::{Map, Value};
use tokio::io::{AsyncBufReadExt, Lines};

/// A row.
pub(super) type Row = Map<String, Value>;

/// The format of a data file, by its name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum DataFormat {
    Parquet,
    JsonLines,
    /// Rows of a format that is not read here.
    Unread,
}

/// The format of a file, or nothing when it holds no rows.
pub(super) fn format_of(path: &str) -> Option<DataFormat> {
    let name = path.rsplit('/').next().unwrap_or(path);
    let name = name.to_lowercase();
    let ends = |endings: &[&str]| endings.iter().any(|ending| name.ends_with(ending));
    if ends(&[".parquet"]) {
        Some(DataFormat::Parquet)
    } else if ends(&[".jsonl", ".ndjson"]) {
        Some(DataFormat::JsonLines)
    } else if ends(&[".jsonl.gz", ".jsonl.zst", ".json.gz", ".csv", ".arrow"]) {
        Some(DataFormat::Unread)
    } else {
        None
    }
}

/// An open file of rows.
pub(super) enum RowFile {
    Parquet { schema: SchemaRef, embedded: bool, stream: Box<ParquetRecordBatchStream<BufReader>>, columns: Vec<usize> },
    JsonLines(Lines<BufReader>),
}

/// Opens a file; the error says why it cannot be read.
pub(super) async fn open(
    store: &Arc<dyn ObjectStore>,
    meta: &ObjectMeta,
    format: DataFormat,
    wanted: impl Fn(&str) -> bool,
) -> Result<RowFile, String> {
    let reader = BufReader::new(Arc::clone(store), meta);
    match format {
        DataFormat::Parquet => {
            let builder = ParquetRecordBatchStreamBuilder::new(reader).await.map_err(|error| error.to_string())?;
            let keys = builder.metadata().file_metadata().key_value_metadata();
            let embedded = keys.is_some_and(|keys| keys.iter().any(|pair| pair.key == "ARROW:schema"));
            let schema = Arc::clone(builder.schema());
            let columns = (0..schema.fields().len()).filter(|at| wanted(schema.field(*at).name())).collect();
            let stream = builder.with_batch_size(1024).build().map_err(|error| error.to_string())?;
            Ok(RowFile::Parquet { schema, embedded, stream: Box::new(stream), columns })
        }
        DataFormat::JsonLines => Ok(RowFile::JsonLines(reader.lines())),
        DataFormat::Unread => {
            Err("this format is not read here; unpack it to .jsonl, or write it as .parquet".to_owned())
        }
    }
}

impl RowFile {
    /// The next rows; nothing at the end.
    pub(super) async fn next(&mut self) -> Option<Result<Vec<Row>, String>> {
        match self {
            Self::Parquet { stream, columns, .. } => {
                let batch = stream.next().await?;
                Some(batch.map_err(|error| error.to_string()).and_then(|batch| rows(&batch, columns)))
            }
            Self::JsonLines(lines) => loop {
                match lines.next_line().await {
                    Ok(Some(line)) if line.trim().is_empty() => {}
                    Ok(Some(line)) => {
                        return Some(match serde_json::from_str::<Value>(&line) {
                            Ok(Value::Object(row)) => Ok(vec![row]),
                            Ok(_) => Err("a line holds no JSON object".to_owned()),
                            Err(error) => Err(format!("a line is no JSON: {error}")),
                        });
                    }
                    Ok(None) => return None,
                    Err(error) => return Some(Err(error.to_string())),
                }
            },
        }
    }
}

/// The rows of a batch, in the columns that are wanted and that JSON can hold.
fn rows(batch: &RecordBatch, columns: &[usize]) -> Result<Vec<Row>, String> {
    let columns: Vec<usize> = columns.iter().copied().filter(|at| writable(batch.column(*at).data_type())).collect();
    if columns.is_empty() {
        return Ok(vec![Row::new(); batch.num_rows()]);
    }
    let batch = batch.project(&columns).map_err(|error| error.to_string())?;
    let mut bytes = Vec::new();
    let mut writer = WriterBuilder::new().with_explicit_nulls(true).build::<_, JsonArray>(&mut bytes);
    writer.write(&batch).and_then(|()| writer.finish()).map_err(|error| error.to_string())?;
    drop(writer);
    serde_json::from_slice(&bytes).map_err(|error| error.to_string())
}

/// Whether the JSON writer knows the type; maps with keys that are no text it does not.
fn writable(kind: &DataType) -> bool {
    let item = |field: &FieldRef| writable(field.data_type());
    match kind {
        DataType::Map(..) | DataType::Union(..) | DataType::Interval(_) => false,
        DataType::List(field) | DataType::LargeList(field) | DataType::FixedSizeList(field, _) => item(field),
        DataType::Struct(fields) => fields.iter().all(item),
        _ => true,
    }
}
