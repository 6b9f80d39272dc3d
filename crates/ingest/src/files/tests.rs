//! The layouts, read from the small files in `schemas/fixtures/import` and from files that are made here.

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::sync::mpsc;
use uptake_model::contract::ErrorClass;
use uptake_model::decode::Edge;
use uptake_model::rows::{EventRow, LetterRow};
use uptake_model::{Next, Pepper, SourcePartition, time};

use super::reader::Reader;
use super::{Counts, Handle, ImportOptions, Layout, identify, probe};
use crate::buffer::Buffer;
use crate::error::{Error, Result};

/// 2026-01-01T00:00:00Z.
const NOW: i64 = 1_767_225_600_000_000;

fn options() -> ImportOptions {
    let pepper = Pepper::new("0123456789abcdef").unwrap();
    ImportOptions::new(Edge { pepper, max_record_bytes: 1 << 20, pipeline_version: "test".to_owned() }, NOW)
}

/// What a file became.
#[derive(Debug, PartialEq)]
struct Imported {
    layout: Layout,
    counts: Counts,
    events: Vec<EventRow>,
    letters: Vec<LetterRow>,
    /// Where the reader stood at the end, and whether it said that this is the end.
    end: (i64, bool),
}

fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../schemas/fixtures/import").join(name)
}

fn read_from(path: &Path, options: &ImportOptions, from: Option<Next>) -> Result<Imported> {
    let layout = probe::layout(path, options.layout)?;
    let source = SourcePartition::new("file:0123456789abcdef", 0);
    let (sender, mut receiver) = mpsc::channel::<Buffer>(1);
    let reader = Reader::new(source.clone(), layout, options.clone(), from, sender);
    let path = path.to_owned();
    let reading = std::thread::spawn(move || reader.read(&path, &Handle::default()));
    let (mut events, mut letters, mut end) = (Vec::new(), Vec::new(), (0, false));
    while let Some(mut buffer) = receiver.blocking_recv() {
        if let Some(part) = buffer.parts.remove(&source) {
            end = (part.to.0, part.idle);
            events.extend(part.events);
            letters.extend(part.letters);
        }
    }
    let counts = reading.join().unwrap()?;
    Ok(Imported { layout, counts, events, letters, end })
}

#[track_caller]
fn read(name: &str) -> Imported {
    read_from(&fixture(name), &options(), None).unwrap()
}

fn file(name: &str, bytes: &[u8]) -> (TempDir, PathBuf) {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join(name);
    std::fs::write(&path, bytes).unwrap();
    (directory, path)
}

fn payloads(imported: &Imported) -> Vec<Value> {
    imported.events.iter().map(|row| serde_json::from_str(&row.payload).unwrap()).collect()
}

fn refused(pairs: &[(ErrorClass, u64)]) -> std::collections::BTreeMap<ErrorClass, u64> {
    pairs.iter().copied().collect()
}

#[test]
fn our_own_layout() {
    let imported = read("own.jsonl");
    let expected = Counts {
        records: 2,
        messages: 6,
        reactions: 4,
        zero_counts: 1,
        refused: refused(&[(ErrorClass::EmptyContent, 1), (ErrorClass::MissingField, 1), (ErrorClass::InvalidJson, 1)]),
        ..Counts::default()
    };
    assert_eq!((imported.layout, &imported.counts), (Layout::Own, &expected));
    assert_eq!(imported.end, (13, true));
    let events = payloads(&imported);
    let kinds: Vec<&Value> = events.iter().filter_map(|event| event.get("kind")).collect();
    assert_eq!(kinds, ["thumbs_up", "copy", "thumbs_down", "rating"]);
    // Thumbs have no value left, counts and ratings keep theirs.
    assert_eq!(events[3].get("value"), None);
    assert_eq!(events[4]["value"], 2);
    assert_eq!(events[3]["message_id"], events[1]["message_id"]);
    // What the record says of the conversation stays with its first message.
    assert_eq!(events[0]["conversation"], json!({"source": "booth", "rating": {"mean": 4.5, "who": "user"}}));
    assert_eq!(events[0]["event_time"], "2025-03-01T10:00:00.000000Z");
    assert_eq!(events[2]["event_time"], "2025-03-01T10:00:02.000000Z");
    assert_eq!(events[1]["model"], "model-a");
    // A refused message is nobody's parent.
    let second: Vec<&Value> =
        events.iter().filter(|event| event["conversation_id"] == "own-2" && event.get("role").is_some()).collect();
    assert_eq!(second[1]["parent_message_id"], second[0]["message_id"]);
    assert_eq!(second[1]["turn_index"], 2);
    // A conversation without any time begins at the fixed day.
    assert_eq!(imported.events.last().unwrap().conversation_date.map(time::day_text).as_deref(), Some("2020-01-01"));
}

#[test]
fn openai_messages() {
    let imported = read("openai.jsonl");
    assert_eq!(imported.layout, Layout::OpenAi);
    let expected = Counts { records: 3, messages: 7, duplicates: 3, ..Counts::default() };
    assert_eq!(imported.counts, expected);
    assert_eq!(imported.end, (10, true));
    let events = payloads(&imported);
    assert!(events[0]["conversation_id"].as_str().unwrap().starts_with("c_"));
    assert_eq!(events[3]["conversation_id"], "chat-7");
    assert_eq!(
        events[3]["conversation"],
        json!({"metadata": {"team": "blue"}, "tools": [{"type": "function", "function": {"name": "weather"}}]})
    );
    assert_eq!(events[3]["event_time"], "2025-03-01T10:00:00.000000Z");
    assert_eq!(events[4]["tool_calls"][0]["function"]["name"], "weather");
    assert_eq!(events[5]["tool_call_id"], "call_1");
    assert!(imported.events.iter().skip(3).all(|row| row.subject_key.is_some()));
}

#[test]
fn a_gateways_lines() {
    let imported = read("gateway.jsonl");
    assert_eq!(imported.layout, Layout::OpenAi);
    let expected =
        Counts { records: 3, completions: 2, refused: refused(&[(ErrorClass::WrongType, 1)]), ..Counts::default() };
    assert_eq!(imported.counts, expected);
    assert_eq!(imported.events[0].event_id, "chatcmpl-1");
    assert!(imported.events[1].event_id.starts_with("i_"));
    assert_eq!(imported.events[1].conversation_date.map(time::day_text).as_deref(), Some("2020-01-01"));
    assert_eq!(imported.events[0].subject_key, imported.events[1].subject_key);
}

#[test]
fn wildchat() {
    let imported = read("wildchat.jsonl");
    assert_eq!(imported.layout, Layout::WildChat);
    assert_eq!(imported.counts, Counts { records: 1, messages: 4, ..Counts::default() });
    let events = payloads(&imported);
    let times: Vec<&str> = events.iter().map(|event| event["event_time"].as_str().unwrap()).collect();
    assert_eq!(
        times,
        [
            "2023-04-09T00:02:52.000000Z",
            "2023-04-09T00:02:53.000000Z",
            "2023-04-09T00:02:54.000000Z",
            "2023-04-09T00:03:40.000000Z"
        ]
    );
    assert_eq!(events[0]["conversation_id"], "0cf125119e6eac0e");
    assert_eq!(events[1]["model"], "gpt-example-1");
    assert_eq!(events[0].get("model"), None);
    assert_eq!(
        (&events[0]["redacted"], &events[0]["toxic"], &events[0]["turn_identifier"]),
        (&json!(false), &json!(false), &json!(101))
    );
    let all = imported.events.iter().map(|row| row.payload.as_str()).collect::<String>();
    for gone in ["a1b2c3d4", "user-agent", "hashed_ip", "toxicity"] {
        assert!(!all.contains(gone), "{gone}");
    }
    assert!(
        imported
            .events
            .iter()
            .all(|row| row.subject_key.is_some() && row.subject_key == imported.events[0].subject_key)
    );
}

#[test]
fn sharegpt_in_one_array() {
    let imported = read("sharegpt.json");
    assert_eq!(imported.layout, Layout::ShareGpt);
    let expected = Counts {
        records: 2,
        messages: 5,
        refused: refused(&[(ErrorClass::UnknownRole, 1), (ErrorClass::EmptyContent, 1)]),
        ..Counts::default()
    };
    assert_eq!(imported.counts, expected);
    let roles: Vec<Value> = payloads(&imported).into_iter().map(|event| event["role"].clone()).collect();
    assert_eq!(roles, ["system", "user", "assistant", "user", "assistant"]);
}

#[test]
fn open_assistant_rows_and_trees_are_the_same() {
    let rows = read("oasst-rows.jsonl");
    let trees = read("oasst-trees.jsonl");
    assert_eq!((rows.layout, trees.layout), (Layout::OpenAssistant, Layout::OpenAssistant));
    let expected = Counts {
        records: 2,
        messages: 5,
        reactions: 3,
        refused: refused(&[(ErrorClass::WrongType, 1)]),
        ..Counts::default()
    };
    assert_eq!(rows.counts, expected);
    assert_eq!(trees.counts, Counts { records: 1, messages: 4, reactions: 3, ..Counts::default() });
    let of_tree = |imported: &Imported| -> Vec<Value> {
        payloads(imported)
            .into_iter()
            .filter(|event| event["conversation_id"] == "t-1")
            .map(|event| {
                json!([
                    event["message_id"],
                    event["parent_message_id"],
                    event["role"],
                    event["kind"],
                    event["value"],
                    event["rejected_message_ids"],
                    event["event_time"]
                ])
            })
            .collect()
    };
    assert_eq!(of_tree(&rows), of_tree(&trees));
    let choice = payloads(&rows).into_iter().find(|event| event["kind"] == "choice").unwrap();
    assert_eq!((&choice["message_id"], &choice["rejected_message_ids"]), (&json!("t-1a"), &json!(["t-1b"])));
    assert_eq!(payloads(&rows)[1]["labels"]["name"][1], "quality");
    // All of a tree lives under its first day.
    assert!(
        rows.events
            .iter()
            .take(7)
            .all(|row| row.conversation_date.map(time::day_text).as_deref() == Some("2023-02-01"))
    );
}

#[test]
fn rows_of_one_tree_that_stand_apart_share_a_start() {
    let row = |tree: &str, id: &str, time: &str| {
        json!({"message_id": id, "message_tree_id": tree, "role": "prompter", "text": "hi", "created_date": time})
            .to_string()
    };
    let lines = [
        row("a", "a", "2023-02-01T00:00:00Z"),
        row("b", "b", "2023-02-02T00:00:00Z"),
        row("a", "a2", "2023-02-03T00:00:00Z"),
    ];
    let (_directory, path) = file("rows.jsonl", lines.join("\n").as_bytes());
    let days: Vec<String> = read_from(&path, &options(), None)
        .unwrap()
        .events
        .iter()
        .map(|row| time::day_text(row.conversation_date.unwrap()))
        .collect();
    assert_eq!(days, ["2023-02-01", "2023-02-02", "2023-02-01"]);
}

#[test]
fn packing_changes_nothing() {
    let plain = std::fs::read(fixture("own.jsonl")).unwrap();
    let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default());
    gzip.write_all(&plain).unwrap();
    let mut twice = gzip.finish().unwrap();
    let zstd = zstd::encode_all(plain.as_slice(), 1).unwrap();
    let with_mark = [b"\xef\xbb\xbf".as_slice(), &plain].concat();
    let windows = String::from_utf8(plain).unwrap().replace('\n', "\r\n\r\n").into_bytes();
    let expected = read("own.jsonl");
    // Names that say otherwise: the bytes decide.
    for (name, bytes) in [("a.txt", twice.clone()), ("b.gz", zstd), ("c.zst", with_mark), ("d.parquet", windows)] {
        let (_directory, path) = file(name, &bytes);
        let imported = read_from(&path, &options(), None).unwrap();
        assert_eq!((imported.events, imported.counts), (expected.events.clone(), expected.counts.clone()), "{name}");
    }
    // Two gzip members in one file are read both.
    twice.extend_from_within(..);
    let (_directory, path) = file("twice.gz", &twice);
    assert_eq!(read_from(&path, &options(), None).unwrap().counts.duplicates, 10);
}

#[test]
fn parquet_rows() {
    let lines = std::fs::read(fixture("wildchat.jsonl")).unwrap();
    let mut values = std::io::Cursor::new(&lines);
    let (schema, _) = arrow::json::reader::infer_json_schema(&mut values, None).unwrap();
    let schema = Arc::new(schema);
    let reader = arrow::json::ReaderBuilder::new(Arc::clone(&schema)).build(lines.as_slice()).unwrap();
    let (_directory, path) = file("log", b"");
    let mut writer = parquet::arrow::ArrowWriter::try_new(std::fs::File::create(&path).unwrap(), schema, None).unwrap();
    for batch in reader {
        writer.write(&batch.unwrap()).unwrap();
    }
    let _ = writer.close().unwrap();
    let imported = read_from(&path, &options(), None).unwrap();
    let expected = read("wildchat.jsonl");
    assert_eq!(imported.counts, expected.counts);
    let ids = |imported: &Imported| imported.events.iter().map(|row| row.message_id.clone()).collect::<Vec<_>>();
    assert_eq!(ids(&imported), ids(&expected));
}

#[test]
fn any_place_to_go_on_from_gives_the_rest() {
    for name in ["own.jsonl", "openai.jsonl", "gateway.jsonl", "wildchat.jsonl", "sharegpt.json", "oasst-rows.jsonl"] {
        let whole = read(name);
        for from in 0..=whole.end.0 {
            let rest = read_from(&fixture(name), &options(), Some(Next(from))).unwrap();
            let expected: Vec<&EventRow> = whole.events.iter().filter(|row| row.offset >= from).collect();
            assert_eq!(rest.events.iter().collect::<Vec<_>>(), expected, "{name} from {from}");
            let letters = whole.letters.iter().filter(|row| row.offset >= from).count();
            assert_eq!((rest.letters.len(), rest.end), (letters, whole.end), "{name} from {from}");
        }
    }
}

#[test]
fn small_buffers_hold_the_same() {
    let small = ImportOptions { flush_bytes: 1, ..options() };
    let imported = read_from(&fixture("own.jsonl"), &small, None).unwrap();
    assert_eq!(imported, read("own.jsonl"));
}

#[test]
fn ids_are_the_same_from_every_file() {
    let line = std::fs::read_to_string(fixture("own.jsonl")).unwrap().lines().next().unwrap().to_owned();
    let (_directory, path) = file("other.jsonl", format!("{line}\n").as_bytes());
    let other = read_from(&path, &options(), None).unwrap();
    let same = read("own.jsonl");
    assert_eq!(other.events, same.events.into_iter().take(5).collect::<Vec<_>>());
}

#[test]
fn records_that_begin_alike_are_branches() {
    let line = |last: &str| {
        json!({"conversation_id": "c", "messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": last}]}).to_string()
    };
    let (_directory, path) = file("branches.jsonl", [line("b"), line("c")].join("\n").as_bytes());
    let imported = read_from(&path, &options(), None).unwrap();
    assert_eq!((imported.counts.messages, imported.counts.duplicates), (3, 1));
    let events = payloads(&imported);
    assert_eq!(events[1]["parent_message_id"], events[0]["message_id"]);
    assert_eq!(events[2]["parent_message_id"], events[0]["message_id"]);
    assert_ne!(events[2]["message_id"], events[1]["message_id"]);
}

#[test]
fn no_user_id_comes_through() {
    for name in ["own.jsonl", "openai.jsonl", "gateway.jsonl", "wildchat.jsonl"] {
        let imported = read(name);
        let letters = imported
            .letters
            .iter()
            .map(|row| String::from_utf8_lossy(row.payload.as_deref().unwrap_or_default()).into_owned());
        let all: String = imported.events.iter().map(|row| row.payload.clone()).chain(letters).collect();
        assert!(!all.contains("user-471") && !all.contains("a1b2c3d4"), "{name}: {all}");
    }
}

#[test]
fn times_that_cannot_be_read_are_refused_as_such() {
    let line = json!({"conversation_id": "c", "messages": [{"role": "user", "content": "a", "time": "noon"}, {"role": "assistant", "content": "b"}]});
    let (_directory, path) = file("times.jsonl", line.to_string().as_bytes());
    let imported = read_from(&path, &options(), None).unwrap();
    assert_eq!(imported.counts.refused, refused(&[(ErrorClass::InvalidTime, 1)]));
    assert_eq!(imported.counts.messages, 1);
}

#[test]
fn a_record_without_bound_is_passed_over() {
    let good = json!({"conversation_id": "c", "messages": [{"role": "user", "content": "a"}]}).to_string();
    let long = vec![b'x'; super::source::LONGEST_RECORD + 1];
    let (_directory, path) =
        file("long.jsonl", &[good.as_bytes(), b"\n", &long, b"\n", good.replace("\"c\"", "\"d\"").as_bytes()].concat());
    let imported = read_from(&path, &options(), None).unwrap();
    assert_eq!(imported.counts.messages, 2);
    assert_eq!(imported.counts.refused, refused(&[(ErrorClass::RecordTooLarge, 1)]));
    assert_eq!(imported.letters[0].payload, None);
}

#[track_caller]
fn why_refused(bytes: &[u8], layout: Option<Layout>) -> String {
    let (_directory, path) = file("file", bytes);
    let whole = identify(&path, &Handle::default()).and_then(|_| probe::layout(&path, layout));
    match whole {
        Err(Error::Invalid(why)) => why,
        other => panic!("{other:?}"),
    }
}

#[test]
fn what_is_no_log_is_refused_with_what_to_do() {
    let own = std::fs::read(fixture("own.jsonl")).unwrap();
    let mut tar = vec![0; 512];
    tar[257..262].copy_from_slice(b"ustar");
    let cut = zstd::encode_all(own.as_slice(), 1).unwrap();
    let cases: [(&[u8], &str); 13] = [
        (b"", "is empty"),
        (b" \n\n ", "holds no record"),
        (b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR", "no chat log"),
        (b"id,text\n1,hello\n2,ho\n", "JSON lines"),
        (b"2025-01-01 INFO started\n2025-01-01 INFO ended\n", "none of its first 2 lines is a JSON object"),
        (b"{\"level\":\"info\",\"msg\":\"started\"}\n", "have the fields level, msg"),
        (b"PK\x03\x04....", "ZIP archive"),
        (b"\xff\xfe{\0}\0", "iconv"),
        (b"PAR1garbage that is no footer", "no Parquet file"),
        (b"BZh91AY", "gzip or zstd"),
        (&tar, "tar archive"),
        (&cut[..cut.len() / 2], "cut off"),
        (b"[1, 2, 3]", "none of its first 3 lines"),
    ];
    for (bytes, advice) in cases {
        let why = why_refused(bytes, None);
        assert!(why.contains(advice), "{advice}: {why}");
    }
    let why = why_refused(&own, Some(Layout::WildChat));
    assert!(why.contains("--format own"), "{why}");
}

#[test]
fn a_file_that_is_not_there_is_said_so() {
    let error = identify(Path::new("/nowhere/at/all"), &Handle::default()).unwrap_err();
    assert!(matches!(error, Error::File { .. }), "{error:?}");
}

#[test]
fn a_layout_that_is_said_wins_over_the_likeliest() {
    let options = ImportOptions { layout: Some(Layout::OpenAi), ..options() };
    let imported = read_from(&fixture("own.jsonl"), &options, None).unwrap();
    assert_eq!(imported.layout, Layout::OpenAi);
    assert_eq!(imported.counts.messages, 6);
    assert_eq!("sharegpt".parse(), Ok(Layout::ShareGpt));
    assert!("slack".parse::<Layout>().unwrap_err().contains("wildchat"));
}

#[test]
fn a_file_that_breaks_off_says_what_is_kept() {
    let line = json!({"conversation_id": "c", "messages": [{"role": "user", "content": "a"}]}).to_string();
    // Two members: the first is whole, the second is not.
    let mut bytes = Vec::new();
    for number in 0..2 {
        let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default());
        for copy in 0..3_000 {
            writeln!(gzip, "{}", line.replace("\"c\"", &format!("\"c-{number}-{copy}\""))).unwrap();
        }
        bytes.extend(gzip.finish().unwrap());
    }
    bytes.truncate(bytes.len() - 1_000);
    let (_directory, path) = file("cut.gz", &bytes);
    let error = read_from(&path, &options(), None).unwrap_err().to_string();
    assert!(error.contains("cut off") && error.contains("are kept"), "{error}");
}

#[test]
fn a_broken_array_keeps_what_was_whole() {
    let whole = std::fs::read_to_string(fixture("sharegpt.json")).unwrap();
    let (_directory, path) = file("cut.json", &whole.as_bytes()[..whole.len() * 2 / 3]);
    let imported = read_from(&path, &options(), None).unwrap();
    assert!(imported.counts.messages >= 3);
    assert_eq!(imported.counts.refused.get(&ErrorClass::InvalidJson), Some(&1), "{:?}", imported.counts);
}
