//! From a record to its signal: messages of a sample log at a fixed rate, and when the signals that follow from them come.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use rdkafka::consumer::{BaseConsumer, Consumer as _};
use rdkafka::{ClientConfig, Message as _, Offset, TopicPartitionList};
use serde_json::{Value, json};
use uptake_ingest::mock::{Produce, TestProducer};
use uptake_sample::{MESSAGES, Plan};

use crate::Failure;
use crate::topic::{make_topics, say};

/// How long the first signal may take: the consumer starts, and its group comes together.
const FIRST_WITHIN: Duration = Duration::from_mins(3);

/// When no signal has come for so long, none is waited for any more.
const QUIET: Duration = Duration::from_secs(8);

/// Conversations that are sent before the clock starts.
const WARM_UP: usize = 20;

/// When each message was due to be sent.
type Sent = Arc<Mutex<HashMap<String, Instant>>>;

/// A signal, and when it was read.
struct Heard {
    turn_id: String,
    follow_up_turn_id: String,
    at: Instant,
}

/// Makes the topics of one measurement.
pub(crate) fn prepare(bootstrap: &str, messages: &str, signals: &str, partitions: i32) -> Result<(), Failure> {
    make_topics(bootstrap, &[messages, signals], partitions)
}

/// Sends messages at `rate` a second for `seconds`, and measures the signals.
pub(crate) fn measure(
    bootstrap: &str,
    messages: &str,
    signals: &str,
    rate: u32,
    seconds: u32,
    seed: u64,
) -> Result<(), Failure> {
    let sent = Sent::default();
    let heard = Arc::new(Mutex::new(Vec::new()));
    let done = Arc::new(AtomicBool::new(false));
    let listener = {
        let (consumer, heard, done) = (listen(bootstrap, signals)?, Arc::clone(&heard), Arc::clone(&done));
        std::thread::spawn(move || hear(&consumer, &heard, &done))
    };
    let producer = TestProducer::connect(bootstrap)?;
    for record in records(seed ^ 0xffff, WARM_UP)? {
        producer.produce(&produce(messages, &record))?;
    }
    producer.flush()?;
    wait(|| !lock(&heard).is_empty(), FIRST_WITHIN, "no signal came at all")?;
    let _ = settled(&heard);
    lock(&heard).clear();

    let count = usize::try_from(rate * seconds)?;
    let log: Vec<Record> = records(seed, count / 3 + 10)?.into_iter().take(count).collect();
    let began = Instant::now();
    for (number, record) in log.iter().enumerate() {
        let due = began + Duration::from_secs_f64(number as f64 / f64::from(rate));
        while Instant::now() < due {
            std::thread::park_timeout(due.saturating_duration_since(Instant::now()));
        }
        // From when it was due, not from when it was sent: a sender that is held up must not make the figures better.
        let _ = lock(&sent).insert(record.message_id.clone(), due);
        producer.produce(&produce(messages, record))?;
    }
    producer.flush()?;
    let took = began.elapsed();
    let last = settled(&heard);
    done.store(true, Ordering::Release);
    listener.join().map_err(|_| "the listener panicked")??;

    let (sent, heard) = (lock(&sent), lock(&heard));
    let mut latencies: Vec<f64> = heard
        .iter()
        .filter_map(|signal| {
            let complete = sent.get(&signal.follow_up_turn_id)?.max(sent.get(&signal.turn_id)?);
            Some(signal.at.saturating_duration_since(*complete).as_secs_f64())
        })
        .collect();
    latencies.sort_by(f64::total_cmp);
    let at = |percent: usize| {
        let place = (latencies.len() * percent).div_ceil(100).max(1) - 1;
        latencies.get(place).copied()
    };
    say(&json!({
        "rate": rate, "records": log.len(), "signals": latencies.len(),
        "signals_per_second": latencies.len() as f64 / took.as_secs_f64(),
        "sent_in": took.as_secs_f64(), "last_signal_after": last.map(|last| last.saturating_duration_since(began).as_secs_f64()),
        "p50": at(50), "p90": at(90), "p99": at(99), "max": at(100),
    }))
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn wait(until: impl Fn() -> bool, within: Duration, otherwise: &str) -> Result<(), Failure> {
    let deadline = Instant::now() + within;
    while !until() {
        if Instant::now() > deadline {
            return Err(otherwise.into());
        }
        std::thread::park_timeout(Duration::from_millis(20));
    }
    Ok(())
}

/// Waits until no signal has come for a while; when the last one came.
fn settled(heard: &Mutex<Vec<Heard>>) -> Option<Instant> {
    let began = Instant::now();
    loop {
        let last = lock(heard).last().map(|signal| signal.at);
        if last.unwrap_or(began).max(began).elapsed() >= QUIET {
            return last;
        }
        std::thread::park_timeout(Duration::from_millis(50));
    }
}

struct Record {
    message_id: String,
    key: String,
    payload: Vec<u8>,
}

fn produce<'a>(topic: &'a str, record: &'a Record) -> Produce<'a> {
    Produce { topic, key: Some(record.key.as_bytes()), payload: Some(&record.payload), ..Produce::default() }
}

/// The messages of a sample log in the order of their arrival, those that no decoder takes left out.
fn records(seed: u64, conversations: usize) -> Result<Vec<Record>, Failure> {
    let log = uptake_sample::generate(&Plan::new(seed, conversations))?;
    let messages = log.records.into_iter().filter(|record| record.topic == MESSAGES).filter_map(|record| {
        let payload = record.payload?;
        let value: Value = serde_json::from_slice(&payload).ok()?;
        let message_id = value["message_id"].as_str()?.to_owned();
        Some(Record { message_id, key: record.key, payload })
    });
    Ok(messages.collect())
}

fn listen(bootstrap: &str, topic: &str) -> Result<BaseConsumer, Failure> {
    let consumer: BaseConsumer = ClientConfig::new()
        .set("bootstrap.servers", bootstrap)
        .set("group.id", "uptake-bench-signals")
        .set("enable.auto.commit", "false")
        .set("fetch.wait.max.ms", "10")
        .create()?;
    let metadata = consumer.fetch_metadata(Some(topic), Duration::from_secs(30))?;
    let mut list = TopicPartitionList::new();
    for partition in metadata.topics().iter().flat_map(rdkafka::metadata::MetadataTopic::partitions) {
        list.add_partition_offset(topic, partition.id(), Offset::Beginning)?;
    }
    consumer.assign(&list)?;
    Ok(consumer)
}

fn hear(consumer: &BaseConsumer, heard: &Mutex<Vec<Heard>>, done: &AtomicBool) -> Result<(), Failure> {
    while !done.load(Ordering::Acquire) {
        let Some(message) = consumer.poll(Duration::from_millis(50)) else { continue };
        let at = Instant::now();
        let value: Value = serde_json::from_slice(message?.payload().unwrap_or_default())?;
        let text = |name: &str| value[name].as_str().unwrap_or_default().to_owned();
        lock(heard).push(Heard { turn_id: text("turn_id"), follow_up_turn_id: text("follow_up_turn_id"), at });
    }
    Ok(())
}
