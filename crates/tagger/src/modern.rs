//! `ModernBERT`: normalised before each part instead of after it, no biases, positions as rotations of queries and keys, a gated
//! feed-forward part, and most layers see a few neighbours only (Warner et al., 2024).

use std::collections::HashMap;

use candle_core::{CpuStorage, CustomOp1, InplaceOp1, Layout, Shape, Tensor};
use serde::Deserialize;

use crate::encoder::{Attention, Weights, values, values_mut};
use crate::error::{Error, Result};
use crate::kernels::{self, Norm};
use crate::settings::{CONFIG_FILE, EncoderConfig};

/// What `ModernBERT` has that BERT has not.
#[derive(Clone, Debug, PartialEq)]
pub struct Modern {
    /// For each layer.
    pub layers: Vec<Sight>,
}

/// How the tokens of a layer see each other.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Sight {
    /// So many tokens to either side are seen; all where absent.
    pub window: Option<usize>,
    /// Base of the rotations' wavelengths.
    pub theta: f64,
}

/// Its `config.json`, as it was written at first and as transformers 5 writes it.
#[derive(Deserialize)]
struct File {
    vocab_size: usize,
    hidden_size: usize,
    num_hidden_layers: usize,
    num_attention_heads: usize,
    intermediate_size: usize,
    max_position_embeddings: usize,
    hidden_activation: String,
    norm_eps: f64,
    local_attention: usize,
    #[serde(default)]
    norm_bias: bool,
    #[serde(default)]
    attention_bias: bool,
    #[serde(default)]
    mlp_bias: bool,
    #[serde(default)]
    pad_token_id: Option<usize>,
    #[serde(default = "every")]
    global_attn_every_n_layers: usize,
    #[serde(default)]
    layer_types: Option<Vec<String>>,
    #[serde(default = "global_theta")]
    global_rope_theta: f64,
    #[serde(default = "local_theta")]
    local_rope_theta: Option<f64>,
    #[serde(default)]
    rope_parameters: HashMap<String, Rope>,
}

#[derive(Deserialize)]
struct Rope {
    #[serde(default)]
    rope_type: Option<String>,
    #[serde(default)]
    rope_theta: Option<f64>,
}

const fn every() -> usize {
    3
}

const fn global_theta() -> f64 {
    160_000.0
}

#[expect(clippy::unnecessary_wraps, reason = "a file may say null")]
const fn local_theta() -> Option<f64> {
    Some(10_000.0)
}

/// Name of layers that see everything.
const FULL: &str = "full_attention";
/// Name of layers that see neighbours.
const SLIDING: &str = "sliding_attention";

/// Reads its `config.json`.
pub(crate) fn parse(json: &[u8]) -> Result<EncoderConfig> {
    let refuse = |reason: String| Error::model(CONFIG_FILE, reason);
    let file: File =
        serde_json::from_slice(json).map_err(|error| refuse(format!("{error}; that of a ModernBERT is needed")))?;
    if file.norm_bias || file.attention_bias || file.mlp_bias {
        return Err(refuse("norm_bias, attention_bias and mlp_bias must be false: no biases are served".to_owned()));
    }
    for (name, rope) in &file.rope_parameters {
        if let Some(kind) = rope.rope_type.as_deref().filter(|kind| *kind != "default") {
            return Err(refuse(format!("rope_parameters.{name}.rope_type is `{kind}`, only `default` is served")));
        }
    }
    let types = file.layer_types.unwrap_or_else(|| {
        let every = file.global_attn_every_n_layers.max(1);
        let name = |layer: usize| if layer.is_multiple_of(every) { FULL } else { SLIDING };
        (0..file.num_hidden_layers).map(|layer| name(layer).to_owned()).collect()
    });
    if types.len() != file.num_hidden_layers {
        return Err(refuse(format!("layer_types has {} entries for {} layers", types.len(), file.num_hidden_layers)));
    }
    let theta = |name: &str, otherwise: f64| {
        let theta = file.rope_parameters.get(name).and_then(|rope| rope.rope_theta).unwrap_or(otherwise);
        if theta.is_finite() && theta > 1.0 { Ok(theta) } else { Err(refuse(format!("rope_theta is {theta}"))) }
    };
    let full = Sight { window: None, theta: theta(FULL, file.global_rope_theta)? };
    let local = file.local_rope_theta.unwrap_or(file.global_rope_theta);
    let sliding = Sight { window: Some(file.local_attention / 2), theta: theta(SLIDING, local)? };
    let sight = |name: &String| match name.as_str() {
        FULL => Ok(full),
        SLIDING => Ok(sliding),
        other => Err(refuse(format!("layer_types has `{other}`, `{FULL}` and `{SLIDING}` are served"))),
    };
    let layers = types.iter().map(sight).collect::<Result<_>>()?;
    if file.num_attention_heads == 0 || !(file.hidden_size / file.num_attention_heads).is_multiple_of(2) {
        return Err(refuse("the width of a head must be even: its halves are rotated against each other".to_owned()));
    }
    Ok(EncoderConfig {
        model_type: "modernbert".to_owned(),
        vocab_size: file.vocab_size,
        hidden_size: file.hidden_size,
        num_hidden_layers: file.num_hidden_layers,
        num_attention_heads: file.num_attention_heads,
        intermediate_size: file.intermediate_size,
        max_position_embeddings: file.max_position_embeddings,
        type_vocab_size: 1,
        pad_token_id: file.pad_token_id,
        hidden_act: file.hidden_activation,
        layer_norm_eps: file.norm_eps,
        position_embedding_type: "absolute".to_owned(),
        modern: Some(Modern { layers }),
    })
}

/// Names and shapes of its weights, without `model.`.
pub(crate) fn weight_shapes(config: &EncoderConfig) -> Vec<(String, Vec<usize>)> {
    let (width, inner) = (config.hidden_size, config.intermediate_size);
    let mut shapes = vec![
        ("embeddings.tok_embeddings.weight".to_owned(), vec![config.vocab_size, width]),
        ("embeddings.norm.weight".to_owned(), vec![width]),
        ("final_norm.weight".to_owned(), vec![width]),
    ];
    for layer in 0..config.num_hidden_layers {
        let mut add = |name: &str, shape: Vec<usize>| shapes.push((format!("layers.{layer}.{name}.weight"), shape));
        if layer > 0 {
            add("attn_norm", vec![width]);
        }
        add("attn.Wqkv", vec![3 * width, width]);
        add("attn.Wo", vec![width, width]);
        add("mlp_norm", vec![width]);
        add("mlp.Wi", vec![2 * inner, width]);
        add("mlp.Wo", vec![width, inner]);
    }
    shapes
}

/// A layer; weights are `[in, out]`.
#[derive(Debug)]
pub(crate) struct Layer {
    /// The first one's input is normalised already.
    norm: Option<Norm>,
    attention: Tensor,
    attention_out: Tensor,
    feed_norm: Norm,
    feed_in: Tensor,
    feed_out: Tensor,
    sight: Sight,
}

impl Layer {
    pub(crate) fn new(source: &Weights<'_>, config: &EncoderConfig, index: usize, sight: Sight) -> Result<Self> {
        let (width, inner) = (config.hidden_size, config.intermediate_size);
        let name = |part: &str| format!("layers.{index}.{part}");
        let dense = |part: &str, from: usize, to: usize| -> Result<Tensor> {
            Ok(source.tensor(&format!("{}.weight", name(part)), &[to, from])?.t()?.contiguous()?)
        };
        Ok(Self {
            norm: (index > 0).then(|| source.gain(&name("attn_norm"), width)).transpose()?,
            attention: dense("attn.Wqkv", width, 3 * width)?,
            attention_out: dense("attn.Wo", width, width)?,
            feed_norm: source.gain(&name("mlp_norm"), width)?,
            feed_in: dense("mlp.Wi", width, 2 * inner)?,
            feed_out: dense("mlp.Wo", inner, width)?,
            sight,
        })
    }

    pub(crate) fn forward(&self, state: &Tensor, ends: &[usize], heads: usize, head_width: usize) -> Result<Tensor> {
        let projected = match &self.norm {
            Some(norm) => normalised(state, norm)?.matmul(&self.attention)?,
            None => state.matmul(&self.attention)?,
        };
        projected.inplace_op1(&Rotate { ends, heads, head_width, theta: self.sight.theta })?;
        let window = self.sight.window;
        let context = projected.apply_op1_no_bwd(&Attention { ends, heads, head_width, window })?;
        let state = (state + context.matmul(&self.attention_out)?)?;
        let inner = normalised(&state, &self.feed_norm)?.matmul(&self.feed_in)?;
        let fed = inner.apply_op1_no_bwd(&GatedGelu)?.matmul(&self.feed_out)?;
        Ok((state + fed)?)
    }
}

/// A normalised copy.
pub(crate) fn normalised(state: &Tensor, norm: &Norm) -> Result<Tensor> {
    let copy = state.copy()?;
    copy.inplace_op1(&Normalise(norm))?;
    Ok(copy)
}

struct Normalise<'a>(&'a Norm);

impl InplaceOp1 for Normalise<'_> {
    fn name(&self) -> &'static str {
        "normalise"
    }

    fn cpu_fwd(&self, storage: &mut CpuStorage, layout: &Layout) -> candle_core::Result<()> {
        kernels::normalise(values_mut(storage, layout)?, self.0);
        Ok(())
    }
}

struct Rotate<'a> {
    ends: &'a [usize],
    heads: usize,
    head_width: usize,
    theta: f64,
}

impl InplaceOp1 for Rotate<'_> {
    fn name(&self) -> &'static str {
        "rotate"
    }

    fn cpu_fwd(&self, storage: &mut CpuStorage, layout: &Layout) -> candle_core::Result<()> {
        kernels::rotate(values_mut(storage, layout)?, self.ends, self.heads, self.head_width, self.theta);
        Ok(())
    }
}

struct GatedGelu;

impl CustomOp1 for GatedGelu {
    fn name(&self) -> &'static str {
        "gated-gelu"
    }

    fn cpu_fwd(&self, storage: &CpuStorage, layout: &Layout) -> candle_core::Result<(CpuStorage, Shape)> {
        let (rows, width) = layout.shape().dims2()?;
        let gated = kernels::gated_gelu(values(storage, layout)?, width / 2);
        Ok((CpuStorage::F32(gated), Shape::from((rows, width / 2))))
    }
}
