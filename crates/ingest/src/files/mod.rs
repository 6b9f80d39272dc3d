//! Chat logs from files into bronze: JSON lines, JSON arrays and Parquet, in the layouts that people have.
//!
//! A file's conversations become events of our own contracts, which go through the same decoder and the same writer as
//! records from Kafka. The file is one partition (`file:<first 16 digits of its SHA-256>`, partition 0), and the offset
//! of an event is its ordinal in the file. So the rules of positions hold: what was imported is not imported again,
//! whatever the file is called, and an import that was killed goes on where it was.
//!
//! Reading blocks, so it has a thread of its own, which hands full buffers to the writer; three are held at most: one
//! that is filled, one that waits, one that is written.

#[cfg(test)]
mod arbitrary;
mod chat;
mod conversation;
mod layout;
mod oasst;
mod probe;
mod reader;
mod rows;
mod sharegpt;
mod source;
#[cfg(test)]
mod tests;
mod wildchat;

use std::collections::BTreeMap;
use std::fs::File;
use std::io::Read;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use sha2::{Digest, Sha256};
use tokio::sync::mpsc;
use uptake_lake::Lake;
use uptake_model::SourcePartition;
use uptake_model::contract::ErrorClass;
use uptake_model::decode::Edge;
use uptake_model::subject::hex;
use uptake_model::tables::EVENTS;
use uptake_model::time::{DAY_MICROS, Day, Micros};

pub use layout::Layout;

use crate::bronze::Bronze;
use crate::buffer::Buffer;
use crate::error::{Error, Result};
use reader::Reader;

/// The pipeline under whose name positions of files are kept.
pub const PIPELINE: &str = "import";

/// The start of a conversation whose file says nothing of times: 2020-01-01. A fixed day, so that the same file gives
/// the same events whenever it is imported, and one that nobody takes for a real time.
pub const FALLBACK_DAY: Day = 18_262;

/// What an import is told.
#[derive(Debug, Clone)]
pub struct ImportOptions {
    /// The layout; told from the first records when absent.
    pub layout: Option<Layout>,
    /// The start of conversations whose file says nothing of times.
    pub fallback_start: Micros,
    /// The secret and the bounds of decoding.
    pub edge: Edge,
    /// When this import happens.
    pub now: Micros,
    /// Rows are written when they hold so many bytes.
    pub flush_bytes: usize,
}

impl ImportOptions {
    /// Options with their defaults.
    pub fn new(edge: Edge, now: Micros) -> Self {
        let fallback_start = Micros::from(FALLBACK_DAY) * DAY_MICROS;
        Self { layout: None, fallback_start, edge, now, flush_bytes: 32 << 20 }
    }
}

/// What others may see and say while a file is imported. Cheap to clone.
#[derive(Debug, Clone, Default)]
pub struct Handle {
    read: Arc<AtomicU64>,
    stop: Arc<AtomicBool>,
}

impl Handle {
    /// Bytes of the file that were read in the phase that is running (first the whole file for its hash, then again).
    pub fn bytes_read(&self) -> u64 {
        self.read.load(Ordering::Relaxed)
    }

    /// Asks the import to stop; what was read is written, and the next import of the file goes on behind it.
    pub fn stop(&self) {
        self.stop.store(true, Ordering::Relaxed);
    }

    fn is_stopped(&self) -> bool {
        self.stop.load(Ordering::Relaxed)
    }
}

/// What became of a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Report {
    /// The source under which its rows stand in bronze.
    pub source: SourcePartition,
    /// The layout that it was read in; `None` when it was imported before.
    pub layout: Option<Layout>,
    /// What was read.
    pub counts: Counts,
    /// Events that this import added to bronze.
    pub events_written: u64,
    /// Dead letters that this import added to bronze.
    pub letters_written: u64,
}

impl Report {
    /// Whether the file had been imported to its end before.
    pub fn was_imported(&self) -> bool {
        self.layout.is_none()
    }
}

/// What was read of a file, whether or not it was in bronze before.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Counts {
    /// Records of the file that are a conversation, a tree, or a gateway's line.
    pub records: u64,
    /// Messages.
    pub messages: u64,
    /// Reactions.
    pub reactions: u64,
    /// A gateway's log lines.
    pub completions: u64,
    /// Exact copies of an earlier event of the file, dropped.
    pub duplicates: u64,
    /// Reactions that are a count of zero: nobody reacted, so there is nothing to store.
    pub zero_counts: u64,
    /// Refused records, by reason.
    pub refused: BTreeMap<ErrorClass, u64>,
    /// Events and dead letters that an earlier import of the file had written.
    pub already_there: u64,
}

impl Counts {
    /// Adds what was read of another file.
    pub fn add(&mut self, other: &Self) {
        self.records += other.records;
        self.messages += other.messages;
        self.reactions += other.reactions;
        self.completions += other.completions;
        self.duplicates += other.duplicates;
        self.zero_counts += other.zero_counts;
        self.already_there += other.already_there;
        for (class, count) in &other.refused {
            *self.refused.entry(*class).or_default() += count;
        }
    }

    /// All refused records.
    pub fn all_refused(&self) -> u64 {
        self.refused.values().sum()
    }
}

/// Imports one file.
///
/// # Errors
/// [`Error::Invalid`] when the file is no log that can be read (then nothing of it is written), [`Error::File`] when it
/// cannot be opened, [`Error::Stopped`] when it was stopped before its end, and what the lake says.
pub async fn import(lake: &Lake, path: &Path, options: &ImportOptions, handle: &Handle) -> Result<Report> {
    let source = {
        let (path, handle) = (path.to_owned(), handle.clone());
        blocking(move || identify(&path, &handle)).await?
    };
    if is_finished(lake, &source).await? {
        return Ok(Report { source, layout: None, counts: Counts::default(), events_written: 0, letters_written: 0 });
    }
    let layout = {
        let (path, layout) = (path.to_owned(), options.layout);
        blocking(move || probe::layout(&path, layout)).await?
    };
    // From here on the lake is written to.
    let mut bronze = Bronze::open(lake, PIPELINE).await?;
    let resume = bronze.resume(&source).await?;
    handle.read.store(0, Ordering::Relaxed);
    let (buffers, mut filled) = mpsc::channel::<Buffer>(1);
    let reader = Reader::new(source.clone(), layout, options.clone(), resume.next, buffers);
    let reading = {
        let (path, handle) = (path.to_owned(), handle.clone());
        tokio::task::spawn_blocking(move || reader.read(&path, &handle))
    };
    let mut report =
        Report { source, layout: Some(layout), counts: Counts::default(), events_written: 0, letters_written: 0 };
    while let Some(buffer) = filled.recv().await {
        let flushed = bronze.flush(buffer).await?;
        report.events_written += flushed.events;
        report.letters_written += flushed.letters;
    }
    report.counts = joined(reading.await)?;
    Ok(report)
}

/// The source that a file is: its content decides, not its name.
fn identify(path: &Path, handle: &Handle) -> Result<SourcePartition> {
    let fault = |source| Error::File { path: path.display().to_string(), source };
    let mut file = File::open(path).map_err(fault)?;
    let mut hasher = Sha256::new();
    let mut chunk = vec![0; 1 << 20];
    let mut length = 0_u64;
    loop {
        if handle.is_stopped() {
            return Err(Error::Stopped);
        }
        let read = file.read(&mut chunk).map_err(fault)?;
        let Some(bytes) = chunk.get(..read).filter(|bytes| !bytes.is_empty()) else { break };
        hasher.update(bytes);
        length += read as u64;
        handle.read.store(length, Ordering::Relaxed);
    }
    if length == 0 {
        return Err(Error::Invalid(format!("{} is empty: there is nothing to import", path.display())));
    }
    let digest = hasher.finalize();
    Ok(SourcePartition::new(format!("file:{}", hex(digest.get(..8).unwrap_or_default())), 0))
}

/// Whether a source was imported to its end: its last flush notes it as idle.
async fn is_finished(lake: &Lake, source: &SourcePartition) -> Result<bool> {
    let what = || Error::lake("read the positions of the table bronze.events");
    let Some(events) = lake.existing(&EVENTS).await.map_err(what())? else { return Ok(false) };
    let idle = events.positions(&format!("idle/{}/", source.topic)).await.map_err(what())?;
    Ok(idle.iter().any(|(_, value)| *value == 1))
}

async fn blocking<T: Send + 'static>(work: impl FnOnce() -> Result<T> + Send + 'static) -> Result<T> {
    joined(tokio::task::spawn_blocking(work).await)
}

fn joined<T>(result: std::result::Result<Result<T>, tokio::task::JoinError>) -> Result<T> {
    result.unwrap_or_else(|error| Err(Error::Bug(format!("the thread that reads a file ended abnormally: {error}"))))
}
