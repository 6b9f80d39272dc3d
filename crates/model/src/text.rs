//! Normalisation of chat text: the one place where it happens, for training and for serving alike.
//!
//! [`normalise`] yields text in Unicode NFC, without control characters, with every run of white space folded to one
//! space and none at the ends. It reads at most a given number of characters, from the start, the end, or both ends of
//! the text, so that a turn of a hundred thousand characters costs no more than one of a thousand.
//!
//! Joiners and variation selectors stay (emoji are made of them); case and accents stay (tokenizers decide on those).
//! It never panics, whatever the UTF-8.

use std::ops::Range;

use unicode_normalization::char::canonical_combining_class;
use unicode_normalization::{IsNormalized, UnicodeNormalization, is_nfc_quick};

/// What is kept of a text that is longer than the bound. The bound counts characters (Unicode scalar values) as read,
/// before normalisation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Window {
    /// The first so many characters.
    Start(usize),
    /// The last so many characters.
    End(usize),
    /// The first and the last so many characters, with an ellipsis between them.
    Ends {
        /// Characters kept from the start.
        first: usize,
        /// Characters kept from the end.
        last: usize,
    },
}

/// Normalises `text`, reading no more of it than `window` says.
#[must_use]
pub fn normalise(text: &str, window: Window) -> String {
    match window {
        Window::Start(count) => fold(head(text, count)),
        Window::End(count) => fold(tail(text, count)),
        Window::Ends { first, last } => {
            let start = head(text, first);
            let end = tail(text, last);
            if start.len().saturating_add(end.len()) >= text.len() {
                return fold(text);
            }
            let (start, end) = (fold(start), fold(end));
            match (start.is_empty(), end.is_empty()) {
                (_, true) => start,
                (true, false) => end,
                (false, false) => format!("{start} … {end}"),
            }
        }
    }
}

/// A normalised text that knows where in the original its characters stand.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Traced {
    text: String,
    /// For each character that comes from the original: its place here, and the bytes there that it was made of.
    sources: Vec<(usize, Range<usize>)>,
}

/// Normalises `text` as [`normalise`] does, to the same characters, and keeps where each of them comes from.
#[must_use]
pub fn trace(text: &str, window: Window) -> Traced {
    let from_end = |end: &str| text.len() - end.len();
    match window {
        Window::Start(count) => Traced::of(head(text, count), 0),
        Window::End(count) => {
            let end = tail(text, count);
            Traced::of(end, from_end(end))
        }
        Window::Ends { first, last } => {
            let (start, end) = (head(text, first), tail(text, last));
            if start.len().saturating_add(end.len()) >= text.len() {
                return Traced::of(text, 0);
            }
            let mut traced = Traced::of(start, 0);
            traced.append(Traced::of(end, from_end(end)));
            traced
        }
    }
}

impl Traced {
    /// The normalised text.
    #[must_use]
    pub fn text(&self) -> &str {
        &self.text
    }

    /// The bytes of the original that those of `span` in the normalised text come from; nothing where none does, as of the
    /// ellipsis between two ends.
    #[must_use]
    pub fn source(&self, span: Range<usize>) -> Option<Range<usize>> {
        let from = self.sources.partition_point(|(place, _)| *place < span.start);
        let until = self.sources.partition_point(|(place, _)| *place < span.end);
        let within = self.sources.get(from..until)?;
        Some(within.first()?.1.start..within.last()?.1.end)
    }

    /// Folds a part of the original that begins at `offset`. Characters that may compose are normalised together and share
    /// their source; no such run reaches over a character that never composes with what stands before it.
    fn of(part: &str, offset: usize) -> Self {
        let mut traced = Self::default();
        let mut run: Vec<char> = Vec::new();
        let mut source = offset..offset;
        let mut space = false;
        for (place, character) in part.char_indices().filter(|(_, character)| !is_noise(*character)) {
            if stands_apart(character) {
                traced.push(&mut run, &source, &mut space);
                source.start = offset + place;
            }
            source.end = offset + place + character.len_utf8();
            run.push(character);
        }
        traced.push(&mut run, &source, &mut space);
        traced
    }

    fn push(&mut self, run: &mut Vec<char>, source: &Range<usize>, space: &mut bool) {
        for character in run.drain(..).nfc() {
            if character.is_whitespace() {
                *space = true;
                continue;
            }
            if std::mem::take(space) && !self.text.is_empty() {
                self.text.push(' ');
            }
            self.sources.push((self.text.len(), source.clone()));
            self.text.push(character);
        }
    }

    /// Adds the end of a text whose middle is left out.
    fn append(&mut self, end: Self) {
        if !self.text.is_empty() && !end.text.is_empty() {
            self.text.push_str(" … ");
        }
        let moved = self.text.len();
        self.text.push_str(&end.text);
        self.sources.extend(end.sources.into_iter().map(|(place, source)| (moved + place, source)));
    }
}

/// Whether normalisation never joins a character to what stands before it.
fn stands_apart(character: char) -> bool {
    canonical_combining_class(character) == 0 && is_nfc_quick(std::iter::once(character)) == IsNormalized::Yes
}

/// The first `count` characters.
fn head(text: &str, count: usize) -> &str {
    // A text of no more bytes than that has no more characters either: most texts end here, unread.
    if text.len() <= count {
        return text;
    }
    let end = text.char_indices().nth(count).map_or(text.len(), |(position, _)| position);
    text.get(..end).unwrap_or(text)
}

/// The last `count` characters.
fn tail(text: &str, count: usize) -> &str {
    if text.len() <= count {
        return text;
    }
    let Some(before) = count.checked_sub(1) else { return "" };
    let start = text.char_indices().rev().nth(before).map_or(0, |(position, _)| position);
    text.get(start..).unwrap_or(text)
}

/// Noise out, NFC, white space folded; in this order, since a character taken out can bring together two that compose.
fn fold(text: &str) -> String {
    let clean = || text.chars().filter(|character| !is_noise(*character));
    if is_nfc_quick(clean()) == IsNormalized::Yes {
        fold_space(clean(), text.len())
    } else {
        fold_space(clean().nfc(), text.len())
    }
}

fn fold_space(characters: impl Iterator<Item = char>, capacity: usize) -> String {
    let mut folded = String::with_capacity(capacity);
    let mut space = false;
    for character in characters {
        if character.is_whitespace() {
            space = true;
            continue;
        }
        if space && !folded.is_empty() {
            folded.push(' ');
        }
        space = false;
        folded.push(character);
    }
    folded
}

/// Characters that carry no text: controls that are no white space, the byte-order mark, the replacement character that
/// stands for broken bytes, the zero-width space and direction marks. They part no words either.
pub(crate) fn is_noise(character: char) -> bool {
    (character.is_control() && !character.is_whitespace())
        || matches!(
            character,
            '\u{feff}' | '\u{fffd}' | '\u{200b}' | '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}'
        )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(text: &str, expected: &str) {
        assert_eq!(normalise(text, Window::Start(1000)), expected);
        assert_eq!(normalise(text, Window::End(1000)), expected);
        assert_eq!(normalise(text, Window::Ends { first: 500, last: 500 }), expected);
    }

    #[test]
    fn nothing_comes_of_nothing() {
        check("", "");
        check(" \t\r\n\u{a0}\u{3000}", "");
        check("\u{0}\u{1}\u{7f}\u{feff}\u{200b}", "");
    }

    #[test]
    fn white_space_is_folded_and_controls_go() {
        check("  thanks,\r\n\tthat\u{a0}worked \u{0}", "thanks, that worked");
        check("a\u{0}b", "ab");
        check("\u{1b}[31mred\u{1b}[0m", "[31mred[0m");
        check("PK\u{3}\u{4}\u{fffd}\u{fffd}data", "PKdata");
    }

    #[test]
    fn composed_and_decomposed_are_the_same() {
        check("cafe\u{301}", "café");
        check("café", "café");
        check("cafe\u{200b}\u{301}", "café");
        check("\u{1100}\u{1161}", "가");
    }

    #[test]
    fn emoji_and_right_to_left_text_survive() {
        check("👩\u{200d}💻👍🏽❤\u{fe0f}", "👩\u{200d}💻👍🏽❤\u{fe0f}");
        check("شكرا \u{202b}جزيلا\u{202c}", "شكرا جزيلا");
        check("תודה רבה", "תודה רבה");
    }

    #[test]
    fn windows_keep_what_they_say() {
        assert_eq!(normalise("abcdef", Window::Start(3)), "abc");
        assert_eq!(normalise("abcdef", Window::End(3)), "def");
        assert_eq!(normalise("abcdef", Window::Ends { first: 2, last: 1 }), "ab … f");
        assert_eq!(normalise("abcdef", Window::Ends { first: 4, last: 4 }), "abcdef");
        assert_eq!(normalise("äöüß", Window::End(2)), "üß");
        assert_eq!(normalise("äöüß", Window::Start(0)), "");
        assert_eq!(normalise("äöüß", Window::End(0)), "");
    }

    #[test]
    fn a_long_text_is_not_read_whole() {
        let text = "x".repeat(10_000_000);
        assert_eq!(normalise(&text, Window::Start(100)).len(), 100);
        assert_eq!(normalise(&text, Window::End(100)).len(), 100);
    }

    /// The trace says the same text, and each of its characters comes from bytes of the original that normalise to it.
    #[track_caller]
    fn assert_traced(text: &str, window: Window, folded: &str) {
        let traced = trace(text, window);
        assert_eq!(traced.text(), folded, "{text:?}");
        let mut end = 0;
        for (place, character) in folded.char_indices() {
            let Some(source) = traced.source(place..place + character.len_utf8()) else {
                assert!(character == ' ' || character == '…', "{text:?}");
                continue;
            };
            assert!(source.end >= end && source.end <= text.len(), "{text:?}");
            end = source.end;
            let there = normalise(&text[source], Window::Start(usize::MAX));
            assert!(there.contains(character), "{text:?}: {there:?} has no {character:?}");
        }
    }

    #[test]
    fn a_traced_text_leads_back_to_the_original() {
        let all = Window::Start(1000);
        let source = |text: &str, wanted: &str| {
            let traced = trace(text, all);
            let place = traced.text().find(wanted).unwrap();
            traced.source(place..place + wanted.len()).map(|source| text[source].to_owned())
        };
        assert_eq!(source("  no,\r\n\tcafe\u{301} \u{0}!", "café").as_deref(), Some("cafe\u{301}"));
        assert_eq!(source("cafe\u{200b}\u{301}s", "é").as_deref(), Some("e\u{200b}\u{301}"));
        assert_eq!(source("x\u{1100}\u{1161}\u{11a8}", "각").as_deref(), Some("\u{1100}\u{1161}\u{11a8}"));
        assert_eq!(source("שלום תודה", "תודה").as_deref(), Some("תודה"));
        assert_eq!(source("a b", " "), None);
        let ends = trace("abcdefgh", Window::Ends { first: 2, last: 2 });
        assert_eq!(ends.text(), "ab … gh");
        let (start, end) = (ends.source(0..2), ends.source(ends.text().len() - 2..ends.text().len()));
        assert_eq!((start, end), (Some(0..2), Some(6..8)));
        assert_eq!(ends.source(2..ends.text().len() - 2), None);
        for text in ["", " ", "e\u{301}\u{327}", "\u{301}a", "👩\u{200d}💻👍🏽", "\u{1b}[31mred\u{1b}[0m", "가나 ga"]
        {
            assert_traced(text, all, &normalise(text, all));
        }
    }

    /// Any UTF-8 at all: no panic, idempotent, bounded, no controls, no double spaces.
    #[test]
    fn any_text_comes_out_clean() {
        let seed: u64 = 0x5eed_0001;
        let mut state = seed;
        let mut next = move || {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            state
        };
        for round in 0..3000 {
            let bytes: Vec<u8> = (0..next() % 64).flat_map(|_| next().to_le_bytes()).collect();
            let text = if round % 2 == 0 {
                String::from_utf8_lossy(&bytes).into_owned()
            } else {
                bytes
                    .chunks_exact(4)
                    .filter_map(|chunk| char::from_u32(u32::from_le_bytes([chunk[0], chunk[1], chunk[2] & 0x0f, 0])))
                    .collect()
            };
            for window in [Window::Start(40), Window::End(40), Window::Ends { first: 20, last: 20 }] {
                let folded = normalise(&text, window);
                assert!(!folded.contains("  "), "seed {seed:#x} round {round}");
                assert!(!folded.chars().any(char::is_control), "seed {seed:#x} round {round}");
                assert_eq!(folded.trim(), folded, "seed {seed:#x} round {round}");
                assert_traced(&text, window, &folded);
                let again = normalise(&folded, Window::Start(usize::MAX));
                assert_eq!(again, folded, "seed {seed:#x} round {round}");
            }
        }
    }
}
