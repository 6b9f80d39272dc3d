//! Rows and requests of the exam.

use std::sync::Arc;

use arrow::array::{ArrayRef, Date32Array, Int32Array, Int64Array, RecordBatch, StringArray};
use uptake_model::contract::ErrorClass;
use uptake_model::rows::{EventRow, LetterRow, events_batch, letters_batch};
use uptake_model::time::{DAY_MICROS, Day};

use crate::request::{Advance, CommitRequest};

/// A day in which the exam takes place.
pub const DAY: Day = 20_500;
/// Free text that must never reach a log.
pub const CANARY: &str = "CANARY the tooth of my landlord";

/// Rows of bronze `events` with the offsets of a range, ingested on `day`.
pub fn events(partition: i32, offsets: std::ops::Range<i64>, day: Day) -> RecordBatch {
    let rows: Vec<EventRow> = offsets
        .map(|offset| EventRow {
            topic: "messages".to_owned(),
            partition,
            offset,
            event_id: format!("event-{partition}-{offset}"),
            kind: "message",
            conversation_id: Some(format!("conversation-{}", offset / 4)),
            conversation_date: Some(day),
            message_id: Some(format!("message-{offset}")),
            event_time: i64::from(day) * DAY_MICROS + offset,
            ingest_time: i64::from(day) * DAY_MICROS + offset + 1_000,
            broker_time: None,
            clock_skew: None,
            schema_id: None,
            headers: Vec::new(),
            subject_key: Some(format!("subject {CANARY} {offset}")),
            payload: format!(r#"{{"text":"{CANARY} {offset}"}}"#),
            content_hash: format!("{offset:032x}"),
        })
        .collect();
    events_batch(&rows).unwrap()
}

/// Rows of silver `rejected` with the offsets of a range, on one conversation date.
pub fn rejected(offsets: std::ops::Range<i64>, reason: &str, day: Day) -> RecordBatch {
    let offsets: Vec<i64> = offsets.collect();
    let count = offsets.len();
    let texts = |text: &dyn Fn(i64) -> String| {
        Arc::new(StringArray::from_iter_values(offsets.iter().map(|offset| text(*offset))))
    };
    RecordBatch::try_from_iter([
        ("topic", Arc::new(StringArray::from(vec!["messages"; count])) as ArrayRef),
        ("partition", Arc::new(Int32Array::from(vec![0; count]))),
        ("event_id", texts(&|offset| format!("event-{offset}"))),
        ("reason", texts(&|_| reason.to_owned())),
        ("conversation_date", Arc::new(Date32Array::from(vec![day; count]))),
        ("offset", Arc::new(Int64Array::from(offsets.clone()))),
    ])
    .unwrap()
}

/// A request that appends `batches` and moves one position.
pub fn request(batches: Vec<RecordBatch>, key: &str, from: Option<i64>, to: i64) -> CommitRequest {
    CommitRequest { batches, advances: vec![Advance { key: key.to_owned(), from, to }], ..CommitRequest::default() }
}

/// Rows of bronze `dead_letters` at some places, each a partition and an offset.
pub fn letters(places: &[(i32, i64)]) -> RecordBatch {
    let rows: Vec<LetterRow> = places
        .iter()
        .map(|(partition, offset)| LetterRow {
            topic: "messages".to_owned(),
            partition: *partition,
            offset: *offset,
            key: None,
            payload: Some(CANARY.as_bytes().to_vec()),
            headers: Vec::new(),
            broker_time: None,
            ingest_time: i64::from(DAY) * DAY_MICROS,
            event_id: None,
            subject_key: None,
            class: ErrorClass::InvalidJson,
            error: "expected value at line 1".to_owned(),
            schema_id: None,
            pipeline_version: "0.1.0".to_owned(),
        })
        .collect();
    letters_batch(&rows).unwrap()
}
