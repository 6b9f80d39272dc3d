//! `uptake tag --explain` as people use it.

use std::path::Path;
use std::process::Output;

use serde_json::{Value, json};
use uptake_tests::binary;

#[track_caller]
fn said(directory: &Path, code: i32, colour: &str, arguments: &[&str]) -> (String, String) {
    let mut command = binary::command(&directory.join("lake"));
    let command = command.env_remove("NO_COLOR").env("CLICOLOR_FORCE", colour).arg("tag").args(arguments);
    let Output { status, stdout, stderr } = command.output().unwrap();
    let (stdout, stderr) = (String::from_utf8(stdout).unwrap(), String::from_utf8(stderr).unwrap());
    assert_eq!(status.code(), Some(code), "{arguments:?}: {stdout}{stderr}");
    (stdout, stderr)
}

fn chats(directory: &Path) {
    let chat = json!({"conversation_id": "c1", "messages": [
        {"role": "user", "content": "Which river runs through Rome?"},
        {"role": "assistant", "content": "The Arno runs through Rome."},
        {"role": "user", "content": "No, that's wrong. That is the river of Florence."},
        {"role": "assistant", "content": "The Tiber runs through Rome."},
        {"role": "user", "content": "Thanks! How long is it?"},
        {"role": "assistant", "content": "About 406 km."},
        {"role": "user", "content": "And the \u{1b}[31mPo\u{1b}[0m?"},
    ]});
    std::fs::write(directory.join("chats.jsonl"), format!("{chat}\n")).unwrap();
}

/// The word with the largest effect on a label.
fn strongest<'a>(line: &'a Value, label: &str) -> &'a str {
    let effect = |word: &Value| word["effects"][label].as_f64().unwrap();
    let words = line["words"].as_array().unwrap();
    words.iter().max_by(|a, b| effect(a).total_cmp(&effect(b))).unwrap()["text"].as_str().unwrap()
}

#[test]
fn the_words_that_moved_a_label_are_named_in_lines_and_on_a_page() {
    let directory = tempfile::tempdir().unwrap();
    chats(directory.path());
    let (stdout, stderr) = said(
        directory.path(),
        0,
        "0",
        &["--explain", "chats.jsonl", "-o", "words.jsonl", "--html", "words.html", "--labels", "dsat,gratitude"],
    );
    assert!(stdout.is_empty() && stderr.contains("3 follow-ups in 1 conversations explained by"), "{stdout}{stderr}");
    let read = |name: &str| std::fs::read_to_string(directory.path().join(name)).unwrap();
    let lines: Vec<Value> = read("words.jsonl").lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(lines.iter().map(|line| line["turn"].as_u64().unwrap()).collect::<Vec<_>>(), [2, 4, 6]);
    assert_eq!((strongest(&lines[0], "dsat"), strongest(&lines[1], "gratitude")), ("wrong", "Thanks"));
    assert!(lines.iter().all(|line| line["passes"].as_u64().unwrap() <= 256));
    let page = read("words.html");
    assert!(page.contains("\">wrong</i>") && page.contains("\">Thanks</i>"), "{page}");
    assert_eq!(page.matches("<section").count(), 3);
    assert!(!page.contains('\u{1b}') && !page.contains("<script"));
    // The same scores as those that are not explained.
    let (tagged, _) = said(directory.path(), 0, "0", &["chats.jsonl"]);
    for (tagged, explained) in tagged.lines().zip(&lines) {
        let tagged: Value = serde_json::from_str(tagged).unwrap();
        for field in ["conversation_id", "turn", "sat", "dsat", "labels", "tagger"] {
            assert_eq!(tagged[field], explained[field], "{field}");
        }
    }
}

#[test]
fn without_a_file_there_is_text_with_colours_only_where_they_are_wanted() {
    let directory = tempfile::tempdir().unwrap();
    chats(directory.path());
    let (plain, _) = said(directory.path(), 0, "0", &["--explain", "chats.jsonl"]);
    assert!(plain.contains("c1, turn 2: sat 0.") && plain.contains("wrong +"), "{plain}");
    assert!(plain.contains("gratitude") && plain.contains("Thanks +"), "{plain}");
    assert!(!plain.contains('\u{1b}'), "{plain:?}");
    let (coloured, _) = said(directory.path(), 0, "1", &["--explain", "chats.jsonl", "--labels", "dsat"]);
    assert!(coloured.contains("mwrong\u{1b}[0m"), "{coloured:?}");
    assert!(coloured.contains("And the ␛[31mPo␛[0m?") || coloured.contains("␛"), "{coloured:?}");
    assert!(!coloured.contains("\u{1b}[31m"), "what a user typed is no colour: {coloured:?}");
}

#[test]
fn what_cannot_be_explained_is_refused_with_what_to_do() {
    let directory = tempfile::tempdir().unwrap();
    chats(directory.path());
    std::fs::write(directory.path().join("bad.jsonl"), "{\"conversation_id\": 1}\n").unwrap();
    for (code, arguments, words) in [
        (2, &["chats.jsonl", "--html", "x.html"][..], "--explain"),
        (2, &["--explain", "chats.jsonl", "--labels", "thanks"], "the labels are gratitude"),
        (2, &["--explain", "chats.jsonl", "--passes", "3"], "from 16"),
        (3, &["--explain", "bad.jsonl", "--html", "x.html"], "line 1"),
        (3, &["--explain", "bad.jsonl"], "--skip-bad"),
        (1, &["--explain", "none.jsonl"], "none.jsonl"),
    ] {
        let (_, stderr) = said(directory.path(), code, "0", arguments);
        assert!(stderr.contains(words), "{arguments:?}: {stderr}");
    }
    assert!(!directory.path().join("x.html").exists());
    let (stdout, stderr) = said(directory.path(), 0, "0", &["--explain", "--skip-bad", "bad.jsonl"]);
    assert!(stdout.is_empty() && stderr.contains("1 lines skipped"), "{stdout}{stderr}");
}
