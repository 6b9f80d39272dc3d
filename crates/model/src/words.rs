//! Where words and sentences stand in a text, for people to look at: a model has tokens of its own.
//!
//! A word is a run of letters and digits with the marks on them and the apostrophes between them; or one character of a
//! script that is written without spaces; or a run of anything else that is no space: punctuation, emoji, code. Every
//! character is in exactly one word, but for spaces and what [`normalise`](crate::text::normalise) takes out, which are in none.

use std::ops::Range;

use unicode_normalization::char::is_combining_mark;

use crate::text::is_noise;

#[derive(Clone, Copy, PartialEq, Eq)]
enum Class {
    Letter,
    /// A letter that is a word by itself.
    Alone,
    Other,
}

/// The words of a text, as bytes of it, in their order.
#[must_use]
pub fn words(text: &str) -> Vec<Range<usize>> {
    let mut words: Vec<Range<usize>> = Vec::new();
    let mut last = None;
    let mut characters = text.char_indices().peekable();
    while let Some((place, character)) = characters.next() {
        if is_space(character) {
            last = None;
            continue;
        }
        let end = place + character.len_utf8();
        // An apostrophe between letters is part of the word: "that's".
        let inside = matches!(character, '\'' | '’')
            && last == Some(Class::Letter)
            && characters.peek().is_some_and(|(_, next)| class(*next) == Class::Letter && !is_space(*next));
        let continues = last.is_some() && (inside || joins(character));
        let class = class(character);
        match words.last_mut() {
            Some(word) if continues || (last == Some(class) && class != Class::Alone) => word.end = end,
            _ => words.push(place..end),
        }
        if !continues {
            last = Some(class);
        }
    }
    words
}

/// The sentences of a text, as bytes of it, without the spaces between them. They end at line breaks, after marks that end
/// one and are followed by a space, and after those of scripts that put no space there.
#[must_use]
pub fn sentences(text: &str) -> Vec<Range<usize>> {
    let mut sentences = Vec::new();
    let mut open: Option<Range<usize>> = None;
    let mut ended = false;
    let mut ended_for_good = false;
    for (place, character) in text.char_indices() {
        if is_space(character) {
            if ended || matches!(character, '\n' | '\r' | '\u{2028}' | '\u{2029}') {
                sentences.extend(open.take());
                ended = false;
            }
            continue;
        }
        let closes = matches!(character, '"' | '\'' | '’' | '”' | '»' | ')' | ']' | '」' | '』' | '）');
        let full = matches!(character, '。' | '！' | '？');
        let ends = full || matches!(character, '.' | '!' | '?' | '…' | '؟' | '۔' | '।');
        if ended_for_good && !ends && !closes {
            sentences.extend(open.take());
        }
        let end = place + character.len_utf8();
        open = Some(open.map_or(place, |sentence: Range<usize>| sentence.start)..end);
        ended = ends || (ended && closes);
        ended_for_good = full || (ended_for_good && (ends || closes));
    }
    sentences.extend(open);
    sentences
}

/// Letters of scripts that are written without spaces: Han, kana, Hangul, Thai, Lao, Khmer, Myanmar.
#[must_use]
pub fn is_unspaced(character: char) -> bool {
    matches!(u32::from(character),
        0x0E00..=0x0EFF | 0x1000..=0x109F | 0x1780..=0x17FF | 0x3040..=0x30FF | 0x3400..=0x4DBF | 0x4E00..=0x9FFF
        | 0xAC00..=0xD7AF | 0x2_0000..=0x3_FFFF)
        && character.is_alphanumeric()
}

fn class(character: char) -> Class {
    if is_unspaced(character) {
        Class::Alone
    } else if character.is_alphanumeric() {
        Class::Letter
    } else {
        Class::Other
    }
}

fn is_space(character: char) -> bool {
    character.is_whitespace() || is_noise(character)
}

/// Whether a character belongs to the one before it: marks, joiners, variation selectors, skin tones.
fn joins(character: char) -> bool {
    is_combining_mark(character)
        || matches!(character, '\u{200c}' | '\u{200d}' | '\u{fe00}'..='\u{fe0f}' | '\u{1f3fb}'..='\u{1f3ff}')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(found: Vec<Range<usize>>, text: &str, expected: &[&str]) {
        assert_eq!(found.into_iter().map(|span| &text[span]).collect::<Vec<_>>(), expected);
    }

    #[test]
    fn words_are_those_that_a_reader_sees() {
        for (text, expected) in [
            ("", &[][..]),
            (" \n\u{0}", &[]),
            ("no, that's wrong!!", &["no", ",", "that's", "wrong", "!!"]),
            ("'quoted' o'clock’s", &["'", "quoted", "'", "o'clock’s"]),
            ("cafe\u{301}s 3.5", &["cafe\u{301}s", "3", ".", "5"]),
            ("谢谢你a", &["谢", "谢", "你", "a"]),
            ("תודה, שלום", &["תודה", ",", "שלום"]),
            ("👩\u{200d}💻👍🏽 ok", &["👩\u{200d}💻👍🏽", "ok"]),
            ("नमस्ते", &["नमस्ते"]),
            ("\u{301}a", &["\u{301}", "a"]),
        ] {
            check(words(text), text, expected);
        }
    }

    #[test]
    fn sentences_end_where_a_reader_pauses() {
        for (text, expected) in [
            ("", &[][..]),
            ("  No. That's wrong!  \"Really?\" he said", &["No.", "That's wrong!", "\"Really?\"", "he said"]),
            ("a line\nanother\r\n\r\nv1.2 of it", &["a line", "another", "v1.2 of it"]),
            ("不对。再来！好吗", &["不对。", "再来！", "好吗"]),
            ("「不对。」好", &["「不对。」", "好"]),
            ("wait... what", &["wait...", "what"]),
        ] {
            check(sentences(text), text, expected);
        }
    }

    /// Every character that is no space is in one word and one sentence, and spans are of whole characters.
    #[test]
    fn nothing_is_lost_or_double() {
        let mut state: u64 = 0x5eed_0002;
        let mut next = move || {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            state
        };
        let some = ['a', 'é', '\'', '.', '。', ' ', '\n', '谢', '\u{301}', '\u{200d}', '👍', 'ش', '\u{0}', '"', '5'];
        for _ in 0..2000 {
            let text: String =
                (0..next() % 24).map(|_| some[usize::from(next().to_le_bytes()[3]) % some.len()]).collect();
            let solid = |text: &str| text.chars().filter(|character| !is_space(*character)).collect::<String>();
            for spans in [words(&text), sentences(&text)] {
                assert!(spans.windows(2).all(|pair| pair[0].end <= pair[1].start), "{text:?}");
                let joined: String = spans.iter().map(|span| &text[span.clone()]).collect();
                assert_eq!(solid(&joined), solid(&text), "{text:?}");
            }
        }
    }
}
