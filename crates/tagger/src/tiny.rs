//! A tiny model with random weights, for tests: it means nothing, but loads and computes like a real one.

use std::borrow::Cow;
use std::collections::HashMap;

use candle_core::{Device, Tensor};
use uptake_model::labels::{OUTPUTS, output_name};

use crate::error::Result;
use crate::files::ModelFiles;
use crate::settings::{Calibration, EncoderConfig, Golden, Layout, TaggerConfig};
use crate::tagger::{Options, Tagger};

/// Size of the vocabulary.
pub const VOCABULARY: usize = WORDS.len() + RESERVED;
const WORDS: [&str; 44] = [
    "[PAD]", "[UNK]", "[CLS]", "[SEP]", "thanks", "it", "worked", "so", "how", "a", "b", "c", "d", "e", "f", "g", "h",
    "i", "j", "k", "l", "m", "n", "o", "p", "q", "r", "s", "t", "u", "v", "w", "x", "y", "z", "##e", "##s", "##t",
    "no", ",", ".", "!", "[", "]",
];
/// Reserved tokens after the words, for the marks of a layout that has some.
const RESERVED: usize = 20;

/// A `tokenizer.json`.
#[must_use]
pub fn tokenizer() -> String {
    let reserved = (1..=RESERVED).map(|index| format!("[unused{index}]"));
    let words = WORDS.iter().map(|word| (*word).to_owned()).chain(reserved);
    let vocabulary: Vec<String> =
        words.enumerate().map(|(id, word)| format!("{}:{id}", serde_json::Value::from(word))).collect();
    let special = |id: usize, content: &str| {
        format!(
            r#"{{"id":{id},"content":"{content}","single_word":false,"lstrip":false,"rstrip":false,"normalized":false,"special":true}}"#
        )
    };
    format!(
        r###"{{"version":"1.0","truncation":null,"padding":null,"added_tokens":[{}],
        "normalizer":{{"type":"BertNormalizer","clean_text":true,"handle_chinese_chars":true,"strip_accents":null,"lowercase":true}},
        "pre_tokenizer":{{"type":"BertPreTokenizer"}},"post_processor":null,"decoder":null,
        "model":{{"type":"WordPiece","unk_token":"[UNK]","continuing_subword_prefix":"##","max_input_chars_per_word":100,
        "vocab":{{{}}}}}}}"###,
        [special(0, "[PAD]"), special(1, "[UNK]"), special(2, "[CLS]"), special(3, "[SEP]")].join(","),
        vocabulary.join(",")
    )
}

/// A `config.json`.
#[must_use]
pub fn config() -> EncoderConfig {
    EncoderConfig {
        model_type: "bert".to_owned(),
        vocab_size: VOCABULARY,
        hidden_size: 24,
        num_hidden_layers: 2,
        num_attention_heads: 3,
        intermediate_size: 40,
        max_position_embeddings: 64,
        type_vocab_size: 2,
        pad_token_id: None,
        hidden_act: "gelu".to_owned(),
        layer_norm_eps: 1e-12,
        position_embedding_type: "absolute".to_owned(),
        modern: None,
    }
}

/// Random weights, the same for the same seed.
///
/// # Errors
/// Where a tensor cannot be made.
pub fn weights(config: &EncoderConfig, seed: u64) -> Result<HashMap<String, Tensor>> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut next = move || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        let unit = (state >> 40) as f32 / 16_777_216.0;
        unit - 0.5
    };
    let mut weights = HashMap::new();
    for (name, shape) in config.weight_shapes(OUTPUTS) {
        let centre = if name.contains("LayerNorm.weight") { 1.0 } else { 0.0 };
        let values: Vec<f32> = (0..shape.iter().product()).map(|_| centre + next()).collect();
        let _ = weights.insert(name, Tensor::from_vec(values, shape, &Device::Cpu)?);
    }
    Ok(weights)
}

/// A `tagger.json` with the given golden examples.
#[must_use]
pub fn tagger(golden: Vec<Golden>) -> TaggerConfig {
    TaggerConfig {
        name: "tiny-signals".to_owned(),
        template: Layout::FollowUp.name().to_owned(),
        max_tokens: 32,
        outputs: (0..OUTPUTS).filter_map(output_name).map(str::to_owned).collect(),
        calibration: vec![Calibration::IDENTITY; OUTPUTS],
        thresholds: vec![0.5; OUTPUTS],
        golden,
    }
}

/// The files of a whole model whose golden logits are right.
///
/// # Errors
/// Where the model cannot be made.
pub fn files(seed: u64) -> Result<ModelFiles<'static>> {
    files_laid_out(seed, Layout::FollowUp)
}

/// The same with inputs of another layout.
///
/// # Errors
/// Where the model cannot be made.
pub fn files_laid_out(seed: u64, layout: Layout) -> Result<ModelFiles<'static>> {
    let config = config();
    let weights = weights(&config, seed)?;
    let encoder = crate::encoder::Encoder::new(&config, &weights)?;
    let template = crate::input::Template::parse(tokenizer().as_bytes(), VOCABULARY, 32, layout)?;
    let (last_user, response, follow_up) = ("how", "so it worked", "thanks");
    let input = template.encode(&crate::Exchange::alone(last_user, response, follow_up))?;
    let inputs: Vec<&crate::Input> = input.iter().collect();
    let golden = encoder.logits(&inputs)?.into_iter().map(|logits| Golden {
        last_user: last_user.to_owned(),
        response: response.to_owned(),
        follow_up: follow_up.to_owned(),
        earlier_users: Vec::new(),
        earlier_responses: Vec::new(),
        logits: logits.to_vec(),
    });
    let tagger = TaggerConfig { template: layout.name().to_owned(), ..tagger(golden.collect()) };
    let json = |value: serde_json::Result<Vec<u8>>| value.unwrap_or_default();
    Ok(ModelFiles {
        config: Cow::Owned(json(serde_json::to_vec(&config))),
        tokenizer: Cow::Owned(tokenizer().into_bytes()),
        weights: vec![Cow::Owned(serialize(&weights))],
        tagger: Cow::Owned(json(serde_json::to_vec(&tagger))),
    })
}

/// A safetensors file of the weights.
fn serialize(weights: &HashMap<String, Tensor>) -> Vec<u8> {
    safetensors::serialize(weights, None).unwrap_or_default()
}

/// A whole tagger.
///
/// # Errors
/// Where the model cannot be made.
pub fn open(seed: u64, options: Options) -> Result<Tagger> {
    Tagger::new(&files(seed)?, options)
}
