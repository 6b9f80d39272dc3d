//! The consumer on a broker in this process: what becomes of records, memory, ends and faults.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use uptake_ingest::Error;
use uptake_ingest::consume::{Consumer, Handle, Summary};
use uptake_ingest::mock::MockBroker;
use uptake_ingest::options::{ConsumeOptions, Limits};
use uptake_lake::Lake;
use uptake_lake::lossy::{Fault, LossyStore};
use uptake_model::{Next, SourcePartition, tables};
use uptake_tests::tables::{places, read, texts};
use uptake_tests::wait::eventually;

use super::records::{
    Fate, MESSAGES, REACTIONS, Sent, check_each_once, edge, message, placed, produce, schedule, topics,
};

pub(super) const LONG: Duration = Duration::from_secs(90);

/// Options of a consumer that flushes often.
pub(super) fn options(bootstrap: &str, group: &str) -> ConsumeOptions {
    let mut options = ConsumeOptions::new(bootstrap, topics(), edge());
    group.clone_into(&mut options.group);
    options.flush = Limits { bytes: 2 << 20, rows: 100, age: Duration::from_millis(200) };
    options.memory = 16 << 20;
    options.drain_deadline = Duration::from_secs(5);
    options.max_bad_share = 0.9;
    options.kafka.insert("session.timeout.ms".to_owned(), "6000".to_owned());
    options.kafka.insert("heartbeat.interval.ms".to_owned(), "500".to_owned());
    options
}

/// Starts a consumer in the background.
pub(super) async fn start(
    options: ConsumeOptions,
    lake: &Lake,
) -> (Handle, tokio::task::JoinHandle<Result<Summary, Error>>) {
    let consumer = Consumer::start(options, lake).await.unwrap();
    let handle = consumer.handle();
    (handle, tokio::spawn(consumer.run()))
}

/// Reads to the ends.
async fn to_the_end(mut options: ConsumeOptions, lake: &Lake) -> Result<Summary, Error> {
    options.until_end = true;
    let consumer = Consumer::start(options, lake).await?;
    tokio::time::timeout(LONG, consumer.run()).await.expect("the end is reached in time")
}

fn broker(partitions: i32) -> MockBroker {
    MockBroker::start(&[MESSAGES, REACTIONS], partitions).unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_record_becomes_what_it_should_once() {
    let broker = broker(3);
    let lake = Lake::in_memory().unwrap();
    let records = schedule(1, 900, 3);
    produce(&broker.bootstrap(), &records);
    let summary = to_the_end(options(&broker.bootstrap(), "once"), &lake).await.unwrap();
    check_each_once(&lake, &records).await;
    // Within one life of the process the window catches every copy and every reuse.
    let count = |fate: &dyn Fn(Fate) -> bool| records.iter().filter(|sent| fate(sent.fate)).count() as u64;
    assert_eq!(summary.events, count(&|fate| fate == Fate::Event));
    assert_eq!(summary.letters, count(&|fate| matches!(fate, Fate::Letter(_) | Fate::Reused)));
    assert_eq!(summary.duplicates, count(&|fate| fate == Fate::Copy));
    assert_eq!(summary.tombstones, count(&|fate| fate == Fate::Nothing));
    // The position passes everything, also what left no row.
    let mut ends: BTreeMap<SourcePartition, Next> = BTreeMap::new();
    for ((topic, partition, offset), _) in placed(&records) {
        ends.insert(SourcePartition::new(topic, partition), Next(offset + 1));
    }
    assert_eq!(summary.positions, ends);
    // A second time there is nothing to do, and nothing is added.
    let second = to_the_end(options(&broker.bootstrap(), "once"), &lake).await.unwrap();
    assert_eq!((second.events, second.letters, second.consumed), (0, 0, 0));
    check_each_once(&lake, &records).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rows_carry_headers_and_subject_keys_and_no_user_ids() {
    let broker = broker(1);
    let lake = Lake::in_memory().unwrap();
    let event = |payload: Vec<u8>, fate| Sent { topic: MESSAGES, partition: 0, payload: Some(payload), fate };
    let half = br#"{"user_id": "ann@example.org", "content": "#.to_vec();
    let records = [
        event(message("a", "hello"), Fate::Event),
        event(half, Fate::Letter("invalid_json")),
        event(message("b", "more"), Fate::Event),
    ];
    produce(&broker.bootstrap(), &records);
    to_the_end(options(&broker.bootstrap(), "columns"), &lake).await.unwrap();
    check_each_once(&lake, &records).await;
    for spec in [&tables::EVENTS, &tables::DEAD_LETTERS] {
        for batch in read(&lake, spec, &["payload", "subject_key"]).await {
            let keys = texts(&batch, 1);
            assert!(keys.iter().all(|key| key.starts_with("sk_")), "{keys:?}");
            let payloads = format!("{:?}", texts(&batch, 0));
            assert!(!payloads.contains("ann@"), "{payloads}");
        }
        for batch in read(&lake, spec, &["headers"]).await {
            let shown = format!("{:?}", batch.column(0));
            assert!(shown.contains("trace") && shown.contains("t-1"), "{shown}");
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn memory_stays_under_the_bound_and_everything_arrives() {
    let broker = broker(4);
    let lake = Lake::in_memory().unwrap();
    let text = "x".repeat(20_000);
    let records: Vec<Sent> = (0..720)
        .map(|number| Sent {
            topic: MESSAGES,
            partition: number % 4,
            payload: Some(message(&format!("big-{number}"), &text)),
            fate: Fate::Event,
        })
        .collect();
    produce(&broker.bootstrap(), &records);
    let mut options = options(&broker.bootstrap(), "memory");
    options.memory = 8 << 20;
    options.flush = Limits { bytes: 2 << 20, rows: 1_000_000, age: Duration::from_hours(1) };
    options.until_end = true;
    let consumer = Consumer::start(options, &lake).await.unwrap();
    let handle = consumer.handle();
    let (bound, memory) = (handle.memory().bound(), handle.memory().clone());
    tokio::time::timeout(LONG, consumer.run()).await.expect("in time").unwrap();
    let sent: usize = records.iter().map(|sent| sent.payload.as_ref().map_or(0, Vec::len)).sum();
    println!("bound {bound}, peak {}, sent {sent}", memory.peak());
    assert!(memory.peak() <= bound, "peak {} over the bound {bound}", memory.peak());
    assert!(memory.peak() > bound / 2, "the bound was never near: the test shows nothing");
    assert!(sent as u64 > 2 * bound, "the test sends too little");
    assert_eq!(memory.used(), 0, "everything was given back");
    check_each_once(&lake, &records).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_record_larger_than_the_contract_or_even_the_memory_becomes_a_letter() {
    let broker = broker(1);
    let lake = Lake::in_memory().unwrap();
    let event = |payload: Vec<u8>, fate| Sent { topic: MESSAGES, partition: 0, payload: Some(payload), fate };
    let records = [
        event(message("small", "hello"), Fate::Event),
        event(message("large", &"y".repeat(4_600_000)), Fate::Letter("record_too_large")),
        event(message("after", "hello"), Fate::Event),
    ];
    produce(&broker.bootstrap(), &records);
    let mut options = options(&broker.bootstrap(), "large");
    options.memory = 8 << 20;
    to_the_end(options, &lake).await.unwrap();
    check_each_once(&lake, &records).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_broken_topic_stops_the_consumer_and_is_not_stored_as_letters() {
    let broker = broker(1);
    let lake = Lake::in_memory().unwrap();
    let records: Vec<Sent> = (0..300)
        .map(|number| Sent {
            topic: REACTIONS,
            partition: 0,
            payload: Some(format!("{{\"number\": {number}}}").into_bytes()),
            fate: Fate::Letter("missing_field"),
        })
        .collect();
    produce(&broker.bootstrap(), &records);
    let mut options = options(&broker.bootstrap(), "broken");
    options.bad_window = 100;
    options.max_bad_share = 0.5;
    options.flush.rows = 1_000_000;
    options.flush.age = Duration::from_hours(1);
    let error = to_the_end(options, &lake).await.unwrap_err();
    let message = error.to_string();
    assert!(matches!(error, Error::TooManyBad { bad: 100, window: 100, .. }), "{message}");
    assert!(message.contains("missing_field 100") && message.contains("max_bad_share"), "{message}");
    assert!(places(&lake, &tables::DEAD_LETTERS).await.is_empty());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_unreachable_broker_is_waited_for() {
    let broker = broker(2);
    let lake = Lake::in_memory().unwrap();
    let records = schedule(5, 200, 2);
    produce(&broker.bootstrap(), &records);
    broker.go_down().unwrap();
    let (handle, running) = start(options(&broker.bootstrap(), "away"), &lake).await;
    eventually("the loop turns without a broker", LONG, async || (handle.health().live()).then_some(())).await;
    assert!(!handle.health().ready(), "{}", handle.health().describe());
    broker.come_up().unwrap();
    eventually("ready", LONG, async || handle.health().ready().then_some(())).await;
    eventually("all is read", LONG, async || (handle.summary().consumed >= 200).then_some(())).await;
    handle.stop();
    running.await.unwrap().unwrap();
    check_each_once(&lake, &records).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stop_writes_what_is_held_and_a_second_one_leaves_it() {
    let broker = broker(1);
    let records = schedule(6, 120, 1);
    produce(&broker.bootstrap(), &records);
    let mut slow = options(&broker.bootstrap(), "stop");
    slow.flush = Limits { bytes: 2 << 20, rows: 1_000_000, age: Duration::from_hours(1) };
    for harder in [true, false] {
        let lake = Lake::in_memory().unwrap();
        let (handle, running) = start(slow.clone(), &lake).await;
        eventually("all is held", LONG, async || (handle.summary().consumed >= 120).then_some(())).await;
        assert_eq!(handle.summary().flushes, 0);
        if harder {
            handle.stop_now();
            assert!(matches!(running.await.unwrap(), Err(Error::Stopped)));
            assert!(places(&lake, &tables::EVENTS).await.is_empty());
        } else {
            handle.stop();
            let summary = running.await.unwrap().unwrap();
            assert_eq!(summary.flushes, 1);
            check_each_once(&lake, &records).await;
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_store_without_permission_ends_the_consumer_with_advice_and_nothing_is_lost() {
    let broker = broker(1);
    let records = schedule(7, 60, 1);
    produce(&broker.bootstrap(), &records);
    let store = LossyStore::scripted(Arc::new(object_store::memory::InMemory::new()));
    let lake = Lake::with_store(Arc::new(store.clone()), "memory:///lake/".parse().unwrap()).unwrap();
    to_the_end(options(&broker.bootstrap(), "denied"), &lake).await.unwrap();
    let more = schedule(8, 60, 1);
    produce(&broker.bootstrap(), &more);
    // The takeover's two commits pass; the data file of the next flush is refused.
    store.next_put("bronze/events/ingest_date", Fault::Denied);
    let error = to_the_end(options(&broker.bootstrap(), "denied"), &lake).await.unwrap_err();
    let cause = std::error::Error::source(&error).map(ToString::to_string).unwrap_or_default();
    assert!(cause.contains("permission denied") && cause.contains("read and write access"), "{error}: {cause}");
    to_the_end(options(&broker.bootstrap(), "denied"), &lake).await.unwrap();
    check_each_once(&lake, &[records, more].concat()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_start_at_the_latest_record_is_remembered() {
    let broker = broker(1);
    let lake = Lake::in_memory().unwrap();
    let before = schedule(9, 50, 1);
    produce(&broker.bootstrap(), &before);
    let mut latest = options(&broker.bootstrap(), "latest");
    latest.start = uptake_ingest::options::StartAt::Latest;
    let summary = to_the_end(latest.clone(), &lake).await.unwrap();
    assert_eq!(summary.consumed, 0);
    let after = schedule(10, 40, 1);
    produce(&broker.bootstrap(), &after);
    let summary = to_the_end(latest, &lake).await.unwrap();
    assert_eq!(summary.consumed, 40, "what came while nobody was there is read");
}
