//! Apache Kafka itself, on free ports of loopback, one for the whole test binary; and a second one that asks for a password
//! over TLS, for the tests of that.
//!
//! `KAFKA_BOOTSTRAP_SERVERS` names another broker instead of the first. The jars come from `infra/kafka/fetch` (`tests/run`
//! does that); `UPTAKE_KAFKA_LIBS` says where they are.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::LazyLock;

use crate::keeper::{Keeper, directory, fetched, free_ports};
use crate::secret;

/// The broker of this test binary, started at the first use.
static SHARED: LazyLock<Kafka> = LazyLock::new(Kafka::start);

/// The broker with a guarded door, started at the first use.
static SECURED: LazyLock<Secured> = LazyLock::new(Secured::start);

const PROPERTIES: &str = include_str!("../../infra/kafka/server.properties");

/// What the guarded broker has beyond [`PROPERTIES`]; the later of two lines with one key counts.
const SECURED_PROPERTIES: &str = include_str!("../../infra/kafka/secured.properties");

/// A fixed cluster id, in Kafka's spelling of a UUID.
const CLUSTER: &str = "dXB0YWtlLXRlc3RzLTAwMQ";

/// A running Kafka.
#[derive(Debug)]
pub struct Kafka {
    bootstrap: String,
    _keeper: Option<Keeper>,
}

/// A running Kafka with a second listener, `SASL_SSL` with a certificate that it has signed itself.
#[derive(Debug)]
pub struct Secured {
    /// The listener that asks nothing, for those who prepare a test.
    pub open: String,
    /// The listener that asks for a password (`SCRAM-SHA-256` or `PLAIN`) over TLS.
    pub guarded: String,
    /// The password of [`Secured::USER`].
    pub password: String,
    /// The certificate to trust, PEM.
    pub authority: PathBuf,
    /// A certificate of somebody else, PEM.
    pub stranger: PathBuf,
    _keeper: Keeper,
}

/// `bootstrap.servers` of the broker that all tests of this binary share.
///
/// # Panics
/// When it cannot be started; the message says what is missing.
pub fn bootstrap() -> &'static str {
    &SHARED.bootstrap
}

/// The broker with a guarded door that all tests of this binary share.
///
/// # Panics
/// When it cannot be started; the message says what is missing.
pub fn secured() -> &'static Secured {
    &SECURED
}

impl Kafka {
    fn start() -> Self {
        if let Ok(bootstrap) = std::env::var("KAFKA_BOOTSTRAP_SERVERS") {
            return Self { bootstrap, _keeper: None };
        }
        let directory = directory("uptake-kafka-");
        let [broker, controller] = free_ports();
        let properties = filled(PROPERTIES, broker, controller, &directory);
        let keeper = run(&directory, &properties, broker, &[]);
        Self { bootstrap: format!("127.0.0.1:{broker}"), _keeper: Some(keeper) }
    }
}

impl Secured {
    /// The user that the guarded listener knows.
    pub const USER: &str = "uptake-tests";

    fn start() -> Self {
        let directory = directory("uptake-kafka-secured-");
        let [broker, controller, guarded] = free_ports();
        let password = secret();
        let authority = certificate(&directory, "broker", &password);
        let stranger = certificate(&directory, "stranger", &password);
        let properties = filled(&format!("{PROPERTIES}\n{SECURED_PROPERTIES}"), broker, controller, &directory)
            .replace("@GUARDED_PORT@", &guarded.to_string())
            .replace("@KEYSTORE@", &directory.join("broker.p12").to_string_lossy())
            .replace("@USER@", Self::USER)
            .replace("@PASSWORD@", &password);
        let user = format!("SCRAM-SHA-256=[name={},password={password}]", Self::USER);
        let keeper = run(&directory, &properties, guarded, &["--add-scram", &user]);
        let address = |port: u16| format!("127.0.0.1:{port}");
        Self { open: address(broker), guarded: address(guarded), password, authority, stranger, _keeper: keeper }
    }
}

fn filled(properties: &str, broker: u16, controller: u16, directory: &Path) -> String {
    properties
        .replace("@BROKER_PORT@", &broker.to_string())
        .replace("@CONTROLLER_PORT@", &controller.to_string())
        .replace("@DATA@", &directory.join("data").to_string_lossy())
}

/// Formats the storage, starts the broker and waits until it listens on `port`.
fn run(directory: &Path, properties: &str, port: u16, format: &[&str]) -> Keeper {
    let file = directory.join("server.properties");
    std::fs::write(&file, properties).expect("write server.properties");
    let class_path = format!("{}/*", libs().display());
    let formatted = Command::new("java")
        .args(["-cp", &class_path, "kafka.tools.StorageTool", "format", "-t", CLUSTER])
        .args(format)
        .arg("-c")
        .arg(&file)
        .output()
        .expect("run java (Java 17 is needed)");
    assert!(formatted.status.success(), "format Kafka's storage: {}", String::from_utf8_lossy(&formatted.stderr));
    let file = file.to_string_lossy().into_owned();
    let broker = [
        "java",
        "-Xms256m",
        "-Xmx512m",
        "-XX:+UseSerialGC",
        "-XX:TieredStopAtLevel=1",
        "-cp",
        &class_path,
        "kafka.Kafka",
        &file,
    ];
    let mut keeper = Keeper::start(directory, broker, &[]);
    keeper.until_it_listens("Kafka", port);
    keeper
}

/// Makes a key and a certificate for 127.0.0.1, signed by itself: `NAME.p12` with both, and `NAME.pem`, whose path it gives.
fn certificate(directory: &Path, name: &str, password: &str) -> PathBuf {
    let keytool = |arguments: &[&str]| {
        let store = directory.join(format!("{name}.p12"));
        let output = Command::new("keytool")
            .args(arguments)
            .args(["-alias", name, "-storetype", "PKCS12", "-storepass", password, "-keystore"])
            .arg(store)
            .output()
            .expect("run keytool (it comes with Java 17)");
        let said = [output.stdout, output.stderr].concat();
        assert!(output.status.success(), "keytool {arguments:?}: {}", String::from_utf8_lossy(&said));
    };
    let (subject, addresses) = (format!("CN={name}"), "san=ip:127.0.0.1,dns:localhost");
    let key = ["-genkeypair", "-keyalg", "EC", "-groupname", "secp256r1", "-validity", "2"];
    keytool(&[key.as_slice(), &["-dname", &subject, "-ext", addresses]].concat());
    let path = directory.join(format!("{name}.pem"));
    keytool(&["-exportcert", "-rfc", "-file", &path.to_string_lossy()]);
    path
}

fn libs() -> PathBuf {
    let libs = fetched("UPTAKE_KAFKA_LIBS", "kafka/libs");
    assert!(
        libs.is_dir(),
        "no Kafka jars in {}: run `tests/run`, or `infra/kafka/fetch DIR` and set UPTAKE_KAFKA_LIBS=DIR/libs",
        libs.display()
    );
    libs
}
