//! Looking at single places of partitions with a short-lived consumer outside the group.
//!
//! *Ends without records.* Transaction markers and aborted batches take offsets that are never delivered. The group's consumer cannot tell "nothing there" from "not fetched yet", and its end-of-partition notice names no
//! topic. So a short-lived consumer outside the group reads from the reader's position: when it meets the end without
//! having been given a record, nothing before that end will ever be delivered, and the position may move there.

//!
//! *Topics made again.* Offsets start anew, and once they have passed the stored position nothing looks wrong. But the
//! record before the position is another one then: its time differs.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use rdkafka::ClientContext;
use rdkafka::consumer::{BaseConsumer, Consumer, ConsumerContext};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::message::Message as _;
use rdkafka::{Offset, TopicPartitionList};
use uptake_model::{Next, SourcePartition};

use super::config;
use crate::buffer::Seen;
use crate::error::{Error, Result};
use crate::options::ConsumeOptions;

/// Ends of partitions and places that are gone are what is being asked about here, and no errors.
struct Quiet;

impl ClientContext for Quiet {
    fn error(&self, error: KafkaError, reason: &str) {
        tracing::debug!(%error, reason, "looking at a place of a partition");
    }
}

impl ConsumerContext for Quiet {}

/// Whether nothing between `from` and `end` will ever be delivered; `end` must lie at or before the last stable offset.
/// Blocks for at most `patience`; false also when that was too short.
pub(crate) fn end_without_records(
    options: &ConsumeOptions,
    source: &SourcePartition,
    from: Next,
    patience: Duration,
) -> Result<bool> {
    let what = || format!("look at the end of {source}");
    let consumer: BaseConsumer<Quiet> =
        config::probe(options)?.create_with_context(Quiet).map_err(Error::kafka(what()))?;
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

/// The first of the partitions whose record at a place is another one than was seen there. What is no longer held, or
/// cannot be looked at within `patience`, is taken as it is. Blocks.
pub(crate) fn first_unrecognised(
    options: &ConsumeOptions,
    seen: &BTreeMap<SourcePartition, Seen>,
    patience: Duration,
) -> Result<Option<SourcePartition>> {
    let what = "look at the last records that were read";
    let consumer: BaseConsumer<Quiet> =
        config::probe(options)?.create_with_context(Quiet).map_err(Error::kafka(what))?;
    let mut list = TopicPartitionList::new();
    for (source, seen) in seen {
        list.add_partition_offset(&source.topic, source.partition, Offset::Offset(seen.offset.0))
            .map_err(Error::kafka(what))?;
    }
    consumer.assign(&list).map_err(Error::kafka(what))?;
    let deadline = Instant::now() + patience;
    // Each partition answers once: with a record, with its end, or with an error that names none.
    let mut answers = 0;
    while answers < seen.len() && Instant::now() < deadline {
        match consumer.poll(Duration::from_millis(100)) {
            None => {}
            Some(Ok(message)) => {
                answers += 1;
                let source = SourcePartition::new(message.topic(), message.partition());
                let known = seen.get(&source).filter(|seen| seen.offset.0 == message.offset());
                if known.is_some_and(|known| message.timestamp().to_millis() != Some(known.broker_millis)) {
                    return Ok(Some(source));
                }
                let mut heard = TopicPartitionList::new();
                heard.add_partition(&source.topic, source.partition);
                consumer.pause(&heard).map_err(Error::kafka(what))?;
            }
            Some(Err(
                KafkaError::PartitionEOF(_) | KafkaError::MessageConsumption(RDKafkaErrorCode::AutoOffsetReset),
            )) => {
                answers += 1;
            }
            Some(Err(error)) => tracing::debug!(%error, "looking at the last records that were read"),
        }
    }
    Ok(None)
}
