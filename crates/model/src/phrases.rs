//! What assistants say that says something of an answer: refusals, apologies, emoji. Lists count, they do not judge.

/// Emoji of a text: pictographs and symbols, not the digits and signs that may also be shown as such.
#[must_use]
pub fn emoji_count(text: &str) -> usize {
    let is_emoji =
        |character: &char| matches!(u32::from(*character), 0x1F000..=0x1FAFF | 0x2600..=0x27BF | 0x2B50 | 0x2B55);
    text.chars().filter(is_emoji).count()
}

/// Ways in which assistants refuse (English, German, French, Spanish); the list is for a guard that sends a row to a
/// verdict, not for a verdict.
const REFUSALS: [&str; 20] = [
    "i can't help",
    "i cannot help",
    "i can't assist",
    "i cannot assist",
    "i'm unable to",
    "i am unable to",
    "i'm not able to",
    "i am not able to",
    "i can't provide",
    "i cannot provide",
    "i won't be able",
    "i can't do that",
    "i'm sorry, but i can",
    "i am sorry, but i can",
    "as an ai",
    "against my guidelines",
    "ich kann dir dabei nicht",
    "ich kann ihnen dabei nicht",
    "je ne peux pas",
    "no puedo ayudar",
];

/// Whether a text is short and refuses: whether such an answer was bad is for a safety verdict to say.
#[must_use]
pub fn looks_like_refusal(text: &str) -> bool {
    if text.chars().count() > 400 {
        return false;
    }
    let folded = text.to_lowercase().replace('’', "'");
    REFUSALS.iter().any(|phrase| folded.contains(phrase))
}

/// Openings that answer the complaint instead of the prompt.
const APOLOGIES: [&str; 24] = [
    "sorry",
    "i'm sorry",
    "i am sorry",
    "my apologies",
    "apologies",
    "i apologi",
    "you're right",
    "you are right",
    "you're correct",
    "you are correct",
    "you're absolutely",
    "you are absolutely",
    "my mistake",
    "my bad",
    "oops",
    "good catch",
    "thank you for pointing",
    "thanks for pointing",
    "i see the problem",
    "i see the issue",
    "i understand your",
    "entschuldig",
    "désolé",
    "lo siento",
];

/// Whether an answer opens with an apology or a concession: it then replies to the complaint, and as an answer to the
/// first prompt it would teach to apologise for nothing.
#[must_use]
pub fn opens_with_apology(text: &str) -> bool {
    let start: String = text.trim_start().chars().take(60).flat_map(char::to_lowercase).collect();
    let start = start.replace('’', "'");
    let start = start.strip_prefix("oh, ").or_else(|| start.strip_prefix("ah, ")).unwrap_or(&start);
    APOLOGIES.iter().any(|phrase| start.starts_with(phrase))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn refusals_and_apologies_are_told() {
        assert!(looks_like_refusal("I’m sorry, but I can't help with that."));
        assert!(!looks_like_refusal("You can help by opening the valve."));
        assert!(opens_with_apology("Oh, you're right, the answer is 4."));
        assert!(opens_with_apology(" Thank you for pointing that out."));
        assert!(!opens_with_apology("The right answer is 4."));
    }

    #[test]
    fn emoji_are_pictures_and_not_digits() {
        assert_eq!(emoji_count("1 # * 🎉 and ⭐, © none"), 2);
    }
}
