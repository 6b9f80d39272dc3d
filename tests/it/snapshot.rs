//! `uptake snapshot` and `uptake tables check`: the real binary on gold tables.

use std::path::{Path, PathBuf};
use std::process::Output;

use serde_json::{Value, json};
use tempfile::TempDir;
use uptake_lake::Lake;
use uptake_model::tables::{LOVE, PREFERENCE_PAIRS, PROMPTS, SUPERVISED, UNPAIRED};
use uptake_tests::{binary, gold};

async fn lake() -> (TempDir, PathBuf) {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("lake");
    let lake = Lake::open(path.to_str().unwrap()).unwrap();
    for spec in [&PREFERENCE_PAIRS, &UNPAIRED, &LOVE, &PROMPTS, &SUPERVISED] {
        gold::fill(&lake, spec, 120).await;
    }
    (directory, path)
}

fn uptake(lake: &Path, arguments: &[&str]) -> (i32, String, String) {
    let Output { status, stdout, stderr } = binary::command(lake).args(arguments).output().unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    (status.code().unwrap(), text(stdout), text(stderr))
}

fn publish(lake: &Path, name: &str) -> PathBuf {
    let (code, said, error) = uptake(lake, &["snapshot", "publish", name, "-o", "json"]);
    assert_eq!(code, 0, "{error}");
    let manifest: Value = serde_json::from_str(&said).unwrap();
    lake.join("snapshots").join(name).join(manifest["id"].as_str().unwrap())
}

#[tokio::test]
async fn published_tables_pass_the_check_that_changed_ones_fail() {
    let (_directory, lake) = lake().await;
    for name in ["preference_pairs", "unpaired", "love", "prompts", "supervised"] {
        let directory = publish(&lake, name);
        let (code, said, error) = uptake(&lake, &["tables", "check", directory.to_str().unwrap()]);
        assert_eq!((code, error.as_str()), (0, ""), "{name}: {said}");
        assert!(said.contains("no fault"), "{said}");
    }
    let pairs = publish(&lake, "preference_pairs");
    let file = pairs.join("dataset_info.json");
    std::fs::write(&file, std::fs::read_to_string(&file).unwrap().replace("chosen_message", "chosen")).unwrap();
    let (code, said, _) = uptake(&lake, &["tables", "check", pairs.to_str().unwrap(), "-o", "json"]);
    let report: Value = serde_json::from_str(&said).unwrap();
    let rules: Vec<&str> =
        report["faults"].as_array().unwrap().iter().map(|fault| fault["rule"].as_str().unwrap()).collect();
    assert_eq!((code, rules), (3, vec!["manifest_mismatch", "dataset_info"]));
    let (code, _, _) = uptake(&lake, &["tables", "check", lake.join("gold/love").to_str().unwrap()]);
    assert_eq!(code, 3, "a Delta directory is no snapshot");
    let (code, _, error) = uptake(&lake, &["tables", "check", lake.join("nowhere").to_str().unwrap()]);
    assert!(code == 2 && error.contains("no directory"), "{error}");
}

#[tokio::test]
async fn publishing_twice_is_a_no_op_that_says_so() {
    let (_directory, lake) = lake().await;
    let (code, said, _) = uptake(&lake, &["snapshot", "publish", "preference_pairs"]);
    assert!(code == 0 && said.starts_with("published "), "{said}");
    let (code, again, _) = uptake(&lake, &["snapshot", "publish", "preference_pairs"]);
    assert!(code == 0 && again.starts_with("nothing to do"), "{again}");
    assert_eq!(again.lines().skip(1).collect::<Vec<_>>(), said.lines().skip(1).collect::<Vec<_>>());
    let (_, listed, _) = uptake(&lake, &["snapshot", "list"]);
    assert_eq!(listed.lines().count(), 1, "{listed}");
}

#[tokio::test]
async fn what_cannot_be_published_is_refused_with_advice() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("lake");
    let (code, _, error) = uptake(&path, &["snapshot", "publish", "love"]);
    assert!(code == 3 && error.contains("uptake run"), "{code}: {error}");
    let (code, _, error) = uptake(&path, &["snapshot", "publish", "turns"]);
    assert!(code == 2 && error.contains("preference_pairs"), "{code}: {error}");
    let (code, _, error) = uptake(&path, &["snapshot", "publish", "love", "--test-from", "tomorrow"]);
    assert!(code == 2 && error.contains("2026-11-01"), "{code}: {error}");
    let lake = Lake::open(path.to_str().unwrap()).unwrap();
    gold::fill(&lake, &LOVE, 20).await;
    let (code, _, error) = uptake(&path, &["snapshot", "publish", "love", "--where", "lov = true"]);
    assert!(code == 2 && error.contains("no condition on gold.love"), "{code}: {error}");
}

#[tokio::test]
async fn filters_and_lengths_are_told() {
    let (_directory, lake) = lake().await;
    let arguments = [
        "snapshot",
        "publish",
        "preference_pairs",
        "--where",
        "rule_id = 'repair'",
        "--max-tokens",
        "100",
        "-o",
        "json",
    ];
    let (code, said, error) = uptake(&lake, &arguments);
    assert_eq!(code, 0, "{error}");
    let manifest: Value = serde_json::from_str(&said).unwrap();
    assert_eq!(manifest["filter"], json!("rule_id = 'repair'"));
    // Row n counts 2 × (10 + n) tokens; of the forty repairs those above row 40 are too long.
    assert_eq!((manifest["rows_read"].clone(), manifest["left_out"].clone()), (json!(40), json!({ "too_long": 26 })));
}
