//! A sample log in topics, and the two limits of reading it into tables: librdkafka alone, and the tables alone.

use std::collections::BTreeMap;
use std::io::Write as _;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rdkafka::admin::{AdminClient, AdminOptions, NewTopic, TopicReplication};
use rdkafka::client::DefaultClientContext;
use rdkafka::consumer::{BaseConsumer, Consumer as _};
use rdkafka::{ClientConfig, Message as _, Offset, TopicPartitionList};
use serde_json::{Value, json};
use uptake_ingest::bronze::Bronze;
use uptake_ingest::buffer::{Buffer, Pass};
use uptake_ingest::mock::{Produce, TestProducer};
use uptake_ingest::options::ConsumeOptions;
use uptake_lake::Lake;
use uptake_model::decode::{Edge, Record, decode};
use uptake_model::{Offset as Place, Pepper, SourcePartition};
use uptake_sample::{Plan, TOPICS};

use crate::Failure;
use crate::processor_time::take;

/// How long the broker may take to answer.
const PATIENCE: Duration = Duration::from_secs(30);

pub(crate) fn say(answer: &Value) -> Result<(), Failure> {
    writeln!(std::io::stdout(), "{answer}")?;
    Ok(())
}

fn runtime() -> Result<tokio::runtime::Runtime, Failure> {
    Ok(tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?)
}

fn sample(conversations: usize, seed: u64) -> Result<Vec<uptake_sample::Record>, Failure> {
    Ok(uptake_sample::generate(&Plan::new(seed, conversations))?.records)
}

/// Makes topics.
pub(crate) fn make_topics(bootstrap: &str, names: &[&str], partitions: i32) -> Result<(), Failure> {
    let admin: AdminClient<DefaultClientContext> = ClientConfig::new().set("bootstrap.servers", bootstrap).create()?;
    // The log lies in the past: the broker's usual retention would delete it at once.
    let topics: Vec<NewTopic<'_>> = names
        .iter()
        .map(|name| NewTopic::new(name, partitions, TopicReplication::Fixed(1)).set("retention.ms", "-1"))
        .collect();
    let options = AdminOptions::new().operation_timeout(Some(PATIENCE));
    for made in runtime()?.block_on(admin.create_topics(&topics, &options))? {
        made.map_err(|(topic, code)| format!("make {topic}: {code}"))?;
    }
    Ok(())
}

/// Makes the topics of a sample log and fills them.
pub(crate) fn fill(bootstrap: &str, partitions: i32, conversations: usize, seed: u64) -> Result<(), Failure> {
    make_topics(bootstrap, &TOPICS.map(|(name, _)| name), partitions)?;
    let producer = TestProducer::connect(bootstrap)?;
    let records = sample(conversations, seed)?;
    for record in &records {
        producer.produce(&Produce {
            topic: record.topic,
            key: Some(record.key.as_bytes()),
            payload: record.payload.as_deref(),
            timestamp: Some(record.arrives / 1000),
            ..Produce::default()
        })?;
    }
    producer.flush()?;
    let bytes: usize = records.iter().map(|record| record.payload.as_ref().map_or(0, Vec::len)).sum();
    say(&json!({ "records": records.len(), "bytes": bytes }))
}

/// Reads every partition from its beginning to its end with librdkafka, as `uptake consume` sets it up but without a group
/// and without anything behind it.
pub(crate) fn drain(bootstrap: &str) -> Result<(), Failure> {
    let split = ConsumeOptions::new(bootstrap, BTreeMap::new(), edge()?).memory_split();
    let consumer: BaseConsumer = ClientConfig::new()
        .set("bootstrap.servers", bootstrap)
        // The binding hands records to a consumer with a group only; without a subscription it never joins.
        .set("group.id", "uptake-bench-drain")
        .set("enable.auto.commit", "false")
        .set("isolation.level", "read_committed")
        .set("queued.max.messages.kbytes", (split.queue / 1024).to_string())
        .set("fetch.max.bytes", split.fetch.to_string())
        .create()?;
    let (read, took) = take(|| {
        let mut missing = 0;
        let mut list = TopicPartitionList::new();
        for (topic, _) in TOPICS {
            let metadata = consumer.fetch_metadata(Some(topic), PATIENCE)?;
            for partition in metadata.topics().iter().flat_map(rdkafka::metadata::MetadataTopic::partitions) {
                let (low, high) = consumer.fetch_watermarks(topic, partition.id(), PATIENCE)?;
                list.add_partition_offset(topic, partition.id(), Offset::Beginning)?;
                missing += high - low;
            }
        }
        consumer.assign(&list)?;
        let (mut records, mut bytes) = (0, 0);
        while records < missing {
            let message = consumer.poll(PATIENCE).ok_or("the broker fell silent before the end")??;
            records += 1;
            bytes += message.payload().map_or(0, <[u8]>::len);
        }
        Ok((records, bytes))
    })?;
    say(&json!({ "records": read.0, "bytes": read.1, "took": took }))
}

fn edge() -> Result<Edge, Failure> {
    Ok(Edge {
        pepper: Pepper::new("a pepper for the benches alone")?,
        max_record_bytes: 5 << 20,
        pipeline_version: env!("CARGO_PKG_VERSION").to_owned(),
    })
}

/// Decodes the same records and writes them to bronze, flushed at the sizes that `uptake consume` flushes at.
pub(crate) fn store(lake: &str, conversations: usize, seed: u64) -> Result<(), Failure> {
    let records = sample(conversations, seed)?;
    let runtime = runtime()?;
    let (written, took) = take(|| runtime.block_on(write(lake, &records)))?;
    let bytes: usize = records.iter().map(|record| record.payload.as_ref().map_or(0, Vec::len)).sum();
    let mut answer = json!({ "records": records.len(), "bytes": bytes, "took": took });
    answer["written"] = written;
    say(&answer)
}

async fn write(lake: &str, records: &[uptake_sample::Record]) -> Result<Value, Failure> {
    let contracts = BTreeMap::from(TOPICS);
    let (edge, now) = (edge()?, i64::try_from(SystemTime::now().duration_since(UNIX_EPOCH)?.as_micros())?);
    let limits = ConsumeOptions::new("", BTreeMap::new(), edge.clone()).flush;
    let mut bronze = Bronze::open(&Lake::open(lake)?, "bench").await?;
    let sources: BTreeMap<&str, SourcePartition> =
        TOPICS.iter().map(|(topic, _)| (*topic, SourcePartition::new(*topic, 0))).collect();
    let mut next: BTreeMap<&str, i64> = BTreeMap::new();
    for source in sources.values() {
        let _ = bronze.resume(source).await?;
    }
    let (mut events, mut letters, mut flushes) = (0, 0, 0);
    let mut buffer = Buffer::new();
    for (index, record) in records.iter().enumerate() {
        let (source, offset) = (&sources[record.topic], next.entry(record.topic).or_default());
        match &record.payload {
            None => buffer.pass(source, None, Place(*offset), Pass::Tombstone),
            Some(payload) => {
                let outcome = decode(
                    &Record {
                        topic: record.topic,
                        partition: 0,
                        offset: *offset,
                        key: Some(record.key.as_bytes()),
                        payload: Some(payload),
                        headers: Vec::new(),
                        broker_time: Some(record.arrives),
                    },
                    contracts[record.topic],
                    &edge,
                    now,
                );
                buffer.add(source, None, Place(*offset), outcome, payload.len());
            }
        }
        *offset += 1;
        let full = buffer.bytes() as u64 >= limits.bytes || buffer.rows() as u64 >= limits.rows;
        if full || index + 1 == records.len() {
            let written = bronze.flush(std::mem::take(&mut buffer)).await?;
            events += written.events;
            letters += written.letters;
            flushes += 1;
        }
    }
    Ok(json!({ "events": events, "letters": letters, "flushes": flushes }))
}
