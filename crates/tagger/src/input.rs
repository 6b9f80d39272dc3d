//! From three texts to one row of tokens: the same code at training and at serving time.
//!
//! The row is `[CLS] follow-up [SEP] end of the response [SEP] last user message [SEP]`; the follow-up is segment 0, the
//! rest segment 1. When tokens are short, the follow-up goes first, then the end of the response, then the start of the
//! user's message; of each a little is left, so that a long one never pushes the next out altogether.

use tokenizers::Tokenizer;
use uptake_model::text::{Window, normalise};

use crate::error::{Error, Result};
use crate::settings::TOKENIZER_FILE;

/// What is tagged: how a user's follow-up takes a response.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Exchange<'a> {
    /// The last user message before the response; empty where there is none.
    pub last_user: &'a str,
    /// The response that the signal is about.
    pub response: &'a str,
    /// The user's next message.
    pub follow_up: &'a str,
}

/// One exchange in tokens.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Input {
    /// Token ids, special ones included.
    pub tokens: Vec<u32>,
    /// How many of them, from the start, are segment 0.
    pub first_segment: usize,
}

/// Characters read of a follow-up, from its start and from its end.
const FOLLOW_UP: Window = Window::Ends { first: 1200, last: 600 };
/// Characters read of a response.
const RESPONSE: Window = Window::End(1600);
/// Characters read of the last user message.
const LAST_USER: Window = Window::Start(1200);
/// `[CLS]` and three `[SEP]`.
const SPECIAL_TOKENS: usize = 4;

/// Makes [`Input`]s of [`Exchange`]s.
#[derive(Clone, Debug)]
pub struct Template {
    tokenizer: Tokenizer,
    classify: u32,
    separate: u32,
    max_tokens: usize,
}

impl Template {
    /// Reads a `tokenizer.json` whose ids must fit `vocabulary`; inputs get at most `max_tokens` tokens.
    ///
    /// # Errors
    /// [`Error::Model`] where it is no tokenizer, has more tokens than `vocabulary`, or lacks `[CLS]` or `[SEP]`.
    pub fn parse(tokenizer: &[u8], vocabulary: usize, max_tokens: usize) -> Result<Self> {
        let mut tokenizer =
            Tokenizer::from_bytes(tokenizer).map_err(|error| Error::model(TOKENIZER_FILE, error.to_string()))?;
        let largest = tokenizer.get_vocab(true).into_values().max();
        if largest.is_none_or(|largest| largest as usize >= vocabulary) {
            return Err(Error::model(
                TOKENIZER_FILE,
                format!("its largest token id is {largest:?}, the encoder's vocabulary has {vocabulary}"),
            ));
        }
        // Files often carry a padding or truncation of their own, made for another use of the encoder.
        let _ = tokenizer.with_padding(None);
        let _ = tokenizer.with_truncation(None).map_err(Error::Tokenise)?;
        // A user who types "[SEP]" means those five characters.
        tokenizer.set_encode_special_tokens(true);
        let special = |token: &str| {
            tokenizer
                .token_to_id(token)
                .ok_or_else(|| Error::model(TOKENIZER_FILE, format!("it has no `{token}` token")))
        };
        let (classify, separate) = (special("[CLS]")?, special("[SEP]")?);
        Ok(Self { tokenizer, classify, separate, max_tokens })
    }

    /// The tokens of an exchange, or nothing where the follow-up or the response has no text: then there is no signal.
    ///
    /// # Errors
    /// [`Error::Tokenise`], which normalised text never causes.
    pub fn encode(&self, exchange: &Exchange<'_>) -> Result<Option<Input>> {
        let follow_up = self.tokens(exchange.follow_up, FOLLOW_UP)?;
        let response = self.tokens(exchange.response, RESPONSE)?;
        if follow_up.is_empty() || response.is_empty() {
            return Ok(None);
        }
        let last_user = self.tokens(exchange.last_user, LAST_USER)?;
        let room = self.max_tokens.saturating_sub(SPECIAL_TOKENS);
        let share = Share::of(room, follow_up.len(), response.len(), last_user.len());
        let mut tokens = Vec::with_capacity(self.max_tokens);
        tokens.push(self.classify);
        push_ends(&mut tokens, &follow_up, share.follow_up);
        tokens.push(self.separate);
        let first_segment = tokens.len();
        tokens.extend_from_slice(&response[response.len() - share.response..]);
        tokens.push(self.separate);
        tokens.extend_from_slice(&last_user[..share.last_user]);
        tokens.push(self.separate);
        Ok(Some(Input { tokens, first_segment }))
    }

    fn tokens(&self, text: &str, window: Window) -> Result<Vec<u32>> {
        let text = normalise(text, window);
        if text.is_empty() {
            return Ok(Vec::new());
        }
        let encoding = self.tokenizer.encode_fast(text, false).map_err(Error::Tokenise)?;
        Ok(encoding.get_ids().to_vec())
    }
}

/// How many tokens each text gets.
#[derive(Debug, PartialEq, Eq)]
struct Share {
    follow_up: usize,
    response: usize,
    last_user: usize,
}

impl Share {
    fn of(room: usize, follow_up: usize, response: usize, last_user: usize) -> Self {
        // Of the room, a quarter is the others' if they need it, and of that which the follow-up leaves, a quarter the user's.
        let follow_up = follow_up.min(room - (room / 4).min(response + last_user));
        let left = room - follow_up;
        let response = response.min(left - (left / 4).min(last_user));
        let last_user = last_user.min(left - response);
        Self { follow_up, response, last_user }
    }
}

/// Appends at most `count` tokens: two thirds from the start and the rest from the end where there are more.
fn push_ends(tokens: &mut Vec<u32>, text: &[u32], count: usize) {
    if text.len() <= count {
        tokens.extend_from_slice(text);
        return;
    }
    let last = count / 3;
    tokens.extend_from_slice(&text[..count - last]);
    tokens.extend_from_slice(&text[text.len() - last..]);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tiny;

    #[track_caller]
    fn check(share: (usize, usize, usize, usize), expected: (usize, usize, usize)) {
        let share = Share::of(share.0, share.1, share.2, share.3);
        assert_eq!((share.follow_up, share.response, share.last_user), expected);
    }

    #[test]
    fn shares_follow_the_order_and_leave_a_little_to_each() {
        check((124, 5, 20, 10), (5, 20, 10));
        check((124, 10, 500, 8), (10, 106, 8));
        check((124, 10, 500, 400), (10, 86, 28));
        check((124, 500, 500, 400), (93, 24, 7));
        check((124, 500, 3, 0), (121, 3, 0));
        check((124, 10, 3, 400), (10, 3, 111));
        check((12, 1, 1, 0), (1, 1, 0));
    }

    #[test]
    fn every_length_fits_and_the_follow_up_survives() {
        for room in 12..130 {
            for (follow_up, response, last_user) in
                [(1, 1, 1), (1, 999, 999), (999, 1, 0), (999, 999, 999), (50, 60, 70)]
            {
                let share = Share::of(room, follow_up, response, last_user);
                assert!(share.follow_up + share.response + share.last_user <= room);
                assert!(share.follow_up >= follow_up.min(room / 2));
                assert!(share.response >= 1);
            }
        }
    }

    fn template(max_tokens: usize) -> Template {
        Template::parse(tiny::tokenizer().as_bytes(), tiny::VOCABULARY, max_tokens).unwrap()
    }

    #[test]
    fn texts_are_laid_out_in_order() {
        let exchange = Exchange { last_user: "how", response: "so", follow_up: "thanks it worked" };
        let template = template(32);
        let input = template.encode(&exchange).unwrap().unwrap();
        let words: Vec<String> = input.tokens.iter().map(|id| template.tokenizer.id_to_token(*id).unwrap()).collect();
        assert_eq!(words, ["[CLS]", "thanks", "it", "worked", "[SEP]", "so", "[SEP]", "how", "[SEP]"]);
        assert_eq!(input.first_segment, 5);
    }

    #[test]
    fn special_tokens_in_a_text_are_text() {
        let exchange = Exchange { last_user: "", response: "so", follow_up: "[SEP] [CLS] thanks" };
        let input = template(32).encode(&exchange).unwrap().unwrap();
        let separators = input.tokens.iter().filter(|id| **id == template(32).separate).count();
        assert_eq!(separators, 3);
    }

    #[test]
    fn no_text_is_no_input() {
        for (response, follow_up) in [("", "thanks"), ("so", ""), ("so", " \u{0}\n"), ("", "")] {
            let exchange = Exchange { last_user: "how", response, follow_up };
            assert_eq!(template(32).encode(&exchange).unwrap(), None);
        }
    }

    #[test]
    fn long_texts_are_cut_to_the_bound() {
        let long = "thanks it worked ".repeat(20_000);
        let exchange = Exchange { last_user: &long, response: &long, follow_up: &long };
        let input = template(32).encode(&exchange).unwrap().unwrap();
        assert_eq!(input.tokens.len(), 32);
    }

    #[test]
    fn a_vocabulary_that_does_not_fit_is_refused() {
        let error = Template::parse(tiny::tokenizer().as_bytes(), 5, 32).unwrap_err();
        assert!(error.to_string().contains("vocabulary has 5"), "{error}");
        assert!(Template::parse(b"{}", 5, 32).is_err());
    }
}
