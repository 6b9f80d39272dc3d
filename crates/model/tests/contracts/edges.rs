//! Records at the edges of what is plausible.

use serde_json::json;
use uptake_model::contract::Contract;
use uptake_model::decode::{Outcome, Record, decode, reused_event_id};
use uptake_model::facts;
use uptake_model::time;

use crate::{NOW, accepted, decoded, edge, record, refused};

fn message(fields: serde_json::Value) -> String {
    let mut message = json!({"event_id": "e", "conversation_id": "c", "conversation_started_at": "2025-01-01T10:00:00Z",
        "message_id": "m", "role": "user", "content": "hi", "event_time": "2025-01-01T10:00:00Z"});
    let serde_json::Value::Object(fields) = fields else { panic!() };
    message.as_object_mut().unwrap().extend(fields);
    message.to_string()
}

#[test]
fn ten_megabytes_pass_and_more_than_the_bound_does_not() {
    let large = message(json!({"content": "otter ".repeat(10 << 20 >> 2)}));
    assert!(large.len() > 10 << 20);
    let row = accepted(&large, Contract::Messages);
    assert_eq!(row.payload, large);
    assert!(row.size() > large.len());
    let larger = message(json!({"content": "otter ".repeat(4 << 20), "user_id": "ann@example.org"}));
    let letter = refused(larger.as_bytes(), Contract::Messages);
    assert_eq!(letter.class.name(), "record_too_large");
    assert!(letter.error.contains("ingest.max_record_bytes"), "{}", letter.error);
    assert!(!String::from_utf8(letter.payload.unwrap()).unwrap().contains("ann@"));
}

#[test]
fn implausible_times_are_marked_and_live_under_a_plausible_day() {
    for (time, skew) in [
        ("1970-01-01T00:00:00Z", Some("ancient")),
        ("2031-01-01T00:00:00Z", Some("future")),
        ("2025-01-01T10:00:00Z", None),
    ] {
        let payload = message(json!({"event_time": time, "conversation_started_at": time}));
        let row = accepted(&payload, Contract::Messages);
        assert_eq!(row.clock_skew, skew, "{time}");
        let day = time::day_text(row.conversation_date.unwrap());
        assert_eq!(day, if skew.is_some() { "2025-01-02" } else { "2025-01-01" });
        // The broker's clock is the better stand-in where there is one.
        let broker = Record { broker_time: Some(NOW - 2 * time::DAY_MICROS), ..record(payload.as_bytes()) };
        let Outcome::Event(row) = decode(&broker, Contract::Messages, &edge(), NOW) else { panic!() };
        let day = time::day_text(row.conversation_date.unwrap());
        assert_eq!(day, if skew.is_some() { "2024-12-31" } else { "2025-01-01" });
    }
}

#[test]
fn times_at_the_end_of_the_calendar_are_no_panic() {
    for time in ["0001-01-01T00:00:00Z", "9999-12-31T23:59:59Z"] {
        let _ = accepted(&message(json!({"event_time": time, "conversation_started_at": time})), Contract::Messages);
    }
    for number in ["9e17", "-9e17", "9e12", "-1", "1e308", "253402300800"] {
        let payload =
            message(json!({})).replace(r#""event_time":"2025-01-01T10:00:00Z""#, &format!(r#""event_time":{number}"#));
        let _ = decoded(payload.as_bytes(), Contract::Messages);
    }
}

#[test]
fn the_conversations_day_comes_from_its_id_first() {
    let payload = message(
        json!({"conversation_id": "01941f29-7c00-7aaa-8bbb-0123456789ab", "conversation_started_at": "2024-05-05T00:00:00Z"}),
    );
    assert_eq!(
        accepted(&payload, Contract::Messages).conversation_date.map(time::day_text).as_deref(),
        Some("2025-01-01")
    );
    let reaction = json!({"event_id": "r", "message_id": "m", "kind": "love", "event_time": 1_735_689_600});
    assert_eq!(accepted(&reaction.to_string(), Contract::Reactions).conversation_date, None);
}

#[test]
fn tombstones_leave_no_row() {
    assert_eq!(decode(&Record { payload: None, ..record(b"") }, Contract::Messages, &edge(), NOW), Outcome::Tombstone);
}

#[test]
fn unknown_fields_are_kept_beside_the_turn() {
    let payload =
        message(json!({"prompt_version": "b17", "nested": {"a": [1, 2]}, "parent_message_id": "", "model": null}));
    let row = accepted(&payload, Contract::Messages);
    let turns = facts::turns_of(row.kind, &row.payload, row.event_time, None).unwrap();
    let extra: serde_json::Value = serde_json::from_str(turns[0].extra.as_deref().unwrap()).unwrap();
    assert_eq!(extra, json!({"prompt_version": "b17", "nested": {"a": [1, 2]}}));
    assert_eq!((turns[0].parent_turn_id.as_deref(), turns[0].model.as_deref()), (None, None));
}

#[test]
fn parts_become_text() {
    for (content, text) in [
        (json!("plain"), "plain"),
        (json!([{"type": "text", "text": "one"}, {"type": "image_url"}, "two"]), "one\ntwo"),
    ] {
        let row = accepted(&message(json!({ "content": content })), Contract::Messages);
        assert_eq!(facts::turns_of(row.kind, &row.payload, row.event_time, None).unwrap()[0].text, text);
    }
}

#[test]
fn reactions_are_read_back() {
    let reaction = json!({"event_id": "r", "message_id": "m", "kind": "choice", "value": 2, "rejected_message_ids": ["n", "o"], "event_time": 1_735_689_600});
    let fact = facts::reaction_of(&accepted(&reaction.to_string(), Contract::Reactions).payload).unwrap();
    assert_eq!((fact.turn_id.as_str(), fact.kind.as_str(), fact.op.as_str()), ("m", "choice", "set"));
    assert_eq!((fact.value, fact.other_turn_ids), (Some(2.0), vec!["n".to_owned(), "o".to_owned()]));
}

#[test]
fn a_reused_event_id_becomes_a_letter() {
    let row = accepted(&message(json!({"user_id": "ann"})), Contract::Messages);
    let letter = reused_event_id(&row, Some(b"c"), &edge());
    assert_eq!(letter.class.name(), "event_id_reused");
    assert_eq!(letter.subject_key, row.subject_key);
    assert_eq!(letter.payload.as_deref(), Some(row.payload.as_bytes()));
}
