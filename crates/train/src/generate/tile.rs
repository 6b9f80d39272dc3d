//! Matrix products of which each row is computed as if it were alone.
//!
//! candle's product takes another way where there is one row, so that a row's last bits depend on what it is batched with;
//! after a few hundred tokens that is another answer. Here each output is one sum in the order of the inputs, by fused
//! multiplication and addition, whatever the number of rows and however wide the processor's vectors are: an answer depends
//! on its prompt alone, to the bit. Weights are laid out once for these loops; candle's product packs them each time, which
//! for a few rows costs more than the product (at 8 to 16 rows this one takes less than half the time).

#![expect(clippy::inline_always, reason = "what is not compiled into the dispatched loop is not vectorised")]

use pulp::{Arch, Simd, WithSimd};
use rayon::prelude::*;

/// Outputs that are computed together: two vectors of 256 bits.
pub(super) const PANEL: usize = 16;
/// Rows that are computed together: 6 × 2 sums, 2 vectors of weights and 1 of a row's value fill the 16 registers of AVX2.
pub(super) const BLOCK: usize = 6;
/// Blocks that meet a panel while both are in the cache.
const BLOCKS_A_TURN: usize = 16;

/// Rows of inputs in the order in which tiles read them: block by block, in a block input by input.
#[derive(Debug)]
pub(super) struct Rows {
    count: usize,
    width: usize,
    values: Vec<f32>,
}

impl Rows {
    /// Packs rows that lie one after the other.
    pub(super) fn pack(rows: &[f32], width: usize) -> Self {
        let mut values = vec![0.0; rows.len()];
        for (rows, block) in rows.chunks(BLOCK * width).zip(values.chunks_mut(BLOCK * width)) {
            let count = rows.len() / width;
            for (at, row) in rows.chunks_exact(width).enumerate() {
                for (value, packed) in row.iter().zip(block[at..].iter_mut().step_by(count)) {
                    *packed = *value;
                }
            }
        }
        Self { count: rows.len() / width, width, values }
    }
}

/// A frozen matrix of weights, by panels of outputs; in a panel input by input.
#[derive(Debug)]
pub(super) struct Matrix {
    inputs: usize,
    outputs: usize,
    panels: Vec<f32>,
    bias: Option<Vec<f32>>,
}

impl Matrix {
    /// Lays out weights `[outputs, inputs]` that lie one matrix after the other, as one matrix.
    pub(super) fn new(parts: &[Vec<f32>], inputs: usize, bias: Option<Vec<f32>>) -> Self {
        let outputs = parts.iter().map(Vec::len).sum::<usize>() / inputs;
        let mut panels = vec![0.0; outputs.next_multiple_of(PANEL) * inputs];
        for (output, weights) in parts.iter().flat_map(|part| part.chunks_exact(inputs)).enumerate() {
            let panel = &mut panels[output / PANEL * PANEL * inputs + output % PANEL..];
            for (weight, packed) in weights.iter().zip(panel.iter_mut().step_by(PANEL)) {
                *packed = *weight;
            }
        }
        Self { inputs, outputs, panels, bias }
    }

    /// The weights of one output, or nothing where there is no such output.
    pub(super) fn weights_of(&self, output: usize) -> Option<impl Iterator<Item = f32>> {
        let panel = self.panels.get(output / PANEL * PANEL * self.inputs + output % PANEL..)?;
        (output < self.outputs).then(|| panel.iter().step_by(PANEL).take(self.inputs).copied())
    }

    /// `rows · weightsᵀ + bias`, a row of outputs after the other. `scratch` is what one product leaves to the next.
    pub(super) fn product(&self, rows: &Rows, scratch: &mut Vec<f32>) -> Vec<f32> {
        let panels = self.panels.len() / (PANEL * self.inputs);
        let size = panels * PANEL * rows.count;
        // Each number of it is written before it is read.
        scratch.resize(size.max(scratch.len()), 0.0);
        let tiles = &mut scratch[..size];
        // A few tasks a thread: enough to even out, not so many that handing them out costs.
        let share = panels.div_ceil(4 * rayon::current_num_threads()).max(1);
        tiles
            .par_chunks_mut(share * PANEL * rows.count)
            .zip(self.panels.par_chunks(share * PANEL * self.inputs))
            .for_each(|(out, panels)| Arch::new().dispatch(Multiply { rows, panels, out }));
        let mut product = vec![0.0; rows.count * self.outputs];
        for (row, out) in product.chunks_exact_mut(self.outputs).enumerate() {
            for (panel, out) in out.chunks_mut(PANEL).enumerate() {
                let tile = &tiles[(panel * rows.count + row) * PANEL..];
                out.copy_from_slice(&tile[..out.len()]);
            }
            for (value, bias) in out.iter_mut().zip(self.bias.iter().flatten()) {
                *value += bias;
            }
        }
        product
    }
}

/// A share of the panels with all rows; the result is `[panels][rows][PANEL]`.
struct Multiply<'a> {
    rows: &'a Rows,
    panels: &'a [f32],
    out: &'a mut [f32],
}

impl WithSimd for Multiply<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let Rows { count, width, values } = self.rows;
        let turn = BLOCKS_A_TURN * BLOCK;
        for (at, rows) in values.chunks(turn * width).enumerate() {
            for (panel, out) in self.panels.chunks_exact(PANEL * width).zip(self.out.chunks_exact_mut(PANEL * count)) {
                let out = out[at * turn * PANEL..].chunks_mut(BLOCK * PANEL);
                for (block, out) in rows.chunks(BLOCK * width).zip(out) {
                    multiply(simd, block, block.len() / width, panel, out);
                }
            }
        }
    }
}

/// A block of `count` rows, packed, with one panel: `out` is `[count][PANEL]`.
#[inline(always)]
pub(super) fn multiply<S: Simd>(simd: S, block: &[f32], count: usize, panel: &[f32], out: &mut [f32]) {
    match count {
        1 => wide::<S, 1>(simd, block, panel, out),
        2 => wide::<S, 2>(simd, block, panel, out),
        3 => wide::<S, 3>(simd, block, panel, out),
        4 => wide::<S, 4>(simd, block, panel, out),
        5 => wide::<S, 5>(simd, block, panel, out),
        _ => wide::<S, 6>(simd, block, panel, out),
    }
}

/// Picks the number of vectors that make a panel.
#[inline(always)]
fn wide<S: Simd, const R: usize>(simd: S, block: &[f32], panel: &[f32], out: &mut [f32]) {
    match PANEL / S::F32_LANES {
        1 => tile::<S, R, 1>(simd, block, panel, out),
        2 => tile::<S, R, 2>(simd, block, panel, out),
        4 => tile::<S, R, 4>(simd, block, panel, out),
        8 => tile::<S, R, 8>(simd, block, panel, out),
        _ => tile::<S, R, 16>(simd, block, panel, out),
    }
}

#[inline(always)]
fn tile<S: Simd, const R: usize, const V: usize>(simd: S, block: &[f32], panel: &[f32], out: &mut [f32]) {
    let mut sums = [[simd.splat_f32s(0.0); V]; R];
    let panel = S::as_simd_f32s(panel).0.as_chunks::<V>().0;
    for (values, weights) in block.as_chunks::<R>().0.iter().zip(panel) {
        for (sums, value) in sums.iter_mut().zip(values) {
            let value = simd.splat_f32s(*value);
            for (sum, weights) in sums.iter_mut().zip(weights) {
                *sum = simd.mul_add_f32s(value, *weights, *sum);
            }
        }
    }
    let out = S::as_mut_simd_f32s(out).0.as_chunks_mut::<V>().0;
    for (out, sums) in out.iter_mut().zip(sums) {
        *out = sums;
    }
}

#[cfg(test)]
mod tests {
    use rand::{Rng, SeedableRng};
    use rand_chacha::ChaCha8Rng;

    use super::*;

    fn random(seed: u64, count: usize) -> Vec<f32> {
        let mut random = ChaCha8Rng::seed_from_u64(seed);
        (0..count).map(|_| random.random_range(-1.0..1.0)).collect()
    }

    #[test]
    fn each_output_is_one_sum_in_the_order_of_the_inputs() {
        for (rows, inputs, outputs) in [(1, 5, 3), (6, 16, 16), (7, 33, 40), (103, 20, 17)] {
            let (values, weights) = (random(1, rows * inputs), random(2, outputs * inputs));
            let bias = random(3, outputs);
            let (first, second) = weights.split_at(inputs);
            let matrix = Matrix::new(&[first.to_vec(), second.to_vec()], inputs, Some(bias.clone()));
            let product = matrix.product(&Rows::pack(&values, inputs), &mut vec![f32::NAN; 7]);
            let expected: Vec<f32> = values
                .chunks_exact(inputs)
                .flat_map(|row| {
                    let sum = |weights: &[f32]| {
                        row.iter().zip(weights).fold(0.0_f32, |sum, (value, weight)| value.mul_add(*weight, sum))
                    };
                    let sums: Vec<f32> = weights.chunks_exact(inputs).map(sum).collect();
                    sums.into_iter().zip(&bias).map(|(sum, bias)| sum + bias).collect::<Vec<_>>()
                })
                .collect();
            assert_eq!(product, expected, "{rows} {inputs} {outputs}");
            let output: Vec<f32> = matrix.weights_of(outputs - 1).unwrap().collect();
            assert_eq!(output, weights[(outputs - 1) * inputs..]);
            assert!(matrix.weights_of(outputs).is_none());
        }
    }
}
