//! Rows to train a policy or a reward model on: a published snapshot (Parquet, by its manifest) or JSON lines.
//!
//! A line of JSON is `prompt`, `chosen`, `rejected`, or `prompt`, `completion` and perhaps `label`, or `messages`. For a
//! reward model it may also be what the table `love` has (`prompt`, `response`, `love`), or a conversation with reactions:
//! `messages` and `reactions: [{"turn", "value"}]`, where each answer that is reacted to becomes a row, liked if a value
//! is above 0. It may say more of itself: see [`About`].

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io::{BufRead, BufReader, Read};
use std::path::Path;

use arrow::array::{Array, AsArray, RecordBatch};
use arrow::datatypes::{Float32Type, TimestampMicrosecondType};
use flate2::read::MultiGzDecoder;
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use sha2::{Digest, Sha256};
use uptake_model::time;

use crate::error::{Error, Result};

const MANIFEST: &str = "manifest.json";
const FORMAT: &str = "uptake-snapshot/1";

/// A message of a chat.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Message {
    /// `user`, `assistant` or `system`.
    pub role: String,
    /// The text.
    pub content: String,
}

/// What a row says of answers to its prompt.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Answers {
    /// One is better than the other.
    Pair { chosen: Message, rejected: Message },
    /// One is liked or not.
    Labelled { answer: Message, liked: bool },
    /// One is to be imitated.
    Supervised { answer: Message },
}

/// What a row says of itself beside its answers; all of it may be missing.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct About {
    /// Rows of one conversation stay together.
    pub(crate) conversation: Option<String>,
    /// Where it comes from; of a snapshot of pairs, the rule that made it.
    pub(crate) source: Option<String>,
    /// When: microseconds since 1970.
    pub(crate) time: Option<i64>,
    /// How much it counts.
    pub(crate) weight: Option<f32>,
    /// How strong its evidence is, 0 to 1.
    pub(crate) strength: Option<f32>,
    /// The head that it trains.
    pub(crate) head: Option<String>,
    /// Whether it was published for testing.
    pub(crate) held_out: bool,
}

#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Row {
    pub(crate) prompt: Vec<Message>,
    pub(crate) answers: Answers,
    pub(crate) about: About,
}

/// What rows are read for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Reading {
    /// Of a snapshot, the training part alone; no rows of love.
    Policy,
    /// Of a snapshot, the test part alone; no rows of love.
    HeldOut,
    /// Both parts of a snapshot; love and reactions too.
    Reward,
}

/// Rows with where they come from.
#[derive(Debug)]
pub(crate) struct Data {
    /// Name of the snapshot's table, or of the file.
    pub(crate) name: String,
    /// Id of the snapshot, or the hash of the file.
    pub(crate) id: String,
    pub(crate) rows: Vec<Row>,
    /// Rows read, those that are dropped among them.
    pub(crate) read: u64,
    /// Rows that cannot be used, by reason.
    pub(crate) dropped: BTreeMap<&'static str, u64>,
}

/// A row as it is stored: every field may be missing.
#[derive(Clone, Debug, Default, Deserialize)]
struct Stored {
    prompt: Option<Texts>,
    chosen: Option<Texts>,
    rejected: Option<Texts>,
    completion: Option<Texts>,
    label: Option<bool>,
    messages: Option<Vec<Message>>,
    response: Option<Texts>,
    love: Option<bool>,
    reactions: Option<Vec<Reaction>>,
    conversation_id: Option<String>,
    source: Option<String>,
    #[serde(alias = "start_time", alias = "settled_at")]
    time: Option<Value>,
    weight: Option<f32>,
    strength: Option<f32>,
    head: Option<String>,
    #[serde(skip)]
    held_out: bool,
}

/// A reaction to a message of a conversation.
#[derive(Clone, Copy, Debug, Deserialize)]
struct Reaction {
    turn: usize,
    value: f64,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(untagged)]
pub(crate) enum Texts {
    Plain(String),
    Messages(Vec<Message>),
}

impl Texts {
    pub(crate) fn messages(self, role: &str) -> Vec<Message> {
        match self {
            Self::Plain(content) => vec![Message { role: role.to_owned(), content }],
            Self::Messages(messages) => messages,
        }
    }

    fn answer(self) -> Result<Message, Fault> {
        let mut messages = self.messages("assistant");
        let answer = messages.pop().ok_or(Fault::Dropped("empty_answer"))?;
        if !messages.is_empty() {
            return Err(Fault::Dropped("several_answers"));
        }
        checked(answer)
    }
}

/// Why a stored row is none.
enum Fault {
    /// Told to whoever made the file: no row of it can be read like this.
    Shape(String),
    /// Counted under a reason.
    Dropped(&'static str),
}

fn checked(answer: Message) -> Result<Message, Fault> {
    if answer.role != "assistant" {
        return Err(Fault::Dropped("answer_not_by_assistant"));
    }
    if answer.content.trim().is_empty() {
        return Err(Fault::Dropped("empty_answer"));
    }
    Ok(answer)
}

impl Stored {
    /// The rows of a line: one, or as many as answers that were reacted to.
    fn rows(mut self, reading: Reading) -> Result<Vec<Result<Row, &'static str>>, String> {
        if reading == Reading::Reward {
            // The names of the table `love`.
            self.completion = self.completion.or(self.response.take());
            self.label = self.label.or(self.love.take());
            if let (Some(messages), Some(reactions)) =
                (self.messages.take_if(|_| self.reactions.is_some()), &self.reactions)
            {
                let turns: BTreeSet<usize> = reactions.iter().map(|reaction| reaction.turn).collect();
                let rows = turns.into_iter().map(|turn| self.clone().reacted(&messages, turn));
                return rows.collect();
            }
        } else {
            // Not looked at: it shall stop nobody.
            self.time = None;
        }
        Ok(vec![self.row()?])
    }

    /// The row of a message that was reacted to.
    fn reacted(mut self, messages: &[Message], turn: usize) -> Result<Result<Row, &'static str>, String> {
        let reactions = self.reactions.take().unwrap_or_default();
        let answer =
            messages.get(turn).ok_or_else(|| format!("a reaction is to message {turn}, which is not there"))?;
        self.label = Some(reactions.iter().any(|reaction| reaction.turn == turn && reaction.value > 0.0));
        self.prompt = Some(Texts::Messages(messages[..turn].to_vec()));
        self.completion = Some(Texts::Messages(vec![answer.clone()]));
        self.row()
    }

    fn row(self) -> Result<Result<Row, &'static str>, String> {
        let about = self.about()?;
        match self.answered() {
            Ok((prompt, answers)) => Ok(Ok(Row { prompt, answers, about })),
            Err(Fault::Dropped(reason)) => Ok(Err(reason)),
            Err(Fault::Shape(reason)) => Err(reason),
        }
    }

    fn about(&self) -> Result<About, String> {
        let time = self.time.as_ref().filter(|value| !value.is_null()).map(time::parse).transpose()?;
        for (name, value) in [("weight", self.weight), ("strength", self.strength)] {
            if value.is_some_and(|value| !(value.is_finite() && value >= 0.0)) {
                return Err(format!("`{name}` is a number from 0 on"));
            }
        }
        Ok(About {
            conversation: self.conversation_id.clone(),
            source: self.source.clone(),
            time,
            weight: self.weight,
            strength: self.strength,
            head: self.head.clone(),
            held_out: self.held_out,
        })
    }

    fn answered(self) -> Result<(Vec<Message>, Answers), Fault> {
        let (prompt, answers) = match self {
            Self { prompt: Some(prompt), chosen: Some(chosen), rejected: Some(rejected), .. } => {
                (prompt.messages("user"), Answers::Pair { chosen: chosen.answer()?, rejected: rejected.answer()? })
            }
            Self { prompt: Some(prompt), completion: Some(answer), label: Some(liked), .. } => {
                (prompt.messages("user"), Answers::Labelled { answer: answer.answer()?, liked })
            }
            Self { prompt: Some(prompt), completion: Some(answer), .. } => {
                (prompt.messages("user"), Answers::Supervised { answer: answer.answer()? })
            }
            Self { messages: Some(mut messages), .. } => {
                let answer = checked(messages.pop().ok_or(Fault::Dropped("empty_answer"))?)?;
                (messages, Answers::Supervised { answer })
            }
            _ => {
                return Err(Fault::Shape(
                    "a row has `prompt`, `chosen` and `rejected`, or `prompt`, `completion` and perhaps `label`, or `messages`"
                        .to_owned(),
                ));
            }
        };
        if prompt.is_empty() || prompt.iter().all(|message| message.content.trim().is_empty()) {
            return Err(Fault::Dropped("empty_prompt"));
        }
        match &answers {
            Answers::Pair { chosen, rejected } if chosen == rejected => Err(Fault::Dropped("same_answers")),
            _ => Ok((prompt, answers)),
        }
    }
}

impl Data {
    /// Reads a snapshot, or a file of JSON lines, plain or gzip'd.
    ///
    /// # Errors
    /// [`Error::Invalid`] where the directory is no whole snapshot, [`Error::Data`] for a line that is no row,
    /// [`Error::File`] where a file cannot be read.
    pub(crate) fn read(path: &Path, reading: Reading) -> Result<Self> {
        if path.is_dir() { Self::snapshot(path, reading) } else { Self::lines(path, reading) }
    }

    fn new(name: String) -> Self {
        Self { name, id: String::new(), rows: Vec::new(), read: 0, dropped: BTreeMap::new() }
    }

    fn push(&mut self, stored: Stored, reading: Reading) -> Result<(), String> {
        for row in stored.rows(reading)? {
            self.read += 1;
            match row {
                Ok(row) => self.rows.push(row),
                Err(reason) => *self.dropped.entry(reason).or_default() += 1,
            }
        }
        Ok(())
    }

    fn lines(path: &Path, reading: Reading) -> Result<Self> {
        let failed = |source| Error::File { action: "read", path: path.to_owned(), source };
        let mut bytes = Vec::new();
        let _ = File::open(path).and_then(|mut file| file.read_to_end(&mut bytes)).map_err(failed)?;
        let mut data = Self::new(path.file_name().unwrap_or_default().to_string_lossy().into_owned());
        data.id = format!("{:x}", Sha256::digest(&bytes));
        let zipped = bytes.starts_with(&[0x1f, 0x8b]);
        let reader: Box<dyn Read + '_> =
            if zipped { Box::new(MultiGzDecoder::new(bytes.as_slice())) } else { Box::new(bytes.as_slice()) };
        for (number, line) in (1..).zip(BufReader::new(reader).lines()) {
            let line = line.map_err(failed)?;
            if line.trim().is_empty() {
                continue;
            }
            let wrong = |reason: String| Error::Data { path: path.to_owned(), line: number, reason };
            let stored: Stored = serde_json::from_str(&line).map_err(|error| wrong(error.to_string()))?;
            data.push(stored, reading).map_err(wrong)?;
        }
        Ok(data)
    }

    fn snapshot(directory: &Path, reading: Reading) -> Result<Self> {
        let path = directory.join(MANIFEST);
        let bytes = match std::fs::read(&path) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                return Err(Error::Invalid(format!(
                    "`{}` is no published snapshot, it has no {MANIFEST}: make one with `uptake snapshot publish`",
                    directory.display()
                )));
            }
            Err(source) => return Err(Error::File { action: "read", path, source }),
        };
        let broken = |reason: String| {
            Error::Invalid(format!("the snapshot `{}` {reason}: publish it again", directory.display()))
        };
        let manifest: Manifest = serde_json::from_slice(&bytes)
            .map_err(|error| broken(format!("has a {MANIFEST} that cannot be read ({error})")))?;
        if manifest.format != FORMAT {
            return Err(broken(format!("has the layout `{}`, this program reads `{FORMAT}`", manifest.format)));
        }
        let mut data = Self::new(manifest.name);
        data.id = manifest.id;
        let wanted = |split: &str| match reading {
            Reading::Policy => split == "train",
            Reading::HeldOut => split == "test",
            Reading::Reward => split == "train" || split == "test",
        };
        // Files below a folder hold the same rows as rendered text.
        let rows = |file: &&Entry| file.split.as_deref().is_some_and(wanted) && !file.path.contains('/');
        for file in manifest.files.iter().filter(rows) {
            let path = directory.join(&file.path);
            let failed = |source| Error::File { action: "read", path: path.clone(), source };
            let mut hash = Sha256::new();
            let _ = File::open(&path).and_then(|mut file| std::io::copy(&mut file, &mut hash)).map_err(failed)?;
            if format!("{:x}", hash.finalize()) != file.sha256 {
                return Err(broken(format!("is damaged: `{}` is not the file that was published", file.path)));
            }
            let unread =
                |error: &dyn std::fmt::Display| broken(format!("has `{}` that cannot be read ({error})", file.path));
            let opened = File::open(&path).map_err(failed)?;
            let reader =
                ParquetRecordBatchReaderBuilder::try_new(opened).and_then(ParquetRecordBatchReaderBuilder::build);
            for batch in reader.map_err(|error| unread(&error))? {
                let batch = batch.map_err(|error| unread(&error))?;
                for row in 0..batch.num_rows() {
                    data.push(stored(&batch, row), reading).map_err(|reason| unread(&reason))?;
                }
            }
        }
        Ok(data)
    }
}

/// What is read of a snapshot's manifest.
#[derive(Deserialize)]
struct Manifest {
    format: String,
    name: String,
    id: String,
    files: Vec<Entry>,
}

#[derive(Deserialize)]
struct Entry {
    path: String,
    split: Option<String>,
    sha256: String,
}

fn stored(batch: &RecordBatch, row: usize) -> Stored {
    let texts = |name: &str| messages(batch, name, row).map(Texts::Messages);
    let column = |name: &str| batch.column_by_name(name).filter(|column| column.is_valid(row));
    let flag = |name: &str| Some(column(name)?.as_boolean_opt()?.value(row));
    let number = |name: &str| Some(column(name)?.as_primitive_opt::<Float32Type>()?.value(row));
    let text = |name: &str| Some(column(name)?.as_string_opt::<i32>()?.value(row).to_owned());
    let (chosen, love) = (texts("chosen"), flag("love"));
    // What made a pair is no label; what made a row of love is.
    let source = text("rule_id").filter(|_| chosen.is_some());
    let time = column("settled_at").and_then(|column| column.as_primitive_opt::<TimestampMicrosecondType>());
    Stored {
        prompt: texts("prompt"),
        chosen,
        rejected: texts("rejected"),
        completion: texts("completion"),
        label: flag("label"),
        messages: messages(batch, "messages", row),
        response: texts("response"),
        love,
        reactions: None,
        conversation_id: text("conversation_id"),
        source,
        time: time.map(|column| Value::from(time::time_text(column.value(row)))),
        weight: number("weight"),
        strength: number("strength"),
        head: None,
        held_out: text("split").is_some_and(|split| split == "test"),
    }
}

/// A list of messages, where the column is one.
fn messages(batch: &RecordBatch, name: &str, row: usize) -> Option<Vec<Message>> {
    let lists = batch.column_by_name(name)?.as_list_opt::<i32>()?;
    if lists.is_null(row) {
        return None;
    }
    let list = lists.value(row);
    let fields = list.as_struct_opt()?;
    let text = |field: &str| fields.column_by_name(field)?.as_string_opt::<i32>();
    let (roles, contents) = (text("role")?, text("content")?);
    let of = |column: &arrow::array::StringArray, at: usize| {
        if column.is_valid(at) { column.value(at).to_owned() } else { String::new() }
    };
    Some((0..fields.len()).map(|at| Message { role: of(roles, at), content: of(contents, at) }).collect())
}

#[cfg(test)]
#[path = "rows_tests.rs"]
mod tests;
