//! Which words moved a label: what a tagger says of an exchange, and what it would have said without each word.
//!
//! The effect of a word on a label is a change of the label's calibrated logit (its log-odds): the mean of what the logit loses
//! when the word is left out of the whole, and of what it gains when of its text this word alone is read, rather than
//! nothing. Above zero the word speaks for the label, below against it. Leaving out alone (erasure: Li, Monroe and Jurafsky
//! 2016, arXiv:1612.08220) misses what is said twice: of "no, that's wrong" neither "no" nor "wrong" is missed much. The two are
//! the ends of the average that a Shapley value takes (as comprehensiveness and sufficiency: `DeYoung` et al. 2020,
//! arXiv:1911.03429). Both work for any model, since they ask nothing of it but logits.
//!
//! With the model that ships, on 99 labels that fire in 140 labelled follow-ups of six words and more: taking away the two words
//! of the largest effect lowers the log-odds by 2.24 (chosen by what is lost alone 2.40, by what is gained alone 1.88, by lot
//! 0.35); keeping nothing else of the follow-up leaves 2.14 of 2.00 (by what is lost 1.78, by what is gained 2.04, by lot −1.02).
//!
//! Sentences are left out first, each in one pass; then come the words of the follow-up, and those of other sentences in the
//! order of their effect, as far as the passes go. Where they do not, several words are taken at once, and stand as one piece.
//! Nothing moves in for what is left out: neither text that was cut off, nor another relation to earlier messages.

mod plan;

use std::ops::Range;

use rayon::prelude::*;
use uptake_model::labels::OUTPUTS;

use crate::error::Result;
use crate::exchange::Exchange;
use crate::input::Input;
use crate::scores::Scores;
use crate::tagger::Tagger;
use plan::Plan;

/// What a relation is between.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Against {
    /// The follow-up and the last user message.
    LastUser,
    /// The follow-up and the earlier user message most like it.
    EarlierUser,
    /// The response and earlier ones.
    EarlierResponse,
}

impl Against {
    /// The name in results.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::LastUser => "follow_up_to_last_user",
            Self::EarlierUser => "follow_up_to_earlier_user",
            Self::EarlierResponse => "response_to_earlier_response",
        }
    }
}

/// A text of an exchange that a tagger reads.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Part {
    /// The follow-up.
    FollowUp,
    /// The response that it is about.
    Response,
    /// The last user message before that.
    LastUser,
}

impl Part {
    /// All of them, in the order of their weight for a reader.
    pub const ALL: [Self; 3] = [Self::FollowUp, Self::Response, Self::LastUser];

    /// The name in results.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::FollowUp => "follow_up",
            Self::Response => "response",
            Self::LastUser => "last_user",
        }
    }

    /// The text of it.
    #[must_use]
    pub fn of<'a>(self, exchange: &Exchange<'a>) -> &'a str {
        match self {
            Self::FollowUp => exchange.follow_up,
            Self::Response => exchange.response,
            Self::LastUser => exchange.last_user,
        }
    }
}

/// Which outputs are explained.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Wanted {
    /// Those that fire.
    #[default]
    Firing,
    /// These, whether they fire or not.
    Outputs(Vec<usize>),
}

/// How far an explanation goes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reach {
    /// Which outputs are explained.
    pub wanted: Wanted,
    /// Most forward passes for one exchange, at least [`Reach::FEWEST`].
    pub passes: usize,
}

impl Reach {
    /// Fewest passes that an explanation can do with.
    pub const FEWEST: usize = 16;
}

impl Default for Reach {
    fn default() -> Self {
        Self { wanted: Wanted::Firing, passes: 256 }
    }
}

/// A piece of a text, and what it did.
#[derive(Clone, Debug, PartialEq)]
pub struct Piece {
    /// Whose text.
    pub part: Part,
    /// Bytes of that text as it was said.
    pub span: Range<usize>,
    /// How many words were taken together; 1 where each was looked at by itself.
    pub words: usize,
    /// Its effect on each explained output, in the order of [`Explanation::outputs`]: of a word the mean of the two below, of
    /// a sentence what is lost.
    pub effects: Vec<f32>,
    /// By how much the log-odds fall when it is left out.
    pub left_out: Vec<f32>,
    /// By how much they rise when of its text it alone is read; empty for sentences.
    pub alone: Vec<f32>,
}

/// A relation to earlier messages that the model was told of, and what that did.
#[derive(Clone, Debug, PartialEq)]
pub struct Related {
    /// What was related to what.
    pub against: Against,
    /// How: `same`, `near`, `like`, `whole`, `part` or `slight`.
    pub relation: &'static str,
    /// By how much each explained output's log-odds fall if there was no relation.
    pub effects: Vec<f32>,
}

/// What moved the labels of one exchange.
#[derive(Clone, Debug, PartialEq)]
pub struct Explanation {
    /// What the tagger says.
    pub scores: Scores,
    /// Outputs that are explained, the surest first.
    pub outputs: Vec<usize>,
    /// Words, by part and place. Those of a sentence that did nothing, or that no pass was left for, are missing.
    pub words: Vec<Piece>,
    /// Sentences, by part and place: all that the model read.
    pub sentences: Vec<Piece>,
    /// Relations that the model was told of; none where its template tells none.
    pub relations: Vec<Related>,
    /// What the model did not read of the texts: cut off, or gone in normalisation.
    pub unread: Vec<(Part, Range<usize>)>,
    /// Forward passes that this took.
    pub passes: usize,
}

/// Exchanges explained at a time: what bounds the memory of the inputs.
const AT_ONCE: usize = 16;

impl Tagger {
    /// Scores exchanges and says what moved their labels, in their order. An exchange without text has nothing to explain.
    ///
    /// # Errors
    /// As [`Tagger::tag`].
    pub fn explain(&self, exchanges: &[Exchange<'_>], reach: &Reach) -> Result<Vec<Explanation>> {
        let mut explained = Vec::with_capacity(exchanges.len());
        for some in exchanges.chunks(AT_ONCE) {
            explained.extend(self.install(|| self.explain_some(some, reach))?);
        }
        Ok(explained)
    }

    fn explain_some(&self, exchanges: &[Exchange<'_>], reach: &Reach) -> Result<Vec<Explanation>> {
        let logits = self.logits(exchanges)?;
        let plans = exchanges.par_iter().zip(logits).map(|(exchange, logits)| match logits {
            None => Ok(Plan::nothing(reach)),
            Some(logits) => Plan::new(self, exchange, logits, reach),
        });
        let mut plans: Vec<Plan> = plans.collect::<Result<_>>()?;
        let effects = self.effects(&plans, Plan::without_sentences)?;
        plans.iter_mut().zip(effects).for_each(|(plan, effects)| plan.take_sentences(effects, reach.passes));
        let effects = self.effects(&plans, Plan::without_words)?;
        Ok(plans.into_iter().zip(effects).map(|(plan, effects)| plan.finish(effects)).collect())
    }

    /// For each plan, for each input that it wants computed, what the explained outputs' log-odds lose there.
    fn effects(&self, plans: &[Plan], inputs: impl Fn(&Plan) -> Vec<Input>) -> Result<Vec<Vec<Vec<f32>>>> {
        let inputs: Vec<Vec<Input>> = plans.iter().map(inputs).collect();
        let counts: Vec<usize> = inputs.iter().map(Vec::len).collect();
        let mut logits = self.logits_of(&inputs.into_iter().flatten().collect::<Vec<_>>())?.into_iter();
        let calibration = &self.config().calibration;
        let of = |plan: &Plan, without: [f32; OUTPUTS]| {
            let outputs = plan.outputs().iter();
            outputs.map(|output| calibration[*output].scale * (plan.logits[*output] - without[*output])).collect()
        };
        Ok(plans
            .iter()
            .zip(counts)
            .map(|(plan, count)| logits.by_ref().take(count).map(|without| of(plan, without)).collect())
            .collect())
    }
}

#[cfg(test)]
#[path = "tests.rs"]
mod tests;
