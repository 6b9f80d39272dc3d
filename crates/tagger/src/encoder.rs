//! The encoder on packed sequences: the tokens of a batch lie one after another, nothing is padded.
//!
//! Matrix products are candle's, the rest is [`crate::kernels`]. A sequence's result depends on the sequence alone, not
//! on the batch that it is in (up to rounding of the last bits).

use std::collections::HashMap;

use candle_core::{CpuStorage, CustomOp1, DType, Device, InplaceOp1, InplaceOp2, Layout, Shape, Tensor};
use uptake_model::labels::OUTPUTS;

use crate::error::{Error, Result};
use crate::input::Input;
use crate::kernels::{self, Norm};
use crate::modern;
use crate::settings::{EncoderConfig, WEIGHTS_FILE};

/// A dense layer: weight `[in, out]` and bias `[out]`.
#[derive(Debug)]
struct Dense {
    weight: Tensor,
    bias: Vec<f32>,
}

#[derive(Debug)]
struct Layer {
    attention: Dense,
    attention_out: Dense,
    attention_norm: Norm,
    feed_in: Dense,
    feed_out: Dense,
    feed_norm: Norm,
}

/// An encoder of one of the [`MODEL_TYPES`](crate::MODEL_TYPES), with a head of one dense layer on the first token's state beside
/// the mean of all.
#[derive(Debug)]
pub struct Encoder {
    heads: usize,
    width: usize,
    words: Vec<f32>,
    norm: Norm,
    body: Body,
    head_weight: Vec<f32>,
    head_bias: Vec<f32>,
}

/// What types of encoders differ in.
#[derive(Debug)]
enum Body {
    Bert {
        /// Row of the first token's position.
        first_position: usize,
        /// Segment of the tokens after the first one's.
        later_segment: usize,
        positions: Vec<f32>,
        segments: Vec<f32>,
        layers: Vec<Layer>,
    },
    Modern {
        longest: usize,
        layers: Vec<modern::Layer>,
        norm: Norm,
    },
}

impl Encoder {
    /// Takes the weights by their Hugging Face names (with or without `bert.`, `roberta.` or `model.` before them), and the head as
    /// `classifier.weight` `[20, 2 · hidden]` and `classifier.bias`; `f32`, `f16` or `bf16`.
    ///
    /// # Errors
    /// [`Error::Model`] where one is missing, has another shape than the configuration says, or is not finite.
    pub fn new(config: &EncoderConfig, weights: &HashMap<String, Tensor>) -> Result<Self> {
        Self::with_outputs(config, weights, OUTPUTS)
    }

    /// As [`Encoder::new`], for a head of another size: `classifier.weight` is `[outputs, 2 · hidden]`.
    ///
    /// # Errors
    /// As [`Encoder::new`].
    pub fn with_outputs(config: &EncoderConfig, weights: &HashMap<String, Tensor>, outputs: usize) -> Result<Self> {
        let source = Weights { weights, epsilon: config.layer_norm_eps };
        let width = config.hidden_size;
        let words = if config.modern.is_some() { "tok_embeddings" } else { "word_embeddings" };
        let words = source.values(&format!("embeddings.{words}.weight"), &[config.vocab_size, width])?;
        let (norm, body) = if let Some(modern) = &config.modern {
            let layers = modern.layers.iter().enumerate();
            let layers = layers.map(|(index, sight)| modern::Layer::new(&source, config, index, *sight));
            let body = Body::Modern {
                longest: config.longest(),
                layers: layers.collect::<Result<_>>()?,
                norm: source.gain("final_norm", width)?,
            };
            (source.gain("embeddings.norm", width)?, body)
        } else {
            (source.norm("embeddings.LayerNorm", width)?, Body::bert(&source, config)?)
        };
        Ok(Self {
            heads: config.num_attention_heads,
            width,
            words,
            norm,
            body,
            head_weight: source.values("classifier.weight", &[outputs, 2 * width])?,
            head_bias: source.values("classifier.bias", &[outputs])?,
        })
    }

    /// Logits of a batch, in its order.
    ///
    /// # Errors
    /// [`Error::Bug`] for an input longer than the encoder's positions, an id outside its vocabulary, or no token; and
    /// where the head has another number of outputs than the tagger's.
    pub fn logits(&self, batch: &[&Input]) -> Result<Vec<[f32; OUTPUTS]>> {
        let other = |_| Error::Bug("the head has another number of outputs");
        self.outputs(batch)?.into_iter().map(|logits| logits.try_into().map_err(other)).collect()
    }

    /// What the head says of a batch, in its order: as many numbers an input as it has outputs.
    ///
    /// # Errors
    /// [`Error::Bug`] for an input longer than the encoder's positions, an id outside its vocabulary, or no token.
    pub fn outputs(&self, batch: &[&Input]) -> Result<Vec<Vec<f32>>> {
        if batch.is_empty() {
            return Ok(Vec::new());
        }
        let mut end = 0;
        let ends: Vec<usize> = batch
            .iter()
            .map(|input| {
                end += input.tokens.len();
                end
            })
            .collect();
        let mut state = self.embed(batch, end)?;
        let (heads, head_width) = (self.heads, self.width / self.heads);
        match &self.body {
            Body::Bert { layers, .. } => {
                for layer in layers {
                    state = layer.forward(&state, &ends, heads, head_width)?;
                }
            }
            Body::Modern { layers, norm, .. } => {
                for layer in layers {
                    state = layer.forward(&state, &ends, heads, head_width)?;
                }
                state = modern::normalised(&state, norm)?;
            }
        }
        let (storage, layout) = state.storage_and_layout();
        let candle_core::Storage::Cpu(storage) = &*storage else {
            return Err(Error::Bug("the encoder left the processor"));
        };
        Ok(self.pool(values(storage, layout)?, &ends))
    }

    fn embed(&self, batch: &[&Input], tokens: usize) -> Result<Tensor> {
        let width = self.width;
        let mut rows = vec![0.0; tokens * width];
        let mut into = rows.chunks_exact_mut(width);
        for input in batch {
            if input.tokens.is_empty() {
                return Err(Error::Bug("an input has no tokens"));
            }
            for (position, token) in input.tokens.iter().enumerate() {
                let into = into.next().unwrap_or_default();
                let Some(word) = row(&self.words, *token as usize, width) else {
                    return Err(Error::Bug("an input does not fit the encoder's vocabulary"));
                };
                into.copy_from_slice(word);
                if !self.body.add(position, position >= input.first_segment, into) {
                    return Err(Error::Bug("an input does not fit the encoder's positions"));
                }
            }
        }
        kernels::normalise(&mut rows, &self.norm);
        Ok(Tensor::from_vec(rows, (tokens, width), &Device::Cpu)?)
    }

    /// The first token beside the mean of all, through the head.
    fn pool(&self, state: &[f32], ends: &[usize]) -> Vec<Vec<f32>> {
        let width = self.width;
        let mut pooled = vec![0.0; 2 * width];
        let mut start = 0;
        ends.iter()
            .map(|&end| {
                let rows = &state[start * width..end * width];
                let (first, mean) = pooled.split_at_mut(width);
                first.copy_from_slice(&rows[..width]);
                mean.fill(0.0);
                for row in rows.chunks_exact(width) {
                    for (sum, value) in mean.iter_mut().zip(row) {
                        *sum += value;
                    }
                }
                let inverse = 1.0 / (end - start) as f32;
                for sum in mean.iter_mut() {
                    *sum *= inverse;
                }
                start = end;
                let mut logits = vec![0.0; self.head_bias.len()];
                kernels::project(&pooled, &self.head_weight, &self.head_bias, &mut logits);
                logits
            })
            .collect()
    }
}

fn row(table: &[f32], index: usize, width: usize) -> Option<&[f32]> {
    table.get(index.checked_mul(width)?..index.checked_add(1)?.checked_mul(width)?)
}

impl Body {
    fn bert(source: &Weights<'_>, config: &EncoderConfig) -> Result<Self> {
        let width = config.hidden_size;
        let layers = (0..config.num_hidden_layers).map(|index| Layer::new(source, config, index));
        Ok(Self::Bert {
            first_position: config.first_position(),
            later_segment: config.later_segment(),
            positions: source
                .values("embeddings.position_embeddings.weight", &[config.max_position_embeddings, width])?,
            segments: source.values("embeddings.token_type_embeddings.weight", &[config.type_vocab_size, width])?,
            layers: layers.collect::<Result<_>>()?,
        })
    }

    /// Adds to a token's row those of its position and its segment, where there are such; false for a position that the
    /// encoder does not take.
    fn add(&self, position: usize, later: bool, into: &mut [f32]) -> bool {
        match self {
            Self::Bert { first_position, later_segment, positions, segments, .. } => {
                let place = row(positions, first_position + position, into.len());
                let segment = row(segments, if later { *later_segment } else { 0 }, into.len());
                let (Some(place), Some(segment)) = (place, segment) else { return false };
                for (into, (place, segment)) in into.iter_mut().zip(place.iter().zip(segment)) {
                    *into = *into + place + segment;
                }
                true
            }
            Self::Modern { longest, .. } => position < *longest,
        }
    }
}

impl Layer {
    fn new(source: &Weights<'_>, config: &EncoderConfig, index: usize) -> Result<Self> {
        let (width, inner) = (config.hidden_size, config.intermediate_size);
        let name = |part: &str| format!("encoder.layer.{index}.{part}");
        Ok(Self {
            attention: source.dense(
                &[&name("attention.self.query"), &name("attention.self.key"), &name("attention.self.value")],
                width,
                width,
            )?,
            attention_out: source.dense(&[&name("attention.output.dense")], width, width)?,
            attention_norm: source.norm(&name("attention.output.LayerNorm"), width)?,
            feed_in: source.dense(&[&name("intermediate.dense")], width, inner)?,
            feed_out: source.dense(&[&name("output.dense")], inner, width)?,
            feed_norm: source.norm(&name("output.LayerNorm"), width)?,
        })
    }

    fn forward(&self, state: &Tensor, ends: &[usize], heads: usize, head_width: usize) -> Result<Tensor> {
        let projected = state.matmul(&self.attention.weight)?;
        projected.inplace_op1(&AddBias(&self.attention.bias))?;
        let context = projected.apply_op1_no_bwd(&Attention { ends, heads, head_width, window: None })?;
        let attended = context.matmul(&self.attention_out.weight)?;
        attended.inplace_op2(state, &Close { bias: &self.attention_out.bias, norm: &self.attention_norm })?;
        let inner = attended.matmul(&self.feed_in.weight)?;
        inner.inplace_op1(&AddBiasGelu(&self.feed_in.bias))?;
        let fed = inner.matmul(&self.feed_out.weight)?;
        fed.inplace_op2(&attended, &Close { bias: &self.feed_out.bias, norm: &self.feed_norm })?;
        Ok(fed)
    }
}

/// Weights by name, checked as they are taken.
pub(crate) struct Weights<'a> {
    weights: &'a HashMap<String, Tensor>,
    epsilon: f64,
}

impl Weights<'_> {
    pub(crate) fn tensor(&self, name: &str, shape: &[usize]) -> Result<Tensor> {
        let found = EncoderConfig::find(self.weights, name);
        let tensor = found.ok_or_else(|| Error::model(WEIGHTS_FILE, format!("`{name}` is missing")))?;
        if tensor.dims() != shape {
            return Err(Error::model(
                WEIGHTS_FILE,
                format!("`{name}` has shape {:?}, config.json asks for {shape:?}", tensor.dims()),
            ));
        }
        let tensor = tensor.to_dtype(DType::F32)?;
        // One addition a weight finds any that is not finite: such a one stays in a sum of magnitudes.
        let sum = tensor.abs()?.sum_all()?.to_scalar::<f32>()?;
        if sum.is_finite() {
            Ok(tensor)
        } else {
            Err(Error::model(WEIGHTS_FILE, format!("`{name}` holds values that are not finite")))
        }
    }

    fn values(&self, name: &str, shape: &[usize]) -> Result<Vec<f32>> {
        Ok(self.tensor(name, shape)?.flatten_all()?.to_vec1()?)
    }

    /// One layer, or several over the same input side by side. Hugging Face stores `[out, in]`.
    fn dense(&self, names: &[&str], from: usize, to: usize) -> Result<Dense> {
        let mut weights = Vec::new();
        let mut bias = Vec::new();
        for name in names {
            weights.push(self.tensor(&format!("{name}.weight"), &[to, from])?);
            bias.extend(self.values(&format!("{name}.bias"), &[to])?);
        }
        let weight = Tensor::cat(&weights, 0)?.t()?.contiguous()?;
        Ok(Dense { weight, bias })
    }

    fn norm(&self, name: &str, width: usize) -> Result<Norm> {
        let norm = self.gain(name, width)?;
        Ok(Norm { offset: self.values(&format!("{name}.bias"), &[width])?, ..norm })
    }

    /// A normalisation without offset.
    pub(crate) fn gain(&self, name: &str, width: usize) -> Result<Norm> {
        #[expect(clippy::cast_possible_truncation, reason = "single precision is what the layer computes in")]
        let epsilon = self.epsilon as f32;
        Ok(Norm { gain: self.values(&format!("{name}.weight"), &[width])?, offset: vec![0.0; width], epsilon })
    }
}

pub(crate) fn values<'a>(storage: &'a CpuStorage, layout: &Layout) -> candle_core::Result<&'a [f32]> {
    match (storage, layout.contiguous_offsets()) {
        (CpuStorage::F32(values), Some((start, end))) => Ok(&values[start..end]),
        _ => candle_core::bail!("a contiguous f32 tensor is needed"),
    }
}

pub(crate) fn values_mut<'a>(storage: &'a mut CpuStorage, layout: &Layout) -> candle_core::Result<&'a mut [f32]> {
    match (storage, layout.contiguous_offsets()) {
        (CpuStorage::F32(values), Some((start, end))) => Ok(&mut values[start..end]),
        _ => candle_core::bail!("a contiguous f32 tensor is needed"),
    }
}

struct AddBias<'a>(&'a [f32]);

impl InplaceOp1 for AddBias<'_> {
    fn name(&self) -> &'static str {
        "add-bias"
    }

    fn cpu_fwd(&self, storage: &mut CpuStorage, layout: &Layout) -> candle_core::Result<()> {
        kernels::add_bias(values_mut(storage, layout)?, self.0);
        Ok(())
    }
}

struct AddBiasGelu<'a>(&'a [f32]);

impl InplaceOp1 for AddBiasGelu<'_> {
    fn name(&self) -> &'static str {
        "add-bias-gelu"
    }

    fn cpu_fwd(&self, storage: &mut CpuStorage, layout: &Layout) -> candle_core::Result<()> {
        kernels::add_bias_gelu(values_mut(storage, layout)?, self.0);
        Ok(())
    }
}

/// The end of a block: bias, residual, layer normalisation.
struct Close<'a> {
    bias: &'a [f32],
    norm: &'a Norm,
}

impl InplaceOp2 for Close<'_> {
    fn name(&self) -> &'static str {
        "add-bias-residual-normalise"
    }

    fn cpu_fwd(
        &self,
        storage: &mut CpuStorage,
        layout: &Layout,
        residual: &CpuStorage,
        residual_layout: &Layout,
    ) -> candle_core::Result<()> {
        let residual = values(residual, residual_layout)?;
        kernels::add_bias_residual_normalise(values_mut(storage, layout)?, self.bias, residual, self.norm);
        Ok(())
    }
}

pub(crate) struct Attention<'a> {
    pub(crate) ends: &'a [usize],
    pub(crate) heads: usize,
    pub(crate) head_width: usize,
    /// Tokens to either side that a token sees; all where absent.
    pub(crate) window: Option<usize>,
}

impl CustomOp1 for Attention<'_> {
    fn name(&self) -> &'static str {
        "packed-attention"
    }

    fn cpu_fwd(&self, storage: &CpuStorage, layout: &Layout) -> candle_core::Result<(CpuStorage, Shape)> {
        let qkv = values(storage, layout)?;
        let context = kernels::attention_within(qkv, self.ends, self.heads, self.head_width, self.window);
        let width = self.heads * self.head_width;
        let shape = Shape::from((context.len() / width, width));
        Ok((CpuStorage::F32(context), shape))
    }
}

#[cfg(test)]
#[path = "encoder_tests.rs"]
mod tests;
