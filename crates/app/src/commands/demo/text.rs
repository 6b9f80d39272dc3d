//! Text for people: counts, columns, wrapped paragraphs.

use sha2::{Digest as _, Sha256};
use uptake_sample::Log;

/// A count with its thousands apart.
pub(super) fn count(number: impl TryInto<u64>) -> String {
    let digits = number.try_into().unwrap_or(u64::MAX).to_string();
    let mut text = String::new();
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// The width to write in: what the shell says of its terminal, within what reads well.
pub(super) fn width() -> usize {
    let columns = std::env::var("COLUMNS").ok().and_then(|columns| columns.parse().ok());
    columns.unwrap_or(100_usize).clamp(60, 120)
}

/// Words of a text in lines of at most `width` characters, `indent` before each. Line breaks and the spaces at the
/// beginning of lines stay; a word that is longer than a line gets one of its own.
pub(super) fn wrap(text: &str, indent: &str, width: usize) -> String {
    let mut wrapped = String::new();
    for line in text.lines() {
        let leading = line.len() - line.trim_start().len();
        let mut written = 0;
        wrapped.push_str(indent);
        wrapped.push_str(&line[..leading]);
        for word in line.split_whitespace() {
            let length = word.chars().count();
            if written > 0 && indent.len() + written + 1 + length > width {
                wrapped.push('\n');
                wrapped.push_str(indent);
                written = 0;
            }
            if written > 0 {
                wrapped.push(' ');
                written += 1;
            }
            wrapped.push_str(word);
            written += length;
        }
        wrapped.push('\n');
    }
    wrapped
}

/// A text of at most `most` characters, with a sign where something was cut off.
pub(super) fn excerpt(text: &str, most: usize) -> String {
    match text.char_indices().nth(most) {
        Some((at, _)) => format!("{}…", &text[..at]),
        None => text.to_owned(),
    }
}

/// A hash over all records: two logs of one fingerprint are the same bytes.
pub(super) fn fingerprint(log: &Log) -> String {
    let mut hash = Sha256::new();
    for record in &log.records {
        for part in [record.topic.as_bytes(), record.key.as_bytes(), record.payload.as_deref().unwrap_or_default()] {
            hash.update((part.len() as u64).to_le_bytes());
            hash.update(part);
        }
    }
    hash.finalize().iter().take(8).fold(String::new(), |text, byte| format!("{text}{byte:02x}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_have_their_thousands_apart() {
        let text: Vec<String> = [0_u64, 999, 1_000, 1_234_567].map(count).to_vec();
        assert_eq!(text, ["0", "999", "1,000", "1,234,567"]);
    }

    #[test]
    fn lines_are_wrapped_and_breaks_stay() {
        assert_eq!(wrap("one two three\n\nfour", "  ", 9), "  one two\n  three\n  \n  four\n");
        assert_eq!(wrap("unbreakable", "", 4), "unbreakable\n");
        assert_eq!(wrap("if x:\n    y", "| ", 80), "| if x:\n|     y\n");
    }
}
