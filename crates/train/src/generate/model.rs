//! A decoder that computes the next token's logits, and nothing else: no graph, no gradients, a cache for each sequence.

use std::collections::BTreeMap;

use candle_core::{DType, Tensor};
use rayon::prelude::*;
use uptake_tagger::kernels;

use super::cache::{Cache, Heads, attend};
use super::tile::{Matrix, Rows};
use crate::decoder::{BaseWeights, DecoderConfig, Family, Module, Rotation};
use crate::error::{Error, Result};

/// New tokens of a sequence.
#[derive(Debug)]
pub(super) struct Piece<'a> {
    pub(super) cache: &'a mut Cache,
    pub(super) tokens: &'a [u32],
    /// Whether the logits after its last token are wanted.
    pub(super) wanted: bool,
}

/// Where the embedding of a token is found.
#[derive(Debug)]
enum Embedding {
    /// In the output matrix.
    Tied,
    Own(Vec<f32>),
}

#[derive(Debug)]
struct Layer {
    attention_gain: Vec<f32>,
    inner_gain: Vec<f32>,
    /// Qwen3: of each head's queries and keys.
    head_gains: Option<(Vec<f32>, Vec<f32>)>,
    /// Queries, keys and values.
    inputs: Matrix,
    output: Matrix,
    /// Gate, then up.
    inner: Matrix,
    down: Matrix,
}

/// What goes through a layer.
struct Pass<'a, 'b> {
    /// Number of the layer.
    index: usize,
    /// States of the new tokens, a row each.
    state: &'a mut [f32],
    pieces: &'a mut [Piece<'b>],
    rotation: &'a Rotation,
    scratch: &'a mut Vec<f32>,
}

/// A model as it is asked for answers.
#[derive(Debug)]
pub(super) struct Model {
    config: DecoderConfig,
    heads: Heads,
    embedding: Embedding,
    output: Matrix,
    gain: Vec<f32>,
    layers: Vec<Layer>,
}

impl Model {
    /// Takes the weights, which are gone from `base` as soon as they are laid out.
    ///
    /// # Errors
    /// [`Error::Invalid`] where a weight is missing, has another shape, or is one that this decoder does not know.
    pub(super) fn new(config: DecoderConfig, base: BaseWeights) -> Result<Self> {
        let mut source = Source { tensors: base.tensors };
        let layers = (0..config.layers).map(|index| Layer::take(index, &config, &mut source)).collect::<Result<_>>()?;
        let table = source.take("model.embed_tokens.weight", &[config.vocabulary, config.width])?;
        let gain = source.take("model.norm.weight", &[config.width])?;
        let (embedding, output) = if config.tied {
            (Embedding::Tied, table)
        } else {
            let output = source.take("lm_head.weight", &[config.vocabulary, config.width])?;
            (Embedding::Own(table), output)
        };
        let output = Matrix::new(&[output], config.width, None);
        source.check_rest()?;
        Ok(Self { heads: Heads::new(&config), config, embedding, output, gain, layers })
    }

    pub(super) const fn config(&self) -> &DecoderConfig {
        &self.config
    }

    fn embed(&self, token: u32, into: &mut Vec<f32>) -> Result<()> {
        let (token, width) = (token as usize, self.config.width);
        let outside = || Error::Bug(format!("token {token} is outside of the vocabulary"));
        match &self.embedding {
            Embedding::Tied => into.extend(self.output.weights_of(token).ok_or_else(outside)?),
            Embedding::Own(table) => {
                into.extend_from_slice(table.get(token * width..(token + 1) * width).ok_or_else(outside)?);
            }
        }
        Ok(())
    }

    /// Takes new tokens of several sequences through all layers: logits after each piece that wants them, a row of the
    /// vocabulary's size after the other. `scratch` is what one pass leaves to the next.
    ///
    /// # Errors
    /// [`Error::Bug`] for a token outside of the vocabulary.
    pub(super) fn forward(&self, pieces: &mut [Piece<'_>], scratch: &mut Vec<f32>) -> Result<Vec<f32>> {
        let count: usize = pieces.iter().map(|piece| piece.tokens.len()).sum();
        let mut positions = Vec::with_capacity(count);
        let mut state = Vec::with_capacity(count * self.config.width);
        for piece in pieces.iter() {
            for (at, token) in piece.tokens.iter().enumerate() {
                let position = u32::try_from(piece.cache.tokens() + at);
                positions.push(position.map_err(|_| Error::Bug("a sequence is too long".to_owned()))?);
                self.embed(*token, &mut state)?;
            }
        }
        let rotation = Rotation::new(&positions, self.config.head_width, self.config.theta);
        for (index, layer) in self.layers.iter().enumerate() {
            layer.forward(
                &mut Pass { index, state: &mut state, pieces, rotation: &rotation, scratch },
                &self.config,
                self.heads,
            );
        }
        let width = self.config.width;
        let (mut last, mut end) = (Vec::new(), 0);
        for piece in pieces {
            piece.cache.advance(piece.tokens.len());
            end += piece.tokens.len() * width;
            if piece.wanted {
                last.extend_from_slice(&state[end - width..end]);
            }
        }
        if last.is_empty() {
            return Ok(last);
        }
        normalise(&mut last, &self.gain, self.config.epsilon);
        Ok(self.output.product(&Rows::pack(&last, width), scratch))
    }
}

impl Layer {
    fn take(index: usize, config: &DecoderConfig, source: &mut Source) -> Result<Self> {
        let name = |part: &str| format!("model.layers.{index}.{part}");
        let matrix = |source: &mut Source, modules: &[Module]| -> Result<Matrix> {
            let (mut parts, mut bias) = (Vec::new(), Vec::new());
            let mut inputs = 0;
            for module in modules {
                let (rows, columns) = config.shape(*module);
                inputs = columns;
                parts.push(source.take(&name(&format!("{}.weight", module.path())), &[rows, columns])?);
                if config.has_bias(*module) {
                    bias.extend(source.take(&name(&format!("{}.bias", module.path())), &[rows])?);
                }
            }
            Ok(Matrix::new(&parts, inputs, (!bias.is_empty()).then_some(bias)))
        };
        let head_gains = if config.family == Family::Qwen3 {
            let mut gain = |part: &str| source.take(&name(&format!("self_attn.{part}.weight")), &[config.head_width]);
            Some((gain("q_norm")?, gain("k_norm")?))
        } else {
            None
        };
        Ok(Self {
            attention_gain: source.take(&name("input_layernorm.weight"), &[config.width])?,
            inner_gain: source.take(&name("post_attention_layernorm.weight"), &[config.width])?,
            head_gains,
            inputs: matrix(source, &[Module::Query, Module::Key, Module::Value])?,
            output: matrix(source, &[Module::Output])?,
            inner: matrix(source, &[Module::Gate, Module::Up])?,
            down: matrix(source, &[Module::Down])?,
        })
    }

    fn forward(&self, pass: &mut Pass<'_, '_>, config: &DecoderConfig, heads: Heads) {
        let Pass { index, state, pieces, rotation, scratch } = pass;
        let projected = self.inputs.product(&normalised(state, &self.attention_gain, config.epsilon), scratch);
        let (queries, keys, values) = self.split(&projected, rotation, config);
        let (query_width, key_width) = (config.heads * config.head_width, config.kv_heads * config.head_width);
        let mut start = 0;
        let mut asked: Vec<(&Cache, &[f32])> = Vec::with_capacity(pieces.len());
        for piece in pieces.iter_mut() {
            let end = start + piece.tokens.len();
            let keep = start * key_width..end * key_width;
            piece.cache.push(*index, heads, &keys[keep.clone()], &values[keep]);
            asked.push((&*piece.cache, &queries[start * query_width..end * query_width]));
            start = end;
        }
        let context = attend(*index, heads, &asked);
        add(state, &self.output.product(&Rows::pack(&context, query_width), scratch));
        let inner = self.inner.product(&normalised(state, &self.inner_gain, config.epsilon), scratch);
        add(state, &self.down.product(&Rows::pack(&gated(&inner, config.inner), config.inner), scratch));
    }

    /// Queries and keys, normalised by head where the model does that and turned by their positions; and values.
    fn split(&self, projected: &[f32], rotation: &Rotation, config: &DecoderConfig) -> (Vec<f32>, Vec<f32>, Vec<f32>) {
        let (query_width, key_width) = (config.heads * config.head_width, config.kv_heads * config.head_width);
        let row = query_width + 2 * key_width;
        let tokens = projected.len() / row;
        let part = |from: usize, width: usize| -> Vec<f32> {
            projected.chunks_exact(row).flat_map(|row| &row[from..from + width]).copied().collect()
        };
        let (mut queries, mut keys) = (part(0, query_width), part(query_width, key_width));
        if let Some((query_gain, key_gain)) = &self.head_gains {
            normalise(&mut queries, query_gain, config.epsilon);
            normalise(&mut keys, key_gain, config.epsilon);
        }
        rotation.turn(&mut queries, tokens, 1.0);
        rotation.turn(&mut keys, tokens, 1.0);
        (queries, keys, part(query_width + key_width, key_width))
    }
}

/// Values of a task of its own in loops over single numbers.
const SHARE: usize = 1 << 14;

fn add(state: &mut [f32], update: &[f32]) {
    for (value, update) in state.iter_mut().zip(update) {
        *value += update;
    }
}

/// Root mean square normalisation of each row, in place.
fn normalise(rows: &mut [f32], gain: &[f32], epsilon: f32) {
    kernels::vectorised(
        #[inline(always)]
        || {
            for row in rows.chunks_exact_mut(gain.len()) {
                let inverse = 1.0 / (kernels::sum_of(row, |x| x * x) / row.len() as f32 + epsilon).sqrt();
                for (value, gain) in row.iter_mut().zip(gain) {
                    *value = gain * (*value * inverse);
                }
            }
        },
    );
}

fn normalised(state: &[f32], gain: &[f32], epsilon: f32) -> Rows {
    let mut rows = state.to_vec();
    normalise(&mut rows, gain, epsilon);
    Rows::pack(&rows, gain.len())
}

/// `silu(gate) · up` of rows that hold both.
fn gated(rows: &[f32], inner: usize) -> Vec<f32> {
    let mut result = vec![0.0; rows.len() / 2];
    let share = (SHARE / inner).max(1);
    result.par_chunks_mut(share * inner).zip(rows.par_chunks(2 * share * inner)).for_each(|(result, rows)| {
        kernels::vectorised(
            #[inline(always)]
            || {
                for (result, row) in result.chunks_exact_mut(inner).zip(rows.chunks_exact(2 * inner)) {
                    let (gate, up) = row.split_at(inner);
                    for ((result, gate), up) in result.iter_mut().zip(gate).zip(up) {
                        *result = gate / (1.0 + kernels::exponential(-gate)) * up;
                    }
                }
            },
        );
    });
    result
}

/// The weights that are not taken yet.
struct Source {
    tensors: BTreeMap<String, Tensor>,
}

impl Source {
    fn take(&mut self, name: &str, shape: &[usize]) -> Result<Vec<f32>> {
        let tensor = self.tensors.remove(name);
        let tensor = tensor.ok_or_else(|| Error::Invalid(format!("the model has no weight `{name}`")))?;
        if tensor.dims() != shape {
            let found = tensor.dims();
            return Err(Error::Invalid(format!(
                "the model's `{name}` has shape {found:?}, its config.json asks for {shape:?}"
            )));
        }
        Ok(tensor.to_dtype(DType::F32)?.flatten_all()?.to_vec1()?)
    }

    /// A model with weights that this decoder does not compute with would answer something else.
    fn check_rest(&self) -> Result<()> {
        // A tied model may carry its output matrix a second time; rotary tables are computed here.
        let known = |name: &str| name == "lm_head.weight" || name.ends_with("rotary_emb.inv_freq");
        match self.tensors.keys().find(|name| !known(name)) {
            Some(name) => Err(Error::Invalid(format!(
                "the model has a weight `{name}` that its model_type does not have: it would compute something else"
            ))),
            None => Ok(()),
        }
    }
}
