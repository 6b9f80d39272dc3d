//! What goes wrong in every real log: repeats, reused ids, tombstones, and records that follow no contract.

use rand::seq::IndexedRandom as _;
use rand::{Rng as _, SeedableRng as _};
use rand_chacha::ChaCha8Rng;
use serde_json::json;
use uptake_model::contract::ErrorClass;
use uptake_model::time::{self, DAY_MICROS, Micros};

use crate::conversation::{MINUTE, SECOND, id_at};
use crate::oracle::Oracle;
use crate::{COMPLETIONS, MESSAGES, Plan, REACTIONS, Record};

/// Adds the faults; what is added is in the oracle.
pub(crate) fn add(plan: &Plan, records: &mut Vec<Record>, oracle: &mut Oracle) {
    let mut rng = ChaCha8Rng::seed_from_u64(plan.seed);
    rng.set_stream(u64::MAX - 1);
    // Hash order plays no part: the records stand in the order in which they were made.
    let sound = records.len();
    let share = |per_thousand: usize, at_least: usize| (sound * per_thousand / 1_000).max(at_least);
    repeat(&mut rng, records, sound, share(6, 4), oracle);
    reuse_ids(&mut rng, records, sound, share(1, 3), oracle);
    for _ in 0..share(1, 3) {
        let topic = *[MESSAGES, REACTIONS].choose(&mut rng).unwrap_or(&MESSAGES);
        let (arrives, key) = somewhere(plan, &mut rng);
        oracle.topics.entry(topic).or_default().tombstones += 1;
        records.push(Record { topic, key, payload: None, arrives });
    }
    for round in 0..share(3, BROKEN.len()) {
        let (arrives, key) = somewhere(plan, &mut rng);
        let (topic, class, make) = BROKEN[round % BROKEN.len()];
        let payload = make(&mut rng, &key, arrives);
        *oracle.topics.entry(topic).or_default().refused.entry(class).or_default() += 1;
        records.push(Record { topic, key, payload: Some(payload), arrives });
    }
}

/// A conversation that nothing else is known of, and a time in the week.
fn somewhere(plan: &Plan, rng: &mut ChaCha8Rng) -> (Micros, String) {
    let arrives = plan.start + rng.random_range(0..i64::from(plan.days.max(1)) * DAY_MICROS);
    (arrives, id_at(rng, arrives))
}

/// Producers send again what was not acknowledged.
fn repeat(rng: &mut ChaCha8Rng, records: &mut Vec<Record>, sound: usize, count: usize, oracle: &mut Oracle) {
    for _ in 0..count {
        let mut again = records[rng.random_range(0..sound)].clone();
        again.arrives += rng.random_range(50_000..2 * MINUTE);
        oracle.topics.entry(again.topic).or_default().repeats += 1;
        records.push(again);
    }
}

/// A producer with a bad id generator: a second message under the first one's event id.
fn reuse_ids(rng: &mut ChaCha8Rng, records: &mut Vec<Record>, sound: usize, count: usize, oracle: &mut Oracle) {
    let messages: Vec<usize> = (0..sound).filter(|at| records[*at].topic == MESSAGES).collect();
    let chosen: Vec<usize> = messages.choose_multiple(rng, count).copied().collect();
    for at in chosen {
        let mut other = records[at].clone();
        let Some(mut value) =
            other.payload.as_deref().and_then(|bytes| serde_json::from_slice::<serde_json::Value>(bytes).ok())
        else {
            continue;
        };
        value["message_id"] = json!(id_at(rng, other.arrives));
        value["content"] = json!("(sent by a client that counts its events anew after each start)");
        other.payload = Some(value.to_string().into_bytes());
        other.arrives += rng.random_range(SECOND..20 * SECOND);
        oracle.topics.entry(MESSAGES).or_default().reused_ids += 1;
        records.push(other);
    }
}

type Make = fn(&mut ChaCha8Rng, &str, Micros) -> Vec<u8>;

/// One way to break a record for each reason to refuse one (but size, which a broker refuses before us).
const BROKEN: [(&str, ErrorClass, Make); 16] = [
    (MESSAGES, ErrorClass::InvalidJson, |rng, key, at| {
        let mut bytes = message(rng, key, at).to_string().into_bytes();
        bytes.truncate(bytes.len() * 2 / 3);
        bytes
    }),
    (MESSAGES, ErrorClass::InvalidUtf8, |rng, key, at| {
        let mut bytes = message(rng, key, at).to_string().into_bytes();
        // Latin-1 in the middle of the text.
        for byte in &mut bytes {
            if *byte == b'w' {
                *byte = 0xe9;
            }
        }
        bytes
    }),
    (REACTIONS, ErrorClass::NotAnObject, |rng, key, at| json!([reaction(rng, key, at)]).to_string().into_bytes()),
    (MESSAGES, ErrorClass::UnsupportedEncoding, |rng, key, at| {
        let mut bytes = vec![0, 0, 0, 0, 42];
        bytes.extend(message(rng, key, at).to_string().bytes().skip(1));
        bytes
    }),
    (MESSAGES, ErrorClass::MissingField, |rng, key, at| without(message(rng, key, at), "message_id")),
    (MESSAGES, ErrorClass::WrongType, |rng, key, at| with(message(rng, key, at), "content", json!(42))),
    (MESSAGES, ErrorClass::UnknownRole, |rng, key, at| with(message(rng, key, at), "role", json!("bot"))),
    (MESSAGES, ErrorClass::EmptyContent, |rng, key, at| with(message(rng, key, at), "content", json!("  "))),
    (REACTIONS, ErrorClass::UnknownKind, |rng, key, at| with(reaction(rng, key, at), "kind", json!("super_like"))),
    (REACTIONS, ErrorClass::InvalidValue, |rng, key, at| {
        let rating = serde_json::from_slice(&with(reaction(rng, key, at), "kind", json!("rating"))).unwrap_or_default();
        with(rating, "value", json!(11))
    }),
    (MESSAGES, ErrorClass::InvalidTime, |rng, key, at| with(message(rng, key, at), "event_time", json!("yesterday"))),
    (MESSAGES, ErrorClass::MissingConversationStart, |rng, key, at| {
        with(message(rng, key, at), "conversation_id", json!("conversation-17"))
    }),
    (REACTIONS, ErrorClass::MissingField, |rng, key, at| without(reaction(rng, key, at), "event_id")),
    (COMPLETIONS, ErrorClass::MissingField, |rng, key, at| without(completion(rng, key, at), "response")),
    (COMPLETIONS, ErrorClass::UnknownRole, |rng, key, at| {
        completion(rng, key, at).to_string().replace("\"role\":\"user\"", "\"role\":\"customer\"").into_bytes()
    }),
    (COMPLETIONS, ErrorClass::EmptyContent, |rng, key, at| {
        completion(rng, key, at).to_string().replace("It stays dry until the evening.", "").into_bytes()
    }),
];

fn message(rng: &mut ChaCha8Rng, conversation: &str, at: Micros) -> serde_json::Value {
    json!({
        "event_id": id_at(rng, at), "type": "message", "conversation_id": conversation, "message_id": id_at(rng, at),
        "turn_index": 0, "role": "user", "content": "What will the weather be like tomorrow?",
        "event_time": time::time_text(at), "user_id": "person-00003@example.org",
    })
}

fn reaction(rng: &mut ChaCha8Rng, conversation: &str, at: Micros) -> serde_json::Value {
    json!({
        "event_id": id_at(rng, at), "type": "reaction", "conversation_id": conversation, "message_id": id_at(rng, at),
        "kind": "like", "op": "set", "event_time": time::time_text(at), "user_id": "person-00003@example.org",
    })
}

fn completion(rng: &mut ChaCha8Rng, conversation: &str, at: Micros) -> serde_json::Value {
    json!({
        "conversation_id": conversation,
        "request": {
            "model": "larch-1", "user": "person-00003@example.org",
            "messages": [{ "role": "user", "content": "What will the weather be like tomorrow?" }],
        },
        "response": {
            "id": format!("chatcmpl-{}", id_at(rng, at).replace('-', "")), "created": at / SECOND, "model": "larch-1",
            "choices": [{ "index": 0, "message": { "role": "assistant", "content": "It stays dry until the evening." } }],
        },
    })
}

fn with(mut value: serde_json::Value, field: &str, content: serde_json::Value) -> Vec<u8> {
    value[field] = content;
    value.to_string().into_bytes()
}

fn without(mut value: serde_json::Value, field: &str) -> Vec<u8> {
    if let Some(object) = value.as_object_mut() {
        let _ = object.remove(field);
    }
    value.to_string().into_bytes()
}
