//! Tokens, splits and wishes.

use uptake_model::decode::content_hash;

/// The name of the tokenizer of [`token_count`], written into manifests beside the counts.
///
/// It is none of a model's but close to what byte-pair encodings give for most languages: a run of letters or digits
/// counts one token for each started six characters, a character of a script without spaces counts one, and so does every
/// other visible character. Whoever needs a model's exact counts tokenises again; for bounds and budgets this will do.
pub const TOKENIZER: &str = "uptake-simple-1";

/// Tokens of a text, by [`TOKENIZER`].
pub(super) fn token_count(text: &str) -> i32 {
    let mut tokens = 0_i32;
    let mut run = 0_i32;
    for character in text.chars() {
        if character.is_alphanumeric() && !stands_alone(character) {
            if run % 6 == 0 {
                tokens = tokens.saturating_add(1);
            }
            run += 1;
            continue;
        }
        run = 0;
        if !character.is_whitespace() && !character.is_control() {
            tokens = tokens.saturating_add(1);
        }
    }
    tokens
}

/// Characters of scripts that are written without spaces: Han, kana, Hangul, Thai, Lao, Khmer, Myanmar.
fn stands_alone(character: char) -> bool {
    matches!(u32::from(character),
        0x0E00..=0x0EFF | 0x1000..=0x109F | 0x1780..=0x17FF | 0x3040..=0x30FF | 0x3400..=0x4DBF | 0x4E00..=0x9FFF
        | 0xAC00..=0xD7AF | 0x2_0000..=0x3_FFFF)
}

/// `train` or `test`: a conversation is in one of them whole, and stays there whatever else is built.
pub(super) fn split_of(conversation_id: &str, test_share: f64, seed: &str) -> &'static str {
    let hash = content_hash(format!("{seed}\u{0}{conversation_id}").as_bytes());
    let first = u32::from_str_radix(hash.get(..8).unwrap_or("0"), 16).unwrap_or(0);
    if f64::from(first) / f64::from(u32::MAX) < test_share { "test" } else { "train" }
}

/// The wishes in a complaint, in the user's own words: one a sentence or line, thanks and bare exclamations left out.
pub(super) fn wishes(text: &str) -> Vec<String> {
    const MOST: usize = 8;
    let mut found: Vec<String> = Vec::new();
    for line in text.lines() {
        let line = line.trim().trim_start_matches(['-', '*', '•', '>']).trim();
        for sentence in sentences(line) {
            let words = sentence.split_whitespace().filter(|word| word.chars().any(char::is_alphanumeric)).count();
            let long_enough = words >= 2 || sentence.chars().filter(|character| stands_alone(*character)).count() >= 3;
            if long_enough && !found.iter().any(|known| known == sentence) && found.len() < MOST {
                found.push(sentence.to_owned());
            }
        }
    }
    found
}

/// Sentences of a line, at `. ` `! ` `? ` and their full-width twins.
fn sentences(line: &str) -> Vec<&str> {
    let mut parts = Vec::new();
    let mut start = 0;
    let mut characters = line.char_indices().peekable();
    while let Some((at, character)) = characters.next() {
        let ends = match character {
            // A word with a dot inside is an abbreviation such as "e.g.".
            '.' if line[start..at].rsplit(char::is_whitespace).next().is_some_and(|word| word.contains('.')) => false,
            '.' | '!' | '?' => characters.peek().is_none_or(|(_, next)| next.is_whitespace()),
            '。' | '！' | '？' => true,
            _ => false,
        };
        if ends {
            let end = at + character.len_utf8();
            parts.push(line[start..end].trim());
            start = end;
        }
    }
    parts.push(line[start..].trim());
    parts.retain(|part| !part.is_empty());
    parts
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_of_words_signs_and_scripts() {
        for (text, tokens) in [("", 0), ("Hello, world!", 4), ("internationalisation", 4), ("你好", 2), ("a  b\n", 2)]
        {
            assert_eq!(token_count(text), tokens, "{text}");
        }
    }

    #[test]
    fn the_split_is_seeded_and_near_its_share() {
        let test = (0..10_000).filter(|id| split_of(&id.to_string(), 0.1, "1") == "test").count();
        assert!((900..1_100).contains(&test), "{test}");
        let moved = (0..100).filter(|id| split_of(&id.to_string(), 0.5, "1") != split_of(&id.to_string(), 0.5, "2"));
        assert!(moved.count() > 20);
        assert_eq!((split_of("x", 0.0, "1"), split_of("x", 1.1, "1")), ("train", "test"));
    }

    #[test]
    fn wishes_are_sentences_of_more_than_a_word() {
        assert_eq!(
            wishes("No! Make it shorter, e.g. two lines. Also drop v1.5\n- no emojis please\nThanks"),
            ["Make it shorter, e.g. two lines.", "Also drop v1.5", "no emojis please"]
        );
        assert!(wishes("Ugh.").is_empty());
    }
}
