//! What is sent and served, seen from the other end of the wire.

use std::io::{Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::sync::mpsc::{Receiver, channel};
use std::time::Duration;

use opentelemetry::KeyValue;
use opentelemetry::metrics::MeterProvider as _;
use opentelemetry::trace::TracerProvider as _;
use tracing_subscriber::layer::SubscriberExt as _;

use super::health::{Finding, Health};
use super::{endpoint, export, inventory, logs};

/// A request as a collector gets it.
struct Posted {
    head: String,
    body: Vec<u8>,
}

impl Posted {
    fn holds(&self, text: &str) -> bool {
        self.body.windows(text.len()).any(|window| window == text.as_bytes())
    }
}

/// Takes OTLP requests on a free port of loopback and answers 200.
fn collector() -> (String, Receiver<Posted>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let (sender, receiver) = channel();
    let _detached = std::thread::spawn(move || {
        for stream in listener.incoming() {
            let Ok(stream) = stream else { return };
            let sender = sender.clone();
            let _detached =
                std::thread::spawn(
                    move || while read_request(&stream).is_some_and(|posted| sender.send(posted).is_ok()) {},
                );
        }
    });
    (url, receiver)
}

fn read_request(mut stream: &TcpStream) -> Option<Posted> {
    let mut bytes = Vec::new();
    let mut chunk = [0; 4096];
    loop {
        if let Some(end) = bytes.windows(4).position(|window| window == b"\r\n\r\n") {
            let head = String::from_utf8_lossy(&bytes[..end]).to_lowercase();
            let length = head.lines().find_map(|line| line.strip_prefix("content-length: ")?.parse().ok()).unwrap_or(0);
            if bytes.len() >= end + 4 + length {
                stream
                    .write_all(b"HTTP/1.1 200 OK\r\ncontent-type: application/x-protobuf\r\ncontent-length: 0\r\n\r\n")
                    .ok()?;
                return Some(Posted { head, body: bytes[end + 4..end + 4 + length].to_vec() });
            }
        }
        let read = stream.read(&mut chunk).ok().filter(|read| *read > 0)?;
        bytes.extend_from_slice(&chunk[..read]);
    }
}

#[test]
fn spans_and_metrics_reach_a_collector() {
    let (url, posted) = collector();
    let otlp = export::Otlp::new(&format!("{url}/")).unwrap();
    let tracer = otlp.tracer().unwrap();
    let meter = export::meter(Some(&otlp), None).unwrap().unwrap();

    let subscriber =
        tracing_subscriber::registry().with(tracing_opentelemetry::layer().with_tracer(tracer.tracer("test")));
    tracing::subscriber::with_default(subscriber, || {
        tracing::info_span!("flush_of_the_test", rows = 3).in_scope(|| ());
    });
    let counter = meter.meter("test").u64_counter("ingest_records_total").build();
    counter.add(7, &[KeyValue::new("topic", "topic_of_the_test"), KeyValue::new("outcome", "stored")]);
    tracer.shutdown().unwrap();
    meter.shutdown().unwrap();

    let mut seen = [false; 2];
    while seen != [true; 2] {
        let request = posted.recv_timeout(Duration::from_secs(10)).expect("a batch of spans and one of metrics");
        assert!(request.head.contains("content-type: application/x-protobuf"), "{}", request.head);
        if request.head.starts_with("post /v1/traces ") {
            seen[0] |= request.holds("flush_of_the_test") && request.holds("service.name") && request.holds("uptake");
        } else if request.head.starts_with("post /v1/metrics ") {
            seen[1] |= request.holds("ingest_records_total") && request.holds("topic_of_the_test");
        } else {
            panic!("unexpected request {}", request.head);
        }
    }
}

#[test]
fn an_endpoint_that_is_no_url_is_refused_with_its_setting() {
    for wrong in ["localhost:4318", "grpc://collector:4317", ""] {
        let error = export::Otlp::new(wrong).unwrap_err().to_string();
        assert!(error.contains("telemetry.otlp_endpoint") && error.contains("http://localhost:4318"), "{error}");
    }
}

async fn get(address: std::net::SocketAddr, path: &'static str) -> String {
    let asked = tokio::task::spawn_blocking(move || {
        let mut stream = TcpStream::connect(address).unwrap();
        write!(stream, "GET {path} HTTP/1.1\r\nhost: test\r\nconnection: close\r\n\r\n").unwrap();
        let mut text = String::new();
        let _ = stream.read_to_string(&mut text).unwrap();
        text
    });
    asked.await.unwrap()
}

#[tokio::test]
async fn the_endpoint_serves_metrics_and_health() {
    let registry = prometheus::Registry::new();
    let meter = export::meter(None, Some(&registry)).unwrap().unwrap();
    let health = Health::default();
    let address = endpoint::start("127.0.0.1:0", registry, health.clone()).await.unwrap();

    let scope = meter.meter("test");
    let stored = [KeyValue::new("topic", "chat"), KeyValue::new("outcome", "stored")];
    scope.u64_counter("ingest_records_total").build().add(7, &stored);
    scope.f64_histogram("ingest_commit_seconds").build().record(0.02, &[KeyValue::new("table", "bronze.events")]);
    let text = get(address, "/metrics").await;
    for line in [
        "HTTP/1.1 200 OK",
        "content-type: text/plain; version=0.0.4",
        "# HELP uptake_ingest_records_total records consumed: stored, duplicate, dead_letter or tombstone",
        "# TYPE uptake_ingest_records_total counter",
        "uptake_ingest_records_total{outcome=\"stored\",topic=\"chat\"} 7",
        "uptake_ingest_commit_seconds_bucket{table=\"bronze.events\",le=\"0.01\"} 0",
        "uptake_ingest_commit_seconds_bucket{table=\"bronze.events\",le=\"0.05\"} 1",
    ] {
        assert!(text.contains(line), "no `{line}` in\n{text}");
    }

    assert!(get(address, "/live").await.starts_with("HTTP/1.1 200"));
    assert!(get(address, "/ready").await.starts_with("HTTP/1.1 503"));
    health.register("consume", || Finding::new(false, "the loop stands still"), || Finding::new(true, "3 partitions"));
    let live = get(address, "/live").await;
    assert!(live.starts_with("HTTP/1.1 503") && live.ends_with("failing consume: the loop stands still\n"), "{live}");
    assert!(get(address, "/ready").await.starts_with("HTTP/1.1 200"));
}

#[test]
fn log_lines_are_json_with_their_trace() {
    #[derive(Clone, Default)]
    struct Shared(std::sync::Arc<std::sync::Mutex<Vec<u8>>>);
    impl std::io::Write for Shared {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            self.0.lock().unwrap().extend_from_slice(bytes);
            Ok(bytes.len())
        }
        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }
    let written = Shared::default();
    let target = written.clone();
    let tracer = opentelemetry_sdk::trace::SdkTracerProvider::builder().build();
    let subscriber =
        tracing_subscriber::registry().with(tracing_opentelemetry::layer().with_tracer(tracer.tracer("test"))).with(
            tracing_subscriber::fmt::layer()
                .event_format(logs::Json)
                .with_ansi(false)
                .with_writer(move || target.clone()),
        );
    tracing::subscriber::with_default(subscriber, || {
        tracing::info_span!("flush", rows = 3)
            .in_scope(|| tracing::warn!(topic = "chat", refused = 2, "some \"bad\" records"));
        tracing::info!("outside");
    });
    let bytes = written.0.lock().unwrap().clone();
    let lines: Vec<serde_json::Value> =
        String::from_utf8(bytes).unwrap().lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(lines.len(), 2);
    assert_eq!(lines[0]["level"], "WARN");
    assert_eq!(lines[0]["message"], "some \"bad\" records");
    assert_eq!(lines[0]["fields"], serde_json::json!({ "topic": "chat", "refused": 2 }));
    assert_eq!(lines[0]["spans"], serde_json::json!(["flush{rows=3}"]));
    assert_eq!(lines[0]["trace_id"].as_str().map(str::len), Some(32));
    assert!(lines[1].get("trace_id").is_none() && lines[1].get("spans").is_none());
}

/// The source of the crates that make instruments.
fn sources(directory: &std::path::Path, found: &mut Vec<String>) {
    for entry in std::fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            sources(&path, found);
        } else if path.extension().is_some_and(|extension| extension == "rs") && !path.ends_with("telemetry/tests.rs") {
            let source = std::fs::read_to_string(path).unwrap();
            if source.contains("global::meter(") {
                found.push(source);
            }
        }
    }
}

/// The names of instruments: the string literals that begin as such names do.
fn instruments(source: &str) -> impl Iterator<Item = &str> {
    let name = |text: &&str| {
        let begins = ["ingest_", "job_", "label_rate_", "schedule_run", "table_", "tagger_"]
            .into_iter()
            .any(|prefix| text.starts_with(prefix));
        begins && text.chars().all(|letter| letter.is_ascii_lowercase() || letter == '_')
    };
    source.split('"').skip(1).step_by(2).filter(name)
}

#[test]
fn the_inventory_lists_what_the_crates_make() {
    let mut files = Vec::new();
    sources(&std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join(".."), &mut files);
    let mut made: Vec<&str> = files.iter().flat_map(|source| instruments(source)).collect();
    made.sort_unstable();
    made.dedup();
    let listed: Vec<&str> = inventory::METRICS.iter().map(|metric| metric.name).collect();
    assert!(listed.is_sorted(), "keep the inventory sorted");
    assert_eq!(made, listed, "left: instruments that the crates make; right: the inventory");
}

#[test]
fn names_end_in_their_unit() {
    for metric in inventory::METRICS {
        let counter = metric.instrument == inventory::Instrument::Counter;
        assert_eq!(metric.name.ends_with("_total"), counter, "{}", metric.name);
        let base = metric.name.trim_end_matches("_total");
        match metric.unit {
            inventory::Unit::Bytes => assert!(base.ends_with("_bytes"), "{}", metric.name),
            inventory::Unit::Seconds => assert!(base.ends_with("_seconds"), "{}", metric.name),
            inventory::Unit::Count => {}
        }
    }
}

#[test]
fn the_page_is_the_inventory() {
    let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../../infra/metrics.md");
    if std::env::var_os("UPDATE_PAGES").is_some() {
        std::fs::write(&path, inventory::page()).unwrap();
    }
    let page = std::fs::read_to_string(&path).unwrap_or_default();
    assert!(
        page == inventory::page(),
        "infra/metrics.md is stale: run this test with UPDATE_PAGES=1 and commit the page"
    );
}
