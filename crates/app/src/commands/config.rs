//! `uptake config`: the settings, checked and shown.

use std::io::Write as _;
use std::process::ExitCode;

use clap::Subcommand;
use uptake_lake::Lake;
use uptake_model::Pepper;
use uptake_model::contract::Contract;

use crate::context::{Context, Usage};
use crate::settings::Settings;
use crate::telemetry;

/// Checks or shows the settings: the file and the environment, put together.
#[derive(Debug, clap::Args)]
pub(crate) struct Config {
    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, Subcommand)]
enum Action {
    /// Says whether the settings can be used, and names every fault at once; exit code 2 where there is one.
    Check,
    /// Writes the settings in force as TOML, secrets left out.
    Show,
}

impl Config {
    /// Runs the command.
    #[expect(clippy::unused_async, reason = "every command is called alike")]
    pub(crate) async fn run(self, context: &Context) -> anyhow::Result<ExitCode> {
        let mut stdout = std::io::stdout().lock();
        match self.action {
            Action::Check => {
                let faults = faults(&context.settings);
                if !faults.is_empty() {
                    return Err(Usage(faults.join("\n       ")).into());
                }
                writeln!(stdout, "the settings are fine")?;
            }
            Action::Show => {
                write!(stdout, "{}", toml::to_string_pretty(&context.settings)?)?;
                let secret = if context.settings.subject_pepper.is_some() { "is set" } else { "is not set" };
                writeln!(stdout, "# subject_pepper {secret}; it is never shown")?;
            }
        }
        Ok(ExitCode::SUCCESS)
    }
}

/// Everything that is wrong, a sentence each, with the key that it is about.
fn faults(settings: &Settings) -> Vec<String> {
    let mut faults = Vec::new();
    if let Some(lake) = &settings.lake
        && let Err(error) = Lake::open(lake)
    {
        faults.push(format!("lake: {error}"));
    }
    if let Some(pepper) = &settings.subject_pepper
        && let Err(error) = Pepper::new(pepper.clone())
    {
        faults.push(format!("subject_pepper: {error}"));
    }
    if let Some(directory) = &settings.pipelines
        && let Err(error) = uptake_jobs::Pipelines::from_directory(directory)
    {
        faults.push(format!("pipelines: {error}"));
    }
    if let Some(directory) = &settings.tagger
        && let Err(error) = uptake_tagger::Tagger::open(directory, uptake_tagger::Options::default())
    {
        faults.push(format!("tagger: {error}"));
    }
    faults.extend(ingest_faults(settings));
    faults.extend(settings.judge.faults());
    faults.extend(settings.models.faults());
    faults.extend(settings.schedule.faults());
    faults.extend(telemetry::faults(&settings.telemetry));
    faults
}

/// What in `[ingest]` and `[kafka]` cannot work together. Topics, brokers and the secret may still come with the command.
fn ingest_faults(settings: &Settings) -> Option<String> {
    let (mut ingest, mut kafka) = (settings.ingest.clone(), settings.kafka.clone());
    let _ = ingest.topics.entry("topic".to_owned()).or_insert(Contract::Messages);
    let _ = kafka.0.entry("bootstrap.servers".to_owned()).or_insert_with(|| "localhost:9092".to_owned());
    let pepper = Pepper::new([0; Pepper::SHORTEST]).ok()?;
    match ingest.options(&kafka, pepper) {
        Err(fault) => Some(fault.to_string()),
        Ok(options) => match (options.check(), settings.signals.options()) {
            (Err(fault), _) => Some(fault.to_string()),
            (Ok(()), Err(fault)) => Some(fault.to_string()),
            (Ok(()), Ok(signals)) => signals.check(&options).err().map(|fault| fault.to_string()),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::settings::TelemetrySettings;

    #[test]
    fn the_defaults_are_fine() {
        assert_eq!(faults(&Settings::default()), Vec::<String>::new());
    }

    #[test]
    fn all_faults_are_named_at_once() {
        let settings = Settings {
            subject_pepper: Some("short".to_owned()),
            pipelines: Some("/no/such/directory".into()),
            tagger: Some("/no/such/model".into()),
            telemetry: TelemetrySettings {
                otlp_endpoint: Some("collector:4318".to_owned()),
                listen: Some("9464".to_owned()),
                log: Some("uptake=loud".to_owned()),
            },
            ingest: crate::settings::ingest::IngestSettings { start: "yesterday".to_owned(), ..Default::default() },
            ..Settings::default()
        };
        let faults = faults(&settings);
        for key in [
            "subject_pepper",
            "pipelines",
            "tagger",
            "telemetry.otlp_endpoint",
            "telemetry.listen",
            "telemetry.log",
            "ingest.start",
        ] {
            assert!(faults.iter().any(|fault| fault.starts_with(&format!("{key}: "))), "no {key} in {faults:?}");
        }
        assert!(!faults.iter().any(|fault| fault.contains("short")), "the secret stays secret: {faults:?}");
    }

    #[test]
    fn the_secret_is_not_shown() {
        let settings = Settings { subject_pepper: Some("0123456789abcdef-secret".to_owned()), ..Settings::default() };
        assert!(!toml::to_string_pretty(&settings).unwrap().contains("secret"));
    }
}
