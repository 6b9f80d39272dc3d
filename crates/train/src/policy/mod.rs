//! Fine-tunes a language model from preferences: `uptake train policy`.
//!
//! Rows of a published snapshot become token sequences by the base model's chat template; the reference says once what it
//! thinks of them; an adapter is trained with `AdamW`, micro-batches accumulated to steps; what comes out is a PEFT adapter
//! with its card, and merged weights where they are asked for. [`Method`] has the losses, with the metric names of TRL.
//!
//! A run that was killed goes on at its last checkpoint and ends with the same bytes as if it had never stopped.

mod batches;
pub(crate) mod chat;
mod checkpoint;
mod held_out;
mod loss;
mod output;
mod run;

use std::collections::BTreeMap;
use std::path::PathBuf;

use serde::Serialize;

use crate::decoder::{Adapter, BaseFiles, Decoder, DecoderConfig};
use crate::error::{Error, Result};
use crate::rows::{Data, Reading};

pub use batches::{RowCounts, Truncation};
pub use held_out::{HeldOut, Likelier};
pub use loss::Method;

use batches::{Order, Preparation};
use chat::Chat;
use run::Run;

/// What is trained, from what, and how.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Options {
    /// The loss.
    pub method: Method,
    /// Directory of a published snapshot, or a file of JSON lines.
    #[serde(skip)]
    pub data: PathBuf,
    /// Pairs to measure on, that are not trained on: a published snapshot, whose test part it is, or a file of JSON lines. Where
    /// nothing is said, the test part of the snapshot that is trained on.
    #[serde(skip)]
    pub held_out: Option<PathBuf>,
    /// Directory of the base model as Hugging Face lays it out.
    #[serde(skip)]
    pub base: PathBuf,
    /// What the adapter calls its base model; its directory where nothing is said.
    #[serde(skip)]
    pub base_name: Option<String>,
    /// Directory of the adapter; must be new or empty, or hold the checkpoint of the same run, which is then taken up.
    #[serde(skip)]
    pub out: PathBuf,
    /// Of the adapter's start and of the order.
    pub seed: u64,
    /// Passes over the rows.
    pub epochs: usize,
    /// Steps at most.
    pub max_steps: Option<usize>,
    /// Rows whose gradients are computed together.
    pub batch: usize,
    /// Micro-batches of a step.
    pub accumulate: usize,
    /// Longest sequence in tokens, prompt and answer.
    pub max_length: usize,
    /// What of a longer one stays.
    pub truncation: Truncation,
    /// Shape of the adapter.
    pub adapter: Adapter,
    /// Highest learning rate.
    pub learning_rate: f64,
    /// Part of all steps in which the rate rises to its highest; it falls to nothing along a cosine in the others.
    pub warm_up: f64,
    /// Largest norm of a step's gradient.
    pub clip: f64,
    /// Fraction of a matrix that a learning rate of 1 takes away in a step.
    pub weight_decay: f64,
    /// Whether the activations of a layer are computed again in the backward pass: less memory, a quarter more time.
    pub recompute: bool,
    /// Whether merged weights are written too.
    pub merge: bool,
    /// Steps between checkpoints.
    pub checkpoint_steps: usize,
}

impl Options {
    /// The defaults for a method.
    #[must_use]
    pub fn new(method: Method) -> Self {
        Self {
            method,
            data: PathBuf::new(),
            held_out: None,
            base: PathBuf::new(),
            base_name: None,
            out: PathBuf::new(),
            seed: 42,
            epochs: 1,
            max_steps: None,
            batch: 4,
            accumulate: 4,
            max_length: 1024,
            truncation: Truncation::default(),
            adapter: Adapter::default(),
            learning_rate: 5e-5,
            warm_up: 0.1,
            clip: 1.0,
            weight_decay: 0.0,
            recompute: true,
            merge: false,
            checkpoint_steps: 25,
        }
    }

    fn check(&self) -> Result<()> {
        let refuse = |reason: &str| Err(Error::Invalid(reason.to_owned()));
        self.method.check()?;
        self.adapter.check()?;
        let counts = [self.epochs, self.batch, self.accumulate, self.checkpoint_steps, self.max_steps.unwrap_or(1)];
        if counts.contains(&0) {
            return refuse("epochs, steps, batch, accumulate and checkpoint steps must be at least 1");
        }
        if matches!(self.method, Method::Kto { .. }) && self.batch < 2 {
            return refuse("KTO compares the rows of a batch: it needs a batch of at least 2");
        }
        if self.max_length < 2 {
            return refuse("the longest sequence must have at least 2 tokens");
        }
        let positive = |value: f64| value.is_finite() && value > 0.0;
        if !(positive(self.learning_rate) && positive(self.clip) && (0.0..1.0).contains(&self.warm_up)) {
            return refuse("the learning rate and the clip must be above 0, the warm-up from 0 to below 1");
        }
        if !(self.weight_decay >= 0.0 && self.weight_decay * self.learning_rate < 1.0) {
            return refuse("the weight decay must be at least 0, and below 1 when multiplied by the learning rate");
        }
        Ok(())
    }
}

/// Means over the micro-batches of a step, by TRL's names.
pub type Metrics = BTreeMap<&'static str, f64>;

/// What the caller is told while a policy is trained.
#[derive(Debug)]
pub enum Event<'a> {
    /// The rows are read and tokenised; nothing is trained yet.
    Prepared {
        /// Name and id of the data.
        data: (&'a str, &'a str),
        /// What became of the rows.
        rows: &'a RowCounts,
        /// Weights that move.
        parameters: usize,
        /// Steps in all.
        steps: usize,
        /// Steps done before, in a run that is taken up.
        done: usize,
        /// The seed of all randomness.
        seed: u64,
    },
    /// The reference has scored that many micro-batches.
    Reference {
        /// Micro-batches done.
        done: usize,
        /// Micro-batches in all.
        total: usize,
    },
    /// A step is done.
    Step {
        /// Steps done.
        step: usize,
        /// What was measured of it.
        metrics: &'a Metrics,
        /// Tokens that passed through the model.
        tokens: usize,
        /// Wall time of it.
        seconds: f64,
    },
    /// That many micro-batches of held-out pairs are measured.
    HeldOut {
        /// Micro-batches done.
        done: usize,
        /// Micro-batches in all.
        total: usize,
    },
    /// The adapter is written.
    Finished(&'a Report),
}

/// What a run made of what.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Report {
    /// The options.
    pub options: Options,
    /// Kind of the base model, and SHA-256 of its weights.
    pub base: BaseReport,
    /// Name and id of the data.
    pub data: DataReport,
    /// What became of the rows.
    pub rows: RowCounts,
    /// Weights that moved.
    pub parameters: usize,
    /// Steps.
    pub steps: usize,
    /// Metrics of the first step.
    pub first: BTreeMap<String, f64>,
    /// Metrics of the last step.
    pub last: BTreeMap<String, f64>,
    /// What was learnt, on pairs that were held out, if there are any.
    pub held_out: Option<HeldOut>,
}

/// Which base model.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct BaseReport {
    /// What the adapter calls it.
    pub name: String,
    /// SHA-256 of its weights, hexadecimal.
    pub sha256: String,
}

/// Which data.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct DataReport {
    /// Name of the snapshot's table, or of the file.
    pub name: String,
    /// Id of the snapshot, or SHA-256 of the file.
    pub id: String,
}

/// Trains an adapter and writes it to `options.out`.
///
/// # Errors
/// [`Error::Invalid`] and [`Error::Data`] for options, data or a base model that cannot be trained with, [`Error::File`]
/// where a file cannot be read or written, [`Error::Diverged`] where the loss is no number any more.
pub fn train(options: &Options, tell: &mut dyn FnMut(&Event<'_>)) -> Result<Report> {
    options.check()?;
    let base = BaseFiles::read(&options.base)?;
    let config = DecoderConfig::parse(&base.config)?;
    if options.max_length > config.positions {
        return Err(Error::Invalid(format!(
            "sequences of {} tokens are asked for, the base model takes {}",
            options.max_length, config.positions
        )));
    }
    let chat = Chat::new(&base, config.vocabulary)?;
    let data = Data::read(&options.data, Reading::Policy)?;
    let preparation =
        Preparation { chat: &chat, method: options.method, limit: options.max_length, truncation: options.truncation };
    let (items, rows) = preparation.items(&data);
    if items.len() < 2 {
        return Err(Error::Invalid(format!(
            "{} of {} rows can be used for {}, which is too few; dropped: {}",
            rows.used,
            rows.read,
            options.method.name(),
            output::reasons(&rows)
        )));
    }
    if matches!(options.method, Method::Kto { .. }) && (rows.liked == 0 || rows.disliked == 0) {
        return Err(Error::Invalid(format!(
            "{} answers are liked and {} disliked: KTO needs both",
            rows.liked, rows.disliked
        )));
    }
    let held_out = held_out::Pairs::read(options, &preparation, &items)?;
    let order = Order { seed: options.seed, accumulate: options.accumulate };
    let batches = order.batches(items, options.batch, options.method, options.max_length);
    let lock = output::prepare(&options.out)?;
    let weights = base.weights()?;
    let sha256 = weights.hash.clone();
    let stored = weights.stored;
    let decoder = Decoder::new(config, weights, &options.adapter, options.seed, options.recompute)?;
    let mut run = Run::new(options, decoder, order, batches, &[sha256.as_bytes(), base.config.as_slice()])?;
    tell(&Event::Prepared {
        data: (&data.name, &data.id),
        rows: &rows,
        parameters: run.parameters(),
        steps: run.total,
        done: run.steps,
        seed: options.seed,
    });
    run.train(tell)?;
    let held_out = held_out.map(|pairs| pairs.measure(options, &run.decoder, tell)).transpose()?;
    let name = options.base_name.clone().unwrap_or_else(|| options.base.display().to_string());
    let (first, last) = run.ends()?;
    let report = Report {
        options: options.clone(),
        base: BaseReport { name, sha256 },
        data: DataReport { name: data.name, id: data.id },
        rows,
        parameters: run.parameters(),
        steps: run.steps,
        first,
        last,
        held_out,
    };
    output::write(&report, &run.decoder, &base, stored)?;
    checkpoint::remove(&options.out)?;
    output::unlock(&options.out, lock)?;
    tell(&Event::Finished(&report));
    Ok(report)
}

#[cfg(test)]
mod parity;
#[cfg(test)]
mod tests;
