//! Explanations as one page that needs nothing else: a card for each follow-up, a tab for each of its labels.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use uptake_model::html::{escaped, styled};
use uptake_model::labels::output_name;
use uptake_tagger::explain::{Explanation, Part, Piece};
use uptake_tagger::lines::{Explained, Progress};

use super::shown::{What, harmless, level, one_line, stretches, strongest, title};

/// Cards of a page: more than anyone looks through, few enough for a browser.
const MOST_CARDS: usize = 1000;
/// Sentences that are listed of a follow-up.
const SENTENCES: usize = 6;

/// Beside the common style: cards, tabs without a script, and colours by sign and strength. Who cannot tell the colours
/// apart sees a line under what speaks against a label.
const STYLE: &str = ".card{border:1px solid #e3e5e8;border-radius:10px;padding:.9rem 1.1rem;margin:1rem 0}\
.card>header{display:flex;justify-content:space-between;gap:1rem;flex-wrap:wrap;margin-bottom:.5rem}\
.card>input{position:absolute;opacity:0;pointer-events:none}\
.card>label{display:inline-block;padding:.15rem .7rem;margin:0 .35rem .4rem 0;border:1px solid #c9cdd3;border-radius:1rem;cursor:pointer;font-size:.9rem}\
.card>label b{font-variant-numeric:tabular-nums;font-weight:600}.card>label.off{opacity:.65}\
.card>input:focus-visible+label{outline:2px solid #3b7dd8}.card>input:checked+label{background:#1d2129;color:#fff;border-color:#1d2129}\
.panel{display:none}.part{display:grid;grid-template-columns:8.5rem 1fr;gap:.2rem .8rem;margin:.35rem 0}\
.part>div{white-space:pre-wrap;overflow-wrap:anywhere;max-height:16rem;overflow-y:auto}.part>span{color:#656b75;font-size:.85rem;padding-top:.1rem}\
.follow_up>div{font-size:1.15rem;line-height:1.75}\
.card i{font-style:normal;border-radius:3px;padding:.05em 0}\
.p1{background:#d9f2e1}.p2{background:#a5dfb8}.p3{background:#5fc285}\
.m1,.m2,.m3{text-decoration:underline dotted;text-underline-offset:.2em}.m1{background:#fbe0dd}.m2{background:#f5b5ae}.m3{background:#ec8177}\
.card u{text-decoration:none;color:#8b919b;font-size:.85em;border:1px dashed #c9cdd3;border-radius:4px;padding:0 .4em}\
.panel td{border:0;padding:.1rem .6rem .1rem 0}.legend i{padding:.05em .4em;border-radius:3px;font-style:normal}\
@media(max-width:40rem){.part{grid-template-columns:1fr}}\
@media(prefers-color-scheme:dark){.card{border-color:#33373e}.card>label{border-color:#4a505a}.card>input:checked+label{background:#e3e5e8;color:#16181c}\
.p1{background:#17382a}.p2{background:#1d5c3f}.p3{background:#25875a}.m1{background:#43211f}.m2{background:#752e29}.m3{background:#a83c35}.part>span{color:#9aa1ac}}";

/// A page that is being gathered.
#[derive(Debug, Default)]
pub(super) struct Page {
    cards: Vec<String>,
    /// Follow-ups that were explained, those without a card too.
    explained: usize,
    /// How many of them an output was explained for, and fires.
    outputs: BTreeMap<usize, (usize, usize)>,
}

impl Page {
    /// Adds a follow-up, where anything of it is explained.
    pub(super) fn add(&mut self, explained: &Explained<'_>, thresholds: &[f32]) {
        let explanation = explained.explanation;
        if explanation.outputs.is_empty() {
            return;
        }
        self.explained += 1;
        for output in &explanation.outputs {
            let (count, fires) = self.outputs.entry(*output).or_default();
            *count += 1;
            *fires += usize::from(explanation.scores.fires_output(*output));
        }
        if self.cards.len() < MOST_CARDS {
            let card = card(self.cards.len(), explained, thresholds);
            self.cards.push(card);
        }
    }

    /// The whole page.
    pub(super) fn finish(self, file: &str, tagger: &str, done: &Progress) -> String {
        let file = escaped(&one_line(file));
        let mut body = format!(
            "<h1>What moved the labels</h1><p>{} of {} follow-ups in {} conversations of <b>{file}</b>, read by {}.</p>\
             <p class=\"legend\"><i class=\"p1\">a</i><i class=\"p2\">b</i><i class=\"p3\">c</i> speaks for the label, <i class=\"m1\">a</i><i class=\"m2\">b</i><i class=\"m3\">c</i> against it; \
             point at a word for its number: the mean of what the label's log-odds lose when the word is left out, and of what they gain when of its text the word alone is read. \
             Colours are relative to the strongest word of the label.</p>",
            self.explained,
            done.follow_ups,
            done.conversations,
            escaped(tagger),
        );
        if self.explained == 0 {
            body.push_str("<p>No label fires, so there is nothing to explain.</p>");
        } else {
            body.push_str("<table><tr><th>label<th class=\"n\">explained<th class=\"n\">fire");
            for (output, (count, fires)) in &self.outputs {
                let name = output_name(*output).unwrap_or("?");
                let _ = write!(body, "<tr><td>{name}<td class=\"n\">{count}<td class=\"n\">{fires}");
            }
            body.push_str("</table>");
        }
        let most = self.cards.iter().map(|card| card.matches("<input").count()).max().unwrap_or_default();
        let mut style = STYLE.to_owned();
        for tab in 1..=most {
            let _ = write!(style, ".card>input:nth-of-type({tab}):checked~.panel:nth-of-type({tab}){{display:block}}");
        }
        for card in &self.cards {
            body.push_str(card);
        }
        if self.explained > self.cards.len() {
            let more = self.explained - self.cards.len();
            let _ = write!(body, "<p class=\"quiet\">{more} more are not shown here: -o FILE has them all.</p>");
        }
        styled("What moved the labels", &style, &body)
    }
}

fn card(number: usize, explained: &Explained<'_>, thresholds: &[f32]) -> String {
    let explanation = explained.explanation;
    let scores = &explanation.scores;
    let mut html = format!(
        "<section class=\"card\"><header><span><bdi>{}</bdi>, turn {}</span><span class=\"quiet\">sat {:.2} · dsat {:.2}</span></header>",
        escaped(&one_line(explained.conversation_id)),
        explained.turn,
        scores.sat(),
        scores.dsat()
    );
    for (place, output) in explanation.outputs.iter().enumerate() {
        let (fires, checked) = (scores.fires_output(*output), if place == 0 { " checked" } else { "" });
        let _ = write!(
            html,
            "<input type=\"radio\" name=\"c{number}\" id=\"c{number}-{place}\"{checked}><label for=\"c{number}-{place}\" title=\"fires from {:.2}\"{}>{} <b>{:.2}</b></label>",
            thresholds.get(*output).copied().unwrap_or(1.0),
            if fires { "" } else { " class=\"off\"" },
            output_name(*output).unwrap_or("?"),
            scores.probabilities().get(*output).copied().unwrap_or_default(),
        );
    }
    for (place, output) in explanation.outputs.iter().enumerate() {
        html.push_str("<div class=\"panel\">");
        for part in Part::ALL {
            html.push_str(&text(explained, part, place, *output));
        }
        html.push_str(&beside(explained, place));
        html.push_str("</div>");
    }
    html + "</section>"
}

/// A text with its words coloured.
fn text(explained: &Explained<'_>, part: Part, place: usize, output: usize) -> String {
    let (explanation, said) = (explained.explanation, part.of(explained.exchange));
    if said.is_empty() {
        return String::new();
    }
    let strongest = strongest(explanation, place);
    let mut html = format!("<div class=\"part {}\"><span>{}</span><div dir=\"auto\">", part.name(), title(part));
    for (span, what) in stretches(said, explanation, part) {
        let stretch = said.get(span).unwrap_or_default();
        let shown = || escaped(&harmless(stretch));
        match what {
            What::Plain => html.push_str(&shown()),
            What::Unread => {
                let count = stretch.chars().count();
                let _ = write!(html, "<u title=\"cut off, or gone in normalisation\">{count} characters not read</u>");
            }
            What::Word(word) => html.push_str(&coloured(&explanation.words[word], place, output, strongest, &shown())),
        }
    }
    html + "</div></div>"
}

/// A word, coloured by its effect on an output.
fn coloured(word: &Piece, place: usize, output: usize, strongest: f32, shown: &str) -> String {
    let effect = word.effects.get(place).copied().unwrap_or_default();
    let class = match (level(effect, strongest), effect > 0.0) {
        (0, _) => String::new(),
        (level, true) => format!(" class=\"p{level}\""),
        (level, false) => format!(" class=\"m{level}\""),
    };
    let together = if word.words > 1 { format!(", {} words together", word.words) } else { String::new() };
    let of = |changes: &[f32]| changes.get(place).copied().unwrap_or_default();
    format!(
        "<i{class} title=\"{} {effect:+.2}{together}: left out {:+.2}, alone {:+.2}\">{shown}</i>",
        output_name(output).unwrap_or("?"),
        -of(&word.left_out),
        of(&word.alone)
    )
}

/// Relations, and sentences where there are several.
fn beside(explained: &Explained<'_>, place: usize) -> String {
    let explanation: &Explanation = explained.explanation;
    let effect = |effects: &[f32]| effects.get(place).copied().unwrap_or_default();
    let mut html = String::new();
    for related in &explanation.relations {
        let what = super::relation(related.against);
        let _ = write!(
            html,
            "<div class=\"part\"><span>relation</span><div>{what}: {} <b>{:+.2}</b></div></div>",
            related.relation,
            effect(&related.effects)
        );
    }
    let mut sentences: Vec<&Piece> = explanation.sentences.iter().filter(|piece| piece.words > 1).collect();
    if sentences.len() < 2 {
        return html;
    }
    sentences.sort_by(|a, b| effect(&b.effects).abs().total_cmp(&effect(&a.effects).abs()));
    html.push_str("<details><summary>sentences, each left out as a whole</summary><table>");
    for piece in sentences.into_iter().take(SENTENCES) {
        let said = one_line(piece.part.of(explained.exchange).get(piece.span.clone()).unwrap_or_default());
        let cut: String =
            if said.chars().count() > 160 { said.chars().take(160).chain(['…']).collect() } else { said };
        let _ = write!(
            html,
            "<tr><td class=\"n\">{:+.2}<td class=\"quiet\">{}<td><bdi>{}</bdi>",
            effect(&piece.effects),
            title(piece.part),
            escaped(&cut)
        );
    }
    html + "</table></details>"
}

#[cfg(test)]
#[path = "page_tests.rs"]
mod tests;
