//! What is minimised.

use candle_core::{Device, Tensor};

use crate::error::Result;

/// Of `[inputs, heads]` the logit of each input's head: `[inputs]`.
pub(super) fn of_heads(logits: &Tensor, heads: &[usize]) -> Result<Tensor> {
    let (rows, columns) = logits.dims2()?;
    let mut mask = vec![0.0_f32; rows * columns];
    for (row, head) in heads.iter().enumerate() {
        mask[row * columns + head] = 1.0;
    }
    Ok((logits * Tensor::from_vec(mask, (rows, columns), &Device::Cpu)?)?.sum(1)?)
}

/// A row of numbers.
pub(super) fn vector(values: Vec<f32>) -> Result<Tensor> {
    let count = values.len();
    Ok(Tensor::from_vec(values, count, &Device::Cpu)?)
}

/// Bradley-Terry with margin and centring: −log σ(better − worse − margin) + `centring` · (better + worse)², weighted, over
/// the count of pairs. Centring keeps the rewards of one prompt around nought, which differences alone leave open.
pub(super) fn preference(
    better: &Tensor,
    worse: &Tensor,
    margins: &Tensor,
    weights: &Tensor,
    centring: f64,
) -> Result<Tensor> {
    let behind = ((worse - better)? + margins)?;
    // softplus by relu, not by a minimum: its slope at 0 is the right one, 1/2.
    let surprise = (behind.relu()? + (behind.abs()?.neg()?.exp()? + 1.0)?.log()?)?;
    let centre = ((better + worse)?.sqr()? * centring)?;
    Ok(((surprise + centre)? * weights)?.mean_all()?)
}

/// −log σ(difference), in double precision.
pub(super) fn surprise(difference: f64) -> f64 {
    (-difference).max(0.0) + (-difference.abs()).exp().ln_1p()
}

#[cfg(test)]
mod tests {
    use candle_core::Var;

    use super::*;

    fn var(values: &[f32]) -> Var {
        Var::new(values, &Device::Cpu).unwrap()
    }

    #[test]
    fn the_pairs_loss_and_its_slope_are_those_of_the_formula() {
        let (better, worse) = (var(&[0.0, 2.0, -50.0]), var(&[0.0, 0.5, 60.0]));
        let (margins, weights) = (vector(vec![0.0, 0.5, 0.0]).unwrap(), vector(vec![1.0, 0.5, 2.0]).unwrap());
        let loss = preference(&better, &worse, &margins, &weights, 0.01).unwrap();
        let expected = [2.0_f64.ln(), 0.5 * (surprise(1.0) + 0.01 * 2.5 * 2.5), 2.0 * (110.0 + 0.01 * 100.0)];
        let value = f64::from(loss.to_scalar::<f32>().unwrap());
        assert!((value - expected.iter().sum::<f64>() / 3.0).abs() < 1e-4, "{value}");
        let gradients = loss.backward().unwrap();
        let slope = gradients.get(&better).unwrap().to_vec1::<f32>().unwrap();
        let expected =
            [-0.5 / 3.0, 0.5 * (-1.0 / (1.0 + 1.0_f32.exp()) + 0.02 * 2.5) / 3.0, 2.0 * (-1.0 + 0.02 * 10.0) / 3.0];
        for (slope, expected) in slope.iter().zip(expected) {
            assert!((slope - expected).abs() < 1e-5, "{slope} and {expected}");
        }
    }

    #[test]
    fn each_input_has_the_logit_of_its_head() {
        let logits = Var::new(&[[1.0_f32, 2.0], [3.0, 4.0]], &Device::Cpu).unwrap();
        let chosen = of_heads(&logits, &[1, 0]).unwrap();
        assert_eq!(chosen.to_vec1::<f32>().unwrap(), [2.0, 3.0]);
        let gradients = chosen.sum_all().unwrap().backward().unwrap();
        assert_eq!(gradients.get(&logits).unwrap().to_vec2::<f32>().unwrap(), [[0.0, 1.0], [1.0, 0.0]]);
    }
}
