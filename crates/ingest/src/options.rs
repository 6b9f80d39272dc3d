//! What a consumer is told, checked against each other before anything starts.

use std::collections::BTreeMap;
use std::time::Duration;

use uptake_model::contract::Contract;
use uptake_model::decode::Edge;
use uptake_model::time::Micros;
pub use uptake_progress::flush::Limits;

use crate::bronze::Retries;
use crate::error::{Error, Result};

/// Where a partition without a stored position begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum StartAt {
    /// At the first record that the broker holds.
    #[default]
    Earliest,
    /// Behind the last record. A partition that is added to a known topic still begins at its first record.
    Latest,
    /// At the first record that the broker took at or after this time.
    Time(Micros),
}

/// What a consumer is told.
#[derive(Debug, Clone)]
pub struct ConsumeOptions {
    /// Topics and the contract that each follows.
    pub topics: BTreeMap<String, Contract>,
    /// librdkafka properties as they are (`bootstrap.servers`, `security.protocol`, `sasl.*`, `ssl.*`, …).
    pub kafka: BTreeMap<String, String>,
    /// Consumer group.
    pub group: String,
    /// Name under which positions are kept.
    pub pipeline: String,
    /// Where a partition without a stored position begins.
    pub start: StartAt,
    /// Go on behind records that retention deleted before they were read, instead of refusing.
    pub skip_lost_records: bool,
    /// End when the ends of the start are reached.
    pub until_end: bool,
    /// Bytes that the process may hold: rows, the copy that a flush makes of them, and librdkafka's queues.
    pub memory: u64,
    /// When the buffer is written.
    pub flush: Limits,
    /// How long a shutdown or a revoke may take to write what is held.
    pub drain_deadline: Duration,
    /// Events may come this late without being behind the watermark.
    pub allowed_disorder: Duration,
    /// A partition that is silent for this long does not hold the watermark back.
    pub idle_after: Duration,
    /// Stop when more than this share of the last records of a topic is bad; one or more switches it off.
    pub max_bad_share: f64,
    /// How many records that share is taken over.
    pub bad_window: usize,
    /// How many event ids of a partition are remembered; zero switches it off.
    pub id_window: usize,
    /// The secret and the bounds of decoding.
    pub edge: Edge,
    /// How passing faults of the store are tried again.
    pub retries: Retries,
}

/// How the memory is split.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MemorySplit {
    /// Rows held, buffered or being written: the hard bound.
    pub rows: u64,
    /// librdkafka's queue of fetched messages.
    pub queue: u64,
    /// One fetch response.
    pub fetch: u64,
}

const MIB: u64 = 1 << 20;

impl ConsumeOptions {
    /// Options with the defaults of the settings.
    pub fn new(bootstrap_servers: &str, topics: BTreeMap<String, Contract>, edge: Edge) -> Self {
        Self {
            topics,
            kafka: BTreeMap::from([("bootstrap.servers".to_owned(), bootstrap_servers.to_owned())]),
            group: "uptake".to_owned(),
            pipeline: "consume".to_owned(),
            start: StartAt::Earliest,
            skip_lost_records: false,
            until_end: false,
            memory: 256 * MIB,
            flush: Limits { bytes: 64 * MIB, rows: 200_000, age: Duration::from_mins(1) },
            drain_deadline: Duration::from_secs(20),
            allowed_disorder: Duration::from_mins(10),
            idle_after: Duration::from_mins(5),
            max_bad_share: 0.5,
            bad_window: 1_000,
            id_window: 20_000,
            edge,
            retries: Retries::default(),
        }
    }

    /// How the memory is split: an eighth each for librdkafka's queue and one fetch, a flush's worth for the copy that
    /// encoding makes, and the rest for rows.
    pub fn memory_split(&self) -> MemorySplit {
        let queue = (self.memory / 8).clamp(MIB, 64 * MIB);
        let fetch = (self.memory / 8).clamp(MIB, 50 * MIB);
        MemorySplit { rows: self.memory.saturating_sub(queue + fetch + self.flush.bytes), queue, fetch }
    }

    /// Checks everything against everything.
    ///
    /// # Errors
    /// [`Error::Invalid`] with the settings that do not fit and what would.
    pub fn check(&self) -> Result<()> {
        if self.topics.is_empty() {
            return invalid(
                "no topics: say --topic CONTRACT=TOPIC, or set them under [ingest.topics], for example `\"chat.messages\" = \"messages\"`",
            );
        }
        if !self.kafka.contains_key("bootstrap.servers") {
            return invalid("no broker: say --brokers HOST:PORT, or set `bootstrap.servers` under [kafka]");
        }
        if self.group.is_empty() {
            return invalid("ingest.group must not be empty");
        }
        if self.memory < 8 * MIB || self.flush.bytes > self.memory / 4 {
            return invalid(&format!(
                "ingest.memory ({} bytes) must be at least 8MiB and four times ingest.flush_bytes ({} bytes): one flush is \
                 written while the next fills, and encoding makes a copy",
                self.memory, self.flush.bytes
            ));
        }
        if self.flush.bytes == 0 || self.flush.rows == 0 || self.flush.age.is_zero() {
            return invalid("ingest.flush_bytes, ingest.flush_rows and ingest.flush_age must be greater than zero");
        }
        if self.max_bad_share.is_nan() || self.max_bad_share <= 0.0 || self.bad_window == 0 {
            return invalid("ingest.max_bad_share and ingest.bad_window must be greater than zero");
        }
        self.check_deadlines()
    }

    /// The drain must end before the group gives the member up, and that before it must poll again.
    fn check_deadlines(&self) -> Result<()> {
        let session = self.milliseconds("session.timeout.ms", 45_000)?;
        let poll = self.milliseconds("max.poll.interval.ms", 300_000)?;
        if self.drain_deadline >= session {
            return invalid(&format!(
                "ingest.drain_deadline ({:?}) must be shorter than session.timeout.ms ({session:?}): otherwise another \
                 member takes the partitions while this one still writes; shorten the first or raise the second",
                self.drain_deadline
            ));
        }
        if session > poll {
            return invalid(&format!(
                "session.timeout.ms ({session:?}) must not be longer than max.poll.interval.ms ({poll:?})"
            ));
        }
        Ok(())
    }

    fn milliseconds(&self, property: &str, default: u64) -> Result<Duration> {
        let Some(text) = self.kafka.get(property) else {
            return Ok(Duration::from_millis(default));
        };
        let millis = text.parse().map_err(|_| {
            Error::Invalid(format!("[kafka] `{property}` must be a whole number of milliseconds, not `{text}`"))
        })?;
        Ok(Duration::from_millis(millis))
    }
}

fn invalid(message: &str) -> Result<()> {
    Err(Error::Invalid(message.to_owned()))
}

#[cfg(test)]
mod tests {
    use uptake_model::Pepper;

    use super::*;

    fn options() -> ConsumeOptions {
        let edge = Edge {
            pepper: Pepper::new("0123456789abcdef").unwrap(),
            max_record_bytes: 1 << 20,
            pipeline_version: "test".to_owned(),
        };
        ConsumeOptions::new("127.0.0.1:9092", BTreeMap::from([("chat".to_owned(), Contract::Messages)]), edge)
    }

    #[test]
    fn the_defaults_fit_together() {
        options().check().unwrap();
        let split = options().memory_split();
        assert!(split.rows >= 2 * options().flush.bytes, "{split:?}");
        assert_eq!(split.rows + split.queue + split.fetch + options().flush.bytes, options().memory);
    }

    #[test]
    fn what_does_not_fit_is_refused_with_the_names_of_the_settings() {
        let check = |change: &dyn Fn(&mut ConsumeOptions), expect: &str| {
            let mut options = options();
            change(&mut options);
            let message = options.check().unwrap_err().to_string();
            assert!(message.contains(expect), "{message}");
        };
        check(&|options| options.topics.clear(), "--topic");
        check(&|options| options.kafka.clear(), "bootstrap.servers");
        check(&|options| options.flush.bytes = options.memory, "ingest.flush_bytes");
        check(&|options| options.drain_deadline = Duration::from_mins(1), "session.timeout.ms");
        check(&|options| options.max_bad_share = f64::NAN, "max_bad_share");
        check(
            &|options| {
                options.kafka.insert("session.timeout.ms".to_owned(), "400000".to_owned());
            },
            "max.poll.interval.ms",
        );
        check(
            &|options| {
                options.kafka.insert("session.timeout.ms".to_owned(), "45s".to_owned());
            },
            "milliseconds",
        );
    }
}
