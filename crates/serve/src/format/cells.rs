//! One value as people read it, and text in cells of a given width.

use arrow::array::{Array, ArrayRef};
use arrow::datatypes::DataType;
use arrow::util::display::{ArrayFormatter, FormatOptions};
use unicode_width::{UnicodeWidthChar, UnicodeWidthStr};

use super::csv::as_json;
use crate::functions::transcript_of;

/// How a missing value is shown.
pub(super) const NULL: &str = "·";

/// A value as people read it: conversations as transcripts, lists of texts one a line, times to the second.
pub(super) fn text(column: &ArrayRef, row: usize) -> String {
    if column.is_null(row) {
        return NULL.to_owned();
    }
    if let Some(transcript) = transcript_of(column, row) {
        return printable(&transcript);
    }
    if column.data_type().is_nested() {
        let json = as_json(&column.slice(row, 1));
        if let Ok(json) = json {
            return printable(&formatted(&json, 0));
        }
    }
    printable(&formatted(column, row))
}

fn formatted(column: &ArrayRef, row: usize) -> String {
    let options = FormatOptions::default()
        .with_timestamp_format(Some("%Y-%m-%d %H:%M:%S"))
        .with_timestamp_tz_format(Some("%Y-%m-%d %H:%M:%S"));
    // Floats are shown to six significant digits: what a person compares.
    if let DataType::Float32 | DataType::Float64 = column.data_type()
        && let Ok(number) = ArrayFormatter::try_new(column, &options).map(|array| array.value(row).to_string())
    {
        return number.parse::<f64>().map_or(number, short);
    }
    ArrayFormatter::try_new(column, &options)
        .map_or_else(|error| error.to_string(), |array| array.value(row).to_string())
}

/// Six significant digits, no trailing zeros.
fn short(number: f64) -> String {
    if number == 0.0 || !number.is_finite() || number.abs() >= 1e15 || number.abs() < 1e-5 {
        return format!("{number}");
    }
    let before = number.abs().log10().floor();
    // Between -5 and 15 by the test above.
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "clamped to a small positive number")]
    let digits = (5.0 - before).clamp(0.0, 10.0) as usize;
    let text = format!("{number:.digits$}");
    if text.contains('.') { text.trim_end_matches('0').trim_end_matches('.').to_owned() } else { text }
}

/// Text that cannot drive the terminal: control characters (escape sequences among them) become visible.
fn printable(text: &str) -> String {
    text.chars()
        .filter(|character| *character != '\r')
        .map(|character| match character {
            '\n' => '\n',
            '\t' => ' ',
            '\u{7f}' => '\u{2421}',
            control if (control as u32) < 32 => char::from_u32(0x2400 + control as u32).unwrap_or('\u{fffd}'),
            control if control.is_control() => '\u{fffd}',
            // Marks that reorder text would scramble the table.
            '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}' => '\u{fffd}',
            other => other,
        })
        .collect()
}

/// The lines of a text in a cell of that width, at most `most` of them; what is left out leaves an ellipsis.
pub(super) fn wrap(text: &str, width: usize, most: usize) -> Vec<String> {
    let width = width.max(1);
    let mut lines = Vec::new();
    for line in text.split('\n') {
        wrap_line(line, width, &mut lines);
        if lines.len() > most {
            break;
        }
    }
    if lines.len() > most {
        lines.truncate(most.max(1));
        if let Some(last) = lines.last_mut() {
            while last.width() + 1 > width {
                let _ = last.pop();
            }
            last.push('…');
        }
    }
    lines
}

/// Breaks at spaces, and inside a word only when it is longer than a line.
fn wrap_line(line: &str, width: usize, lines: &mut Vec<String>) {
    let mut current = String::new();
    let mut used = 0;
    for word in line.split_inclusive(' ') {
        if used + word.trim_end().width() > width && used > 0 {
            lines.push(current.trim_end().to_owned());
            current.clear();
            used = 0;
        }
        for character in word.chars() {
            let wide = character.width().unwrap_or(0);
            if used + wide > width {
                if character == ' ' {
                    continue;
                }
                lines.push(std::mem::take(&mut current));
                used = 0;
            }
            current.push(character);
            used += wide;
        }
    }
    lines.push(current.trim_end().to_owned());
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_break_at_spaces_and_long_words_break_anywhere() {
        assert_eq!(wrap("one two three", 7, 9), ["one two", "three"]);
        assert_eq!(wrap("abcdefgh", 3, 9), ["abc", "def", "gh"]);
        assert_eq!(wrap("a\n\nb", 3, 9), ["a", "", "b"]);
        assert_eq!(wrap("one two three", 5, 2), ["one", "two…"]);
        assert_eq!(wrap("日本語", 4, 9), ["日本", "語"]);
        assert_eq!(wrap("", 4, 9), [""]);
    }

    #[test]
    fn control_characters_are_shown_and_do_nothing() {
        assert_eq!(printable("a\u{1b}[31mb\r\n"), "a\u{241b}[31mb\n");
        assert_eq!(printable("\u{202e}abc"), "\u{fffd}abc");
    }

    #[test]
    fn numbers_are_short() {
        for (number, text) in
            [(0.1 + 0.2, "0.3"), (1234.5678, "1234.57"), (0.0, "0"), (2.0 / 3.0, "0.666667"), (1e6, "1000000")]
        {
            assert_eq!(short(number), text);
        }
    }
}
