//! What the payload of a stored event says, as silver rows need it.

use serde_json::{Map, Value};

use crate::completion;
use crate::rows::EventRow;
use crate::time::{self, Day, Micros};

/// One message of a conversation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TurnFact {
    /// Message id.
    pub turn_id: String,
    /// Another id of the same turn.
    pub alias: Option<String>,
    /// Conversation.
    pub conversation_id: String,
    /// Turn that this one answers, as the producer says.
    pub parent_turn_id: Option<String>,
    /// Place in the conversation, as the producer says.
    pub turn_index: Option<i32>,
    /// system, user, assistant or tool.
    pub role: String,
    /// What was said.
    pub text: String,
    /// Model that wrote it.
    pub model: Option<String>,
    /// BCP 47 tag.
    pub language: Option<String>,
    /// When it was said.
    pub event_time: Micros,
    /// granted or denied.
    pub consent: Option<String>,
    /// JSON of the fields that the contract does not name.
    pub extra: Option<String>,
}

/// One reaction.
#[derive(Debug, Clone, PartialEq)]
pub struct ReactionFact {
    /// Message reacted to (for a choice: the one chosen).
    pub turn_id: String,
    /// One of [`crate::contract::REACTION_KINDS`].
    pub kind: String,
    /// Rating or count.
    pub value: Option<f32>,
    /// Edited text.
    pub text: Option<String>,
    /// Messages not chosen.
    pub other_turn_ids: Vec<String>,
    /// set or unset.
    pub op: String,
}

/// A stored event that may tell of turns: what its row in bronze says, as far as turns need it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Telling {
    /// Topic, or `file:<hash>` for an import.
    pub topic: String,
    /// Partition.
    pub partition: i32,
    /// Offset.
    pub offset: i64,
    /// Producer's id of the event.
    pub event_id: String,
    /// message, completion, …
    pub kind: String,
    /// UTC day of the conversation's start.
    pub conversation_date: Option<Day>,
    /// When it happened, as the producer says.
    pub event_time: Micros,
    /// When it was read.
    pub ingest_time: Micros,
    /// When the broker took it.
    pub broker_time: Option<Micros>,
    /// Whether `event_time` is implausible.
    pub skewed: bool,
    /// The person, as a pseudonym.
    pub subject_key: Option<String>,
    /// The payload as it is stored.
    pub payload: String,
}

impl Telling {
    /// Whether events of this kind tell of turns at all.
    pub fn tells(kind: &str) -> bool {
        matches!(kind, "message" | "completion")
    }

    /// The turns that it tells of, at a time that a clock can have shown.
    ///
    /// # Errors
    /// As for [`turns_of`].
    pub fn turns(&self) -> Result<Vec<TurnFact>, String> {
        let mut turns = turns_of(&self.kind, &self.payload, self.event_time, self.subject_key.as_deref())?;
        if self.skewed {
            let corrected = self.broker_time.unwrap_or(self.ingest_time);
            for turn in &mut turns {
                turn.event_time = corrected;
            }
        }
        Ok(turns)
    }

    /// Bytes it holds in memory.
    pub fn size(&self) -> usize {
        let person = self.subject_key.as_ref().map_or(0, String::len);
        size_of::<Self>() + self.topic.len() + self.event_id.len() + self.kind.len() + person + self.payload.len()
    }
}

impl From<EventRow> for Telling {
    fn from(row: EventRow) -> Self {
        Self {
            topic: row.topic,
            partition: row.partition,
            offset: row.offset,
            event_id: row.event_id,
            kind: row.kind.to_owned(),
            conversation_date: row.conversation_date,
            event_time: row.event_time,
            ingest_time: row.ingest_time,
            broker_time: row.broker_time,
            skewed: row.clock_skew.is_some(),
            subject_key: row.subject_key,
            payload: row.payload,
        }
    }
}

/// The turns that an event tells of: one for a message, several for a completion, none for other kinds.
///
/// `event_time` and `subject_key` are the event's own columns; the payload is one that [`crate::decode`] accepted.
///
/// # Errors
/// A sentence, when the payload is not what the contract says: the table was written by other code.
pub fn turns_of(
    kind: &str,
    payload: &str,
    event_time: Micros,
    subject_key: Option<&str>,
) -> Result<Vec<TurnFact>, String> {
    match kind {
        "message" => Ok(vec![message(&object(payload)?, event_time)?]),
        "completion" => completion::turns(&object(payload)?, event_time, subject_key),
        _ => Ok(Vec::new()),
    }
}

/// The reaction that an event tells of.
///
/// # Errors
/// As for [`turns_of`].
pub fn reaction_of(payload: &str) -> Result<ReactionFact, String> {
    let object = object(payload)?;
    let others = object.get("rejected_message_ids").and_then(Value::as_array);
    #[expect(clippy::cast_possible_truncation, reason = "ratings and counts are small")]
    let value = object.get("value").and_then(Value::as_f64).map(|value| value as f32);
    Ok(ReactionFact {
        turn_id: text(&object, "message_id").ok_or("a reaction without `message_id`")?,
        kind: text(&object, "kind").ok_or("a reaction without `kind`")?,
        value,
        text: text(&object, "text"),
        other_turn_ids: others.into_iter().flatten().filter_map(Value::as_str).map(str::to_owned).collect(),
        op: text(&object, "op").unwrap_or_else(|| "set".to_owned()),
    })
}

fn object(payload: &str) -> Result<Map<String, Value>, String> {
    match serde_json::from_str(payload) {
        Ok(Value::Object(object)) => Ok(object),
        Ok(_) => Err("the payload is no JSON object".to_owned()),
        Err(error) => Err(format!("the payload is no JSON: line {} column {}", error.line(), error.column())),
    }
}

/// A non-empty string field.
pub(crate) fn text(object: &Map<String, Value>, name: &str) -> Option<String> {
    object.get(name).and_then(Value::as_str).filter(|text| !text.is_empty()).map(str::to_owned)
}

/// The text of a message's content: the string itself, or the text parts of a list of parts joined by line breaks
/// (`OpenAI` chat completions, "content parts"). `None` where it is neither.
pub fn content_text(content: &Value) -> Option<String> {
    match content {
        Value::Null => Some(String::new()),
        Value::String(text) => Some(text.clone()),
        Value::Array(parts) => {
            let texts: Vec<&str> = parts
                .iter()
                .filter_map(|part| match part {
                    Value::String(text) => Some(text.as_str()),
                    other => other.get("text").and_then(Value::as_str),
                })
                .collect();
            Some(texts.join("\n"))
        }
        _ => None,
    }
}

/// Whether a message's `tool_calls` name at least one call.
pub(crate) fn holds_calls(calls: &Value) -> bool {
    calls.as_array().is_some_and(|calls| !calls.is_empty())
}

/// Fields of a message that have a column of their own (or are in the event's); the rest goes to `extra`.
const MESSAGE_FIELDS: [&str; 15] = [
    "event_id",
    "type",
    "conversation_id",
    "conversation_started_at",
    "message_id",
    "parent_message_id",
    "turn_index",
    "role",
    "content",
    "model",
    "language",
    "event_time",
    "user_id",
    "consent",
    "schema",
];

fn message(object: &Map<String, Value>, event_time: Micros) -> Result<TurnFact, String> {
    let extra: Map<String, Value> = object
        .iter()
        .filter(|(name, _)| !MESSAGE_FIELDS.contains(&name.as_str()))
        .map(|(name, value)| (name.clone(), value.clone()))
        .collect();
    Ok(TurnFact {
        turn_id: text(object, "message_id").ok_or("a message without `message_id`")?,
        alias: None,
        conversation_id: text(object, "conversation_id").ok_or("a message without `conversation_id`")?,
        parent_turn_id: text(object, "parent_message_id"),
        turn_index: object.get("turn_index").and_then(Value::as_i64).and_then(|index| i32::try_from(index).ok()),
        role: text(object, "role").ok_or("a message without `role`")?,
        text: object.get("content").and_then(content_text).unwrap_or_default(),
        model: text(object, "model"),
        language: text(object, "language"),
        event_time: object.get("event_time").and_then(|value| time::parse(value).ok()).unwrap_or(event_time),
        consent: text(object, "consent"),
        extra: (!extra.is_empty()).then(|| Value::Object(extra).to_string()),
    })
}
