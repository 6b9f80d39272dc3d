//! Records at random through every layout: never a panic, and everything that comes out is decoded or refused.

use proptest::prelude::*;
use serde_json::Value;
use uptake_model::Pepper;
use uptake_model::contract::Contract;
use uptake_model::decode::{Edge, Outcome, Record, decode};

use super::conversation::Sink;
use super::layout::{Layout, Refusal};

/// Decodes what it gets, and counts.
struct Judge {
    edge: Edge,
    events: u64,
    letters: u64,
}

impl Sink for Judge {
    fn event(&mut self, contract: Contract, payload: Vec<u8>) -> bool {
        let record = Record {
            topic: "file:0",
            partition: 0,
            offset: 0,
            key: None,
            payload: Some(&payload),
            headers: Vec::new(),
            broker_time: None,
        };
        match decode(&record, contract, &self.edge, 1_767_225_600_000_000) {
            Outcome::Event(row) => {
                // The id is a hash of the rest, so it is there and bounded whatever came in.
                assert_eq!(row.event_id.len(), 26);
                self.events += 1;
                true
            }
            Outcome::Letter(letter) => {
                assert!(serde_json::from_slice::<Value>(&payload).is_ok(), "{}", letter.error);
                self.letters += 1;
                false
            }
            Outcome::Tombstone => panic!("no layout yields tombstones"),
        }
    }

    fn refuse(&mut self, (_, why): Refusal, _: &[u8]) {
        assert!(!why.is_empty());
        self.letters += 1;
    }
}

/// JSON objects with the keys that the layouts know.
fn record() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<f64>().prop_map(Value::from),
        "user|assistant|human|gpt|prompter|\\+1|2025-01-01T00:00:00Z|[a-z]{0,4}|\\PC{0,6}".prop_map(Value::from),
    ];
    let key = "conversation_id|id|messages|conversation|conversations|role|from|content|value|text|reactions|turn|kind|\
               start_time|time|timestamp|created|user_id|hashed_ip|metadata|model|message_id|parent_id|\
               message_tree_id|prompt|replies|rank|emojis|name|count|[a-z]{1,2}";
    let value = leaf.prop_recursive(5, 60, 6, move |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
            prop::collection::vec((key, inner), 0..10).prop_map(|fields| Value::Object(fields.into_iter().collect())),
        ]
    });
    let top =
        "messages|conversation|conversations|prompt|reactions|message_id|text|conversation_id|start_time|metadata";
    prop::collection::vec((top, value), 1..8).prop_map(|fields| Value::Object(fields.into_iter().collect()))
}

proptest! {
    #[test]
    fn any_record_in_any_layout(record in record(), layout in prop::sample::select(Layout::ALL.to_vec())) {
        let Value::Object(record) = record else { return Ok(()) };
        let _ = Layout::of(&record);
        let pepper = Pepper::new("0123456789abcdef").unwrap();
        let edge = Edge { pepper, max_record_bytes: 1 << 20, pipeline_version: "test".to_owned() };
        let mut judge = Judge { edge, events: 0, letters: 0 };
        match layout.read(record) {
            Ok(conversation) => {
                conversation.emit(1_577_836_800_000_000, &mut judge);
                let said = conversation.messages.len() + conversation.reactions.len();
                prop_assert_eq!(judge.events + judge.letters, said as u64);
            }
            Err((_, why)) => prop_assert!(!why.is_empty()),
        }
    }
}
