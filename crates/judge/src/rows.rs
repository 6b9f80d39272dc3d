//! What is annotated: follow-ups in files of conversations.
//!
//! A line is a conversation `{"conversation_id", "messages": [{"role", "content"}, …]}`: then each user turn that directly
//! follows an assistant turn is a follow-up; or one with `"turn"`, the index of the only follow-up that is meant, as in the
//! labelled files. Files are plain, gzip'd or zstd.

use std::fmt;
use std::sync::Arc;

use serde::{Deserialize, Serialize, Serializer};
use serde_json::Value;
use sha2::{Digest as _, Sha256};
use uptake_model::subject::hex;
use uptake_model::text::{Window, normalise};

/// Characters shown of a follow-up: nearly all are shorter, and a pasted document says little more at its middle.
const FOLLOW_UP: Window = Window::Ends { first: 3_000, last: 1_500 };
/// Characters shown of the response.
const RESPONSE: Window = Window::Ends { first: 1_500, last: 1_500 };
/// Characters shown of the message before the response.
const PROMPT: Window = Window::Ends { first: 1_500, last: 500 };
/// Characters shown of each message before that.
const EARLIER: Window = Window::Ends { first: 300, last: 150 };
/// How many of those are shown.
const EARLIER_MESSAGES: usize = 6;

/// The name of a follow-up: a hash of the conversation's id, all texts up to it, and its place. The same follow-up has the
/// same key wherever it stands, and conversations that share an id but not their texts do not get mixed up.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Key([u8; 16]);

impl Key {
    /// Reads what [`fmt::Display`] wrote.
    pub(crate) fn parse(text: &str) -> Option<Self> {
        if text.len() != 32 || !text.is_ascii() {
            return None;
        }
        let mut bytes = [0; 16];
        for (byte, digits) in bytes.iter_mut().zip(text.as_bytes().chunks_exact(2)) {
            *byte = u8::from_str_radix(std::str::from_utf8(digits).ok()?, 16).ok()?;
        }
        Some(Self(bytes))
    }
}

impl fmt::Display for Key {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&hex(&self.0))
    }
}

impl fmt::Debug for Key {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "Key({self})")
    }
}

impl Serialize for Key {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

/// The labels of a row, as they stand there.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
pub(crate) struct Names {
    pub(crate) sat: Vec<String>,
    pub(crate) dsat: Vec<String>,
}

#[derive(Deserialize)]
struct Line {
    conversation_id: String,
    source: Option<String>,
    turn: Option<usize>,
    messages: Vec<RawMessage>,
    sat: Option<Vec<String>>,
    dsat: Option<Vec<String>>,
    second: Option<Names>,
    #[serde(default)]
    reactions: Value,
    #[serde(default)]
    labels: Value,
}

#[derive(Deserialize)]
struct RawMessage {
    role: String,
    #[serde(default)]
    content: Content,
}

/// A text, nothing, or parts of which some are text: the three forms of an `OpenAI` message.
#[derive(Default, Deserialize)]
#[serde(from = "ContentForm")]
struct Content(String);

#[derive(Deserialize)]
#[serde(untagged, expecting = "content must be a string, null or a list of parts")]
enum ContentForm {
    Text(String),
    Parts(Vec<Part>),
    Nothing,
}

#[derive(Deserialize)]
struct Part {
    #[serde(default)]
    text: Option<String>,
}

impl From<ContentForm> for Content {
    fn from(form: ContentForm) -> Self {
        Self(match form {
            ContentForm::Text(text) => text,
            ContentForm::Parts(parts) => parts.into_iter().filter_map(|part| part.text).collect::<Vec<_>>().join("\n"),
            ContentForm::Nothing => String::new(),
        })
    }
}

/// One message.
#[derive(Debug, PartialEq, Eq, Serialize)]
pub(crate) struct Said {
    pub(crate) role: String,
    pub(crate) content: String,
}

/// One line.
#[derive(Debug)]
pub(crate) struct Conversation {
    pub(crate) id: String,
    pub(crate) source: String,
    pub(crate) messages: Vec<Said>,
    /// Labels of the row, where it has any.
    pub(crate) first: Option<Names>,
    /// Labels by a second reader.
    pub(crate) second: Option<Names>,
    pub(crate) reactions: Value,
    pub(crate) outcomes: Value,
    /// The only follow-up that is meant.
    only: Option<usize>,
    /// The hash of everything up to each message.
    chain: Vec<[u8; 32]>,
}

/// One follow-up.
#[derive(Clone, Debug)]
pub(crate) struct Turn {
    pub(crate) conversation: Arc<Conversation>,
    /// Index of the follow-up.
    pub(crate) index: usize,
    pub(crate) key: Key,
}

impl Conversation {
    pub(crate) fn parse(line: &[u8], source: &str) -> Result<Self, String> {
        let line: Line = serde_json::from_slice(line).map_err(|error| {
            format!(
                "{error}; a line must be {{\"conversation_id\": …, \"messages\": [{{\"role\": …, \"content\": …}}, …]}}"
            )
        })?;
        let mut state = [0; 32];
        let mut chain = Vec::with_capacity(line.messages.len());
        let mut messages = Vec::with_capacity(line.messages.len());
        for (index, RawMessage { role, content }) in line.messages.into_iter().enumerate() {
            if !matches!(role.as_str(), "user" | "assistant" | "system" | "developer" | "tool" | "function") {
                return Err(format!("message {index} is by `{role}`, which is no role"));
            }
            state = linked(&state, &line.conversation_id, &role, &content.0);
            chain.push(state);
            messages.push(Said { role, content: content.0 });
        }
        if let Some(turn) = line.turn {
            let by = |index: usize| messages.get(index).map(|message: &Said| message.role.as_str());
            if by(turn) != Some("user") || turn.checked_sub(1).and_then(by) != Some("assistant") {
                return Err(format!("turn {turn} is no user message that directly follows one of the assistant"));
            }
        }
        let first = match (line.sat, line.dsat) {
            (None, None) => None,
            (sat, dsat) => Some(Names { sat: sat.unwrap_or_default(), dsat: dsat.unwrap_or_default() }),
        };
        let source = line.source.unwrap_or_else(|| source.to_owned());
        let (reactions, outcomes) = (line.reactions, line.labels);
        let (id, second, only) = (line.conversation_id, line.second, line.turn);
        Ok(Self { id, source, messages, first, second, reactions, outcomes, only, chain })
    }

    /// Its follow-ups.
    pub(crate) fn turns(self) -> Vec<Turn> {
        let conversation = Arc::new(self);
        let turns: Vec<usize> = match conversation.only {
            Some(turn) => vec![turn],
            None => (1..conversation.messages.len()).filter(|turn| conversation.is_follow_up(*turn)).collect(),
        };
        turns
            .into_iter()
            .filter_map(|turn| {
                Some(Turn { key: conversation.key(turn)?, conversation: Arc::clone(&conversation), index: turn })
            })
            .collect()
    }

    fn is_follow_up(&self, turn: usize) -> bool {
        let by = |index: usize, role: &str| self.messages.get(index).is_some_and(|message| message.role == role);
        by(turn, "user") && turn.checked_sub(1).is_some_and(|before| by(before, "assistant"))
    }

    fn key(&self, turn: usize) -> Option<Key> {
        let (bytes, _) = self.chain.get(turn)?.split_first_chunk()?;
        Some(Key(*bytes))
    }
}

/// One link of the chain of hashes. Texts count as normalised, so that a copy that lost its line breaks is the same.
fn linked(before: &[u8; 32], conversation: &str, role: &str, content: &str) -> [u8; 32] {
    let mut hash = Sha256::new();
    hash.update(before);
    for text in [conversation, role, &whole(content)] {
        hash.update((text.len() as u64).to_le_bytes());
        hash.update(text.as_bytes());
    }
    hash.finalize().into()
}

/// A text, normalised and not cut.
pub(crate) fn whole(text: &str) -> String {
    normalise(text, Window::Start(usize::MAX))
}

impl Turn {
    fn message(&self, index: usize) -> &str {
        self.conversation.messages.get(index).map_or("", |message| &message.content)
    }

    /// The user's own words.
    pub(crate) fn follow_up(&self) -> &str {
        self.message(self.index)
    }

    /// What they are about.
    pub(crate) fn response(&self) -> &str {
        self.message(self.index.saturating_sub(1))
    }

    /// Whether there is anything to read: both the response and the follow-up have text.
    pub(crate) fn has_text(&self) -> bool {
        !normalise(self.follow_up(), FOLLOW_UP).is_empty() && !normalise(self.response(), RESPONSE).is_empty()
    }

    /// The messages up to the follow-up.
    pub(crate) fn messages(&self) -> &[Said] {
        self.conversation.messages.get(..=self.index).unwrap_or_default()
    }

    /// The exchange as a model is shown it: JSON, whose escapes keep what users write apart from what we say.
    pub(crate) fn shown(&self) -> Shown {
        let response = self.index.saturating_sub(1);
        let before = self.conversation.messages.get(..response).unwrap_or_default();
        let prompt = before.iter().rposition(|message| message.role == "user");
        let earlier = before.get(..prompt.unwrap_or(0)).unwrap_or_default();
        let mut earlier: Vec<Said> = earlier
            .iter()
            .rev()
            .filter(|message| matches!(message.role.as_str(), "user" | "assistant"))
            .take(EARLIER_MESSAGES)
            .map(|message| Said { role: message.role.clone(), content: normalise(&message.content, EARLIER) })
            .collect();
        earlier.reverse();
        Shown {
            earlier,
            prompt: prompt.map_or_else(String::new, |index| normalise(self.message(index), PROMPT)),
            response: normalise(self.response(), RESPONSE),
            follow_up: normalise(self.follow_up(), FOLLOW_UP),
        }
    }
}

/// An exchange as a model is shown it, normalised and cut.
#[derive(Debug, Serialize)]
pub(crate) struct Shown {
    pub(crate) earlier: Vec<Said>,
    pub(crate) prompt: String,
    pub(crate) response: String,
    pub(crate) follow_up: String,
}

impl fmt::Display for Shown {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&serde_json::to_string(self).map_err(|_| fmt::Error)?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn turns(line: &str) -> Vec<Turn> {
        Conversation::parse(line.as_bytes(), "file").unwrap().turns()
    }

    const LONG: &str = r#"{"conversation_id":"c","messages":[{"role":"system","content":"s"},{"role":"user","content":"a"},
        {"role":"assistant","content":"b"},{"role":"user","content":"c"},{"role":"user","content":"d"},
        {"role":"assistant","content":[{"type":"text","text":"e"},{"type":"image"}]},{"role":"tool","content":null},
        {"role":"assistant","content":"f"},{"role":"user","content":"thanks\n  a lot"}]}"#;

    #[test]
    fn every_follow_up_of_a_conversation_is_found() {
        let found = turns(LONG);
        assert_eq!(found.iter().map(|turn| turn.index).collect::<Vec<_>>(), [3, 8]);
        let last = &found[1];
        assert_eq!(
            (last.response(), last.follow_up(), last.conversation.source.as_str()),
            ("f", "thanks\n  a lot", "file")
        );
        let shown = last.shown();
        assert_eq!((shown.prompt.as_str(), shown.follow_up.as_str()), ("d", "thanks a lot"));
        let earlier: Vec<&str> = shown.earlier.iter().map(|message| message.content.as_str()).collect();
        assert_eq!(earlier, ["a", "b", "c"]);
        assert!(shown.to_string().starts_with(r#"{"earlier":[{"role":"user","content":"a"}"#), "{shown}");
        assert_eq!(last.messages().len(), 9);
    }

    #[test]
    fn a_turn_that_is_named_is_the_only_one() {
        let only = LONG.replacen('{', r#"{"turn":3,"sat":["praise"],"#, 1);
        let found = turns(&only);
        assert_eq!(found.len(), 1);
        assert_eq!(found[0].key, turns(LONG)[0].key, "the same follow-up wherever it stands");
        assert_eq!(found[0].conversation.first.as_ref().unwrap().sat, ["praise"]);
        for turn in [0, 2, 4, 99] {
            let wrong = LONG.replacen('{', &format!(r#"{{"turn":{turn},"#), 1);
            let reason = Conversation::parse(wrong.as_bytes(), "").unwrap_err();
            assert!(reason.contains(&format!("turn {turn} is no user message")), "{reason}");
        }
    }

    #[test]
    fn keys_tell_follow_ups_apart_and_survive_being_written() {
        let key = |line: &str| turns(line)[0].key;
        let base = key(LONG);
        assert_eq!(Key::parse(&base.to_string()), Some(base));
        assert_eq!(key(&LONG.replace("\"a\"", "\" a \\n\"")), base, "white space is no difference");
        for (from, to) in [(r#"d":"c"#, r#"d":"x"#), ("\"a\"", "\"A\""), (r#"content":"c"#, r#"content":"c!"#)] {
            assert_ne!(key(&LONG.replace(from, to)), base, "{from}");
        }
        assert_eq!(key(&LONG.replace("thanks", "no thanks")), base, "what comes later does not count");
        for text in ["", "xyz", "é234567890123456789012345678901", &"g".repeat(32)] {
            assert_eq!(Key::parse(text), None, "{text}");
        }
    }
}
