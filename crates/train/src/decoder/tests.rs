#![expect(clippy::float_cmp, reason = "what is compared is exact")]

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use candle_core::{Device, Tensor, Var};

use super::*;
use crate::adamw::{AdamW, Rates, Settings};
use crate::error::{Error, Result};

/// A tiny decoder with random weights.
pub(crate) fn directory(kind: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures/policy").join(kind)
}

pub(crate) fn decoder(kind: &str, adapter: &Adapter, recompute: bool) -> Decoder {
    let base = BaseFiles::read(&directory(kind)).unwrap();
    Decoder::new(DecoderConfig::parse(&base.config).unwrap(), base.weights().unwrap(), adapter, 1, recompute).unwrap()
}

const KINDS: [&str; 3] = ["llama", "qwen2", "qwen3"];

fn small(modules: &[Module]) -> Adapter {
    Adapter { rank: 3, alpha: 6.0, modules: modules.to_vec() }
}

/// Gives each factor other numbers than those it starts with: a fresh update is nothing, and so are half of the gradients.
fn stir(decoder: &Decoder) {
    for (number, var) in decoder.parameters().values().enumerate() {
        let values: Vec<f32> =
            (0..var.elem_count()).map(|at| ((at * 7 + number * 3) % 11) as f32 / 50.0 - 0.1).collect();
        var.set(&Tensor::from_vec(values, var.shape(), &Device::Cpu).unwrap()).unwrap();
    }
}

const ONE: [u32; 9] = [1, 40, 50, 60, 2, 70, 80, 90, 2];
const TWO: [u32; 5] = [1, 99, 12, 13, 2];

/// Mean negative log-probability of both sequences' later tokens.
fn loss(decoder: &Decoder, states: &Tensor) -> Result<Tensor> {
    let places = [3, 4, 5, 6, 7, 10, 11, 12];
    let targets = [2, 70, 80, 90, 2, 12, 13, 2];
    Ok(decoder.token_scores(states, &places, &targets)?.logps.mean_all()?.neg()?)
}

fn packed(decoder: &Decoder) -> Packed {
    Packed::new(&[&ONE, &TWO], decoder.config()).unwrap()
}

fn gradients(decoder: &Decoder) -> candle_core::backprop::GradStore {
    decoder.gradients(&packed(decoder), |states| Ok((loss(decoder, states)?, ()))).unwrap().1
}

fn value(decoder: &Decoder) -> f64 {
    let states = decoder.states(&packed(decoder), Weights::Adapted).unwrap();
    f64::from(loss(decoder, &states).unwrap().to_scalar::<f32>().unwrap())
}

fn distance(left: &Tensor, right: &Tensor) -> f32 {
    (left - right).unwrap().abs().unwrap().flatten_all().unwrap().max(0).unwrap().to_scalar().unwrap()
}

#[test]
fn all_that_should_move_moves_and_nothing_else() {
    for kind in KINDS {
        for modules in [Module::ALL.as_slice(), &[Module::Query, Module::Down]] {
            let decoder = decoder(kind, &small(modules), true);
            assert_eq!(decoder.adapted().len(), modules.len() * decoder.config().layers, "{kind}");
            assert_eq!(decoder.parameters().len(), 2 * decoder.adapted().len());
            let copy = |var: &Var| var.to_dtype(candle_core::DType::F64).unwrap();
            let before: BTreeMap<_, _> = decoder.parameters().iter().map(|(name, var)| (name, copy(var))).collect();
            let (frozen, start) = (decoder.states(&packed(&decoder), Weights::Base).unwrap(), value(&decoder));
            let settings = Settings { decay: 0.0, clip: 1.0, layer_decay: 1.0 };
            let mut optimiser = AdamW::new(decoder.parameters(), settings);
            // The second factor is 0 at first, so the first one has a gradient from the second step on.
            for _ in 0..3 {
                let norm = optimiser.step(&gradients(&decoder), Rates { encoder: 1e-2, head: 0.0 }).unwrap();
                assert!(norm.is_some_and(|norm| norm > 0.0));
            }
            for (name, var) in decoder.parameters() {
                let moved = (copy(var) - &before[name]).unwrap().abs().unwrap().min_all().unwrap();
                let (first, last) = (moved.to_scalar::<f64>().unwrap(), var.elem_count());
                assert!(first > 0.0, "{kind}: one of the {last} weights of {name} stayed");
            }
            assert!(value(&decoder) < start - 0.01, "{kind}: {start} {}", value(&decoder));
            assert_eq!(distance(&frozen, &decoder.states(&packed(&decoder), Weights::Base).unwrap()), 0.0);
        }
    }
}

#[test]
fn gradients_are_slopes_of_the_loss() {
    for kind in KINDS {
        let decoder = decoder(kind, &small(&Module::ALL), true);
        stir(&decoder);
        let gradients = gradients(&decoder);
        for (name, var) in decoder.parameters() {
            let gradient = gradients.get(var).unwrap();
            let size = gradient.sqr().unwrap().sum_all().unwrap().to_scalar::<f32>().unwrap().sqrt();
            assert!(size > 0.0, "{kind}: {name}");
            // Along the gradient itself the slope is its size.
            let (start, step) = (var.copy().unwrap(), 0.02 / f64::from(size));
            let at = |factor: f64| {
                var.set(&(&start + (gradient * (factor * step)).unwrap()).unwrap()).unwrap();
                value(&decoder)
            };
            let slope = (at(1.0) - at(-1.0)) / 0.04;
            let _ = at(0.0);
            assert!((slope - f64::from(size)).abs() < 0.02 * f64::from(size) + 2e-4, "{kind}: {name}: {slope} {size}");
        }
    }
}

#[test]
fn activations_computed_again_give_the_same_gradients() {
    for kind in KINDS {
        let (again, kept) = (decoder(kind, &small(&Module::ALL), true), decoder(kind, &small(&Module::ALL), false));
        stir(&again);
        stir(&kept);
        let (one, other) = (gradients(&again), gradients(&kept));
        for (name, var) in again.parameters() {
            let difference = distance(one.get(var).unwrap(), other.get(&kept.parameters()[name]).unwrap());
            assert!(difference < 1e-6, "{kind}: {name}: {difference}");
        }
    }
}

#[test]
fn sequences_do_not_see_each_other_nor_what_comes_later() {
    for kind in KINDS {
        let decoder = decoder(kind, &small(&Module::ALL), true);
        stir(&decoder);
        let logits = |sequences: &[&[u32]]| {
            decoder.logits(&Packed::new(sequences, decoder.config()).unwrap(), Weights::Adapted).unwrap()
        };
        let (both, alone) = (logits(&[&ONE, &TWO]), logits(&[&TWO]));
        assert!(distance(&both.narrow(0, ONE.len(), TWO.len()).unwrap(), &alone) < 1e-4);
        let mut changed = TWO;
        changed[3] = 200;
        let changed = logits(&[&changed]);
        let first = |logits: &Tensor| logits.narrow(0, 0, 3).unwrap();
        assert!(distance(&first(&alone), &first(&changed)) < 1e-4, "{kind}");
        assert!(distance(&alone, &changed) > 1e-2, "{kind}");
    }
}

#[test]
fn merged_weights_compute_what_the_adapter_does() {
    for kind in KINDS {
        let adapted = decoder(kind, &small(&[Module::Key, Module::Value, Module::Gate]), true);
        stir(&adapted);
        let base = BaseFiles::read(&directory(kind)).unwrap();
        let mut weights = base.weights().unwrap();
        let names: Vec<String> = weights.tensors.keys().cloned().collect();
        weights.tensors = adapted.merged().unwrap();
        assert_eq!(weights.tensors.keys().cloned().collect::<Vec<_>>(), names, "{kind}");
        let config = adapted.config().clone();
        let merged = Decoder::new(config, weights, &small(&Module::ALL), 1, true).unwrap();
        let (one, other) = (
            adapted.logits(&packed(&adapted), Weights::Adapted).unwrap(),
            merged.logits(&packed(&merged), Weights::Base).unwrap(),
        );
        assert!(distance(&one, &other) < 1e-3, "{kind}");
        let untouched = adapted.logits(&packed(&adapted), Weights::Base).unwrap();
        assert!(distance(&one, &untouched) > 1e-2, "{kind}");
    }
}

#[test]
fn a_fresh_adapter_changes_nothing() {
    let decoder = decoder("llama", &Adapter::default(), true);
    let states = |weights| decoder.states(&packed(&decoder), weights).unwrap();
    assert_eq!(distance(&states(Weights::Base), &states(Weights::Adapted)), 0.0);
    let key = "base_model.model.model.layers.1.mlp.down_proj.lora_A.weight";
    assert_eq!(decoder.parameters()[key].dims(), [16, 48]);
}

#[test]
fn weights_that_do_not_fit_are_refused() {
    let base = BaseFiles::read(&directory("llama")).unwrap();
    let refused = |change: &dyn Fn(&mut BTreeMap<String, Tensor>)| {
        let mut weights = base.weights().unwrap();
        change(&mut weights.tensors);
        let config = DecoderConfig::parse(&base.config).unwrap();
        match Decoder::new(config, weights, &Adapter::default(), 1, true) {
            Err(Error::Invalid(reason)) => reason,
            other => panic!("{other:?}"),
        }
    };
    let gain = "model.layers.1.input_layernorm.weight";
    assert!(refused(&|weights| drop(weights.remove(gain))).contains("no weight"));
    let other = Tensor::zeros(3, candle_core::DType::F32, &Device::Cpu).unwrap();
    assert!(refused(&|weights| drop(weights.insert(gain.to_owned(), other.clone()))).contains("shape [3]"));
    let extra = "model.layers.0.self_attn.q_norm.weight";
    assert!(refused(&|weights| drop(weights.insert(extra.to_owned(), other.clone()))).contains("something else"));
}

#[test]
fn weights_in_several_files_are_put_together() {
    let copy = tempfile::tempdir().unwrap();
    for name in ["config.json", "tokenizer.json"] {
        std::fs::copy(directory("llama").join(name), copy.path().join(name)).unwrap();
    }
    let whole = BaseFiles::read(&directory("llama")).unwrap().weights().unwrap().tensors;
    let mut index = serde_json::Map::new();
    for (part, file) in [(0, "a.safetensors"), (1, "b.safetensors")] {
        let tensors: BTreeMap<String, Tensor> = whole
            .iter()
            .enumerate()
            .filter(|(at, _)| at % 2 == part)
            .map(|(_, (name, tensor))| (name.clone(), tensor.clone()))
            .collect();
        index.extend(tensors.keys().map(|name| (name.clone(), file.into())));
        write_tensors(&copy.path().join(file), &tensors, &[]).unwrap();
    }
    let index = serde_json::json!({"metadata": {}, "weight_map": index});
    std::fs::write(copy.path().join("model.safetensors.index.json"), index.to_string()).unwrap();
    let parts = BaseFiles::read(copy.path()).unwrap().weights().unwrap().tensors;
    assert_eq!(parts.keys().collect::<Vec<_>>(), whole.keys().collect::<Vec<_>>());
    assert!(parts.iter().all(|(name, tensor)| distance(tensor, &whole[name]) == 0.0));
}
