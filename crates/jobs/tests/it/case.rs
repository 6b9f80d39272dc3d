//! A case: events, runs, and the rows that are expected, written down by hand.
//!
//! ```text
//! # What the case shows.
//! arrival fixed                                    only where the order of arrival is the point
//! defaults messages {"conversation_id": "c1"}      fields that the following lines need not repeat
//!
//! at 2026-01-10T12:00:00Z
//! events
//! messages {"message_id": "u1", "role": "user", …}
//!
//! watermark 2026-01-20T00:00:00Z
//! run [pipeline …]                                 none: the case's own, with what it depends on
//! turns built 2026-01-10                           how a pipeline ended, and the days that it built
//!
//! query
//! SELECT …
//! ----
//! cell | cell
//!
//! dropped                                          rows of the case's pipeline that did not come through, by reason
//! consent_denied 1
//! ```
//!
//! Blocks are parted by blank lines. A message without an event id gets `e-<message id>`, a reaction
//! `r-<message id>-<kind>`. At the end every table is built anew from nothing but bronze, and must stay as it is.

use std::path::Path;

use rand::SeedableRng;
use rand::seq::SliceRandom;
use rand_chacha::ChaCha8Rng;
use serde_json::{Map, Value};
use uptake_jobs::RunReport;
use uptake_model::contract::Contract;
use uptake_model::time::{self, Micros};

use crate::kit::Bench;

/// In which order the records of a block arrive.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Arrival {
    Written,
    Shuffled(u64),
}

#[derive(Debug, Clone)]
enum Step {
    At(Micros),
    Watermark(Micros),
    Events(Vec<(Contract, Map<String, Value>)>),
    Run { names: Vec<String>, expected: Vec<String> },
    Query { sql: String, expected: Vec<String> },
    Counts { notes: bool, expected: Vec<String> },
}

/// A case as it is written.
#[derive(Debug, Clone)]
pub(crate) struct Case {
    pipeline: String,
    fixed: bool,
    steps: Vec<Step>,
}

impl Case {
    pub(crate) fn read(path: &Path) -> Self {
        let text = std::fs::read_to_string(path).unwrap();
        let pipeline = path.parent().and_then(Path::parent).and_then(Path::file_name).unwrap();
        let mut case = Self { pipeline: pipeline.to_string_lossy().into_owned(), fixed: false, steps: vec![] };
        let mut defaults: Vec<(Contract, Map<String, Value>)> = Vec::new();
        let lines: Vec<&str> = text.lines().filter(|line| !line.starts_with('#')).collect();
        let mut at = 0;
        while at < lines.len() {
            let (word, rest) = lines[at].split_once(' ').unwrap_or((lines[at], ""));
            at += 1;
            let mut block = || {
                let start = at;
                while at < lines.len() && !lines[at].trim().is_empty() {
                    at += 1;
                }
                lines[start..at].iter().map(|line| (*line).trim().to_owned()).collect::<Vec<_>>()
            };
            match word {
                "" => {}
                "arrival" => case.fixed = rest == "fixed",
                "defaults" => defaults.push(event(rest, &[])),
                "at" => case.steps.push(Step::At(moment(rest))),
                "watermark" => case.steps.push(Step::Watermark(moment(rest))),
                "events" => case.steps.push(Step::Events(block().iter().map(|line| event(line, &defaults)).collect())),
                "run" => {
                    let names = rest.split_whitespace().map(str::to_owned).collect();
                    case.steps.push(Step::Run { names, expected: block() });
                }
                "query" => {
                    let block = block();
                    let split = block.iter().position(|line| line == "----").expect("a query ends in ----");
                    let expected = block[split + 1..].to_vec();
                    case.steps.push(Step::Query { sql: block[..split].join("\n"), expected });
                }
                "dropped" => case.steps.push(Step::Counts { notes: false, expected: block() }),
                "notes" => case.steps.push(Step::Counts { notes: true, expected: block() }),
                other => panic!("{}: no step `{other}`", path.display()),
            }
        }
        case
    }

    pub(crate) fn arrivals(&self) -> Vec<Arrival> {
        if self.fixed { vec![Arrival::Written] } else { vec![Arrival::Written, Arrival::Shuffled(7)] }
    }

    /// Goes through the steps.
    pub(crate) async fn check(self, arrival: Arrival) -> Result<(), String> {
        let mut bench = Bench::with_shadow();
        let (mut now, mut watermark) = (0, None);
        let mut last: Vec<RunReport> = Vec::new();
        for step in &self.steps {
            match step {
                Step::At(time) => now = *time,
                Step::Watermark(time) => watermark = Some(*time),
                Step::Events(records) => bench.ingest(&arranged(records, arrival), now).await?,
                Step::Run { names, expected } => {
                    let names = if names.is_empty() { vec![self.pipeline.clone()] } else { names.clone() };
                    let reports = Box::pin(bench.run(&names, now, watermark, false)).await;
                    last = reports.map_err(|error| error_text(&error))?;
                    check_run(&last, expected)?;
                }
                Step::Query { sql, expected } => same(sql, &bench.query(sql).await?, expected)?,
                Step::Counts { notes, expected } => {
                    let report = last.iter().find(|report| report.pipeline == self.pipeline).ok_or("nothing ran")?;
                    let counts = if *notes { &report.notes } else { &report.dropped };
                    let found: Vec<String> = counts.iter().map(|(name, count)| format!("{name} {count}")).collect();
                    same("counts", &found, expected)?;
                }
            }
        }
        // What was built from one order of arrival stands for all of them.
        if arrival == Arrival::Written { self.check_rebuild(&mut bench, now, watermark).await } else { Ok(()) }
    }

    /// What was built step by step is what a build from nothing gives, to the byte.
    async fn check_rebuild(&self, bench: &mut Bench, now: Micros, watermark: Option<Micros>) -> Result<(), String> {
        let names = [self.pipeline.clone()];
        let reports = Box::pin(bench.run(&names, now, watermark, false)).await.map_err(|error| error_text(&error))?;
        let built: Vec<&str> =
            reports.iter().filter(|report| !report.days.is_empty()).map(|report| report.pipeline.as_str()).collect();
        // Steps may end with another watermark than they ran with; after this run nothing is left to do.
        let before = bench.files().await;
        let again = Box::pin(bench.run(&names, now, watermark, false)).await.map_err(|error| error_text(&error))?;
        if let Some(report) = again.iter().find(|report| !report.days.is_empty()) {
            return Err(format!("{} built {:?} again (after {built:?})", report.pipeline, report.days));
        }
        let _ = Box::pin(bench.run(&names, now, watermark, true)).await.map_err(|error| error_text(&error))?;
        same("files after a full rebuild", &bench.files().await, &before)
    }
}

fn check_run(reports: &[RunReport], expected: &[String]) -> Result<(), String> {
    for line in expected {
        let name = line.split_whitespace().next().unwrap_or_default();
        let report = reports.iter().find(|report| report.pipeline == name);
        let report = report.ok_or_else(|| format!("`{name}` did not run"))?;
        let mut found = format!("{name} {}", report.status.name());
        for day in &report.days {
            found = format!("{found} {day}");
        }
        if found != *line {
            let faults: Vec<&str> = report.broken_checks().map(|check| check.message.as_str()).collect();
            return Err(format!("expected `{line}`, found `{found}` {faults:?}"));
        }
    }
    let surprise = reports.iter().find(|report| report.broken_checks().next().is_some());
    match surprise
        .filter(|report| !expected.iter().any(|line| line.starts_with(&format!("{} refused", report.pipeline))))
    {
        Some(report) => {
            Err(format!("{} was refused: {:?}", report.pipeline, report.broken_checks().collect::<Vec<_>>()))
        }
        None => Ok(()),
    }
}

fn same(what: &str, found: &[String], expected: &[String]) -> Result<(), String> {
    if found == expected {
        return Ok(());
    }
    Err(format!("{what}\nexpected:\n{}\nfound:\n{}", expected.join("\n"), found.join("\n")))
}

pub(crate) fn error_text(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(cause) = next {
        text = format!("{text}: {cause}");
        next = cause.source();
    }
    text
}

fn moment(text: &str) -> Micros {
    time::parse(&Value::from(text.trim())).unwrap()
}

fn event(line: &str, defaults: &[(Contract, Map<String, Value>)]) -> (Contract, Map<String, Value>) {
    let (contract, json) = line.split_once(' ').unwrap_or_else(|| panic!("`{line}` has no contract and JSON"));
    let contract: Contract = contract.parse().unwrap();
    let given: Map<String, Value> = serde_json::from_str(json).unwrap_or_else(|error| panic!("{json}: {error}"));
    let mut object = Map::new();
    for (_, fields) in defaults.iter().filter(|(of, _)| *of == contract) {
        object.extend(fields.clone());
    }
    object.extend(given);
    if !defaults.is_empty() && !object.contains_key("event_id") && contract != Contract::Completions {
        let id = object.get("message_id").and_then(Value::as_str).unwrap_or_default();
        let kind = object.get("kind").and_then(Value::as_str);
        let event_id = kind.map_or_else(|| format!("e-{id}"), |kind| format!("r-{id}-{kind}"));
        let _ = object.insert("event_id".to_owned(), Value::from(event_id));
    }
    // A default that a line sets to null is meant to be absent.
    object.retain(|_, value| !value.is_null());
    (contract, object)
}

fn arranged(records: &[(Contract, Map<String, Value>)], arrival: Arrival) -> Vec<(Contract, Map<String, Value>)> {
    let mut records = records.to_vec();
    match arrival {
        Arrival::Written => {}
        Arrival::Shuffled(seed) => records.shuffle(&mut ChaCha8Rng::seed_from_u64(seed)),
    }
    records
}
