//! An adapter in PEFT's layout, added to the weights of its base model.

use std::path::Path;

use candle_core::DType;
use serde::Deserialize;
use serde_json::{Map, Value};
use sha2::{Digest, Sha256};
use uptake_tagger::read_weights;

use super::adapter::{ADAPTER_CONFIG_FILE, ADAPTER_WEIGHTS_FILE, Adapter, Module};
use super::config::DecoderConfig;
use super::files::BaseWeights;
use crate::error::{Error, Result};

/// What PEFT writes of an adapter.
#[derive(Deserialize)]
struct Stored {
    peft_type: String,
    r: usize,
    lora_alpha: f64,
    #[serde(default)]
    use_rslora: bool,
    bias: Option<String>,
    #[serde(flatten)]
    others: Map<String, Value>,
}

/// What makes PEFT compute something else, wherever it is set.
const NOT_COMPUTED: [&str; 13] = [
    "alora_invocation_tokens",
    "alpha_pattern",
    "fan_in_fan_out",
    "layer_replication",
    "lora_bias",
    "modules_to_save",
    "rank_pattern",
    "target_parameters",
    "trainable_token_indices",
    "use_bdlora",
    "use_dora",
    "use_qalora",
    "velora_config",
];

impl Stored {
    fn parse(bytes: &[u8]) -> Result<Self, String> {
        let stored: Self = serde_json::from_slice(bytes).map_err(|error| error.to_string())?;
        if stored.peft_type != "LORA" {
            return Err(format!("peft_type is `{}`, only LORA is known", stored.peft_type));
        }
        let set = |value: &Value| match value {
            Value::Null | Value::Bool(false) => false,
            Value::Array(values) => !values.is_empty(),
            Value::Object(values) => !values.is_empty(),
            Value::Bool(true) | Value::Number(_) | Value::String(_) => true,
        };
        let mut other = NOT_COMPUTED.into_iter().filter(|name| stored.others.get(*name).is_some_and(set));
        let bias = stored.bias.as_deref().is_some_and(|bias| bias != "none").then_some("bias");
        if let Some(name) = bias.or_else(|| other.next()) {
            return Err(format!("it has {name}, which is not supported: merge it with PEFT and name the merged model"));
        }
        if stored.r == 0 || !stored.lora_alpha.is_finite() {
            return Err("r must be above 0 and lora_alpha a number".to_owned());
        }
        Ok(stored)
    }

    fn scale(&self) -> f64 {
        let rank = self.r as f64;
        self.lora_alpha / if self.use_rslora { rank.sqrt() } else { rank }
    }
}

/// Adds the adapter in `directory` to the weights; the SHA-256 of its files, hexadecimal.
///
/// # Errors
/// [`Error::File`] where a file cannot be read, [`Error::Invalid`] where the adapter is none of this base model's or asks
/// for something that is not computed here.
pub(crate) fn merge(directory: &Path, base: &mut BaseWeights, config: &DecoderConfig) -> Result<String> {
    let refuse = |reason: String| Error::Invalid(format!("adapter in `{}`: {reason}", directory.display()));
    let read = |name: &str| {
        let path = directory.join(name);
        std::fs::read(&path).map_err(|source| Error::File { action: "read", path, source })
    };
    let (described, bytes) = (read(ADAPTER_CONFIG_FILE)?, read(ADAPTER_WEIGHTS_FILE)?);
    let stored = Stored::parse(&described).map_err(|reason| refuse(format!("{ADAPTER_CONFIG_FILE}: {reason}")))?;
    let mut tensors =
        read_weights(&bytes).map_err(|error| refuse(format!("{ADAPTER_WEIGHTS_FILE} cannot be read: {error}")))?;
    if tensors.is_empty() {
        return Err(refuse(format!("{ADAPTER_WEIGHTS_FILE} has no weights")));
    }
    for layer in 0..config.layers {
        for module in Module::ALL {
            let mut take = |factor: &str| tensors.remove(&Adapter::key(layer, module, factor));
            let (down, up) = match (take("lora_A"), take("lora_B")) {
                (Some(down), Some(up)) => (down.to_dtype(DType::F32)?, up.to_dtype(DType::F32)?),
                (None, None) => continue,
                _ => return Err(refuse(format!("{module} of layer {layer} has one of its two factors only"))),
            };
            let (rows, columns) = config.shape(module);
            if down.dims() != [stored.r, columns] || up.dims() != [rows, stored.r] {
                let (down, up) = (down.dims(), up.dims());
                return Err(refuse(format!(
                    "{module} of layer {layer} has factors {down:?} and {up:?}, the base model and rank {} ask for \
                     {:?} and {:?}: it belongs to another base model",
                    stored.r,
                    [stored.r, columns],
                    [rows, stored.r]
                )));
            }
            let name = format!("model.layers.{layer}.{}.weight", module.path());
            let weight = base.tensors.get_mut(&name);
            let weight = weight.ok_or_else(|| refuse(format!("the base model has no weight `{name}`")))?;
            *weight = (&*weight + (up.matmul(&down)? * stored.scale())?)?;
        }
    }
    if let Some(name) = tensors.keys().min() {
        return Err(refuse(format!("it has a weight `{name}`, for which the base model has no place")));
    }
    let mut hash = Sha256::new();
    hash.update(&described);
    hash.update(&bytes);
    Ok(format!("{:x}", hash.finalize()))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use candle_core::{Device, Tensor};
    use serde_json::json;

    use super::super::tests::directory;
    use super::super::{BaseFiles, write_tensors};
    use super::*;

    /// An adapter on one projection of the tiny model, with changes to its description.
    fn merged(changes: &[(&str, Value)], tensors: &[(&str, Vec<usize>)]) -> Result<BaseWeights, String> {
        let adapter = tempfile::tempdir().unwrap();
        let mut described = json!({"peft_type": "LORA", "r": 2, "lora_alpha": 4.0, "bias": "none"});
        for (name, value) in changes {
            described[*name] = value.clone();
        }
        std::fs::write(adapter.path().join(ADAPTER_CONFIG_FILE), described.to_string()).unwrap();
        let tensors: BTreeMap<String, Tensor> = tensors
            .iter()
            .map(|(name, shape)| {
                let tensor = Tensor::full(0.5_f32, shape.as_slice(), &Device::Cpu).unwrap();
                (format!("base_model.model.model.layers.{name}.weight"), tensor)
            })
            .collect();
        write_tensors(&adapter.path().join(ADAPTER_WEIGHTS_FILE), &tensors, &[]).unwrap();
        let base = BaseFiles::read(&directory("llama")).unwrap();
        let mut weights = base.weights().unwrap();
        let config = DecoderConfig::parse(&base.config).unwrap();
        let _ = merge(adapter.path(), &mut weights, &config).map_err(|error| error.to_string())?;
        Ok(weights)
    }

    fn factors() -> [(&'static str, Vec<usize>); 2] {
        [("1.mlp.up_proj.lora_A", vec![2, 32]), ("1.mlp.up_proj.lora_B", vec![48, 2])]
    }

    #[test]
    fn what_the_factors_make_is_added() {
        let base = BaseFiles::read(&directory("llama")).unwrap().weights().unwrap();
        let moved = |merged: &BaseWeights, name: &str| {
            let difference = (&merged.tensors[name] - &base.tensors[name]).unwrap().flatten_all().unwrap();
            let values = difference.to_vec1::<f32>().unwrap();
            (values.iter().copied().fold(f32::MAX, f32::min), values.iter().copied().fold(f32::MIN, f32::max))
        };
        let up = "model.layers.1.mlp.up_proj.weight";
        // 2 · 0.5 · 0.5, times alpha over the rank or its root.
        for (changes, expected) in [(vec![], 1.0), (vec![("use_rslora", json!(true))], std::f32::consts::SQRT_2)] {
            let merged = merged(&changes, &factors()).unwrap();
            let (least, most) = moved(&merged, up);
            assert!((least - expected).abs() < 1e-5 && (most - expected).abs() < 1e-5, "{least} {most}");
            assert!(moved(&merged, "model.layers.0.mlp.up_proj.weight").1.abs() < f32::EPSILON);
        }
    }

    #[test]
    fn adapters_that_compute_something_else_or_belong_elsewhere_are_refused() {
        for (name, value) in [
            ("peft_type", json!("IA3")),
            ("use_dora", json!(true)),
            ("bias", json!("all")),
            ("modules_to_save", json!(["lm_head"])),
            ("rank_pattern", json!({"q_proj": 4})),
            ("alora_invocation_tokens", json!([1])),
        ] {
            let error = merged(&[(name, value)], &factors()).unwrap_err();
            assert!(error.contains(name), "{name}: {error}");
        }
        let refused = |tensors: &[(&str, Vec<usize>)]| merged(&[], tensors).unwrap_err();
        assert!(refused(&[]).contains(ADAPTER_WEIGHTS_FILE));
        assert!(refused(&factors()[..1]).contains("one of its two"));
        let [down, _] = factors();
        assert!(refused(&[down.clone(), ("1.mlp.up_proj.lora_B", vec![49, 2])]).contains("another base model"));
        let [one, two] = factors();
        assert!(refused(&[one, two, ("2.mlp.up_proj.lora_A", vec![2, 32])]).contains("no place"));
    }
}
