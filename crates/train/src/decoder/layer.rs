//! One layer: attention with grouped heads and a gated feed-forward part, each around a residual.

use std::collections::BTreeMap;

use candle_core::Tensor;

use super::adapter::{Factors, Module};
use super::config::DecoderConfig;
use super::model::{Packed, Weights};
use super::ops;
use crate::error::{Error, Result};

/// A projection: frozen, with a trainable update where it has factors.
#[derive(Debug)]
pub(super) struct Projection {
    pub(super) weight: Tensor,
    pub(super) bias: Option<Tensor>,
    pub(super) factors: Option<Factors>,
}

impl Projection {
    fn forward(&self, input: &Tensor, scale: f64, weights: Weights) -> Result<Tensor> {
        let output = ops::frozen_product(input, &self.weight, self.bias.as_ref())?;
        let Some(factors) = &self.factors else { return Ok(output) };
        let (down, up) = match weights {
            Weights::Base => return Ok(output),
            Weights::Adapted => (factors.down.as_detached_tensor(), factors.up.as_detached_tensor()),
            Weights::Trained => (factors.down.as_tensor().clone(), factors.up.as_tensor().clone()),
        };
        let update = input.matmul(&down.t()?)?.matmul(&up.t()?)?;
        Ok((output + (update * scale)?)?)
    }

    /// The weight with the update added.
    pub(super) fn merged(&self, scale: f64) -> Result<Tensor> {
        let Some(factors) = &self.factors else { return Ok(self.weight.clone()) };
        let update = factors.up.as_detached_tensor().matmul(&factors.down.as_detached_tensor())?;
        Ok((&self.weight + (update * scale)?)?)
    }
}

#[derive(Debug)]
pub(super) struct Layer {
    attention_gain: Tensor,
    inner_gain: Tensor,
    /// Qwen3: of each head's queries and keys.
    head_gains: Option<(Tensor, Tensor)>,
    pub(super) projections: BTreeMap<Module, Projection>,
}

impl Layer {
    /// Takes its weights out of the base model's.
    pub(super) fn take(
        index: usize,
        config: &DecoderConfig,
        mut factors: BTreeMap<Module, Factors>,
        take: &mut impl FnMut(String, &[usize]) -> Result<Tensor>,
    ) -> Result<Self> {
        let name = |part: &str| format!("model.layers.{index}.{part}.weight");
        let mut projections = BTreeMap::new();
        for module in Module::ALL {
            let (rows, columns) = config.shape(module);
            let weight = take(name(&module.path()), &[rows, columns])?;
            let bias = config.has_bias(module).then(|| format!("model.layers.{index}.{}.bias", module.path()));
            let bias = bias.map(|name| take(name, &[rows])).transpose()?;
            let _ = projections.insert(module, Projection { weight, bias, factors: factors.remove(&module) });
        }
        let head_gains = if config.family == super::config::Family::Qwen3 {
            let mut gain = |part: &str| take(name(part), &[config.head_width]);
            Some((gain("self_attn.q_norm")?, gain("self_attn.k_norm")?))
        } else {
            None
        };
        Ok(Self {
            attention_gain: take(name("input_layernorm"), &[config.width])?,
            inner_gain: take(name("post_attention_layernorm"), &[config.width])?,
            head_gains,
            projections,
        })
    }

    /// Its weights by their names below the layer, updates added.
    pub(super) fn merged(&self, scale: f64) -> Result<Vec<(String, Tensor)>> {
        let mut merged = vec![
            ("input_layernorm.weight".to_owned(), self.attention_gain.clone()),
            ("post_attention_layernorm.weight".to_owned(), self.inner_gain.clone()),
        ];
        if let Some((queries, keys)) = &self.head_gains {
            merged.push(("self_attn.q_norm.weight".to_owned(), queries.clone()));
            merged.push(("self_attn.k_norm.weight".to_owned(), keys.clone()));
        }
        for (module, projection) in &self.projections {
            merged.push((format!("{}.weight", module.path()), projection.merged(scale)?));
            if let Some(bias) = &projection.bias {
                merged.push((format!("{}.bias", module.path()), bias.clone()));
            }
        }
        Ok(merged)
    }

    /// From states `[tokens, width]` to states.
    pub(super) fn forward(
        &self,
        state: &Tensor,
        packed: &Packed,
        config: &DecoderConfig,
        scale: f64,
        weights: Weights,
    ) -> Result<Tensor> {
        let project = |module: Module, input: &Tensor| match self.projections.get(&module) {
            Some(projection) => projection.forward(input, scale, weights),
            None => Err(Error::Bug(format!("no {module}"))),
        };
        let input = ops::normalise(state, &self.attention_gain, config.epsilon)?;
        let (mut queries, mut keys) = (project(Module::Query, &input)?, project(Module::Key, &input)?);
        if let Some((query_gain, key_gain)) = &self.head_gains {
            queries = normalise_heads(&queries, query_gain, config.epsilon)?;
            keys = normalise_heads(&keys, key_gain, config.epsilon)?;
        }
        let (queries, keys) = (ops::rotate(&queries, &packed.rotation)?, ops::rotate(&keys, &packed.rotation)?);
        let context = attend(&queries, &keys, &project(Module::Value, &input)?, packed, config)?;
        let state = (state + project(Module::Output, &context)?)?;
        let input = ops::normalise(&state, &self.inner_gain, config.epsilon)?;
        let inner = (project(Module::Gate, &input)?.silu()? * project(Module::Up, &input)?)?;
        Ok((&state + project(Module::Down, &inner)?)?)
    }
}

fn normalise_heads(heads: &Tensor, gain: &Tensor, epsilon: f32) -> Result<Tensor> {
    let (tokens, width) = heads.dims2()?;
    let each = heads.reshape((tokens * width / gain.elem_count(), gain.elem_count()))?;
    Ok(ops::normalise(&each, gain, epsilon)?.reshape((tokens, width))?)
}

/// Causal attention within each sequence; query heads that share keys are rows of one product.
fn attend(queries: &Tensor, keys: &Tensor, values: &Tensor, packed: &Packed, config: &DecoderConfig) -> Result<Tensor> {
    let (groups, width) = (config.kv_heads, config.head_width);
    let shared = config.heads / groups;
    let mut contexts = Vec::with_capacity(packed.spans.len());
    for &(start, tokens) in &packed.spans {
        let of = |all: &Tensor| -> Result<Tensor> {
            let own = all.narrow(0, start, tokens)?.reshape((tokens, groups, width))?;
            Ok(own.transpose(0, 1)?.contiguous()?)
        };
        let own = queries.narrow(0, start, tokens)?.reshape((tokens, groups, shared, width))?;
        let own = own.permute((1, 2, 0, 3))?.reshape((groups, shared * tokens, width))?;
        let scores = ((own * (1.0 / (width as f64).sqrt()))?).matmul(&of(keys)?.t()?)?;
        let context = ops::causal_softmax(&scores)?.matmul(&of(values)?)?;
        let context = context.reshape((groups, shared, tokens, width))?.permute((2, 0, 1, 3))?;
        contexts.push(context.reshape((tokens, groups * shared * width))?);
    }
    Ok(Tensor::cat(&contexts, 0)?)
}
