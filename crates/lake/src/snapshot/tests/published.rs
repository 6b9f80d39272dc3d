//! What a publication writes, and when it refuses.

use std::collections::BTreeMap;

use arrow::array::AsArray;
use bytes::Bytes;
use futures::TryStreamExt;
use object_store::path::Path;
use object_store::{ObjectStore, ObjectStoreExt};
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
use serde_json::{Value, json};
use uptake_model::tables::{LOVE, PREFERENCE_PAIRS, PROMPTS, SUPERVISED, TableSpec, UNPAIRED};
use uptake_model::time::parse_day;

use super::{lake_with, row, write};
use crate::snapshot::{CheckOptions, MANIFEST, Manifest, Outcome, PublishRequest, check_directory, list, publish};
use crate::{Kind, Lake};

fn request(spec: &TableSpec) -> PublishRequest {
    PublishRequest { table: spec.name.to_owned(), seed: 17, tokenizer: "words".to_owned(), ..PublishRequest::default() }
}

async fn published(lake: &Lake, request: &PublishRequest) -> Manifest {
    match publish(lake, request).await.unwrap() {
        Outcome::Published(manifest) => *manifest,
        other => panic!("{other:?}"),
    }
}

async fn refused(lake: &Lake, request: &PublishRequest) -> String {
    match publish(lake, request).await.unwrap() {
        Outcome::Refused(reason) => reason,
        other => panic!("{other:?}"),
    }
}

/// Every file of the lake below `snapshots/`, by path.
async fn files(lake: &Lake) -> BTreeMap<String, Bytes> {
    let store = lake.store();
    let found: Vec<_> = store.list(Some(&Path::from("snapshots"))).try_collect().await.unwrap();
    let mut files = BTreeMap::new();
    for meta in found {
        let bytes = store.get(&meta.location).await.unwrap().bytes().await.unwrap();
        let _ = files.insert(meta.location.to_string(), bytes);
    }
    files
}

#[tokio::test]
async fn every_table_is_published_without_fault() {
    for spec in [&PREFERENCE_PAIRS, &UNPAIRED, &LOVE, &PROMPTS, &SUPERVISED] {
        let lake = lake_with(spec, 200).await;
        let manifest = published(&lake, &request(spec)).await;
        assert_eq!(manifest.rows.values().sum::<u64>(), 200, "{spec}");
        assert!(manifest.rows["train"] > 0 && manifest.rows["test"] > 0, "{spec}: {:?}", manifest.rows);
        let directory = Path::from(format!("snapshots/{}/{}", manifest.name, manifest.id));
        let report = check_directory(lake.store(), &directory, &CheckOptions::default()).await.unwrap();
        assert_eq!(report.faults, [], "{spec}");
        assert_eq!(report.table, Some(spec.name));
        assert_eq!(report.rows, manifest.rows, "{spec}");
        for (path, bytes) in files(&lake).await {
            assert!(!bytes.windows(19).any(|window| window == b"nobody may see this"), "{path} names a subject");
        }
    }
}

#[tokio::test]
async fn publishing_again_writes_nothing_and_a_broken_one_ends_in_the_same_bytes() {
    let lake = lake_with(&UNPAIRED, 300).await;
    let manifest = published(&lake, &request(&UNPAIRED)).await;
    let first = files(&lake).await;
    let Outcome::AlreadyThere(again) = publish(&lake, &request(&UNPAIRED)).await.unwrap() else { panic!("not there") };
    assert_eq!(*again, manifest);
    // Killed before the manifest, with a file of another layout left behind.
    let directory = Path::from(format!("snapshots/unpaired/{}", manifest.id));
    lake.store().delete(&directory.clone().join(MANIFEST)).await.unwrap();
    let _ = lake.store().put(&directory.clone().join("train-00007-of-00009.parquet"), "x".into()).await.unwrap();
    let broken = list(&lake).await.unwrap();
    assert_eq!(broken.len(), 1);
    assert_eq!(broken[0].manifest, None);
    assert_eq!(published(&lake, &request(&UNPAIRED)).await, manifest);
    assert_eq!(files(&lake).await, first);
    // Another seed is another snapshot.
    let other = published(&lake, &PublishRequest { seed: 18, ..request(&UNPAIRED) }).await;
    assert_ne!(other.id, manifest.id);
    assert_eq!(list(&lake).await.unwrap().len(), 2);
}

#[tokio::test]
async fn rows_that_break_a_rule_are_left_out_and_counted() {
    let lake = Lake::in_memory().unwrap();
    let mut rows: Vec<Value> = (0..40).map(|at| row(&PREFERENCE_PAIRS, at, Value::Null)).collect();
    rows[3]["rejected"] = rows[3]["chosen"].clone();
    rows[5]["prompt"] = json!([]);
    rows[7]["chosen"] = json!([{ "role": "assistant", "content": "one" }, { "role": "assistant", "content": "two" }]);
    rows[9]["chosen_tokens"] = json!(5000);
    write(&lake, &PREFERENCE_PAIRS, &rows).await;
    let request = PublishRequest { max_tokens: Some(1000), ..request(&PREFERENCE_PAIRS) };
    let manifest = published(&lake, &request).await;
    let expected = [("answer_count", 1), ("empty_prompt", 1), ("same_answers", 1), ("too_long", 1)];
    assert_eq!(manifest.left_out, expected.map(|(reason, rows)| (reason.to_owned(), rows)).into());
    assert_eq!((manifest.rows_read, manifest.rows.values().sum::<u64>()), (40, 36));
    assert_eq!(manifest.lengths.over[&1000], 0);
}

#[tokio::test]
async fn the_same_row_on_two_days_is_published_once() {
    let lake = Lake::in_memory().unwrap();
    let mut rows: Vec<Value> = (0..40).map(|at| row(&PREFERENCE_PAIRS, at, Value::Null)).collect();
    for name in ["pair_id", "prompt", "chosen", "rejected"] {
        let first = rows[4][name].clone();
        rows[30][name] = first;
    }
    write(&lake, &PREFERENCE_PAIRS, &rows).await;
    let manifest = published(&lake, &request(&PREFERENCE_PAIRS)).await;
    assert_eq!(manifest.left_out, [("duplicate_row".to_owned(), 1)].into());
    assert_eq!((manifest.rows_read, manifest.rows.values().sum::<u64>()), (40, 39));
}

#[tokio::test]
async fn the_same_content_is_published_once_whatever_conversations_it_comes_from() {
    let lake = Lake::in_memory().unwrap();
    let mut rows: Vec<Value> = (0..40).map(|at| row(&LOVE, at, json!({ "love": false }))).collect();
    // Rows 2 and 3 are of a training conversation, row 20 of one in test, on a later day; row 21 was loved, 3 was not.
    for (copy, of) in [(20, 2), (21, 3)] {
        rows[copy]["row_id"] = rows[of]["row_id"].clone();
    }
    rows[21]["love"] = json!(true);
    write(&lake, &LOVE, &rows).await;
    let manifest = published(&lake, &request(&LOVE)).await;
    assert_eq!(manifest.left_out, [("duplicate_row".to_owned(), 2)].into());
    assert_eq!((manifest.rows_read, manifest.rows.values().sum::<u64>()), (40, 38));
    // The earlier copy of the first stays in train, the loved copy of the second in test.
    let (path, bytes) = files(&lake).await.into_iter().find(|(path, _)| path.contains("/test-0")).unwrap();
    let mut loved = 0;
    for batch in ParquetRecordBatchReaderBuilder::try_new(bytes).unwrap().build().unwrap() {
        loved += batch.unwrap().column_by_name("love").unwrap().as_boolean().true_count();
    }
    assert_eq!(loved, 1, "{path}");
}

#[tokio::test]
async fn conversations_go_to_one_side_by_hash_and_by_day() {
    let lake = lake_with(&PREFERENCE_PAIRS, 200).await;
    let from = parse_day("2026-11-15");
    let manifest = published(&lake, &PublishRequest { test_from: from, ..request(&PREFERENCE_PAIRS) }).await;
    assert_eq!(manifest.split.test_from.as_deref(), Some("2026-11-15"));
    // Of 100 conversations every fifth is in test by hash; of the 80 others those of the days 15 to 20 by time.
    assert_eq!(manifest.split.held_out_by, [("conversation".to_owned(), 40), ("time".to_owned(), 50)].into());
    assert_eq!(manifest.rows, [("test".to_owned(), 90), ("train".to_owned(), 110)].into());
    assert_eq!(manifest.conversations, [("test".to_owned(), 45), ("train".to_owned(), 55)].into());
}

#[tokio::test]
async fn a_filter_is_a_condition_on_the_columns() {
    let lake = lake_with(&PREFERENCE_PAIRS, 60).await;
    let filtered = |filter: &str| PublishRequest { filter: Some(filter.to_owned()), ..request(&PREFERENCE_PAIRS) };
    let manifest = published(&lake, &filtered("rule_id = 'repair'")).await;
    assert_eq!(manifest.rules.keys().collect::<Vec<_>>(), ["repair"]);
    assert_eq!(manifest.rows_read, 20);
    assert!(refused(&lake, &filtered("rule_id = 'choice'")).await.contains("meets the filter"));
    for wrong in ["rul_id = 'x'", "rule_id", "DROP TABLE x", "1 = 1; SELECT 2"] {
        let error = publish(&lake, &filtered(wrong)).await.unwrap_err();
        assert_eq!(error.kind(), Kind::Invalid, "{wrong}: {error}");
    }
}

#[tokio::test]
async fn what_cannot_be_trained_on_is_refused() {
    let lake = Lake::in_memory().unwrap();
    assert!(refused(&lake, &request(&LOVE)).await.contains("uptake run"));
    let _ = lake.table(&LOVE).await.unwrap();
    assert!(refused(&lake, &request(&LOVE)).await.contains("is empty"));
    let error = publish(&lake, &PublishRequest { table: "turns".to_owned(), ..request(&LOVE) }).await.unwrap_err();
    assert!(error.kind() == Kind::Invalid && error.to_string().contains("preference_pairs"), "{error}");
    // Only test rows.
    write(&lake, &LOVE, &[row(&LOVE, 0, json!({ "split": "test" }))]).await;
    assert!(refused(&lake, &request(&LOVE)).await.contains("left for training"));
    // One conversation in both splits.
    let torn = [row(&LOVE, 2, json!({ "split": "test" })), row(&LOVE, 3, json!({ "split": "train" }))];
    let lake = Lake::in_memory().unwrap();
    write(&lake, &LOVE, &torn).await;
    assert!(refused(&lake, &request(&LOVE)).await.contains("conversation-0001 is in t"));
    assert_eq!(files(&lake).await.len(), 0);
}

#[tokio::test]
async fn an_earlier_version_can_be_published() {
    let lake = lake_with(&PREFERENCE_PAIRS, 20).await;
    let before = lake.existing(&PREFERENCE_PAIRS).await.unwrap().unwrap().version();
    let rows: Vec<Value> = (0..80).map(|at| row(&PREFERENCE_PAIRS, at, Value::Null)).collect();
    write(&lake, &PREFERENCE_PAIRS, &rows).await;
    let earlier = published(&lake, &PublishRequest { version: Some(before), ..request(&PREFERENCE_PAIRS) }).await;
    let latest = published(&lake, &request(&PREFERENCE_PAIRS)).await;
    assert_eq!((earlier.version, earlier.rows_read), (before, 20));
    assert_eq!(latest.rows_read, 80);
}

#[tokio::test]
async fn files_carry_no_arrow_schema_and_no_statistics() {
    let lake = lake_with(&PREFERENCE_PAIRS, 30).await;
    let manifest = published(&lake, &request(&PREFERENCE_PAIRS)).await;
    assert!(manifest.files.iter().any(|file| file.path == "text/train-00000-of-00001.parquet"), "{:?}", manifest.files);
    for (path, bytes) in files(&lake).await.into_iter().filter(|(path, _)| path.ends_with(".parquet")) {
        let reader = ParquetRecordBatchReaderBuilder::try_new(bytes).unwrap();
        let metadata = reader.metadata();
        assert_eq!(metadata.file_metadata().key_value_metadata(), None, "{path}");
        for group in metadata.row_groups() {
            assert!(group.columns().iter().all(|column| column.statistics().is_none()), "{path}");
        }
        let first = if path.contains("/text/") { "prompt_text" } else { "prompt" };
        assert_eq!(reader.schema().field(0).name(), first);
    }
}
