//! Conversations that were judged in another way than by the 18 labels: people's ratings, thumbs, judgements of dialogue
//! breakdown. They say something about `sat` and `dsat`, and nothing about the labels.
//!
//! A file has a line per conversation, plain or gzip'd: `{"conversation_id", "source", "messages", "labels": [{"turn": judged
//! response, "feedback_turn": the user's next message, "scale", "annotators", "sat", "dsat", "p_breakdown"}]}`. The scale
//! decides the rule:
//! - `1-5`, several annotators: strict. A side holds where two of them or more are on it (below 3, above 3) and none
//!   on the other; it does not where none is on it. What lies between is measured as not holding, and not trained on.
//! - `thumbs …`: a thumb up is `sat`, a thumb down `dsat`.
//! - `p_breakdown`, the share of annotators who saw a breakdown: how far `dsat` holds.

use std::collections::HashMap;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};
use uptake_model::labels::{DSAT, SAT};

use super::{Example, Message, Part, Place, Split, each_line, places};
use crate::error::Result;

/// A file of weak evidence and how much a row of it counts.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Weak {
    /// The file.
    #[serde(serialize_with = "file_name")]
    pub path: PathBuf,
    /// Weight of its rows' targets; a labelled row's have 1.
    pub weight: f32,
}

fn file_name<S: serde::Serializer>(path: &std::path::Path, serializer: S) -> std::result::Result<S::Ok, S::Error> {
    serializer.serialize_str(&path.file_name().unwrap_or_default().to_string_lossy())
}

impl std::str::FromStr for Weak {
    type Err = String;

    /// `FILE` or `FILE=WEIGHT`.
    fn from_str(text: &str) -> std::result::Result<Self, String> {
        let (path, weight) = match text.rsplit_once('=') {
            Some((path, weight)) => {
                let weight = weight.parse().ok().filter(|weight: &f32| weight.is_finite() && *weight > 0.0);
                (path, weight.ok_or_else(|| format!("`{text}`: the weight must be a number above 0"))?)
            }
            None => (text, 1.0),
        };
        Ok(Self { path: PathBuf::from(path), weight })
    }
}

/// A judged conversation.
#[derive(Clone, Debug, PartialEq)]
pub struct WeakConversation {
    /// Which of the files it comes from.
    pub file: usize,
    /// Its own name.
    pub conversation_id: String,
    /// Of every message, see [`Example::place`].
    pub places: Vec<Place>,
    /// Judged follow-ups.
    pub examples: Vec<Example>,
    /// Judgements that are not about a response with a follow-up right after it, or that decide nothing.
    pub passed_over: usize,
}

#[derive(Deserialize)]
struct Row {
    conversation_id: String,
    source: String,
    messages: Vec<Message>,
    #[serde(default)]
    labels: Vec<Judgement>,
}

#[derive(Deserialize)]
struct Judgement {
    turn: Option<usize>,
    feedback_turn: Option<usize>,
    #[serde(default)]
    scale: String,
    #[serde(default)]
    annotators: Vec<serde_json::Value>,
    sat: Option<f32>,
    dsat: Option<f32>,
    p_breakdown: Option<f32>,
}

/// How far a side holds, and whether that may be trained on.
type Side = Option<(f32, bool)>;

impl Judgement {
    fn sides(&self) -> Result<(Side, Side), String> {
        if let Some(share) = self.p_breakdown {
            return if (0.0..=1.0).contains(&share) {
                Ok((None, Some((share, true))))
            } else {
                Err(format!("p_breakdown is {share}, a share is between 0 and 1"))
            };
        }
        if self.scale.starts_with("thumbs") {
            let side = |value: Option<f32>| value.map(|value| (value, true));
            return Ok((side(self.sat), side(self.dsat)));
        }
        if self.scale.starts_with("1-5") {
            let ratings: Option<Vec<f64>> = self.annotators.iter().map(serde_json::Value::as_f64).collect();
            let ratings = ratings.ok_or("the annotators of a rating must be numbers")?;
            let below = ratings.iter().filter(|rating| **rating < 3.0).count();
            let above = ratings.iter().filter(|rating| **rating > 3.0).count();
            let strict = |here: usize, there: usize| match (here, there) {
                (2.., 0) => (1.0, true),
                (0, _) => (0.0, true),
                _ => (0.0, false),
            };
            return Ok((Some(strict(above, below)), Some(strict(below, above))));
        }
        Err(format!("scale `{}` is none of `1-5`, `thumbs …` and p_breakdown", self.scale))
    }
}

/// Reads judged conversations.
///
/// # Errors
/// [`crate::Error::File`] where a file cannot be read, [`crate::Error::Data`] at the first line that is no such conversation.
pub fn read_weak(files: &[Weak]) -> Result<Vec<WeakConversation>> {
    let mut all = Vec::new();
    for (file, weak) in files.iter().enumerate() {
        each_line(&weak.path, &mut |line| {
            all.push(parse(line, file, weak.weight)?);
            Ok(())
        })?;
    }
    Ok(all)
}

fn parse(line: &str, file: usize, weight: f32) -> Result<WeakConversation, String> {
    let row: Row = serde_json::from_str(line).map_err(|error| error.to_string())?;
    let mut examples = Vec::new();
    for judgement in &row.labels {
        let (Some(turn), Some(feedback)) = (judgement.turn, judgement.feedback_turn) else { continue };
        if feedback != turn.saturating_add(1) {
            continue;
        }
        let Some(mut example) = Example::at(&row.conversation_id, &row.source, &row.messages, feedback) else {
            continue;
        };
        let (sat, dsat) = judgement.sides()?;
        for (output, side) in [(SAT, sat), (DSAT, dsat)] {
            if let Some((target, train)) = side {
                example.targets[output] = target;
                example.known[output] = true;
                example.weights[output] = if train { weight } else { 0.0 };
            }
        }
        if example.known.contains(&true) {
            examples.push(example);
        }
    }
    Ok(WeakConversation {
        file,
        conversation_id: row.conversation_id,
        places: places(&row.messages).collect(),
        passed_over: row.labels.len() - examples.len(),
        examples,
    })
}

/// Gives conversations that labelled examples come from, under whatever name, the name that they have there: so they fall
/// into the same part of the split, and what was kept for the test is trained on in no guise. Where several names fit, the
/// one decides that is kept furthest from training.
pub fn bind(labelled: &[Example], weak: &mut [WeakConversation], split: Split) -> usize {
    let names: HashMap<Place, &str> =
        labelled.iter().map(|example| (example.place, example.conversation_id.as_str())).collect();
    let distance = |name: &str| match split.part(name) {
        Part::Test => 2,
        Part::Validation => 1,
        Part::Training => 0,
    };
    let mut bound = 0;
    for conversation in weak {
        let found = conversation.places.iter().filter_map(|place| names.get(place).copied());
        let Some(name) = found.max_by_key(|name| distance(name)) else { continue };
        bound += 1;
        name.clone_into(&mut conversation.conversation_id);
        for example in &mut conversation.examples {
            name.clone_into(&mut example.conversation_id);
        }
    }
    bound
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(label: &str) -> String {
        format!(
            r#"{{"conversation_id":"w","source":"s","messages":[{{"role":"user","content":"hi"}},{{"role":"assistant","content":"hello"}},
            {{"role":"user","content":"thanks"}},{{"role":"user","content":"?"}}],"labels":[{{"turn":1,"feedback_turn":2,{label}}}]}}"#
        )
    }

    /// Target, whether known and weight of `sat`, then of `dsat`.
    #[track_caller]
    fn check(label: &str, expected: [(f32, bool, f32); 2]) {
        let conversation = parse(&line(label), 3, 0.5).unwrap();
        assert_eq!((conversation.file, conversation.passed_over), (3, 0));
        let example = &conversation.examples[0];
        assert_eq!((example.last_user.as_str(), example.follow_up.as_str()), ("hi", "thanks"));
        let side = |output: usize| (example.targets[output], example.known[output], example.weights[output]);
        assert_eq!([side(SAT), side(DSAT)], expected, "{label}");
        assert!((0..SAT).all(|output| !example.known[output] && example.weights[output] == 0.0));
    }

    #[test]
    fn ratings_are_read_by_the_strict_rule() {
        let rated = |annotators: &str| format!(r#""scale":"1-5","annotators":{annotators},"sat":1,"dsat":1"#);
        check(&rated("[4,5,3]"), [(1.0, true, 0.5), (0.0, true, 0.5)]);
        check(&rated("[1,2,3]"), [(0.0, true, 0.5), (1.0, true, 0.5)]);
        check(&rated("[3,3,3]"), [(0.0, true, 0.5), (0.0, true, 0.5)]);
        check(&rated("[4,3,3]"), [(0.0, true, 0.0), (0.0, true, 0.5)]);
        check(&rated("[4,4,2]"), [(0.0, true, 0.0), (0.0, true, 0.0)]);
        check(&rated("[2,2,2,4]"), [(0.0, true, 0.0), (0.0, true, 0.0)]);
    }

    #[test]
    fn thumbs_and_breakdowns_are_read() {
        check(r#""scale":"thumbs 0/1","annotators":[1],"sat":1,"dsat":0"#, [(1.0, true, 0.5), (0.0, true, 0.5)]);
        check(
            r#""scale":"O/T/X x30","annotators":["O:7"],"sat":null,"dsat":0,"p_breakdown":0.3"#,
            [(0.0, false, 0.0), (0.3, true, 0.5)],
        );
    }

    #[test]
    fn what_is_no_judgement_of_a_followed_response_is_passed_over() {
        for (from, to) in [
            (r#""turn":1"#, r#""turn":null"#),
            (r#""feedback_turn":2"#, r#""feedback_turn":null"#),
            (r#""feedback_turn":2"#, r#""feedback_turn":3"#),
            (r#""turn":1,"feedback_turn":2"#, r#""turn":2,"feedback_turn":3"#),
            (r#""scale":"thumbs 0/1""#, r#""scale":"thumbs 0/1","annotators":[]"#),
        ] {
            let conversation = parse(&line(r#""scale":"thumbs 0/1","sat":null,"dsat":null"#).replace(from, to), 0, 1.0);
            let conversation = conversation.unwrap();
            assert_eq!((conversation.examples.len(), conversation.passed_over), (0, 1), "{to}");
        }
        for (label, reason) in [
            (r#""scale":"stars""#, "scale `stars` is none of"),
            (r#""scale":"1-5","annotators":["good"]"#, "must be numbers"),
            (r#""p_breakdown":1.5"#, "p_breakdown is 1.5"),
        ] {
            let error = parse(&line(label), 0, 1.0).unwrap_err();
            assert!(error.contains(reason), "{error}");
        }
    }

    #[test]
    fn a_file_may_have_a_weight() {
        assert_eq!("a/b.gz".parse(), Ok(Weak { path: "a/b.gz".into(), weight: 1.0 }));
        assert_eq!("a=b.gz=0.3".parse(), Ok(Weak { path: "a=b.gz".into(), weight: 0.3 }));
        for bad in ["a=x", "a=0", "a=-1", "a=NaN", "a="] {
            assert!(bad.parse::<Weak>().unwrap_err().contains("above 0"), "{bad}");
        }
    }

    #[test]
    fn a_conversation_known_under_another_name_follows_it_into_its_part() {
        let split = Split { seed: 1, validation: 0.3, test: 0.3 };
        let name = |part: Part| (0..100).map(|id| id.to_string()).find(|id| split.part(id) == part).unwrap();
        let mut labelled = Vec::new();
        let judged = line(r#""scale":"thumbs 0/1","sat":1,"dsat":0"#);
        for part in [Part::Training, Part::Test, Part::Validation] {
            let mut example = parse(&judged, 0, 1.0).unwrap().examples.remove(0);
            example.conversation_id = name(part);
            labelled.push(example);
        }
        // Two names for one place: only one can be found by it, so each is tried on its own.
        for example in &labelled {
            let mut weak = vec![parse(&judged, 0, 1.0).unwrap(), parse(&judged.replace("hi", "ho"), 0, 1.0).unwrap()];
            assert_eq!(bind(std::slice::from_ref(example), &mut weak, split), 1);
            assert_eq!(weak[0].conversation_id, example.conversation_id);
            assert_eq!(weak[0].examples[0].conversation_id, example.conversation_id);
            assert_eq!(weak[1].conversation_id, "w");
        }
        // Different places of the same conversation: the part furthest from training.
        let mut weak = vec![parse(&judged, 0, 1.0).unwrap()];
        for (example, place) in labelled.iter_mut().zip(&weak[0].places) {
            example.place = *place;
        }
        assert_eq!(bind(&labelled, &mut weak, split), 1);
        assert_eq!(split.part(&weak[0].conversation_id), Part::Test);
    }
}
