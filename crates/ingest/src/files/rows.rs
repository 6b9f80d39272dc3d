//! Rows of a Parquet file as JSON records.

use std::collections::VecDeque;
use std::fs::File;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use arrow::json::LineDelimitedWriter;
use parquet::arrow::arrow_reader::{ParquetRecordBatchReader, ParquetRecordBatchReaderBuilder};

use super::source::{LONGEST_RECORD, Piece};
use crate::error::{Error, Result};

/// Rows that are turned into JSON at once.
const BATCH: usize = 128;

/// The rows of a Parquet file, in their order.
pub(super) struct Rows {
    path: String,
    reader: ParquetRecordBatchReader,
    ready: VecDeque<Vec<u8>>,
    read: Arc<AtomicU64>,
    bytes: u64,
    total: u64,
    seen: u64,
}

impl Rows {
    /// Opens a file; `read` follows the share of its rows that were read.
    pub(super) fn open(file: File, path: &Path, read: Arc<AtomicU64>) -> Result<Self> {
        let path = path.display().to_string();
        let bytes = file.metadata().map_err(|source| Error::File { path: path.clone(), source })?.len();
        let corrupt = |error: &dyn std::fmt::Display| {
            Error::Invalid(format!("{path} is no Parquet file that can be read: {error}"))
        };
        let builder = ParquetRecordBatchReaderBuilder::try_new(file).map_err(|error| corrupt(&error))?;
        let total = u64::try_from(builder.metadata().file_metadata().num_rows()).unwrap_or(0);
        let reader = builder.with_batch_size(BATCH).build().map_err(|error| corrupt(&error))?;
        Ok(Self { path, reader, ready: VecDeque::new(), read, bytes, total, seen: 0 })
    }

    /// The next row as a JSON object.
    pub(super) fn next(&mut self) -> Result<Option<Piece>> {
        while self.ready.is_empty() {
            let Some(batch) = self.reader.next() else { return Ok(None) };
            let corrupt = |error: &dyn std::fmt::Display| {
                Error::Invalid(format!("{} cannot be read behind row {}: {error}", self.path, self.seen))
            };
            let batch = batch.map_err(|error| corrupt(&error))?;
            let mut writer = LineDelimitedWriter::new(Vec::new());
            writer.write(&batch).and_then(|()| writer.finish()).map_err(|error| corrupt(&error))?;
            let lines = writer.into_inner();
            self.ready.extend(lines.split(|byte| *byte == b'\n').filter(|line| !line.is_empty()).map(<[u8]>::to_vec));
            self.seen += batch.num_rows() as u64;
            let share = u128::from(self.bytes) * u128::from(self.seen) / u128::from(self.total.max(1));
            self.read.store(u64::try_from(share).unwrap_or(self.bytes), Ordering::Relaxed);
        }
        Ok(self
            .ready
            .pop_front()
            .map(|row| if row.len() > LONGEST_RECORD { Piece::TooLong(row.len() as u64) } else { Piece::Bytes(row) }))
    }
}
