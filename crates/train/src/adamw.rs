//! `AdamW` (Loshchilov and Hutter, 2019) with clipping: weight decay on matrices only, its own rate for the head.

use std::cell::RefCell;
use std::collections::BTreeMap;

use candle_core::backprop::GradStore;
use candle_core::{CpuStorage, InplaceOp2, Layout, Tensor, Var};

use crate::error::{Error, Result};

/// What stays the same over a run.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Settings {
    /// Fraction of a weight that a rate of 1 takes away in a step; biases and normalisation have none.
    pub(crate) decay: f64,
    /// Largest Euclidean norm of all gradients together; larger ones are scaled down to it.
    pub(crate) clip: f64,
    /// Each layer below the top one has the rate of the layer above it times this; the embeddings are below all layers.
    pub(crate) layer_decay: f64,
}

const FIRST: f64 = 0.9;
const SECOND: f64 = 0.999;
const EPSILON: f64 = 1e-8;

/// One weight and its moments.
#[derive(Debug)]
struct Slot {
    name: String,
    var: Var,
    first: Vec<f32>,
    second: Vec<f32>,
    decays: bool,
    head: bool,
    /// Factor of the rate, by depth.
    share: f64,
}

/// The optimiser.
#[derive(Debug)]
pub(crate) struct AdamW {
    slots: Vec<Slot>,
    settings: Settings,
    steps: i32,
}

/// The layer that a weight belongs to, counted from 0 at the bottom; nothing for embeddings and head.
fn layer(name: &str) -> Option<i32> {
    let rest = name.strip_prefix("encoder.layer.").or_else(|| name.strip_prefix("layers."))?;
    rest.split('.').next()?.parse().ok()
}

/// Learning rates of one step.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Rates {
    pub(crate) encoder: f64,
    pub(crate) head: f64,
}

impl AdamW {
    pub(crate) fn new(weights: &BTreeMap<String, Var>, settings: Settings) -> Self {
        let layers = weights.keys().filter_map(|name| layer(name)).max().map_or(0, |top| top + 1);
        let slot = |(name, var): (&String, &Var)| Slot {
            name: name.clone(),
            var: var.clone(),
            first: vec![0.0; var.elem_count()],
            second: vec![0.0; var.elem_count()],
            decays: !(name.rsplit('.').next() == Some("bias") || name.contains("LayerNorm") || name.contains("norm.")),
            head: name.starts_with("classifier."),
            share: settings.layer_decay.powi(layers - layer(name).map_or(0, |layer| layer + 1)),
        };
        Self { slots: weights.iter().map(slot).collect(), settings, steps: 0 }
    }

    /// Moves all weights against their gradients; the norm of the gradients before clipping, or nothing (and nothing
    /// moved) where it is no number.
    pub(crate) fn step(&mut self, gradients: &GradStore, rates: Rates) -> Result<Option<f64>> {
        let mut held = Vec::with_capacity(self.slots.len());
        let mut squares = 0.0;
        for slot in &self.slots {
            let gradient = gradients.get(&slot.var);
            let gradient = gradient.ok_or_else(|| Error::Bug(format!("`{}` has no gradient", slot.name)))?;
            let gradient = gradient.contiguous()?;
            squares += f64::from(gradient.sqr()?.sum_all()?.to_scalar::<f32>()?);
            held.push(gradient);
        }
        let norm = squares.sqrt();
        if !norm.is_finite() {
            return Ok(None);
        }
        self.steps += 1;
        let scale = if norm > self.settings.clip { self.settings.clip / norm } else { 1.0 };
        for (slot, gradient) in self.slots.iter_mut().zip(&held) {
            let rate = if slot.head { rates.head } else { rates.encoder * slot.share };
            let decay = if slot.decays { 1.0 - rate * self.settings.decay } else { 1.0 };
            let correction = (1.0 - SECOND.powi(self.steps)).sqrt();
            slot.update(gradient, scale, rate / (1.0 - FIRST.powi(self.steps)), correction, decay)?;
        }
        Ok(Some(norm))
    }

    /// Moments by name and the count of steps, for a checkpoint.
    pub(crate) fn state(&self) -> impl Iterator<Item = (&str, &[f32], &[f32])> {
        self.slots.iter().map(|slot| (slot.name.as_str(), slot.first.as_slice(), slot.second.as_slice()))
    }

    /// Takes up what [`AdamW::state`] gave after `steps` steps.
    pub(crate) fn restore(
        &mut self,
        steps: i32,
        mut moments: impl FnMut(&str) -> Result<(Vec<f32>, Vec<f32>)>,
    ) -> Result<()> {
        for slot in &mut self.slots {
            let (first, second) = moments(&slot.name)?;
            if first.len() != slot.first.len() || second.len() != slot.second.len() {
                return Err(Error::Invalid(format!("the checkpoint does not fit: `{}` has another size", slot.name)));
            }
            (slot.first, slot.second) = (first, second);
        }
        self.steps = steps;
        Ok(())
    }
}

impl Slot {
    #[expect(clippy::cast_possible_truncation, reason = "weights are of single precision")]
    fn update(&mut self, gradient: &Tensor, scale: f64, rate: f64, correction: f64, decay: f64) -> Result<()> {
        let update = Update {
            moments: RefCell::new((&mut self.first, &mut self.second)),
            scale: scale as f32,
            rate: rate as f32,
            correction: 1.0 / correction as f32,
            decay: decay as f32,
        };
        Ok(self.var.as_tensor().inplace_op2(gradient, &update)?)
    }
}

/// One pass over a weight, its gradient and its moments.
struct Update<'a> {
    moments: RefCell<(&'a mut [f32], &'a mut [f32])>,
    scale: f32,
    rate: f32,
    correction: f32,
    decay: f32,
}

impl InplaceOp2 for Update<'_> {
    fn name(&self) -> &'static str {
        "adamw"
    }

    #[expect(clippy::cast_possible_truncation, reason = "weights are of single precision")]
    fn cpu_fwd(
        &self,
        weight: &mut CpuStorage,
        weight_layout: &Layout,
        gradient: &CpuStorage,
        gradient_layout: &Layout,
    ) -> candle_core::Result<()> {
        let (CpuStorage::F32(weight), Some((start, end)), CpuStorage::F32(gradient), Some((from, to))) =
            (weight, weight_layout.contiguous_offsets(), gradient, gradient_layout.contiguous_offsets())
        else {
            candle_core::bail!("contiguous f32 tensors are needed")
        };
        let mut moments = self.moments.borrow_mut();
        let (first, second) = &mut *moments;
        let (keep_first, keep_second) = (FIRST as f32, SECOND as f32);
        for (((weight, gradient), first), second) in
            weight[start..end].iter_mut().zip(&gradient[from..to]).zip(first.iter_mut()).zip(second.iter_mut())
        {
            let gradient = gradient * self.scale;
            *first = keep_first * *first + (1.0 - keep_first) * gradient;
            *second = keep_second * *second + (1.0 - keep_second) * gradient * gradient;
            *weight = *weight * self.decay - self.rate * *first / (second.sqrt() * self.correction + EPSILON as f32);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use candle_core::Device;

    use super::*;

    const SETTINGS: Settings = Settings { decay: 0.1, clip: 1e9, layer_decay: 1.0 };

    fn weights() -> BTreeMap<String, Var> {
        let var = |values: &[f32]| Var::new(values, &Device::Cpu).unwrap();
        BTreeMap::from([("a.weight".to_owned(), var(&[1.0, -2.0])), ("a.bias".to_owned(), var(&[0.5]))])
    }

    fn step(weights: &BTreeMap<String, Var>, optimiser: &mut AdamW, rates: Rates) -> Option<f64> {
        let loss = weights.values().fold(Tensor::new(0.0_f32, &Device::Cpu).unwrap(), |sum, var| {
            (sum + var.powf(3.0).unwrap().sum_all().unwrap()).unwrap()
        });
        optimiser.step(&loss.backward().unwrap(), rates).unwrap()
    }

    /// The formula, weight by weight, in double precision.
    fn by_hand(mut weight: f64, decays: bool, rate: f64, steps: i32) -> f64 {
        let (mut first, mut second) = (0.0, 0.0);
        for step in 1..=steps {
            let gradient = 3.0 * weight * weight;
            first = FIRST * first + (1.0 - FIRST) * gradient;
            second = SECOND * second + (1.0 - SECOND) * gradient * gradient;
            let (first, second) = (first / (1.0 - FIRST.powi(step)), second / (1.0 - SECOND.powi(step)));
            weight -= rate * if decays { SETTINGS.decay * weight } else { 0.0 };
            weight -= rate * first / (second.sqrt() + EPSILON);
        }
        weight
    }

    #[test]
    fn steps_follow_the_formula_and_biases_do_not_decay() {
        let weights = weights();
        let mut optimiser = AdamW::new(&weights, SETTINGS);
        for _ in 0..5 {
            let _ = step(&weights, &mut optimiser, Rates { encoder: 0.01, head: 0.0 });
        }
        let matrix = weights["a.weight"].to_vec1::<f32>().unwrap();
        let bias = weights["a.bias"].to_vec1::<f32>().unwrap();
        for (actual, start, decays) in [(matrix[0], 1.0, true), (matrix[1], -2.0, true), (bias[0], 0.5, false)] {
            let expected = by_hand(start, decays, 0.01, 5);
            assert!((f64::from(actual) - expected).abs() < 1e-5, "{actual} and {expected}");
        }
    }

    #[test]
    fn a_gradient_that_is_no_number_moves_nothing() {
        let weights = BTreeMap::from([("a.weight".to_owned(), Var::new(&[f32::INFINITY], &Device::Cpu).unwrap())]);
        let mut optimiser = AdamW::new(&weights, SETTINGS);
        assert_eq!(step(&weights, &mut optimiser, Rates { encoder: 0.01, head: 0.0 }), None);
        assert_eq!(optimiser.steps, 0);
    }

    #[test]
    fn clipping_bounds_the_first_moment() {
        let weights = weights();
        let mut optimiser = AdamW::new(&weights, Settings { decay: 0.0, clip: 0.1, ..SETTINGS });
        let norm = step(&weights, &mut optimiser, Rates { encoder: 0.01, head: 0.0 }).unwrap();
        assert!((norm - (9.0_f64 + 144.0 + 0.5625).sqrt()).abs() < 1e-4, "{norm}");
        let size: f64 = optimiser.state().flat_map(|(_, first, _)| first).map(|m| f64::from(*m).powi(2)).sum();
        assert!((size.sqrt() - 0.01).abs() < 1e-5, "{size}");
    }

    #[test]
    fn lower_layers_move_less_and_the_head_as_it_is_told() {
        let names =
            ["embeddings.a.weight", "encoder.layer.0.a.weight", "encoder.layer.1.a.weight", "classifier.weight"];
        let weights: BTreeMap<String, Var> =
            names.iter().map(|name| ((*name).to_owned(), Var::new(&[1.0_f32], &Device::Cpu).unwrap())).collect();
        let mut optimiser = AdamW::new(&weights, Settings { decay: 0.0, clip: 1e9, layer_decay: 0.5 });
        let _ = step(&weights, &mut optimiser, Rates { encoder: 0.1, head: 0.3 });
        for (name, moved) in names.iter().zip([0.025, 0.05, 0.1, 0.3]) {
            let value = weights[*name].to_vec1::<f32>().unwrap()[0];
            assert!((1.0 - moved - value).abs() < 1e-4, "{name}: {value}");
        }
    }

    #[test]
    fn a_restored_optimiser_goes_on_the_same_way() {
        let rates = Rates { encoder: 0.01, head: 0.0 };
        let (straight, resumed) = (weights(), weights());
        let mut one = AdamW::new(&straight, SETTINGS);
        for _ in 0..4 {
            let _ = step(&straight, &mut one, rates);
        }
        let mut two = AdamW::new(&resumed, SETTINGS);
        for _ in 0..2 {
            let _ = step(&resumed, &mut two, rates);
        }
        let saved: BTreeMap<String, (Vec<f32>, Vec<f32>)> =
            two.state().map(|(name, first, second)| (name.to_owned(), (first.to_vec(), second.to_vec()))).collect();
        let mut three = AdamW::new(&resumed, SETTINGS);
        three.restore(2, |name| Ok(saved[name].clone())).unwrap();
        for _ in 0..2 {
            let _ = step(&resumed, &mut three, rates);
        }
        for (name, var) in &straight {
            assert_eq!(var.to_vec1::<f32>().unwrap(), resumed[name].to_vec1::<f32>().unwrap());
        }
    }
}
