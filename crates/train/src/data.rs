//! Labelled follow-ups, and which part of the data each belongs to.
//!
//! A file has a line per example, plain or gzip'd: `{"conversation_id", "source", "turn": index of the follow-up,
//! "messages": [{"role", "content"}, … up to the follow-up], "sat": [names], "dsat": [names]}`; more fields are passed
//! over. Names are those of [`Label`].

use std::fs::File;
use std::io::{BufRead, BufReader, Read};
use std::path::{Path, PathBuf};

use serde::Deserialize;
use sha2::{Digest, Sha256};
use uptake_model::labels::{DSAT, Kind, Label, OUTPUTS, SAT};
use uptake_tagger::Exchange;

use crate::error::{Error, Result};

/// One labelled follow-up.
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
    /// 1 for each output that holds, else 0.
    pub targets: [f32; OUTPUTS],
}

impl Example {
    /// The texts.
    #[must_use]
    pub fn exchange(&self) -> Exchange<'_> {
        Exchange { last_user: &self.last_user, response: &self.response, follow_up: &self.follow_up }
    }
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
        let broken = |source| Error::File { action: "read", path: path.clone(), source };
        for (index, line) in open(path).map_err(broken)?.lines().enumerate() {
            let line = line.map_err(broken)?;
            if line.trim().is_empty() {
                continue;
            }
            let example =
                parse(&line).map_err(|reason| Error::Data { path: path.clone(), line: index as u64 + 1, reason })?;
            examples.push(example);
        }
    }
    Ok(examples)
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
        Some(message) if message.role == role => Ok(message.content.clone()),
        Some(message) => Err(format!("message {index} is by `{}`, not by `{role}`", message.role)),
        None => Err(format!("there is no message {index}")),
    };
    let (response_text, follow_up) = (expect(response, "assistant")?, expect(row.turn, "user")?);
    let before = row.messages.get(..response).unwrap_or_default();
    let last_user = before.iter().rev().find(|message| message.role == "user");
    let last_user = last_user.map_or_else(String::new, |message| message.content.clone());
    let mut targets = [0.0; OUTPUTS];
    mark(&row.sat, Kind::Satisfaction, &mut targets)?;
    mark(&row.dsat, Kind::Dissatisfaction, &mut targets)?;
    Ok(Example {
        conversation_id: row.conversation_id,
        source: row.source,
        last_user,
        response: response_text,
        follow_up,
        targets,
    })
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
