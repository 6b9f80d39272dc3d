//! Lakes on S3: the exam of stores, the way from a file to a snapshot through the real binary, and what is said when the
//! service does not let it in.

use std::net::TcpListener;
use std::path::Path;
use std::process::{Command, Output};
use std::sync::Arc;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tempfile::TempDir;
use uptake_lake::lossy::{LossyStore, Odds};
use uptake_lake::{Lake, conformance};
use uptake_tests::binary::command_in;
use uptake_tests::object_store::shared;

/// A lake of a test's own, and its name.
fn lake() -> (String, Lake) {
    let name = shared().name("exam");
    let lake = shared().open(&name);
    (name, lake)
}

uptake_lake::examine!(exam, lake());

#[tokio::test]
async fn the_same_rows_are_the_same_bytes_as_in_memory() {
    conformance::same_input_same_bytes(&lake().1, &Lake::in_memory().unwrap()).await;
}

/// A lake over a lossy store over S3.
fn lossy(store: &LossyStore) -> Lake {
    Lake::with_store(Arc::new(store.clone()), "memory:///lossy/".parse().unwrap()).unwrap()
}

#[tokio::test]
async fn a_lost_answer_of_s3_is_resolved() {
    let store = LossyStore::scripted(lake().1.store());
    conformance::lost_answer_is_resolved(&lossy(&store), &store).await;
}

#[tokio::test]
async fn chaos_in_front_of_s3_gives_each_offset_once() {
    let seed = 11;
    println!("seed {seed}");
    let store = LossyStore::new(lake().1.store(), seed, Odds::BAD);
    conformance::chaos_gives_each_offset_once(&lossy(&store), &store).await;
}

/// A directory to run in, and a lake on S3.
struct Place {
    directory: TempDir,
    lake: String,
}

impl Place {
    fn new() -> Self {
        Self { directory: tempfile::tempdir().unwrap(), lake: shared().name("place") }
    }

    fn uptake(&self, arguments: &[&str]) -> Command {
        uptake(self.directory.path(), &self.lake, arguments)
    }

    /// Runs a command that must succeed; its standard output.
    fn done(&self, arguments: &[&str]) -> String {
        let (code, said, error) = end(&mut self.uptake(arguments));
        assert_eq!(code, 0, "{arguments:?}: {said}\n{error}");
        said
    }

    fn file(&self, conversations: usize) -> String {
        let path = self.directory.path().join("chats.jsonl");
        let lines: Vec<String> = (0..conversations).map(|number| conversation(number).to_string()).collect();
        std::fs::write(&path, lines.join("\n")).unwrap();
        path.to_str().unwrap().to_owned()
    }
}

/// The binary on a lake, with the variables that lead to the service.
fn uptake(directory: &Path, lake: &str, arguments: &[&str]) -> Command {
    let mut command = command_in(directory, lake);
    shared().lead(&mut command);
    command.args(arguments).env("XDG_STATE_HOME", directory);
    command
}

/// Exit code, standard output and standard error.
fn end(command: &mut Command) -> (i32, String, String) {
    let Output { status, stdout, stderr } = command.output().unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    (status.code().unwrap(), text(stdout), text(stderr))
}

/// A conversation of two turns, every other one with a heart.
fn conversation(number: usize) -> Value {
    let day = 1 + number % 4;
    let hearts = if number.is_multiple_of(2) { vec![json!({"turn": 1, "kind": "love", "value": 1})] } else { vec![] };
    json!({
        "conversation_id": format!("c-{number}"), "start_time": format!("2026-01-{day:02}T10:00:00Z"),
        "user_id": format!("user-{}", number % 7), "reactions": hearts,
        "messages": [
            {"role": "user", "content": format!("Which river runs through city {number}?")},
            {"role": "assistant", "content": format!("River {number} does."), "model": "model-a"},
            {"role": "user", "content": "Thanks, that is what I wanted to know."},
            {"role": "assistant", "content": "You are welcome.", "model": "model-a"},
        ],
    })
}

#[tokio::test(flavor = "multi_thread")]
async fn from_a_file_to_a_snapshot_on_s3() {
    const CONVERSATIONS: usize = 60;
    let place = Place::new();
    let file = place.file(CONVERSATIONS);
    assert!(place.done(&["import", &file]).contains("270 events"), "messages and hearts");
    assert!(place.done(&["import", &file]).contains("already imported"));
    place.done(&["run"]);
    let count = |query: &str| place.done(&["sql", "-o", "csv", query]).lines().nth(1).unwrap().to_owned();
    assert_eq!(count("SELECT count(*) FROM silver.turns"), (4 * CONVERSATIONS).to_string());
    assert_eq!(count("SELECT count(*) FROM gold.love WHERE rule_id = 'reaction'"), (CONVERSATIONS / 2).to_string());
    // What is up to date is not built again, and the past can be read.
    let versions = "SELECT count(*) FROM history('gold.love')";
    let before = count(versions);
    place.done(&["run"]);
    assert_eq!(count(versions), before);

    let manifest: Value = serde_json::from_str(&place.done(&["snapshot", "publish", "love", "-o", "json"])).unwrap();
    let id = manifest["id"].as_str().unwrap();
    let listed = place.done(&["snapshot", "list"]);
    assert!(listed.contains(id) && listed.contains("love"), "{listed}");
    let again = place.done(&["snapshot", "publish", "love"]);
    let directory = format!("{}/snapshots/love/{id}", place.lake);
    assert!(again.contains("already published") && again.contains(&directory), "{again}");
    let checked = place.done(&["tables", "check", &directory]);
    assert!(checked.contains("no fault"), "{checked}");
    let (code, _, error) = end(&mut place.uptake(&["tables", "check", &format!("{}/nowhere", place.lake)]));
    assert!(code == 2 && error.contains("no directory"), "{error}");
}

/// What keeps the service shut, and what must be said about it.
struct Shut {
    what: &'static str,
    /// Another lake than that of the place.
    lake: Option<&'static str>,
    change: fn(&mut Command),
    says: &'static [&'static str],
}

const SHUT: [Shut; 6] = [
    Shut {
        what: "an unknown key",
        lake: None,
        change: |command| {
            command.env("AWS_ACCESS_KEY_ID", "nobody");
        },
        says: &["AWS_ACCESS_KEY_ID"],
    },
    Shut {
        what: "a wrong secret",
        lake: None,
        change: |command| {
            command.env("AWS_SECRET_ACCESS_KEY", "a wrong one");
        },
        says: &["AWS_SECRET_ACCESS_KEY"],
    },
    Shut {
        what: "no such bucket",
        lake: Some("s3://no-such-bucket-anywhere/lake"),
        change: |_| {},
        says: &["no such bucket", "make it"],
    },
    Shut {
        what: "nobody listens",
        lake: None,
        change: |command| {
            let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
            command.env("AWS_ENDPOINT_URL", format!("http://127.0.0.1:{port}"));
        },
        says: &["does not answer", "endpoint"],
    },
    Shut {
        what: "no credentials",
        lake: None,
        change: |command| {
            // The service of the machine that lends roles is not there either.
            let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
            command
                .env_remove("AWS_ACCESS_KEY_ID")
                .env_remove("AWS_SECRET_ACCESS_KEY")
                .env("AWS_METADATA_ENDPOINT", format!("http://127.0.0.1:{port}"));
        },
        says: &["no credentials", "AWS_ACCESS_KEY_ID"],
    },
    Shut {
        what: "another region",
        lake: None,
        change: |command| {
            command.env("AWS_REGION", "eu-north-7");
        },
        says: &["AWS_REGION"],
    },
];

/// How long a command may take to say that it cannot get in.
const SAID_WITHIN: Duration = Duration::from_mins(1);

#[tokio::test(flavor = "multi_thread")]
async fn a_service_that_is_shut_is_told_with_the_way_on() {
    let place = Place::new();
    let file = place.file(1);
    // Reading, writing and listing meet the service at different doors.
    let commands: [&[&str]; 4] =
        [&["import", &file], &["sql", "SELECT count(*) FROM bronze.events"], &["run"], &["snapshot", "list"]];
    let checks: Vec<_> = SHUT
        .iter()
        .map(|shut| {
            let mut calls: Vec<Command> = Vec::new();
            for arguments in commands {
                let elsewhere = shut.lake.map_or_else(|| place.lake.clone(), str::to_owned);
                let mut command = uptake(place.directory.path(), &elsewhere, arguments);
                (shut.change)(&mut command);
                calls.push(command);
            }
            std::thread::spawn(move || calls.iter_mut().for_each(|command| check(shut, command)))
        })
        .collect();
    let failed = checks.into_iter().filter_map(|check| check.join().err()).count();
    assert_eq!(failed, 0, "what was said stands above");
}

fn check(shut: &Shut, command: &mut Command) {
    let began = Instant::now();
    let (code, said, error) = end(command);
    let (took, said) = (began.elapsed(), format!("{said}{error}"));
    let call: Vec<_> = command.get_args().map(|argument| argument.to_string_lossy()).collect();
    println!("{} after {took:?}: {}: exit code {code}: {said}", shut.what, call.join(" "));
    assert!(code == 1 || code == 2, "{}: exit code {code}: {said}", shut.what);
    for part in shut.says {
        assert!(said.contains(part), "{}: `{part}` is not said: {said}", shut.what);
    }
    assert!(took < SAID_WITHIN, "{}: said after {took:?}", shut.what);
}
