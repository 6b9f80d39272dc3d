//! Fine-tunes an encoder into a reward model: `uptake train love|reward`, served by `uptake score`.
//!
//! One encoder (first token and mean of all), a scalar head for each thing that is scored. Rows of single responses, liked or
//! not, train a head that says the rate at which such responses are liked (`P[Love]` of RLUF: binary cross-entropy, positives
//! up-sampled, the prior corrected afterwards); pairs train a head that compares (Bradley-Terry with margin and centring).
//! Which pass is kept, the validation part decides; the figures are those of conversations held out, by id and, where
//! rows have a time, the latest ([`HeldOut`]).
//!
//! A run that was killed goes on at its last checkpoint and ends with the same bytes as if it had never stopped.

mod card;
mod figures;
mod held_out;
mod input;
pub mod lines;
mod loss;
mod model;
mod output;
mod prepared;
mod run;

use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::base::Base;
use crate::data::Split;
use crate::error::{Error, Result};
use crate::{checkpoint, model_files};

pub use crate::rows::Message;
pub use figures::{EpochHead, Figures, HeadFigures, LengthCorrelation, PairFigures, RateFigures};
pub use held_out::HeldOut;
pub use model::{Golden, Head, Objective, Prior, REWARD_FILE, RewardConfig, RewardModel, Score, TrainedOn};
pub use prepared::RowCounts;

use input::{FEWEST_TOKENS, Template};
use prepared::Prepared;
use run::Run;

/// Rows and the head that they train: `[HEAD=]PATH`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Source {
    /// The usual one of its kind where none is named.
    pub head: Option<String>,
    /// Directory of a published snapshot, or a file of JSON lines, plain or gzip'd.
    pub path: PathBuf,
}

impl FromStr for Source {
    type Err = String;

    fn from_str(text: &str) -> std::result::Result<Self, String> {
        match text.split_once('=') {
            Some((head, path)) if model::is_head_name(head) && !path.is_empty() => {
                Ok(Self { head: Some(head.to_owned()), path: path.into() })
            }
            _ if text.is_empty() => Err("a path is missing".to_owned()),
            _ => Ok(Self { head: None, path: text.into() }),
        }
    }
}

impl fmt::Display for Source {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(head) = &self.head {
            write!(formatter, "{head}=")?;
        }
        write!(formatter, "{}", self.path.display())
    }
}

/// Only the names: where files lay on one machine is nobody's business who gets the model.
impl Serialize for Source {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> std::result::Result<S::Ok, S::Error> {
        let name = self.path.file_name().unwrap_or_default();
        Self { head: self.head.clone(), path: name.into() }.to_string().serialize(serializer)
    }
}

/// What is trained, from what, and how.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Options {
    /// Single responses, liked or not; they train the head `love` where they name no other.
    pub love: Vec<Source>,
    /// Pairs of responses; they train the head `preference` where they name no other.
    pub pairs: Vec<Source>,
    /// Directory of the pretrained encoder: `config.json`, `tokenizer.json`, `model.safetensors`.
    #[serde(skip)]
    pub base: PathBuf,
    /// Directory of the model; must be new or empty, or hold the checkpoint of the same run, which is then taken up.
    #[serde(skip)]
    pub out: PathBuf,
    /// Name of the model, the first part of its version.
    pub name: String,
    /// Of weights, order, dropout and split.
    pub seed: u64,
    /// Passes over the training part at most.
    pub epochs: usize,
    /// Passes without a lower validation loss after which training stops.
    pub patience: usize,
    /// Longest input in tokens.
    pub max_tokens: usize,
    /// Rows of a step at most.
    pub batch: usize,
    /// Tokens of a step at most, padding included.
    pub batch_tokens: usize,
    /// Highest learning rate of the encoder.
    pub learning_rate: f64,
    /// Highest learning rate of the heads, which start from nothing.
    pub head_learning_rate: f64,
    /// Each layer has the rate of the layer above it times this.
    pub layer_decay: f64,
    /// How much the running average of the weights keeps of itself in a step; none is kept where it is 0.
    pub average: f64,
    /// Fraction of a matrix that a learning rate of 1 takes away in a step.
    pub weight_decay: f64,
    /// Part of all steps in which the rate rises to its highest; it falls to nothing in the others.
    pub warm_up: f64,
    /// Largest norm of a gradient.
    pub clip: f64,
    /// Part of the pooled state that is dropped in a step.
    pub dropout: f32,
    /// Share of liked responses in a pass at least: they are repeated up to it, and the prior is corrected for it.
    pub positive_share: f64,
    /// Margin by which the better response of a pair of strength 1 has to lead.
    pub margin: f32,
    /// How strongly the rewards of a pair are kept around nought.
    pub centring: f64,
    /// Fraction of conversations for validation.
    pub validation: f64,
    /// Fraction of conversations held out by their id.
    pub test: f64,
    /// Fraction of conversations that have a time held out as the latest.
    pub latest: f64,
    /// Steps between checkpoints.
    pub checkpoint_steps: usize,
    /// Train no further: write the model of the best pass that the checkpoint holds.
    #[serde(skip)]
    pub finish: bool,
    /// For the card: where the encoder comes from, and under which licence.
    pub base_origin: String,
    /// For the card: where the data come from.
    pub data_origin: String,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            love: Vec::new(),
            pairs: Vec::new(),
            base: PathBuf::new(),
            out: PathBuf::new(),
            name: "reward".to_owned(),
            seed: 1,
            epochs: 3,
            patience: 2,
            max_tokens: 256,
            batch: 32,
            batch_tokens: 4096,
            learning_rate: 5e-5,
            head_learning_rate: 5e-4,
            layer_decay: 1.0,
            average: 0.0,
            weight_decay: 0.01,
            warm_up: 0.1,
            clip: 1.0,
            dropout: 0.1,
            positive_share: 0.1,
            margin: 0.5,
            centring: 0.01,
            validation: 0.1,
            test: 0.1,
            latest: 0.1,
            checkpoint_steps: 50,
            finish: false,
            base_origin: String::new(),
            data_origin: String::new(),
        }
    }
}

impl Options {
    fn split(&self) -> Split {
        Split { seed: self.seed, validation: self.validation, test: self.test }
    }

    fn check(&self) -> Result<()> {
        let refuse = |reason: &str| Err(Error::Invalid(reason.to_owned()));
        let fraction = |value: f64| (0.0..1.0).contains(&value);
        let positive = |value: f64| value.is_finite() && value > 0.0;
        if self.love.is_empty() && self.pairs.is_empty() {
            return refuse("no data are named");
        }
        let plain = |letter: char| letter.is_ascii_lowercase() || letter.is_ascii_digit() || letter == '-';
        if self.name.is_empty() || !self.name.chars().all(plain) {
            return refuse("the name must be made of small letters, digits and dashes");
        }
        if self.epochs == 0 || self.batch == 0 || self.checkpoint_steps == 0 || self.patience == 0 {
            return refuse("epochs, batch, patience and checkpoint_steps must be at least 1");
        }
        if self.batch_tokens / 2 < self.max_tokens {
            return refuse("batch_tokens must be at least twice max_tokens, or no pair fits a step");
        }
        if !(self.validation > 0.0 && fraction(self.test) && fraction(self.latest)) {
            return refuse("validation must be above 0, test and latest from 0 to below 1");
        }
        if self.validation + self.test >= 1.0 {
            return refuse("validation and test must leave something to train on");
        }
        if !(fraction(f64::from(self.dropout)) && fraction(self.warm_up) && fraction(self.positive_share)) {
            return refuse("dropout, warm_up and positive_share must be from 0 to below 1");
        }
        if !(positive(self.learning_rate) && positive(self.head_learning_rate) && positive(self.clip)) {
            return refuse("learning rates and clip must be above 0");
        }
        if !(positive(self.layer_decay) && self.layer_decay <= 1.0 && fraction(self.average)) {
            return refuse("layer_decay must be above 0 and at most 1, average from 0 to below 1");
        }
        let bounded = |value: f64| value.is_finite() && value >= 0.0;
        if !(bounded(f64::from(self.margin)) && bounded(self.centring) && bounded(self.weight_decay)) {
            return refuse("margin, centring and weight_decay must be at least 0");
        }
        Ok(())
    }
}

/// One pass, as measured on the validation part.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Epoch {
    /// Counted from 1.
    pub epoch: usize,
    /// Steps done when it was measured.
    pub steps: usize,
    /// Mean loss over the pass.
    pub training_loss: f64,
    /// Mean over the heads of their loss on the validation part: what decides which pass is kept.
    pub validation_loss: f64,
    /// By head.
    pub heads: Vec<EpochHead>,
}

/// What the caller is told while a model is trained.
#[derive(Debug)]
pub enum Event<'a> {
    /// Data are read and split; nothing is trained yet.
    Prepared {
        /// What became of the rows, by data set.
        rows: &'a [RowCounts],
        /// The heads.
        heads: &'a [Head],
        /// Rows to train on, to validate with, to test on.
        parts: [usize; 3],
        /// What was held out, and why.
        held_out: &'a HeldOut,
        /// Steps if no early stop comes.
        steps: usize,
        /// Steps done before, in a run that is taken up.
        done: usize,
        /// The seed of all randomness.
        seed: u64,
    },
    /// A step is done.
    Step {
        /// Counted from 1.
        epoch: usize,
        /// Steps done.
        step: usize,
        /// Of it.
        loss: f64,
        /// Norm of the gradients before clipping.
        norm: f64,
        /// Wall time of it.
        seconds: f64,
    },
    /// A pass is measured on the validation part.
    Validated(&'a Epoch),
    /// Training stopped before the last pass, since the validation loss no longer falls.
    StoppedEarly,
    /// The model is written; what the conversations held out say.
    Finished(&'a Figures),
}

/// Trains a reward model and writes it to `options.out`; returns its figures on what was held out.
///
/// A run that was killed is taken up at its last checkpoint when it is started again with the same options.
///
/// # Errors
/// [`Error::Invalid`] and [`Error::Data`] for options or data that cannot be trained with, [`Error::File`] where a file
/// cannot be read or written, [`Error::Diverged`] where the loss is no number any more.
pub fn train(options: &Options, tell: &mut dyn FnMut(&Event<'_>)) -> Result<Figures> {
    options.check()?;
    let base = Base::read(&options.base)?;
    if !(FEWEST_TOKENS..=base.config.longest()).contains(&options.max_tokens) {
        return Err(Error::Invalid(format!(
            "max_tokens is {}, the encoder takes {FEWEST_TOKENS} to {}",
            options.max_tokens,
            base.config.longest()
        )));
    }
    let template = Template::parse(&base.tokenizer, base.config.vocab_size, options.max_tokens)?;
    let prepared = Prepared::new(options, &template)?;
    model_files::prepare(&options.out)?;
    let mut run = Run::new(options, &base, &prepared)?;
    tell(&Event::Prepared {
        rows: &prepared.counts,
        heads: &prepared.heads,
        parts: [prepared.training.len(), prepared.validation.len(), prepared.test.len()],
        held_out: &prepared.held_out,
        steps: run.total(),
        done: run.done(),
        seed: options.seed,
    });
    run.train(tell)?;
    let weights = checkpoint::best(&options.out)?;
    let figures = output::finish(options, &base, &template, &prepared, weights, run.history())?;
    checkpoint::remove(&options.out)?;
    tell(&Event::Finished(&figures));
    Ok(figures)
}

#[cfg(test)]
mod tests;
