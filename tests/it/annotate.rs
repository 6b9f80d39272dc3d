//! `uptake annotate` as a process: killed in the middle, out of budget, and what its labels are good for.

#![expect(clippy::unwrap_used, reason = "in a test a panic is the report")]

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use serde_json::{Value, json};
use tempfile::TempDir;
use uptake_judge::testing::{Gate, Got, Reply, Server};
use uptake_tests::binary::{self, Running};
use uptake_tests::wait::eventually;

const KEY: &str = "sk-a-secret-word";

struct Place(TempDir);

impl Place {
    fn new(follow_ups: usize) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let line = |number: usize| {
            json!({"conversation_id": format!("c-{number}"), "messages": [
                {"role": "user", "content": "a question"},
                {"role": "assistant", "content": "an answer"},
                {"role": "user", "content": format!("thanks, number {number}")},
            ]})
            .to_string()
        };
        let lines: Vec<String> = (0..follow_ups).map(line).collect();
        std::fs::write(directory.path().join("chats.jsonl"), lines.join("\n")).unwrap();
        Self(directory)
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn annotate(&self, arguments: &[&str]) -> Command {
        let mut command = binary::command(&self.path("lake"));
        command
            .arg("annotate")
            .args(arguments)
            .env("UPTAKE_JUDGE_API_KEY", KEY)
            .env("XDG_CACHE_HOME", self.path("cache"));
        command
    }

    fn score(&self, server: &Server, more: &[&str]) -> Command {
        let (chats, labels) = (self.path("chats.jsonl"), self.path("labels.jsonl"));
        let mut command =
            self.annotate(&["score", "--endpoint", &server.base, "--model", "test", "--concurrency", "2"]);
        command.args(more).arg("--output").arg(labels).arg(chats);
        command
    }

    fn lines(&self) -> usize {
        std::fs::read_to_string(self.path("labels.jsonl")).unwrap_or_default().lines().count()
    }
}

/// Runs a command to its end off the runtime, which the server needs.
async fn finished(mut command: Command) -> (Option<i32>, String, String) {
    let output = tokio::task::spawn_blocking(move || command.output().unwrap()).await.unwrap();
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    (output.status.code(), text(&output.stdout), text(&output.stderr))
}

/// Which follow-up a request is about.
fn number(got: &Got) -> usize {
    got.follow_up().trim_start_matches("thanks, number ").parse().unwrap()
}

fn thanks() -> Reply {
    Reply::labels(&[("gratitude", "thanks")])
}

/// What an uninterrupted run writes.
async fn uninterrupted(follow_ups: usize) -> Vec<u8> {
    let place = Place::new(follow_ups);
    let server = Server::start(|_, _| thanks()).await;
    let (code, said, complaint) = finished(place.score(&server, &[])).await;
    assert_eq!(code, Some(0), "{said}{complaint}");
    std::fs::read(place.path("labels.jsonl")).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_run_that_was_killed_goes_on_to_the_same_file_without_asking_again() {
    let place = Place::new(12);
    let gate = Arc::new(Gate::default());
    let server = {
        let gate = Arc::clone(&gate);
        // The first five rows are answered, whichever request comes first; the others are held back.
        Server::start(move |_, got| if number(got) < 5 { thanks() } else { gate.then(thanks()) }).await
    };
    let mut running = Running::start(&mut place.score(&server, &[]), &place.path("log"));
    eventually("five lines and two requests that are held back", Duration::from_mins(1), async || {
        (place.lines() == 5 && server.requests().len() == 7).then_some(())
    })
    .await;
    assert!(running.is_running(), "{}", running.said());
    running.kill_hard();
    gate.open();
    let before = server.requests().len();
    let (code, said, complaint) = finished(place.score(&server, &[])).await;
    assert_eq!(code, Some(0), "{said}{complaint}");
    assert!(said.contains("7 follow-ups annotated, 5 were done before"), "{said}");
    let mut again: Vec<usize> = server.requests().iter().skip(before).map(number).collect();
    again.sort_unstable();
    assert_eq!(again, [5, 6, 7, 8, 9, 10, 11], "what was answered is not asked again");
    assert_eq!(std::fs::read(place.path("labels.jsonl")).unwrap(), uninterrupted(12).await);
    let (code, said, _) = finished(place.score(&server, &[])).await;
    assert_eq!((code, server.requests().len()), (Some(0), before + 7), "{said}");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_end_of_the_budget_and_a_signal_have_codes_of_their_own() {
    let place = Place::new(8);
    let gate = Arc::new(Gate::default());
    let server = {
        let gate = Arc::clone(&gate);
        Server::start(move |number, _| if number < 4 { thanks() } else { gate.then(thanks()) }).await
    };
    let (code, said, complaint) = finished(place.score(&server, &["--budget-tokens", "6500"])).await;
    assert_eq!(code, Some(5), "{said}{complaint}");
    assert!(complaint.contains("the budget is used up: ") && complaint.contains("of 6500 tokens"), "{complaint}");
    assert!((1..4).contains(&place.lines()), "{}", place.lines());
    assert!(said.contains("tokens sent and"), "{said}");

    let (code, _, complaint) = finished(place.score(&server, &["--budget-money", "1"])).await;
    assert_eq!(code, Some(2), "{complaint}");
    assert!(complaint.contains("needs the prices"), "{complaint}");

    let mut running = Running::start(&mut place.score(&server, &[]), &place.path("log"));
    eventually("two held requests", Duration::from_mins(1), async || (server.requests().len() >= 6).then_some(()))
        .await;
    running.terminate();
    eventually("the signal is heard", Duration::from_mins(1), async || {
        running.said().contains("stopping").then_some(())
    })
    .await;
    gate.open();
    let status = tokio::task::spawn_blocking(move || running.wait(Duration::from_mins(1))).await.unwrap();
    assert_eq!(status.code(), Some(4));
    let log = std::fs::read_to_string(place.path("log")).unwrap();
    assert!(log.contains("stopped before everything was asked"), "{log}");
    let (code, said, complaint) = finished(place.score(&server, &[])).await;
    assert_eq!(code, Some(0), "{said}{complaint}");
    assert_eq!(std::fs::read(place.path("labels.jsonl")).unwrap(), uninterrupted(8).await);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_key_is_sent_and_shown_nowhere() {
    let place = Place::new(1);
    let server = Server::start(|_, _| Reply::Status(401, Vec::new(), format!("incorrect API key: {KEY}"))).await;
    let mut command = place.score(&server, &[]);
    command.env("UPTAKE_TELEMETRY_LOG", "trace");
    let (code, said, complaint) = finished(command).await;
    assert_eq!(code, Some(1), "{complaint}");
    assert!(complaint.contains("status 401") && complaint.contains("incorrect API key"), "{complaint}");
    assert!(!complaint.contains("secret-word") && !said.contains("secret-word"), "{said}{complaint}");
    assert_eq!(server.requests()[0].authorization.as_deref(), Some(&*format!("Bearer {KEY}")));
    let (code, _, complaint) = finished(place.annotate(&["score", "-o", "labels.jsonl", "chats.jsonl"])).await;
    assert_eq!(code, Some(2), "{complaint}");
    assert!(complaint.contains("--endpoint") && complaint.contains("UPTAKE_JUDGE_ENDPOINT"), "{complaint}");
}

/// Labels go from the endpoint to the reader that training uses, and to the comparison of annotators.
#[tokio::test(flavor = "multi_thread")]
async fn labels_feed_training_and_agreement() {
    let place = Place::new(4);
    let rubric = place.path("rubric.toml");
    let (code, said, complaint) = finished(place.annotate(&["rubric", "-o", rubric.to_str().unwrap()])).await;
    assert_eq!(code, Some(0), "{said}{complaint}");
    let (code, _, complaint) = finished(place.annotate(&["rubric", "-o", rubric.to_str().unwrap()])).await;
    assert_eq!(code, Some(2), "{complaint}");
    let server = Server::start(|_, got| match got.follow_up().as_str() {
        "thanks, number 0" => Reply::labels(&[("style", "number")]),
        _ => thanks(),
    })
    .await;
    let (code, said, complaint) = finished(place.score(&server, &["--rubric", rubric.to_str().unwrap()])).await;
    assert_eq!(code, Some(0), "{said}{complaint}");
    assert!(said.contains("satisfied 3 (75.0 %), dissatisfied 1 (25.0 %)"), "{said}");
    assert!(said.contains("labels: gratitude 3, style 1"), "{said}");

    let labels = place.path("labels.jsonl");
    let examples = uptake_train::data::read(std::slice::from_ref(&labels)).unwrap();
    assert_eq!(examples.len(), 4);
    assert_eq!((examples[1].last_user.as_str(), examples[1].response.as_str()), ("a question", "an answer"));
    let on: Vec<usize> = (0..20).filter(|output| examples[0].targets[*output] > 0.5).collect();
    assert_eq!(on, [17, 19]);

    let other = place.path("other.jsonl");
    let text = std::fs::read_to_string(&labels).unwrap().replacen(
        r#""sat":[],"dsat":["style"]"#,
        r#""sat":["gratitude"],"dsat":[]"#,
        1,
    );
    std::fs::write(&other, text).unwrap();
    let paths = [labels.to_str().unwrap(), other.to_str().unwrap()];
    let (code, said, complaint) = finished(place.annotate(&["agreement", "--json", paths[0], paths[1]])).await;
    assert_eq!(code, Some(0), "{complaint}");
    let agreed: Value = serde_json::from_str(&said).unwrap();
    assert_eq!((&agreed["rows"], &agreed["outputs"][0]["counts"]["only_second"]), (&json!(4), &json!(1)));
    let (code, said, _) = finished(place.annotate(&["agreement", paths[0], paths[1]])).await;
    assert_eq!(code, Some(0));
    assert!(said.contains("4 follow-ups in 4 conversations annotated by both") && said.contains("gratitude"), "{said}");
    let (code, _, complaint) = finished(place.annotate(&["agreement", paths[0]])).await;
    assert_eq!(code, Some(2), "{complaint}");
    assert!(complaint.contains("second reading"), "{complaint}");
    check_table_of_the_development_data(&place).await;
}

/// Reactions become reasons, reasons a rubric, and the rubric is told when it is used.
#[tokio::test(flavor = "multi_thread")]
async fn reactions_become_a_rubric() {
    let place = Place::new(0);
    let line = |number: usize, kind: &str| {
        json!({"conversation_id": format!("c-{number}"), "reactions": [{"turn": 1, "kind": kind}], "messages": [
            {"role": "user", "content": "a question"},
            {"role": "assistant", "content": "an answer"},
            {"role": "user", "content": format!("right on, number {number}")},
        ]})
        .to_string()
    };
    let lines: Vec<String> = (0..4).map(|number| line(number, if number < 3 { "love" } else { "copy" })).collect();
    let (chats, reasons, rubric) = (place.path("chats.jsonl"), place.path("reasons.jsonl"), place.path("rubric.toml"));
    std::fs::write(&chats, lines.join("\n")).unwrap();
    let server = Server::start(|_, got| {
        let answer = match got.body["response_format"]["json_schema"]["name"].as_str() {
            Some("reasons") => {
                json!({"reasons": [{"side": "sat", "reason": "calls it right", "evidence": "right on"}]})
            }
            Some("assignments") => {
                let of = |number: u8| json!({"number": number, "label": "praise"});
                json!({"assignments": [of(1), of(2), of(3)]})
            }
            Some("criteria") => json!({"criteria": [{"text": "Calls the answer right", "numbers": [1, 2, 3]}]}),
            _ => json!({"labels": []}),
        };
        Reply::Answer(answer.to_string())
    })
    .await;
    let at = ["--endpoint", &server.base, "--model", "test"];
    let run = async |stage: &str, from: &Path, to: &Path| {
        let mut command = place.annotate(&[stage]);
        command.args(at).arg("--output").arg(to).arg(from);
        let (code, said, complaint) = finished(command).await;
        assert_eq!(code, Some(0), "{said}{complaint}");
        said
    };
    let said = run("reasons", &chats, &reasons).await;
    assert!(said.contains("known outcomes: 3 satisfied, 0 dissatisfied; 1 follow-ups without one"), "{said}");
    assert!(said.contains("reasons: 3 of satisfaction"), "{said}");
    let said = run("rubric", &reasons, &rubric).await;
    assert!(said.contains("1 criteria made of 3 reasons") && said.contains("reasons: praise 3"), "{said}");
    let text = std::fs::read_to_string(&rubric).unwrap();
    assert!(text.contains("\"Calls the answer right\", # 3 reasons"), "{text}");
    let before = server.requests().len();
    let (code, said, complaint) = finished(place.score(&server, &["--rubric", rubric.to_str().unwrap()])).await;
    assert_eq!(code, Some(0), "{said}{complaint}");
    assert!(
        server.requests()[before].body["messages"][0]["content"].as_str().unwrap().contains("Calls the answer right")
    );
    assert!(said.contains("satisfied 0 (0.0 %)") && said.contains("labels: none"), "{said}");
}

/// The figures that the data's own documentation gives.
async fn check_table_of_the_development_data(place: &Place) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../shared/data/signals/annotated.jsonl.gz");
    if !path.is_file() {
        println!("skipped: {} is not there", path.display());
        return;
    }
    let (code, said, complaint) = finished(place.annotate(&["agreement", path.to_str().unwrap()])).await;
    assert_eq!(code, Some(0), "{complaint}");
    let kappa =
        |name: &str| said.lines().find(|line| line.starts_with(name)).unwrap().split_whitespace().nth(5).unwrap();
    assert_eq!((kappa("sat "), kappa("dsat ")), ("0.88", "0.87"), "{said}");
}
