//! The scheduler on a real Postgres and as people run it: a daemon that is killed, replicas, one command for other
//! schedulers; and the sample settings' night, from the tables to the promotion.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::Arc;
use std::time::Duration;

use serde_json::Value;
use tempfile::TempDir;
use uptake_schedule::testing::{Answer, HandClock, exam, has_looked};
use uptake_schedule::{Clock as _, Execution, Filter, Job, Observer, Options, RunState, Scheduler, StepState, Store};
use uptake_tagger::tiny;
use uptake_tests::binary::{self, Running};
use uptake_tests::postgres;
use uptake_tests::wait::{eventually, until};

const LONG: Duration = Duration::from_mins(4);

#[tokio::test]
async fn postgres_passes_the_exam() {
    exam(&postgres::shared().database()).await.unwrap();
}

/// A lake, settings, and whatever scheduler the test wants.
struct Bench {
    directory: TempDir,
}

impl Bench {
    /// Settings over a database, with jobs. Every word `SHARED` in them is the test's directory.
    fn new(state: &str, jobs: &str) -> Self {
        let bench = Self { directory: tempfile::tempdir().unwrap() };
        let head = format!(
            "[schedule]\nstate = \"{state}\"\ndirectory = \"SHARED/runs\"\npoll = \"100ms\"\nlease = \"2s\"\n{jobs}"
        );
        let text = head.replace("SHARED", &bench.directory.path().to_string_lossy());
        std::fs::write(bench.path("uptake.toml"), text).unwrap();
        bench
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    fn read(&self, name: &str) -> String {
        std::fs::read_to_string(self.path(name)).unwrap_or_default()
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = binary::command(&self.path("lake"));
        command.args(arguments);
        command
    }

    fn daemon(&self, log: &str, more: &[&str]) -> Running {
        Running::start(self.command(&["schedule"]).args(more), &self.path(log))
    }

    fn said(&self, arguments: &[&str]) -> (i32, String, String) {
        let Output { status, stdout, stderr } = self.command(arguments).output().unwrap();
        let text = |bytes| String::from_utf8(bytes).unwrap();
        (status.code().unwrap(), text(stdout), text(stderr))
    }

    /// The latest run of a job, with its steps.
    fn run(&self, job: &str) -> Value {
        let (code, text, error) = self.said(&["runs", "show", job, "-o", "json"]);
        assert_eq!(code, 0, "{error}");
        serde_json::from_str(&text).unwrap()
    }

    fn until_run_is(&self, job: &str, state: &str) -> Value {
        until(&format!("{job} is {state}"), LONG, || Some(self.run(job)).filter(|run| run["run"]["state"] == state))
    }
}

/// A step that says when it has started, and ends when the test writes into its pipe.
const HELD: &str = "[[schedule.jobs]]\nname = \"held\"\nsteps = [{ name = \"hold\", command = [\"sh\", \"-c\", \
                    \"echo x >> SHARED/count; mkfifo SHARED/go; echo > SHARED/there; read x < SHARED/go\"] }, \
                    { name = \"after\", command = [\"sh\", \"-c\", \"echo ok; echo told >&2\"] }]\n";

#[test]
fn a_daemon_that_is_killed_is_followed_by_another_and_one_that_is_told_to_stop_stops() {
    let bench = Bench::new(&postgres::shared().database(), HELD);
    let mut first = bench.daemon("first.log", &[]);
    let (code, text, error) = bench.said(&["runs", "trigger", "held"]);
    assert_eq!((code, text.contains("waits for a daemon")), (0, true), "{text}{error}");
    until("the step has started", LONG, || {
        assert!(first.is_running(), "{}", first.said());
        (bench.path("there").exists() && bench.run("held")["run"]["state"] == "running").then_some(())
    });
    first.kill_hard();
    let mut second = bench.daemon("second.log", &[]);
    until("the second daemon has taken it over", LONG, || {
        assert!(second.is_running(), "{}", second.said());
        second.said().contains("taken over as the worker before left it").then_some(())
    });
    std::fs::write(bench.path("go"), "\n").unwrap();
    let run = bench.until_run_is("held", "succeeded");
    assert_eq!(run["steps"][0]["attempt"], 1, "the process went on: {run}");
    assert_eq!(bench.read("count").lines().count(), 1);
    let (code, text, _) = bench.said(&["runs", "logs", "held", "after"]);
    assert_eq!((code, text.as_str()), (0, "told\n"));
    // A run under way is put back when its daemon is told to stop, and its step ends.
    std::fs::remove_file(bench.path("there")).unwrap();
    std::fs::remove_file(bench.path("go")).unwrap();
    assert_eq!(bench.said(&["runs", "trigger", "held"]).0, 0);
    until("the step has started", LONG, || bench.path("there").exists().then_some(()));
    second.terminate();
    assert_eq!(second.wait(LONG).code(), Some(0), "{}", second.said());
    let run = bench.run("held");
    assert_eq!((&run["run"]["state"], &run["steps"][0]["state"]), (&"queued".into(), &"stopped".into()), "{run}");
    let (code, text, _) = bench.said(&["runs", "cancel", "held", "--by", "ann"]);
    assert_eq!((code, text.contains("is cancelled")), (0, true), "{text}");
    let (code, text, _) = bench.said(&["runs", "list"]);
    assert!(code == 0 && text.contains("cancelled by ann before it was run") && text.contains("succeeded"), "{text}");
}

#[test]
fn two_daemons_run_each_time_once_and_one_at_a_time() {
    let jobs = "[[schedule.jobs]]\nname = \"often\"\ncron = \"* * * * * *\"\ncatch_up = \"all\"\nsteps = [{ name = \"only\", command = \
                [\"sh\", \"-c\", \"echo begin {due} >> SHARED/log; echo end {due} >> SHARED/log\"] }]\n";
    let bench = Bench::new(&postgres::shared().database(), jobs);
    // Nobody dies here, however slow the machine is.
    let settings = bench.read("uptake.toml").replace("lease = \"2s\"", "lease = \"10m\"");
    std::fs::write(bench.path("uptake.toml"), settings).unwrap();
    let mut daemons = [bench.daemon("first.log", &[]), bench.daemon("second.log", &[])];
    until("eight runs have ended", LONG, || {
        for daemon in &mut daemons {
            assert!(daemon.is_running(), "{}", daemon.said());
        }
        (bench.read("log").lines().count() >= 16).then_some(())
    });
    for daemon in &mut daemons {
        daemon.terminate();
        assert_eq!(daemon.wait(LONG).code(), Some(0), "{}", daemon.said());
    }
    let log = bench.read("log");
    let lines: Vec<&str> = log.lines().collect();
    let mut times: Vec<&str> = Vec::new();
    // What a daemon was told to stop in the middle of has no end yet.
    for pair in lines.chunks_exact(2) {
        let (begin, end) = (pair[0].strip_prefix("begin ").unwrap(), pair[1].strip_prefix("end ").unwrap());
        assert_eq!(begin, end, "no run began inside of another:\n{log}");
        times.push(begin);
    }
    let count = times.len();
    times.dedup();
    assert_eq!(times.len(), count, "each time has one run:\n{log}");
    assert!(times.is_sorted(), "in their order:\n{log}");
}

#[test]
fn a_lake_has_one_scheduler_and_settings_are_checked_before_the_night() {
    let jobs = "[[schedule.jobs]]\nname = \"tables\"\ncron = \"0 2 * * *\"\nsteps = [{ name = \"tables\", run = [\"run\"] }]\n";
    let bench = Bench::new("sqlite://SHARED/one.sqlite", jobs);
    let other = bench.read("uptake.toml").replace("one.sqlite", "other.sqlite");
    let mut first = bench.daemon("first.log", &[]);
    let ready = |daemon: &mut Running| {
        until("the daemon is ready", LONG, || {
            assert!(daemon.is_running(), "{}", daemon.said());
            daemon.said().contains("the scheduler is ready").then_some(())
        });
    };
    ready(&mut first);
    std::fs::write(bench.path("other.toml"), other).unwrap();
    let second = bench.path("other.toml");
    let second = second.to_str().unwrap();
    let (code, _, error) = bench.said(&["schedule", "--config", second]);
    assert!(code == 2 && error.contains("let both use one Postgres") && error.contains("--take-over"), "{error}");
    first.terminate();
    assert_eq!(first.wait(LONG).code(), Some(0));
    let mut second = bench.daemon("second.log", &["--config", second, "--take-over"]);
    ready(&mut second);
    let (code, _, error) = bench.said(&["schedule"]);
    assert!(code == 2 && error.contains("another scheduler"), "{error}");
    drop(second);
    let broken = jobs.replace("0 2 * * *", "0 0 30 2 *").replace("[\"run\"]", "[\"rnu\"]");
    std::fs::write(bench.path("uptake.toml"), format!("[schedule]\n{broken}")).unwrap();
    for arguments in [&["schedule"][..], &["config", "check"], &["runs", "trigger", "tables"]] {
        let (code, _, error) = bench.said(arguments);
        assert!(code == 2 && error.contains("never comes due") && error.contains("'rnu'"), "{error}");
    }
}

#[test]
fn other_schedulers_get_one_command_with_an_exit_code() {
    let job = |name: &str, script: &str, more: &str| {
        format!(
            "[[schedule.jobs]]\nname = \"{name}\"\n{more}steps = [{{ name = \"only\", command = [\"sh\", \"-c\", \"{script}\"] }}]\n"
        )
    };
    let retried =
        job("retried", "echo x >> SHARED/tries; test $(wc -l < SHARED/tries) = 2", "retries = 1\nbackoff = \"10ms\"\n");
    let jobs = [
        job("fine", "echo 7", ""),
        job("broken", "echo error: no luck >&2; exit 1", ""),
        job("gate", "exit 3", ""),
        retried,
    ];
    let bench = Bench::new("sqlite://SHARED/state.sqlite", &jobs.concat());
    for (job, code, state) in
        [("fine", 0, "succeeded"), ("broken", 1, "failed"), ("gate", 3, "refused"), ("retried", 0, "succeeded")]
    {
        let (ended, text, error) = bench.said(&["runs", "trigger", job, "--here", "-o", "json"]);
        assert_eq!(ended, code, "{error}");
        let run: Value = serde_json::from_str(&text).unwrap();
        assert_eq!((&run["run"]["state"], &run["run"]["job"]), (&state.into(), &job.into()));
    }
    assert_eq!(bench.run("fine")["steps"][0]["result"], 7);
    assert_eq!(bench.run("broken")["run"]["reason"], "step `only`: exit code 1: error: no luck");
    assert_eq!(bench.run("retried")["run"]["attempt"], 1);
    let (code, _, error) = bench.said(&["runs", "trigger", "nigth", "--here"]);
    assert!(code == 2 && error.contains("the settings have fine, broken, gate, retried"), "{error}");
    let (code, text, _) = bench.said(&["runs", "retry", "broken"]);
    assert!(code == 0 && text.contains("waits"), "{text}");
    let (code, _, error) = bench.said(&["runs", "retry", "fine"]);
    assert!(code == 2 && error.contains("only what did not end well"), "{error}");
}

/// An encoder with random weights, as a base of `P[Love]`.
fn encoder(directory: &Path) -> PathBuf {
    let base = directory.join("encoder");
    std::fs::create_dir(&base).unwrap();
    let files = tiny::files(1).unwrap();
    for (name, bytes) in
        [("config.json", &files.config), ("tokenizer.json", &files.tokenizer), ("model.safetensors", &files.weights[0])]
    {
        std::fs::write(base.join(name), bytes).unwrap();
    }
    base
}

/// The sample settings with tiny models, small bounds, and what else a test changes.
fn night(directory: &Path, changes: &[(&str, &str)]) -> (PathBuf, Vec<Job>) {
    let mut text = include_str!("../../infra/night.toml").to_owned();
    let (encoder, decoder) =
        (directory.join("encoder"), concat!(env!("CARGO_MANIFEST_DIR"), "/../crates/train/fixtures/policy/llama"));
    let state =
        format!("[schedule]\nstate = \"sqlite://{0}/state.sqlite\"\ndirectory = \"{0}/runs\"\n", directory.display());
    let mut change = |from: &str, to: &str| {
        assert!(text.contains(from), "the sample settings have no `{from}`");
        text = text.replace(from, to);
    };
    change(
        "sentence-transformers/all-MiniLM-L6-v2\"",
        &format!("{}\", \"--max-tokens\", \"32\", \"--epochs\", \"1\"", encoder.display()),
    );
    change(
        "HuggingFaceTB/SmolLM2-135M-Instruct\", \"--out\"",
        &format!("{decoder}\", \"--max-length\", \"256\", \"--batch\", \"2\", \"--out\""),
    );
    change("HuggingFaceTB/SmolLM2-135M-Instruct", decoder);
    change("\"--min-rows\", \"1000\"", "\"--min-rows\", \"10\"");
    change("\"--min-rows\", \"100\"", "\"--min-rows\", \"4\"");
    change("LIMIT 200", "LIMIT 6");
    change("\"--max-new-tokens\", \"128\"", "\"--max-new-tokens\", \"8\"");
    change("[schedule]\n", &state);
    // What weights by chance can show.
    change("at_least = 0.6", "at_least = 0.0");
    change("at_least = 0.5", "at_least = 0.0");
    change("figure = \"score.difference\"\nat_least = 0.0", "figure = \"score.difference\"\nat_least = -1.0");
    change("at_most = 0", "at_most = 100");
    for (from, to) in changes {
        change(from, to);
    }
    let file = directory.join("uptake.toml");
    std::fs::write(&file, format!("models.cache = \"{}/cache\"\n{text}", directory.display())).unwrap();
    let table: toml::Table = text.parse().unwrap();
    (file, table["schedule"]["jobs"].clone().try_into().unwrap())
}

/// One night of the scheduler in this process, which starts the real program; the clock is the test's.
async fn one_night(directory: &Path, clock: &HandClock, changes: &[(&str, &str)]) -> (Store, uptake_schedule::Run) {
    let (file, jobs) = night(directory, changes);
    let (stop, stopped) = tokio::sync::watch::channel(false);
    let store = Store::open(&format!("sqlite://{}", directory.join("state.sqlite").display())).await.unwrap();
    let before = store.runs(&Filter { limit: 100, ..Filter::default() }).await.unwrap().len();
    let words =
        ["--config", file.to_str().unwrap(), "--lake", directory.join("lake").to_str().unwrap()].map(str::to_owned);
    let execution = Execution {
        store: store.clone(),
        clock: Arc::new(clock.clone()),
        program: binary::uptake(),
        arguments: words.to_vec(),
        environment: Vec::new(),
        directory: directory.join("runs"),
        lease: Duration::from_hours(48),
        stop: stopped,
        observer: Observer::default(),
    };
    let options = Options {
        worker: "here/test".to_owned(),
        poll: Duration::from_secs(5),
        ask_every: Duration::from_mins(1),
        concurrency: 1,
    };
    let scheduler = Scheduler::new(jobs, execution, Arc::new(Answer::new("")), options).unwrap();
    let running = tokio::spawn(Arc::new(scheduler).run());
    let runs = async || store.runs(&Filter { limit: 100, ..Filter::default() }).await.unwrap();
    eventually("the daemon has looked at its jobs", LONG, async || {
        has_looked(&store, "night").await.unwrap().then_some(())
    })
    .await;
    // A quarter past two of the next night.
    let day = 86_400_000;
    let (now, two) = (clock.now(), 2 * 3_600_000);
    let due = (now - two).div_euclid(day) * day + day + two;
    clock.advance(Duration::from_millis(u64::try_from(due - now).unwrap()) + Duration::from_mins(15));
    let ended = eventually("the night has ended", LONG, async || {
        runs().await.into_iter().next().filter(|run| run.state.ended() && run.due_at == due)
    });
    let ended = ended.await;
    assert_eq!(runs().await.len(), before + 1, "one night, one run");
    stop.send_replace(true);
    running.await.unwrap().unwrap();
    (store, ended)
}

#[tokio::test]
async fn the_sample_night_trains_judges_and_promotes_or_refuses() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path();
    encoder(path);
    let lake = path.join("lake");
    let demo =
        binary::command(&lake).args(["demo", "--no-night", "--seed", "7", "--conversations", "150"]).output().unwrap();
    assert!(demo.status.success(), "{demo:?}");
    // 2026-11-21 00:00 UTC.
    let clock = HandClock::new(1_795_219_200_000);
    let (store, run) = one_night(path, &clock, &[]).await;
    let steps = store.steps(&run.id).await.unwrap();
    assert_eq!(run.state, RunState::Succeeded, "{run:#?} {steps:#?}");
    assert!(steps.iter().all(|step| step.state == StepState::Succeeded), "{steps:#?}");
    let said = |arguments: &[&str]| -> Value {
        let output = binary::command(&lake).args(arguments).output().unwrap();
        assert!(output.status.success(), "{output:?}");
        serde_json::from_slice(&output.stdout).unwrap()
    };
    let list = said(&["models", "list", "-o", "json"]);
    let in_use: Vec<&str> = list["in_use"].as_array().unwrap().iter().map(|id| id.as_str().unwrap()).collect();
    assert!(in_use.len() == 2 && in_use[0].starts_with("love/") && in_use[1].starts_with("assistant-night/"), "{list}");
    let policy = said(&["models", "show", "assistant-night", "-o", "json"]);
    assert_eq!(policy["lineage"]["parents"][0], in_use[0]);
    assert!(policy["lineage"]["snapshot"].as_str().unwrap().starts_with("preference_pairs/"), "{policy}");
    assert!(policy["figures"]["score.difference"]["value"].is_number(), "the evaluator has judged it: {policy}");
    let history = said(&["models", "history", "policy", "-o", "json"]);
    assert_eq!(history[0]["reason"], run.id.as_str(), "the history names the run");
    let page = std::fs::read_to_string(path.join("runs").join(&run.id).join("report/report.html")).unwrap();
    for part in [
        "love-gate",
        "assistant-night/",
        "score.difference",
        "preference_pairs/",
        "evaluation-report.html",
        "rewards/margins",
    ] {
        assert!(page.contains(part), "no `{part}` in the report");
    }
    // What the night's P[Love] says of the versions in the logs, next to what people loved of them.
    let love = path.join("runs").join(&run.id).join("love");
    let words = ["evaluate", "backtest", "--reward", love.to_str().unwrap(), "--where", "true", "-o", "json"];
    let backtest = said(&words);
    let versions = backtest["versions"].as_array().unwrap();
    assert_eq!(
        versions.iter().map(|version| &version["name"]).collect::<Vec<_>>(),
        ["larch-1", "larch-2", "larch-2-fast"]
    );
    let loved: f64 = versions.iter().map(|each| each["love_rate"].as_f64().unwrap()).sum();
    assert!(loved > 0.0 && loved < 3.0 && backtest["pearson"]["value"].is_number(), "{backtest}");
    // The next night: another policy, and a gate that it cannot pass. Nothing is promoted; the report is made.
    let changes =
        [("\"--method\", \"dpo\"", "\"--method\", \"dpo\", \"--seed\", \"7\""), ("at_most = 100", "at_most = -1")];
    let (store, refused) = one_night(path, &clock, &changes).await;
    let steps = store.steps(&refused.id).await.unwrap();
    let state = |name: &str| steps.iter().find(|step| step.step == name).unwrap().state;
    assert_eq!(refused.state, RunState::Refused, "{refused:#?} {steps:#?}");
    assert_eq!(
        ["gate", "promote", "report"].map(state),
        [StepState::Refused, StepState::Skipped, StepState::Succeeded]
    );
    assert_eq!(said(&["models", "list", "-o", "json"])["in_use"], list["in_use"]);
}
