//! What only `ModernBERT` needs: rotations by position, and a gated activation.

use super::{gelu, vectorised};

/// Cosines and sines of positions up to the longest: `[positions][head_width / 2]`.
#[must_use]
pub fn rotations(positions: usize, head_width: usize, theta: f64) -> (Vec<f32>, Vec<f32>) {
    #[expect(
        clippy::cast_possible_truncation,
        reason = "frequencies are of single precision, as where models are trained"
    )]
    let frequency = |at: usize| (1.0 / theta.powf(2.0 * at as f64 / head_width as f64)) as f32;
    let frequencies: Vec<f32> = (0..head_width / 2).map(frequency).collect();
    let angles =
        (0..positions).flat_map(|position| frequencies.iter().map(move |frequency| position as f32 * frequency));
    angles.map(|angle| (angle.cos(), angle.sin())).unzip()
}

/// Rotates queries and keys of packed sequences by their positions: the first half of each head's row against its second.
/// `qkv` and `ends` are those of [`super::attention_within`].
pub(crate) fn rotate(qkv: &mut [f32], ends: &[usize], heads: usize, head_width: usize, theta: f64) {
    let (width, half) = (heads * head_width, head_width / 2);
    let mut start = 0;
    let longest = ends.iter().map(|&end| end - std::mem::replace(&mut start, end)).max().unwrap_or(0);
    let (cosines, sines) = rotations(longest, head_width, theta);
    let mut start = 0;
    for &end in ends {
        let tokens = &mut qkv[start * 3 * width..end * 3 * width];
        vectorised(
            #[inline(always)]
            || {
                let angles = cosines.chunks_exact(half).zip(sines.chunks_exact(half));
                for (row, (cosines, sines)) in tokens.chunks_exact_mut(3 * width).zip(angles) {
                    for head in row[..2 * width].chunks_exact_mut(head_width) {
                        let (left, right) = head.split_at_mut(half);
                        for (((left, right), cosine), sine) in left.iter_mut().zip(right).zip(cosines).zip(sines) {
                            (*left, *right) = (*left * cosine - *right * sine, *right * cosine + *left * sine);
                        }
                    }
                }
            },
        );
        start = end;
    }
}

/// `gelu(first half) · second half` of each row of `2 · inner`.
pub(crate) fn gated_gelu(rows: &[f32], inner: usize) -> Vec<f32> {
    let mut result = vec![0.0; rows.len() / 2];
    vectorised(
        #[inline(always)]
        || {
            for (result, row) in result.chunks_exact_mut(inner).zip(rows.chunks_exact(2 * inner)) {
                let (value, gate) = row.split_at(inner);
                for ((result, value), gate) in result.iter_mut().zip(value).zip(gate) {
                    *result = gelu(*value) * gate;
                }
            }
        },
    );
    result
}
