//! What the files beside the weights say: `config.json` (the encoder's shape, as Hugging Face writes it) and
//! `tagger.json` (ours: outputs, calibration, thresholds, golden logits).

use std::collections::HashMap;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use uptake_model::labels::{OUTPUTS, output_name};

use crate::error::{Error, Result};
use crate::exchange::Exchange;
use crate::modern::{self, Modern};

/// File name of [`EncoderConfig`].
pub const CONFIG_FILE: &str = "config.json";
/// File name of the tokenizer.
pub const TOKENIZER_FILE: &str = "tokenizer.json";
/// File name of the weights, where they are one file.
pub const WEIGHTS_FILE: &str = "model.safetensors";
/// File name of the list of the weights' files, where they are several.
pub const WEIGHTS_INDEX_FILE: &str = "model.safetensors.index.json";
/// File name of [`TaggerConfig`].
pub const TAGGER_FILE: &str = "tagger.json";

/// How an exchange becomes one input. A change of a layout needs a new name: a model serves only what it was trained on.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Layout {
    /// Follow-up, end of the response, last user message. What a `tagger.json` means that names none.
    #[default]
    #[serde(rename = "follow_up-response_end-user/1")]
    FollowUp,
    /// The same, with marks before it for how the follow-up relates to what the user said before and whether the response
    /// repeats an earlier one, and with the earlier user message most like the follow-up after it.
    #[serde(rename = "related/1")]
    Related,
}

impl Layout {
    /// All of them.
    pub const ALL: [Self; 2] = [Self::FollowUp, Self::Related];

    /// The name that stands in a `tagger.json`.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::FollowUp => "follow_up-response_end-user/1",
            Self::Related => "related/1",
        }
    }
}

impl FromStr for Layout {
    type Err = String;

    fn from_str(name: &str) -> std::result::Result<Self, String> {
        let known = || Self::ALL.map(Self::name).join("` and `");
        let found = Self::ALL.into_iter().find(|layout| layout.name() == name);
        found.ok_or_else(|| format!("template is `{name}`, this program serves `{}`", known()))
    }
}

/// Types of encoders that are served, by the `model_type` of their `config.json`. `RoBERTa` and XLM-R are BERT but for where
/// positions begin, the number of segment types and their special tokens.
pub const MODEL_TYPES: [&str; 4] = ["bert", "roberta", "xlm-roberta", "modernbert"];

/// Shape of an encoder, in Hugging Face's names. Fields that do not matter here are passed over.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct EncoderConfig {
    /// One of [`MODEL_TYPES`].
    pub model_type: String,
    /// Size of the token vocabulary.
    pub vocab_size: usize,
    /// Width of a token's state.
    pub hidden_size: usize,
    /// Number of layers.
    pub num_hidden_layers: usize,
    /// Number of attention heads; divides the width.
    pub num_attention_heads: usize,
    /// Width of the feed-forward layer.
    pub intermediate_size: usize,
    /// Rows of the table of positions; [`EncoderConfig::longest`] of them are used.
    pub max_position_embeddings: usize,
    /// Number of segment types. BERT has two; where there is one, all tokens are of it.
    pub type_vocab_size: usize,
    /// The token that pads. `RoBERTa`'s positions begin after its id.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pad_token_id: Option<usize>,
    /// Must be `gelu` (the exact one, by the error function).
    pub hidden_act: String,
    /// Added to the variance in layer normalisation.
    pub layer_norm_eps: f64,
    /// Must be `absolute` where given.
    #[serde(default = "absolute")]
    pub position_embedding_type: String,
    /// What a `modernbert` has that others have not.
    #[serde(skip)]
    pub modern: Option<Modern>,
}

/// The types that are served, in a sentence.
fn served() -> String {
    MODEL_TYPES.map(|name| format!("`{name}`")).join(", ")
}

fn absolute() -> String {
    "absolute".to_owned()
}

impl EncoderConfig {
    /// Reads and checks a `config.json`.
    ///
    /// # Errors
    /// [`Error::Model`] where it is not JSON or describes an encoder that is not served here.
    pub fn parse(json: &[u8]) -> Result<Self> {
        #[derive(Deserialize)]
        struct Typed {
            model_type: String,
        }
        let wrong = |error: serde_json::Error| {
            Error::model(CONFIG_FILE, format!("{error}; an encoder's config.json is needed ({})", served()))
        };
        // First: other types have other fields, and to miss one of BERT's there says nothing.
        let Typed { model_type } = serde_json::from_slice(json).map_err(wrong)?;
        if !MODEL_TYPES.contains(&model_type.as_str()) {
            return Err(Error::model(CONFIG_FILE, format!("model_type is `{model_type}`, served are {}", served())));
        }
        let config: Self = if model_type == "modernbert" {
            modern::parse(json)?
        } else {
            serde_json::from_slice(json).map_err(wrong)?
        };
        config.check()?;
        Ok(config)
    }

    /// Row of the table of positions that the first token gets.
    #[must_use]
    pub fn first_position(&self) -> usize {
        // As fairseq counted: what pads has the position of its own id, texts those after it.
        if self.model_type.ends_with("roberta") { self.pad_token_id.unwrap_or(1) + 1 } else { 0 }
    }

    /// Longest input in tokens.
    #[must_use]
    pub fn longest(&self) -> usize {
        self.max_position_embeddings.saturating_sub(self.first_position())
    }

    /// Segment type of the tokens after the first segment.
    #[must_use]
    pub const fn later_segment(&self) -> usize {
        if self.type_vocab_size > 1 { 1 } else { 0 }
    }

    /// A weight by its name as [`EncoderConfig::weight_shapes`] has it, of weights that may be those of a larger model, where
    /// the encoder is one part.
    #[must_use]
    pub fn find<'a, T>(weights: &'a HashMap<String, T>, name: &str) -> Option<&'a T> {
        let within = |part: &str| weights.get(&format!("{part}.{name}"));
        weights.get(name).or_else(|| ["bert", "roberta", "model"].into_iter().find_map(within))
    }

    /// Names (Hugging Face's, without `bert.`, `roberta.` or `model.`) and shapes of the weights that serving reads, those of a head with so many
    /// outputs included.
    #[must_use]
    pub fn weight_shapes(&self, outputs: usize) -> Vec<(String, Vec<usize>)> {
        let (width, inner) = (self.hidden_size, self.intermediate_size);
        let head =
            [("classifier.weight".to_owned(), vec![outputs, 2 * width]), ("classifier.bias".to_owned(), vec![outputs])];
        if self.modern.is_some() {
            let mut shapes = modern::weight_shapes(self);
            shapes.extend(head);
            return shapes;
        }
        let mut shapes = vec![
            ("embeddings.word_embeddings.weight".to_owned(), vec![self.vocab_size, width]),
            ("embeddings.position_embeddings.weight".to_owned(), vec![self.max_position_embeddings, width]),
            ("embeddings.token_type_embeddings.weight".to_owned(), vec![self.type_vocab_size, width]),
        ];
        shapes.extend(head);
        let mut norms = vec!["embeddings.LayerNorm".to_owned()];
        for layer in 0..self.num_hidden_layers {
            let prefix = format!("encoder.layer.{layer}");
            for (name, out, from) in [
                ("attention.self.query", width, width),
                ("attention.self.key", width, width),
                ("attention.self.value", width, width),
                ("attention.output.dense", width, width),
                ("intermediate.dense", inner, width),
                ("output.dense", width, inner),
            ] {
                shapes.push((format!("{prefix}.{name}.weight"), vec![out, from]));
                shapes.push((format!("{prefix}.{name}.bias"), vec![out]));
            }
            norms.push(format!("{prefix}.attention.output.LayerNorm"));
            norms.push(format!("{prefix}.output.LayerNorm"));
        }
        for norm in norms {
            shapes.push((format!("{norm}.weight"), vec![width]));
            shapes.push((format!("{norm}.bias"), vec![width]));
        }
        shapes
    }

    fn check(&self) -> Result<()> {
        let refuse = |reason: String| Err(Error::model(CONFIG_FILE, reason));
        if self.hidden_act != "gelu" {
            return refuse(format!("hidden_act is `{}`, only `gelu` is served", self.hidden_act));
        }
        if self.position_embedding_type != "absolute" {
            return refuse(format!(
                "position_embedding_type is `{}`, only `absolute` is served",
                self.position_embedding_type
            ));
        }
        if self.num_attention_heads == 0 || !self.hidden_size.is_multiple_of(self.num_attention_heads) {
            return refuse(format!(
                "hidden_size {} is no multiple of num_attention_heads {}",
                self.hidden_size, self.num_attention_heads
            ));
        }
        if self.type_vocab_size == 0 {
            return refuse("type_vocab_size is 0, a segment type is needed".to_owned());
        }
        if self.longest() == 0 {
            return refuse(format!(
                "max_position_embeddings is {}, positions begin at {}",
                self.max_position_embeddings,
                self.first_position()
            ));
        }
        for (name, value) in [
            ("hidden_size", self.hidden_size),
            ("num_hidden_layers", self.num_hidden_layers),
            ("intermediate_size", self.intermediate_size),
            ("vocab_size", self.vocab_size),
        ] {
            if value == 0 || value > 1 << 20 {
                return refuse(format!("{name} is {value}"));
            }
        }
        if !(self.layer_norm_eps.is_finite() && self.layer_norm_eps >= 0.0) {
            return refuse(format!("layer_norm_eps is {}", self.layer_norm_eps));
        }
        Ok(())
    }
}

/// How a logit becomes a probability: `1 / (1 + exp(-(scale · logit + bias)))` (Platt scaling).
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Calibration {
    /// Positive, so that the order of scores stays.
    pub scale: f32,
    /// Added after scaling.
    pub bias: f32,
}

impl Calibration {
    /// Leaves the logit as it is.
    pub const IDENTITY: Self = Self { scale: 1.0, bias: 0.0 };

    /// The probability that belongs to a logit, 0 to 1.
    #[must_use]
    pub fn probability(self, logit: f32) -> f32 {
        1.0 / (1.0 + (-(self.scale * logit + self.bias)).exp())
    }
}

/// One input with the logits that the served weights gave for it when the model was made.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Golden {
    /// The last user message before the response.
    pub last_user: String,
    /// The response.
    pub response: String,
    /// The follow-up turn.
    pub follow_up: String,
    /// User messages before the last one, the newest first.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub earlier_users: Vec<String>,
    /// Responses before the response, the newest first.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub earlier_responses: Vec<String>,
    /// A logit per output.
    pub logits: Vec<f32>,
}

impl Golden {
    /// The texts.
    #[must_use]
    pub fn exchange(&self) -> Exchange<'_> {
        Exchange {
            earlier_users: self.earlier_users.iter().map(String::as_str).collect(),
            earlier_responses: self.earlier_responses.iter().map(String::as_str).collect(),
            ..Exchange::alone(&self.last_user, &self.response, &self.follow_up)
        }
    }
}

/// `tagger.json`: all that serving needs beside the encoder.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TaggerConfig {
    /// First part of the version in every row; small letters, digits and dashes.
    pub name: String,
    /// How an exchange becomes an input: the name of a [`Layout`], of the first where none is given.
    #[serde(default = "first_layout")]
    pub template: String,
    /// Longest input in tokens, special ones included.
    pub max_tokens: usize,
    /// Names of the outputs in order: the labels, `sat`, `dsat`.
    pub outputs: Vec<String>,
    /// Per output.
    pub calibration: Vec<Calibration>,
    /// Per output: the calibrated probability from which on it fires.
    pub thresholds: Vec<f32>,
    /// Checked when the model is loaded.
    pub golden: Vec<Golden>,
}

fn first_layout() -> String {
    Layout::default().name().to_owned()
}

/// Fewest tokens of an input: below it no text survives beside the special tokens.
const FEWEST_TOKENS: usize = 16;

impl TaggerConfig {
    /// Reads and checks a `tagger.json` against the encoder's shape.
    ///
    /// # Errors
    /// [`Error::Model`] where it is not JSON or does not fit this program or the encoder.
    pub fn parse(json: &[u8], encoder: &EncoderConfig) -> Result<Self> {
        let config: Self =
            serde_json::from_slice(json).map_err(|error| Error::model(TAGGER_FILE, error.to_string()))?;
        config.check(encoder)?;
        Ok(config)
    }

    /// The layout that the template names.
    ///
    /// # Errors
    /// [`Error::Model`] where it is none that this program serves.
    pub fn layout(&self) -> Result<Layout> {
        self.template.parse().map_err(|reason: String| Error::model(TAGGER_FILE, reason))
    }

    fn check(&self, encoder: &EncoderConfig) -> Result<()> {
        let refuse = |reason: String| Err(Error::model(TAGGER_FILE, reason));
        let plain = |character: char| character.is_ascii_lowercase() || character.is_ascii_digit() || character == '-';
        if self.name.is_empty() || !self.name.chars().all(plain) {
            return refuse(format!("name `{}` is not made of small letters, digits and dashes", self.name));
        }
        let _ = self.layout()?;
        if !(FEWEST_TOKENS..=encoder.longest()).contains(&self.max_tokens) {
            return refuse(format!(
                "max_tokens is {}, the encoder takes {FEWEST_TOKENS} to {}",
                self.max_tokens,
                encoder.longest()
            ));
        }
        if !self.outputs.iter().map(String::as_str).eq((0..OUTPUTS).filter_map(output_name)) {
            return refuse("outputs are not the labels in their order, then `sat` and `dsat`".to_owned());
        }
        if self.calibration.len() != OUTPUTS || self.thresholds.len() != OUTPUTS {
            return refuse(format!("calibration and thresholds need {OUTPUTS} entries each"));
        }
        if !self.calibration.iter().all(|each| each.scale.is_finite() && each.scale > 0.0 && each.bias.is_finite()) {
            return refuse("a calibration is not finite, or its scale not above 0".to_owned());
        }
        if !self.thresholds.iter().all(|threshold| (0.0..=1.0).contains(threshold)) {
            return refuse("a threshold is not between 0 and 1".to_owned());
        }
        if self.golden.is_empty() || self.golden.iter().any(|golden| golden.logits.len() != OUTPUTS) {
            return refuse(format!("golden examples are missing, or lack some of their {OUTPUTS} logits"));
        }
        Ok(())
    }
}
