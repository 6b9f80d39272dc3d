//! What makes two texts no pair, and texts no evidence.

use std::collections::HashSet;

use uptake_model::phrases::emoji_count;

/// The bounds of [`pair_fault`].
#[derive(Debug, Clone, Copy)]
pub(super) struct Bounds {
    /// The longer answer has at most so many times the characters of the shorter one.
    pub(super) length_ratio: f64,
    /// The answers differ by at most so many emoji.
    pub(super) emoji: f64,
    /// More similar answers are the same one.
    pub(super) similarity: f64,
}

/// Characters below which a length ratio says nothing: "yes" against a sentence.
const SHORT: usize = 80;

/// Why two answers make no pair, or nothing.
pub(super) fn pair_fault(chosen: &str, rejected: &str, bounds: Bounds) -> Option<&'static str> {
    let (chosen, rejected) = (chosen.trim(), rejected.trim());
    if chosen.is_empty() || rejected.is_empty() {
        return Some("empty_answer");
    }
    if chosen == rejected {
        return Some("same_answer");
    }
    let lengths = (chosen.chars().count(), rejected.chars().count());
    let (short, long) = (lengths.0.min(lengths.1), lengths.0.max(lengths.1));
    if long > SHORT && long as f64 > bounds.length_ratio * short.max(SHORT / 4) as f64 {
        return Some("length_ratio");
    }
    let emoji = emoji_count(chosen).abs_diff(emoji_count(rejected));
    if emoji as f64 > bounds.emoji {
        return Some("emoji_difference");
    }
    if f64::from(similarity(chosen, rejected)) >= bounds.similarity {
        return Some("near_duplicate");
    }
    None
}

/// Jaccard similarity of the sets of four-letter pieces (of folded text), 0 to 1. Long texts are compared by their first
/// 4000 characters.
pub(super) fn similarity(a: &str, b: &str) -> f32 {
    let (a, b) = (pieces(a), pieces(b));
    if a.is_empty() && b.is_empty() {
        return 1.0;
    }
    let both = a.intersection(&b).count();
    let any = a.len() + b.len() - both;
    #[expect(clippy::cast_possible_truncation, reason = "a share")]
    let share = (both as f64 / any as f64) as f32;
    share
}

/// A sketch that near-identical texts share (Broder's `MinHash` over four-letter pieces, two hash functions): texts of
/// similarity J have the same sketch with probability J².
pub(super) fn sketch(text: &str) -> String {
    let pieces = pieces(text);
    let hash = |piece: &[char; 4], seed: u64| {
        piece.iter().fold(seed, |hash, character| {
            let mixed = (hash ^ u64::from(u32::from(*character))).wrapping_mul(0x9E37_79B9_7F4A_7C15);
            mixed ^ (mixed >> 29)
        })
    };
    let least = |seed: u64| pieces.iter().map(|piece| hash(piece, seed)).min();
    match (least(0x243F_6A88_85A3_08D3), least(0x1319_8A2E_0370_7344)) {
        (Some(a), Some(b)) => format!("{a:016x}{b:016x}"),
        // Fewer than four characters: the text itself.
        _ => text.trim().to_lowercase(),
    }
}

fn pieces(text: &str) -> HashSet<[char; 4]> {
    let folded: Vec<char> = text
        .split_whitespace()
        .flat_map(|word| word.chars().chain(std::iter::once(' ')))
        .flat_map(char::to_lowercase)
        .take(4_000)
        .collect();
    folded.windows(4).filter_map(|window| <[char; 4]>::try_from(window).ok()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const BOUNDS: Bounds = Bounds { length_ratio: 4.0, emoji: 3.0, similarity: 0.9 };

    #[track_caller]
    fn check(chosen: &str, rejected: &str, expected: Option<&str>) {
        assert_eq!(pair_fault(chosen, rejected, BOUNDS), expected);
    }

    #[test]
    fn pairs_that_teach_length_emoji_or_nothing_are_refused() {
        let long =
            "The capital of Australia is Canberra, chosen as a compromise between Sydney and Melbourne. ".repeat(5);
        check("Canberra is the capital.", "Sydney is the capital.", None);
        check("Canberra", " Canberra ", Some("same_answer"));
        check("", "Canberra", Some("empty_answer"));
        check(&long, "Sydney.", Some("length_ratio"));
        check("Yes.", "No, it is not, as far as anybody knows.", None);
        check("Canberra is the capital. 🎉🎉🎉🎉", "Sydney is the capital.", Some("emoji_difference"));
        check(&format!("{long}!"), &long, Some("near_duplicate"));
    }

    #[test]
    fn similarity_is_one_for_the_same_and_none_for_others() {
        assert!((similarity("A b  C d e", "a b c d E") - 1.0).abs() < 1e-6);
        assert!(similarity("the quick brown fox", "lorem ipsum dolor sit") < 0.05);
    }

    #[test]
    fn near_identical_texts_share_their_sketch() {
        assert_eq!(sketch("How do I  sort a list?"), sketch("how do i sort a list?"));
        assert_ne!(sketch("How do I sort a list?"), sketch("What is the capital of Peru?"));
        assert_eq!(sketch(" Hi "), "hi");
    }
}
