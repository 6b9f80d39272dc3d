//! The loop: what the reference says, losses, gradients, steps, checkpoints.

use std::collections::BTreeMap;
use std::time::Instant;

use candle_core::Tensor;
use candle_core::backprop::GradStore;

use super::batches::{self, MicroBatch, Order};
use super::chat::Sequence;
use super::checkpoint::{self, Place};
use super::loss::{Method, Scored, Tally};
use super::{Event, Metrics, Options};
use crate::adamw::{AdamW, Rates, Settings};
use crate::decoder::{Decoder, Packed, Weights};
use crate::error::{Error, Result};

/// What the reference says of a micro-batch: log-probabilities of its answers and of the mismatched ones.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Reference {
    pub(crate) answers: Vec<f32>,
    pub(crate) mismatched: Vec<f32>,
}

/// Where the answers' tokens are predicted in a packed batch.
struct Places {
    at: Vec<u32>,
    targets: Vec<u32>,
    /// Start and number of each answer's tokens among them.
    spans: Vec<(usize, usize)>,
}

impl Places {
    fn new(sequences: &[Sequence]) -> Result<Self> {
        let mut found = Self { at: Vec::new(), targets: Vec::new(), spans: Vec::new() };
        let mut start = 0_usize;
        for sequence in sequences {
            let answer = sequence.answer();
            found.spans.push((found.targets.len(), answer.len()));
            found.targets.extend_from_slice(answer);
            for at in sequence.prompt..sequence.tokens.len() {
                let place = u32::try_from(start + at - 1).map_err(|error| Error::Bug(error.to_string()))?;
                found.at.push(place);
            }
            start += sequence.tokens.len();
        }
        Ok(found)
    }

    /// Log-probability of each answer, and how many of all tokens are the likeliest.
    fn sums(&self, decoder: &Decoder, states: &Tensor) -> Result<(Tensor, usize)> {
        let scores = decoder.token_scores(states, &self.at, &self.targets)?;
        let sums = self.spans.iter().map(|(start, count)| scores.logps.narrow(0, *start, *count)?.sum_all());
        Ok((Tensor::stack(&sums.collect::<candle_core::Result<Vec<_>>>()?, 0)?, scores.correct))
    }
}

fn packed(decoder: &Decoder, sequences: &[Sequence]) -> Result<Packed> {
    let tokens: Vec<&[u32]> = sequences.iter().map(|sequence| sequence.tokens.as_slice()).collect();
    Packed::new(&tokens, decoder.config())
}

/// Log-probabilities of answers, without a graph.
pub(crate) fn score(decoder: &Decoder, sequences: &[Sequence], weights: Weights) -> Result<Vec<f32>> {
    if sequences.is_empty() {
        return Ok(Vec::new());
    }
    let states = decoder.states(&packed(decoder, sequences)?, weights)?;
    Ok(Places::new(sequences)?.sums(decoder, &states)?.0.to_vec1()?)
}

/// What the base model says of a micro-batch.
pub(crate) fn refer(decoder: &Decoder, batch: &MicroBatch) -> Result<Reference> {
    Ok(Reference {
        answers: score(decoder, &batch.sequences, Weights::Base)?,
        mismatched: score(decoder, &batch.mismatched, Weights::Base)?,
    })
}

/// Gradients of a step over several micro-batches, and what was measured.
pub(crate) fn gradients(
    decoder: &Decoder,
    method: Method,
    step: &[(&MicroBatch, &Reference)],
) -> Result<(GradStore, Metrics)> {
    let tokens: usize = step.iter().map(|(batch, _)| batch.answer_tokens()).sum();
    // The mean goes over the micro-batches of a step, for imitation over its tokens, as in TRL.
    let share = match method {
        Method::Sft => 1.0 / tokens as f64,
        Method::Dpo { .. } | Method::Kto { .. } => 1.0 / step.len() as f64,
    };
    let mut all = GradStore::default();
    let mut tally = Tally::default();
    let mut total = 0.0;
    for (batch, reference) in step {
        let divergence = divergence(decoder, batch, reference)?;
        let places = Places::new(&batch.sequences)?;
        let ((loss, part), found) = decoder.gradients(&packed(decoder, &batch.sequences)?, |states| {
            let (policy, correct) = places.sums(decoder, states)?;
            let scored = Scored { policy: &policy, reference: &reference.answers, liked: &batch.liked, divergence };
            let (loss, mut part) = method.loss(&scored)?;
            if method == Method::Sft {
                part.add("mean_token_accuracy", correct as f64, batch.answer_tokens() as f64);
            }
            let loss = (loss * share)?;
            let value = f64::from(loss.to_scalar::<f32>()?);
            Ok((loss, (value, part)))
        })?;
        total += loss;
        tally.merge(&part);
        all.extend(found)?;
    }
    let mut metrics = tally.means();
    let _ = metrics.insert("loss", total);
    Ok((all, metrics))
}

/// KTO's reference point.
fn divergence(decoder: &Decoder, batch: &MicroBatch, reference: &Reference) -> Result<f64> {
    if batch.mismatched.is_empty() {
        return Ok(0.0);
    }
    let policy = score(decoder, &batch.mismatched, Weights::Adapted)?;
    let sum: f64 = policy.iter().zip(&reference.mismatched).map(|(own, base)| f64::from(own - base)).sum();
    Ok((sum / policy.len() as f64).max(0.0))
}

/// Factor of the learning rate: a straight line from 0 up to 1, then half a cosine down to 0, as transformers has it.
pub(crate) fn rate(step: usize, total: usize, warm_up: f64) -> f64 {
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a part of the steps")]
    let rising = (warm_up * total as f64).ceil() as usize;
    if step < rising {
        return step as f64 / rising as f64;
    }
    let progress = (step - rising) as f64 / (total.saturating_sub(rising)).max(1) as f64;
    (0.5 * (1.0 + (std::f64::consts::PI * progress).cos())).max(0.0)
}

/// A run between two steps.
#[derive(Debug)]
pub(crate) struct Run<'a> {
    options: &'a Options,
    pub(crate) decoder: Decoder,
    order: Order,
    batches: Vec<MicroBatch>,
    optimiser: AdamW,
    place: Place,
    /// Steps in all.
    pub(crate) total: usize,
    /// Steps done.
    pub(crate) steps: usize,
}

impl<'a> Run<'a> {
    /// A fresh run, or the one whose checkpoint is there; `origin` is what the weights came from.
    pub(crate) fn new(
        options: &'a Options,
        decoder: Decoder,
        order: Order,
        batches: Vec<MicroBatch>,
        origin: &[&[u8]],
    ) -> Result<Self> {
        let all = options.epochs * order.steps_per_epoch(batches.len());
        let total = options.max_steps.map_or(all, |most| most.min(all));
        let settings = Settings { decay: options.weight_decay, clip: options.clip, layer_decay: 1.0 };
        let mut optimiser = AdamW::new(decoder.parameters(), settings);
        let place = Place::new(options, &batches::hash(&batches), origin)?;
        let steps = place.take_up(&decoder, &mut optimiser)?;
        Ok(Self { options, decoder, order, batches, optimiser, place, total, steps })
    }

    /// Weights that move.
    pub(crate) fn parameters(&self) -> usize {
        self.decoder.parameters().values().map(|var| var.elem_count()).sum()
    }

    fn references(&self, tell: &mut dyn FnMut(&Event<'_>)) -> Result<Vec<Reference>> {
        if !self.options.method.has_reference() {
            return Ok(vec![Reference::default(); self.batches.len()]);
        }
        if let Some(stored) = self.place.references(&self.batches)? {
            return Ok(stored);
        }
        let mut references = Vec::with_capacity(self.batches.len());
        for batch in &self.batches {
            let reference = refer(&self.decoder, batch)?;
            if reference.answers.iter().chain(&reference.mismatched).any(|logp| !logp.is_finite()) {
                return Err(Error::Invalid(
                    "the base model gives a log-probability that is no number: its weights are broken".to_owned(),
                ));
            }
            references.push(reference);
            tell(&Event::Reference { done: references.len(), total: self.batches.len() });
        }
        self.place.keep_references(&references)?;
        Ok(references)
    }

    /// Trains from where the last checkpoint left it.
    pub(crate) fn train(&mut self, tell: &mut dyn FnMut(&Event<'_>)) -> Result<()> {
        let references = self.references(tell)?;
        let mut log = self.place.log(self.steps)?;
        let mut seen: usize = self.seen();
        while self.steps < self.total {
            let started = Instant::now();
            let chosen = self.order.step(self.steps, self.batches.len());
            let step: Vec<_> = chosen.iter().map(|at| (&self.batches[*at], &references[*at])).collect();
            let (gradients, mut metrics) = gradients(&self.decoder, self.options.method, &step)?;
            let rate = self.options.learning_rate * rate(self.steps, self.total, self.options.warm_up);
            let norm = self.optimiser.step(&gradients, Rates { encoder: rate, head: rate })?;
            let norm = match norm {
                Some(norm) if metrics.values().all(|value| value.is_finite()) => norm,
                _ => return Err(Error::Diverged { step: self.steps }),
            };
            let tokens = step.iter().map(|(batch, _)| batch.tokens()).sum();
            seen += tokens;
            self.steps += 1;
            let epoch = self.steps as f64 / self.order.steps_per_epoch(self.batches.len()) as f64;
            metrics.extend([
                ("num_tokens", seen as f64),
                ("grad_norm", norm),
                ("learning_rate", rate),
                ("epoch", epoch),
            ]);
            log.push(self.steps, &metrics)?;
            tell(&Event::Step {
                step: self.steps,
                metrics: &metrics,
                tokens,
                seconds: started.elapsed().as_secs_f64(),
            });
            if self.steps.is_multiple_of(self.options.checkpoint_steps) || self.steps == self.total {
                self.place.write(&self.decoder, &self.optimiser, self.steps)?;
            }
        }
        Ok(())
    }

    /// Tokens that have passed through the model.
    fn seen(&self) -> usize {
        let count = self.batches.len();
        let steps = self.order.steps_per_epoch(count);
        let tokens = |at: usize| self.batches[at].tokens();
        let current = self.order.pass(self.steps / steps, count).into_iter();
        let current: usize = current.take(self.steps % steps * self.options.accumulate).map(tokens).sum();
        self.steps / steps * (0..count).map(tokens).sum::<usize>() + current
    }

    /// Metrics of the first and of the last step, as they were logged.
    pub(crate) fn ends(&self) -> Result<(BTreeMap<String, f64>, BTreeMap<String, f64>)> {
        checkpoint::ends(&self.options.out)
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::float_cmp, reason = "what is compared is exact")]

    use super::*;

    #[test]
    fn the_rate_is_that_of_transformers() {
        // `get_cosine_schedule_with_warmup(warmup 2, total 10)`
        let expected =
            [0.0, 0.5, 1.0, 0.961_939_8, 0.853_553_4, 0.691_341_7, 0.5, 0.308_658_3, 0.146_446_6, 0.038_060_2];
        for (step, expected) in expected.into_iter().enumerate() {
            assert!((rate(step, 10, 0.15) - expected).abs() < 1e-6, "{step}: {}", rate(step, 10, 0.15));
        }
        assert_eq!(rate(0, 10, 0.0), 1.0);
    }

    #[test]
    fn an_answer_is_predicted_from_the_token_before_it() {
        let sequence = |tokens: &[u32], prompt| Sequence { tokens: tokens.to_vec(), prompt };
        let places = Places::new(&[sequence(&[1, 2, 3, 4], 2), sequence(&[5, 6, 7], 1)]).unwrap();
        assert_eq!((places.at, places.targets), (vec![1, 2, 4, 5], vec![3, 4, 6, 7]));
        assert_eq!(places.spans, [(0, 2), (2, 2)]);
    }
}
