//! Our own layout and `OpenAI`'s: a list of messages, ours with reactions beside it.

use serde_json::{Map, Value, json};
use uptake_model::contract::ErrorClass;

use super::conversation::{Conversation, Reaction, Said, Target};
use super::layout::{Refusal, take, take_id, take_list};

/// The names under which exports keep a message's time.
pub(super) const TIMES: [&str; 7] =
    ["event_time", "time", "timestamp", "created_at", "created", "create_time", "created_date"];

/// Reads `{"conversation_id"?, "messages", "reactions"?, "start_time"?, "user_id"?, "metadata"?, …}`.
pub(super) fn read(mut record: Map<String, Value>) -> Result<Conversation, Refusal> {
    let messages = take_list(&mut record, "messages")?;
    let mut metadata = match record.remove("metadata") {
        Some(Value::Object(metadata)) => metadata,
        Some(Value::Null) | None => Map::new(),
        Some(other) => Map::from_iter([("metadata".to_owned(), other)]),
    };
    let id = take_id(&mut record, &["conversation_id", "id"]).or_else(|| take_id(&mut metadata, &["conversation_id"]));
    let user = take(&mut record, &["user_id", "user"]).or_else(|| take(&mut metadata, &["user_id", "user"]));
    let starts = ["start_time", "conversation_started_at", "started_at"];
    let started_at = take(&mut record, &[&starts[..], &TIMES].concat()).or_else(|| take(&mut metadata, &starts));
    let reactions = match record.remove("reactions") {
        None | Some(Value::Null) => Vec::new(),
        Some(Value::Array(list)) => list,
        Some(_) => return Err((ErrorClass::WrongType, "`reactions` must be a list".to_owned())),
    };
    let mut conversation = Conversation {
        id,
        started_at,
        user,
        model: take_id(&mut record, &["model"]),
        language: take_id(&mut record, &["language"]),
        consent: take(&mut record, &["consent"]),
        messages: messages.into_iter().map(said).collect::<Result<_, _>>()?,
        reactions: Vec::new(),
        unset_counts: 0,
        about: Map::new(),
    };
    for reaction in reactions {
        match self::reaction(reaction) {
            Some(reaction) => conversation.reactions.push(reaction),
            None => conversation.unset_counts += 1,
        }
    }
    if !metadata.is_empty() {
        let _ = record.insert("metadata".to_owned(), Value::Object(metadata));
    }
    conversation.about = record;
    Ok(conversation)
}

/// A message with `role` and `content`.
pub(super) fn said(message: Value) -> Result<Said, Refusal> {
    let Value::Object(mut message) = message else {
        return Err((ErrorClass::WrongType, "a message must be an object".to_owned()));
    };
    Ok(Said {
        id: take_id(&mut message, &["message_id", "id"]),
        parent: take_id(&mut message, &["parent_message_id"]),
        role: role(message.remove("role")),
        content: message.remove("content").unwrap_or_default(),
        time: take(&mut message, &TIMES),
        model: take_id(&mut message, &["model"]),
        language: take_id(&mut message, &["language"]),
        user: take(&mut message, &["user_id"]),
        extra: message,
    })
}

/// The contract's name of a role; names that no layout uses are left for the decoder to refuse.
pub(super) fn role(role: Option<Value>) -> Value {
    let role = role.unwrap_or_default();
    let name = match role.as_str() {
        Some("human" | "prompter") => "user",
        Some("gpt" | "chatgpt" | "bot" | "model" | "ai" | "bing" | "bard") => "assistant",
        Some("developer") => "system",
        Some("function" | "function_response" | "observation") => "tool",
        _ => return role,
    };
    Value::from(name)
}

/// A reaction `{"turn", "kind"?, "value"?}`; `None` for a count of zero, which says that nobody did it.
///
/// Thumbs may come without a kind, as 1 and -1.
fn reaction(value: Value) -> Option<Reaction> {
    let Value::Object(mut fields) = value else {
        return Some(Reaction {
            target: Target::Unknown,
            time: None,
            user: None,
            fields: Map::from_iter([("reaction".to_owned(), value)]),
        });
    };
    let target = match (take_id(&mut fields, &["message_id"]), fields.remove("turn")) {
        (Some(id), _) => Target::Id(id),
        (None, Some(turn)) => {
            turn.as_u64().and_then(|turn| usize::try_from(turn).ok()).map_or(Target::Unknown, Target::Turn)
        }
        (None, None) => Target::Unknown,
    };
    let kind = fields.get("kind").and_then(Value::as_str).map(str::to_owned);
    let value = fields.get("value").and_then(Value::as_f64);
    match (kind.as_deref(), value) {
        (None | Some("thumb" | "thumbs"), Some(value)) if value.abs() > 0.0 => {
            let kind = if value > 0.0 { "thumbs_up" } else { "thumbs_down" };
            let _ = fields.insert("kind".to_owned(), json!(kind));
            let _ = fields.remove("value");
        }
        // Of the kinds that the contract names only a rating is more than a count.
        (kind, Some(value)) if kind != Some("rating") && value == 0.0 => return None,
        _ => {}
    }
    let time = take(&mut fields, &TIMES);
    let user = take(&mut fields, &["user_id"]);
    Some(Reaction { target, time, user, fields })
}
