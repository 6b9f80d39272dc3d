//! What every command gets: the settings, the lake, and whether a person is watching.

use std::io::IsTerminal;
use std::path::PathBuf;

use anyhow::Context as _;
use uptake_lake::Lake;

use crate::settings::Settings;
use crate::telemetry::health::Health;

/// An error of usage or settings: exit code 2.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub(crate) struct Usage(pub(crate) String);

/// The exit code that an error asks for.
pub(crate) fn exit_code_of(error: &anyhow::Error) -> u8 {
    if error.chain().any(<dyn std::error::Error>::is::<Usage>) { 2 } else { 1 }
}

/// Whether whoever read the standard output went away, as `head` does once it has seen enough: no failure of ours.
/// Errors of stores and brokers carry a context of ours, so a bare one comes from writing a report.
pub(crate) fn reader_left(error: &anyhow::Error) -> bool {
    error.chain().len() == 1
        && error.downcast_ref::<std::io::Error>().is_some_and(|error| error.kind() == std::io::ErrorKind::BrokenPipe)
}

/// What every command gets.
#[derive(Debug)]
pub(crate) struct Context {
    /// Settings, checked together at start.
    pub(crate) settings: Settings,
    /// The file that they come from, if there is one.
    pub(crate) config: Option<PathBuf>,
    /// Whether standard error is a terminal, so that progress can be drawn.
    pub(crate) terminal: bool,
    /// Where a running command says whether it lives and is ready.
    pub(crate) health: Health,
}

impl Context {
    /// A context over these settings.
    pub(crate) fn new(settings: Settings, config: Option<PathBuf>, health: Health) -> Self {
        Self { settings, config, terminal: std::io::stderr().is_terminal(), health }
    }

    /// The lake that the user named.
    ///
    /// # Errors
    /// [`Usage`] when none was named; the lake's own error when it cannot be opened.
    pub(crate) fn lake(&self) -> anyhow::Result<Lake> {
        let url = self.settings.lake.as_deref().ok_or_else(|| {
            Usage("no lake: say --lake DIR (or --lake s3://bucket/prefix), or set UPTAKE_LAKE".to_owned())
        })?;
        Lake::open(url).with_context(|| format!("open the lake {url}"))
    }
}
