//! The exam on memory, local disk and the lossy store, and what lies outside of it: tables that others have written.

use std::sync::Arc;

use object_store::ObjectStoreExt;
use object_store::memory::InMemory;
use object_store::path::Path;
use uptake_model::tables::{EVENTS, REJECTED};
use uptake_model::{Column, Kind as ColumnKind, Layer, TableSpec};
use url::Url;

use crate::conformance::{self, DAY, events, offsets, rejected, request};
use crate::error::{Error, Kind};
use crate::lossy::{Fault, LossyStore, Odds};
use crate::{CommitRequest, Lake};

fn local() -> (tempfile::TempDir, Lake) {
    let directory = tempfile::tempdir().unwrap();
    let lake = Lake::open(directory.path().join("a lake/of ours").to_str().unwrap()).unwrap();
    (directory, lake)
}

fn lossy(store: &LossyStore) -> Lake {
    Lake::with_store(Arc::new(store.clone()), Url::parse("memory:///lake/").unwrap()).unwrap()
}

crate::examine!(memory, ((), Lake::in_memory().unwrap()));
crate::examine!(disk, local());

#[tokio::test]
async fn same_input_same_bytes() {
    let (_directory, lake) = local();
    conformance::same_input_same_bytes(&lake, &Lake::in_memory().unwrap()).await;
}

#[tokio::test]
async fn lost_answer_is_resolved() {
    let store = LossyStore::scripted(Arc::new(InMemory::new()));
    conformance::lost_answer_is_resolved(&lossy(&store), &store).await;
}

#[tokio::test]
async fn refusals_are_told_apart() {
    let store = LossyStore::scripted(Arc::new(InMemory::new()));
    conformance::refusals_are_told_apart(&lossy(&store), &store).await;
}

#[tokio::test]
async fn chaos_gives_each_offset_once() {
    // A night's run asks for more.
    let seeds = std::env::var("CHAOS_SEEDS").map_or(6, |text| text.parse().unwrap());
    for seed in 1..=seeds {
        println!("seed {seed}");
        let store = LossyStore::new(Arc::new(InMemory::new()), seed, Odds::BAD);
        conformance::chaos_gives_each_offset_once(&lossy(&store), &store).await;
    }
}

/// A replacement whose answer is lost is found in the log too, and its old files are gone once.
#[tokio::test]
async fn a_replacement_survives_a_lost_answer() {
    let store = LossyStore::scripted(Arc::new(InMemory::new()));
    let lake = lossy(&store);
    let table = lake.table(&REJECTED).await.unwrap();
    let mut from = None;
    for (step, fault) in [Fault::AnswerLost, Fault::Late, Fault::AnsweredTwice].into_iter().enumerate() {
        let step = i64::try_from(step).unwrap();
        store.next_put("_delta_log", fault);
        let rows = vec![rejected(step..step + 3, "a", DAY)];
        let done = table.replace(&[DAY], None, request(rows, "job", from, step)).await.unwrap();
        assert!(done.is_written(), "{fault:?}");
        assert_eq!(offsets(table.provider().await.unwrap()).await, (step..step + 3).collect::<Vec<_>>(), "{fault:?}");
        from = Some(step);
    }
}

const COLUMNS: [Column; 3] = [
    column("id", ColumnKind::Text, false),
    column("note", ColumnKind::Text, true),
    column("conversation_date", ColumnKind::Date, false),
];

const fn column(name: &'static str, kind: ColumnKind, nullable: bool) -> Column {
    Column { name, kind, nullable, personal: false, meaning: "a column of a test" }
}

const fn spec(columns: &'static [Column]) -> TableSpec {
    TableSpec {
        layer: Layer::Silver,
        name: "evolving",
        grain: "one row of a test",
        key: &["id"],
        columns,
        partition: &["conversation_date"],
        order: &["id"],
        statistics: &["id"],
    }
}

static WITHOUT_NOTE: TableSpec = spec(&[COLUMNS[0], COLUMNS[2]]);
static WITH_NOTE: TableSpec = spec(&COLUMNS);
static OTHER_TYPE: TableSpec = spec(&[column("id", ColumnKind::Long, false), COLUMNS[2]]);

fn evolving(columns: &[(&'static str, &str)]) -> CommitRequest {
    use arrow::array::{ArrayRef, Date32Array, RecordBatch, StringArray};
    let texts = columns.iter().map(|(name, value)| (*name, Arc::new(StringArray::from(vec![*value])) as ArrayRef));
    let day = ("conversation_date", Arc::new(Date32Array::from(vec![DAY])) as ArrayRef);
    CommitRequest { batches: vec![RecordBatch::try_from_iter(texts.chain([day])).unwrap()], ..CommitRequest::default() }
}

async fn sql(provider: Arc<dyn datafusion::catalog::TableProvider>, query: &str) -> String {
    let session = datafusion::prelude::SessionContext::new();
    session.register_table("t", provider).unwrap();
    let batches = session.sql(query).await.unwrap().collect().await.unwrap();
    arrow::util::pretty::pretty_format_batches(&batches).unwrap().to_string()
}

#[tokio::test]
async fn columns_are_added_and_kept() {
    let lake = Lake::in_memory().unwrap();
    let old = lake.table(&WITHOUT_NOTE).await.unwrap();
    old.append(evolving(&[("id", "a")])).await.unwrap();
    let new = lake.table(&WITH_NOTE).await.unwrap();
    new.append(evolving(&[("id", "b"), ("note", "x")])).await.unwrap();
    // A writer of before goes on beside it.
    old.append(evolving(&[("id", "c")])).await.unwrap();
    new.refresh().await.unwrap();
    let expected = "\
+----+------+-------------------+
| id | note | conversation_date |
+----+------+-------------------+
| a  |      | 2026-02-16        |
| b  | x    | 2026-02-16        |
| c  |      | 2026-02-16        |
+----+------+-------------------+";
    let query = "SELECT * FROM t ORDER BY id";
    assert_eq!(sql(new.provider().await.unwrap(), query).await, expected);
    assert_eq!(sql(new.provider_of(&new.files()).unwrap(), query).await, expected);
    assert_eq!(lake.table(&WITH_NOTE).await.unwrap().version(), new.version(), "nothing is added twice");
    let error = lake.table(&OTHER_TYPE).await.unwrap_err();
    assert!(matches!(error, Error::Incompatible { .. }), "{error}");
    assert!(error.to_string().contains("column `id` is string, this version writes long"), "{error}");
}

/// A writer that appends for long needs no list of files, and leaves checkpoints behind for those who do.
#[tokio::test]
async fn checkpoints_are_written_on_the_way() {
    let lake = Lake::in_memory().unwrap();
    let (table, other) = (lake.table(&EVENTS).await.unwrap(), lake.table(&EVENTS).await.unwrap());
    for step in 0..105_i64 {
        // Two writers take turns, so that each follows what the other has done.
        let writer = if step % 10 == 0 { &other } else { &table };
        let span =
            request(vec![events(0, step..step + 1, DAY)], "live/messages/0", (step > 0).then_some(step), step + 1);
        assert!(writer.append(span).await.unwrap().is_written());
    }
    assert_eq!(table.version(), 105);
    let checkpoint = Path::from(format!("bronze/events/_delta_log/{:020}.checkpoint.parquet", 99));
    assert!(lake.store().head(&checkpoint).await.is_ok(), "version 99 is the hundredth");
    for handle in [&table, &lake.existing(&EVENTS).await.unwrap().unwrap()] {
        assert_eq!(offsets(handle.provider().await.unwrap()).await, (0..105).collect::<Vec<_>>());
        assert_eq!(handle.position("live/messages/0").await.unwrap(), Some(105));
        assert_eq!(handle.files().len(), 105);
    }
}

#[tokio::test]
async fn filters_read_the_files_that_they_need() {
    let lake = Lake::in_memory().unwrap();
    let table = lake.table(&EVENTS).await.unwrap();
    for step in 0..4_i64 {
        let day = DAY + i32::try_from(step).unwrap();
        let from = (step > 0).then_some(step * 10);
        table
            .append(request(vec![events(0, step * 10..step * 10 + 10, day)], "live/messages/0", from, step * 10 + 10))
            .await
            .unwrap();
    }
    let plan = |filter: &str| format!("EXPLAIN ANALYZE SELECT payload FROM t WHERE {filter}");
    let provider = table.provider().await.unwrap();
    assert_eq!(table.files().len(), 4);
    assert_eq!(provider.schema(), EVENTS.schema(), "strings as Utf8, partition columns last");
    for filter in ["ingest_date = DATE '2026-02-17'", "\"offset\" = 13"] {
        let text = sql(Arc::clone(&provider), &plan(filter)).await;
        let named = table.files().iter().filter(|file| text.contains(file.path.rsplit('/').next().unwrap())).count();
        assert_eq!(named, 1, "{filter}: {text}");
    }
    let files = table.changes_since(None).await.unwrap().added;
    let some = table.provider_of(&files[1..3]).unwrap();
    assert_eq!(some.schema(), EVENTS.schema());
    assert_eq!(
        sql(
            some,
            "SELECT count(*) AS n, min(\"offset\") AS least, max(ingest_date) AS day FROM t WHERE \"offset\" > 11"
        )
        .await,
        "+----+-------+------------+\n| n  | least | day        |\n+----+-------+------------+\n| 18 | 12    | 2026-02-18 |\n+----+-------+------------+"
    );
    let none = table.provider_of(&[]).unwrap();
    assert_eq!(offsets(none).await, Vec::<i64>::new());
}

async fn with_log(lines: &str) -> Lake {
    let store = InMemory::new();
    let path = Path::from("lake/bronze/events/_delta_log/00000000000000000000.json");
    store.put(&path, lines.to_owned().into()).await.unwrap();
    Lake::with_store(Arc::new(store), Url::parse("memory:///lake/").unwrap()).unwrap()
}

/// The first log entry of bronze `events`, with another protocol.
async fn log_of(protocol: &str) -> String {
    let lake = Lake::in_memory().unwrap();
    lake.table(&EVENTS).await.unwrap();
    let path = Path::from("bronze/events/_delta_log/00000000000000000000.json");
    let bytes = lake.store().get(&path).await.unwrap().bytes().await.unwrap();
    let lines = std::str::from_utf8(&bytes).unwrap().lines();
    let lines = lines.map(|line| if line.starts_with(r#"{"protocol""#) { protocol } else { line });
    lines.collect::<Vec<_>>().join("\n")
}

#[tokio::test]
async fn a_table_of_a_newer_version_is_refused_with_the_way_on() {
    for protocol in [
        r#"{"protocol":{"minReaderVersion":99,"minWriterVersion":99}}"#,
        r#"{"protocol":{"minReaderVersion":3,"minWriterVersion":7,"readerFeatures":["timeTravelBackwards"],"writerFeatures":["timeTravelBackwards"]}}"#,
    ] {
        let lake = with_log(&log_of(protocol).await).await;
        for error in [lake.existing(&EVENTS).await.unwrap_err(), lake.table(&EVENTS).await.unwrap_err()] {
            assert!(matches!(error, Error::Newer { .. }), "{error:?}");
            assert!(error.to_string().contains("upgrade uptake"), "{error}");
        }
    }
    let writer_only =
        r#"{"protocol":{"minReaderVersion":1,"minWriterVersion":7,"writerFeatures":["icebergCompatV9"]}}"#;
    let lake = with_log(&log_of(writer_only).await).await;
    let error = lake.table(&EVENTS).await.unwrap_err();
    assert!(matches!(error, Error::Newer { .. }), "{error:?}");
}

#[tokio::test]
async fn a_broken_log_is_named() {
    let lake = with_log("this is no log").await;
    let error = lake.table(&EVENTS).await.unwrap_err();
    assert_eq!(error.kind(), Kind::Corrupt, "{error:?}");
    assert!(error.to_string().contains("bronze.events"), "{error}");
}

#[tokio::test]
async fn a_reader_that_was_away_for_too_long_is_told() {
    let lake = Lake::in_memory().unwrap();
    let table = lake.table(&EVENTS).await.unwrap();
    for step in 0..3_i64 {
        let from = (step > 0).then_some(step);
        table.append(request(Vec::new(), "live/messages/0", from, step + 1)).await.unwrap();
    }
    table.refresh().await.unwrap();
    deltalake::checkpoints::create_checkpoint(&table.state().table, None).await.unwrap();
    for version in 0..3 {
        let path = Path::from(format!("bronze/events/_delta_log/{version:020}.json"));
        lake.store().delete(&path).await.unwrap();
    }
    let fresh = lake.existing(&EVENTS).await.unwrap().unwrap();
    assert_eq!(fresh.position("live/messages/0").await.unwrap(), Some(3), "positions outlive the clean-up");
    let error = fresh.changes_since(Some(0)).await.unwrap_err();
    assert!(matches!(error, Error::LogGone { since: 0, missing: 1, .. }), "{error}");
    assert!(error.to_string().contains("full rebuild"), "{error}");
    assert!(fresh.changes_since(Some(3)).await.unwrap().added.is_empty());
}

#[tokio::test]
async fn nothing_is_created_before_it_is_written() {
    let (directory, lake) = local();
    assert!(lake.existing(&EVENTS).await.unwrap().is_none());
    assert_eq!(lake.watermark().await.unwrap(), None);
    assert_eq!(std::fs::read_dir(directory.path()).unwrap().count(), 0);
}
