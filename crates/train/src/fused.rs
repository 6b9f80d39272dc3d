//! Fused operations with a backward pass of their own.
//!
//! candle's own fused operations have none, and its plain ones read and write each tensor many times over. These compute
//! in one pass what the tagger's kernels compute, and their gradients by formula. `f32` on the processor only.

#![expect(clippy::inline_always, reason = "what is not compiled into the dispatched loop is not vectorised")]

use candle_core::{CpuStorage, CustomOp1, CustomOp3, Device, InplaceOp1, Layout, Shape, Storage, Tensor};
use uptake_tagger::kernels;

type Result<T> = candle_core::Result<T>;

fn slice<'a>(storage: &'a CpuStorage, layout: &Layout) -> Result<&'a [f32]> {
    match (storage, layout.contiguous_offsets()) {
        (CpuStorage::F32(values), Some((start, end))) => Ok(&values[start..end]),
        _ => candle_core::bail!("a contiguous f32 tensor is needed"),
    }
}

/// Calls `read` with the values of a tensor.
fn with<T>(tensor: &Tensor, read: impl FnOnce(&[f32]) -> T) -> Result<T> {
    let tensor = tensor.contiguous()?;
    let (storage, layout) = tensor.storage_and_layout();
    match &*storage {
        Storage::Cpu(storage) => Ok(read(slice(storage, layout)?)),
        _ => candle_core::bail!("a tensor on the processor is needed"),
    }
}

fn like(values: Vec<f32>, shape: &Tensor) -> Result<Tensor> {
    Tensor::from_vec(values, shape.shape(), &Device::Cpu)
}

/// The exact GELU.
pub(crate) fn gelu(input: &Tensor) -> Result<Tensor> {
    input.apply_op1(Gelu)
}

struct Gelu;

impl CustomOp1 for Gelu {
    fn name(&self) -> &'static str {
        "gelu"
    }

    fn cpu_fwd(&self, storage: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        let mut values = slice(storage, layout)?.to_vec();
        kernels::vectorised(
            #[inline(always)]
            || {
                for value in &mut values {
                    *value = kernels::gelu(*value);
                }
            },
        );
        Ok((CpuStorage::F32(values), layout.shape().clone()))
    }

    fn bwd(&self, argument: &Tensor, _: &Tensor, gradient: &Tensor) -> Result<Option<Tensor>> {
        let mut values = with(gradient, <[f32]>::to_vec)?;
        with(argument, |argument| {
            kernels::vectorised(
                #[inline(always)]
                || {
                    for (value, argument) in values.iter_mut().zip(argument) {
                        *value *= kernels::gelu_slope(*argument);
                    }
                },
            );
        })?;
        like(values, argument).map(Some)
    }
}

/// Softmax over the last dimension.
pub(crate) fn softmax(input: &Tensor) -> Result<Tensor> {
    input.apply_op1(Softmax)
}

struct Softmax;

impl CustomOp1 for Softmax {
    fn name(&self) -> &'static str {
        "softmax"
    }

    fn cpu_fwd(&self, storage: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        let mut values = slice(storage, layout)?.to_vec();
        let width = layout.dims().last().copied().unwrap_or(1);
        kernels::vectorised(
            #[inline(always)]
            || {
                for row in values.chunks_exact_mut(width) {
                    kernels::softmax(row);
                }
            },
        );
        Ok((CpuStorage::F32(values), layout.shape().clone()))
    }

    fn bwd(&self, argument: &Tensor, result: &Tensor, gradient: &Tensor) -> Result<Option<Tensor>> {
        let width = argument.dims().last().copied().unwrap_or(1);
        let mut values = with(gradient, <[f32]>::to_vec)?;
        with(result, |result| {
            kernels::vectorised(
                #[inline(always)]
                || {
                    for (row, weights) in values.chunks_exact_mut(width).zip(result.chunks_exact(width)) {
                        let mean = kernels::sum_of_pairs(row, weights, |gradient, weight| gradient * weight);
                        for (value, weight) in row.iter_mut().zip(weights) {
                            *value = weight * (*value - mean);
                        }
                    }
                },
            );
        })?;
        like(values, argument).map(Some)
    }
}

/// Layer normalisation over the last dimension.
pub(crate) fn normalise(input: &Tensor, gain: &Tensor, offset: &Tensor, epsilon: f32) -> Result<Tensor> {
    input.apply_op3(gain, offset, Normalise { epsilon })
}

struct Normalise {
    epsilon: f32,
}

/// Mean and inverse deviation of a row.
#[inline(always)]
fn moments(row: &[f32], epsilon: f32) -> (f32, f32) {
    let count = row.len() as f32;
    let mean = kernels::sum_of(row, |value| value) / count;
    let variance = kernels::sum_of(row, |value| (value - mean) * (value - mean)) / count;
    (mean, 1.0 / (variance + epsilon).sqrt())
}

impl CustomOp3 for Normalise {
    fn name(&self) -> &'static str {
        "normalise"
    }

    fn cpu_fwd(
        &self,
        input: &CpuStorage,
        input_layout: &Layout,
        gain: &CpuStorage,
        gain_layout: &Layout,
        offset: &CpuStorage,
        offset_layout: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        let (gain, offset) = (slice(gain, gain_layout)?, slice(offset, offset_layout)?);
        let mut values = slice(input, input_layout)?.to_vec();
        kernels::vectorised(
            #[inline(always)]
            || {
                for row in values.chunks_exact_mut(gain.len()) {
                    let (mean, inverse) = moments(row, self.epsilon);
                    for ((value, gain), offset) in row.iter_mut().zip(gain).zip(offset) {
                        *value = (*value - mean) * inverse * gain + offset;
                    }
                }
            },
        );
        Ok((CpuStorage::F32(values), input_layout.shape().clone()))
    }

    fn bwd(
        &self,
        input: &Tensor,
        gain: &Tensor,
        offset: &Tensor,
        _: &Tensor,
        gradient: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>, Option<Tensor>)> {
        let mut values = with(gradient, <[f32]>::to_vec)?;
        let mut gains = vec![0.0; gain.elem_count()];
        let mut offsets = vec![0.0; gain.elem_count()];
        with(input, |input| with(gain, |gain| self.back(input, gain, &mut values, &mut gains, &mut offsets)))??;
        Ok((Some(like(values, input)?), Some(like(gains, gain)?), Some(like(offsets, offset)?)))
    }
}

impl Normalise {
    /// Turns the gradients of the result in `values` into those of the input, and sums up those of gain and offset.
    fn back(&self, input: &[f32], gain: &[f32], values: &mut [f32], gains: &mut [f32], offsets: &mut [f32]) {
        let width = gain.len();
        let count = width as f32;
        let mut normal = vec![0.0; width];
        kernels::vectorised(
            #[inline(always)]
            || {
                for (row, input) in values.chunks_exact_mut(width).zip(input.chunks_exact(width)) {
                    let (mean, inverse) = moments(input, self.epsilon);
                    for (normal, input) in normal.iter_mut().zip(input) {
                        *normal = (input - mean) * inverse;
                    }
                    let columns = row.iter_mut().zip(&normal).zip(gain).zip(gains.iter_mut().zip(offsets.iter_mut()));
                    for (((value, normal), gain), (gains, offsets)) in columns {
                        *gains += *value * normal;
                        *offsets += *value;
                        *value *= gain;
                    }
                    let straight = kernels::sum_of(row, |value| value) / count;
                    let along = kernels::sum_of_pairs(row, &normal, |value, normal| value * normal) / count;
                    for (value, normal) in row.iter_mut().zip(&normal) {
                        *value = inverse * (*value - straight - normal * along);
                    }
                }
            },
        );
    }
}

/// `input · weightᵀ + bias`, for `input` `[rows, in]` and `weight` `[out, in]`.
pub(crate) fn dense(input: &Tensor, weight: &Tensor, bias: &Tensor) -> Result<Tensor> {
    let product = input.detach().matmul(&weight.detach().t()?)?;
    with(bias, |bias| product.inplace_op1(&AddBias(bias)))??;
    input.apply_op3(weight, bias, Dense { product })
}

struct AddBias<'a>(&'a [f32]);

impl InplaceOp1 for AddBias<'_> {
    fn name(&self) -> &'static str {
        "add-bias"
    }

    fn cpu_fwd(&self, storage: &mut CpuStorage, layout: &Layout) -> Result<()> {
        match (storage, layout.contiguous_offsets()) {
            (CpuStorage::F32(values), Some((start, end))) => {
                kernels::add_bias(&mut values[start..end], self.0);
                Ok(())
            }
            _ => candle_core::bail!("a contiguous f32 tensor is needed"),
        }
    }
}

/// Gives a product, computed beside the graph by candle's own kernel, its place in the graph.
struct Dense {
    product: Tensor,
}

impl CustomOp3 for Dense {
    fn name(&self) -> &'static str {
        "dense"
    }

    fn cpu_fwd(
        &self,
        _: &CpuStorage,
        _: &Layout,
        _: &CpuStorage,
        _: &Layout,
        _: &CpuStorage,
        _: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        Ok((CpuStorage::F32(with(&self.product, <[f32]>::to_vec)?), self.product.shape().clone()))
    }

    fn bwd(
        &self,
        input: &Tensor,
        weight: &Tensor,
        bias: &Tensor,
        _: &Tensor,
        gradient: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>, Option<Tensor>)> {
        let gradient = gradient.contiguous()?;
        let mut biases = vec![0.0; bias.elem_count()];
        with(&gradient, |gradient| {
            kernels::vectorised(
                #[inline(always)]
                || {
                    for row in gradient.chunks_exact(biases.len()) {
                        for (sum, value) in biases.iter_mut().zip(row) {
                            *sum += value;
                        }
                    }
                },
            );
        })?;
        let inputs = gradient.matmul(&weight.detach())?;
        let weights = gradient.t()?.matmul(&input.detach())?;
        Ok((Some(inputs), Some(weights), Some(like(biases, bias)?)))
    }
}

#[cfg(test)]
mod tests {
    use candle_core::{D, Var};
    use candle_nn::ops;
    use rand::{Rng, SeedableRng};
    use rand_chacha::ChaCha8Rng;

    use super::*;

    fn random(seed: u64, shape: &[usize]) -> Var {
        let mut random = ChaCha8Rng::seed_from_u64(seed);
        let values: Vec<f32> = (0..shape.iter().product()).map(|_| random.random_range(-2.0..2.0)).collect();
        Var::from_tensor(&Tensor::from_vec(values, shape, &Device::Cpu).unwrap()).unwrap()
    }

    /// Ours and candle's plain operations: the same values, and the same gradients of every argument.
    #[track_caller]
    fn check(arguments: &[&Var], ours: impl Fn() -> Result<Tensor>, plain: impl Fn() -> Result<Tensor>) {
        let near = |left: &Tensor, right: &Tensor| {
            let distance = (left - right).unwrap().abs().unwrap().max_all().unwrap().to_scalar::<f32>().unwrap();
            assert!(distance < 2e-5, "{distance}");
        };
        let (ours, plain) = (ours().unwrap(), plain().unwrap());
        near(&ours, &plain);
        let factor = random(99, ours.dims());
        let gradients = |result: &Tensor| (result * factor.as_detached_tensor()).unwrap().sum_all().unwrap().backward();
        let (ours, plain) = (gradients(&ours).unwrap(), gradients(&plain).unwrap());
        for argument in arguments {
            near(ours.get(argument).unwrap(), plain.get(argument).unwrap());
        }
    }

    #[test]
    fn gelu_is_candles() {
        let x = random(1, &[5, 37]);
        check(&[&x], || gelu(&x), || x.gelu_erf());
    }

    #[test]
    fn softmax_is_candles() {
        let x = random(2, &[2, 3, 5, 21]);
        check(&[&x], || softmax(&x), || ops::softmax(x.as_tensor(), D::Minus1));
    }

    #[test]
    fn normalise_is_candles() {
        let (x, gain, offset) = (random(3, &[4, 40]), random(4, &[40]), random(5, &[40]));
        check(
            &[&x, &gain, &offset],
            || normalise(&x, &gain, &offset, 1e-12),
            || ops::layer_norm_slow(&x, &gain, &offset, 1e-12),
        );
    }

    #[test]
    fn dense_is_candles() {
        let (x, weight, bias) = (random(6, &[7, 12]), random(7, &[9, 12]), random(8, &[9]));
        check(&[&x, &weight, &bias], || dense(&x, &weight, &bias), || x.matmul(&weight.t()?)?.broadcast_add(&bias));
    }
}
