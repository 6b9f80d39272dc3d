//! The encoder's arithmetic beside matrix products: plain functions over slices of `f32`, compiled for the widest
//! vectors that the processor has (`pulp` picks at run time; no unsafe code is needed for it).
//!
//! Training builds its own loops of the same parts, so that both compute the same.
//!
//! Loops run over fixed-size blocks of independent lanes, which is what lets the compiler vectorise them: it may not
//! reorder a sum of floats by itself.

#![expect(clippy::inline_always, reason = "what is not compiled into the dispatched loop is not vectorised")]

mod modern;

use pulp::{Arch, Simd, WithSimd};

pub use modern::rotations;
pub(crate) use modern::{gated_gelu, rotate};

/// Lanes of a block: four vectors of 512 bits, so that additions of one block do not wait for each other.
const LANES: usize = 64;
/// Lanes of a short block, for rows of one head.
const SHORT: usize = 16;

/// Runs loops as they are compiled for the widest vectors of the processor.
///
/// Not `Arch::dispatch` on the closure itself: that calls it by value, through a shim which the compiler makes outside of what
/// is compiled for those vectors, so that the loops would be compiled for the least of all processors.
#[inline(always)]
pub fn vectorised<Output>(loops: impl FnMut() -> Output) -> Output {
    struct Loops<F>(F);

    impl<Output, F: FnMut() -> Output> WithSimd for Loops<F> {
        type Output = Output;

        #[inline(always)]
        fn with_simd<S: Simd>(mut self, _: S) -> Output {
            (self.0)()
        }
    }

    Arch::new().dispatch(Loops(loops))
}

/// `exp(x)` by a polynomial of degree 5 on the remainder to a power of two (Cephes); relative error below 2e-7.
#[inline(always)]
#[must_use]
pub fn exponential(x: f32) -> f32 {
    const ROUND: f32 = 12_582_912.0; // 1.5 · 2^23: adding it leaves the integer part in the low mantissa bits
    let x = x.clamp(-87.0, 88.0);
    let shifted = x.mul_add(std::f32::consts::LOG2_E, ROUND);
    // Wrapping: a check for overflow, which development builds have, would keep the loop from being vectorised.
    let power = shifted.to_bits().wrapping_sub(ROUND.to_bits());
    let whole = shifted - ROUND;
    let rest = whole.mul_add(2.121_944_4e-4, whole.mul_add(-0.693_359_4, x));
    let mut series = 1.987_569_1e-4_f32;
    series = series.mul_add(rest, 1.398_2e-3);
    series = series.mul_add(rest, 8.333_452e-3);
    series = series.mul_add(rest, 4.166_579_6e-2);
    series = series.mul_add(rest, 1.666_666_5e-1);
    series = series.mul_add(rest, 0.5);
    let series = (series * rest).mul_add(rest, rest) + 1.0;
    series * f32::from_bits(power.wrapping_add(127) << 23)
}

/// `erf(x / √2)` after Abramowitz and Stegun 7.1.26 (absolute error 1.5e-7), and `exp(-x² / 2)` on the way.
#[inline(always)]
fn error_function(x: f32) -> (f32, f32) {
    let z = x * std::f32::consts::FRAC_1_SQRT_2;
    let size = z.abs();
    let t = 1.0 / size.mul_add(0.327_591_1, 1.0);
    let mut series = 1.061_405_4_f32;
    series = series.mul_add(t, -1.453_152);
    series = series.mul_add(t, 1.421_413_7);
    series = series.mul_add(t, -0.284_496_74);
    series = series.mul_add(t, 0.254_829_6);
    let bell = exponential(-size * size);
    ((1.0 - series * t * bell).copysign(z), bell)
}

/// The exact GELU: `0.5 · x · (1 + erf(x / √2))`.
#[inline(always)]
#[must_use]
pub fn gelu(x: f32) -> f32 {
    0.5 * x * (1.0 + error_function(x).0)
}

/// The derivative of [`gelu`]: `0.5 · (1 + erf(x / √2)) + x · exp(-x² / 2) / √(2π)`.
#[inline(always)]
#[must_use]
pub fn gelu_slope(x: f32) -> f32 {
    const INVERSE_ROOT: f32 = 0.398_942_3;
    let (erf, bell) = error_function(x);
    0.5 * (1.0 + erf) + x * bell * INVERSE_ROOT
}

/// Adds `bias` to each row of `rows`.
pub fn add_bias(rows: &mut [f32], bias: &[f32]) {
    vectorised(
        #[inline(always)]
        || {
            for row in rows.chunks_exact_mut(bias.len()) {
                for (value, bias) in row.iter_mut().zip(bias) {
                    *value += bias;
                }
            }
        },
    );
}

/// Adds `bias` to each row of `rows`, then applies the exact GELU.
pub(crate) fn add_bias_gelu(rows: &mut [f32], bias: &[f32]) {
    vectorised(
        #[inline(always)]
        || {
            for row in rows.chunks_exact_mut(bias.len()) {
                for (value, bias) in row.iter_mut().zip(bias) {
                    *value = gelu(*value + bias);
                }
            }
        },
    );
}

/// Gain, offset and epsilon of a layer normalisation.
#[derive(Clone, Debug)]
pub(crate) struct Norm {
    pub(crate) gain: Vec<f32>,
    pub(crate) offset: Vec<f32>,
    pub(crate) epsilon: f32,
}

/// Normalises each row in place.
pub(crate) fn normalise(rows: &mut [f32], norm: &Norm) {
    vectorised(
        #[inline(always)]
        || {
            for row in rows.chunks_exact_mut(norm.gain.len()) {
                normalise_row(row, norm);
            }
        },
    );
}

/// Adds `bias` and `residual` to each row, then normalises it.
pub(crate) fn add_bias_residual_normalise(rows: &mut [f32], bias: &[f32], residual: &[f32], norm: &Norm) {
    let width = bias.len();
    vectorised(
        #[inline(always)]
        || {
            for (row, residual) in rows.chunks_exact_mut(width).zip(residual.chunks_exact(width)) {
                for ((value, bias), residual) in row.iter_mut().zip(bias).zip(residual) {
                    *value += bias + residual;
                }
                normalise_row(row, norm);
            }
        },
    );
}

#[inline(always)]
fn normalise_row(row: &mut [f32], norm: &Norm) {
    let count = row.len() as f32;
    let mean = sum_of(row, |value| value) / count;
    let variance = sum_of(row, |value| (value - mean) * (value - mean)) / count;
    let inverse = 1.0 / (variance + norm.epsilon).sqrt();
    for ((value, gain), offset) in row.iter_mut().zip(&norm.gain).zip(&norm.offset) {
        *value = (*value - mean) * inverse * gain + offset;
    }
}

/// Sum of `term` over two rows of the same length, in independent lanes.
#[inline(always)]
pub fn sum_of_pairs(left: &[f32], right: &[f32], term: impl Fn(f32, f32) -> f32) -> f32 {
    let ((left, left_rest), (right, right_rest)) = (left.as_chunks::<SHORT>(), right.as_chunks::<SHORT>());
    let mut lanes = [0.0_f32; SHORT];
    for (left, right) in left.iter().zip(right) {
        for ((lane, left), right) in lanes.iter_mut().zip(left).zip(right) {
            *lane += term(*left, *right);
        }
    }
    let rest = left_rest.iter().zip(right_rest).map(|(left, right)| term(*left, *right));
    lanes.iter().sum::<f32>() + rest.sum::<f32>()
}

/// Sum of `term` over a row, in independent lanes.
#[inline(always)]
pub fn sum_of(row: &[f32], term: impl Fn(f32) -> f32) -> f32 {
    let (blocks, rest) = row.as_chunks::<SHORT>();
    let mut lanes = [0.0_f32; SHORT];
    for block in blocks {
        for (lane, value) in lanes.iter_mut().zip(block) {
            *lane += term(*value);
        }
    }
    lanes.iter().sum::<f32>() + rest.iter().map(|value| term(*value)).sum::<f32>()
}

/// Multi-head attention over packed sequences.
///
/// `qkv` holds a row per token: queries, keys and values of all heads, each `heads · head_width` wide. `ends` are the
/// sequences' ends in tokens, rising; tokens see only their own sequence, and of it so many tokens to either side as the
/// `window` has. The result has a row of `heads · head_width` per token.
pub(crate) fn attention_within(
    qkv: &[f32],
    ends: &[usize],
    heads: usize,
    head_width: usize,
    window: Option<usize>,
) -> Vec<f32> {
    let width = heads * head_width;
    let mut context = vec![0.0; qkv.len() / 3];
    let mut scratch = Scratch::default();
    let mut start = 0;
    for &end in ends {
        let tokens = &qkv[start * 3 * width..end * 3 * width];
        let out = &mut context[start * width..end * width];
        for head in 0..heads {
            let window = window.unwrap_or(usize::MAX);
            let view = Head { tokens, offset: head * head_width, width, columns: head_width, window };
            vectorised(
                #[inline(always)]
                || view.attend(out, &mut scratch),
            );
        }
        start = end;
    }
    context
}

/// Buffers that one sequence leaves to the next.
#[derive(Default)]
struct Scratch {
    /// Keys of one head, transposed: a row per dimension, padded with zeros to whole blocks of tokens.
    keys: Vec<f32>,
    /// Values of one head, a row per token.
    values: Vec<f32>,
    /// Attention weights of one token.
    weights: Vec<f32>,
}

/// One head of one sequence.
struct Head<'a> {
    tokens: &'a [f32],
    offset: usize,
    width: usize,
    columns: usize,
    window: usize,
}

impl Head<'_> {
    #[inline(always)]
    fn attend(&self, out: &mut [f32], scratch: &mut Scratch) {
        let row_width = 3 * self.width;
        let length = self.tokens.len() / row_width;
        let padded = length.next_multiple_of(LANES);
        self.gather(scratch, length, padded);
        scratch.weights.clear();
        scratch.weights.resize(padded, 0.0);
        let scale = 1.0 / (self.columns as f32).sqrt();
        let rows = self.tokens.chunks_exact(row_width).zip(out.chunks_exact_mut(self.width));
        for (place, (row, out)) in rows.enumerate() {
            let query = &row[self.offset..self.offset + self.columns];
            scores(query, scale, &scratch.keys, &mut scratch.weights);
            let from = place.saturating_sub(self.window);
            let to = place.saturating_add(self.window).saturating_add(1).min(length);
            let weights = &mut scratch.weights[from..to];
            softmax(weights);
            let values = &scratch.values[from * self.columns..to * self.columns];
            mix(weights, values, &mut out[self.offset..self.offset + self.columns]);
        }
    }

    #[inline(always)]
    fn gather(&self, scratch: &mut Scratch, length: usize, padded: usize) {
        scratch.keys.clear();
        scratch.keys.resize(self.columns * padded, 0.0);
        scratch.values.clear();
        scratch.values.reserve(length * self.columns);
        for (token, row) in self.tokens.chunks_exact(3 * self.width).enumerate() {
            let key = &row[self.width + self.offset..][..self.columns];
            for (column, value) in scratch.keys.chunks_exact_mut(padded).zip(key) {
                column[token] = *value;
            }
            scratch.values.extend_from_slice(&row[2 * self.width + self.offset..][..self.columns]);
        }
    }
}

/// `weights[j] = scale · query · key j`, a block of tokens at a time.
#[inline(always)]
fn scores(query: &[f32], scale: f32, keys: &[f32], weights: &mut [f32]) {
    let padded = weights.len();
    for (block, weights) in weights.as_chunks_mut::<LANES>().0.iter_mut().enumerate() {
        let mut lanes = [0.0_f32; LANES];
        for (value, column) in query.iter().zip(keys.chunks_exact(padded)) {
            let value = value * scale;
            if let Some(keys) = column.as_chunks::<LANES>().0.get(block) {
                for (lane, key) in lanes.iter_mut().zip(keys) {
                    *lane = value.mul_add(*key, *lane);
                }
            }
        }
        *weights = lanes;
    }
}

/// Softmax of a row, in place.
#[inline(always)]
pub fn softmax(weights: &mut [f32]) {
    let largest = weights.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    for weight in weights.iter_mut() {
        *weight = exponential(*weight - largest);
    }
    let inverse = 1.0 / sum_of(weights, |weight| weight);
    for weight in weights.iter_mut() {
        *weight *= inverse;
    }
}

/// `out = Σ weight j · value j`.
#[inline(always)]
fn mix(weights: &[f32], values: &[f32], out: &mut [f32]) {
    let head_width = out.len();
    let (blocks, rest) = out.as_chunks_mut::<SHORT>();
    let whole = blocks.len() * SHORT;
    for (block, out) in blocks.iter_mut().enumerate() {
        // Two sums side by side: one alone would wait for each of its own additions.
        let (mut even, mut odd) = ([0.0_f32; SHORT], [0.0_f32; SHORT]);
        for (weights, values) in weights.chunks(2).zip(values.chunks(2 * head_width)) {
            accumulate(&mut even, weights.first(), values.get(block * SHORT..));
            accumulate(&mut odd, weights.get(1), values.get(head_width + block * SHORT..));
        }
        for ((out, even), odd) in out.iter_mut().zip(even).zip(odd) {
            *out = even + odd;
        }
    }
    for (index, out) in rest.iter_mut().enumerate() {
        *out = weights.iter().zip(values.iter().skip(whole + index).step_by(head_width)).map(|(w, v)| w * v).sum();
    }
}

#[inline(always)]
fn accumulate(lanes: &mut [f32; SHORT], weight: Option<&f32>, values: Option<&[f32]>) {
    if let (Some(weight), Some(values)) = (weight, values.and_then(|values| values.first_chunk::<SHORT>())) {
        for (lane, value) in lanes.iter_mut().zip(values) {
            *lane = weight.mul_add(*value, *lane);
        }
    }
}

/// `row · column + bias` for each column of a `[columns][row.len()]` matrix.
pub(crate) fn project(row: &[f32], matrix: &[f32], bias: &[f32], out: &mut [f32]) {
    vectorised(
        #[inline(always)]
        || {
            for ((out, column), bias) in out.iter_mut().zip(matrix.chunks_exact(row.len())).zip(bias) {
                let (blocks, rest) = row.as_chunks::<SHORT>();
                let (others, other_rest) = column.as_chunks::<SHORT>();
                let mut lanes = [0.0_f32; SHORT];
                for (block, other) in blocks.iter().zip(others) {
                    for ((lane, a), b) in lanes.iter_mut().zip(block).zip(other) {
                        *lane = a.mul_add(*b, *lane);
                    }
                }
                let rest: f32 = rest.iter().zip(other_rest).map(|(a, b)| a * b).sum();
                *out = lanes.iter().sum::<f32>() + rest + bias;
            }
        },
    );
}

#[cfg(test)]
#[path = "kernels_tests.rs"]
mod tests;
