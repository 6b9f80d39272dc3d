//! A stream of conversations in, a line for each follow-up out.
//!
//! In: lines `{"conversation_id", "messages": [{"role", "content"}, …]}`, more fields are passed over. Out, in the order
//! of the input: a line for each user turn that directly follows an assistant turn,
//! `{"conversation_id", "turn", "sat", "dsat", "labels": {name: probability}, "tagger"}`, where `turn` is the index of
//! that user message. Memory is bounded by a window of conversations, whatever the length of the stream.

use std::io::{BufRead, ErrorKind as IoErrorKind, Read, Write};

use serde::ser::SerializeMap;
use serde::{Deserialize, Serialize, Serializer};
use uptake_model::labels::Label;

use crate::error::{Error, Result};
use crate::exchange::{self, Exchange};
use crate::explain::{Explanation, Reach};
use crate::scores::Scores;
use crate::tagger::Tagger;

/// Follow-ups that are scored together.
const WINDOW: usize = 2048;
/// Follow-ups that are explained together: each takes as many forward passes as a hundred are scored by.
const EXPLAINED_WINDOW: usize = 16;
/// Bytes of input that are scored together.
const WINDOW_BYTES: usize = 16 << 20;
/// Longest line in bytes.
const LONGEST_LINE: u64 = 64 << 20;

/// What to do about a line that is no conversation.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum BadLines {
    /// Stop with [`Error::Line`]; lines before it are written.
    #[default]
    Stop,
    /// Count it, tell the caller, go on.
    Skip,
}

/// How far a stream has come, or what became of it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Progress {
    /// Lines read, empty ones too.
    pub lines: u64,
    /// Bytes read.
    pub bytes: u64,
    /// Conversations among them.
    pub conversations: u64,
    /// Follow-ups scored and written.
    pub follow_ups: u64,
    /// Lines skipped.
    pub skipped: u64,
}

/// What the caller is told while a stream is tagged.
#[derive(Debug)]
pub enum Event<'a> {
    /// A window is done.
    Progress(Progress),
    /// A line was skipped; never seen under [`BadLines::Stop`].
    Skipped(&'a Error),
}

#[derive(Debug, Deserialize)]
struct Conversation {
    conversation_id: String,
    messages: Vec<Message>,
}

#[derive(Debug, Deserialize)]
struct Message {
    role: Role,
    #[serde(default)]
    content: Content,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Role {
    User,
    Assistant,
    System,
    Developer,
    Tool,
    Function,
}

impl Role {
    const fn speaker(self) -> exchange::Role {
        match self {
            Self::User => exchange::Role::User,
            Self::Assistant => exchange::Role::Assistant,
            Self::System | Self::Developer | Self::Tool | Self::Function => exchange::Role::Other,
        }
    }
}

/// A text, nothing, or parts of which some are text: the three forms of an `OpenAI` message.
#[derive(Debug, Default, Deserialize)]
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
        match form {
            ContentForm::Text(text) => Self(text),
            ContentForm::Parts(parts) => {
                Self(parts.into_iter().filter_map(|part| part.text).collect::<Vec<_>>().join("\n"))
            }
            ContentForm::Nothing => Self::default(),
        }
    }
}

impl Conversation {
    /// The messages as the tagger reads them.
    fn said(&self) -> Vec<exchange::Message<'_>> {
        self.messages
            .iter()
            .map(|message| exchange::Message { role: message.role.speaker(), text: &message.content.0 })
            .collect()
    }

    /// How many follow-ups it has: user turns that directly follow an assistant turn.
    fn follow_ups(&self) -> usize {
        let follows = |pair: &[Message]| pair[0].role == Role::Assistant && pair[1].role == Role::User;
        self.messages.windows(2).filter(|pair| follows(pair)).count()
    }

    /// Follow-ups with their indexes.
    fn exchanges(&self) -> Vec<(usize, Exchange<'_>)> {
        let said = self.said();
        (0..said.len()).filter_map(|index| Some((index, Exchange::at(&said, index)?))).collect()
    }
}

#[derive(Serialize)]
struct Line<'a> {
    conversation_id: &'a str,
    turn: usize,
    sat: f32,
    dsat: f32,
    #[serde(serialize_with = "by_name")]
    labels: &'a Scores,
    tagger: &'a str,
}

fn by_name<S: Serializer>(scores: &Scores, serializer: S) -> std::result::Result<S::Ok, S::Error> {
    let mut map = serializer.serialize_map(Some(Label::ALL.len()))?;
    for label in Label::ALL {
        map.serialize_entry(label.name(), &scores.label(label))?;
    }
    map.end()
}

/// Tags a stream of conversations.
///
/// # Errors
/// [`Error::Line`] at the first line that is no conversation (under [`BadLines::Stop`]), [`Error::Stream`] where reading
/// or writing breaks off.
pub fn tag_lines(
    tagger: &Tagger,
    input: impl BufRead,
    mut output: impl Write,
    bad_lines: BadLines,
    tell: impl FnMut(Event<'_>),
) -> Result<Progress> {
    let done = windows(input, bad_lines, WINDOW, tell, |some| write_window(tagger, some, &mut output))?;
    output.flush().map_err(|source| Error::Stream { action: "write", source })?;
    Ok(done)
}

/// One follow-up of a stream, and what moved its labels.
#[derive(Debug)]
pub struct Explained<'a> {
    /// The conversation.
    pub conversation_id: &'a str,
    /// Index of the follow-up among its messages; the response stands directly before it.
    pub turn: usize,
    /// Index of the last user message before the response, where there is one.
    pub last_user_turn: Option<usize>,
    /// The texts.
    pub exchange: &'a Exchange<'a>,
    /// What moved the labels.
    pub explanation: &'a Explanation,
}

/// Explains the follow-ups of a stream of conversations, in their order.
///
/// # Errors
/// As [`tag_lines`]; what `take` answers is an error of writing.
pub fn explain_lines(
    tagger: &Tagger,
    input: impl BufRead,
    reach: &Reach,
    bad_lines: BadLines,
    tell: impl FnMut(Event<'_>),
    mut take: impl FnMut(&Explained<'_>) -> std::io::Result<()>,
) -> Result<Progress> {
    windows(input, bad_lines, EXPLAINED_WINDOW, tell, |conversations| {
        let mut follow_ups = 0;
        for conversation in conversations {
            let said = conversation.said();
            for some in conversation.exchanges().chunks(EXPLAINED_WINDOW) {
                let exchanges: Vec<Exchange<'_>> = some.iter().map(|(_, exchange)| exchange.clone()).collect();
                let explanations = tagger.explain(&exchanges, reach)?;
                for ((turn, exchange), explanation) in some.iter().zip(&explanations) {
                    // The very message, not one that says the same.
                    let same = |message: &exchange::Message<'_>| std::ptr::eq(message.text, exchange.last_user);
                    let last_user_turn =
                        said[..*turn].iter().rposition(same).filter(|_| !exchange.last_user.is_empty());
                    let conversation_id = conversation.conversation_id.as_str();
                    take(&Explained { conversation_id, turn: *turn, last_user_turn, exchange, explanation })
                        .map_err(|source| Error::Stream { action: "write", source })?;
                }
                follow_ups += some.len() as u64;
            }
        }
        Ok(follow_ups)
    })
}

/// Reads conversations in windows of about `follow_ups`, hands each window to `work`, which says how many there were.
fn windows(
    mut input: impl BufRead,
    bad_lines: BadLines,
    follow_ups: usize,
    mut tell: impl FnMut(Event<'_>),
    mut work: impl FnMut(&[Conversation]) -> Result<u64>,
) -> Result<Progress> {
    let mut done = Progress::default();
    loop {
        let window = read_window(&mut input, bad_lines, follow_ups, &mut done, &mut tell);
        // What was read before a bad line is written before the error is told.
        done.follow_ups += work(&window.conversations)?;
        if let Some(error) = window.error {
            return Err(error);
        }
        tell(Event::Progress(done));
        if window.last {
            return Ok(done);
        }
    }
}

#[derive(Default)]
struct Window {
    conversations: Vec<Conversation>,
    last: bool,
    error: Option<Error>,
}

fn read_window(
    input: &mut impl BufRead,
    bad_lines: BadLines,
    most: usize,
    done: &mut Progress,
    tell: &mut impl FnMut(Event<'_>),
) -> Window {
    let mut window = Window::default();
    let (mut follow_ups, until) = (0, done.bytes + WINDOW_BYTES as u64);
    let mut line = Vec::new();
    while follow_ups < most && done.bytes < until {
        line.clear();
        match input.by_ref().take(LONGEST_LINE + 1).read_until(b'\n', &mut line) {
            Ok(0) => {
                window.last = true;
                break;
            }
            Ok(bytes) => {
                done.lines += 1;
                done.bytes += bytes as u64;
            }
            // Compressed input that breaks off or is none comes as one of these.
            Err(source) => {
                let reason = matches!(
                    source.kind(),
                    IoErrorKind::InvalidData | IoErrorKind::InvalidInput | IoErrorKind::UnexpectedEof
                );
                window.error = Some(if reason {
                    Error::Line { line: done.lines + 1, reason: format!("the file is broken: {source}") }
                } else {
                    Error::Stream { action: "read", source }
                });
                break;
            }
        }
        match parse_line(&line, done.lines) {
            Ok(Some(conversation)) => {
                done.conversations += 1;
                follow_ups += conversation.follow_ups();
                window.conversations.push(conversation);
            }
            Ok(None) => {}
            Err(error) if bad_lines == BadLines::Skip && line.len() as u64 <= LONGEST_LINE => {
                done.skipped += 1;
                tell(Event::Skipped(&error));
            }
            Err(error) => {
                window.error = Some(error);
                break;
            }
        }
    }
    window
}

/// A conversation, or nothing where the line is empty.
fn parse_line(line: &[u8], number: u64) -> Result<Option<Conversation>> {
    let bad = |reason: String| Error::Line { line: number, reason };
    if line.len() as u64 > LONGEST_LINE {
        return Err(bad(format!("it is longer than {} MiB, which no conversation is", LONGEST_LINE >> 20)));
    }
    if line.trim_ascii().is_empty() {
        return Ok(None);
    }
    if line.starts_with(&[0x1f, 0x8b]) || line.starts_with(&[0x28, 0xb5, 0x2f, 0xfd]) || line.starts_with(b"PAR1") {
        return Err(bad("this is no JSON but a compressed or Parquet file".to_owned()));
    }
    match serde_json::from_slice(line) {
        Ok(conversation) => Ok(Some(conversation)),
        Err(error) => Err(bad(format!(
            "{error}; a line must be {{\"conversation_id\": …, \"messages\": [{{\"role\": …, \"content\": …}}, …]}}"
        ))),
    }
}

fn write_window(tagger: &Tagger, conversations: &[Conversation], output: &mut impl Write) -> Result<u64> {
    let mut places = Vec::new();
    let mut exchanges = Vec::new();
    for conversation in conversations {
        for (turn, exchange) in conversation.exchanges() {
            places.push((conversation.conversation_id.as_str(), turn));
            exchanges.push(exchange);
        }
    }
    let scores = tagger.tag(&exchanges)?;
    let failed = |source: std::io::Error| Error::Stream { action: "write", source };
    for ((conversation_id, turn), scores) in places.into_iter().zip(&scores) {
        let line = Line {
            conversation_id,
            turn,
            sat: scores.sat(),
            dsat: scores.dsat(),
            labels: scores,
            tagger: tagger.version(),
        };
        serde_json::to_writer(&mut *output, &line).map_err(|error| failed(error.into()))?;
        output.write_all(b"\n").map_err(failed)?;
    }
    Ok(scores.len() as u64)
}

#[cfg(test)]
#[path = "lines_tests.rs"]
mod tests;
