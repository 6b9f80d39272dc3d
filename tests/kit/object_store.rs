//! An S3 service on loopback, one for the whole test binary: versitygw over a temporary directory.
//!
//! `UPTAKE_S3_ENDPOINT` names another service instead, with the bucket `UPTAKE_S3_BUCKET` and the credentials of `AWS_*`. The
//! server comes from `infra/versitygw/fetch` (`tests/run` does that); `UPTAKE_VERSITYGW` says where it is.

use std::path::PathBuf;
use std::process::Command;
use std::sync::LazyLock;
use std::sync::atomic::{AtomicU32, Ordering};

use uptake_lake::Lake;

use crate::keeper::{Keeper, directory, fetched, free_ports};
use crate::secret;

/// The service of this test binary, started at the first use.
static SHARED: LazyLock<S3> = LazyLock::new(S3::start);

/// Every lake has a prefix of its own.
static LAKES: AtomicU32 = AtomicU32::new(0);

/// A running S3 service with one bucket.
#[derive(Debug)]
pub struct S3 {
    bucket: String,
    /// The variables that lead to it.
    environment: Vec<(String, String)>,
    /// What sets the prefixes of this run apart from those of others on a service that stays.
    run: String,
    _keeper: Option<Keeper>,
}

/// The service that all tests of this binary share.
///
/// # Panics
/// When it cannot be started; the message says what is missing.
pub fn shared() -> &'static S3 {
    &SHARED
}

impl S3 {
    fn start() -> Self {
        let run = secret()[..8].to_owned();
        if let Ok(endpoint) = std::env::var("UPTAKE_S3_ENDPOINT") {
            let bucket =
                std::env::var("UPTAKE_S3_BUCKET").expect("UPTAKE_S3_ENDPOINT needs a bucket, UPTAKE_S3_BUCKET");
            let mut environment: Vec<_> = std::env::vars().filter(|(name, _)| name.starts_with("AWS_")).collect();
            environment.retain(|(name, _)| !name.starts_with("AWS_ENDPOINT"));
            environment.push(("AWS_ENDPOINT_URL".to_owned(), endpoint));
            return Self { bucket, environment, run, _keeper: None };
        }
        let server = server();
        let directory = directory("uptake-s3-");
        let bucket = "uptake-tests".to_owned();
        // A directory at the top is a bucket.
        std::fs::create_dir_all(directory.join("data").join(&bucket)).expect("make a bucket");
        let [port] = free_ports();
        let (key, secret) = (secret(), secret());
        let address = format!("127.0.0.1:{port}");
        let (server, data) = (server.to_string_lossy(), directory.join("data"));
        let command = [&server, "--port", &address, "--quiet", "posix", &data.to_string_lossy()];
        let credentials = [("ROOT_ACCESS_KEY_ID", key.as_str()), ("ROOT_SECRET_ACCESS_KEY", secret.as_str())];
        let mut keeper = Keeper::start(&directory, command, &credentials);
        keeper.until_it_listens("versitygw", port);
        let environment = [
            ("AWS_ENDPOINT_URL", format!("http://{address}")),
            ("AWS_REGION", "us-east-1".to_owned()),
            ("AWS_ACCESS_KEY_ID", key.clone()),
            ("AWS_SECRET_ACCESS_KEY", secret.clone()),
        ];
        let environment = environment.map(|(name, value)| (name.to_owned(), value)).to_vec();
        Self { bucket, environment, run, _keeper: Some(keeper) }
    }

    /// The variables that lead to the service, as a user sets them.
    pub fn environment(&self) -> Vec<(String, String)> {
        self.environment.clone()
    }

    /// The name of a lake that nobody else has.
    pub fn name(&self, what: &str) -> String {
        let number = LAKES.fetch_add(1, Ordering::Relaxed);
        format!("s3://{}/{}/{number}-{what}", self.bucket, self.run)
    }

    /// Opens a lake by the name that [`S3::name`] gave.
    ///
    /// # Panics
    /// When it cannot be opened.
    pub fn open(&self, name: &str) -> Lake {
        Lake::open_with(name, self.environment()).expect("open a lake on S3")
    }

    /// Gives a command the variables that lead to the service, and none of this process's.
    pub fn lead(&self, command: &mut Command) {
        for (name, _) in std::env::vars().filter(|(name, _)| name.starts_with("AWS_")) {
            command.env_remove(name);
        }
        command.envs(self.environment());
    }
}

fn server() -> PathBuf {
    let server = fetched("UPTAKE_VERSITYGW", "versitygw/versitygw");
    assert!(
        server.is_file(),
        "no S3 server at {}: run `tests/run`, or `infra/versitygw/fetch DIR` and set UPTAKE_VERSITYGW=DIR/versitygw, or let \
         UPTAKE_S3_ENDPOINT, UPTAKE_S3_BUCKET and AWS_* name a service that runs",
        server.display()
    );
    server
}
