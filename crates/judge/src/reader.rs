//! Files of conversations, line by line, each follow-up handed on once.

use std::collections::HashSet;
use std::fmt;
use std::fs::File;
use std::io::{BufRead, BufReader, Read as _};
use std::path::{Path, PathBuf};

use crate::error::{Error, Result};
use crate::rows::{Conversation, Turn};

/// Longest line in bytes.
const LONGEST_LINE: u64 = 64 << 20;

/// What to do about a line that is no conversation.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum BadLines {
    /// Stop at the first, before anything is asked.
    #[default]
    Stop,
    /// Count them and go on.
    Skip,
}

/// The conversations of a file, in order, each with the number of its line.
pub(crate) struct Conversations {
    input: Box<dyn BufRead + Send>,
    path: PathBuf,
    source: String,
    line: u64,
    ended: bool,
}

impl fmt::Debug for Conversations {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("Conversations")
            .field("path", &self.path)
            .field("line", &self.line)
            .finish_non_exhaustive()
    }
}

impl Conversations {
    pub(crate) fn open(path: &Path) -> Result<Self> {
        let broken = |error: std::io::Error| Error::file("read", path, &error);
        let mut raw = BufReader::with_capacity(1 << 16, File::open(path).map_err(broken)?);
        let first = raw.fill_buf().map_err(broken)?;
        let input: Box<dyn BufRead + Send> = if first.starts_with(&[0x1f, 0x8b]) {
            Box::new(BufReader::new(flate2::bufread::MultiGzDecoder::new(raw)))
        } else if first.starts_with(&[0x28, 0xb5, 0x2f, 0xfd]) {
            Box::new(BufReader::new(zstd::Decoder::with_buffer(raw).map_err(broken)?))
        } else {
            Box::new(raw)
        };
        let name = path.file_name().map_or_else(String::new, |name| name.to_string_lossy().into_owned());
        let source = name.split('.').next().unwrap_or_default().to_owned();
        Ok(Self { input, path: path.to_owned(), source, line: 0, ended: false })
    }

    fn bad(&self, reason: String) -> Error {
        Error::Data { path: self.path.clone(), line: self.line, reason }
    }
}

impl Iterator for Conversations {
    type Item = Result<(u64, Conversation)>;

    fn next(&mut self) -> Option<Self::Item> {
        let mut line = Vec::new();
        while !self.ended {
            line.clear();
            self.line += 1;
            match (&mut self.input).take(LONGEST_LINE + 1).read_until(b'\n', &mut line) {
                Ok(0) => return None,
                Ok(_) => {}
                Err(error) => {
                    self.ended = true;
                    return Some(Err(Error::file("read", &self.path, &error)));
                }
            }
            if line.len() as u64 > LONGEST_LINE {
                self.ended = true;
                return Some(Err(self.bad(format!("it is longer than {} MiB", LONGEST_LINE >> 20))));
            }
            if !line.trim_ascii().is_empty() {
                let parsed = Conversation::parse(&line, &self.source);
                return Some(parsed.map(|found| (self.line, found)).map_err(|reason| self.bad(reason)));
            }
        }
        None
    }
}

/// What files hold, before anything is asked.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Survey {
    /// Lines that are conversations.
    pub conversations: u64,
    /// Follow-ups in them, each counted once.
    pub follow_ups: u64,
    /// Follow-ups that stand there a second time; they are annotated once.
    pub duplicates: u64,
    /// Lines that are none; the reasons of the first few.
    pub skipped: u64,
    /// Those reasons.
    pub reasons: Vec<String>,
}

/// How many reasons a [`Survey`] keeps.
const REASONS: usize = 5;

/// Reads all files once, so that what is wrong with them is known before money is spent.
///
/// # Errors
/// [`Error::File`] where one cannot be read, [`Error::Data`] at the first bad line under [`BadLines::Stop`].
pub fn survey(paths: &[PathBuf], bad_lines: BadLines) -> Result<Survey> {
    let mut survey = Survey::default();
    let mut seen = HashSet::new();
    each_turn(paths, bad_lines, &mut survey, |_, turn, survey| {
        if seen.insert(turn.key) {
            survey.follow_ups += 1;
        } else {
            survey.duplicates += 1;
        }
        true
    })?;
    Ok(survey)
}

/// Hands on all follow-ups of all files in order, with the line that they stand in, until `tell` says no.
pub(crate) fn each_turn(
    paths: &[PathBuf],
    bad_lines: BadLines,
    survey: &mut Survey,
    mut tell: impl FnMut((&Path, u64), Turn, &mut Survey) -> bool,
) -> Result<()> {
    for path in paths {
        let mut conversations = Conversations::open(path)?;
        while let Some(next) = conversations.next() {
            let (line, conversation) = match next {
                Ok(found) => found,
                Err(error @ Error::Data { .. }) if bad_lines == BadLines::Skip && !conversations.ended => {
                    survey.skipped += 1;
                    if survey.reasons.len() < REASONS {
                        survey.reasons.push(error.to_string());
                    }
                    continue;
                }
                Err(error) => return Err(error),
            };
            survey.conversations += 1;
            for turn in conversation.turns() {
                if !tell((path, line), turn, survey) {
                    return Ok(());
                }
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use super::*;

    const LINE: &str = r#"{"conversation_id":"c","messages":[{"role":"system","content":"s"},{"role":"user","content":"a"},
        {"role":"assistant","content":"b"},{"role":"user","content":"c"},{"role":"user","content":"d"},
        {"role":"assistant","content":[{"type":"text","text":"e"},{"type":"image"}]},{"role":"tool","content":null},
        {"role":"assistant","content":"f"},{"role":"user","content":"thanks\n  a lot"}]}"#;

    #[test]
    fn files_are_surveyed_before_anything_is_asked() {
        let directory = tempfile::tempdir().unwrap();
        let line = LINE.replace('\n', " ");
        let (plain, zipped) = (directory.path().join("a.jsonl"), directory.path().join("b.jsonl.zst"));
        std::fs::write(&plain, format!("{line}\n\nno json\n{line}\n")).unwrap();
        let mut encoder = zstd::Encoder::new(File::create(&zipped).unwrap(), 1).unwrap();
        encoder.write_all(line.replace("\"c\"", "\"x\"").as_bytes()).unwrap();
        let _ = encoder.finish().unwrap();
        let paths = [plain, zipped];
        let error = survey(&paths, BadLines::Stop).unwrap_err().to_string();
        assert!(error.contains("a.jsonl` line 3: ") && error.contains("conversation_id"), "{error}");
        let found = survey(&paths, BadLines::Skip).unwrap();
        assert_eq!((found.conversations, found.follow_ups, found.duplicates, found.skipped), (3, 4, 2, 1));
        assert!(survey(&[directory.path().join("none")], BadLines::Skip).is_err());
    }

    /// Binary, scripts of both directions, half a line: an error with its reason or a row, never a panic.
    #[test]
    fn any_bytes_are_a_row_or_a_reason() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("odd.jsonl");
        let long = "x".repeat(100_000);
        let odd = format!(
            r#"{{"conversation_id":"c","messages":[{{"role":"assistant","content":"{long}"}},{{"role":"user","content":"شكرا 👍🏽 \u0000"}}]}}"#
        );
        std::fs::write(&path, [odd.as_bytes(), b"\n\xff\xfe\x00\n{\"conversation_id\":\"d\"", b"\n"].concat()).unwrap();
        let found = survey(std::slice::from_ref(&path), BadLines::Skip).unwrap();
        assert_eq!((found.follow_ups, found.skipped), (1, 2));
        let shown = Conversations::open(&path).unwrap().next().unwrap().unwrap().1.turns()[0].shown();
        assert!(shown.response.chars().count() < 3_100);
        assert_eq!(shown.follow_up, "شكرا 👍🏽");
    }
}
