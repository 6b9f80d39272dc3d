use std::path::Path;

use super::*;
use crate::rows::Message;

fn answer(id: usize, response: &str, score: Option<f64>) -> Answer {
    let prompt = vec![Message { role: "user".to_owned(), content: format!("question <{id}>") }];
    Answer { id: format!("q{id}"), sample: 0, prompt, response: response.to_owned(), cut: false, score }
}

fn plain(count: usize) -> Vec<Answer> {
    let words = ["oak", "elm", "ash", "fir", "yew", "bay", "fig"];
    (0..count).map(|id| answer(id, &format!("The {} grows near {id} of them", words[id % 7]), Some(0.1))).collect()
}

fn figures<'a>(comparison: &'a Comparison, name: &str) -> &'a MeasureFigures {
    comparison.measures.iter().find(|figures| figures.name == name).unwrap()
}

#[test]
fn equal_answers_trip_nothing() {
    let answers = plain(40);
    let comparison = compare(&answers, &answers, 1).unwrap();
    assert_eq!((comparison.prompts, comparison.tripped, comparison.left_out), (40, 0, [0, 0]));
    let score = comparison.score.unwrap();
    assert!(score.difference.value.abs() < 1e-12 && (score.win_rate.value - 0.5).abs() < 1e-12);
}

/// The paper's case: "bye" goes from under one percent to nearly three, hidden behind a higher score.
#[test]
fn a_rise_of_goodbyes_trips_its_wire() {
    let production = plain(1_000);
    let mut candidate = production.clone();
    for answer in candidate.iter_mut().step_by(36) {
        answer.response.push_str(". Bye!");
        answer.score = Some(0.9);
    }
    let comparison = compare(&candidate, &production, 1).unwrap();
    let closings = figures(&comparison, "closings");
    assert!(closings.tripped == 1 && closings.difference.low > 0.015, "{closings:?}");
    assert_eq!(comparison.tripped, 1);
    assert!(comparison.score.as_ref().unwrap().difference.low > 0.0);
    let html = page(&comparison, ["new", "old"]);
    assert!(
        html.contains("Tripped: closings.") && html.contains("question &lt;0&gt;") && !html.contains("question <0>")
    );
    assert!(!html.contains("http://") && !html.contains("https://") && !html.contains("NaN"), "it needs nothing else");
}

#[test]
fn few_answers_are_no_evidence_and_lengths_and_diversity_are() {
    let production = plain(12);
    let mut once = production.clone();
    once[3].response.push_str(" Goodbye.");
    assert_eq!(compare(&once, &production, 1).unwrap().tripped, 0);
    let same: Vec<Answer> = production
        .iter()
        .map(|one| Answer {
            response: "As a rule it depends on very many things and so on and on and on, always".to_owned(),
            ..one.clone()
        })
        .collect();
    let comparison = compare(&same, &production, 1).unwrap();
    assert_eq!(figures(&comparison, "words").tripped, 1);
    let tripped: Vec<&str> =
        comparison.corpus.iter().filter(|figures| figures.tripped == 1).map(|figures| figures.name).collect();
    assert_eq!(tripped, ["distinct_2", "same_opening"]);
}

#[test]
fn length_alone_is_taken_out_of_the_score() {
    let longer = |id: usize, words: usize| "word ".repeat(words + id % 5);
    let production: Vec<Answer> =
        (0..60).map(|id| answer(id, &longer(id, 10), Some(0.01 * (10 + id % 5) as f64))).collect();
    let candidate: Vec<Answer> = (0..60)
        .map(|id| {
            let words = 10 + (id * 7) % 11;
            answer(id, &"word ".repeat(words), Some(0.01 * words as f64))
        })
        .collect();
    let score = compare(&candidate, &production, 1).unwrap().score.unwrap();
    assert!(score.difference.value > 0.02, "{score:?}");
    assert!(score.length_controlled.unwrap().value.abs() < 1e-9 && score.length_correlation.unwrap() > 0.999);
}

#[test]
fn what_cannot_be_compared_is_refused() {
    let (one, mut other) = (plain(3), plain(3));
    assert!(compare(&one, &[answer(9, "x", None)], 1).unwrap_err().to_string().contains("answered by both"));
    other[1].prompt[0].content = "another".to_owned();
    assert!(compare(&one, &other, 1).unwrap_err().to_string().contains("`q1` means one prompt"));
    let short = plain(2);
    assert_eq!(compare(&one, &short, 1).unwrap().left_out, [1, 0]);
    let read = |text: &str| read(text.as_bytes(), Path::new("answers.jsonl")).map_err(|error| error.to_string());
    let good =
        r#"{"id":7,"prompt":[{"role":"user","content":"Hi"}],"response":"Hello","finish_reason":"length","tokens":1}"#;
    let found = read(good).unwrap();
    assert_eq!((found[0].id.as_str(), found[0].cut, found[0].sample), ("7", true, 0));
    assert!(read(&format!("{good}\n{good}")).unwrap_err().contains("line 2: a second answer"));
    assert!(read("{}").unwrap_err().contains("line 1: no answer"));
    assert!(read("").unwrap_err().contains("holds no answers"));
}
