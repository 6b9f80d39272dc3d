//! Base models: a directory, or a name on a hub.

use std::path::{Path, PathBuf};

use anyhow::Context as _;
use uptake_hub::{Hub, Name, Progress, Settings};

use crate::progress;

/// A base model as it was asked for, and where it lies.
#[derive(Debug)]
pub(crate) struct Base {
    /// Where its files are.
    pub(crate) directory: PathBuf,
    /// Name and commit, where it comes from a hub.
    pub(crate) origin: Option<String>,
}

/// Finds a base model: the directory of that name if there is one; else, where it can be a name on a hub, the model out of
/// the hub's cache, into which it is fetched first if it is not there. Anything else is handed on as it is: whoever reads
/// it says what is wrong with it.
///
/// # Errors
/// Where a model cannot be fetched.
pub(crate) async fn find(asked: &Path, terminal: bool) -> anyhow::Result<Base> {
    let name = asked.to_str().filter(|_| !asked.exists()).and_then(Name::parse);
    let Some(name) = name else { return Ok(Base { directory: asked.to_owned(), origin: None }) };
    let context = || format!("find the base model `{name}`");
    let hub = Hub::new(Settings::from_environment().with_context(context)?);
    let bar = progress::bar(terminal, Some(0), "bytes");
    let mut last = String::new();
    let mut tell = |Progress { file, bytes, of }: Progress<'_>| {
        if last != file {
            file.clone_into(&mut last);
            bar.set_message(last.clone());
            tracing::info!(file, bytes = of, "fetching");
        }
        bar.set_length(of.unwrap_or(bytes));
        bar.set_position(bytes);
    };
    let found = hub.directory(&name, &mut tell).await;
    bar.finish_and_clear();
    let directory = found.with_context(context)?;
    let commit = directory.file_name().unwrap_or_default().to_string_lossy().into_owned();
    Ok(Base { origin: Some(format!("{name}, commit {commit}")), directory })
}
