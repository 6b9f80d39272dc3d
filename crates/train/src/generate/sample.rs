//! The next token out of logits.

use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use serde::Serialize;
use sha2::{Digest, Sha256};
use uptake_tagger::kernels;

use super::spelling::Held;
use crate::error::{Error, Result};

/// How tokens are drawn.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Sampling {
    /// Logits are divided by it; at 0 the likeliest token is taken.
    pub temperature: f64,
    /// Of the likeliest tokens, as few as have this probability together are drawn from.
    pub top_p: f64,
    /// So many of the likeliest tokens are drawn from at most; 0 for all.
    pub top_k: usize,
    /// Of all draws.
    pub seed: u64,
}

impl Sampling {
    /// What cannot be drawn by.
    pub(super) fn check(&self) -> Result<()> {
        if !(self.temperature.is_finite() && self.temperature >= 0.0) {
            return Err(Error::Invalid("the temperature must be 0 or above".to_owned()));
        }
        if !(self.top_p > 0.0 && self.top_p <= 1.0) {
            return Err(Error::Invalid("top-p must be above 0 and at most 1".to_owned()));
        }
        Ok(())
    }
}

/// Draws the tokens of one answer: what is drawn depends on seed, id and number of the sample alone.
#[derive(Debug)]
pub(super) struct Sampler {
    sampling: Sampling,
    random: ChaCha8Rng,
}

impl Sampler {
    pub(super) fn new(sampling: Sampling, id: &str, sample: usize) -> Self {
        let mut hash = Sha256::new();
        hash.update(sampling.seed.to_le_bytes());
        hash.update((sample as u64).to_le_bytes());
        hash.update(id);
        Self { sampling, random: ChaCha8Rng::from_seed(hash.finalize().into()) }
    }

    /// The next token.
    ///
    /// # Errors
    /// [`Error::Invalid`] where the logits are no numbers.
    pub(super) fn next(&mut self, logits: &[f32]) -> Result<u32> {
        let best = likeliest(logits);
        if !logits.get(best).is_some_and(|logit| logit.is_finite()) {
            return Err(Error::Invalid("the model gives a logit that is no number: its weights are broken".to_owned()));
        }
        let drawn = if self.sampling.temperature > 0.0 { self.draw(logits) } else { best };
        u32::try_from(drawn).map_err(|_| Error::Bug("a vocabulary is too large".to_owned()))
    }

    /// The next token of an answer that is held to a shape.
    ///
    /// # Errors
    /// [`Error::Invalid`] where the logits are no numbers, or no token may come.
    pub(super) fn next_held(&mut self, logits: &[f32], held: &Held) -> Result<u32> {
        let best = held.likeliest(logits)?;
        if self.sampling.temperature <= 0.0 {
            return Ok(best);
        }
        let masked = held.masked(logits);
        let drawn = self.draw(&masked);
        // The softmax leaves a trace of a chance to what has none.
        let may = masked.get(drawn).is_some_and(|logit| logit.is_finite());
        if may {
            u32::try_from(drawn).map_err(|_| Error::Bug("a vocabulary is too large".to_owned()))
        } else {
            Ok(best)
        }
    }

    fn draw(&mut self, logits: &[f32]) -> usize {
        let mut weights: Vec<f32> = logits.iter().map(|logit| scaled(*logit, self.sampling.temperature)).collect();
        kernels::vectorised(
            #[inline(always)]
            || kernels::softmax(&mut weights),
        );
        let point: f64 = self.random.random();
        let all = self.sampling.top_k == 0 || self.sampling.top_k >= weights.len();
        if all && self.sampling.top_p >= 1.0 {
            return at(point, (0..weights.len()).map(|token| (token, f64::from(weights[token]))));
        }
        let kept = kept(&weights, self.sampling);
        at(point, kept.into_iter().map(|token| (token, f64::from(weights[token]))))
    }
}

#[expect(clippy::cast_possible_truncation, reason = "logits are of single precision")]
fn scaled(logit: f32, temperature: f64) -> f32 {
    (f64::from(logit) / temperature) as f32
}

/// The first of the tokens with the highest logit.
fn likeliest(logits: &[f32]) -> usize {
    let mut best = 0;
    for (token, logit) in logits.iter().enumerate() {
        if *logit > logits[best] || logits[best].is_nan() {
            best = token;
        }
    }
    best
}

/// The token in whose share `point` lies, of weights that are given in proportion.
fn at(point: f64, weights: impl Iterator<Item = (usize, f64)> + Clone) -> usize {
    let total: f64 = weights.clone().map(|(_, weight)| weight).sum();
    let mut rest = point * total;
    let mut last = 0;
    for (token, weight) in weights.filter(|(_, weight)| *weight > 0.0) {
        last = token;
        if rest < weight {
            break;
        }
        rest -= weight;
    }
    last
}

/// Tokens that are drawn from, the likeliest first: `top_k` of them at most, then as few of these as have `top_p` of their
/// probability.
fn kept(weights: &[f32], sampling: Sampling) -> Vec<usize> {
    let most = if sampling.top_k == 0 { weights.len() } else { sampling.top_k.min(weights.len()) };
    let order = |left: &usize, right: &usize| weights[*right].total_cmp(&weights[*left]).then(left.cmp(right));
    let mut tokens: Vec<usize> = (0..weights.len()).collect();
    // To sort the whole vocabulary would cost as much as the model itself: nearly always a few tokens have the mass.
    let mut sorted = 0;
    let mut chunk = 128.min(most);
    let total: f64 = if most == weights.len() {
        weights.iter().map(|weight| f64::from(*weight)).sum()
    } else {
        chunk = most;
        f64::NAN
    };
    let (mut mass, mut total) = (0.0, total);
    while sorted < most {
        let end = (sorted + chunk).min(most);
        let rest = &mut tokens[sorted..];
        if end - sorted < rest.len() {
            let _ = rest.select_nth_unstable_by(end - sorted, order);
        }
        rest[..end - sorted].sort_unstable_by(order);
        if total.is_nan() {
            total = tokens[..most].iter().map(|token| f64::from(weights[*token])).sum();
        }
        for at in sorted..end {
            mass += f64::from(weights[tokens[at]]);
            if mass >= sampling.top_p * total {
                tokens.truncate(at + 1);
                return tokens;
            }
        }
        (sorted, chunk) = (end, chunk * 4);
    }
    tokens.truncate(most);
    tokens
}

#[cfg(test)]
mod tests {
    use super::*;

    const PLAIN: Sampling = Sampling { temperature: 1.0, top_p: 1.0, top_k: 0, seed: 7 };

    fn logits(probabilities: &[f32]) -> Vec<f32> {
        probabilities.iter().map(|probability| probability.ln()).collect()
    }

    #[test]
    fn as_few_tokens_as_have_the_mass_are_kept() {
        let weights = [0.1, 0.4, 0.05, 0.25, 0.2];
        let kept = |top_p, top_k| kept(&weights, Sampling { top_p, top_k, ..PLAIN });
        assert_eq!(kept(1.0, 0), [1, 3, 4, 0, 2]);
        assert_eq!(kept(0.3, 0), [1]);
        assert_eq!(kept(0.41, 0), [1, 3]);
        assert_eq!(kept(0.64, 0), [1, 3]);
        assert_eq!(kept(0.66, 0), [1, 3, 4]);
        assert_eq!(kept(1e-9, 0), [1], "one stays always");
        // The mass is that of those which the number left over, as in transformers.
        assert_eq!(kept(1.0, 2), [1, 3]);
        assert_eq!(kept(0.61, 2), [1]);
        assert_eq!(kept(0.62, 2), [1, 3]);
        let flat = [0.25; 4];
        assert_eq!(super::kept(&flat, Sampling { top_p: 0.5, ..PLAIN }), [0, 1], "equals go by their number");
    }

    #[test]
    fn a_wide_vocabulary_is_cut_as_if_it_were_sorted() {
        let raw: Vec<f32> = (0_u32..5000).map(|at| (at.wrapping_mul(2_654_435_761) % 977 + 1) as f32).collect();
        let total: f32 = raw.iter().sum();
        let weights: Vec<f32> = raw.iter().map(|weight| weight / total).collect();
        let mut sorted: Vec<usize> = (0..weights.len()).collect();
        sorted.sort_by(|left, right| weights[*right].total_cmp(&weights[*left]).then(left.cmp(right)));
        for top_p in [0.01, 0.2, 0.7, 0.999] {
            let kept = kept(&weights, Sampling { top_p, ..PLAIN });
            assert_eq!(kept, sorted[..kept.len()]);
            let mass = |count: usize| sorted[..count].iter().map(|token| f64::from(weights[*token])).sum::<f64>();
            assert!(mass(kept.len()) >= top_p - 1e-6 && mass(kept.len() - 1) < top_p + 1e-6, "{top_p}");
        }
    }

    #[test]
    fn draws_are_as_frequent_as_the_probabilities() {
        let shares = [0.5, 0.2, 0.25, 0.05];
        let logits = logits(&shares);
        let frequencies = |sampling: Sampling| {
            let mut sampler = Sampler::new(sampling, "a", 0);
            let mut counts = [0.0; 4];
            for _ in 0..20_000 {
                counts[sampler.next(&logits).unwrap() as usize] += 1.0 / 20_000.0;
            }
            counts
        };
        let near = |found: [f64; 4], expected: [f64; 4]| {
            let far = found.iter().zip(expected).any(|(found, expected)| (found - expected).abs() > 0.02);
            assert!(!far, "{found:?} {expected:?}");
        };
        near(frequencies(PLAIN), shares.map(f64::from));
        near(frequencies(Sampling { top_p: 0.7, ..PLAIN }), [2.0 / 3.0, 0.0, 1.0 / 3.0, 0.0]);
        near(frequencies(Sampling { top_k: 1, ..PLAIN }), [1.0, 0.0, 0.0, 0.0]);
        // Twice the temperature: square roots, in proportion.
        let roots = shares.map(|share| f64::from(share).sqrt());
        let total: f64 = roots.iter().sum();
        near(frequencies(Sampling { temperature: 2.0, ..PLAIN }), roots.map(|root| root / total));
        near(frequencies(Sampling { temperature: 0.0, ..PLAIN }), [1.0, 0.0, 0.0, 0.0]);
    }

    #[test]
    fn draws_depend_on_seed_id_and_sample() {
        let logits = vec![0.0; 1000];
        let drawn = |seed, id, sample| {
            let mut sampler = Sampler::new(Sampling { seed, ..PLAIN }, id, sample);
            (0..8).map(|_| sampler.next(&logits).unwrap()).collect::<Vec<_>>()
        };
        let one = drawn(1, "a", 0);
        assert_eq!(one, drawn(1, "a", 0));
        for other in [drawn(2, "a", 0), drawn(1, "b", 0), drawn(1, "a", 1)] {
            assert_ne!(one, other);
        }
    }

    #[test]
    fn what_cannot_be_drawn_by_is_refused() {
        for wrong in [
            Sampling { temperature: -1.0, ..PLAIN },
            Sampling { temperature: f64::NAN, ..PLAIN },
            Sampling { top_p: 0.0, ..PLAIN },
            Sampling { top_p: 1.1, ..PLAIN },
        ] {
            assert!(wrong.check().is_err(), "{wrong:?}");
        }
        let mut sampler = Sampler::new(PLAIN, "a", 0);
        assert!(sampler.next(&[f32::NAN, f32::NAN]).is_err());
        assert!(sampler.next(&[f32::NAN, f32::INFINITY]).is_err());
    }
}
