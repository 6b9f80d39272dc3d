use std::io::Write as _;

use super::*;

fn read(lines: &str) -> Result<Data> {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("rows.jsonl");
    std::fs::write(&path, lines).unwrap();
    Data::read(&path, Reading::Policy)
}

#[test]
fn rows_of_each_kind_are_read() {
    let data = read(concat!(
        r#"{"prompt":"a","chosen":"b","rejected":[{"role":"assistant","content":"c"}]}"#,
        "\n\n",
        r#"{"prompt":[{"role":"user","content":"a"}],"completion":"b","label":false}"#,
        "\n",
        r#"{"prompt":"a","completion":"b"}"#,
        "\n",
        r#"{"messages":[{"role":"user","content":"a"},{"role":"assistant","content":"b"}]}"#,
    ))
    .unwrap();
    let message = |role: &str, content: &str| Message { role: role.to_owned(), content: content.to_owned() };
    let answer = message("assistant", "b");
    let supervised = Answers::Supervised { answer: answer.clone() };
    let expected = [
        Answers::Pair { chosen: answer.clone(), rejected: message("assistant", "c") },
        Answers::Labelled { answer, liked: false },
        supervised.clone(),
        supervised,
    ];
    assert_eq!(data.rows.iter().map(|row| row.answers.clone()).collect::<Vec<_>>(), expected);
    assert!(data.rows.iter().all(|row| row.prompt == [message("user", "a")]));
    assert_eq!((data.read, data.id.len()), (4, 64));
}

#[test]
fn what_is_dropped_has_a_reason() {
    let data = read(concat!(
        r#"{"prompt":"a","chosen":"b","rejected":"b"}"#,
        "\n",
        r#"{"prompt":" ","chosen":"b","rejected":"c"}"#,
        "\n",
        r#"{"prompt":"a","chosen":"","rejected":"c"}"#,
        "\n",
        r#"{"messages":[{"role":"user","content":"a"}]}"#,
        "\n",
        r#"{"prompt":"a","completion":[{"role":"assistant","content":"b"},{"role":"user","content":"c"}]}"#,
    ))
    .unwrap();
    let reasons = ["same_answers", "empty_prompt", "empty_answer", "answer_not_by_assistant", "several_answers"];
    assert_eq!(data.dropped, reasons.into_iter().map(|reason| (reason, 1)).collect());
    assert_eq!((data.read, data.rows.len()), (5, 0));
}

#[test]
fn a_line_that_is_no_row_is_named() {
    for (line, says) in [("{", "EOF"), (r#"{"text":"a"}"#, "`messages`"), (r#"{"prompt":3}"#, "data did not match")] {
        let error = read(&format!("{{\"prompt\":\"a\",\"completion\":\"b\"}}\n{line}")).unwrap_err().to_string();
        assert!(error.contains("line 2") && error.contains(says), "{error}");
    }
}

#[test]
fn gzipped_lines_are_read_and_broken_ones_refused() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("rows.jsonl.gz");
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    encoder.write_all(b"{\"prompt\":\"a\",\"completion\":\"b\"}\n").unwrap();
    let bytes = encoder.finish().unwrap();
    std::fs::write(&path, &bytes).unwrap();
    assert_eq!(Data::read(&path, Reading::Policy).unwrap().rows.len(), 1);
    std::fs::write(&path, &bytes[..bytes.len() - 9]).unwrap();
    assert!(matches!(Data::read(&path, Reading::Policy), Err(Error::File { .. })));
}

#[test]
fn a_directory_without_a_whole_snapshot_is_refused() {
    let directory = tempfile::tempdir().unwrap();
    let says = |text: &str| {
        let error = Data::read(directory.path(), Reading::Policy).unwrap_err().to_string();
        assert!(error.contains(text), "{error}");
    };
    says("uptake snapshot publish");
    let manifest = directory.path().join(MANIFEST);
    std::fs::write(&manifest, "{}").unwrap();
    says("cannot be read");
    std::fs::write(&manifest, r#"{"format":"other/2","name":"a","id":"b","files":[]}"#).unwrap();
    says("other/2");
    let file = r#"{"path":"train-0.parquet","split":"train","sha256":"00"}"#;
    std::fs::write(&manifest, format!(r#"{{"format":"{FORMAT}","name":"a","id":"b","files":[{file}]}}"#)).unwrap();
    std::fs::write(directory.path().join("train-0.parquet"), "PAR1").unwrap();
    says("damaged");
}

#[test]
fn a_reward_model_reads_love_reactions_and_what_rows_say_of_themselves() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("rows.jsonl");
    let lines = concat!(
        r#"{"prompt":"a","response":"b","love":true,"weight":0.5,"conversation_id":"c1","source":"s","head":"warm"}"#,
        "\n",
        r#"{"conversation_id":"c2","start_time":"2026-01-02 03:04:05","messages":[{"role":"user","content":"a"},"#,
        r#"{"role":"assistant","content":"b"},{"role":"user","content":"c"},{"role":"assistant","content":"d"}],"#,
        r#""reactions":[{"turn":3,"value":0},{"turn":1,"value":0},{"turn":1,"kind":"copy","value":2},{"turn":2,"value":1}]}"#,
        "\n",
        r#"{"prompt":"a","chosen":"b","rejected":"c","strength":0.25,"time":1700000000}"#,
    );
    std::fs::write(&path, lines).unwrap();
    let data = Data::read(&path, Reading::Reward).unwrap();
    assert_eq!((data.read, data.rows.len()), (5, 4));
    assert_eq!(data.dropped, BTreeMap::from([("answer_not_by_assistant", 1)]));
    let liked: Vec<Option<bool>> = data
        .rows
        .iter()
        .map(|row| if let Answers::Labelled { liked, .. } = row.answers { Some(liked) } else { None })
        .collect();
    assert_eq!(liked, [Some(true), Some(true), Some(false), None]);
    assert_eq!(data.rows.iter().map(|row| row.prompt.len()).collect::<Vec<_>>(), [1, 1, 3, 1]);
    let about = &data.rows[0].about;
    assert_eq!((about.weight, about.source.as_deref(), about.head.as_deref()), (Some(0.5), Some("s"), Some("warm")));
    assert_eq!(data.rows[1].about.time, Some(1_767_323_045_000_000));
    assert_eq!((data.rows[3].about.strength, data.rows[3].about.time), (Some(0.25), Some(1_700_000_000_000_000)));
    let far = lines.replace(r#""turn":2"#, r#""turn":9"#);
    for (text, says) in [
        (far.as_str(), "line 2: a reaction is to message 9"),
        (r#"{"prompt":"a","response":"b","love":true,"weight":-1}"#, "`weight` is a number from 0 on"),
        (r#"{"prompt":"a","response":"b","love":true,"time":"noon"}"#, "`noon` is no RFC 3339 time"),
    ] {
        std::fs::write(&path, text).unwrap();
        let error = Data::read(&path, Reading::Reward).unwrap_err().to_string();
        assert!(error.contains(says), "{error}");
    }
    std::fs::write(&path, r#"{"prompt":"a","response":"b","love":true}"#).unwrap();
    assert!(Data::read(&path, Reading::Policy).is_err());
}
