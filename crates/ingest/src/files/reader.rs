//! The thread that reads a file: records to events, events to rows, rows in buffers to the writer.

use std::collections::HashMap;
use std::path::Path;

use serde_json::{Map, Value, json};
use sha2::{Digest, Sha256};
use tokio::sync::mpsc;
use uptake_model::contract::{Contract, ErrorClass};
use uptake_model::decode::{self, Outcome, Record};
use uptake_model::time;
use uptake_model::{Next, Offset, SourcePartition};

use super::conversation::{Conversation, Sink, with_event_id};
use super::layout::{Layout, Refusal};
use super::source::{LONGEST_RECORD, Piece, Source};
use super::{Counts, Handle, ImportOptions, oasst};
use crate::buffer::{Buffer, Pass};
use crate::error::{Error, Result};
use crate::window::{Seen, Window};

/// So many event ids are remembered to drop copies; the jobs find those that are further apart.
const WINDOW: usize = 200_000;

/// A tree of message rows has at most so many; a longer one is cut.
const LONGEST_TREE: usize = 10_000;

/// The starts of so many trees are remembered, for files whose rows are not grouped by tree.
const MOST_TREES: usize = 1_000_000;

/// Reads one file.
pub(super) struct Reader {
    layout: Layout,
    out: Out,
    /// Message rows of the tree that is being gathered.
    tree: Vec<Map<String, Value>>,
    /// The start of each tree seen, by a hash of its id.
    starts: HashMap<u64, Value>,
}

/// Where events go.
struct Out {
    source: SourcePartition,
    options: ImportOptions,
    /// Events before this one are in bronze.
    from: i64,
    /// The ordinal of the next event.
    next: i64,
    buffer: Buffer,
    buffers: mpsc::Sender<Buffer>,
    window: Window,
    counts: Counts,
    /// The writer is gone; it says why.
    closed: bool,
}

impl Reader {
    /// A reader whose full buffers go to `buffers`, from the event `from` on.
    pub(super) fn new(
        source: SourcePartition,
        layout: Layout,
        options: ImportOptions,
        from: Option<Next>,
        buffers: mpsc::Sender<Buffer>,
    ) -> Self {
        let out = Out {
            source,
            options,
            from: from.map_or(0, |next| next.0),
            next: 0,
            buffer: Buffer::new(),
            buffers,
            window: Window::new(WINDOW),
            counts: Counts::default(),
            closed: false,
        };
        Self { layout, out, tree: Vec::new(), starts: HashMap::new() }
    }

    /// Reads the file to its end, or until it is asked to stop.
    pub(super) fn read(mut self, path: &Path, handle: &Handle) -> Result<Counts> {
        let mut file = Source::open(path, &handle.read)?;
        let outcome = loop {
            if handle.is_stopped() || self.out.closed {
                break Ok(false);
            }
            match file.next(path) {
                Ok(Some(Piece::Bytes(bytes))) => self.record(&bytes),
                Ok(Some(Piece::TooLong(length))) => {
                    let error = format!(
                        "the record has {length} bytes, at most {LONGEST_RECORD} are held; it stays in the file"
                    );
                    self.out.refuse((ErrorClass::RecordTooLarge, error), &[]);
                }
                Ok(None) => break Ok(true),
                Err(error) => break Err(error),
            }
        };
        match outcome {
            Ok(at_end) => {
                if at_end {
                    self.end_tree();
                    let end = Next(self.out.next.max(self.out.from));
                    self.out.buffer.set_idle(&self.out.source, None, end);
                }
                self.out.send();
                if at_end || self.out.closed { Ok(self.out.counts) } else { Err(Error::Stopped) }
            }
            Err(error) if self.out.next > 0 => {
                self.out.send();
                let why = match error {
                    Error::File { path, source } => format!("{path} cannot be read to its end: {source}"),
                    other => other.to_string(),
                };
                Err(Error::Invalid(format!("{why}; the {} events before that are kept", self.out.next)))
            }
            Err(error) => Err(error),
        }
    }

    fn record(&mut self, bytes: &[u8]) {
        let Ok(record) = serde_json::from_slice::<Map<String, Value>>(bytes) else {
            let refusal = self.why_no_object(bytes);
            return self.out.refuse(refusal, bytes);
        };
        if self.layout == Layout::OpenAssistant && record.contains_key("message_id") {
            return self.row(record, bytes);
        }
        if self.layout == Layout::OpenAi && record.contains_key("response") && record.contains_key("request") {
            self.out.counts.records += 1;
            return self.completion(record);
        }
        match self.layout.read(record) {
            Ok(conversation) => self.conversation(&conversation),
            Err(refusal) => self.out.refuse(refusal, bytes),
        }
    }

    /// The decoder says it best: it tells bytes that are no UTF-8, no JSON and no object apart.
    fn why_no_object(&self, bytes: &[u8]) -> Refusal {
        let record = self.out.as_record(bytes);
        match decode::decode(&record, Contract::Messages, &self.out.options.edge, self.out.options.now) {
            Outcome::Letter(letter) if letter.class < ErrorClass::MissingField => (letter.class, letter.error),
            _ => (ErrorClass::InvalidJson, "no valid JSON".to_owned()),
        }
    }

    fn conversation(&mut self, conversation: &Conversation) {
        self.out.counts.records += 1;
        self.out.counts.zero_counts += conversation.unset_counts;
        conversation.emit(self.out.options.fallback_start, &mut self.out);
    }

    /// A gateway's line goes on as it is, with an id and a time where it has none.
    fn completion(&mut self, mut record: Map<String, Value>) {
        let response = record.get("response");
        let has = |name: &str| response.and_then(|response| response.get(name)).is_some_and(|value| !value.is_null());
        let (has_id, has_time) =
            (has("id") || record.contains_key("event_id"), has("created") || record.contains_key("event_time"));
        if !has_time {
            let _ = record.insert("event_time".to_owned(), json!(time::time_text(self.out.options.fallback_start)));
        }
        let payload = if has_id { Value::Object(record).to_string().into_bytes() } else { with_event_id(record) };
        let _ = self.out.event(Contract::Completions, payload);
    }

    /// Gathers the rows of a tree, which stand together in the published files.
    fn row(&mut self, row: Map<String, Value>, bytes: &[u8]) {
        if !row.get("message_id").is_some_and(Value::is_string) {
            let error = "`message_id` must be a string".to_owned();
            return self.out.refuse((ErrorClass::WrongType, error), bytes);
        }
        let same = self.tree.last().is_some_and(|last| oasst::tree_of(last) == oasst::tree_of(&row));
        if !same || self.tree.len() >= LONGEST_TREE {
            self.end_tree();
        }
        self.tree.push(row);
    }

    fn end_tree(&mut self) {
        let rows = std::mem::take(&mut self.tree);
        let Some(id) = rows.first().and_then(oasst::tree_of).map(digest) else { return };
        match oasst::rows(rows) {
            Ok(mut conversation) => {
                conversation.started_at = self.starts.get(&id).cloned();
                if conversation.started_at.is_none()
                    && self.starts.len() < MOST_TREES
                    && let Some(time) = conversation.messages.iter().find_map(|message| message.time.clone())
                {
                    let _ = self.starts.insert(id, time);
                }
                self.conversation(&conversation);
            }
            Err(refusal) => self.out.refuse(refusal, &[]),
        }
    }
}

impl Out {
    fn as_record<'a>(&'a self, payload: &'a [u8]) -> Record<'a> {
        Record {
            topic: &self.source.topic,
            partition: self.source.partition,
            offset: self.next,
            key: None,
            payload: Some(payload),
            headers: Vec::new(),
            broker_time: None,
        }
    }

    /// Adds what an event became, and passes the buffer on when it is full.
    fn add(&mut self, outcome: Outcome, payload_bytes: usize) {
        let offset = Offset(self.next);
        self.next += 1;
        if let Outcome::Letter(letter) = &outcome {
            *self.counts.refused.entry(letter.class).or_default() += 1;
        }
        if offset.0 < self.from {
            self.counts.already_there += 1;
            return;
        }
        self.buffer.add(&self.source, None, offset, outcome, payload_bytes);
        if self.buffer.bytes() >= self.options.flush_bytes {
            self.send();
        }
    }

    fn send(&mut self) {
        let buffer = std::mem::take(&mut self.buffer);
        if !buffer.is_empty() && self.buffers.blocking_send(buffer).is_err() {
            self.closed = true;
        }
    }
}

impl Sink for Out {
    fn event(&mut self, contract: Contract, payload: Vec<u8>) -> bool {
        let outcome = decode::decode(&self.as_record(&payload), contract, &self.options.edge, self.options.now);
        let Outcome::Event(row) = &outcome else {
            self.add(outcome, payload.len());
            return false;
        };
        match self.window.note(&row.event_id, &row.content_hash) {
            Seen::New => {}
            Seen::Copy => {
                self.counts.duplicates += 1;
                if self.next >= self.from {
                    self.buffer.pass(&self.source, None, Offset(self.next), Pass::Duplicate);
                }
                self.next += 1;
                return true;
            }
            Seen::Reused => {
                let letter = decode::reused_event_id(row, None, &self.options.edge);
                self.add(Outcome::Letter(Box::new(letter)), payload.len());
                return true;
            }
        }
        match contract {
            Contract::Messages => self.counts.messages += 1,
            Contract::Reactions => self.counts.reactions += 1,
            Contract::Completions => self.counts.completions += 1,
            Contract::Erasures => {}
        }
        self.add(outcome, payload.len());
        true
    }

    fn refuse(&mut self, (class, error): Refusal, payload: &[u8]) {
        let mut record = self.as_record(payload);
        record.payload = record.payload.filter(|payload| !payload.is_empty());
        let letter = decode::refuse(&record, class, error, &self.options.edge, self.options.now);
        self.add(Outcome::Letter(Box::new(letter)), payload.len());
    }
}

fn digest(id: &str) -> u64 {
    Sha256::digest(id.as_bytes()).iter().take(8).fold(0, |value, byte| value << 8 | u64::from(*byte))
}
