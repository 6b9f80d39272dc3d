//! The log goes through a broker in this process, and through the real consumer into bronze.

use std::collections::BTreeMap;
use std::sync::mpsc;
use std::time::Duration;

use anyhow::Context as _;
use indicatif::ProgressBar;
use uptake_ingest::consume::{Consumer, Summary};
use uptake_ingest::mock::{MockBroker, Produce};
use uptake_ingest::options::ConsumeOptions;
use uptake_lake::Lake;
use uptake_model::Pepper;
use uptake_model::decode::Edge;
use uptake_sample::{Log, Record, TOPICS};

use super::stage::Stage;
use super::text;
use crate::context::{Context, Usage};
use crate::telemetry::health::Finding;

/// What subject keys are made with where the settings name no secret: the people of the sample log do not exist.
const PEPPER: &str = "the people of the demo do not exist";

/// The embedded broker keeps 5 MiB a partition. Keys spread unevenly, so a partition is planned for less than half.
const PARTITION_BYTES: usize = 2 << 20;

/// Consumes the log until its end. A lake that holds it already gets nothing more.
pub(super) async fn consume(context: &Context, lake: &Lake, log: &Log) -> anyhow::Result<Summary> {
    let stage = Stage::begin(context.terminal, "produce", Some(log.records.len()), "records");
    let broker = Broker::start(&log.records, stage.bar()).await?;
    stage.done(&format!("{} records in an embedded broker at {}", text::count(log.records.len()), broker.bootstrap));

    let stage = Stage::begin(context.terminal, "consume", Some(log.records.len()), "records");
    let consumer = Consumer::start(options(context, &broker.bootstrap)?, lake).await.context("start the consumer")?;
    let handle = consumer.handle();
    let health = handle.health().clone();
    let (live, ready) = (health.clone(), health);
    context.health.register(
        "consume",
        move || Finding::new(live.live(), live.describe()),
        move || Finding::new(ready.ready(), ready.describe()),
    );
    let mut running = tokio::spawn(Box::pin(consumer.run()));
    let mut tick = tokio::time::interval(Duration::from_millis(150));
    let summary = loop {
        tokio::select! {
            ended = &mut running => break ended?.context("consume the log")?,
            _ = tick.tick() => stage.set(handle.summary().consumed),
        }
    };
    broker.stop().await?;
    if summary.consumed == 0 {
        stage.done("nothing new: bronze holds the log already");
    } else {
        stage.done(&format!(
            "{} events, {} dead letters, {} repeats dropped, {} tombstones",
            text::count(summary.events),
            text::count(summary.letters),
            text::count(summary.duplicates),
            text::count(summary.tombstones)
        ));
    }
    Ok(summary)
}

fn options(context: &Context, bootstrap: &str) -> anyhow::Result<ConsumeOptions> {
    let secret = context.settings.subject_pepper.clone().unwrap_or_else(|| PEPPER.to_owned());
    let edge = Edge {
        pepper: Pepper::new(secret).map_err(|error| Usage(format!("subject_pepper: {error}")))?,
        max_record_bytes: 8 << 20,
        pipeline_version: env!("CARGO_PKG_VERSION").to_owned(),
    };
    let topics: BTreeMap<_, _> = TOPICS.into_iter().map(|(topic, contract)| (topic.to_owned(), contract)).collect();
    let options = ConsumeOptions::new(bootstrap, topics, edge);
    Ok(ConsumeOptions { group: "uptake-demo".to_owned(), pipeline: "demo".to_owned(), until_end: true, ..options })
}

/// The broker lives on a thread of its own, since librdkafka's mock may not move between threads.
struct Broker {
    bootstrap: String,
    stop: mpsc::Sender<()>,
    thread: tokio::task::JoinHandle<anyhow::Result<()>>,
}

impl Broker {
    async fn start(records: &[Record], bar: ProgressBar) -> anyhow::Result<Self> {
        let records = records.to_vec();
        let (ready, started) = tokio::sync::oneshot::channel();
        let (stop, stopped) = mpsc::channel();
        let thread = tokio::task::spawn_blocking(move || {
            let broker = produce(&records, &bar)?;
            // Whoever waited is gone, or waits for the address.
            let _ = ready.send(broker.bootstrap());
            let _ = stopped.recv();
            anyhow::Ok(())
        });
        match started.await {
            Ok(bootstrap) => Ok(Self { bootstrap, stop, thread }),
            Err(_) => Err(match thread.await? {
                Err(error) => error.context("start the embedded broker"),
                Ok(()) => anyhow::anyhow!("the embedded broker ended at once"),
            }),
        }
    }

    async fn stop(self) -> anyhow::Result<()> {
        drop(self.stop);
        self.thread.await?
    }
}

fn produce(records: &[Record], bar: &ProgressBar) -> anyhow::Result<MockBroker> {
    let mut bytes: BTreeMap<&str, usize> = BTreeMap::new();
    for record in records {
        *bytes.entry(record.topic).or_default() += record.payload.as_ref().map_or(0, Vec::len) + record.key.len() + 64;
    }
    let most = bytes.values().copied().max().unwrap_or_default();
    let partitions = i32::try_from(most.div_ceil(PARTITION_BYTES).clamp(3, 128))?;
    let topics: Vec<&str> = TOPICS.into_iter().map(|(topic, _)| topic).collect();
    let broker = MockBroker::start(&topics, partitions)?;
    let producer = broker.producer()?;
    for record in records {
        producer.produce(&Produce {
            topic: record.topic,
            key: Some(record.key.as_bytes()),
            payload: record.payload.as_deref(),
            timestamp: Some(record.arrives / 1_000),
            ..Produce::default()
        })?;
        bar.inc(1);
    }
    producer.flush()?;
    Ok(broker)
}
