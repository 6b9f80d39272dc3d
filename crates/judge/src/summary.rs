//! The second stage: reasons → a rubric.
//!
//! The labels are fixed, since a classifier is trained on them; what is learned is how they show in this product. First
//! each reason is given to the label that it is an instance of, or to none, in batches; then the reasons of each label are
//! summed up in a few criteria, each with the numbers of the reasons that it was made from. A criterion that names no
//! reasons, or such as are not there, is not taken. Reasons that fit no label end as comments for whoever edits the rubric.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

use futures::{FutureExt as _, StreamExt as _, TryStreamExt as _};
use serde::Deserialize;
use serde_json::json;
use uptake_model::labels::{Kind, Label};

use crate::consult::{Reading, consult, object};
use crate::endpoint::{Message, Request, Role, Schema};
use crate::error::{Error, Result};
use crate::judge::Judge;
use crate::reasons::{self, Reason, Side};
use crate::rubric::{Criterion, Rubric};
use crate::run::Outcome;
use crate::score;

/// Reasons of one batch.
const BATCH: usize = 40;
/// Reasons that a summary is made from; of more, every so-many-th.
const SUMMED_UP: usize = 80;
/// Reasons that a criterion must be made from.
const SUPPORT: usize = 2;
/// Unassigned reasons that are shown in the file.
const UNASSIGNED_SHOWN: usize = 20;
/// Longest criterion in characters.
const LONGEST_CRITERION: usize = 300;

/// How a rubric is made.
#[derive(Clone, Debug)]
pub struct Options {
    /// Files that the first stage wrote.
    pub inputs: Vec<PathBuf>,
    /// Reasons that a label must have before criteria are made for it.
    pub least_reasons: usize,
    /// Criteria of a label at most.
    pub most_criteria: usize,
    /// How answers are made.
    pub answers: score::Options,
}

impl Default for Options {
    fn default() -> Self {
        let answers = score::Options { max_tokens: 2_000, ..score::Options::default() };
        Self { inputs: Vec::new(), least_reasons: 3, most_criteria: 5, answers }
    }
}

/// A rubric, and how it came about.
#[derive(Clone, Debug)]
pub struct Summary {
    /// The file.
    pub text: String,
    /// Reasons read.
    pub reasons: u64,
    /// Reasons of each label.
    pub assigned: BTreeMap<Label, u64>,
    /// Reasons that fit no label, or that no answer spoke of.
    pub unassigned: u64,
    /// Criteria made.
    pub criteria: u64,
    /// Criteria that were not taken because the reasons they name are not there or too few.
    pub refused: u64,
}

/// Makes a rubric of reasons, on the base of another.
///
/// # Errors
/// What ends the run: files, the budget, the endpoint. What was answered until then is in the cache.
pub async fn summarise(judge: &Judge, base: &Rubric, options: &Options) -> Result<Summary> {
    let mut found = Vec::new();
    for path in &options.inputs {
        found.extend(reasons::read(path)?);
    }
    if found.is_empty() {
        return Err(Error::Invalid(
            "the files hold no reasons: run `annotate reasons` on exchanges with known outcomes".to_owned(),
        ));
    }
    let assigned = assign(judge, base, options, &found).await?;
    let mut by_label: BTreeMap<Label, Vec<&Reason>> = BTreeMap::new();
    let mut unassigned = Vec::new();
    for (reason, label) in found.iter().zip(&assigned) {
        match label {
            Some(label) => by_label.entry(*label).or_default().push(reason),
            None => unassigned.push(reason),
        }
    }
    let enough = by_label.iter().filter(|(_, reasons)| reasons.len() >= options.least_reasons);
    let mut asked = Vec::new();
    for (label, reasons) in enough {
        asked.push(sum_up(judge, base, options, *label, reasons).boxed());
    }
    let summed: Vec<(Label, Criteria)> =
        futures::stream::iter(asked).buffered(judge.concurrency()).try_collect().await?;
    let refused = summed.iter().map(|(_, criteria)| criteria.refused).sum();
    let criteria: BTreeMap<Label, Vec<Criterion>> =
        summed.into_iter().map(|(label, criteria)| (label, criteria.taken)).collect();
    let shown: BTreeSet<&str> = unassigned.iter().map(|reason| reason.text.as_str()).collect();
    let shown: Vec<String> = shown.into_iter().take(UNASSIGNED_SHOWN).map(str::to_owned).collect();
    let text = base.with_criteria(&criteria, &shown);
    Rubric::parse(&text).map_err(|error| Error::Bug(format!("the rubric that was made is none: {error}")))?;
    Ok(Summary {
        text,
        reasons: found.len() as u64,
        assigned: by_label.iter().map(|(label, reasons)| (*label, reasons.len() as u64)).collect(),
        unassigned: unassigned.len() as u64,
        criteria: criteria.values().map(|criteria| criteria.len() as u64).sum(),
        refused,
    })
}

const fn kind_of(side: Side) -> Kind {
    match side {
        Side::Sat => Kind::Satisfaction,
        Side::Dsat => Kind::Dissatisfaction,
    }
}

fn request(options: &Options, system: String, user: String, schema: Schema) -> Request {
    let score::Options { max_tokens, temperature, seed } = options.answers;
    let messages = vec![Message::new(Role::System, system), Message::new(Role::User, user)];
    Request { messages, schema, max_tokens, temperature, seed }
}

/// A numbered list for a model, from 1 on.
fn numbered<'a>(reasons: impl IntoIterator<Item = &'a str>) -> String {
    let lines: Vec<String> =
        (1..).zip(reasons).map(|(number, reason)| format!("{number}. {}", json!(reason))).collect();
    lines.join("\n")
}

fn schema(name: &'static str, list: &'static str, properties: &serde_json::Value, required: &[&str]) -> Schema {
    let item = json!({"type": "object", "properties": properties, "required": required, "additionalProperties": false});
    let value = json!({
        "type": "object",
        "properties": {list: {"type": "array", "items": item}},
        "required": [list],
        "additionalProperties": false,
    });
    Schema { name, value }
}

/// A step that must have an answer: without it there is no rubric.
async fn must<T>(judge: &Judge, request: &Request, read: impl Fn(&str) -> Option<Reading<T>> + Send + Sync) -> Result<T>
where
    T: Send,
{
    match consult(judge, request, read).await? {
        Outcome::Done(value) => Ok(value),
        Outcome::Rejected(reason) => {
            Err(Error::Refused(format!("no answer of use while the rubric was made ({reason})")))
        }
        Outcome::Unanswered(reason) => Err(Error::Unanswered { rows: 1, last: reason.to_string() }),
    }
}

/// The label of each reason, in order.
async fn assign(judge: &Judge, base: &Rubric, options: &Options, found: &[Reason]) -> Result<Vec<Option<Label>>> {
    let mut assigned = vec![None; found.len()];
    for side in [Side::Sat, Side::Dsat] {
        let of_side: Vec<(usize, &str)> = found
            .iter()
            .enumerate()
            .filter(|(_, reason)| reason.side == side)
            .map(|(index, reason)| (index, reason.text.as_str()))
            .collect();
        let mut asked = Vec::new();
        for batch in of_side.chunks(BATCH) {
            asked.push(assign_batch(judge, base, options, kind_of(side), batch).boxed());
        }
        let batches: Vec<Vec<Option<Label>>> =
            futures::stream::iter(asked).buffered(judge.concurrency()).try_collect().await?;
        for ((index, _), label) in of_side.iter().zip(batches.into_iter().flatten()) {
            if let Some(place) = assigned.get_mut(*index) {
                *place = label;
            }
        }
    }
    Ok(assigned)
}

#[derive(Deserialize)]
struct Assignments {
    assignments: Vec<Assignment>,
}

#[derive(Deserialize)]
struct Assignment {
    number: usize,
    label: String,
}

async fn assign_batch(
    judge: &Judge,
    base: &Rubric,
    options: &Options,
    kind: Kind,
    batch: &[(usize, &str)],
) -> Result<Vec<Option<Label>>> {
    let side = if kind == Kind::Satisfaction { "satisfied" } else { "dissatisfied" };
    let system = format!(
        "You sort reasons why users were {side} with an answer of an assistant. The labels are:\n{}\nYou are given a numbered \
         list of reasons. Answer with one JSON object: {{\"assignments\": [{{\"number\": of the reason, \"label\": the label \
         that the reason is an instance of, or \"none\"}}]}}, with each number once.",
        base.list(kind)
    );
    let mut names: Vec<&str> = Label::ALL.into_iter().filter(|label| label.kind() == kind).map(Label::name).collect();
    names.push("none");
    let properties = json!({"number": {"type": "integer"}, "label": {"type": "string", "enum": names}});
    let schema = schema("assignments", "assignments", &properties, &["number", "label"]);
    let request = request(options, system, numbered(batch.iter().map(|(_, reason)| *reason)), schema);
    let count = batch.len();
    must(judge, &request, move |text| Some(read_assignments(object(text)?, kind, count))).await
}

fn read_assignments(answer: Assignments, kind: Kind, count: usize) -> Reading<Vec<Option<Label>>> {
    let mut labels: Vec<Option<Label>> = vec![None; count];
    let mut spoken_of = vec![false; count];
    let mut complaints = Vec::new();
    for Assignment { number, label: name } in answer.assignments {
        let place = number.checked_sub(1).filter(|index| *index < count);
        let label = name.parse::<Label>().ok().filter(|label| label.kind() == kind);
        match (place, label) {
            (None, _) => complaints.push(format!("there is no reason {number}")),
            (Some(_), None) if name != "none" => {
                complaints.push(format!("reason {number}: there is no label `{name}` here"));
            }
            (Some(index), label) => {
                if let (Some(place), Some(spoken)) = (labels.get_mut(index), spoken_of.get_mut(index)) {
                    *place = label;
                    *spoken = true;
                }
            }
        }
    }
    let missing: Vec<String> = (1..)
        .zip(&spoken_of)
        .filter(|(_, spoken)| !**spoken)
        .map(|(number, _): (usize, _)| number.to_string())
        .collect();
    if !missing.is_empty() {
        complaints.push(format!("nothing is said of {}", missing.join(", ")));
    }
    Reading { value: labels, complaints }
}

#[derive(Debug, Default)]
struct Criteria {
    taken: Vec<Criterion>,
    refused: u64,
}

#[derive(Deserialize)]
struct Sums {
    criteria: Vec<Sum>,
}

#[derive(Deserialize)]
struct Sum {
    text: String,
    numbers: Vec<usize>,
}

async fn sum_up(
    judge: &Judge,
    base: &Rubric,
    options: &Options,
    label: Label,
    reasons: &[&Reason],
) -> Result<(Label, Criteria)> {
    let definition = base.entry(label).map_or("", |entry| entry.definition.as_str());
    let most = options.most_criteria;
    let system = format!(
        "You write a rubric by which others will recognise `{label}` in what users say to an assistant: \"{definition}\". You \
         are given a numbered list of reasons that were found in this product. Sum them up in at most {most} criteria: each \
         one sentence in general words on what the user does or says, none that repeats the definition or another one, no \
         topics, no names, nothing personal. Answer with one JSON object: {{\"criteria\": [{{\"text\": the criterion, \
         \"numbers\": of the reasons it was made from}}]}}. A criterion needs at least {SUPPORT} reasons."
    );
    let step = reasons.len().div_ceil(SUMMED_UP).max(1);
    let chosen: Vec<&str> = reasons.iter().step_by(step).map(|reason| reason.text.as_str()).collect();
    let properties = json!({"text": {"type": "string"}, "numbers": {"type": "array", "items": {"type": "integer"}}});
    let schema = schema("criteria", "criteria", &properties, &["text", "numbers"]);
    let request = request(options, system, numbered(chosen.iter().copied()), schema);
    let count = chosen.len();
    let criteria = must(judge, &request, move |text| Some(read_criteria(object(text)?, count, most))).await?;
    Ok((label, criteria))
}

fn read_criteria(answer: Sums, count: usize, most: usize) -> Reading<Criteria> {
    let mut criteria = Criteria::default();
    let mut complaints = Vec::new();
    for Sum { text, numbers } in answer.criteria {
        let text: String =
            text.split_whitespace().collect::<Vec<_>>().join(" ").chars().take(LONGEST_CRITERION).collect();
        let support: BTreeSet<usize> = numbers.into_iter().filter(|number| (1..=count).contains(number)).collect();
        if text.is_empty() || support.len() < SUPPORT {
            criteria.refused += 1;
            complaints.push(format!("criterion \"{text}\" names {} of the reasons, it needs {SUPPORT}", support.len()));
        } else {
            criteria.taken.push(Criterion { text, support: support.len() });
        }
    }
    criteria.taken.sort_by_key(|criterion| std::cmp::Reverse(criterion.support));
    criteria.taken.truncate(most);
    Reading { value: criteria, complaints }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_reason_gets_a_label_of_its_side_or_none() {
        let answer = r#"{"assignments":[{"number":1,"label":"praise"},{"number":2,"label":"none"},{"number":3,"label":"revision"},
            {"number":9,"label":"praise"}]}"#;
        let reading = read_assignments(object(answer).unwrap(), Kind::Satisfaction, 4);
        assert_eq!(reading.value, [Some(Label::Praise), None, None, None]);
        let expected =
            ["reason 3: there is no label `revision` here", "there is no reason 9", "nothing is said of 3, 4"];
        assert_eq!(reading.complaints, expected);
    }

    #[test]
    fn criteria_need_reasons_that_are_there() {
        let answer = r#"{"criteria":[{"text":"a","numbers":[1,1,7]},{"text":"b\n c","numbers":[1,2]},{"text":"d","numbers":[2,3,4]},
            {"text":" ","numbers":[1,2,3]}]}"#;
        let reading = read_criteria(object(answer).unwrap(), 4, 5);
        let taken: Vec<(&str, usize)> =
            reading.value.taken.iter().map(|criterion| (criterion.text.as_str(), criterion.support)).collect();
        assert_eq!(taken, [("d", 3), ("b c", 2)]);
        assert_eq!((reading.value.refused, reading.complaints.len()), (2, 2));
        assert_eq!(read_criteria(object(answer).unwrap(), 4, 1).value.taken.len(), 1);
    }
}
