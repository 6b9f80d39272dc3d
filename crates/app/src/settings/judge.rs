//! Settings of `uptake annotate`: section `[judge]`.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use uptake_judge::{Access, ApiKey, Cache, Endpoint, Error, HttpEndpoint, Judge, Limits, Options, Prices, RetryPolicy};

use crate::context::Usage;
use crate::local_judge::{LocalEndpoint, SCHEME};
use crate::settings::cache_directory;

/// Where the key is looked for when nothing else is said. Not `OPENAI_API_KEY`: a key that lies about for one server must
/// not go to another.
const KEY_VARIABLE: &str = "UPTAKE_JUDGE_API_KEY";

/// Section `[judge]`: the language model that annotates. The key itself stands in no file: `api_key_variable` names the
/// environment variable that holds it.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct JudgeSettings {
    /// Address of a server that speaks OpenAI's chat completions, for example `https://api.example.com/v1`; or
    /// `local:DIR`, a directory with a language model as Hugging Face lays it out, which answers on this machine.
    pub(crate) endpoint: Option<String>,
    /// The model's name there. Of a local model, what its answers are signed with beside its hash; none is needed.
    pub(crate) model: Option<String>,
    /// Environment variable that holds the API key; `UPTAKE_JUDGE_API_KEY` when absent, and no key when that is not set.
    pub(crate) api_key_variable: Option<String>,
    /// Price of a million tokens sent, in any one currency.
    pub(crate) price_input: Option<f64>,
    /// Price of a million tokens received.
    pub(crate) price_output: Option<f64>,
    /// Tokens that one call of the program may spend; no limit when absent.
    pub(crate) budget_tokens: Option<u64>,
    /// Money that one call of the program may spend, in the currency of the prices; no limit when absent.
    pub(crate) budget_money: Option<f64>,
    /// Requests in flight at once.
    pub(crate) concurrency: usize,
    /// Longest time for one answer of a server.
    #[serde(with = "humantime_serde")]
    pub(crate) timeout: Duration,
    /// How often a request is repeated that failed for a passing reason.
    pub(crate) retries: u32,
    /// Directory of answers; `uptake/judge` below the user's cache directory when absent. It holds what users wrote as far
    /// as answers quote it.
    pub(crate) cache: Option<PathBuf>,
    /// Randomness of answers.
    pub(crate) temperature: f64,
    /// Seed of that randomness, for servers that take one.
    pub(crate) seed: Option<u64>,
}

impl Default for JudgeSettings {
    fn default() -> Self {
        Self {
            endpoint: None,
            model: None,
            api_key_variable: None,
            price_input: None,
            price_output: None,
            budget_tokens: None,
            budget_money: None,
            concurrency: 8,
            timeout: Duration::from_mins(2),
            retries: RetryPolicy::default().retries,
            cache: None,
            temperature: 0.0,
            seed: None,
        }
    }
}

impl JudgeSettings {
    /// A judge of these settings.
    ///
    /// # Errors
    /// [`Usage`] that names the setting.
    pub(crate) fn judge(&self) -> anyhow::Result<Judge> {
        let missing = |what: &str, key: &str| {
            let variable = format!("UPTAKE_JUDGE_{}", key.to_uppercase());
            Usage(format!("no {what}: say --{key}, or set {key} under [judge] (or {variable})"))
        };
        let base = self.endpoint.clone().ok_or_else(|| missing("endpoint", "endpoint"))?;
        let endpoint: Arc<dyn Endpoint> = if let Some(directory) = base.strip_prefix(SCHEME) {
            Arc::new(LocalEndpoint::load(Path::new(directory), self.model.as_deref(), self.concurrency)?)
        } else {
            let model = self.model.clone().ok_or_else(|| missing("model", "model"))?;
            let key = self.key(|name| std::env::var(name).ok())?;
            Arc::new(HttpEndpoint::new(Access { base, model, key, timeout: self.timeout }).map_err(usage)?)
        };
        let cache = match &self.cache {
            Some(directory) => directory.clone(),
            None => cache_directory("judge")?,
        };
        Judge::new(endpoint, Cache::open(cache)?, self.options()).map_err(usage)
    }

    /// Everything that can be said without a server, for `config check`.
    pub(crate) fn faults(&self) -> Vec<String> {
        let mut faults = Vec::new();
        if let Some(directory) = self.endpoint.as_deref().and_then(|endpoint| endpoint.strip_prefix(SCHEME)) {
            if !Path::new(directory).is_dir() {
                faults.push(format!("judge.endpoint: there is no directory `{directory}`"));
            }
        } else if let Some(base) = self.endpoint.clone() {
            let access = Access { base, model: String::new(), key: None, timeout: self.timeout };
            faults.extend(HttpEndpoint::new(access).err().map(|error| format!("judge.endpoint: {error}")));
        }
        if self.concurrency == 0 {
            faults.push("judge.concurrency: must be at least 1".to_owned());
        }
        if !(0.0..=2.0).contains(&self.temperature) {
            faults.push("judge.temperature: must be between 0 and 2".to_owned());
        }
        if self.budget_money.is_some() && self.price_input.is_none() && self.price_output.is_none() {
            faults.push("judge.budget_money: needs price_input and price_output".to_owned());
        }
        for (name, amount) in [
            ("price_input", self.price_input),
            ("price_output", self.price_output),
            ("budget_money", self.budget_money),
        ] {
            if amount.is_some_and(|amount| !amount.is_finite() || amount < 0.0) {
                faults.push(format!("judge.{name}: must be a number from 0 on"));
            }
        }
        faults
    }

    /// Whether prices are known, so that costs mean something.
    pub(crate) const fn has_prices(&self) -> bool {
        self.price_input.is_some() || self.price_output.is_some()
    }

    fn options(&self) -> Options {
        // Only waits are drawn from it: two processes that are sent away together must not come back together.
        let clock = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
        let seed = u64::from(clock.subsec_nanos()) << 32 | u64::from(std::process::id());
        tracing::debug!(seed, "seed of the waits between attempts");
        Options {
            concurrency: self.concurrency,
            retry: RetryPolicy { retries: self.retries, ..RetryPolicy::default() },
            limits: Limits { tokens: self.budget_tokens, money: self.budget_money },
            prices: Prices {
                input: self.price_input.unwrap_or_default(),
                output: self.price_output.unwrap_or_default(),
            },
            seed,
        }
    }

    fn key(&self, variable: impl Fn(&str) -> Option<String>) -> Result<Option<ApiKey>, Usage> {
        let name = self.api_key_variable.as_deref().unwrap_or(KEY_VARIABLE);
        match variable(name).filter(|key| !key.trim().is_empty()) {
            Some(key) => Ok(Some(ApiKey::new(&key))),
            None if self.api_key_variable.is_some() => {
                Err(Usage(format!("judge.api_key_variable: the environment variable {name} is not set")))
            }
            None => Ok(None),
        }
    }
}

/// Options that do not fit are a matter of usage.
pub(crate) fn usage(error: Error) -> anyhow::Error {
    match error {
        Error::Invalid(_) | Error::Rubric(_) | Error::Output { .. } => Usage(error.to_string()).into(),
        other => other.into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_key_comes_from_the_variable_that_is_named() {
        let settings = JudgeSettings::default();
        let environment = |name: &str| (name != "EMPTY").then(|| format!("key of {name}"));
        assert!(settings.key(environment).unwrap().is_some());
        assert!(settings.key(|_| None).unwrap().is_none(), "a server of one's own needs none");
        let named = JudgeSettings { api_key_variable: Some("EMPTY".to_owned()), ..settings };
        let error = named.key(environment).unwrap_err().to_string();
        assert!(error.contains("EMPTY is not set"), "{error}");
        assert!(!toml::to_string(&named).unwrap().contains("key of"));
    }

    #[test]
    fn faults_name_their_key() {
        assert_eq!(JudgeSettings::default().faults(), Vec::<String>::new());
        let wrong = JudgeSettings {
            endpoint: Some("api.example.com".to_owned()),
            concurrency: 0,
            temperature: -1.0,
            budget_money: Some(f64::NAN),
            ..JudgeSettings::default()
        };
        let local = JudgeSettings { endpoint: Some("local:/no/such/model".to_owned()), ..JudgeSettings::default() };
        assert_eq!(local.faults(), ["judge.endpoint: there is no directory `/no/such/model`"]);
        let faults = wrong.faults();
        for key in ["endpoint", "concurrency", "temperature", "budget_money"] {
            assert!(faults.iter().any(|fault| fault.starts_with(&format!("judge.{key}: "))), "{key}: {faults:?}");
        }
        assert!(toml::from_str::<JudgeSettings>("api_key = \"secret\"").is_err(), "a key in a file is refused");
    }
}
