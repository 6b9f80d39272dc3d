//! The cache as `huggingface_hub` lays it out: contents under `blobs`, by their hash; for each commit a directory of links to
//! them under `snapshots`; and under `refs`, which commit a branch or tag was.

use std::collections::{BTreeMap, BTreeSet};
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use serde::Deserialize;

use crate::error::{Error, Result};
use crate::name::{Name, is_commit};

pub(crate) const WEIGHTS: &str = "model.safetensors";
pub(crate) const INDEX: &str = "model.safetensors.index.json";
/// What every base model must have beside its weights.
pub(crate) const REQUIRED: [&str; 2] = ["config.json", "tokenizer.json"];
/// What belongs to it where it is there.
pub(crate) const OPTIONAL: [&str; 5] = [
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "generation_config.json",
    "chat_template.jinja",
];

/// Tells the temporary files of a process apart.
static NUMBER: AtomicU64 = AtomicU64::new(0);

/// The directory of one repository.
#[derive(Clone, Debug)]
pub(crate) struct Place {
    root: PathBuf,
}

impl Place {
    pub(crate) fn new(cache: &Path, name: &Name) -> Self {
        Self { root: cache.join(name.folder()) }
    }

    pub(crate) fn blob(&self, etag: &str) -> PathBuf {
        self.root.join("blobs").join(etag)
    }

    pub(crate) fn snapshot(&self, commit: &str) -> PathBuf {
        self.root.join("snapshots").join(commit)
    }

    /// The commit that a revision was when it was last asked for.
    pub(crate) fn commit(&self, name: &Name) -> Option<String> {
        if name.is_commit() {
            return Some(name.revision.clone());
        }
        let text = std::fs::read_to_string(self.root.join("refs").join(&name.revision)).ok()?;
        Some(text.trim().to_owned()).filter(|commit| is_commit(commit))
    }

    /// Notes the commit that a revision is.
    pub(crate) fn note(&self, name: &Name, commit: &str) -> Result<()> {
        if name.is_commit() {
            return Ok(());
        }
        let path = self.root.join("refs").join(&name.revision);
        replace(&path, |new| std::fs::File::create(new)?.write_all(commit.as_bytes()))
    }

    /// Gives a blob its name in a snapshot.
    pub(crate) fn link(&self, commit: &str, file: &str, etag: &str) -> Result<()> {
        let path = self.snapshot(commit).join(file);
        let target = Path::new("../../blobs").join(etag);
        replace(&path, |new| std::os::unix::fs::symlink(&target, new))
    }
}

/// Makes a file under another name first, so that it is whole or not there.
fn replace(path: &Path, make: impl FnOnce(&Path) -> std::io::Result<()>) -> Result<()> {
    let number = NUMBER.fetch_add(1, Ordering::Relaxed);
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(format!(".{}-{number}.new", std::process::id()));
    let new = path.with_file_name(name);
    let attempt = || {
        if let Some(parent) = path.parent() {
            std::fs::create_dir_all(parent)?;
        }
        make(&new)?;
        std::fs::rename(&new, path)
    };
    attempt().map_err(Error::file("write", path))
}

#[derive(Deserialize)]
struct Index {
    weight_map: BTreeMap<String, String>,
}

/// The files of weights that an index names; the error is a sentence.
pub(crate) fn shards(index: &[u8]) -> Result<BTreeSet<String>, String> {
    let index: Index = serde_json::from_slice(index).map_err(|error| format!("{INDEX}: {error}"))?;
    let names: BTreeSet<String> = index.weight_map.into_values().collect();
    if names.is_empty() {
        return Err(format!("{INDEX} names no file"));
    }
    match names.iter().find(|name| name.contains(['/', '\\']) || !name.ends_with(".safetensors")) {
        Some(name) => Err(format!("{INDEX} names `{name}`, which is no safetensors file beside it")),
        None => Ok(names),
    }
}

/// A file of a snapshot that is missing; none where the snapshot is a whole model.
pub(crate) fn missing(snapshot: &Path) -> Option<String> {
    // Links are followed: one whose blob is gone is no file.
    let is_there = |name: &str| snapshot.join(name).is_file();
    let needed = REQUIRED.into_iter().find(|name| !is_there(name));
    if let Some(name) = needed {
        return Some(name.to_owned());
    }
    let Ok(index) = std::fs::read(snapshot.join(INDEX)) else {
        return (!is_there(WEIGHTS)).then(|| WEIGHTS.to_owned());
    };
    match shards(&index) {
        Ok(names) => names.into_iter().find(|name| !is_there(name)),
        Err(_) => Some(INDEX.to_owned()),
    }
}
