//! One stage over all follow-ups of some files: many requests at once, answers written in the order of the input.

use std::collections::{BTreeMap, HashSet};
use std::fmt;
use std::path::PathBuf;
use std::pin::pin;

use futures::stream::FuturesOrdered;
use futures::{FutureExt as _, Stream, StreamExt as _};
use serde::Serialize;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

use crate::consult::{Reading, consult};
use crate::endpoint::{Request, Retry};
use crate::error::{Error, Result};
use crate::judge::Judge;
use crate::output::{Annotator, Output};
use crate::reader::{BadLines, Survey, each_turn};
use crate::rows::{Key, Turn};

/// Follow-ups under way for each request in flight: while the first of them waits for its server, the others go on.
const AHEAD: usize = 8;
/// Follow-ups read ahead of those.
const READ_AHEAD: usize = 64;
/// So many rows without an answer in a row, and at least as many as are in flight at once, mean that the server is down.
const UNANSWERED_IN_A_ROW: u64 = 10;

/// Why a row got no labels although it was asked about, or could not be: a closed set, so that it can be counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Rejection {
    /// The response or the follow-up has no text.
    NoText,
    /// The model, or a filter of its server, refused.
    Refusal,
    /// The answer was no JSON of the schema, twice.
    MalformedAnswer,
    /// The answer was longer than allowed, twice.
    AnswerCutOff,
    /// The exchange is longer than the model can read.
    TooLong,
    /// The server refused this request and took others.
    BadRequest,
}

impl Rejection {
    /// The name it is counted under.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::NoText => "no_text",
            Self::Refusal => "refusal",
            Self::MalformedAnswer => "malformed_answer",
            Self::AnswerCutOff => "answer_cut_off",
            Self::TooLong => "too_long",
            Self::BadRequest => "bad_request",
        }
    }
}

impl fmt::Display for Rejection {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(self.name())
    }
}

/// What became of one question.
#[derive(Debug)]
pub(crate) enum Outcome<T> {
    Done(T),
    Rejected(Rejection),
    Unanswered(Retry),
}

/// Which follow-ups, and where what is made of them goes.
#[derive(Clone, Debug)]
pub struct Job {
    /// Files of conversations.
    pub inputs: Vec<PathBuf>,
    /// File that is appended to.
    pub output: PathBuf,
    /// What to do about lines that are no conversations.
    pub bad_lines: BadLines,
    /// Ask about rows once more that were rejected by an earlier run.
    pub retry_rejected: bool,
    /// Annotate no more than the first so many follow-ups; all when absent.
    pub limit: Option<u64>,
}

/// What became of the follow-ups of a [`Job`].
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Rows {
    /// In the output before this run.
    pub before: u64,
    /// Written by this run.
    pub written: u64,
    /// Rejected by this run, by reason.
    pub rejected: BTreeMap<Rejection, u64>,
    /// Without an answer after all repetitions, by the last reason; the next run asks again.
    pub unanswered: BTreeMap<Retry, u64>,
    /// Lines that are no conversations.
    pub bad_lines: u64,
}

impl Rows {
    /// Rows that the next run will ask about again.
    pub fn left(&self) -> u64 {
        self.unanswered.values().sum()
    }
}

/// What a stage asks about a follow-up, and makes of the answer.
pub(crate) trait Stage: Sync {
    /// What an answer is read into.
    type Value: Send;

    fn request(&self, turn: &Turn) -> Request;

    /// Nothing where the text is no answer at all.
    fn read(&self, turn: &Turn, text: &str) -> Option<Reading<Self::Value>>;

    /// The line to write; its first field must be the key.
    fn line(&self, turn: &Turn, value: &Self::Value, annotator: &Annotator) -> serde_json::Result<String>;
}

#[derive(Serialize)]
struct RejectedLine<'a> {
    key: Key,
    conversation_id: &'a str,
    turn: usize,
    reason: Rejection,
    annotator: &'a Annotator,
}

/// What became of a run: its rows, and what ended it early.
pub(crate) type Ended = (Rows, Option<Error>);

/// Runs a stage over the follow-ups that are `wanted` (all when absent) and not in the output. `tell` hears of every row
/// that is done with, and what was made of it.
///
/// Rows are written in the order of the input. After an error nothing more is written, but what is under way is waited for:
/// its answers are paid and go into the cache.
pub(crate) async fn drive<S: Stage>(
    judge: &Judge,
    job: &Job,
    stage: &S,
    annotator: Annotator,
    wanted: Option<HashSet<Key>>,
    tell: &mut (dyn FnMut(Option<&S::Value>) + Send),
) -> Result<Ended> {
    let (mut output, known) = Output::open(&job.output, annotator, job.retry_rejected)?;
    let mut rows = Rows { before: known.len() as u64, ..Rows::default() };
    let (turns, reader) = follow_ups(job.clone(), wanted, known);
    let mut turns = pin!(turns.take_until(judge.until_halted()).fuse());
    let mut under_way = FuturesOrdered::new();
    let (mut failed, mut received, mut in_a_row) = (None, 0_u64, 0_u64);
    loop {
        let (turn, outcome) = tokio::select! {
            biased;
            Some(asked) = under_way.next() => asked,
            Some(turn) = turns.next(), if under_way.len() < judge.concurrency() * AHEAD => {
                received += 1;
                under_way.push_back(ask(judge, stage, turn).boxed());
                continue;
            }
            else => break,
        };
        if failed.is_some() {
            continue;
        }
        let settled = match outcome {
            Ok(Outcome::Unanswered(reason)) => {
                *rows.unanswered.entry(reason).or_default() += 1;
                in_a_row += 1;
                let down = in_a_row >= UNANSWERED_IN_A_ROW.max(judge.concurrency() as u64);
                tell(None);
                if down { Err(Error::Unanswered { rows: in_a_row, last: reason.to_string() }) } else { Ok(()) }
            }
            Ok(outcome) => {
                in_a_row = 0;
                settle(stage, &turn, outcome, &mut output, &mut rows, tell)
            }
            Err(error) => Err(error),
        };
        if let Err(error) = settled {
            judge.halt(error.clone());
            failed = Some(error);
        }
    }
    let read = reader.await.map_err(|error| Error::Bug(format!("read the input: {error}")))??;
    rows.bad_lines = read.survey.skipped;
    if failed.is_none() && !(read.complete && read.sent == received) {
        failed = judge.halted();
    }
    Ok((rows, failed))
}

/// Asks about one follow-up, if there is anything to ask about.
async fn ask<S: Stage>(judge: &Judge, stage: &S, turn: Turn) -> (Turn, Result<Outcome<S::Value>>) {
    if !turn.has_text() {
        return (turn, Ok(Outcome::Rejected(Rejection::NoText)));
    }
    let request = stage.request(&turn);
    let outcome = consult(judge, &request, |text| stage.read(&turn, text)).await;
    (turn, outcome)
}

/// Writes what became of a row.
fn settle<S: Stage>(
    stage: &S,
    turn: &Turn,
    outcome: Outcome<S::Value>,
    output: &mut Output,
    rows: &mut Rows,
    tell: &mut (dyn FnMut(Option<&S::Value>) + Send),
) -> Result<()> {
    match outcome {
        Outcome::Done(value) => {
            output.append(stage.line(turn, &value, output.annotator()).map_err(unwritable)?)?;
            rows.written += 1;
            tell(Some(&value));
        }
        Outcome::Rejected(reason) => {
            let conversation_id = &turn.conversation.id;
            let annotator = output.annotator();
            let line = RejectedLine { key: turn.key, conversation_id, turn: turn.index, reason, annotator };
            let line = serde_json::to_string(&line).map_err(unwritable)?;
            output.reject(line)?;
            *rows.rejected.entry(reason).or_default() += 1;
            tell(None);
        }
        Outcome::Unanswered(_) => {}
    }
    Ok(())
}

#[expect(clippy::needless_pass_by_value, reason = "it is what map_err hands on")]
fn unwritable(error: serde_json::Error) -> Error {
    Error::Bug(format!("write a line: {error}"))
}

/// How reading ended.
struct Read {
    survey: Survey,
    sent: u64,
    /// Whether everything wanted was handed on.
    complete: bool,
}

/// The follow-ups of a job that are wanted and not known, read on a thread of their own.
fn follow_ups(
    job: Job,
    wanted: Option<HashSet<Key>>,
    known: HashSet<Key>,
) -> (impl Stream<Item = Turn> + Send, JoinHandle<Result<Read>>) {
    let (sender, mut receiver) = mpsc::channel(READ_AHEAD);
    let reader = tokio::task::spawn_blocking(move || {
        let mut read = Read { survey: Survey::default(), sent: 0, complete: true };
        let (mut sent, mut complete) = (0, true);
        let mut seen = HashSet::new();
        let limit = job.limit.unwrap_or(u64::MAX);
        each_turn(&job.inputs, job.bad_lines, &mut read.survey, |_, turn, _| {
            if wanted.as_ref().is_some_and(|wanted| !wanted.contains(&turn.key)) || !seen.insert(turn.key) {
                return true;
            }
            if seen.len() as u64 > limit {
                return false;
            }
            if !known.contains(&turn.key) {
                sent += 1;
                complete = sender.blocking_send(turn).is_ok();
            }
            complete
        })?;
        (read.sent, read.complete) = (sent, complete);
        Ok(read)
    });
    (futures::stream::poll_fn(move |context| receiver.poll_recv(context)), reader)
}
