//! OTLP over HTTP for traces and metrics, and the bridge to Prometheus.
//!
//! Instruments have the names of [`super::inventory`]; Prometheus sees them with `uptake_` in front, as is its custom.
//! Headers, time-outs and resource attributes are taken from the standard `OTEL_*` variables.

use anyhow::Context as _;
use opentelemetry::KeyValue;
use opentelemetry_otlp::{MetricExporter, SpanExporter, WithExportConfig as _};
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::metrics::{Aggregation, Instrument, InstrumentKind, SdkMeterProvider, Stream};
use opentelemetry_sdk::trace::SdkTracerProvider;
use prometheus::Registry;

use super::inventory;
use crate::context::Usage;

/// Put before every name on the Prometheus side.
pub(super) const NAMESPACE: &str = "uptake";

/// A collector that speaks OTLP over HTTP.
#[derive(Debug)]
pub(super) struct Otlp {
    base: String,
}

impl Otlp {
    /// A collector at `endpoint`, for example `http://localhost:4318`.
    ///
    /// # Errors
    /// [`Usage`] when that is no http(s) URL.
    pub(super) fn new(endpoint: &str) -> anyhow::Result<Self> {
        let url = url::Url::parse(endpoint).ok().filter(|url| matches!(url.scheme(), "http" | "https"));
        if url.is_none() {
            return Err(Usage(format!(
                "telemetry.otlp_endpoint: `{endpoint}` is no http or https URL such as http://localhost:4318"
            ))
            .into());
        }
        Ok(Self { base: endpoint.trim_end_matches('/').to_owned() })
    }

    /// Sends spans in batches, from a thread of its own.
    pub(super) fn tracer(&self) -> anyhow::Result<SdkTracerProvider> {
        let exporter = SpanExporter::builder()
            .with_http()
            .with_endpoint(format!("{}/v1/traces", self.base))
            .build()
            .context("build the trace exporter")?;
        Ok(SdkTracerProvider::builder().with_batch_exporter(exporter).with_resource(resource()).build())
    }

    fn metrics(&self) -> anyhow::Result<MetricExporter> {
        MetricExporter::builder()
            .with_http()
            .with_endpoint(format!("{}/v1/metrics", self.base))
            .build()
            .context("build the metric exporter")
    }
}

/// The meters, when anybody reads them: a collector, Prometheus, or both.
pub(super) fn meter(otlp: Option<&Otlp>, registry: Option<&Registry>) -> anyhow::Result<Option<SdkMeterProvider>> {
    if otlp.is_none() && registry.is_none() {
        return Ok(None);
    }
    let mut builder = SdkMeterProvider::builder().with_resource(resource()).with_view(view);
    if let Some(otlp) = otlp {
        builder = builder.with_periodic_exporter(otlp.metrics()?);
    }
    if let Some(registry) = registry {
        // The names of the inventory already end in their unit and in `_total`.
        let exporter = opentelemetry_prometheus::exporter()
            .with_registry(registry.clone())
            .with_namespace(NAMESPACE)
            .without_units()
            .without_counter_suffixes()
            .scope_info_enabled(false)
            .build()
            .context("register the Prometheus exporter")?;
        builder = builder.with_reader(exporter);
    }
    Ok(Some(builder.build()))
}

fn resource() -> Resource {
    // The builder reads OTEL_SERVICE_NAME and OTEL_RESOURCE_ATTRIBUTES; the name below holds where they say none.
    let mut resource = Resource::builder();
    if std::env::var_os("OTEL_SERVICE_NAME").is_none() {
        resource = resource.with_service_name("uptake");
    }
    resource.with_attribute(KeyValue::new("service.version", env!("CARGO_PKG_VERSION"))).build()
}

/// Meanings and bucket boundaries come from the inventory, so that no crate repeats them.
fn view(instrument: &Instrument) -> Option<Stream> {
    let metric = inventory::find(instrument.name())?;
    let mut stream = Stream::builder().with_description(metric.meaning).with_unit(metric.unit.symbol());
    if instrument.kind() == InstrumentKind::Histogram {
        stream = stream.with_aggregation(Aggregation::ExplicitBucketHistogram {
            boundaries: metric.unit.boundaries(),
            record_min_max: true,
        });
    }
    stream.build().ok()
}
