//! Parquet files as every reader takes them, hashed while they are written.

use std::sync::Arc;
use std::sync::Mutex;

use arrow::array::RecordBatch;
use arrow::compute::BatchCoalescer;
use arrow::datatypes::SchemaRef;
use bytes::Bytes;
use futures::FutureExt;
use futures::future::BoxFuture;
use object_store::ObjectStore;
use object_store::buffered::BufWriter;
use object_store::path::Path;
use parquet::arrow::AsyncArrowWriter;
use parquet::arrow::arrow_writer::ArrowWriterOptions;
use parquet::arrow::async_writer::AsyncFileWriter;
use parquet::basic::{Compression, ZstdLevel};
use parquet::errors::ParquetError;
use parquet::file::properties::{EnabledStatistics, WriterProperties};
use sha2::{Digest, Sha256};
use tokio::io::AsyncWriteExt;

use super::manifest::FileEntry;
use crate::error::{Error, Result};

/// Rows of one file; a split with more gets several.
pub(super) const ROWS_PER_FILE: u64 = 200_000;
/// Rows that are encoded at once. Fixed, so that the bytes do not depend on how the rows arrive.
const ROWS_PER_BATCH: usize = 1024;
/// Rows and bytes of a row group: what a reader has to hold.
const ROWS_PER_GROUP: usize = 10_240;
const BYTES_PER_GROUP: usize = 64 << 20;

/// Hashes what passes through.
struct HashingWriter {
    inner: BufWriter,
    state: Arc<Mutex<(Sha256, u64)>>,
}

impl AsyncFileWriter for HashingWriter {
    fn write(&mut self, bytes: Bytes) -> BoxFuture<'_, parquet::errors::Result<()>> {
        async move {
            if let Ok(mut state) = self.state.lock() {
                state.0.update(&bytes);
                state.1 += bytes.len() as u64;
            }
            self.inner.put(bytes).await.map_err(|error| ParquetError::External(Box::new(error)))
        }
        .boxed()
    }

    fn complete(&mut self) -> BoxFuture<'_, parquet::errors::Result<()>> {
        async move { self.inner.shutdown().await.map_err(|error| ParquetError::External(Box::new(error))) }.boxed()
    }
}

struct OpenFile {
    path: String,
    rows: u64,
    writer: AsyncArrowWriter<HashingWriter>,
    state: Arc<Mutex<(Sha256, u64)>>,
}

/// The files of one split and one view of it.
pub(super) struct SplitWriter {
    store: Arc<dyn ObjectStore>,
    directory: Path,
    /// Folder below the snapshot, with its slash, or nothing.
    folder: &'static str,
    split: &'static str,
    files: u64,
    schema: SchemaRef,
    coalescer: BatchCoalescer,
    open: Option<OpenFile>,
    done: Vec<FileEntry>,
}

impl SplitWriter {
    /// A writer of `rows` rows in all, which name the files.
    pub(super) fn new(
        store: Arc<dyn ObjectStore>,
        directory: Path,
        folder: &'static str,
        split: &'static str,
        rows: u64,
        schema: SchemaRef,
    ) -> Self {
        let coalescer = BatchCoalescer::new(Arc::clone(&schema), ROWS_PER_BATCH);
        Self {
            store,
            directory,
            folder,
            split,
            files: rows.div_ceil(ROWS_PER_FILE),
            schema,
            coalescer,
            open: None,
            done: Vec::new(),
        }
    }

    /// Writes the rows of a batch.
    pub(super) async fn write(&mut self, batch: RecordBatch) -> Result<()> {
        self.coalescer.push_batch(batch).map_err(|error| Error::bug("cut the rows into batches", error))?;
        self.drain().await
    }

    /// Writes what is left and closes the files.
    pub(super) async fn finish(mut self) -> Result<Vec<FileEntry>> {
        self.coalescer.finish_buffered_batch().map_err(|error| Error::bug("cut the rows into batches", error))?;
        self.drain().await?;
        self.close().await?;
        Ok(self.done)
    }

    async fn drain(&mut self) -> Result<()> {
        while let Some(batch) = self.coalescer.next_completed_batch() {
            let mut batch = batch;
            while batch.num_rows() > 0 {
                let open = self.file()?;
                let room = usize::try_from(ROWS_PER_FILE - open.rows).unwrap_or(usize::MAX);
                let rows = room.min(batch.num_rows());
                let path = open.path.clone();
                let unwritten = |error| Error::sort(format!("write {path}"), error);
                open.writer.write(&batch.slice(0, rows)).await.map_err(unwritten)?;
                if open.writer.in_progress_size() > BYTES_PER_GROUP {
                    open.writer.flush().await.map_err(unwritten)?;
                }
                open.rows += rows as u64;
                let full = open.rows == ROWS_PER_FILE;
                batch = batch.slice(rows, batch.num_rows() - rows);
                if full {
                    self.close().await?;
                }
            }
        }
        Ok(())
    }

    fn file(&mut self) -> Result<&mut OpenFile> {
        if self.open.is_none() {
            let number = self.done.len();
            let path = format!("{}{}-{number:05}-of-{:05}.parquet", self.folder, self.split, self.files);
            let mut location = self.directory.clone();
            for part in path.split('/') {
                location = location.join(part);
            }
            let state = Arc::new(Mutex::new((Sha256::new(), 0)));
            let inner = BufWriter::new(Arc::clone(&self.store), location);
            let writer = AsyncArrowWriter::try_new_with_options(
                HashingWriter { inner, state: Arc::clone(&state) },
                Arc::clone(&self.schema),
                options(),
            )
            .map_err(|error| Error::bug(format!("begin {path}"), error))?;
            self.open = Some(OpenFile { path, rows: 0, writer, state });
        }
        self.open.as_mut().ok_or_else(|| Error::Invalid("no file is open".to_owned()))
    }

    async fn close(&mut self) -> Result<()> {
        let Some(OpenFile { path, rows, writer, state }) = self.open.take() else { return Ok(()) };
        let _ = writer.close().await.map_err(|error| Error::sort(format!("write {path}"), error))?;
        let (hash, bytes) = state.lock().map(|state| state.clone()).unwrap_or_default();
        let sha256 = hex(&hash.finalize());
        self.done.push(FileEntry { path, split: Some(self.split.to_owned()), rows: Some(rows), bytes, sha256 });
        Ok(())
    }
}

/// No Arrow schema in the file (older readers follow it into types that they lack), and no statistics: they hold texts.
fn options() -> ArrowWriterOptions {
    let properties = WriterProperties::builder()
        .set_compression(Compression::ZSTD(ZstdLevel::default()))
        .set_statistics_enabled(EnabledStatistics::None)
        .set_max_row_group_row_count(Some(ROWS_PER_GROUP))
        .set_created_by("uptake".to_owned())
        .build();
    ArrowWriterOptions::new().with_properties(properties).with_skip_arrow_metadata(true)
}

/// Hexadecimal text of bytes.
pub(crate) fn hex(bytes: &[u8]) -> String {
    use std::fmt::Write as _;
    bytes.iter().fold(String::with_capacity(bytes.len() * 2), |mut text, byte| {
        // Writing to a string cannot fail.
        let _ = write!(text, "{byte:02x}");
        text
    })
}
