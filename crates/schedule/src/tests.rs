//! The scheduler as a whole: `SQLite`, real processes, and a clock that the test moves.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use serde_json::json;
use tokio::sync::watch;
use tokio::task::JoinHandle;

use crate::testing::{Answer, HandClock, exam, job};
use crate::*;

/// 2026-11-21 00:00 UTC.
const START: Millis = 1_795_219_200_000;

/// A daemon over a directory.
struct Daemon {
    store: Store,
    clock: HandClock,
    stop: watch::Sender<bool>,
    execution: Execution,
    running: JoinHandle<Result<()>>,
    /// How runs have ended, as an observer hears it.
    heard: Arc<std::sync::Mutex<Vec<String>>>,
}

impl Daemon {
    async fn start(directory: &Path, jobs: Vec<Job>, clock: &HandClock, answer: &Answer) -> Self {
        let store =
            Store::open(&format!("sqlite://{}", directory.join("state/schedule.sqlite").display())).await.unwrap();
        let (stop, stopped) = watch::channel(false);
        let heard: Arc<std::sync::Mutex<Vec<String>>> = Arc::default();
        let execution = Execution {
            store: store.clone(),
            clock: Arc::new(clock.clone()),
            program: "sh".into(),
            arguments: vec!["-c".to_owned()],
            environment: vec![("SHARED".to_owned(), directory.to_string_lossy().into_owned())],
            directory: directory.join("runs"),
            // Longer than what a test moves the clock by while a run is under way.
            lease: Duration::from_mins(10),
            stop: stopped,
            observer: Observer::new({
                let heard = Arc::clone(&heard);
                move |run, state, _| heard.lock().unwrap().push(format!("{} {state}", run.job))
            }),
        };
        let options = Options {
            worker: "here/test".to_owned(),
            poll: Duration::from_secs(5),
            ask_every: Duration::from_mins(1),
            concurrency: 2,
        };
        let scheduler = Scheduler::new(jobs, execution.clone(), Arc::new(answer.clone()), options).unwrap();
        let running = tokio::spawn(Arc::new(scheduler).run());
        Self { store, clock: clock.clone(), stop, execution, running, heard }
    }

    /// Waits until the runs of a job are in these states, newest first.
    async fn until(&self, job: &str, states: &[RunState]) -> Vec<Run> {
        let deadline = std::time::Instant::now() + Duration::from_mins(1);
        loop {
            let runs = self.store.runs(&Filter { job: Some(job.to_owned()), state: None, limit: 100 }).await.unwrap();
            if runs.iter().map(|run| run.state).eq(states.iter().copied()) {
                return runs;
            }
            assert!(std::time::Instant::now() < deadline, "{states:?} did not come; there are {runs:#?}");
            tokio::task::yield_now().await;
        }
    }

    async fn stop(self) {
        self.stop.send_replace(true);
        self.running.await.unwrap().unwrap();
    }
}

fn step(name: &str, script: &str) -> Step {
    Step { name: name.to_owned(), run: vec![script.to_owned()], ..Step::default() }
}

fn scripted(name: &str, steps: Vec<Step>) -> Job {
    Job { steps, ..job(name, None) }
}

fn hours(count: u64) -> Duration {
    Duration::from_hours(count)
}

fn read(path: impl AsRef<Path>) -> String {
    std::fs::read_to_string(path).unwrap_or_default()
}

#[tokio::test]
async fn sqlite_passes_the_exam() {
    let directory = tempfile::tempdir().unwrap();
    exam(&format!("sqlite://{}", directory.path().join("a/b/state.sqlite").display())).await.unwrap();
    let error = Store::open("mysql://there").await.unwrap_err().to_string();
    assert!(error.contains("write sqlite:///PATH or postgres://"), "{error}");
}

#[tokio::test]
async fn a_night_comes_due_and_its_steps_hand_on_what_they_made() {
    let directory = tempfile::tempdir().unwrap();
    let clock = HandClock::new(START);
    let output = Step { output: Some("list.txt".to_owned()), ..step("list", "echo a list of {snapshot.rows.train}") };
    let last = step("last", "cat {directory}/list.txt >&2; echo {day} {due} {run} $UPTAKE_RUN_JOB > $SHARED/seen");
    let steps = vec![step("snapshot", r#"echo '{{"id": "s-1", "rows": {{"train": 5}}}}'"#), output, last];
    let night = Job { cron: Some("0 2 * * *".to_owned()), ..scripted("night", steps) };
    let daemon = Daemon::start(directory.path(), vec![night], &clock, &Answer::new("")).await;
    daemon.until("night", &[]).await;
    // The daemon looks at the clock before it is moved: the trigger begins then.
    while daemon.store.memory("night", "cron", "0 2 * * * UTC", START).await.unwrap().seen_at != START {}
    clock.advance(hours(3));
    let runs = daemon.until("night", &[RunState::Succeeded]).await;
    assert_eq!((runs[0].due_at, runs[0].cause), (START + 7_200_000, Cause::Cron));
    let seen = read(directory.path().join("seen"));
    assert_eq!(seen.trim(), format!("2026-11-21 2026-11-21T02:00:00Z {} night", runs[0].id));
    let steps = daemon.store.steps(&runs[0].id).await.unwrap();
    assert_eq!(steps[0].result, Some(json!({"id": "s-1", "rows": {"train": 5}})));
    assert!(steps[2].log.as_deref().unwrap().contains("a list of 5"), "{steps:?}");
    // Downtime of three nights: the latest is caught up, the others are missed and say so.
    clock.advance(hours(72));
    let runs =
        daemon.until("night", &[RunState::Succeeded, RunState::Missed, RunState::Missed, RunState::Succeeded]).await;
    assert!(runs[1].reason.as_deref().unwrap().contains("a later time was due"), "{runs:?}");
    let heard = Arc::clone(&daemon.heard);
    daemon.stop().await;
    assert_eq!(*heard.lock().unwrap(), ["night succeeded", "night missed", "night missed", "night succeeded"]);
}

#[tokio::test]
async fn failures_are_tried_again_at_their_step_and_refusals_are_not() {
    let directory = tempfile::tempdir().unwrap();
    let clock = HandClock::new(START);
    let count = "echo x >> $SHARED/$0";
    let flaky = scripted(
        "flaky",
        vec![
            step("first", &format!("{count}; echo >> $SHARED/first")),
            step("second", "echo x >> $SHARED/second; echo 'error: not yet' >&2; test $(wc -l < $SHARED/second) = 3"),
        ],
    );
    let flaky = Job { retries: 2, ..flaky };
    let always = Step { always: true, ..step("report", "echo reported") };
    let gated =
        scripted("gated", vec![step("gate", "echo 'refused: too low' >&2; exit 3"), step("promote", "true"), always]);
    let gated = Job { retries: 2, ..gated };
    let daemon = Daemon::start(directory.path(), vec![flaky.clone(), gated.clone()], &clock, &Answer::new("")).await;
    for job in [&flaky, &gated] {
        let new = NewRun { job, cause: Cause::Hand, reason: None, due_at: START, key: None, missed: None };
        assert!(daemon.store.add(&new, START).await.unwrap().is_some());
    }
    clock.advance(Duration::from_secs(6));
    let refused = daemon.until("gated", &[RunState::Refused]).await;
    assert_eq!(refused[0].reason.as_deref(), Some("step `gate`: refused by a check (exit code 3): refused: too low"));
    let states: Vec<StepState> =
        daemon.store.steps(&refused[0].id).await.unwrap().iter().map(|step| step.state).collect();
    assert_eq!(states, [StepState::Refused, StepState::Skipped, StepState::Succeeded]);
    let second = directory.path().join("second");
    for (tries, wait) in [(1, 60), (2, 120)] {
        let runs = loop {
            let runs = daemon.until("flaky", &[RunState::Queued]).await;
            if read(&second).lines().count() == tries {
                break runs;
            }
        };
        let reason = runs[0].reason.clone().unwrap();
        assert!(reason.contains("exit code 1: error: not yet; try"), "{reason}");
        assert_eq!(runs[0].not_before, daemon.clock.now() + wait * 1_000);
        clock.advance(Duration::from_secs(u64::try_from(wait).unwrap()));
    }
    let runs = daemon.until("flaky", &[RunState::Succeeded]).await;
    let steps = daemon.store.steps(&runs[0].id).await.unwrap();
    assert_eq!((steps[0].attempt, steps[1].attempt), (1, 3), "what has ended well is not done again");
    daemon.stop().await;
}

#[tokio::test]
async fn a_run_is_cancelled_and_its_process_ends() {
    let directory = tempfile::tempdir().unwrap();
    let clock = HandClock::new(START);
    let hang =
        "mkfifo $SHARED/never; echo $$ > $SHARED/pid.part; mv $SHARED/pid.part $SHARED/pid; read x < $SHARED/never";
    let long = scripted("long", vec![step("hang", hang)]);
    let daemon = Daemon::start(directory.path(), vec![long.clone()], &clock, &Answer::new("")).await;
    let new = NewRun { job: &long, cause: Cause::Hand, reason: None, due_at: START, key: None, missed: None };
    let run = daemon.store.add(&new, START).await.unwrap().unwrap();
    clock.advance(Duration::from_secs(5));
    while !directory.path().join("pid").exists() {
        tokio::task::yield_now().await;
    }
    let running = daemon.store.cancel(&run.id, "ann", clock.now()).await.unwrap();
    assert_eq!(running.state, RunState::Running);
    let runs = daemon.until("long", &[RunState::Cancelled]).await;
    assert_eq!(runs[0].reason.as_deref(), Some("cancelled by ann"));
    let process = format!("/proc/{}/stat", read(directory.path().join("pid")).trim());
    assert!(!Path::new(&process).exists(), "the process is gone");
    daemon.stop().await;
}

#[tokio::test]
async fn what_a_daemon_leaves_when_it_stops_is_taken_up_at_once() {
    let directory = tempfile::tempdir().unwrap();
    let clock = HandClock::new(START);
    let script = "test -e $SHARED/go && exit 0; mkfifo $SHARED/never; echo > $SHARED/there; read x < $SHARED/never";
    let steps = vec![step("before", "echo x >> $SHARED/before"), step("work", script)];
    let long = scripted("long", steps);
    let daemon = Daemon::start(directory.path(), vec![long.clone()], &clock, &Answer::new("")).await;
    let new = NewRun { job: &long, cause: Cause::Hand, reason: None, due_at: START, key: None, missed: None };
    let _ = daemon.store.add(&new, START).await.unwrap().unwrap();
    clock.advance(Duration::from_secs(5));
    while !directory.path().join("there").exists() {
        tokio::task::yield_now().await;
    }
    daemon.stop().await;
    std::fs::write(directory.path().join("go"), "").unwrap();
    let daemon = Daemon::start(directory.path(), vec![long], &clock, &Answer::new("")).await;
    let runs = daemon.until("long", &[RunState::Succeeded]).await;
    assert_eq!((runs[0].attempt, read(directory.path().join("before")).lines().count()), (0, 1));
    daemon.stop().await;
}

#[tokio::test]
async fn steps_stop_at_their_time_limit_and_at_what_is_not_there() {
    let directory = tempfile::tempdir().unwrap();
    let clock = HandClock::new(START);
    let slow = Step {
        time_limit: Some(Duration::from_secs(30)),
        ..step("slow", "mkfifo $SHARED/never; echo > $SHARED/there; read x < $SHARED/never")
    };
    let slow = Job { retries: 3, ..scripted("slow", vec![slow]) };
    let silent = scripted("silent", vec![step("says", "echo no JSON"), step("asks", "echo {says.id}")]);
    let daemon = Daemon::start(directory.path(), vec![slow.clone(), silent.clone()], &clock, &Answer::new("")).await;
    for job in [&slow, &silent] {
        let new = NewRun { job, cause: Cause::Hand, reason: None, due_at: START, key: None, missed: None };
        assert!(daemon.store.add(&new, START).await.unwrap().is_some());
    }
    clock.advance(Duration::from_secs(5));
    let failed = daemon.until("silent", &[RunState::Failed]).await;
    assert!(failed[0].reason.as_deref().unwrap().contains("step `says` wrote no JSON"), "{failed:?}");
    while !directory.path().join("there").exists() {
        tokio::task::yield_now().await;
    }
    clock.advance(Duration::from_secs(31));
    let failed = daemon.until("slow", &[RunState::Failed]).await;
    assert!(failed[0].reason.as_deref().unwrap().contains("took longer than its time_limit"), "{failed:?}");
    daemon.stop().await;
}

#[tokio::test]
async fn data_makes_runs_and_two_daemons_make_one() {
    let directory = tempfile::tempdir().unwrap();
    let clock = HandClock::new(START);
    let when = Condition { query: "SELECT 1".to_owned(), grew_by: Some(100.0), at_most_every: None };
    let fresh = Job { when: Some(when), ..scripted("fresh", vec![step("count", "echo x >> $SHARED/count")]) };
    let answer = Answer::new("99");
    let daemons = [
        Daemon::start(directory.path(), vec![fresh.clone()], &clock, &answer).await,
        Daemon::start(directory.path(), vec![fresh.clone()], &clock, &answer).await,
    ];
    clock.advance(Duration::from_secs(61));
    daemons[0].until("fresh", &[]).await;
    *answer.0.lock().unwrap() = Ok("100".to_owned());
    clock.advance(Duration::from_secs(61));
    let runs = daemons[1].until("fresh", &[RunState::Succeeded]).await;
    assert_eq!(runs[0].cause, Cause::Data);
    *answer.0.lock().unwrap() = Err("the table is not there".to_owned());
    clock.advance(Duration::from_secs(61));
    *answer.0.lock().unwrap() = Ok("200".to_owned());
    clock.advance(Duration::from_secs(61));
    let _ = daemons[0].until("fresh", &[RunState::Succeeded, RunState::Succeeded]).await;
    assert_eq!(read(directory.path().join("count")).lines().count(), 2);
    for daemon in daemons {
        daemon.stop().await;
    }
}

#[tokio::test]
async fn a_worker_that_died_is_followed_by_another_that_takes_over_its_process() {
    let directory = tempfile::tempdir().unwrap();
    let clock = HandClock::new(START);
    let script = "echo x >> $SHARED/count; mkfifo $SHARED/go; echo > $SHARED/there; read x < $SHARED/go; echo 7";
    let plain = scripted("plain", vec![step("only", script), step("last", "echo > $SHARED/last")]);
    let store =
        Store::open(&format!("sqlite://{}", directory.path().join("state/schedule.sqlite").display())).await.unwrap();
    let new = NewRun { job: &plain, cause: Cause::Hand, reason: None, due_at: START, key: None, missed: None };
    let _ = store.add(&new, START).await.unwrap().unwrap();
    let lost = store.claim("here/gone", START, 600_000).await.unwrap().unwrap();
    let next = Daemon::start(directory.path(), Vec::new(), &clock, &Answer::new("")).await;
    let execution = Execution { stop: watch::channel(false).1, ..next.execution.clone() };
    let worker = {
        let (execution, lost) = (execution.clone(), lost.clone());
        tokio::spawn(async move { execute(&execution, &lost).await })
    };
    // The process is there, and the store knows which it is.
    while !directory.path().join("there").exists() || store.steps(&lost.id).await.unwrap()[0].process.is_none() {
        tokio::task::yield_now().await;
    }
    // As a kill would: the worker is gone in the middle, its process goes on.
    worker.abort();
    assert!(worker.await.unwrap_err().is_cancelled());
    clock.advance(Duration::from_secs(601));
    let taken = loop {
        let run = store.run("plain").await.unwrap();
        if run.fence > lost.fence {
            break run;
        }
        tokio::task::yield_now().await;
    };
    std::fs::write(directory.path().join("go"), "\n").unwrap();
    let runs = next.until("plain", &[RunState::Succeeded]).await;
    assert_eq!((runs[0].fence, runs[0].id.as_str()), (lost.fence + 1, taken.id.as_str()));
    let steps = store.steps(&runs[0].id).await.unwrap();
    assert_eq!((steps[0].attempt, steps[0].result.clone()), (1, Some(json!(7))), "it was not started again");
    assert_eq!(read(directory.path().join("count")).lines().count(), 1);
    assert!(directory.path().join("last").exists());
    // The one that was given up on comes back, and finds that it has lost the run.
    assert_eq!(execute(&execution, &lost).await.unwrap(), None);
    next.stop().await;
}
