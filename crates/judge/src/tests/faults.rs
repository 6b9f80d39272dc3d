//! Everything a server can do wrong.

use std::time::Duration;

use serde_json::json;

use super::kit::{Place, judge_at, quick};
use crate::endpoint::Retry;
use crate::error::{Error, ErrorKind};
use crate::evidence::Fault;
use crate::judge::Options;
use crate::retry::RetryPolicy;
use crate::run::Rejection;
use crate::testing::{Reply, Server};

fn thanks() -> Reply {
    Reply::labels(&[("gratitude", "thanks")])
}

/// Each fault once, then an answer: it is asked again, and the fault is counted under its reason.
#[tokio::test]
async fn what_can_be_repeated_is_repeated() {
    let faults: [(fn() -> Reply, Retry); 6] = [
        (|| Reply::Status(429, vec![("retry-after-ms", "20".to_owned())], String::new()), Retry::RateLimited),
        (|| Reply::Status(500, Vec::new(), "oops".to_owned()), Retry::ServerError),
        (|| Reply::Status(503, vec![("retry-after", "0".to_owned())], String::new()), Retry::ServerError),
        (|| Reply::Truncated, Retry::Truncated),
        (|| Reply::Body("<html>gateway</html>".to_owned()), Retry::Malformed),
        (|| Reply::Body("{\"choices\": [{\"message\": {\"cont".to_owned()), Retry::Truncated),
    ];
    for (fault, reason) in faults {
        let place = Place::with(&["thanks"]);
        let server = Server::start(move |number, _| if number == 0 { fault() } else { thanks() }).await;
        let judge = place.judge(&server, quick());
        let report = place.score(&judge).await;
        assert!(report.ended.is_none(), "{reason}: {:?}", report.ended);
        let tally = judge.tally();
        assert_eq!((tally.requests, tally.failed.get(&reason)), (2, Some(&1)), "{reason}");
        assert_eq!(place.labels(), [(json!(["gratitude"]), json!([]))], "{reason}");
        // What may have been billed is booked with the most that it can have been.
        let spent = judge.budget().spent();
        assert_eq!(spent.total() > 1_050, reason.may_be_billed(), "{reason}: {spent:?}");
    }
}

#[tokio::test]
async fn a_server_that_says_nothing_is_not_waited_for() {
    let place = Place::with(&["thanks"]);
    let server = Server::start(|number, _| if number == 0 { Reply::Silence } else { thanks() }).await;
    let judge = judge_at(&server.base, &place.path("cache"), quick(), Duration::from_millis(300));
    let report = place.score(&judge).await;
    assert_eq!((report.rows.written, judge.tally().failed.get(&Retry::Timeout)), (1, Some(&1)));
}

#[tokio::test]
async fn rows_without_an_answer_are_left_for_the_next_run() {
    let place = Place::with(&["thanks", "poison", "thanks a lot"]);
    let server = Server::start(|number, got| {
        if got.follow_up() == "poison" && number < 10 {
            Reply::Status(500, Vec::new(), String::new())
        } else {
            thanks()
        }
    })
    .await;
    let judge = place.judge(&server, quick());
    let report = place.score(&judge).await;
    assert!(report.ended.is_none());
    assert_eq!((report.rows.written, report.rows.left(), judge.tally().requests), (2, 1, 6));
    assert_eq!(report.rows.unanswered.get(&Retry::ServerError), Some(&1));
    // Four attempts failed, so the fifth onwards (number 10 and later) come with the next runs.
    for _ in 0..2 {
        let judge = place.judge(&server, quick());
        let _ = place.score(&judge).await;
    }
    assert_eq!(place.lines("labels.jsonl").len(), 3);
    assert_eq!(place.lines("labels.jsonl")[2]["conversation_id"], "c-1");
}

#[tokio::test]
async fn a_server_that_is_down_ends_the_run() {
    let follow_ups: Vec<String> = (0..40).map(|number| format!("thanks {number}")).collect();
    let follow_ups: Vec<&str> = follow_ups.iter().map(String::as_str).collect();
    let place = Place::with(&follow_ups);
    let server = Server::start(|_, _| Reply::Status(502, Vec::new(), String::new())).await;
    let judge = place.judge(&server, Options { concurrency: 4, ..quick() });
    let report = place.score(&judge).await;
    let error = report.ended.unwrap();
    assert_eq!(error.kind(), ErrorKind::Retry);
    assert!(error.to_string().contains("10 rows in a row") && error.to_string().contains("server_error"), "{error}");
    assert!(judge.tally().requests < 40 * 4, "{:?}", judge.tally());

    let gone = place.path("cache");
    let judge = judge_at("http://127.0.0.1:9", &gone, quick(), Duration::from_secs(5));
    let error = place.score(&judge).await.ended.unwrap();
    assert!(error.to_string().contains("connection"), "{error}");
}

#[tokio::test]
async fn a_wrong_key_or_model_ends_the_run_at_once_and_is_not_shown() {
    for (status, says) in [(401, "wrong key sk-secret-of-the-test"), (404, "no such model"), (302, "")] {
        let place = Place::with(&["thanks", "thank you"]);
        let server = Server::start(move |_, _| Reply::Status(status, Vec::new(), says.to_owned())).await;
        let judge = place.judge(&server, quick());
        let error = place.score(&judge).await.ended.unwrap();
        assert!(matches!(&error, Error::Refused(why) if why.contains(&status.to_string())), "{error}");
        assert!(!error.to_string().contains("secret-of-the-test"), "{error}");
        assert_eq!(server.requests().len(), 1);
        assert_eq!(server.requests()[0].authorization.as_deref(), Some("Bearer sk-secret-of-the-test"));
        assert!(!format!("{judge:?}").contains("secret-of-the-test"));
    }
}

#[tokio::test]
async fn a_server_that_wants_longer_than_we_wait_gets_no_repetition() {
    let place = Place::with(&["thanks"]);
    let server =
        Server::start(|_, _| Reply::Status(429, vec![("retry-after", "3600".to_owned())], String::new())).await;
    let judge = place.judge(&server, quick());
    let report = place.score(&judge).await;
    assert_eq!((report.rows.unanswered.get(&Retry::RateLimited), judge.tally().requests), (Some(&1), 1));
}

/// What the server asks for is waited for, by the clock of the runtime: the second attempt does not come earlier.
#[tokio::test]
async fn retry_after_is_honoured() {
    let place = Place::with(&["thanks", "thank you"]);
    let server = Server::start(|number, _| match number {
        0 => Reply::Status(429, vec![("retry-after-ms", "250".to_owned())], String::new()),
        _ => thanks(),
    })
    .await;
    let retry = RetryPolicy { patience: Duration::from_secs(5), ..quick().retry };
    // Both rows at once: the limit is on all that is sent.
    let judge = place.judge(&server, Options { concurrency: 1, retry, ..quick() });
    let begun = std::time::Instant::now();
    let report = place.score(&judge).await;
    assert_eq!(report.rows.written, 2);
    assert!(begun.elapsed() >= Duration::from_millis(250), "{:?}", begun.elapsed());
}

#[tokio::test]
async fn evidence_that_is_not_there_is_asked_about_once_more_and_then_refused() {
    let place = Place::with(&["ok, thanks", "no, shorter", "fine"]);
    let server = Server::start(|_, got| match (got.follow_up().as_str(), got.is_second()) {
        // Mended by the second answer.
        ("ok, thanks", false) => Reply::labels(&[("gratitude", "Thank you"), ("acknowledgment", "ok")]),
        ("ok, thanks", true) => Reply::labels(&[("gratitude", "thanks"), ("acknowledgment", "ok")]),
        // Not mended: what holds is kept, what does not is counted.
        ("no, shorter", _) => {
            Reply::labels(&[("style", "shorter"), ("revision", "make it short"), ("praise", ""), ("anger", "no")])
        }
        // The second answer is none at all: what held of the first one stays.
        (_, false) => Reply::labels(&[("praise", "fine"), ("humor", "answer")]),
        (_, true) => Reply::Answer("I am sorry.".to_owned()),
    })
    .await;
    let judge = place.judge(&server, quick());
    let report = place.score(&judge).await;
    let expected = [
        (json!(["gratitude", "acknowledgment"]), json!([])),
        (json!([]), json!(["style"])),
        (json!(["praise"]), json!([])),
    ];
    assert_eq!(place.labels(), expected);
    assert_eq!(judge.tally().asked_again, 3);
    let refused: Vec<(Fault, u64)> = report.refused.into_iter().collect();
    assert_eq!(refused, [(Fault::NoEvidence, 1), (Fault::NotLiteral, 2), (Fault::UnknownLabel, 1)]);
    let lines = place.lines("labels.jsonl");
    assert_eq!(lines[0]["evidence"], json!({"acknowledgment": "ok", "gratitude": "thanks"}));
    assert_eq!(lines[2]["refused"], json!([{"label": "humor", "reason": "not_literal"}]));
    let asked_again = server.requests().into_iter().find(|got| got.is_second() && got.follow_up() == "ok, thanks");
    let complaint = asked_again.unwrap().asked().to_owned();
    assert!(complaint.contains("label `gratitude`: its evidence does not stand in follow_up"), "{complaint}");
    assert!(!complaint.contains("acknowledgment"), "{complaint}");
}

#[tokio::test]
async fn rows_that_get_no_labels_stand_in_a_file_of_their_own() {
    let place = Place::with(&["refused", "broken", "long", "filtered", " \u{200b}", "huge", "odd", "thanks"]);
    let server = Server::start(|_, got| match got.follow_up().as_str() {
        "refused" => Reply::Refusal,
        "broken" => Reply::Answer("{\"labels\": [oh".to_owned()),
        "long" => Reply::CutOff("{\"labels\": [".to_owned()),
        "filtered" => Reply::Status(400, Vec::new(), r#"{"error":{"code":"content_filter"}}"#.to_owned()),
        "huge" => Reply::Status(400, Vec::new(), r#"{"error":{"code":"context_length_exceeded"}}"#.to_owned()),
        "odd" => Reply::Status(400, Vec::new(), "who knows".to_owned()),
        _ => thanks(),
    })
    .await;
    let judge = place.judge(&server, quick());
    let report = place.score(&judge).await;
    assert!(report.ended.is_none(), "{:?}", report.ended);
    let expected = [
        Rejection::Refusal,
        Rejection::MalformedAnswer,
        Rejection::AnswerCutOff,
        Rejection::Refusal,
        Rejection::NoText,
        Rejection::TooLong,
        Rejection::BadRequest,
    ];
    let rejected = place.lines("labels.rejected.jsonl");
    let reasons: Vec<&str> = rejected.iter().map(|line| line["reason"].as_str().unwrap()).collect();
    assert_eq!(reasons, expected.map(Rejection::name));
    assert_eq!(report.rows.rejected.values().sum::<u64>(), 7);
    assert_eq!(place.labels().len(), 1);
    // A refusal is not argued with, an answer that is none is asked for once more, a row without text not at all.
    assert_eq!(judge.tally().requests, 1 + 2 + 2 + 1 + 1 + 1 + 1);

    let requests = server.requests().len();
    let judge = place.judge(&server, quick());
    let report = place.score(&judge).await;
    assert_eq!((report.rows.before, report.rows.written, server.requests().len()), (8, 0, requests));
    let mut job = place.job();
    job.retry_rejected = true;
    let rubric = crate::Rubric::built_in().unwrap();
    let report = crate::score::score(&judge, &rubric, crate::score::Options::default(), &job, || {}).await.unwrap();
    assert_eq!((report.rows.before, report.rows.rejected.values().sum::<u64>()), (1, 7));
    assert_eq!(place.lines("labels.rejected.jsonl"), rejected);
}

#[tokio::test]
async fn a_server_without_schemas_is_asked_in_words() {
    let place = Place::with(&["thanks", "thanks a lot"]);
    let server = Server::start(|_, got| match got.body["response_format"]["type"].as_str() {
        Some(format) => Reply::Status(400, Vec::new(), format!("response_format {format} is not supported")),
        None => Reply::Answer(
            "Sure!\n```json\n{\"labels\":[{\"label\":\"gratitude\",\"evidence\":\"thanks\"}]}\n```".to_owned(),
        ),
    })
    .await;
    let judge = place.judge(&server, quick());
    let report = place.score(&judge).await;
    assert_eq!((report.rows.written, report.sat), (2, 2));
    let formats: Vec<bool> = server.requests().iter().map(|got| got.body.get("response_format").is_some()).collect();
    assert_eq!(formats, [true, true, false, false], "what was found out counts for the whole run");
    let told = server.requests()[3].body["messages"][0]["content"].as_str().unwrap().to_owned();
    assert!(told.contains("JSON schema") && told.contains("\"evidence\""), "{told}");
}
