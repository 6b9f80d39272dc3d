//! Files into a lake: every layout, twice, cut off in the middle, and the development data where it is there.

#![expect(clippy::unwrap_used, reason = "in a test a panic is the report")]

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde_json::json;
use tempfile::TempDir;
use uptake_ingest::Error;
use uptake_ingest::files::{FALLBACK_DAY, Handle, ImportOptions, Layout, Report, import};
use uptake_lake::Lake;
use uptake_model::contract::ErrorClass;
use uptake_model::decode::Edge;
use uptake_model::{Pepper, tables, time};
use uptake_tests::binary;
use uptake_tests::tables::{places, read, texts};

/// 2026-01-01T00:00:00Z.
const NOW: i64 = 1_767_225_600_000_000;

fn options() -> ImportOptions {
    let pepper = Pepper::new("0123456789abcdef").unwrap();
    ImportOptions::new(Edge { pepper, max_record_bytes: 5 << 20, pipeline_version: "test".to_owned() }, NOW)
}

fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../schemas/fixtures/import").join(name)
}

fn lake() -> (TempDir, Lake) {
    let directory = tempfile::tempdir().unwrap();
    let lake = Lake::open(directory.path().to_str().unwrap()).unwrap();
    (directory, lake)
}

async fn imported(lake: &Lake, path: &Path) -> Report {
    import(lake, path, &options(), &Handle::default()).await.unwrap()
}

/// Rows of bronze: events by kind, and dead letters by reason.
async fn rows(lake: &Lake) -> (BTreeMap<String, usize>, BTreeMap<String, usize>) {
    let mut counts = [BTreeMap::new(), BTreeMap::new()];
    for (count, (spec, column)) in
        counts.iter_mut().zip([(&tables::EVENTS, "kind"), (&tables::DEAD_LETTERS, "error_class")])
    {
        for batch in read(lake, spec, &[column]).await {
            for value in texts(&batch, 0) {
                *count.entry(value).or_default() += 1;
            }
        }
    }
    let [events, letters] = counts;
    (events, letters)
}

async fn version(lake: &Lake) -> i64 {
    lake.existing(&tables::EVENTS).await.unwrap().unwrap().version()
}

#[tokio::test(flavor = "multi_thread")]
async fn every_layout_comes_in_once() {
    let (_directory, lake) = lake();
    let files = [
        ("own.jsonl", Layout::Own, 10, 3),
        ("openai.jsonl", Layout::OpenAi, 7, 0),
        ("gateway.jsonl", Layout::OpenAi, 2, 1),
        ("wildchat.jsonl", Layout::WildChat, 4, 0),
        ("sharegpt.json", Layout::ShareGpt, 5, 2),
        ("oasst-rows.jsonl", Layout::OpenAssistant, 8, 1),
        ("oasst-trees.jsonl", Layout::OpenAssistant, 7, 0),
    ];
    let (mut events, mut letters) = (0, 0);
    for (name, layout, its_events, its_letters) in files {
        let report = imported(&lake, &fixture(name)).await;
        assert_eq!(report.layout, Some(layout), "{name}");
        assert_eq!((report.events_written, report.letters_written), (its_events, its_letters), "{name}");
        assert!(report.source.topic.starts_with("file:") && report.source.topic.len() == 21, "{}", report.source);
        events += its_events;
        letters += its_letters;
    }
    let before = (rows(&lake).await, version(&lake).await);
    assert_eq!(before.0.0.values().sum::<usize>() as u64, events);
    assert_eq!(before.0.1.values().sum::<usize>() as u64, letters);
    // Again, and under another name: nothing is added, not even a commit.
    let elsewhere = tempfile::tempdir().unwrap();
    for (name, ..) in files {
        let copy = elsewhere.path().join("copy");
        std::fs::copy(fixture(name), &copy).unwrap();
        for path in [fixture(name), copy] {
            let report = imported(&lake, &path).await;
            assert!(report.was_imported(), "{name}");
            assert_eq!((report.events_written, report.letters_written), (0, 0), "{name}");
        }
    }
    assert_eq!((rows(&lake).await, version(&lake).await), before);
    // Finished files hold no watermark back.
    assert!(lake.watermark().await.unwrap().is_some());
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_no_log_leaves_no_trace() {
    let (directory, lake) = lake();
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), "id,text\n1,hello\n").unwrap();
    let error = import(&lake, file.path(), &options(), &Handle::default()).await.unwrap_err();
    assert!(matches!(&error, Error::Invalid(why) if why.contains("wildchat")), "{error}");
    assert_eq!(std::fs::read_dir(directory.path()).unwrap().count(), 0);
}

/// An import that is cut off between two flushes has written a beginning. Here every event is a flush of its own, and
/// the import is cut off as soon as something more is in the table, five times; then it may come to its end.
#[tokio::test(flavor = "multi_thread")]
async fn an_import_that_was_cut_off_goes_on() {
    let line = |number: u32| {
        let said = |role: &str| json!({"role": role, "content": "a"});
        json!({"conversation_id": format!("c-{number}"), "messages": [said("user"), said("assistant"), said("robot")]})
    };
    let lines: Vec<String> = (0..40).map(|number| line(number).to_string()).collect();
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), lines.join("\n")).unwrap();
    let (_directory, whole) = lake();
    let report = imported(&whole, file.path()).await;
    assert_eq!((report.events_written, report.letters_written), (80, 40));

    let (_directory, lake) = lake();
    let mut written = 0;
    for _ in 0..5 {
        let running = {
            let (lake, path, options) =
                (lake.clone(), file.path().to_owned(), ImportOptions { flush_bytes: 1, ..options() });
            tokio::spawn(async move { import(&lake, &path, &options, &Handle::default()).await })
        };
        while places(&lake, &tables::EVENTS).await.len() <= written && !running.is_finished() {
            tokio::task::yield_now().await;
        }
        running.abort();
        let _ = running.await;
        written = places(&lake, &tables::EVENTS).await.len();
    }
    assert!((5..80).contains(&written), "{written} events after five beginnings");
    let report = imported(&lake, file.path()).await;
    assert!(report.counts.already_there > 0 && !report.was_imported());
    for spec in [&tables::EVENTS, &tables::DEAD_LETTERS] {
        assert_eq!(places(&lake, spec).await, places(&whole, spec).await, "{spec}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_development_data_is_read_as_it_is() {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../shared/data/conversations");
    if !directory.is_dir() {
        println!("skipped: {} is not there", directory.display());
        return;
    }
    let (_lake_directory, lake) = lake();
    // Conversations, messages with text, messages or conversations without any, reactions, counts of zero.
    let expected = [
        ("convai2_thumbs", 718, 14_509, 0, 1_429, 0),
        ("convai2_toloka", 2_328, 37_852, 0, 0, 0),
        ("dbdc3", 407, 8_323, 26, 0, 0),
        ("dstc9_interactive", 2_082, 59_868, 1_538, 0, 0),
        ("realhumaneval_chat", 386, 2_106, 2, 362, 691),
        ("uss", 3_106, 71_905, 7, 0, 0),
    ];
    let mut events = 0;
    for (name, conversations, messages, empty, reactions, zero) in expected {
        let report = imported(&lake, &directory.join(format!("{name}.jsonl.gz"))).await;
        let counts = &report.counts;
        assert_eq!(report.layout, Some(Layout::Own), "{name}");
        assert_eq!((counts.records, counts.reactions, counts.zero_counts), (conversations, reactions, zero), "{name}");
        // Conversations that are in a file twice are there once.
        assert_eq!(counts.messages + counts.duplicates, messages, "{name}");
        assert_eq!(counts.refused.get(&ErrorClass::EmptyContent).copied().unwrap_or(0), empty, "{name}");
        assert_eq!(counts.all_refused(), empty, "{name}: {:?}", counts.refused);
        events += report.events_written;
    }
    let (kinds, letters) = rows(&lake).await;
    assert_eq!(kinds.values().sum::<usize>() as u64, events);
    assert_eq!(kinds.get("reaction"), Some(&1_791));
    assert_eq!(letters, BTreeMap::from([("empty_content".to_owned(), 1_573)]));
    let days: Vec<String> =
        read(&lake, &tables::EVENTS, &["conversation_date"]).await.iter().flat_map(|batch| texts(batch, 0)).collect();
    let fallback = time::day_text(FALLBACK_DAY);
    assert!(days.contains(&fallback), "conversations without a time live under {fallback}");
}

/// The command itself: what it says, and the codes with which it ends.
#[tokio::test(flavor = "multi_thread")]
async fn the_command_says_what_came_in() {
    let directory = tempfile::tempdir().unwrap();
    let root = directory.path().join("lake");
    let state = directory.path().join("state");
    let run = |files: &[&Path]| {
        let output = binary::command(&root).env("XDG_STATE_HOME", &state).arg("import").args(files).output().unwrap();
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        (output.status.code(), text(&output.stdout), text(&output.stderr))
    };
    let csv = directory.path().join("table.csv");
    std::fs::write(&csv, "a,b\n1,2\n").unwrap();
    let (code, said, complaint) = run(&[&csv]);
    assert_eq!(code, Some(3), "{said}{complaint}");
    assert!(complaint.contains("no chat log"), "{complaint}");
    assert!(!root.join("bronze").exists(), "a refused file writes nothing");

    let fixtures = fixture("");
    let (code, said, complaint) = run(&[&fixtures, &csv]);
    assert_eq!(code, Some(3), "{said}{complaint}");
    assert!(said.contains("7 files read, 1 refused: 43 events and 7 dead letters added"), "{said}{complaint}");
    assert!(said.contains("2 conversations (own), 6 messages, 4 reactions"), "{said}");
    let (code, said, complaint) = run(&[&fixtures]);
    assert_eq!(code, Some(0), "{said}{complaint}");
    assert_eq!(said.matches("already imported").count(), 7, "{said}");
    assert!(state.join("uptake/pepper").is_file());
    assert!(!root.join("pepper").exists());
    let (code, _, complaint) = run(&[&directory.path().join("absent.jsonl")]);
    assert_eq!(code, Some(3), "{complaint}");
    let (code, _, complaint) = run(&[Path::new("--start-time"), Path::new("1970-01-01"), &fixtures]);
    assert_eq!(code, Some(2), "{complaint}");
}
