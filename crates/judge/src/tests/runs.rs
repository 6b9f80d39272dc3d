//! Budget, cache, order, concurrency, resuming.

use std::sync::Arc;
use std::time::Duration;

use serde_json::json;

use super::kit::{PRICES, Place, quick, row, tokens};
use crate::endpoint::{Completion, Endpoint, Failure, Request, Retry};
use crate::error::Error;
use crate::judge::{Judge, Options};
use crate::retry::RetryPolicy;
use crate::testing::{Gate, Reply, Server};
use crate::{Cache, Limits, Rubric, score};

const WORDS: [&str; 6] = ["thanks one", "thanks two", "thanks three", "thanks four", "thanks five", "thanks six"];

fn thanks() -> Reply {
    Reply::labels(&[("gratitude", "thanks")])
}

/// What the output of an uninterrupted run over [`WORDS`] holds.
async fn uninterrupted() -> Vec<u8> {
    let place = Place::with(&WORDS);
    let server = Server::start(|_, _| thanks()).await;
    let report = place.score(&place.judge(&server, quick())).await;
    assert_eq!((report.rows.written, report.sat, report.labels[0]), (6, 6, 6));
    std::fs::read(place.path("labels.jsonl")).unwrap()
}

#[tokio::test]
async fn the_output_is_what_the_classifier_reads_and_says_who_made_it() {
    let place = Place::with(&["thanks one"]);
    let server = Server::start(|_, _| thanks()).await;
    place.score(&place.judge(&server, quick())).await;
    let lines = place.lines("labels.jsonl");
    let line = &lines[0];
    let messages = row(0, "thanks one")["messages"].clone();
    assert_eq!(line["messages"], messages);
    assert_eq!((&line["conversation_id"], &line["turn"], &line["source"]), (&json!("c-0"), &json!(2), &json!("chats")));
    assert_eq!(
        (&line["sat"], &line["dsat"], &line["rationale"]),
        (&json!(["gratitude"]), &json!([]), &json!("as said"))
    );
    assert_eq!(line["annotator"]["model"], "test");
    assert_eq!(line["annotator"]["rubric"], Rubric::built_in().unwrap().id());
    let text = std::fs::read_to_string(place.path("labels.jsonl")).unwrap();
    assert!(text.starts_with("{\"key\":\""), "{text}");
    let request = &server.requests()[0].body;
    assert_eq!(request["response_format"]["json_schema"]["strict"], true);
    assert_eq!(request["temperature"], 0.0);
    assert!(request["messages"][0]["content"].as_str().unwrap().contains("unrealistic_expectation"));
}

#[tokio::test]
async fn the_budget_in_tokens_ends_the_run_and_a_higher_one_goes_on() {
    let place = Place::with(&WORDS);
    let server = Server::start(|_, _| thanks()).await;
    // A request of these may need a few thousand tokens and needs 1,050.
    let judge = place.judge(&server, Options { limits: tokens(7_000), concurrency: 2, ..quick() });
    let report = place.score(&judge).await;
    let error = report.ended.unwrap();
    assert!(matches!(error, Error::Budget(_)) && error.to_string().contains("of 7000 tokens"), "{error}");
    assert!(judge.budget().spent().total() <= 7_000);
    let done = place.lines("labels.jsonl").len();
    assert!((1..6).contains(&done), "{done}");
    assert_eq!(report.rows.written, done as u64);
    let judge = place.judge(&server, quick());
    let report = place.score(&judge).await;
    assert!(report.ended.is_none());
    assert_eq!(server.requests().len(), 6, "nothing is asked twice");
    assert_eq!(std::fs::read(place.path("labels.jsonl")).unwrap(), uninterrupted().await);
}

#[tokio::test]
async fn the_budget_in_money_needs_prices_and_ends_the_run() {
    let place = Place::with(&WORDS);
    let server = Server::start(|_, _| thanks()).await;
    let limits = Limits { tokens: None, money: Some(0.007) };
    let judge = place.judge(&server, Options { limits, prices: PRICES, ..quick() });
    let report = place.score(&judge).await;
    assert!(report.ended.unwrap().to_string().contains("of 0.007000 spent"));
    let cost = judge.budget().cost();
    // 1,000 tokens in and 50 out are .0012.
    assert!(cost <= 0.007 && (cost / 0.0012 - report.rows.written as f64).abs() < 1e-6, "{cost}");
    let endpoint = Arc::new(Never);
    let cache = || Cache::open(place.path("cache")).unwrap();
    let error = Judge::new(Arc::clone(&endpoint) as _, cache(), Options { limits, ..quick() }).unwrap_err();
    assert!(error.to_string().contains("needs the prices"), "{error}");
    assert!(Judge::new(endpoint, cache(), Options { concurrency: 0, ..quick() }).is_err());
}

#[tokio::test]
async fn answers_without_a_count_are_booked_from_above() {
    let place = Place::with(&["thanks one"]);
    let server = Server::start(|_, _| Reply::Uncounted(json!({"labels": []}).to_string())).await;
    let judge = place.judge(&server, quick());
    place.score(&judge).await;
    assert_eq!(judge.tally().estimated, 1);
    assert!(judge.budget().spent().input > 1_000, "{:?}", judge.budget().spent());
}

#[tokio::test]
async fn as_many_requests_are_under_way_as_allowed_and_no_more() {
    let place = Place::with(&WORDS);
    let gate = Arc::new(Gate::default());
    let server = {
        let gate = Arc::clone(&gate);
        Server::start(move |_, _| gate.then(thanks())).await
    };
    let judge = place.judge(&server, Options { concurrency: 3, ..quick() });
    let (report, ()) = tokio::join!(place.score(&judge), async {
        server.until_in_flight(3).await;
        gate.open();
    });
    assert_eq!((report.rows.written, server.most_in_flight()), (6, 3));
    assert_eq!(std::fs::read(place.path("labels.jsonl")).unwrap(), uninterrupted().await, "in the input's order");
}

/// The run is dropped in the middle, as a kill would end it, with half a line written and requests under way.
#[tokio::test]
async fn a_run_that_was_cut_off_goes_on_without_asking_again() {
    let place = Place::with(&WORDS);
    let gate = Arc::new(Gate::default());
    let server = {
        let gate = Arc::clone(&gate);
        // The first and the third row are held back, the others are answered at once.
        Server::start(move |_, got| match got.follow_up().as_str() {
            "thanks three" => gate.then(thanks()),
            _ => thanks(),
        })
        .await
    };
    {
        let judge = place.judge(&server, Options { concurrency: 2, ..quick() });
        let cut_off = async {
            // All others were answered, and the third is still under way: rows behind it wait for their turn.
            while judge.tally().requests < 6 || place.lines("labels.jsonl").len() < 2 {
                tokio::task::yield_now().await;
            }
            server.until_in_flight(1).await;
            while kept(&place) < 5 {
                tokio::task::yield_now().await;
            }
        };
        tokio::select! {
            report = place.score(&judge) => panic!("the third row is held back: {report:?}"),
            () = cut_off => {}
        }
    }
    assert_eq!(place.lines("labels.jsonl").len(), 2);
    let mut half = std::fs::read(place.path("labels.jsonl")).unwrap();
    half.extend_from_slice(b"{\"key\":\"12");
    std::fs::write(place.path("labels.jsonl"), half).unwrap();
    gate.open();
    let judge = place.judge(&server, Options { concurrency: 2, ..quick() });
    let report = place.score(&judge).await;
    assert_eq!((report.rows.before, report.rows.written), (2, 4));
    assert_eq!((judge.tally().requests, judge.tally().cache_hits), (1, 3), "only the one without an answer");
    assert_eq!(std::fs::read(place.path("labels.jsonl")).unwrap(), uninterrupted().await);
}

/// Answers in the cache.
fn kept(place: &Place) -> usize {
    let Ok(directories) = std::fs::read_dir(place.path("cache")) else { return 0 };
    let files = directories.flatten().filter_map(|directory| std::fs::read_dir(directory.path()).ok());
    files
        .flatten()
        .flatten()
        .filter(|file| file.path().extension().is_some_and(|extension| extension == "json"))
        .count()
}

#[tokio::test]
async fn who_asks_for_the_end_gets_it_in_order() {
    let place = Place::with(&WORDS);
    let gate = Arc::new(Gate::default());
    let server = {
        let gate = Arc::clone(&gate);
        Server::start(move |number, _| if number < 2 { thanks() } else { gate.then(thanks()) }).await
    };
    let judge = place.judge(&server, quick());
    let (report, ()) = tokio::join!(place.score(&judge), async {
        while judge.tally().requests < 3 {
            tokio::task::yield_now().await;
        }
        judge.stop();
        gate.open();
    });
    assert!(matches!(report.ended, Some(Error::Stopped)), "{:?}", report.ended);
    // The third was under way and paid: its answer is written.
    assert_eq!((report.rows.written, server.requests().len()), (3, 3));
    // Asked for when all is done, it changes nothing.
    let judge = place.judge(&server, quick());
    let report = place.score(&judge).await;
    judge.stop();
    assert!(report.ended.is_none());
    assert_eq!(std::fs::read(place.path("labels.jsonl")).unwrap(), uninterrupted().await);
}

#[tokio::test]
async fn the_cache_answers_for_other_files_and_not_for_other_rubrics() {
    let place = Place::with(&WORDS);
    let server = Server::start(|_, _| thanks()).await;
    place.score(&place.judge(&server, quick())).await;
    let run = async |rubric: &Rubric, name: &str| {
        let mut job = place.job();
        job.output = place.path(name);
        let judge = place.judge(&server, quick());
        let report = score::score(&judge, rubric, score::Options::default(), &job, || {}).await.unwrap();
        (report.rows.written, judge.tally().requests, judge.tally().cache_hits)
    };
    let rubric = Rubric::built_in().unwrap();
    assert_eq!(run(&rubric, "again.jsonl").await, (6, 0, 6));
    let edited = Rubric::parse(&Rubric::built_in_text().replace("thanks or compliments", "thanks")).unwrap();
    assert_eq!(run(&edited, "edited.jsonl").await, (6, 6, 0));
    let mut job = place.job();
    job.output = place.path("again.jsonl");
    let error = score::score(&place.judge(&server, quick()), &edited, score::Options::default(), &job, || {}).await;
    assert!(matches!(error, Err(Error::Output { .. })), "{error:?}");
}

#[tokio::test]
async fn duplicates_and_limits_count_follow_ups() {
    let place = Place::with(&WORDS);
    let text = std::fs::read_to_string(place.path("chats.jsonl")).unwrap();
    std::fs::write(place.path("chats.jsonl"), format!("{text}\n{text}\n")).unwrap();
    let server = Server::start(|_, _| thanks()).await;
    let mut job = place.job();
    job.limit = Some(4);
    let judge = place.judge(&server, quick());
    let rubric = Rubric::built_in().unwrap();
    let mut told = 0;
    let report = score::score(&judge, &rubric, score::Options::default(), &job, || told += 1).await.unwrap();
    assert_eq!((report.rows.written, told), (4, 4));
    assert!(report.ended.is_none());
    place.score(&place.judge(&server, quick())).await;
    assert_eq!(std::fs::read(place.path("labels.jsonl")).unwrap(), uninterrupted().await);
}

#[derive(Debug)]
struct Never;

#[async_trait::async_trait]
impl Endpoint for Never {
    fn model(&self) -> &'static str {
        "never"
    }

    async fn complete(&self, _: &Request) -> Result<Completion, Failure> {
        Err(Failure::Again { reason: Retry::ServerError, wait: None })
    }
}

/// As often as the policy says, and as long: real waits, of milliseconds, whose lower bounds are certain.
#[tokio::test]
async fn waits_follow_the_policy() {
    let place = Place::with(&["thanks"]);
    let millisecond = Duration::from_millis(1);
    let retry = RetryPolicy { retries: 4, first: 10 * millisecond, longest: 20 * millisecond, patience: millisecond };
    let cache = Cache::open(place.path("cache")).unwrap();
    let judge = Judge::new(Arc::new(Never), cache, Options { retry, ..quick() }).unwrap();
    let begun = std::time::Instant::now();
    let report = place.score(&judge).await;
    assert_eq!((report.rows.left(), judge.tally().requests), (1, 5));
    // At least half of 10 + 20 + 20 + 20 milliseconds.
    assert!(begun.elapsed() >= Duration::from_millis(35), "{:?}", begun.elapsed());
}
