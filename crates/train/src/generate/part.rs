//! The file of answers while it is written: whole rows in their order, which a run that was killed is continued from.

use std::collections::VecDeque;
use std::fs::{File, OpenOptions, TryLockError};
use std::io::{BufRead, BufReader, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use super::lines::mark_of_output;
use crate::decoder::write_file;
use crate::error::{Error, Result};

/// The file under its name of a part, kept from other runs.
#[derive(Debug)]
pub(super) struct Part {
    file: File,
    /// The name of the whole file.
    path: PathBuf,
    unfinished: PathBuf,
    /// What the rows were made by.
    settings: PathBuf,
    /// Of the rows that are there.
    marks: VecDeque<u64>,
}

fn with_suffix(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(suffix);
    PathBuf::from(name)
}

impl Part {
    /// Opens the part of a file, or begins it; `settings` are those that decide over the answers.
    ///
    /// # Errors
    /// [`Error::Invalid`] where the whole file is there, another run is writing, or rows were made by other settings.
    pub(super) fn open(path: &Path, settings: &str) -> Result<Self> {
        if path.exists() {
            return Err(Error::Invalid(format!("`{}` is there already: remove it, or name another", path.display())));
        }
        let part = with_suffix(path, ".part");
        let failed = |action, source| Error::File { action, path: part.clone(), source };
        let file = OpenOptions::new().read(true).write(true).create(true).truncate(false).open(&part);
        let mut file = file.map_err(|source| failed("create", source))?;
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                return Err(Error::Invalid(format!("another run is writing `{}`: wait for it", part.display())));
            }
            Err(TryLockError::Error(source)) => return Err(failed("lock", source)),
        }
        let (marks, end) = whole_rows(&file).map_err(|source| failed("read", source))?;
        let settings_file = with_suffix(&part, ".json");
        if marks.is_empty() {
            write_file(&settings_file, settings.as_bytes())?;
        } else if std::fs::read(&settings_file).ok().as_deref() != Some(settings.as_bytes()) {
            return Err(Error::Invalid(format!(
                "`{}` holds {} answers of another model or other options: finish it with those ({} has them), or remove it",
                part.display(),
                marks.len(),
                settings_file.display()
            )));
        }
        let cut = file.set_len(end).and_then(|()| file.seek(SeekFrom::End(0)));
        let _ = cut.map_err(|source| failed("write", source))?;
        Ok(Self { file, path: path.to_owned(), unfinished: part, settings: settings_file, marks })
    }

    /// Takes the mark of the next row that is there.
    pub(super) fn next_mark(&mut self) -> Option<u64> {
        self.marks.pop_front()
    }

    /// Rows that are there and were not taken yet.
    pub(super) fn rows(&self) -> usize {
        self.marks.len()
    }

    /// The rows that are there belong to another input.
    pub(super) fn refuse(&self, reason: &str) -> Error {
        Error::Invalid(format!(
            "`{}` {reason}: continue it with the same input, or remove it to begin again",
            self.unfinished.display()
        ))
    }

    /// Appends a row.
    pub(super) fn write(&mut self, row: &[u8]) -> Result<()> {
        self.file.write_all(row).map_err(|source| Error::File {
            action: "write",
            path: self.unfinished.clone(),
            source,
        })
    }

    /// Gives the file its name.
    pub(super) fn finish(self) -> Result<()> {
        let attempt = || {
            self.file.sync_all()?;
            std::fs::rename(&self.unfinished, &self.path)?;
            std::fs::remove_file(&self.settings)
        };
        attempt().map_err(|source| Error::File { action: "write", path: self.path.clone(), source })
    }
}

/// The marks of the whole rows at the start of a file, and where they end: the last may have been cut off.
fn whole_rows(file: &File) -> std::io::Result<(VecDeque<u64>, u64)> {
    let mut reader = BufReader::new(file);
    let (mut marks, mut end, mut line) = (VecDeque::new(), 0, Vec::new());
    loop {
        line.clear();
        let read = reader.read_until(b'\n', &mut line)?;
        match mark_of_output(&line) {
            Some(mark) if line.ends_with(b"\n") => marks.push_back(mark),
            _ => return Ok((marks, end)),
        }
        end += read as u64;
    }
}
