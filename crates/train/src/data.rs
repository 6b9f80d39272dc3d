//! Labelled follow-ups, and which part of the data each belongs to.
//!
//! A file has a line per example, plain or gzip'd: `{"conversation_id", "source", "turn": index of the follow-up,
//! "messages": [{"role", "content"}, … up to the follow-up], "sat": [names], "dsat": [names]}`; more fields are passed
//! over. Names are those of [`Label`]. Conversations that were judged some other way are read by [`read_weak`].

mod weak;

use std::fs::File;
use std::io::{BufRead, BufReader, Read};
use std::path::{Path, PathBuf};

use serde::Deserialize;
use sha2::{Digest, Sha256};
use uptake_model::labels::{DSAT, Kind, Label, OUTPUTS, SAT};
use uptake_tagger::{Exchange, Role};

use crate::error::{Error, Result};

pub use weak::{Weak, WeakConversation, bind, read_weak};

/// One follow-up with what is known of it.
#[derive(Clone, Debug, PartialEq)]
pub struct Example {
    /// Examples of one conversation stay together in the split.
    pub conversation_id: String,
    /// Where it comes from; figures are given by source.
    pub source: String,
    /// The last user message before the response; empty where there is none.
    pub last_user: String,
    /// The response that the labels are about.
    pub response: String,
    /// The follow-up turn.
    pub follow_up: String,
    /// User messages before the last one, the newest first.
    pub earlier_users: Vec<String>,
    /// Responses before the response, the newest first.
    pub earlier_responses: Vec<String>,
    /// How far each output holds, 0 to 1.
    pub targets: [f32; OUTPUTS],
    /// How much each output counts in training; 0 where nothing is known of it.
    pub weights: [f32; OUTPUTS],
    /// For which outputs it can be said whether they hold (from 0.5 on), so that they are measured on it.
    pub known: [bool; OUTPUTS],
    /// Hash of the conversation up to the follow-up: tells that two files hold the same conversation under other names.
    pub place: Place,
}

impl Example {
    /// The texts.
    #[must_use]
    pub fn exchange(&self) -> Exchange<'_> {
        Exchange {
            earlier_users: self.earlier_users.iter().map(String::as_str).collect(),
            earlier_responses: self.earlier_responses.iter().map(String::as_str).collect(),
            ..Exchange::alone(&self.last_user, &self.response, &self.follow_up)
        }
    }

    /// The follow-up at `turn` of a conversation, with nothing known of it yet.
    fn at(conversation_id: &str, source: &str, messages: &[Message], turn: usize) -> Option<Self> {
        let said: Vec<uptake_tagger::Message<'_>> = messages
            .iter()
            .map(|message| uptake_tagger::Message { role: Role::of(&message.role), text: &message.content })
            .collect();
        let exchange = Exchange::at(&said, turn)?;
        let own = |texts: &[&str]| texts.iter().map(|text| (*text).to_owned()).collect();
        Some(Self {
            conversation_id: conversation_id.to_owned(),
            source: source.to_owned(),
            last_user: exchange.last_user.to_owned(),
            response: exchange.response.to_owned(),
            follow_up: exchange.follow_up.to_owned(),
            earlier_users: own(&exchange.earlier_users),
            earlier_responses: own(&exchange.earlier_responses),
            targets: [0.0; OUTPUTS],
            weights: [0.0; OUTPUTS],
            known: [false; OUTPUTS],
            place: places(messages).nth(turn).unwrap_or_default(),
        })
    }
}

/// See [`Example::place`].
pub type Place = [u8; 16];

/// The place of each message of a conversation.
fn places(messages: &[Message]) -> impl Iterator<Item = Place> {
    messages.iter().scan(Sha256::new(), |hash, message| {
        for text in [&message.role, &message.content] {
            hash.update((text.len() as u64).to_le_bytes());
            hash.update(text);
        }
        let mut place = Place::default();
        for (into, byte) in place.iter_mut().zip(hash.clone().finalize()) {
            *into = byte;
        }
        Some(place)
    })
}

#[derive(Deserialize)]
struct Row {
    conversation_id: String,
    source: String,
    turn: usize,
    messages: Vec<Message>,
    sat: Vec<String>,
    dsat: Vec<String>,
}

#[derive(Deserialize)]
struct Message {
    role: String,
    content: String,
}

/// Reads the examples of several files, in order.
///
/// # Errors
/// [`Error::File`] where one cannot be read, [`Error::Data`] at the first line that is no example.
pub fn read(paths: &[PathBuf]) -> Result<Vec<Example>> {
    let mut examples = Vec::new();
    for path in paths {
        each_line(path, &mut |line| {
            examples.push(parse(line)?);
            Ok(())
        })?;
    }
    Ok(examples)
}

/// Calls `take` with each line of a file that is not empty; what it refuses is told with its place.
fn each_line(path: &Path, take: &mut dyn FnMut(&str) -> Result<(), String>) -> Result<()> {
    let broken = |source| Error::File { action: "read", path: path.to_owned(), source };
    for (index, line) in open(path).map_err(broken)?.lines().enumerate() {
        let line = line.map_err(broken)?;
        if line.trim().is_empty() {
            continue;
        }
        take(&line).map_err(|reason| Error::Data { path: path.to_owned(), line: index as u64 + 1, reason })?;
    }
    Ok(())
}

fn open(path: &Path) -> std::io::Result<Box<dyn BufRead>> {
    let mut file = BufReader::new(File::open(path)?);
    let zipped = file.fill_buf()?.starts_with(&[0x1f, 0x8b]);
    let reader: Box<dyn Read> =
        if zipped { Box::new(flate2::bufread::MultiGzDecoder::new(file)) } else { Box::new(file) };
    Ok(Box::new(BufReader::new(reader)))
}

fn parse(line: &str) -> Result<Example, String> {
    let row: Row = serde_json::from_str(line).map_err(|error| error.to_string())?;
    let Some(response) = row.turn.checked_sub(1) else {
        return Err("turn is 0, a follow-up has a response before it".to_owned());
    };
    let expect = |index: usize, role: &str| match row.messages.get(index) {
        Some(message) if message.role == role => Ok(()),
        Some(message) => Err(format!("message {index} is by `{}`, not by `{role}`", message.role)),
        None => Err(format!("there is no message {index}")),
    };
    expect(response, "assistant")?;
    expect(row.turn, "user")?;
    let found = Example::at(&row.conversation_id, &row.source, &row.messages, row.turn);
    let mut example = found.ok_or_else(|| format!("message {} is no follow-up", row.turn))?;
    mark(&row.sat, Kind::Satisfaction, &mut example.targets)?;
    mark(&row.dsat, Kind::Dissatisfaction, &mut example.targets)?;
    (example.weights, example.known) = ([1.0; OUTPUTS], [true; OUTPUTS]);
    Ok(example)
}

fn mark(names: &[String], kind: Kind, targets: &mut [f32; OUTPUTS]) -> Result<(), String> {
    for name in names {
        let label: Label = name.parse().map_err(|error| format!("{error}"))?;
        if label.kind() != kind {
            return Err(format!("`{name}` stands on the wrong side, sat and dsat are separate lists"));
        }
        targets[label.output()] = 1.0;
        targets[if kind == Kind::Satisfaction { SAT } else { DSAT }] = 1.0;
    }
    Ok(())
}

/// A part of the data.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part {
    /// Weights are fitted on it.
    Training,
    /// Early stopping, calibration and thresholds are decided on it.
    Validation,
    /// Only measured on, once.
    Test,
}

/// Splits by conversation: a seeded hash of its id decides, so that more data never moves an old conversation.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Split {
    /// Another seed, another split.
    pub seed: u64,
    /// Fraction of conversations for validation.
    pub validation: f64,
    /// Fraction of conversations for the test.
    pub test: f64,
}

impl Split {
    /// The part that a conversation belongs to.
    #[must_use]
    pub fn part(&self, conversation_id: &str) -> Part {
        let mut hash = Sha256::new();
        hash.update(self.seed.to_le_bytes());
        hash.update(conversation_id.as_bytes());
        let digest = hash.finalize();
        let number = digest.iter().take(7).fold(0_u64, |number, byte| number << 8 | u64::from(*byte));
        let place = number as f64 / (1_u64 << 56) as f64;
        if place < self.test {
            Part::Test
        } else if place < self.test + self.validation {
            Part::Validation
        } else {
            Part::Training
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    const LINE: &str = r#"{"conversation_id":"c","source":"s","turn":2,"sampled":"random","messages":[{"role":"user","content":"hi"},
        {"role":"assistant","content":"hello"},{"role":"user","content":"thanks"}],"sat":["gratitude"],"dsat":[]}"#;

    #[test]
    fn an_example_is_read() {
        let example = parse(LINE).unwrap();
        assert_eq!(
            (example.last_user.as_str(), example.response.as_str(), example.follow_up.as_str()),
            ("hi", "hello", "thanks")
        );
        let on: Vec<usize> = (0..OUTPUTS).filter(|output| example.targets[*output] > 0.5).collect();
        assert_eq!(on, [Label::Gratitude.output(), SAT]);
    }

    #[test]
    fn a_response_may_come_first() {
        let line = LINE.replace(r#"{"role":"user","content":"hi"},"#, "").replace(r#""turn":2"#, r#""turn":1"#);
        assert_eq!(parse(&line).unwrap().last_user, "");
    }

    #[test]
    fn earlier_messages_come_along_and_tell_the_place() {
        let line = LINE
            .replace(
                r#""messages":["#,
                r#""messages":[{"role":"user","content":"hey"},{"role":"assistant","content":"yes?"},"#,
            )
            .replace(r#""turn":2"#, r#""turn":4"#);
        let example = parse(&line).unwrap();
        assert_eq!(
            (example.earlier_users, example.earlier_responses),
            (vec!["hey".to_owned()], vec!["yes?".to_owned()])
        );
        assert_ne!(example.place, parse(LINE).unwrap().place);
        assert_eq!(parse(LINE).unwrap().place, parse(&LINE.replace("\"c\"", "\"d\"")).unwrap().place);
    }

    #[test]
    fn what_is_no_example_is_refused_with_its_reason() {
        for (from, to, reason) in [
            (r#""turn":2"#, r#""turn":0"#, "turn is 0"),
            (r#""turn":2"#, r#""turn":1"#, "message 0 is by `user`, not by `assistant`"),
            (r#""turn":2"#, r#""turn":9"#, "there is no message 8"),
            ("gratitude", "thankfulness", "unknown label `thankfulness`"),
            ("gratitude", "revision", "`revision` stands on the wrong side"),
            (r#""source":"s","#, "", "missing field `source`"),
        ] {
            let error = parse(&LINE.replace(from, to)).unwrap_err();
            assert!(error.contains(reason), "{error}");
        }
    }

    #[test]
    fn files_are_read_plain_and_zipped_and_errors_name_the_line() {
        let directory = tempfile::tempdir().unwrap();
        let line = LINE.replace('\n', " ");
        let plain = directory.path().join("plain.jsonl");
        std::fs::write(&plain, format!("{line}\n\n{line}\n")).unwrap();
        let zipped = directory.path().join("zipped.jsonl.gz");
        let mut encoder = flate2::write::GzEncoder::new(File::create(&zipped).unwrap(), flate2::Compression::fast());
        writeln!(encoder, "{line}").unwrap();
        let _ = encoder.finish().unwrap();
        assert_eq!(read(&[plain.clone(), zipped]).unwrap().len(), 3);
        std::fs::write(&plain, format!("{line}\n{{}}\n")).unwrap();
        let error = read(&[plain]).unwrap_err().to_string();
        assert!(error.contains("line 2: missing field"), "{error}");
        assert!(read(&[directory.path().join("none.jsonl")]).is_err());
    }

    #[test]
    fn the_written_rows_of_this_repository_are_examples() {
        let examples = read(&[concat!(env!("CARGO_MANIFEST_DIR"), "/data/written.jsonl.gz").into()]).unwrap();
        assert_eq!(examples.len(), 3452);
        assert!(examples.iter().all(|example| example.source == "authored" && !example.follow_up.trim().is_empty()));
        let holds = |output: usize| examples.iter().filter(|example| example.targets[output] > 0.5).count();
        assert!((0..OUTPUTS).all(|output| holds(output) >= 70));
        let plain = examples.iter().filter(|example| example.targets.iter().all(|target| *target < 0.5)).count();
        assert!(plain * 3 > examples.len(), "{plain}");
    }

    #[test]
    fn the_split_has_its_proportions_and_never_moves() {
        let split = Split { seed: 7, validation: 0.2, test: 0.1 };
        let mut counts = [0; 3];
        for conversation in 0..10_000 {
            let id = conversation.to_string();
            let part = split.part(&id);
            assert_eq!(part, split.part(&id));
            counts[part as usize] += 1;
        }
        assert!((6800..7200).contains(&counts[0]), "{counts:?}");
        assert!((1850..2150).contains(&counts[1]), "{counts:?}");
        let other = Split { seed: 8, ..split };
        assert!((0..100).any(|id| other.part(&id.to_string()) != split.part(&id.to_string())));
    }
}
