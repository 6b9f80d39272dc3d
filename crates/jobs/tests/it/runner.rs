//! What the runner promises, whatever the SQL.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use serde_json::{Map, Value, json};
use uptake_jobs::{Error, Pipelines, RunReport, Status};
use uptake_model::contract::Contract;
use uptake_model::time;

use crate::kit::{Bench, KeywordTagger, on_a_runtime};

const NOON: i64 = 1_768_046_400_000_000; // 2026-01-10T12:00:00Z

fn message(id: &str, role: &str, content: &str, minute: i64, day: i64) -> (Contract, Map<String, Value>) {
    let start = NOON + (day - 10) * time::DAY_MICROS;
    let object = json!({
        "event_id": format!("e-{day}-{id}"),
        "conversation_id": format!("c{day}"),
        "conversation_started_at": time::time_text(start),
        "message_id": format!("{day}-{id}"),
        "role": role,
        "content": content,
        "event_time": time::time_text(start + minute * 60_000_000),
        "user_id": "ann",
    });
    match object {
        Value::Object(object) => (Contract::Messages, object),
        _ => unreachable!("an object"),
    }
}

fn talk(day: i64) -> Vec<(Contract, Map<String, Value>)> {
    vec![
        message("u1", "user", "When did the Berlin wall fall?", 0, day),
        message("a1", "assistant", "It fell in 1987.", 1, day),
        message("u2", "user", "That is wrong, check again.", 2, day),
        message("a2", "assistant", "The Berlin wall fell on 9 November 1989.", 3, day),
        message("u3", "user", "Perfect, thank you!", 4, day),
    ]
}

/// The pipelines that ended otherwise, with what broke.
fn statuses(reports: &[RunReport], wanted: Status) -> Vec<String> {
    let others = reports.iter().filter(|report| report.status != wanted);
    others
        .map(|report| {
            format!("{}: {:?} {:?}", report.pipeline, report.status, report.broken_checks().collect::<Vec<_>>())
        })
        .collect()
}

const LATER: i64 = NOON + 30 * time::DAY_MICROS;

#[test]
fn only_new_follow_ups_are_tagged_and_only_changed_days_built() {
    on_a_runtime(async {
        let mut bench = Bench::new();
        bench.ingest(&talk(10), LATER).await.unwrap();
        bench.ingest(&talk(11), LATER).await.unwrap();
        let reports = bench.run(&[], LATER, Some(LATER), false).await.unwrap();
        assert_eq!(statuses(&reports, Status::Built), Vec::<String>::new());
        assert_eq!(bench.tagger.tagged.load(Ordering::Relaxed), 4);
        bench.ingest(&[message("a3", "assistant", "You are welcome.", 5, 11)], LATER).await.unwrap();
        let reports = bench.run(&[], LATER, Some(LATER), false).await.unwrap();
        assert!(reports.iter().flat_map(|report| &report.days).all(|day| day == "2026-01-11"));
        assert_eq!(bench.tagger.tagged.load(Ordering::Relaxed), 4, "no follow-up was new");
        let reports = bench.run(&[], LATER, Some(LATER), false).await.unwrap();
        assert_eq!(statuses(&reports, Status::Unchanged), Vec::<String>::new());
    });
}

#[test]
fn another_tagger_is_another_generation() {
    on_a_runtime(async {
        let mut bench = Bench::new();
        bench.ingest(&talk(10), LATER).await.unwrap();
        let _ = bench.run(&[], LATER, Some(LATER), false).await.unwrap();
        bench.tagger = Arc::new(KeywordTagger { version: Some("keywords-2"), ..KeywordTagger::default() });
        let reports = bench.run(&[], LATER, Some(LATER), false).await.unwrap();
        let of = |name: &str| reports.iter().find(|report| report.pipeline == name).unwrap();
        assert_eq!(of("turns").status, Status::Unchanged);
        assert_eq!(of("signals").full_rebuild.as_deref(), Some("its SQL, parameters or tagger changed"));
        assert_eq!(bench.query("SELECT DISTINCT tagger_id FROM silver.signals").await.unwrap(), ["keywords-2"]);
        assert_eq!(of("pairs_repair").rows_out, 1);
    });
}

#[test]
fn going_back_to_an_earlier_generation_builds_anew() {
    on_a_runtime(async {
        let mut bench = Bench::new();
        bench.ingest(&talk(10), LATER).await.unwrap();
        for version in ["keywords-1", "keywords-2", "keywords-1"] {
            bench.tagger = Arc::new(KeywordTagger { version: Some(version), ..KeywordTagger::default() });
            let _ = bench.run(&[], LATER, Some(LATER), false).await.unwrap();
            assert_eq!(bench.query("SELECT DISTINCT tagger_id FROM silver.signals").await.unwrap(), [version]);
            assert_eq!(bench.query("SELECT DISTINCT tagger_id FROM gold.preference_pairs").await.unwrap(), [version]);
            let reports = bench.run(&[], LATER, Some(LATER), false).await.unwrap();
            assert_eq!(statuses(&reports, Status::Unchanged), Vec::<String>::new());
        }
    });
}

#[test]
fn many_days_go_in_groups_and_come_out_the_same() {
    on_a_runtime(async {
        let mut one = Bench::new();
        let mut many = Bench::new();
        for day in 10..13 {
            one.ingest(&talk(day), LATER).await.unwrap();
            many.ingest(&talk(day), LATER).await.unwrap();
        }
        let _ = one.run(&[], LATER, Some(LATER), false).await.unwrap();
        let mut options = uptake_jobs::RunOptions::new("grouped", LATER);
        options.watermark = Some(LATER);
        options.days_per_group = 1;
        let tagger: Arc<dyn uptake_jobs::Tag> = Arc::<KeywordTagger>::clone(&many.tagger);
        let reports = Box::pin(uptake_jobs::run(&many.lake, &many.pipelines, &[], tagger, &options)).await.unwrap();
        assert_eq!(statuses(&reports, Status::Built), Vec::<String>::new());
        let sql = "SELECT pair_id, rule_id, split FROM gold.preference_pairs ORDER BY 1";
        assert_eq!(one.query(sql).await.unwrap(), many.query(sql).await.unwrap());
        let read = |reports: &[RunReport]| reports.iter().map(RunReport::rows_in).sum::<u64>();
        assert!(read(&reports) > 0);
    });
}

#[test]
fn a_refused_build_leaves_the_table_as_it_was() {
    on_a_runtime(async {
        let mut bench = Bench::new();
        bench.pipelines = with(&[(
            "subjects/pipeline.toml",
            "description = \"x\"\noutput = \"silver.subjects\"\n[checks.never]\n\"nobody called c11\" = \"conversation_id = 'c11'\"\n",
        )]);
        bench.ingest(&talk(10), LATER).await.unwrap();
        let names = ["subjects".to_owned()];
        let _ = bench.run(&names, LATER, None, false).await.unwrap();
        bench.ingest(&talk(11), LATER).await.unwrap();
        let reports = bench.run(&names, LATER, None, false).await.unwrap();
        let report = reports.last().unwrap();
        assert_eq!(report.status, Status::Refused);
        let broken: Vec<_> = report.broken_checks().collect();
        assert_eq!((broken[0].check.as_str(), broken[0].offending), ("nobody called c11", 1));
        assert!(broken[0].message.ends_with("/c11"), "{}", broken[0].message);
        assert_eq!(bench.query("SELECT conversation_id FROM silver.subjects").await.unwrap(), ["c10"]);
        let sql = "SELECT status, count(*) FROM control.job_runs WHERE pipeline = 'subjects' GROUP BY 1 ORDER BY 1";
        assert_eq!(bench.query(sql).await.unwrap(), ["built | 1", "refused | 1"]);
    });
}

/// Days `10..` of talks, built one at a time by a pipeline that wants no conversation `c11`.
async fn refused_in_the_middle(commit: &str) -> (RunReport, Vec<String>) {
    let mut bench = Bench::new();
    let definition = format!(
        "description = \"x\"\noutput = \"silver.subjects\"\ncommit = \"{commit}\"\n[checks.never]\n\"nobody called c11\" = \"conversation_id = 'c11'\"\n",
    );
    bench.pipelines = with(&[("subjects/pipeline.toml", &definition)]);
    for day in 10..13 {
        bench.ingest(&talk(day), LATER).await.unwrap();
    }
    let mut options = uptake_jobs::RunOptions::new("grouped", LATER);
    options.days_per_group = 1;
    let tagger: Arc<dyn uptake_jobs::Tag> = Arc::<KeywordTagger>::clone(&bench.tagger);
    let names = ["subjects".to_owned()];
    let reports = Box::pin(uptake_jobs::run(&bench.lake, &bench.pipelines, &names, tagger, &options)).await.unwrap();
    let rows = bench.query("SELECT conversation_id FROM silver.subjects").await.unwrap();
    (reports.into_iter().last().unwrap(), rows)
}

#[test]
fn a_build_of_several_groups_is_shown_whole_or_not_at_all() {
    on_a_runtime(async {
        let (report, rows) = refused_in_the_middle("together").await;
        assert_eq!(report.status, Status::Refused);
        assert_eq!((rows, report.days.len()), (vec![], 0), "the first day was good and is not there either");
        let (report, rows) = refused_in_the_middle("groups").await;
        assert_eq!((report.status, rows), (Status::Refused, vec!["c10".to_owned()]), "what was dear to make is kept");
        assert_eq!(report.days, ["2026-01-10"]);
    });
}

/// The repository's pipelines with some files replaced.
fn with(changes: &[(&str, &str)]) -> Pipelines {
    try_with(changes).unwrap()
}

fn try_with(changes: &[(&str, &str)]) -> Result<Pipelines, Error> {
    let mut files = BTreeMap::new();
    let mut folders = vec![crate::pipelines()];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|extension| extension == "sql" || extension == "toml") {
                let name = path.strip_prefix(crate::pipelines()).unwrap().display().to_string();
                let _ = files.insert(name, std::fs::read_to_string(&path).unwrap());
            }
        }
    }
    for (name, text) in changes {
        let _ = files.insert((*name).to_owned(), (*text).to_owned());
    }
    Pipelines::from_files(&files)
}

#[track_caller]
fn refused(changes: &[(&str, &str)], sentence: &str) {
    let error = try_with(changes).unwrap_err().to_string();
    assert!(error.contains(sentence), "{error}");
}

#[test]
fn faults_are_named() {
    let subjects = "description = \"x\"\noutput = \"silver.subjects\"\n";
    refused(
        &[("subjects/pipeline.toml", "description = \"x\"\noutput = \"silver.people\"")],
        "there is no table silver.people",
    );
    refused(&[("subjects/pipeline.toml", &format!("{subjects}colour = 1"))], "unknown field `colour`");
    refused(
        &[("subjects/pipeline.toml", &format!("{subjects}[checks]\nnot_empty = [\"nam\"]"))],
        "has no column `nam`",
    );
    refused(
        &[("subjects/pipeline.toml", &format!("{subjects}tagger = \"other\""))],
        "`tagger` must be true, false or \"shadow\"",
    );
    refused(&[("subjects/pipeline.toml", &format!("{subjects}[parameters]\nx = 1"))], "parameter `x` is used by none");
    refused(&[("subjects/build.sql", "SELECT * FROM silver.turn")], "there is no table silver.turn;");
    refused(&[("subjects/build.sql", "SELECT * FROM silver.subjects")], "`previous.subjects`");
    refused(&[("subjects/build.sql", "SELECT $x FROM silver.turns")], "parameter `$x` is declared neither");
    refused(&[("turns/build.sql", "SELECT * FROM silver.exchanges")], "in a circle: ");
    refused(
        &[("more/pipeline.toml", subjects), ("more/build.sql", "SELECT 1 AS x FROM silver.turns")],
        "writes the same part of silver.subjects",
    );
}

#[test]
fn columns_are_checked_before_anything_is_written() {
    on_a_runtime(async {
        let mut bench = Bench::new();
        bench.ingest(&talk(10), LATER).await.unwrap();
        for (sql, sentence) in [
            ("SELECT subject_key FROM silver.turns", "its SQL gives no column `conversation_id`"),
            ("SELECT name FROM silver.turns", "plan its SQL"),
        ] {
            bench.pipelines = with(&[("subjects/build.sql", sql)]);
            let error = bench.run(&[], LATER, None, false).await.unwrap_err();
            assert!(error.to_string().contains(sentence), "{error}");
        }
        assert!(bench.lake.existing(&uptake_model::tables::TURNS).await.unwrap().is_none());
    });
}

#[test]
fn the_embedded_pipelines_are_those_of_the_folder() {
    let embedded = Pipelines::embedded().unwrap();
    let read = Pipelines::from_directory(&crate::pipelines()).unwrap();
    let generations = |pipelines: &Pipelines| {
        pipelines.all().map(|pipeline| (pipeline.name.clone(), pipeline.generation("x"))).collect::<Vec<_>>()
    };
    assert_eq!(generations(&embedded), generations(&read));
    let order: Vec<_> =
        read.ordered(&["love".to_owned()]).unwrap().into_iter().map(|pipeline| pipeline.name.as_str()).collect();
    assert_eq!(order, ["turns", "reactions", "signals", "exchanges", "love"]);
}
