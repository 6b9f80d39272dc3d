use std::io::Cursor;

use serde_json::{Value, json};

use super::*;
use crate::tagger::Options;
use crate::tiny;

fn tag(input: &str, bad_lines: BadLines) -> (Result<Progress>, Vec<Value>, Vec<String>) {
    let tagger = tiny::open(1, Options::default()).unwrap();
    let mut output = Vec::new();
    let mut skipped = Vec::new();
    let result = tag_lines(&tagger, Cursor::new(input), &mut output, bad_lines, |event| {
        if let Event::Skipped(error) = event {
            skipped.push(error.to_string());
        }
    });
    let lines = String::from_utf8(output).unwrap();
    (result, lines.lines().map(|line| serde_json::from_str(line).unwrap()).collect(), skipped)
}

fn conversation(id: &str, roles: &[&str]) -> String {
    let messages: Vec<Value> = roles
        .iter()
        .enumerate()
        .map(|(i, role)| json!({"role": role, "content": format!("so {i}"), "extra": 1}))
        .collect();
    json!({"conversation_id": id, "source": "x", "messages": messages}).to_string()
}

#[test]
fn each_user_turn_that_directly_follows_an_assistant_turn_gets_a_line_in_order() {
    let input = [
        conversation("b", &["user", "assistant", "user", "assistant", "user"]),
        conversation("a", &["system", "assistant", "user", "user", "assistant", "tool", "user"]),
        conversation("none", &["user", "assistant"]),
        String::new(),
        conversation("empty", &[]),
    ]
    .join("\r\n");
    let (result, lines, _) = tag(&input, BadLines::Stop);
    let places: Vec<(&str, u64)> =
        lines.iter().map(|line| (line["conversation_id"].as_str().unwrap(), line["turn"].as_u64().unwrap())).collect();
    assert_eq!(places, [("b", 2), ("b", 4), ("a", 2)]);
    let progress = result.unwrap();
    assert_eq!((progress.lines, progress.conversations, progress.follow_ups, progress.skipped), (5, 4, 3, 0));
}

#[test]
fn a_line_has_all_names_and_the_version() {
    let (_, lines, _) = tag(&conversation("c", &["user", "assistant", "user"]), BadLines::Stop);
    let line = lines[0].as_object().unwrap();
    let names: Vec<&str> = line.keys().map(String::as_str).collect();
    assert_eq!(names.len(), 6, "{names:?}");
    let labels = line["labels"].as_object().unwrap();
    assert_eq!(labels.len(), 18);
    for label in Label::ALL {
        assert!((0.0..=1.0).contains(&labels[label.name()].as_f64().unwrap()));
    }
    assert!((0.0..=1.0).contains(&line["sat"].as_f64().unwrap()));
    assert!((0.0..=1.0).contains(&line["dsat"].as_f64().unwrap()));
    assert!(line["tagger"].as_str().unwrap().starts_with("tiny-signals-"));
}

#[test]
fn content_may_be_null_missing_or_parts() {
    let input = r#"{"conversation_id":"c","messages":[{"role":"user","content":null},{"role":"assistant"},
        {"role":"user","content":"thanks"},{"role":"assistant","content":[{"type":"text","text":"so"},{"type":"image_url","image_url":{}}]},
        {"role":"user","content":"thanks"}]}"#
        .replace('\n', "");
    let (result, lines, _) = tag(&input, BadLines::Stop);
    assert_eq!(result.unwrap().follow_ups, 2);
    assert_eq!(lines[0]["sat"], 0.0);
    assert_ne!(lines[1]["sat"], 0.0);
}

#[test]
fn a_bad_line_stops_with_its_number_and_what_came_before_is_written() {
    let good = conversation("c", &["user", "assistant", "user"]);
    for (bad, reason) in [
        ("{", "EOF while parsing"),
        ("[]", "conversation_id"),
        (r#"{"messages":[]}"#, "missing field `conversation_id`"),
        (r#"{"conversation_id":7,"messages":[]}"#, "invalid type: integer `7`, expected a string"),
        (r#"{"conversation_id":"c","messages":[{"role":"bot","content":"x"}]}"#, "unknown variant `bot`"),
        (r#"{"conversation_id":"c","messages":[{"role":"user","content":7}]}"#, "content must be a string"),
        ("\u{1f}\u{8b}", "expected value"),
        ("PAR1\u{15}", "compressed or Parquet"),
    ] {
        let (result, lines, _) = tag(&format!("{good}\n\n{bad}\n{good}\n"), BadLines::Stop);
        let error = result.unwrap_err();
        assert!(error.to_string().starts_with("line 3: "), "{error}");
        assert!(error.to_string().contains(reason), "{error} lacks {reason}");
        assert_eq!(error.kind(), crate::ErrorKind::Invalid);
        assert_eq!(lines.len(), 1);
    }
}

#[test]
fn bad_lines_are_skipped_and_counted_where_asked() {
    let good = conversation("c", &["user", "assistant", "user"]);
    let (result, lines, skipped) = tag(&format!("{good}\nnonsense\n{good}\n{{}}"), BadLines::Skip);
    let progress = result.unwrap();
    assert_eq!((lines.len(), progress.skipped, progress.lines), (2, 2, 4));
    assert!(skipped[0].starts_with("line 2: ") && skipped[1].starts_with("line 4: "), "{skipped:?}");
}

/// A file that breaks off.
struct Broken;
impl Read for Broken {
    fn read(&mut self, _: &mut [u8]) -> std::io::Result<usize> {
        Err(std::io::Error::new(IoErrorKind::UnexpectedEof, "cut"))
    }
}

#[test]
fn invalid_utf8_and_broken_compression_are_told() {
    let tagger = tiny::open(1, Options::default()).unwrap();
    let bytes = b"{\"conversation_id\":\"\xff\",\"messages\":[]}\n";
    let error = tag_lines(&tagger, &bytes[..], Vec::new(), BadLines::Stop, |_| {}).unwrap_err();
    assert!(error.to_string().starts_with("line 1: "), "{error}");
    let error = tag_lines(&tagger, std::io::BufReader::new(Broken), Vec::new(), BadLines::Skip, |_| {}).unwrap_err();
    assert!(error.to_string().contains("the file is broken: cut"), "{error}");
}

/// A disk without space.
struct Full;
impl Write for Full {
    fn write(&mut self, _: &[u8]) -> std::io::Result<usize> {
        Err(IoErrorKind::StorageFull.into())
    }
    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

#[test]
fn a_full_disk_is_an_error() {
    let tagger = tiny::open(1, Options::default()).unwrap();
    let input = conversation("c", &["user", "assistant", "user"]);
    let error = tag_lines(&tagger, Cursor::new(input), Full, BadLines::Stop, |_| {}).unwrap_err();
    assert!(matches!(error, Error::Stream { action: "write", .. }), "{error}");
}

#[test]
fn long_streams_pass_in_windows() {
    let one = conversation("c", &["user", "assistant", "user"]);
    let mut windows = 0;
    let tagger = tiny::open(1, Options::default()).unwrap();
    let input = format!("{one}\n").repeat(2 * WINDOW + 1);
    let mut output = Vec::new();
    let progress = tag_lines(&tagger, Cursor::new(input), &mut output, BadLines::Stop, |_| windows += 1).unwrap();
    assert_eq!((windows, progress.follow_ups), (3, 2 * WINDOW as u64 + 1));
    assert_eq!(String::from_utf8(output).unwrap().lines().count(), 2 * WINDOW + 1);
}

#[test]
fn follow_ups_are_explained_in_order_with_the_turns_of_their_texts() {
    let tagger = tiny::open(1, Options::default()).unwrap();
    let input = [
        conversation("b", &["user", "assistant", "user", "assistant", "user"]),
        "no conversation".to_owned(),
        conversation("a", &["system", "assistant", "user", "user", "assistant", "tool", "user"]),
    ]
    .join("\n");
    let mut seen = Vec::new();
    let mut skipped = 0;
    let done = explain_lines(
        &tagger,
        Cursor::new(&input),
        &Reach::default(),
        BadLines::Skip,
        |event| skipped += usize::from(matches!(event, Event::Skipped(_))),
        |explained| {
            let scores = tagger.tag(std::slice::from_ref(explained.exchange)).unwrap();
            assert_eq!(explained.explanation.scores, scores[0]);
            seen.push((explained.conversation_id.to_owned(), explained.turn, explained.last_user_turn));
            Ok(())
        },
    );
    let places: Vec<_> = seen.iter().map(|(id, turn, last)| (id.as_str(), *turn, *last)).collect();
    assert_eq!(places, [("b", 2, Some(0)), ("b", 4, Some(2)), ("a", 2, None)]);
    assert_eq!((done.unwrap().follow_ups, skipped), (3, 1));
    let stopped =
        explain_lines(&tagger, Cursor::new(&input), &Reach::default(), BadLines::Stop, |_| {}, |_| Ok(())).unwrap_err();
    assert!(matches!(stopped, Error::Line { line: 2, .. }), "{stopped}");
    let full = |_: &Explained<'_>| Err(std::io::ErrorKind::BrokenPipe.into());
    let broken = explain_lines(&tagger, Cursor::new(&input), &Reach::default(), BadLines::Skip, |_| {}, full);
    assert!(matches!(broken, Err(Error::Stream { action: "write", .. })));
}
