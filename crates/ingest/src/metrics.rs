//! The instruments of ingest, on the process's global OpenTelemetry meter. The app installs the exporters.
//!
//! Labels come from bounded sets only: topics of the configuration, partitions, outcomes and reasons of closed enums.

use std::time::Duration;

use opentelemetry::metrics::{Counter, Gauge, Histogram};
use opentelemetry::{KeyValue, global};
use uptake_model::SourcePartition;
use uptake_model::contract::ErrorClass;

/// What became of records, for `ingest_records_total` and `ingest_bytes_total`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RecordOutcome {
    /// A row of bronze `events`.
    Stored,
    /// An exact copy of an event seen in the window.
    Duplicate,
    /// A row of bronze `dead_letters`.
    DeadLetter,
    /// A null payload.
    Tombstone,
}

impl RecordOutcome {
    fn name(self) -> &'static str {
        match self {
            Self::Stored => "stored",
            Self::Duplicate => "duplicate",
            Self::DeadLetter => "dead_letter",
            Self::Tombstone => "tombstone",
        }
    }
}

/// Why no signal follows from a turn, for `ingest_signals_skipped_total`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SkipReason {
    /// The payload is not what its contract says: other code has stored it.
    Unreadable,
    /// Neither the store nor the tables hold the response that the follow-up answers.
    WithoutResponse,
    /// The response has another follow-up, which is the one that counts.
    AnotherFollows,
    /// The same was published before, and the record only repeats it.
    Repeated,
    /// The conversation is so long that the turn was not looked at.
    TooLong,
}

impl SkipReason {
    fn name(self) -> &'static str {
        match self {
            Self::Unreadable => "unreadable",
            Self::WithoutResponse => "without_response",
            Self::AnotherFollows => "another_follows",
            Self::Repeated => "repeated",
            Self::TooLong => "too_long",
        }
    }
}

/// The instruments of ingest.
#[derive(Debug, Clone)]
pub struct Metrics {
    records: Counter<u64>,
    bytes: Counter<u64>,
    refused: Counter<u64>,
    gaps: Counter<u64>,
    skewed: Counter<u64>,
    late: Counter<u64>,
    lag: Gauge<i64>,
    event_time_lag: Gauge<f64>,
    watermark: Gauge<f64>,
    rebalances: Counter<u64>,
    dropped: Counter<u64>,
    flush_seconds: Histogram<f64>,
    flush_bytes: Histogram<u64>,
    commit_seconds: Histogram<f64>,
    conflicts: Counter<u64>,
    retries: Counter<u64>,
    buffer_bytes: Gauge<u64>,
    paused: Gauge<u64>,
    pauses: Counter<u64>,
    group_commits: Counter<u64>,
    broker_errors: Counter<u64>,
    reachable: Gauge<u64>,
    signals: Counter<u64>,
    signal_seconds: Histogram<f64>,
    signals_skipped: Counter<u64>,
    signals_waiting: Gauge<u64>,
    signals_read_back: Counter<u64>,
    signals_looked_up: Counter<u64>,
    signals_context: Gauge<u64>,
    signals_evicted: Counter<u64>,
    signals_retries: Counter<u64>,
}

impl Metrics {
    /// The instruments, on the meter that is global now.
    pub fn global() -> Self {
        let meter = global::meter("uptake.ingest");
        // Meanings and units stand in the app's inventory of metrics; a test compares the two.
        Self {
            records: meter.u64_counter("ingest_records_total").build(),
            bytes: meter.u64_counter("ingest_bytes_total").with_unit("By").build(),
            refused: meter.u64_counter("ingest_letters_total").build(),
            gaps: meter.u64_counter("ingest_skipped_offsets_total").build(),
            skewed: meter.u64_counter("ingest_clock_skew_total").build(),
            late: meter.u64_counter("ingest_late_events_total").build(),
            lag: meter.i64_gauge("ingest_lag_records").build(),
            event_time_lag: meter.f64_gauge("ingest_event_time_lag_seconds").with_unit("s").build(),
            watermark: meter.f64_gauge("ingest_watermark_seconds").with_unit("s").build(),
            rebalances: meter.u64_counter("ingest_rebalances_total").build(),
            dropped: meter.u64_counter("ingest_dropped_uncommitted_total").build(),
            flush_seconds: meter.f64_histogram("ingest_flush_seconds").with_unit("s").build(),
            flush_bytes: meter.u64_histogram("ingest_flush_bytes").with_unit("By").build(),
            commit_seconds: meter.f64_histogram("ingest_commit_seconds").with_unit("s").build(),
            conflicts: meter.u64_counter("ingest_commit_conflicts_total").build(),
            retries: meter.u64_counter("ingest_commit_retries_total").build(),
            buffer_bytes: meter.u64_gauge("ingest_buffer_bytes").with_unit("By").build(),
            paused: meter.u64_gauge("ingest_paused_partitions").build(),
            pauses: meter.u64_counter("ingest_pauses_total").build(),
            group_commits: meter.u64_counter("ingest_group_commits_total").build(),
            broker_errors: meter.u64_counter("ingest_broker_errors_total").build(),
            reachable: meter.u64_gauge("ingest_broker_reachable").build(),
            signals: meter.u64_counter("ingest_signals_total").build(),
            signal_seconds: meter.f64_histogram("ingest_signal_seconds").with_unit("s").build(),
            signals_skipped: meter.u64_counter("ingest_signals_skipped_total").build(),
            signals_waiting: meter.u64_gauge("ingest_signals_waiting_records").build(),
            signals_read_back: meter.u64_counter("ingest_signals_read_back_total").build(),
            signals_looked_up: meter.u64_counter("ingest_signals_looked_up_total").build(),
            signals_context: meter.u64_gauge("ingest_signals_context_bytes").with_unit("By").build(),
            signals_evicted: meter.u64_counter("ingest_signals_evicted_total").build(),
            signals_retries: meter.u64_counter("ingest_signals_retries_total").build(),
        }
    }

    /// Records of a topic that came to `outcome`.
    pub fn records(&self, topic: &str, outcome: RecordOutcome, count: u64, bytes: u64) {
        if count == 0 {
            return;
        }
        let labels = [topic_label(topic), KeyValue::new("outcome", outcome.name())];
        self.records.add(count, &labels);
        if bytes > 0 {
            self.bytes.add(bytes, &labels);
        }
    }

    /// A record of a topic was refused and is stored as dead letter.
    pub fn refused(&self, topic: &str, class: ErrorClass) {
        self.refused.add(1, &[topic_label(topic), KeyValue::new("class", class.name())]);
    }

    /// Offsets that hold no record.
    pub fn gap(&self, partition: &SourcePartition, offsets: u64) {
        self.gaps.add(offsets, &partition_labels(partition));
    }

    /// An event with an implausible time.
    pub fn skewed(&self, topic: &str, kind: &'static str) {
        self.skewed.add(1, &[topic_label(topic), KeyValue::new("kind", kind)]);
    }

    /// Events older than the watermark.
    pub fn late(&self, topic: &str, count: u64) {
        self.late.add(count, &[topic_label(topic)]);
    }

    /// Records between the reader and the end of a partition.
    pub fn lag(&self, partition: &SourcePartition, records: i64) {
        self.lag.record(records, &partition_labels(partition));
    }

    /// Now less the latest event time stored.
    pub fn event_time_lag(&self, topic: &str, seconds: f64) {
        self.event_time_lag.record(seconds, &[topic_label(topic)]);
    }

    /// The overall watermark, seconds since 1970.
    pub fn watermark(&self, seconds: f64) {
        self.watermark.record(seconds, &[]);
    }

    /// Partitions were assigned, revoked or lost.
    pub fn rebalance(&self, kind: &'static str) {
        self.rebalances.add(1, &[KeyValue::new("kind", kind)]);
    }

    /// Records were dropped uncommitted; they will be read again.
    pub fn dropped(&self, reason: &'static str, records: u64) {
        self.dropped.add(records, &[KeyValue::new("reason", reason)]);
    }

    /// A flush was committed.
    pub fn flushed(&self, took: Duration, bytes: u64) {
        self.flush_seconds.record(took.as_secs_f64(), &[]);
        self.flush_bytes.record(bytes, &[]);
    }

    /// One append to one table.
    pub fn committed(&self, table: &'static str, took: Duration) {
        self.commit_seconds.record(took.as_secs_f64(), &[KeyValue::new("table", table)]);
    }

    /// A commit found another position than expected.
    pub fn conflict(&self, table: &'static str, kind: &'static str) {
        self.conflicts.add(1, &[KeyValue::new("table", table), KeyValue::new("kind", kind)]);
    }

    /// A commit is tried again.
    pub fn retry(&self, table: &'static str) {
        self.retries.add(1, &[KeyValue::new("table", table)]);
    }

    /// How many partitions are paused at the memory bound.
    pub fn paused_now(&self, paused: usize) {
        self.paused.record(paused as u64, &[]);
    }

    /// Bytes held.
    pub fn memory_used(&self, bytes: u64) {
        self.buffer_bytes.record(bytes, &[]);
    }

    /// A partition was paused at the memory bound.
    pub fn paused(&self) {
        self.pauses.add(1, &[]);
    }

    /// A commit to Kafka's group ended.
    pub fn group_commit(&self, fine: bool) {
        self.group_commits.add(1, &[KeyValue::new("result", if fine { "succeeded" } else { "failed" })]);
    }

    /// librdkafka reported an error.
    pub fn broker_error(&self, kind: &'static str) {
        self.broker_errors.add(1, &[KeyValue::new("kind", kind)]);
    }

    /// A signal is acknowledged, so long after the broker took the record that it follows from.
    pub fn signal_published(&self, seconds: Option<f64>) {
        self.signals.add(1, &[]);
        if let Some(seconds) = seconds {
            self.signal_seconds.record(seconds, &[]);
        }
    }

    /// Turns from which no signal follows, and why.
    pub fn signals_skipped(&self, reason: SkipReason, count: u64) {
        if count > 0 {
            self.signals_skipped.add(count, &[KeyValue::new("reason", reason.name())]);
        }
    }

    /// Stored records that wait to be tagged.
    pub fn signals_waiting(&self, records: u64) {
        self.signals_waiting.record(records, &[]);
    }

    /// Records whose events are read back from the tables to be tagged.
    pub fn signals_read_back(&self, records: u64) {
        self.signals_read_back.add(records, &[]);
    }

    /// Conversations whose context was read from the tables.
    pub fn signals_looked_up(&self, conversations: u64) {
        self.signals_looked_up.add(conversations, &[]);
    }

    /// How large the store of recent turns is, and how many conversations it has just forgotten.
    pub fn signals_context(&self, bytes: u64, evicted: u64) {
        self.signals_context.record(bytes, &[]);
        if evicted > 0 {
            self.signals_evicted.add(evicted, &[]);
        }
    }

    /// A step on the way to signals is tried again.
    pub fn signals_retry(&self, step: &'static str) {
        self.signals_retries.add(1, &[KeyValue::new("step", step)]);
    }

    /// Whether a broker answers.
    pub fn reachable(&self, reachable: bool) {
        self.reachable.record(u64::from(reachable), &[]);
    }
}

fn topic_label(topic: &str) -> KeyValue {
    // An imported file is a topic of its own; as a label that would have no bound.
    let topic = if topic.starts_with("file:") { "file" } else { topic };
    KeyValue::new("topic", topic.to_owned())
}

fn partition_labels(partition: &SourcePartition) -> [KeyValue; 2] {
    [topic_label(&partition.topic), KeyValue::new("partition", i64::from(partition.partition))]
}
