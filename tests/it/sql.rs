//! `uptake sql` as people and scripts use it: the real binary on a lake of a few tables.

use std::path::Path;
use std::process::Output;

use serde_json::{Value, json};
use tempfile::TempDir;
use uptake_lake::Lake;
use uptake_model::tables::{ALL, EXCHANGES, PREFERENCE_PAIRS, SIGNALS};
use uptake_tests::{binary, gold};

/// A lake with two versions of the pairs: 10 rows, then 40.
async fn lake() -> (TempDir, std::path::PathBuf, Lake) {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("lake");
    let lake = Lake::open(path.to_str().unwrap()).unwrap();
    gold::fill(&lake, &PREFERENCE_PAIRS, 10).await;
    gold::fill(&lake, &PREFERENCE_PAIRS, 40).await;
    (directory, path, lake)
}

fn run(lake: &Path, arguments: &[&str]) -> Output {
    binary::command(lake).arg("sql").args(arguments).output().unwrap()
}

/// What a query prints; it must succeed.
fn answer(lake: &Path, arguments: &[&str]) -> String {
    let output = run(lake, arguments);
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{arguments:?}: {error}");
    String::from_utf8(output.stdout).unwrap()
}

/// What a query that is refused says, and its exit code.
fn refusal(lake: &Path, query: &str) -> (i32, String) {
    let output = run(lake, &[query]);
    assert!(!output.status.success(), "{query} succeeded");
    (output.status.code().unwrap(), String::from_utf8(output.stderr).unwrap())
}

fn value(lake: &Path, query: &str) -> String {
    let text = answer(lake, &[query, "-o", "csv"]);
    text.lines().nth(1).unwrap_or_default().to_owned()
}

#[tokio::test]
async fn rows_come_in_every_format() {
    let (directory, lake, _) = lake().await;
    let query = "SELECT pair_id, prompt, strength, tagger_id FROM gold.preference_pairs ORDER BY pair_id LIMIT 2";
    let csv = answer(&lake, &[query, "-o", "csv"]);
    assert_eq!(
        csv,
        "pair_id,prompt,strength,tagger_id\n\
         pair_id-00000,\"[{\"\"role\"\":\"\"user\"\",\"\"content\"\":\"\"question 0, please\"\"}]\",0.5,\n\
         pair_id-00001,\"[{\"\"role\"\":\"\"user\"\",\"\"content\"\":\"\"question 1, please\"\"}]\",0.5,\n"
    );
    let lines = answer(&lake, &[query, "-o", "json"]);
    let rows: Vec<Value> = lines.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(rows[1]["prompt"], json!([{ "role": "user", "content": "question 1, please" }]));
    assert_eq!(rows[1].as_object().unwrap()["tagger_id"], Value::Null);
    let table = answer(&lake, &[query]);
    assert!(table.contains("user: question 1, please"), "{table}");
    let file = directory.path().join("rows.parquet");
    let _ = answer(&lake, &[query, "-o", "parquet", "--output-file", file.to_str().unwrap()]);
    let reader =
        parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder::try_new(std::fs::File::open(&file).unwrap());
    let reader = reader.unwrap();
    assert_eq!(reader.metadata().file_metadata().num_rows(), 2);
    assert_eq!(reader.metadata().file_metadata().key_value_metadata(), None);
    assert_eq!(reader.schema().field(0).data_type(), &arrow::datatypes::DataType::Utf8);
}

#[tokio::test]
async fn earlier_states_can_be_asked() {
    let (_directory, lake, handle) = lake().await;
    let table = handle.existing(&PREFERENCE_PAIRS).await.unwrap().unwrap();
    let latest = table.version();
    let count = |from: &str| value(&lake, &format!("SELECT count(*) FROM {from}"));
    assert_eq!(count("gold.preference_pairs"), "40");
    assert_eq!(count("preference_pairs"), "40");
    assert_eq!(count(&format!("gold.preference_pairs VERSION AS OF {}", latest - 1)), "10");
    assert_eq!(count(&format!("at_version('preference_pairs', {latest}) AS p")), "40");
    assert_eq!(count("gold.preference_pairs TIMESTAMP AS OF now()"), "40");
    assert_eq!(count("at_time('gold.preference_pairs', now() + INTERVAL '1 day')"), "40");
    let versions = value(&lake, "SELECT max(version) FROM history('gold.preference_pairs')");
    assert_eq!(versions, latest.to_string());
    let both = format!(
        "SELECT count(*) FROM preference_pairs p LEFT ANTI JOIN preference_pairs VERSION AS OF {} o ON p.pair_id = o.pair_id",
        latest - 1
    );
    assert_eq!(value(&lake, &both), "30");
    let (code, said) = refusal(&lake, "SELECT * FROM gold.preference_pairs VERSION AS OF 99");
    assert!(code == 2 && said.contains("version 99"), "{code}: {said}");
    let (code, said) = refusal(&lake, "SELECT * FROM gold.preference_pairs TIMESTAMP AS OF 'noon'");
    assert!(code == 2 && said.contains("is not a time"), "{code}: {said}");
}

#[tokio::test]
async fn nothing_is_ever_written() {
    let (directory, lake, handle) = lake().await;
    let target = directory.path().join("stolen.csv");
    for query in [
        "DROP TABLE gold.preference_pairs",
        "DELETE FROM gold.preference_pairs",
        "UPDATE gold.preference_pairs SET strength = 1",
        "INSERT INTO gold.preference_pairs SELECT * FROM gold.preference_pairs",
        "CREATE TABLE t AS SELECT 1",
        "CREATE VIEW v AS SELECT 1",
        "CREATE EXTERNAL TABLE t STORED AS CSV LOCATION '/etc/passwd'",
        "SET datafusion.execution.batch_size = 1",
        "EXPLAIN ANALYZE DELETE FROM gold.preference_pairs",
        &format!("COPY gold.preference_pairs TO '{}'", target.display()),
        "TRUNCATE TABLE gold.preference_pairs",
    ] {
        let (code, said) = refusal(&lake, query);
        assert!(code == 2 && said.contains("only reads"), "{query}: {code}: {said}");
    }
    assert!(!target.exists());
    let table = handle.existing(&PREFERENCE_PAIRS).await.unwrap().unwrap();
    let before = table.version();
    assert_eq!(table.refresh().await.unwrap(), before);
    let (code, said) = refusal(&lake, "SELECT * FROM '/etc/passwd'");
    assert_eq!(code, 2, "{said}");
}

#[tokio::test]
async fn a_fresh_lake_has_every_table_and_view_and_they_are_empty() {
    let directory = tempfile::tempdir().unwrap();
    let lake = directory.path().join("lake");
    for spec in ALL {
        assert_eq!(value(&lake, &format!("SELECT count(*) FROM {}", spec.qualified())), "0");
    }
    for view in ["silver.signal_labels", "silver.shadow_labels", "silver.label_drift", "gold.provisional"] {
        assert_eq!(value(&lake, &format!("SELECT count(*) FROM {view}")), "0");
    }
    let listed = answer(&lake, &["SELECT table_schema, table_name FROM information_schema.tables", "-o", "csv"]);
    for spec in ALL {
        assert!(listed.contains(&format!("{},{}", spec.layer.name(), spec.name)), "{listed}");
    }
    let columns = "SELECT count(*) FROM information_schema.columns WHERE table_name = 'preference_pairs'";
    assert_eq!(value(&lake, columns), PREFERENCE_PAIRS.columns.len().to_string());
    assert!(!lake.exists(), "asking created {}", lake.display());
}

#[tokio::test]
async fn functions_say_what_is_clumsy_otherwise() {
    let (_directory, lake, _) = lake().await;
    let one = |expression: &str| {
        value(&lake, &format!("SELECT {expression} FROM gold.preference_pairs WHERE pair_id = 'pair_id-00007'"))
    };
    assert_eq!(one("last_user_message(prompt)"), "\"question 7, please\"");
    assert_eq!(one("message_text(chosen, 1)"), "good answer 7");
    assert_eq!(one("message_text(chosen, -2) IS NULL"), "true");
    assert_eq!(one("conversation_text(chosen)"), "assistant: good answer 7");
    assert_eq!(one("rate(81, 263)"), "\"30.8 % (25.5–36.6, n 263)\"");
    assert_eq!(one("round(rate_low(81, 263), 4)"), "0.2553");
    assert_eq!(value(&lake, "SELECT share(rule_id = 'repair') FROM preference_pairs"), "\"35.0 % (22.1–50.5, n 40)\"");
    assert_eq!(
        value(&lake, "SELECT rate(count(*) FILTER (WHERE model = 'm1'), count(*)) FROM preference_pairs"),
        "\"50.0 % (35.2–64.8, n 40)\""
    );
    let (_, said) = refusal(&lake, "SELECT last_user_message(pair_id) FROM preference_pairs");
    assert!(said.contains("wants a list of messages"), "{said}");
}

#[tokio::test]
async fn views_answer_common_questions() {
    let (_directory, path, lake) = lake().await;
    let signals = [
        gold::row(&SIGNALS, 0, json!({ "labels": ["praise", "sat"], "praise": 0.75, "sat": 0.875 })),
        gold::row(&SIGNALS, 1, json!({ "labels": [] })),
    ];
    gold::write(&lake, &SIGNALS, &signals).await;
    let labels = answer(&path, &["SELECT label, probability FROM silver.signal_labels ORDER BY label", "-o", "csv"]);
    assert_eq!(labels, "label,probability\npraise,0.75\nsat,0.875\n");
    let exchange = |at: usize, labels: Value, settles: &str| {
        gold::row(
            &EXCHANGES,
            at,
            json!({ "labels": labels, "settles_at": settles, "event_time": "2026-11-20T00:00:00Z" }),
        )
    };
    let exchanges = [
        exchange(0, json!(["sat"]), "2026-11-23T00:00:00Z"),
        exchange(1, json!([]), "2026-11-23T00:00:00Z"),
        exchange(2, json!(["sat"]), "2026-11-19T00:00:00Z"),
    ];
    gold::write(&lake, &EXCHANGES, &exchanges).await;
    assert_eq!(value(&path, "SELECT turn_id FROM gold.provisional"), "turn_id-00000");
}

#[tokio::test]
async fn mistakes_come_with_a_hint() {
    let (_directory, lake, _) = lake().await;
    for (query, hint) in [
        ("SELECT * FROM gold.preference_pair", "did you mean `gold.preference_pairs`?"),
        ("SELECT promt FROM gold.preference_pairs", "id you mean"),
        ("SELECT conversation_txt(prompt) FROM gold.preference_pairs", "id you mean"),
        ("SELEC 1", "Expected"),
        ("", "there is no statement"),
    ] {
        let (code, said) = refusal(&lake, query);
        assert!(code == 2 && said.contains(hint), "{query}: {code}: {said}");
    }
}

#[tokio::test]
async fn queries_come_from_files_and_several_at_once() {
    let (directory, lake, _) = lake().await;
    let file = directory.path().join("query.sql");
    std::fs::write(&file, "-- two questions\nSELECT 1 AS one; SELECT 2 AS two;").unwrap();
    let text = answer(&lake, &["-f", file.to_str().unwrap()]);
    assert!(text.contains("one") && text.contains("two"), "{text}");
    let output = run(&lake, &["-f", file.to_str().unwrap(), "-o", "csv"]);
    assert_eq!(output.status.code(), Some(2));
    assert_eq!(value(&lake, "SELECT count(*) FROM preference_pairs"), "40");
    let limited = answer(&lake, &["SELECT pair_id FROM preference_pairs", "-o", "csv", "--limit-rows", "3"]);
    assert_eq!(limited.lines().count(), 4);
}
