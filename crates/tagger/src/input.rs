//! From an exchange to one row of tokens: the same code at training and at serving time.
//!
//! The row is `[CLS] follow-up [SEP] end of the response [SEP] last user message [SEP]`, the follow-up in segment 0, the rest
//! in segment 1. [`Layout::Related`] puts three marks before the follow-up, which say how it relates to the last user message
//! and to the earlier one most like it, and whether the response repeats an earlier one; and that earlier message, if
//! it is like the follow-up at all, after the last user message. When tokens are short, the follow-up goes first, then
//! the end of the response, then the start of the user's messages; of each a little is left, so that a long one never
//! pushes the next out altogether. Each text is tokenised once, and earlier ones that are not shown not at all.

use uptake_model::text::{Window, normalise};

use crate::error::Result;
use crate::exchange::Exchange;
use crate::relation::{Relation, Repeat, Words, relate};
use crate::settings::Layout;
use crate::texts::TextTokenizer;

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
/// Characters read of an earlier user message.
const EARLIER_USER: Window = Window::Start(600);
/// Characters of a response that decide whether it repeats an earlier one.
const REPEATED: Window = Window::End(400);
/// `[CLS]` and three `[SEP]`.
const SPECIAL_TOKENS: usize = 4;

/// Marks of [`Layout::Related`], by their place among the reserved tokens.
const LAST_USER_MARKS: usize = 0;
const EARLIER_MARKS: usize = LAST_USER_MARKS + Relation::COUNT;
const REPEAT_MARKS: usize = EARLIER_MARKS + Relation::COUNT;
const MARKS: usize = REPEAT_MARKS + Repeat::COUNT;

/// Makes [`Input`]s of [`Exchange`]s.
#[derive(Clone, Debug)]
pub struct Template {
    tokenizer: TextTokenizer,
    classify: u32,
    separate: u32,
    /// Ids of the marks; none in a layout without.
    marks: Vec<u32>,
    max_tokens: usize,
}

impl Template {
    /// Reads a `tokenizer.json` whose ids must fit `vocabulary`; inputs get at most `max_tokens` tokens.
    ///
    /// # Errors
    /// [`Error::Model`](crate::Error::Model) where it is no tokenizer, has more tokens than `vocabulary`, or lacks `[CLS]`, `[SEP]`
    /// (or `<s>`, `</s>`) or a mark of the layout.
    pub fn parse(tokenizer: &[u8], vocabulary: usize, max_tokens: usize, layout: Layout) -> Result<Self> {
        let tokenizer = TextTokenizer::parse(tokenizer, vocabulary)?;
        let (classify, separate) = tokenizer.frame()?;
        let marks = match layout {
            Layout::FollowUp => Vec::new(),
            Layout::Related => (0..MARKS).map(|index| tokenizer.mark(index)).collect::<Result<_>>()?,
        };
        Ok(Self { tokenizer, classify, separate, marks, max_tokens })
    }

    /// The tokens of an exchange, or nothing where the follow-up or the response has no text: then there is no signal.
    ///
    /// # Errors
    /// [`Error::Tokenise`](crate::Error::Tokenise), which normalised text never causes.
    pub fn encode(&self, exchange: &Exchange<'_>) -> Result<Option<Input>> {
        let follow_up = normalise(exchange.follow_up, FOLLOW_UP);
        let response = self.tokenizer.tokens(&normalise(exchange.response, RESPONSE))?;
        let follow_up_tokens = self.tokenizer.tokens(&follow_up)?;
        if follow_up_tokens.is_empty() || response.is_empty() {
            return Ok(None);
        }
        let last_user = normalise(exchange.last_user, LAST_USER);
        let (marks, earlier) = self.relations(exchange, &follow_up, &last_user);
        let last_user = self.tokenizer.tokens(&last_user)?;
        let earlier = earlier.map(|earlier| self.tokenizer.tokens(&earlier)).transpose()?.unwrap_or_default();
        let specials = SPECIAL_TOKENS + marks.len() + usize::from(!earlier.is_empty());
        let room = self.max_tokens.saturating_sub(specials);
        let share = Share::of(room, follow_up_tokens.len(), response.len(), [last_user.len(), earlier.len()]);
        let mut tokens = Vec::with_capacity(self.max_tokens);
        tokens.push(self.classify);
        tokens.extend(marks);
        push_ends(&mut tokens, &follow_up_tokens, share.follow_up);
        tokens.push(self.separate);
        let first_segment = tokens.len();
        tokens.extend_from_slice(&response[response.len() - share.response..]);
        tokens.push(self.separate);
        tokens.extend_from_slice(&last_user[..share.users[0]]);
        tokens.push(self.separate);
        if !earlier.is_empty() {
            tokens.extend_from_slice(&earlier[..share.users[1]]);
            tokens.push(self.separate);
        }
        Ok(Some(Input { tokens, first_segment }))
    }

    /// The marks of an exchange, and the earlier user message most like its follow-up if one is like it; nothing in a
    /// layout without marks. `follow_up` and `last_user` are normalised.
    fn relations(&self, exchange: &Exchange<'_>, follow_up: &str, last_user: &str) -> (Vec<u32>, Option<String>) {
        if self.marks.is_empty() {
            return (Vec::new(), None);
        }
        let words = Words::of(follow_up);
        let (to_last_user, _) = relate(&words, &Words::of(last_user));
        let mut best = (Relation::Absent, 0.0, None);
        for text in &exchange.earlier_users {
            let text = normalise(text, EARLIER_USER);
            let (relation, jaccard) = relate(&words, &Words::of(&text));
            // Newest first: of two that are alike, the newer one stays.
            if relation > best.0 || (relation == best.0 && jaccard > best.1) {
                best = (relation, jaccard, relation.is_similar().then_some(text));
            }
        }
        let repeat = if exchange.earlier_responses.is_empty() {
            Repeat::First
        } else {
            let words = |text: &str| Words::of(&normalise(text, REPEATED));
            Repeat::of(&words(exchange.response), exchange.earlier_responses.iter().map(|text| words(text)))
        };
        let places =
            [LAST_USER_MARKS + to_last_user as usize, EARLIER_MARKS + best.0 as usize, REPEAT_MARKS + repeat as usize];
        (places.iter().filter_map(|place| self.marks.get(*place).copied()).collect(), best.2)
    }
}

/// How many tokens each text gets.
#[derive(Debug, PartialEq, Eq)]
struct Share {
    follow_up: usize,
    response: usize,
    /// The last user message and the earlier one.
    users: [usize; 2],
}

impl Share {
    fn of(room: usize, follow_up: usize, response: usize, users: [usize; 2]) -> Self {
        let said = users[0] + users[1];
        // Of the room, a quarter is the others' if they need it, of that which the follow-up leaves, a quarter the user's,
        // and of that, half the earlier message's.
        let follow_up = follow_up.min(room - (room / 4).min(response + said));
        let left = room - follow_up;
        let response = response.min(left - (left / 4).min(said));
        let left = left - response;
        let last_user = users[0].min(left - (left / 2).min(users[1]));
        let earlier = users[1].min(left - last_user);
        Self { follow_up, response, users: [last_user, earlier] }
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
#[path = "input_tests.rs"]
mod tests;
