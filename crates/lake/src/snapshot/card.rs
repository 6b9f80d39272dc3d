//! What stands beside the rows for people and for loaders: the dataset card and LLaMA-Factory's description.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use serde_json::{Map, Value, json};

use super::layout::Layout;
use super::manifest::{FileEntry, Manifest};

/// The card's file.
pub(super) const README: &str = "README.md";
/// LLaMA-Factory's description of a data directory.
pub(super) const DATASET_INFO: &str = "dataset_info.json";
/// The folder of the rendered files, with its slash.
pub(super) const TEXT: &str = "text/";

/// The card: YAML that tells `datasets` which files are which, and what a person should know before training.
pub(super) fn readme(manifest: &Manifest, files: &[FileEntry], layout: &Layout) -> String {
    let mut text = String::new();
    front_matter(&mut text, manifest, files);
    // Writing to a string cannot fail.
    let _ = writeln!(
        text,
        "# {} at version {}\n\n{}: {}.\n",
        manifest.table, manifest.version, layout.spec.name, layout.spec.grain
    );
    rows(&mut text, manifest);
    loading(&mut text, manifest, layout);
    text
}

fn front_matter(text: &mut String, manifest: &Manifest, files: &[FileEntry]) {
    let _ = writeln!(text, "---\npretty_name: {} {}\nconfigs:", manifest.name, manifest.id);
    for (config, folder) in [("default", ""), ("text", TEXT)] {
        let _ = writeln!(text, "- config_name: {config}");
        if config == "default" {
            text.push_str("  default: true\n");
        }
        text.push_str("  data_files:\n");
        for split in ["train", "test"] {
            let there = files.iter().any(|file| file.path.starts_with(&format!("{folder}{split}-")));
            if there {
                let _ = writeln!(text, "  - split: {split}\n    path: {folder}{split}-*.parquet");
            }
        }
    }
    text.push_str("---\n\n");
}

fn rows(text: &mut String, manifest: &Manifest) {
    let _ = writeln!(text, "| split | rows | conversations |\n|---|---:|---:|");
    for (split, rows) in &manifest.rows {
        let _ = writeln!(text, "| {split} | {rows} | {} |", manifest.conversations.get(split).unwrap_or(&0));
    }
    for (title, table) in [("rule", &manifest.rules), ("class", &manifest.classes)] {
        if table.is_empty() {
            continue;
        }
        let _ = writeln!(text, "\n| {title} | train | test |\n|---|---:|---:|");
        for (name, splits) in table {
            let count = |split| splits.get(split).copied().unwrap_or(0);
            let _ = writeln!(text, "| {name} | {} | {} |", count("train"), count("test"));
        }
    }
    let _ = writeln!(text, "\nSplit: {}.", manifest.split.rule);
    if let Some(from) = &manifest.split.test_from {
        let _ = writeln!(text, "Kept back by time: every conversation that began on {from} (UTC) or later.");
    } else {
        let _ = writeln!(text, "Kept back by time: {}.", manifest.split.reason);
    }
    if let Some(filter) = &manifest.filter {
        let _ = writeln!(text, "Filter: `{filter}`.");
    }
    if !manifest.left_out.is_empty() {
        let reasons: Vec<_> = manifest.left_out.iter().map(|(reason, rows)| format!("{reason} {rows}")).collect();
        let _ = writeln!(text, "Left out of {} rows read: {}.", manifest.rows_read, reasons.join(", "));
    }
    let lengths = &manifest.lengths;
    let _ = writeln!(
        text,
        "\nLengths in tokens of `{}`, before a chat template adds its own: half of the rows up to {}, 99 % up to {}, the longest {}.\n\
         A trainer drops or cuts longer rows without a word:\n\n| limit | rows over it |\n|---:|---:|",
        manifest.tokenizer, lengths.p50, lengths.p99, lengths.longest
    );
    for (limit, rows) in &lengths.over {
        let _ = writeln!(text, "| {limit} | {rows} |");
    }
}

fn loading(text: &mut String, manifest: &Manifest, layout: &Layout) {
    let _ = writeln!(
        text,
        "\n## Loading\n\n```python\nfrom datasets import load_dataset\n\nrows = load_dataset(\"DIRECTORY\")           # \
         chat messages: TRL, OpenRLHF\ntexts = load_dataset(\"DIRECTORY\", \"text\")   # rendered strings: Axolotl, verl\n```\n"
    );
    text.push_str(
        "Prompts are lists of `{role, content}`; answers are lists of one assistant message. The `text` files hold the same rows \
         rendered as `User: …` and `Assistant: …` paragraphs, the prompt closed by `Assistant:`.\n",
    );
    if layout.llama_factory.is_some() {
        let _ = writeln!(
            text,
            "LLaMA-Factory: `dataset_dir: DIRECTORY`, `dataset: {}_train` (`{DATASET_INFO}` describes the columns).",
            manifest.name
        );
    }
    text.push_str(
        "The rows hold what people wrote. `conversation_id` finds them again when somebody asks to be erased; publish anew after \
         an erasure and delete this directory.\n",
    );
}

/// LLaMA-Factory's description: one entry a file of rows. None where it cannot train on the table.
pub(super) fn dataset_info(manifest: &Manifest, files: &[FileEntry], layout: &Layout) -> Option<Value> {
    let columns: Map<String, Value> = serde_json::from_str(layout.llama_factory?).ok()?;
    let mut entries = Map::new();
    let mut counts: BTreeMap<&str, usize> = BTreeMap::new();
    for file in files.iter().filter(|file| !file.path.contains('/')) {
        let Some(split) = file.split.as_deref() else { continue };
        let count = counts.entry(split).or_default();
        let suffix = if *count == 0 { String::new() } else { format!("_{count}") };
        *count += 1;
        let mut entry = columns.clone();
        let _ = entry.insert("file_name".to_owned(), json!(file.path));
        let _ = entry.insert("formatting".to_owned(), json!("sharegpt"));
        let tags = json!({
            "role_tag": "role", "content_tag": "content", "user_tag": "user", "assistant_tag": "assistant",
            "system_tag": "system", "observation_tag": "tool",
        });
        let _ = entry.insert("tags".to_owned(), tags);
        let _ = entries.insert(format!("{}_{split}{suffix}", manifest.name), Value::Object(entry));
    }
    Some(Value::Object(entries))
}
