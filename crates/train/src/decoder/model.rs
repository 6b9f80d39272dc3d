//! The decoder: from packed tokens to states, and the gradients of its adapter.

use std::collections::BTreeMap;

use candle_core::backprop::GradStore;
use candle_core::{Device, Tensor, Var};

use super::adapter::Adapter;
use super::config::DecoderConfig;
use super::files::BaseWeights;
use super::layer::Layer;
use super::ops::{self, Rotation, TokenScores};
use crate::error::{Error, Result};

/// Which weights a pass computes with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Weights {
    /// The base model: the reference.
    Base,
    /// Base and adapter, without a graph.
    Adapted,
    /// Base and adapter, with the graph that gradients need.
    Trained,
}

/// Sequences one after the other, without padding.
#[derive(Debug)]
pub(crate) struct Packed {
    tokens: Tensor,
    /// Start and length of each.
    pub(super) spans: Vec<(usize, usize)>,
    pub(super) rotation: Rotation,
}

impl Packed {
    /// Packs sequences, none of which is empty.
    pub(crate) fn new(sequences: &[&[u32]], config: &DecoderConfig) -> Result<Self> {
        let mut spans = Vec::with_capacity(sequences.len());
        let (mut tokens, mut positions) = (Vec::new(), Vec::new());
        for sequence in sequences {
            spans.push((tokens.len(), sequence.len()));
            tokens.extend_from_slice(sequence);
            positions.extend((0_u32..).take(sequence.len()));
        }
        let rotation = Rotation::new(&positions, config.head_width, config.theta);
        let count = tokens.len();
        Ok(Self { tokens: Tensor::from_vec(tokens, count, &Device::Cpu)?, spans, rotation })
    }
}

/// A base model with an adapter.
#[derive(Debug)]
pub(crate) struct Decoder {
    config: DecoderConfig,
    embedding: Tensor,
    /// Output matrix, unless it is the embedding.
    output: Option<Tensor>,
    gain: Tensor,
    layers: Vec<Layer>,
    scale: f64,
    parameters: BTreeMap<String, Var>,
    /// Whether activations of a layer are computed again in the backward pass instead of kept.
    recompute: bool,
}

impl Decoder {
    /// Takes the weights of a base model and puts a fresh adapter on it.
    ///
    /// # Errors
    /// [`Error::Invalid`] where a weight is missing, has another shape, or is one that this decoder does not know.
    pub(crate) fn new(
        config: DecoderConfig,
        mut base: BaseWeights,
        adapter: &Adapter,
        seed: u64,
        recompute: bool,
    ) -> Result<Self> {
        adapter.check()?;
        let mut take = |name: String, shape: &[usize]| -> Result<Tensor> {
            let tensor = base.tensors.remove(&name);
            let tensor = tensor.ok_or_else(|| Error::Invalid(format!("the base model has no weight `{name}`")))?;
            if tensor.dims() != shape {
                let found = tensor.dims();
                return Err(Error::Invalid(format!(
                    "the base model's `{name}` has shape {found:?}, its config.json asks for {shape:?}"
                )));
            }
            Ok(tensor)
        };
        let mut layers = Vec::with_capacity(config.layers);
        let mut parameters = BTreeMap::new();
        for (index, factors) in adapter.fresh(&config, seed)?.into_iter().enumerate() {
            for (module, pair) in &factors {
                let _ = parameters.insert(Adapter::key(index, *module, "lora_A"), pair.down.clone());
                let _ = parameters.insert(Adapter::key(index, *module, "lora_B"), pair.up.clone());
            }
            layers.push(Layer::take(index, &config, factors, &mut take)?);
        }
        let embedding = take("model.embed_tokens.weight".to_owned(), &[config.vocabulary, config.width])?;
        let gain = take("model.norm.weight".to_owned(), &[config.width])?;
        let untied = (!config.tied).then(|| take("lm_head.weight".to_owned(), &[config.vocabulary, config.width]));
        let output = untied.transpose()?;
        // A tied model may carry its output matrix a second time; rotary tables are computed here.
        let known = |name: &str| name == "lm_head.weight" || name.ends_with("rotary_emb.inv_freq");
        if let Some(name) = base.tensors.keys().find(|name| !known(name)) {
            return Err(Error::Invalid(format!(
                "the base model has a weight `{name}` that its model_type does not have: it would compute something else"
            )));
        }
        Ok(Self { config, embedding, output, gain, layers, scale: adapter.scale(), parameters, recompute })
    }

    pub(crate) const fn config(&self) -> &DecoderConfig {
        &self.config
    }

    /// The weights that move, by PEFT's names.
    pub(crate) const fn parameters(&self) -> &BTreeMap<String, Var> {
        &self.parameters
    }

    /// The matrix from states to logits.
    fn output(&self) -> &Tensor {
        self.output.as_ref().unwrap_or(&self.embedding)
    }

    fn layer(&self, layer: &Layer, state: &Tensor, packed: &Packed, weights: Weights) -> Result<Tensor> {
        layer.forward(state, packed, &self.config, self.scale, weights)
    }

    fn embed(&self, packed: &Packed) -> Result<Tensor> {
        Ok(self.embedding.index_select(&packed.tokens, 0)?)
    }

    fn normalise(&self, state: &Tensor) -> Result<Tensor> {
        Ok(ops::normalise(state, &self.gain, self.config.epsilon)?)
    }

    /// States after the last layer and its normalisation, `[tokens, width]`, without a graph.
    pub(crate) fn states(&self, packed: &Packed, weights: Weights) -> Result<Tensor> {
        let weights = if weights == Weights::Trained { Weights::Adapted } else { weights };
        let mut state = self.embed(packed)?;
        for layer in &self.layers {
            state = self.layer(layer, &state, packed, weights)?;
        }
        self.normalise(&state)
    }

    /// Logits of all positions, `[tokens, vocabulary]`.
    #[cfg(test)]
    pub(crate) fn logits(&self, packed: &Packed, weights: Weights) -> Result<Tensor> {
        Ok(self.states(packed, weights)?.matmul(&self.output().t()?)?)
    }

    /// Log-probability of `targets[i]` after the state at `places[i]`.
    pub(crate) fn token_scores(&self, states: &Tensor, places: &[u32], targets: &[u32]) -> Result<TokenScores> {
        let index = Tensor::from_slice(places, places.len(), states.device())?;
        Ok(ops::token_scores(&states.index_select(&index, 0)?, self.output(), targets)?)
    }

    /// Gradients of the adapter for a loss of the normalised states, and what `loss` gives beside it.
    pub(crate) fn gradients<T>(
        &self,
        packed: &Packed,
        loss: impl FnOnce(&Tensor) -> Result<(Tensor, T)>,
    ) -> Result<(T, GradStore)> {
        if !self.recompute {
            let mut state = self.embed(packed)?;
            for layer in &self.layers {
                state = self.layer(layer, &state, packed, Weights::Trained)?;
            }
            let (loss, rest) = loss(&self.normalise(&state)?)?;
            return Ok((rest, self.only_parameters(&mut loss.backward()?)));
        }
        let mut inputs = Vec::with_capacity(self.layers.len());
        let mut state = self.embed(packed)?;
        for layer in &self.layers {
            inputs.push(state.clone());
            state = self.layer(layer, &state, packed, Weights::Adapted)?;
        }
        let top = Var::from_tensor(&state)?;
        let (loss, rest) = loss(&self.normalise(&top)?)?;
        let mut gradient = missing(loss.backward()?.remove(&top))?;
        let mut gradients = GradStore::default();
        for (index, (layer, input)) in self.layers.iter().zip(inputs).enumerate().rev() {
            // What comes before the first layer is frozen.
            let variable = (index > 0).then(|| Var::from_tensor(&input)).transpose()?;
            let input = variable.as_ref().map_or(&input, Var::as_tensor);
            let output = self.layer(layer, input, packed, Weights::Trained)?;
            let mut found = seeded(&output, gradient.clone())?.backward()?;
            if let Some(variable) = &variable {
                gradient = missing(found.remove(variable))?;
            }
            gradients.extend(self.only_parameters(&mut found))?;
        }
        Ok((rest, gradients))
    }

    /// Without those of constants, which candle forms too.
    fn only_parameters(&self, found: &mut GradStore) -> GradStore {
        let mut kept = GradStore::default();
        for var in self.parameters.values() {
            if let Some(gradient) = found.remove(var) {
                let _ = kept.insert(var, gradient);
            }
        }
        kept
    }

    /// The weights with the adapter added, by Hugging Face's names.
    pub(crate) fn merged(&self) -> Result<BTreeMap<String, Tensor>> {
        let mut merged = BTreeMap::from([
            ("model.embed_tokens.weight".to_owned(), self.embedding.clone()),
            ("model.norm.weight".to_owned(), self.gain.clone()),
        ]);
        if let Some(output) = &self.output {
            let _ = merged.insert("lm_head.weight".to_owned(), output.clone());
        }
        for (index, layer) in self.layers.iter().enumerate() {
            for (name, tensor) in layer.merged(self.scale)? {
                let _ = merged.insert(format!("model.layers.{index}.{name}"), tensor);
            }
        }
        Ok(merged)
    }

    /// Layers and projections that have an update.
    #[cfg(test)]
    pub(crate) fn adapted(&self) -> Vec<(usize, super::Module)> {
        let of = |(index, layer): (usize, &Layer)| {
            let adapted = layer.projections.iter().filter(|(_, projection)| projection.factors.is_some());
            adapted.map(|(module, _)| (index, *module)).collect::<Vec<_>>()
        };
        self.layers.iter().enumerate().flat_map(of).collect()
    }
}

fn missing(gradient: Option<Tensor>) -> Result<Tensor> {
    gradient.ok_or_else(|| Error::Bug("a layer has no gradient".to_owned()))
}

/// A scalar whose backward pass starts with `gradient` at `output`.
fn seeded(output: &Tensor, gradient: Tensor) -> Result<Tensor> {
    let nothing = Tensor::zeros((), output.dtype(), output.device())?;
    Ok(ops::attach("seeded", output, nothing, move |_, _, _| Ok(gradient.clone()))?)
}
