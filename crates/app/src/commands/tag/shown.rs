//! Other people's text as it may be shown: no control reaches a terminal or a page, and no direction mark turns round what
//! stands beside it.

use std::ops::Range;

use uptake_tagger::explain::{Explanation, Part};

/// The words for a part of an exchange.
pub(super) const fn title(part: Part) -> &'static str {
    match part {
        Part::FollowUp => "follow-up",
        Part::Response => "response",
        Part::LastUser => "last user message",
    }
}

/// A text without controls: those of ASCII become their pictures, other ones and direction marks the replacement character.
/// Line breaks and tabs stay.
pub(super) fn harmless(text: &str) -> String {
    let shown = |character: char| match character {
        '\n' | '\t' => character,
        '\r' => '\n',
        '\u{0}'..='\u{1f}' => char::from_u32(0x2400 + u32::from(character)).unwrap_or('\u{fffd}'),
        '\u{7f}' => '\u{2421}',
        '\u{80}'..='\u{9f}'
        | '\u{200b}'
        | '\u{200e}'
        | '\u{200f}'
        | '\u{2028}'..='\u{202e}'
        | '\u{2060}'..='\u{206f}'
        | '\u{feff}' => '\u{fffd}',
        _ => character,
    };
    text.replace("\r\n", "\n").chars().map(shown).collect()
}

/// A harmless text on one line.
pub(super) fn one_line(text: &str) -> String {
    let mut line = String::with_capacity(text.len());
    for character in harmless(text).chars() {
        match character {
            character if !character.is_whitespace() => line.push(character),
            _ if line.ends_with(' ') => {}
            _ => line.push(' '),
        }
    }
    line
}

/// A text that runs from right to left, kept from turning round what stands beside it (Unicode's isolates).
pub(super) fn isolated(text: String) -> String {
    if text.chars().any(runs_left) { format!("\u{2068}{text}\u{2069}") } else { text }
}

/// Characters of scripts that are written from right to left: Hebrew, Arabic and what Unicode sets beside them.
fn runs_left(character: char) -> bool {
    matches!(u32::from(character), 0x0590..=0x08ff | 0xfb1d..=0xfdff | 0xfe70..=0xfeff | 0x1_0800..=0x1_0fff | 0x1_e800..=0x1_efff)
}

/// What a stretch of a text is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum What {
    /// Read by the model; nothing is known of what it did, or it is the space between words.
    Plain,
    /// One of the explanation's words, by its place there.
    Word(usize),
    /// Not read by the model.
    Unread,
}

/// The text of a part from its first byte to its last, as stretches.
pub(super) fn stretches(text: &str, explanation: &Explanation, part: Part) -> Vec<(Range<usize>, What)> {
    let unread: Vec<&Range<usize>> =
        explanation.unread.iter().filter(|(whose, _)| *whose == part).map(|(_, span)| span).collect();
    let mut marks: Vec<(Range<usize>, What)> = unread.iter().map(|span| ((*span).clone(), What::Unread)).collect();
    for (place, word) in explanation.words.iter().enumerate().filter(|(_, word)| word.part == part) {
        // Several words that were left out together may stand on both sides of some that were not read.
        let mut start = word.span.start;
        for gap in unread.iter().filter(|gap| gap.start < word.span.end && gap.end > word.span.start) {
            marks.push((start..gap.start.max(start), What::Word(place)));
            start = gap.end;
        }
        marks.push((start..word.span.end.max(start), What::Word(place)));
    }
    marks.retain(|(span, _)| !span.is_empty());
    marks.sort_by_key(|(span, _)| span.start);
    let mut all = Vec::with_capacity(2 * marks.len() + 1);
    let mut end = 0;
    for (span, what) in marks {
        if end < span.start {
            all.push((end..span.start, What::Plain));
        }
        end = span.end;
        all.push((span, what));
    }
    if end < text.len() {
        all.push((end..text.len(), What::Plain));
    }
    all
}

/// How strong an effect looks beside the strongest one: 0 to 3.
pub(super) fn level(effect: f32, strongest: f32) -> usize {
    let share = effect.abs() / strongest.max(LEAST_STRONGEST);
    [0.08, 0.3, 0.6].iter().filter(|step| share >= **step).count()
}

/// Where nothing had a larger effect than this, nothing looks strong.
const LEAST_STRONGEST: f32 = 0.5;

/// The largest effect of a word on an output, which stands at `output` among those explained.
pub(super) fn strongest(explanation: &Explanation, output: usize) -> f32 {
    let effects = explanation.words.iter().filter_map(|word| word.effects.get(output));
    effects.map(|effect| effect.abs()).fold(0.0, f32::max)
}

#[cfg(test)]
mod tests {
    use uptake_tagger::Scores;
    use uptake_tagger::explain::Piece;

    use super::*;

    #[test]
    fn no_control_gets_through() {
        assert_eq!(harmless("a\u{1b}[31m\u{0}\u{7f}\u{9b}b\r\nc\td"), "a␛[31m␀␡\u{fffd}b\nc\td");
        assert_eq!(one_line(" a\r\n\tb \u{202e}c"), " a b \u{fffd}c");
        for character in (0..0x3000).filter_map(char::from_u32) {
            let shown = one_line(&character.to_string());
            assert!(!shown.chars().any(char::is_control), "{character:?}");
        }
        assert_eq!(isolated("שלום".to_owned()), "\u{2068}שלום\u{2069}");
        assert_eq!(isolated("hello".to_owned()), "hello");
    }

    #[test]
    fn stretches_tile_a_text_and_what_was_not_read_is_no_word() {
        let text = "ab cd ef gh ij";
        let word = |span: Range<usize>, words| Piece {
            part: Part::FollowUp,
            span,
            words,
            effects: vec![1.0],
            left_out: vec![1.0],
            alone: vec![1.0],
        };
        let explanation = Explanation {
            scores: Scores::NONE,
            outputs: vec![0],
            words: vec![word(0..2, 1), word(3..11, 2)],
            sentences: vec![],
            relations: vec![],
            unread: vec![(Part::FollowUp, 6..8), (Part::Response, 0..5)],
            passes: 1,
        };
        let found = stretches(text, &explanation, Part::FollowUp);
        let expected = [
            (0..2, What::Word(0)),
            (2..3, What::Plain),
            (3..6, What::Word(1)),
            (6..8, What::Unread),
            (8..11, What::Word(1)),
            (11..14, What::Plain),
        ];
        assert_eq!(found, expected);
        assert_eq!(stretches("", &explanation, Part::LastUser), []);
    }

    #[test]
    fn weak_effects_look_weak() {
        assert_eq!([0.01, 0.5, -1.5, -3.0].map(|effect| level(effect, 3.0)), [0, 1, 2, 3]);
        assert_eq!(level(0.02, 0.02), 0);
    }
}
