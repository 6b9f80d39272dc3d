//! Low-rank adapters: which projections get one, how it starts, and PEFT's files.

use std::collections::BTreeMap;
use std::fmt;
use std::path::Path;

use candle_core::{Device, Tensor, Var};
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use serde::Serialize;
use serde_json::json;

use super::config::DecoderConfig;
use super::files::{write_file, write_tensors};
use crate::error::{Error, Result};

/// PEFT's description of an adapter.
pub(crate) const ADAPTER_CONFIG_FILE: &str = "adapter_config.json";
/// PEFT's weights of an adapter.
pub(crate) const ADAPTER_WEIGHTS_FILE: &str = "adapter_model.safetensors";

/// A projection of a layer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(into = "&'static str")]
pub enum Module {
    /// `q_proj`
    Query,
    /// `k_proj`
    Key,
    /// `v_proj`
    Value,
    /// `o_proj`
    Output,
    /// `gate_proj`
    Gate,
    /// `up_proj`
    Up,
    /// `down_proj`
    Down,
}

impl Module {
    /// All of them, in the order of a layer.
    pub const ALL: [Self; 7] = [Self::Query, Self::Key, Self::Value, Self::Output, Self::Gate, Self::Up, Self::Down];

    /// Its name in Hugging Face's layout.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Query => "q_proj",
            Self::Key => "k_proj",
            Self::Value => "v_proj",
            Self::Output => "o_proj",
            Self::Gate => "gate_proj",
            Self::Up => "up_proj",
            Self::Down => "down_proj",
        }
    }

    /// Its path below a layer.
    pub(crate) fn path(self) -> String {
        let part = match self {
            Self::Query | Self::Key | Self::Value | Self::Output => "self_attn",
            Self::Gate | Self::Up | Self::Down => "mlp",
        };
        format!("{part}.{}", self.name())
    }
}

impl From<Module> for &'static str {
    fn from(module: Module) -> Self {
        module.name()
    }
}

impl fmt::Display for Module {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(self.name())
    }
}

impl std::str::FromStr for Module {
    type Err = String;

    fn from_str(name: &str) -> std::result::Result<Self, String> {
        let names = || Self::ALL.map(Self::name).join(", ");
        Self::ALL
            .into_iter()
            .find(|module| module.name() == name)
            .ok_or_else(|| format!("`{name}` is none of {}", names()))
    }
}

/// What an adapter looks like.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Adapter {
    /// Rank of the update.
    pub rank: usize,
    /// The update is scaled by `alpha / rank`.
    pub alpha: f64,
    /// Projections that get one.
    pub modules: Vec<Module>,
}

impl Default for Adapter {
    fn default() -> Self {
        Self { rank: 16, alpha: 32.0, modules: Module::ALL.to_vec() }
    }
}

/// The two factors of one projection's update.
#[derive(Clone, Debug)]
pub(crate) struct Factors {
    /// `[rank, in]`
    pub(crate) down: Var,
    /// `[out, rank]`
    pub(crate) up: Var,
}

impl Adapter {
    /// The factor of the update.
    pub(crate) fn scale(&self) -> f64 {
        self.alpha / self.rank as f64
    }

    /// What cannot be trained, and why.
    pub(crate) fn check(&self) -> Result<()> {
        if self.rank == 0 || self.modules.is_empty() || !(self.alpha.is_finite() && self.alpha > 0.0) {
            return Err(Error::Invalid(
                "an adapter needs a rank and an alpha above 0 and at least one module".to_owned(),
            ));
        }
        Ok(())
    }

    /// Fresh factors as PEFT makes them: the first drawn uniformly within `1/√in`, the second 0, so that nothing changes.
    pub(crate) fn fresh(&self, config: &DecoderConfig, seed: u64) -> Result<Vec<BTreeMap<Module, Factors>>> {
        let mut random = ChaCha8Rng::seed_from_u64(seed);
        let mut modules = self.modules.clone();
        modules.sort_unstable();
        modules.dedup();
        let mut factors = |module: Module| -> Result<(Module, Factors)> {
            let (rows, columns) = config.shape(module);
            let bound = 1.0 / (columns as f32).sqrt();
            let down = (0..self.rank * columns).map(|_| random.random_range(-bound..=bound)).collect();
            let down = Tensor::from_vec(down, (self.rank, columns), &Device::Cpu)?;
            let up = Tensor::zeros((rows, self.rank), candle_core::DType::F32, &Device::Cpu)?;
            Ok((module, Factors { down: Var::from_tensor(&down)?, up: Var::from_tensor(&up)? }))
        };
        (0..config.layers).map(|_| modules.iter().map(|module| factors(*module)).collect()).collect()
    }

    /// PEFT's name of a factor: `lora_A` or `lora_B`.
    pub(crate) fn key(layer: usize, module: Module, factor: &str) -> String {
        format!("base_model.model.model.layers.{layer}.{}.{factor}.weight", module.path())
    }

    /// Writes an adapter as PEFT reads it.
    pub(crate) fn write(&self, directory: &Path, base: &str, parameters: &BTreeMap<String, Var>) -> Result<()> {
        let tensors: BTreeMap<String, Tensor> =
            parameters.iter().map(|(name, var)| (name.clone(), var.as_detached_tensor())).collect();
        write_tensors(&directory.join(ADAPTER_WEIGHTS_FILE), &tensors, &[("format", "pt".to_owned())])?;
        let config = json!({
            "peft_type": "LORA",
            "task_type": "CAUSAL_LM",
            "base_model_name_or_path": base,
            "r": self.rank,
            "lora_alpha": self.alpha,
            "lora_dropout": 0.0,
            "target_modules": self.modules,
            "bias": "none",
            "fan_in_fan_out": false,
            "inference_mode": true,
            "init_lora_weights": true,
            "modules_to_save": null,
            "use_dora": false,
            "use_rslora": false,
        });
        let json = serde_json::to_vec_pretty(&config).map_err(|error| Error::Bug(error.to_string()))?;
        write_file(&directory.join(ADAPTER_CONFIG_FILE), &json)
    }
}
