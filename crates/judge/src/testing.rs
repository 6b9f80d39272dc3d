//! A server on loopback that speaks chat completions and follows a script, for tests.

#![expect(clippy::expect_used, reason = "in a test kit a panic is the report")]

use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use axum::Router;
use axum::body::{Body, Bytes};
use axum::extract::State;
use axum::http::{HeaderMap, Response};
use axum::routing::post;
use futures::StreamExt as _;
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::task::JoinHandle;

/// What the server does with a request.
#[derive(Debug)]
pub enum Reply {
    /// A completion with this text, and a count of tokens.
    Answer(String),
    /// A completion without a count of tokens.
    Uncounted(String),
    /// A completion that ends at the longest answer.
    CutOff(String),
    /// The model refuses.
    Refusal,
    /// This status, these headers, this body.
    Status(u16, Vec<(&'static str, String)>, String),
    /// A 200 whose body is this text.
    Body(String),
    /// A 200 whose body breaks off in the middle.
    Truncated,
    /// Nothing, as long as the client listens.
    Silence,
    /// That reply, when the gate is open.
    When(watch::Receiver<bool>, Box<Self>),
}

impl Reply {
    /// An answer of the scoring stage.
    pub fn labels(labels: &[(&str, &str)]) -> Self {
        let labels: Vec<Value> =
            labels.iter().map(|(label, evidence)| json!({"label": label, "evidence": evidence})).collect();
        Self::Answer(json!({"rationale": "as said", "labels": labels}).to_string())
    }
}

/// A request as the server got it.
#[derive(Clone, Debug)]
pub struct Got {
    /// The `authorization` header.
    pub authorization: Option<String>,
    /// The body.
    pub body: Value,
}

impl Got {
    /// The last message: the exchange, or the complaint about the answer before.
    pub fn asked(&self) -> &str {
        let messages = self.body.get("messages").and_then(Value::as_array);
        messages.and_then(|messages| messages.last()?.get("content")?.as_str()).unwrap_or_default()
    }

    /// The follow-up of the exchange that it is about.
    pub fn follow_up(&self) -> String {
        let messages = self.body.get("messages").and_then(Value::as_array);
        let exchange = messages.and_then(|messages| messages.get(1)?.get("content")?.as_str()).unwrap_or_default();
        let exchange: Value = serde_json::from_str(exchange).unwrap_or_default();
        exchange.get("follow_up").and_then(Value::as_str).unwrap_or_default().to_owned()
    }

    /// Whether the model was asked to mend an answer.
    pub fn is_second(&self) -> bool {
        self.body.get("messages").and_then(Value::as_array).is_some_and(|messages| messages.len() > 2)
    }
}

#[derive(Default)]
struct Seen {
    requests: Vec<Got>,
    in_flight: usize,
    most_in_flight: usize,
}

type Script = dyn Fn(usize, &Got) -> Reply + Send + Sync;

#[derive(Clone)]
struct Shared {
    script: Arc<Script>,
    seen: Arc<Mutex<Seen>>,
    in_flight: watch::Sender<usize>,
}

impl Shared {
    fn seen(&self) -> MutexGuard<'_, Seen> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A running server; it ends when it is dropped.
pub struct Server {
    /// Its address, to be used as an endpoint.
    pub base: String,
    shared: Shared,
    task: JoinHandle<()>,
}

impl fmt::Debug for Server {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Server").field("base", &self.base).finish_non_exhaustive()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// One request that is under way, however it ends.
struct Under(Shared);

impl Under {
    fn begin(shared: &Shared) -> Self {
        let mut seen = shared.seen();
        seen.in_flight += 1;
        seen.most_in_flight = seen.most_in_flight.max(seen.in_flight);
        shared.in_flight.send_replace(seen.in_flight);
        drop(seen);
        Self(shared.clone())
    }
}

impl Drop for Under {
    fn drop(&mut self) {
        let mut seen = self.0.seen();
        seen.in_flight -= 1;
        self.0.in_flight.send_replace(seen.in_flight);
    }
}

impl Server {
    /// Starts a server. The script gets the number of the request, from 0, and the request.
    ///
    /// # Panics
    /// When no port can be had.
    pub async fn start(script: impl Fn(usize, &Got) -> Reply + Send + Sync + 'static) -> Self {
        let shared = Shared { script: Arc::new(script), seen: Arc::default(), in_flight: watch::Sender::new(0) };
        let router = Router::new().route("/v1/chat/completions", post(answer)).with_state(shared.clone());
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let base = format!("http://{}", listener.local_addr().expect("the address of the listener"));
        let task = tokio::spawn(async move { axum::serve(listener, router).await.expect("a server that serves") });
        Self { base, shared, task }
    }

    /// The requests so far.
    pub fn requests(&self) -> Vec<Got> {
        self.shared.seen().requests.clone()
    }

    /// How many requests were under way at once at most.
    pub fn most_in_flight(&self) -> usize {
        self.shared.seen().most_in_flight
    }

    /// Waits until so many requests are under way.
    ///
    /// # Panics
    /// When the server is gone.
    pub async fn until_in_flight(&self, count: usize) {
        let mut in_flight = self.shared.in_flight.subscribe();
        in_flight.wait_for(|now| *now == count).await.expect("the server lives");
    }
}

async fn answer(State(shared): State<Shared>, headers: HeaderMap, body: Bytes) -> Response<Body> {
    let _under = Under::begin(&shared);
    let authorization = headers.get("authorization").and_then(|value| value.to_str().ok()).map(str::to_owned);
    let got = Got { authorization, body: serde_json::from_slice(&body).unwrap_or_default() };
    let number = {
        let mut seen = shared.seen();
        seen.requests.push(got.clone());
        seen.requests.len() - 1
    };
    let mut reply = (shared.script)(number, &got);
    loop {
        reply = match reply {
            Reply::When(mut gate, then) => {
                // A gate whose keeper is gone stays shut.
                if gate.wait_for(|open| *open).await.is_err() { Reply::Silence } else { *then }
            }
            Reply::Silence => std::future::pending().await,
            other => break response(other),
        };
    }
}

fn response(reply: Reply) -> Response<Body> {
    let build = |status: u16, headers: Vec<(&'static str, String)>, body: Body| {
        let mut response = Response::builder().status(status);
        for (name, value) in headers {
            response = response.header(name, value);
        }
        response.body(body).expect("a response")
    };
    let completion = |text: Value, refusal: Value, finish: &str, usage: Value| {
        let message = json!({"role": "assistant", "content": text, "refusal": refusal});
        let body = json!({
            "id": "1", "object": "chat.completion", "model": "test", "usage": usage,
            "choices": [{"index": 0, "message": message, "finish_reason": finish}],
        });
        build(200, vec![("content-type", "application/json".to_owned())], Body::from(body.to_string()))
    };
    let usage = json!({"prompt_tokens": 1_000, "completion_tokens": 50, "total_tokens": 1_050});
    match reply {
        Reply::Answer(text) => completion(json!(text), Value::Null, "stop", usage),
        Reply::Uncounted(text) => completion(json!(text), Value::Null, "stop", Value::Null),
        Reply::CutOff(text) => completion(json!(text), Value::Null, "length", usage),
        Reply::Refusal => completion(Value::Null, json!("I cannot help with that."), "stop", usage),
        Reply::Status(status, headers, body) => build(status, headers, Body::from(body)),
        Reply::Body(body) => build(200, Vec::new(), Body::from(body)),
        Reply::Truncated => {
            // The first part is on its way before the connection breaks.
            let first = futures::stream::iter([Ok("{\"choices\":[{\"mess")]);
            let break_off = async {
                tokio::task::yield_now().await;
                Err(std::io::Error::other("broken off on purpose"))
            };
            build(200, Vec::new(), Body::from_stream(first.chain(futures::stream::once(break_off))))
        }
        Reply::Silence | Reply::When(..) => build(500, Vec::new(), Body::empty()),
    }
}

/// A gate that lets replies through when it is opened.
#[derive(Debug)]
pub struct Gate(watch::Sender<bool>);

impl Default for Gate {
    fn default() -> Self {
        Self(watch::Sender::new(false))
    }
}

impl Gate {
    /// A reply that waits for this gate.
    pub fn then(&self, reply: Reply) -> Reply {
        Reply::When(self.0.subscribe(), Box::new(reply))
    }

    /// Opens it for good.
    pub fn open(&self) {
        self.0.send_replace(true);
    }
}
