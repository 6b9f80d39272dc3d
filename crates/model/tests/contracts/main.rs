//! The contracts, held against the decoder: examples, refusals, people, completions, tables, and bytes at random.

#![expect(clippy::unwrap_used, clippy::panic, reason = "in a test a panic is the report")]

mod arbitrary;
mod completions;
mod edges;
mod people;
mod schemas;
mod tables;

use std::path::PathBuf;

use uptake_model::contract::Contract;
use uptake_model::decode::{Edge, Outcome, Record, decode};
use uptake_model::rows::{EventRow, LetterRow};
use uptake_model::time::Micros;
use uptake_model::{Pepper, SubjectKey};

/// 2025-01-02T00:00:00Z.
const NOW: Micros = 1_735_776_000_000_000;

fn edge() -> Edge {
    Edge {
        pepper: Pepper::new("0123456789abcdef").unwrap(),
        max_record_bytes: 16 << 20,
        pipeline_version: "test".to_owned(),
    }
}

fn key_of(user_id: &str) -> SubjectKey {
    edge().pepper.subject_key(user_id)
}

fn record(payload: &[u8]) -> Record<'_> {
    Record {
        topic: "chats",
        partition: 3,
        offset: 42,
        key: None,
        payload: Some(payload),
        headers: Vec::new(),
        broker_time: None,
    }
}

fn decoded(payload: &[u8], contract: Contract) -> Outcome {
    decode(&record(payload), contract, &edge(), NOW)
}

#[track_caller]
fn accepted(payload: &str, contract: Contract) -> EventRow {
    match decoded(payload.as_bytes(), contract) {
        Outcome::Event(row) => *row,
        other => panic!("{payload} is not accepted: {other:?}"),
    }
}

#[track_caller]
fn refused(payload: &[u8], contract: Contract) -> LetterRow {
    match decoded(payload, contract) {
        Outcome::Letter(row) => *row,
        other => panic!("{} is not refused: {other:?}", String::from_utf8_lossy(payload)),
    }
}

/// A path below `schemas/`.
fn schemas(path: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../schemas").join(path)
}
