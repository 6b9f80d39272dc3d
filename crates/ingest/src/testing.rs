//! What tests ask of a broker beyond producing: topics come, grow and go, and what a group has committed.

use std::time::Duration;

use rdkafka::admin::{AdminClient, AdminOptions, NewPartitions, NewTopic, TopicReplication};
use rdkafka::client::DefaultClientContext;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::error::KafkaError;
use rdkafka::message::Message as _;
use rdkafka::{ClientConfig, Offset, TopicPartitionList};
use uptake_model::{Next, SourcePartition};

use crate::error::{Error, Result};

/// How long the broker may take.
const PATIENCE: Duration = Duration::from_secs(30);

/// Administers a broker.
pub struct Admin {
    client: AdminClient<DefaultClientContext>,
    bootstrap: String,
}

impl std::fmt::Debug for Admin {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("Admin").field("bootstrap", &self.bootstrap).finish_non_exhaustive()
    }
}

impl Admin {
    /// Connects to a broker.
    ///
    /// # Errors
    /// When librdkafka refuses.
    pub fn connect(bootstrap: &str) -> Result<Self> {
        let client = ClientConfig::new()
            .set("bootstrap.servers", bootstrap)
            .create()
            .map_err(Error::kafka("make an admin client"))?;
        Ok(Self { client, bootstrap: bootstrap.to_owned() })
    }

    fn options() -> AdminOptions {
        AdminOptions::new().request_timeout(Some(PATIENCE)).operation_timeout(Some(PATIENCE))
    }

    /// Makes a topic.
    ///
    /// # Errors
    /// When the broker refuses.
    pub async fn create_topic(&self, name: &str, partitions: i32) -> Result<()> {
        let topic = NewTopic::new(name, partitions, TopicReplication::Fixed(1));
        let results = self.client.create_topics([&topic], &Self::options()).await;
        first(results.map_err(Error::kafka("make a topic"))?, "make a topic")
    }

    /// Deletes a topic.
    ///
    /// # Errors
    /// When the broker refuses.
    pub async fn delete_topic(&self, name: &str) -> Result<()> {
        let results = self.client.delete_topics(&[name], &Self::options()).await;
        first(results.map_err(Error::kafka("delete a topic"))?, "delete a topic")
    }

    /// Gives a topic more partitions.
    ///
    /// # Errors
    /// When the broker refuses.
    pub async fn grow_topic(&self, name: &str, partitions: usize) -> Result<()> {
        let grown = NewPartitions::new(name, partitions);
        let results = self.client.create_partitions([&grown], &Self::options()).await;
        first(results.map_err(Error::kafka("grow a topic"))?, "grow a topic")
    }

    /// How many partitions the broker says that a topic has; zero when it is unknown.
    ///
    /// # Errors
    /// When the broker does not answer.
    pub fn partitions(&self, name: &str) -> Result<usize> {
        let metadata =
            self.client.inner().fetch_metadata(Some(name), PATIENCE).map_err(Error::kafka("ask for a topic"))?;
        let topics = metadata.topics().iter().filter(|topic| topic.error().is_none());
        Ok(topics.map(|topic| topic.partitions().len()).sum())
    }

    /// Deletes the records before an offset, as retention does.
    ///
    /// # Errors
    /// When the broker refuses.
    pub async fn delete_records(&self, source: &SourcePartition, before: Next) -> Result<()> {
        let mut list = TopicPartitionList::new();
        list.add_partition_offset(&source.topic, source.partition, Offset::Offset(before.0))
            .map_err(Error::kafka("name an offset"))?;
        self.client.delete_records(&list, &Self::options()).await.map_err(Error::kafka("delete records"))?;
        Ok(())
    }

    /// What a group has committed for these partitions.
    ///
    /// # Errors
    /// When the broker does not answer.
    pub fn committed(&self, group: &str, partitions: &[SourcePartition]) -> Result<Vec<Option<i64>>> {
        let consumer: BaseConsumer = ClientConfig::new()
            .set("bootstrap.servers", &self.bootstrap)
            .set("group.id", group)
            .create()
            .map_err(Error::kafka("make a consumer"))?;
        let mut list = TopicPartitionList::new();
        for source in partitions {
            list.add_partition(&source.topic, source.partition);
        }
        let found = consumer.committed_offsets(list, PATIENCE).map_err(Error::kafka("ask for the group's offsets"))?;
        Ok(partitions
            .iter()
            .map(|source| match found.find_partition(&source.topic, source.partition)?.offset() {
                Offset::Offset(offset) => Some(offset),
                _ => None,
            })
            .collect())
    }
}

fn first(results: Vec<rdkafka::admin::TopicResult>, what: &str) -> Result<()> {
    match results.into_iter().next() {
        Some(Ok(_)) => Ok(()),
        Some(Err((_, code))) => Err(Error::kafka(what)(KafkaError::AdminOp(code))),
        None => Err(Error::Bug(format!("{what}: no answer for the topic"))),
    }
}

/// A record as a reader of a topic gets it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Taken {
    /// Key.
    pub key: Option<Vec<u8>>,
    /// Payload.
    pub payload: Vec<u8>,
    /// Headers whose values are text.
    pub headers: Vec<(String, String)>,
}

/// How many records a topic holds, control records among them.
///
/// # Errors
/// When the broker does not answer.
pub fn count(bootstrap: &str, topic: &str) -> Result<u64> {
    let consumer = reader(bootstrap)?;
    Ok(bounds(&consumer, topic)?.into_iter().map(|(_, low, high)| high.abs_diff(low)).sum())
}

/// All records of a topic, partition by partition.
///
/// # Errors
/// When the broker does not answer.
pub fn read(bootstrap: &str, topic: &str) -> Result<Vec<Taken>> {
    let consumer = reader(bootstrap)?;
    let mut list = TopicPartitionList::new();
    let mut missing = 0;
    for (partition, low, high) in bounds(&consumer, topic)? {
        list.add_partition_offset(topic, partition, Offset::Offset(low)).map_err(Error::kafka("name an offset"))?;
        missing += high.abs_diff(low);
    }
    consumer.assign(&list).map_err(Error::kafka("read a topic"))?;
    let mut taken = Vec::new();
    while (taken.len() as u64) < missing {
        let polled = consumer.poll(PATIENCE).ok_or_else(|| Error::Bug("the broker fell silent".to_owned()))?;
        let message = polled.map_err(Error::kafka("read a topic"))?;
        let headers = message.headers().into_iter().flat_map(rdkafka::message::Headers::iter);
        taken.push(Taken {
            key: message.key().map(<[u8]>::to_vec),
            payload: message.payload().unwrap_or_default().to_vec(),
            headers: headers
                .map(|header| {
                    let value = String::from_utf8_lossy(header.value.unwrap_or_default()).into_owned();
                    (header.key.to_owned(), value)
                })
                .collect(),
        });
    }
    Ok(taken)
}

fn reader(bootstrap: &str) -> Result<BaseConsumer> {
    ClientConfig::new()
        .set("bootstrap.servers", bootstrap)
        .set("group.id", "uptake-tests-reader")
        .set("enable.auto.commit", "false")
        .create()
        .map_err(Error::kafka("make a consumer"))
}

/// Partition, first offset, and the offset behind the last.
fn bounds(consumer: &BaseConsumer, topic: &str) -> Result<Vec<(i32, i64, i64)>> {
    let metadata = consumer.fetch_metadata(Some(topic), PATIENCE).map_err(Error::kafka("ask for a topic"))?;
    let partitions = metadata.topics().iter().flat_map(rdkafka::metadata::MetadataTopic::partitions);
    partitions
        .map(|partition| {
            let found = consumer.fetch_watermarks(topic, partition.id(), PATIENCE);
            let (low, high) = found.map_err(Error::kafka("ask for the bounds of a topic"))?;
            Ok((partition.id(), low, high))
        })
        .collect()
}
