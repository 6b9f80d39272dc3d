//! `uptake generate`: the real binary with a tiny model.

use std::io::Write as _;
use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::time::Duration;

use serde_json::{Value, json};
use uptake_tests::binary::{self, Running};
use uptake_tests::wait::until;

const BASE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../crates/train/fixtures/policy");

fn generate(directory: &Path, more: &[&str]) -> Command {
    let mut command = binary::command(&directory.join("lake"));
    command.args(["generate", "--model"]).arg(Path::new(BASE).join("llama")).args(more);
    command
}

fn said(command: &mut Command) -> (i32, String, String) {
    let Output { status, stdout, stderr } = command.output().unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    (status.code().unwrap(), text(stdout), text(stderr))
}

fn prompts(count: usize) -> String {
    let line = |at: usize| {
        let messages = json!([{"role": "user", "content": "Say ".repeat(1 + at * 5 % 13)}]);
        json!({"id": at, "prompt": messages, "source": "made"}).to_string() + "\n"
    };
    (0..count).map(line).collect()
}

#[test]
fn a_killed_run_ends_with_the_same_bytes() {
    let directory = tempfile::tempdir().unwrap();
    let path = |name: &str| directory.path().join(name);
    std::fs::write(path("in.jsonl"), prompts(150)).unwrap();
    let run = |output: &str, batch: &str| {
        let more =
            ["--samples", "3", "--temperature", "0.9", "--top-p", "0.9", "--max-new-tokens", "150", "--batch", batch];
        let mut command = generate(directory.path(), &more);
        command.arg(path("in.jsonl")).arg("-o").arg(path(output));
        command
    };
    let (code, _, error) = said(&mut run("straight.jsonl", "64"));
    assert_eq!(code, 0, "{error}");
    let part = path("killed.jsonl.part");
    let length = || std::fs::metadata(&part).map_or(0, |file| file.len());
    for round in 0..2 {
        let before = length();
        let mut running = Running::start(&mut run("killed.jsonl", "6"), &path(&format!("log-{round}")));
        until("answers", Duration::from_mins(1), || {
            assert!(running.is_running(), "it ended: {}", running.said());
            (length() > before + 2000).then_some(())
        });
        running.kill_hard();
        assert!(!path("killed.jsonl").exists(), "it was killed too late");
    }
    let (code, _, error) = said(&mut run("killed.jsonl", "9"));
    assert_eq!(code, 0, "{error}");
    assert!(error.contains("450 answers, ") && !error.contains(" 0 of them written before"), "{error}");
    let bytes = |name: &str| std::fs::read_to_string(path(name)).unwrap();
    assert!(bytes("straight.jsonl") == bytes("killed.jsonl"));
    let answers = bytes("killed.jsonl");
    let answers: Vec<Value> = answers.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let order: Vec<(u64, u64)> =
        answers.iter().map(|row| (row["id"].as_u64().unwrap(), row["sample"].as_u64().unwrap())).collect();
    assert_eq!(order, (0..450).map(|at| (at / 3, at % 3)).collect::<Vec<_>>());
    assert!(
        answers.iter().all(|row| row["source"] == "made" && row["prompt"].is_array() && row["response"].is_string())
    );
}

#[test]
fn prompts_come_from_standard_input_and_answers_go_to_standard_output() {
    let directory = tempfile::tempdir().unwrap();
    let mut command = generate(directory.path(), &["-", "--max-new-tokens", "8", "-o", "-"]);
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    child.stdin.take().unwrap().write_all(prompts(3).as_bytes()).unwrap();
    let Output { status, stdout, stderr } = child.wait_with_output().unwrap();
    assert!(status.success(), "{}", String::from_utf8_lossy(&stderr));
    let stdout = String::from_utf8(stdout).unwrap();
    let with_adapter = |more: &[&str]| {
        let file = directory.path().join("in.jsonl");
        std::fs::write(&file, prompts(3)).unwrap();
        let adapter = Path::new(BASE).join("adapter");
        said(generate(directory.path(), &["--max-new-tokens", "8"]).arg(file).args(more).arg("--adapter").arg(adapter))
    };
    let (code, adapted, error) = with_adapter(&[]);
    assert_eq!((code, adapted.lines().count()), (0, 3), "{error}");
    assert_ne!(adapted, stdout);
    assert_eq!(with_adapter(&["-o", "/dev/stdout"]).1, adapted);
    let (_, with_tokens, _) = with_adapter(&["--token-ids"]);
    let first: Value = serde_json::from_str(with_tokens.lines().next().unwrap()).unwrap();
    assert_eq!(first["token_ids"].as_array().unwrap().len() as u64, first["tokens"].as_u64().unwrap());
}

#[test]
fn a_line_that_cannot_be_answered_is_named_before_anything_is_computed() {
    let directory = tempfile::tempdir().unwrap();
    let (file, output) = (directory.path().join("in.jsonl"), directory.path().join("out.jsonl"));
    let long = json!({"id": "long", "prompt": "a".repeat(400)});
    std::fs::write(&file, format!("{}{long}\n", prompts(2))).unwrap();
    let run = |more: &[&str]| said(generate(directory.path(), more).arg(&file).arg("-o").arg(&output));
    let (code, _, error) = run(&["--max-new-tokens", "8"]);
    assert!(code == 3 && error.contains("line 3: its prompt has") && error.contains("--truncate"), "{code}: {error}");
    assert_eq!(std::fs::read_dir(directory.path()).unwrap().count(), 1, "nothing is left behind");
    let (code, _, error) = run(&["--max-new-tokens", "8", "--skip-bad"]);
    assert!(code == 0 && error.contains("1 lines skipped") && error.contains("skipped `"), "{code}: {error}");
    let (code, _, error) = run(&["--max-new-tokens", "8", "--truncate"]);
    assert!(code == 1 && error.contains("is there already"), "{code}: {error}");
    std::fs::remove_file(&output).unwrap();
    let (code, _, error) = run(&["--max-new-tokens", "8", "--truncate"]);
    assert!(code == 0 && error.contains("1 prompts cut"), "{code}: {error}");
    let rows = std::fs::read_to_string(&output).unwrap();
    assert!(rows.lines().nth(2).unwrap().contains(r#""truncated":"#), "{rows}");
    let (code, _, error) = run(&["--max-new-tokens", "8", "--samples", "2"]);
    assert!(code == 1 && error.contains("give a temperature"), "{code}: {error}");
}
