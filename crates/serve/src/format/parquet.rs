//! Parquet with plain types and without the embedded Arrow schema, which older readers follow into types they lack.

use std::io::Write;

use arrow::array::RecordBatch;
use arrow::datatypes::SchemaRef;
use datafusion::common::DataFusionError;
use parquet::arrow::ArrowWriter;
use parquet::arrow::arrow_writer::ArrowWriterOptions;
use parquet::basic::{Compression, ZstdLevel};
use parquet::errors::ParquetError;
use parquet::file::properties::WriterProperties;

use super::{RowWriter, plain_batch, plain_schema};
use crate::error::{Error, Result};

pub(super) struct ParquetWriter<'a> {
    schema: SchemaRef,
    inner: ArrowWriter<Box<dyn Write + Send + 'a>>,
}

impl<'a> ParquetWriter<'a> {
    pub(super) fn new(schema: &SchemaRef, output: Box<dyn Write + Send + 'a>) -> Result<Self> {
        let schema = plain_schema(schema);
        let properties = WriterProperties::builder().set_compression(Compression::ZSTD(ZstdLevel::default())).build();
        let options = ArrowWriterOptions::new().with_properties(properties).with_skip_arrow_metadata(true);
        let inner = ArrowWriter::try_new_with_options(output, schema.clone(), options).map_err(unwritten)?;
        Ok(Self { schema, inner })
    }
}

impl RowWriter for ParquetWriter<'_> {
    fn write(&mut self, batch: &RecordBatch) -> Result<()> {
        self.inner.write(&plain_batch(batch, &self.schema)?).map_err(unwritten)
    }

    fn finish(&mut self) -> Result<()> {
        let _ = self.inner.finish().map_err(unwritten)?;
        Ok(self.inner.inner_mut().flush()?)
    }
}

fn unwritten(error: ParquetError) -> Error {
    match error {
        ParquetError::External(error) => match error.downcast::<std::io::Error>() {
            Ok(error) => Error::Output(*error),
            Err(error) => DataFusionError::from(ParquetError::External(error)).into(),
        },
        other => DataFusionError::from(other).into(),
    }
}
