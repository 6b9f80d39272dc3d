//! Live signals on a broker in this process: a tagger that stands still, a queue that is full, brokers that go.

use std::collections::BTreeSet;
use std::sync::{Arc, Condvar, Mutex};
use std::time::Duration;

use serde_json::{Value, json};
use uptake_ingest::consume::Consumer;
use uptake_ingest::mock::{MockBroker, Produce, TestProducer};
use uptake_ingest::options::{ConsumeOptions, Limits};
use uptake_ingest::signals::{FollowUp, Score, Scored, SignalsOptions, StoreLimits, Tagging};
use uptake_ingest::testing::{Taken, count, read};
use uptake_lake::Lake;
use uptake_model::labels::{DSAT, OUTPUTS};
use uptake_model::tables;
use uptake_tests::tables::places;
use uptake_tests::wait::eventually;

use super::consumer::{LONG, options};
use super::records::{MESSAGES, REACTIONS};

const SIGNALS: &str = "signals";

/// A tagger that stands still until it is let go; what it gives says how much context it was given.
#[derive(Debug, Default)]
struct Gate {
    open: Mutex<bool>,
    opened: Condvar,
}

impl Gate {
    fn opened() -> Arc<Self> {
        Arc::new(Self { open: Mutex::new(true), opened: Condvar::new() })
    }

    fn let_go(&self) {
        *self.open.lock().unwrap() = true;
        self.opened.notify_all();
    }
}

impl Score for Gate {
    fn version(&self) -> &'static str {
        "gate-1"
    }

    fn looks_back(&self) -> usize {
        32
    }

    fn score(&self, follow_ups: &[FollowUp<'_>]) -> Result<Vec<Scored>, String> {
        let mut open = self.open.lock().unwrap();
        while !*open {
            open = self.opened.wait(open).unwrap();
        }
        let scored = |asked: &FollowUp<'_>| {
            let mut probabilities = [0.5; OUTPUTS];
            probabilities[DSAT] = asked.before.len() as f32 / 64.0;
            Scored { probabilities, fires: [false; OUTPUTS] }
        };
        Ok(follow_ups.iter().map(scored).collect())
    }
}

fn tagging(gate: &Arc<Gate>) -> Tagging {
    let options = SignalsOptions {
        topic: SIGNALS.to_owned(),
        queue_bytes: 1 << 20,
        flush_age: Duration::from_millis(200),
        store: StoreLimits { bytes: 1 << 20, conversations: 1_000 },
        ..SignalsOptions::default()
    };
    Tagging { options, scorer: Arc::<Gate>::clone(gate) }
}

fn broker() -> MockBroker {
    MockBroker::start(&[MESSAGES, REACTIONS, SIGNALS], 1).unwrap()
}

fn options_of(broker: &MockBroker, group: &str) -> ConsumeOptions {
    let mut options = options(&broker.bootstrap(), group);
    options.flush = Limits { bytes: 2 << 20, rows: 50, age: Duration::from_millis(200) };
    options
}

/// Turns of conversations, `index` of each: from all of them, then the next.
fn produce(producer: &TestProducer, conversations: usize, turns: std::ops::Range<i32>, text: &str) {
    for index in turns {
        for conversation in 0..conversations {
            let role = if index % 2 == 0 { "user" } else { "assistant" };
            let payload = json!({
                "event_id": format!("{conversation}-{index}"), "conversation_id": format!("c{conversation}"),
                "conversation_started_at": "2026-01-31T12:00:00Z", "message_id": format!("{conversation}-m{index}"),
                "turn_index": index, "role": role, "content": text, "event_time": "2026-01-31T12:00:05Z",
                "user_id": "ann@example.org",
            })
            .to_string();
            let key = format!("c{conversation}");
            let record = Produce {
                topic: MESSAGES,
                key: Some(key.as_bytes()),
                payload: Some(payload.as_bytes()),
                ..Produce::default()
            };
            producer.produce(&record).unwrap();
        }
    }
    producer.flush().unwrap();
}

fn values(published: &[Taken]) -> Vec<Value> {
    published.iter().map(|taken| serde_json::from_slice(&taken.payload).unwrap()).collect()
}

fn follow_ups(published: &[Taken]) -> BTreeSet<String> {
    values(published).iter().map(|value| value["follow_up_turn_id"].as_str().unwrap().to_owned()).collect()
}

/// Consuming and committing go on while nothing is tagged; what did not fit into the queue is read back from the tables.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_tagger_that_stands_still_holds_nothing_up_and_loses_nothing() {
    let broker = broker();
    let lake = Lake::in_memory().unwrap();
    let producer = broker.producer().unwrap();
    let gate = Arc::new(Gate::default());
    let consumer = Consumer::start_with(options_of(&broker, "still"), &lake, Some(tagging(&gate))).await.unwrap();
    let handle = consumer.handle();
    let running = tokio::spawn(consumer.run());
    let text = "x".repeat(5_000);
    produce(&producer, 150, 0..3, &text);
    eventually("all records are stored", LONG, async || {
        (places(&lake, &tables::EVENTS).await.len() == 450).then_some(())
    })
    .await;
    assert_eq!(count(&broker.bootstrap(), SIGNALS).unwrap(), 0, "nothing is tagged yet");
    assert!(handle.health().live());
    gate.let_go();
    eventually("all signals are published", LONG, async || {
        (count(&broker.bootstrap(), SIGNALS).unwrap() >= 150).then_some(())
    })
    .await;
    handle.stop();
    running.await.unwrap().unwrap();
    let published = read(&broker.bootstrap(), SIGNALS).unwrap();
    assert_eq!((published.len(), follow_ups(&published).len()), (150, 150), "each once");
    // The store holds a fifth of what was said, so most contexts came from the tables, whole.
    for value in values(&published) {
        assert_eq!(value["dsat"].as_f64(), Some(1.0 / 64.0), "one message before the response: {value}");
    }
}

/// Who is stopped before the signals are out leaves them to the next start.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_deadline_leaves_the_next_start_publishes() {
    let broker = broker();
    let lake = Lake::in_memory().unwrap();
    produce(&broker.producer().unwrap(), 40, 0..5, "thanks");
    let gate = Arc::new(Gate::default());
    let mut options = options_of(&broker, "deadline");
    options.drain_deadline = Duration::from_secs(1);
    let consumer = Consumer::start_with(options.clone(), &lake, Some(tagging(&gate))).await.unwrap();
    let handle = consumer.handle();
    let running = tokio::spawn(consumer.run());
    eventually("all records are stored", LONG, async || {
        (places(&lake, &tables::EVENTS).await.len() == 200).then_some(())
    })
    .await;
    handle.stop();
    running.await.unwrap().unwrap();
    gate.let_go();
    options.until_end = true;
    let consumer = Consumer::start_with(options.clone(), &lake, Some(tagging(&Gate::opened()))).await.unwrap();
    tokio::time::timeout(LONG, consumer.run()).await.unwrap().unwrap();
    let published = read(&broker.bootstrap(), SIGNALS).unwrap();
    assert_eq!(follow_ups(&published).len(), 80);
    // And after that there is nothing left to publish.
    let consumer = Consumer::start_with(options, &lake, Some(tagging(&Gate::opened()))).await.unwrap();
    tokio::time::timeout(LONG, consumer.run()).await.unwrap().unwrap();
    assert_eq!(count(&broker.bootstrap(), SIGNALS).unwrap(), published.len() as u64);
}

/// A pipeline that ran without a tagger begins with what comes from now on: what came before is the nightly job's.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn signals_begin_with_what_comes_from_now_on() {
    let broker = broker();
    let lake = Lake::in_memory().unwrap();
    let producer = broker.producer().unwrap();
    produce(&producer, 10, 0..3, "thanks");
    let mut options = options_of(&broker, "begin");
    options.until_end = true;
    Consumer::start(options.clone(), &lake).await.unwrap().run().await.unwrap();
    produce(&producer, 10, 3..5, "thanks");
    let consumer = Consumer::start_with(options, &lake, Some(tagging(&Gate::opened()))).await.unwrap();
    tokio::time::timeout(LONG, consumer.run()).await.unwrap().unwrap();
    let published = read(&broker.bootstrap(), SIGNALS).unwrap();
    let expected: BTreeSet<String> = (0..10).map(|conversation| format!("{conversation}-m4")).collect();
    assert_eq!(follow_ups(&published), expected);
    for value in values(&published) {
        assert_eq!(value["dsat"].as_f64(), Some(3.0 / 64.0), "what was said before is read from the tables: {value}");
    }
}
