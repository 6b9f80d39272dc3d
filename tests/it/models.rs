//! `uptake models` as people use it: a tagger that passes its gates is taken up by the jobs, one that does not is not, and
//! going back goes back.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use serde_json::{Value, json};
use tempfile::TempDir;
use uptake_tests::binary;

/// A lake's directory with settings beside it, and two taggers: the program's own, and one that reads nothing but
/// the surest dissatisfaction.
struct Bench {
    directory: TempDir,
}

impl Bench {
    fn new() -> Self {
        let bench = Self { directory: tempfile::tempdir().unwrap() };
        bench.write(
            "uptake.toml",
            "[models]\non_promotion = [\"sh\", \"-c\", \"cat > told.json; echo $UPTAKE_MODEL_KIND $UPTAKE_MODEL_NAME $UPTAKE_MODEL_DIRECTORY > told.txt\"]\n\
             [[models.gates]]\nkind = \"tagger\"\nfigure = \"test.labels_auroc\"\nat_least = 0.5\n\
             [[models.gates]]\nkind = \"tagger\"\nfigure = \"test.labels_auroc\"\nmost_below_production = 0.01\n",
        );
        let chat = json!({"conversation_id": "c1", "messages": [
            {"role": "user", "content": "Which river runs through Rome?"},
            {"role": "assistant", "content": "The Arno runs through Rome."},
            {"role": "user", "content": "No, that's wrong. That is the river of Florence."},
            {"role": "assistant", "content": "The Tiber runs through Rome."},
            {"role": "user", "content": "Thank you, that's what I needed!"},
        ]});
        bench.write("chats.jsonl", &format!("{chat}\n"));
        bench
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    fn write(&self, name: &str, text: &str) {
        std::fs::write(self.path(name), text).unwrap();
    }

    /// A copy of the program's tagger with other thresholds, and with a figure of its own.
    fn tagger(&self, name: &str, threshold: f64, auroc: f64) -> String {
        let (from, to) = (Path::new(env!("CARGO_MANIFEST_DIR")).join("../crates/tagger/model"), self.path(name));
        std::fs::create_dir(&to).unwrap();
        for file in std::fs::read_dir(from).unwrap() {
            let file = file.unwrap();
            std::fs::copy(file.path(), to.join(file.file_name())).unwrap();
        }
        self.change(&format!("{name}/tagger.json"), |settings| {
            for value in settings["thresholds"].as_array_mut().unwrap() {
                *value = threshold.into();
            }
        });
        self.change(&format!("{name}/metrics.json"), |metrics| metrics["test"]["labels_auroc"] = auroc.into());
        to.to_str().unwrap().to_owned()
    }

    fn change(&self, name: &str, change: impl FnOnce(&mut Value)) {
        let mut value = serde_json::from_slice(&std::fs::read(self.path(name)).unwrap()).unwrap();
        change(&mut value);
        self.write(name, &value.to_string());
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = binary::command(&self.path("lake"));
        command.args(arguments).env("UPTAKE_MODELS_CACHE", self.path("cache"));
        command.env("UPTAKE_SUBJECT_PEPPER", "0123456789abcdef").env("UPTAKE_USER", "ann");
        command
    }

    #[track_caller]
    fn said(&self, code: i32, arguments: &[&str]) -> String {
        let Output { status, stdout, stderr } = self.command(arguments).output().unwrap();
        let (text, error) = (String::from_utf8(stdout).unwrap(), String::from_utf8(stderr).unwrap());
        assert_eq!(status.code(), Some(code), "{arguments:?}: {text}{error}");
        text + &error
    }

    /// The one tagger whose signals the lake holds, after a run.
    #[track_caller]
    fn tagger_of_the_signals(&self) -> String {
        let _ = self.said(0, &["run"]);
        let text = self.said(0, &["sql", "SELECT DISTINCT tagger_id FROM silver.signals", "-o", "csv"]);
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(lines.len(), 2, "{text}");
        lines[1].to_owned()
    }
}

fn id(text: &str) -> String {
    text.split_whitespace().next().unwrap().to_owned()
}

#[test]
fn a_promoted_tagger_is_taken_up_and_rolled_back() {
    let bench = Bench::new();
    let _ = bench.said(0, &["import", "chats.jsonl"]);
    let own = bench.tagger_of_the_signals();
    assert!(bench.said(0, &["models", "list"]).contains("no models yet"));

    let directory = bench.tagger("strict", 0.999, 0.9);
    let added = bench.said(0, &["models", "add", &directory, "--name", "strict"]);
    let strict = id(&added);
    assert!(strict.starts_with("strict/") && added.contains("gates: passed"), "{added}");
    assert!(bench.said(0, &["models", "add", &directory, "--name", "strict"]).contains("is there already"));
    assert_eq!(bench.tagger_of_the_signals(), own, "what is added is not in use yet");

    let done = bench.said(0, &["models", "promote", "strict", "--reason", "fewer false alarms"]);
    assert!(done.contains(&format!("tagger in use is {strict}")), "{done}");
    let told: Value = serde_json::from_slice(&std::fs::read(bench.path("told.json")).unwrap()).unwrap();
    assert_eq!((&told["model"], &told["by"]), (&json!(strict), &json!("ann")));
    let told = std::fs::read_to_string(bench.path("told.txt")).unwrap();
    let directory = told.trim().strip_prefix("tagger strict ").unwrap();
    assert!(Path::new(directory).join("tagger.json").is_file(), "{told}");
    assert_ne!(bench.tagger_of_the_signals(), own, "the jobs have taken it up");

    // Worse than the one in use: refused, and insisting leaves a trace.
    let worse = bench.said(3, &["models", "add", &bench.tagger("worse", 0.5, 0.8), "--name", "worse"]);
    assert!(worse.contains("gates: refused"), "{worse}");
    assert!(bench.said(3, &["models", "promote", "worse"]).contains("of the model in use"));
    let _ = bench.said(0, &["models", "promote", "worse", "--force", "--reason", "to see"]);
    let history = bench.said(0, &["models", "history", "tagger"]);
    assert!(history.contains("refused, insisted") && history.contains("to see"), "{history}");
    let difference = bench.said(0, &["models", "diff", "strict"]);
    assert!(difference.contains("test.labels_auroc") && difference.contains("+0.1000"), "{difference}");

    assert!(bench.said(0, &["models", "rollback", "tagger"]).contains(&strict));
    assert!(bench.said(0, &["models", "rollback", "tagger"]).contains("in use is nothing of the registry"));
    assert_eq!(bench.tagger_of_the_signals(), own);
    let _ = bench.said(2, &["models", "rollback", "tagger"]);
}

#[test]
fn what_is_no_model_is_refused_and_a_failed_command_is_told() {
    let bench = Bench::new();
    std::fs::create_dir(bench.path("empty")).unwrap();
    assert!(bench.said(2, &["models", "add", "empty"]).contains("is no model's directory"));
    assert!(bench.said(2, &["models", "show", "nobody"]).contains("no model `nobody`"));
    assert!(bench.said(2, &["models", "promote", "nobody"]).contains("no model `nobody`"));
    let directory = bench.tagger("good", 0.5, 0.9);
    let _ = bench.said(0, &["models", "add", &directory, "--name", "good"]);
    bench.write("uptake.toml", "[models]\non_promotion = [\"false\"]\n");
    assert!(bench.said(2, &["models", "promote", "good"]).contains("no gate judges a tagger"));
    let text = bench.said(1, &["models", "promote", "good", "--force", "--reason", "no gates yet"]);
    assert!(text.contains("the change stands, but models.on_promotion"), "{text}");
    assert!(bench.said(0, &["models", "list"]).contains("yes"));
    bench.write("uptake.toml", "[[models.gates]]\nkind = \"tagger\"\nfigure = \"x\"\n");
    assert!(bench.said(2, &["models", "list"]).contains("bounds nothing"));
}

#[test]
fn watching_shows_each_version_with_its_intervals() {
    let bench = Bench::new();
    let _ = bench.said(0, &["import", "chats.jsonl"]);
    let _ = bench.said(0, &["run"]);
    assert!(bench.said(0, &["models", "watch"]).contains("no answers of such a model"), "imported chats name no model");
    let line = |conversation: &str, model: &str, after: &str| {
        let messages = json!([
            {"role": "user", "content": "Which river runs through Rome?"},
            {"role": "assistant", "content": "The Tiber.", "model": model},
            {"role": "user", "content": after},
        ]);
        json!({"conversation_id": conversation, "messages": messages}).to_string() + "\n"
    };
    let more = [("a", "m-1", "Thank you so much, perfect!"), ("b", "m-1", "And Paris?"), ("c", "m-2", "And Paris?")];
    bench.write("more.jsonl", &more.map(|(id, model, after)| line(id, model, after)).concat());
    let _ = bench.said(0, &["import", "more.jsonl"]);
    let _ = bench.said(0, &["run"]);
    let table = bench.said(0, &["models", "watch"]);
    assert!(table.lines().any(|line| line.starts_with("m-1") && line.contains("50.0 % (")), "{table}");
    let text = bench.said(0, &["models", "watch", "--model", "m-2", "-o", "json", "--since", "2020-01-01"]);
    let row: Value = serde_json::from_str(text.lines().next().unwrap()).unwrap();
    assert_eq!(
        (&row["model"], &row["answers"], &row["satisfied"], &row["satisfied_of"]),
        (&json!("m-2"), &json!(1), &json!(0), &json!(1))
    );
    assert!(bench.said(2, &["models", "watch", "--since", "yesterday"]).contains("is no day"));
}
