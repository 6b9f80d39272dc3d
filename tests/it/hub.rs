//! Base models by their names on a hub: the real binary against a server on loopback that speaks the hub's protocol.

#![expect(clippy::unwrap_used, reason = "in a test a panic is the report")]

use std::io::{BufRead as _, BufReader, Write as _};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::{Arc, Mutex};

use serde_json::{Value, json};
use uptake_tests::binary;

const COMMIT: &str = "00112233445566778899aabbccddeeff00112233";

/// A hub with the models below a directory; its thread ends with the process of the test.
struct Server {
    base: String,
    asked: Arc<Mutex<Vec<String>>>,
}

impl Server {
    fn start(models: &'static [(&'static str, &'static str)]) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let base = format!("http://{}", listener.local_addr().unwrap());
        let asked: Arc<Mutex<Vec<String>>> = Arc::default();
        let seen = Arc::clone(&asked);
        let _thread = std::thread::spawn(move || {
            for stream in listener.incoming() {
                let stream = stream.unwrap();
                let path = path_of(&stream);
                seen.lock().unwrap().push(path.clone());
                answer(stream, &path, models);
            }
        });
        Self { base, asked }
    }

    fn asked(&self) -> usize {
        self.asked.lock().unwrap().len()
    }
}

fn path_of(stream: &TcpStream) -> String {
    let mut lines = BufReader::new(stream).lines().map(|line| line.unwrap());
    let first = lines.next().unwrap_or_default();
    let _headers = lines.take_while(|line| !line.is_empty()).count();
    first.split(' ').nth(1).unwrap_or_default().to_owned()
}

fn answer(mut stream: TcpStream, path: &str, models: &[(&str, &str)]) {
    let (mut status, mut headers, mut body) =
        ("404 Not Found", "X-Error-Code: RepoNotFound\r\n".to_owned(), Vec::new());
    for (name, directory) in models {
        let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join(directory);
        if path == format!("/api/models/{name}/revision/main") {
            let files = std::fs::read_dir(&directory).unwrap().map(|file| file.unwrap().file_name());
            let files: Vec<Value> = files.map(|file| json!({"rfilename": file.to_str().unwrap()})).collect();
            (status, headers) = ("200 OK", String::new());
            body = json!({"sha": COMMIT, "siblings": files}).to_string().into_bytes();
        } else if let Some(file) = path.strip_prefix(&format!("/{name}/resolve/{COMMIT}/")) {
            (status, headers) = ("200 OK", format!("ETag: \"of-{}\"\r\n", file.replace('.', "-")));
            body = std::fs::read(directory.join(file)).unwrap();
        }
    }
    if path.contains("/gated/") {
        (status, headers) = ("403 Forbidden", "X-Error-Code: GatedRepo\r\n".to_owned());
    }
    let head = format!("HTTP/1.1 {status}\r\n{headers}Content-Length: {}\r\nConnection: close\r\n\r\n", body.len());
    // Whoever only wanted the head has gone.
    let _ = stream.write_all(head.as_bytes()).and_then(|()| stream.write_all(&body));
}

fn said(command: &mut Command) -> (i32, String, String) {
    let Output { status, stdout, stderr } = command.output().unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    (status.code().unwrap(), text(stdout), text(stderr))
}

fn uptake(directory: &Path, server: &Server) -> Command {
    let mut command = binary::command(&directory.join("lake"));
    for name in ["HF_TOKEN", "HF_HUB_OFFLINE", "HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE"] {
        command.env_remove(name);
    }
    command.env("HF_ENDPOINT", &server.base).env("HF_HOME", directory.join("home"));
    command
}

const LLAMA: &str = "../crates/train/fixtures/policy/llama";

fn snapshot(directory: &Path, model: &str) -> PathBuf {
    directory.join("home/hub").join(format!("models--{model}")).join("snapshots").join(COMMIT)
}

#[test]
fn a_name_is_fetched_once_and_answers_as_its_directory_does() {
    let directory = tempfile::tempdir().unwrap();
    let server = Server::start(&[("org/tiny", LLAMA)]);
    let prompts = directory.path().join("in.jsonl");
    std::fs::write(&prompts, json!({"id": 1, "prompt": "hello"}).to_string()).unwrap();
    let generate = |model: &str, more: &[(&str, &str)]| {
        let mut command = uptake(directory.path(), &server);
        command.args(["generate", "--max-new-tokens", "8", "--model", model]).arg(&prompts).envs(more.iter().copied());
        said(&mut command)
    };
    let (code, named, complaint) = generate("org/tiny", &[]);
    assert_eq!(code, 0, "{complaint}");
    let asked = server.asked();
    assert_eq!(asked, 5, "the list and four files: {:?}", server.asked.lock().unwrap());
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../crates/train/fixtures/policy/llama");
    assert_eq!(generate(path, &[]).1, named);
    assert_eq!(generate("org/tiny", &[("HF_HUB_OFFLINE", "1")]).1, named);
    assert_eq!(server.asked(), asked, "what is there is not asked for");
    assert!(snapshot(directory.path(), "org--tiny").join("model.safetensors").is_symlink());

    // A directory of that name goes before it.
    std::fs::create_dir_all(directory.path().join("org/empty")).unwrap();
    let (code, _, complaint) = generate("org/empty", &[]);
    assert!(code == 1 && complaint.contains("org/empty/config.json"), "{code}: {complaint}");
    assert_eq!(server.asked(), asked);
    for (model, says) in [
        ("org/nowhere", "has no model of that name"),
        ("gated/model", "accept its conditions at http"),
        ("./nowhere", "read `./nowhere/config.json`"),
    ] {
        let (code, _, complaint) = generate(model, &[]);
        assert!(code == 1 && complaint.contains(says), "{code}: {complaint}");
    }
    let (code, _, complaint) = generate("org/other", &[("HF_HUB_OFFLINE", "1")]);
    assert!(code == 1 && complaint.contains("HF_HUB_OFFLINE is set"), "{code}: {complaint}");
}

#[test]
fn an_adapter_names_its_base_as_it_was_asked_for() {
    let directory = tempfile::tempdir().unwrap();
    let server = Server::start(&[("org/tiny", LLAMA)]);
    let row = |at: usize| json!({"prompt": format!("say {at}"), "chosen": "yes", "rejected": "no"}).to_string() + "\n";
    let pairs: String = (0..8).map(row).collect();
    let data = directory.path().join("pairs.jsonl");
    std::fs::write(&data, pairs).unwrap();
    let out = directory.path().join("adapter");
    let mut command = uptake(directory.path(), &server);
    command.args([
        "train",
        "policy",
        "--method",
        "dpo",
        "--base",
        "org/tiny",
        "--max-length",
        "128",
        "--max-steps",
        "1",
    ]);
    let (code, _, complaint) = said(command.arg("--data").arg(&data).arg("--out").arg(&out));
    assert_eq!(code, 0, "{complaint}");
    let config = std::fs::read(out.join("adapter_config.json")).unwrap();
    let config: Value = serde_json::from_slice(&config).unwrap();
    assert_eq!(config["base_model_name_or_path"], "org/tiny");
}

#[test]
fn a_classifier_starts_from_a_name_and_its_card_says_so() {
    let directory = tempfile::tempdir().unwrap();
    let server = Server::start(&[("org/roberta", "../crates/tagger/fixtures/encoders/roberta")]);
    let row = |at: usize| {
        let (word, sat, dsat) =
            if at.is_multiple_of(2) { ("thanks", "gratitude", None) } else { ("no", "", Some("negative_feedback")) };
        let sat: Vec<&str> = Some(sat).filter(|label| !label.is_empty()).into_iter().collect();
        let messages = json!([
            {"role": "user", "content": format!("how {at}")},
            {"role": "assistant", "content": "so it worked"},
            {"role": "user", "content": format!("{word} {at}")},
        ]);
        let dsat: Vec<&str> = dsat.into_iter().collect();
        json!({"conversation_id": at.to_string(), "source": "logs", "turn": 2, "messages": messages, "sat": sat, "dsat": dsat})
            .to_string()
            + "\n"
    };
    let data = directory.path().join("data.jsonl");
    std::fs::write(&data, (0..200).map(row).collect::<String>()).unwrap();
    let out = directory.path().join("model");
    let mut command = uptake(directory.path(), &server);
    command.args([
        "train",
        "classifier",
        "--base",
        "org/roberta",
        "--epochs",
        "1",
        "--max-tokens",
        "48",
        "--name",
        "tiny",
    ]);
    let (code, _, complaint) = said(command.arg("--data").arg(&data).arg("--out").arg(&out));
    assert_eq!(code, 0, "{complaint}");
    let card = std::fs::read_to_string(out.join("README.md")).unwrap();
    assert!(card.contains(&format!("org/roberta, commit {COMMIT}")), "{card}");
    let chats = directory.path().join("chats.jsonl");
    std::fs::write(&chats, row(0)).unwrap();
    let mut command = uptake(directory.path(), &server);
    let (code, tagged, complaint) = said(command.args(["tag", "--model"]).arg(&out).arg(&chats));
    assert!(code == 0 && tagged.contains("tiny"), "{code}: {tagged}{complaint}");
}
