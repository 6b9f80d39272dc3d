//! Telling others that a model was put into use: the command of `models.on_promotion`.

use std::process::Stdio;

use anyhow::Context as _;
use tokio::io::AsyncWriteExt as _;
use tokio::process::Command;
use uptake_registry::{Entry, Event, Kind, Registry};

use crate::context::Context;

/// Starts the command of the settings, if there is one, with the event on its standard input, and waits for it.
///
/// What was promoted stays promoted when it fails: the error says so.
pub(super) async fn run(
    context: &Context,
    registry: &Registry,
    kind: Kind,
    event: &Event,
    entry: Option<&Entry>,
) -> anyhow::Result<()> {
    let Some((program, arguments)) = context.settings.models.on_promotion.split_first() else { return Ok(()) };
    let stays = || format!("the change stands, but models.on_promotion (`{program}`) did not do its part");
    let mut command = Command::new(program);
    let _ = command
        .args(arguments)
        .env("UPTAKE_MODEL_KIND", kind.name())
        .env("UPTAKE_MODEL_ID", event.model.as_deref().unwrap_or_default())
        .env("UPTAKE_MODEL_NAME", entry.map(|entry| entry.name.as_str()).unwrap_or_default())
        .stdin(Stdio::piped())
        .kill_on_drop(true);
    if let Some(entry) = entry {
        // A server loads an adapter from a directory: the files are brought to this machine first.
        let directory = registry.fetch(entry, &context.settings.models.cache()?).await.with_context(stays)?;
        let _ = command.env("UPTAKE_MODEL_DIRECTORY", directory);
    }
    let mut child = command.spawn().with_context(stays)?;
    if let Some(mut input) = child.stdin.take() {
        let line = serde_json::to_vec(event)?;
        // Whoever does not read its input needs no event.
        let _ = input.write_all(&line).await;
    }
    let status = child.wait().await.with_context(stays)?;
    anyhow::ensure!(status.success(), "{}: {status}", stays());
    Ok(())
}
