//! `WildChat`'s layout (Zhao et al., "`WildChat`: 1M `ChatGPT` Interaction Logs in the Wild", ICLR 2024).
//!
//! The hashed address stands for the person. Request headers, and the moderation scores of each message, do not come
//! along: the first could tell who somebody is, the second are large and can be had again from the text.

use serde_json::{Map, Value};
use uptake_model::contract::ErrorClass;

use super::chat;
use super::conversation::{Conversation, Said};
use super::layout::{Refusal, take, take_id, take_list};

/// Fields of a record that are left behind.
const LEFT: [&str; 4] = ["openai_moderation", "detoxify_moderation", "header", "turn"];

/// Reads `{"conversation_hash", "model", "timestamp", "conversation": […], "hashed_ip", …}`.
pub(super) fn read(mut record: Map<String, Value>) -> Result<Conversation, Refusal> {
    let list = take_list(&mut record, "conversation")?;
    let id = take_id(&mut record, &["conversation_hash", "conversation_id"]);
    let user = take(&mut record, &["hashed_ip", "user_id"]);
    // A record's own time is that of its last answer, so it can only stand in where no message has one.
    let answered_at = take(&mut record, &["timestamp"]);
    let messages: Vec<Said> = list.into_iter().map(said).collect::<Result<_, _>>()?;
    let timed = messages.iter().any(|message| message.time.is_some());
    for field in LEFT {
        let _ = record.remove(field);
    }
    Ok(Conversation {
        id,
        started_at: answered_at.filter(|_| !timed),
        user,
        model: take_id(&mut record, &["model"]),
        language: take_id(&mut record, &["language"]),
        messages,
        about: record,
        ..Conversation::default()
    })
}

fn said(message: Value) -> Result<Said, Refusal> {
    let Value::Object(mut fields) = message else {
        return Err((ErrorClass::WrongType, "a message must be an object".to_owned()));
    };
    let user = take(&mut fields, &["hashed_ip"]);
    let _ = fields.remove("header");
    let mut said = chat::said(Value::Object(fields))?;
    said.user = said.user.or(user);
    Ok(said)
}
