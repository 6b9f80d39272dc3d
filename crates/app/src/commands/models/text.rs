//! Models as text for people.

use std::collections::BTreeSet;
use std::fmt::Write as _;

use uptake_registry::{Action, Decision, Entry, Event, Figure, Kind, Outcome};

use crate::columns::columns;

fn row<const N: usize>(cells: [&str; N]) -> Vec<String> {
    cells.map(str::to_owned).to_vec()
}

pub(super) fn list(entries: &[Entry], in_use: &[String]) -> String {
    if entries.is_empty() {
        return "no models yet: `uptake models add DIR` adds what `uptake train` left\n".to_owned();
    }
    let mut rows = vec![row(["model", "name", "added", "gates", "snapshot", "in use"])];
    for entry in entries {
        let used = if in_use.contains(&entry.id) { "yes" } else { "" };
        let snapshot = entry.lineage.snapshot.as_deref().unwrap_or("");
        rows.push(row([&entry.id, &entry.name, &entry.added_at, outcome(entry.decision.outcome), snapshot, used]));
    }
    columns(&rows, "")
}

fn outcome(outcome: Outcome) -> &'static str {
    match outcome {
        Outcome::Passed => "passed",
        Outcome::Refused => "refused",
        Outcome::NotJudged => "not judged",
    }
}

pub(super) fn decision(decision: &Decision) -> String {
    if decision.outcome == Outcome::NotJudged {
        return "gates: not judged; no [[models.gates]] for this kind\n".to_owned();
    }
    let against = decision.production.as_deref().map_or_else(String::new, |id| format!(", next to {id}"));
    let mut text = format!("gates: {}{against}\n", outcome(decision.outcome));
    let mut rows = vec![row(["figure", "holds", "why"])];
    for verdict in &decision.verdicts {
        rows.push(row([&verdict.gate.figure, if verdict.holds { "yes" } else { "no" }, &verdict.reason]));
    }
    text.push_str(&columns(&rows, "  "));
    text
}

pub(super) fn entry(entry: &Entry) -> String {
    let lineage = &entry.lineage;
    let mut text = format!(
        "{} ({}), called {}, added {} by uptake {}\n",
        entry.id, entry.kind, entry.name, entry.added_at, lineage.code_version
    );
    if let Some(snapshot) = &lineage.snapshot {
        let _ = writeln!(text, "snapshot: {snapshot}");
    }
    if !lineage.parents.is_empty() {
        let _ = writeln!(text, "parents: {}", lineage.parents.join(", "));
    }
    if !lineage.training.is_null() {
        let _ = writeln!(text, "training: {}", lineage.training);
    }
    text.push_str(&decision(&entry.decision));
    let mut rows = vec![row(["file", "bytes", "sha256"])];
    rows.extend(entry.files.iter().map(|file| row([&file.path, &file.bytes.to_string(), &file.sha256[..16]])));
    text.push_str(&columns(&rows, "  "));
    let mut rows = vec![row(["figure", "value", "interval"])];
    rows.extend(entry.figures.iter().map(|(name, figure)| {
        let interval = match (figure.low, figure.high) {
            (Some(low), Some(high)) => format!("{low:.4} to {high:.4}"),
            _ => String::new(),
        };
        row([name, &number(Some(figure)), &interval])
    }));
    text.push_str(&columns(&rows, "  "));
    text
}

/// Figures that both have or one has, where they differ, and what differs in how they were made.
pub(super) fn difference(one: &Entry, other: &Entry) -> String {
    let mut rows = vec![row(["figure", &one.id, &other.id, "difference"])];
    let names: BTreeSet<&String> = one.figures.keys().chain(other.figures.keys()).collect();
    for name in names {
        let (a, b) = (one.figures.get(name), other.figures.get(name));
        if a.map(|a| a.value) == b.map(|b| b.value) {
            continue;
        }
        let difference = a.zip(b).map(|(a, b)| format!("{:+.4}", a.value - b.value)).unwrap_or_default();
        rows.push(row([name, &number(a), &number(b), &difference]));
    }
    let mut text = if rows.len() == 1 { "no figure differs\n".to_owned() } else { columns(&rows, "") };
    let lineage = |entry: &Entry| {
        let mut parts = vec![("snapshot".to_owned(), entry.lineage.snapshot.clone().unwrap_or_default())];
        parts.push(("parents".to_owned(), entry.lineage.parents.join(", ")));
        let training = entry.lineage.training.as_object().into_iter().flatten();
        parts.extend(training.flat_map(|(name, value)| match value.as_object() {
            Some(object) => object.iter().map(|(key, value)| (format!("{name}.{key}"), value.to_string())).collect(),
            None => vec![(name.clone(), value.to_string())],
        }));
        parts
    };
    let (a, b) = (lineage(one), lineage(other));
    let names: BTreeSet<&String> = a.iter().chain(&b).map(|(name, _)| name).collect();
    let mut rows = vec![row(["made with", &one.id, &other.id])];
    for name in names {
        let value = |parts: &[(String, String)]| {
            parts.iter().find(|(key, _)| key == name).map(|(_, value)| value.clone()).unwrap_or_default()
        };
        if value(&a) != value(&b) {
            rows.push(vec![name.clone(), value(&a), value(&b)]);
        }
    }
    if rows.len() > 1 {
        text.push_str(&columns(&rows, ""));
    }
    text
}

fn number(figure: Option<&Figure>) -> String {
    figure.map_or_else(|| "–".to_owned(), |figure| format!("{:.4}", figure.value))
}

pub(super) fn history(kind: Kind, events: &[Event]) -> String {
    if events.is_empty() {
        return format!("no {kind} was ever promoted\n");
    }
    let mut rows = vec![row(["at", "by", "done", "model", "before", "gates", "reason"])];
    for event in events {
        let done = match event.action {
            Action::Promoted => "promoted",
            Action::RolledBack => "rolled back",
        };
        let gates = match (&event.decision, event.forced) {
            (Some(decision), true) => format!("{}, insisted", outcome(decision.outcome)),
            (Some(decision), false) => outcome(decision.outcome).to_owned(),
            (None, _) => String::new(),
        };
        let text = |value: &Option<String>| value.clone().unwrap_or_else(|| "–".to_owned());
        let reason = event.reason.clone().unwrap_or_default();
        let cells = [&event.at, &event.by, done, &text(&event.model), &text(&event.previous), &gates, &reason];
        rows.push(row(cells.map(|cell: &str| cell)));
    }
    columns(&rows, "")
}
