//! The same tiny weights and rows in TRL and PEFT: `tests/python/policy_parity.sh` records what they make of them.

use std::collections::HashMap;

use candle_core::Tensor;
use serde_json::Value;

use super::batches::{Item, MicroBatch, Preparation};
use super::loss::Method;
use super::run::{gradients, rate, refer};
use super::tests::{chat, message};
use super::{Metrics, Truncation};
use crate::adamw::{AdamW, Rates, Settings};
use crate::decoder::{Adapter, Decoder, Module, Packed, Weights, tests};
use crate::rows::{About, Answers, Data, Message, Row};

const LIMIT: usize = 96;
/// Micro-batches of a step.
const ACCUMULATE: usize = 2;
/// Steps that were recorded: more would compare how rounding grows, since Adam moves by the sign of a gradient near 0.
const STEPS: usize = 4;
/// The step of which gradients were recorded.
const RECORDED: usize = 2;

fn read(name: &str) -> Vec<u8> {
    std::fs::read(tests::directory("expected").join(name)).unwrap()
}

fn json(name: &str) -> Value {
    serde_json::from_slice(&read(name)).unwrap()
}

fn tensors(name: &str) -> HashMap<String, Tensor> {
    uptake_tagger::read_weights(&read(name)).unwrap()
}

fn distance(left: &Tensor, right: &Tensor) -> f32 {
    (left - right).unwrap().abs().unwrap().flatten_all().unwrap().max(0).unwrap().to_scalar().unwrap()
}

fn size(tensor: &Tensor) -> f32 {
    tensor.abs().unwrap().flatten_all().unwrap().max(0).unwrap().to_scalar().unwrap()
}

fn ids(row: &Value, column: &str) -> Vec<u32> {
    row[column]
        .as_array()
        .unwrap_or_else(|| panic!("no {column}"))
        .iter()
        .map(|id| u32::try_from(id.as_u64().unwrap()).unwrap())
        .collect()
}

/// The rows of the fixture as a method takes them, in their order.
fn rows(method: Method) -> Vec<Row> {
    let stored: Vec<Value> = serde_json::from_slice(&std::fs::read(tests::directory("rows.json")).unwrap()).unwrap();
    let mut rows = Vec::new();
    for row in &stored {
        let prompt: Vec<Message> = serde_json::from_value(row["prompt"].clone()).unwrap();
        let answer = |side: &str| message("assistant", row[side].as_str().unwrap());
        let mut push = |answers| rows.push(Row { prompt: prompt.clone(), answers, about: About::default() });
        match method {
            Method::Sft => push(Answers::Supervised { answer: answer("chosen") }),
            Method::Dpo { .. } => push(Answers::Pair { chosen: answer("chosen"), rejected: answer("rejected") }),
            Method::Kto { .. } => {
                push(Answers::Labelled { answer: answer("chosen"), liked: true });
                push(Answers::Labelled { answer: answer("rejected"), liked: false });
            }
        }
    }
    rows
}

fn items(method: Method, limit: usize) -> Vec<Item> {
    let rows = rows(method);
    let data = Data {
        name: String::new(),
        id: String::new(),
        read: rows.len() as u64,
        rows,
        dropped: std::collections::BTreeMap::new(),
    };
    let chat = chat("llama");
    let preparation = Preparation { chat: &chat, method, limit, truncation: Truncation::KeepStart };
    preparation.items(&data).0
}

/// The trained run in TRL's order: metrics of each step, gradients of the recorded one, the decoder at the end.
fn trained(name: &str, method: Method) -> (Vec<Metrics>, HashMap<String, Tensor>, Decoder) {
    let adapter = Adapter { rank: 4, alpha: 8.0, modules: Module::ALL.to_vec() };
    let decoder = tests::decoder("llama", &adapter, true);
    let expected = tensors(&format!("{name}.safetensors"));
    for (key, var) in decoder.parameters() {
        var.set(&expected[&format!("start.{key}")]).unwrap();
    }
    assert_eq!(expected.keys().filter(|key| key.starts_with("start.")).count(), decoder.parameters().len());
    let batches: Vec<MicroBatch> =
        items(method, LIMIT).chunks(2).map(|items| MicroBatch::new(items, method, LIMIT)).collect();
    let references: Vec<_> = batches.iter().map(|batch| refer(&decoder, batch).unwrap()).collect();
    let mut optimiser = AdamW::new(decoder.parameters(), Settings { decay: 0.0, clip: 1.0, layer_decay: 1.0 });
    let both: Vec<_> = batches.iter().zip(&references).collect::<Vec<_>>().repeat(2);
    let total = STEPS;
    let (mut all, mut recorded) = (Vec::new(), HashMap::new());
    for (number, step) in both.chunks(ACCUMULATE).take(STEPS).enumerate() {
        let (found, mut metrics) = gradients(&decoder, method, step).unwrap();
        // A warm-up of one step.
        let rate = 1e-2 * rate(number, total, 1.0 / total as f64);
        let norm = optimiser.step(&found, Rates { encoder: rate, head: rate }).unwrap().unwrap();
        if number == RECORDED {
            let clipped = 1.0_f64.min(1.0 / norm);
            let take =
                |(key, var): (&String, &candle_core::Var)| (key.clone(), (found.get(var).unwrap() * clipped).unwrap());
            recorded = decoder.parameters().iter().map(take).collect();
        }
        metrics.extend([("grad_norm", norm), ("learning_rate", rate)]);
        all.push(metrics);
    }
    (all, recorded, decoder)
}

#[track_caller]
fn near(what: &str, ours: f64, theirs: f64, tolerance: f64) {
    assert!((ours - theirs).abs() <= tolerance * theirs.abs().max(1.0), "{what}: ours {ours}, theirs {theirs}");
}

/// Everything that was recorded of a trainer. `logged` has the metrics that both report.
fn check(name: &str, method: Method, logged: &[&str]) {
    let (metrics, gradients, decoder) = trained(name, method);
    let expected = json(&format!("{name}.json"));
    let log = expected["log"].as_array().unwrap();
    assert_eq!(log.len(), metrics.len());
    for (step, (ours, theirs)) in metrics.iter().zip(log).enumerate() {
        for metric in logged {
            let theirs = theirs[*metric].as_f64().unwrap_or_else(|| panic!("no {metric} in {theirs}"));
            near(&format!("{name}, step {step}, {metric}"), ours[*metric], theirs, 1e-4);
        }
        let micro: f64 = expected["micro_losses"].as_array().unwrap()[step * ACCUMULATE..][..ACCUMULATE]
            .iter()
            .map(|loss| loss.as_f64().unwrap())
            .sum();
        let share = if method == Method::Sft { 1.0 } else { ACCUMULATE as f64 };
        near(&format!("{name}, step {step}, loss"), ours["loss"], micro / share, 1e-4);
    }
    let tensors = tensors(&format!("{name}.safetensors"));
    for (key, gradient) in &gradients {
        let theirs = &tensors[&format!("gradient.{key}")];
        let difference = distance(gradient, theirs);
        assert!(
            difference < 1e-4 * size(theirs).max(1.0),
            "{name}: gradient of {key}: {difference} of {}",
            size(theirs)
        );
    }
    let mut differences = Vec::new();
    for (key, var) in decoder.parameters() {
        let difference = (var.as_tensor() - &tensors[&format!("end.{key}")]).unwrap().abs().unwrap();
        differences.extend(difference.flatten_all().unwrap().to_vec1::<f32>().unwrap());
    }
    differences.sort_unstable_by(f32::total_cmp);
    // A weight whose gradient is all rounding goes where its sign says: one in a thousand may.
    let (most, largest) = (differences[differences.len() * 999 / 1000], differences[differences.len() - 1]);
    assert!(most < 1e-4 && largest < 1e-2, "{name}: weights at the end: {most}, {largest}");
    let probe = ids(&json("versions.json"), "probe");
    let packed = Packed::new(&[&probe], decoder.config()).unwrap();
    let logits = decoder.logits(&packed, Weights::Adapted).unwrap();
    let difference = distance(&logits, &tensors["merged_logits"]);
    assert!(difference < 1e-3, "{name}: logits of the merged model: {difference}");
}

#[test]
fn logits_are_those_of_transformers() {
    let (expected, probe) = (tensors("logits.safetensors"), ids(&json("versions.json"), "probe"));
    for kind in ["llama", "qwen2", "qwen3"] {
        let decoder = tests::decoder(kind, &Adapter::default(), true);
        let logits = decoder.logits(&Packed::new(&[&probe], decoder.config()).unwrap(), Weights::Base).unwrap();
        assert!(size(&expected[kind]) > 0.5, "{kind}");
        assert!(distance(&logits, &expected[kind]) < 1e-4, "{kind}: {}", distance(&logits, &expected[kind]));
    }
}

#[test]
fn rows_become_the_tokens_that_trl_makes_of_them() {
    let dpo = json("dpo.json");
    let prepared = dpo["prepared"].as_array().unwrap();
    let ours = items(Method::Dpo { beta: 0.1 }, usize::MAX);
    assert_eq!(prepared.len(), ours.len());
    for (item, theirs) in ours.iter().zip(prepared) {
        for (sequence, side) in item.sequences.iter().zip(["chosen_ids", "rejected_ids"]) {
            assert_eq!(sequence.tokens[..sequence.prompt], ids(theirs, "prompt_ids"));
            assert_eq!(sequence.answer(), ids(theirs, side));
        }
    }
}

#[test]
fn dpo_is_trls() {
    let logged = [
        "rewards/chosen",
        "rewards/rejected",
        "rewards/margins",
        "rewards/accuracies",
        "logps/chosen",
        "logps/rejected",
        "grad_norm",
    ];
    check("dpo", Method::Dpo { beta: 0.1 }, &logged);
}

#[test]
fn kto_is_trls() {
    let logged =
        ["rewards/chosen", "rewards/rejected", "rewards/margins", "logps/chosen", "logps/rejected", "kl", "grad_norm"];
    check("kto", Method::Kto { beta: 0.1, desirable: 1.0, undesirable: 1.0 }, &logged);
}

#[test]
fn sft_is_trls() {
    check("sft", Method::Sft, &["grad_norm"]);
}
