//! Live signals of the real binary on a real Kafka: the same as the nightly job writes, whatever is killed when.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use arrow::array::AsArray as _;
use arrow::datatypes::Float32Type;
use serde_json::{Value, json};
use uptake_ingest::mock::{Produce, TestProducer};
use uptake_ingest::testing::{Admin, Taken, count, read};
use uptake_lake::Lake;
use uptake_model::labels::output_name;
use uptake_model::signal::{output_order, signal_id};
use uptake_model::tables::SIGNALS;
use uptake_sample::{COMPLETIONS, Plan, TOPICS};
use uptake_tests::binary::{Running, command};
use uptake_tests::kafka::bootstrap;
use uptake_tests::tables::{read as rows, texts};
use uptake_tests::wait::{eventually, until};

use super::records::PEPPER;

const LONG: Duration = Duration::from_mins(4);

/// A directory, a lake, and topics of this test's own.
struct Place {
    directory: tempfile::TempDir,
    name: String,
    admin: Admin,
    producer: TestProducer,
}

impl Place {
    async fn new(name: &str) -> Self {
        let place = Self::without_topic_for_signals(name).await;
        place.make(&place.signals(), 2).await;
        place
    }

    async fn without_topic_for_signals(name: &str) -> Self {
        let place = Self {
            directory: tempfile::tempdir().unwrap(),
            name: name.to_owned(),
            admin: Admin::connect(bootstrap()).unwrap(),
            producer: TestProducer::connect(bootstrap()).unwrap(),
        };
        for (topic, _) in TOPICS {
            place.make(&place.topic(topic), 2).await;
        }
        place
    }

    async fn make(&self, topic: &str, partitions: i32) {
        eventually("the broker makes a topic", LONG, async || {
            self.admin.create_topic(topic, partitions).await.map_err(|error| println!("not yet: {error}")).ok()
        })
        .await;
    }

    fn topic(&self, topic: &str) -> String {
        format!("{}.{topic}", self.name)
    }

    fn signals(&self) -> String {
        self.topic("signals")
    }

    fn lake(&self) -> PathBuf {
        self.directory.path().join("lake")
    }

    /// `uptake consume --tag` on this place's topics, flushing often.
    fn consume(&self) -> Command {
        let mut command = command(&self.lake());
        command
            .args(["consume", "--brokers", bootstrap(), "--group", &format!("group-of-{}", self.name)])
            .args(["--tag", "--signals-topic", &self.signals()])
            .env("UPTAKE_SUBJECT_PEPPER", PEPPER)
            .env("UPTAKE_INGEST_FLUSH_AGE", "200ms")
            .env("UPTAKE_INGEST_FLUSH_ROWS", "60")
            .env("UPTAKE_INGEST_MAX_BAD_SHARE", "0.9")
            .env("UPTAKE_KAFKA_SESSION_TIMEOUT_MS", "6000")
            .env("UPTAKE_KAFKA_HEARTBEAT_INTERVAL_MS", "500")
            .env("UPTAKE_INGEST_DRAIN_DEADLINE", "5s")
            .env("UPTAKE_KAFKA_GROUP_INSTANCE_ID", "the-one");
        for (topic, contract) in TOPICS {
            command.args(["--topic", &format!("{contract}={}", self.topic(topic))]);
        }
        command
    }

    fn log(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    /// Runs to the ends; the exit code and what was said.
    fn to_the_end(&self, change: impl FnOnce(&mut Command)) -> (i32, String) {
        let mut command = self.consume();
        command.arg("--until-end");
        change(&mut command);
        let mut running = Running::start(&mut command, &self.log("log"));
        let status = running.wait(LONG);
        (status.code().unwrap_or(-1), running.said())
    }

    fn produce(&self, topic: &str, key: &str, payload: Option<&[u8]>) {
        let topic = self.topic(topic);
        let record = Produce { topic: &topic, key: Some(key.as_bytes()), payload, ..Produce::default() };
        self.producer.produce(&record).unwrap();
    }

    fn published(&self) -> Vec<Taken> {
        read(bootstrap(), &self.signals()).unwrap()
    }

    fn run_the_jobs(&self) {
        let output = command(&self.lake()).args(["run", "signals"]).output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    }
}

/// A sample log: messages and a gateway's lines, repeats, late ones, broken ones, and clocks that are off.
fn sample(seed: u64, conversations: usize) -> Vec<uptake_sample::Record> {
    uptake_sample::generate(&Plan::new(seed, conversations)).unwrap().records
}

/// What the nightly job has written: by id, the row as it would be published.
async fn stored(lake: &Path) -> BTreeMap<String, Value> {
    let lake = Lake::open(lake.to_str().unwrap()).unwrap();
    let keys = ["turn_id", "follow_up_turn_id", "tagger_id", "conversation_id", "input_hash"];
    let outputs: Vec<&str> = output_order().filter_map(output_name).collect();
    let columns: Vec<&str> = keys.into_iter().chain(outputs.iter().copied()).collect();
    let mut found = BTreeMap::new();
    for batch in rows(&lake, &SIGNALS, &columns).await {
        let texts: Vec<Vec<String>> = (0..keys.len()).map(|column| texts(&batch, column)).collect();
        for row in 0..batch.num_rows() {
            let mut value = serde_json::Map::new();
            for (key, column) in keys.iter().zip(&texts) {
                value.insert((*key).to_owned(), json!(column[row]));
            }
            for (at, output) in outputs.iter().enumerate() {
                let column = batch.column(keys.len() + at).as_primitive::<Float32Type>();
                value.insert((*output).to_owned(), json!(column.value(row)));
            }
            found.insert(signal_id(&texts[0][row], &texts[1][row], &texts[2][row]), Value::Object(value));
        }
    }
    found
}

/// What was published, by id, the last word on each. A repeat of the same texts must have the bytes of the first.
fn by_id(published: &[Taken]) -> BTreeMap<String, Value> {
    let mut bytes: BTreeMap<(String, String), &[u8]> = BTreeMap::new();
    let mut found = BTreeMap::new();
    for taken in published {
        let value: Value = serde_json::from_slice(&taken.payload).unwrap();
        let id = value["signal_id"].as_str().unwrap().to_owned();
        assert_eq!(taken.headers, [("uptake-signal-id".to_owned(), id.clone())]);
        assert_eq!(taken.key.as_deref(), value["conversation_id"].as_str().map(str::as_bytes));
        let texts = value["input_hash"].as_str().unwrap().to_owned();
        if let Some(first) = bytes.insert((id.clone(), texts), &taken.payload) {
            assert_eq!(
                String::from_utf8_lossy(first),
                String::from_utf8_lossy(&taken.payload),
                "a repeat with other bytes"
            );
        }
        found.insert(id, value);
    }
    found
}

/// Checks that what was published is what the nightly job writes, no more and no less, figure by figure.
async fn check_same(place: &Place) -> usize {
    place.run_the_jobs();
    let (stored, published) = (stored(&place.lake()).await, by_id(&place.published()));
    let missing: Vec<&Value> =
        stored.iter().filter(|(id, _)| !published.contains_key(*id)).map(|(_, row)| row).collect();
    let more: Vec<&Value> = published.iter().filter(|(id, _)| !stored.contains_key(*id)).map(|(_, row)| row).collect();
    assert!(missing.is_empty() && more.is_empty(), "not published: {missing:#?}\nnot stored: {more:#?}");
    for (id, row) in &stored {
        for (name, expected) in row.as_object().unwrap() {
            let found = &published[id][name];
            let figure = |value: &Value| serde_json::from_value::<f32>(value.clone()).ok();
            assert_eq!((found.as_str(), figure(found)), (expected.as_str(), figure(expected)), "{name} of {row:#}");
        }
    }
    stored.len()
}

fn message(conversation: &str, index: i32, text: &str) -> Vec<u8> {
    json!({
        "event_id": format!("{conversation}-e{index}"), "conversation_id": conversation,
        "conversation_started_at": "2026-01-31T12:00:00Z", "message_id": format!("{conversation}-m{index}"),
        "turn_index": index, "role": if index % 2 == 0 { "user" } else { "assistant" }, "content": text,
        "event_time": format!("2026-01-31T12:{index:02}:00Z"), "user_id": "ann@example.org",
    })
    .to_string()
    .into_bytes()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_published_is_what_the_nightly_job_writes() {
    let place = Place::new("signals-same").await;
    for record in sample(11, 120) {
        place.produce(record.topic, &record.key, record.payload.as_deref());
    }
    place.producer.flush().unwrap();
    let (code, said) = place.to_the_end(|_| {});
    assert_eq!(code, 0, "{said}");
    let signals = check_same(&place).await;
    let records = place.published().len();
    println!("{signals} signals, published as {records} records");
    assert!(signals > 100);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_gateways_line_holds_its_own_context() {
    let place = Place::new("signals-gateway").await;
    let line = |said: &[&str], answer: &str| {
        let role = |at: usize| if at.is_multiple_of(2) { "user" } else { "assistant" };
        let messages: Vec<Value> =
            said.iter().enumerate().map(|(at, text)| json!({ "role": role(at), "content": text })).collect();
        json!({
            "conversation_id": "chat-1", "conversation_started_at": "2026-01-31T12:00:00Z",
            "request": { "messages": messages },
            "response": { "id": format!("chatcmpl-{}", said.len()), "created": 1_769_860_800 + said.len(),
                "choices": [{ "message": { "role": "assistant", "content": answer } }] },
        })
        .to_string()
        .into_bytes()
    };
    let talk = ["Name a river.", "The Thames.", "No, one in France.", "The Loire.", "Thanks, perfect!"];
    place.produce(COMPLETIONS, "chat-1", Some(&line(&talk[..1], talk[1])));
    place.produce(COMPLETIONS, "chat-1", Some(&line(&talk[..3], talk[3])));
    place.producer.flush().unwrap();
    assert_eq!(place.to_the_end(|_| {}).0, 0);
    assert_eq!(by_id(&place.published()).len(), 1);
    place.produce(COMPLETIONS, "chat-1", Some(&line(&talk, "You are welcome.")));
    place.producer.flush().unwrap();
    // Another process, which knows nothing of the conversation: the line tells all of it.
    let (code, said) = place.to_the_end(|_| {});
    assert_eq!(code, 0, "{said}");
    assert_eq!(check_same(&place).await, 2);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn after_a_restart_context_comes_from_the_tables() {
    let place = Place::new("signals-restart").await;
    let texts =
        ["Name a river.", "The Thames.", "No, one in France.", "The Loire.", "Thanks, perfect!", "Gladly.", "Bye"];
    let produce = |from: usize, to: usize| {
        for conversation in ["chat-1", "chat-2"] {
            for (index, text) in texts.iter().enumerate().take(to).skip(from) {
                let payload = message(conversation, i32::try_from(index).unwrap(), text);
                place.produce(uptake_sample::MESSAGES, conversation, Some(&payload));
            }
        }
        place.producer.flush().unwrap();
    };
    for (from, to, signals) in [(0, 4, 2), (4, 5, 4), (5, 7, 6)] {
        produce(from, to);
        let (code, said) = place.to_the_end(|_| {});
        assert_eq!(code, 0, "{said}");
        let published = place.published();
        assert_eq!((published.len(), by_id(&published).len()), (signals, signals), "each once, as nothing was killed");
    }
    assert_eq!(check_same(&place).await, 6);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn killed_with_9_again_and_again_no_signal_is_lost_and_repeats_are_the_same() {
    let place = Place::new("signals-killed").await;
    let records = sample(12, 160);
    let share = records.len() / 6;
    let mut parts = records.chunks(share);
    let mut produce = || {
        for record in parts.next().unwrap_or_default() {
            place.produce(record.topic, &record.key, record.payload.as_deref());
        }
        place.producer.flush().unwrap();
    };
    for round in 0..5 {
        let before = count(bootstrap(), &place.signals()).unwrap();
        produce();
        let mut command = place.consume();
        // Small enough that spans go through the tables now and then, and contexts are forgotten.
        command.env("UPTAKE_SIGNALS_STORE_CONVERSATIONS", "5").env("UPTAKE_INGEST_FLUSH_ROWS", "40");
        let mut running = Running::start(&mut command, &place.log(&format!("log-{round}")));
        let after = until("signals come", LONG, || {
            assert!(running.is_running(), "uptake ended by itself: {}", running.said());
            let now = count(bootstrap(), &place.signals()).unwrap();
            (now > before + 2 * round).then_some(now)
        });
        running.kill_hard();
        let resumed = running.said().matches("signals go on where they were left").count();
        println!(
            "round {round}: killed after {} signals; {resumed} partitions went on from the tables",
            after - before
        );
    }
    // The two parts that are left, the second of a few records or none.
    produce();
    produce();
    let (code, said) = place.to_the_end(|_| {});
    assert_eq!(code, 0, "{said}");
    let signals = check_same(&place).await;
    println!("{signals} signals, published as {} records", place.published().len());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sigterm_publishes_what_waits_and_the_next_start_repeats_nothing() {
    let place = Place::new("signals-sigterm").await;
    let mut command = place.consume();
    // Nothing is flushed before the end, so that all is left to it.
    command
        .env("UPTAKE_INGEST_FLUSH_AGE", "1h")
        .env("UPTAKE_SIGNALS_FLUSH_AGE", "1h")
        .env("UPTAKE_INGEST_FLUSH_ROWS", "30");
    command.env("UPTAKE_INGEST_DRAIN_DEADLINE", "30s").env("UPTAKE_KAFKA_SESSION_TIMEOUT_MS", "45000");
    let mut running = Running::start(&mut command, &place.log("log"));
    for conversation in 0..25 {
        for index in 0..3 {
            let conversation = format!("chat-{conversation}");
            let payload = message(&conversation, index, "so it goes, thanks");
            place.produce(uptake_sample::MESSAGES, &conversation, Some(&payload));
        }
    }
    place.producer.flush().unwrap();
    until("a first signal", LONG, || (count(bootstrap(), &place.signals()).unwrap() > 0).then_some(()));
    running.terminate();
    assert_eq!(running.wait(LONG).code(), Some(0), "{}", running.said());
    let first = place.published();
    println!("{} signals at the end of the first life", first.len());
    assert!(!running.said().contains("are left to the next start"), "{}", running.said());
    assert_eq!(by_id(&first).len(), first.len(), "each once");
    let (code, said) = place.to_the_end(|_| {});
    assert_eq!(code, 0, "{said}");
    let all = place.published();
    assert_eq!((all.len(), by_id(&all).len()), (25, 25), "each once");
    assert_eq!(check_same(&place).await, 25);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_topic_for_signals_that_is_missing_says_what_to_do() {
    let place = Place::without_topic_for_signals("signals-missing").await;
    let (code, said) = place.to_the_end(|_| {});
    assert_eq!(code, 2, "{said}");
    for expected in ["does not exist", "kafka-topics.sh --create", "signals.topic", &place.signals()] {
        assert!(said.contains(expected), "no `{expected}` in {said}");
    }
    let messages = place.topic(uptake_sample::MESSAGES);
    let mut circle = command(&place.lake());
    circle
        .args(["consume", "--brokers", bootstrap(), "--topic", &format!("messages={messages}"), "--tag"])
        .env("UPTAKE_SUBJECT_PEPPER", PEPPER)
        .env("UPTAKE_SIGNALS_TOPIC", &messages);
    let output = circle.output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(2), "{said}");
    assert!(said.contains("a topic of their own"), "{said}");
}
