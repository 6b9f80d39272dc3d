//! `uptake evaluate model`, and its report as what a gate decides on.

use std::path::Path;
use std::process::Output;

use serde_json::{Value, json};
use uptake_tests::binary;

#[track_caller]
fn said(directory: &Path, code: i32, arguments: &[&str]) -> String {
    let Output { status, stdout, stderr } = binary::command(&directory.join("lake")).args(arguments).output().unwrap();
    let text = format!("{}{}", String::from_utf8(stdout).unwrap(), String::from_utf8(stderr).unwrap());
    assert_eq!(status.code(), Some(code), "{arguments:?}: {text}");
    text
}

fn answers(of: impl Fn(usize) -> String) -> String {
    let line = |id: usize| json!({"id": id, "prompt": [{"role": "user", "content": format!("question {id}")}], "response": of(id), "finish_reason": "stop", "tokens": 9});
    (0..200).map(|id| line(id).to_string() + "\n").collect()
}

#[test]
fn a_candidate_that_says_goodbye_is_refused_by_its_gate() {
    let directory = tempfile::tempdir().unwrap();
    let write = |name: &str, text: &str| std::fs::write(directory.path().join(name), text).unwrap();
    let plain = |id: usize| format!("Answer {id} has words of its own: {}.", id * 37);
    write("production.jsonl", &answers(plain));
    write("good.jsonl", &answers(|id| plain(id + 1)));
    write("bad.jsonl", &answers(|id| if id % 10 == 0 { plain(id) + " Bye!" } else { plain(id) }));
    write(
        "uptake.toml",
        "[[models.gates]]\nkind = \"policy\"\nfigure = \"tripped\"\nat_most = 0.0\n\
         [[models.gates]]\nkind = \"policy\"\nfigure = \"measures.closings.difference\"\nat_most = 0.02\n",
    );
    for (name, code, words) in [("good", 0, "no wire is tripped"), ("bad", 3, "1 wires are tripped")] {
        let (answers, report) = (format!("{name}.jsonl"), format!("report-{name}"));
        let text = said(directory.path(), 0, &["evaluate", "model", &answers, "production.jsonl", "-o", &report]);
        assert!(text.contains(words), "{text}");
        let json: Value =
            serde_json::from_slice(&std::fs::read(directory.path().join(&report).join("report.json")).unwrap())
                .unwrap();
        assert_eq!(json["prompts"], 200);
        assert!(std::fs::read_to_string(directory.path().join(&report).join("report.html")).unwrap().contains("<svg"));
        std::fs::create_dir(directory.path().join(name)).unwrap();
        write(&format!("{name}/adapter_config.json"), "{}");
        let figures = format!("{report}/report.json");
        let added = said(directory.path(), code, &["models", "add", name, "--figures", &figures]);
        assert_eq!(added.contains("gates: passed"), code == 0, "{added}");
    }
    assert!(
        said(directory.path(), 2, &["evaluate", "model", "good.jsonl", "bad.jsonl", "-o", "report-good"])
            .contains("is there already")
    );
    assert!(
        said(directory.path(), 1, &["evaluate", "model", "uptake.toml", "bad.jsonl"]).contains("line 1: no answer")
    );
}
