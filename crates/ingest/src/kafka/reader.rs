//! The polling thread: reads, decodes, bounds the memory, and serves rebalances.
//!
//! Decoding runs here, off the async threads, and a record's bytes are counted as its row's. A record that does not fit
//! under the bound waits here, every partition is paused, and polling goes on so that the group keeps this member.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::Ordering;
use std::sync::mpsc as commands;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::message::{BorrowedMessage, Headers, Message};
use rdkafka::{Offset as KafkaOffset, TopicPartitionList};
use tokio::sync::mpsc;
use tracing::{info, warn};
use uptake_model::decode::{Edge, Outcome, Record, decode, reused_event_id};
use uptake_model::rows::Header;
use uptake_model::time::Micros;
use uptake_model::{Next, Offset, SourcePartition};
use uptake_progress::Observed;
use uptake_progress::flush::{Share, regulate};
use uptake_progress::start::Refusal;

use super::config;
use super::context::{Context, Slot, State, bounds};
use super::event::{Command, Consumed, Item, SourceEvent};
use crate::buffer::Pass;
use crate::error::{Error, Result};
use crate::memory::Memory;
use crate::metrics::Metrics;
use crate::options::ConsumeOptions;
use crate::window::Seen;

/// Events that may wait for the source. Their bytes are counted against the memory bound like all others.
const CHANNEL: usize = 2_048;

/// Records taken between two looks at the commands.
const POLLS_A_TURN: usize = 128;

/// How long one poll may wait, and so how late a command is heard.
const POLL: Duration = Duration::from_millis(50);

/// The two ends that the source holds.
pub(crate) struct Reader {
    /// What the reader says; closed when it has ended.
    pub(crate) events: mpsc::Receiver<SourceEvent>,
    /// What it is told.
    pub(crate) commands: commands::Sender<Command>,
}

/// Starts the polling thread.
///
/// # Errors
/// When librdkafka refuses the configuration or the subscription.
pub(crate) fn spawn(options: &ConsumeOptions, memory: &Memory, metrics: &Metrics) -> Result<Reader> {
    let (events, events_of_reader) = mpsc::channel(CHANNEL);
    let (commands, commands_for_reader) = commands::channel();
    let context = Context {
        events,
        state: Mutex::new(State::default()),
        topics: options.topics.clone(),
        start: options.start,
        id_window: options.id_window,
        metrics: metrics.clone(),
        closing: false.into(),
        logged: Mutex::default(),
        refusal: Mutex::default(),
    };
    let consumer: BaseConsumer<Context> = config::consumer(options)?
        .create_with_context(context)
        .map_err(|error| Error::Invalid(format!("librdkafka does not take the settings under [kafka]: {error}")))?;
    let topics: Vec<&str> = options.topics.keys().map(String::as_str).collect();
    consumer.subscribe(&topics).map_err(Error::kafka("subscribe to the topics"))?;
    let polling = Polling {
        edge: options.edge.clone(),
        skip_lost: options.skip_lost_records,
        until_end: options.until_end,
        memory: memory.clone(),
        metrics: metrics.clone(),
        quiet: false,
        consumer,
    };
    std::thread::Builder::new()
        .name("uptake-kafka".to_owned())
        .spawn(move || polling.run(&commands_for_reader))
        .map_err(|error| Error::Bug(format!("start the polling thread: {error}")))?;
    Ok(Reader { events: events_of_reader, commands })
}

struct Polling {
    edge: Edge,
    skip_lost: bool,
    until_end: bool,
    memory: Memory,
    metrics: Metrics,
    quiet: bool,
    consumer: BaseConsumer<Context>,
}

impl Polling {
    fn context(&self) -> &Arc<Context> {
        self.consumer.context()
    }

    fn run(mut self, commands: &commands::Receiver<Command>) {
        if self.until_end && !self.count_partitions() {
            return;
        }
        loop {
            match commands.try_recv() {
                Ok(Command::Commit(positions)) => self.context().commit(&self.consumer, &positions),
                Ok(Command::Quiet) => self.fall_quiet(),
                Ok(Command::Stop) | Err(commands::TryRecvError::Disconnected) => break,
                Err(commands::TryRecvError::Empty) => {
                    if self.context().is_closing() {
                        break;
                    }
                    self.turn();
                }
            }
        }
        // Dropping the consumer leaves the group and waits for its commits.
        self.context().closing.store(true, Ordering::Release);
    }

    fn turn(&mut self) {
        self.deliver_waiting();
        for _ in 0..POLLS_A_TURN {
            match self.consumer.poll(POLL) {
                None => break,
                Some(Ok(message)) => self.take(&message),
                Some(Err(error)) => self.fault(&error),
            }
            if self.memory.is_tight() {
                break;
            }
        }
        self.regulate();
    }

    /// Tells the source how many partitions there are to read to their ends; false when that cannot be.
    fn count_partitions(&self) -> bool {
        let mut count = 0;
        let mut refused = 0;
        for topic in self.context().topics.keys() {
            let found: usize = loop {
                match self.consumer.fetch_metadata(Some(topic), Duration::from_secs(5)) {
                    Ok(metadata) => {
                        let topics = metadata.topics().iter().filter(|found| found.error().is_none());
                        break topics.map(|found| found.partitions().len()).sum();
                    }
                    Err(error) => {
                        // Also serves logs and errors while no broker answers.
                        if self.context().may_log("metadata") {
                            warn!(%error, topic, "could not ask for the partitions of a topic, asking again");
                        }
                        let _ = self.consumer.poll(POLL);
                        // Who reads to an end is not there to wait for another password. Once may be a broker that starts.
                        if let Some(refusal) = self.context().refusal() {
                            refused += 1;
                            if refused > 1 {
                                self.context().send(SourceEvent::Failed(Error::Invalid(refusal)));
                                return false;
                            }
                        }
                        if self.context().is_closing() || self.context().events.is_closed() {
                            return false;
                        }
                    }
                }
            };
            if found == 0 {
                let message = format!(
                    "topic `{topic}` does not exist on this broker; check its name, or leave out --until-end to wait for it"
                );
                self.context().send(SourceEvent::Failed(Error::Invalid(message)));
                return false;
            }
            count += found;
        }
        self.context().send(SourceEvent::Partitions(count))
    }

    /// Takes one message: decodes it, and hands it on or keeps it waiting.
    fn take(&self, message: &BorrowedMessage<'_>) {
        if self.quiet {
            return;
        }
        let context = self.context();
        let mut state = context.state();
        let Some(slot) = state.slot(message.topic(), message.partition()) else {
            self.metrics.dropped("not_assigned", 1);
            return;
        };
        let Some(record) = self.read(slot, message) else { return };
        if !state.waiting.is_empty() || !record.held.take(record.size) {
            state.waiting.push_back(record);
            self.memory.set_waiting(state.waiting.len());
            self.pause_all(&mut state);
            return;
        }
        drop(state);
        context.send(SourceEvent::Record(record));
    }

    fn read(&self, slot: &mut Slot, message: &BorrowedMessage<'_>) -> Option<Consumed> {
        let offset = Offset(message.offset());
        match slot.tracker.observe(offset) {
            Observed::Repeated => return None,
            Observed::Accepted { skipped: 0 } => {}
            Observed::Accepted { skipped } => self.metrics.gap(&slot.source, skipped),
        }
        let record = Record {
            topic: message.topic(),
            partition: message.partition(),
            offset: offset.0,
            key: message.key(),
            payload: message.payload(),
            headers: headers(message),
            broker_time: message.timestamp().to_millis().map(|millis| millis.saturating_mul(1_000)),
        };
        let item = match decode(&record, slot.contract, &self.edge, now()) {
            Outcome::Event(row) => match slot.window.note(&row.event_id, &row.content_hash) {
                Seen::New => Item::Row(Outcome::Event(row)),
                Seen::Copy => Item::Pass(Pass::Duplicate),
                Seen::Reused => Item::Row(Outcome::Letter(Box::new(reused_event_id(&row, record.key, &self.edge)))),
            },
            other => Item::Row(other),
        };
        Some(Consumed {
            source: Arc::clone(&slot.source),
            epoch: slot.epoch,
            held: slot.held.clone(),
            offset,
            size: item.size(),
            item,
            payload_bytes: message.payload_len(),
            broker_millis: message.timestamp().to_millis(),
        })
    }

    /// Hands on what waits, as far as it fits.
    fn deliver_waiting(&self) {
        let context = self.context();
        loop {
            let mut state = context.state();
            let fits = state.waiting.front().is_some_and(|record| record.held.take(record.size));
            let record = if fits { state.waiting.pop_front() } else { None };
            self.memory.set_waiting(state.waiting.len());
            drop(state);
            let Some(record) = record else { return };
            context.send(SourceEvent::Record(record));
        }
    }

    /// Pauses and resumes partitions by what they hold.
    fn regulate(&self) {
        let mut state = self.context().state();
        if !state.waiting.is_empty() {
            // Partitions that came since are not paused yet.
            self.pause_all(&mut state);
            self.metrics.paused_now(state.all().filter(|slot| slot.paused).count());
            return;
        }
        if !self.memory.is_tight() && state.all().all(|slot| !slot.paused) {
            return;
        }
        let shares: Vec<Share> = state
            .all()
            .map(|slot| Share { partition: (*slot.source).clone(), bytes: slot.held.bytes(), paused: slot.paused })
            .collect();
        let regulation = regulate(self.memory.bound(), self.memory.resume_below(), &shares);
        self.pause(&mut state, &regulation.pause);
        self.resume(&mut state, &regulation.resume);
        if !regulation.pause.is_empty() || !regulation.resume.is_empty() {
            self.metrics.paused_now(state.all().filter(|slot| slot.paused).count());
        }
    }

    fn pause_all(&self, state: &mut State) {
        let running: Vec<SourcePartition> =
            state.all().filter(|slot| !slot.paused).map(|slot| (*slot.source).clone()).collect();
        self.pause(state, &running);
    }

    fn pause(&self, state: &mut State, partitions: &[SourcePartition]) {
        if partitions.is_empty() {
            return;
        }
        if let Err(error) = self.consumer.pause(&list_of(partitions)) {
            warn!(%error, "could not pause partitions at the memory bound; records wait instead");
            return;
        }
        for source in partitions {
            if let Some(slot) = state.slot(&source.topic, source.partition) {
                slot.paused = true;
                self.metrics.paused();
            }
        }
    }

    fn resume(&self, state: &mut State, partitions: &[SourcePartition]) {
        if partitions.is_empty() || self.quiet {
            return;
        }
        if let Err(error) = self.consumer.resume(&list_of(partitions)) {
            warn!(%error, "could not resume partitions, trying again");
            return;
        }
        for source in partitions {
            if let Some(slot) = state.slot(&source.topic, source.partition) {
                slot.paused = false;
            }
        }
    }

    fn fall_quiet(&mut self) {
        self.quiet = true;
        let mut state = self.context().state();
        self.pause_all(&mut state);
        // What waits was never handed on, so its position was never moved: it is read again.
        state.waiting.clear();
        self.memory.set_waiting(0);
        drop(state);
        self.context().send(SourceEvent::Quiet);
    }

    fn fault(&self, error: &KafkaError) {
        use RDKafkaErrorCode as Code;
        match error {
            KafkaError::MessageConsumptionFatal(_) => {
                self.context()
                    .send(SourceEvent::Failed(Error::kafka("consume: librdkafka cannot go on")(error.clone())));
            }
            KafkaError::MessageConsumption(
                Code::TopicAuthorizationFailed | Code::GroupAuthorizationFailed | Code::ClusterAuthorizationFailed,
            ) => {
                let message = format!(
                    "the broker denies access ({error}); grant this user READ on the topics and on the group, or correct the \
                     credentials under [kafka]"
                );
                self.context().send(SourceEvent::Failed(Error::Invalid(message)));
            }
            KafkaError::MessageConsumption(Code::AutoOffsetReset | Code::OffsetOutOfRange) => {
                if let Err(error) = self.check_bounds() {
                    self.context().send(SourceEvent::Failed(error));
                }
            }
            // Counted and logged where librdkafka told the reason; it tries again by itself.
            _ => {}
        }
    }

    /// The broker no longer holds what some partition asked for; which one, the binding does not say.
    fn check_bounds(&self) -> Result<()> {
        let standing: Vec<(SourcePartition, Next)> =
            self.context().state().all().map(|slot| ((*slot.source).clone(), slot.tracker.next())).collect();
        for (source, next) in standing {
            let (low, high) = bounds(&self.consumer, &source)?;
            if next > high {
                let refusal = Refusal::Recreated { stored: next, high };
                return Err(Error::Start { partition: source, source: refusal });
            }
            if next < low && !self.skip_lost {
                let refusal = Refusal::Lost { stored: next, low };
                return Err(Error::Start { partition: source, source: refusal });
            }
            if next < low {
                warn!(partition = %source, from = next.0, to = low.0, "records were deleted by retention before they were read; going on behind them");
            }
            let at = KafkaOffset::Offset(next.max(low).0);
            self.consumer
                .seek(&source.topic, source.partition, at, Duration::from_secs(10))
                .map_err(Error::kafka(format!("go on reading {source}")))?;
        }
        info!("positions compared with what the broker holds");
        Ok(())
    }
}

fn list_of(partitions: &[SourcePartition]) -> TopicPartitionList {
    let mut list = TopicPartitionList::with_capacity(partitions.len());
    for source in partitions {
        list.add_partition(&source.topic, source.partition);
    }
    list
}

/// The headers of a message. A header name that is no UTF-8 makes the binding panic; such a message keeps a note instead.
fn headers(message: &BorrowedMessage<'_>) -> Vec<Header> {
    let read = || {
        let Some(headers) = message.headers() else { return Vec::new() };
        headers
            .iter()
            .map(|header| Header {
                key: header.key.to_owned(),
                value: header.value.map(|value| String::from_utf8_lossy(value).into_owned()),
            })
            .collect()
    };
    catch_unwind(AssertUnwindSafe(read)).unwrap_or_else(|_| {
        vec![Header {
            key: "uptake-unreadable-headers".to_owned(),
            value: Some("a header name is not UTF-8".to_owned()),
        }]
    })
}

/// Microseconds since 1970.
fn now() -> Micros {
    chrono::Utc::now().timestamp_micros()
}
