use rand::SeedableRng;
use uptake_tagger::{Encoder, tiny};

use super::*;

const SEED: u64 = 11;

fn encoder() -> TrainableEncoder {
    let mut random = ChaCha8Rng::seed_from_u64(SEED);
    let weights = tiny::weights(&tiny::config(), SEED).unwrap();
    TrainableEncoder::new(tiny::config(), OUTPUTS, &weights, &mut random).unwrap()
}

fn inputs(lengths: &[usize]) -> Vec<Input> {
    let mut random = ChaCha8Rng::seed_from_u64(SEED);
    lengths
        .iter()
        .map(|length| Input {
            tokens: (0..*length).map(|_| random.random_range(0..u32::try_from(tiny::VOCABULARY).unwrap())).collect(),
            first_segment: length / 2,
        })
        .collect()
}

fn some_targets(rows: usize) -> Tensor {
    let rows: Vec<[f32; OUTPUTS]> =
        (0..rows).map(|row| std::array::from_fn(|output| f32::from(u8::from((row + output) % 3 == 0)))).collect();
    super::rows(&rows.iter().collect::<Vec<_>>()).unwrap()
}

fn ones(shape: &Tensor) -> Tensor {
    shape.ones_like().unwrap()
}

#[test]
fn serving_computes_what_was_trained() {
    let inputs = inputs(&[5, 1, 64, 13, 40, 2]);
    let inputs: Vec<&Input> = inputs.iter().collect();
    let encoder = encoder();
    let trained = encoder.logits(&inputs, None).unwrap().to_vec2::<f32>().unwrap();
    let serving = Encoder::new(&tiny::config(), &encoder.tensors()).unwrap();
    for (trained, served) in trained.iter().zip(serving.logits(&inputs).unwrap()) {
        for (trained, served) in trained.iter().zip(served) {
            assert!((trained - served).abs() < 1e-4, "{trained} and {served}");
        }
    }
}

/// The trap: operations without a backward pass leave a weight without a gradient, and nothing says so.
#[test]
fn every_weight_gets_a_gradient() {
    let inputs = inputs(&[5, 9, 64]);
    let inputs: Vec<&Input> = inputs.iter().collect();
    let encoder = encoder();
    let logits = encoder.logits(&inputs, None).unwrap();
    let gradients = loss(&logits, &some_targets(3), &ones(&logits)).unwrap().backward().unwrap();
    for (name, var) in encoder.weights() {
        let gradient = gradients.get(var).unwrap_or_else(|| panic!("no gradient for {name}"));
        let size = gradient.abs().unwrap().max_all().unwrap().to_scalar::<f32>().unwrap();
        assert!(size.is_finite(), "{name}");
        // A bias of the keys moves all scores of a query alike, which softmax does not see: its gradient is nought.
        if name.ends_with("attention.self.key.bias") {
            assert!(size < 1e-6, "{name}: {size}");
        } else {
            assert!(size > 1e-7, "{name}: {size}");
        }
    }
}

#[test]
fn gradients_are_those_of_finite_differences() {
    let inputs = inputs(&[7, 12]);
    let inputs: Vec<&Input> = inputs.iter().collect();
    let encoder = encoder();
    let value = || {
        let logits = encoder.logits(&inputs, None).unwrap();
        loss(&logits, &some_targets(2), &ones(&logits)).unwrap()
    };
    let gradients = value().backward().unwrap();
    for (name, index) in [
        ("classifier.weight", 3),
        ("encoder.layer.0.attention.self.query.weight", 17),
        ("encoder.layer.0.attention.self.value.bias", 4),
        ("encoder.layer.1.intermediate.dense.weight", 100),
        ("encoder.layer.0.output.LayerNorm.weight", 2),
        ("embeddings.LayerNorm.bias", 1),
    ] {
        let var = &encoder.weights()[name];
        let gradient = gradients.get(var).unwrap().flatten_all().unwrap().to_vec1::<f32>().unwrap()[index];
        let original = var.as_detached_tensor().copy().unwrap();
        let at = |step: f32| {
            let mut values = original.flatten_all().unwrap().to_vec1::<f32>().unwrap();
            values[index] += step;
            var.set(&Tensor::from_vec(values, original.shape(), &Device::Cpu).unwrap()).unwrap();
            f64::from(value().to_scalar::<f32>().unwrap())
        };
        let slope = (at(1e-2) - at(-1e-2)) / 2e-2;
        var.set(&original).unwrap();
        assert!((slope - f64::from(gradient)).abs() < 2e-4 + 0.02 * slope.abs(), "{name}: {gradient}, slope {slope}");
    }
}

#[test]
fn the_loss_is_stable_and_right() {
    let logits = Tensor::new(&[[0.0_f32, 200.0, -200.0, 1.0]], &Device::Cpu).unwrap();
    let targets = Tensor::new(&[[1.0_f32, 1.0, 0.0, 0.0]], &Device::Cpu).unwrap();
    let value = loss(&logits, &targets, &ones(&logits)).unwrap().to_scalar::<f32>().unwrap();
    let expected = (2.0_f32.ln() + (1.0 + 1.0_f32.exp()).ln()) / 4.0;
    assert!((value - expected).abs() < 1e-6, "{value} and {expected}");
    let wrong = loss(&logits, &(1.0 - &targets).unwrap(), &ones(&logits)).unwrap().to_scalar::<f32>().unwrap();
    assert!(wrong.is_finite() && wrong > 99.0);
    let weights = Tensor::new(&[[2.0_f32, 0.0, 0.0, 0.0]], &Device::Cpu).unwrap();
    let weighted = loss(&logits, &targets, &weights).unwrap().to_scalar::<f32>().unwrap();
    assert!((weighted - 2.0 * 2.0_f32.ln() / 4.0).abs() < 1e-6, "{weighted}");
}

/// What is not known of an example does not move anything.
#[test]
fn an_output_of_no_weight_has_no_gradient() {
    let inputs = inputs(&[7, 12]);
    let inputs: Vec<&Input> = inputs.iter().collect();
    let encoder = encoder();
    let logits = encoder.logits(&inputs, None).unwrap();
    let mut weights = [[0.0_f32; OUTPUTS]; 2];
    weights[0][3] = 1.0;
    let weights = rows(&weights.iter().collect::<Vec<_>>()).unwrap();
    let gradients = loss(&logits, &some_targets(2), &weights).unwrap().backward().unwrap();
    let bias = gradients.get(&encoder.weights()["classifier.bias"]).unwrap().to_vec1::<f32>().unwrap();
    assert!(bias[3].abs() > 1e-4);
    assert!(bias.iter().enumerate().all(|(output, slope)| output == 3 || *slope == 0.0), "{bias:?}");
}

#[test]
fn a_missing_head_is_drawn_and_a_missing_layer_refused() {
    let mut weights = tiny::weights(&tiny::config(), SEED).unwrap();
    let mut random = ChaCha8Rng::seed_from_u64(SEED);
    let _ = weights.remove("classifier.weight");
    assert!(TrainableEncoder::new(tiny::config(), OUTPUTS, &weights, &mut random).is_ok());
    let _ = weights.remove("encoder.layer.1.output.dense.bias");
    let error = TrainableEncoder::new(tiny::config(), OUTPUTS, &weights, &mut random).unwrap_err();
    assert!(error.to_string().contains("encoder.layer.1.output.dense.bias"), "{error}");
}

/// `tests/python/encoder_parity.sh` records what transformers computes.
#[test]
fn logits_and_gradients_are_those_of_transformers_for_every_type() {
    for kind in uptake_tagger::MODEL_TYPES {
        let directory = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../tagger/fixtures/encoders").join(kind);
        let base = crate::base::Base::read(&directory).unwrap();
        let pretrained = uptake_tagger::read_shards(&base.weights).unwrap();
        let mut random = ChaCha8Rng::seed_from_u64(SEED);
        let encoder = TrainableEncoder::new(base.config, OUTPUTS, &pretrained, &mut random).unwrap();
        let expected = std::fs::read(directory.join("expected.json")).unwrap();
        let expected: serde_json::Value = serde_json::from_slice(&expected).unwrap();
        let inputs = expected["rows"].as_array().unwrap().iter().map(|row| Input {
            tokens: serde_json::from_value(row["tokens"].clone()).unwrap(),
            first_segment: usize::try_from(row["first_segment"].as_u64().unwrap()).unwrap(),
        });
        let inputs: Vec<Input> = inputs.collect();
        let logits = encoder.logits(&inputs.iter().collect::<Vec<_>>(), None).unwrap();
        let wanted: Vec<Vec<f32>> = serde_json::from_value(expected["logits"].clone()).unwrap();
        for (computed, wanted) in logits.to_vec2::<f32>().unwrap().iter().flatten().zip(wanted.iter().flatten()) {
            assert!((computed - wanted).abs() < 1e-4, "{kind}: {computed} and {wanted}");
        }
        let gradients = (logits.sqr().unwrap().sum_all().unwrap() * 0.5).unwrap().backward().unwrap();
        for (name, var) in encoder.weights() {
            let gradient = gradients.get(var).unwrap_or_else(|| panic!("{kind}: no gradient for {name}"));
            let norm = gradient.sqr().unwrap().sum_all().unwrap().sqrt().unwrap().to_scalar::<f32>().unwrap();
            let wanted = expected["gradient_norms"][name.as_str()].as_f64().unwrap_or_else(|| panic!("{kind}: {name}"));
            // The bias of keys moves no softmax: what is there is rounding.
            let far = (f64::from(norm) - wanted).abs() > 1e-3 * wanted + 1e-3;
            assert!(!far, "{kind}: {name}: {norm} and {wanted}");
        }
    }
}
