//! For tests: a clock that a test moves, and the exam that every database must pass.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use tokio::sync::watch;

use crate::clock::Clock;
use crate::condition::Ask;
use crate::cron::CatchUp;
use crate::job::{Job, Step};
use crate::store::{Cause, Filter, NewRun, Run, RunState, StepRun, StepState, Store};
use crate::{Millis, Result};

/// A clock that stands until a test moves it.
#[derive(Debug, Clone)]
pub struct HandClock(Arc<watch::Sender<Millis>>);

impl HandClock {
    /// A clock that shows this time.
    pub fn new(now: Millis) -> Self {
        Self(Arc::new(watch::channel(now).0))
    }

    /// Moves it on.
    pub fn advance(&self, by: Duration) {
        self.0.send_modify(|now| *now = now.saturating_add(crate::clock::millis(by)));
    }
}

#[async_trait]
impl Clock for HandClock {
    fn now(&self) -> Millis {
        *self.0.borrow()
    }

    async fn wait_until(&self, time: Millis) {
        let mut now = self.0.subscribe();
        // The sender lives as long as this clock.
        let _ = now.wait_for(|now| *now >= time).await;
    }
}

/// Answers every query with the text that a test has set.
#[derive(Debug, Clone)]
pub struct Answer(pub Arc<std::sync::Mutex<Result<String, String>>>);

impl Answer {
    /// Answers so from the start.
    pub fn new(text: &str) -> Self {
        Self(Arc::new(std::sync::Mutex::new(Ok(text.to_owned()))))
    }
}

#[async_trait]
impl Ask for Answer {
    async fn ask(&self, _query: &str) -> Result<String, String> {
        self.0.lock().map_err(|error| error.to_string())?.clone()
    }
}

/// Whether a daemon has looked at a job's cron line yet: what is due from then on is not missed.
///
/// # Errors
/// The database's errors.
pub async fn has_looked(store: &Store, job: &str) -> Result<bool> {
    store.has_memory(job).await
}

/// A job of one step.
pub fn job(name: &str, lock: Option<&str>) -> Job {
    let step = Step { name: "only".to_owned(), command: vec!["true".to_owned()], ..Step::default() };
    Job {
        name: name.to_owned(),
        cron: None,
        timezone: None,
        catch_up: CatchUp::Once,
        when: None,
        lock: lock.map(ToOwned::to_owned),
        retries: 0,
        backoff: Duration::from_mins(1),
        time_limit: None,
        steps: vec![step],
    }
}

fn expect(holds: bool, what: &str) -> Result<(), String> {
    if holds { Ok(()) } else { Err(what.to_owned()) }
}

fn fine<T>(result: Result<T>) -> Result<T, String> {
    result.map_err(|error| error.to_string())
}

/// What every database of the scheduler must do, on an empty one.
///
/// # Errors
/// The first sentence that does not hold.
pub async fn exam(url: &str) -> Result<(), String> {
    // Two daemons, which start at the same time.
    let (one, other) = tokio::join!(Store::open(url), Store::open(url));
    let (one, other) = (fine(one)?, fine(other)?);
    expect(one.id() == other.id() && !one.id().is_empty(), "both see one database")?;
    occurrences(&one, &other).await?;
    locks(&one, &other).await?;
    leases(&one, &other).await?;
    people(&one).await?;
    memories(&one, &other).await
}

async fn add(store: &Store, job: &Job, key: Option<&str>, now: Millis) -> Result<Option<Run>, String> {
    let key = key.map(ToOwned::to_owned);
    let new = NewRun { job, cause: Cause::Cron, reason: None, due_at: now, key, missed: None };
    fine(store.add(&new, now).await)
}

/// A time makes one run, whoever sees it.
async fn occurrences(one: &Store, other: &Store) -> Result<(), String> {
    let job = job("keys", None);
    let (a, b) = tokio::join!(add(one, &job, Some("7"), 7), add(other, &job, Some("7"), 7));
    let run = match (a?, b?) {
        (Some(run), None) | (None, Some(run)) => run,
        pair => return Err(format!("one key made another number of runs than one: {pair:?}")),
    };
    expect(fine(one.run(&run.id).await)? == run, "a run is read as it was written")?;
    expect(add(one, &job, Some("8"), 8).await?.is_some(), "another key makes another run")?;
    let missed = NewRun {
        job: &job,
        cause: Cause::Cron,
        reason: None,
        due_at: 9,
        key: Some("9".to_owned()),
        missed: Some("nobody was there".to_owned()),
    };
    let missed = fine(one.add(&missed, 9).await)?.ok_or("a missed run is a run")?;
    expect(missed.state == RunState::Missed && missed.ended_at == Some(9), "what is missed has ended")?;
    let listed = fine(one.runs(&Filter { job: Some("keys".to_owned()), state: None, limit: 9 }).await)?;
    expect(listed.iter().map(|run| run.due_at).eq([9, 8, 7]), "the newest run comes first")?;
    while let Some(run) = fine(one.claim("w", 10, 1_000).await)? {
        expect(fine(one.leave(&run, RunState::Succeeded, None, 10, 10).await)?, "a claimed run ends")?;
    }
    Ok(())
}

/// Of the runs of a lock one runs.
async fn locks(one: &Store, other: &Store) -> Result<(), String> {
    let (first, second) = (job("first", Some("gpu")), job("second", Some("gpu")));
    for round in 0..8 {
        let now = 1_000 + round * 10;
        let runs = [add(one, &first, None, now).await?, add(one, &second, None, now).await?];
        expect(runs.iter().all(Option::is_some), "runs without a key are always new")?;
        let (a, b) = tokio::join!(one.claim("a", now, 1_000), other.claim("b", now, 1_000));
        let claimed: Vec<Run> = [fine(a)?, fine(b)?].into_iter().flatten().collect();
        expect(claimed.len() == 1, "of two runs with one lock one starts")?;
        expect(fine(other.claim("c", now, 1_000).await)?.is_none(), "and none beside it")?;
        expect(fine(one.leave(&claimed[0], RunState::Failed, Some("why"), now, now).await)?, "it ends")?;
        let next = fine(one.claim("a", now, 1_000).await)?.ok_or("then the other one starts")?;
        expect(next.id != claimed[0].id, "then the other one starts")?;
        expect(fine(one.leave(&next, RunState::Succeeded, None, now, now).await)?, "it ends, too")?;
    }
    Ok(())
}

/// Who lost a lease writes nothing any more.
async fn leases(one: &Store, other: &Store) -> Result<(), String> {
    let job = job("leased", None);
    let _ = add(one, &job, None, 2_000).await?;
    let early = fine(one.claim("a", 2_000, 100).await)?.ok_or("it starts")?;
    expect(early.worker.as_deref() == Some("a") && early.started_at == Some(2_000), "it says who runs it since when")?;
    expect(fine(one.renew(&early, 2_500).await)? == Some(None), "a lease is renewed")?;
    expect(fine(other.claim("b", 2_400, 100).await)?.is_none(), "a run with a lease stays")?;
    let late = fine(other.claim("b", 2_501, 100).await)?.ok_or("a run without one is taken over")?;
    expect(late.id == early.id && late.fence > early.fence, "by a later number")?;
    let step = StepRun {
        step: "only".to_owned(),
        position: 0,
        state: StepState::Succeeded,
        attempt: 1,
        started_at: Some(2_501),
        ended_at: Some(2_502),
        exit_code: Some(0),
        process: None,
        reason: None,
        result: Some(serde_json::json!({"rows": 3})),
        log: Some("text with “quotes” and ✓".to_owned()),
    };
    expect(!fine(one.write_step(&early, &step).await)?, "who lost it writes no step")?;
    expect(fine(one.renew(&early, 9_999).await)?.is_none(), "nor renews it")?;
    expect(!fine(one.leave(&early, RunState::Succeeded, None, 0, 0).await)?, "nor ends it")?;
    expect(
        fine(other.write_step(&late, &StepRun { state: StepState::Running, ..step.clone() }).await)?,
        "who has it does",
    )?;
    expect(fine(other.write_step(&late, &step).await)?, "and again")?;
    expect(fine(one.steps(&late.id).await)? == [step], "a step is read as it was last written")?;
    expect(fine(other.leave(&late, RunState::Queued, Some("later"), 3_000, 2_600).await)?, "it is put back")?;
    expect(fine(one.next_start(2_600).await)? == Some(3_000), "for a time that can be asked for")?;
    expect(fine(one.claim("a", 2_999, 100).await)?.is_none(), "and does not start before")?;
    let again = fine(one.claim_this(&late.id, "a", 3_000, 100).await)?.ok_or("but then")?;
    expect(again.attempt == 1 && again.started_at == Some(2_000), "as the next try of the same run")?;
    expect(fine(one.leave(&again, RunState::Succeeded, None, 0, 3_001).await)?, "it ends")
}

/// Cancelled and taken up again by hand; found by what people type.
async fn people(store: &Store) -> Result<(), String> {
    let job = job("by-hand", None);
    let waiting = add(store, &job, None, 4_000).await?.ok_or("a run")?;
    let cancelled = fine(store.cancel(&waiting.id, "ann", 4_001).await)?;
    expect(
        cancelled.state == RunState::Cancelled && cancelled.ended_at == Some(4_001),
        "what waits is cancelled at once",
    )?;
    expect(store.cancel(&waiting.id, "ann", 4_002).await.is_err(), "but once")?;
    let again = fine(store.retry(&waiting.id, 4_003).await)?;
    expect(again.state == RunState::Queued && again.cancel_by.is_none(), "it can be taken up again")?;
    expect(store.retry(&waiting.id, 4_004).await.is_err(), "but not while it waits")?;
    let running = fine(store.claim("a", 4_005, 100).await)?.ok_or("it starts")?;
    let asked = fine(store.cancel(&running.id, "bob", 4_006).await)?;
    expect(asked.state == RunState::Running, "what runs is asked to stop")?;
    expect(fine(store.renew(&running, 4_200).await)? == Some(Some("bob".to_owned())), "and its worker hears of it")?;
    expect(fine(store.leave(&running, RunState::Cancelled, None, 0, 4_007).await)?, "it ends")?;
    let tail = running.id.get(running.id.len() - 6..).unwrap_or_default();
    expect(fine(store.run(tail).await)?.id == running.id, "the end of its id is enough")?;
    expect(fine(store.run("by-hand").await)?.id == running.id, "the job's name is its latest run")?;
    let message = store.run("nobody").await.err().map(|error| error.to_string()).unwrap_or_default();
    expect(message.contains("uptake runs list"), "what is not there is said, with where to look")
}

/// What triggers remember changes only in the hands of who knows the newest.
async fn memories(one: &Store, other: &Store) -> Result<(), String> {
    let fresh = fine(one.memory("m", "cron", "0 2 * * *", 5_000).await)?;
    expect(fresh.seen_at == 5_000 && fresh.turn == 0, "a new trigger begins now")?;
    let (mut mine, mut theirs) = (fresh.clone(), fine(other.memory("m", "cron", "0 2 * * *", 6_000).await)?);
    expect(theirs == fresh, "and stays")?;
    (mine.seen_at, theirs.seen_at) = (7_000, 8_000);
    mine.seen.value = Some(0.5);
    fine(one.remember("m", "cron", &mine).await)?;
    fine(other.remember("m", "cron", &theirs).await)?;
    let now = fine(other.memory("m", "cron", "0 2 * * *", 9_000).await)?;
    expect(now.seen_at == 7_000 && now.seen.value == Some(0.5) && now.turn == 1, "who comes second changes nothing")?;
    let changed = fine(one.memory("m", "cron", "0 3 * * *", 9_000).await)?;
    expect(changed.seen_at == 9_000 && changed.seen.value.is_none(), "another definition begins anew")
}
