//! `uptake train love|reward` and `uptake score`: the real binary on published snapshots and a tiny encoder.

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Output, Stdio};

use serde_json::{Value, json};
use tempfile::TempDir;
use uptake_lake::Lake;
use uptake_model::tables::{LOVE, PREFERENCE_PAIRS};
use uptake_tagger::tiny;
use uptake_tests::binary;
use uptake_tests::gold;

fn said(output: Output) -> (i32, String, String) {
    let Output { status, stdout, stderr } = output;
    let text = |bytes| String::from_utf8(bytes).unwrap();
    (status.code().unwrap(), text(stdout), text(stderr))
}

struct Fixture {
    directory: TempDir,
    lake: PathBuf,
}

impl Fixture {
    /// A lake with published tables of 120 rows each, and an encoder with random weights.
    async fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let lake = directory.path().join("lake");
        let opened = Lake::open(lake.to_str().unwrap()).unwrap();
        // Words that the encoder knows, or both answers of a pair would look the same to it.
        let answer = |text: String| json!([{ "role": "assistant", "content": text }]);
        let words = |at: usize| ["a", "b c", "so"][at % 3];
        let pair = |at: usize| {
            let (chosen, rejected) = (format!("it worked {}", words(at)), format!("no {}", words(at / 3)));
            gold::row(&PREFERENCE_PAIRS, at, json!({ "chosen": answer(chosen), "rejected": answer(rejected) }))
        };
        gold::write(&opened, &PREFERENCE_PAIRS, &(0..120).map(pair).collect::<Vec<_>>()).await;
        gold::fill(&opened, &LOVE, 120).await;
        for spec in [&PREFERENCE_PAIRS, &LOVE] {
            let published = binary::command(&lake).args(["snapshot", "publish", spec.name]).output().unwrap();
            assert!(published.status.success(), "{published:?}");
        }
        let base = directory.path().join("base");
        std::fs::create_dir(&base).unwrap();
        let files = tiny::files(1).unwrap();
        for (name, bytes) in [
            ("config.json", &files.config),
            ("tokenizer.json", &files.tokenizer),
            ("model.safetensors", &files.weights[0]),
        ] {
            std::fs::write(base.join(name), bytes).unwrap();
        }
        Self { directory, lake }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    fn snapshot(&self, name: &str) -> PathBuf {
        let root = self.lake.join("snapshots").join(name);
        std::fs::read_dir(root).unwrap().next().unwrap().unwrap().path()
    }

    fn train(&self, kind: &str, data: &[(&str, &Path)], out: &str) -> (i32, String, String) {
        let mut command = binary::command(&self.lake);
        command.args(["train", kind, "--max-tokens", "32", "--validation", "0.3", "--epochs", "1", "--batch", "8"]);
        command.arg("--base").arg(self.path("base")).arg("--out").arg(self.path(out));
        for (flag, path) in data {
            command.arg(flag).arg(path);
        }
        said(command.output().unwrap())
    }

    fn score(&self, model: &str, input: &str, more: &[&str]) -> (i32, String, String) {
        let mut command = binary::command(&self.lake);
        command.args(["score", "--model"]).arg(self.path(model)).args(more);
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        // A command that refuses its options reads nothing.
        let _ = child.stdin.take().unwrap().write_all(input.as_bytes());
        said(child.wait_with_output().unwrap())
    }
}

#[tokio::test]
async fn snapshots_are_trained_on_and_responses_scored() {
    let fixture = Fixture::new().await;
    let (love, pairs) = (fixture.snapshot("love"), fixture.snapshot("preference_pairs"));
    let (code, text, error) = fixture.train("love", &[("--data", &love)], "love-model");
    assert_eq!(code, 0, "{error}");
    let manifest: Value = serde_json::from_slice(&std::fs::read(love.join("manifest.json")).unwrap()).unwrap();
    let [kept, held_out] = ["train", "test"].map(|split| manifest["rows"][split].as_u64().unwrap());
    assert!(held_out > 0 && text.starts_with(&format!("rows       love: {} read, ", kept + held_out)), "{text}");
    assert!(text.contains("0 conversations as the latest, 0 by their id, ") && text.contains("AUROC"), "{text}");
    let reward: Value =
        serde_json::from_slice(&std::fs::read(fixture.path("love-model/reward.json")).unwrap()).unwrap();
    assert_eq!(reward["trained_on"][0]["id"], manifest["id"]);

    let line = |id: Value, response: &str| {
        json!({ "id": id, "prompt": [{ "role": "user", "content": "how" }], "response": response }).to_string()
    };
    let input = [line(json!("z"), "so it worked"), line(json!(7), "no"), line(json!("a"), "thanks")].join("\n");
    let (code, text, error) = fixture.score("love-model", &input, &["-"]);
    assert_eq!(code, 0, "{error}");
    let lines: Vec<Value> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(lines.iter().map(|line| line["id"].clone()).collect::<Vec<_>>(), [json!("z"), json!(7), json!("a")]);
    assert!(lines.iter().all(|line| (0.0..=1.0).contains(&line["score"].as_f64().unwrap())), "{text}");
    assert!(error.contains("3 responses scored by `love` of love-") && error.contains("0 lines skipped"), "{error}");

    let file = fixture.path("in.jsonl");
    std::fs::write(&file, format!("{input}\n{{\"id\":1}}\n")).unwrap();
    let out = fixture.path("out.jsonl");
    let (file, out_text) = (file.to_str().unwrap(), out.to_str().unwrap());
    let (code, _, error) = fixture.score("love-model", "", &[file, "-o", out_text]);
    assert_eq!(code, 3, "{error}");
    assert!(error.contains("line 4: `prompt` is missing") && error.contains("--skip-bad") && !out.exists(), "{error}");
    let (code, _, error) = fixture.score("love-model", "", &[file, "-o", out_text, "--skip-bad"]);
    assert!(code == 0 && error.contains("skipped line 4") && error.contains("1 lines skipped"), "{error}");
    assert_eq!(std::fs::read_to_string(&out).unwrap(), text);

    // Both kinds of rows on one encoder.
    let (code, text, error) = fixture.train("reward", &[("--pairs", &pairs), ("--love", &love)], "both");
    assert_eq!(code, 0, "{error}");
    assert!(text.contains("head       preference: pairs") && text.contains("longer one wins"), "{text}");
    let (code, _, error) = fixture.score("both", &input, &["-"]);
    assert!(code == 1 && error.contains("name one of `love`, `preference`"), "{error}");
    let (code, text, error) = fixture.score("both", &input, &["-", "--head", "preference", "-o", "-"]);
    assert!(code == 0 && text.lines().count() == 3, "{error}");
}

#[tokio::test]
async fn what_cannot_be_trained_on_or_scored_is_refused_with_advice() {
    let fixture = Fixture::new().await;
    let (love, pairs) = (fixture.snapshot("love"), fixture.snapshot("preference_pairs"));
    for (kind, data, says) in [
        ("love", ("--data", pairs.clone()), "no_label"),
        ("reward", ("--pairs", love.clone()), "no_pair"),
        ("love", ("--data", fixture.lake.join("gold/love")), "uptake snapshot publish"),
        ("love", ("--data", fixture.path("nowhere")), "nowhere"),
    ] {
        let (code, _, error) = fixture.train(kind, &[(data.0, &data.1)], "refused");
        assert!(code == 1 && error.contains(says), "{code}: {error}");
        assert!(!fixture.path("refused").exists(), "{says}");
    }
    let (code, _, error) = fixture.score("base", "", &["-"]);
    assert!(code == 1 && error.contains("is no reward model"), "{error}");
}
