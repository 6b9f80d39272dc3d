//! Settings: one TOML file and the environment, unknown keys refused, checked together at start.
//!
//! A key `section.name` is also the environment variable `UPTAKE_SECTION_NAME`; `--lake` and `UPTAKE_LAKE` win over the
//! file. Durations and sizes are words (`"60s"`, `"128MiB"`). `UPTAKE_KAFKA_SASL_PASSWORD` is `sasl.password` under `[kafka]`.

pub(crate) mod ingest;
pub(crate) mod judge;
pub(crate) mod models;
pub(crate) mod schedule;
pub(crate) mod signals;

use std::fmt;
use std::path::{Path, PathBuf};

use anyhow::Context as _;
use serde::{Deserialize, Serialize};

use crate::context::Usage;

/// All settings.
#[derive(Clone, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct Settings {
    /// Root of all tables.
    pub(crate) lake: Option<String>,
    /// Secret of the subject keys (`UPTAKE_SUBJECT_PEPPER`); at least 16 bytes.
    #[serde(skip_serializing)]
    pub(crate) subject_pepper: Option<String>,
    /// Directory of pipelines; the built-in ones when absent.
    pub(crate) pipelines: Option<PathBuf>,
    /// Directory of a tagger model; the built-in one when absent.
    pub(crate) tagger: Option<PathBuf>,
    /// A tagger on trial, which reads beside the one in use into a table of its own: a directory, or a model of the registry.
    pub(crate) shadow_tagger: Option<String>,
    /// Traces, metrics, logs, health.
    pub(crate) telemetry: TelemetrySettings,
    /// What `uptake consume` does.
    pub(crate) ingest: ingest::IngestSettings,
    /// What `uptake consume --tag` does.
    pub(crate) signals: signals::SignalsSettings,
    /// librdkafka properties.
    pub(crate) kafka: ingest::KafkaSettings,
    /// The language model that annotates.
    pub(crate) judge: judge::JudgeSettings,
    /// The registry of models.
    pub(crate) models: models::ModelsSettings,
    /// What runs when.
    pub(crate) schedule: schedule::ScheduleSettings,
}

/// Traces, metrics, logs, health.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct TelemetrySettings {
    /// OTLP endpoint (HTTP), for example `http://localhost:4318`; none: nothing is exported.
    pub(crate) otlp_endpoint: Option<String>,
    /// Address of `/metrics`, `/live` and `/ready`, for example `0.0.0.0:9464`; none: not served.
    pub(crate) listen: Option<String>,
    /// Log filter, as `RUST_LOG` takes it.
    pub(crate) log: Option<String>,
}

impl fmt::Debug for Settings {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        // The pepper is a secret, and `Debug` is what ends up in logs.
        formatter.debug_struct("Settings").field("lake", &self.lake).field("kafka", &self.kafka).finish_non_exhaustive()
    }
}

/// The settings file: the one that was named, else the one in this directory, if there is one.
pub(crate) fn file(named: Option<PathBuf>) -> Option<PathBuf> {
    let default = Path::new("uptake.toml");
    named.or_else(|| default.exists().then(|| default.to_owned()))
}

impl Settings {
    /// Reads the file (if there is one), then the environment.
    ///
    /// # Errors
    /// [`Usage`] that names the file and the key.
    pub(crate) fn load(file: Option<&Path>, lake: Option<String>) -> anyhow::Result<Self> {
        let mut table = match file {
            Some(path) => {
                let text =
                    std::fs::read_to_string(path).with_context(|| format!("read settings {}", path.display()))?;
                text.parse::<toml::Table>().map_err(|error| Usage(format!("{}: {error}", path.display())))?
            }
            None => toml::Table::new(),
        };
        overlay(&mut table, std::env::vars());
        let mut settings: Self =
            table.try_into().map_err(|error: toml::de::Error| Usage(format!("settings: {}", error.message())))?;
        if lake.is_some() {
            settings.lake = lake;
        }
        Ok(settings)
    }
}

/// A folder of `uptake` below the user's cache directory (XDG Base Directory Specification, `$XDG_CACHE_HOME`).
///
/// # Errors
/// [`Usage`] when the environment names no such directory.
pub(crate) fn cache_directory(folder: &str) -> Result<PathBuf, Usage> {
    cache_directory_of(folder, |name| std::env::var_os(name).map(PathBuf::from))
}

fn cache_directory_of(folder: &str, variable: impl Fn(&str) -> Option<PathBuf>) -> Result<PathBuf, Usage> {
    // The specification says that relative paths are to be ignored.
    let absolute = |name: &str| variable(name).filter(|path| path.is_absolute());
    absolute("XDG_CACHE_HOME")
        .or_else(|| absolute("HOME").map(|home| home.join(".cache")))
        .map(|cache| cache.join("uptake").join(folder))
        .ok_or_else(|| Usage(format!("no place for the cache of `{folder}`: set HOME, or the setting {folder}.cache")))
}

/// `uptake` below the user's state directory (XDG Base Directory Specification, `$XDG_STATE_HOME`); none where the environment
/// names no such directory.
pub(crate) fn state_directory() -> Option<PathBuf> {
    state_directory_of(|name| std::env::var_os(name).map(PathBuf::from))
}

fn state_directory_of(variable: impl Fn(&str) -> Option<PathBuf>) -> Option<PathBuf> {
    // The specification says that relative paths are to be ignored.
    let absolute = |name: &str| variable(name).filter(|path| path.is_absolute());
    let state = absolute("XDG_STATE_HOME").or_else(|| absolute("HOME").map(|home| home.join(".local/state")));
    state.map(|state| state.join("uptake"))
}

/// The keys that the environment may set, as sections and names; beside them every `UPTAKE_KAFKA_…`.
const ENVIRONMENT: &[(&str, &str)] = &[
    ("", "subject_pepper"),
    ("", "pipelines"),
    ("", "tagger"),
    ("", "shadow_tagger"),
    ("telemetry", "otlp_endpoint"),
    ("telemetry", "listen"),
    ("telemetry", "log"),
    ("ingest", "topics"),
    ("ingest", "group"),
    ("ingest", "pipeline"),
    ("ingest", "start"),
    ("ingest", "skip_lost_records"),
    ("ingest", "memory"),
    ("ingest", "flush_bytes"),
    ("ingest", "flush_rows"),
    ("ingest", "flush_age"),
    ("ingest", "drain_deadline"),
    ("ingest", "max_record_bytes"),
    ("ingest", "allowed_disorder"),
    ("ingest", "idle_after"),
    ("ingest", "max_bad_share"),
    ("ingest", "bad_window"),
    ("ingest", "id_window"),
    ("signals", "topic"),
    ("signals", "key"),
    ("signals", "store_bytes"),
    ("signals", "store_conversations"),
    ("signals", "queue_bytes"),
    ("signals", "flush_age"),
    ("models", "cache"),
    ("schedule", "state"),
    ("schedule", "directory"),
    ("schedule", "poll"),
    ("schedule", "ask_every"),
    ("schedule", "lease"),
    ("schedule", "concurrency"),
    ("judge", "endpoint"),
    ("judge", "model"),
    ("judge", "api_key_variable"),
    ("judge", "price_input"),
    ("judge", "price_output"),
    ("judge", "budget_tokens"),
    ("judge", "budget_money"),
    ("judge", "concurrency"),
    ("judge", "timeout"),
    ("judge", "retries"),
    ("judge", "cache"),
    ("judge", "temperature"),
    ("judge", "seed"),
];

/// The keys among them that are numbers or true/false, not words.
const PLAIN: &[&str] = &[
    "skip_lost_records",
    "flush_rows",
    "max_bad_share",
    "bad_window",
    "id_window",
    "store_conversations",
    "price_input",
    "price_output",
    "budget_tokens",
    "budget_money",
    "concurrency",
    "retries",
    "temperature",
    "seed",
];

fn overlay(table: &mut toml::Table, environment: impl Iterator<Item = (String, String)>) {
    for (name, value) in environment {
        let Some(key) = name.strip_prefix("UPTAKE_").map(str::to_lowercase) else { continue };
        if let Some(property) = key.strip_prefix("kafka_") {
            // The test kit's own variables are no properties of a client.
            if property != "libs" {
                insert(table, "kafka", &property.replace('_', "."), toml::Value::String(value));
            }
            continue;
        }
        for (section, field) in ENVIRONMENT {
            let matches = if section.is_empty() { key == *field } else { key == format!("{section}_{field}") };
            if matches {
                let value = if PLAIN.contains(field) { plain(&value) } else { toml::Value::String(value.clone()) };
                insert(table, section, field, value);
            }
        }
    }
}

fn insert(table: &mut toml::Table, section: &str, field: &str, value: toml::Value) {
    let target = if section.is_empty() {
        Some(table)
    } else {
        table.entry(section).or_insert_with(|| toml::Value::Table(toml::Table::new())).as_table_mut()
    };
    if let Some(target) = target {
        let _ = target.insert(field.to_owned(), value);
    }
}

/// A number or true/false; what is neither stays a text, and the setting's own type refuses it by name.
fn plain(text: &str) -> toml::Value {
    let number = text.parse().map(toml::Value::Integer).or_else(|_| text.parse().map(toml::Value::Float));
    number.unwrap_or_else(|_| text.parse().map_or_else(|_| toml::Value::String(text.to_owned()), toml::Value::Boolean))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn secrets_do_not_print() {
        let kafka = ingest::KafkaSettings([("sasl.password".to_owned(), "hidden-word".to_owned())].into());
        let pepper = Some("hidden-word-of-16".to_owned());
        let settings = Settings { subject_pepper: pepper, kafka, ..Settings::default() };
        let shown = format!("{settings:?}");
        assert!(shown.contains("sasl.password") && !shown.contains("hidden-word"), "{shown}");
    }

    #[test]
    fn caches_follow_the_specification() {
        let with = |pairs: &'static [(&str, &str)]| {
            let found = |name: &str| pairs.iter().find(|(key, _)| *key == name).map(|(_, value)| PathBuf::from(value));
            cache_directory_of("judge", found)
        };
        assert_eq!(with(&[("HOME", "/home/ann")]).unwrap(), PathBuf::from("/home/ann/.cache/uptake/judge"));
        assert_eq!(with(&[("HOME", "/h"), ("XDG_CACHE_HOME", "/c")]).unwrap(), PathBuf::from("/c/uptake/judge"));
        assert!(with(&[]).is_err());
    }

    #[test]
    fn the_state_directory_follows_the_specification() {
        let with = |pairs: &'static [(&str, &str)]| {
            state_directory_of(|name| pairs.iter().find(|(key, _)| *key == name).map(|(_, value)| PathBuf::from(value)))
        };
        let home = with(&[("HOME", "/home/ann")]);
        assert_eq!(home, Some(PathBuf::from("/home/ann/.local/state/uptake")));
        assert_eq!(with(&[("HOME", "/home/ann"), ("XDG_STATE_HOME", "/s")]), Some(PathBuf::from("/s/uptake")));
        assert_eq!(with(&[("HOME", "/home/ann"), ("XDG_STATE_HOME", "relative")]), home);
        assert_eq!(with(&[]), None);
    }

    #[test]
    fn the_environment_reaches_every_section() {
        let mut table = toml::Table::new();
        let pairs = [
            ("UPTAKE_SUBJECT_PEPPER", "0123456789abcdef"),
            ("UPTAKE_INGEST_FLUSH_AGE", "2s"),
            ("UPTAKE_INGEST_FLUSH_ROWS", "5"),
            ("UPTAKE_INGEST_SKIP_LOST_RECORDS", "true"),
            ("UPTAKE_INGEST_TOPICS", "messages=chat, reactions=hearts"),
            ("UPTAKE_KAFKA_SASL_PASSWORD", "secret"),
            ("UPTAKE_KAFKA_LIBS", "/somewhere"),
            ("UPTAKE_SIGNALS_TOPIC", "chat.signals"),
            ("UPTAKE_SIGNALS_KEY", "signal"),
            ("UPTAKE_SIGNALS_STORE_BYTES", "8MiB"),
            ("UPTAKE_SIGNALS_STORE_CONVERSATIONS", "12"),
            ("UPTAKE_SIGNALS_QUEUE_BYTES", "4MiB"),
            ("UPTAKE_SIGNALS_FLUSH_AGE", "500ms"),
            ("UPTAKE_JUDGE_PRICE_INPUT", "0.5"),
            ("UPTAKE_JUDGE_BUDGET_TOKENS", "100000"),
            ("UPTAKE_JUDGE_TIMEOUT", "30s"),
            ("UPTAKE_JUDGE_API_KEY", "a secret is no setting"),
            ("HOME", "/root"),
        ];
        overlay(&mut table, pairs.into_iter().map(|(name, value)| (name.to_owned(), value.to_owned())));
        let settings: Settings = table.try_into().unwrap();
        assert_eq!(settings.subject_pepper.as_deref(), Some("0123456789abcdef"));
        assert_eq!(settings.ingest.flush_age, std::time::Duration::from_secs(2));
        assert_eq!((settings.ingest.flush_rows, settings.ingest.skip_lost_records), (5, true));
        assert_eq!(settings.ingest.topics.len(), 2);
        assert_eq!((settings.judge.price_input, settings.judge.budget_tokens), (Some(0.5), Some(100_000)));
        assert_eq!(settings.judge.timeout, std::time::Duration::from_secs(30));
        let signals = &settings.signals;
        assert_eq!((signals.topic.as_str(), signals.key.as_str()), ("chat.signals", "signal"));
        assert_eq!((signals.store_bytes, signals.store_conversations), (8 << 20, 12));
        assert_eq!((signals.queue_bytes, signals.flush_age), (4 << 20, std::time::Duration::from_millis(500)));
        assert_eq!(settings.kafka.0.len(), 1);
        assert_eq!(settings.kafka.0.get("sasl.password").map(String::as_str), Some("secret"));
    }
}
