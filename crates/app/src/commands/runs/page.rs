//! The report of a run as one page that needs nothing else.

use std::fmt::Write as _;

use serde_json::Value;
use uptake_model::html::{document, escaped};
use uptake_schedule::{RunState, StepRun, StepState};

use super::report::{Curve, Model, Report, Snapshot};
use super::text::{moment, took};

/// Width of drawings, in the units of their view.
const WIDTH: f64 = 720.0;

/// The page.
pub(super) fn page(report: &Report<'_>) -> String {
    let run = report.run;
    let title = escaped(&run.id);
    let class = match run.state {
        RunState::Succeeded => "good",
        RunState::Queued | RunState::Running => "quiet",
        _ => "bad",
    };
    let reason = run.reason.as_deref().map(|reason| format!(": {}", escaped(reason))).unwrap_or_default();
    // As a step of the run that it tells of, the report cannot know its end.
    let state = if run.state == RunState::Running { "under way when this was written" } else { run.state.name() };
    let mut html = format!(
        "<h1>{title}</h1><p class=\"{class}\">{state}{reason}</p><p class=\"quiet\">job {}, for {} UTC, {}, {}</p>",
        escaped(&run.job),
        moment(run.due_at),
        run.cause,
        took(run.started_at, run.ended_at),
    );
    html.push_str("<h2>Steps</h2>");
    html.push_str(&timeline(report));
    html.push_str(&steps(report.steps));
    if !report.models.is_empty() {
        html.push_str("<h2>Models and gates</h2>");
        report.models.iter().for_each(|model| html.push_str(&gates(model)));
    }
    if !report.snapshots.is_empty() {
        html.push_str("<h2>What it was made from</h2>");
        report.snapshots.iter().for_each(|snapshot| html.push_str(&rows(snapshot)));
    }
    if !report.curves.is_empty() {
        html.push_str("<h2>Curves</h2>");
        report.curves.iter().for_each(|curve| html.push_str(&curves(curve)));
    }
    if !report.pages.is_empty() {
        html.push_str("<h2>Pages of the steps</h2><ul>");
        for page in &report.pages {
            let name = escaped(&page.to_string_lossy());
            let _ = write!(html, "<li><a href=\"{name}\">{name}</a>");
        }
        html.push_str("</ul>");
    }
    document(&title, &html)
}

fn colour(state: StepState) -> &'static str {
    match state {
        StepState::Succeeded => "#1b9e5a",
        StepState::Refused => "#d98b2b",
        StepState::Failed | StepState::Stopped => "#c5392f",
        StepState::Running => "#3b7dd8",
        StepState::Skipped => "#9aa1ac",
    }
}

/// When each step ran, on one axis.
fn timeline(report: &Report<'_>) -> String {
    let Some(begin) = report.steps.iter().filter_map(|step| step.started_at).min() else { return String::new() };
    let end = report.steps.iter().filter_map(|step| step.ended_at).max().unwrap_or(begin).max(begin + 1);
    let at = |time: i64| 150.0 + (WIDTH - 160.0) * (time - begin) as f64 / (end - begin) as f64;
    let height = 22 * report.steps.len() + 8;
    let mut svg = format!("<svg viewBox=\"0 0 {WIDTH} {height}\" role=\"img\" aria-label=\"when each step ran\">");
    for (row, step) in report.steps.iter().enumerate() {
        let y = 22 * row + 4;
        let name = escaped(&step.step);
        let _ = write!(
            svg,
            "<text x=\"142\" y=\"{}\" text-anchor=\"end\" font-size=\"13\" fill=\"currentColor\">{name}</text>",
            y + 13
        );
        if let Some(started) = step.started_at {
            let (from, to) = (at(started), at(step.ended_at.unwrap_or(end)));
            let _ = write!(
                svg,
                "<rect x=\"{from:.1}\" y=\"{y}\" width=\"{:.1}\" height=\"16\" rx=\"2\" fill=\"{}\"><title>{name}: {}</title></rect>",
                (to - from).max(2.0),
                colour(step.state),
                took(step.started_at, step.ended_at)
            );
        }
    }
    svg + "</svg>"
}

fn steps(steps: &[StepRun]) -> String {
    let mut html = "<table><tr><th>step<th>state<th class=\"n\">took<th class=\"n\">tries<th>reason".to_owned();
    for step in steps {
        let class = match step.state {
            StepState::Succeeded => "good",
            StepState::Running | StepState::Skipped => "quiet",
            _ => "bad",
        };
        let _ = write!(
            html,
            "<tr><td>{}<td class=\"{class}\">{}<td class=\"n\">{}<td class=\"n\">{}<td>{}",
            escaped(&step.step),
            step.state,
            took(step.started_at, step.ended_at),
            step.attempt,
            escaped(step.reason.as_deref().unwrap_or_default())
        );
    }
    html.push_str("</table>");
    for step in steps {
        let log = step.log.as_deref().unwrap_or_default().trim();
        if !log.is_empty() {
            let _ = write!(
                html,
                "<details><summary>end of the log of {}</summary><div class=\"two\" style=\"display:block\"><pre>{}</pre></div></details>",
                escaped(&step.step),
                escaped(log)
            );
        }
    }
    html
}

fn gates(model: &Model) -> String {
    let outcome = model.decision["outcome"].as_str().unwrap_or_default();
    let class = match outcome {
        "passed" => "good",
        "refused" => "bad",
        _ => "quiet",
    };
    let mut html = format!(
        "<p><b>{}</b> <span class=\"{class}\">{}</span>",
        escaped(&model.id),
        escaped(&outcome.replace('_', " "))
    );
    let compared = model.decision["production"].as_str().map(|id| format!(", compared with {}", escaped(id)));
    html.push_str(compared.as_deref().unwrap_or(", none of its kind in use before"));
    if let Some(snapshot) = model.lineage["snapshot"].as_str() {
        let _ = write!(html, "; trained on {}", escaped(snapshot));
    }
    html.push_str("</p><table><tr><th>figure<th class=\"n\">model<th class=\"n\">in use<th>verdict");
    let number = |value: &Value| value["value"].as_f64().map_or_else(|| "–".to_owned(), |value| format!("{value:.4}"));
    for verdict in model.decision["verdicts"].as_array().into_iter().flatten() {
        let class = if verdict["holds"] == true { "good" } else { "bad" };
        let _ = write!(
            html,
            "<tr><td>{}<td class=\"n\">{}<td class=\"n\">{}<td class=\"{class}\">{}",
            escaped(verdict["gate"]["figure"].as_str().unwrap_or_default()),
            number(&verdict["figure"]),
            number(&verdict["production"]),
            escaped(verdict["reason"].as_str().unwrap_or_default())
        );
    }
    html + "</table>"
}

fn rows(snapshot: &Snapshot) -> String {
    let list = |value: &Value| {
        let parts = value.as_object().into_iter().flatten().map(|(name, count)| format!("{count} {}", escaped(name)));
        let parts: Vec<String> = parts.collect();
        if parts.is_empty() { "none".to_owned() } else { parts.join(", ") }
    };
    format!(
        "<p><b>{}/{}</b></p><table><tr><td>rows<td>{}<tr><td>left out<td>{}<tr><td>by tagger<td>{}<tr><td>by the model that answered<td>{}</table>",
        escaped(&snapshot.name),
        escaped(&snapshot.id),
        list(&snapshot.rows),
        list(&snapshot.left_out),
        list(&snapshot.taggers),
        list(&snapshot.models)
    )
}

fn curves(curve: &Curve) -> String {
    let mut html = format!("<p class=\"quiet\">{}</p>", escaped(&curve.file.to_string_lossy()));
    for (name, points) in &curve.values {
        let (low, high) =
            points.iter().fold((f64::MAX, f64::MIN), |(low, high), value| (low.min(*value), high.max(*value)));
        let span = (high - low).max(f64::EPSILON);
        let last = (points.len() - 1).max(1) as f64;
        let line: Vec<String> = points
            .iter()
            .enumerate()
            .map(|(at, value)| {
                format!("{:.1},{:.1}", 60.0 + (WIDTH - 70.0) * at as f64 / last, 90.0 - 80.0 * (value - low) / span)
            })
            .collect();
        let _ = write!(
            html,
            "<svg viewBox=\"0 0 {WIDTH} 110\" role=\"img\" aria-label=\"{name}\"><text x=\"60\" y=\"106\" font-size=\"12\" fill=\"currentColor\">{name}, {} steps</text>\
             <text x=\"54\" y=\"16\" font-size=\"11\" text-anchor=\"end\" fill=\"currentColor\">{high:.3}</text><text x=\"54\" y=\"93\" font-size=\"11\" text-anchor=\"end\" fill=\"currentColor\">{low:.3}</text>\
             <polyline points=\"{}\" fill=\"none\" stroke=\"#3b7dd8\" stroke-width=\"1.5\"/></svg>",
            points.len(),
            line.join(" ")
        );
    }
    html
}
