//! The encoder in operations that have a backward pass.
//!
//! candle's fused layer normalisation and softmax return tensors without a graph, silently: a model built of them trains
//! nothing but its head. This one is built of plain operations and of [`crate::fused`] ones, on padded batches, and
//! computes what [`uptake_tagger::Encoder`] computes on packed ones.

use std::collections::{BTreeMap, HashMap};

use candle_core::{DType, Device, Tensor, Var};
use rand::Rng;
use rand_chacha::ChaCha8Rng;
use uptake_model::labels::OUTPUTS;
use uptake_tagger::{EncoderConfig, Input};

use crate::error::{Error, Result};
use crate::fused;

/// Standard deviation of a fresh head's weights.
const HEAD_DEVIATION: f32 = 0.02;
/// Added to attention scores of padding.
const MASKED: f32 = -1e9;

mod modern;

/// An encoder of BERT's kind and its head, with weights that can be moved.
#[derive(Debug)]
pub(crate) struct TrainableEncoder {
    config: EncoderConfig,
    /// By Hugging Face's names; sorted, so that sums over all weights are the same in each run.
    weights: BTreeMap<String, Var>,
}

impl TrainableEncoder {
    /// Takes the weights of a pretrained encoder; a head of `outputs` that is not among them is drawn from `random`.
    pub(crate) fn new(
        config: EncoderConfig,
        outputs: usize,
        pretrained: &HashMap<String, Tensor>,
        random: &mut ChaCha8Rng,
    ) -> Result<Self> {
        let mut weights = BTreeMap::new();
        for (name, shape) in config.weight_shapes(outputs) {
            let tensor = match EncoderConfig::find(pretrained, &name) {
                Some(tensor) => tensor.to_dtype(DType::F32)?,
                None if name.starts_with("classifier.") => fresh_head(&name, &shape, random)?,
                None => return Err(Error::Invalid(format!("the base encoder has no weight `{name}`"))),
            };
            if tensor.dims() != shape {
                return Err(Error::Invalid(format!(
                    "the base encoder's `{name}` has shape {:?}, its config.json asks for {shape:?}",
                    tensor.dims()
                )));
            }
            let _ = weights.insert(name, Var::from_tensor(&tensor)?);
        }
        Ok(Self { config, weights })
    }

    pub(crate) const fn config(&self) -> &EncoderConfig {
        &self.config
    }

    /// Width of a token's state.
    pub(crate) const fn width(&self) -> usize {
        self.config.hidden_size
    }

    pub(crate) fn weights(&self) -> &BTreeMap<String, Var> {
        &self.weights
    }

    /// The weights as plain tensors that share their storage.
    pub(crate) fn tensors(&self) -> HashMap<String, Tensor> {
        self.weights.iter().map(|(name, var)| (name.clone(), var.as_detached_tensor())).collect()
    }

    /// Logits `[inputs, outputs]`. `keep` multiplies the pooled state (dropout), where given: `[inputs, 2 · hidden]`.
    pub(crate) fn logits(&self, inputs: &[&Input], keep: Option<&Tensor>) -> Result<Tensor> {
        let batch = Batch::new(inputs, &self.config)?;
        let state = if let Some(modern) = &self.config.modern {
            self.modern(modern, &batch)?
        } else {
            let mut state = self.embed(&batch)?;
            for layer in 0..self.config.num_hidden_layers {
                state = self.layer(layer, &state, &batch)?;
            }
            state
        };
        let state = state.reshape((batch.rows, batch.columns, self.config.hidden_size))?;
        let first = state.narrow(1, 0, 1)?.squeeze(1)?;
        let mean = state.broadcast_mul(&batch.shares)?.sum(1)?;
        let mut pooled = Tensor::cat(&[&first, &mean], 1)?;
        if let Some(keep) = keep {
            pooled = (pooled * keep)?;
        }
        self.dense("classifier", &pooled)
    }

    fn weight(&self, name: &str) -> Result<&Tensor> {
        self.weights.get(name).map(Var::as_tensor).ok_or_else(|| Error::Bug(format!("no weight `{name}`")))
    }

    fn dense(&self, name: &str, input: &Tensor) -> Result<Tensor> {
        let weight = self.weight(&format!("{name}.weight"))?;
        let bias = self.weight(&format!("{name}.bias"))?;
        Ok(fused::dense(input, weight, bias)?)
    }

    fn normalise(&self, name: &str, input: &Tensor) -> Result<Tensor> {
        let gain = self.weight(&format!("{name}.weight"))?;
        let offset = self.weight(&format!("{name}.bias"))?;
        #[expect(clippy::cast_possible_truncation, reason = "single precision is what the layer computes in")]
        let epsilon = self.config.layer_norm_eps as f32;
        Ok(fused::normalise(input, gain, offset, epsilon)?)
    }

    /// `[rows · columns, hidden]`
    fn embed(&self, batch: &Batch) -> Result<Tensor> {
        let words = self.weight("embeddings.word_embeddings.weight")?.index_select(&batch.tokens, 0)?;
        let positions = self.weight("embeddings.position_embeddings.weight")?.index_select(&batch.positions, 0)?;
        let segments = self.weight("embeddings.token_type_embeddings.weight")?.index_select(&batch.segments, 0)?;
        self.normalise("embeddings.LayerNorm", &((words + positions)? + segments)?)
    }

    fn layer(&self, index: usize, state: &Tensor, batch: &Batch) -> Result<Tensor> {
        let name = |part: &str| format!("encoder.layer.{index}.{part}");
        let context = self.attend(index, state, batch)?;
        let attended = (self.dense(&name("attention.output.dense"), &context)? + state)?;
        let attended = self.normalise(&name("attention.output.LayerNorm"), &attended)?;
        let inner = fused::gelu(&self.dense(&name("intermediate.dense"), &attended)?)?;
        let fed = (self.dense(&name("output.dense"), &inner)? + &attended)?;
        self.normalise(&name("output.LayerNorm"), &fed)
    }

    fn attend(&self, index: usize, state: &Tensor, batch: &Batch) -> Result<Tensor> {
        let heads = self.config.num_attention_heads;
        let width = self.config.hidden_size / heads;
        let project = |part: &str| -> Result<Tensor> {
            let projected = self.dense(&format!("encoder.layer.{index}.attention.self.{part}"), state)?;
            let split = projected.reshape((batch.rows, batch.columns, heads, width))?;
            Ok(split.transpose(1, 2)?.contiguous()?)
        };
        let queries = (project("query")? * (1.0 / (width as f64).sqrt()))?;
        let scores = queries.matmul(&project("key")?.t()?)?.broadcast_add(&batch.mask)?;
        let context = fused::softmax(&scores)?.matmul(&project("value")?)?;
        Ok(context.transpose(1, 2)?.reshape((batch.rows * batch.columns, heads * width))?)
    }
}

fn fresh_head(name: &str, shape: &[usize], random: &mut ChaCha8Rng) -> Result<Tensor> {
    let deviation = if name.ends_with(".weight") { HEAD_DEVIATION } else { 0.0 };
    // The sum of twelve uniform numbers has variance 1 and is normal enough for this.
    let values: Vec<f32> = (0..shape.iter().product())
        .map(|_| deviation * ((0..12).map(|_| random.random::<f32>()).sum::<f32>() - 6.0))
        .collect();
    Ok(Tensor::from_vec(values, shape, &Device::Cpu)?)
}

/// Inputs padded to the longest of them.
struct Batch {
    rows: usize,
    columns: usize,
    /// Token ids, `[rows · columns]`.
    tokens: Tensor,
    positions: Tensor,
    segments: Tensor,
    /// Added to attention scores, `[rows, 1, 1, columns]`.
    mask: Tensor,
    /// One over the length at each token, 0 at padding: `[rows, columns, 1]`.
    shares: Tensor,
}

impl Batch {
    fn new(inputs: &[&Input], config: &EncoderConfig) -> Result<Self> {
        let too_many = |_| Error::Bug("a table has too many rows".to_owned());
        let first = u32::try_from(config.first_position()).map_err(too_many)?;
        let later = u32::try_from(config.later_segment()).map_err(too_many)?;
        let rows = inputs.len();
        let columns = inputs.iter().map(|input| input.tokens.len()).max().unwrap_or(0);
        let cells = rows * columns;
        let (mut tokens, mut positions, mut segments) = (vec![0_u32; cells], vec![0_u32; cells], vec![0_u32; cells]);
        let (mut mask, mut shares) = (vec![MASKED; cells], vec![0.0_f32; cells]);
        for (row, input) in inputs.iter().enumerate() {
            let share = 1.0 / input.tokens.len() as f32;
            for (position, token) in (0_u32..).zip(&input.tokens) {
                let cell = row * columns + position as usize;
                tokens[cell] = *token;
                positions[cell] = first + position;
                segments[cell] = if position as usize >= input.first_segment { later } else { 0 };
                mask[cell] = 0.0;
                shares[cell] = share;
            }
        }
        let device = &Device::Cpu;
        Ok(Self {
            rows,
            columns,
            tokens: Tensor::from_vec(tokens, cells, device)?,
            positions: Tensor::from_vec(positions, cells, device)?,
            segments: Tensor::from_vec(segments, cells, device)?,
            mask: Tensor::from_vec(mask, (rows, 1, 1, columns), device)?,
            shares: Tensor::from_vec(shares, (rows, columns, 1), device)?,
        })
    }
}

/// Weighted binary cross-entropy over all outputs, divided by the count of all of them (so that an example of which little
/// is known pulls little); stable for logits of any size: candle's own takes the logarithm of a sigmoid, which is
/// infinite from 40 on.
pub(crate) fn loss(logits: &Tensor, targets: &Tensor, weights: &Tensor) -> Result<Tensor> {
    let softplus = (logits.abs()?.neg()?.exp()? + 1.0)?.log()?;
    let each = ((logits.relu()? - (logits * targets)?)? + softplus)?;
    Ok((each * weights)?.mean_all()?)
}

/// Rows of numbers, one per output: `[examples, 20]`.
pub(crate) fn rows(rows: &[&[f32; OUTPUTS]]) -> Result<Tensor> {
    let values: Vec<f32> = rows.iter().flat_map(|row| row.iter().copied()).collect();
    Ok(Tensor::from_vec(values, (rows.len(), OUTPUTS), &Device::Cpu)?)
}

/// Dropout's factors: 0 with probability `rate`, else `1 / (1 - rate)`.
pub(crate) fn keep(rows: usize, columns: usize, rate: f32, random: &mut ChaCha8Rng) -> Result<Tensor> {
    let scale = 1.0 / (1.0 - rate);
    let values: Vec<f32> =
        (0..rows * columns).map(|_| if random.random::<f32>() < rate { 0.0 } else { scale }).collect();
    Ok(Tensor::from_vec(values, (rows, columns), &Device::Cpu)?)
}

#[cfg(test)]
#[path = "encoder_tests.rs"]
mod tests;
