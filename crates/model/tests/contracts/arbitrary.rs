//! Bytes at random, and examples with something broken in them: never a panic, and what is accepted can be read again.

use proptest::prelude::*;
use serde_json::Value;
use uptake_model::contract::Contract;
use uptake_model::decode::Outcome;
use uptake_model::rows::{events_batch, letters_batch};
use uptake_model::{facts, letter};

use crate::schemas::{all_refused, schema};
use crate::{decoded, edge};

/// Everything that must hold of a decoded payload, whatever it was.
#[track_caller]
fn check(payload: &[u8], contract: Contract) {
    match decoded(payload, contract) {
        Outcome::Event(row) => {
            assert!(serde_json::from_str::<Value>(&row.payload).is_ok(), "{}", row.payload);
            match contract {
                Contract::Messages | Contract::Completions => {
                    let turns = facts::turns_of(row.kind, &row.payload, row.event_time, row.subject_key.as_deref());
                    assert!(turns.is_ok_and(|turns| !turns.is_empty()), "{}", row.payload);
                }
                Contract::Reactions => assert!(facts::reaction_of(&row.payload).is_ok(), "{}", row.payload),
                Contract::Erasures => assert!(row.subject_key.is_some(), "{}", row.payload),
            }
            assert_eq!(events_batch(&[*row]).unwrap().num_rows(), 1);
        }
        Outcome::Letter(letter) => {
            assert!(!letter.error.is_empty() && letter.error.len() < 300, "{}", letter.error);
            assert_eq!(letters_batch(&[*letter]).unwrap().num_rows(), 1);
        }
        Outcome::Tombstone => panic!("no tombstone was sent"),
    }
}

fn contracts() -> impl Strategy<Value = Contract> {
    prop::sample::select(Contract::ALL.to_vec())
}

/// JSON with the keys that the contracts know, and values of any type.
fn json() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<f64>().prop_map(Value::from),
        "[a-z ]{0,6}|user|assistant|love|rating|2025-01-01T00:00:00Z|01941f29-7c00-7aaa-8bbb-0123456789ab|\\PC{0,8}"
            .prop_map(Value::from),
    ];
    let key = "event_id|request_id|conversation_id|conversation_started_at|message_id|turn_index|role|content|tool_calls|\
               event_time|user_id|user|kind|value|text|op|rejected_message_ids|request|response|messages|choices|message|\
               metadata|created|id|[a-z]{0,3}";
    leaf.prop_recursive(4, 40, 8, move |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
            prop::collection::vec((key, inner), 0..12).prop_map(|fields| Value::Object(fields.into_iter().collect())),
        ]
    })
}

proptest! {
    #[test]
    fn any_bytes(payload in prop::collection::vec(any::<u8>(), 0..200), contract in contracts()) {
        check(&payload, contract);
    }

    #[test]
    fn any_json(value in json(), contract in contracts()) {
        check(value.to_string().as_bytes(), contract);
    }

    /// An id under a person's key is gone, wherever it stood and however broken the rest is.
    #[test]
    fn no_id_survives_what_precedes_it(before in "\\PC{0,30}", after in "\\PC{0,30}", contract in contracts()) {
        let payload = format!("{before} \"user_id\": \"ann@example.org\" {after}");
        let redacted = letter::redact(payload.as_bytes(), &edge().pepper);
        prop_assert!(!String::from_utf8_lossy(&redacted.payload).contains("ann@example.org"));
        check(payload.as_bytes(), contract);
    }

    /// One change in a valid example, or in a refused record: a byte, a cut, a piece twice.
    #[test]
    fn mutations_of_examples(pick in any::<prop::sample::Index>(), at in any::<prop::sample::Index>(), length in 0_usize..20, byte in any::<u8>(), how in 0..4) {
        let seeds = seeds();
        let (contract, mut payload) = pick.get(&seeds).clone();
        if payload.is_empty() {
            return Ok(());
        }
        let at = at.index(payload.len());
        let end = (at + length).min(payload.len());
        match how {
            0 => payload[at] = byte,
            1 => payload.truncate(at),
            2 => drop(payload.drain(at..end)),
            _ => {
                let piece = payload[at..end].to_vec();
                let _ = payload.splice(at..at, piece);
            }
        }
        check(&payload, contract);
    }
}

fn seeds() -> Vec<(Contract, Vec<u8>)> {
    let examples = Contract::ALL.into_iter().flat_map(|contract| {
        let examples = schema(contract.kind())["examples"].as_array().unwrap().clone();
        examples.into_iter().map(move |example| (contract, example.to_string().into_bytes()))
    });
    examples.chain(all_refused().into_iter().map(|refused| (refused.contract, refused.payload))).collect()
}
