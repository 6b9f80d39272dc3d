//! What makes a later answer no repair of an earlier one.
//!
//! A repaired answer is put under the *first* prompt, so it must be an answer to that prompt. In a talk the answer after a
//! complaint often is not: it replies to the complaint ("I meant …", "No, it isn't"), explains the error that the
//! complaint quotes, or goes on about something else, and the thanks that follow are for that.
//!
//! Words tell less than one would wish: a better poem about the sea shares no word with the first one, nor has a better answer
//! to "TCP or UDP?". So a long answer is believed unless it opens as a reply or takes its words from the complaint; a short
//! one must show that it belongs to the prompt, or come where the prompt asks for something and speak of that and not of itself.

use std::collections::HashSet;

use uptake_model::phrases::opens_with_apology;

use super::guard::similarity;

/// The bounds of [`repair_fault`], for an answer of fewer than [`LONG`] content words.
#[derive(Debug, Clone, Copy)]
pub(super) struct Bounds {
    /// It belongs to the prompt where at least this share of its content words stands there or in the first answer.
    pub(super) overlap: f64,
    /// It belongs there too where it is this similar to the first answer: a rewording, whatever its words.
    pub(super) similarity: f64,
}

/// Content words from which on an answer is no remark.
const LONG: usize = 8;

/// Words up to which an answer is a bare one ("Canberra."), which shares nothing with any other.
const BARE: usize = 4;

/// Why `chosen` is no repair of `rejected` under `prompt`, after `complaint`; or nothing.
pub(super) fn repair_fault(
    chosen: &str,
    rejected: &str,
    prompt: &str,
    complaint: &str,
    bounds: Bounds,
) -> Option<&'static str> {
    if opens_with_apology(chosen) || opens_as_reply(chosen, prompt) || explains_the_error(chosen, complaint) {
        return Some("answers_the_complaint");
    }
    let words = content_words(chosen);
    let mut before = content_words(prompt);
    before.extend(content_words(rejected));
    let complaint = content_words(complaint);
    let shared = words.intersection(&before).count();
    if words.intersection(&complaint).count() > shared {
        return Some("answers_the_complaint");
    }
    let kin = words.len() >= LONG
        || shared as f64 / words.len().max(1) as f64 >= bounds.overlap
        || chosen.split_whitespace().count() <= BARE
        || f64::from(similarity(chosen, rejected)) >= bounds.similarity
        || (asks(prompt) && !speaks_of_itself(chosen));
    (!kin).then_some("other_topic")
}

/// Words of four letters and more, folded and cut to a stem of six: a crude stem, the same for both sides.
fn content_words(text: &str) -> HashSet<String> {
    text.split(|character: char| !character.is_alphanumeric())
        .filter(|word| word.chars().count() >= 4)
        .map(|word| word.to_lowercase().chars().take(6).collect())
        .collect()
}

/// Openings of somebody who defends, explains or corrects what they said before.
const REPLIES: [&str; 27] = [
    "i meant",
    "i mean ",
    "i mean,",
    "what i meant",
    "well ",
    "well,",
    "oh ok",
    "oh, ok",
    "oh i ",
    "i do.",
    "i do,",
    "i do not.",
    "i did not know",
    "i didn't know",
    "i didn't mean",
    "i wasn't",
    "i was not",
    "that is it",
    "that's it",
    "as i said",
    "like i said",
    "thank you for clarif",
    "thanks for clarif",
    "thank you for the clarif",
    "ich meinte",
    "je voulais dire",
    "quise decir",
];

/// Words that agree or contradict.
const VERDICTS: [&str; 12] = ["yes", "yeah", "yep", "no", "nope", "ja", "nein", "doch", "oui", "non", "sí", "não"];

/// What stands after such a word where it is a sentence of its own or begins one about what was said ("No I wasn't").
/// "No one knows" is neither.
const SUBJECTS: [&str; 10] = ["i", "im", "i'm", "it", "it's", "that", "that's", "you", "we", "they"];

/// Whether an answer opens by replying to a remark: with a word of defence, or with a yes or no that the prompt did not
/// ask for.
fn opens_as_reply(answer: &str, prompt: &str) -> bool {
    let start = opening(answer);
    if REPLIES.iter().any(|phrase| start.starts_with(phrase)) {
        return true;
    }
    let word: String = start.chars().take_while(|character| character.is_alphabetic()).collect();
    if !VERDICTS.contains(&word.as_str()) {
        return false;
    }
    let rest = start[word.len()..].trim_start();
    let closes = rest.chars().next().is_none_or(|character| !character.is_alphanumeric());
    let subject = rest.split_whitespace().next().unwrap_or_default();
    (closes || SUBJECTS.contains(&subject)) && !asks_yes_or_no(prompt)
}

/// Verbs that begin a question to be answered by yes or no (English, German, French, Spanish).
const ASKING: [&str; 40] = [
    "is", "are", "am", "was", "were", "do", "does", "did", "can", "could", "will", "would", "shall", "should", "has",
    "have", "had", "may", "might", "must", "isn't", "aren't", "don't", "doesn't", "didn't", "can't", "ist", "sind",
    "kann", "kannst", "können", "hat", "hast", "gibt", "est", "es", "peux", "puedes", "hay", "any",
];

/// Whether one of a prompt's sentences begins as a question to be answered by yes or no.
fn asks_yes_or_no(prompt: &str) -> bool {
    prompt.split(['.', '?', '!', '\n', ',', ';']).any(|sentence| {
        let first = sentence.split_whitespace().next().unwrap_or_default().to_lowercase().replace('’', "'");
        ASKING.contains(&first.as_str())
    })
}

/// Verbs that begin an instruction (English, German, French, Spanish).
const TELLING: [&str; 36] = [
    "write",
    "name",
    "list",
    "give",
    "show",
    "explain",
    "make",
    "tell",
    "find",
    "translate",
    "summarise",
    "summarize",
    "create",
    "describe",
    "suggest",
    "help",
    "please",
    "fix",
    "change",
    "rewrite",
    "compare",
    "calculate",
    "convert",
    "generate",
    "recommend",
    "book",
    "draft",
    "plan",
    "schreib",
    "schreibe",
    "nenne",
    "erkläre",
    "écris",
    "donne",
    "escribe",
    "dame",
];

/// Whether a prompt asks for something: a question, or an instruction.
fn asks(prompt: &str) -> bool {
    let tells = |sentence: &str| {
        let first = sentence.split_whitespace().next().unwrap_or_default().to_lowercase();
        TELLING.contains(&first.as_str())
    };
    prompt.contains(['?', '？']) || asks_yes_or_no(prompt) || prompt.split(['.', '!', '\n', ',', ':']).any(tells)
}

/// Whether an answer opens in the first person, after a yes or no if there is one.
fn speaks_of_itself(answer: &str) -> bool {
    let start = opening(answer);
    let mut words =
        start.split(|letter: char| !(letter.is_alphanumeric() || letter == '\'')).filter(|word| !word.is_empty());
    let first = words.next().unwrap_or_default();
    let first = if VERDICTS.contains(&first) { words.next().unwrap_or_default() } else { first };
    ["i", "im", "i'm", "i've", "i'd", "i'll", "my", "me", "we", "ich", "je", "yo"].contains(&first)
}

/// Words of a report of what went wrong when somebody ran the answer.
const REPORTS: [&str; 5] = ["error:", "errors:", "traceback", "exception:", "warning:"];

/// Openings that explain such a report.
const EXPLANATIONS: [&str; 10] = [
    "the error",
    "this error",
    "the warning",
    "this warning",
    "the issue",
    "the problem",
    "it looks like",
    "it seems",
    "this is because",
    "that's because",
];

/// Whether an answer explains a report that the complaint brought: under the first prompt nobody has seen it. Mentioning an
/// error that the prompt had ("still the same error") is no report.
fn explains_the_error(answer: &str, complaint: &str) -> bool {
    let start = opening(answer);
    let complaint = complaint.to_lowercase();
    EXPLANATIONS.iter().any(|phrase| start.starts_with(phrase)) && REPORTS.iter().any(|word| complaint.contains(word))
}

/// The first words, folded.
fn opening(text: &str) -> String {
    let start: String = text.trim_start().chars().take(60).flat_map(char::to_lowercase).collect();
    start.replace('’', "'")
}

#[cfg(test)]
mod tests {
    use super::*;

    const BOUNDS: Bounds = Bounds { overlap: 0.5, similarity: 0.2 };

    #[track_caller]
    fn check(prompt: &str, rejected: &str, complaint: &str, chosen: &str, expected: Option<&str>) {
        assert_eq!(repair_fault(chosen, rejected, prompt, complaint, BOUNDS), expected);
    }

    const REPLY: Option<&str> = Some("answers_the_complaint");
    const OTHER: Option<&str> = Some("other_topic");

    #[test]
    fn a_repair_stays_with_the_prompt() {
        let wall = "When did the Berlin wall fall?";
        check(wall, "It fell in 1987.", "Wrong.", "The Berlin wall fell on 9 November 1989.", None);
        check("Name a river in Spain.", "The Rhone.", "wrong", "The Ebro.", None);
        check(
            "Book me a table for tonight",
            "Shall I book a table for two at the Blue Lantern at 7 pm?",
            "no, for three",
            "Shall I book a table for three at the Blue Lantern at 7 pm?",
            None,
        );
        // Other words, and the better answer.
        let better = "TCP sets up a connection and delivers bytes in order, sending lost ones again. UDP just sends packets, without order or guarantee.";
        check("What is the difference between TCP and UDP?", "A wall of text.", "Two sentences, I said.", better, None);
        let lullaby = "Hush now, the tide has put its lamps away, the gulls have folded up the grey of day.";
        check("four lines about the sea", "The sea is big, the sea is blue.", "weak", lullaby, None);
        let command = "```\nfind . -type f -printf '%s %p' | sort -nr | head\n```";
        check("How do I find the largest files below a folder?", "`ls -lS`", "that is not recursive", command, None);
        check(
            "schreib eine Absage",
            "Sehr geehrte Damen und Herren",
            "zu steif",
            "Hallo, ich kann leider doch nicht.",
            None,
        );
    }

    #[test]
    fn short_remarks_are_no_answers() {
        let other = "We could talk about football today then";
        check("I like lakes.", "Me too, lakes are calm.", "wrong", other, OTHER);
        check("What did you eat?", "Rice and a soup.", "you never eat", "I just like to talk here", OTHER);
        check(
            "Have you ever been abroad",
            "of course, in Europe",
            "You said Ohio",
            "No Im the idiot. My geography was off.",
            OTHER,
        );
    }

    #[test]
    fn replies_to_the_complaint_are_no_answers() {
        check("You haven't been there.", "I saw all the lakes.", "You said you never left", "I meant in films.", REPLY);
        check("I come from Leeds", "I am from York.", "You said Bath before?", "No, i live in bath.", REPLY);
        check("I come from Leeds", "I am from York.", "You said Bath before?", "Nope – Bath, born there.", REPLY);
        check("Does Leeds border York?", "Leeds borders York.", "no", "No, Leeds does not border York.", None);
        check("Tell me about Leeds", "Leeds is in Kent.", "no", "No one in Leeds lives in Kent.", None);
        check("What do you like?", "Meat.", "but you are vegan", "I am a vegan now", REPLY);
        check("What is 2 + 2?", "It is 5.", "wrong", "You're right, it is 4.", REPLY);
    }

    #[test]
    fn an_explained_error_answers_the_complaint_unless_the_prompt_had_it() {
        let explanation =
            "The error you see means that the function total is not defined: define total before you call it.";
        let code = "def total(numbers): return sum(numbers)";
        check("write a function total", code, "NameError: name 'total' is not defined", explanation, REPLY);
        check("why this error: NameError, total is not defined?", code, "still the same error", explanation, None);
    }
}
