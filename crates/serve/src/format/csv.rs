//! Comma-separated values with a header. CSV has no lists: those columns hold JSON.

use std::io::Write;
use std::sync::Arc;

use arrow::array::{ArrayRef, RecordBatch, StringBuilder};
use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use arrow::json::writer::{EncoderOptions, make_encoder};

use super::{RowWriter, plain_batch, plain_schema};
use crate::error::Result;

pub(super) struct CsvWriter<'a> {
    schema: SchemaRef,
    /// The schema with text where there were lists and structs.
    flat: SchemaRef,
    inner: arrow::csv::Writer<Box<dyn Write + Send + 'a>>,
}

impl<'a> CsvWriter<'a> {
    pub(super) fn new(schema: &SchemaRef, output: Box<dyn Write + Send + 'a>) -> Result<Self> {
        let schema = plain_schema(schema);
        let flat = schema
            .fields()
            .iter()
            .map(|field| {
                let kind = if nested(field.data_type()) { DataType::Utf8 } else { field.data_type().clone() };
                Field::new(field.name(), kind, true)
            })
            .collect::<Vec<_>>();
        let flat = Arc::new(Schema::new(flat));
        let mut inner = arrow::csv::WriterBuilder::new().with_header(true).build(output);
        // The header comes also when there are no rows.
        inner.write(&RecordBatch::new_empty(Arc::clone(&flat)))?;
        Ok(Self { schema, flat, inner })
    }
}

impl RowWriter for CsvWriter<'_> {
    fn write(&mut self, batch: &RecordBatch) -> Result<()> {
        let batch = plain_batch(batch, &self.schema)?;
        let columns = batch
            .columns()
            .iter()
            .zip(self.schema.fields())
            .map(|(column, field)| if nested(field.data_type()) { as_json(column) } else { Ok(Arc::clone(column)) })
            .collect::<Result<Vec<_>>>()?;
        self.inner.write(&RecordBatch::try_new(Arc::clone(&self.flat), columns)?)?;
        Ok(())
    }

    fn finish(&mut self) -> Result<()> {
        // The writer flushes each batch itself.
        Ok(())
    }
}

fn nested(kind: &DataType) -> bool {
    kind.is_nested() || matches!(kind, DataType::Binary)
}

/// Each value of a column as JSON text.
pub(super) fn as_json(column: &ArrayRef) -> Result<ArrayRef> {
    let field = Arc::new(Field::new("value", column.data_type().clone(), true));
    let options = EncoderOptions::default().with_explicit_nulls(true);
    let mut encoder = make_encoder(&field, column, &options)?;
    let mut texts = StringBuilder::new();
    let mut buffer = Vec::new();
    for row in 0..column.len() {
        if encoder.is_null(row) {
            texts.append_null();
            continue;
        }
        buffer.clear();
        encoder.encode(row, &mut buffer);
        texts.append_value(String::from_utf8_lossy(&buffer));
    }
    Ok(Arc::new(texts.finish()))
}
