//! How a message relates to one said before, by their words: the evidence for repeats and rephrasings, which a model that
//! reads one message at a time cannot see, and which a small one does not learn to see from tokens alone.
//!
//! Words are runs of letters and digits in small letters; a character of a script without spaces is a word of its own.
//! Content words are those that are not in a short list of English glue. Everything is bounded by the text given.

use uptake_model::words::is_unspaced;

/// Words that say nothing about the topic, sorted.
const GLUE: [&str; 104] = [
    "a", "about", "again", "all", "also", "am", "an", "and", "any", "are", "as", "at", "be", "been", "but", "by",
    "can", "could", "did", "do", "does", "dont", "for", "from", "get", "give", "go", "had", "has", "have", "he",
    "hello", "her", "here", "hey", "hi", "him", "his", "how", "i", "if", "im", "in", "into", "is", "it", "its", "just",
    "know", "like", "may", "me", "might", "more", "must", "my", "no", "not", "of", "ok", "okay", "on", "or", "our",
    "out", "please", "shall", "she", "should", "so", "some", "tell", "than", "thank", "thanks", "that", "the", "their",
    "them", "then", "there", "these", "they", "this", "those", "to", "too", "up", "us", "very", "want", "was", "we",
    "were", "what", "when", "where", "which", "who", "why", "will", "with", "would", "you",
];

/// The words of a text.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Words {
    /// Hash of all words in their order: equal for texts that differ in case, marks and spaces only.
    sequence: u64,
    /// How many words there are.
    count: usize,
    /// Hashes of the distinct content words, sorted.
    content: Vec<u64>,
}

/// FNV-1a with its own start, so that no two short words of different letters meet.
const START: u64 = 0xcbf2_9ce4_8422_2325;
const PRIME: u64 = 0x0000_0100_0000_01b3;

fn mix(hash: u64, value: u32) -> u64 {
    (hash ^ u64::from(value)).wrapping_mul(PRIME)
}

impl Words {
    /// The words of a text.
    pub(crate) fn of(text: &str) -> Self {
        let mut words = Self { sequence: START, ..Self::default() };
        let mut word = String::new();
        for character in text.chars() {
            if is_unspaced(character) {
                words.push(&mut word);
                word.push(character);
                words.push(&mut word);
            } else if character.is_alphanumeric() {
                word.extend(character.to_lowercase());
            } else if !matches!(character, '\'' | '’') {
                words.push(&mut word);
            }
        }
        words.push(&mut word);
        words.content.sort_unstable();
        words.content.dedup();
        words
    }

    fn push(&mut self, word: &mut String) {
        if word.is_empty() {
            return;
        }
        let hash = word.chars().fold(START, |hash, character| mix(hash, u32::from(character)));
        self.sequence = (self.sequence.rotate_left(5) ^ hash).wrapping_mul(PRIME);
        self.count += 1;
        if GLUE.binary_search(&word.as_str()).is_err() {
            self.content.push(hash);
        }
        word.clear();
    }

    fn shared(&self, other: &Self) -> usize {
        let (mut left, mut right, mut shared) = (0, 0, 0);
        while let (Some(a), Some(b)) = (self.content.get(left), other.content.get(right)) {
            left += usize::from(a <= b);
            right += usize::from(b <= a);
            shared += usize::from(a == b);
        }
        shared
    }
}

/// How a message relates to an earlier one, the weakest relation first. The order is persisted: a model's marks follow it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Relation {
    /// There is no earlier message, or it has no words.
    Absent,
    /// No content word in common.
    Unrelated,
    /// Some.
    Slight,
    /// Most of the message's content words are in the earlier one, which has many more.
    Part,
    /// Most of the earlier one's content words are in the message, which has many more.
    Whole,
    /// Jaccard similarity of the content words of 0.3 or more.
    Like,
    /// Of 0.6 or more.
    Near,
    /// The same words in the same order.
    Same,
}

impl Relation {
    /// How many there are.
    pub(crate) const COUNT: usize = 8;

    /// What it is called.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Absent => "absent",
            Self::Unrelated => "unrelated",
            Self::Slight => "slight",
            Self::Part => "part",
            Self::Whole => "whole",
            Self::Like => "like",
            Self::Near => "near",
            Self::Same => "same",
        }
    }

    /// Whether an earlier message that relates so is worth showing to the model.
    pub(crate) fn is_similar(self) -> bool {
        self >= Self::Part
    }
}

/// How `message` relates to `earlier`, and how much they share (the Jaccard similarity of their content words).
pub(crate) fn relate(message: &Words, earlier: &Words) -> (Relation, f32) {
    if earlier.count == 0 {
        return (Relation::Absent, 0.0);
    }
    if message.count == earlier.count && message.sequence == earlier.sequence {
        return (Relation::Same, 1.0);
    }
    let shared = message.shared(earlier);
    if shared == 0 {
        return (Relation::Unrelated, 0.0);
    }
    let (mine, theirs) = (message.content.len(), earlier.content.len());
    let share = |of: usize| shared as f32 / of as f32;
    let jaccard = share(mine + theirs - shared);
    let relation = if jaccard >= 0.6 {
        Relation::Near
    } else if jaccard >= 0.3 {
        Relation::Like
    } else if share(theirs) >= 0.7 {
        Relation::Whole
    } else if share(mine) >= 0.7 {
        Relation::Part
    } else {
        Relation::Slight
    };
    (relation, jaccard)
}

/// Whether a response repeats an earlier one. The order is persisted: a model's marks follow it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Repeat {
    /// There is no earlier response.
    First,
    /// None of them is like it.
    New,
    /// One has nearly the same words.
    Near,
    /// One has the same words in the same order.
    Same,
}

impl Repeat {
    /// How many there are.
    pub(crate) const COUNT: usize = 4;

    /// What it is called.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::First => "first",
            Self::New => "new",
            Self::Near => "near",
            Self::Same => "same",
        }
    }

    /// What a response is to those before it.
    pub(crate) fn of(response: &Words, earlier: impl Iterator<Item = Words>) -> Self {
        let each = earlier.filter(|words| words.count > 0).map(|words| match relate(response, &words).0 {
            Relation::Same => Self::Same,
            Relation::Near => Self::Near,
            _ => Self::New,
        });
        each.max().unwrap_or(Self::First)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(message: &str, earlier: &str, expected: Relation) {
        let (relation, jaccard) = relate(&Words::of(message), &Words::of(earlier));
        assert_eq!(relation, expected, "{message} | {earlier}");
        assert!((0.0..=1.0).contains(&jaccard));
    }

    #[test]
    fn glue_is_sorted() {
        assert!(GLUE.is_sorted());
    }

    #[test]
    fn relations_are_those_that_a_reader_would_name() {
        check("Write a poem about cats", "write a poem, about CATS!!", Relation::Same);
        check("continue", "Continue.", Relation::Same);
        check("don't", "dont", Relation::Same);
        check("write me a short poem about cats", "write a poem about cats", Relation::Near);
        check("a poem on cats and rain", "write a poem about cats", Relation::Like);
        check("paris?", "which museums in paris are open late on a sunday evening", Relation::Part);
        check(
            "find a cheap hotel near the station with parking, breakfast, a pool, late checkout and free wifi",
            "cheap hotel",
            Relation::Whole,
        );
        check(
            "does the hotel have a gym, sauna or tennis court",
            "find a cheap hotel near the station",
            Relation::Slight,
        );
        check("what is the capital of peru", "how do i sort a list in python", Relation::Unrelated);
        check("thanks", "how do i sort a list in python", Relation::Unrelated);
        check("no that is not it", "what about this", Relation::Unrelated);
        check("thanks", "", Relation::Absent);
        check("thanks", " … !? ", Relation::Absent);
        check("", "", Relation::Absent);
        check("", "hello world", Relation::Unrelated);
    }

    #[test]
    fn order_matters_for_sameness_only() {
        check("dog bites man", "man bites dog", Relation::Near);
    }

    #[test]
    fn scripts_without_spaces_and_others_have_words() {
        check("再写一首诗", "写一首诗", Relation::Near);
        check("شكرا جزيلا", "شكرا  جزيلا!", Relation::Same);
        check("👍🏽", "👍🏽", Relation::Absent);
    }

    #[test]
    fn repeated_responses_are_seen() {
        let of = |response: &str, earlier: &[&str]| {
            Repeat::of(&Words::of(response), earlier.iter().map(|text| Words::of(text)))
        };
        assert_eq!(of("I don't know.", &[]), Repeat::First);
        assert_eq!(of("I don't know.", &[""]), Repeat::First);
        assert_eq!(of("I like trains.", &["I don't know.", "Hello!"]), Repeat::New);
        assert_eq!(of("I like trains.", &["i like trains", "Hello!"]), Repeat::Same);
        assert_eq!(of("I really like old steam trains.", &["I like old steam trains."]), Repeat::Near);
    }

    #[test]
    fn long_texts_are_no_trouble() {
        let long = "word after word ".repeat(20_000);
        check(&long, &long, Relation::Same);
        check(&long, "word", Relation::Like);
    }
}
