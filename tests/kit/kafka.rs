//! Apache Kafka itself, on free ports of loopback, one for the whole test binary.
//!
//! `KAFKA_BOOTSTRAP_SERVERS` names another broker instead. The jars come from `infra/kafka/fetch` (`tests/run` does that);
//! `UPTAKE_KAFKA_LIBS` says where they are.

use std::net::{TcpListener, TcpStream};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::LazyLock;
use std::time::Duration;

use crate::wait::until;

/// The broker of this test binary, started at the first use.
static SHARED: LazyLock<Kafka> = LazyLock::new(Kafka::start);

const PROPERTIES: &str = include_str!("../../infra/kafka/server.properties");

/// A fixed cluster id, in Kafka's spelling of a UUID.
const CLUSTER: &str = "dXB0YWtlLXRlc3RzLTAwMQ";

/// A running Kafka.
#[derive(Debug)]
pub struct Kafka {
    bootstrap: String,
    /// The keeper kills the broker and removes its directory when this end of the pipe closes, whatever ends the process.
    _keeper: Option<(Child, ChildStdin)>,
}

/// `bootstrap.servers` of the broker that all tests of this binary share.
///
/// # Panics
/// When it cannot be started; the message says what is missing.
pub fn bootstrap() -> &'static str {
    &SHARED.bootstrap
}

impl Kafka {
    fn start() -> Self {
        if let Ok(bootstrap) = std::env::var("KAFKA_BOOTSTRAP_SERVERS") {
            return Self { bootstrap, _keeper: None };
        }
        let libs = libs();
        let directory =
            tempfile::Builder::new().prefix("uptake-kafka-").tempdir().expect("a temporary directory").keep();
        let (broker, controller) = two_free_ports();
        let properties = PROPERTIES
            .replace("@BROKER_PORT@", &broker.to_string())
            .replace("@CONTROLLER_PORT@", &controller.to_string())
            .replace("@DATA@", &directory.join("data").to_string_lossy());
        let file = directory.join("server.properties");
        std::fs::write(&file, properties).expect("write server.properties");
        let class_path = format!("{}/*", libs.display());
        let formatted = Command::new("java")
            .args(["-cp", &class_path, "kafka.tools.StorageTool", "format", "-t", CLUSTER, "-c"])
            .arg(&file)
            .output()
            .expect("run java (Java 17 is needed)");
        assert!(formatted.status.success(), "format Kafka's storage: {}", String::from_utf8_lossy(&formatted.stderr));
        let mut keeper = keep(&directory, &class_path, &file);
        let stdin = keeper.stdin.take().expect("the keeper's pipe");
        until("Kafka listens", Duration::from_mins(2), || {
            let ended = keeper.try_wait().expect("look at the keeper");
            let log = || std::fs::read_to_string(directory.join("log")).unwrap_or_default();
            assert!(ended.is_none(), "Kafka ended: {}", log());
            TcpStream::connect(("127.0.0.1", broker)).ok()
        });
        Self { bootstrap: format!("127.0.0.1:{broker}"), _keeper: Some((keeper, stdin)) }
    }
}

/// Starts the broker under a shell that waits for the end of its input, then kills the broker and removes the directory.
fn keep(directory: &Path, class_path: &str, properties: &Path) -> Child {
    const SCRIPT: &str = r#"
        directory="$1"; shift
        "$@" > "$directory/log" 2>&1 &
        broker=$!
        # Ends when the test binary does, however that ends; or when the broker ends by itself.
        while kill -0 "$broker" 2>/dev/null; do read -r -t 1 _; [ $? -gt 128 ] || break; done
        kill -9 "$broker" 2>/dev/null
        wait "$broker" 2>/dev/null
        rm -rf "$directory"
    "#;
    Command::new("bash")
        .args(["-c", SCRIPT, "keeper"])
        .arg(directory)
        .args([
            "java",
            "-Xms256m",
            "-Xmx512m",
            "-XX:+UseSerialGC",
            "-XX:TieredStopAtLevel=1",
            "-cp",
            class_path,
            "kafka.Kafka",
        ])
        .arg(properties)
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        // Ctrl-C at the terminal must reach the keeper as the end of its input, not as a signal.
        .process_group(0)
        .spawn()
        .expect("start Kafka under bash")
}

fn libs() -> PathBuf {
    let cache = std::env::var("XDG_CACHE_HOME")
        .map(PathBuf::from)
        .or_else(|_| std::env::var("HOME").map(|home| Path::new(&home).join(".cache")));
    let libs = std::env::var("UPTAKE_KAFKA_LIBS")
        .map(PathBuf::from)
        .or_else(|_| cache.map(|cache| cache.join("uptake/kafka/libs")))
        .expect("HOME, or UPTAKE_KAFKA_LIBS");
    assert!(
        libs.is_dir(),
        "no Kafka jars in {}: run `tests/run`, or `infra/kafka/fetch DIR` and set UPTAKE_KAFKA_LIBS=DIR/libs",
        libs.display()
    );
    libs
}

fn two_free_ports() -> (u16, u16) {
    let listen = || TcpListener::bind("127.0.0.1:0").expect("a free port of loopback");
    let (one, two) = (listen(), listen());
    let port = |listener: &TcpListener| listener.local_addr().expect("an address").port();
    (port(&one), port(&two))
}
