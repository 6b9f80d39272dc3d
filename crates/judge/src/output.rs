//! Files that are appended to and never rewritten, so that a run that was killed goes on where it was.
//!
//! Every line carries the key of its follow-up and who annotated it. Rows that no label can be had for go to a second file
//! beside the first (`….rejected.jsonl`) with their reason: every row is in one of the two, once.

use std::collections::HashSet;
use std::fs::{File, OpenOptions, TryLockError};
use std::io::{BufRead as _, BufReader, Seek as _, SeekFrom, Write as _};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};
use crate::rows::Key;

/// Who annotated: lines of different annotators do not get mixed in one file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Annotator {
    /// The model.
    pub model: String,
    /// The rubric's identity, see [`Rubric::id`](crate::Rubric::id).
    pub rubric: String,
    /// A hash of all that the model is told, the rubric included, and of the parameters.
    pub instructions: String,
}

/// What every line has.
#[derive(Deserialize)]
struct Signed {
    key: String,
    annotator: Annotator,
}

/// An output file and the one for what was rejected.
#[derive(Debug)]
pub(crate) struct Output {
    accepted: Appended,
    rejected_path: PathBuf,
    rejected: Option<Appended>,
    annotator: Annotator,
}

impl Output {
    /// Opens both files, or makes the first; lines that are there stay, half a line at the end is taken off. Also the
    /// follow-ups that are in one of them.
    pub(crate) fn open(path: &Path, annotator: Annotator, retry_rejected: bool) -> Result<(Self, HashSet<Key>)> {
        let mut done = HashSet::new();
        let accepted = Appended::open(path, &annotator, &mut done)?;
        let rejected_path = path.with_extension("rejected.jsonl");
        let mut rejected = None;
        if rejected_path.exists() {
            if retry_rejected {
                std::fs::remove_file(&rejected_path).map_err(|error| Error::file("remove", &rejected_path, &error))?;
            } else {
                rejected = Some(Appended::open(&rejected_path, &annotator, &mut done)?);
            }
        }
        Ok((Self { accepted, rejected_path, rejected, annotator }, done))
    }

    pub(crate) const fn annotator(&self) -> &Annotator {
        &self.annotator
    }

    pub(crate) fn append(&mut self, line: String) -> Result<()> {
        self.accepted.append(line)
    }

    pub(crate) fn reject(&mut self, line: String) -> Result<()> {
        if let Some(rejected) = &mut self.rejected {
            return rejected.append(line);
        }
        let rejected = Appended::open(&self.rejected_path, &self.annotator, &mut HashSet::new())?;
        self.rejected.insert(rejected).append(line)
    }
}

#[derive(Debug)]
struct Appended {
    path: PathBuf,
    file: File,
}

impl Appended {
    fn open(path: &Path, annotator: &Annotator, done: &mut HashSet<Key>) -> Result<Self> {
        let opened = OpenOptions::new().read(true).write(true).create(true).truncate(false).open(path);
        let mut file = opened.map_err(|error| Error::file("open", path, &error))?;
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                let reason = "is being written by another process: wait for it, or name another file".to_owned();
                return Err(Error::Output { path: path.to_owned(), reason });
            }
            Err(TryLockError::Error(error)) => return Err(Error::file("lock", path, &error)),
        }
        let whole = known(path, &file, annotator, done)?;
        let broken = |error: std::io::Error| Error::file("write", path, &error);
        // Half a line is what a kill in the middle of a write leaves behind.
        file.set_len(whole).map_err(broken)?;
        let _ = file.seek(SeekFrom::Start(whole)).map_err(broken)?;
        Ok(Self { path: path.to_owned(), file })
    }

    fn append(&mut self, mut line: String) -> Result<()> {
        line.push('\n');
        self.file.write_all(line.as_bytes()).map_err(|error| Error::file("write", &self.path, &error))
    }
}

/// Notes the keys of all whole lines; the length of those lines in bytes.
fn known(path: &Path, file: &File, annotator: &Annotator, done: &mut HashSet<Key>) -> Result<u64> {
    let refuse = |reason: String| Error::Output { path: path.to_owned(), reason };
    let mut reader = BufReader::new(file);
    let (mut whole, mut number) = (0, 0_u64);
    let mut line = Vec::new();
    loop {
        line.clear();
        let read = reader.read_until(b'\n', &mut line).map_err(|error| Error::file("read", path, &error))?;
        if line.last() != Some(&b'\n') {
            // The end, or half a line. A file of others may end like that too; it is left as it is.
            if whole == 0 && read > 0 && !b"{\"key\":".starts_with(line.get(..7).unwrap_or(&line)) {
                return Err(refuse("is no file of this command: name another one".to_owned()));
            }
            return Ok(whole);
        }
        number += 1;
        let signed = serde_json::from_slice::<Signed>(&line).ok();
        let Some((key, found)) = signed.and_then(|signed| Some((Key::parse(&signed.key)?, signed.annotator))) else {
            return Err(refuse(format!("is no file of this command (line {number}): name another one")));
        };
        if found != *annotator {
            let what = if found.model != annotator.model {
                format!("by the model `{}`", found.model)
            } else if found.rubric != annotator.rubric {
                format!("with the rubric {}, not {}", found.rubric, annotator.rubric)
            } else {
                "with other instructions or parameters".to_owned()
            };
            return Err(refuse(format!("was annotated {what}: name another file for this run")));
        }
        done.insert(key);
        whole += read as u64;
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn annotator(model: &str) -> Annotator {
        Annotator { model: model.to_owned(), rubric: "r".to_owned(), instructions: "i".to_owned() }
    }

    fn key(number: u8) -> Key {
        Key::parse(&format!("{number:032x}")).unwrap()
    }

    fn line(number: u8, by: &Annotator) -> String {
        json!({"key": key(number), "annotator": by}).to_string()
    }

    #[test]
    fn half_a_line_is_taken_off_and_the_rest_is_known() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("labels.jsonl");
        let by = annotator("m");
        let (mut output, known) = Output::open(&path, by.clone(), false).unwrap();
        assert!(known.is_empty());
        output.append(line(1, &by)).unwrap();
        output.reject(line(2, &by)).unwrap();
        let whole = std::fs::read(&path).unwrap();
        drop(output);
        let half = [whole.as_slice(), br#"{"annotator":{"mo"#].concat();
        std::fs::write(&path, half).unwrap();
        let (mut output, known) = Output::open(&path, by.clone(), false).unwrap();
        assert_eq!(std::fs::read(&path).unwrap(), whole);
        assert_eq!(known, HashSet::from([key(1), key(2)]));
        output.append(line(3, &by)).unwrap();
        drop(output);
        assert_eq!(std::fs::read_to_string(&path).unwrap().lines().count(), 2);
        let (_again, known) = Output::open(&path, by, true).unwrap();
        assert_eq!(known, HashSet::from([key(1), key(3)]));
        assert!(!directory.path().join("labels.rejected.jsonl").exists());
    }

    #[test]
    fn files_of_others_are_left_alone() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("labels.jsonl");
        let refused = |annotator: Annotator| Output::open(&path, annotator, false).unwrap_err().to_string();
        for text in ["{\"conversation_id\":\"c\"}\n", "notes", "{\"kex\":1"] {
            std::fs::write(&path, text).unwrap();
            assert!(refused(annotator("m")).contains("is no file of this command"), "{text}");
            assert_eq!(std::fs::read_to_string(&path).unwrap(), text);
        }
        std::fs::write(&path, "").unwrap();
        let (mut output, _) = Output::open(&path, annotator("m"), false).unwrap();
        output.append(line(1, &annotator("m"))).unwrap();
        assert!(refused(annotator("m")).contains("being written by another process"));
        drop(output);
        assert!(refused(annotator("n")).contains("by the model `m`"));
        let other = Annotator { rubric: "s".to_owned(), ..annotator("m") };
        assert!(refused(other).contains("rubric r, not s"));
        let other = Annotator { instructions: "j".to_owned(), ..annotator("m") };
        assert!(refused(other).contains("other instructions"));
    }
}
