//! Normalisation of chat text: the one place where it happens, for training and for serving alike.
//!
//! [`normalise`] yields text in Unicode NFC, without control characters, with every run of white space folded to one
//! space and none at the ends. It reads at most a given number of characters, from the start, the end, or both ends of
//! the text, so that a turn of a hundred thousand characters costs no more than one of a thousand.
//!
//! Joiners and variation selectors stay (emoji are made of them); case and accents stay (tokenizers decide on those).
//! It never panics, whatever the UTF-8.

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
fn is_noise(character: char) -> bool {
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
                let again = normalise(&folded, Window::Start(usize::MAX));
                assert_eq!(again, folded, "seed {seed:#x} round {round}");
            }
        }
    }
}
