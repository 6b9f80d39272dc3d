//! `ModernBERT` in operations that have a backward pass: what [`uptake_tagger`] computes of it on packed sequences.

use candle_core::{Device, Tensor};
use uptake_tagger::{Modern, Sight, kernels};

use super::{Batch, MASKED, TrainableEncoder};
use crate::error::Result;
use crate::fused;

/// What the layers of a kind share.
struct Seen {
    sight: Sight,
    /// Added to attention scores, `[rows, 1, 1 or columns, columns]`.
    mask: Tensor,
    /// `[columns, head width / 2]`
    cosines: Tensor,
    sines: Tensor,
}

impl Seen {
    fn new(sight: Sight, batch: &Batch, head_width: usize) -> Result<Self> {
        let (columns, device) = (batch.columns, &Device::Cpu);
        let mask = match sight.window {
            Some(window) if window + 1 < columns => {
                let far = |at: usize| (at / columns).abs_diff(at % columns) > window;
                let values: Vec<f32> = (0..columns * columns).map(|at| if far(at) { MASKED } else { 0.0 }).collect();
                batch.mask.broadcast_add(&Tensor::from_vec(values, (1, 1, columns, columns), device)?)?
            }
            _ => batch.mask.clone(),
        };
        let (cosines, sines) = kernels::rotations(columns, head_width, sight.theta);
        let table = |values: Vec<f32>| Tensor::from_vec(values, (columns, head_width / 2), device);
        Ok(Self { sight, mask, cosines: table(cosines)?, sines: table(sines)? })
    }

    /// Rotates the halves of `[rows, heads, columns, head width]` against each other, by position.
    fn rotate(&self, input: &Tensor) -> Result<Tensor> {
        let half = input.dim(3)? / 2;
        let (left, right) = (input.narrow(3, 0, half)?, input.narrow(3, half, half)?);
        let first = (left.broadcast_mul(&self.cosines)? - right.broadcast_mul(&self.sines)?)?;
        let second = (right.broadcast_mul(&self.cosines)? + left.broadcast_mul(&self.sines)?)?;
        Ok(Tensor::cat(&[&first, &second], 3)?)
    }
}

impl TrainableEncoder {
    /// `[rows · columns, hidden]`
    pub(super) fn modern(&self, modern: &Modern, batch: &Batch) -> Result<Tensor> {
        let head_width = self.config.hidden_size / self.config.num_attention_heads;
        let mut seen: Vec<Seen> = Vec::new();
        let words = self.weight("embeddings.tok_embeddings.weight")?.index_select(&batch.tokens, 0)?;
        let mut state = self.scale("embeddings.norm", &words)?;
        for (layer, sight) in modern.layers.iter().enumerate() {
            let known = seen.iter().position(|seen| seen.sight == *sight);
            let known = if let Some(known) = known {
                known
            } else {
                seen.push(Seen::new(*sight, batch, head_width)?);
                seen.len() - 1
            };
            state = self.modern_layer(layer, &state, batch, &seen[known])?;
        }
        self.scale("final_norm", &state)
    }

    /// A dense layer without a bias.
    fn product(&self, name: &str, input: &Tensor) -> Result<Tensor> {
        let weight = self.weight(&format!("{name}.weight"))?;
        let none = Tensor::zeros(weight.dim(0)?, weight.dtype(), &Device::Cpu)?;
        Ok(fused::dense(input, weight, &none)?)
    }

    /// A layer normalisation without an offset.
    fn scale(&self, name: &str, input: &Tensor) -> Result<Tensor> {
        let gain = self.weight(&format!("{name}.weight"))?;
        #[expect(clippy::cast_possible_truncation, reason = "single precision is what the layer computes in")]
        let epsilon = self.config.layer_norm_eps as f32;
        Ok(fused::normalise(input, gain, &gain.zeros_like()?, epsilon)?)
    }

    fn modern_layer(&self, index: usize, state: &Tensor, batch: &Batch, seen: &Seen) -> Result<Tensor> {
        let name = |part: &str| format!("layers.{index}.{part}");
        let (rows, columns) = (batch.rows, batch.columns);
        let heads = self.config.num_attention_heads;
        let (width, inner) = (self.config.hidden_size, self.config.intermediate_size);
        // The first one's input is normalised already.
        let input = if index == 0 { state.clone() } else { self.scale(&name("attn_norm"), state)? };
        let projected = self.product(&name("attn.Wqkv"), &input)?;
        let part = |at: usize| -> Result<Tensor> {
            let part = projected.narrow(1, at * width, width)?;
            Ok(part.reshape((rows, columns, heads, width / heads))?.transpose(1, 2)?.contiguous()?)
        };
        let queries = (seen.rotate(&part(0)?)? * (1.0 / ((width / heads) as f64).sqrt()))?;
        let scores = queries.matmul(&seen.rotate(&part(1)?)?.t()?)?.broadcast_add(&seen.mask)?;
        let context = fused::softmax(&scores)?.matmul(&part(2)?)?;
        let context = context.transpose(1, 2)?.reshape((rows * columns, width))?;
        let state = (state + self.product(&name("attn.Wo"), &context)?)?;
        let both = self.product(&name("mlp.Wi"), &self.scale(&name("mlp_norm"), &state)?)?;
        let value = fused::gelu(&both.narrow(1, 0, inner)?.contiguous()?)?;
        let gated = (value * both.narrow(1, inner, inner)?)?;
        Ok((&state + self.product(&name("mlp.Wo"), &gated)?)?)
    }
}
