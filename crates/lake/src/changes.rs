//! What a reader of a table has not seen yet.
//!
//! Three traps: compaction adds files whose rows are old (`dataChange = false`), a deletion rewrites survivors as if they
//! were new, and log clean-up may have passed the reader.

use std::collections::{BTreeMap, BTreeSet};

use deltalake::kernel::Add;
use serde_json::Value;
use uptake_model::Kind;
use uptake_model::time::Day;

use crate::error::{Error, Result};
use crate::log::{self, Entry};
use crate::request::File;
use crate::statistics::day_from;
use crate::table::{Table, files_of, version_of};

/// Operations that rewrite what survives them.
const DELETIONS: [&str; 2] = ["DELETE", "ERASE"];

/// What has changed in a table since a version.
#[derive(Debug, Clone, Default)]
pub struct Changes {
    /// The version up to which changes are listed.
    pub to: i64,
    /// Files whose rows are new; those that were replaced again in between are left out. A file may have been compacted
    /// away since: [`Table::provider_of`] reads it all the same.
    pub added: Vec<File>,
    /// Days of the date partition of which files came or went.
    pub days: BTreeSet<Day>,
    /// Versions that were passed over, with the reason.
    pub skipped: Vec<(i64, String)>,
}

impl Table {
    /// What has changed after `version` (exclusive) up to the newest one; without a version, everything that is there.
    ///
    /// # Errors
    /// [`Error::LogGone`] when the log was cleaned up behind the reader, [`Error::Rewritten`] when a deletion has mixed
    /// rows that were read with rows that were not; both ask for a full rebuild.
    pub async fn changes_since(&self, version: Option<i64>) -> Result<Changes> {
        let state = self.fresh().await?;
        let to = version_of(&state.table);
        let Some(since) = version else {
            let added = files_of(&state);
            let days = added.iter().filter_map(|file| self.day_of(&file.partition)).collect();
            return Ok(Changes { to, added, days, skipped: Vec::new() });
        };
        if since > to {
            return Err(Error::Invalid(format!(
                "{}: version {since} was read before, but the newest is {to}: the table was made anew; run a full rebuild",
                self.spec()
            )));
        }
        let table = self.spec().qualified();
        let entries = log::entries(self.log_store(), &table, since + 1, to).await?;
        let mut gathering = Gathering::default();
        for entry in entries {
            gathering.take(&table, entry)?;
        }
        let mut days = BTreeSet::new();
        for partition in &gathering.touched {
            days.extend(self.day_of(partition));
        }
        Ok(Changes {
            to,
            added: gathering.added.into_values().map(file_of).collect(),
            days,
            skipped: gathering.skipped,
        })
    }

    /// The day in the partition values of a file.
    fn day_of(&self, partition: &BTreeMap<String, Option<String>>) -> Option<Day> {
        let is_date = |name: &&&str| self.spec().column(name).is_some_and(|column| column.kind == Kind::Date);
        let name = self.spec().partition.iter().find(is_date)?;
        day_from(partition.get(*name)?.as_deref()?)
    }
}

#[derive(Debug, Default)]
struct Gathering {
    added: BTreeMap<String, Add>,
    touched: BTreeSet<BTreeMap<String, Option<String>>>,
    skipped: Vec<(i64, String)>,
}

impl Gathering {
    fn take(&mut self, table: &str, entry: Entry) -> Result<()> {
        let operation = entry.operation().to_owned();
        let version = entry.version;
        if DELETIONS.contains(&operation.as_str()) {
            return self.take_deletion(table, entry);
        }
        let mut changes =
            entry.added.iter().map(|add| add.data_change).chain(entry.removed.iter().map(|remove| remove.data_change));
        let kept = changes.any(|data_change| !data_change);
        if kept {
            self.skipped.push((version, format!("{operation}: the same rows in other files")));
        }
        for remove in entry.removed.into_iter().filter(|remove| remove.data_change) {
            let partition = remove.partition_values.or_else(|| {
                let add = self.added.get(&remove.path);
                add.map(|add| add.partition_values.clone())
            });
            self.touched.extend(partition.map(|values| values.into_iter().collect()));
            self.added.remove(&remove.path);
        }
        for add in entry.added.into_iter().filter(|add| add.data_change) {
            self.touched.insert(add.partition_values.clone().into_iter().collect());
            self.added.insert(add.path.clone(), add);
        }
        Ok(())
    }

    /// A deletion brings nothing new. If it rewrote files that are new to this reader, and only those, what it left of
    /// them takes their place.
    fn take_deletion(&mut self, table: &str, entry: Entry) -> Result<()> {
        let version = entry.version;
        let operation = entry.operation().to_owned();
        let unread = entry.removed.iter().filter(|remove| self.added.contains_key(&remove.path)).count();
        if unread == 0 {
            self.skipped.push((version, format!("{operation}: nothing new survives a deletion")));
            return Ok(());
        }
        if unread < entry.removed.len() {
            return Err(Error::Rewritten { table: table.to_owned(), version });
        }
        for remove in &entry.removed {
            self.added.remove(&remove.path);
        }
        for add in entry.added {
            self.added.insert(add.path.clone(), add);
        }
        Ok(())
    }
}

fn file_of(add: Add) -> File {
    let rows = add
        .stats
        .as_deref()
        .and_then(|statistics| serde_json::from_str::<Value>(statistics).ok())
        .and_then(|statistics| statistics.get("numRecords")?.as_u64());
    File {
        path: add.path,
        size: u64::try_from(add.size).unwrap_or(0),
        partition: add.partition_values.into_iter().collect(),
        rows,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn add(path: &str, data_change: bool) -> Add {
        serde_json::from_value(json!({
            "path": path, "partitionValues": {"conversation_date": "2026-01-01"}, "size": 1, "modificationTime": 0,
            "dataChange": data_change,
        }))
        .unwrap()
    }

    fn entry(version: i64, operation: &str, added: &[(&str, bool)], removed: &[(&str, bool)]) -> Entry {
        Entry {
            version,
            added: added.iter().map(|(path, change)| add(path, *change)).collect(),
            removed: removed
                .iter()
                .map(|(path, change)| serde_json::from_value(json!({"path": path, "dataChange": change})).unwrap())
                .collect(),
            positions: Vec::new(),
            reshapes: false,
            info: json!({ "operation": operation }),
        }
    }

    fn gather(entries: Vec<Entry>) -> Result<(Vec<String>, usize)> {
        let mut gathering = Gathering::default();
        for entry in entries {
            gathering.take("t", entry)?;
        }
        Ok((gathering.added.into_keys().collect(), gathering.skipped.len()))
    }

    fn check(entries: Vec<Entry>, added: &[&str], skipped: usize) {
        let (paths, passed) = gather(entries).unwrap();
        assert_eq!((paths, passed), (added.iter().map(ToString::to_string).collect(), skipped));
    }

    #[test]
    fn compaction_brings_nothing_new_and_hides_nothing() {
        let appended = || entry(1, "WRITE", &[("a", true)], &[]);
        let compacted = entry(2, "OPTIMIZE", &[("c", false)], &[("a", false), ("old", false)]);
        check(vec![appended(), compacted], &["a"], 1);
    }

    #[test]
    fn what_was_replaced_again_is_left_out() {
        let twice = vec![entry(1, "WRITE", &[("a", true)], &[]), entry(2, "WRITE", &[("b", true)], &[("a", true)])];
        check(twice, &["b"], 0);
    }

    #[test]
    fn survivors_of_a_deletion_are_not_new() {
        check(vec![entry(1, "DELETE", &[("survivors", true)], &[("old", true)])], &[], 1);
        let unread =
            vec![entry(1, "WRITE", &[("a", true)], &[]), entry(2, "DELETE", &[("rest of a", true)], &[("a", true)])];
        check(unread, &["rest of a"], 0);
        let mixed = vec![
            entry(1, "WRITE", &[("a", true)], &[]),
            entry(2, "DELETE", &[("rest", true)], &[("a", true), ("old", true)]),
        ];
        assert!(matches!(gather(mixed), Err(Error::Rewritten { version: 2, .. })));
    }
}
