//! `uptake train policy --engine command`: a trainer of somebody else's, started on a published snapshot.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::time::Duration;

use serde_json::Value;
use tempfile::TempDir;
use uptake_lake::Lake;
use uptake_model::tables::PREFERENCE_PAIRS;
use uptake_tests::binary::{self, Running};
use uptake_tests::gold;
use uptake_tests::wait::until;

/// Writes an adapter as PEFT does, and what a trainer prints.
const TRAINER: &str = "test -f {data}/manifest.json && test -f {options} && echo loading && \
    echo \"{'loss': '0.69', 'epoch': 0.5}\" && echo '{\"loss\": 0.5, \"rewards/accuracies\": 0.75}' && \
    echo careful >&2 && echo '{}' > {out}/adapter_config.json && echo \"$UPTAKE_METHOD\" > {out}/adapter_model.safetensors";

struct Bench {
    directory: TempDir,
    lake: PathBuf,
    data: PathBuf,
}

impl Bench {
    async fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("lake");
        let lake = Lake::open(path.to_str().unwrap()).unwrap();
        gold::fill(&lake, &PREFERENCE_PAIRS, 20).await;
        let output = binary::command(&path).args(["snapshot", "publish", "preference_pairs"]).output().unwrap();
        assert!(output.status.success());
        let published = path.join("snapshots/preference_pairs");
        let data = std::fs::read_dir(published).unwrap().next().unwrap().unwrap().path();
        Self { directory, lake: path, data }
    }

    fn out(&self) -> PathBuf {
        self.directory.path().join("it's a model")
    }

    fn command(&self, template: &str, more: &[&str]) -> Command {
        let mut command = binary::command(&self.lake);
        command.args(["train", "policy", "--method", "dpo", "--base", "some/hub-name", "--data"]).arg(&self.data);
        command.arg("--out").arg(self.out()).args(["--engine", "command", "--command", template]).args(more);
        command
    }

    #[track_caller]
    fn said(&self, code: i32, template: &str, more: &[&str]) -> String {
        let Output { status, stdout, stderr } = self.command(template, more).output().unwrap();
        let text = format!("{}{}", String::from_utf8(stdout).unwrap(), String::from_utf8(stderr).unwrap());
        assert_eq!(status.code(), Some(code), "{text}");
        text
    }
}

fn json(path: &Path) -> Value {
    serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap()
}

#[tokio::test]
async fn what_a_command_trained_is_described_and_registered() {
    let bench = Bench::new().await;
    let settings = "[[models.gates]]\nkind = \"policy\"\nfigure = \"training.rewards/accuracies\"\nat_least = 0.8\n";
    std::fs::write(bench.directory.path().join("uptake.toml"), settings).unwrap();
    let text = bench.said(3, TRAINER, &["--register", "larch-3"]);
    assert!(text.contains("gates: refused") && text.contains("0.7500 is below 0.8"), "{text}");
    let run = json(&bench.out().join("run.json"));
    assert_eq!((&run["engine"], &run["steps"]), (&"command".into(), &2.into()));
    assert_eq!((&run["first"]["loss"], &run["last"]["loss"]), (&0.69.into(), &0.5.into()));
    let manifest = json(&bench.data.join("manifest.json"));
    assert!(!run["options"].to_string().contains(bench.directory.path().to_str().unwrap()), "{run}");
    assert!(!bench.out().join("options.json").exists(), "it names paths of this machine");
    assert_eq!((&run["data"]["id"], &run["base"]["name"]), (&manifest["id"], &"some/hub-name".into()));
    assert_eq!(std::fs::read_to_string(bench.out().join("adapter_model.safetensors")).unwrap(), "dpo\n");
    let log = std::fs::read_to_string(bench.out().join("log.txt")).unwrap();
    assert!(log.contains("loading\n") && log.contains("careful\n"), "{log}");
    let shown = binary::command(&bench.lake).args(["models", "show", "larch-3"]).output().unwrap();
    let shown = String::from_utf8(shown.stdout).unwrap();
    assert!(shown.contains(&format!("snapshot: preference_pairs/{}", manifest["id"].as_str().unwrap())), "{shown}");
    assert!(bench.said(2, TRAINER, &[]).contains("is there already"));
}

#[tokio::test]
async fn a_trainer_that_fails_leaves_no_model_and_its_last_words() {
    let bench = Bench::new().await;
    let text = bench.said(1, "echo out of memory >&2; exit 7", &[]);
    assert!(text.contains("exit status: 7") && text.contains("out of memory"), "{text}");
    assert!(!bench.out().exists());
    assert!(bench.said(2, "train {dta}", &[]).contains("is no placeholder"));
    let mut none = bench.command("true", &[]);
    let none = none.args(["--data", "/nonexistent"]).output().unwrap();
    assert!(!none.status.success());
}

#[tokio::test]
async fn a_signal_ends_the_trainer_and_all_that_it_started() {
    let bench = Bench::new().await;
    let (ready, alive) = (bench.directory.path().join("ready"), bench.directory.path().join("alive"));
    // A child of the trainer holds a lock for as long as it lives.
    let template = format!(
        "mkfifo '{0}'; (exec 9>'{1}'; flock 9; touch '{2}'; read line < '{0}') & wait",
        bench.directory.path().join("never").display(),
        alive.display(),
        ready.display()
    );
    let log = bench.directory.path().join("log");
    let mut running = Running::start(&mut bench.command(&template, &[]), &log);
    until("the trainer's child", Duration::from_mins(1), || ready.exists().then_some(()));
    running.terminate();
    assert_eq!(running.wait(Duration::from_mins(1)).code(), Some(4), "{}", running.said());
    until("the end of the trainer's child", Duration::from_mins(1), || {
        let lock = std::fs::File::open(&alive).unwrap();
        lock.try_lock().is_ok().then_some(())
    });
    assert!(!bench.out().exists());
}
