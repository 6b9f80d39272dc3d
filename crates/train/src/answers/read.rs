//! Answers as `uptake generate` writes them, one JSON object a line.

use std::collections::BTreeSet;
use std::io::BufRead;
use std::path::Path;

use serde::Deserialize;
use serde_json::Value;

use crate::error::{Error, Result};
use crate::rows::Message;

/// One answer to one prompt.
#[derive(Debug, Clone, PartialEq)]
pub struct Answer {
    /// Which prompt, as its file calls it.
    pub id: String,
    /// Which of several answers to it, from 0.
    pub sample: u64,
    /// The conversation up to the answer.
    pub prompt: Vec<Message>,
    /// The answer.
    pub response: String,
    /// Whether it was cut at the longest answer that was allowed.
    pub cut: bool,
    /// What a reward model says of it, once it was asked.
    pub score: Option<f64>,
}

#[derive(Deserialize)]
struct Line {
    id: Value,
    prompt: Vec<Message>,
    response: String,
    #[serde(default)]
    sample: u64,
    #[serde(default)]
    finish_reason: Option<String>,
    #[serde(default)]
    score: Option<f64>,
}

/// Reads a file of answers; `name` is what errors call it.
///
/// # Errors
/// [`Error::Data`] that names the line that is no answer, or the second of one id and sample; [`Error::Invalid`] for an empty file.
pub fn read(input: impl BufRead, name: &Path) -> Result<Vec<Answer>> {
    let mut answers = Vec::new();
    let mut seen = BTreeSet::new();
    for (index, line) in input.lines().enumerate() {
        let number = index as u64 + 1;
        let refused = |reason: String| Error::Data { path: name.to_owned(), line: number, reason };
        let line = line.map_err(|source| Error::File { action: "read", path: name.to_owned(), source })?;
        if line.trim().is_empty() {
            continue;
        }
        let line: Line = serde_json::from_str(&line)
            .map_err(|error| refused(format!("no answer as `uptake generate` writes them: {error}")))?;
        let id = match line.id {
            Value::String(id) => id,
            Value::Number(id) => id.to_string(),
            other => return Err(refused(format!("`id` is {other}, not a text or a number"))),
        };
        if !seen.insert((id.clone(), line.sample)) {
            return Err(refused(format!("a second answer with id `{id}` and sample {}", line.sample)));
        }
        answers.push(Answer {
            id,
            sample: line.sample,
            prompt: line.prompt,
            response: line.response,
            cut: line.finish_reason.as_deref() == Some("length"),
            score: line.score.filter(|score| score.is_finite()),
        });
    }
    if answers.is_empty() {
        return Err(Error::Invalid(format!("`{}` holds no answers", name.display())));
    }
    Ok(answers)
}
