//! The layouts of chat logs that are told apart, by what their records look like.

use std::fmt;
use std::str::FromStr;

use serde_json::{Map, Value};
use uptake_model::contract::ErrorClass;

use super::conversation::Conversation;
use super::{chat, oasst, sharegpt, wildchat};

/// Why a record of a file is no conversation.
pub(super) type Refusal = (ErrorClass, String);

/// A layout of chat logs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Layout {
    /// Ours: a conversation a record, `{"conversation_id", "messages": [{role, content}], "reactions"?, …}`.
    Own,
    /// OpenAI's: `{"messages": [{role, content}]}`, or a gateway's `{"request", "response"}`.
    OpenAi,
    /// WildChat's: `{"conversation_hash", "conversation": [{role, content, …}]}`.
    WildChat,
    /// ShareGPT's: `{"conversations": [{from, value}]}`.
    ShareGpt,
    /// Open-Assistant's: message rows with `message_id` and `parent_id`, or trees with `prompt` and `replies`.
    OpenAssistant,
}

impl Layout {
    /// All layouts, the most particular first.
    pub const ALL: [Self; 5] = [Self::OpenAssistant, Self::WildChat, Self::ShareGpt, Self::Own, Self::OpenAi];

    /// The name on the command line.
    pub fn name(self) -> &'static str {
        match self {
            Self::Own => "own",
            Self::OpenAi => "openai",
            Self::WildChat => "wildchat",
            Self::ShareGpt => "sharegpt",
            Self::OpenAssistant => "oasst",
        }
    }

    /// What a record of this layout looks like, for messages to people.
    pub fn shape(self) -> &'static str {
        match self {
            Self::Own => r#"{"conversation_id", "messages": [{"role", "content"}]}"#,
            Self::OpenAi => r#"{"messages": [{"role", "content"}]} or {"request", "response"}"#,
            Self::WildChat => r#"{"conversation_hash", "conversation": [{"role", "content"}]}"#,
            Self::ShareGpt => r#"{"conversations": [{"from", "value"}]}"#,
            Self::OpenAssistant => r#"{"message_id", "parent_id", "role", "text"} or {"message_tree_id", "prompt"}"#,
        }
    }

    /// Whether a record looks like this layout.
    pub(super) fn fits(self, record: &Map<String, Value>) -> bool {
        let has = |name: &str| record.get(name).is_some_and(|value| !value.is_null());
        let list_of = |name: &str, fields: [&str; 2]| {
            record
                .get(name)
                .and_then(Value::as_array)
                .and_then(|list| list.first())
                .is_some_and(|first| fields.into_iter().all(|field| first.get(field).is_some()))
        };
        match self {
            Self::Own => has("conversation_id") && list_of("messages", ["role", "content"]),
            Self::OpenAi => list_of("messages", ["role", "content"]) || (has("request") && has("response")),
            Self::WildChat => list_of("conversation", ["role", "content"]),
            Self::ShareGpt => {
                list_of("conversations", ["from", "value"]) || list_of("conversations", ["role", "content"])
            }
            Self::OpenAssistant => {
                (has("message_id") && has("text") && has("role")) || (has("message_tree_id") && has("prompt"))
            }
        }
    }

    /// The layout that a record looks like, if any.
    pub(super) fn of(record: &Map<String, Value>) -> Option<Self> {
        Self::ALL.into_iter().find(|layout| layout.fits(record))
    }

    /// The conversation that a record of this layout is.
    pub(super) fn read(self, record: Map<String, Value>) -> Result<Conversation, Refusal> {
        match self {
            Self::Own | Self::OpenAi => chat::read(record),
            Self::WildChat => wildchat::read(record),
            Self::ShareGpt => sharegpt::read(record),
            Self::OpenAssistant => oasst::tree(record),
        }
    }
}

impl fmt::Display for Layout {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(self.name())
    }
}

impl FromStr for Layout {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        Self::ALL
            .into_iter()
            .find(|layout| layout.name() == text)
            .ok_or_else(|| format!("`{text}` is no layout; use own, openai, wildchat, sharegpt or oasst"))
    }
}

/// Takes the first of these fields that is there and not null; the others of that name are dropped with it.
pub(super) fn take(record: &mut Map<String, Value>, names: &[&str]) -> Option<Value> {
    let mut taken = None;
    for name in names {
        let value = record.remove(*name).filter(|value| !value.is_null());
        taken = taken.or(value);
    }
    taken
}

/// The first of these fields that is a non-empty string or a number, as text.
pub(super) fn take_id(record: &mut Map<String, Value>, names: &[&str]) -> Option<String> {
    for name in names {
        let id = match record.get(*name) {
            Some(Value::String(text)) if !text.is_empty() => text.clone(),
            Some(Value::Number(number)) => number.to_string(),
            _ => continue,
        };
        let _ = record.remove(*name);
        return Some(id);
    }
    None
}

/// The list under a name, or why there is none.
pub(super) fn take_list(record: &mut Map<String, Value>, name: &str) -> Result<Vec<Value>, Refusal> {
    match record.remove(name) {
        Some(Value::Array(list)) if list.is_empty() => {
            Err((ErrorClass::EmptyContent, format!("`{name}` is an empty list")))
        }
        Some(Value::Array(list)) => Ok(list),
        None | Some(Value::Null) => Err((ErrorClass::MissingField, format!("`{name}` is missing or null"))),
        Some(_) => Err((ErrorClass::WrongType, format!("`{name}` must be a list"))),
    }
}
