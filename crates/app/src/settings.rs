//! Settings: one TOML file and the environment, unknown keys refused, checked together at start.
//!
//! A key `section.name` is also the environment variable `UPTAKE_SECTION_NAME`; `--lake` and `UPTAKE_LAKE` win over the
//! file. Durations and sizes are words (`"60s"`, `"128MiB"`).

use std::path::{Path, PathBuf};

use anyhow::Context as _;
use serde::{Deserialize, Serialize};

use crate::context::Usage;

/// All settings.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
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
    /// Traces, metrics, logs, health.
    pub(crate) telemetry: TelemetrySettings,
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

impl Settings {
    /// Reads the file (if there is one), then the environment.
    ///
    /// # Errors
    /// [`Usage`] that names the file and the key.
    pub(crate) fn load(file: Option<&Path>, lake: Option<String>) -> anyhow::Result<Self> {
        let default = Path::new("uptake.toml");
        let mut table = match file.or_else(|| default.exists().then_some(default)) {
            Some(path) => {
                let text = std::fs::read_to_string(path).with_context(|| format!("read settings {}", path.display()))?;
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

/// The keys that the environment may set, as sections and names.
const ENVIRONMENT: [(&str, &str); 6] = [
    ("", "subject_pepper"),
    ("", "pipelines"),
    ("", "tagger"),
    ("telemetry", "otlp_endpoint"),
    ("telemetry", "listen"),
    ("telemetry", "log"),
];

fn overlay(table: &mut toml::Table, environment: impl Iterator<Item = (String, String)>) {
    for (name, value) in environment {
        let Some(key) = name.strip_prefix("UPTAKE_").map(str::to_lowercase) else { continue };
        for (section, field) in ENVIRONMENT {
            let matches = if section.is_empty() { key == field } else { key == format!("{section}_{field}") };
            if !matches {
                continue;
            }
            let target = if section.is_empty() {
                Some(&mut *table)
            } else {
                table
                    .entry(section)
                    .or_insert_with(|| toml::Value::Table(toml::Table::new()))
                    .as_table_mut()
            };
            if let Some(target) = target {
                let _ = target.insert(field.to_owned(), toml::Value::String(value.clone()));
            }
        }
    }
}
