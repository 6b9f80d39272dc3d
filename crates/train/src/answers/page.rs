//! The comparison as one HTML page that needs nothing else: figures, plots, examples.

use std::fmt::Write as _;

use uptake_model::html::{document, escaped};

use super::compare::{Comparison, Example, MeasureFigures};
use crate::metrics::Estimate;

/// Colours of candidate and production, readable on light and dark.
const COLOURS: [&str; 2] = ["#3b7dd8", "#d98b2b"];

/// The page. `names` are what candidate and production are called; it holds answers and prompts as they are, so it is as
/// confidential as the chat logs that the prompts come from.
#[must_use]
pub fn page(comparison: &Comparison, names: [&str; 2]) -> String {
    let [candidate, production] = names.map(escaped);
    let mut html = format!(
        "<h1>{candidate} against {production}</h1>\
         <p>{} prompts, {} answers of each. {} of the candidate's answers and {} of production's have no counterpart and are left out.</p>",
        comparison.prompts, comparison.answers, comparison.left_out[0], comparison.left_out[1]
    );
    html.push_str(&verdict(comparison));
    html.push_str(&score(comparison));
    html.push_str("<h2>Tripwires</h2><p class=\"quiet\">Differences with their 95 % interval over prompts. A wire trips where the interval leaves zero out and the difference is as large as its bound says.</p>");
    html.push_str(&intervals(&comparison.measures));
    html.push_str(&table(comparison));
    html.push_str("<h2>Lengths</h2>");
    html.push_str(&histogram(&comparison.words, "words"));
    let by = if comparison.score.is_some() { "score" } else { "length" };
    let _ = write!(html, "<h2>Where they differ most, by {by}</h2>");
    for example in &comparison.examples {
        html.push_str(&shown(example, [&candidate, &production]));
    }
    document(&format!("{candidate} against {production}"), &html)
}

fn verdict(comparison: &Comparison) -> String {
    if comparison.tripped == 0 {
        return "<p class=\"good\">No wire is tripped.</p>".to_owned();
    }
    let names: Vec<&str> =
        (comparison.measures.iter().filter(|figures| figures.tripped == 1).map(|figures| figures.name))
            .chain(comparison.corpus.iter().filter(|figures| figures.tripped == 1).map(|figures| figures.name))
            .collect();
    format!("<p class=\"bad\">Tripped: {}.</p>", names.join(", "))
}

fn score(comparison: &Comparison) -> String {
    let Some(score) = &comparison.score else {
        return "<h2>Offline evaluator</h2><p class=\"quiet\">No reward model was asked.</p>".to_owned();
    };
    let text = |estimate: &Estimate| format!("{:.4} ({:.4} to {:.4})", estimate.value, estimate.low, estimate.high);
    let controlled = score.length_controlled.as_ref().map_or_else(|| "–".to_owned(), text);
    let correlation = score.length_correlation.map_or_else(|| "–".to_owned(), |value| format!("{value:.3}"));
    format!(
        "<h2>Offline evaluator</h2><table><tr><th>mean score<th class=\"n\">candidate<th class=\"n\">production<th class=\"n\">difference\
         <tr><td>as they are<td class=\"n\">{:.4}<td class=\"n\">{:.4}<td class=\"n\">{}\
         <tr><td>both equally long<td><td><td class=\"n\">{controlled}</table>\
         <p>The candidate wins on {:.1} % of prompts ({:.1} to {:.1}). Score and length correlate with {correlation}.</p>{}",
        score.candidate,
        score.production,
        text(&score.difference),
        100.0 * score.win_rate.value,
        100.0 * score.win_rate.low,
        100.0 * score.win_rate.high,
        histogram(&comparison.scores, "score"),
    )
}

/// A row a measure: the interval of its difference, in units of production's spread so that all share one axis.
fn intervals(measures: &[MeasureFigures]) -> String {
    let rates: Vec<&MeasureFigures> = measures.iter().filter(|figures| figures.name != "words").collect();
    let reach = rates
        .iter()
        .flat_map(|figures| [figures.difference.low.abs(), figures.difference.high.abs()])
        .fold(0.02, f64::max);
    let at = |value: f64| 420.0 + 300.0 * value / reach;
    let height = 30 + 24 * rates.len();
    let mut svg = format!(
        "<svg viewBox=\"0 0 760 {height}\" role=\"img\" aria-label=\"differences in percentage points\" font-size=\"13\" fill=\"currentColor\">\
         <line x1=\"420\" x2=\"420\" y1=\"4\" y2=\"{bottom}\" stroke=\"currentColor\" stroke-opacity=\".4\"/>\
         <text x=\"120\" y=\"{label}\" text-anchor=\"middle\" fill-opacity=\".7\">−{points:.1}</text>\
         <text x=\"420\" y=\"{label}\" text-anchor=\"middle\" fill-opacity=\".7\">0</text>\
         <text x=\"720\" y=\"{label}\" text-anchor=\"middle\" fill-opacity=\".7\">+{points:.1} points</text>",
        bottom = height - 22,
        label = height - 6,
        points = 100.0 * reach,
    );
    for (row, figures) in rates.iter().enumerate() {
        let y = 16 + 24 * row;
        let colour = if figures.tripped == 1 { "#d0342c" } else { COLOURS[0] };
        let Estimate { value, low, high } = figures.difference;
        let _ = write!(
            svg,
            "<text x=\"0\" y=\"{text}\">{name}</text><line x1=\"{from:.1}\" x2=\"{to:.1}\" y1=\"{y}\" y2=\"{y}\" stroke=\"{colour}\" stroke-width=\"3\"/>\
             <circle cx=\"{middle:.1}\" cy=\"{y}\" r=\"5\" fill=\"{colour}\"><title>{name}: {shown:+.2} points</title></circle>",
            text = y + 4,
            name = figures.name,
            from = at(low),
            to = at(high),
            middle = at(value),
            shown = 100.0 * value,
        );
    }
    svg + "</svg>"
}

fn table(comparison: &Comparison) -> String {
    let mut html = "<table><tr><th>measure<th class=\"n\">candidate<th class=\"n\">production<th class=\"n\">difference<th>trips when the candidate is".to_owned();
    let number = |name: &str, value: f64| if name == "words" { format!("{value:.1}") } else { format!("{value:.4}") };
    for figures in &comparison.measures {
        let Estimate { value, low, high } = figures.difference;
        let _ = write!(
            html,
            "<tr><td class=\"{class}\" title=\"{what}\">{name}<br><span class=\"quiet\">{what}</span><td class=\"n\">{candidate}<td class=\"n\">{production}\
             <td class=\"n\">{difference} ({low} to {high})<td>{wire}",
            class = if figures.tripped == 1 { "bad" } else { "" },
            name = figures.name,
            what = figures.what,
            candidate = number(figures.name, figures.candidate),
            production = number(figures.name, figures.production),
            difference = number(figures.name, value),
            low = number(figures.name, low),
            high = number(figures.name, high),
            wire = figures.wire,
        );
    }
    for figures in &comparison.corpus {
        let _ = write!(
            html,
            "<tr><td class=\"{class}\">{name}<br><span class=\"quiet\">{what}</span><td class=\"n\">{candidate:.4}<td class=\"n\">{production:.4}<td class=\"n\">{difference:.4}<td>{wire}",
            class = if figures.tripped == 1 { "bad" } else { "" },
            name = figures.name,
            what = figures.what,
            candidate = figures.candidate,
            production = figures.production,
            difference = figures.candidate - figures.production,
            wire = figures.wire,
        );
    }
    html + "</table>"
}

/// Both sides' values in twenty bins, side by side.
fn histogram(values: &[(f64, f64)], what: &str) -> String {
    const BINS: usize = 20;
    let all = || values.iter().flat_map(|(one, other)| [*one, *other]);
    let (low, high) = (all().fold(f64::INFINITY, f64::min), all().fold(f64::NEG_INFINITY, f64::max));
    if values.is_empty() || high <= low {
        return format!("<p class=\"quiet\">All answers have the same {what}.</p>");
    }
    let mut bins = [[0_usize; BINS]; 2];
    for (one, other) in values {
        for (side, value) in [one, other].into_iter().enumerate() {
            #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a share of the bins")]
            let bin = ((value - low) / (high - low) * BINS as f64) as usize;
            bins[side][bin.min(BINS - 1)] += 1;
        }
    }
    let most = bins.iter().flatten().copied().max().unwrap_or(1).max(1) as f64;
    let mut svg = "<svg viewBox=\"0 0 760 200\" role=\"img\" font-size=\"13\" fill=\"currentColor\">".to_owned();
    for (side, counts) in bins.iter().enumerate() {
        for (bin, count) in counts.iter().enumerate() {
            let height = 150.0 * *count as f64 / most;
            let _ = write!(
                svg,
                "<rect x=\"{x}\" y=\"{y:.1}\" width=\"16\" height=\"{height:.1}\" fill=\"{colour}\"><title>{count}</title></rect>",
                x = 10 + 37 * bin + 17 * side,
                y = 160.0 - height,
                colour = COLOURS[side],
            );
        }
    }
    let _ = write!(
        svg,
        "<text x=\"10\" y=\"180\">{low:.2}</text><text x=\"750\" y=\"180\" text-anchor=\"end\">{high:.2} {what}</text>\
         <rect x=\"300\" y=\"170\" width=\"12\" height=\"12\" fill=\"{one}\"/><text x=\"317\" y=\"181\">candidate</text>\
         <rect x=\"400\" y=\"170\" width=\"12\" height=\"12\" fill=\"{other}\"/><text x=\"417\" y=\"181\">production</text></svg>",
        one = COLOURS[0],
        other = COLOURS[1],
    );
    svg
}

fn shown(example: &Example, names: [&str; 2]) -> String {
    format!(
        "<details><summary>{:+.3} · {}</summary><div class=\"two\"><div><b>{}</b><pre>{}</pre></div><div><b>{}</b><pre>{}</pre></div></div></details>",
        example.difference,
        escaped(&example.prompt.chars().take(300).collect::<String>()),
        names[0],
        escaped(&example.candidate),
        names[1],
        escaped(&example.production),
    )
}
