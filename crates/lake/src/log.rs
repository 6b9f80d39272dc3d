//! Reading the transaction log: the actions of one commit, and the positions that all commits together have left.
//!
//! Delta's kernel answers one application id at a time by replaying the log; a writer with many partitions asks for many at
//! each commit. [`Positions`] folds the log once and then follows it commit by commit.

use std::collections::BTreeMap;

use arrow::array::{Array, AsArray, StructArray};
use arrow::datatypes::Int64Type;
use bytes::Bytes;
use deltalake::kernel::{Add, Remove};
use deltalake::logstore::{LogStore, LogStoreRef};
use futures::{StreamExt, TryStreamExt};
use object_store::path::Path;
use object_store::{ObjectStore, ObjectStoreExt};
use parquet::arrow::ProjectionMask;
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
use serde_json::Value;

use crate::error::{Error, Result};

/// Log entries read at once.
const READ_AHEAD: usize = 8;

/// What one commit did, as far as this crate needs it.
#[derive(Debug, Default)]
pub(crate) struct Entry {
    pub(crate) version: i64,
    pub(crate) added: Vec<Add>,
    pub(crate) removed: Vec<Remove>,
    pub(crate) positions: Vec<(String, i64)>,
    /// Whether it changes the columns or what a reader and writer must be able to do.
    pub(crate) reshapes: bool,
    pub(crate) info: Value,
}

impl Entry {
    /// `WRITE`, `DELETE`, `OPTIMIZE`, …; empty when the commit does not say.
    pub(crate) fn operation(&self) -> &str {
        self.info.get("operation").and_then(Value::as_str).unwrap_or_default()
    }

    /// Reads the newline-separated actions of a commit. Actions that this crate does not need are passed over.
    fn parse(table: &str, version: i64, bytes: &Bytes) -> Result<Self> {
        let corrupt = |error| Error::Corrupt {
            context: format!("{table}: read version {version} of the log"),
            source: Box::new(error),
        };
        let mut entry = Self { version, ..Self::default() };
        for action in serde_json::Deserializer::from_slice(bytes).into_iter::<Value>() {
            let mut action = action.map_err(corrupt)?;
            if let Some(add) = action.get_mut("add").map(Value::take) {
                entry.added.push(serde_json::from_value(add).map_err(corrupt)?);
            } else if let Some(remove) = action.get_mut("remove").map(Value::take) {
                entry.removed.push(serde_json::from_value(remove).map_err(corrupt)?);
            } else if let Some(position) = action.get("txn") {
                entry.positions.extend(position_of(position));
            } else if let Some(info) = action.get_mut("commitInfo").map(Value::take) {
                entry.info = info;
            } else if action.get("metaData").is_some() || action.get("protocol").is_some() {
                entry.reshapes = true;
            }
        }
        Ok(entry)
    }
}

fn position_of(action: &Value) -> Option<(String, i64)> {
    let key = action.get("appId")?.as_str()?.to_owned();
    Some((key, action.get("version")?.as_i64()?))
}

/// One version of the log; none when it is not there (not yet, or cleaned up).
pub(crate) async fn entry(log_store: &LogStoreRef, table: &str, version: i64) -> Result<Option<Entry>> {
    let number =
        u64::try_from(version).map_err(|_| Error::Invalid(format!("{table}: there is no version {version}")))?;
    let bytes = log_store
        .read_commit_entry(number)
        .await
        .map_err(|error| Error::sort(format!("{table}: read version {version} of the log"), error))?;
    bytes.map(|bytes| Entry::parse(table, version, &bytes)).transpose()
}

/// Versions `from..=to` in order; an error that names the first one that is not there.
pub(crate) async fn entries(log_store: &LogStoreRef, table: &str, from: i64, to: i64) -> Result<Vec<Entry>> {
    let reads = futures::stream::iter(from..=to).map(|version| async move {
        entry(log_store, table, version).await?.ok_or_else(|| Error::LogGone {
            table: table.to_owned(),
            since: from - 1,
            missing: version,
        })
    });
    reads.buffered(READ_AHEAD).try_collect().await
}

/// Every position that the log holds at one version.
#[derive(Debug, Clone, Default)]
pub(crate) struct Positions {
    version: Option<i64>,
    /// The last version that changed columns or protocol, or a later one.
    shaped: i64,
    by_key: BTreeMap<String, i64>,
}

impl Positions {
    pub(crate) fn get(&self, key: &str) -> Option<i64> {
        self.by_key.get(key).copied()
    }

    /// Whether a table that was read at `version` may have other columns now.
    pub(crate) fn reshaped_since(&self, version: i64) -> bool {
        self.shaped > version
    }

    pub(crate) fn with_prefix(&self, prefix: &str) -> Vec<(String, i64)> {
        self.by_key
            .range(prefix.to_owned()..)
            .take_while(|(key, _)| key.starts_with(prefix))
            .map(|(key, version)| (key.clone(), *version))
            .collect()
    }

    /// Follows the log to `version`: commit by commit where it can, else from the last checkpoint.
    pub(crate) async fn follow(&mut self, log_store: &LogStoreRef, table: &str, version: i64) -> Result<()> {
        let from = match self.version {
            Some(known) if known == version => return Ok(()),
            Some(known) if known < version => known + 1,
            _ => {
                *self = Self::from_checkpoint(log_store, table, version).await?;
                self.version.map_or(0, |checkpoint| checkpoint + 1)
            }
        };
        match entries(log_store, table, from, version).await {
            Ok(entries) => self.apply(entries, version),
            // The commits in between were cleaned up since: a checkpoint behind them holds what they said.
            Err(Error::LogGone { .. }) if self.version.is_some() => {
                let mut fresh = Self::from_checkpoint(log_store, table, version).await?;
                let from = fresh.version.map_or(0, |checkpoint| checkpoint + 1);
                fresh.apply(entries(log_store, table, from, version).await?, version);
                *self = fresh;
            }
            Err(error) => return Err(error),
        }
        Ok(())
    }

    /// The positions after a commit that this process has made, if they were followed up to it.
    pub(crate) fn after(&self, version: i64, moved: impl IntoIterator<Item = (String, i64)>) -> Self {
        let mut next = self.clone();
        if next.version == Some(version - 1) {
            next.by_key.extend(moved);
            next.version = Some(version);
        }
        next
    }

    fn apply(&mut self, entries: Vec<Entry>, version: i64) {
        for entry in entries {
            if entry.reshapes {
                self.shaped = entry.version;
            }
            self.by_key.extend(entry.positions);
        }
        self.version = Some(version);
    }

    /// The positions at the last checkpoint up to `version`; nothing when there is none.
    async fn from_checkpoint(log_store: &LogStoreRef, table: &str, version: i64) -> Result<Self> {
        let store = log_store.object_store(None);
        let Some((checkpoint, parts)) = last_checkpoint(store.as_ref(), table, version).await? else {
            return Ok(Self::default());
        };
        let mut positions = Self { version: Some(checkpoint), shaped: checkpoint, ..Self::default() };
        for part in parts {
            let context = || format!("{table}: read checkpoint `{part}`");
            let got = store.get(&part).await.map_err(|error| Error::sort(context(), error))?;
            let bytes = got.bytes().await.map_err(|error| Error::sort(context(), error))?;
            let is_json = part.extension() == Some("json");
            let read = tokio::task::spawn_blocking(move || {
                if is_json { positions_of_json(&bytes) } else { positions_of_parquet(bytes) }
            });
            let found = read
                .await
                .map_err(|error| Error::bug(context(), error))?
                .map_err(|source| Error::Corrupt { context: context(), source })?;
            positions.by_key.extend(found);
        }
        Ok(positions)
    }
}

/// The newest complete checkpoint up to `version` and its files.
async fn last_checkpoint(store: &dyn ObjectStore, table: &str, version: i64) -> Result<Option<(i64, Vec<Path>)>> {
    let listing: Vec<_> = store
        .list(Some(&Path::from("_delta_log")))
        .try_collect()
        .await
        .map_err(|error| Error::sort(format!("{table}: list the log"), error))?;
    let mut found: BTreeMap<(i64, Option<usize>), Vec<Path>> = BTreeMap::new();
    for object in listing {
        let Some((checkpoint, parts)) = object.location.filename().and_then(checkpoint_of) else {
            continue;
        };
        if checkpoint <= version {
            found.entry((checkpoint, parts)).or_default().push(object.location);
        }
    }
    let complete = found.into_iter().rev().find(|((_, parts), files)| parts.is_none_or(|parts| parts == files.len()));
    Ok(complete.map(|((checkpoint, parts), mut files)| {
        // Several single files of one version say the same.
        if parts.is_none() {
            files.truncate(1);
        }
        (checkpoint, files)
    }))
}

/// Version and number of parts (none for a single file) that a checkpoint's name says.
///
/// `<20 digits>.checkpoint.parquet`, `<…>.checkpoint.<part>.<parts>.parquet` and `<…>.checkpoint.<uuid>.(json|parquet)`
/// (Delta protocol, "Checkpoint naming").
fn checkpoint_of(name: &str) -> Option<(i64, Option<usize>)> {
    let parts: Vec<&str> = name.split('.').collect();
    let version = parts.first().filter(|digits| digits.len() == 20)?.parse().ok()?;
    match parts.as_slice() {
        [_, "checkpoint", "parquet"] | [_, "checkpoint", _, "parquet" | "json"] => Some((version, None)),
        [_, "checkpoint", _, count, "parquet"] => Some((version, Some(count.parse().ok()?))),
        _ => None,
    }
}

type Found = std::result::Result<Vec<(String, i64)>, Box<dyn std::error::Error + Send + Sync>>;

fn positions_of_json(bytes: &Bytes) -> Found {
    let mut found = Vec::new();
    for action in serde_json::Deserializer::from_slice(bytes).into_iter::<Value>() {
        found.extend(action?.get("txn").and_then(position_of));
    }
    Ok(found)
}

fn positions_of_parquet(bytes: Bytes) -> Found {
    let reader = ParquetRecordBatchReaderBuilder::try_new(bytes)?;
    let schema = reader.parquet_schema().clone();
    let wanted: Vec<usize> = (0..schema.num_columns())
        .filter(|leaf| {
            let path = schema.column(*leaf).path().string();
            path == "txn.appId" || path == "txn.version"
        })
        .collect();
    if wanted.is_empty() {
        return Ok(Vec::new());
    }
    let reader = reader.with_projection(ProjectionMask::leaves(&schema, wanted)).build()?;
    let mut found = Vec::new();
    for batch in reader {
        let batch = batch?;
        let Some(actions) =
            batch.column_by_name("txn").and_then(|column| column.as_any().downcast_ref::<StructArray>())
        else {
            continue;
        };
        let (Some(keys), Some(versions)) = (actions.column_by_name("appId"), actions.column_by_name("version")) else {
            continue;
        };
        let keys = arrow::compute::cast(keys, &arrow::datatypes::DataType::Utf8)?;
        let (keys, versions) = (keys.as_string::<i32>(), versions.as_primitive::<Int64Type>());
        for row in 0..actions.len() {
            if actions.is_valid(row) && keys.is_valid(row) && versions.is_valid(row) {
                found.push((keys.value(row).to_owned(), versions.value(row)));
            }
        }
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_checkpoints() {
        let check = |rest: &str, expected| assert_eq!(checkpoint_of(&format!("{:020}.{rest}", 99)), expected, "{rest}");
        check("checkpoint.parquet", Some((99, None)));
        check("checkpoint.0000000001.0000000003.parquet", Some((99, Some(3))));
        check("checkpoint.80a083e8-7026-4e79-81be-64bd76c43a11.json", Some((99, None)));
        check("json", None);
        assert_eq!(checkpoint_of("_last_checkpoint"), None);
    }

    #[test]
    fn unknown_actions_are_passed_over_and_broken_ones_are_not() {
        let lines = concat!(
            r#"{"commitInfo":{"operation":"WRITE"}}"#,
            "\n",
            r#"{"someday":{"x":1}}"#,
            "\n",
            r#"{"txn":{"appId":"live/messages/0","version":7}}"#
        );
        let entry = Entry::parse("t", 3, &Bytes::from_static(lines.as_bytes())).unwrap();
        assert_eq!(entry.operation(), "WRITE");
        assert_eq!(entry.positions, vec![("live/messages/0".to_owned(), 7)]);
        let error = Entry::parse("t", 3, &Bytes::from_static(b"{\"add\":")).unwrap_err();
        assert_eq!(error.kind(), crate::Kind::Corrupt);
    }
}
