//! Every metric with its meaning. `infra/metrics.md` is made from it, and a test compares it with the source of the crates.

/// What a metric counts or measures.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Unit {
    /// Things.
    Count,
    /// Bytes.
    Bytes,
    /// Seconds.
    Seconds,
}

impl Unit {
    /// The unit as UCUM writes it.
    pub(crate) fn symbol(self) -> &'static str {
        match self {
            Self::Count => "1",
            Self::Bytes => "By",
            Self::Seconds => "s",
        }
    }

    /// Upper bounds of a histogram's buckets.
    pub(crate) fn boundaries(self) -> Vec<f64> {
        match self {
            Self::Count => vec![1.0, 4.0, 16.0, 64.0, 256.0, 1_024.0, 4_096.0, 16_384.0, 65_536.0, 262_144.0],
            Self::Bytes => (10..=30).step_by(2).map(|power| f64::from(1_u32 << power)).collect(),
            Self::Seconds => {
                vec![0.001, 0.005, 0.01, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0, 1_800.0]
            }
        }
    }
}

/// How a metric moves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Instrument {
    /// Only up.
    Counter,
    /// Up and down.
    Gauge,
    /// A distribution.
    Histogram,
}

/// One metric.
#[derive(Debug)]
#[cfg_attr(not(test), expect(dead_code, reason = "kind and labels are for the page, which a test makes"))]
pub(crate) struct Metric {
    /// Name of the instrument.
    pub(crate) name: &'static str,
    /// How it moves.
    pub(crate) instrument: Instrument,
    /// Its unit.
    pub(crate) unit: Unit,
    /// Attributes, each of few values.
    pub(crate) labels: &'static [&'static str],
    /// What it means.
    pub(crate) meaning: &'static str,
}

/// The metric of that name.
pub(crate) fn find(name: &str) -> Option<&'static Metric> {
    METRICS.iter().find(|metric| metric.name == name)
}

const fn metric(
    name: &'static str,
    instrument: Instrument,
    unit: Unit,
    labels: &'static [&'static str],
    meaning: &'static str,
) -> Metric {
    Metric { name, instrument, unit, labels, meaning }
}

use Instrument::{Counter, Gauge, Histogram};
use Unit::{Bytes, Count, Seconds};

/// All metrics, by name.
pub(crate) static METRICS: &[Metric] = &[
    metric("ingest_broker_errors_total", Counter, Count, &["kind"], "errors that the Kafka client reports, by kind"),
    metric("ingest_broker_reachable", Gauge, Count, &[], "1 while a broker answers, else 0"),
    metric("ingest_buffer_bytes", Gauge, Bytes, &[], "rows in memory that no commit holds yet"),
    metric(
        "ingest_bytes_total",
        Counter,
        Bytes,
        &["topic", "outcome"],
        "payload bytes consumed, by what became of the record",
    ),
    metric(
        "ingest_clock_skew_total",
        Counter,
        Count,
        &["topic", "kind"],
        "events with an implausible time, stored all the same: future or ancient",
    ),
    metric(
        "ingest_commit_conflicts_total",
        Counter,
        Count,
        &["table", "kind"],
        "commits that found another position than expected, by kind",
    ),
    metric("ingest_commit_retries_total", Counter, Count, &["table"], "commits tried again after a passing fault"),
    metric("ingest_commit_seconds", Histogram, Seconds, &["table"], "one append to one table: encode, upload, commit"),
    metric(
        "ingest_dropped_uncommitted_total",
        Counter,
        Count,
        &["reason"],
        "records dropped uncommitted and left to be read again, by reason",
    ),
    metric("ingest_event_time_lag_seconds", Gauge, Seconds, &["topic"], "now less the latest event time stored"),
    metric("ingest_flush_bytes", Histogram, Bytes, &[], "rows in memory that one flush wrote"),
    metric("ingest_flush_seconds", Histogram, Seconds, &[], "one flush, from taking the buffer to the commit"),
    metric(
        "ingest_group_commits_total",
        Counter,
        Count,
        &["result"],
        "commits to Kafka's group, for lag tools: succeeded or failed",
    ),
    metric(
        "ingest_lag_records",
        Gauge,
        Count,
        &["topic", "partition"],
        "records between the reader and the end of the partition",
    ),
    metric(
        "ingest_late_events_total",
        Counter,
        Count,
        &["topic"],
        "events older than the watermark, stored all the same",
    ),
    metric("ingest_letters_total", Counter, Count, &["topic", "class"], "records refused, by reason"),
    metric("ingest_paused_partitions", Gauge, Count, &[], "partitions paused at the memory bound"),
    metric("ingest_pauses_total", Counter, Count, &[], "times a partition was paused at the memory bound"),
    metric("ingest_rebalances_total", Counter, Count, &["kind"], "times partitions were assigned, revoked or lost"),
    metric(
        "ingest_records_total",
        Counter,
        Count,
        &["topic", "outcome"],
        "records consumed: stored, duplicate, dead_letter or tombstone",
    ),
    metric(
        "ingest_signal_seconds",
        Histogram,
        Seconds,
        &[],
        "from the broker's time of the record that completes a follow-up to the acknowledged signal",
    ),
    metric("ingest_signals_context_bytes", Gauge, Bytes, &[], "recent turns in memory, context of follow-ups to come"),
    metric(
        "ingest_signals_evicted_total",
        Counter,
        Count,
        &[],
        "conversations that the store of recent turns has forgotten at its bound",
    ),
    metric(
        "ingest_signals_looked_up_total",
        Counter,
        Count,
        &[],
        "conversations whose context was read from the tables",
    ),
    metric(
        "ingest_signals_read_back_total",
        Counter,
        Count,
        &[],
        "records read back from the tables to be tagged: after a restart, or because the queue was full",
    ),
    metric("ingest_signals_retries_total", Counter, Count, &["step"], "steps tried again: tables, tagger or publish"),
    metric(
        "ingest_signals_skipped_total",
        Counter,
        Count,
        &["reason"],
        "turns without a signal: unreadable, without_response, another_follows, repeated or too_long",
    ),
    metric("ingest_signals_total", Counter, Count, &[], "signals that the broker has acknowledged"),
    metric("ingest_signals_waiting_records", Gauge, Count, &[], "stored records that wait to be tagged"),
    metric(
        "ingest_skipped_offsets_total",
        Counter,
        Count,
        &["topic", "partition"],
        "offsets that hold no record (retention, compaction, transactions)",
    ),
    metric(
        "ingest_watermark_seconds",
        Gauge,
        Seconds,
        &[],
        "event time up to which events are complete, as seconds since 1970",
    ),
    metric(
        "job_dropped_rows_total",
        Counter,
        Count,
        &["job", "reason"],
        "rows that did not come through a job, by reason",
    ),
    metric("job_rows_total", Counter, Count, &["job", "table"], "rows that jobs wrote"),
    metric("job_seconds", Histogram, Seconds, &["job", "status"], "one run of a job"),
    metric(
        "label_rate_alarms",
        Gauge,
        Count,
        &[],
        "labels whose share of follow-ups left their history, on the newest days that the latest run built",
    ),
    metric(
        "schedule_run_seconds",
        Histogram,
        Seconds,
        &["job"],
        "one run of the scheduler, from its first start to its end",
    ),
    metric(
        "schedule_runs_total",
        Counter,
        Count,
        &["job", "state"],
        "runs of the scheduler by how they ended: succeeded, failed, refused, cancelled, missed, or queued for another try",
    ),
    metric("table_files", Gauge, Count, &["table"], "live files of a table"),
    metric(
        "table_small_files",
        Gauge,
        Count,
        &["table"],
        "live files under 32 MiB: time to compact when they are many",
    ),
    metric("table_version", Gauge, Count, &["table"], "Delta version of a table"),
    metric("tagger_batch_rows", Histogram, Count, &[], "follow-ups handed to the tagger at a time"),
    metric("tagger_batch_seconds", Histogram, Seconds, &[], "time that the tagger took for them"),
];

/// The page that operators read.
#[cfg(test)]
pub(crate) fn page() -> String {
    use std::fmt::Write as _;

    let mut text = String::from(
        "# Metrics\n\n\
         Generated from `crates/app/src/telemetry/inventory.rs`; a test compares the two.\n\n\
         OTLP carries the names as they stand here (`telemetry.otlp_endpoint`); Prometheus sees them with `uptake_` in \
         front\n(`telemetry.listen`, path `/metrics`). Histograms have the usual `_bucket`, `_sum` and `_count`.\n\n\
         | name | kind | unit | labels | meaning |\n|---|---|---|---|---|\n",
    );
    for metric in METRICS {
        let kind = format!("{:?}", metric.instrument).to_lowercase();
        let unit = format!("{:?}", metric.unit).to_lowercase();
        let labels = metric.labels.iter().map(|label| format!("`{label}`")).collect::<Vec<_>>().join(", ");
        let _ = writeln!(text, "| `{}` | {kind} | {unit} | {labels} | {} |", metric.name, metric.meaning);
    }
    text.push_str(
        "\n## Health\n\n\
         `/live` answers 200 while the loop of the command turns, else 503: restart it. `/ready` answers 200 once it does \
         its work, or\nhas none by right (more members than partitions); 503 while it starts, or cannot reach what it needs. \
         Both say why, a line a part.\nLag is a metric, never a probe.\n",
    );
    text
}
