//! An explanation for a terminal: texts with their words coloured; where there are no colours, words with their numbers.

use std::fmt::Write as _;

use uptake_model::labels::output_name;
use uptake_tagger::explain::{Part, Piece};
use uptake_tagger::lines::Explained;

use super::shown::{What, isolated, level, one_line, stretches, strongest, title};

/// Words that are listed of a text.
const LISTED: usize = 12;
/// Effects below this are not listed.
const FAINT: f32 = 0.05;
/// Characters of text without effect that are shown on each side.
const AROUND: usize = 24;

/// Colours of the background by strength, of the 256 that terminals have: for the label, against it.
const FOR: [u8; 3] = [22, 28, 34];
const AGAINST: [u8; 3] = [52, 88, 160];

/// One follow-up; nothing where none of its labels is explained.
pub(super) fn explanation(explained: &Explained<'_>, thresholds: &[f32], colours: bool) -> String {
    let explanation = explained.explanation;
    if explanation.outputs.is_empty() {
        return String::new();
    }
    let scores = &explanation.scores;
    let id = isolated(one_line(explained.conversation_id));
    let mut text = format!("{id}, turn {}: sat {:.2}, dsat {:.2}\n", explained.turn, scores.sat(), scores.dsat());
    for (place, output) in explanation.outputs.iter().enumerate() {
        let probability = scores.probabilities().get(*output).copied().unwrap_or_default();
        let threshold = thresholds.get(*output).copied().unwrap_or(1.0);
        let fires = if scores.fires_output(*output) { "fires" } else { "would fire" };
        let name = output_name(*output).unwrap_or("?");
        let _ = writeln!(text, "  {name} {probability:.2} ({fires} from {threshold:.2})");
        for part in Part::ALL {
            let line = if colours { coloured(explained, part, place) } else { listed(explained, part, place) };
            if let Some(line) = line {
                let _ = writeln!(text, "    {:<18} {line}", title(part));
            }
        }
        for related in &explanation.relations {
            let effect = related.effects.get(place).copied().unwrap_or_default();
            let what = super::relation(related.against);
            let _ = writeln!(text, "    {:<18} {what}: {} {effect:+.2}", "relation", related.relation);
        }
    }
    text
}

/// The words of a text that did something, the strongest first.
fn listed(explained: &Explained<'_>, part: Part, place: usize) -> Option<String> {
    let effect = |piece: &Piece| piece.effects.get(place).copied().unwrap_or_default();
    let mut words: Vec<&Piece> = explained.explanation.words.iter().filter(|piece| piece.part == part).collect();
    let read = words.len();
    words.retain(|piece| effect(piece).abs() >= FAINT);
    words.sort_by(|a, b| effect(b).abs().total_cmp(&effect(a).abs()));
    if words.is_empty() {
        return (part == Part::FollowUp).then(|| format!("no word has an effect of {FAINT} or more"));
    }
    let said = part.of(explained.exchange);
    let shown = words.iter().take(LISTED).map(|piece| {
        let word = isolated(one_line(said.get(piece.span.clone()).unwrap_or_default()));
        format!("{word} {:+.2}", effect(piece))
    });
    let mut line = shown.collect::<Vec<_>>().join(" | ");
    let weaker = read - words.len().min(LISTED);
    if weaker > 0 {
        let _ = write!(line, " | {weaker} weaker");
    }
    Some(line)
}

/// A text with its words coloured. Of what did nothing only the edges are shown, but for the follow-up; nothing at all of a
/// text in which no word did anything.
fn coloured(explained: &Explained<'_>, part: Part, place: usize) -> Option<String> {
    let explanation = explained.explanation;
    let strongest = strongest(explanation, place);
    let step = |word: usize| {
        let effect =
            explanation.words.get(word).and_then(|piece| piece.effects.get(place)).copied().unwrap_or_default();
        (effect, level(effect, strongest))
    };
    let own = |word: &usize| explanation.words[*word].part == part;
    if part != Part::FollowUp && !(0..explanation.words.len()).filter(own).any(|word| step(word).1 > 0) {
        return None;
    }
    let said = part.of(explained.exchange);
    let mut line = String::new();
    // What has no colour is gathered, so that it is shortened as a whole.
    let mut plain = String::new();
    for (span, what) in stretches(said, explanation, part) {
        let stretch = said.get(span).unwrap_or_default();
        match what {
            What::Unread => {
                let count = stretch.chars().count();
                flush(&mut line, &mut plain, part);
                let _ = write!(line, "\u{1b}[2m[{count} characters not read]\u{1b}[0m");
            }
            What::Word(word) if step(word).1 > 0 => {
                let (effect, level) = step(word);
                let background = if effect > 0.0 { FOR[level - 1] } else { AGAINST[level - 1] };
                flush(&mut line, &mut plain, part);
                let _ = write!(line, "\u{1b}[38;5;231;48;5;{background}m{}\u{1b}[0m", one_line(stretch));
            }
            What::Word(_) | What::Plain => plain.push_str(stretch),
        }
    }
    flush(&mut line, &mut plain, part);
    Some(isolated(line))
}

fn flush(line: &mut String, plain: &mut String, part: Part) {
    let shown = one_line(plain);
    plain.clear();
    let count = shown.chars().count();
    if part == Part::FollowUp || count <= 2 * AROUND + 3 {
        line.push_str(&shown);
        return;
    }
    line.extend(shown.chars().take(AROUND));
    line.push_str(" … ");
    line.extend(shown.chars().skip(count - AROUND));
}

#[cfg(test)]
#[path = "text_tests.rs"]
mod tests;
