//! Log lines: short ones for people on a terminal, one JSON object a line elsewhere.

use std::fmt;
use std::io::{self, IsTerminal as _, Write};

use opentelemetry::trace::{TraceContextExt as _, TracerProvider as _};
use opentelemetry_sdk::trace::SdkTracerProvider;
use serde_json::{Map, Value};
use tracing::field::{Field, Visit};
use tracing::{Event, Subscriber};
use tracing_subscriber::fmt::format::Writer;
use tracing_subscriber::fmt::{FmtContext, FormatEvent, FormatFields, FormattedFields, MakeWriter};
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::registry::LookupSpan;
use tracing_subscriber::util::SubscriberInitExt as _;
use tracing_subscriber::{EnvFilter, Layer as _};

use crate::context::Usage;
use crate::progress;

/// What is logged when `telemetry.log` says nothing: our own news, and the trouble of others.
const DEFAULT_FILTER: &str = "warn,uptake=info";

/// What becomes a span: our own work; never the exporter's own requests, which would beget themselves.
const SPAN_FILTER: &str = "off,uptake=info";

/// The filter of the log lines.
///
/// # Errors
/// [`Usage`] when it cannot be read.
pub(super) fn filter(text: Option<&str>) -> anyhow::Result<EnvFilter> {
    let text = text.unwrap_or(DEFAULT_FILTER);
    EnvFilter::try_new(text).map_err(|error| {
        Usage(format!("telemetry.log: `{text}` is no filter such as `info` or `warn,uptake_ingest=debug`: {error}"))
            .into()
    })
}

/// Installs the log lines, and the spans when there is somebody to send them to.
///
/// # Errors
/// [`Usage`] when the filter cannot be read.
pub(super) fn install(filter: Option<&str>, tracer: Option<&SdkTracerProvider>) -> anyhow::Result<()> {
    let filter = self::filter(filter)?;
    let spans = tracer.map(|tracer| {
        tracing_opentelemetry::layer().with_tracer(tracer.tracer("uptake")).with_filter(EnvFilter::new(SPAN_FILTER))
    });
    let lines = if io::stderr().is_terminal() {
        tracing_subscriber::fmt::layer().compact().with_writer(Terminal).with_filter(filter).boxed()
    } else {
        tracing_subscriber::fmt::layer()
            .event_format(Json)
            .with_ansi(false)
            .with_writer(io::stderr)
            .with_filter(filter)
            .boxed()
    };
    tracing_subscriber::registry().with(spans).with(lines).try_init()?;
    Ok(())
}

/// Writes between the progress bars rather than through them.
struct Terminal;

impl<'a> MakeWriter<'a> for Terminal {
    type Writer = Line;

    fn make_writer(&'a self) -> Line {
        Line(Vec::new())
    }
}

/// One event, written in one go when it is complete.
struct Line(Vec<u8>);

impl Write for Line {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Drop for Line {
    fn drop(&mut self) {
        progress::suspended(|| {
            // Nowhere is left to report that standard error is gone.
            let _ = io::stderr().lock().write_all(&self.0);
        });
    }
}

/// One JSON object a line: time, level, target, message, the event's fields, the spans around it, and the trace.
pub(super) struct Json;

impl<S, N> FormatEvent<S, N> for Json
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
{
    fn format_event(&self, context: &FmtContext<'_, S, N>, mut writer: Writer<'_>, event: &Event<'_>) -> fmt::Result {
        let mut fields = Fields(Map::new());
        event.record(&mut fields);
        let mut line = Map::new();
        let now = chrono::Utc::now().to_rfc3339_opts(chrono::SecondsFormat::Micros, true);
        let _ = line.insert("timestamp".to_owned(), Value::String(now));
        let _ = line.insert("level".to_owned(), Value::String(event.metadata().level().to_string()));
        let _ = line.insert("target".to_owned(), Value::String(event.metadata().target().to_owned()));
        if let Some(message) = fields.0.remove("message") {
            let _ = line.insert("message".to_owned(), message);
        }
        let spans: Vec<Value> = context
            .event_scope()
            .into_iter()
            .flat_map(tracing_subscriber::registry::Scope::from_root)
            .map(|span| {
                let extensions = span.extensions();
                let fields =
                    extensions.get::<FormattedFields<N>>().map(|fields| fields.fields.as_str()).unwrap_or_default();
                Value::String(if fields.is_empty() {
                    span.name().to_owned()
                } else {
                    format!("{}{{{fields}}}", span.name())
                })
            })
            .collect();
        if !spans.is_empty() {
            let _ = line.insert("spans".to_owned(), Value::Array(spans));
        }
        if let Some((trace, span)) = trace_ids() {
            let _ = line.insert("trace_id".to_owned(), Value::String(trace));
            let _ = line.insert("span_id".to_owned(), Value::String(span));
        }
        if !fields.0.is_empty() {
            let _ = line.insert("fields".to_owned(), Value::Object(fields.0));
        }
        writeln!(writer, "{}", Value::Object(line))
    }
}

/// The ids of the span that this thread is in, when spans are exported.
fn trace_ids() -> Option<(String, String)> {
    let context = opentelemetry::Context::current();
    let span = context.span();
    let ids = span.span_context();
    ids.is_valid().then(|| (ids.trace_id().to_string(), ids.span_id().to_string()))
}

struct Fields(Map<String, Value>);

impl Fields {
    fn put(&mut self, field: &Field, value: Value) {
        let _ = self.0.insert(field.name().to_owned(), value);
    }
}

impl Visit for Fields {
    fn record_f64(&mut self, field: &Field, value: f64) {
        self.put(field, Value::from(value));
    }

    fn record_i64(&mut self, field: &Field, value: i64) {
        self.put(field, Value::from(value));
    }

    fn record_u64(&mut self, field: &Field, value: u64) {
        self.put(field, Value::from(value));
    }

    fn record_bool(&mut self, field: &Field, value: bool) {
        self.put(field, Value::from(value));
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        self.put(field, Value::from(value));
    }

    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.put(field, Value::from(format!("{value:?}")));
    }
}
