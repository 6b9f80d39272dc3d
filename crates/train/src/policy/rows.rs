//! Rows to train a policy on: a published snapshot (Parquet, by its manifest) or JSON lines.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{BufRead, BufReader, Read};
use std::path::Path;

use arrow::array::{Array, AsArray, RecordBatch};
use flate2::read::MultiGzDecoder;
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::error::{Error, Result};

const MANIFEST: &str = "manifest.json";
const FORMAT: &str = "uptake-snapshot/1";

/// A message of a chat.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Message {
    pub(crate) role: String,
    pub(crate) content: String,
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

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Row {
    pub(crate) prompt: Vec<Message>,
    pub(crate) answers: Answers,
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
#[derive(Debug, Default, Deserialize)]
struct Stored {
    prompt: Option<Texts>,
    chosen: Option<Texts>,
    rejected: Option<Texts>,
    completion: Option<Texts>,
    label: Option<bool>,
    messages: Option<Vec<Message>>,
}

#[derive(Debug, Deserialize)]
#[serde(untagged)]
enum Texts {
    Plain(String),
    Messages(Vec<Message>),
}

impl Texts {
    fn messages(self, role: &str) -> Vec<Message> {
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
    Shape(&'static str),
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
    fn row(self) -> Result<Row, Fault> {
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
                    "a row has `prompt`, `chosen` and `rejected`, or `prompt`, `completion` and perhaps `label`, or `messages`",
                ));
            }
        };
        if prompt.is_empty() || prompt.iter().all(|message| message.content.trim().is_empty()) {
            return Err(Fault::Dropped("empty_prompt"));
        }
        match &answers {
            Answers::Pair { chosen, rejected } if chosen == rejected => Err(Fault::Dropped("same_answers")),
            _ => Ok(Row { prompt, answers }),
        }
    }
}

impl Data {
    /// Reads the training part of a snapshot, or a file of JSON lines, plain or gzip'd.
    ///
    /// # Errors
    /// [`Error::Invalid`] where the directory is no whole snapshot, [`Error::Data`] for a line that is no row,
    /// [`Error::File`] where a file cannot be read.
    pub(crate) fn read(path: &Path) -> Result<Self> {
        if path.is_dir() { Self::snapshot(path) } else { Self::lines(path) }
    }

    fn new(name: String) -> Self {
        Self { name, id: String::new(), rows: Vec::new(), read: 0, dropped: BTreeMap::new() }
    }

    fn push(&mut self, stored: Stored) -> Result<(), &'static str> {
        self.read += 1;
        match stored.row() {
            Ok(row) => self.rows.push(row),
            Err(Fault::Dropped(reason)) => *self.dropped.entry(reason).or_default() += 1,
            Err(Fault::Shape(reason)) => return Err(reason),
        }
        Ok(())
    }

    fn lines(path: &Path) -> Result<Self> {
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
            data.push(stored).map_err(|reason| wrong(reason.to_owned()))?;
        }
        Ok(data)
    }

    fn snapshot(directory: &Path) -> Result<Self> {
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
        // Files below a folder hold the same rows as rendered text.
        let training = |file: &&Entry| file.split.as_deref() == Some("train") && !file.path.contains('/');
        for file in manifest.files.iter().filter(training) {
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
                    data.push(stored(&batch, row)).map_err(|reason| unread(&reason))?;
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
    let label = batch.column_by_name("label").and_then(|column| column.as_boolean_opt());
    Stored {
        prompt: texts("prompt"),
        chosen: texts("chosen"),
        rejected: texts("rejected"),
        completion: texts("completion"),
        label: label.filter(|column| column.is_valid(row)).map(|column| column.value(row)),
        messages: messages(batch, "messages", row),
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
mod tests {
    use std::io::Write as _;

    use super::*;

    fn read(lines: &str) -> Result<Data> {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("rows.jsonl");
        std::fs::write(&path, lines).unwrap();
        Data::read(&path)
    }

    #[test]
    fn rows_of_each_kind_are_read() {
        let data = read(concat!(
            r#"{"prompt":"a","chosen":"b","rejected":[{"role":"assistant","content":"c"}]}"#,
            "\n\n",
            r#"{"prompt":[{"role":"user","content":"a"}],"completion":"b","label":false}"#,
            "\n",
            r#"{"prompt":"a","completion":"b"}"#,
            "\n",
            r#"{"messages":[{"role":"user","content":"a"},{"role":"assistant","content":"b"}]}"#,
        ))
        .unwrap();
        let message = |role: &str, content: &str| Message { role: role.to_owned(), content: content.to_owned() };
        let answer = message("assistant", "b");
        let supervised = Answers::Supervised { answer: answer.clone() };
        let expected = [
            Answers::Pair { chosen: answer.clone(), rejected: message("assistant", "c") },
            Answers::Labelled { answer, liked: false },
            supervised.clone(),
            supervised,
        ];
        assert_eq!(data.rows.iter().map(|row| row.answers.clone()).collect::<Vec<_>>(), expected);
        assert!(data.rows.iter().all(|row| row.prompt == [message("user", "a")]));
        assert_eq!((data.read, data.id.len()), (4, 64));
    }

    #[test]
    fn what_is_dropped_has_a_reason() {
        let data = read(concat!(
            r#"{"prompt":"a","chosen":"b","rejected":"b"}"#,
            "\n",
            r#"{"prompt":" ","chosen":"b","rejected":"c"}"#,
            "\n",
            r#"{"prompt":"a","chosen":"","rejected":"c"}"#,
            "\n",
            r#"{"messages":[{"role":"user","content":"a"}]}"#,
            "\n",
            r#"{"prompt":"a","completion":[{"role":"assistant","content":"b"},{"role":"user","content":"c"}]}"#,
        ))
        .unwrap();
        let reasons = ["same_answers", "empty_prompt", "empty_answer", "answer_not_by_assistant", "several_answers"];
        assert_eq!(data.dropped, reasons.into_iter().map(|reason| (reason, 1)).collect());
        assert_eq!((data.read, data.rows.len()), (5, 0));
    }

    #[test]
    fn a_line_that_is_no_row_is_named() {
        for (line, says) in [("{", "EOF"), (r#"{"text":"a"}"#, "`messages`"), (r#"{"prompt":3}"#, "data did not match")]
        {
            let error = read(&format!("{{\"prompt\":\"a\",\"completion\":\"b\"}}\n{line}")).unwrap_err().to_string();
            assert!(error.contains("line 2") && error.contains(says), "{error}");
        }
    }

    #[test]
    fn gzipped_lines_are_read_and_broken_ones_refused() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("rows.jsonl.gz");
        let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        encoder.write_all(b"{\"prompt\":\"a\",\"completion\":\"b\"}\n").unwrap();
        let bytes = encoder.finish().unwrap();
        std::fs::write(&path, &bytes).unwrap();
        assert_eq!(Data::read(&path).unwrap().rows.len(), 1);
        std::fs::write(&path, &bytes[..bytes.len() - 9]).unwrap();
        assert!(matches!(Data::read(&path), Err(Error::File { .. })));
    }

    #[test]
    fn a_directory_without_a_whole_snapshot_is_refused() {
        let directory = tempfile::tempdir().unwrap();
        let says = |text: &str| {
            let error = Data::read(directory.path()).unwrap_err().to_string();
            assert!(error.contains(text), "{error}");
        };
        says("uptake snapshot publish");
        let manifest = directory.path().join(MANIFEST);
        std::fs::write(&manifest, "{}").unwrap();
        says("cannot be read");
        std::fs::write(&manifest, r#"{"format":"other/2","name":"a","id":"b","files":[]}"#).unwrap();
        says("other/2");
        let file = r#"{"path":"train-0.parquet","split":"train","sha256":"00"}"#;
        std::fs::write(&manifest, format!(r#"{{"format":"{FORMAT}","name":"a","id":"b","files":[{file}]}}"#)).unwrap();
        std::fs::write(directory.path().join("train-0.parquet"), "PAR1").unwrap();
        says("damaged");
    }
}
