//! A gateway's log line, request and response, becomes messages with deterministic ids.
//!
//! A chat completion repeats the whole conversation in every request (`OpenAI` API reference, "Create chat
//! completion"). Each message's id is a hash over its conversation and everything said before it, so the same message
//! gets the same id in every line that repeats it, and an answer regenerated from the same prompt becomes a sibling.
//! Two things that change between repetitions stay out of the chain: system messages (many carry the time of day) and
//! white space at the ends of a text. A client that drops the oldest messages from its history starts a new chain,
//! joined to the old one by nothing but the conversation's id.
//! The response's own id (`chatcmpl-…`) stays as the turn's alias, so reactions may name either.

use serde::Deserialize;
use serde_json::{Map, Value};
use sha2::{Digest, Sha256};

use crate::contract::{ErrorClass, LONGEST_ID, ROLES};
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

/// Reads an object. Without the look at its first character serde would take a list for the fields in their order.
fn object<'a, T: Deserialize<'a>>(raw: &'a str) -> Option<T> {
    if raw.starts_with('{') { serde_json::from_str(raw).ok() } else { None }
}

/// Checks that a request and a response are what the contract says.
///
/// # Errors
/// The class and a sentence.
pub(crate) fn check(request: &str, response: &str) -> Result<Checked, (ErrorClass, String)> {
    let wrong = |what: &str| (ErrorClass::WrongType, what.to_owned());
    let request: Request = object(request)
        .ok_or_else(|| wrong("`request` must be an object whose `messages` is a list of {role, content}"))?;
    let response: Response = object(response)
        .ok_or_else(|| wrong("`response` must be an object whose `choices` is a list of {message: {role, content}}"))?;
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
            return Err((
                ErrorClass::WrongType,
                "a message's `content` must be a string or a list of parts".to_owned(),
            ));
        }
    }
    let answered = response.choices.iter().any(|choice| {
        facts::content_text(&choice.message.content).is_some_and(|text| !text.trim().is_empty())
            || choice.message.tool_calls.as_ref().is_some_and(facts::holds_calls)
    });
    if !answered {
        return Err((ErrorClass::EmptyContent, "no choice of the response holds text".to_owned()));
    }
    let created = match response.created {
        None | Some(Value::Null) => None,
        Some(value) => Some(
            time::parse(&value)
                .map_err(|_| (ErrorClass::InvalidTime, "`response.created` is no number of seconds".to_owned()))?,
        ),
    };
    if response.id.as_ref().is_some_and(|id| id.len() > LONGEST_ID) {
        return Err((ErrorClass::InvalidValue, format!("`response.id` is longer than {LONGEST_ID} bytes")));
    }
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
/// A sentence, when the payload is not what the decoder accepted.
pub fn turns(
    object: &Map<String, Value>,
    event_time: Micros,
    subject_key: Option<&str>,
) -> Result<Vec<TurnFact>, String> {
    let request = object.get("request").and_then(Value::as_object).ok_or("a completion without `request`")?;
    let response = object.get("response").and_then(Value::as_object).ok_or("a completion without `response`")?;
    let messages = request.get("messages").and_then(Value::as_array).ok_or("a request without `messages`")?;
    let choices = response.get("choices").and_then(Value::as_array).ok_or("a response without `choices`")?;
    let mut chain = Chain {
        conversation_id: conversation_id(object, request, messages, subject_key),
        consent: facts::text(object, "consent"),
        event_time,
        said: None,
        parent: None,
        turns: Vec::with_capacity(messages.len() + choices.len()),
    };
    for message in messages {
        let (id, said) = chain.push(message);
        chain.said = said;
        chain.parent = Some(id);
    }
    let model = facts::text(response, "model").or_else(|| facts::text(request, "model"));
    let response_id = facts::text(response, "id");
    for (number, choice) in choices.iter().enumerate() {
        let _ = chain.push(choice.get("message").unwrap_or(&Value::Null));
        if let Some(answer) = chain.turns.last_mut() {
            answer.turn_index = i32::try_from(messages.len()).ok();
            answer.model.clone_from(&model);
            answer.alias =
                response_id.as_ref().map(|id| if number == 0 { id.clone() } else { format!("{id}#{number}") });
        }
    }
    Ok(chain.turns)
}

fn conversation_id(
    object: &Map<String, Value>,
    request: &Map<String, Value>,
    messages: &[Value],
    subject_key: Option<&str>,
) -> String {
    let metadata = || request.get("metadata").and_then(Value::as_object);
    facts::text(object, "conversation_id")
        .or_else(|| metadata().and_then(|metadata| facts::text(metadata, "conversation_id")))
        .unwrap_or_else(|| {
            let opening = messages.iter().find(|message| role(message) == "user").unwrap_or(&Value::Null);
            format!("cc_{}", link("", subject_key.unwrap_or_default(), opening))
        })
}

/// The messages of a request as they are strung together.
struct Chain {
    conversation_id: String,
    consent: Option<String>,
    event_time: Micros,
    /// Id of the last message that is no system message: what the next id depends on.
    said: Option<String>,
    /// Id of the last message.
    parent: Option<String>,
    turns: Vec<TurnFact>,
}

impl Chain {
    /// Adds a message as the child of the last; returns its id, and what `said` is behind it.
    fn push(&mut self, message: &Value) -> (String, Option<String>) {
        let role = role(message);
        let before = if role == "system" { &self.parent } else { &self.said };
        let id = link(before.as_deref().unwrap_or(&self.conversation_id), role, message);
        let said = if role == "system" { self.said.clone() } else { Some(id.clone()) };
        self.turns.push(TurnFact {
            turn_id: id.clone(),
            alias: None,
            conversation_id: self.conversation_id.clone(),
            parent_turn_id: self.parent.clone(),
            turn_index: i32::try_from(self.turns.len()).ok(),
            role: role.to_owned(),
            text: content(message),
            model: None,
            language: None,
            event_time: self.event_time,
            consent: self.consent.clone(),
            extra: extra(message),
        });
        (id, said)
    }
}

fn role(message: &Value) -> &'static str {
    message["role"].as_str().and_then(normal_role).unwrap_or("user")
}

fn content(message: &Value) -> String {
    message.get("content").and_then(facts::content_text).unwrap_or_default()
}

/// What of a message has no column of its own.
fn extra(message: &Value) -> Option<String> {
    let rest: Map<String, Value> = message
        .as_object()?
        .iter()
        .filter(|(name, value)| !matches!(name.as_str(), "role" | "content") && !value.is_null())
        .map(|(name, value)| (name.clone(), value.clone()))
        .collect();
    (!rest.is_empty()).then(|| Value::Object(rest).to_string())
}

/// The next id of a chain: what came before, who speaks, what they say, which tools they call with what.
fn link(before: &str, role: &str, message: &Value) -> String {
    let text = content(message);
    let mut hasher = Sha256::new();
    let mut add = |part: &str| {
        hasher.update((part.len() as u64).to_le_bytes());
        hasher.update(part.as_bytes());
    };
    add(before);
    add(role);
    add(text.trim());
    for call in message.get("tool_calls").and_then(Value::as_array).into_iter().flatten() {
        // Only name and arguments: gateways add an index here and there.
        for field in ["name", "arguments"] {
            add(call["function"][field].as_str().unwrap_or_default());
        }
    }
    hex(hasher.finalize().get(..12).unwrap_or_default())
}
