//! The one writer of bronze: rows, dead letters and positions of a flush, each record once whatever is killed when.
//!
//! Two tables cannot be committed as one, so the order decides: dead letters first, then events. The position in the
//! *events* table is where a reader starts again. When the dead letters are ahead of it, somebody was killed in between:
//! the offsets of the letters behind the events position are read back, and those records stay letters. The position in
//! the dead-letters table is therefore a bound, "no letter at or behind it", and grows with every commit of letters.
//!
//! Every commit compares: it is made only where the stored position is the one that this writer began from. A lost
//! answer shows as a moved position; then the positions are read again, what the table holds already is taken out of the
//! flush, and the rest is tried anew.
//!
//! Who resumes a partition takes it over first: a number of its own goes into both tables, and every commit names it.
//! From then on an earlier owner that is still alive (a session that timed out, a process that was stopped and went on)
//! cannot commit to either table, so the letters that were read back are all that there will ever be.

mod append;
mod keys;
mod ownership;
mod signals;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use futures::FutureExt as _;
use tracing::info;
use uptake_lake::{Advance, CommitRequest, Lake, Table};
use uptake_model::facts::Telling;
use uptake_model::rows::{self, EventRow, LetterRow};
use uptake_model::tables::{DEAD_LETTERS, EVENTS};
use uptake_model::time::Micros;
use uptake_model::{Next, SourcePartition, TableSpec};
use uptake_progress::ownership::Ownership;

use crate::buffer::{Buffer, Part, Seen};
use crate::error::{Error, Result};
use crate::metrics::{Metrics, RecordOutcome};
use crate::signals::Ledger;

pub use append::Retries;
use append::{Appended, Target, batches, patiently};
use keys::{check_pipeline, idle_key, last_key, pack, unpack};

/// How often a flush adapts to positions that another writer moves before it gives up.
const MOST_CONFLICTS: usize = 8;

/// Where a partition's reader starts, as the tables say.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Resume {
    /// The next offset that the events table expects; `None` when it never saw this partition.
    pub next: Option<Next>,
    /// The offset behind the last dead letter, when the dead letters are ahead of the events.
    pub letters_next: Option<Next>,
    /// The last record that was consumed before `next`, where the source tells the times of records.
    pub last: Option<Seen>,
}

/// What a flush did.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Flushed {
    /// Rows that this flush added to `events`.
    pub events: u64,
    /// Rows that this flush added to `dead_letters`.
    pub letters: u64,
    /// Exact copies dropped.
    pub duplicates: u64,
    /// Null payloads.
    pub tombstones: u64,
    /// Where each flushed partition stands now.
    pub positions: BTreeMap<SourcePartition, Next>,
    /// The version of the events table after the flush.
    pub version: i64,
    /// Partitions that another process has taken over; their rows were dropped.
    taken: BTreeSet<SourcePartition>,
    /// The events of each flushed partition, if they are to be kept; none where only the table has all of them.
    pub(crate) told: BTreeMap<SourcePartition, Option<Vec<Telling>>>,
}

/// What is known of one partition's positions.
#[derive(Debug, Clone, Default)]
struct Known {
    events: Option<Next>,
    letters: Option<Next>,
    /// Offsets at or behind `events` that are dead letters already.
    settled: BTreeSet<i64>,
}

/// The one writer of bronze.
pub struct Bronze {
    lake: Lake,
    events: Table,
    letters: Table,
    pipeline: String,
    version: String,
    known: BTreeMap<SourcePartition, Known>,
    /// The number under which this process took each partition over.
    owners: BTreeMap<SourcePartition, i64>,
    ownership: Option<Arc<Mutex<Ownership>>>,
    /// How far signals have been published, where somebody publishes them.
    ledger: Option<Arc<Ledger>>,
    allowed_disorder: Duration,
    retries: Retries,
    metrics: Metrics,
}

impl std::fmt::Debug for Bronze {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter
            .debug_struct("Bronze")
            .field("pipeline", &self.pipeline)
            .field("known", &self.known)
            .finish_non_exhaustive()
    }
}

impl Bronze {
    /// Opens the two bronze tables, making them where they are absent. Positions are kept under `pipeline`.
    ///
    /// # Errors
    /// When the lake cannot be read or written.
    pub async fn open(lake: &Lake, pipeline: &str) -> Result<Self> {
        Self::open_with(lake, pipeline, Retries::default()).await
    }

    /// [`Bronze::open`], trying passing faults again like this, now and later.
    ///
    /// # Errors
    /// When the lake cannot be read or written.
    pub async fn open_with(lake: &Lake, pipeline: &str, retries: Retries) -> Result<Self> {
        check_pipeline(pipeline)?;
        let metrics = Metrics::global();
        let open = async |spec: &'static TableSpec| {
            patiently(&retries, &metrics, spec.name, || {
                async move { lake.table(spec).await.map_err(Error::lake(format!("open the table {spec}"))) }.boxed()
            })
            .await
        };
        let events = open(&EVENTS).await?;
        let letters = open(&DEAD_LETTERS).await?;
        Ok(Self {
            lake: lake.clone(),
            events,
            letters,
            pipeline: pipeline.to_owned(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            known: BTreeMap::new(),
            owners: BTreeMap::new(),
            ownership: None,
            ledger: None,
            allowed_disorder: Duration::from_mins(10),
            retries,
            metrics,
        })
    }

    /// Publishes only what `ownership` still holds.
    pub fn with_ownership(mut self, ownership: Arc<Mutex<Ownership>>) -> Self {
        self.ownership = Some(ownership);
        self
    }

    /// Watermarks stay this far behind the latest event.
    pub fn with_allowed_disorder(mut self, allowed: Duration) -> Self {
        self.allowed_disorder = allowed;
        self
    }

    /// Takes a partition over and reads where it stands. Reading starts at `next`; records before it that are given all
    /// the same are dropped.
    ///
    /// # Errors
    /// When the lake cannot be read or written.
    pub async fn resume(&mut self, source: &SourcePartition) -> Result<Resume> {
        let mut resumed = self.resume_all(std::slice::from_ref(source)).await?;
        resumed.remove(source).ok_or_else(|| Error::Bug(format!("{source} was not resumed")))
    }

    /// [`Bronze::resume`] for several partitions, with one commit to each table.
    ///
    /// # Errors
    /// When the lake cannot be read or written.
    pub async fn resume_all(&mut self, sources: &[SourcePartition]) -> Result<BTreeMap<SourcePartition, Resume>> {
        self.take_over(sources).await?;
        self.refresh().await?;
        let mut resumed = BTreeMap::new();
        for source in sources {
            let known = self.read_positions(source).await?;
            let ahead = known.letters.filter(|letters| known.events.is_none_or(|events| *letters > events));
            if let Some(ahead) = ahead {
                info!(
                    partition = %source, letters = known.settled.len(), until = ahead.0,
                    "a flush was cut off between dead letters and events; its letters stay letters"
                );
            }
            let last = self.last_seen(source, known.events).await?;
            resumed.insert(source.clone(), Resume { next: known.events, letters_next: ahead, last });
            self.known.insert(source.clone(), known);
        }
        Ok(resumed)
    }

    /// Whether any partition of a topic has a stored position.
    ///
    /// # Errors
    /// When the lake cannot be read.
    pub async fn knows_topic(&self, topic: &str) -> Result<bool> {
        let prefix = format!("{}/{topic}/", self.pipeline);
        let prefix = prefix.as_str();
        let positions = self
            .patiently(EVENTS.name, || {
                async move {
                    let positions = self.events.positions(prefix).await;
                    positions.map_err(Error::lake(format!("read the positions of {topic}")))
                }
                .boxed()
            })
            .await?;
        Ok(!positions.is_empty())
    }

    /// Forgets a partition; the next flush of it takes it over again.
    pub fn forget(&mut self, source: &SourcePartition) {
        self.known.remove(source);
        self.owners.remove(source);
    }

    async fn last_seen(&self, source: &SourcePartition, next: Option<Next>) -> Result<Option<Seen>> {
        let packed = self.stored(Target::Events, &last_key(source, &self.pipeline)).await?;
        Ok(next.zip(packed).map(|(next, packed)| unpack(packed, next)))
    }

    /// Reads the logs of both tables to their ends.
    async fn refresh(&self) -> Result<()> {
        for target in [Target::Letters, Target::Events] {
            let name = target.name();
            self.patiently(name, || {
                async move {
                    let refreshed = self.table(target).refresh().await;
                    refreshed.map(drop).map_err(Error::lake(format!("read the log of bronze.{name}")))
                }
                .boxed()
            })
            .await?;
        }
        Ok(())
    }

    /// The positions of a partition, as of the last refresh.
    async fn read_positions(&self, source: &SourcePartition) -> Result<Known> {
        let key = source.position_key(&self.pipeline);
        let events = self.stored(Target::Events, &key).await?.map(Next);
        let letters = self.stored(Target::Letters, &key).await?.map(Next);
        let from = events.unwrap_or(Next(0));
        let settled = match letters {
            Some(until) if until > from => {
                self.patiently(DEAD_LETTERS.name, || {
                    async move {
                        let found = self.lake.letters_in(source, from, until).await;
                        found.map_err(Error::lake(format!("read the dead letters of {source}")))
                    }
                    .boxed()
                })
                .await?
            }
            _ => BTreeSet::new(),
        };
        Ok(Known { events, letters, settled })
    }

    /// Writes a buffer: dead letters, then events and positions. Nothing of it is published twice, whatever happens.
    ///
    /// # Errors
    /// When a passing fault outlasted the retries, the store refuses, or another writer keeps moving the same positions.
    /// Then positions stand where they stood, and what was read since is read again after a restart.
    #[tracing::instrument(name = "ingest.flush", skip_all, fields(rows = buffer.rows(), bytes = buffer.bytes()))]
    pub async fn flush(&mut self, buffer: Buffer) -> Result<Flushed> {
        let started = Instant::now();
        let bytes = buffer.bytes() as u64;
        let mut parts = buffer.parts;
        let mut done = Flushed { version: self.events.version(), ..Flushed::default() };
        let strangers: Vec<_> = parts.keys().filter(|source| !self.owners.contains_key(*source)).cloned().collect();
        self.resume_all(&strangers).await?;
        for attempt in 0.. {
            self.retain_owned(&mut parts);
            self.settle(&mut parts, &mut done).await?;
            if parts.is_empty() {
                break;
            }
            if attempt == MOST_CONFLICTS {
                return Err(Error::Conflict(format!(
                    "other writers moved the positions of pipeline `{}` {MOST_CONFLICTS} times during one flush; \
                     is another process outside this consumer group running under the same pipeline name?",
                    self.pipeline
                )));
            }
            if !self.commit_letters(&mut parts, &mut done).await? {
                continue;
            }
            self.retain_owned(&mut parts);
            if self.commit_events(&mut parts, &mut done).await? {
                break;
            }
        }
        if !done.taken.is_empty() {
            let taken: Vec<_> = done.taken.into_iter().collect();
            return Err(Error::Conflict(format!(
                "another process has taken over {} of pipeline `{}`; this one stops writing. Give each process that reads \
                 the same topics on its own another --pipeline, or let them share one consumer group",
                list(&taken),
                self.pipeline
            )));
        }
        self.metrics.flushed(started.elapsed(), bytes);
        Ok(done)
    }

    /// Drops the parts of partitions that were given up since they were read.
    fn retain_owned(&self, parts: &mut BTreeMap<SourcePartition, Part>) {
        let Some(ownership) = &self.ownership else { return };
        let ownership = ownership.lock().unwrap_or_else(PoisonError::into_inner);
        parts.retain(|source, part| {
            let owned = part.epoch.is_none_or(|epoch| ownership.may_publish(source, epoch));
            if !owned {
                self.metrics.dropped("no_longer_owned", part.rows() as u64);
                info!(partition = %source, rows = part.rows(), "dropped uncommitted rows of a partition that was given up");
            }
            owned
        });
    }

    /// Takes out of the parts what the tables hold already, and what another process has taken over.
    async fn settle(&mut self, parts: &mut BTreeMap<SourcePartition, Part>, done: &mut Flushed) -> Result<()> {
        // Something moved since: by this process (a lost answer), or by the next owner.
        let moved: Vec<_> = parts.keys().filter(|source| !self.known.contains_key(*source)).cloned().collect();
        if !moved.is_empty() {
            self.refresh().await?;
        }
        for source in moved {
            let mine = self.owners.get(&source).copied();
            if self.owner(Target::Letters, &source).await? != mine || self.owner(Target::Events, &source).await? != mine
            {
                parts.remove(&source);
                done.taken.insert(source);
                continue;
            }
            let known = self.read_positions(&source).await?;
            self.known.insert(source, known);
        }
        parts.retain(|source, part| {
            let Some(known) = self.known.get(source) else { return true };
            let stored = known.events.unwrap_or(Next(i64::MIN));
            if self.ledger.is_some() && part.events.iter().any(|row| row.offset < stored.0) {
                // In the table since an earlier attempt whose answer was lost.
                let _ = done.told.insert(source.clone(), None);
            }
            part.events.retain(|row| row.offset >= stored.0 && !known.settled.contains(&row.offset));
            part.letters.retain(|row| row.offset >= stored.0 && !known.settled.contains(&row.offset));
            let advances = part.to > stored || (part.to == stored && part.idle);
            if !advances {
                done.positions.insert(source.clone(), stored);
            }
            advances
        });
        Ok(())
    }

    /// Commits the dead letters of the parts, if there are any. False when a position had moved: settle and come again.
    async fn commit_letters(
        &mut self,
        parts: &mut BTreeMap<SourcePartition, Part>,
        done: &mut Flushed,
    ) -> Result<bool> {
        let mut advances: Vec<Advance> = Vec::new();
        let mut letters: Vec<LetterRow> = Vec::new();
        let mut bounds: Vec<(SourcePartition, Next, Vec<i64>)> = Vec::new();
        for (source, part) in parts.iter_mut().filter(|(_, part)| !part.letters.is_empty()) {
            let from = self.known.get(source).and_then(|known| known.letters);
            // Grows in every case, so that a lost answer can be told from a commit that never was.
            let to = from.map_or(part.to, |from| part.to.max(Next(from.0 + 1)));
            advances.push(Advance {
                key: source.position_key(&self.pipeline),
                from: from.map(|from| from.0),
                to: to.0,
            });
            advances.extend(self.still_mine(source));
            bounds.push((source.clone(), to, part.letters.iter().map(|row| row.offset).collect()));
            letters.append(&mut part.letters);
        }
        if letters.is_empty() {
            return Ok(true);
        }
        let batches = batches(&letters, LetterRow::size, rows::letters_batch)?;
        let request = CommitRequest { batches, advances, watermarks: Vec::new(), metadata: self.metadata() };
        match self.append(Target::Letters, &request).await? {
            Appended::Written(_) => {
                for row in &letters {
                    self.metrics.refused(&row.topic, row.class);
                }
                done.letters += letters.len() as u64;
                for (source, to, offsets) in bounds {
                    self.metrics.records(&source.topic, RecordOutcome::DeadLetter, offsets.len() as u64, 0);
                    let known = self.known.entry(source).or_default();
                    known.letters = Some(to);
                    known.settled.extend(offsets);
                }
                Ok(true)
            }
            // The span may be mine (a lost answer) or a twin's: which records became letters is read back from the table.
            Appended::Moved => {
                for row in letters {
                    let source = SourcePartition::new(row.topic.clone(), row.partition);
                    self.known.remove(&source);
                    if let Some(part) = parts.get_mut(&source) {
                        part.letters.push(row);
                    }
                }
                Ok(false)
            }
        }
    }

    /// Commits the events and positions of the parts. False when a position had moved: settle and come again.
    async fn commit_events(&mut self, parts: &mut BTreeMap<SourcePartition, Part>, done: &mut Flushed) -> Result<bool> {
        if parts.is_empty() {
            return Ok(true);
        }
        let mut advances = Vec::new();
        let mut watermarks = Vec::new();
        for (source, part) in parts.iter() {
            let from = self.known.get(source).and_then(|known| known.events);
            advances.push(Advance {
                key: source.position_key(&self.pipeline),
                from: from.map(|from| from.0),
                to: part.to.0,
            });
            advances.extend(self.still_mine(source));
            if let Some(newest) = part.newest {
                watermarks.push((source.watermark_key(), self.watermark(newest)));
            }
            if let Some(last) = part.last {
                watermarks.push((last_key(source, &self.pipeline), pack(last, part.to)));
            }
            if part.newest.is_some() || part.idle {
                watermarks.push((idle_key(source), i64::from(part.idle)));
            }
        }
        let mut rows_of_parts = Vec::new();
        for part in parts.values() {
            rows_of_parts.extend(batches(&part.events, EventRow::size, rows::events_batch)?);
        }
        let acknowledged = self.acknowledged();
        watermarks.extend(self.signal_positions(&acknowledged));
        let request = CommitRequest { batches: rows_of_parts, advances, watermarks, metadata: self.metadata() };
        match self.append(Target::Events, &request).await? {
            Appended::Written(version) => {
                done.version = version;
                self.noted(acknowledged);
                for (source, part) in std::mem::take(parts) {
                    self.committed(source.clone(), &part, done);
                    if self.ledger.is_some() {
                        let told = part.events.into_iter().filter(|row| Telling::tells(row.kind));
                        let told = Some(told.map(Telling::from).collect());
                        let _ = done.told.entry(source).or_insert(told);
                    }
                }
                Ok(true)
            }
            Appended::Moved => {
                for source in parts.keys() {
                    self.known.remove(source);
                }
                Ok(false)
            }
        }
    }

    /// Takes note of a part whose events and position are committed.
    fn committed(&mut self, source: SourcePartition, part: &Part, done: &mut Flushed) {
        let topic = &source.topic;
        self.metrics.records(topic, RecordOutcome::Stored, part.events.len() as u64, part.payload_bytes);
        self.metrics.records(topic, RecordOutcome::Duplicate, part.duplicates, 0);
        self.metrics.records(topic, RecordOutcome::Tombstone, part.tombstones, 0);
        for kind in part.events.iter().filter_map(|row| row.clock_skew) {
            self.metrics.skewed(topic, kind);
        }
        done.events += part.events.len() as u64;
        done.duplicates += part.duplicates;
        done.tombstones += part.tombstones;
        done.positions.insert(source.clone(), part.to);
        let known = self.known.entry(source).or_default();
        known.events = Some(part.to);
        known.settled = known.settled.split_off(&part.to.0);
    }

    /// Milliseconds since 1970 before which no more events are expected, given the newest.
    fn watermark(&self, newest: Micros) -> i64 {
        let disorder = i64::try_from(self.allowed_disorder.as_micros()).unwrap_or(i64::MAX);
        newest.saturating_sub(disorder).div_euclid(1_000)
    }

    fn metadata(&self) -> serde_json::Map<String, serde_json::Value> {
        let mut metadata = serde_json::Map::new();
        metadata.insert("uptake.pipeline".to_owned(), self.pipeline.clone().into());
        metadata.insert("uptake.version".to_owned(), self.version.clone().into());
        metadata
    }
}

/// An error and what caused it, in one line.
pub(crate) fn source_chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text.push_str(": ");
        text.push_str(&cause.to_string());
        source = cause.source();
    }
    text
}

fn list(sources: &[SourcePartition]) -> String {
    sources.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
}
