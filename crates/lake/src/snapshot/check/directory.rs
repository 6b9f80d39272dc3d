//! Rules about the files of a directory: names, card, descriptions, manifest.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use futures::TryStreamExt;
use object_store::{ObjectMeta, ObjectStore, ObjectStoreExt};
use serde_json::Value;
use sha2::{Digest, Sha256};

use super::rows::Shape;
use super::{DataFile, Faults};
use crate::error::{Error, Result};
use crate::snapshot::card::{DATASET_INFO, README, TEXT};
use crate::snapshot::files::format_of;
use crate::snapshot::manifest::{MANIFEST, Manifest};
use crate::snapshot::rules::Rule;
use crate::snapshot::writer::hex;

type Store = Arc<dyn ObjectStore>;

/// The data files, with their splits.
pub(super) fn data_files(paths: &[(String, ObjectMeta)], faults: &mut Faults) -> Vec<DataFile> {
    let mut data = Vec::new();
    for (path, meta) in paths {
        let Some(format) = format_of(path) else { continue };
        let split = if path.contains('/') { None } else { split_of(path) };
        if split.is_none() && !path.contains('/') {
            faults.add(Rule::FileName, path.clone());
        }
        data.push(DataFile { path: path.clone(), meta: meta.clone(), format, split });
    }
    if !data.iter().any(|file| file.split == Some("train")) {
        faults.add(Rule::NoTrainFile, "no file at the root is named train-*");
    }
    data
}

fn split_of(name: &str) -> Option<&'static str> {
    ["train", "test"].into_iter().find(|split| name.strip_prefix(split).is_some_and(|rest| rest.starts_with('-')))
}

/// A text file of the directory.
async fn text(store: &Store, paths: &[(String, ObjectMeta)], name: &str) -> Option<String> {
    let (_, meta) = paths.iter().find(|(path, _)| path == name)?;
    let bytes = store.get(&meta.location).await.ok()?.bytes().await.ok()?;
    String::from_utf8(bytes.to_vec()).ok()
}

/// The card keeps folders apart and names the files that are there.
pub(super) async fn check_card(store: &Store, paths: &[(String, ObjectMeta)], data: &[DataFile], faults: &mut Faults) {
    let card = text(store, paths, README).await;
    let configs = card.as_deref().map(configs).unwrap_or_default();
    if configs.is_empty() {
        for file in data.iter().filter(|file| file.path.contains('/')) {
            faults.add(
                Rule::NestedData,
                format!("{} beside the files at the root, and no configs in {README}", file.path),
            );
        }
        return;
    }
    for (config, pattern) in &configs {
        if !data.iter().any(|file| matches(pattern, &file.path)) {
            faults.add(Rule::Card, format!("config `{config}` names `{pattern}`, and no file is called so"));
        }
    }
    let default = configs.iter().find(|(config, _)| config == "default").or_else(|| configs.first());
    let default = default.map(|(config, _)| config.clone()).unwrap_or_default();
    let loaded = |path: &str| configs.iter().any(|(config, pattern)| *config == default && matches(pattern, path));
    for file in data {
        let nested = file.path.contains('/');
        if nested && loaded(&file.path) {
            faults.add(Rule::NestedData, format!("config `{default}` takes in {}", file.path));
        }
        if !nested && !loaded(&file.path) {
            faults.add(Rule::Card, format!("{} is in no pattern of config `{default}`", file.path));
        }
    }
}

/// The (config, pattern) pairs of a card's YAML; what is written there in other ways than `datasets` writes it is not read.
fn configs(card: &str) -> Vec<(String, String)> {
    let mut lines = card.lines();
    if lines.next().map(str::trim) != Some("---") {
        return Vec::new();
    }
    let value = |line: &str, key: &str| {
        let line = line.trim().trim_start_matches("- ").trim();
        let value = line.strip_prefix(key)?.strip_prefix(':')?.trim().trim_matches(['"', '\'']);
        (!value.is_empty()).then(|| value.to_owned())
    };
    let (mut found, mut config, mut in_configs) = (Vec::new(), String::new(), false);
    for line in lines.take_while(|line| line.trim() != "---") {
        if !line.starts_with([' ', '-', '\t']) {
            in_configs = line.trim_end() == "configs:";
        }
        if !in_configs {
            continue;
        }
        if let Some(name) = value(line, "config_name") {
            config = name;
        } else if let Some(pattern) = value(line, "path").or_else(|| value(line, "data_files")) {
            found.push((config.clone(), pattern));
        }
    }
    found
}

/// Whether a path matches a pattern; `*` stands for anything but a slash.
fn matches(pattern: &str, path: &str) -> bool {
    let mut parts = pattern.split('*');
    let Some(mut rest) = parts.next().and_then(|first| path.strip_prefix(first)) else { return false };
    let parts: Vec<&str> = parts.collect();
    let Some((last, middle)) = parts.split_last() else { return rest.is_empty() };
    for part in middle {
        let Some(at) = rest.find(part).filter(|at| !rest[..*at].contains('/')) else { return false };
        rest = &rest[at + part.len()..];
    }
    rest.strip_suffix(last).is_some_and(|rest| !rest.contains('/'))
}

/// LLaMA-Factory's description names the columns that it reads rightly.
pub(super) async fn check_described(
    store: &Store,
    paths: &[(String, ObjectMeta)],
    shape: Option<Shape>,
    faults: &mut Faults,
) {
    let expected: &[(&str, &str)] = match shape {
        Some(Shape::Pairs) => &[("chosen", "chosen_message"), ("rejected", "rejected_message"), ("messages", "prompt")],
        Some(Shape::Unpaired) => &[("kto_tag", "label"), ("messages", "conversation")],
        Some(Shape::Supervised) => &[("messages", "messages")],
        _ => return,
    };
    let Some(text) = text(store, paths, DATASET_INFO).await else {
        faults.add(Rule::DatasetInfo, format!("there is no {DATASET_INFO}"));
        return;
    };
    let entries = match serde_json::from_str::<Value>(&text) {
        Ok(Value::Object(entries)) if !entries.is_empty() => entries,
        _ => {
            faults.add(Rule::DatasetInfo, format!("{DATASET_INFO} holds no descriptions"));
            return;
        }
    };
    for (name, entry) in &entries {
        let file = entry.get("file_name").and_then(Value::as_str).unwrap_or_default();
        if !paths.iter().any(|(path, _)| path == file) {
            faults.add(Rule::DatasetInfo, format!("`{name}` describes the file `{file}`, which is not there"));
        }
        for (key, column) in expected {
            let named = entry.get("columns").and_then(|columns| columns.get(key)).and_then(Value::as_str);
            if named != Some(column) {
                faults.add(
                    Rule::DatasetInfo,
                    format!("`{name}`: columns.{key} is {}, it should be `{column}`", named.unwrap_or("missing")),
                );
            }
        }
    }
}

/// Rendered strings stand beside the messages, row for row.
pub(super) fn check_rendered(
    data: &[DataFile],
    counts: &BTreeMap<String, u64>,
    shape: Option<Shape>,
    faults: &mut Faults,
) {
    if shape.is_none() {
        return;
    }
    let mut rows: BTreeMap<&str, (u64, u64)> = BTreeMap::new();
    for file in data {
        let count = counts.get(&file.path).copied().unwrap_or(0);
        if let Some(split) = file.split {
            rows.entry(split).or_default().0 += count;
        } else if let Some(split) = file.path.strip_prefix(TEXT).and_then(split_of) {
            rows.entry(split).or_default().1 += count;
        }
    }
    for (split, (messages, rendered)) in rows {
        if messages != rendered {
            faults.add(
                Rule::RenderedText,
                format!("{split}: {messages} rows of messages, {rendered} rendered below {TEXT}"),
            );
        }
    }
}

/// The manifest names every file, as it is.
pub(super) async fn check_manifest(
    store: &Store,
    manifest: Option<&Manifest>,
    paths: &[(String, ObjectMeta)],
    data: &[DataFile],
    counts: &BTreeMap<String, u64>,
    faults: &mut Faults,
) -> Result<()> {
    let Some(manifest) = manifest else {
        if !paths.iter().any(|(path, _)| path == MANIFEST) {
            faults.add(Rule::ManifestMissing, format!("there is no {MANIFEST}"));
        }
        return Ok(());
    };
    for entry in &manifest.files {
        let Some((_, meta)) = paths.iter().find(|(path, _)| *path == entry.path) else {
            faults.add(Rule::ManifestMismatch, format!("{} is missing", entry.path));
            continue;
        };
        if meta.size != entry.bytes || hash(store, meta).await? != entry.sha256 {
            faults.add(Rule::ManifestMismatch, format!("{} holds other bytes than were published", entry.path));
        }
        if entry.rows.is_some_and(|rows| counts.get(&entry.path) != Some(&rows)) {
            faults.add(
                Rule::ManifestMismatch,
                format!("{} holds another number of rows than were published", entry.path),
            );
        }
    }
    let known: BTreeSet<&str> = manifest.files.iter().map(|entry| entry.path.as_str()).collect();
    for file in data.iter().filter(|file| !known.contains(file.path.as_str())) {
        faults.add(Rule::ManifestMismatch, format!("{} was not published", file.path));
    }
    Ok(())
}

async fn hash(store: &Store, meta: &ObjectMeta) -> Result<String> {
    let sorted = |error| Error::sort(format!("read `{}`", meta.location), error);
    let mut chunks = store.get(&meta.location).await.map_err(sorted)?.into_stream();
    let mut hash = Sha256::new();
    while let Some(chunk) = chunks.try_next().await.map_err(sorted)? {
        hash.update(&chunk);
    }
    Ok(hex(&hash.finalize()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stars_stop_at_slashes() {
        assert!(matches("train-*.parquet", "train-00000-of-00001.parquet"));
        assert!(!matches("train-*.parquet", "text/train-0.parquet"));
        assert!(!matches("train-*.parquet", "train-0/x.parquet"));
        assert!(matches("text/train-*", "text/train-0.parquet"));
        assert!(matches("a.jsonl", "a.jsonl") && !matches("a.jsonl", "a.jsonl2"));
    }

    #[test]
    fn configs_of_a_card_are_read() {
        let card = "---\npretty_name: x\nconfigs:\n- config_name: default\n  data_files:\n  - split: train\n    path: \"train-*\"\n\
                    - config_name: text\n  data_files: text/*\nlicense: mit\n---\n# path: nothing\n";
        let expected =
            [("default", "train-*"), ("text", "text/*")].map(|(one, other)| (one.to_owned(), other.to_owned()));
        assert_eq!(configs(card), expected);
        assert!(configs("# no front matter\npath: x").is_empty());
    }
}
