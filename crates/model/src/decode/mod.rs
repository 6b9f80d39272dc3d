//! Bytes of one record → a row, or a dead letter with its reason.
//!
//! A record is decoded alone: a bad one can never fail a batch. What is accepted here can be read again by
//! [`crate::facts`]: that is checked, not hoped for. User ids are cut out of the payload in place, so the rest stays
//! byte for byte as it came.

mod fields;
mod wire;

use sha2::{Digest, Sha256};

use crate::contract::{Contract, ErrorClass};
use crate::letter;
use crate::person::{self, Person, Place};
use crate::rows::{EventRow, Header, LetterRow};
use crate::subject::{Pepper, SubjectKey, hex};
use crate::time::{self, Day, Micros, Skew};
use fields::Fields;

/// One record as a source hands it over.
#[derive(Debug, Clone)]
pub struct Record<'a> {
    /// Topic, or `file:<hash>` for an import.
    pub topic: &'a str,
    /// Partition.
    pub partition: i32,
    /// Offset.
    pub offset: i64,
    /// Key.
    pub key: Option<&'a [u8]>,
    /// Payload; `None` is a tombstone.
    pub payload: Option<&'a [u8]>,
    /// Headers.
    pub headers: Vec<Header>,
    /// When the broker took it.
    pub broker_time: Option<Micros>,
}

/// What the edge knows: the secret and the bounds.
#[derive(Debug, Clone)]
pub struct Edge {
    /// Secret of the subject keys.
    pub pepper: Pepper,
    /// Larger payloads become dead letters.
    pub max_record_bytes: usize,
    /// Written into dead letters.
    pub pipeline_version: String,
}

/// What becomes of a record.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// A row of bronze `events`.
    Event(Box<EventRow>),
    /// A row of bronze `dead_letters`.
    Letter(Box<LetterRow>),
    /// A tombstone: moves the position, leaves no row, is counted.
    Tombstone,
}

/// Why a record is refused: class and sentence.
type Refusal = (ErrorClass, String);

/// Decodes one record, seen at `now`.
pub fn decode(record: &Record<'_>, contract: Contract, edge: &Edge, now: Micros) -> Outcome {
    let Some(bytes) = record.payload else {
        return Outcome::Tombstone;
    };
    let (schema_id, body) = split_registry_prefix(bytes);
    match decode_body(record, body, contract, edge, now) {
        Ok(mut row) => {
            row.schema_id = schema_id;
            Outcome::Event(Box::new(row))
        }
        Err(refusal) => Outcome::Letter(Box::new(refused(record, bytes, schema_id, edge, now, refusal))),
    }
}

/// A dead letter for a record that never came as far as a contract, such as a line of a file that is no conversation.
/// `error` must not quote the text of a field.
pub fn refuse(record: &Record<'_>, class: ErrorClass, error: String, edge: &Edge, now: Micros) -> LetterRow {
    let payload = record.payload.unwrap_or_default();
    let mut letter = refused(record, payload, None, edge, now, (class, error));
    if record.payload.is_none() {
        letter.payload = None;
    }
    letter
}

/// A dead letter for a record that decoded but was seen before under the same event id with another payload.
pub fn reused_event_id(row: &EventRow, key: Option<&[u8]>, edge: &Edge) -> LetterRow {
    LetterRow {
        topic: row.topic.clone(),
        partition: row.partition,
        offset: row.offset,
        key: key.map(<[u8]>::to_vec),
        payload: Some(row.payload.clone().into_bytes()),
        headers: row.headers.clone(),
        broker_time: row.broker_time,
        ingest_time: row.ingest_time,
        event_id: Some(row.event_id.clone()),
        subject_key: row.subject_key.clone(),
        class: ErrorClass::EventIdReused,
        error: "the event id was seen before with another payload; give every event its own id".to_owned(),
        schema_id: row.schema_id,
        pipeline_version: edge.pipeline_version.clone(),
    }
}

/// Confluent's wire format: magic byte 0, four bytes of schema id, then the body.
fn split_registry_prefix(bytes: &[u8]) -> (Option<i32>, &[u8]) {
    match bytes {
        [0, a, b, c, d, body @ ..] => (Some(i32::from_be_bytes([*a, *b, *c, *d])), body),
        _ => (None, bytes),
    }
}

fn decode_body(
    record: &Record<'_>,
    body: &[u8],
    contract: Contract,
    edge: &Edge,
    now: Micros,
) -> Result<EventRow, Refusal> {
    if body.len() > edge.max_record_bytes {
        let (size, bound) = (body.len(), edge.max_record_bytes);
        return Err((
            ErrorClass::RecordTooLarge,
            format!("the record has {size} bytes, the bound is {bound} (ingest.max_record_bytes)"),
        ));
    }
    let had_registry_prefix = body.len() != record.payload.map_or(0, <[u8]>::len);
    let text = wire::text(body, had_registry_prefix)?;
    let wire = wire::read(text, had_registry_prefix)?;
    let fields = Fields::read(contract, &wire)?;
    let people = person::find(text);
    check_people(&people)?;
    let subject_key = person::subject(&people).map(|id| edge.pepper.subject_key(id));
    if contract == Contract::Erasures && subject_key.is_none() {
        return Err(wire::missing("user_id"));
    }
    let payload = person::cut(text, &people, &edge.pepper);
    let conversation_date = conversation_date(contract, &fields, record, now)?;
    let event_time = fields.event_time.or(record.broker_time).unwrap_or(now);
    Ok(EventRow {
        topic: record.topic.to_owned(),
        partition: record.partition,
        offset: record.offset,
        event_id: fields.event_id,
        kind: contract.kind(),
        conversation_id: fields.conversation_id,
        conversation_date,
        message_id: fields.message_id,
        event_time,
        ingest_time: now,
        broker_time: record.broker_time,
        clock_skew: Skew::of(event_time, now).map(Skew::name),
        schema_id: None,
        headers: headers(&record.headers, |text| person::pseudonym(text, &people, &edge.pepper)),
        subject_key: subject_key.map(SubjectKey::into_string),
        content_hash: content_hash(payload.as_bytes()),
        payload,
    })
}

/// SHA-256, first 128 bits, hexadecimal.
pub fn content_hash(bytes: &[u8]) -> String {
    hex(Sha256::digest(bytes).get(..16).unwrap_or_default())
}

/// Where a contract names a user id there stands one, and one only.
fn check_people(people: &[Person]) -> Result<(), Refusal> {
    for (number, person) in people.iter().enumerate() {
        let place = person.place;
        if place == Place::Elsewhere {
            continue;
        }
        if person.id.is_none() {
            return Err((ErrorClass::WrongType, format!("`{}` must be a string or a number", place.name())));
        }
        if people.iter().take(number).any(|other| other.place == place) {
            return Err((ErrorClass::WrongType, format!("`{}` stands twice", place.name())));
        }
    }
    Ok(())
}

/// The headers, values that are user ids replaced.
fn headers(headers: &[Header], pseudonym: impl Fn(&[u8]) -> Option<SubjectKey>) -> Vec<Header> {
    let replaced = |header: &Header| {
        let key = header.value.as_ref().and_then(|value| pseudonym(value.as_bytes()));
        Header { key: header.key.clone(), value: key.map(SubjectKey::into_string).or_else(|| header.value.clone()) }
    };
    headers.iter().map(replaced).collect()
}

/// The UTC day under which everything of a conversation lives: the date inside a `UUIDv7`, else
/// `conversation_started_at`. Implausible dates are clamped to the day of the broker's (else the reader's) clock.
fn conversation_date(
    contract: Contract,
    fields: &Fields,
    record: &Record<'_>,
    now: Micros,
) -> Result<Option<Day>, Refusal> {
    let stated = fields.conversation_id.as_deref().and_then(time::uuid_v7_time).or(fields.started_at);
    let start = match (contract, stated) {
        // An erasure belongs to no conversation; a reaction may know no more than a message id, and the jobs find its
        // conversation.
        (Contract::Erasures, _) | (Contract::Reactions, None) => return Ok(None),
        (_, Some(start)) => start,
        // A gateway's log line tells the whole conversation, so the line's own time can stand in.
        (Contract::Completions, None) => fields.event_time.or(record.broker_time).unwrap_or(now),
        (Contract::Messages, None) => {
            return Err((
                ErrorClass::MissingConversationStart,
                "the conversation id is no UUIDv7 and `conversation_started_at` is missing".to_owned(),
            ));
        }
    };
    let plausible = if Skew::of(start, now).is_some() { record.broker_time.unwrap_or(now) } else { start };
    Ok(Some(time::day_of(plausible)))
}

fn refused(
    record: &Record<'_>,
    bytes: &[u8],
    schema_id: Option<i32>,
    edge: &Edge,
    now: Micros,
    (class, error): Refusal,
) -> LetterRow {
    let (_, body) = split_registry_prefix(bytes);
    let redacted = letter::redact(body, &edge.pepper);
    let pseudonym = |text: &[u8]| redacted.pseudonym(text, &edge.pepper);
    // The registry's prefix goes back in front, so that the letter can be sent again as it came.
    let prefix = bytes.get(..bytes.len() - body.len()).unwrap_or_default();
    LetterRow {
        topic: record.topic.to_owned(),
        partition: record.partition,
        offset: record.offset,
        key: record.key.map(|key| pseudonym(key).map_or_else(|| key.to_vec(), |key| key.into_string().into_bytes())),
        headers: headers(&record.headers, pseudonym),
        payload: Some([prefix, &redacted.payload].concat()),
        broker_time: record.broker_time,
        ingest_time: now,
        event_id: redacted.event_id.clone(),
        subject_key: redacted.subject_key.clone().map(SubjectKey::into_string),
        class,
        error,
        schema_id,
        pipeline_version: edge.pipeline_version.clone(),
    }
}
