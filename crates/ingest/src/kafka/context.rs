//! What librdkafka calls back. A rebalance blocks here until the source has answered: that is the barrier.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use rdkafka::ClientContext;
use rdkafka::config::RDKafkaLogLevel;
use rdkafka::consumer::{BaseConsumer, CommitMode, Consumer, ConsumerContext, RebalanceProtocol};
use rdkafka::error::{KafkaError, KafkaResult, RDKafkaErrorCode};
use rdkafka::types::RDKafkaRespErr;
use rdkafka::{Offset, TopicPartitionList};
use tokio::sync::{mpsc, oneshot};
use tracing::{debug, error, info, warn};
use uptake_model::contract::Contract;
use uptake_model::{Next, SourcePartition};
use uptake_progress::Tracker;
use uptake_progress::ownership::{Departure, Epoch};

use super::event::{Candidate, Consumed, SourceEvent, Start};
use super::statistics::Statistics;
use crate::error::Error;
use crate::memory::Held;
use crate::metrics::Metrics;
use crate::options::StartAt;
use crate::window::Window;

/// How long one question to the broker about a partition's bounds may take, and how long it is asked again.
const BOUNDS_TIMEOUT: Duration = Duration::from_secs(10);
const BOUNDS_PATIENCE: Duration = Duration::from_mins(1);

/// The same complaint is logged at most this often.
const LOG_INTERVAL: Duration = Duration::from_secs(10);

/// One assigned partition as the reader sees it.
#[derive(Debug)]
pub(super) struct Slot {
    pub(super) source: Arc<SourcePartition>,
    pub(super) epoch: Epoch,
    pub(super) contract: Contract,
    pub(super) tracker: Tracker,
    pub(super) window: Window,
    pub(super) held: Held,
    pub(super) paused: bool,
}

/// What the reader and the callbacks share. Both run on the polling thread, so the lock is never contended.
#[derive(Debug, Default)]
pub(super) struct State {
    pub(super) slots: HashMap<String, HashMap<i32, Slot>>,
    /// Records that did not fit into the memory bound, in order.
    pub(super) waiting: VecDeque<Consumed>,
}

impl State {
    pub(super) fn all(&self) -> impl Iterator<Item = &Slot> {
        self.slots.values().flat_map(HashMap::values)
    }

    pub(super) fn slot(&mut self, topic: &str, partition: i32) -> Option<&mut Slot> {
        self.slots.get_mut(topic)?.get_mut(&partition)
    }

    fn remove(&mut self, source: &SourcePartition) {
        if let Some(partitions) = self.slots.get_mut(&source.topic) {
            partitions.remove(&source.partition);
        }
        self.waiting.retain(|record| *record.source != *source);
    }
}

/// The context of the group's consumer.
pub(super) struct Context {
    pub(super) events: mpsc::Sender<SourceEvent>,
    pub(super) state: Mutex<State>,
    pub(super) topics: BTreeMap<String, Contract>,
    pub(super) start: StartAt,
    pub(super) id_window: usize,
    pub(super) metrics: Metrics,
    /// The source asks no more questions: rebalances are carried out without it.
    pub(super) closing: AtomicBool,
    pub(super) logged: Mutex<HashMap<String, Instant>>,
    /// Why no broker lets this client in, since one last did.
    pub(super) refusal: Mutex<Option<String>>,
}

impl Context {
    pub(super) fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn is_closing(&self) -> bool {
        self.closing.load(Ordering::Acquire)
    }

    /// Sends an event; when nobody listens any more, the reader is to close.
    pub(super) fn send(&self, event: SourceEvent) -> bool {
        let sent = self.events.blocking_send(event).is_ok();
        if !sent {
            self.closing.store(true, Ordering::Release);
        }
        sent
    }

    /// Whether a complaint is due; the same one only now and then.
    pub(super) fn may_log(&self, what: &str) -> bool {
        let mut logged = self.logged.lock().unwrap_or_else(PoisonError::into_inner);
        let due = logged.get(what).is_none_or(|last| last.elapsed() >= LOG_INTERVAL);
        if due {
            logged.insert(what.to_owned(), Instant::now());
        }
        due
    }

    /// Why no broker lets this client in, and what to do; none while one does, or none was reached.
    pub(super) fn refusal(&self) -> Option<String> {
        self.refusal.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn set_refusal(&self, refusal: Option<String>) {
        *self.refusal.lock().unwrap_or_else(PoisonError::into_inner) = refusal;
    }

    fn assigned(&self, consumer: &BaseConsumer<Self>, list: &mut TopicPartitionList) {
        let wanted = sources(list);
        // The source is also told of an empty assignment: a member without partitions is idle by right.
        let starts = if self.is_closing() { None } else { self.ask_starts(consumer, &wanted) };
        let mut assignment = TopicPartitionList::new();
        for start in starts.unwrap_or_default() {
            let Some(contract) = self.topics.get(&start.source.topic) else { continue };
            let offset = Offset::Offset(start.at.0);
            if let Err(error) = assignment.add_partition_offset(&start.source.topic, start.source.partition, offset) {
                error!(partition = %start.source, %error, "could not set the start of a partition");
                continue;
            }
            self.insert(start, *contract);
        }
        let cooperative = matches!(consumer.rebalance_protocol(), RebalanceProtocol::Cooperative);
        let result = if cooperative { consumer.incremental_assign(&assignment) } else { consumer.assign(&assignment) };
        if let Err(error) = result {
            self.send(SourceEvent::Failed(Error::kafka("take the partitions that the group assigned")(error)));
        }
    }

    fn insert(&self, start: Start, contract: Contract) {
        let slot = Slot {
            tracker: Tracker::new(start.stored, start.at),
            source: Arc::new(start.source.clone()),
            epoch: start.epoch,
            contract,
            window: Window::new(self.id_window),
            held: start.held,
            paused: false,
        };
        self.state().slots.entry(start.source.topic).or_default().insert(start.source.partition, slot);
    }

    /// Asks the source where the partitions start; `None` when it refuses, or is gone.
    fn ask_starts(&self, consumer: &BaseConsumer<Self>, wanted: &[SourcePartition]) -> Option<Vec<Start>> {
        let partitions = match self.candidates(consumer, wanted) {
            Ok(partitions) => partitions,
            Err(error) => {
                self.send(SourceEvent::Failed(error));
                return None;
            }
        };
        let (answer, answered) = oneshot::channel();
        if !self.send(SourceEvent::Assign { partitions, answer }) {
            return None;
        }
        answered.blocking_recv().ok()
    }

    fn candidates(&self, consumer: &BaseConsumer<Self>, wanted: &[SourcePartition]) -> Result<Vec<Candidate>, Error> {
        let explicit = self.explicit_starts(consumer, wanted)?;
        wanted
            .iter()
            .map(|source| {
                let (low, high) = bounds(consumer, source)?;
                // A time after the last record has no offset: that is the end.
                let explicit =
                    explicit.as_ref().map(|found| found.get(source).copied().unwrap_or(high).clamp(low, high));
                Ok(Candidate { source: source.clone(), low, high, explicit })
            })
            .collect()
    }

    fn explicit_starts(
        &self,
        consumer: &BaseConsumer<Self>,
        wanted: &[SourcePartition],
    ) -> Result<Option<BTreeMap<SourcePartition, Next>>, Error> {
        let StartAt::Time(time) = self.start else { return Ok(None) };
        let what = "find the offsets of ingest.start";
        let mut list = TopicPartitionList::new();
        for source in wanted {
            list.add_partition_offset(&source.topic, source.partition, Offset::Offset(time.div_euclid(1_000)))
                .map_err(Error::kafka(what))?;
        }
        let found = consumer.offsets_for_times(list, BOUNDS_TIMEOUT).map_err(Error::kafka(what))?;
        let offsets = found.elements().into_iter().filter_map(|element| match element.offset() {
            Offset::Offset(offset) => Some((SourcePartition::new(element.topic(), element.partition()), Next(offset))),
            _ => None,
        });
        Ok(Some(offsets.collect()))
    }

    fn revoked(&self, consumer: &BaseConsumer<Self>, list: &TopicPartitionList) {
        let partitions = sources(list);
        // The flag is cleared by the calls below, so it is read first.
        let departure = if consumer.assignment_lost() { Departure::Lost } else { Departure::Revoked };
        for source in &partitions {
            self.state().remove(source);
        }
        if !partitions.is_empty() && !self.is_closing() {
            let (answer, answered) = oneshot::channel();
            if self.send(SourceEvent::Revoke { partitions, departure, answer })
                && let Ok(positions) = answered.blocking_recv()
                && departure == Departure::Revoked
            {
                self.commit(consumer, &positions);
            }
        }
        let cooperative = matches!(consumer.rebalance_protocol(), RebalanceProtocol::Cooperative);
        let result = if cooperative { consumer.incremental_unassign(list) } else { consumer.unassign() };
        if let Err(error) = result {
            warn!(%error, "could not give up partitions as the group asked");
        }
    }

    /// Tells the group where the table stands, for tools that show lag. Best effort: the table decides.
    pub(super) fn commit(&self, consumer: &BaseConsumer<Self>, positions: &[(SourcePartition, Next)]) {
        let mut list = TopicPartitionList::new();
        for (source, next) in positions {
            if let Err(error) = list.add_partition_offset(&source.topic, source.partition, Offset::Offset(next.0)) {
                warn!(partition = %source, %error, "could not note a position for the group");
            }
        }
        if list.count() == 0 {
            return;
        }
        if let Err(error) = consumer.commit(&list, CommitMode::Async) {
            self.metrics.group_commit(false);
            debug!(%error, "could not commit to the group; the table holds the positions");
        }
    }
}

/// First offset, and the offset behind the last record that may be read.
pub(super) fn bounds<C: ConsumerContext>(
    consumer: &BaseConsumer<C>,
    source: &SourcePartition,
) -> Result<(Next, Next), Error> {
    let deadline = Instant::now() + BOUNDS_PATIENCE;
    let mut pause = Duration::from_millis(50);
    loop {
        let error = match consumer.fetch_watermarks(&source.topic, source.partition, BOUNDS_TIMEOUT) {
            Ok((low, high)) => return Ok((Next(low), Next(high.max(low)))),
            Err(error) => error,
        };
        if Instant::now() >= deadline {
            return Err(Error::kafka(format!("ask the broker for the bounds of {source}"))(error));
        }
        info!(partition = %source, %error, "could not ask the broker for the bounds of a partition yet, asking again");
        // A partition that was just added is assigned before this client has heard of it.
        if let Err(error) = consumer.fetch_metadata(Some(&source.topic), BOUNDS_TIMEOUT) {
            debug!(%error, topic = source.topic, "could not ask for the partitions of a topic");
        }
        std::thread::park_timeout(pause);
        pause = (pause * 2).min(Duration::from_secs(1));
    }
}

fn sources(list: &TopicPartitionList) -> Vec<SourcePartition> {
    // `elements` must not be called on an empty list in older versions of the binding; incremental protocols send some.
    if list.count() == 0 {
        return Vec::new();
    }
    list.elements().iter().map(|element| SourcePartition::new(element.topic(), element.partition())).collect()
}

impl ClientContext for Context {
    fn log(&self, level: RDKafkaLogLevel, facility: &str, message: &str) {
        match level {
            RDKafkaLogLevel::Emerg | RDKafkaLogLevel::Alert | RDKafkaLogLevel::Critical | RDKafkaLogLevel::Error
                if self.may_log(facility) =>
            {
                warn!(target: "uptake_ingest::librdkafka", facility, "{message}");
            }
            _ => debug!(target: "uptake_ingest::librdkafka", facility, "{message}"),
        }
    }

    fn stats_raw(&self, statistics: &[u8]) {
        match Statistics::read(statistics) {
            Ok(mut statistics) => {
                if statistics.reachable {
                    self.set_refusal(None);
                }
                statistics.refused = self.refusal().is_some();
                // Statistics come every second; one that finds the channel full is not worth waiting for.
                let _ = self.events.try_send(SourceEvent::Statistics(statistics));
            }
            Err(error) => debug!(%error, "could not read librdkafka's statistics"),
        }
    }

    fn error(&self, error: KafkaError, reason: &str) {
        let code = error.rdkafka_error_code();
        let kind = kind_of(code);
        self.metrics.broker_error(kind);
        if matches!(kind, "authentication" | "encryption") {
            self.set_refusal(Some(format!("{}: {reason}", advice(kind))));
        }
        if kind != "end" && self.may_log(kind) {
            warn!(kind, %error, reason, "{}", advice(kind));
        }
    }
}

/// A bounded set of names for librdkafka's errors.
fn kind_of(code: Option<RDKafkaErrorCode>) -> &'static str {
    use RDKafkaErrorCode as Code;
    match code {
        Some(Code::AllBrokersDown) => "all_brokers_down",
        Some(Code::BrokerTransportFailure | Code::OperationTimedOut | Code::NetworkException) => "transport",
        Some(Code::Resolve) => "resolve",
        Some(Code::Authentication | Code::SaslAuthenticationFailed) => "authentication",
        Some(Code::SSL) => "encryption",
        Some(Code::TopicAuthorizationFailed | Code::GroupAuthorizationFailed | Code::ClusterAuthorizationFailed) => {
            "authorization"
        }
        Some(Code::UnknownTopicOrPartition | Code::UnknownTopic | Code::UnknownPartition | Code::UnknownTopicId) => {
            "unknown_topic"
        }
        Some(Code::PollExceeded) => "poll_exceeded",
        Some(Code::AutoOffsetReset | Code::OffsetOutOfRange) => "offset_out_of_range",
        Some(Code::PartitionEOF) => "end",
        _ => "other",
    }
}

fn advice(kind: &str) -> &'static str {
    match kind {
        "all_brokers_down" | "transport" | "resolve" => {
            "no connection to a broker; trying again with backoff, nothing is lost. If it lasts, check `bootstrap.servers` and `security.protocol` under [kafka], and the network"
        }
        "authentication" => {
            "the broker does not accept the credentials; check `sasl.username`, `sasl.password` and `sasl.mechanisms` under [kafka]"
        }
        "encryption" => {
            "no encrypted connection to the broker; check `ssl.ca.location` (who signed the broker's certificate), the names in \
             `bootstrap.servers` and `security.protocol` under [kafka]"
        }
        "authorization" => "the broker denies access; grant this user READ on the topics and the group",
        "unknown_topic" => "a topic does not exist (yet); it is looked for again every half minute",
        "poll_exceeded" => "the reader was blocked for too long and has left the group; it joins again",
        _ => "librdkafka reports an error",
    }
}

impl ConsumerContext for Context {
    fn rebalance(&self, consumer: &BaseConsumer<Self>, code: RDKafkaRespErr, list: &mut TopicPartitionList) {
        match code {
            RDKafkaRespErr::RD_KAFKA_RESP_ERR__ASSIGN_PARTITIONS => self.assigned(consumer, list),
            RDKafkaRespErr::RD_KAFKA_RESP_ERR__REVOKE_PARTITIONS => self.revoked(consumer, list),
            other => {
                warn!(error = ?other, "the group failed to rebalance; giving the partitions up and joining again");
                self.revoked(consumer, list);
            }
        }
    }

    fn commit_callback(&self, result: KafkaResult<()>, _offsets: &TopicPartitionList) {
        match result {
            Err(KafkaError::ConsumerCommit(RDKafkaErrorCode::NoOffset)) => {}
            Ok(()) => self.metrics.group_commit(true),
            Err(error) => {
                self.metrics.group_commit(false);
                if self.may_log("group_commit") {
                    info!(%error, "the group did not take a position (lag tools show an old one); the table holds the right one");
                }
            }
        }
    }

    fn main_queue_min_poll_interval(&self) -> rdkafka::util::Timeout {
        rdkafka::util::Timeout::After(Duration::from_millis(100))
    }
}
