//! A conversation of any layout, and the events of our own contracts that it becomes.
//!
//! Every id is given by the file or hashed from what it names, so that the same conversation gets the same ids from every
//! file that holds it. A message's id covers all that was said before it: two records that begin alike and go on
//! differently become the branches of one tree.
//!
//! Where a file says nothing of times, messages are a second apart; where it says nothing of a conversation's start,
//! a fixed date stands in, which depends on no clock.

use serde_json::{Map, Value, json};
use sha2::{Digest, Sha256};
use uptake_model::contract::{Contract, ErrorClass};
use uptake_model::subject::hex;
use uptake_model::time::{self, Micros};

use super::layout::Refusal;

/// Microseconds in a second, the distance of messages without a time.
const SECOND: Micros = 1_000_000;

/// A conversation as some layout tells it.
#[derive(Debug, Clone, Default, PartialEq)]
pub(super) struct Conversation {
    pub(super) id: Option<String>,
    pub(super) started_at: Option<Value>,
    pub(super) user: Option<Value>,
    pub(super) model: Option<String>,
    pub(super) language: Option<String>,
    pub(super) consent: Option<Value>,
    pub(super) messages: Vec<Said>,
    pub(super) reactions: Vec<Reaction>,
    /// Counts of zero among the reactions: nobody did it, so there is nothing to store.
    pub(super) unset_counts: u64,
    /// What else the record says of the conversation; kept with its first message.
    pub(super) about: Map<String, Value>,
}

/// A message as some layout tells it.
#[derive(Debug, Clone, Default, PartialEq)]
pub(super) struct Said {
    pub(super) id: Option<String>,
    pub(super) parent: Option<String>,
    pub(super) role: Value,
    pub(super) content: Value,
    pub(super) time: Option<Value>,
    pub(super) model: Option<String>,
    pub(super) language: Option<String>,
    pub(super) user: Option<Value>,
    pub(super) extra: Map<String, Value>,
}

/// What a reaction is on.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Target {
    /// The message of that index.
    Turn(usize),
    /// The message of that id.
    Id(String),
    /// Nothing that can be read.
    Unknown,
}

/// A reaction as some layout tells it; `fields` are the contract's.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Reaction {
    pub(super) target: Target,
    pub(super) time: Option<Value>,
    pub(super) user: Option<Value>,
    pub(super) fields: Map<String, Value>,
}

/// Takes the events of a file, in order.
pub(super) trait Sink {
    /// Takes an event of a contract; says whether it was accepted.
    fn event(&mut self, contract: Contract, payload: Vec<u8>) -> bool;
    /// Takes a piece of the file that is no event.
    fn refuse(&mut self, refusal: Refusal, payload: &[u8]);
}

/// A message that was handed on.
struct Placed {
    id: String,
    time: Micros,
    accepted: bool,
}

impl Conversation {
    /// Hands on the conversation's events: messages in order, then reactions.
    pub(super) fn emit(&self, fallback_start: Micros, sink: &mut impl Sink) {
        let id = self.id.clone().unwrap_or_else(|| self.hashed_id());
        let started_at = self.start(fallback_start);
        let mut placed: Vec<Placed> = Vec::with_capacity(self.messages.len());
        // Files of trees name parents; then an absent one means a root, not the message before.
        let tree = self.messages.iter().any(|message| message.parent.is_some());
        let mut chain = id.clone();
        for (index, message) in self.messages.iter().enumerate() {
            chain = link(&chain, &message.role, &message.content);
            let message_id = message.id.clone().unwrap_or_else(|| chain.clone());
            let before = placed.last().map_or(started_at - SECOND, |placed| placed.time);
            let time = message.time.as_ref().and_then(|time| time::parse(time).ok()).unwrap_or(before + SECOND);
            // A refused message (one without text) is no parent: what follows hangs on the one before.
            let previous = || placed.iter().rev().find(|placed| placed.accepted).map(|placed| placed.id.clone());
            let parent = message.parent.clone().or_else(|| if tree { None } else { previous() });
            let mut event = self.fields(&id, started_at, &message_id, message.user.as_ref());
            insert(&mut event, "parent_message_id", parent.map(Value::from));
            insert(&mut event, "turn_index", if tree { None } else { Some(json!(index)) });
            insert(&mut event, "role", Some(message.role.clone()));
            insert(&mut event, "content", Some(message.content.clone()));
            let answers = message.role == "assistant";
            insert(
                &mut event,
                "model",
                message.model.clone().or_else(|| self.model.clone().filter(|_| answers)).map(Value::from),
            );
            insert(&mut event, "language", message.language.clone().or_else(|| self.language.clone()).map(Value::from));
            insert(&mut event, "consent", self.consent.clone());
            insert(&mut event, "event_time", Some(time_field(message.time.as_ref(), time)));
            add_rest(&mut event, &message.extra);
            if index == 0 && !self.about.is_empty() {
                insert(&mut event, "conversation", Some(Value::Object(self.about.clone())));
            }
            let accepted = sink.event(Contract::Messages, with_event_id(event));
            placed.push(Placed { id: message_id, time, accepted });
        }
        for reaction in &self.reactions {
            self.emit_reaction(reaction, &id, started_at, &placed, sink);
        }
    }

    fn emit_reaction(
        &self,
        reaction: &Reaction,
        id: &str,
        started_at: Micros,
        placed: &[Placed],
        sink: &mut impl Sink,
    ) {
        let on = match &reaction.target {
            Target::Turn(turn) => placed.get(*turn).map(|placed| (placed.id.clone(), placed.time)),
            Target::Id(id) => {
                let time = placed.iter().find(|placed| placed.id == *id).map_or(started_at, |placed| placed.time);
                Some((id.clone(), time))
            }
            Target::Unknown => None,
        };
        let Some((message_id, time)) = on else {
            let mut fields = reaction.fields.clone();
            if let Target::Turn(turn) = reaction.target {
                let _ = fields.insert("turn".to_owned(), json!(turn));
            }
            let _ = fields.insert("conversation_id".to_owned(), json!(id));
            insert(&mut fields, "user_id", reaction.user.clone().or_else(|| self.user.clone()));
            let what = "a reaction names no message: `turn` must be the index of a message, or `message_id` its id";
            sink.refuse((ErrorClass::MissingField, what.to_owned()), Value::Object(fields).to_string().as_bytes());
            return;
        };
        let mut event = self.fields(id, started_at, &message_id, reaction.user.as_ref());
        insert(&mut event, "event_time", Some(time_field(reaction.time.as_ref(), time)));
        add_rest(&mut event, &reaction.fields);
        let _ = sink.event(Contract::Reactions, with_event_id(event));
    }

    /// What messages and reactions have in common.
    fn fields(&self, id: &str, started_at: Micros, message_id: &str, user: Option<&Value>) -> Map<String, Value> {
        let mut event = Map::new();
        insert(&mut event, "conversation_id", Some(json!(id)));
        // A start that cannot be read is handed on as it is, so that it is refused as such.
        let start = match &self.started_at {
            Some(start) if time::parse(start).is_err() => start.clone(),
            _ => json!(time::time_text(started_at)),
        };
        insert(&mut event, "conversation_started_at", Some(start));
        insert(&mut event, "message_id", Some(json!(message_id)));
        insert(&mut event, "user_id", user.or(self.user.as_ref()).cloned());
        event
    }

    /// When the conversation began: as the record says, else as its first message with a time says, else the stand-in.
    fn start(&self, fallback: Micros) -> Micros {
        let said = self.started_at.as_ref().and_then(|time| time::parse(time).ok());
        let timed = self.messages.iter().enumerate().find_map(|(index, message)| {
            let time = message.time.as_ref().and_then(|time| time::parse(time).ok())?;
            Some(time.saturating_sub(SECOND.saturating_mul(i64::try_from(index).unwrap_or(0))))
        });
        said.or(timed).unwrap_or(fallback)
    }

    /// An id for a conversation without one: a hash over all that is said in it.
    fn hashed_id(&self) -> String {
        let chain = self.messages.iter().fold(String::new(), |chain, said| link(&chain, &said.role, &said.content));
        format!("c_{chain}")
    }
}

/// A time as the file has it where it has one (so that one that cannot be read is refused as such), else the derived one.
fn time_field(given: Option<&Value>, derived: Micros) -> Value {
    match given {
        Some(value) if time::parse(value).is_err() => value.clone(),
        _ => json!(time::time_text(derived)),
    }
}

fn insert(event: &mut Map<String, Value>, name: &str, value: Option<Value>) {
    if let Some(value) = value {
        let _ = event.insert(name.to_owned(), value);
    }
}

/// Adds fields that the contract does not name; none of them replaces one that it does.
fn add_rest(event: &mut Map<String, Value>, rest: &Map<String, Value>) {
    for (name, value) in rest {
        if !value.is_null() && !event.contains_key(name) && name != "event_id" {
            let _ = event.insert(name.clone(), value.clone());
        }
    }
}

/// The event's bytes, with an id that is a hash of all the rest: a copy has the same id, and nothing else has.
pub(super) fn with_event_id(mut event: Map<String, Value>) -> Vec<u8> {
    let rest = Value::Object(event.clone()).to_string();
    let digest = Sha256::digest(rest.as_bytes());
    insert(&mut event, "event_id", Some(json!(format!("i_{}", hex(digest.get(..12).unwrap_or_default())))));
    Value::Object(event).to_string().into_bytes()
}

/// The next id of a chain: what came before, who speaks, what they say.
fn link(before: &str, role: &Value, content: &Value) -> String {
    let mut hasher = Sha256::new();
    for part in [before, &role.to_string(), &content.to_string()] {
        hasher.update((part.len() as u64).to_le_bytes());
        hasher.update(part.as_bytes());
    }
    hex(hasher.finalize().get(..12).unwrap_or_default())
}
