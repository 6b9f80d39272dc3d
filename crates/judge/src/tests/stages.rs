//! Reasons, then a rubric made of them, then scores by it.

use serde_json::{Value, json};

use super::kit::{Place, quick};
use crate::error::Error;
use crate::evidence::Fault;
use crate::reasons::{self, Side};
use crate::testing::{Got, Reply, Server};
use crate::{Rubric, score, summary};
use uptake_model::labels::Label;

fn chat(id: &str, follow_up: &str, rest: &Value) -> String {
    let mut line = json!({"conversation_id": id, "messages": [
        {"role": "user", "content": "question"},
        {"role": "assistant", "content": "answer"},
        {"role": "user", "content": follow_up},
    ]});
    for (name, value) in rest.as_object().unwrap() {
        line[name] = value.clone();
    }
    line.to_string()
}

fn chats() -> String {
    let hearts = json!({"reactions": [{"turn": 1, "kind": "love"}]});
    let mut lines: Vec<String> =
        (0..4).map(|number| chat(&format!("loved-{number}"), &format!("spot on {number}"), &hearts)).collect();
    lines.push(chat("down", "that is wrong", &json!({"reactions": [{"turn": 1, "value": 0}]})));
    lines.push(chat("judged", "again, wrong", &json!({"labels": [{"turn": 1, "sat": 0, "dsat": 1}]})));
    lines.push(chat(
        "labelled",
        "wrong but thanks",
        &json!({"turn": 2, "sat": ["gratitude"], "dsat": ["factual_error"]}),
    ));
    lines.push(chat("nothing", "and now?", &json!({"reactions": [{"turn": 1, "kind": "copy"}]})));
    lines.join("\n")
}

fn reason(side: &str, reason: &str, evidence: &str) -> Value {
    json!({"side": side, "reason": reason, "evidence": evidence})
}

/// Answers of all three stages.
fn model(got: &Got) -> Reply {
    let schema = got.body["response_format"]["json_schema"]["name"].as_str().unwrap();
    let answer = match schema {
        "reasons" => {
            let follow_up = got.follow_up();
            let mut found = Vec::new();
            if follow_up.starts_with("spot on") {
                found.push(reason("sat", "calls the answer exact", "spot on"));
            }
            if follow_up.contains("wrong") {
                found.push(reason("dsat", "says that it is wrong", "wrong"));
            }
            if follow_up.contains("thanks") {
                found.push(reason("sat", "thanks in passing", "thanks"));
                found.push(reason("sat", "made up", "thank you so much"));
            }
            json!({"reasons": found})
        }
        "assignments" => {
            let lines = got.asked().lines();
            let assignments: Vec<Value> = (1..)
                .zip(lines)
                .map(|(number, line)| {
                    let label = if line.contains("exact") {
                        "praise"
                    } else if line.contains("wrong") {
                        "factual_error"
                    } else {
                        "none"
                    };
                    json!({"number": number, "label": label})
                })
                .collect();
            json!({"assignments": assignments})
        }
        "criteria" => json!({"criteria": [
            {"text": "Says in two words that it hits the mark", "numbers": [1, 2, 3]},
            {"text": "Made of nothing", "numbers": [77]},
        ]}),
        _ => json!({"rationale": "", "labels": [{"label": "praise", "evidence": "spot on"}]}),
    };
    Reply::Answer(answer.to_string())
}

#[tokio::test]
async fn the_three_stages_hand_on_their_files() {
    let place = Place::with(&[]);
    std::fs::write(place.path("chats.jsonl"), chats()).unwrap();
    let server = Server::start(|_, got| model(got)).await;
    let judge = place.judge(&server, quick());

    let mut job = place.job();
    job.output = place.path("reasons.jsonl");
    let options = reasons::Options::default();
    let mut asked = 0;
    let report = reasons::reasons(&judge, &options, &job, |wanted| asked = wanted, || {}).await.unwrap();
    assert!(report.ended.is_none(), "{:?}", report.ended);
    assert_eq!((asked, report.unknown, report.rows.written), (7, 1, 7));
    assert_eq!((report.known[&Side::Sat], report.known[&Side::Dsat]), (5, 3));
    assert_eq!((report.reasons[&Side::Sat], report.reasons[&Side::Dsat]), (5, 3));
    assert_eq!(report.refused.get(&Fault::NotLiteral), Some(&1), "what the user never said is no reason");
    let lines = place.lines("reasons.jsonl");
    assert_eq!(lines[4]["known"], json!({"sat": [], "dsat": ["thumbs_down"]}));
    assert_eq!(lines[6]["known"], json!({"sat": ["gratitude"], "dsat": ["factual_error"]}));
    assert!(server.requests()[0].asked().starts_with(r#"{"known":{"sat":["love"],"dsat":[]},"earlier":[]"#));

    let made = summary::Options { inputs: vec![place.path("reasons.jsonl")], ..summary::Options::default() };
    let summary = summary::summarise(&judge, &Rubric::built_in().unwrap(), &made).await.unwrap();
    assert_eq!((summary.reasons, summary.unassigned, summary.criteria, summary.refused), (8, 1, 2, 2));
    assert_eq!((summary.assigned[&Label::Praise], summary.assigned[&Label::FactualError]), (4, 3));
    assert!(summary.text.contains("# - thanks in passing"), "{}", summary.text);
    let rubric = Rubric::parse(&summary.text).unwrap();
    assert_eq!(rubric.entry(Label::Praise).unwrap().criteria, ["Says in two words that it hits the mark"]);

    let before = server.requests().len();
    let report = score::score(&judge, &rubric, score::Options::default(), &place.job(), || {}).await.unwrap();
    assert_eq!(report.labels[usize::from(Label::Praise.code())], 4);
    let told = server.requests()[before].body["messages"][0]["content"].as_str().unwrap().to_owned();
    assert!(told.contains("  - Says in two words that it hits the mark"), "{told}");

    // All of it again costs nothing.
    let requests = server.requests().len();
    let again = place.judge(&server, quick());
    let second = summary::summarise(&again, &Rubric::built_in().unwrap(), &made).await.unwrap();
    assert_eq!((second.text, server.requests().len()), (summary.text, requests));
}

#[tokio::test]
async fn the_draw_is_balanced_and_follows_its_seed() {
    let place = Place::with(&[]);
    std::fs::write(place.path("chats.jsonl"), chats()).unwrap();
    let server = Server::start(|_, got| model(got)).await;
    let run = async |seed: u64, name: &str| {
        let mut job = place.job();
        job.output = place.path(name);
        let options = reasons::Options { per_side: 2, seed, ..reasons::Options::default() };
        let report = reasons::reasons(&place.judge(&server, quick()), &options, &job, |_| {}, || {}).await.unwrap();
        assert!((2..=4).contains(&report.rows.written), "{report:?}");
        std::fs::read(place.path(name)).unwrap()
    };
    let first = run(1, "a.jsonl").await;
    assert_eq!(run(1, "b.jsonl").await, first);
    let mut others = Vec::new();
    for seed in 2..8 {
        others.push(run(seed, &format!("{seed}.jsonl")).await);
    }
    assert!(others.iter().any(|other| *other != first));
}

#[tokio::test]
async fn what_cannot_begin_says_why() {
    let place = Place::with(&["no outcome known"]);
    let server = Server::start(|_, got| model(got)).await;
    let judge = place.judge(&server, quick());
    let run = async |options: reasons::Options| {
        reasons::reasons(&judge, &options, &place.job(), |_| {}, || {}).await.unwrap_err().to_string()
    };
    assert!(run(reasons::Options::default()).await.contains("no follow-up in these files has a known outcome"));
    let mut options = reasons::Options::default();
    options.satisfied.insert("hug".to_owned());
    assert!(run(options).await.contains("`hug` is no kind of reaction; there are love, like"));
    let inputs = vec![place.path("chats.jsonl")];
    let made = summary::Options { inputs, ..summary::Options::default() };
    let error = summary::summarise(&judge, &Rubric::built_in().unwrap(), &made).await.unwrap_err();
    assert!(matches!(&error, Error::Data { line: 1, reason, .. } if reason.contains("annotate reasons")), "{error}");
    assert!(server.requests().is_empty());
}
