//! Ends of partitions that hold no record: transaction markers and aborted batches take offsets that are never delivered.
//!
//! The group's consumer cannot tell "nothing there" from "not fetched yet", and its end-of-partition notice names no
//! topic. So a short-lived consumer outside the group reads from the reader's position: when it meets the end without
//! having been given a record, nothing before that end will ever be delivered, and the position may move there.

use std::time::{Duration, Instant};

use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::error::KafkaError;
use rdkafka::{Offset, TopicPartitionList};
use uptake_model::{Next, SourcePartition};

use super::config;
use crate::error::{Error, Result};
use crate::options::ConsumeOptions;

/// Whether nothing between `from` and `end` will ever be delivered; `end` must lie at or before the last stable offset.
/// Blocks for at most `patience`; false also when that was too short.
pub(crate) fn end_without_records(
    options: &ConsumeOptions,
    source: &SourcePartition,
    from: Next,
    patience: Duration,
) -> Result<bool> {
    let what = || format!("look at the end of {source}");
    let consumer: BaseConsumer = config::probe(options)?.create().map_err(Error::kafka(what()))?;
    let mut list = TopicPartitionList::new();
    list.add_partition_offset(&source.topic, source.partition, Offset::Offset(from.0)).map_err(Error::kafka(what()))?;
    consumer.assign(&list).map_err(Error::kafka(what()))?;
    let deadline = Instant::now() + patience;
    while Instant::now() < deadline {
        match consumer.poll(Duration::from_millis(100)) {
            None => {}
            Some(Ok(_)) => return Ok(false),
            Some(Err(KafkaError::PartitionEOF(_))) => return Ok(true),
            Some(Err(error)) => tracing::debug!(partition = %source, %error, "probing the end of a partition"),
        }
    }
    Ok(false)
}
