//! `uptake consume`: Kafka topics into bronze.

mod scorer;

use std::io::Write as _;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use anyhow::Context as _;
use tokio::signal::unix::{SignalKind, signal};
use uptake_ingest::consume::{Consumer, Handle, Summary};
use uptake_ingest::options::ConsumeOptions;
use uptake_ingest::signals::Tagging;
use uptake_ingest::{Error, ErrorKind};
use uptake_model::Pepper;
use uptake_model::contract::Contract;

use crate::context::{Context, Usage};
use crate::progress;
use crate::settings::ingest;
use crate::telemetry::health::Finding;

/// Reads Kafka topics into bronze, each record once, until it is stopped.
///
/// SIGTERM or Ctrl-C: stop reading, write what is held, commit, leave the group, exit 0 (with `--until-end`, 4: the ends were not
/// reached). A second signal: leave at once.
#[derive(Debug, clap::Args)]
pub(crate) struct Consume {
    /// A topic and what it carries: messages, reactions, completions or erasures. May be said several times; adds to
    /// `ingest.topics`.
    #[arg(long = "topic", value_name = "CONTRACT=TOPIC", value_parser = ingest::topic)]
    topics: Vec<(String, Contract)>,

    /// Brokers to begin with; wins over `kafka."bootstrap.servers"`.
    #[arg(long, value_name = "HOST:PORT,…")]
    brokers: Option<String>,

    /// Consumer group; wins over `ingest.group`.
    #[arg(long)]
    group: Option<String>,

    /// Name under which positions are kept; another name reads the topics anew. Wins over `ingest.pipeline`.
    #[arg(long)]
    pipeline: Option<String>,

    /// Where a partition without a stored position begins; wins over `ingest.start`.
    #[arg(long, value_name = "earliest|latest|TIME")]
    start: Option<String>,

    /// Read to the ends as they are now, then exit.
    #[arg(long)]
    until_end: bool,

    /// Go on behind records that retention deleted before they were read, instead of refusing.
    #[arg(long)]
    skip_lost_records: bool,

    /// Publish what the tagger reads in each follow-up to a topic, within seconds, as soon as its record is stored. Flushes
    /// come every `signals.flush_age` then. Begins with the records that come from now on; `uptake run` tags those before.
    #[arg(long)]
    tag: bool,

    /// Topic for signals; wins over `signals.topic`.
    #[arg(long, value_name = "TOPIC", requires = "tag")]
    signals_topic: Option<String>,
}

/// Exit code for a source that must not be read on as it is.
const REFUSED: u8 = 3;

/// Exit code for an end before everything was written, or before the ends.
const INCOMPLETE: u8 = 4;

impl Consume {
    /// Runs the command.
    pub(crate) async fn run(self, context: &Context) -> anyhow::Result<ExitCode> {
        let (tag, signals_topic) = (self.tag, self.signals_topic.clone());
        let options = self.options(context)?;
        let until_end = options.until_end;
        let lake = context.lake()?;
        let tagging = if tag { Some(tagging(signals_topic, &options, context).await?) } else { None };
        let consumer = Consumer::start_with(options, &lake, tagging).await.map_err(usage)?;
        let handle = consumer.handle();
        let health = handle.health().clone();
        let (of_life, of_readiness) = (health.clone(), health);
        context.health.register(
            "consume",
            move || Finding::new(of_life.live(), of_life.describe()),
            move || Finding::new(of_readiness.ready(), of_readiness.describe()),
        );
        let told_to_stop = Arc::new(AtomicBool::new(false));
        let signals = tokio::spawn(stop_on_signals(handle.clone(), Arc::clone(&told_to_stop))?);
        let bar = progress::bar(context.terminal, None, "records");
        bar.set_message("consume");
        let shown = tokio::spawn(show(handle, bar.clone()));
        let outcome = consumer.run().await;
        signals.abort();
        shown.abort();
        bar.finish_and_clear();
        match outcome {
            Ok(summary) => {
                let cut_short = until_end && told_to_stop.load(Ordering::Relaxed);
                let why = match (until_end, cut_short) {
                    (_, true) => "stopped by a signal before the ends; run it again to go on",
                    (true, false) => "the ends are reached",
                    (false, false) => "stopped",
                };
                report(&summary, why)?;
                Ok(if cut_short { ExitCode::from(INCOMPLETE) } else { ExitCode::SUCCESS })
            }
            Err(error) => refused(error),
        }
    }

    fn options(self, context: &Context) -> anyhow::Result<ConsumeOptions> {
        let mut settings = context.settings.ingest.clone();
        let mut kafka = context.settings.kafka.clone();
        settings.topics.extend(self.topics);
        settings.group = self.group.unwrap_or(settings.group);
        settings.pipeline = self.pipeline.unwrap_or(settings.pipeline);
        settings.start = self.start.unwrap_or(settings.start);
        settings.skip_lost_records |= self.skip_lost_records;
        if let Some(brokers) = self.brokers {
            kafka.0.insert("bootstrap.servers".to_owned(), brokers);
        }
        let pepper = context.settings.subject_pepper.clone().ok_or_else(|| {
            Usage(
                "no subject pepper: user ids become keys with it, and it must stay the same for ever. Make one with \
                 `openssl rand -hex 32`, keep it as a secret, and set it as UPTAKE_SUBJECT_PEPPER"
                    .to_owned(),
            )
        })?;
        let mut options = settings.options(&kafka, Pepper::new(pepper).map_err(Usage)?)?;
        options.until_end = self.until_end;
        options.check().map_err(usage)?;
        Ok(options)
    }
}

/// Who tags, and where the signals go.
async fn tagging(topic: Option<String>, options: &ConsumeOptions, context: &Context) -> anyhow::Result<Tagging> {
    let mut signals = context.settings.signals.options()?;
    signals.topic = topic.unwrap_or(signals.topic);
    signals.check(options).map_err(usage)?;
    let tagger = super::run::tagger(context).await?;
    Ok(Tagging { options: signals, scorer: Arc::new(scorer::Scorer(tagger)) })
}

/// The first signal stops in order, the second at once.
fn stop_on_signals(handle: Handle, told: Arc<AtomicBool>) -> anyhow::Result<impl Future<Output = ()>> {
    let mut terminate = signal(SignalKind::terminate()).context("listen for SIGTERM")?;
    let mut interrupt = signal(SignalKind::interrupt()).context("listen for SIGINT")?;
    Ok(async move {
        loop {
            tokio::select! {
                _ = terminate.recv() => {}
                _ = interrupt.recv() => {}
            }
            told.store(true, Ordering::Relaxed);
            handle.stop_harder();
        }
    })
}

/// Keeps the progress up to date.
async fn show(handle: Handle, bar: indicatif::ProgressBar) {
    let mut tick = tokio::time::interval(std::time::Duration::from_millis(200));
    loop {
        tick.tick().await;
        let summary = handle.summary();
        bar.set_position(summary.consumed);
        bar.set_message(format!("{} events, {} letters stored", summary.events, summary.letters));
    }
}

fn report(summary: &Summary, why: &str) -> anyhow::Result<()> {
    let Summary { events, letters, duplicates, tombstones, flushes, .. } = summary;
    writeln!(
        std::io::stderr(),
        "{why}: {events} events and {letters} dead letters stored in {flushes} flushes, {duplicates} copies dropped, {tombstones} tombstones"
    )?;
    Ok(())
}

/// Settings that do not fit are a matter of usage.
fn usage(error: Error) -> anyhow::Error {
    match error {
        Error::Invalid(message) => Usage(message).into(),
        other => other.into(),
    }
}

/// The exit code says what kind of end it was.
fn refused(error: Error) -> anyhow::Result<ExitCode> {
    let code = match (&error, error.kind()) {
        (Error::Start { .. } | Error::Recreated { .. } | Error::TooManyBad { .. }, _) => REFUSED,
        (_, ErrorKind::Stopped) => INCOMPLETE,
        _ => return Err(usage(error)),
    };
    let mut stderr = std::io::stderr().lock();
    writeln!(stderr, "error: {error}")?;
    let mut cause = std::error::Error::source(&error);
    while let Some(error) = cause {
        writeln!(stderr, "  because: {error}")?;
        cause = error.source();
    }
    Ok(ExitCode::from(code))
}
