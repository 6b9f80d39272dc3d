//! A broker in this process: librdkafka's mock cluster, for the demo and for tests.
//!
//! It speaks the protocol over loopback and keeps its log in memory: 5 MiB or 100 000 messages a partition, no more.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use rdkafka::error::KafkaError;
use rdkafka::message::{Header, OwnedHeaders};
use rdkafka::mocking::MockCluster;
use rdkafka::producer::{
    BaseRecord, DefaultProducerContext, DeliveryResult, NoCustomPartitioner, Producer, ProducerContext,
    ThreadedProducer,
};
use rdkafka::types::RDKafkaErrorCode;
use rdkafka::{ClientConfig, ClientContext};

use crate::error::{Error, Result};

/// How long the broker may take.
const PATIENCE: Duration = Duration::from_mins(1);

/// A broker in this process; it ends when dropped.
pub struct MockBroker {
    cluster: MockCluster<'static, DefaultProducerContext>,
}

/// One record to produce.
#[derive(Debug, Clone, Copy, Default)]
pub struct Produce<'a> {
    /// Topic.
    pub topic: &'a str,
    /// Partition; by the key's hash when none is named.
    pub partition: Option<i32>,
    /// Key.
    pub key: Option<&'a [u8]>,
    /// Payload; none is a tombstone.
    pub payload: Option<&'a [u8]>,
    /// Headers.
    pub headers: &'a [(&'a str, &'a str)],
    /// Time of the record, milliseconds since 1970; now when none is named.
    pub timestamp: Option<i64>,
}

/// A producer for the demo and for tests.
pub struct TestProducer {
    producer: ThreadedProducer<Deliveries, NoCustomPartitioner>,
}

/// Counts what the broker did not take.
#[derive(Debug, Default)]
struct Deliveries {
    failed: AtomicU64,
}

impl ClientContext for Deliveries {}

impl ProducerContext for Deliveries {
    type DeliveryOpaque = ();

    fn delivery(&self, result: &DeliveryResult<'_>, (): ()) {
        if let Err((error, _)) = result {
            tracing::warn!(%error, "a record was not delivered");
            self.failed.fetch_add(1, Ordering::AcqRel);
        }
    }
}

impl std::fmt::Debug for MockBroker {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("MockBroker").field("bootstrap", &self.bootstrap()).finish()
    }
}

impl std::fmt::Debug for TestProducer {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("TestProducer").finish_non_exhaustive()
    }
}

impl MockBroker {
    /// Starts a broker on a free port of loopback, with these topics of `partitions` partitions each.
    ///
    /// # Errors
    /// When the broker cannot listen or a topic cannot be made.
    pub fn start(topics: &[&str], partitions: i32) -> Result<Self> {
        let cluster = MockCluster::new(1).map_err(Error::kafka("start a broker in this process"))?;
        for topic in topics {
            cluster.create_topic(topic, partitions, 1).map_err(Error::kafka(format!("make the topic {topic}")))?;
        }
        Ok(Self { cluster })
    }

    /// Its `bootstrap.servers`.
    pub fn bootstrap(&self) -> String {
        self.cluster.bootstrap_servers()
    }

    /// Makes the broker unreachable.
    ///
    /// # Errors
    /// When librdkafka refuses.
    pub fn go_down(&self) -> Result<()> {
        self.cluster.broker_down(-1).map_err(Error::kafka("take the broker down"))
    }

    /// Makes the broker reachable again.
    ///
    /// # Errors
    /// When librdkafka refuses.
    pub fn come_up(&self) -> Result<()> {
        self.cluster.broker_up(-1).map_err(Error::kafka("bring the broker up"))
    }

    /// A producer to this broker.
    ///
    /// # Errors
    /// When librdkafka refuses.
    pub fn producer(&self) -> Result<TestProducer> {
        TestProducer::connect(&self.bootstrap())
    }
}

impl TestProducer {
    /// A producer to any broker.
    ///
    /// # Errors
    /// When librdkafka refuses.
    pub fn connect(bootstrap: &str) -> Result<Self> {
        Self::configured(bootstrap, None)
    }

    fn configured(bootstrap: &str, transactional_id: Option<&str>) -> Result<Self> {
        let mut config = ClientConfig::new();
        if let Some(id) = transactional_id {
            config.set("transactional.id", id);
        }
        let producer = config
            .set("bootstrap.servers", bootstrap)
            .set("message.max.bytes", "20000000")
            .set("linger.ms", "5")
            .set("acks", "all")
            // The mock answers idempotent producers too, and retries then keep their order.
            .set("enable.idempotence", "true")
            .create_with_context(Deliveries::default())
            .map_err(Error::kafka("make a producer"))?;
        Ok(Self { producer })
    }

    /// Queues one record; waits where the queue is full.
    ///
    /// # Errors
    /// When librdkafka refuses the record.
    pub fn produce(&self, record: &Produce<'_>) -> Result<()> {
        let mut headers = OwnedHeaders::new();
        for (key, value) in record.headers {
            headers = headers.insert(Header { key, value: Some(*value) });
        }
        let mut base: BaseRecord<'_, [u8], [u8]> = BaseRecord::to(record.topic).headers(headers);
        base.partition = record.partition;
        base.key = record.key;
        base.payload = record.payload;
        base.timestamp = record.timestamp;
        loop {
            match self.producer.send(base) {
                Ok(()) => return Ok(()),
                Err((KafkaError::MessageProduction(RDKafkaErrorCode::QueueFull), refused)) => {
                    base = refused;
                    self.flush()?;
                }
                Err((error, _)) => return Err(Error::kafka(format!("produce to {}", record.topic))(error)),
            }
        }
    }

    /// Waits until the broker has taken everything.
    ///
    /// # Errors
    /// When it does not within a minute, or refused a record.
    pub fn flush(&self) -> Result<()> {
        self.producer.flush(PATIENCE).map_err(Error::kafka("wait for the broker to take the records"))?;
        match self.producer.context().failed.swap(0, Ordering::AcqRel) {
            0 => Ok(()),
            failed => Err(Error::Invalid(format!("the broker did not take {failed} records"))),
        }
    }

    /// A producer whose records appear when their transaction is committed.
    ///
    /// # Errors
    /// When the broker does not take part.
    pub fn transactional(bootstrap: &str, id: &str) -> Result<Self> {
        let this = Self::configured(bootstrap, Some(id))?;
        this.producer.init_transactions(PATIENCE).map_err(Error::kafka("prepare transactions"))?;
        Ok(this)
    }

    /// Begins a transaction.
    ///
    /// # Errors
    /// When none can begin.
    pub fn begin(&self) -> Result<()> {
        self.producer.begin_transaction().map_err(Error::kafka("begin a transaction"))
    }

    /// Ends the transaction: its records appear (`commit`), or never do.
    ///
    /// # Errors
    /// When the broker does not take the end.
    pub fn end(&self, commit: bool) -> Result<()> {
        self.producer.flush(PATIENCE).map_err(Error::kafka("wait for the broker to take the records"))?;
        let ended =
            if commit { self.producer.commit_transaction(PATIENCE) } else { self.producer.abort_transaction(PATIENCE) };
        ended.map_err(Error::kafka("end a transaction"))
    }
}
