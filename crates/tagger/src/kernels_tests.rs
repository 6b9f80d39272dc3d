use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

use super::*;

fn random(seed: u64, count: usize) -> Vec<f32> {
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    (0..count).map(|_| rng.random_range(-2.0..2.0)).collect()
}

#[track_caller]
fn near(left: &[f32], right: &[f32], tolerance: f32) {
    assert_eq!(left.len(), right.len());
    for (index, (left, right)) in left.iter().zip(right).enumerate() {
        assert!((left - right).abs() <= tolerance, "at {index}: {left} and {right}");
    }
}

#[test]
fn exponential_is_close_to_the_library() {
    for step in -870..880 {
        let x = f32::from(i16::try_from(step).unwrap()) / 10.0;
        let (ours, theirs) = (exponential(x), x.exp());
        assert!((ours - theirs).abs() <= 3e-7 * theirs, "exp({x}): {ours} and {theirs}");
    }
    assert!(exponential(f32::NEG_INFINITY) < 1e-37);
}

#[test]
fn gelu_is_close_to_candles() {
    let input: Vec<f32> = (-800..800).map(|step| f32::from(i16::try_from(step).unwrap()) / 100.0).collect();
    let tensor = candle_core::Tensor::new(input.as_slice(), &candle_core::Device::Cpu).unwrap();
    let expected = tensor.gelu_erf().unwrap().to_vec1::<f32>().unwrap();
    let ours: Vec<f32> = input.iter().map(|x| gelu(*x)).collect();
    near(&ours, &expected, 1e-6);
}

/// The textbook's attention, one number after the other, in double precision.
#[expect(clippy::cast_possible_truncation, reason = "the result is compared in single precision")]
fn plain_attention(qkv: &[f32], ends: &[usize], heads: usize, head_width: usize, window: usize) -> Vec<f32> {
    let sees = |i: usize, j: usize| i.abs_diff(j) <= window;
    let width = heads * head_width;
    let at = |token: usize, part: usize, head: usize, d: usize| {
        f64::from(qkv[token * 3 * width + part * width + head * head_width + d])
    };
    let mut out = vec![0.0; qkv.len() / 3];
    let mut start = 0;
    for &end in ends {
        for head in 0..heads {
            for i in start..end {
                let weights: Vec<f64> = (start..end)
                    .map(|j| (0..head_width).map(|d| at(i, 0, head, d) * at(j, 1, head, d)).sum::<f64>())
                    .zip(start..end)
                    .map(|(dot, j)| if sees(i, j) { (dot / (head_width as f64).sqrt()).exp() } else { 0.0 })
                    .collect();
                let total: f64 = weights.iter().sum();
                for d in 0..head_width {
                    let mixed: f64 = weights.iter().zip(start..end).map(|(w, j)| w / total * at(j, 2, head, d)).sum();
                    out[i * width + head * head_width + d] = mixed as f32;
                }
            }
        }
        start = end;
    }
    out
}

#[test]
fn attention_is_the_textbooks_whatever_the_lengths() {
    for (seed, lengths, heads, head_width) in
        [(1, vec![1], 1, 16), (2, vec![3, 1, 17, 64, 65, 128], 12, 32), (3, vec![5, 70], 3, 20), (4, vec![9, 2], 2, 7)]
    {
        let ends: Vec<usize> = lengths
            .iter()
            .scan(0, |end, length: &usize| {
                *end += length;
                Some(*end)
            })
            .collect();
        let qkv = random(seed, ends.last().unwrap() * 3 * heads * head_width);
        for window in [None, Some(0), Some(3), Some(40)] {
            let expected = plain_attention(&qkv, &ends, heads, head_width, window.unwrap_or(usize::MAX));
            near(&attention_within(&qkv, &ends, heads, head_width, window), &expected, 2e-6);
        }
    }
}

#[test]
fn normalisation_has_mean_zero_and_variance_one() {
    let width = 37;
    let norm = Norm { gain: vec![1.0; width], offset: vec![0.0; width], epsilon: 1e-12 };
    let mut rows = random(5, 4 * width);
    normalise(&mut rows, &norm);
    for row in rows.chunks_exact(width) {
        let mean: f32 = row.iter().sum::<f32>() / 37.0;
        let variance: f32 = row.iter().map(|value| value * value).sum::<f32>() / 37.0;
        near(&[mean, variance], &[0.0, 1.0], 1e-5);
    }
}

#[test]
fn residual_and_bias_are_added_before_normalisation() {
    let norm = Norm { gain: random(6, 24), offset: random(7, 24), epsilon: 1e-12 };
    let (bias, residual) = (random(8, 24), random(9, 72));
    let mut rows = random(10, 72);
    let mut expected: Vec<f32> = rows.iter().enumerate().map(|(i, v)| v + bias[i % 24] + residual[i]).collect();
    normalise(&mut expected, &norm);
    add_bias_residual_normalise(&mut rows, &bias, &residual, &norm);
    near(&rows, &expected, 1e-5);
}

#[test]
fn projection_is_a_dot_product() {
    let (row, matrix, bias) = (random(11, 37), random(12, 3 * 37), random(13, 3));
    let mut out = vec![0.0; 3];
    project(&row, &matrix, &bias, &mut out);
    let expected: Vec<f32> = (0..3)
        .map(|column| bias[column] + row.iter().zip(&matrix[column * 37..]).map(|(a, b)| a * b).sum::<f32>())
        .collect();
    near(&out, &expected, 1e-4);
}
