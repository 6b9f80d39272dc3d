//! What tests ask of a broker beyond producing: topics come, grow and go, and what a group has committed.

use std::time::Duration;

use rdkafka::admin::{AdminClient, AdminOptions, NewPartitions, NewTopic, TopicReplication};
use rdkafka::client::DefaultClientContext;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::error::KafkaError;
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
