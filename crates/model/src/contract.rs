//! What a topic carries, and the closed list of reasons for which a record is refused.
//!
//! The contracts themselves, with examples, are the JSON Schemas in `schemas/topics`.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// The contract that the records of a topic follow.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Contract {
    /// One message of a conversation (`schemas/topics/message.schema.json`).
    Messages,
    /// One reaction to a message (`schemas/topics/reaction.schema.json`).
    Reactions,
    /// One log line of an OpenAI-compatible gateway: request and response (`schemas/topics/completion.schema.json`).
    Completions,
    /// A request to erase a person (`schemas/topics/erasure.schema.json`).
    Erasures,
}

impl Contract {
    /// All contracts.
    pub const ALL: [Self; 4] = [Self::Messages, Self::Reactions, Self::Completions, Self::Erasures];

    /// The `kind` of the events that this contract yields.
    pub fn kind(self) -> &'static str {
        match self {
            Self::Messages => "message",
            Self::Reactions => "reaction",
            Self::Completions => "completion",
            Self::Erasures => "erasure",
        }
    }
}

impl fmt::Display for Contract {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            Self::Messages => "messages",
            Self::Reactions => "reactions",
            Self::Completions => "completions",
            Self::Erasures => "erasures",
        })
    }
}

impl FromStr for Contract {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        Self::ALL
            .into_iter()
            .find(|contract| contract.to_string() == text || contract.kind() == text)
            .ok_or_else(|| format!("`{text}` is no contract; use messages, reactions, completions or erasures"))
    }
}

/// Why a record is refused: the bounded set of dead-letter reasons.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum ErrorClass {
    /// The payload is not UTF-8.
    InvalidUtf8,
    /// The payload is not JSON.
    InvalidJson,
    /// The payload is JSON but not an object.
    NotAnObject,
    /// The payload is in an encoding that this topic's contract does not speak (Avro or Protobuf behind a registry id).
    UnsupportedEncoding,
    /// A required field is absent, null or empty.
    MissingField,
    /// A field has another JSON type than the contract says, or stands twice.
    WrongType,
    /// `role` is none of system, user, assistant, tool.
    UnknownRole,
    /// A message without any text and without tool calls.
    EmptyContent,
    /// `kind` of a reaction is none that the contract names.
    UnknownKind,
    /// A value outside the range that its kind allows.
    InvalidValue,
    /// A time that cannot be read.
    InvalidTime,
    /// Neither a `UUIDv7` as conversation id nor a `conversation_started_at`: the conversation has no date to live under.
    MissingConversationStart,
    /// The record is larger than the configured bound.
    RecordTooLarge,
    /// The event id was seen with another payload.
    EventIdReused,
}

impl ErrorClass {
    /// All classes.
    pub const ALL: [Self; 14] = [
        Self::InvalidUtf8,
        Self::InvalidJson,
        Self::NotAnObject,
        Self::UnsupportedEncoding,
        Self::MissingField,
        Self::WrongType,
        Self::UnknownRole,
        Self::EmptyContent,
        Self::UnknownKind,
        Self::InvalidValue,
        Self::InvalidTime,
        Self::MissingConversationStart,
        Self::RecordTooLarge,
        Self::EventIdReused,
    ];

    /// The name stored in `error_class` and used as metric label.
    pub fn name(self) -> &'static str {
        match self {
            Self::InvalidUtf8 => "invalid_utf8",
            Self::InvalidJson => "invalid_json",
            Self::NotAnObject => "not_an_object",
            Self::UnsupportedEncoding => "unsupported_encoding",
            Self::MissingField => "missing_field",
            Self::WrongType => "wrong_type",
            Self::UnknownRole => "unknown_role",
            Self::EmptyContent => "empty_content",
            Self::UnknownKind => "unknown_kind",
            Self::InvalidValue => "invalid_value",
            Self::InvalidTime => "invalid_time",
            Self::MissingConversationStart => "missing_conversation_start",
            Self::RecordTooLarge => "record_too_large",
            Self::EventIdReused => "event_id_reused",
        }
    }
}

/// The reactions that the contract names (design: TensorZero's feedback kinds, RLUF's Love, WildFeedback's edits).
pub const REACTION_KINDS: [&str; 15] = [
    "love",
    "like",
    "thumbs_up",
    "thumbs_down",
    "laugh",
    "sad",
    "angry",
    "rating",
    "copy",
    "regenerate",
    "edit",
    "share",
    "report",
    "abandon",
    "choice",
];

/// The roles that a message can have.
pub const ROLES: [&str; 4] = ["system", "user", "assistant", "tool"];

/// What a user allowed. Absent means that the product said nothing.
pub const CONSENTS: [&str; 2] = ["granted", "denied"];

/// The longest id that is taken, in bytes. Ids carry statistics and are compared often; a longer one is a piece of text
/// in the wrong field.
pub const LONGEST_ID: usize = 256;
