//! The loop: batches, losses, steps, validation, checkpoints.

use std::collections::HashMap;
use std::time::Instant;

use candle_core::Tensor;
use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;
use sha2::{Digest, Sha256};
use uptake_tagger::{Encoder, Input, read_shards};

use super::prepared::{Prepared, Said};
use super::{Epoch, Event, Options, figures, loss};
use crate::adamw::{AdamW, Rates, Settings};
use crate::average::Average;
use crate::base::Base;
use crate::checkpoint::{self, Progress, rounded};
use crate::classifier::rate;
use crate::encoder::{self, TrainableEncoder};
use crate::error::{Error, Result};

/// A run between two steps.
pub(super) struct Run<'a> {
    options: &'a Options,
    prepared: &'a Prepared,
    encoder: TrainableEncoder,
    optimiser: AdamW,
    average: Option<Average>,
    progress: Progress<Epoch>,
    /// Steps of all passes.
    total: usize,
}

impl<'a> Run<'a> {
    /// A fresh run, or the one whose checkpoint is there.
    pub(super) fn new(options: &'a Options, base: &Base, prepared: &'a Prepared) -> Result<Self> {
        let mut random = ChaCha8Rng::seed_from_u64(options.seed);
        let mut pretrained = read_shards(&base.weights)?;
        // Whatever the encoder was tuned for before, its head was for that.
        pretrained.retain(|name, _| !name.starts_with("classifier."));
        let encoder = TrainableEncoder::new(base.config.clone(), prepared.heads.len(), &pretrained, &mut random)?;
        let settings = Settings { decay: options.weight_decay, clip: options.clip, layer_decay: options.layer_decay };
        let mut optimiser = AdamW::new(encoder.weights(), settings);
        let averaged = options.average > 0.0;
        let mut average = averaged.then(|| Average::new(encoder.weights(), options.average)).transpose()?;
        let data = format!("{} {}", prepared.digest(), base_digest(base));
        let progress = checkpoint::take_up(
            &options.out,
            checkpoint::fingerprint(options, &data)?,
            &encoder,
            &mut optimiser,
            average.as_mut(),
        )?;
        let total = (0..options.epochs).map(|epoch| prepared.batches(options, epoch).len()).sum();
        Ok(Self { options, prepared, encoder, optimiser, average, progress, total })
    }

    pub(super) const fn total(&self) -> usize {
        self.total
    }

    pub(super) const fn done(&self) -> usize {
        self.progress.steps
    }

    pub(super) fn history(&self) -> &[Epoch] {
        &self.progress.history
    }

    /// All passes that are left, or what has to be measured of a run that goes no further.
    pub(super) fn train(&mut self, tell: &mut dyn FnMut(&Event<'_>)) -> Result<()> {
        if self.options.finish {
            let measured = self.progress.history.last().map_or(0, |epoch| epoch.steps);
            if self.progress.batch > 0 && self.progress.steps > measured {
                self.measure(self.progress.batch, tell)?;
            }
            if self.progress.history.is_empty() {
                let out = self.options.out.display();
                return Err(Error::Invalid(format!("`{out}` holds no pass that could be finished")));
            }
            return Ok(());
        }
        while self.progress.epoch < self.options.epochs {
            if self.progress.stale >= self.options.patience {
                tell(&Event::StoppedEarly);
                break;
            }
            self.epoch(tell)?;
        }
        Ok(())
    }

    /// One pass, from where the last checkpoint left it.
    fn epoch(&mut self, tell: &mut dyn FnMut(&Event<'_>)) -> Result<()> {
        let epoch = self.progress.epoch;
        let batches = self.prepared.batches(self.options, epoch);
        for batch in batches.iter().skip(self.progress.batch) {
            let started = Instant::now();
            let (loss, norm) = self.step(batch)?;
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

    /// Measures the weights after `batches` batches of a pass, and keeps them if they are the best so far.
    fn measure(&mut self, batches: usize, tell: &mut dyn FnMut(&Event<'_>)) -> Result<()> {
        let serving = Encoder::with_outputs(self.encoder.config(), &self.weights()?, self.prepared.heads.len())?;
        let scored = figures::scored(self.prepared, &serving, &self.prepared.validation)?;
        let heads = figures::epoch(self.prepared, &scored);
        let measured = Epoch {
            epoch: self.progress.epoch + 1,
            steps: self.progress.steps,
            training_loss: rounded(self.progress.loss / batches as f64),
            validation_loss: rounded(heads.iter().map(|head| head.loss).sum::<f64>() / heads.len() as f64),
            heads,
        };
        tell(&Event::Validated(&measured));
        let best = self.progress.history.iter().map(|epoch| epoch.validation_loss).fold(f64::INFINITY, f64::min);
        if measured.validation_loss < best {
            checkpoint::write_best(&self.options.out, &self.weights()?)?;
            self.progress.stale = 0;
        } else {
            self.progress.stale += 1;
        }
        self.progress.history.push(measured);
        Ok(())
    }

    fn step(&mut self, batch: &[usize]) -> Result<(f64, f64)> {
        let step = self.progress.steps;
        let mut random = ChaCha8Rng::seed_from_u64(self.options.seed);
        random.set_stream(1 + step as u64);
        let loss = batch_loss(&self.encoder, self.prepared, self.options, batch, Some(&mut random))?;
        let value = f64::from(loss.to_scalar::<f32>()?);
        let rise = rate(step, self.total, self.options.warm_up);
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
}

/// SHA-256 of the weights that training starts from, hexadecimal.
pub(super) fn base_digest(base: &Base) -> String {
    let mut hash = Sha256::new();
    for file in &base.weights {
        hash.update(file);
    }
    format!("{:x}", hash.finalize())
}

/// The loss of a batch that holds pairs alone, or single responses alone; with dropout where `random` is given.
pub(super) fn batch_loss(
    encoder: &TrainableEncoder,
    prepared: &Prepared,
    options: &Options,
    batch: &[usize],
    random: Option<&mut ChaCha8Rng>,
) -> Result<Tensor> {
    let items: Vec<_> = batch.iter().map(|index| &prepared.items[*index]).collect();
    let heads: Vec<usize> = items.iter().map(|item| item.head).collect();
    let weights = loss::vector(items.iter().map(|item| item.weight).collect())?;
    let (mut first, mut second, mut numbers) = (Vec::new(), Vec::new(), Vec::new());
    for item in &items {
        match item.said {
            Said::Liked { response, liked } => {
                first.push(response);
                numbers.push(f32::from(u8::from(liked)));
            }
            Said::Better { better, worse, margin } => {
                first.push(better);
                second.push(worse);
                numbers.push(margin);
            }
        }
    }
    let inputs: Vec<&Input> = first.iter().chain(&second).map(|index| &prepared.responses[*index].input).collect();
    let width = 2 * encoder.width();
    let keep = random.map(|random| encoder::keep(inputs.len(), width, options.dropout, random)).transpose()?;
    let logits = encoder.logits(&inputs, keep.as_ref())?;
    let numbers = loss::vector(numbers)?;
    if second.is_empty() {
        return encoder::loss(&loss::of_heads(&logits, &heads)?, &numbers, &weights);
    }
    let count = items.len();
    let better = loss::of_heads(&logits.narrow(0, 0, count)?, &heads)?;
    let worse = loss::of_heads(&logits.narrow(0, count, count)?, &heads)?;
    loss::preference(&better, &worse, &numbers, &weights, options.centring)
}
