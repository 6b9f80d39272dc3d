//! The loop.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;
use tracing::{info, warn};
use uptake_lake::Lake;
use uptake_model::contract::ErrorClass;
use uptake_model::decode::Outcome;
use uptake_model::{Next, SourcePartition};
use uptake_progress::breaker::{Breaker, State};
use uptake_progress::flush::Reason;
use uptake_progress::ownership::{Epoch, Ownership};
use uptake_progress::watermark::Watermarks;

use super::flushing::Flight;
use super::handle::{Handle, Stage, Summary};
use crate::bronze::Bronze;
use crate::buffer::{Buffer, Seen};
use crate::error::{Error, Result};
use crate::health::Health;
use crate::kafka::{Command, Consumed, Item, Reader, SourceEvent, Statistics, end_without_records, spawn};
use crate::memory::{Held, Memory};
use crate::metrics::Metrics;
use crate::options::ConsumeOptions;
use crate::signals::{Signals, Tagging};

/// How often the loop turns when nothing happens.
const TICK: Duration = Duration::from_millis(50);

/// How long leaving the group may take when everything is written.
const LEAVE_PATIENCE: Duration = Duration::from_secs(5);

/// Events taken at one turn, so that a turn stays short.
const EVENTS_AT_ONCE: usize = 256;

/// A partition that shows lag without a record for this long is probed for an end without records.
const QUIET_BEFORE_PROBE: Duration = Duration::from_secs(2);

/// How long a probe may take.
const PROBE_PATIENCE: Duration = Duration::from_secs(20);

/// How long a bounded read waits for more partitions after the group last moved some.
const SETTLED_AFTER: Duration = Duration::from_secs(5);

/// A partition that is being read.
#[derive(Debug)]
pub(super) struct Reading {
    pub(super) epoch: Epoch,
    pub(super) held: Held,
    /// Everything before it was consumed.
    pub(super) next: Next,
    /// Where a bounded read ends.
    pub(super) target: Next,
    pub(super) heard: Instant,
    pub(super) probing: bool,
    pub(super) idle: bool,
}

/// The consumer service. See [`Consumer::run`].
pub struct Consumer {
    pub(super) options: ConsumeOptions,
    pub(super) handle: Handle,
    pub(super) stage: watch::Receiver<Stage>,
    pub(super) metrics: Metrics,
    pub(super) memory: Memory,
    pub(super) began: Instant,
    pub(super) ownership: Arc<Mutex<Ownership>>,
    pub(super) bronze: Arc<tokio::sync::Mutex<Bronze>>,
    pub(super) buffer: Buffer,
    pub(super) flight: Option<Flight>,
    /// Where what is stored goes to be tagged, if it is.
    pub(super) signals: Option<Signals>,
    pub(super) readings: BTreeMap<SourcePartition, Reading>,
    pub(super) watermarks: Watermarks,
    breakers: BTreeMap<String, (Breaker, BTreeMap<ErrorClass, u64>)>,
    probes: Vec<JoinHandle<Probed>>,
    pub(super) commands: std::sync::mpsc::Sender<Command>,
    events: Option<mpsc::Receiver<SourceEvent>>,
    partitions_in_all: Option<usize>,
    pub(super) moved: Instant,
    quiet: bool,
}

/// What a probe found.
struct Probed {
    source: SourcePartition,
    epoch: Epoch,
    end: Next,
    nothing_before_end: bool,
}

/// What made the loop turn.
enum Turn {
    Stage,
    Events(usize),
    Flown,
    Tick,
}

impl std::fmt::Debug for Consumer {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("Consumer").field("options", &self.options).finish_non_exhaustive()
    }
}

impl Consumer {
    /// Opens bronze, starts the polling thread and joins the group.
    ///
    /// # Errors
    /// Settings that do not fit together, or a lake that cannot be written.
    pub async fn start(options: ConsumeOptions, lake: &Lake) -> Result<Self> {
        Self::start_with(options, lake, None).await
    }

    /// [`Consumer::start`], with live signals of what is stored. Flushes come as often as the signals ask for.
    ///
    /// # Errors
    /// As there; and a topic for signals that is missing or denied.
    pub async fn start_with(mut options: ConsumeOptions, lake: &Lake, tagging: Option<Tagging>) -> Result<Self> {
        if let Some(tagging) = &tagging {
            options.flush.age = options.flush.age.min(tagging.options.flush_age);
        }
        options.check()?;
        let memory = Memory::new(options.memory_split().rows);
        let metrics = Metrics::global();
        let ownership = Arc::new(Mutex::new(Ownership::default()));
        let mut bronze = Bronze::open_with(lake, &options.pipeline, options.retries)
            .await?
            .with_ownership(Arc::clone(&ownership))
            .with_allowed_disorder(options.allowed_disorder);
        let signals = match tagging {
            Some(tagging) => Some(Signals::start(&options, tagging, lake, &metrics).await?),
            None => None,
        };
        if let Some(signals) = &signals {
            bronze = bronze.with_ledger(signals.ledger());
        }
        let Reader { events, commands } = spawn(&options, &memory, &metrics)?;
        let (stage_sender, stage) = watch::channel(Stage::Running);
        let patience = Duration::from_mins(1).max(options.drain_deadline * 3);
        let handle = Handle {
            stage: Arc::new(stage_sender),
            health: Health::new(patience),
            memory: memory.clone(),
            summary: Arc::default(),
        };
        let disorder = i64::try_from(options.allowed_disorder.as_micros()).unwrap_or(i64::MAX);
        Ok(Self {
            watermarks: Watermarks::new(disorder, options.idle_after),
            options,
            handle,
            stage,
            metrics,
            memory,
            began: Instant::now(),
            ownership,
            bronze: Arc::new(tokio::sync::Mutex::new(bronze)),
            buffer: Buffer::new(),
            flight: None,
            signals,
            readings: BTreeMap::new(),
            breakers: BTreeMap::new(),
            probes: Vec::new(),
            commands,
            events: Some(events),
            partitions_in_all: None,
            moved: Instant::now(),
            quiet: false,
        })
    }

    /// What others hold of it.
    pub fn handle(&self) -> Handle {
        self.handle.clone()
    }

    /// Runs until stopped, until the ends are reached (if so asked), or until it cannot go on.
    ///
    /// # Errors
    /// Whatever it cannot go on from; what was not committed is read again at the next start. [`Error::Stopped`] when it
    /// was stopped at once, or could not write everything within the deadline.
    pub async fn run(mut self) -> Result<Summary> {
        let topics: Vec<_> =
            self.options.topics.iter().map(|(topic, contract)| format!("{topic} ({contract})")).collect();
        info!(
            topics = topics.join(", "),
            group = self.options.group,
            pipeline = self.options.pipeline,
            memory_for_rows = self.memory.bound(),
            "consuming"
        );
        let Some(mut events) = self.events.take() else {
            return Err(Error::Bug("a consumer ran twice".to_owned()));
        };
        let outcome = self.consume(&mut events).await;
        self.handle.health.stopping();
        match outcome {
            Ok(()) => self.end(events).await,
            Err(error) => {
                self.abandon(events).await;
                Err(error)
            }
        }
    }

    /// Consumes until it is time to end in order.
    async fn consume(&mut self, events: &mut mpsc::Receiver<SourceEvent>) -> Result<()> {
        let mut taken = Vec::with_capacity(EVENTS_AT_ONCE);
        let mut tick = tokio::time::interval(TICK);
        tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let mut stage = self.stage.clone();
        let mut ticked = Instant::now();
        loop {
            let turn = tokio::select! {
                biased;
                changed = stage.changed() => { let _ = changed; Turn::Stage }
                () = Flight::landed(self.flight.as_mut()) => Turn::Flown,
                count = events.recv_many(&mut taken, EVENTS_AT_ONCE) => Turn::Events(count),
                _ = tick.tick() => Turn::Tick,
            };
            self.handle.health.turned();
            match turn {
                Turn::Stage => match *stage.borrow_and_update() {
                    Stage::Running => {}
                    Stage::Draining => return Ok(()),
                    Stage::Now => return Err(Error::Stopped),
                },
                Turn::Flown => self.land().await?,
                Turn::Events(0) => return Err(reader_gone()),
                Turn::Events(_) => {
                    for event in taken.drain(..) {
                        self.handle_event(event).await?;
                    }
                }
                Turn::Tick => {}
            }
            // Not only when the ticker is heard: a busy channel always comes first.
            if ticked.elapsed() >= TICK {
                ticked = Instant::now();
                self.tick().await;
                self.watch_signals()?;
            }
            self.flush_when_due();
            if self.options.until_end && self.reached_the_ends() && self.told_all() {
                info!("the ends of the start are reached");
                return Ok(());
            }
        }
    }

    /// Takes in one event.
    pub(super) async fn handle_event(&mut self, event: SourceEvent) -> Result<()> {
        match event {
            SourceEvent::Record(record) => self.take(record)?,
            SourceEvent::Assign { partitions, answer } => self.assign(partitions, answer).await?,
            SourceEvent::Revoke { partitions, departure, answer } => self.revoke(partitions, departure, answer).await?,
            SourceEvent::Statistics(statistics) => self.look_at(&statistics),
            SourceEvent::Partitions(count) => self.partitions_in_all = Some(count),
            SourceEvent::Quiet => self.quiet = true,
            SourceEvent::Failed(error) => return Err(error),
        }
        Ok(())
    }

    fn take(&mut self, record: Consumed) -> Result<()> {
        let Consumed { source, epoch, held, offset, item, size, payload_bytes, broker_millis } = record;
        let Some(reading) = self.readings.get_mut(&*source).filter(|reading| reading.epoch == epoch) else {
            // Read before its partition went; it is read again by whoever has the partition now.
            held.give_back(size);
            self.metrics.dropped("no_longer_owned", 1);
            return Ok(());
        };
        reading.next = reading.next.max(offset.next());
        reading.heard = Instant::now();
        reading.idle = false;
        self.handle.note(|summary| summary.consumed += 1);
        self.judge(&source.topic, item.refusal())?;
        match item {
            Item::Row(outcome) => {
                if let Outcome::Event(row) = &outcome
                    && row.clock_skew.is_none()
                {
                    let now = self.began.elapsed();
                    if self.watermarks.of(&source).is_some_and(|watermark| row.event_time < watermark) {
                        self.metrics.late(&source.topic, 1);
                    }
                    self.watermarks.observe(&source, row.event_time.min(row.ingest_time), now);
                }
                self.buffer.add(&source, Some(epoch), offset, outcome, payload_bytes);
            }
            Item::Pass(why) => self.buffer.pass(&source, Some(epoch), offset, why),
        }
        if let Some(broker_millis) = broker_millis {
            self.buffer.recognise(&source, Seen { offset, broker_millis });
        }
        Ok(())
    }

    /// Stops when too much of a topic is bad.
    fn judge(&mut self, topic: &str, refusal: Option<ErrorClass>) -> Result<()> {
        if !self.breakers.contains_key(topic) {
            let breaker = Breaker::new(self.options.bad_window, self.options.max_bad_share);
            self.breakers.insert(topic.to_owned(), (breaker, BTreeMap::new()));
        }
        let Some((breaker, reasons)) = self.breakers.get_mut(topic) else { return Ok(()) };
        if let Some(class) = refusal {
            *reasons.entry(class).or_default() += 1;
        }
        let State::Open { bad, seen } = breaker.record(refusal.is_some()) else { return Ok(()) };
        let reasons: Vec<_> = reasons.iter().map(|(class, count)| format!("{} {count}", class.name())).collect();
        Err(Error::TooManyBad { topic: topic.to_owned(), bad, window: seen, reasons: reasons.join(", ") })
    }

    /// What is to be done although nothing happened.
    async fn tick(&mut self) {
        let now = self.began.elapsed();
        self.metrics.memory_used(self.memory.used());
        for (source, reading) in &mut self.readings {
            // A partition that never had an event has no watermark to hold back.
            if !reading.idle && self.watermarks.is_idle(source, now) && self.watermarks.of(source).is_some() {
                reading.idle = true;
                self.buffer.set_idle(source, Some(reading.epoch), reading.next);
            }
        }
        if let Some(watermark) = self.watermarks.overall(now) {
            self.metrics.watermark(watermark as f64 / 1e6);
        }
        let (ended, running) = std::mem::take(&mut self.probes).into_iter().partition(JoinHandle::is_finished);
        self.probes = running;
        let ended: Vec<JoinHandle<Probed>> = ended;
        for probe in ended {
            if let Ok(probed) = probe.await {
                self.probed(&probed);
            }
        }
    }

    fn look_at(&mut self, statistics: &Statistics) {
        self.handle.health.set_refused(statistics.refused);
        if self.handle.health.set_reachable(statistics.reachable) {
            self.metrics.reachable(statistics.reachable);
            if statistics.reachable {
                info!("a broker answers");
            } else {
                warn!("no broker answers; waiting with backoff, nothing is lost");
            }
        }
        let mut due = Vec::new();
        for (source, end) in &statistics.ends {
            let Some(reading) = self.readings.get_mut(source) else { continue };
            let lag = (end.0 - reading.next.0).max(0);
            self.metrics.lag(source, lag);
            let waits = lag > 0 && !reading.probing && reading.heard.elapsed() >= QUIET_BEFORE_PROBE;
            if waits && self.memory.waiting() == 0 && !self.memory.is_tight() {
                reading.probing = true;
                due.push((source.clone(), reading.epoch, reading.next, *end));
            }
        }
        for (source, epoch, from, end) in due {
            self.probe(source, epoch, from, end);
        }
    }

    fn probe(&mut self, source: SourcePartition, epoch: Epoch, from: Next, end: Next) {
        let options = self.options.clone();
        self.probes.push(tokio::task::spawn_blocking(move || {
            let found = end_without_records(&options, &source, from, PROBE_PATIENCE);
            if let Err(error) = &found {
                warn!(partition = %source, error = %crate::bronze::source_chain(error), "could not look at the end of a partition");
            }
            Probed { source, epoch, end, nothing_before_end: found.unwrap_or(false) }
        }));
    }

    fn probed(&mut self, probed: &Probed) {
        let Some(reading) = self.readings.get_mut(&probed.source).filter(|reading| reading.epoch == probed.epoch)
        else {
            return;
        };
        reading.probing = false;
        // Not before the next quiet while, should the answer have been no.
        reading.heard = Instant::now();
        if probed.nothing_before_end && probed.end > reading.next {
            self.metrics.gap(&probed.source, probed.end.0.abs_diff(reading.next.0));
            reading.next = probed.end;
            self.buffer.reach(&probed.source, Some(probed.epoch), probed.end);
        }
    }

    fn reached_the_ends(&self) -> bool {
        let all_read = self.readings.values().all(|reading| reading.next >= reading.target);
        let all_here = self.partitions_in_all.is_some_and(|count| self.readings.len() >= count);
        let placed = self.handle.health.ready();
        // A member without partitions may be about to be given some, with the group's next heartbeat.
        let patience = if self.readings.is_empty() { 3 * SETTLED_AFTER } else { SETTLED_AFTER };
        all_read && placed && (all_here || self.moved.elapsed() >= patience)
    }

    /// Ends in order, within the deadline, or at once if so asked meanwhile.
    async fn end(mut self, mut events: mpsc::Receiver<SourceEvent>) -> Result<Summary> {
        let deadline = self.options.drain_deadline;
        let mut stage = self.stage.clone();
        let drained = tokio::select! {
            drained = tokio::time::timeout(deadline, self.drain(&mut events)) => drained.unwrap_or_else(|_| {
                warn!(?deadline, "could not write everything before the deadline; the rest is read again at the next start");
                Err(Error::Stopped)
            }),
            _ = stage.wait_for(|stage| *stage == Stage::Now) => Err(Error::Stopped),
        };
        match drained {
            Ok(()) => {
                self.leave(&mut events).await;
                Ok(self.handle.summary())
            }
            Err(error) => {
                self.abandon(events).await;
                Err(error)
            }
        }
    }

    async fn drain(&mut self, events: &mut mpsc::Receiver<SourceEvent>) -> Result<()> {
        let began = Instant::now();
        info!(rows = self.buffer.rows(), "stopping: writing what is held");
        self.tell(Command::Quiet);
        while !self.quiet {
            let Some(event) = events.recv().await else { return Err(reader_gone()) };
            self.handle_event(event).await?;
        }
        self.land().await?;
        self.flush_all(Reason::Shutdown).await?;
        self.finish_signals(began).await
    }

    /// Leaves the group; everything is written, so that this takes too long is no failure.
    async fn leave(&mut self, events: &mut mpsc::Receiver<SourceEvent>) {
        self.tell(Command::Stop);
        // The channel closes when the consumer has left; rebalances are not asked about any more.
        let left = tokio::time::timeout(LEAVE_PATIENCE, async { while events.recv().await.is_some() {} }).await;
        if left.is_err() {
            warn!("the group does not answer; it will notice by itself that this member has gone");
        }
        let summary = self.handle.summary();
        info!(events = summary.events, letters = summary.letters, flushes = summary.flushes, "stopped");
    }

    /// Leaves without writing; a flush in flight may end within the deadline.
    async fn abandon(&mut self, events: mpsc::Receiver<SourceEvent>) {
        // Nobody listens from here on: callbacks are not answered any more and the reader closes.
        drop(events);
        self.tell(Command::Stop);
        let now = *self.stage.borrow() == Stage::Now;
        if let Some(flight) = self.flight.take() {
            if now {
                flight.abort();
            } else {
                let _ = tokio::time::timeout(self.options.drain_deadline, flight.wait()).await;
            }
        }
        let rows = self.buffer.rows();
        if rows > 0 {
            self.metrics.dropped("stopped", rows as u64);
            warn!(rows, "uncommitted rows are left to be read again at the next start");
        }
    }

    pub(super) fn tell(&self, command: Command) {
        // A reader that has ended needs no more commands.
        let _ = self.commands.send(command);
    }
}

fn reader_gone() -> Error {
    Error::Bug("the polling thread ended by itself".to_owned())
}
