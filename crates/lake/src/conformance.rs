//! One exam for every store: memory, local disk, the lossy store, and whatever comes.
//!
//! Each function takes a fresh lake and panics when the store, or this crate over it, does not keep a promise.
#![expect(clippy::missing_panics_doc, clippy::unwrap_used, clippy::panic, reason = "an exam reports by panicking")]

mod replacing;
mod samples;

use std::collections::BTreeSet;
use std::sync::Arc;

use arrow::array::{AsArray, RecordBatch};
use arrow::datatypes::Int64Type;
use datafusion::catalog::TableProvider;
use datafusion::prelude::SessionContext;
use futures::TryStreamExt;
use object_store::ObjectStoreExt;
use object_store::path::Path;
use uptake_model::tables::{DEAD_LETTERS, EVENTS};
use uptake_model::{Next, SourcePartition};

use crate::error::{Error, Kind};
use crate::lossy::{Fault, LossyStore};
use crate::request::{Advance, CommitRequest, Committed};
use crate::{Lake, Table};

pub use replacing::{replace_conflict_is_detected, replace_is_exact, staged_days_are_shown_together};
pub use samples::{CANARY, DAY, events, letters, rejected, request};

/// The exam as tests of a module: `examine!(disk, lake())`, where the expression gives what must outlive the lake, and a
/// fresh lake. It sees the names that are in scope where the macro stands.
#[macro_export]
macro_rules! examine {
    ($module:ident, $lake:expr) => {
        $crate::examine! {
            $module, $lake,
            append_is_atomic,
            append_is_idempotent,
            changes_skip_compaction,
            erased_text_is_not_in_the_log,
            letters_are_found,
            positions_survive_checkpoints,
            replace_conflict_is_detected,
            replace_is_exact,
            rivals_all_come_through,
            staged_days_are_shown_together,
            stale_writer_is_fenced,
            the_past_can_be_read,
            watermark_leaves_idle_sources_out,
        }
    };
    ($module:ident, $lake:expr, $($name:ident),* $(,)?) => {
        mod $module {
            use super::*;

            $(#[tokio::test]
            async fn $name() {
                let (_kept, lake) = $lake;
                $crate::conformance::$name(&lake).await;
            })*
        }
    };
}

/// The values of column `offset`, sorted, duplicates kept.
pub async fn offsets(provider: Arc<dyn TableProvider>) -> Vec<i64> {
    let frame = SessionContext::new().read_table(provider).unwrap();
    let batches = frame.select_columns(&["offset"]).unwrap().collect().await.unwrap();
    let mut offsets: Vec<i64> =
        batches.iter().flat_map(|batch| batch.column(0).as_primitive::<Int64Type>().values().to_vec()).collect();
    offsets.sort_unstable();
    offsets
}

async fn stored(table: &Table) -> Vec<i64> {
    table.refresh().await.unwrap();
    offsets(table.provider().await.unwrap()).await
}

fn range(range: std::ops::Range<i64>) -> Vec<i64> {
    range.collect()
}

/// Rows of several partitions and several positions become visible together, or not at all.
pub async fn append_is_atomic(lake: &Lake) {
    let table = lake.table(&EVENTS).await.unwrap();
    let advances = vec![
        Advance { key: "live/messages/0".into(), from: None, to: 10 },
        Advance { key: "live/messages/1".into(), from: None, to: 20 },
    ];
    let batches = vec![events(0, 0..10, DAY), events(1, 10..20, DAY + 1)];
    let broken = rejected(0..1, "not an event", DAY);
    let all = CommitRequest { batches, advances, ..CommitRequest::default() };
    let mut with_broken = all.clone();
    with_broken.batches.push(broken);
    let error = table.append(with_broken).await.unwrap_err();
    assert_eq!(error.kind(), Kind::Invalid, "{error}");
    assert_eq!(stored(&table).await, Vec::<i64>::new());
    assert_eq!(table.position("live/messages/0").await.unwrap(), None);

    let before = table.version();
    assert_eq!(table.append(all).await.unwrap(), Committed::Written { version: before + 1 });
    let other = lake.existing(&EVENTS).await.unwrap().unwrap();
    assert_eq!(stored(&other).await, range(0..20));
    assert_eq!(
        other.positions("live/").await.unwrap(),
        vec![("live/messages/0".to_owned(), 10), ("live/messages/1".to_owned(), 20)]
    );
    assert_eq!(other.files().len(), 2, "a file for each day");
}

/// The same span twice is in the table once.
pub async fn append_is_idempotent(lake: &Lake) {
    let table = lake.table(&EVENTS).await.unwrap();
    let first = request(vec![events(0, 0..5, DAY)], "live/messages/0", None, 5);
    assert!(table.append(first.clone()).await.unwrap().is_written());
    assert!(!table.append(first.clone()).await.unwrap().is_written());
    // Also by another process that has seen nothing yet.
    let other = lake.table(&EVENTS).await.unwrap();
    assert!(!other.append(first).await.unwrap().is_written());
    assert_eq!(stored(&table).await, range(0..5));
    // A span without rows moves the position all the same.
    let empty = request(Vec::new(), "live/messages/0", Some(5), 8);
    assert!(table.append(empty).await.unwrap().is_written());
    assert_eq!(table.position("live/messages/0").await.unwrap(), Some(8));
    assert_eq!(stored(&table).await, range(0..5));
}

/// A writer whose position has been moved by another is told so, and writes nothing.
pub async fn stale_writer_is_fenced(lake: &Lake) {
    let (first, second) = (lake.table(&EVENTS).await.unwrap(), lake.table(&EVENTS).await.unwrap());
    first.append(request(vec![events(0, 0..10, DAY)], "live/messages/0", None, 10)).await.unwrap();
    let before = objects(lake).await.len();
    let error = second.append(request(vec![events(0, 0..5, DAY)], "live/messages/0", None, 5)).await.unwrap_err();
    assert!(matches!(error, Error::Fenced { stored: Some(10), from: None, .. }), "{error}");
    assert_eq!(error.kind(), Kind::Conflict);
    // One claim of two in the way is enough.
    let mut half = request(vec![events(1, 0..5, DAY)], "live/messages/1", None, 5);
    half.advances.push(Advance { key: "live/messages/0".into(), from: Some(3), to: 12 });
    assert_eq!(second.append(half).await.unwrap_err().kind(), Kind::Conflict);
    assert_eq!(stored(&second).await, range(0..10));
    assert_eq!(objects(lake).await.len(), before, "nothing is left behind");
}

/// Writers of different partitions never lose to one another for good.
pub async fn rivals_all_come_through(lake: &Lake) {
    lake.table(&EVENTS).await.unwrap();
    let writers = (0..4_i32).map(|number| {
        let lake = lake.clone();
        async move {
            let table = lake.table(&EVENTS).await.unwrap();
            let key = format!("live/messages/{number}");
            for step in 0..5_i64 {
                let start = i64::from(number) * 100 + step * 2;
                let from = (step > 0).then_some(start);
                table
                    .append(request(vec![events(number, start..start + 2, DAY)], &key, from, start + 2))
                    .await
                    .unwrap();
            }
        }
    });
    futures::future::join_all(writers).await;
    let table = lake.existing(&EVENTS).await.unwrap().unwrap();
    let expected: Vec<i64> = (0..4).flat_map(|number| range(number * 100..number * 100 + 10)).collect();
    assert_eq!(stored(&table).await, expected);
}

/// The same rows give the same bytes in another lake, however they are cut.
pub async fn same_input_same_bytes(lake: &Lake, other: &Lake) {
    let mut bytes = Vec::new();
    for (lake, cut) in [(lake, 3_000), (other, 7)] {
        let table = lake.table(&EVENTS).await.unwrap();
        let batch = events(0, 0..20_000, DAY);
        let batches = (0..batch.num_rows())
            .step_by(cut)
            .map(|start| batch.slice(start, cut.min(batch.num_rows() - start)))
            .collect();
        table.append(request(batches, "live/messages/0", None, 20_000)).await.unwrap();
        table.refresh().await.unwrap();
        let files = table.files();
        assert_eq!(files.len(), 1);
        let path = Path::from(format!("{}/{}", EVENTS.path(), files[0].path));
        bytes.push(lake.store().get(&path).await.unwrap().bytes().await.unwrap());
    }
    assert!(bytes[0] == bytes[1], "{} and {} bytes differ", bytes[0].len(), bytes[1].len());
}

/// What is new to a reader: appended files, not compacted ones; and what was replaced in between only once.
pub async fn changes_skip_compaction(lake: &Lake) {
    let table = lake.table(&EVENTS).await.unwrap();
    let mut versions = vec![table.version()];
    for step in 0..4_i64 {
        let from = (step > 0).then_some(step * 10);
        let batch = events(0, step * 10..step * 10 + 10, DAY + i32::try_from(step % 2).unwrap());
        table.append(request(vec![batch], "live/messages/0", from, step * 10 + 10)).await.unwrap();
        versions.push(table.version());
    }
    table.refresh().await.unwrap();
    let delta = table.state().table;
    let (_, metrics) = delta.optimize().await.unwrap();
    assert!(metrics.num_files_removed > 0, "there was something to compact");

    let all = table.changes_since(None).await.unwrap();
    assert_eq!(all.days, BTreeSet::from([DAY, DAY + 1]));
    assert_eq!(offsets(table.provider_of(&all.added).unwrap()).await, range(0..40));
    assert_eq!(all.to, table.version());

    let recent = table.changes_since(Some(versions[2])).await.unwrap();
    assert_eq!(
        offsets(table.provider_of(&recent.added).unwrap()).await,
        range(20..40),
        "read from before the compaction"
    );
    assert_eq!(recent.skipped.len(), 1, "{:?}", recent.skipped);
    assert_eq!(recent.added.iter().filter_map(|file| file.rows).sum::<u64>(), 20);
    let none = table.changes_since(Some(recent.to)).await.unwrap();
    assert!(none.added.is_empty() && none.days.is_empty());
    let error = table.changes_since(Some(recent.to + 1)).await.unwrap_err();
    assert!(error.to_string().contains("full rebuild"), "{error}");
}

/// Free text and subject keys stand in no log entry, no checkpoint and no statistics of a file.
pub async fn erased_text_is_not_in_the_log(lake: &Lake) {
    let table = lake.table(&EVENTS).await.unwrap();
    table.append(request(vec![events(0, 0..50, DAY)], "live/messages/0", None, 50)).await.unwrap();
    table.refresh().await.unwrap();
    deltalake::checkpoints::create_checkpoint(&table.state().table, None).await.unwrap();
    table.append(request(vec![events(0, 50..60, DAY)], "live/messages/0", Some(50), 60)).await.unwrap();
    let mut logs = 0;
    for path in objects(lake).await {
        let bytes = lake.store().get(&path).await.unwrap().bytes().await.unwrap();
        if path.as_ref().contains("_delta_log") {
            logs += 1;
            assert!(!holds(&bytes, b"CANARY"), "{path} holds free text");
            let decoded = decoded(&path, bytes);
            assert!(!holds(decoded.as_bytes(), b"CANARY"), "{path} holds free text, decoded");
        } else {
            let metadata = parquet::file::metadata::ParquetMetaDataReader::new().parse_and_finish(&bytes).unwrap();
            assert!(!holds(format!("{metadata:?}").as_bytes(), b"CANARY"), "{path} holds free text in its footer");
            for column in metadata.row_group(0).columns() {
                let name = column.column_path().string();
                assert_eq!(column.statistics().is_some(), EVENTS.statistics.contains(&name.as_str()), "{name}");
            }
        }
    }
    assert!(logs >= 4, "create, append, checkpoint, append");
}

/// Positions are the same by our own reading of the log and by Delta's, with and without checkpoints.
pub async fn positions_survive_checkpoints(lake: &Lake) {
    let table = lake.table(&EVENTS).await.unwrap();
    for step in 0..6_i64 {
        let mut next =
            request(Vec::new(), &format!("live/messages/{}", step % 3), (step >= 3).then_some(step - 3), step);
        next.watermarks = vec![("watermark/messages/0".into(), 100 - step), ("idle/messages/0".into(), step % 2)];
        table.append(next).await.unwrap();
        if step == 3 {
            table.refresh().await.unwrap();
            deltalake::checkpoints::create_checkpoint(&table.state().table, None).await.unwrap();
        }
    }
    let fresh = lake.existing(&EVENTS).await.unwrap().unwrap();
    let ours = fresh.positions("").await.unwrap();
    assert_eq!(ours, table.positions("").await.unwrap());
    assert_eq!(ours.len(), 5);
    let state = fresh.state();
    for (key, version) in ours {
        let theirs = state.table.snapshot().unwrap().transaction_version(fresh.log_store().as_ref(), &key).await;
        assert_eq!(theirs.unwrap(), Some(version), "{key}");
    }
    assert_eq!(fresh.position("watermark/messages/0").await.unwrap(), Some(100), "a watermark never falls");
    assert_eq!(fresh.position("idle/messages/0").await.unwrap(), Some(1), "idleness is taken as given");
}

/// The overall watermark: the slowest source that is not idle; the greatest when all are.
pub async fn watermark_leaves_idle_sources_out(lake: &Lake) {
    assert_eq!(lake.watermark().await.unwrap(), None);
    let table = lake.table(&EVENTS).await.unwrap();
    assert_eq!(lake.watermark().await.unwrap(), None);
    let steps: [(&[(&str, i64)], i64); 4] = [
        (&[("watermark/messages/0", 900), ("watermark/file:ab/0", 100)], 100),
        (&[("watermark/file:ab/0", 800), ("idle/file:ab/0", 1)], 900),
        (&[("watermark/messages/1", 700)], 700),
        (&[("idle/messages/0", 1), ("idle/messages/1", 1)], 900),
    ];
    for (watermarks, expected) in steps {
        let watermarks = watermarks.iter().map(|(key, value)| ((*key).to_owned(), *value)).collect();
        table.append(CommitRequest { watermarks, ..CommitRequest::default() }).await.unwrap();
        assert_eq!(lake.watermark().await.unwrap(), Some(expected * 1_000), "microseconds");
    }
}

/// Time travel shows the past, and the past cannot be written.
pub async fn the_past_can_be_read(lake: &Lake) {
    let table = lake.table(&EVENTS).await.unwrap();
    table.append(request(vec![events(0, 0..5, DAY)], "live/messages/0", None, 5)).await.unwrap();
    let early = table.version();
    table.append(request(vec![events(0, 5..9, DAY)], "live/messages/0", Some(5), 9)).await.unwrap();
    let past = table.at_version(early).await.unwrap();
    assert_eq!(offsets(past.provider().await.unwrap()).await, range(0..5));
    assert_eq!(past.position("live/messages/0").await.unwrap(), Some(5));
    let refused = past.append(request(Vec::new(), "live/messages/0", Some(5), 6)).await.unwrap_err();
    assert_eq!(refused.kind(), Kind::Invalid);
    assert_eq!(table.at_version(99).await.unwrap_err().kind(), Kind::Invalid);
    let history = table.history(10).await.unwrap();
    assert_eq!(history.iter().map(|entry| entry.version).collect::<Vec<_>>(), vec![2, 1, 0]);
    assert_eq!(history[0].operation.as_deref(), Some("WRITE"));
    let time = history[1].timestamp.unwrap() * 1_000;
    assert!(table.at_time(time).await.unwrap().version() >= early);
    assert_eq!(table.at_time(1_000_000).await.unwrap_err().kind(), Kind::Invalid);
}

/// Dead letters of a span are found by partition and offset.
pub async fn letters_are_found(lake: &Lake) {
    let source = SourcePartition::new("messages", 0);
    assert!(lake.letters_in(&source, Next(0), Next(99)).await.unwrap().is_empty());
    let table = lake.table(&DEAD_LETTERS).await.unwrap();
    table.append(request(vec![letters(&[(0, 3), (0, 7), (1, 4)])], "live/messages/0", None, 8)).await.unwrap();
    assert_eq!(lake.letters_in(&source, Next(0), Next(7)).await.unwrap(), BTreeSet::from([3]));
    assert_eq!(lake.letters_in(&source, Next(3), Next(8)).await.unwrap(), BTreeSet::from([3, 7]));
}

/// Whatever happens to the answer of a commit, its rows are in the table once and the writer knows.
pub async fn lost_answer_is_resolved(lake: &Lake, store: &LossyStore) {
    let table = lake.table(&EVENTS).await.unwrap();
    let faults = [Fault::AnswerLost, Fault::AnsweredTwice, Fault::Late, Fault::Refused, Fault::Slow];
    let mut from = None;
    for (step, fault) in faults.into_iter().enumerate() {
        let start = i64::try_from(step).unwrap() * 10;
        store.next_put("_delta_log", fault);
        let span = request(vec![events(0, start..start + 10, DAY)], "live/messages/0", from, start + 10);
        assert!(table.append(span).await.unwrap().is_written(), "{fault:?}");
        from = Some(start + 10);
        assert_eq!(stored(&table).await, range(0..start + 10), "{fault:?}");
    }
    // A commit that moves no position is known by its own id.
    let before = table.version();
    store.next_put("_delta_log", Fault::AnswerLost);
    let rows = CommitRequest { batches: vec![events(1, 900..901, DAY)], ..CommitRequest::default() };
    assert_eq!(table.append(rows).await.unwrap(), Committed::Written { version: before + 1 });
    assert_eq!(stored(&table).await, [range(0..50), range(900..901)].concat());
}

/// A store that is full or closed says so, and leaves no files behind.
pub async fn refusals_are_told_apart(lake: &Lake, store: &LossyStore) {
    let table = lake.table(&EVENTS).await.unwrap();
    let before = objects(lake).await;
    for (part, fault, kind) in [
        (".parquet", Fault::Full, Kind::Retry),
        ("_delta_log", Fault::Full, Kind::Retry),
        (".parquet", Fault::Denied, Kind::Invalid),
        ("_delta_log", Fault::Denied, Kind::Invalid),
    ] {
        store.next_put(part, fault);
        let error = table.append(request(vec![events(0, 0..5, DAY)], "live/messages/0", None, 5)).await.unwrap_err();
        assert_eq!(error.kind(), kind, "{fault:?} {part}: {error}");
        assert_eq!(objects(lake).await, before, "{fault:?} {part}");
    }
    let again = request(vec![events(0, 0..5, DAY)], "live/messages/0", None, 5);
    assert!(table.append(again).await.unwrap().is_written(), "and it goes on when the cause is gone");
}

/// Random faults, random restarts: each offset once.
pub async fn chaos_gives_each_offset_once(lake: &Lake, store: &LossyStore) {
    store.calm(true);
    lake.table(&EVENTS).await.unwrap();
    store.calm(false);
    let mut table = None;
    let mut restarts = 0;
    let last = 200;
    loop {
        let current = match table.take() {
            Some(table) => table,
            None => match lake.table(&EVENTS).await {
                Ok(table) => table,
                Err(error) if error.is_retryable() => continue,
                Err(error) => panic!("{error}"),
            },
        };
        let Ok(from) = current.position("live/messages/0").await else { continue };
        let start = from.unwrap_or(0);
        if start >= last {
            break;
        }
        let span = request(vec![events(0, start..start + 10, DAY)], "live/messages/0", from, start + 10);
        match current.append(span).await {
            Ok(_) => table = Some(current),
            // As a process that dies and starts again: only the store remembers.
            Err(error) if matches!(error.kind(), Kind::Retry | Kind::Conflict) => restarts += 1,
            Err(error) => panic!("{error}"),
        }
    }
    store.calm(true);
    let table = lake.existing(&EVENTS).await.unwrap().unwrap();
    assert_eq!(stored(&table).await, range(0..last), "after {restarts} restarts and {} faults", store.faults());
    assert!(store.faults() > 0, "nothing was lost, so nothing was examined");
}

/// The paths of all objects of the lake.
async fn objects(lake: &Lake) -> BTreeSet<Path> {
    lake.store().list(None).map_ok(|object| object.location).try_collect().await.unwrap()
}

fn holds(bytes: &[u8], text: &[u8]) -> bool {
    bytes.windows(text.len()).any(|window| window == text)
}

/// The rows of a Parquet file as text, or nothing for other files.
fn decoded(path: &Path, bytes: bytes::Bytes) -> String {
    if path.extension() != Some("parquet") {
        return String::new();
    }
    let reader = parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder::try_new(bytes).unwrap();
    let batches: Vec<RecordBatch> = reader.build().unwrap().map(Result::unwrap).collect();
    format!("{batches:?}")
}
