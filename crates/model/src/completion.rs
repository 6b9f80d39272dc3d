//! A gateway's log line, request and response, becomes messages with deterministic ids.
//!
//! A chat completion repeats the whole conversation in every request (`OpenAI` API reference, "Create chat
//! completion"). Each message's id is a hash over its conversation and everything said before it, so the same message
//! gets the same id in every line that repeats it, and an answer regenerated from the same prompt becomes a sibling.
//! The response's own id (`chatcmpl-…`) stays as the turn's alias, so reactions may name either.

use serde::Deserialize;
use serde_json::{Map, Value};
use sha2::{Digest, Sha256};

use crate::contract::{ErrorClass, ROLES};
use crate::facts::{self, TurnFact};
use crate::subject::hex;
use crate::time::{self, Micros};

/// What [`check`] found.
#[derive(Debug)]
pub(crate) struct Checked {
    /// `response.id`.
    pub(crate) response_id: Option<String>,
    /// `response.created`.
    pub(crate) created: Option<Micros>,
}

#[derive(Deserialize)]
struct Request {
    messages: Vec<Message>,
}

#[derive(Deserialize)]
struct Response {
    #[serde(default)]
    id: Option<String>,
    #[serde(default)]
    created: Option<Value>,
    choices: Vec<Choice>,
}

#[derive(Deserialize)]
struct Choice {
    message: Message,
}

#[derive(Deserialize)]
struct Message {
    role: String,
    #[serde(default)]
    content: Value,
    #[serde(default)]
    tool_calls: Option<Value>,
}

/// Checks that a request and a response are what the contract says.
///
/// # Errors
/// The class and a sentence.
pub(crate) fn check(request: &str, response: &str) -> Result<Checked, (ErrorClass, String)> {
    let request: Request = serde_json::from_str(request).map_err(|_| {
        (ErrorClass::WrongType, "`request` must be an object whose `messages` is a list of {role, content}".to_owned())
    })?;
    let response: Response = serde_json::from_str(response).map_err(|_| {
        (ErrorClass::WrongType, "`response` must be an object whose `choices` is a list of {message: {role, content}}".to_owned())
    })?;
    if request.messages.is_empty() {
        return Err((ErrorClass::MissingField, "`request.messages` is empty".to_owned()));
    }
    if response.choices.is_empty() {
        return Err((ErrorClass::MissingField, "`response.choices` is empty".to_owned()));
    }
    for message in request.messages.iter().chain(response.choices.iter().map(|choice| &choice.message)) {
        // Gateways pass on `developer` and `function`, names that OpenAI gave to system and tool messages.
        if normal_role(&message.role).is_none() {
            return Err((ErrorClass::UnknownRole, format!("a message's role is none of {}", ROLES.join(", "))));
        }
        if facts::content_text(&message.content).is_none() {
            return Err((ErrorClass::WrongType, "a message's `content` must be a string or a list of parts".to_owned()));
        }
    }
    let answered = response.choices.iter().any(|choice| {
        facts::content_text(&choice.message.content).is_some_and(|text| !text.trim().is_empty())
            || choice.message.tool_calls.as_ref().is_some_and(|calls| !calls.is_null())
    });
    if !answered {
        return Err((ErrorClass::EmptyContent, "no choice of the response holds text".to_owned()));
    }
    let created = match response.created {
        None | Some(Value::Null) => None,
        Some(value) => Some(time::parse(&value).map_err(|_| {
            (ErrorClass::InvalidTime, "`response.created` is no number of seconds".to_owned())
        })?),
    };
    Ok(Checked { response_id: response.id.filter(|id| !id.is_empty()), created })
}

fn normal_role(role: &str) -> Option<&'static str> {
    match role {
        "developer" => Some("system"),
        "function" => Some("tool"),
        other => ROLES.into_iter().find(|known| *known == other),
    }
}

/// The turns of a completion: the request's messages in a chain, then each choice as a child of the last.
///
/// Without a conversation id the chain starts at the person (`subject_key`) and the first message, so two
/// conversations of one person that open with the very same words share their beginning, as branches of one tree.
///
/// # Errors
/// A sentence, when the payload is not what [`check`] accepted.
pub fn turns(object: &Map<String, Value>, event_time: Micros, subject_key: Option<&str>) -> Result<Vec<TurnFact>, String> {
    let request = object.get("request").and_then(Value::as_object).ok_or("a completion without `request`")?;
    let response = object.get("response").and_then(Value::as_object).ok_or("a completion without `response`")?;
    let messages = request.get("messages").and_then(Value::as_array).ok_or("a request without `messages`")?;
    let choices = response.get("choices").and_then(Value::as_array).ok_or("a response without `choices`")?;
    let said = facts::text(object, "conversation_id").or_else(|| {
        request.get("metadata").and_then(Value::as_object).and_then(|metadata| facts::text(metadata, "conversation_id"))
    });
    let opening = messages.iter().find(|message| message["role"] == "user").unwrap_or(&Value::Null);
    let conversation_id = said.unwrap_or_else(|| {
        format!("cc_{}", link("", subject_key.unwrap_or_default(), &content(opening)))
    });
    let model = facts::text(response, "model").or_else(|| facts::text(request, "model"));
    let turn = |turn_id: String, parent: Option<&String>, index: usize, message: &Value, model: Option<String>| TurnFact {
        turn_id,
        alias: None,
        conversation_id: conversation_id.clone(),
        parent_turn_id: parent.cloned(),
        turn_index: i32::try_from(index).ok(),
        role: role(message).to_owned(),
        text: content(message),
        model,
        language: None,
        event_time,
        consent: facts::text(object, "consent"),
        extra: None,
    };
    let mut turns: Vec<TurnFact> = Vec::with_capacity(messages.len() + choices.len());
    let mut parent: Option<String> = None;
    for (index, message) in messages.iter().enumerate() {
        let id = link(parent.as_deref().unwrap_or(&conversation_id), role(message), &content(message));
        turns.push(turn(id.clone(), parent.as_ref(), index, message, None));
        parent = Some(id);
    }
    let response_id = facts::text(response, "id");
    for (number, choice) in choices.iter().enumerate() {
        let message = choice.get("message").unwrap_or(&Value::Null);
        let id = link(parent.as_deref().unwrap_or(&conversation_id), role(message), &content(message));
        let mut answer = turn(id, parent.as_ref(), messages.len(), message, model.clone());
        answer.alias = response_id.as_ref().map(|id| if number == 0 { id.clone() } else { format!("{id}#{number}") });
        turns.push(answer);
    }
    Ok(turns)
}

fn role(message: &Value) -> &'static str {
    message["role"].as_str().and_then(normal_role).unwrap_or("user")
}

fn content(message: &Value) -> String {
    message.get("content").and_then(facts::content_text).unwrap_or_default()
}

/// The next id of a chain: what came before, who speaks, what they say.
fn link(before: &str, role: &str, text: &str) -> String {
    let mut hasher = Sha256::new();
    for part in [before, role, text] {
        hasher.update((part.len() as u64).to_le_bytes());
        hasher.update(part.as_bytes());
    }
    hex(hasher.finalize().get(..12).unwrap_or_default())
}
