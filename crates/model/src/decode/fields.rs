//! What each contract asks of a record.

use serde::Deserialize;
use serde_json::Value;
use serde_json::value::RawValue;

use super::Refusal;
use super::wire::{Wire, given, id_field, id_list, missing, one_of, required_id, text_field, time_field};
use crate::completion;
use crate::contract::{CONSENTS, Contract, ErrorClass, REACTION_KINDS, ROLES};
use crate::facts;
use crate::time::Micros;

/// The largest value of a reaction that is no rating: a count.
const LARGEST_VALUE: f64 = 1e9;

/// What all contracts have in common once read.
pub(super) struct Fields {
    pub(super) event_id: String,
    pub(super) conversation_id: Option<String>,
    pub(super) message_id: Option<String>,
    pub(super) event_time: Option<Micros>,
    pub(super) started_at: Option<Micros>,
}

impl Fields {
    /// Reads and checks the fields that the contract names.
    pub(super) fn read(contract: Contract, wire: &Wire<'_>) -> Result<Self, Refusal> {
        match contract {
            Contract::Messages => message(wire),
            Contract::Reactions => reaction(wire),
            Contract::Completions => completion(wire),
            Contract::Erasures => erasure(wire),
        }
    }
}

fn message(wire: &Wire<'_>) -> Result<Fields, Refusal> {
    let fields = Fields {
        event_id: required_id("event_id", wire.event_id)?,
        conversation_id: Some(required_id("conversation_id", wire.conversation_id)?),
        message_id: Some(required_id("message_id", wire.message_id)?),
        event_time: Some(time_field("event_time", wire.event_time)?.ok_or_else(|| missing("event_time"))?),
        started_at: time_field("conversation_started_at", wire.conversation_started_at)?,
    };
    let _ = id_field("parent_message_id", wire.parent_message_id)?;
    let _ = id_field("model", wire.model)?;
    let _ = id_field("language", wire.language)?;
    let _ = one_of("consent", wire.consent, &CONSENTS, ErrorClass::InvalidValue)?;
    turn_index(wire.turn_index)?;
    let role = one_of("role", wire.role, &ROLES, ErrorClass::UnknownRole)?.ok_or_else(|| missing("role"))?;
    let content = content_text(wire.content)?;
    let calls = given(wire.tool_calls).and_then(|raw| serde_json::from_str::<Value>(raw).ok());
    let calls_tools = role == "assistant" && calls.is_some_and(|calls| facts::holds_calls(&calls));
    if content.trim().is_empty() && !calls_tools {
        return Err((ErrorClass::EmptyContent, "`content` holds no text".to_owned()));
    }
    Ok(fields)
}

fn turn_index(raw: Option<&RawValue>) -> Result<(), Refusal> {
    let Some(raw) = given(raw) else { return Ok(()) };
    let index: Option<i64> = serde_json::from_str(raw).ok();
    match index {
        None => Err((ErrorClass::WrongType, "`turn_index` must be a whole number".to_owned())),
        Some(index) if i32::try_from(index).is_ok_and(|index| index >= 0) => Ok(()),
        Some(_) => Err((ErrorClass::InvalidValue, "`turn_index` must lie between 0 and 2147483647".to_owned())),
    }
}

/// The text of a content: a string, or the text parts of a list (`OpenAI`'s message content).
fn content_text(raw: Option<&RawValue>) -> Result<String, Refusal> {
    let Some(raw) = given(raw) else { return Ok(String::new()) };
    let content: Option<Value> = serde_json::from_str(raw).ok();
    content
        .and_then(|content| facts::content_text(&content))
        .ok_or_else(|| (ErrorClass::WrongType, "`content` must be a string or a list of parts".to_owned()))
}

fn reaction(wire: &Wire<'_>) -> Result<Fields, Refusal> {
    let fields = Fields {
        event_id: required_id("event_id", wire.event_id)?,
        conversation_id: id_field("conversation_id", wire.conversation_id)?,
        message_id: Some(required_id("message_id", wire.message_id)?),
        event_time: Some(time_field("event_time", wire.event_time)?.ok_or_else(|| missing("event_time"))?),
        started_at: time_field("conversation_started_at", wire.conversation_started_at)?,
    };
    let kind = one_of("kind", wire.kind, &REACTION_KINDS, ErrorClass::UnknownKind)?.ok_or_else(|| missing("kind"))?;
    let op = one_of("op", wire.op, &["set", "unset"], ErrorClass::InvalidValue)?;
    let value = number(wire.value)?;
    let text = text_field("text", wire.text)?;
    let others = id_list("rejected_message_ids", wire.rejected_message_ids)?;
    // Taking a reaction back needs no more than its kind.
    if op.as_deref() == Some("unset") {
        return Ok(fields);
    }
    match kind.as_str() {
        "rating" if !value.is_some_and(|value| (1.0..=5.0).contains(&value)) => {
            Err((ErrorClass::InvalidValue, "`value` of a rating must lie between 1 and 5".to_owned()))
        }
        "edit" if text.is_none() => Err(missing("text")),
        "choice" if others.is_empty() => Err(missing("rejected_message_ids")),
        _ => Ok(fields),
    }
}

fn number(raw: Option<&RawValue>) -> Result<Option<f64>, Refusal> {
    let Some(raw) = given(raw) else { return Ok(None) };
    match serde_json::from_str::<f64>(raw) {
        Ok(value) if value.abs() <= LARGEST_VALUE => Ok(Some(value)),
        Ok(_) => {
            Err((ErrorClass::InvalidValue, format!("`value` must lie between -{LARGEST_VALUE} and {LARGEST_VALUE}")))
        }
        Err(_) => Err((ErrorClass::WrongType, "`value` must be a number".to_owned())),
    }
}

/// The parts of a request and of its metadata that say which conversation this is.
#[derive(Deserialize, Default)]
struct Request<'a> {
    #[serde(borrow, default)]
    metadata: Option<&'a RawValue>,
}

#[derive(Deserialize, Default)]
struct Metadata<'a> {
    #[serde(borrow, default)]
    conversation_id: Option<&'a RawValue>,
    #[serde(borrow, default)]
    conversation_started_at: Option<&'a RawValue>,
}

fn completion(wire: &Wire<'_>) -> Result<Fields, Refusal> {
    let request = given(wire.request).ok_or_else(|| missing("request"))?;
    let response = given(wire.response).ok_or_else(|| missing("response"))?;
    let checked = completion::check(request, response)?;
    let request: Request<'_> = serde_json::from_str(request).unwrap_or_default();
    let metadata = match given(request.metadata) {
        Some(raw) if raw.starts_with('{') => serde_json::from_str(raw)
            .map_err(|_| (ErrorClass::WrongType, "a field of `request.metadata` stands twice".to_owned()))?,
        Some(_) => return Err((ErrorClass::WrongType, "`request.metadata` must be an object".to_owned())),
        None => Metadata::default(),
    };
    let conversation_id = match id_field("conversation_id", wire.conversation_id)? {
        Some(id) => Some(id),
        None => id_field("request.metadata.conversation_id", metadata.conversation_id)?,
    };
    let started_at = match time_field("conversation_started_at", wire.conversation_started_at)? {
        Some(time) => Some(time),
        None => time_field("request.metadata.conversation_started_at", metadata.conversation_started_at)?,
    };
    let _ = one_of("consent", wire.consent, &CONSENTS, ErrorClass::InvalidValue)?;
    Ok(Fields {
        event_id: id_field("event_id", wire.event_id)?
            .or_else(|| checked.response_id.clone())
            .ok_or_else(|| missing("event_id` or `response.id"))?,
        conversation_id,
        message_id: checked.response_id,
        event_time: time_field("event_time", wire.event_time)?.or(checked.created),
        started_at,
    })
}

fn erasure(wire: &Wire<'_>) -> Result<Fields, Refusal> {
    Ok(Fields {
        event_id: required_id("request_id", wire.request_id.or(wire.event_id))?,
        conversation_id: None,
        message_id: None,
        event_time: time_field("event_time", wire.event_time)?,
        started_at: None,
    })
}
