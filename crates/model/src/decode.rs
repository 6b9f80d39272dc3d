//! Bytes of one record → a row, or a dead letter with its reason.
//!
//! A record is decoded alone: a bad one can never fail a batch. Types are checked while the JSON is read (serde with
//! borrowed raw values), and the user id is cut out of the payload in place, so the rest stays byte for byte as it came.

use serde::Deserialize;
use serde_json::value::RawValue;
use sha2::{Digest, Sha256};

use crate::contract::{CONSENTS, Contract, ErrorClass, REACTION_KINDS, ROLES};
use crate::rows::{EventRow, Header, LetterRow};
use crate::subject::{Pepper, SubjectKey, hex};
use crate::time::{self, Day, Micros, Skew};

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
        Err(refusal) => Outcome::Letter(Box::new(letter(record, bytes, schema_id, edge, now, refusal))),
    }
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
        return Err((
            ErrorClass::RecordTooLarge,
            format!("the record has {} bytes, the bound is {} (ingest.max_record_bytes)", body.len(), edge.max_record_bytes),
        ));
    }
    let text = std::str::from_utf8(body).map_err(|error| {
        (ErrorClass::InvalidUtf8, format!("not UTF-8 after byte {}", error.valid_up_to()))
    })?;
    let wire = read_wire(text, body.len() != record.payload.map_or(0, <[u8]>::len))?;
    let fields = match contract {
        Contract::Messages => message_fields(&wire)?,
        Contract::Reactions => reaction_fields(&wire)?,
        Contract::Completions => completion_fields(&wire)?,
        Contract::Erasures => erasure_fields(&wire)?,
    };
    let (payload, subject_key) = cut_user_ids(text, &wire, &edge.pepper)?;
    if contract == Contract::Erasures && subject_key.is_none() {
        return Err(missing("user_id"));
    }
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
        headers: record.headers.clone(),
        subject_key: subject_key.map(SubjectKey::into_string),
        content_hash: content_hash(payload.as_bytes()),
        payload,
    })
}

/// SHA-256, first 128 bits, hexadecimal.
pub fn content_hash(bytes: &[u8]) -> String {
    hex(Sha256::digest(bytes).get(..16).unwrap_or_default())
}

/// The fields of every contract, raw: which of them matter, and their types, each contract says below.
#[derive(Deserialize)]
struct Wire<'a> {
    #[serde(borrow, default)]
    event_id: Option<&'a RawValue>,
    #[serde(borrow, default)]
    request_id: Option<&'a RawValue>,
    #[serde(borrow, default)]
    conversation_id: Option<&'a RawValue>,
    #[serde(borrow, default)]
    conversation_started_at: Option<&'a RawValue>,
    #[serde(borrow, default)]
    message_id: Option<&'a RawValue>,
    #[serde(borrow, default)]
    parent_message_id: Option<&'a RawValue>,
    #[serde(borrow, default)]
    turn_index: Option<&'a RawValue>,
    #[serde(borrow, default)]
    role: Option<&'a RawValue>,
    #[serde(borrow, default)]
    content: Option<&'a RawValue>,
    #[serde(borrow, default)]
    tool_calls: Option<&'a RawValue>,
    #[serde(borrow, default)]
    model: Option<&'a RawValue>,
    #[serde(borrow, default)]
    consent: Option<&'a RawValue>,
    #[serde(borrow, default)]
    event_time: Option<&'a RawValue>,
    #[serde(borrow, default)]
    user_id: Option<&'a RawValue>,
    #[serde(borrow, default)]
    kind: Option<&'a RawValue>,
    #[serde(borrow, default)]
    value: Option<&'a RawValue>,
    #[serde(borrow, default)]
    text: Option<&'a RawValue>,
    #[serde(borrow, default)]
    op: Option<&'a RawValue>,
    #[serde(borrow, default)]
    rejected_message_ids: Option<&'a RawValue>,
    #[serde(borrow, default)]
    request: Option<&'a RawValue>,
    #[serde(borrow, default)]
    response: Option<&'a RawValue>,
}

/// The parts of a gateway's request that name the person.
#[derive(Deserialize, Default)]
struct RequestPerson<'a> {
    #[serde(borrow, default)]
    user: Option<&'a RawValue>,
    #[serde(borrow, default)]
    safety_identifier: Option<&'a RawValue>,
    #[serde(borrow, default)]
    metadata: Option<&'a RawValue>,
}

/// The parts of a request's metadata that uptake reads.
#[derive(Deserialize, Default)]
struct RequestMetadata<'a> {
    #[serde(borrow, default)]
    user_id: Option<&'a RawValue>,
    #[serde(borrow, default)]
    conversation_id: Option<&'a RawValue>,
    #[serde(borrow, default)]
    conversation_started_at: Option<&'a RawValue>,
}

fn read_wire(text: &str, had_registry_prefix: bool) -> Result<Wire<'_>, Refusal> {
    let start = text.trim_start();
    serde_json::from_str(text).map_err(|error| {
        if error.is_data() && !start.starts_with('{') {
            (ErrorClass::NotAnObject, "the payload is JSON but no object".to_owned())
        } else if error.is_data() {
            (ErrorClass::WrongType, describe(&error))
        } else if had_registry_prefix {
            (
                ErrorClass::UnsupportedEncoding,
                "a schema registry id is followed by something that is not JSON; this topic's contract is JSON Schema".to_owned(),
            )
        } else {
            (ErrorClass::InvalidJson, describe(&error))
        }
    })
}

/// What serde says, without the value that it found: that is somebody's text.
fn describe(error: &serde_json::Error) -> String {
    let place = format!("line {} column {}", error.line(), error.column());
    let message = error.to_string();
    if let Some((_, expected)) = message.split_once(", expected ") {
        let expected = expected.rsplit_once(" at line ").map_or(expected, |(head, _)| head);
        return format!("expected {expected} at {place}");
    }
    if message.starts_with("duplicate field") {
        return format!("a field stands twice, the second time at {place}");
    }
    let what = match error.classify() {
        serde_json::error::Category::Eof => "the JSON ends too early",
        serde_json::error::Category::Syntax => "no valid JSON",
        serde_json::error::Category::Data | serde_json::error::Category::Io => "a field has another type than the contract says",
    };
    format!("{what} at {place}")
}

/// What all contracts have in common once read.
struct Fields {
    event_id: String,
    conversation_id: Option<String>,
    message_id: Option<String>,
    event_time: Option<Micros>,
    started_at: Option<Micros>,
}

fn missing(name: &str) -> Refusal {
    (ErrorClass::MissingField, format!("`{name}` is missing, null or empty"))
}

fn given<'a>(raw: Option<&'a RawValue>) -> Option<&'a str> {
    raw.map(RawValue::get).filter(|text| *text != "null")
}

fn text_field(name: &str, raw: Option<&RawValue>) -> Result<Option<String>, Refusal> {
    let Some(raw) = given(raw) else { return Ok(None) };
    let text: String =
        serde_json::from_str(raw).map_err(|_| (ErrorClass::WrongType, format!("`{name}` must be a string")))?;
    Ok(Some(text).filter(|text| !text.is_empty()))
}

fn required_text(name: &str, raw: Option<&RawValue>) -> Result<String, Refusal> {
    text_field(name, raw)?.ok_or_else(|| missing(name))
}

fn time_field(name: &str, raw: Option<&RawValue>) -> Result<Option<Micros>, Refusal> {
    let Some(raw) = given(raw) else { return Ok(None) };
    let value: serde_json::Value =
        serde_json::from_str(raw).map_err(|_| (ErrorClass::InvalidTime, format!("`{name}` cannot be read")))?;
    let parsed = time::parse(&value).map_err(|_| {
        (ErrorClass::InvalidTime, format!("`{name}` is neither an RFC 3339 time nor a number of seconds or milliseconds"))
    })?;
    Ok(Some(parsed))
}

fn one_of(name: &str, raw: Option<&RawValue>, allowed: &[&str], class: ErrorClass) -> Result<Option<String>, Refusal> {
    match text_field(name, raw)? {
        Some(text) if !allowed.contains(&text.as_str()) => {
            Err((class, format!("`{name}` is none of {}", allowed.join(", "))))
        }
        other => Ok(other),
    }
}

fn message_fields(wire: &Wire<'_>) -> Result<Fields, Refusal> {
    let fields = Fields {
        event_id: required_text("event_id", wire.event_id)?,
        conversation_id: Some(required_text("conversation_id", wire.conversation_id)?),
        message_id: Some(required_text("message_id", wire.message_id)?),
        event_time: Some(time_field("event_time", wire.event_time)?.ok_or_else(|| missing("event_time"))?),
        started_at: time_field("conversation_started_at", wire.conversation_started_at)?,
    };
    let _ = text_field("parent_message_id", wire.parent_message_id)?;
    let _ = text_field("model", wire.model)?;
    let _ = one_of("consent", wire.consent, &CONSENTS, ErrorClass::InvalidValue)?;
    if let Some(index) = given(wire.turn_index) {
        let _: i32 = serde_json::from_str(index)
            .ok()
            .filter(|index| *index >= 0)
            .ok_or_else(|| (ErrorClass::WrongType, "`turn_index` must be a whole number from 0".to_owned()))?;
    }
    let role = one_of("role", wire.role, &ROLES, ErrorClass::UnknownRole)?.ok_or_else(|| missing("role"))?;
    let content = content_text(wire.content)?;
    let calls_tools = role == "assistant" && given(wire.tool_calls).is_some();
    if content.trim().is_empty() && !calls_tools {
        return Err((ErrorClass::EmptyContent, "`content` holds no text".to_owned()));
    }
    Ok(fields)
}

/// The text of a content: a string, or the text parts of a list (OpenAI's message content).
fn content_text(raw: Option<&RawValue>) -> Result<String, Refusal> {
    let Some(raw) = given(raw) else { return Ok(String::new()) };
    let value: serde_json::Value =
        serde_json::from_str(raw).map_err(|_| (ErrorClass::WrongType, "`content` cannot be read".to_owned()))?;
    crate::facts::content_text(&value)
        .ok_or_else(|| (ErrorClass::WrongType, "`content` must be a string or a list of parts".to_owned()))
}

fn reaction_fields(wire: &Wire<'_>) -> Result<Fields, Refusal> {
    let fields = Fields {
        event_id: required_text("event_id", wire.event_id)?,
        conversation_id: text_field("conversation_id", wire.conversation_id)?,
        message_id: Some(required_text("message_id", wire.message_id)?),
        event_time: Some(time_field("event_time", wire.event_time)?.ok_or_else(|| missing("event_time"))?),
        started_at: time_field("conversation_started_at", wire.conversation_started_at)?,
    };
    let kind = one_of("kind", wire.kind, &REACTION_KINDS, ErrorClass::UnknownKind)?.ok_or_else(|| missing("kind"))?;
    let op = one_of("op", wire.op, &["set", "unset"], ErrorClass::InvalidValue)?;
    let value = match given(wire.value) {
        None => None,
        Some(raw) => Some(
            serde_json::from_str::<f64>(raw)
                .map_err(|_| (ErrorClass::WrongType, "`value` must be a number".to_owned()))?,
        ),
    };
    let unset = op.as_deref() == Some("unset");
    match kind.as_str() {
        "rating" if !unset && !value.is_some_and(|value| (1.0..=5.0).contains(&value)) => {
            Err((ErrorClass::InvalidValue, "`value` of a rating must lie between 1 and 5".to_owned()))
        }
        "edit" if !unset && text_field("text", wire.text)?.is_none() => Err(missing("text")),
        "choice" if !unset && string_list("rejected_message_ids", wire.rejected_message_ids)?.is_empty() => {
            Err(missing("rejected_message_ids"))
        }
        _ => {
            let _ = text_field("text", wire.text)?;
            let _ = string_list("rejected_message_ids", wire.rejected_message_ids)?;
            Ok(fields)
        }
    }
}

fn string_list(name: &str, raw: Option<&RawValue>) -> Result<Vec<String>, Refusal> {
    given(raw).map_or(Ok(Vec::new()), |raw| {
        serde_json::from_str(raw).map_err(|_| (ErrorClass::WrongType, format!("`{name}` must be a list of strings")))
    })
}

fn completion_fields(wire: &Wire<'_>) -> Result<Fields, Refusal> {
    let request = given(wire.request).ok_or_else(|| missing("request"))?;
    let response = given(wire.response).ok_or_else(|| missing("response"))?;
    let checked = crate::completion::check(request, response)?;
    let metadata = metadata_of(request);
    let conversation_id = match text_field("conversation_id", wire.conversation_id)? {
        Some(id) => Some(id),
        None => text_field("request.metadata.conversation_id", metadata.conversation_id)?,
    };
    let started_at = match time_field("conversation_started_at", wire.conversation_started_at)? {
        Some(time) => Some(time),
        None => time_field("request.metadata.conversation_started_at", metadata.conversation_started_at)?,
    };
    let _ = one_of("consent", wire.consent, &CONSENTS, ErrorClass::InvalidValue)?;
    Ok(Fields {
        event_id: text_field("event_id", wire.event_id)?
            .or_else(|| checked.response_id.clone())
            .ok_or_else(|| missing("event_id` or `response.id"))?,
        conversation_id,
        message_id: checked.response_id,
        event_time: time_field("event_time", wire.event_time)?.or(checked.created),
        started_at,
    })
}

fn metadata_of(request: &str) -> RequestMetadata<'_> {
    let person: RequestPerson<'_> = serde_json::from_str(request).unwrap_or_default();
    person.metadata.and_then(|raw| serde_json::from_str(raw.get()).ok()).unwrap_or_default()
}

fn erasure_fields(wire: &Wire<'_>) -> Result<Fields, Refusal> {
    Ok(Fields {
        event_id: required_text("request_id", wire.request_id.or(wire.event_id))?,
        conversation_id: None,
        message_id: None,
        event_time: time_field("event_time", wire.event_time)?,
        started_at: None,
    })
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
        (Contract::Erasures, _) => return Ok(None),
        (_, Some(start)) => start,
        // A gateway's log line tells the whole conversation, so the line's own time can stand in.
        (Contract::Completions, None) => fields.event_time.or(record.broker_time).unwrap_or(now),
        // A reaction may know no more than a message id: the jobs find its conversation.
        (Contract::Reactions, None) => return Ok(None),
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

/// Replaces every user id in the payload by its subject key; the first found is the record's subject.
fn cut_user_ids(text: &str, wire: &Wire<'_>, pepper: &Pepper) -> Result<(String, Option<SubjectKey>), Refusal> {
    let mut found = vec![("user_id", wire.user_id)];
    let person: RequestPerson<'_> =
        wire.request.and_then(|raw| serde_json::from_str(raw.get()).ok()).unwrap_or_default();
    let metadata: RequestMetadata<'_> =
        person.metadata.and_then(|raw| serde_json::from_str(raw.get()).ok()).unwrap_or_default();
    found.push(("request.user", person.user));
    found.push(("request.safety_identifier", person.safety_identifier));
    found.push(("request.metadata.user_id", metadata.user_id));
    let mut cuts: Vec<(usize, usize, SubjectKey)> = Vec::new();
    for (name, raw) in found {
        let Some(raw) = given(raw) else { continue };
        let Some(id) = scalar_text(raw) else {
            return Err((ErrorClass::WrongType, format!("`{name}` must be a string or a number")));
        };
        if id.is_empty() {
            continue;
        }
        // A borrowed raw value is a piece of `text`: its address says where it stands.
        let start = raw.as_ptr() as usize - text.as_ptr() as usize;
        cuts.push((start, start + raw.len(), pepper.subject_key(&id)));
    }
    let subject = cuts.first().map(|(_, _, key)| key.clone());
    cuts.sort_by_key(|(start, _, _)| *start);
    let mut payload = String::with_capacity(text.len());
    let mut done = 0;
    for (start, end, key) in &cuts {
        payload.push_str(text.get(done..*start).unwrap_or_default());
        payload.push('"');
        payload.push_str(key.as_str());
        payload.push('"');
        done = *end;
    }
    payload.push_str(text.get(done..).unwrap_or_default());
    Ok((payload, subject))
}

fn scalar_text(raw: &str) -> Option<String> {
    match serde_json::from_str(raw).ok()? {
        serde_json::Value::String(text) => Some(text),
        serde_json::Value::Number(number) => Some(number.to_string()),
        _ => None,
    }
}

fn letter(
    record: &Record<'_>,
    bytes: &[u8],
    schema_id: Option<i32>,
    edge: &Edge,
    now: Micros,
    (class, error): Refusal,
) -> LetterRow {
    let redacted = crate::letter::redact(bytes, &edge.pepper);
    LetterRow {
        topic: record.topic.to_owned(),
        partition: record.partition,
        offset: record.offset,
        key: record.key.map(<[u8]>::to_vec),
        payload: Some(redacted.payload),
        headers: record.headers.clone(),
        broker_time: record.broker_time,
        ingest_time: now,
        event_id: redacted.event_id,
        subject_key: redacted.subject_key.map(SubjectKey::into_string),
        class,
        error,
        schema_id,
        pipeline_version: edge.pipeline_version.clone(),
    }
}
