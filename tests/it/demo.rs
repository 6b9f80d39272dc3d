//! The demo against the oracle of its log: every record once, every refusal with its reason, pairs by every rule, and
//! the same rows for the same seed.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::path::Path;
use std::process::{Command, Output};

use serde_json::Value;
use uptake_model::contract::ErrorClass;
use uptake_sample::{Log, Plan};
use uptake_tests::binary::{command, uptake};
use uptake_tests::collector::{self, Posted};
use uptake_train::classifier::Options;
use uptake_train::data::{Part, Split};

const SEED: &str = "7";
const CONVERSATIONS: &str = "400";

fn run(lake: &Path, arguments: &[&str]) -> Output {
    command(lake).args(arguments).output().unwrap()
}

/// Runs a command that must succeed; its standard output and standard error.
fn done(lake: &Path, arguments: &[&str]) -> (String, String) {
    let output = run(lake, arguments);
    let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
    let (out, error) = (text(&output.stdout), text(&output.stderr));
    assert!(output.status.success(), "{arguments:?}: {}\n{out}\n{error}", output.status);
    (out, error)
}

fn demo(lake: &Path) -> (String, String) {
    done(lake, &["demo", "--no-night", "--seed", SEED, "--conversations", CONVERSATIONS])
}

/// The rows of a query.
fn sql(lake: &Path, query: &str) -> Vec<Value> {
    done(lake, &["sql", "-o", "json", query]).0.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

fn counts(lake: &Path, query: &str) -> BTreeMap<String, usize> {
    let pair =
        |row: Value| (row["k"].as_str().unwrap().to_owned(), usize::try_from(row["n"].as_u64().unwrap()).unwrap());
    sql(lake, query).into_iter().map(pair).collect()
}

/// The log of the demo: its labelled texts are those that the tagger was not trained on.
fn log() -> Log {
    let usable = |id: &str| {
        let options = Options::default();
        let split = Split { seed: options.seed, validation: options.validation, test: options.test };
        split.part(id) == Part::Test
    };
    let plan = Plan::new(SEED.parse().unwrap(), CONVERSATIONS.parse().unwrap());
    uptake_sample::generate(&Plan { usable, ..plan }).unwrap()
}

#[test]
fn the_demo_is_what_its_log_says() {
    let directory = tempfile::tempdir().unwrap();
    let lake = directory.path().join("lake");
    let (endpoint, posted) = collector::listen();
    let watched = command(&lake)
        .args(["demo", "--no-night", "--seed", SEED, "--conversations", CONVERSATIONS])
        .env("UPTAKE_TELEMETRY_OTLP_ENDPOINT", endpoint)
        .output()
        .unwrap();
    assert!(watched.status.success(), "{}", String::from_utf8_lossy(&watched.stderr));
    let summary = String::from_utf8(watched.stdout).unwrap();
    telemetry_tells_of_it(&posted);
    let log = log();
    every_record_once(&lake, &log);
    refusals_by_reason(&lake, &log);
    nobody_is_named(&lake);
    pairs_by_every_rule(&lake, &log);
    suggested_queries_work(&summary);
    again_is_no_change(&lake);
    same_seed_same_rows(&lake, &directory.path().join("twin"));
}

/// Spans and metrics of every part reach a collector before the process ends.
fn telemetry_tells_of_it(posted: &Posted) {
    for span in ["uptake demo", "ingest.flush", "pairs_repair"] {
        assert!(posted.holds("/v1/traces", span), "no span {span}");
    }
    for metric in
        ["ingest_records_total", "ingest_commit_seconds", "job_rows_total", "table_files", "tagger_batch_rows"]
    {
        assert!(posted.holds("/v1/metrics", metric), "no metric {metric}");
    }
}

fn every_record_once(lake: &Path, log: &Log) {
    let rows = sql(
        lake,
        "SELECT count(*) AS n, count(DISTINCT concat(topic, '/', partition, '/', \"offset\")) AS places FROM bronze.events",
    );
    assert_eq!(rows[0]["n"], rows[0]["places"]);
    let stored = counts(lake, "SELECT topic AS k, count(DISTINCT event_id) AS n FROM bronze.events GROUP BY topic");
    for (topic, count) in &log.oracle.topics {
        assert_eq!(stored.get(*topic).copied().unwrap_or_default(), count.events, "{topic}");
    }
    // A repeat is dropped while its event is remembered, else set aside by the jobs.
    let all = counts(lake, "SELECT 'events' AS k, count(*) AS n FROM bronze.events")["events"];
    let total = log.oracle.total();
    assert!((total.events..=total.events + total.repeats).contains(&all), "{all} of {total:?}");
}

fn refusals_by_reason(lake: &Path, log: &Log) {
    let mut refused =
        counts(lake, "SELECT error_class AS k, count(*) AS n FROM bronze.dead_letters GROUP BY error_class");
    let set_aside = counts(lake, "SELECT reason AS k, count(*) AS n FROM silver.rejected GROUP BY reason");
    let twice = ErrorClass::EventIdReused.name();
    let found = refused.remove(twice).unwrap_or_default() + set_aside.get(twice).copied().unwrap_or_default();
    let total = log.oracle.total();
    assert_eq!(found, total.reused_ids, "{set_aside:?}");
    let expected: BTreeMap<String, usize> =
        total.refused.iter().map(|(class, count)| (class.name().to_owned(), *count)).collect();
    assert_eq!(refused, expected);
}

fn nobody_is_named(lake: &Path) {
    // Letters may hold bytes that are no text.
    let hidden = format!("encode(payload, 'hex') LIKE '%{}%'", hex("@example.org"));
    for query in [
        "SELECT count(*) AS n FROM bronze.events WHERE payload LIKE '%@example.org%'".to_owned(),
        format!("SELECT count(*) AS n FROM bronze.dead_letters WHERE {hidden}"),
    ] {
        assert_eq!(sql(lake, &query)[0]["n"], 0, "{query}");
    }
}

fn hex(text: &str) -> String {
    uptake_model::subject::hex(text.as_bytes())
}

fn pairs_by_every_rule(lake: &Path, log: &Log) {
    let query = "SELECT rule_id, conversation_id, message_text(chosen, 1) AS chosen, message_text(rejected, 1) AS rejected FROM gold.preference_pairs";
    let planned: HashSet<(&str, &str, &str)> =
        log.oracle.pairs.iter().map(|pair| (pair.rule, pair.chosen.as_str(), pair.rejected.as_str())).collect();
    let mut rules = BTreeSet::new();
    for row in sql(lake, query) {
        let text = |name: &str| row[name].as_str().unwrap().to_owned();
        let (rule, chosen, rejected) = (text("rule_id"), text("chosen"), text("rejected"));
        assert!(!log.oracle.denied.contains(&text("conversation_id")), "no consent: {row}");
        // What a complaint is, the tagger decides; the other rules leave no room.
        if rule != "repair" {
            assert!(planned.contains(&(rule.as_str(), chosen.as_str(), rejected.as_str())), "not planned: {row}");
        }
        let _ = rules.insert(rule);
    }
    let expected = ["choice", "edit", "regenerate", "repair"].map(str::to_owned);
    assert_eq!(rules, BTreeSet::from(expected));
}

/// The commands that the summary ends with, word for word.
fn suggested_queries_work(summary: &str) {
    let commands: Vec<&str> = summary.lines().filter_map(|line| line.trim().strip_prefix("uptake ")).collect();
    assert!(commands.len() >= 3, "{summary}");
    for command in commands {
        let shell = format!("'{}' {command}", uptake().display());
        let output = Command::new("sh").arg("-c").arg(&shell).output().unwrap();
        assert!(output.status.success(), "{shell}\n{}", String::from_utf8_lossy(&output.stderr));
        assert!(!output.stdout.is_empty(), "{shell}");
    }
}

fn again_is_no_change(lake: &Path) {
    let before = sql(lake, "SELECT count(*) AS n FROM bronze.events");
    let (_, told) = demo(lake);
    assert!(told.contains("nothing new"), "{told}");
    assert_eq!(sql(lake, "SELECT count(*) AS n FROM bronze.events"), before);
    let output = run(lake, &["demo", "--no-night", "--seed", "8", "--conversations", CONVERSATIONS]);
    let error = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(2), "{error}");
    assert!(error.contains("demo of seed 7") && error.contains("--lake"), "{error}");
}

fn same_seed_same_rows(lake: &Path, twin: &Path) {
    let _ = demo(twin);
    for query in [
        "SELECT * FROM gold.preference_pairs ORDER BY pair_id",
        "SELECT * FROM gold.love ORDER BY row_id",
        "SELECT * FROM gold.unpaired ORDER BY row_id",
        "SELECT * FROM silver.signals ORDER BY turn_id, follow_up_turn_id",
    ] {
        let (ours, theirs) = (sql(lake, query), sql(twin, query));
        assert!(!ours.is_empty(), "{query}");
        assert!(ours == theirs, "{query}: the seed does not decide the rows");
    }
}

#[test]
fn a_directory_of_something_else_is_left_alone() {
    let directory = tempfile::tempdir().unwrap();
    std::fs::write(directory.path().join("thesis.txt"), "do not touch").unwrap();
    let output = run(directory.path(), &["demo"]);
    let error = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(2), "{error}");
    assert!(error.contains("not empty"), "{error}");
    let left: Vec<_> = std::fs::read_dir(directory.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert_eq!(left, ["thesis.txt"]);
}

#[test]
fn the_night_learns_from_the_week_and_its_gates_decide() {
    let directory = tempfile::tempdir().unwrap();
    let lake = directory.path().join("lake");
    let arguments = ["demo", "--seed", SEED, "--conversations", "120"];
    let (summary, progress) = done(&lake, &arguments);
    assert!(summary.contains("The night") && summary.contains("is refused: step `gate`"), "{summary}\n{progress}");
    let settings = lake.join("night/uptake.toml");
    let settings = settings.to_str().unwrap();
    let json = |arguments: &[&str]| -> Value { serde_json::from_str(&done(&lake, arguments).0).unwrap() };
    let models = json(&["models", "list", "--config", settings, "-o", "json"]);
    let in_use = models["in_use"].as_array().unwrap();
    assert!(in_use.len() == 1 && in_use[0].as_str().unwrap().starts_with("love/"), "one gate passes: {models}");
    assert_eq!(models["models"].as_array().unwrap().len(), 2, "and one refuses: {models}");
    let run = json(&["runs", "show", "night", "--config", settings, "-o", "json"]);
    let page = lake.join("night/runs").join(run["run"]["id"].as_str().unwrap()).join("report/report.html");
    assert!(summary.contains(page.to_str().unwrap()), "{summary}");
    assert!(std::fs::read_to_string(page).unwrap().contains("score.difference"));
    // Again: the night is over and stays as it was.
    let (summary, _) = done(&lake, &arguments);
    assert!(summary.contains("is refused: step `gate`"), "{summary}");
    assert_eq!(json(&["runs", "show", "night", "--config", settings, "-o", "json"]), run);
}
