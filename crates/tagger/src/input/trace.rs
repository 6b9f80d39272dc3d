//! An input that knows where in the exchange each of its tokens stands: what an explanation leaves out, it leaves out here.

use std::ops::Range;

use uptake_model::text::{Window, trace};

use super::{
    EARLIER_MARKS, EARLIER_TEXT, FOLLOW_UP, FOLLOW_UP_TEXT, Input, LAST_USER, LAST_USER_MARKS, LAST_USER_TEXT, Laid,
    REPEAT_MARKS, RESPONSE, RESPONSE_TEXT, Template,
};
use crate::error::{Error, Result};
use crate::exchange::Exchange;
use crate::explain::{Against, Part};
use crate::relation::{Relation, Repeat};

/// Where a token comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Origin {
    /// From the template: a special token, a mark, or an earlier message that a mark shows.
    Template,
    /// From bytes of a text as it was said.
    Said(Part, Range<usize>),
}

/// An input, and where it comes from.
#[derive(Clone, Debug)]
pub(crate) struct TracedInput {
    /// What the encoder gets.
    pub(crate) input: Input,
    /// One for each token.
    pub(crate) origins: Vec<Origin>,
    /// The relations that hold, by their names, each with the input as it were if it did not.
    pub(crate) relations: Vec<(Against, &'static str, Input)>,
}

impl TracedInput {
    /// The input without some of its tokens, whose places are given in ascending order. Nothing moves in for them.
    pub(crate) fn without(&self, places: &[usize]) -> Input {
        let kept = |place: &usize| places.binary_search(place).is_err();
        let tokens = (0..self.input.tokens.len()).filter(kept).map(|place| self.input.tokens[place]).collect();
        let before = places.iter().filter(|place| **place < self.input.first_segment).count();
        Input { tokens, first_segment: self.input.first_segment - before }
    }
}

impl Template {
    /// As [`Template::encode`], with where each token comes from.
    ///
    /// # Errors
    /// As [`Template::encode`]; [`Error::Bug`] where the two would not be the same.
    pub(crate) fn encode_traced(&self, exchange: &Exchange<'_>) -> Result<Option<TracedInput>> {
        let Some(laid) = self.lay(exchange)? else { return Ok(None) };
        let input = self.input(&laid);
        let mut origins = vec![Origin::Template; 1 + laid.relations.places.len()];
        for place in laid.shown() {
            let said = match place {
                FOLLOW_UP_TEXT => Some((Part::FollowUp, exchange.follow_up, FOLLOW_UP)),
                RESPONSE_TEXT => Some((Part::Response, exchange.response, RESPONSE)),
                LAST_USER_TEXT => Some((Part::LastUser, exchange.last_user, LAST_USER)),
                _ => None,
            };
            let sources = match said {
                Some((part, text, window)) => self.sources(&laid.texts[place], part, text, window)?,
                None => vec![Origin::Template; laid.texts[place].len()],
            };
            for kept in laid.kept(place) {
                origins.extend_from_slice(&sources[kept]);
            }
            origins.push(Origin::Template);
        }
        if origins.len() != input.tokens.len() {
            return Err(Error::Bug("an input is not as long as its trace"));
        }
        let relations = self.unrelated(&laid, &input);
        Ok(Some(TracedInput { input, origins, relations }))
    }

    /// Where the tokens of a text come from.
    fn sources(&self, tokens: &[u32], part: Part, text: &str, window: Window) -> Result<Vec<Origin>> {
        let traced = trace(text, window);
        let found = self.tokenizer.tokens_traced(traced.text())?;
        if !found.iter().map(|(token, _)| token).eq(tokens) {
            return Err(Error::Bug("a text has other tokens when it is traced"));
        }
        let origin = |span| traced.source(span).map_or(Origin::Template, |source| Origin::Said(part, source));
        Ok(found.into_iter().map(|(_, span)| origin(span)).collect())
    }

    /// The relations that hold, and the input as it were if each did not: unrelated messages, a new response. An earlier
    /// message that is shown for its likeness goes with it.
    fn unrelated(&self, laid: &Laid, input: &Input) -> Vec<(Against, &'static str, Input)> {
        let Some((to_last_user, to_earlier, repeat)) = laid.relations.known else { return Vec::new() };
        let marked = |place: usize, mark: usize| {
            let mut input = input.clone();
            if let (Some(token), Some(mark)) = (input.tokens.get_mut(place), self.marks.get(mark)) {
                *token = *mark;
            }
            input
        };
        let mut relations = Vec::new();
        if to_last_user > Relation::Unrelated {
            let other = marked(1, LAST_USER_MARKS + Relation::Unrelated as usize);
            relations.push((Against::LastUser, to_last_user.name(), other));
        }
        if to_earlier > Relation::Unrelated {
            let mut other = marked(2, EARLIER_MARKS + Relation::Unrelated as usize);
            if !laid.texts[EARLIER_TEXT].is_empty() {
                // It stands last, with a separator behind it.
                let shown: usize = laid.kept(EARLIER_TEXT).iter().map(ExactSizeIterator::len).sum();
                other.tokens.truncate(other.tokens.len() - shown - 1);
            }
            relations.push((Against::EarlierUser, to_earlier.name(), other));
        }
        if repeat > Repeat::New {
            let other = marked(3, REPEAT_MARKS + Repeat::New as usize);
            relations.push((Against::EarlierResponse, repeat.name(), other));
        }
        relations
    }
}
