//! Next to what transformers computes with tiny encoders of each type: `tests/python/encoder_parity.sh` records it.

use std::path::PathBuf;

use serde_json::Value;

use super::*;
use crate::TextTokenizer;
use crate::files::read_weights;
use crate::settings::{CONFIG_FILE, MODEL_TYPES, TOKENIZER_FILE};

fn directory(kind: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("fixtures/encoders").join(kind)
}

fn read(kind: &str, name: &str) -> Vec<u8> {
    std::fs::read(directory(kind).join(name)).unwrap()
}

fn expected(kind: &str) -> Value {
    serde_json::from_slice(&read(kind, "expected.json")).unwrap()
}

fn tokens(value: &Value) -> Vec<u32> {
    serde_json::from_value(value.clone()).unwrap()
}

#[test]
fn logits_are_those_of_transformers_for_every_type() {
    for kind in MODEL_TYPES {
        let config = EncoderConfig::parse(&read(kind, CONFIG_FILE)).unwrap();
        assert_eq!((config.model_type.as_str(), config.longest()), (kind, 64));
        let encoder = Encoder::new(&config, &read_weights(&read(kind, WEIGHTS_FILE)).unwrap()).unwrap();
        let expected = expected(kind);
        let rows = expected["rows"].as_array().unwrap().iter();
        let inputs: Vec<Input> = rows
            .map(|row| Input {
                tokens: tokens(&row["tokens"]),
                first_segment: usize::try_from(row["first_segment"].as_u64().unwrap()).unwrap(),
            })
            .collect();
        let wanted: Vec<Vec<f32>> = serde_json::from_value(expected["logits"].clone()).unwrap();
        assert!(inputs.iter().any(|input| input.tokens.len() == 64), "the last position is among them");
        let computed = encoder.logits(&inputs.iter().collect::<Vec<_>>()).unwrap();
        assert_eq!(computed.len(), wanted.len());
        for (computed, wanted) in computed.iter().flatten().zip(wanted.iter().flatten()) {
            assert!((computed - wanted).abs() < 1e-4, "{kind}: {computed} and {wanted}");
        }
        let long = Input { tokens: vec![5; 65], first_segment: 65 };
        assert!(encoder.logits(&[&long]).is_err(), "{kind}: no position is left for it");
    }
}

#[test]
fn texts_become_the_tokens_of_transformers_tokenizers_and_each_has_its_frame_and_marks() {
    for (kind, frame) in [("bert", (2, 3)), ("roberta", (0, 2)), ("xlm-roberta", (0, 2)), ("modernbert", (2, 3))] {
        let tokenizer = TextTokenizer::parse(&read(kind, TOKENIZER_FILE), 1 << 20).unwrap();
        for text in expected(kind)["texts"].as_array().unwrap() {
            let found = tokenizer.tokens(text["text"].as_str().unwrap()).unwrap();
            assert_eq!(found, tokens(&text["tokens"]), "{kind} {text}");
        }
        assert_eq!(tokenizer.frame().unwrap(), frame);
        let mark = tokenizer.mark(3).map(|mark| tokenizer.name(mark).unwrap());
        if kind == "modernbert" {
            assert_eq!(mark.unwrap(), "[unused4]");
        } else if kind == "bert" {
            assert!(mark.unwrap_err().to_string().contains("no `[unused4]`"), "letters are words to BERT");
        } else {
            assert_eq!(mark.unwrap(), "d");
            assert!(tokenizer.mark(26).is_err());
        }
    }
}

#[test]
fn other_types_are_refused_with_those_that_are_served() {
    for config in [r#"{"model_type":"deberta-v2","norm_eps":1e-5}"#, r#"{"model_type":"distilbert","dim":768}"#] {
        let error = EncoderConfig::parse(config.as_bytes()).unwrap_err().to_string();
        assert!(error.contains("served are `bert`, `roberta`, `xlm-roberta`, `modernbert`"), "{error}");
    }
    let short = String::from_utf8(read("roberta", CONFIG_FILE)).unwrap();
    let short = short.replace("\"max_position_embeddings\": 66", "\"max_position_embeddings\": 2");
    let error = EncoderConfig::parse(short.as_bytes()).unwrap_err().to_string();
    assert!(error.contains("positions begin at 2"), "{error}");
}

#[test]
fn a_modern_configuration_is_read_in_the_form_of_either_time() {
    let new: Value = serde_json::from_slice(&read("modernbert", CONFIG_FILE)).unwrap();
    let parse =
        |config: &Value| EncoderConfig::parse(config.to_string().as_bytes()).map(|config| config.modern.unwrap());
    let modern = parse(&new).unwrap();
    let full = crate::Sight { window: None, theta: 2000.0 };
    let sliding = crate::Sight { window: Some(4), theta: 100.0 };
    assert_eq!(modern.layers, [full, sliding, sliding, full]);
    let mut old = new.clone();
    for name in ["layer_types", "rope_parameters"] {
        let _ = old.as_object_mut().unwrap().remove(name);
    }
    old["global_attn_every_n_layers"] = 3.into();
    (old["global_rope_theta"], old["local_rope_theta"]) = (2000.0.into(), 100.0.into());
    assert_eq!(parse(&old).unwrap(), modern);
    let refused = |name: &str, value: Value| {
        let mut config = new.clone();
        config[name] = value;
        parse(&config).unwrap_err().to_string()
    };
    assert!(refused("mlp_bias", true.into()).contains("no biases are served"));
    assert!(refused("layer_types", Value::from(vec!["full_attention"])).contains("1 entries for 4 layers"));
    assert!(refused("num_attention_heads", 8.into()).contains("must be even"));
    let scaled = serde_json::json!({"full_attention": {"rope_type": "yarn"}});
    assert!(refused("rope_parameters", scaled).contains("`yarn`"));
    assert!(refused("hidden_activation", "silu".into()).contains("hidden_act is `silu`"));
}
