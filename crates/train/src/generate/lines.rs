//! Prompts in, answers out, as JSON lines; what else stands in a line is kept as it is.

use std::collections::{BTreeMap, HashMap};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::io::{BufRead, Read};
use std::path::PathBuf;

use serde::ser::SerializeMap;
use serde::{Deserialize, Serialize, Serializer};
use serde_json::value::RawValue;

use super::Finish;
use crate::error::{Error, Result};
use crate::policy::chat::Message;

/// Longest line in bytes.
const LONGEST: u64 = 64 << 20;
/// Fields that the output has of its own.
const OWN: [&str; 8] = ["id", "prompt", "response", "finish_reason", "tokens", "sample", "truncated", "token_ids"];

/// A prompt as it stands in its line.
#[derive(Debug)]
pub(super) struct Line {
    /// Counted from 1.
    pub(super) number: u64,
    id: Box<RawValue>,
    prompt: Box<RawValue>,
    pub(super) messages: Vec<Message>,
    others: BTreeMap<String, Box<RawValue>>,
}

#[derive(Deserialize)]
#[serde(untagged, expecting = "prompt must be a list of {\"role\": …, \"content\": …} with texts, or a text")]
enum Prompt {
    Messages(Vec<Message>),
    Text(String),
}

impl Line {
    fn parse(line: &[u8], number: u64) -> Result<Self, String> {
        const FORM: &str =
            "a line must be {\"id\": …, \"prompt\": [{\"role\": \"user\", \"content\": …}, …]}, other fields are kept";
        if line.starts_with(&[0x1f, 0x8b]) || line.starts_with(&[0x28, 0xb5, 0x2f, 0xfd]) || line.starts_with(b"PAR1") {
            return Err("this is no JSON but a compressed or Parquet file".to_owned());
        }
        let mut fields: BTreeMap<String, Box<RawValue>> =
            serde_json::from_slice(line).map_err(|error| format!("{error}; {FORM}"))?;
        let mut take = |name: &str| fields.remove(name).ok_or_else(|| format!("it has no `{name}`; {FORM}"));
        let (id, prompt) = (take("id")?, take("prompt")?);
        if !id.get().starts_with(|first: char| first == '"' || first == '-' || first.is_ascii_digit()) {
            return Err(format!("`id` must be a text or a number; {FORM}"));
        }
        let messages = match serde_json::from_str(prompt.get()).map_err(|error| error.to_string())? {
            Prompt::Messages(messages) => messages,
            Prompt::Text(content) => vec![Message { role: "user".to_owned(), content }],
        };
        if messages.is_empty() {
            return Err(format!("its prompt has no message; {FORM}"));
        }
        fields.retain(|name, _| !OWN.contains(&name.as_str()));
        Ok(Self { number, id, prompt, messages, others: fields })
    }

    /// Its id as JSON.
    pub(super) fn id(&self) -> &str {
        self.id.get()
    }

    /// What tells its rows in the output from those of other lines.
    pub(super) fn mark(&self, sample: usize) -> u64 {
        mark(&self.id, &self.prompt, sample)
    }
}

fn mark(id: &RawValue, prompt: &RawValue, sample: usize) -> u64 {
    let mut hasher = DefaultHasher::new();
    (id.get(), prompt.get(), sample).hash(&mut hasher);
    hasher.finish()
}

/// The marks of a line of the output, or nothing where it is none.
pub(super) fn mark_of_output(line: &[u8]) -> Option<u64> {
    #[derive(Deserialize)]
    struct Written<'a> {
        #[serde(borrow)]
        id: &'a RawValue,
        #[serde(borrow)]
        prompt: &'a RawValue,
        sample: usize,
    }
    let written: Written<'_> = serde_json::from_slice(line).ok()?;
    Some(mark(written.id, written.prompt, written.sample))
}

/// Reads lines one by one.
pub(super) struct Lines<'a> {
    input: &'a mut dyn BufRead,
    /// What the input is called where one of its lines is named.
    name: PathBuf,
    number: u64,
    /// Hashes of the ids, and where they stand.
    ids: HashMap<u64, u64>,
}

impl<'a> Lines<'a> {
    pub(super) fn new(input: &'a mut dyn BufRead, name: PathBuf) -> Self {
        Self { input, name, number: 0, ids: HashMap::new() }
    }

    /// An error that names the line.
    pub(super) fn refuse(&self, line: u64, reason: String) -> Error {
        Error::Data { path: self.name.clone(), line, reason }
    }

    /// The next line that is not empty; nothing at the end.
    ///
    /// # Errors
    /// [`Error::Data`] for a line that is no prompt, after which the next can be read; [`Error::File`] where reading breaks
    /// off.
    pub(super) fn next(&mut self) -> Result<Option<Line>> {
        loop {
            let mut bytes = Vec::new();
            let read = Read::take(&mut self.input, LONGEST + 1).read_until(b'\n', &mut bytes);
            let read = read.map_err(|source| Error::File { action: "read", path: self.name.clone(), source })?;
            if read == 0 {
                return Ok(None);
            }
            self.number += 1;
            if bytes.len() as u64 > LONGEST {
                // The rest of it would be read as lines of their own: there is no going on.
                let source = std::io::Error::other(format!("line {} is longer than {LONGEST} bytes", self.number));
                return Err(Error::File { action: "read", path: self.name.clone(), source });
            }
            if bytes.trim_ascii().is_empty() {
                continue;
            }
            let line = Line::parse(&bytes, self.number).map_err(|reason| self.refuse(self.number, reason))?;
            let mut hasher = DefaultHasher::new();
            line.id().hash(&mut hasher);
            if let Some(before) = self.ids.insert(hasher.finish(), self.number) {
                let id = line.id();
                return Err(self.refuse(self.number, format!("its id {id} is that of line {before}: ids must differ")));
            }
            return Ok(Some(line));
        }
    }
}

/// A row of the output.
#[derive(Debug)]
pub(super) struct Answer<'a> {
    pub(super) line: &'a Line,
    pub(super) sample: usize,
    pub(super) response: &'a str,
    pub(super) finish: Finish,
    pub(super) tokens: &'a [u32],
    /// Whether the tokens themselves are written.
    pub(super) token_ids: bool,
    /// Tokens that were cut off the start of the prompt.
    pub(super) cut: usize,
}

impl Serialize for Answer<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(None)?;
        map.serialize_entry("id", &self.line.id)?;
        map.serialize_entry("prompt", &self.line.prompt)?;
        map.serialize_entry("response", self.response)?;
        map.serialize_entry("finish_reason", &self.finish)?;
        map.serialize_entry("tokens", &self.tokens.len())?;
        map.serialize_entry("sample", &self.sample)?;
        if self.cut > 0 {
            map.serialize_entry("truncated", &self.cut)?;
        }
        if self.token_ids {
            map.serialize_entry("token_ids", self.tokens)?;
        }
        for (name, value) in &self.line.others {
            map.serialize_entry(name, value)?;
        }
        map.end()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Vec<Result<Line, String>> {
        let mut input = text.as_bytes();
        let mut lines = Lines::new(&mut input, PathBuf::from("in.jsonl"));
        let mut found = Vec::new();
        while let Some(line) = lines.next().map_err(|error| error.to_string()).transpose() {
            found.push(line);
        }
        found
    }

    #[test]
    fn what_else_stands_in_a_line_is_kept_as_it_is() {
        let line = r#"{"z":1.10,"id":7,"prompt":[{"role":"user","content":"é\u00e9"}],"tokens":9,"a":{"b":[ 1e3 ]}}"#;
        let found = read(line).remove(0).unwrap();
        let answer = |cut| {
            let (tokens, token_ids) = (&[7, 8, 9], cut > 0);
            let finish = Finish::Stop;
            let answer = Answer { line: &found, sample: 2, response: "a\"b", finish, tokens, token_ids, cut };
            serde_json::to_string(&answer).unwrap()
        };
        let expected = r#"{"id":7,"prompt":[{"role":"user","content":"é\u00e9"}],"response":"a\"b","finish_reason":"stop","tokens":3,"sample":2,"a":{"b":[ 1e3 ]},"z":1.10}"#;
        assert_eq!(answer(0), expected);
        assert!(answer(4).contains(r#""sample":2,"truncated":4,"token_ids":[7,8,9],"#));
        assert_eq!(mark_of_output(answer(0).as_bytes()), Some(found.mark(2)));
        assert_ne!(found.mark(2), found.mark(1));
        assert_eq!(mark_of_output(&answer(0).as_bytes()[..60]), None);
    }

    #[test]
    fn a_line_that_is_no_prompt_is_named_and_the_next_one_read() {
        let good = r#"{"id":"a","prompt":"hello"}"#;
        for (line, says) in [
            ("{", "EOF"),
            (r#"{"prompt":"a"}"#, "no `id`"),
            (r#"{"id":"b"}"#, "no `prompt`"),
            (r#"{"id":null,"prompt":"a"}"#, "text or a number"),
            (r#"{"id":"b","prompt":[]}"#, "no message"),
            (r#"{"id":"b","prompt":[{"role":"user"}]}"#, "prompt must be"),
            (r#"{"id":"b","prompt":3}"#, "prompt must be"),
            (good, "line 1: ids must differ"),
            ("[1]", "a line must be"),
            ("PAR1", "Parquet"),
        ] {
            let found = read(&format!("{good}\n\n{line}\n{{\"id\":\"c\",\"prompt\":\"x\"}}"));
            assert_eq!(found.len(), 3, "{line}");
            let error = found[1].as_ref().unwrap_err();
            assert!(error.contains("`in.jsonl` line 3: ") && error.contains(says), "{says}: {error}");
            assert_eq!(found[2].as_ref().unwrap().messages[0].content, "x");
        }
    }
}
