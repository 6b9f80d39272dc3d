//! Operations with a backward pass of their own, for weights that stay as they are.
//!
//! Each computes its result beside the graph and is attached to it with a formula for the gradient of its one input:
//! frozen weights get no gradient, and nothing is kept that can be computed again.

use std::sync::{Arc, Mutex};

use candle_core::{CpuStorage, CustomOp1, Device, Layout, Result, Shape, Storage, Tensor};
use uptake_tagger::kernels;

/// From input, result and the result's gradient to the input's gradient; all without a graph.
type Backward = Box<dyn Fn(&Tensor, &Tensor, &Tensor) -> Result<Tensor> + Send + Sync>;

struct Attached {
    name: &'static str,
    /// Handed over in the forward pass, so that it is not kept twice.
    result: Mutex<Option<Tensor>>,
    backward: Backward,
}

impl CustomOp1 for Attached {
    fn name(&self) -> &'static str {
        self.name
    }

    fn cpu_fwd(&self, _: &CpuStorage, _: &Layout) -> Result<(CpuStorage, Shape)> {
        let result = self.result.lock().ok().and_then(|mut result| result.take());
        let Some(result) = result else { candle_core::bail!("{} is computed once", self.name) };
        Ok((CpuStorage::F32(values(&result)?), result.shape().clone()))
    }

    fn bwd(&self, argument: &Tensor, result: &Tensor, gradient: &Tensor) -> Result<Option<Tensor>> {
        (self.backward)(&argument.detach(), &result.detach(), &gradient.detach().contiguous()?).map(Some)
    }
}

/// Gives `result`, computed from `input` without a graph, its place in the graph.
pub(crate) fn attach(
    name: &'static str,
    input: &Tensor,
    result: Tensor,
    backward: impl Fn(&Tensor, &Tensor, &Tensor) -> Result<Tensor> + Send + Sync + 'static,
) -> Result<Tensor> {
    if !input.track_op() {
        return Ok(result);
    }
    input.apply_op1(Attached { name, result: Mutex::new(Some(result)), backward: Box::new(backward) })
}

/// The numbers of a tensor, row by row.
pub(crate) fn values(tensor: &Tensor) -> Result<Vec<f32>> {
    let tensor = tensor.contiguous()?;
    let (storage, layout) = tensor.storage_and_layout();
    match (&*storage, layout.contiguous_offsets()) {
        (Storage::Cpu(CpuStorage::F32(values)), Some((start, end))) => Ok(values[start..end].to_vec()),
        _ => candle_core::bail!("an f32 tensor on the processor is needed"),
    }
}

fn like(values: Vec<f32>, other: &Tensor) -> Result<Tensor> {
    Tensor::from_vec(values, other.shape(), &Device::Cpu)
}

/// `input · weightᵀ (+ bias)` for `input` `[rows, in]` and a frozen `weight` `[out, in]`.
pub(crate) fn frozen_product(input: &Tensor, weight: &Tensor, bias: Option<&Tensor>) -> Result<Tensor> {
    let mut product = input.detach().matmul(&weight.t()?)?;
    if let Some(bias) = bias {
        product = product.broadcast_add(bias)?;
    }
    let weight = weight.clone();
    attach("frozen-product", input, product, move |_, _, gradient| gradient.matmul(&weight))
}

/// Root mean square normalisation of the last dimension by a frozen `gain`.
pub(crate) fn normalise(input: &Tensor, gain: &Tensor, epsilon: f32) -> Result<Tensor> {
    let gain: Arc<[f32]> = values(gain)?.into();
    let width = gain.len();
    let inverse = move |row: &[f32]| 1.0 / (kernels::sum_of(row, |x| x * x) / row.len() as f32 + epsilon).sqrt();
    let mut result = values(&input.detach())?;
    for row in result.chunks_exact_mut(width) {
        let inverse = inverse(row);
        for (value, gain) in row.iter_mut().zip(&*gain) {
            *value = gain * (*value * inverse);
        }
    }
    attach("normalise", input, like(result, input)?, move |input, _, gradient| {
        let inputs = values(input)?;
        let mut result = values(gradient)?;
        for (row, input) in result.chunks_exact_mut(width).zip(inputs.chunks_exact(width)) {
            for (value, gain) in row.iter_mut().zip(&*gain) {
                *value *= gain;
            }
            let inverse = inverse(input);
            let along = kernels::sum_of_pairs(row, input, |x, y| x * y) / width as f32 * inverse * inverse;
            for (value, input) in row.iter_mut().zip(input) {
                *value = inverse * (*value - input * along);
            }
        }
        like(result, input)
    })
}

/// Cosines and sines of the rotary position embedding, half a head wide, a row per token.
#[derive(Clone, Debug)]
pub(crate) struct Rotation {
    half: usize,
    cosines: Arc<[f32]>,
    sines: Arc<[f32]>,
}

impl Rotation {
    /// For tokens at these positions.
    pub(crate) fn new(positions: &[u32], head_width: usize, theta: f32) -> Self {
        let half = head_width / 2;
        let frequencies: Vec<f32> = (0..half).map(|at| 1.0 / theta.powf((2 * at) as f32 / head_width as f32)).collect();
        let angles = || positions.iter().flat_map(|at| frequencies.iter().map(move |f| *at as f32 * f));
        Self { half, cosines: angles().map(f32::cos).collect(), sines: angles().map(f32::sin).collect() }
    }

    /// Turns each head of each token, forward or (`sign` −1) back.
    pub(crate) fn turn(&self, values: &mut [f32], tokens: usize, sign: f32) {
        let row = values.len() / tokens.max(1);
        let angles = self.cosines.chunks_exact(self.half).zip(self.sines.chunks_exact(self.half));
        for (token, (cosines, sines)) in values.chunks_exact_mut(row.max(1)).zip(angles) {
            for head in token.chunks_exact_mut(2 * self.half) {
                let (left, right) = head.split_at_mut(self.half);
                for ((left, right), (cosine, sine)) in left.iter_mut().zip(right).zip(cosines.iter().zip(sines)) {
                    let sine = sign * sine;
                    (*left, *right) = (*left * cosine - *right * sine, *right * cosine + *left * sine);
                }
            }
        }
    }
}

/// Rotates `[tokens, heads · head_width]` by the tokens' positions (Su et al. 2021; halves, not pairs).
pub(crate) fn rotate(input: &Tensor, rotation: &Rotation) -> Result<Tensor> {
    let tokens = input.dim(0)?;
    let mut result = values(&input.detach())?;
    rotation.turn(&mut result, tokens, 1.0);
    let rotation = rotation.clone();
    attach("rotate", input, like(result, input)?, move |input, _, gradient| {
        let mut result = values(gradient)?;
        rotation.turn(&mut result, tokens, -1.0);
        like(result, input)
    })
}

/// Softmax over the last dimension of `[…, tokens, tokens]`, where a token sees itself and those before it.
pub(crate) fn causal_softmax(scores: &Tensor) -> Result<Tensor> {
    let tokens = scores.dim(candle_core::D::Minus1)?;
    let mut result = values(&scores.detach())?;
    for (row, scores) in result.chunks_exact_mut(tokens).enumerate() {
        let (seen, later) = scores.split_at_mut(row % tokens + 1);
        kernels::softmax(seen);
        later.fill(0.0);
    }
    attach("causal-softmax", scores, like(result, scores)?, move |_, result, gradient| {
        let weights = values(result)?;
        let mut gradients = values(gradient)?;
        for (row, weights) in gradients.chunks_exact_mut(tokens).zip(weights.chunks_exact(tokens)) {
            let mean = kernels::sum_of_pairs(row, weights, |x, y| x * y);
            for (value, weight) in row.iter_mut().zip(weights) {
                *value = weight * (*value - mean);
            }
        }
        like(gradients, result)
    })
}

/// Log-probability of a target at each state, and how many targets are the likeliest token.
#[derive(Debug)]
pub(crate) struct TokenScores {
    /// `[states]`
    pub(crate) logps: Tensor,
    pub(crate) correct: usize,
}

/// States whose logits are held at a time: the vocabulary is wide.
const CHUNK: usize = 128;

/// Log-probabilities of `targets` after `states` `[rows, width]` by the frozen output matrix `[vocabulary, width]`.
///
/// The logits are never all there at once; the backward pass computes them again.
pub(crate) fn token_scores(states: &Tensor, output: &Tensor, targets: &[u32]) -> Result<TokenScores> {
    let vocabulary = output.dim(0)?;
    let detached = states.detach();
    let mut logps = Vec::with_capacity(targets.len());
    let mut correct = 0;
    for (start, targets) in chunks(targets) {
        let logits = values(&detached.narrow(0, start, targets.len())?.matmul(&output.t()?)?)?;
        for (row, target) in logits.chunks_exact(vocabulary).zip(targets) {
            let largest = row.iter().copied().fold(f32::NEG_INFINITY, f32::max);
            let Some(logit) = row.get(*target as usize) else {
                candle_core::bail!("token {target} is outside of the vocabulary of {vocabulary}")
            };
            let sum: f64 = row.iter().map(|logit| f64::from((logit - largest).exp())).sum();
            #[expect(clippy::cast_possible_truncation, reason = "log-probabilities are of single precision")]
            logps.push((f64::from(logit - largest) - sum.ln()) as f32);
            correct += usize::from(*logit >= largest);
        }
    }
    let result = Tensor::from_vec(logps, targets.len(), &Device::Cpu)?;
    let (output, targets) = (output.clone(), targets.to_vec());
    let logps = attach("token-scores", states, result, move |states, _, gradient| {
        let factors = values(gradient)?;
        let mut parts = Vec::new();
        for (start, targets) in chunks(&targets) {
            let logits = states.narrow(0, start, targets.len())?.matmul(&output.t()?)?;
            let mut slopes = values(&logits)?;
            drop(logits);
            for ((row, target), factor) in slopes.chunks_exact_mut(vocabulary).zip(targets).zip(&factors[start..]) {
                kernels::softmax(row);
                for value in row.iter_mut() {
                    *value *= -factor;
                }
                row[*target as usize] += factor;
            }
            let slopes = Tensor::from_vec(slopes, (targets.len(), vocabulary), &Device::Cpu)?;
            parts.push(slopes.matmul(&output)?);
        }
        Tensor::cat(&parts, 0)
    })?;
    Ok(TokenScores { logps, correct })
}

fn chunks(targets: &[u32]) -> impl Iterator<Item = (usize, &[u32])> {
    targets.chunks(CHUNK).enumerate().map(|(at, chunk)| (at * CHUNK, chunk))
}

#[cfg(test)]
mod tests {
    use candle_core::{D, Var};
    use candle_nn::ops;
    use rand::{Rng, SeedableRng};
    use rand_chacha::ChaCha8Rng;

    use super::*;

    fn random(seed: u64, shape: &[usize]) -> Tensor {
        let mut random = ChaCha8Rng::seed_from_u64(seed);
        let values: Vec<f32> = (0..shape.iter().product()).map(|_| random.random_range(-2.0..2.0)).collect();
        Tensor::from_vec(values, shape, &Device::Cpu).unwrap()
    }

    fn distance(left: &Tensor, right: &Tensor) -> f32 {
        (left - right).unwrap().abs().unwrap().flatten_all().unwrap().max(0).unwrap().to_scalar().unwrap()
    }

    /// Ours and candle's plain operations: the same values, and the same gradient of the input.
    #[track_caller]
    fn check(input: &Tensor, ours: impl Fn(&Tensor) -> Result<Tensor>, plain: impl Fn(&Tensor) -> Result<Tensor>) {
        let input = Var::from_tensor(input).unwrap();
        let (ours, plain) = (ours(&input).unwrap(), plain(&input).unwrap());
        assert!(distance(&ours, &plain) < 2e-5, "{}", distance(&ours, &plain));
        let factor = random(99, ours.dims());
        let gradient = |result: &Tensor| {
            let gradients = (result * &factor).unwrap().sum_all().unwrap().backward().unwrap();
            gradients.get(&input).unwrap().clone()
        };
        let (ours, plain) = (gradient(&ours), gradient(&plain));
        assert!(distance(&ours, &plain) < 2e-5, "{}", distance(&ours, &plain));
    }

    #[test]
    fn frozen_products_are_products_without_a_gradient_of_the_weight() {
        let (input, weight, bias) = (random(1, &[5, 12]), random(2, &[7, 12]), random(3, &[7]));
        check(&input, |x| frozen_product(x, &weight, Some(&bias)), |x| x.matmul(&weight.t()?)?.broadcast_add(&bias));
        let input = Var::from_tensor(&input).unwrap();
        let weight = Var::from_tensor(&weight).unwrap();
        let gradients = frozen_product(&input, &weight, None).unwrap().sum_all().unwrap().backward().unwrap();
        assert!(gradients.get(&weight).is_none() && gradients.get(&input).is_some());
    }

    #[test]
    fn normalise_is_candles() {
        let gain = random(4, &[24]);
        check(&random(5, &[6, 24]), |x| normalise(x, &gain, 1e-5), |x| ops::rms_norm_slow(x, &gain, 1e-5));
    }

    #[test]
    fn rotate_is_candles() {
        let (tokens, heads, width) = (5, 3, 8);
        let rotation = Rotation::new(&[0, 1, 2, 3, 4], width, 1000.0);
        let table = |values: &[f32]| Tensor::from_slice(values, (tokens, width / 2), &Device::Cpu).unwrap();
        let (cosines, sines) = (table(&rotation.cosines), table(&rotation.sines));
        check(
            &random(6, &[tokens, heads * width]),
            |x| rotate(x, &rotation),
            |x| {
                let heads_first = x.reshape((1, tokens, heads, width))?.transpose(1, 2)?.contiguous()?;
                let turned = candle_nn::rotary_emb::rope_slow(&heads_first, &cosines, &sines)?;
                turned.transpose(1, 2)?.reshape((tokens, heads * width))
            },
        );
    }

    #[test]
    fn causal_softmax_sees_nothing_later() {
        let mask = Tensor::tril2(6, candle_core::DType::F32, &Device::Cpu).unwrap();
        let mask = ((mask - 1.0).unwrap() * 1e9).unwrap();
        check(&random(7, &[2, 6, 6]), causal_softmax, |x| ops::softmax(&x.broadcast_add(&mask)?, D::Minus1));
        let first = causal_softmax(&random(8, &[1, 6, 6])).unwrap().to_vec3::<f32>().unwrap();
        assert_eq!(first[0][0], [1.0, 0.0, 0.0, 0.0, 0.0, 0.0]);
    }

    #[test]
    fn token_scores_are_a_log_softmax_over_chunks() {
        let (rows, width, vocabulary) = (CHUNK + 9, 6, 11);
        let output = random(9, &[vocabulary, width]);
        let targets: Vec<u32> = (0..11).cycle().take(rows).collect();
        let states = random(10, &[rows, width]);
        let index = Tensor::from_slice(&targets, (rows, 1), &Device::Cpu).unwrap();
        check(
            &states,
            |x| Ok(token_scores(x, &output, &targets)?.logps),
            |x| ops::log_softmax(&x.matmul(&output.t()?)?, D::Minus1)?.gather(&index, 1)?.squeeze(1),
        );
        let likeliest = states.matmul(&output.t().unwrap()).unwrap().argmax(1).unwrap().to_vec1::<u32>().unwrap();
        assert_eq!(token_scores(&states, &output, &likeliest).unwrap().correct, rows);
        assert!(token_scores(&states, &output, &vec![11; rows]).is_err());
    }
}
