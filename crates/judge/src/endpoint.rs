//! What completes chats: the trait, and what goes in and comes out.

use std::fmt;
use std::time::Duration;

use serde::Serialize;
use serde_json::Value;

/// Who speaks in a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    /// The instructions.
    System,
    /// What is to be judged.
    User,
    /// An earlier answer of the model.
    Assistant,
}

/// One message of a request.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Message {
    /// Who speaks.
    pub role: Role,
    /// What is said.
    pub content: String,
}

impl Message {
    /// A message.
    pub fn new(role: Role, content: impl Into<String>) -> Self {
        Self { role, content: content.into() }
    }
}

/// The shape that an answer must have.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Schema {
    /// Letters and underscores.
    pub name: &'static str,
    /// A JSON Schema, in the part of the language that servers enforce: all fields required, none besides.
    pub value: Value,
}

/// What a model is asked. Its serialised form is what the cache is keyed by, so it holds all that the answer depends on
/// except the model.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Request {
    /// The conversation to go on with.
    pub messages: Vec<Message>,
    /// The shape of the answer.
    pub schema: Schema,
    /// Longest answer in tokens.
    pub max_tokens: u32,
    /// Randomness of the answer; 0 for none.
    pub temperature: f64,
    /// Seed of that randomness, for servers that take one.
    pub seed: Option<u64>,
}

impl Request {
    /// Bytes of text in it.
    pub(crate) fn bytes(&self) -> u64 {
        let texts: usize = self.messages.iter().map(|message| message.content.len()).sum();
        (texts + self.schema.value.to_string().len()) as u64
    }
}

/// Tokens read and written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Usage {
    /// Tokens of the request.
    pub input: u64,
    /// Tokens of the answer.
    pub output: u64,
}

impl Usage {
    /// Both together.
    #[must_use]
    pub const fn total(self) -> u64 {
        self.input.saturating_add(self.output)
    }

    /// The sum of two.
    #[must_use]
    pub const fn plus(self, other: Self) -> Self {
        Self { input: self.input.saturating_add(other.input), output: self.output.saturating_add(other.output) }
    }

    /// What is left when another is taken off.
    #[must_use]
    pub const fn minus(self, other: Self) -> Self {
        Self { input: self.input.saturating_sub(other.input), output: self.output.saturating_sub(other.output) }
    }
}

/// Why an answer ends where it ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Finish {
    /// The model was done.
    Stop,
    /// The longest answer was reached.
    Length,
    /// The model or a filter of the server refused.
    Refusal,
}

/// An answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Completion {
    /// What the model wrote.
    pub text: String,
    /// Why it ends there.
    pub finish: Finish,
    /// What the server counted; none where it says nothing.
    pub usage: Option<Usage>,
}

/// Why a request may be repeated: a closed set, so that it can be counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Retry {
    /// No answer within the time.
    Timeout,
    /// No connection.
    Connection,
    /// 429: too many requests.
    RateLimited,
    /// 500 to 599, or 408, 409, 425.
    ServerError,
    /// The answer broke off.
    Truncated,
    /// The answer is no chat completion.
    Malformed,
}

impl Retry {
    /// The name it is counted under.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Timeout => "timeout",
            Self::Connection => "connection",
            Self::RateLimited => "rate_limited",
            Self::ServerError => "server_error",
            Self::Truncated => "truncated",
            Self::Malformed => "malformed",
        }
    }

    /// Whether the server may have done the work, and charge for it, although nothing of use came back.
    #[must_use]
    pub const fn may_be_billed(self) -> bool {
        matches!(self, Self::Timeout | Self::Truncated | Self::Malformed)
    }
}

impl fmt::Display for Retry {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(self.name())
    }
}

/// Why this request will never be answered although others are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unanswerable {
    /// Longer than the model's context or than the server takes.
    TooLong,
    /// Refused by the server as it stands.
    BadRequest,
    /// Refused by the server for what it says.
    Filtered,
}

/// Why there is no answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Failure {
    /// Ask again, not before `wait` where the server says so.
    Again {
        /// What happened.
        reason: Retry,
        /// How long the server wants to be left alone.
        wait: Option<Duration>,
    },
    /// This request will never do, others will.
    Never(Unanswerable),
    /// No request will do: the key, the model or the address is wrong. The sentence says which.
    Refused(String),
}

/// Whatever completes chats.
///
/// An implementation asks once: repeating, caching, budget and concurrency are the [`Judge`](crate::Judge)'s.
#[async_trait::async_trait]
pub trait Endpoint: fmt::Debug + Send + Sync {
    /// What answers are cached under and rows are signed with: the model's name; whoever loads weights himself adds what
    /// tells them from others of the same name.
    fn model(&self) -> &str;

    /// Asks once.
    ///
    /// # Errors
    /// A [`Failure`] that says whether asking again can help.
    async fn complete(&self, request: &Request) -> Result<Completion, Failure>;
}
