//! The report of a classifier as a page: curves, figures, reliability, confusions, the worst errors.

use std::fmt::Write as _;

use uptake_model::html::{document, escaped};

use super::diagnosis::{Confusion, Diagnosis, Errors, Reliability, Wrong};
use super::evaluation::{Figures, OutputFigures};
use super::{Epoch, HardNegatives};
use crate::metrics::Estimate;

const BLUE: &str = "#3b7dd8";
const ORANGE: &str = "#d98b2b";
const GREEN: &str = "#2f9e63";

/// The page over a model's figures. It quotes follow-ups as they are, so it is as confidential as the data that were
/// measured on: it belongs beside the model, not into it. `passes` may be empty.
#[must_use]
pub fn page(model: &str, passes: &[Epoch], figures: &Figures, diagnosis: &Diagnosis) -> String {
    let model = escaped(model);
    let mut html = format!(
        "<h1>{model}</h1><p>Measured on {} follow-ups of {} conversations. Intervals are of 95 %, over conversations.</p>",
        figures.examples, figures.conversations
    );
    if !passes.is_empty() {
        html.push_str("<h2>Training</h2>");
        let line = |of: fn(&Epoch) -> f64| passes.iter().map(of).collect::<Vec<f64>>();
        html.push_str(&curves(
            "loss by pass",
            &[
                ("training", BLUE, line(|pass| pass.training_loss)),
                ("validation", ORANGE, line(|pass| pass.validation_loss)),
            ],
        ));
        html.push_str(&curves(
            "average precision on the validation part, by pass",
            &[
                ("sat", GREEN, line(|pass| pass.sat)),
                ("dsat", ORANGE, line(|pass| pass.dsat)),
                ("mean of the labels", BLUE, line(|pass| pass.labels)),
            ],
        ));
    }
    html.push_str(&outputs(&figures.outputs));
    html.push_str(&sources(figures));
    if let Some(negatives) = &figures.hard_negatives {
        html.push_str(&hard(negatives));
    }
    html.push_str("<h2>Reliability</h2><p class=\"quiet\">Mean probability of a bin from left to right, share that holds upwards; the larger a dot, the more cases. A calibrated model lies on the line.</p><div class=\"two\">");
    for each in &diagnosis.reliability {
        html.push_str(&reliability(each));
    }
    html.push_str("</div>");
    html.push_str(&confusions(&diagnosis.confusions));
    for each in &diagnosis.errors {
        html.push_str(&errors(each));
    }
    document(&model, &html)
}

fn estimate(each: Option<&Estimate>) -> String {
    each.map_or_else(|| "–".to_owned(), |each| format!("{:.3} ({:.3}–{:.3})", each.value, each.low, each.high))
}

fn number(value: Option<f64>) -> String {
    value.map_or_else(|| "–".to_owned(), |value| format!("{value:.3}"))
}

fn outputs(outputs: &[OutputFigures]) -> String {
    let mut html = "<h2>Outputs</h2><table><tr><th>output<th class=\"n\">carry it<th class=\"n\">AUROC<th class=\"n\">average precision\
                    <th class=\"n\">fires from<th class=\"n\">fired<th class=\"n\">precision<th class=\"n\">recall<th class=\"n\">calibration error"
        .to_owned();
    for each in outputs {
        let _ = write!(
            html,
            "<tr><td>{}<td class=\"n\">{}<td class=\"n\">{}<td class=\"n\">{}<td class=\"n\">{:.3}{}<td class=\"n\">{}<td class=\"n\">{:.3}<td class=\"n\">{:.3}<td class=\"n\">{}",
            escaped(&each.output),
            each.positives,
            estimate(each.auroc.as_ref()),
            estimate(each.average_precision.as_ref()),
            each.threshold,
            if each.target_reached { "" } else { "*" },
            each.decision.fired,
            each.decision.precision,
            each.decision.recall,
            number(each.calibration_error),
        );
    }
    html + "</table><p class=\"quiet\">* the target precision was not reached on the validation part; the threshold is that of the best F1.</p>"
}

fn sources(figures: &Figures) -> String {
    let mut html =
        "<h2>By source</h2><table><tr><th>source<th class=\"n\">follow-ups<th class=\"n\">sat AUROC<th class=\"n\">dsat AUROC".to_owned();
    let mut row = |name: &str, count: usize, sat: Option<&Estimate>, dsat: Option<&Estimate>| {
        let (sat, dsat) = (estimate(sat), estimate(dsat));
        let _ =
            write!(html, "<tr><td>{}<td class=\"n\">{count}<td class=\"n\">{sat}<td class=\"n\">{dsat}", escaped(name));
    };
    for each in &figures.sources {
        row(&each.source, each.examples, each.sat.auroc.as_ref(), each.dsat.auroc.as_ref());
    }
    for each in &figures.weak {
        row(&format!("{} (judged, not labelled)", each.source), each.examples, each.sat.as_ref(), each.dsat.as_ref());
    }
    html + "</table>"
}

fn hard(negatives: &HardNegatives) -> String {
    let share = |count: usize| 100.0 * count as f64 / negatives.examples.max(1) as f64;
    format!(
        "<p>Of {} written follow-ups that only look like a signal, sat fires for {:.1} %, dsat for {:.1} %.</p>",
        negatives.examples,
        share(negatives.sat),
        share(negatives.dsat)
    )
}

/// Lines over passes, all on one axis from nought.
fn curves(what: &str, lines: &[(&str, &str, Vec<f64>)]) -> String {
    let top = lines.iter().flat_map(|(_, _, values)| values).copied().fold(0.0, f64::max).max(1e-9);
    let count = lines.iter().map(|(_, _, values)| values.len()).max().unwrap_or_default();
    let x = |at: usize| 60.0 + 520.0 * at as f64 / (count.max(2) - 1) as f64;
    let y = |value: f64| 170.0 - 150.0 * value / top;
    let mut svg = format!(
        "<figure><figcaption>{what}</figcaption><svg viewBox=\"0 0 760 200\" role=\"img\" aria-label=\"{what}\" font-size=\"13\" fill=\"currentColor\">\
         <line x1=\"60\" x2=\"580\" y1=\"170\" y2=\"170\" stroke=\"currentColor\" stroke-opacity=\".4\"/><text x=\"50\" y=\"24\" text-anchor=\"end\">{top:.3}</text><text x=\"50\" y=\"174\" text-anchor=\"end\">0</text>"
    );
    for at in 0..count {
        let _ = write!(svg, "<text x=\"{:.1}\" y=\"190\" text-anchor=\"middle\">{}</text>", x(at), at + 1);
    }
    for (row, (name, colour, values)) in lines.iter().enumerate() {
        let points: Vec<String> =
            values.iter().enumerate().map(|(at, value)| format!("{:.1},{:.1}", x(at), y(*value))).collect();
        let _ = write!(
            svg,
            "<polyline points=\"{}\" fill=\"none\" stroke=\"{colour}\" stroke-width=\"2\"/><rect x=\"600\" y=\"{}\" width=\"12\" height=\"12\" fill=\"{colour}\"/><text x=\"618\" y=\"{}\">{name}</text>",
            points.join(" "),
            20 + 22 * row,
            31 + 22 * row,
        );
        for (at, value) in values.iter().enumerate() {
            let _ = write!(
                svg,
                "<circle cx=\"{:.1}\" cy=\"{:.1}\" r=\"4\" fill=\"{colour}\"><title>{name}, pass {}: {value:.4}</title></circle>",
                x(at),
                y(*value),
                at + 1
            );
        }
    }
    svg + "</svg></figure>"
}

fn reliability(each: &Reliability) -> String {
    let most = each.bins.iter().map(|(_, _, count)| *count).max().unwrap_or(1) as f64;
    let at = |value: f64| 30.0 + 180.0 * value;
    let mut svg = format!(
        "<figure><figcaption>{name}</figcaption><svg viewBox=\"0 0 240 240\" role=\"img\" aria-label=\"reliability of {name}\" font-size=\"11\" fill=\"currentColor\">\
         <rect x=\"30\" y=\"30\" width=\"180\" height=\"180\" fill=\"none\" stroke=\"currentColor\" stroke-opacity=\".3\"/>\
         <line x1=\"30\" y1=\"210\" x2=\"210\" y2=\"30\" stroke=\"currentColor\" stroke-opacity=\".4\" stroke-dasharray=\"4 3\"/>\
         <text x=\"30\" y=\"226\">0</text><text x=\"204\" y=\"226\">1</text><text x=\"16\" y=\"36\">1</text>",
        name = each.output,
    );
    for (probability, holds, count) in &each.bins {
        let _ = write!(
            svg,
            "<circle cx=\"{:.1}\" cy=\"{:.1}\" r=\"{:.1}\" fill=\"{BLUE}\" fill-opacity=\".75\"><title>{count} cases: probability {probability:.3}, {holds:.3} hold</title></circle>",
            at(*probability),
            240.0 - at(*holds),
            3.0 + 9.0 * (*count as f64 / most).sqrt(),
        );
    }
    svg + "</svg></figure>"
}

fn confusions(confusions: &[Confusion]) -> String {
    let names: Vec<&str> = confusions.iter().map(|each| each.label).collect();
    let mut html = "<h2>Confusions</h2><p class=\"quiet\">A row for the follow-ups that carry a label: the share for which each label fires.</p>\
                    <div style=\"overflow-x:auto\"><table><tr><th>carries<th class=\"n\">follow-ups"
        .to_owned();
    let all: Vec<&str> = (0..uptake_model::labels::LABELS).filter_map(uptake_model::labels::output_name).collect();
    let columns: Vec<usize> = (0..all.len()).filter(|at| names.contains(&all[*at])).collect();
    for at in &columns {
        let _ = write!(html, "<th style=\"writing-mode:vertical-rl\">{}", all[*at]);
    }
    for each in confusions {
        let _ = write!(html, "<tr><td>{}<td class=\"n\">{}", each.label, each.carried);
        for at in &columns {
            let share = each.fires[*at];
            let shown = if share > 0.0 { format!("{:.0}", 100.0 * share) } else { String::new() };
            let own = all[*at] == each.label;
            let (red, green, blue) = if own { (47, 158, 99) } else { (217, 91, 43) };
            let _ = write!(
                html,
                "<td class=\"n\" style=\"background:rgba({red},{green},{blue},{:.2})\">{shown}",
                0.7 * share
            );
        }
    }
    html + "</table></div>"
}

fn errors(each: &Errors) -> String {
    let mut html = String::new();
    for (kind, wrong) in
        [("false alarms, the surest first", &each.false_alarms), ("missed, the least likely first", &each.missed)]
    {
        let _ = write!(html, "<h2>{}: {kind}</h2>", each.output);
        for wrong in wrong {
            html.push_str(&shown(wrong));
        }
    }
    html
}

fn shown(wrong: &Wrong) -> String {
    let cut = |text: &str| {
        let start: String = text.chars().take(1_500).collect();
        escaped(&start)
    };
    let labels = if wrong.labels.is_empty() { "no label".to_owned() } else { wrong.labels.join(", ") };
    format!(
        "<details><summary>{:.3} · {} · {} · {}</summary><div class=\"two\"><div><b>user</b><pre>{}</pre><b>follow-up</b><pre>{}</pre></div><div><b>response</b><pre>{}</pre></div></div></details>",
        wrong.probability,
        escaped(&wrong.source),
        labels,
        escaped(&wrong.follow_up.chars().take(120).collect::<String>()),
        cut(&wrong.last_user),
        cut(&wrong.follow_up),
        cut(&wrong.response),
    )
}
