//! Payloads as producers write them. Structures rather than maps, so that the order of the fields is the order below.

use serde::Serialize;
use uptake_model::time::{self, Micros};

use crate::error::Error;

/// A time as different clients write it.
#[derive(Debug, Clone, Serialize)]
#[serde(untagged)]
pub(crate) enum Time {
    /// RFC 3339.
    Text(String),
    /// Milliseconds since 1970.
    Millis(i64),
}

impl Time {
    pub(crate) fn of(at: Micros, client: &str) -> Self {
        if client == "ios" { Self::Millis(at / 1_000) } else { Self::Text(time::time_text(at)) }
    }
}

/// A content: a text, or a list of parts.
#[derive(Debug, Serialize)]
#[serde(untagged)]
pub(crate) enum Content<'a> {
    Text(&'a str),
    Parts([Part<'a>; 1]),
}

#[derive(Debug, Serialize)]
pub(crate) struct Part<'a> {
    #[serde(rename = "type")]
    pub(crate) kind: &'static str,
    pub(crate) text: &'a str,
}

#[derive(Debug, Serialize)]
pub(crate) struct MessageRecord<'a> {
    pub(crate) event_id: String,
    #[serde(rename = "type")]
    pub(crate) kind: &'static str,
    pub(crate) conversation_id: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) conversation_started_at: Option<Time>,
    pub(crate) message_id: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) parent_message_id: Option<&'a str>,
    pub(crate) turn_index: i32,
    pub(crate) role: &'static str,
    pub(crate) content: Content<'a>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) model: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) language: Option<&'static str>,
    pub(crate) event_time: Time,
    pub(crate) user_id: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) consent: Option<&'static str>,
    /// A field that the contract does not name.
    pub(crate) client: &'static str,
}

#[derive(Debug, Serialize)]
pub(crate) struct ReactionRecord<'a> {
    pub(crate) event_id: String,
    #[serde(rename = "type")]
    pub(crate) event_type: &'static str,
    pub(crate) conversation_id: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) conversation_started_at: Option<Time>,
    pub(crate) message_id: &'a str,
    pub(crate) kind: &'static str,
    pub(crate) op: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) value: Option<u8>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) text: Option<&'a str>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(crate) rejected_message_ids: Vec<&'a str>,
    pub(crate) event_time: Time,
    pub(crate) user_id: &'a str,
}

#[derive(Debug, Serialize)]
pub(crate) struct ChatMessage<'a> {
    pub(crate) role: &'static str,
    pub(crate) content: &'a str,
}

#[derive(Debug, Serialize)]
pub(crate) struct CompletionRecord<'a> {
    pub(crate) conversation_id: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) consent: Option<&'static str>,
    pub(crate) request: Request<'a>,
    pub(crate) response: Response<'a>,
}

#[derive(Debug, Serialize)]
pub(crate) struct Request<'a> {
    pub(crate) model: &'static str,
    pub(crate) messages: Vec<ChatMessage<'a>>,
    pub(crate) temperature: f32,
    pub(crate) user: &'a str,
}

#[derive(Debug, Serialize)]
pub(crate) struct Response<'a> {
    pub(crate) id: String,
    pub(crate) object: &'static str,
    pub(crate) created: i64,
    pub(crate) model: &'static str,
    pub(crate) choices: [Choice<'a>; 1],
}

#[derive(Debug, Serialize)]
pub(crate) struct Choice<'a> {
    pub(crate) index: u32,
    pub(crate) message: ChatMessage<'a>,
    pub(crate) finish_reason: &'static str,
}

pub(crate) fn bytes(record: &impl Serialize) -> Result<Vec<u8>, Error> {
    serde_json::to_vec(record).map_err(|error| Error::Record(error.to_string()))
}
