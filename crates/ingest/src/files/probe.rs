//! Telling from a file's first records what layout it has, before anything is written.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;

use serde_json::{Map, Value};

use super::layout::Layout;
use super::source::{Piece, Source};
use crate::error::{Error, Result};

/// So many records are looked at. A file whose first ones are all unreadable is taken for something else than a log.
const RECORDS: usize = 50;

/// The layout of a file: the one that most of its first records have, or `wanted` if any of them has that.
///
/// # Errors
/// When none of them is a record of a layout.
pub(super) fn layout(path: &Path, wanted: Option<Layout>) -> Result<Layout> {
    let mut source = Source::open(path, &Arc::new(AtomicU64::new(0)))?;
    let mut seen = 0;
    let mut objects = 0;
    let mut columns = Vec::new();
    let mut fits = [0_usize; Layout::ALL.len()];
    while seen < RECORDS {
        let Some(piece) = source.next(path)? else { break };
        seen += 1;
        let Some(record) = object(&piece) else { continue };
        objects += 1;
        if columns.is_empty() {
            columns = record.keys().take(12).cloned().collect();
        }
        if let Some(wanted) = wanted.filter(|wanted| wanted.fits(&record)) {
            return Ok(wanted);
        }
        if let Some(found) = Layout::of(&record) {
            let at = Layout::ALL.iter().position(|layout| *layout == found).unwrap_or(0);
            fits[at] += 1;
        }
    }
    let most = fits.iter().copied().max().unwrap_or(0);
    let found =
        Layout::ALL.into_iter().zip(fits).find(|(_, count)| *count == most && most > 0).map(|(layout, _)| layout);
    match (wanted, found) {
        (None, Some(found)) => Ok(found),
        (Some(wanted), found) => Err(Error::Invalid(format!(
            "none of the first {seen} records of {} has the layout `{wanted}`, {}; {}",
            path.display(),
            wanted.shape(),
            found.map_or_else(
                || "nor any other that is known".to_owned(),
                |found| format!("they look like `{found}`: say --format {found}")
            ),
        ))),
        (None, None) if seen == 0 => {
            Err(Error::Invalid(format!("{} holds no record: there is nothing to import", path.display())))
        }
        (None, None) => Err(Error::Invalid(unknown(path, seen, objects, &columns))),
    }
}

fn unknown(path: &Path, seen: usize, objects: usize, columns: &[String]) -> String {
    let found = if objects == 0 {
        format!("none of its first {seen} lines is a JSON object")
    } else {
        format!("its records have the fields {}", columns.join(", "))
    };
    let layouts: Vec<String> =
        Layout::ALL.into_iter().map(|layout| format!("\n  {}: {}", layout.name(), layout.shape())).collect();
    format!(
        "{} is no chat log that can be read: {found}. Read are JSON lines (plain, gzip'd, zstd), one JSON array, and \
         Parquet, with records of one of these layouts:{}",
        path.display(),
        layouts.concat()
    )
}

/// The record as a JSON object, if it is one.
pub(super) fn object(piece: &Piece) -> Option<Map<String, Value>> {
    match piece {
        Piece::Bytes(bytes) => serde_json::from_slice(bytes).ok(),
        Piece::TooLong(_) => None,
    }
}
