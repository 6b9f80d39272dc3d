//! Records for the tests, from a seed, with what must become of each.

use std::collections::BTreeMap;

use rand::{Rng as _, SeedableRng as _};
use rand_chacha::ChaCha8Rng;
use uptake_ingest::mock::{Produce, TestProducer};
use uptake_model::contract::Contract;
use uptake_model::decode::Edge;
use uptake_model::{Pepper, tables};
use uptake_tests::tables::{Place, places, read, texts};

/// The secret of the tests.
pub(super) const PEPPER: &str = "a pepper for the tests alone";

/// The topics of the tests.
pub(super) const MESSAGES: &str = "chat.messages";
/// See [`MESSAGES`].
pub(super) const REACTIONS: &str = "chat.reactions";

/// What must become of a record.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Fate {
    /// A row of `events`.
    Event,
    /// A row of `dead_letters` for this reason.
    Letter(&'static str),
    /// No row: a null payload.
    Nothing,
    /// No row, or a row of `events` when a restart made the window forget the first copy.
    Copy,
    /// A dead letter, or a row of `events` when a restart made the window forget the first use of the id.
    Reused,
}

/// One record and its fate.
#[derive(Debug, Clone)]
pub(super) struct Sent {
    /// Topic.
    pub(super) topic: &'static str,
    /// Partition.
    pub(super) partition: i32,
    /// Payload.
    pub(super) payload: Option<Vec<u8>>,
    /// What must become of it.
    pub(super) fate: Fate,
}

/// What the decoder of the tests knows.
pub(super) fn edge() -> Edge {
    Edge { pepper: Pepper::new(PEPPER).unwrap(), max_record_bytes: 1 << 20, pipeline_version: "test".to_owned() }
}

/// The contracts of the tests' topics.
pub(super) fn topics() -> BTreeMap<String, Contract> {
    BTreeMap::from([(MESSAGES.to_owned(), Contract::Messages), (REACTIONS.to_owned(), Contract::Reactions)])
}

/// A message that the contract accepts.
pub(super) fn message(event_id: &str, text: &str) -> Vec<u8> {
    serde_json::json!({
        "event_id": event_id, "conversation_id": "conversation-1", "conversation_started_at": "2026-01-31T12:00:00Z",
        "message_id": format!("m-{event_id}"), "role": "user", "content": text, "event_time": "2026-01-31T12:00:05Z",
        "user_id": "ann@example.org",
    })
    .to_string()
    .into_bytes()
}

/// A reaction that the contract accepts.
pub(super) fn reaction(event_id: &str) -> Vec<u8> {
    serde_json::json!({
        "event_id": event_id, "message_id": "m-1", "kind": "love", "op": "set", "event_time": "2026-01-31T12:01:00Z",
        "user_id": "bob@example.org",
    })
    .to_string()
    .into_bytes()
}

/// `count` records over `partitions` partitions of both topics: about one in eight is broken, empty or a copy.
pub(super) fn schedule(seed: u64, count: usize, partitions: i32) -> Vec<Sent> {
    let mut random = ChaCha8Rng::seed_from_u64(seed);
    let mut last_good: BTreeMap<(&'static str, i32), (String, Vec<u8>)> = BTreeMap::new();
    (0..count)
        .map(|number| {
            let topic = if random.random_bool(0.7) { MESSAGES } else { REACTIONS };
            let partition = random.random_range(0..partitions);
            let id = format!("{seed}-{number}");
            let good = |id: &str| if topic == MESSAGES { message(id, "hello there") } else { reaction(id) };
            let before = last_good.get(&(topic, partition)).cloned();
            let (payload, fate) = match (random.random_range(0..40), before) {
                (0, _) => (Some(b"{\"event_id\": \"broken\", ".to_vec()), Fate::Letter("invalid_json")),
                (1, _) => (Some(vec![0xff, 0xfe, b'{', b'}']), Fate::Letter("invalid_utf8")),
                (2, _) => (Some(b"[1, 2]".to_vec()), Fate::Letter("not_an_object")),
                (3, _) => (Some(b"{\"role\": 7}".to_vec()), Fate::Letter("missing_field")),
                (4, _) => (None, Fate::Nothing),
                (5, Some((_, payload))) => (Some(payload), Fate::Copy),
                (6, Some((id, payload))) => {
                    let text = String::from_utf8(payload).unwrap().replace("12:0", "13:0");
                    assert!(text.contains(&id));
                    (Some(text.into_bytes()), Fate::Reused)
                }
                _ => {
                    let payload = good(&id);
                    last_good.insert((topic, partition), (id, payload.clone()));
                    (Some(payload), Fate::Event)
                }
            };
            Sent { topic, partition, payload, fate }
        })
        .collect()
}

/// Produces records in order and waits until the broker has them.
pub(super) fn produce(bootstrap: &str, records: &[Sent]) {
    let producer = TestProducer::connect(bootstrap).unwrap();
    for sent in records {
        let record = Produce {
            topic: sent.topic,
            partition: Some(sent.partition),
            key: Some(b"conversation-1"),
            payload: sent.payload.as_deref(),
            headers: &[("trace", "t-1")],
            ..Produce::default()
        };
        producer.produce(&record).unwrap();
    }
    producer.flush().unwrap();
}

/// Where each record stands, given that nothing but `records` was produced.
pub(super) fn placed(records: &[Sent]) -> Vec<(Place, Fate)> {
    let mut next: BTreeMap<(&str, i32), i64> = BTreeMap::new();
    records
        .iter()
        .map(|sent| {
            let offset = next.entry((sent.topic, sent.partition)).or_default();
            let place = (sent.topic.to_owned(), sent.partition, *offset);
            *offset += 1;
            (place, sent.fate)
        })
        .collect()
}

/// Checks that every record is in bronze exactly once, as its fate says.
pub(super) async fn check_each_once(lake: &uptake_lake::Lake, records: &[Sent]) {
    let events = counted(places(lake, &tables::EVENTS).await);
    let letters = counted(places(lake, &tables::DEAD_LETTERS).await);
    let mut classes: BTreeMap<Place, String> = BTreeMap::new();
    for batch in read(lake, &tables::DEAD_LETTERS, &["topic", "partition", "offset", "error_class"]).await {
        use arrow::array::AsArray as _;
        let (topics, reasons) = (texts(&batch, 0), texts(&batch, 3));
        for row in 0..batch.num_rows() {
            let partition = batch.column(1).as_primitive::<arrow::datatypes::Int32Type>().value(row);
            let offset = batch.column(2).as_primitive::<arrow::datatypes::Int64Type>().value(row);
            classes.insert((topics[row].clone(), partition, offset), reasons[row].clone());
        }
    }
    let expected = placed(records);
    for (place, fate) in &expected {
        let found = (events.get(place).copied().unwrap_or(0), letters.get(place).copied().unwrap_or(0));
        let right = match fate {
            Fate::Event => found == (1, 0),
            Fate::Letter(class) => found == (0, 1) && classes.get(place).is_some_and(|stored| stored == class),
            Fate::Nothing => found == (0, 0),
            Fate::Copy => found == (0, 0) || found == (1, 0),
            Fate::Reused => found == (0, 1) || found == (1, 0),
        };
        assert!(
            right,
            "{place:?} should be {fate:?}, and is {found:?} times in (events, letters), as {:?}",
            classes.get(place)
        );
    }
    let known: std::collections::BTreeSet<&Place> = expected.iter().map(|(place, _)| place).collect();
    let stray: Vec<_> = events.keys().chain(letters.keys()).filter(|place| !known.contains(place)).collect();
    assert!(stray.is_empty(), "rows that nobody produced: {stray:?}");
}

fn counted(places: Vec<Place>) -> BTreeMap<Place, usize> {
    let mut counts = BTreeMap::new();
    for place in places {
        *counts.entry(place).or_default() += 1;
    }
    counts
}
