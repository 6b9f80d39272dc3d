//! A running average of the weights: steadier than the weights of one step while the rate is high, so a run that is cut
//! short leaves a better model.

use std::collections::{BTreeMap, HashMap};

use candle_core::{CpuStorage, Device, InplaceOp1, Layout, Tensor, Var};

use crate::error::{Error, Result};

/// An exponential average of weights over steps.
#[derive(Debug)]
pub(crate) struct Average {
    keep: f64,
    values: BTreeMap<String, Vec<f32>>,
}

impl Average {
    /// An average that starts at the weights as they are, and keeps `keep` of itself in a step.
    pub(crate) fn new(weights: &BTreeMap<String, Var>, keep: f64) -> Result<Self> {
        let values = weights.iter().map(|(name, var)| Ok((name.clone(), var.flatten_all()?.to_vec1()?)));
        Ok(Self { keep, values: values.collect::<Result<_>>()? })
    }

    /// Takes in the weights after `steps` steps. In the first steps it keeps less of itself: the weights that it started
    /// from know nothing of the task.
    pub(crate) fn take(&mut self, weights: &BTreeMap<String, Var>, steps: usize) -> Result<()> {
        let steps = steps as f64;
        let keep = self.keep.min((1.0 + steps) / (10.0 + steps));
        #[expect(clippy::cast_possible_truncation, reason = "weights are of single precision")]
        let step = (1.0 - keep) as f32;
        for (name, var) in weights {
            let values = self.values.get_mut(name).ok_or_else(|| Error::Bug(format!("`{name}` is not averaged")))?;
            let read = Take { values: std::cell::RefCell::new(values), step };
            var.as_tensor().inplace_op1(&read)?;
        }
        Ok(())
    }

    /// The averaged weights by name, shaped like `weights`.
    pub(crate) fn tensors(&self, weights: &BTreeMap<String, Var>) -> Result<HashMap<String, Tensor>> {
        let tensors = weights.iter().map(|(name, var)| {
            let values = self.values.get(name).ok_or_else(|| Error::Bug(format!("`{name}` is not averaged")))?;
            Ok((name.clone(), Tensor::from_slice(values, var.shape(), &Device::Cpu)?))
        });
        tensors.collect()
    }

    /// Takes up what [`Average::tensors`] gave.
    pub(crate) fn restore(&mut self, mut saved: impl FnMut(&str) -> Result<Tensor>) -> Result<()> {
        for (name, values) in &mut self.values {
            *values = saved(name)?.flatten_all()?.to_vec1()?;
        }
        Ok(())
    }
}

/// Reads a weight where it lies, which is cheaper than copying it; the weight stays as it is.
struct Take<'a> {
    values: std::cell::RefCell<&'a mut Vec<f32>>,
    step: f32,
}

impl InplaceOp1 for Take<'_> {
    fn name(&self) -> &'static str {
        "average"
    }

    fn cpu_fwd(&self, storage: &mut CpuStorage, layout: &Layout) -> candle_core::Result<()> {
        let (CpuStorage::F32(weights), Some((start, end))) = (storage, layout.contiguous_offsets()) else {
            candle_core::bail!("a contiguous f32 tensor is needed")
        };
        for (value, weight) in self.values.borrow_mut().iter_mut().zip(&weights[start..end]) {
            *value += self.step * (weight - *value);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_average_follows_the_weights_and_is_taken_up_whole() {
        let var = Var::new(&[[0.0_f32, 8.0]], &Device::Cpu).unwrap();
        let weights = BTreeMap::from([("a".to_owned(), var.clone())]);
        let mut average = Average::new(&weights, 0.5).unwrap();
        var.set(&Tensor::new(&[[4.0_f32, 0.0]], &Device::Cpu).unwrap()).unwrap();
        // (1 + 1) / (10 + 1) of itself after the first step, then the half that it is told.
        average.take(&weights, 1).unwrap();
        let kept = 2.0 / 11.0;
        let values = |average: &Average| average.tensors(&weights).unwrap()["a"].to_vec2::<f32>().unwrap()[0].clone();
        let (first, second) = (values(&average)[0], values(&average)[1]);
        assert!((first - 4.0 * (1.0 - kept)).abs() < 1e-5 && (second - 8.0 * kept).abs() < 1e-5, "{first} {second}");
        average.take(&weights, 1000).unwrap();
        assert!((values(&average)[1] - 4.0 * kept).abs() < 1e-5);
        assert_eq!(var.to_vec2::<f32>().unwrap(), [[4.0, 0.0]]);
        let saved = average.tensors(&weights).unwrap();
        let mut other = Average::new(&weights, 0.5).unwrap();
        other.restore(|name| Ok(saved[name].clone())).unwrap();
        assert_eq!(values(&other), values(&average));
    }
}
