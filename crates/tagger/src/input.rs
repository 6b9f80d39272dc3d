//! From an exchange to one row of tokens: the same code at training and at serving time.
//!
//! The row is `[CLS] follow-up [SEP] end of the response [SEP] last user message [SEP]`, the follow-up in segment 0, the
//! rest in segment 1 (`<s>`, `</s>` and one segment where an encoder has those). [`Layout::Related`] puts three marks
//! before the follow-up, which say how it relates to the last user message and to the earlier one most like it, and whether
//! the response repeats an earlier one; and that earlier message, if it is like the follow-up at all, after the last user
//! message. When tokens are short, the follow-up goes first, then the end of the response, then the start of the user's
//! messages; of each a little is left, so that a long one never pushes the next out altogether. Each text is tokenised
//! once, and earlier ones that are not shown not at all.

mod trace;

use std::ops::Range;

use uptake_model::text::{Window, normalise};

use crate::error::Result;
use crate::exchange::Exchange;
use crate::relation::{Relation, Repeat, Words, relate};
use crate::settings::Layout;
use crate::texts::TextTokenizer;

pub(crate) use trace::{Origin, TracedInput};

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
        Ok(self.lay(exchange)?.map(|laid| self.input(&laid)))
    }

    /// The texts of an exchange in tokens; nothing where the follow-up or the response has none.
    fn lay(&self, exchange: &Exchange<'_>) -> Result<Option<Laid>> {
        let follow_up = normalise(exchange.follow_up, FOLLOW_UP);
        let response = self.tokenizer.tokens(&normalise(exchange.response, RESPONSE))?;
        let follow_up_tokens = self.tokenizer.tokens(&follow_up)?;
        if follow_up_tokens.is_empty() || response.is_empty() {
            return Ok(None);
        }
        let last_user = normalise(exchange.last_user, LAST_USER);
        let relations = self.relations(exchange, &follow_up, &last_user);
        let last_user = self.tokenizer.tokens(&last_user)?;
        let earlier = match &relations.earlier {
            Some(earlier) => self.tokenizer.tokens(earlier)?,
            None => Vec::new(),
        };
        let specials = SPECIAL_TOKENS + relations.places.len() + usize::from(!earlier.is_empty());
        let room = self.max_tokens.saturating_sub(specials);
        let share = Share::of(room, follow_up_tokens.len(), response.len(), [last_user.len(), earlier.len()]);
        Ok(Some(Laid { relations, texts: [follow_up_tokens, response, last_user, earlier], share }))
    }

    fn input(&self, laid: &Laid) -> Input {
        let mut tokens = Vec::with_capacity(self.max_tokens);
        tokens.push(self.classify);
        tokens.extend(laid.relations.places.iter().filter_map(|place| self.marks.get(*place)));
        let mut first_segment = 0;
        for place in laid.shown() {
            for kept in laid.kept(place) {
                tokens.extend_from_slice(&laid.texts[place][kept]);
            }
            tokens.push(self.separate);
            if place == FOLLOW_UP_TEXT {
                first_segment = tokens.len();
            }
        }
        Input { tokens, first_segment }
    }

    /// The marks of an exchange, and the earlier user message most like its follow-up if one is like it; nothing in a
    /// layout without marks. `follow_up` and `last_user` are normalised.
    fn relations(&self, exchange: &Exchange<'_>, follow_up: &str, last_user: &str) -> Relations {
        if self.marks.is_empty() {
            return Relations::default();
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
        let places = vec![
            LAST_USER_MARKS + to_last_user as usize,
            EARLIER_MARKS + best.0 as usize,
            REPEAT_MARKS + repeat as usize,
        ];
        Relations { places, known: Some((to_last_user, best.0, repeat)), earlier: best.2 }
    }
}

/// What is known of how an exchange relates to what was said before it.
#[derive(Debug, Default)]
struct Relations {
    /// Places of the marks that say it; none in a layout without.
    places: Vec<usize>,
    /// Of the follow-up to the last user message, to the earlier one most like it, and of the response to earlier ones.
    known: Option<(Relation, Relation, Repeat)>,
    /// That earlier user message, normalised, where it is like the follow-up.
    earlier: Option<String>,
}

/// Places of the texts of an input.
const FOLLOW_UP_TEXT: usize = 0;
const RESPONSE_TEXT: usize = 1;
const LAST_USER_TEXT: usize = 2;
const EARLIER_TEXT: usize = 3;

/// The texts of an exchange in tokens, and what of them an input has room for.
#[derive(Debug)]
struct Laid {
    relations: Relations,
    /// Follow-up, response, last user message, earlier user message.
    texts: [Vec<u32>; 4],
    share: Share,
}

impl Laid {
    /// Places of the texts that are in the input, in its order.
    fn shown(&self) -> impl Iterator<Item = usize> + use<> {
        let last = if self.texts[EARLIER_TEXT].is_empty() { LAST_USER_TEXT } else { EARLIER_TEXT };
        FOLLOW_UP_TEXT..=last
    }

    /// Which tokens of a text are: of the follow-up, where there are too many, two thirds from the start and the rest from
    /// the end; the end of the response; the start of the user's messages.
    fn kept(&self, place: usize) -> [Range<usize>; 2] {
        let count = self.texts[place].len();
        match place {
            FOLLOW_UP_TEXT if count > self.share.follow_up => {
                let last = self.share.follow_up / 3;
                [0..self.share.follow_up - last, count - last..count]
            }
            FOLLOW_UP_TEXT => [0..count, count..count],
            RESPONSE_TEXT => [count - self.share.response..count, count..count],
            LAST_USER_TEXT => [0..self.share.users[0], count..count],
            _ => [0..self.share.users[1], count..count],
        }
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

#[cfg(test)]
#[path = "input_tests.rs"]
mod tests;
