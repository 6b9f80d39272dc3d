//! Fine-tunes an encoder into a signal classifier: `uptake train classifier`.
//!
//! Fit on the training part, stop by the validation part, calibrate and set thresholds on it, measure once on the test
//! part, write a directory that the tagger serves: `config.json`, `tokenizer.json`, `model.safetensors` (`f16`),
//! `tagger.json`, `metrics.json` and `README.md`, the card. [`evaluate`] gives the same figures for any such directory.

mod card;
mod diagnosis;
mod evaluate;
mod evaluation;
mod output;
mod page;
mod prepared;
mod use_figures;

use std::collections::HashMap;
use std::path::PathBuf;
use std::time::Instant;

use candle_core::Tensor;
use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;
use serde::{Deserialize, Serialize};
use uptake_model::labels::OUTPUTS;
use uptake_tagger::{Encoder, Layout, ModelFiles, Tagger, Template, read_shards};

use crate::adamw::{AdamW, Rates, Settings};
use crate::average::Average;
use crate::base::Base;
use crate::data::{Split, Weak};
use crate::encoder::{self, TrainableEncoder};
use crate::error::{Error, Result};
use crate::{batches, checkpoint, model_files};

pub use diagnosis::{Confusion, Diagnosis, Errors, Reliability, Wrong};
pub use evaluate::{Evaluation, Judged, evaluate};
pub use evaluation::{Figures, HardNegatives, OutputFigures, SourceFigures, WeakFigures};
pub use page::page;
use prepared::Prepared;
pub use use_figures::{DSAT_RATE, InUse, SAT_RATE};

/// What is trained, from what, and how.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Options {
    /// Files of labelled follow-ups, see [`crate::data`].
    #[serde(serialize_with = "names")]
    pub data: Vec<PathBuf>,
    /// Files of conversations judged in another way, see [`crate::data::read_weak`].
    pub weak: Vec<Weak>,
    /// Rows drawn from each of them in a pass at most; another pass draws others.
    pub weak_rows: usize,
    /// How an exchange becomes an input.
    pub layout: Layout,
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
    /// Passes without a better validation score after which training stops.
    pub patience: usize,
    /// Longest input in tokens.
    pub max_tokens: usize,
    /// Examples of a step at most.
    pub batch: usize,
    /// Tokens of a step at most, padding included.
    pub batch_tokens: usize,
    /// Highest learning rate of the encoder.
    pub learning_rate: f64,
    /// Highest learning rate of the head, which starts from nothing.
    pub head_learning_rate: f64,
    /// Each layer has the rate of the layer above it times this.
    pub layer_decay: f64,
    /// Weight of the loss of `sat` and of `dsat`; a label's has 1.
    pub side_weight: f32,
    /// How much the running average of the weights keeps of itself in a step; none is kept where it is 0. Where one is
    /// kept, it is what is measured and written.
    pub average: f64,
    /// Fraction of a matrix that a learning rate of 1 takes away in a step.
    pub weight_decay: f64,
    /// Part of all steps in which the rate rises to its highest; it falls to nothing in the others.
    pub warm_up: f64,
    /// Largest norm of a gradient.
    pub clip: f64,
    /// Part of the pooled state that is dropped in a step.
    pub dropout: f32,
    /// Fraction of conversations for validation.
    pub validation: f64,
    /// Fraction of conversations for the test.
    pub test: f64,
    /// Precision that thresholds aim at, where as few turns carry a signal as in use.
    pub target_precision: f64,
    /// Steps between checkpoints.
    pub checkpoint_steps: usize,
    /// Train no further: write the model of the best pass that the checkpoint holds.
    #[serde(skip)]
    pub finish: bool,
    /// Where the report goes, a page with plots and the worst errors: it quotes the data, so it is no part of the model.
    #[serde(skip)]
    pub report: Option<PathBuf>,
    /// Sources whose texts were written for training; figures are given with and without them.
    pub written_sources: Vec<String>,
    /// For the card: where the encoder comes from, and under which licence.
    pub base_origin: String,
    /// For the card: where the data come from.
    pub data_origin: String,
}

/// Only the names: where files lay on one machine is nobody's business who gets the model.
fn names<S: serde::Serializer>(paths: &[PathBuf], serializer: S) -> std::result::Result<S::Ok, S::Error> {
    serializer.collect_seq(paths.iter().map(|path| path.file_name().unwrap_or_default().to_string_lossy()))
}

impl Default for Options {
    fn default() -> Self {
        Self {
            data: Vec::new(),
            weak: Vec::new(),
            weak_rows: 2000,
            layout: Layout::Related,
            base: PathBuf::new(),
            out: PathBuf::new(),
            name: "minilm-signals".to_owned(),
            seed: 1,
            epochs: 4,
            patience: 2,
            max_tokens: 128,
            batch: 32,
            batch_tokens: 4096,
            learning_rate: 1e-4,
            head_learning_rate: 1e-3,
            layer_decay: 1.0,
            side_weight: 1.0,
            average: 0.0,
            weight_decay: 0.01,
            warm_up: 0.08,
            clip: 1.0,
            dropout: 0.1,
            validation: 0.12,
            test: 0.12,
            target_precision: 0.8,
            checkpoint_steps: 50,
            finish: false,
            report: None,
            written_sources: vec!["authored".to_owned()],
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
        if self.data.is_empty() {
            return refuse("no data file is named");
        }
        if self.epochs == 0 || self.batch == 0 || self.checkpoint_steps == 0 || self.patience == 0 {
            return refuse("epochs, batch, patience and checkpoint_steps must be at least 1");
        }
        if self.batch_tokens < self.max_tokens {
            return refuse("batch_tokens must be at least max_tokens, or no input fits a step");
        }
        if !(self.validation > 0.0 && self.test > 0.0 && self.validation + self.test < 1.0) {
            return refuse("validation and test must be above 0 and leave something to train on");
        }
        if !(fraction(f64::from(self.dropout)) && fraction(self.warm_up) && fraction(self.target_precision)) {
            return refuse("dropout, warm_up and target_precision must be from 0 to below 1");
        }
        let positive = |value: f64| value.is_finite() && value > 0.0;
        if !(positive(self.learning_rate) && positive(self.head_learning_rate) && positive(self.clip)) {
            return refuse("learning rates and clip must be above 0");
        }
        if !(positive(self.layer_decay) && self.layer_decay <= 1.0 && fraction(self.average)) {
            return refuse("layer_decay must be above 0 and at most 1, average from 0 to below 1");
        }
        if !positive(f64::from(self.side_weight)) {
            return refuse("side_weight must be above 0");
        }
        Ok(())
    }
}

/// One pass, as measured on the validation part.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Epoch {
    /// Counted from 1.
    pub epoch: usize,
    /// Steps done when it was measured; fewer than a whole pass has where the run was stopped within it.
    pub steps: usize,
    /// Mean loss over the pass.
    pub training_loss: f64,
    /// Mean loss on the validation part.
    pub validation_loss: f64,
    /// Average precision of `sat`.
    pub sat: f64,
    /// Average precision of `dsat`.
    pub dsat: f64,
    /// Mean average precision of the labels that have enough positives.
    pub labels: f64,
    /// Mean of the three: what decides which pass is kept.
    pub score: f64,
}

impl Epoch {
    fn rounded(self) -> Self {
        Self {
            training_loss: checkpoint::rounded(self.training_loss),
            validation_loss: checkpoint::rounded(self.validation_loss),
            sat: checkpoint::rounded(self.sat),
            dsat: checkpoint::rounded(self.dsat),
            labels: checkpoint::rounded(self.labels),
            score: checkpoint::rounded(self.score),
            ..self
        }
    }
}

/// What the caller is told while a model is trained.
#[derive(Debug)]
pub enum Event<'a> {
    /// Data are read and split.
    Prepared {
        /// The seed of all randomness.
        seed: u64,
        /// Examples to train on, to validate with, to test on.
        parts: [usize; 3],
        /// Examples without text, left out.
        empty: usize,
        /// Rows of weak evidence in the same three parts; as many of the first are trained on as a pass draws.
        weak: [usize; 3],
        /// Conversations among them that labelled examples come from too, and which follow those into their part.
        bound: usize,
        /// Judgements that say nothing about a follow-up, left out.
        passed_over: usize,
        /// Steps if no early stop comes.
        steps: usize,
        /// Steps done before, in a run that is taken up.
        done: usize,
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
    /// Training stopped before the last pass, since the validation score no longer rises.
    StoppedEarly,
    /// The model is written; what the test part says.
    Finished(&'a Figures),
}

/// Trains a classifier and writes it to `options.out`; returns its figures on the test part.
///
/// A run that was killed is taken up at its last checkpoint when it is started again with the same options.
///
/// # Errors
/// [`Error::Invalid`] and [`Error::Data`] for options or data that cannot be trained with, [`Error::File`] where a file
/// cannot be read or written, [`Error::Diverged`] where the loss is no number any more.
pub fn train(options: &Options, tell: &mut dyn FnMut(&Event<'_>)) -> Result<Figures> {
    options.check()?;
    let base = Base::read(&options.base)?;
    if !(16..=base.config.longest()).contains(&options.max_tokens) {
        return Err(Error::Invalid(format!(
            "max_tokens is {}, the encoder takes 16 to {}",
            options.max_tokens,
            base.config.longest()
        )));
    }
    let template = Template::parse(&base.tokenizer, base.config.vocab_size, options.max_tokens, options.layout)?;
    let prepared = Prepared::new(options, &template)?;
    model_files::prepare(&options.out)?;
    let mut run = Run::new(options, &base, &prepared)?;
    let steps = options.epochs * run.steps_per_epoch(0);
    tell(&Event::Prepared {
        seed: options.seed,
        parts: [prepared.training.len(), prepared.validation.len(), prepared.test.len()],
        empty: prepared.empty,
        weak: prepared.weak_parts(),
        bound: prepared.bound,
        passed_over: prepared.passed_over,
        steps,
        done: run.progress.steps,
    });
    if options.finish {
        run.measure_unfinished(tell)?;
    }
    if options.finish && run.progress.history.is_empty() {
        return Err(Error::Invalid(format!("`{}` holds no pass that could be finished", options.out.display())));
    }
    while run.progress.epoch < options.epochs && !options.finish {
        run.epoch(tell)?;
        if run.progress.stale >= options.patience && run.progress.epoch < options.epochs {
            tell(&Event::StoppedEarly);
            break;
        }
    }
    let weights = checkpoint::best(&options.out)?;
    let figures = output::finish(options, &base, &prepared, weights, &run.progress.history)?;
    checkpoint::remove(&options.out)?;
    tell(&Event::Finished(&figures));
    Ok(figures)
}

/// A run between two steps.
struct Run<'a> {
    options: &'a Options,
    prepared: &'a Prepared,
    encoder: TrainableEncoder,
    optimiser: AdamW,
    average: Option<Average>,
    progress: checkpoint::Progress<Epoch>,
}

impl<'a> Run<'a> {
    fn new(options: &'a Options, base: &Base, prepared: &'a Prepared) -> Result<Self> {
        let mut random = ChaCha8Rng::seed_from_u64(options.seed);
        let pretrained = read_shards(&base.weights)?;
        let encoder = TrainableEncoder::new(base.config.clone(), OUTPUTS, &pretrained, &mut random)?;
        let settings = Settings { decay: options.weight_decay, clip: options.clip, layer_decay: options.layer_decay };
        let mut optimiser = AdamW::new(encoder.weights(), settings);
        let averaged = options.average > 0.0;
        let mut average = averaged.then(|| Average::new(encoder.weights(), options.average)).transpose()?;
        let progress = checkpoint::take_up(
            &options.out,
            checkpoint::fingerprint(options, &prepared.digest())?,
            &encoder,
            &mut optimiser,
            average.as_mut(),
        )?;
        Ok(Self { options, prepared, encoder, optimiser, average, progress })
    }

    fn batches(&self, epoch: usize) -> Vec<Vec<usize>> {
        let order = batches::Order {
            seed: self.options.seed,
            epoch,
            examples: self.options.batch,
            tokens: self.options.batch_tokens,
        };
        let examples = self.prepared.drawn(self.options, epoch);
        order.batches(&examples, |index| self.prepared.inputs[index].tokens.len())
    }

    fn steps_per_epoch(&self, epoch: usize) -> usize {
        self.batches(epoch).len()
    }

    /// One pass, from where the last checkpoint left it.
    fn epoch(&mut self, tell: &mut dyn FnMut(&Event<'_>)) -> Result<()> {
        let epoch = self.progress.epoch;
        let batches = self.batches(epoch);
        let total = batches.len() * self.options.epochs;
        for batch in batches.iter().skip(self.progress.batch) {
            let started = Instant::now();
            let (loss, norm) = self.step(batch, total)?;
            self.progress.steps += 1;
            self.progress.batch += 1;
            self.progress.loss += loss;
            tell(&Event::Step {
                epoch: epoch + 1,
                step: self.progress.steps,
                loss,
                norm,
                seconds: started.elapsed().as_secs_f64(),
            });
            if self.progress.steps.is_multiple_of(self.options.checkpoint_steps) {
                self.checkpoint()?;
            }
        }
        self.measure(batches.len(), tell)?;
        self.progress.epoch += 1;
        self.progress.batch = 0;
        self.progress.loss = 0.0;
        self.checkpoint()
    }

    /// Measures the weights after `batches` batches of a pass, and keeps them if they are the best so far.
    fn measure(&mut self, batches: usize, tell: &mut dyn FnMut(&Event<'_>)) -> Result<()> {
        let measured = self.validate(self.progress.loss / batches as f64)?.rounded();
        tell(&Event::Validated(&measured));
        let best = self.progress.history.iter().map(|epoch| epoch.score).fold(f64::NEG_INFINITY, f64::max);
        if measured.score > best {
            checkpoint::write_best(&self.options.out, &self.weights()?)?;
            self.progress.stale = 0;
        } else {
            self.progress.stale += 1;
        }
        self.progress.history.push(measured);
        Ok(())
    }

    /// Measures what a run holds that was stopped within a pass, so that it can be written too.
    fn measure_unfinished(&mut self, tell: &mut dyn FnMut(&Event<'_>)) -> Result<()> {
        let measured = self.progress.history.last().map_or(0, |epoch| epoch.steps);
        if self.progress.batch > 0 && self.progress.steps > measured {
            self.measure(self.progress.batch, tell)?;
        }
        Ok(())
    }

    fn checkpoint(&self) -> Result<()> {
        checkpoint::write(&self.options.out, &self.encoder, &self.optimiser, self.average.as_ref(), &self.progress)
    }

    /// The weights that are measured and written.
    fn weights(&self) -> Result<HashMap<String, Tensor>> {
        match &self.average {
            Some(average) => average.tensors(self.encoder.weights()),
            None => Ok(self.encoder.tensors()),
        }
    }

    fn step(&mut self, batch: &[usize], total: usize) -> Result<(f64, f64)> {
        let step = self.progress.steps;
        let mut random = ChaCha8Rng::seed_from_u64(self.options.seed);
        random.set_stream(1 + step as u64);
        let width = 2 * self.encoder.width();
        let keep = encoder::keep(batch.len(), width, self.options.dropout, &mut random)?;
        let logits = self.encoder.logits(&self.prepared.inputs(batch), Some(&keep))?;
        let (targets, weights) = self.prepared.targets(batch, self.options.side_weight);
        let loss =
            encoder::loss(&logits, &encoder::rows(&targets)?, &encoder::rows(&weights.iter().collect::<Vec<_>>())?)?;
        let value = f64::from(loss.to_scalar::<f32>()?);
        let rise = rate(step, total, self.options.warm_up);
        let rates = Rates { encoder: rise * self.options.learning_rate, head: rise * self.options.head_learning_rate };
        let norm = self.optimiser.step(&loss.backward()?, rates)?;
        match norm {
            Some(norm) if value.is_finite() => {
                if let Some(average) = &mut self.average {
                    average.take(self.encoder.weights(), step + 1)?;
                }
                Ok((value, norm))
            }
            _ => Err(Error::Diverged { step }),
        }
    }

    fn validate(&self, training_loss: f64) -> Result<Epoch> {
        let serving = Encoder::new(self.encoder.config(), &self.weights()?)?;
        let logits = evaluation::logits(&serving, &self.prepared.inputs(&self.prepared.validation))?;
        let examples = self.prepared.examples(&self.prepared.validation);
        let place = (self.progress.epoch + 1, self.progress.steps);
        Ok(evaluation::epoch(place, training_loss, &logits, &examples))
    }
}

/// Factor of the learning rate: a straight line up to 1, then one down to 0.
pub(crate) fn rate(step: usize, total: usize, warm_up: f64) -> f64 {
    let (step, total) = (step as f64 + 1.0, total as f64 + 1.0);
    let rise = (warm_up * total).max(1.0);
    if step < rise { step / rise } else { ((total - step) / (total - rise).max(1.0)).max(0.0) }
}

/// Loads what was written as the tagger would: a model that does not serve is never left behind as if it did.
fn serve(files: &ModelFiles<'_>) -> Result<Tagger> {
    Ok(Tagger::new(files, uptake_tagger::Options::default())?)
}

#[cfg(test)]
#[path = "classifier/tests.rs"]
mod tests;
