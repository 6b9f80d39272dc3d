//! The bytes of a file as records: lines of JSON, elements of one JSON array, rows of Parquet.
//!
//! What a file is, its first bytes say, never its name. All of it streams: a line, an element or a few hundred rows are
//! held at a time.

use std::fs::File;
use std::io::{self, BufRead, BufReader, Read};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use flate2::read::MultiGzDecoder;

use super::rows::Rows;
use crate::error::{Error, Result};

/// Longer records are refused without being held.
pub(super) const LONGEST_RECORD: usize = 64 << 20;

/// One record of a file.
#[derive(Debug)]
pub(super) enum Piece {
    /// Its bytes.
    Bytes(Vec<u8>),
    /// It has so many bytes that it was passed over.
    TooLong(u64),
}

/// The records of a file.
pub(super) enum Source {
    Lines(Lines),
    Elements(Elements),
    Rows(Box<Rows>),
}

impl Source {
    /// Opens a file; `read` counts the bytes of it that were read.
    pub(super) fn open(path: &Path, read: &Arc<AtomicU64>) -> Result<Self> {
        let fault = |source| fault(path, source);
        let mut file = File::open(path).map_err(fault)?;
        let mut magic = [0; 4];
        let length = fill(&mut file, &mut magic).map_err(fault)?;
        let magic = magic.get(..length).unwrap_or_default();
        if magic == b"PAR1" {
            return Ok(Self::Rows(Box::new(Rows::open(file, path, Arc::clone(read))?)));
        }
        let file = Counted { file: File::open(path).map_err(fault)?, read: Arc::clone(read) };
        let bytes: Box<dyn Read + Send> = match magic {
            [0x1f, 0x8b, ..] => Box::new(MultiGzDecoder::new(BufReader::with_capacity(1 << 16, file))),
            [0x28, 0xb5, 0x2f, 0xfd] => Box::new(zstd::stream::read::Decoder::new(file).map_err(fault)?),
            _ => Box::new(file),
        };
        let mut bytes = BufReader::with_capacity(1 << 18, bytes);
        // A mark at the start that some programs write before UTF-8.
        if bytes.fill_buf().map_err(fault)?.starts_with(b"\xef\xbb\xbf") {
            bytes.consume(3);
        }
        let start = bytes.fill_buf().map_err(fault)?;
        if let Some(what) = known_otherwise(start) {
            return Err(Error::Invalid(format!("{} is {what}", path.display())));
        }
        let first = start.iter().find(|byte| !byte.is_ascii_whitespace());
        Ok(if first == Some(&b'[') {
            Self::Elements(Elements { bytes, state: State::Before, pending: None })
        } else {
            Self::Lines(Lines { bytes })
        })
    }

    /// The next record that is not blank.
    pub(super) fn next(&mut self, path: &Path) -> Result<Option<Piece>> {
        let fault = |source| fault(path, source);
        match self {
            Self::Lines(lines) => lines.next().map_err(fault),
            Self::Elements(elements) => elements.next().map_err(fault),
            Self::Rows(rows) => rows.next(),
        }
    }
}

/// What went wrong while reading a file.
fn fault(path: &Path, source: io::Error) -> Error {
    if source.kind() == io::ErrorKind::UnexpectedEof {
        return Error::Invalid(format!(
            "{} ends in the middle of its compressed data: it was cut off; get a whole copy and import that",
            path.display()
        ));
    }
    Error::File { path: path.display().to_string(), source }
}

/// What a file is that is surely no log, and what to do about it.
fn known_otherwise(start: &[u8]) -> Option<&'static str> {
    match start {
        [0xff, 0xfe, ..] | [0xfe, 0xff, ..] => Some("UTF-16 text; convert it first, with `iconv -f UTF-16 -t UTF-8`"),
        [b'P', b'K', 3 | 5, ..] => Some("a ZIP archive; unpack it and import what is inside"),
        [b'B', b'Z', b'h', ..] => Some("compressed by bzip2; unpack it, or use gzip or zstd"),
        [0xfd, b'7', b'z', b'X', b'Z', ..] => Some("compressed by xz; unpack it, or use gzip or zstd"),
        [b'%', b'P', b'D', b'F', ..] => Some("a PDF document, not a chat log"),
        [b'A', b'R', b'R', b'O', b'W', b'1', ..] => Some("an Arrow IPC file; write it as Parquet"),
        _ if start.get(257..262) == Some(b"ustar") => Some("a tar archive; unpack it and import what is inside"),
        _ => None,
    }
}

fn fill(file: &mut impl Read, buffer: &mut [u8]) -> io::Result<usize> {
    let mut length = 0;
    while let Some(rest) = buffer.get_mut(length..).filter(|rest| !rest.is_empty()) {
        match file.read(rest)? {
            0 => break,
            more => length += more,
        }
    }
    Ok(length)
}

/// A file that counts what was read of it.
pub(super) struct Counted {
    file: File,
    read: Arc<AtomicU64>,
}

impl Read for Counted {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let length = self.file.read(buffer)?;
        let _ = self.read.fetch_add(length as u64, Ordering::Relaxed);
        Ok(length)
    }
}

type Bytes = BufReader<Box<dyn Read + Send>>;

/// A record a line.
pub(super) struct Lines {
    bytes: Bytes,
}

impl Lines {
    fn next(&mut self) -> io::Result<Option<Piece>> {
        loop {
            let mut line = Vec::new();
            let mut length = 0_u64;
            loop {
                let chunk = self.bytes.fill_buf()?;
                if chunk.is_empty() {
                    break;
                }
                let end = chunk.iter().position(|byte| *byte == b'\n');
                let piece = chunk.get(..end.unwrap_or(chunk.len())).unwrap_or_default();
                length += piece.len() as u64;
                if line.len() + piece.len() <= LONGEST_RECORD {
                    line.extend_from_slice(piece);
                }
                let used = end.map_or(chunk.len(), |end| end + 1);
                self.bytes.consume(used);
                if end.is_some() {
                    break;
                }
            }
            if length > LONGEST_RECORD as u64 {
                return Ok(Some(Piece::TooLong(length)));
            }
            if !line.trim_ascii().is_empty() {
                return Ok(Some(Piece::Bytes(line)));
            }
            if self.bytes.fill_buf()?.is_empty() {
                return Ok(None);
            }
        }
    }
}

/// The elements of one JSON array, however they are laid out.
pub(super) struct Elements {
    bytes: Bytes,
    state: State,
    pending: Option<Element>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum State {
    /// Before the opening bracket.
    Before,
    /// Inside the array.
    Inside,
    /// Behind the closing bracket.
    Behind,
}

/// An element that is being read.
#[derive(Default)]
struct Element {
    bytes: Vec<u8>,
    length: u64,
    depth: usize,
    in_text: bool,
    escaped: bool,
}

impl Element {
    fn push(&mut self, byte: u8) {
        self.length += 1;
        if self.length <= LONGEST_RECORD as u64 {
            self.bytes.push(byte);
        }
        if self.in_text {
            self.in_text = byte != b'"' || self.escaped;
            self.escaped = byte == b'\\' && !self.escaped;
            return;
        }
        match byte {
            b'"' => self.in_text = true,
            b'{' | b'[' => self.depth += 1,
            b'}' | b']' => self.depth = self.depth.saturating_sub(1),
            _ => {}
        }
    }

    fn piece(self) -> Option<Piece> {
        if self.length > LONGEST_RECORD as u64 {
            return Some(Piece::TooLong(self.length));
        }
        (!self.bytes.trim_ascii().is_empty()).then_some(Piece::Bytes(self.bytes))
    }
}

impl Elements {
    fn next(&mut self) -> io::Result<Option<Piece>> {
        loop {
            let chunk = self.bytes.fill_buf()?;
            if chunk.is_empty() {
                // What is left of an array that never closes is a record that will be refused.
                return Ok(self.pending.take().and_then(Element::piece));
            }
            let (used, done) = step(chunk, &mut self.state, &mut self.pending);
            self.bytes.consume(used);
            if let Some(piece) = done.and_then(Element::piece) {
                return Ok(Some(piece));
            }
        }
    }
}

/// Reads on in an array: how many bytes were used, and the element that they end, if they end one.
fn step(chunk: &[u8], state: &mut State, pending: &mut Option<Element>) -> (usize, Option<Element>) {
    for (at, byte) in chunk.iter().copied().enumerate() {
        match state {
            State::Before => {
                if byte == b'[' {
                    *state = State::Inside;
                }
            }
            // Anything but white space here belongs to nothing; it is gathered and refused.
            State::Behind => pending.get_or_insert_with(Element::default).push(byte),
            State::Inside => {
                let open = pending.get_or_insert_with(Element::default);
                let ends = open.depth == 0 && !open.in_text && matches!(byte, b',' | b']');
                if !ends {
                    open.push(byte);
                    continue;
                }
                if byte == b']' {
                    *state = State::Behind;
                }
                return (at + 1, pending.take());
            }
        }
    }
    (chunk.len(), None)
}
