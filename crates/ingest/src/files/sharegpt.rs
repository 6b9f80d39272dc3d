//! ShareGPT's layout, as the exports and the many data sets made like it have it.

use serde_json::{Map, Value};
use uptake_model::contract::ErrorClass;

use super::chat;
use super::conversation::{Conversation, Said};
use super::layout::{Refusal, take, take_id, take_list};

/// Reads `{"id"?, "conversations": [{"from", "value"}], …}`.
pub(super) fn read(mut record: Map<String, Value>) -> Result<Conversation, Refusal> {
    let list = take_list(&mut record, "conversations")?;
    Ok(Conversation {
        id: take_id(&mut record, &["id", "conversation_id"]),
        started_at: take(&mut record, &chat::TIMES),
        user: take(&mut record, &["user_id"]),
        model: take_id(&mut record, &["model"]),
        language: take_id(&mut record, &["language", "lang"]),
        messages: list.into_iter().map(said).collect::<Result<_, _>>()?,
        about: record,
        ..Conversation::default()
    })
}

fn said(message: Value) -> Result<Said, Refusal> {
    let Value::Object(mut message) = message else {
        return Err((ErrorClass::WrongType, "a message must be an object".to_owned()));
    };
    for (old, new) in [("from", "role"), ("value", "content"), ("text", "content")] {
        if message.contains_key(new) {
            continue;
        }
        if let Some(value) = message.remove(old) {
            let _ = message.insert(new.to_owned(), value);
        }
    }
    chat::said(Value::Object(message))
}
