//! JSON lines: one object a row, nulls written out, so that every line has the same keys.

use std::io::Write;

use arrow::array::RecordBatch;
use arrow::json::WriterBuilder;
use arrow::json::writer::LineDelimited;

use super::RowWriter;
use crate::error::Result;

pub(super) struct JsonWriter<'a> {
    inner: arrow::json::Writer<Box<dyn Write + Send + 'a>, LineDelimited>,
}

impl<'a> JsonWriter<'a> {
    pub(super) fn new(output: Box<dyn Write + Send + 'a>) -> Self {
        Self { inner: WriterBuilder::new().with_explicit_nulls(true).build(output) }
    }
}

impl RowWriter for JsonWriter<'_> {
    fn write(&mut self, batch: &RecordBatch) -> Result<()> {
        Ok(self.inner.write(batch)?)
    }

    fn finish(&mut self) -> Result<()> {
        self.inner.finish()?;
        Ok(self.inner.get_mut().flush()?)
    }
}
