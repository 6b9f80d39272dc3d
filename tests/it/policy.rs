//! `uptake train policy`: the real binary on published snapshots and a tiny base model.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::time::Duration;

use serde_json::Value;
use tempfile::TempDir;
use uptake_lake::Lake;
use uptake_model::tables::{LOVE, PREFERENCE_PAIRS, SUPERVISED, UNPAIRED};
use uptake_tests::binary::{self, Running};
use uptake_tests::gold;
use uptake_tests::wait::until;

fn said(command: &mut Command) -> (i32, String, String) {
    let Output { status, stdout, stderr } = command.output().unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    (status.code().unwrap(), text(stdout), text(stderr))
}

/// A lake with published tables of 60 rows each, and where they are published.
async fn published() -> (TempDir, PathBuf, impl Fn(&str) -> PathBuf) {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("lake");
    let lake = Lake::open(path.to_str().unwrap()).unwrap();
    for spec in [&PREFERENCE_PAIRS, &UNPAIRED, &SUPERVISED, &LOVE] {
        gold::fill(&lake, spec, 60).await;
        let (code, _, error) = said(binary::command(&path).args(["snapshot", "publish", spec.name]));
        assert_eq!(code, 0, "{error}");
    }
    let root = path.join("snapshots");
    let snapshot = move |name: &str| std::fs::read_dir(root.join(name)).unwrap().next().unwrap().unwrap().path();
    (directory, path, snapshot)
}

fn train(lake: &Path, method: &str, data: &Path, out: &Path, more: &[&str]) -> Command {
    let base = concat!(env!("CARGO_MANIFEST_DIR"), "/../crates/train/fixtures/policy/llama");
    let mut command = binary::command(lake);
    command.args(["train", "policy", "--method", method, "--base", base, "--base-name", "tiny", "--data"]);
    command.arg(data).arg("--out").arg(out).args(["--batch", "4", "--accumulate", "2"]);
    if !more.contains(&"--max-length") {
        command.args(["--max-length", "128"]);
    }
    command.args(["--learning-rate", "1e-3", "--lora-rank", "4", "--lora-modules", "q_proj,v_proj"]).args(more);
    command
}

#[tokio::test]
async fn snapshots_of_each_kind_are_trained_on() {
    let (directory, lake, snapshot) = published().await;
    for (method, table) in
        [("dpo", "preference_pairs"), ("kto", "unpaired"), ("sft", "supervised"), ("sft", "unpaired")]
    {
        let out = directory.path().join(format!("{method}-{table}"));
        let (code, text, error) = said(&mut train(&lake, method, &snapshot(table), &out, &[]));
        assert_eq!(code, 0, "{error}");
        let manifest: Value =
            serde_json::from_slice(&std::fs::read(snapshot(table).join("manifest.json")).unwrap()).unwrap();
        let rows = manifest["rows"]["train"].as_u64().unwrap();
        assert!(text.starts_with(&format!("rows       {rows} read, ")), "{text}");
        assert_eq!(text.contains("not_liked"), (method, table) == ("sft", "unpaired"), "{text}");
        let report: Value = serde_json::from_slice(&std::fs::read(out.join("run.json")).unwrap()).unwrap();
        assert_eq!(report["data"]["id"], manifest["id"]);
        let config: Value = serde_json::from_slice(&std::fs::read(out.join("adapter_config.json")).unwrap()).unwrap();
        assert_eq!(config["base_model_name_or_path"], "tiny");
        assert_eq!(config["target_modules"], serde_json::json!(["q_proj", "v_proj"]));
    }
}

#[tokio::test]
async fn a_killed_run_ends_with_the_same_bytes() {
    let (directory, lake, snapshot) = published().await;
    let (pairs, more) = (snapshot("preference_pairs"), ["--epochs", "15", "--checkpoint-steps", "3"]);
    let (straight, killed) = (directory.path().join("straight"), directory.path().join("killed"));
    let (code, _, error) = said(&mut train(&lake, "dpo", &pairs, &straight, &more));
    assert_eq!(code, 0, "{error}");
    let state = killed.join("checkpoint/state.safetensors");
    for round in 0..2 {
        let log = directory.path().join(format!("log-{round}"));
        let before = std::fs::metadata(&state).and_then(|file| file.modified()).ok();
        let mut running = Running::start(&mut train(&lake, "dpo", &pairs, &killed, &more), &log);
        until("a checkpoint", Duration::from_mins(1), || {
            assert!(running.is_running(), "it ended: {}", running.said());
            let written = std::fs::metadata(&state).and_then(|file| file.modified()).ok();
            (written != before).then_some(())
        });
        running.kill_hard();
        assert!(!killed.join("adapter_model.safetensors").exists(), "it was killed too late");
    }
    let (code, text, error) = said(&mut train(&lake, "dpo", &pairs, &killed, &more));
    assert_eq!(code, 0, "{error}");
    assert!(!text.contains(" 0 done before"), "{text}");
    for name in ["adapter_model.safetensors", "adapter_config.json", "metrics.jsonl", "README.md"] {
        let bytes = |out: &Path| std::fs::read(out.join(name)).unwrap();
        assert!(bytes(&straight) == bytes(&killed), "{name} differs");
    }
}

#[tokio::test]
async fn what_cannot_be_trained_on_is_refused_with_advice() {
    let (directory, lake, snapshot) = published().await;
    let out = directory.path().join("out");
    let refused = |method: &str, data: &Path, more: &[&str], says: &str| {
        let (code, _, error) = said(&mut train(&lake, method, data, &out, more));
        assert!(code == 1 && error.contains(says), "{code}: {error}");
        assert!(!out.exists(), "{says}");
    };
    refused("dpo", &snapshot("unpaired"), &[], "no_pair");
    refused("kto", &snapshot("supervised"), &[], "no_label");
    refused("dpo", &snapshot("love"), &[], "`chosen` and `rejected`");
    refused("dpo", &lake.join("gold/preference_pairs"), &[], "uptake snapshot publish");
    refused("dpo", &directory.path().join("nowhere"), &[], "nowhere");
    refused("dpo", &snapshot("preference_pairs"), &["--max-length", "4096"], "takes 256");
    let file = std::fs::read_dir(snapshot("preference_pairs")).unwrap().map(|entry| entry.unwrap().path());
    let file = file.into_iter().find(|path| path.file_name().unwrap().to_str().unwrap().starts_with("train-")).unwrap();
    let mut bytes = std::fs::read(&file).unwrap();
    bytes[100] ^= 1;
    std::fs::write(&file, bytes).unwrap();
    refused("dpo", &snapshot("preference_pairs"), &[], "damaged");
    let (code, _, error) = said(&mut train(&lake, "dpo", &file, &out, &["--lora-modules", "w_proj"]));
    assert!(code == 2 && error.contains("q_proj, k_proj"), "{error}");
}
