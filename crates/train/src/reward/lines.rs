//! A file of responses in, a line with a score for each out: `uptake score`.
//!
//! In: `{"id", "prompt": [{"role", "content"}, …], "response"}`; a prompt may be a text, which is then the user's. Out:
//! `{"id", "score"}` in the order of the input, the id as it came, and `sample` where the line has one: several answers to a
//! prompt share its id.

use std::io::{BufRead, Write};

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::model::RewardModel;
use crate::error::{Error, Result};
use crate::rows::{Message, Texts};

/// Lines that are scored together.
const LINES: usize = 512;

/// What happens at a line that cannot be scored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BadLines {
    /// Everything stops there.
    Stop,
    /// It is told, counted and passed over.
    Skip,
}

/// What is written of a score.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    /// A rate from 0 to 1 where the head says one; a reward where it compares.
    Value,
    /// Log-odds, the prior corrected.
    Logit,
}

/// How far the lines are.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Progress {
    /// Responses scored.
    pub scored: u64,
    /// Lines passed over.
    pub skipped: u64,
}

/// What the caller is told.
#[derive(Debug)]
pub enum Event<'a> {
    /// More are written.
    Progress(Progress),
    /// A line was passed over.
    Skipped(&'a Error),
}

#[derive(Deserialize)]
struct Line {
    id: Option<Value>,
    prompt: Option<Texts>,
    response: Option<Texts>,
    sample: Option<u64>,
}

struct Asked {
    number: u64,
    id: Value,
    sample: Option<u64>,
    prompt: Vec<Message>,
    response: String,
}

#[derive(Serialize)]
struct Scored<'a> {
    id: &'a Value,
    #[serde(skip_serializing_if = "Option::is_none")]
    sample: Option<u64>,
    score: f32,
}

fn parse(line: &str, number: u64) -> Result<Asked, String> {
    let shape = "a line is {\"id\", \"prompt\": [{\"role\", \"content\"}, …], \"response\"}";
    let Line { id, prompt, response, sample } =
        serde_json::from_str(line).map_err(|error| format!("{error}; {shape}"))?;
    let missing = |name: &str| format!("`{name}` is missing; {shape}");
    let id = id.filter(|id| id.is_string() || id.is_number()).ok_or_else(|| missing("id"))?;
    let prompt = prompt.ok_or_else(|| missing("prompt"))?.messages("user");
    let mut response = response.ok_or_else(|| missing("response"))?.messages("assistant");
    match (response.pop(), response.is_empty()) {
        (Some(response), true) => Ok(Asked { number, id, sample, prompt, response: response.content }),
        _ => Err("`response` is one message".to_owned()),
    }
}

/// Scores lines by one of the model's heads.
///
/// # Errors
/// [`Error::Line`] at the first line that cannot be scored, unless such are passed over; [`Error::Stream`] where reading or
/// writing breaks off.
pub fn score_lines(
    model: &RewardModel,
    (head, form): (usize, Form),
    input: impl BufRead,
    output: &mut dyn Write,
    bad_lines: BadLines,
    mut tell: impl FnMut(&Event<'_>),
) -> Result<Progress> {
    let mut run = Run { model, head, form, output, bad_lines, tell: &mut tell, progress: Progress::default() };
    let mut asked = Vec::with_capacity(LINES);
    let mut number = 0_u64;
    for line in input.lines() {
        number += 1;
        let line = line.map_err(|source| Error::Stream { action: "read", source })?;
        if line.trim().is_empty() {
            continue;
        }
        match parse(&line, number) {
            Ok(one) => asked.push(one),
            Err(reason) => {
                // What stands before it is written first.
                run.score(&mut asked)?;
                run.refuse(number, reason)?;
            }
        }
        if asked.len() == LINES {
            run.score(&mut asked)?;
        }
    }
    run.score(&mut asked)?;
    run.output.flush().map_err(|source| Error::Stream { action: "write", source })?;
    Ok(run.progress)
}

struct Run<'a> {
    model: &'a RewardModel,
    head: usize,
    form: Form,
    output: &'a mut dyn Write,
    bad_lines: BadLines,
    tell: &'a mut dyn FnMut(&Event<'_>),
    progress: Progress,
}

impl Run<'_> {
    fn refuse(&mut self, line: u64, reason: String) -> Result<()> {
        let error = Error::Line { line, reason };
        if self.bad_lines == BadLines::Stop {
            return Err(error);
        }
        self.progress.skipped += 1;
        (self.tell)(&Event::Skipped(&error));
        Ok(())
    }

    fn score(&mut self, asked: &mut Vec<Asked>) -> Result<()> {
        let responses: Vec<_> = asked.iter().map(|asked| (asked.prompt.as_slice(), asked.response.as_str())).collect();
        let logits = self.model.logits(&responses)?;
        let Some(head) = self.model.config().heads.get(self.head) else {
            return Err(Error::Bug(format!("the model has no head {}", self.head)));
        };
        for (asked, logits) in asked.iter().zip(logits) {
            let Some(logit) = logits.and_then(|logits| logits.get(self.head).copied()) else {
                self.refuse(asked.number, "`response` has no text".to_owned())?;
                continue;
            };
            let score = match self.form {
                Form::Value => head.value(logit),
                Form::Logit => head.score(logit).logit,
            };
            #[expect(clippy::cast_possible_truncation, reason = "the encoder computes in single precision")]
            let scored = Scored { id: &asked.id, sample: asked.sample, score: score as f32 };
            let line = serde_json::to_string(&scored).map_err(|error| Error::Bug(error.to_string()))?;
            writeln!(self.output, "{line}").map_err(|source| Error::Stream { action: "write", source })?;
            self.progress.scored += 1;
        }
        asked.clear();
        (self.tell)(&Event::Progress(self.progress));
        Ok(())
    }
}
