//! Against a server on loopback that speaks the hub's protocol.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::extract::Request;
use axum::http::{HeaderMap, Response};
use sha2::{Digest as _, Sha256};
use tempfile::TempDir;
use tokio::net::TcpListener;
use tokio::task::JoinHandle;
use url::Url;

use crate::{Error, ErrorKind, Hub, Name, Result, Settings, Token};

const COMMIT: &str = "0123456789abcdef0123456789abcdef01234567";
const MODEL: &str = "/org/tiny/resolve/0123456789abcdef0123456789abcdef01234567/";
const LIST: &str = "/api/models/org/tiny/revision/main";

/// A request as the server got it.
#[derive(Clone, Debug)]
struct Got {
    path: String,
    range: Option<String>,
    token: Option<String>,
    /// How often this path was asked for before.
    before: usize,
}

type Script = dyn Fn(&Got) -> Response<Body> + Send + Sync;

struct Server {
    base: String,
    requests: Arc<Mutex<Vec<Got>>>,
    task: JoinHandle<()>,
}

impl Drop for Server {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Server {
    async fn start(script: impl Fn(&Got) -> Response<Body> + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let base = format!("http://{}", listener.local_addr().unwrap());
        let requests: Arc<Mutex<Vec<Got>>> = Arc::default();
        let (seen, script): (_, Arc<Script>) = (Arc::clone(&requests), Arc::new(script));
        let handler = move |request: Request| {
            let (seen, script) = (Arc::clone(&seen), Arc::clone(&script));
            async move {
                let header = |headers: &HeaderMap, name: &str| Some(headers.get(name)?.to_str().unwrap().to_owned());
                let path = request.uri().path().to_owned();
                let mut seen = seen.lock().unwrap();
                let before = seen.iter().filter(|got| got.path == path).count();
                let (range, token) = (header(request.headers(), "range"), header(request.headers(), "authorization"));
                let got = Got { path, range, token, before };
                seen.push(got.clone());
                script(&got)
            }
        };
        let router = Router::new().fallback(handler);
        let task = tokio::spawn(async move { axum::serve(listener, router).await.unwrap() });
        Self { base, requests, task }
    }

    fn paths(&self) -> Vec<String> {
        self.requests.lock().unwrap().iter().map(|got| got.path.clone()).collect()
    }
}

fn answer(status: u16, headers: &[(&str, &str)], body: impl Into<Body>) -> Response<Body> {
    let mut response = Response::builder().status(status);
    for (name, value) in headers {
        response = response.header(*name, *value);
    }
    response.body(body.into()).unwrap()
}

fn listing(files: &[&str]) -> Response<Body> {
    let files: Vec<String> = files.iter().map(|file| format!(r#"{{"rfilename":"{file}"}}"#)).collect();
    answer(200, &[], format!(r#"{{"id":"org/tiny","sha":"{COMMIT}","siblings":[{}]}}"#, files.join(",")))
}

fn digest(bytes: &[u8]) -> String {
    format!("{:x}", Sha256::digest(bytes))
}

/// A file, from where it is asked for.
fn file(got: &Got, bytes: &[u8]) -> Response<Body> {
    let etag = format!("\"{}\"", digest(bytes));
    let Some(from) = &got.range else {
        return answer(200, &[("etag", &etag), ("x-repo-commit", COMMIT)], bytes.to_vec());
    };
    let from: usize = from.strip_prefix("bytes=").unwrap().strip_suffix('-').unwrap().parse().unwrap();
    if from >= bytes.len() {
        return answer(416, &[], "");
    }
    let range = format!("bytes {from}-{}/{}", bytes.len() - 1, bytes.len());
    answer(206, &[("etag", &etag), ("content-range", &range)], bytes[from..].to_vec())
}

/// The same, but the connection breaks after so many bytes.
fn broken(bytes: &[u8], after: usize) -> Response<Body> {
    let etag = format!("\"{}\"", digest(bytes));
    let parts = [Ok(bytes[..after].to_vec()), Err(std::io::Error::other("gone"))];
    // The first part goes out before the connection breaks.
    let stream = futures::StreamExt::then(futures::stream::iter(parts), |part| async {
        tokio::task::yield_now().await;
        part
    });
    let length = bytes.len().to_string();
    answer(200, &[("etag", &etag), ("content-length", &length)], Body::from_stream(stream))
}

const FILES: [&str; 5] = ["README.md", "config.json", "tokenizer.json", "pytorch_model.bin", "model.safetensors"];

/// A model of one file of weights.
fn plain(got: &Got) -> Response<Body> {
    match got.path.as_str() {
        LIST => listing(&FILES),
        path => match path.strip_prefix(MODEL) {
            Some(name) if FILES.contains(&name) => file(got, name.as_bytes()),
            _ => answer(404, &[("x-error-code", "EntryNotFound")], ""),
        },
    }
}

fn settings(base: &str, cache: &TempDir) -> Settings {
    Settings {
        endpoint: Url::parse(base).unwrap(),
        cache: cache.path().to_owned(),
        token: Token::new("hf_secret"),
        offline: false,
        retries: 2,
        pause: Duration::from_millis(1),
    }
}

async fn fetch(settings: Settings, name: &str) -> Result<PathBuf> {
    Hub::new(settings).directory(&Name::parse(name).unwrap(), &mut |_| {}).await
}

fn contents(directory: &Path) -> BTreeMap<String, String> {
    let files = std::fs::read_dir(directory).unwrap().map(|file| file.unwrap().path());
    let name = |path: &PathBuf| path.file_name().unwrap().to_str().unwrap().to_owned();
    files.map(|path| (name(&path), std::fs::read_to_string(&path).unwrap())).collect()
}

#[tokio::test]
async fn a_model_is_fetched_once_into_the_layout_that_others_know() {
    let cache = tempfile::tempdir().unwrap();
    // Large files lie with another host, which must not get the token.
    let store = Server::start(|got| {
        assert_eq!(got.path, "/store/weights");
        assert_eq!(got.token, None);
        answer(200, &[("etag", "\"another\"")], "model.safetensors")
    })
    .await;
    let elsewhere = format!("{}/store/weights", store.base);
    let server = Server::start(move |got| {
        assert_eq!(got.token.as_deref(), Some("Bearer hf_secret"));
        match got.path.strip_prefix(MODEL) {
            Some("model.safetensors") => {
                let etag = format!("\"{}\"", digest(b"model.safetensors"));
                let headers = [("location", elsewhere.as_str()), ("x-linked-etag", &etag), ("x-repo-commit", COMMIT)];
                answer(302, &headers, "")
            }
            // A repository that was renamed is found under its old name by a relative redirection.
            Some("config.json") => answer(307, &[("location", "/moved/config")], ""),
            None if got.path == "/moved/config" => answer(200, &[("etag", "W/\"c0ffee\"")], "config.json"),
            _ => plain(got),
        }
    })
    .await;
    let found = fetch(settings(&server.base, &cache), "org/tiny").await.unwrap();
    let root = cache.path().join("models--org--tiny");
    assert_eq!(found, root.join("snapshots").join(COMMIT));
    let wanted = ["config.json", "tokenizer.json", "model.safetensors"];
    assert_eq!(contents(&found), wanted.map(|name| (name.to_owned(), name.to_owned())).into());
    assert_eq!(std::fs::read_to_string(root.join("refs/main")).unwrap(), COMMIT);
    assert_eq!(std::fs::read_link(found.join("config.json")).unwrap(), Path::new("../../blobs/c0ffee"));
    let weights = std::fs::read_link(found.join("model.safetensors")).unwrap();
    assert_eq!(weights, Path::new("../../blobs").join(digest(b"model.safetensors")));
    let blobs = std::fs::read_dir(root.join("blobs")).unwrap().map(|blob| blob.unwrap());
    assert!(blobs.map(|blob| blob.file_name().into_string().unwrap()).all(|name| !name.contains("incomplete")));

    let asked = server.paths().len();
    for offline in [false, true] {
        let settings = Settings { offline, ..settings(&server.base, &cache) };
        assert_eq!(fetch(settings.clone(), "org/tiny").await.unwrap(), found);
        assert_eq!(fetch(settings, &format!("org/tiny@{COMMIT}")).await.unwrap(), found);
    }
    assert_eq!(server.paths().len(), asked, "what is there is not asked for");
    std::fs::remove_file(found.join("tokenizer.json")).unwrap();
    assert_eq!(fetch(settings(&server.base, &cache), "org/tiny").await.unwrap(), found);
    assert_eq!(server.paths().len(), asked + 2, "the list, and the file for its blob's name");
}

#[tokio::test]
async fn shards_are_fetched_as_their_list_names_them() {
    let cache = tempfile::tempdir().unwrap();
    let files = [
        "config.json",
        "tokenizer.json",
        "tokenizer_config.json",
        "model.safetensors.index.json",
        "model-00001-of-00002.safetensors",
        "model-00002-of-00002.safetensors",
        "model.fp32.safetensors",
    ];
    let index = r#"{"weight_map":{"a":"model-00002-of-00002.safetensors","b":"model-00001-of-00002.safetensors","c":"model-00001-of-00002.safetensors"}}"#;
    let server = Server::start(move |got| match got.path.strip_prefix(MODEL) {
        Some("model.safetensors.index.json") => file(got, index.as_bytes()),
        Some(name) => file(got, name.as_bytes()),
        None => {
            assert_eq!(got.path, "/api/models/org/tiny/revision/refs%2Fpr%2F1");
            listing(&files)
        }
    })
    .await;
    let found = fetch(settings(&server.base, &cache), "org/tiny@refs/pr/1").await.unwrap();
    let names: Vec<String> = contents(&found).into_keys().collect();
    assert_eq!(names, {
        let mut wanted = files[..6].to_vec();
        wanted.sort_unstable();
        wanted
    });
    assert_eq!(std::fs::read_to_string(cache.path().join("models--org--tiny/refs/refs/pr/1")).unwrap(), COMMIT);
    // A shard that somebody took away is missed, and fetched again.
    std::fs::remove_file(found.join("model-00002-of-00002.safetensors")).unwrap();
    assert_eq!(fetch(settings(&server.base, &cache), "org/tiny@refs/pr/1").await.unwrap(), found);
    assert!(found.join("model-00002-of-00002.safetensors").is_file());
}

#[tokio::test]
async fn what_breaks_is_gone_on_with() {
    let cache = tempfile::tempdir().unwrap();
    let weights: Vec<u8> = (0..200_000_u32).flat_map(u32::to_le_bytes).collect();
    let whole = weights.clone();
    let server = Server::start(move |got| match got.path.strip_prefix(MODEL) {
        _ if got.path == LIST && got.before == 0 => answer(500, &[], r#"{"error":"overloaded"}"#),
        Some("tokenizer.json") if got.before == 0 => answer(503, &[], ""),
        Some("model.safetensors") if got.before == 0 => broken(&whole, 300_000),
        Some("model.safetensors") => file(got, &whole),
        _ => plain(got),
    })
    .await;
    let found = fetch(settings(&server.base, &cache), "org/tiny").await.unwrap();
    assert_eq!(std::fs::read(found.join("model.safetensors")).unwrap(), weights);
    let ranges: Vec<Option<String>> = {
        let requests = server.requests.lock().unwrap();
        requests.iter().filter(|got| got.path.ends_with("model.safetensors")).map(|got| got.range.clone()).collect()
    };
    assert_eq!(ranges.len(), 3, "{ranges:?}");
    let from: usize = ranges[2].as_deref().unwrap().trim_matches(|c: char| !c.is_ascii_digit()).parse().unwrap();
    assert!(from > 0 && from <= 300_000, "{ranges:?}");
}

#[tokio::test]
async fn what_another_run_left_is_gone_on_with_or_thrown_away() {
    for (left, good) in [
        (&b"model.safe"[..], true),
        (b"model.safetensors", true),
        (b"MODEL.safe", false),
        (b"a much longer one than it", true),
    ] {
        let cache = tempfile::tempdir().unwrap();
        let server = Server::start(plain).await;
        let blobs = cache.path().join("models--org--tiny/blobs");
        std::fs::create_dir_all(&blobs).unwrap();
        let part = blobs.join(format!("{}.uptake.incomplete", digest(b"model.safetensors")));
        std::fs::write(&part, left).unwrap();
        let found = fetch(settings(&server.base, &cache), "org/tiny").await;
        assert!(!part.exists());
        if good {
            assert_eq!(std::fs::read(found.unwrap().join("model.safetensors")).unwrap(), b"model.safetensors");
            continue;
        }
        let error = found.unwrap_err();
        assert!(error.kind() == ErrorKind::Corrupt && error.to_string().contains("SHA-256"), "{error}");
        let again = fetch(settings(&server.base, &cache), "org/tiny").await.unwrap();
        assert_eq!(std::fs::read(again.join("model.safetensors")).unwrap(), b"model.safetensors");
    }
}

/// What the error says when the server does so.
async fn refused(script: impl Fn(&Got) -> Response<Body> + Send + Sync + 'static, token: bool) -> Error {
    let cache = tempfile::tempdir().unwrap();
    let server = Server::start(script).await;
    let mut settings = settings(&server.base, &cache);
    settings.token = settings.token.filter(|_| token);
    let error = fetch(settings, "org/tiny").await.unwrap_err();
    assert!(!cache.path().join("models--org--tiny/refs/main").exists(), "nothing looks whole");
    assert!(!error.to_string().contains("hf_secret"));
    error
}

#[tokio::test]
async fn refusals_say_what_to_do() {
    let always = |status, code: &'static str| move |_: &Got| answer(status, &[("x-error-code", code)], "");
    let says = |error: Error, words: &[&str]| {
        let text = error.to_string();
        assert!(words.iter().all(|word| text.contains(word)), "{text}");
    };
    says(refused(always(404, ""), false).await, &["no directory `org/tiny`", "no model of that name"]);
    says(refused(always(401, "RepoNotFound"), false).await, &["no model of that name", "HF_TOKEN"]);
    says(refused(always(404, "RevisionNotFound"), false).await, &["`org/tiny` has no revision `main`"]);
    says(refused(always(401, ""), false).await, &["private or gated", "set HF_TOKEN"]);
    says(refused(always(401, ""), true).await, &["does not know the token in HF_TOKEN"]);
    let gated =
        |got: &Got| if got.path == LIST { listing(&FILES) } else { answer(403, &[("x-error-code", "GatedRepo")], "") };
    says(refused(gated, false).await, &["accept its conditions at http", "/org/tiny", "set HF_TOKEN"]);
    says(refused(gated, true).await, &["with the account of the token in HF_TOKEN"]);
    says(refused(|_: &Got| listing(&["config.json", "model.safetensors"]), false).await, &["has no tokenizer.json"]);
    says(
        refused(|_: &Got| listing(&["config.json", "tokenizer.json", "pytorch_model.bin"]), false).await,
        &["has no model.safetensors", "weights of another kind"],
    );
    let down = refused(|_: &Got| answer(500, &[], r#"{"error":"on fire"}"#), false).await;
    assert_eq!(down.kind(), ErrorKind::Retry);
    says(down, &["answers 500", "on fire"]);
    says(refused(|_: &Got| answer(200, &[], "<html>welcome</html>"), false).await, &["is no hub"]);
    let index = |got: &Got| match got.path.strip_prefix(MODEL) {
        Some("model.safetensors.index.json") => file(got, br#"{"weight_map":{"a":"../secret"}}"#),
        Some(name) => file(got, name.as_bytes()),
        None => listing(&["config.json", "tokenizer.json", "model.safetensors.index.json"]),
    };
    says(refused(index, false).await, &["`../secret`"]);
}

#[tokio::test]
async fn without_a_network_the_reason_is_told_and_offline_nothing_is_asked() {
    let cache = tempfile::tempdir().unwrap();
    let closed = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
    let error = fetch(settings(&format!("http://{closed}"), &cache), "org/tiny").await.unwrap_err();
    assert!(error.kind() == ErrorKind::Retry && error.to_string().contains("cannot be reached"), "{error}");
    let server = Server::start(plain).await;
    let offline = Settings { offline: true, ..settings(&server.base, &cache) };
    let error = fetch(offline.clone(), "org/tiny").await.unwrap_err().to_string();
    assert!(error.contains("HF_HUB_OFFLINE is set") && error.contains("all of it"), "{error}");
    // As huggingface_hub leaves it when it was asked for one file.
    let root = cache.path().join("models--org--tiny");
    for folder in ["refs", "blobs", "snapshots"] {
        std::fs::create_dir_all(root.join(folder)).unwrap();
    }
    std::fs::create_dir(root.join("snapshots").join(COMMIT)).unwrap();
    std::fs::write(root.join("refs/main"), COMMIT).unwrap();
    std::fs::write(root.join("snapshots").join(COMMIT).join("config.json"), "{}").unwrap();
    let error = fetch(offline, "org/tiny").await.unwrap_err().to_string();
    assert!(error.contains("(tokenizer.json is missing)"), "{error}");
    assert!(server.paths().is_empty());
}

#[tokio::test]
async fn two_that_fetch_at_once_both_get_it_whole() {
    let cache = tempfile::tempdir().unwrap();
    let server = Server::start(plain).await;
    let both =
        [settings(&server.base, &cache), settings(&server.base, &cache)].map(|settings| fetch(settings, "org/tiny"));
    for found in futures::future::join_all(both).await {
        assert_eq!(contents(&found.unwrap()).len(), 3);
    }
}
