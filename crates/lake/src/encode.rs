//! Rows to Parquet files, one or more per partition value.
//!
//! The same rows in the same order give the same bytes, however they were cut into batches: rows are brought into chunks
//! of a fixed size before they reach the writer, and nothing of the clock or of chance enters the file.

use std::collections::BTreeMap;
use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, RecordBatch, UInt32Array};
use arrow::compute::{BatchCoalescer, partition, take_record_batch};
use arrow::datatypes::{Date32Type, Int32Type, Int64Type, Schema, SchemaRef};
use bytes::Bytes;
use parquet::arrow::ArrowWriter;
use parquet::arrow::arrow_writer::ArrowWriterOptions;
use parquet::basic::{Compression, ZstdLevel};
use parquet::file::properties::{EnabledStatistics, WriterProperties};
use parquet::schema::types::ColumnPath;
use sha2::{Digest, Sha256};
use uptake_model::{Kind, TableSpec};

use crate::error::{Error, Result};
use crate::shape;
use crate::statistics::{Collector, date_text};

/// Rows that reach the Parquet writer at once.
const CHUNK_ROWS: usize = 8_192;
/// A row group ends at this many rows or bytes, whichever comes first.
const ROW_GROUP_ROWS: usize = 1 << 20;
const ROW_GROUP_BYTES: usize = 128 << 20;
/// A file ends when it has grown to this.
const FILE_BYTES: usize = 256 << 20;

/// Partition values as the log writes them, in the order of the specification.
pub(crate) type Partition = Vec<(String, Option<String>)>;

/// One data file, not yet written.
#[derive(Debug)]
pub(crate) struct Encoded {
    pub(crate) partition: Partition,
    pub(crate) bytes: Bytes,
    pub(crate) statistics: String,
    /// First half of the SHA-256 of the bytes, hexadecimal: equal rows, equal digest.
    pub(crate) digest: String,
}

/// Encodes `batches` (of any columns that fit `spec`) into files, in the order of their partition values.
pub(crate) fn encode(spec: &TableSpec, batches: &[RecordBatch]) -> Result<Vec<Encoded>> {
    let schema = spec.schema();
    let mut parts: BTreeMap<Partition, FileWriter<'_>> = BTreeMap::new();
    let file_columns: Vec<usize> = (0..spec.columns.len() - spec.partition.len()).collect();
    let file_schema: SchemaRef =
        Arc::new(schema.project(&file_columns).map_err(|error| Error::bug("drop partition columns", error))?);
    for batch in batches.iter().filter(|batch| batch.num_rows() > 0) {
        let batch = shape::conform(spec, &schema, batch)?;
        for (partition, rows) in split(spec, &batch)? {
            let context = || format!("encode rows of {spec}");
            let part = take_record_batch(&batch, &rows)
                .and_then(|part| part.project(&file_columns))
                .map_err(|error| Error::bug(context(), error))?;
            parts.entry(partition).or_insert_with(|| FileWriter::new(spec, &file_schema)).write(part)?;
        }
    }
    let mut files = Vec::new();
    for (partition, writer) in parts {
        files.extend(writer.finish(&partition)?);
    }
    Ok(files)
}

/// The rows of each partition value, in their order.
fn split(spec: &TableSpec, batch: &RecordBatch) -> Result<BTreeMap<Partition, UInt32Array>> {
    let count = u32::try_from(batch.num_rows()).map_err(|error| Error::bug("split rows", error))?;
    let columns: Vec<(&str, Kind, ArrayRef)> = spec
        .partition
        .iter()
        .map(|name| {
            let kind = spec.column(name).map(|column| column.kind);
            kind.zip(batch.column_by_name(name))
                .map(|(kind, array)| (*name, kind, Arc::clone(array)))
                .ok_or_else(|| Error::bug("split rows", format!("{spec} has no column `{name}`")))
        })
        .collect::<Result<_>>()?;
    if columns.is_empty() {
        return Ok(BTreeMap::from([(Partition::new(), UInt32Array::from_iter_values(0..count))]));
    }
    // Values are read once per run of equal ones: rows come by day.
    let arrays: Vec<ArrayRef> = columns.iter().map(|(_, _, array)| Arc::clone(array)).collect();
    let runs = partition(&arrays).map_err(|error| Error::bug("split rows", error))?;
    let mut rows: BTreeMap<Partition, Vec<u32>> = BTreeMap::new();
    let mut start = 0;
    for run in runs.ranges() {
        let values =
            columns.iter().map(|(name, kind, array)| Ok(((*name).to_owned(), value_text(*kind, array, run.start)?)));
        let end = start + u32::try_from(run.len()).map_err(|error| Error::bug("split rows", error))?;
        rows.entry(values.collect::<Result<Partition>>()?).or_default().extend(start..end);
        start = end;
    }
    Ok(rows.into_iter().map(|(partition, rows)| (partition, UInt32Array::from(rows))).collect())
}

/// A partition value as the log writes it (Delta protocol, "Partition Value Serialization").
fn value_text(kind: Kind, array: &ArrayRef, row: usize) -> Result<Option<String>> {
    if array.is_null(row) {
        return Ok(None);
    }
    let text = match kind {
        Kind::Text => array.as_string::<i32>().value(row).to_owned(),
        Kind::Integer => array.as_primitive::<Int32Type>().value(row).to_string(),
        Kind::Long => array.as_primitive::<Int64Type>().value(row).to_string(),
        Kind::Date => {
            let day = array.as_primitive::<Date32Type>().value(row);
            date_text(day).ok_or_else(|| Error::Invalid(format!("day {day} lies outside of the calendar")))?
        }
        other => {
            let detail = format!("a column of type {} cannot be a partition", other.name());
            return Err(Error::bug("split rows", detail));
        }
    };
    // The protocol writes an empty text as null; two partitions with one directory would be the alternative.
    Ok(Some(text).filter(|text| !text.is_empty()))
}

/// Writes the files of one partition value.
struct FileWriter<'a> {
    spec: &'a TableSpec,
    schema: SchemaRef,
    coalescer: BatchCoalescer,
    open: Option<(ArrowWriter<Vec<u8>>, Collector)>,
    closed: Vec<(Vec<u8>, String)>,
}

impl<'a> FileWriter<'a> {
    fn new(spec: &'a TableSpec, schema: &SchemaRef) -> Self {
        Self {
            spec,
            schema: Arc::clone(schema),
            coalescer: BatchCoalescer::new(Arc::clone(schema), CHUNK_ROWS),
            open: None,
            closed: Vec::new(),
        }
    }

    fn write(&mut self, batch: RecordBatch) -> Result<()> {
        let context = || format!("encode rows of {}", self.spec);
        self.coalescer.push_batch(batch).map_err(|error| Error::bug(context(), error))?;
        self.drain()
    }

    fn drain(&mut self) -> Result<()> {
        while let Some(chunk) = self.coalescer.next_completed_batch() {
            self.write_chunk(&chunk)?;
        }
        Ok(())
    }

    fn write_chunk(&mut self, chunk: &RecordBatch) -> Result<()> {
        let context = || format!("encode rows of {}", self.spec);
        let (mut writer, mut statistics) = if let Some(open) = self.open.take() {
            open
        } else {
            let options = ArrowWriterOptions::new()
                .with_properties(properties(self.spec, &self.schema))
                // Without Arrow's own copy of the schema every reader sees plain strings and lists.
                .with_skip_arrow_metadata(true);
            let writer = ArrowWriter::try_new_with_options(Vec::new(), Arc::clone(&self.schema), options)
                .map_err(|error| Error::bug(context(), error))?;
            (writer, Collector::new(self.spec))
        };
        writer.write(chunk).map_err(|error| Error::bug(context(), error))?;
        statistics.add(chunk);
        let is_full = writer.bytes_written() + writer.in_progress_size() >= FILE_BYTES;
        self.open = Some((writer, statistics));
        if is_full { self.close() } else { Ok(()) }
    }

    fn close(&mut self) -> Result<()> {
        if let Some((writer, statistics)) = self.open.take() {
            let bytes =
                writer.into_inner().map_err(|error| Error::bug(format!("encode rows of {}", self.spec), error))?;
            self.closed.push((bytes, statistics.finish()));
        }
        Ok(())
    }

    fn finish(mut self, partition: &Partition) -> Result<Vec<Encoded>> {
        self.coalescer
            .finish_buffered_batch()
            .map_err(|error| Error::bug(format!("encode rows of {}", self.spec), error))?;
        self.drain()?;
        self.close()?;
        let encoded = self.closed.into_iter().map(|(bytes, statistics)| Encoded {
            partition: partition.clone(),
            digest: digest(&bytes),
            bytes: Bytes::from(bytes),
            statistics,
        });
        Ok(encoded.collect())
    }
}

fn digest(bytes: &[u8]) -> String {
    use std::fmt::Write as _;
    Sha256::digest(bytes)[..16].iter().fold(String::with_capacity(32), |mut text, byte| {
        // Writing to a string cannot fail.
        let _ = write!(text, "{byte:02x}");
        text
    })
}

fn properties(spec: &TableSpec, schema: &Schema) -> WriterProperties {
    let mut properties = WriterProperties::builder()
        .set_compression(Compression::ZSTD(ZstdLevel::try_new(3).unwrap_or_default()))
        .set_max_row_group_row_count(Some(ROW_GROUP_ROWS))
        .set_max_row_group_bytes(Some(ROW_GROUP_BYTES))
        .set_statistics_enabled(EnabledStatistics::None);
    for name in spec.statistics {
        if schema.column_with_name(name).is_some() {
            properties = properties.set_column_statistics_enabled(ColumnPath::from(*name), EnabledStatistics::Page);
        }
    }
    // Finding one person's rows must not read every file; a filter of hashes says nothing in the clear.
    if schema.column_with_name("subject_key").is_some() {
        properties = properties.set_column_bloom_filter_enabled(ColumnPath::from("subject_key"), true);
    }
    properties.build()
}
