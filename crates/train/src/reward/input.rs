//! From a conversation and a response to one row of tokens: the same code at training and at scoring time.
//!
//! The row is `[CLS] conversation [SEP] response [SEP]`, the conversation in segment 0 with a mark before each message that
//! says who wrote it, the response in segment 1. Where tokens are short, the oldest part of the conversation goes first; a
//! third of the room is kept for it, and of a response that needs more than the rest the end stays.

use uptake_model::text::{Window, normalise};
use uptake_tagger::{Input, TextTokenizer};

use crate::error::Result;
use crate::rows::Message;

/// Name of this layout; a change of it needs another.
pub(crate) const TEMPLATE: &str = "conversation-response/1";
/// Fewest tokens of an input: below it little text survives beside the special tokens.
pub(crate) const FEWEST_TOKENS: usize = 16;
/// `[CLS]` and two `[SEP]`.
const SPECIAL_TOKENS: usize = 3;
/// Characters read of a text for each token of the budget: words that long are rare, so nothing is lost.
const CHARACTERS_A_TOKEN: usize = 12;
/// Marks of the vocabulary that stand for who wrote a message: the user, the assistant, others.
const MARKS: [usize; 3] = [0, 1, 2];

/// Makes rows of tokens.
#[derive(Clone, Debug)]
pub(crate) struct Template {
    tokenizer: TextTokenizer,
    classify: u32,
    separate: u32,
    marks: [u32; 3],
    max_tokens: usize,
}

/// A row of tokens, and what did not fit in it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Encoded {
    pub(crate) input: Input,
    /// The start of the conversation was cut.
    pub(crate) prompt_cut: bool,
    /// The start of the response was cut.
    pub(crate) response_cut: bool,
}

impl Template {
    /// Reads a `tokenizer.json` whose ids must fit `vocabulary`; inputs get at most `max_tokens` tokens.
    pub(crate) fn parse(tokenizer: &[u8], vocabulary: usize, max_tokens: usize) -> Result<Self> {
        let tokenizer = TextTokenizer::parse(tokenizer, vocabulary)?;
        let [user, assistant, other] = MARKS.map(|mark| tokenizer.mark(mark));
        let (classify, separate) = tokenizer.frame()?;
        Ok(Self { tokenizer, classify, separate, marks: [user?, assistant?, other?], max_tokens })
    }

    fn mark(&self, role: &str) -> u32 {
        match role {
            "user" => self.marks[0],
            "assistant" => self.marks[1],
            _ => self.marks[2],
        }
    }

    /// The end of a text in tokens, at most as many as an input has; whether there is more of it.
    fn end(&self, text: &str) -> Result<(Vec<u32>, bool)> {
        let window = CHARACTERS_A_TOKEN * self.max_tokens;
        let longer = text.chars().nth(window).is_some();
        Ok((self.tokenizer.tokens(&normalise(text, Window::End(window)))?, longer))
    }

    /// The end of a conversation in marks and tokens, at most `room` of them; whether there is more of it.
    fn conversation(&self, prompt: &[Message], room: usize) -> Result<(Vec<u32>, bool)> {
        let mut backwards: Vec<u32> = Vec::with_capacity(room);
        for message in prompt.iter().rev() {
            let (tokens, longer) = self.end(&message.content)?;
            if tokens.is_empty() {
                continue;
            }
            // A mark without a word of its message says nothing.
            let left = room.saturating_sub(backwards.len() + 1);
            let taken = tokens.len().min(left);
            if taken > 0 {
                backwards.extend(tokens[tokens.len() - taken..].iter().rev());
                backwards.push(self.mark(&message.role));
            }
            if taken < tokens.len() || longer {
                backwards.reverse();
                return Ok((backwards, true));
            }
        }
        backwards.reverse();
        Ok((backwards, false))
    }

    /// The tokens of a response to a conversation; nothing where the response has no text.
    pub(crate) fn encode(&self, prompt: &[Message], response: &str) -> Result<Option<Encoded>> {
        let (response, longer) = self.end(response)?;
        if response.is_empty() {
            return Ok(None);
        }
        let room = self.max_tokens.saturating_sub(SPECIAL_TOKENS);
        let (conversation, mut prompt_cut) = self.conversation(prompt, room)?;
        let kept = response.len().min(room - conversation.len().min(room / 3));
        let response_cut = longer || kept < response.len();
        let mut conversation = conversation;
        if conversation.len() > room - kept {
            (conversation, _) = self.conversation(prompt, room - kept)?;
            prompt_cut = true;
        }
        let mut tokens = Vec::with_capacity(conversation.len() + kept + SPECIAL_TOKENS);
        tokens.push(self.classify);
        tokens.extend(conversation);
        tokens.push(self.separate);
        let first_segment = tokens.len();
        tokens.extend_from_slice(&response[response.len() - kept..]);
        tokens.push(self.separate);
        Ok(Some(Encoded { input: Input { tokens, first_segment }, prompt_cut, response_cut }))
    }
}

#[cfg(test)]
mod tests {
    use uptake_tagger::tiny;

    use super::*;

    fn template(max_tokens: usize) -> Template {
        Template::parse(tiny::tokenizer().as_bytes(), tiny::VOCABULARY, max_tokens).unwrap()
    }

    fn message(role: &str, content: &str) -> Message {
        Message { role: role.to_owned(), content: content.to_owned() }
    }

    /// Tokens by name: letters stand for themselves.
    fn named(template: &Template, encoded: &Encoded) -> String {
        let names: Vec<(u32, &str)> =
            [("[CLS]", "^"), ("[SEP]", "|"), ("[unused1]", "U"), ("[unused2]", "A"), ("[unused3]", "S")]
                .into_iter()
                .chain("a b c d e f g h i j k l m n o p".split(' ').map(|letter| (letter, letter)))
                .map(|(token, name)| (template.tokenizer.special(token).unwrap(), name))
                .collect();
        let name = |token: &u32| names.iter().find(|(id, _)| id == token).map_or("?", |(_, name)| *name);
        encoded.input.tokens.iter().map(name).collect()
    }

    #[test]
    fn roles_are_marked_and_the_response_is_the_second_segment() {
        let template = template(32);
        let prompt =
            [message("system", "a"), message("user", "b c"), message("assistant", "d"), message("user", " e ")];
        let encoded = template.encode(&prompt, "f g").unwrap().unwrap();
        assert_eq!(named(&template, &encoded), "^SaUbcAdUe|fg|");
        assert_eq!(encoded.input.first_segment, 11);
        assert!(!encoded.prompt_cut && !encoded.response_cut);
        assert_eq!(template.encode(&prompt, " \n ").unwrap(), None);
        assert_eq!(named(&template, &template.encode(&[], "f").unwrap().unwrap()), "^|f|");
    }

    #[test]
    fn the_start_of_the_conversation_is_cut_first_and_the_end_of_the_response_stays() {
        let template = template(16);
        let prompt = [message("user", "a b c d"), message("assistant", "e f g h")];
        let encoded = template.encode(&prompt, "i j k l").unwrap().unwrap();
        assert_eq!(named(&template, &encoded), "^UbcdAefgh|ijkl|");
        assert!(encoded.prompt_cut && !encoded.response_cut);
        // A third of the 13 that are left is the conversation's.
        let encoded = template.encode(&prompt, "a b c d e f g h i j k l m n o").unwrap().unwrap();
        assert_eq!(named(&template, &encoded), "^Afgh|ghijklmno|");
        assert!(encoded.prompt_cut && encoded.response_cut);
        let short = [message("user", "a")];
        let encoded = template.encode(&short, "a b c d e f g h i j k l m n o").unwrap().unwrap();
        assert_eq!(named(&template, &encoded), "^Ua|efghijklmno|");
        assert!(!encoded.prompt_cut && encoded.response_cut);
    }

    #[test]
    fn what_looks_like_a_special_token_is_text() {
        let template = template(32);
        let encoded = template.encode(&[message("user", "[SEP]")], "[unused2] a").unwrap().unwrap();
        let count = |name: char| named(&template, &encoded).chars().filter(|other| *other == name).count();
        assert_eq!((count('|'), count('A'), count('U')), (2, 0, 1));
    }
}
