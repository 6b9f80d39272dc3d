//! Rows for people and for programs, written as they come.

mod cells;
mod csv;
mod json;
mod parquet;
mod table;

use std::io::Write;
use std::sync::Arc;

use arrow::array::RecordBatch;
use arrow::compute::cast;
use arrow::datatypes::{DataType, Field, FieldRef, Fields, Schema, SchemaRef};

use crate::error::Result;

pub use table::TableStyle;

/// The formats.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// Columns for people.
    Table,
    /// Comma-separated values with a header; lists and structs as JSON.
    Csv,
    /// JSON lines: one object a row.
    Json,
    /// Parquet with plain types, as trainers' readers take them.
    Parquet,
}

/// Where rows go. Batches of one query, in order, then [`RowWriter::finish`].
pub trait RowWriter: Send {
    /// Writes the rows of a batch, or holds them until there is enough to write.
    ///
    /// # Errors
    /// When the rows cannot be encoded or the output refuses them.
    fn write(&mut self, batch: &RecordBatch) -> Result<()>;

    /// Writes what is held and the end of the format; the output is flushed.
    ///
    /// # Errors
    /// As [`Self::write`].
    fn finish(&mut self) -> Result<()>;
}

/// A writer of that format for rows of that schema.
///
/// # Errors
/// When the format's beginning cannot be written.
pub fn writer<'a>(
    format: Format,
    schema: &SchemaRef,
    style: TableStyle,
    output: Box<dyn Write + Send + 'a>,
) -> Result<Box<dyn RowWriter + 'a>> {
    Ok(match format {
        Format::Table => Box::new(table::TableWriter::new(schema, style, output)),
        Format::Csv => Box::new(csv::CsvWriter::new(schema, output)?),
        Format::Json => Box::new(json::JsonWriter::new(output)),
        Format::Parquet => Box::new(parquet::ParquetWriter::new(schema, output)?),
    })
}

/// The type that every reader takes: no views, no large offsets, no dictionaries.
fn plain(kind: &DataType) -> DataType {
    let field = |field: &FieldRef| -> FieldRef {
        Arc::new(Field::new(field.name(), plain(field.data_type()), field.is_nullable()))
    };
    match kind {
        DataType::Utf8View | DataType::LargeUtf8 => DataType::Utf8,
        DataType::BinaryView | DataType::LargeBinary | DataType::FixedSizeBinary(_) => DataType::Binary,
        DataType::Dictionary(_, value) => plain(value),
        DataType::List(item)
        | DataType::LargeList(item)
        | DataType::ListView(item)
        | DataType::LargeListView(item)
        | DataType::FixedSizeList(item, _) => DataType::List(field(item)),
        DataType::Struct(fields) => DataType::Struct(fields.iter().map(field).collect::<Fields>()),
        other => other.clone(),
    }
}

/// The schema with plain types and no metadata.
fn plain_schema(schema: &Schema) -> SchemaRef {
    let field = |field: &FieldRef| Field::new(field.name(), plain(field.data_type()), field.is_nullable());
    Arc::new(Schema::new(schema.fields().iter().map(field).collect::<Vec<_>>()))
}

/// The batch with plain types.
fn plain_batch(batch: &RecordBatch, schema: &SchemaRef) -> Result<RecordBatch> {
    let columns = batch
        .columns()
        .iter()
        .zip(schema.fields())
        .map(|(column, field)| cast(column, field.data_type()))
        .collect::<Result<Vec<_>, _>>()?;
    Ok(RecordBatch::try_new(Arc::clone(schema), columns)?)
}
