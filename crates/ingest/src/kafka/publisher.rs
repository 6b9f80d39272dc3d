//! Writing to a topic: an idempotent producer that says of every record whether the broker has it.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use rdkafka::ClientContext;
use rdkafka::config::{ClientConfig, RDKafkaLogLevel};
use rdkafka::error::{KafkaError, RDKafkaErrorCode as Code};
use rdkafka::message::{Header, OwnedHeaders};
use rdkafka::producer::{BaseProducer, BaseRecord, DeliveryResult, Producer, ProducerContext};
use tracing::{debug, warn};
use uptake_model::time::Micros;

use super::config;
use crate::error::{Error, Result};
use crate::metrics::Metrics;
use crate::options::ConsumeOptions;

/// How long the broker may take to tell of a topic.
const METADATA_TIMEOUT: Duration = Duration::from_secs(5);

/// How long a topic may take to appear; some brokers make topics that are asked for.
const APPEARS_WITHIN: Duration = Duration::from_secs(3);

/// How long one look for deliveries takes: the client looks for all of that time, also when it has found some.
const POLL: Duration = Duration::from_millis(2);

/// How long it takes until a broker is asked again for a topic that is not there.
const ASK_AGAIN: Duration = Duration::from_millis(100);

/// The header that carries a record's id.
const ID_HEADER: &str = "uptake-signal-id";

/// One record to publish.
#[derive(Debug)]
pub(crate) struct Outgoing {
    pub(crate) key: String,
    pub(crate) id: String,
    pub(crate) payload: Vec<u8>,
    /// When the broker took the record that this one follows from.
    pub(crate) caused_at: Option<Micros>,
}

/// What was not published.
#[derive(Debug)]
pub(crate) struct Unpublished {
    /// Places of the records in what was given.
    pub(crate) places: Vec<usize>,
    /// Why, and what to do; none where somebody asked to stop.
    pub(crate) why: Option<String>,
}

/// What is known of the records under way.
struct Deliveries {
    topic: String,
    metrics: Metrics,
    /// How each ended, by its place.
    ended: Mutex<Vec<(usize, Option<Code>)>>,
}

/// What travels with a record and comes back with its end.
struct Way {
    place: usize,
    caused_at: Option<Micros>,
}

impl ClientContext for Deliveries {
    fn log(&self, _level: RDKafkaLogLevel, facility: &str, message: &str) {
        debug!(target: "uptake_ingest::librdkafka", facility, "{message}");
    }

    fn error(&self, error: KafkaError, reason: &str) {
        // The consumer speaks to the same brokers and complains loudly.
        debug!(topic = self.topic, %error, reason, "the producer reports an error");
    }
}

impl ProducerContext for Deliveries {
    type DeliveryOpaque = Box<Way>;

    fn delivery(&self, result: &DeliveryResult<'_>, way: Box<Way>) {
        let failed = match result {
            Ok(_) => {
                let now = chrono::Utc::now().timestamp_micros();
                let took = way.caused_at.map(|caused| (now - caused).max(0) as f64 / 1e6);
                self.metrics.signal_published(took);
                None
            }
            Err((error, _)) => Some(error.rdkafka_error_code().unwrap_or(Code::Fail)),
        };
        self.ended.lock().unwrap_or_else(PoisonError::into_inner).push((way.place, failed));
    }
}

/// Publishes to one topic.
pub(crate) struct Publisher {
    config: ClientConfig,
    topic: String,
    metrics: Metrics,
    producer: BaseProducer<Deliveries>,
}

impl Publisher {
    /// A producer for a topic.
    ///
    /// # Errors
    /// When librdkafka does not take the settings.
    pub(crate) fn new(options: &ConsumeOptions, topic: &str, metrics: &Metrics) -> Result<Self> {
        let config = config::producer(options)?;
        let producer = make(&config, topic, metrics)?;
        Ok(Self { config, topic: topic.to_owned(), metrics: metrics.clone(), producer })
    }

    /// Looks whether the topic is there. Blocks; a broker that does not answer is left for later.
    ///
    /// # Errors
    /// [`Error::Invalid`] with what to do, when the topic does not exist or this user may not see it.
    pub(crate) fn check(&self) -> Result<()> {
        let deadline = Instant::now() + APPEARS_WITHIN;
        loop {
            let metadata = match self.producer.client().fetch_metadata(Some(&self.topic), METADATA_TIMEOUT) {
                Ok(metadata) => metadata,
                Err(error) => {
                    warn!(topic = self.topic, %error, "no broker tells of the topic for signals yet; publishing when one answers");
                    return Ok(());
                }
            };
            let found = metadata.topics().iter().find(|found| found.name() == self.topic);
            let code = match found {
                Some(found) if found.error().is_none() && !found.partitions().is_empty() => return Ok(()),
                Some(found) => found.error().map_or(Code::UnknownTopicOrPartition, Code::from),
                None => Code::UnknownTopicOrPartition,
            };
            if code == Code::TopicAuthorizationFailed || Instant::now() >= deadline {
                return Err(Error::Invalid(advice(&self.topic, code)));
            }
            self.producer.poll(ASK_AGAIN);
        }
    }

    /// Publishes records, and returns when the broker has all of them. What it has is not among [`Unpublished`].
    pub(crate) fn publish(&mut self, records: &[&Outgoing], stopped: impl Fn() -> bool) -> Result<(), Unpublished> {
        let mut under_way = vec![true; records.len()];
        let mut left = records.len();
        let mut failed: Vec<(usize, Code)> = Vec::new();
        let mut next = 0;
        while left > 0 {
            while let Some(record) = records.get(next) {
                match self.send(record, next) {
                    Ok(()) => next += 1,
                    // What is under way makes room when it ends.
                    Err(Code::QueueFull) => break,
                    Err(code) => {
                        failed.push((next, code));
                        under_way[next] = false;
                        left -= 1;
                        next += 1;
                    }
                }
            }
            self.producer.poll(POLL);
            let ended = std::mem::take(&mut *self.ended());
            for (place, code) in ended {
                // A late answer to an earlier attempt is none to this one.
                if under_way.get(place).copied().unwrap_or(false) {
                    under_way[place] = false;
                    left -= 1;
                    failed.extend(code.map(|code| (place, code)));
                }
            }
            if left > 0 && stopped() {
                let places = failed.iter().map(|(place, _)| *place);
                let open = under_way.iter().enumerate().filter(|(_, open)| **open).map(|(place, _)| place);
                return Err(Unpublished { places: places.chain(open).collect(), why: None });
            }
        }
        let Some((_, code)) = failed.first().copied() else { return Ok(()) };
        let mut why = advice(&self.topic, code);
        let fatal = self.producer.client().fatal_error();
        if let Some((fatal, reason)) = &fatal {
            why = format!("{why} (the producer gave up: {fatal}, {reason}; starting another)");
        }
        let is_topics =
            matches!(code, Code::TopicAuthorizationFailed | Code::UnknownTopicOrPartition | Code::UnknownTopic);
        if fatal.is_some() || is_topics {
            // One that has lost count, or that refuses a topic by what it once heard, is of no use any more; ids make the
            // repeats harmless.
            match make(&self.config, &self.topic, &self.metrics) {
                Ok(producer) => self.producer = producer,
                Err(error) => why = format!("{why}; {error}"),
            }
        }
        failed.sort_by_key(|(place, _)| *place);
        Err(Unpublished { places: failed.into_iter().map(|(place, _)| place).collect(), why: Some(why) })
    }

    /// Lets the client do its chores while there is nothing to publish.
    pub(crate) fn serve(&self) {
        self.producer.poll(Duration::ZERO);
    }

    fn ended(&self) -> std::sync::MutexGuard<'_, Vec<(usize, Option<Code>)>> {
        let context: &Arc<Deliveries> = self.producer.context();
        context.ended.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn send(&self, record: &Outgoing, place: usize) -> Result<(), Code> {
        let way = Box::new(Way { place, caused_at: record.caused_at });
        let headers = OwnedHeaders::new().insert(Header { key: ID_HEADER, value: Some(record.id.as_str()) });
        let base: BaseRecord<'_, str, [u8], Box<Way>> = BaseRecord::with_opaque_to(&self.topic, way)
            .key(record.key.as_str())
            .payload(record.payload.as_slice())
            .headers(headers);
        self.producer.send(base).map_err(|(error, _)| error.rdkafka_error_code().unwrap_or(Code::Fail))
    }
}

fn make(config: &ClientConfig, topic: &str, metrics: &Metrics) -> Result<BaseProducer<Deliveries>> {
    let deliveries = Deliveries { topic: topic.to_owned(), metrics: metrics.clone(), ended: Mutex::default() };
    config.create_with_context(deliveries).map_err(|error| {
        Error::Invalid(format!("librdkafka does not take the settings under [kafka] for signals: {error}"))
    })
}

/// Why records are not taken, and what to do.
fn advice(topic: &str, code: Code) -> String {
    match code {
        Code::UnknownTopicOrPartition | Code::UnknownTopic | Code::UnknownPartition | Code::UnknownTopicId => format!(
            "the topic `{topic}` for signals does not exist on this broker; make it (kafka-topics.sh --create --topic {topic}), \
             or name another (--signals-topic, signals.topic)"
        ),
        Code::TopicAuthorizationFailed => format!(
            "the broker denies this user the topic `{topic}` for signals; grant WRITE and DESCRIBE on it (kafka-acls.sh --add \
             --producer --topic {topic}), or correct the credentials under [kafka]"
        ),
        Code::ClusterAuthorizationFailed => {
            "the broker denies this user an idempotent producer; grant IDEMPOTENT_WRITE on the \
                                             cluster (kafka-acls.sh --add --idempotent --cluster)"
                .to_owned()
        }
        Code::MessageSizeTooLarge => {
            format!("a signal is larger than the topic `{topic}` takes; raise its max.message.bytes")
        }
        Code::MessageTimedOut => {
            format!("the broker did not acknowledge signals for `{topic}` in time; trying again, none is lost")
        }
        other => format!("the broker does not take signals for `{topic}`: {other}"),
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use rdkafka::mocking::MockCluster;
    use rdkafka::types::{RDKafkaApiKey, RDKafkaRespErr};
    use uptake_model::Pepper;
    use uptake_model::contract::Contract;
    use uptake_model::decode::Edge;

    use super::*;

    fn options(bootstrap: &str) -> ConsumeOptions {
        let edge = Edge {
            pepper: Pepper::new("0123456789abcdef").unwrap(),
            max_record_bytes: 1 << 20,
            pipeline_version: "test".to_owned(),
        };
        ConsumeOptions::new(bootstrap, BTreeMap::from([("chat".to_owned(), Contract::Messages)]), edge)
    }

    fn records(count: usize) -> Vec<Outgoing> {
        (0..count)
            .map(|number| Outgoing {
                key: "c".to_owned(),
                id: number.to_string(),
                payload: b"{}".to_vec(),
                caused_at: Some(0),
            })
            .collect()
    }

    #[test]
    fn a_topic_that_is_denied_says_what_to_grant_and_records_follow_when_it_is_allowed() {
        let cluster = MockCluster::new(1).unwrap();
        cluster.create_topic("signals", 1, 1).unwrap();
        let mut publisher =
            Publisher::new(&options(&cluster.bootstrap_servers()), "signals", &Metrics::global()).unwrap();
        publisher.check().unwrap();
        cluster.request_errors(RDKafkaApiKey::Produce, &[RDKafkaRespErr::RD_KAFKA_RESP_ERR_TOPIC_AUTHORIZATION_FAILED]);
        let records = records(3);
        let refused = publisher.publish(&records.iter().collect::<Vec<_>>(), || false).unwrap_err();
        let why = refused.why.unwrap();
        assert!(why.contains("WRITE") && why.contains("`signals`") && why.contains("[kafka]"), "{why}");
        let again: Vec<&Outgoing> = records
            .iter()
            .enumerate()
            .filter(|(place, _)| refused.places.contains(place))
            .map(|(_, record)| record)
            .collect();
        assert!(!again.is_empty());
        publisher.publish(&again, || false).unwrap();
    }

    #[test]
    fn who_is_told_to_stop_stops_and_says_what_is_left() {
        let mut publisher = Publisher::new(&options("127.0.0.1:1"), "signals", &Metrics::global()).unwrap();
        let left = publisher.publish(&records(2).iter().collect::<Vec<_>>(), || true).unwrap_err();
        assert_eq!((left.places, left.why), (vec![0, 1], None));
    }

    #[test]
    fn what_the_producer_rests_on_cannot_be_switched_off() {
        for (key, value) in [("enable.idempotence", "false"), ("acks", "1"), ("transactional.id", "x")] {
            let mut options = options("127.0.0.1:1");
            options.kafka.insert(key.to_owned(), value.to_owned());
            let error = Publisher::new(&options, "signals", &Metrics::global()).err().unwrap().to_string();
            assert!(error.contains(key), "{error}");
        }
    }
}
