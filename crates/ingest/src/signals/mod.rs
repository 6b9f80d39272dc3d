//! Live signals: what a tagger reads in each follow-up, published to a topic within seconds of it.
//!
//! # Each signal once, together with the tables
//! A signal is derived from rows that are committed in bronze, never before: no signal speaks of a record that the tables
//! do not hold. How far the signals of a partition have been acknowledged is kept in the log of bronze `events` beside the
//! partition's position, with the next commit, as `signals/<signals topic>/<pipeline>/<topic>/<partition>`. Whoever reads
//! the partition next (a restart after `kill -9`, another member of the group) takes what lies between that and the
//! position from the tables, not from Kafka, and publishes it.
//!
//! So a signal may be published again, but never lost, and a repeat is harmless: its id is a hash of the key of
//! `silver.signals` (response, follow-up, tagger), and the same texts give the same bytes. Readers that keep ids they have
//! seen, or a compacted topic keyed by the id (`signals.key = "signal"`), see each once. The producer is idempotent and
//! waits for all replicas. The nightly job writes the row of the same key and the same `input_hash`.
//!
//! Kafka's transactions are not used, because they could not give more: they are atomic over Kafka's topics and offsets,
//! while the positions that count here are in Delta's log. A crash between the two commits would still repeat a
//! transaction, so readers would need the ids all the same; and every reader would have to read committed records only,
//! delayed by the length of a transaction.
//!
//! # Context
//! A follow-up is read with the messages before it. A gateway's log line holds them itself. For single messages they come
//! from a store of recent turns, bounded in bytes and conversations, the longest unused forgotten first and counted; a
//! conversation that is not in it from its first turn on is read from bronze, by conversation and only in files of days
//! since it began. Of what was told twice, and of which turn follows which, the same code decides as in the jobs
//! ([`uptake_model::tree::resolve`]). All messages of a conversation must share a partition (its id as the key), as their
//! order needs it anyway; what was told in another process's partition is found in the tables when its absence shows, and
//! else only by the nightly job.
//!
//! # Never in the way
//! Consuming and committing never wait for tagging. Committed rows go into a queue that is bounded in bytes; one thread
//! takes them out, tags them (the tagger's own threads do the work) and publishes. When the queue is full, spans are queued
//! without their rows, which are read back from the tables later: at overload signals come late, none is dropped. A
//! broker that refuses, a store that fails, a tagger that errs: tried again with growing pauses, logged, counted. On
//! SIGTERM what waits is published within the drain deadline; the rest is left to the next start.
//!
//! Core types, one line each:
//! - [`Score`]: what is asked of a tagger; this crate knows none.
//! - [`Tagging`], [`SignalsOptions`]: what is published where, by whom, within which bounds.
//! - `context::Store`: recent turns; `queue::Queue`: spans that wait; `Ledger`: how far each partition has come.

mod context;
mod ledger;
mod queue;
mod worker;

use std::fmt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::Notify;
use uptake_lake::{Lake, Tellings};
use uptake_model::facts::Telling;
use uptake_model::labels::OUTPUTS;
use uptake_model::{Next, SourcePartition};

use crate::error::{Error, Result};
use crate::kafka::Publisher;
use crate::metrics::Metrics;
use crate::options::ConsumeOptions;

pub use context::StoreLimits;
pub(crate) use ledger::Ledger;
use queue::{Queue, Waiting};

/// A follow-up with what came before it.
#[derive(Debug, Clone, Copy)]
pub struct FollowUp<'a> {
    /// Messages before the response as (role, text), oldest first, at most [`Score::looks_back`].
    pub before: &'a [(String, String)],
    /// The response.
    pub response: &'a str,
    /// What the user said next.
    pub follow_up: &'a str,
}

/// Scores of one follow-up.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Scored {
    /// Probabilities in the order of the outputs ([`uptake_model::labels`]).
    pub probabilities: [f32; OUTPUTS],
    /// Which of them reach their thresholds.
    pub fires: [bool; OUTPUTS],
}

/// What is asked of a tagger.
pub trait Score: fmt::Debug + Send + Sync + 'static {
    /// The version that goes into every signal.
    fn version(&self) -> &str;

    /// Messages before the response that it reads, at most.
    fn looks_back(&self) -> usize;

    /// Scores follow-ups in their order; a score depends on its follow-up alone. Takes processor time; never called on an
    /// async thread.
    ///
    /// # Errors
    /// A sentence, when the tagger cannot work at all; no text is an error.
    fn score(&self, follow_ups: &[FollowUp<'_>]) -> Result<Vec<Scored>, String>;
}

/// What the key of a published signal is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum SignalKey {
    /// The conversation: its signals share a partition.
    #[default]
    Conversation,
    /// The signal's id: a compacted topic keeps each once.
    Signal,
}

/// Where signals are published, and within which bounds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SignalsOptions {
    /// Topic.
    pub topic: String,
    /// Key of the records.
    pub key: SignalKey,
    /// Bounds of the store of recent turns.
    pub store: StoreLimits,
    /// Bytes of events that may wait to be tagged in memory.
    pub queue_bytes: u64,
    /// A flush is due when the oldest record has waited for so long: signals follow the commit.
    pub flush_age: Duration,
}

impl Default for SignalsOptions {
    fn default() -> Self {
        Self {
            topic: "uptake.signals".to_owned(),
            key: SignalKey::Conversation,
            store: StoreLimits { bytes: 64 << 20, conversations: 100_000 },
            queue_bytes: 32 << 20,
            flush_age: Duration::from_secs(1),
        }
    }
}

impl SignalsOptions {
    /// Checks them against those of the consumer.
    ///
    /// # Errors
    /// [`Error::Invalid`] with the setting and what would fit.
    pub fn check(&self, options: &ConsumeOptions) -> Result<()> {
        let fits = !self.topic.is_empty()
            && self.topic.len() <= 249
            && self.topic.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"._-".contains(&byte));
        if !fits {
            return Err(Error::Invalid(format!(
                "signals.topic: `{}` is no name of a topic; use up to 249 letters, digits, `.`, `_` and `-`",
                self.topic
            )));
        }
        if options.topics.contains_key(&self.topic) {
            return Err(Error::Invalid(format!(
                "signals.topic: `{}` is consumed by the same command; signals need a topic of their own",
                self.topic
            )));
        }
        if self.store.bytes < 1 << 20 || self.store.conversations == 0 {
            return Err(Error::Invalid(
                "signals.store_bytes must be at least 1MiB and signals.store_conversations at least 1".to_owned(),
            ));
        }
        if self.queue_bytes < 1 << 20 {
            return Err(Error::Invalid("signals.queue_bytes must be at least 1MiB".to_owned()));
        }
        if self.flush_age.is_zero() {
            return Err(Error::Invalid("signals.flush_age must be greater than zero".to_owned()));
        }
        Ok(())
    }
}

/// Who tags, and where the signals go.
#[derive(Debug, Clone)]
pub struct Tagging {
    /// Where, and within which bounds.
    pub options: SignalsOptions,
    /// Who.
    pub scorer: Arc<dyn Score>,
}

/// What the consumer and the tagging thread share.
struct Shared {
    state: Mutex<State>,
    /// Told when there is something to do.
    wake: Condvar,
    /// Told when nothing is left to do, or nobody is left to do it.
    emptied: Notify,
    stop: AtomicBool,
    ended: AtomicBool,
    ledger: Arc<Ledger>,
    metrics: Metrics,
}

struct State {
    queue: Queue,
    /// The records that are being tagged.
    in_hand: u64,
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn is_stopped(&self) -> bool {
        self.stop.load(Ordering::Acquire)
    }
}

/// The consumer's end of the tagging thread; the thread ends when it is dropped.
pub(crate) struct Signals {
    shared: Arc<Shared>,
}

impl Signals {
    /// Looks whether the topic is there, and starts the thread.
    ///
    /// # Errors
    /// Settings that do not fit, a topic that is missing or denied, a lake that cannot be read.
    pub(crate) async fn start(
        options: &ConsumeOptions,
        tagging: Tagging,
        lake: &Lake,
        metrics: &Metrics,
    ) -> Result<Self> {
        tagging.options.check(options)?;
        let publisher = Publisher::new(options, &tagging.options.topic, metrics)?;
        let checked = tokio::task::spawn_blocking(move || publisher.check().map(|()| publisher)).await;
        let publisher = checked
            .map_err(|error| Error::Bug(format!("looking at the topic for signals ended abnormally: {error}")))??;
        let tellings = Tellings::open(lake).await.map_err(Error::lake("open the table bronze.events"))?;
        let shared = Arc::new(Shared {
            state: Mutex::new(State { queue: Queue::new(tagging.options.queue_bytes), in_hand: 0 }),
            wake: Condvar::new(),
            emptied: Notify::new(),
            stop: AtomicBool::new(false),
            ended: AtomicBool::new(false),
            ledger: Arc::new(Ledger::new(&tagging.options.topic)),
            metrics: metrics.clone(),
        });
        worker::spawn(Arc::clone(&shared), tagging, publisher, tellings)?;
        Ok(Self { shared })
    }

    /// How far each partition has come.
    pub(crate) fn ledger(&self) -> Arc<Ledger> {
        Arc::clone(&self.shared.ledger)
    }

    /// A partition comes: what is stored in `[from, to)` waits still.
    pub(crate) fn assign(&self, source: &SourcePartition, from: Next, to: Next) {
        if from < to {
            let records = to.0.abs_diff(from.0);
            tracing::info!(partition = %source, records, "signals go on where they were left, from the tables");
            self.shared.metrics.signals_read_back(records);
        }
        self.shared.state().queue.assign(source, from, to);
        self.shared.wake.notify_all();
    }

    /// Takes what was stored of a partition up to `to`.
    pub(crate) fn put(&self, source: &SourcePartition, to: Next, told: Option<Vec<Telling>>) {
        let read_back = self.shared.state().queue.put(source, to, told);
        if read_back > 0 {
            self.shared.metrics.signals_read_back(read_back);
        }
        self.shared.wake.notify_all();
    }

    /// Partitions go: what waits of them is left to their next owner.
    pub(crate) fn release(&self, sources: &[SourcePartition]) {
        let mut state = self.shared.state();
        for source in sources {
            state.queue.release(source);
            self.shared.ledger.release(source);
        }
    }

    /// Records that wait, or are being tagged.
    pub(crate) fn waiting(&self) -> u64 {
        let state = self.shared.state();
        state.queue.records() + state.in_hand
    }

    /// Whether the thread has ended although nobody asked it to.
    pub(crate) fn has_ended(&self) -> bool {
        self.shared.ended.load(Ordering::Acquire) && !self.shared.is_stopped()
    }

    /// Resolves when nothing waits any more, or nobody is left to do it.
    pub(crate) async fn emptied(&self) {
        loop {
            let told = self.shared.emptied.notified();
            if self.waiting() == 0 || self.shared.ended.load(Ordering::Acquire) {
                return;
            }
            told.await;
        }
    }
}

impl Drop for Signals {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::Release);
        self.shared.wake.notify_all();
    }
}

/// Events of several spans that are taken together: what one flush stores of many partitions is tagged and published at once.
const TAKEN_TOGETHER: usize = 1_024;

/// What is done next.
fn take(state: &mut State) -> Vec<Waiting> {
    let mut taken: Vec<Waiting> = Vec::new();
    let mut events = 0;
    while events < TAKEN_TOGETHER
        && let Some(waiting) = state.queue.take()
    {
        // One that is read back is a lot by itself.
        events += waiting.told.as_ref().map_or(TAKEN_TOGETHER, Vec::len);
        taken.push(waiting);
    }
    state.in_hand = taken.iter().map(|waiting| waiting.to.0.abs_diff(waiting.from.0)).sum();
    taken
}
