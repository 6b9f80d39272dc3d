//! Traces, metrics, logs and health.
//!
//! The crates make instruments and spans through the global OpenTelemetry and `tracing` handles and know nothing of
//! exporters; everything here is installed once, before a command runs:
//! - [`logs`]: lines for people on a terminal, JSON elsewhere, with trace ids when traces are exported;
//! - [`export`]: OTLP over HTTP for traces and metrics;
//! - [`endpoint`]: `/metrics` for Prometheus, `/live` and `/ready` for whoever restarts and routes;
//! - [`health`]: where a command says whether it lives and is ready;
//! - [`work`]: instruments of jobs, tagger and tables;
//! - [`inventory`]: every metric with its meaning, from which `infra/metrics.md` is made.

mod endpoint;
mod export;
pub(crate) mod health;
mod inventory;
mod logs;
#[cfg(test)]
mod tests;
pub(crate) mod work;

use std::time::Duration;

use anyhow::Context as _;
use opentelemetry_sdk::metrics::SdkMeterProvider;
use opentelemetry_sdk::trace::SdkTracerProvider;

use crate::settings::TelemetrySettings;
use crate::telemetry::health::Health;

/// How long the last export may take at the end.
const STOP_WITHIN: Duration = Duration::from_secs(5);

/// What is wrong with the settings, a sentence each, without starting anything.
pub(crate) fn faults(settings: &TelemetrySettings) -> Vec<String> {
    let mut faults = Vec::new();
    if let Some(Err(error)) = settings.otlp_endpoint.as_deref().map(export::Otlp::new) {
        faults.push(error.to_string());
    }
    if let Some(listen) = &settings.listen
        && listen.parse::<std::net::SocketAddr>().is_err()
        && !listen.rsplit_once(':').is_some_and(|(host, port)| !host.is_empty() && port.parse::<u16>().is_ok())
    {
        faults.push(format!("telemetry.listen: `{listen}` is no address such as 0.0.0.0:9464"));
    }
    if let Err(error) = logs::filter(settings.log.as_deref()) {
        faults.push(error.to_string());
    }
    faults
}

/// What was started. [`Telemetry::stop`] sends what is still in memory.
#[derive(Debug)]
pub(crate) struct Telemetry {
    tracer: Option<SdkTracerProvider>,
    meter: Option<SdkMeterProvider>,
    health: Health,
}

impl Telemetry {
    /// Starts what the settings ask for.
    ///
    /// # Errors
    /// When an address cannot be bound, an endpoint is no URL or a filter cannot be read; each names its setting.
    pub(crate) fn start(settings: &TelemetrySettings, runtime: &tokio::runtime::Runtime) -> anyhow::Result<Self> {
        let otlp = settings.otlp_endpoint.as_deref().map(export::Otlp::new).transpose()?;
        let registry = settings.listen.as_ref().map(|_| prometheus::Registry::new());
        let tracer = otlp.as_ref().map(export::Otlp::tracer).transpose()?;
        let meter = export::meter(otlp.as_ref(), registry.as_ref())?;
        logs::install(settings.log.as_deref(), tracer.as_ref())?;
        if let Some(tracer) = &tracer {
            opentelemetry::global::set_tracer_provider(tracer.clone());
        }
        if let Some(meter) = &meter {
            opentelemetry::global::set_meter_provider(meter.clone());
        }
        let health = Health::default();
        if let (Some(listen), Some(registry)) = (&settings.listen, registry) {
            let (health, listen) = (health.clone(), listen.clone());
            runtime.block_on(async move {
                let bound = endpoint::start(&listen, registry, health).await;
                let address = bound.with_context(|| format!("telemetry.listen: bind {listen}"))?;
                tracing::info!(%address, "serving /metrics, /live and /ready");
                anyhow::Ok(())
            })?;
        }
        Ok(Self { tracer, meter, health })
    }

    /// Where a command says whether it lives and is ready.
    pub(crate) fn health(&self) -> Health {
        self.health.clone()
    }

    /// Sends what is still in memory; a collector that does not answer costs five seconds and a warning.
    pub(crate) fn stop(self) {
        if let Some(Err(error)) = self.tracer.map(|tracer| tracer.shutdown_with_timeout(STOP_WITHIN)) {
            tracing::warn!(%error, "the last traces were not exported");
        }
        if let Some(Err(error)) = self.meter.map(|meter| meter.shutdown_with_timeout(STOP_WITHIN)) {
            tracing::warn!(%error, "the last metrics were not exported");
        }
    }
}
