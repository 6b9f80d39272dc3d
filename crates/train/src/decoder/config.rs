//! `config.json` of a decoder, read by our own rules: what is not understood is refused, since a model that is computed
//! with another rotation or another window answers fluently and wrongly.

use serde::Deserialize;

use super::adapter::Module;
use crate::error::{Error, Result};

/// Layouts that differ in biases and in the normalisation of queries and keys.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Family {
    Llama,
    Qwen2,
    Qwen3,
}

/// The shape of a decoder.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct DecoderConfig {
    pub(crate) family: Family,
    pub(crate) vocabulary: usize,
    /// Width of a token's state.
    pub(crate) width: usize,
    /// Width inside the feed-forward part.
    pub(crate) inner: usize,
    pub(crate) layers: usize,
    pub(crate) heads: usize,
    /// Heads of keys and values, each shared by `heads / kv_heads` query heads.
    pub(crate) kv_heads: usize,
    pub(crate) head_width: usize,
    /// Of the root mean square normalisation.
    pub(crate) epsilon: f32,
    /// Base of the rotary wavelengths.
    pub(crate) theta: f32,
    /// Whether the output matrix is the embedding.
    pub(crate) tied: bool,
    /// Longest sequence that the model was made for.
    pub(crate) positions: usize,
    /// Whether queries, keys and values have a bias.
    pub(crate) input_bias: bool,
    /// Whether the projection out of the attention has a bias.
    pub(crate) output_bias: bool,
}

#[derive(Deserialize)]
struct Raw {
    model_type: String,
    vocab_size: usize,
    hidden_size: usize,
    intermediate_size: usize,
    num_hidden_layers: usize,
    num_attention_heads: usize,
    num_key_value_heads: Option<usize>,
    head_dim: Option<usize>,
    hidden_act: Option<String>,
    max_position_embeddings: usize,
    rms_norm_eps: f32,
    rope_theta: Option<f32>,
    rope_parameters: Option<Rope>,
    rope_scaling: Option<Rope>,
    tie_word_embeddings: Option<bool>,
    attention_bias: Option<bool>,
    mlp_bias: Option<bool>,
    use_sliding_window: Option<bool>,
}

#[derive(Deserialize)]
struct Rope {
    rope_theta: Option<f32>,
    #[serde(alias = "type")]
    rope_type: Option<String>,
}

impl Rope {
    fn is_plain(&self) -> bool {
        self.rope_type.as_deref().is_none_or(|kind| kind == "default")
    }
}

impl DecoderConfig {
    /// Reads a `config.json`.
    ///
    /// # Errors
    /// [`Error::Invalid`] where it is none, or asks for something that this decoder does not compute.
    pub(crate) fn parse(bytes: &[u8]) -> Result<Self> {
        let refuse = |reason: String| Error::Invalid(format!("config.json of the base model: {reason}"));
        let raw: Raw = serde_json::from_slice(bytes).map_err(|error| refuse(error.to_string()))?;
        let family = match raw.model_type.as_str() {
            "llama" => Family::Llama,
            "qwen2" => Family::Qwen2,
            "qwen3" => Family::Qwen3,
            other => {
                return Err(refuse(format!("model_type is `{other}`; llama (SmolLM2 too), qwen2 and qwen3 are known")));
            }
        };
        if let Some(activation) = raw.hidden_act.as_deref().filter(|activation| *activation != "silu") {
            return Err(refuse(format!("hidden_act is `{activation}`, only silu is known")));
        }
        if let Some(rope) = raw.rope_scaling.iter().chain(&raw.rope_parameters).find(|rope| !rope.is_plain()) {
            let kind = rope.rope_type.as_deref().unwrap_or_default();
            return Err(refuse(format!("rotary scaling `{kind}` is not supported: take a base model without it")));
        }
        if raw.use_sliding_window == Some(true) || raw.mlp_bias == Some(true) {
            return Err(refuse("sliding windows and mlp_bias are not supported".to_owned()));
        }
        let theta = raw.rope_parameters.as_ref().and_then(|rope| rope.rope_theta).or(raw.rope_theta);
        let bias = raw.attention_bias == Some(true);
        let config = Self {
            family,
            vocabulary: raw.vocab_size,
            width: raw.hidden_size,
            inner: raw.intermediate_size,
            layers: raw.num_hidden_layers,
            heads: raw.num_attention_heads,
            kv_heads: raw.num_key_value_heads.unwrap_or(raw.num_attention_heads),
            head_width: raw.head_dim.unwrap_or(raw.hidden_size / raw.num_attention_heads.max(1)),
            epsilon: raw.rms_norm_eps,
            theta: theta.unwrap_or(10_000.0),
            tied: raw.tie_word_embeddings.unwrap_or(false),
            positions: raw.max_position_embeddings,
            input_bias: bias || family == Family::Qwen2,
            output_bias: bias && family != Family::Qwen2,
        };
        let sizes = [config.vocabulary, config.width, config.inner, config.layers, config.heads, config.kv_heads];
        if sizes.contains(&0) || config.positions == 0 || config.head_width == 0 || config.head_width % 2 == 1 {
            return Err(refuse("a size is 0, or the width of a head is odd".to_owned()));
        }
        if !config.heads.is_multiple_of(config.kv_heads) {
            return Err(refuse(format!("{} heads cannot share {} keys", config.heads, config.kv_heads)));
        }
        if !(config.theta > 1.0 && config.theta.is_finite() && config.epsilon > 0.0 && config.epsilon < 1.0) {
            return Err(refuse("rope_theta or rms_norm_eps is out of range".to_owned()));
        }
        Ok(config)
    }

    /// Columns and rows of a projection: `[out, in]`.
    pub(crate) const fn shape(&self, module: Module) -> (usize, usize) {
        let (queries, keys) = (self.heads * self.head_width, self.kv_heads * self.head_width);
        match module {
            Module::Query => (queries, self.width),
            Module::Key | Module::Value => (keys, self.width),
            Module::Output => (self.width, queries),
            Module::Gate | Module::Up => (self.inner, self.width),
            Module::Down => (self.width, self.inner),
        }
    }

    /// Whether a projection has a bias.
    pub(crate) const fn has_bias(&self, module: Module) -> bool {
        match module {
            Module::Query | Module::Key | Module::Value => self.input_bias,
            Module::Output => self.output_bias,
            Module::Gate | Module::Up | Module::Down => false,
        }
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::float_cmp, reason = "what is compared is exact")]

    use serde_json::{Value, json};

    use super::*;

    fn parse(changes: &[(&str, Value)]) -> Result<DecoderConfig, String> {
        let mut config = json!({
            "model_type": "llama", "vocab_size": 100, "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2,
            "num_attention_heads": 4, "max_position_embeddings": 128, "rms_norm_eps": 1e-5,
        });
        for (name, value) in changes {
            config[*name] = value.clone();
        }
        DecoderConfig::parse(config.to_string().as_bytes()).map_err(|error| error.to_string())
    }

    #[test]
    fn the_rotation_is_read_wherever_it_stands() {
        assert_eq!(parse(&[]).unwrap().theta, 10_000.0);
        assert_eq!(parse(&[("rope_theta", json!(5e5))]).unwrap().theta, 5e5);
        let nested = json!({"rope_theta": 1e6, "rope_type": "default"});
        assert_eq!(parse(&[("rope_parameters", nested)]).unwrap().theta, 1e6);
    }

    #[test]
    fn sizes_have_their_defaults() {
        let config = parse(&[("head_dim", Value::Null), ("rope_scaling", Value::Null)]).unwrap();
        assert_eq!((config.kv_heads, config.head_width, config.tied), (4, 8, false));
        let config = parse(&[("head_dim", json!(16)), ("num_key_value_heads", json!(2))]).unwrap();
        assert_eq!((config.shape(Module::Query), config.shape(Module::Value)), ((64, 32), (32, 32)));
        assert_eq!(config.shape(Module::Output), (32, 64));
        assert!(parse(&[("model_type", json!("qwen2"))]).unwrap().has_bias(Module::Key));
    }

    #[test]
    fn what_would_be_computed_otherwise_is_refused() {
        let scaled = json!({"rope_type": "llama3", "factor": 8.0});
        for (name, value, says) in [
            ("model_type", json!("gemma"), "gemma"),
            ("hidden_act", json!("gelu"), "gelu"),
            ("rope_scaling", scaled.clone(), "llama3"),
            ("rope_scaling", json!({"type": "linear"}), "linear"),
            ("rope_parameters", scaled, "llama3"),
            ("use_sliding_window", json!(true), "sliding"),
            ("num_key_value_heads", json!(3), "share"),
            ("num_hidden_layers", json!(0), "size"),
            ("head_dim", json!(7), "odd"),
            ("vocab_size", json!("many"), "invalid type"),
        ] {
            let error = parse(&[(name, value)]).unwrap_err();
            assert!(error.contains(says), "{name}: {error}");
        }
    }
}
