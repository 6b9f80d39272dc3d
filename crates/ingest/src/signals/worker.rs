//! The thread that tags what is stored, and publishes.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use tokio::runtime::Handle;
use tracing::{debug, info, warn};
use uptake_lake::Tellings;
use uptake_model::facts::Telling;
use uptake_model::signal::Signal;

use super::context::{Asked, Found, Key, Store, Told};
use super::queue::Waiting;
use super::{FollowUp, Shared, SignalKey, Tagging, take};
use crate::bronze::source_chain;
use crate::error::{Error, Result};
use crate::kafka::{Outgoing, Publisher, Unpublished};
use crate::metrics::SkipReason;

/// Bytes of events that are looked at together, so that the store outgrows its bound by no more than that.
const BATCH_BYTES: usize = 8 << 20;

/// Events that are looked at together.
const BATCH_EVENTS: usize = 1_024;

/// Conversations that are read from the tables together.
const LOOK_UP_AT_ONCE: usize = 64;

/// Follow-ups that are tagged and published together: the first of them do not wait for the last of a long span.
const TAG_AT_ONCE: usize = 128;

/// How often the Kafka client is served while nothing waits.
const CHORES: Duration = Duration::from_millis(250);

/// First pause before something is tried again; it doubles.
const PAUSE: Duration = Duration::from_millis(250);

/// Longest such pause.
const LONGEST_PAUSE: Duration = Duration::from_secs(10);

/// Starts the thread; it ends when it is told to stop.
pub(super) fn spawn(shared: Arc<Shared>, tagging: Tagging, publisher: Publisher, tellings: Tellings) -> Result<()> {
    let store = Store::new(tagging.options.store);
    let mut worker = Worker { shared, tagging, publisher, tellings, store, runtime: Handle::current() };
    let started = std::thread::Builder::new().name("uptake-signals".to_owned()).spawn(move || {
        // Also when the thread panics, so that nobody waits for it.
        let _end = End(Arc::clone(&worker.shared));
        worker.run();
    });
    started.map(drop).map_err(|error| Error::Bug(format!("start the tagging thread: {error}")))
}

struct End(Arc<Shared>);

impl Drop for End {
    fn drop(&mut self) {
        self.0.ended.store(true, Ordering::Release);
        self.0.emptied.notify_waiters();
    }
}

/// Somebody asked to stop: what is in hand is left to the next start.
struct Stopped;

struct Worker {
    shared: Arc<Shared>,
    tagging: Tagging,
    publisher: Publisher,
    tellings: Tellings,
    store: Store,
    runtime: Handle,
}

impl Worker {
    fn run(&mut self) {
        info!(
            topic = self.tagging.options.topic,
            tagger = self.tagging.scorer.version(),
            "publishing signals as they are stored"
        );
        while let Some(spans) = self.next() {
            let ends: Vec<_> = spans.iter().map(|span| (span.source.clone(), span.to)).collect();
            if let Err(Stopped) = self.work(spans) {
                return;
            }
            for (source, to) in ends {
                self.shared.ledger.acknowledge(&source, to);
            }
        }
    }

    /// The next spans; none when it is time to end.
    fn next(&mut self) -> Option<Vec<Waiting>> {
        loop {
            let shared = Arc::clone(&self.shared);
            let mut state = shared.state();
            if shared.is_stopped() {
                return None;
            }
            let taken = take(&mut state);
            if !taken.is_empty() {
                return Some(taken);
            }
            shared.emptied.notify_waiters();
            let waited = shared.wake.wait_timeout(state, CHORES);
            drop(waited);
            self.publisher.serve();
        }
    }

    fn work(&mut self, spans: Vec<Waiting>) -> Result<(), Stopped> {
        let mut told = Vec::new();
        for span in spans {
            told.extend(match span.told {
                Some(told) => told,
                None => self.patiently("tables", |worker| {
                    let read = worker.tellings.of_span(&span.source, span.from, span.to);
                    worker.runtime.block_on(read).map_err(|error| source_chain(&error))
                })?,
            });
        }
        let mut rest = told.as_slice();
        while !rest.is_empty() {
            let (batch, behind) = rest.split_at(batch_of(rest));
            self.tag(batch)?;
            rest = behind;
        }
        Ok(())
    }

    /// Finds, tags and publishes the follow-ups that a batch makes complete.
    fn tag(&mut self, batch: &[Telling]) -> Result<(), Stopped> {
        let told = self.take_in(batch);
        let in_parts = self.store.in_parts(&told);
        let ends = ends_of(batch);
        self.look_up(&in_parts, &ends)?;
        let mut orphaned = self.store.with_orphans(&told);
        orphaned.retain(|key| !in_parts.contains(key));
        self.look_up(&orphaned, &ends)?;
        let scorer = Arc::clone(&self.tagging.scorer);
        let Found { asked, without_response, another_follows, too_long } = self.store.find(&told, scorer.looks_back());
        let metrics = self.shared.metrics.clone();
        metrics.signals_skipped(SkipReason::WithoutResponse, without_response);
        metrics.signals_skipped(SkipReason::AnotherFollows, another_follows);
        metrics.signals_skipped(SkipReason::TooLong, too_long);
        let found = asked.len();
        let fresh: Vec<Asked> = asked.into_iter().filter(|asked| !self.was_published(asked)).collect();
        metrics.signals_skipped(SkipReason::Repeated, (found - fresh.len()) as u64);
        for some in fresh.chunks(TAG_AT_ONCE) {
            self.score_and_publish(some)?;
        }
        let evicted = self.store.evict();
        metrics.signals_context(self.store.bytes() as u64, evicted);
        Ok(())
    }

    /// Takes what a batch tells into the store.
    fn take_in(&mut self, batch: &[Telling]) -> Told {
        let mut told = Told::new();
        let mut unreadable = 0;
        for telling in batch.iter().filter(|telling| Telling::tells(&telling.kind)) {
            let (Some(day), Ok(facts)) = (telling.conversation_date, telling.turns()) else {
                unreadable += 1;
                continue;
            };
            for fact in facts {
                let key: Key = (day, fact.conversation_id.clone());
                let _ = told.entry(key.clone()).or_default().entry(fact.turn_id.clone()).or_insert(telling.broker_time);
                self.store.tell(&key, fact, telling);
            }
        }
        self.shared.metrics.signals_skipped(SkipReason::Unreadable, unreadable);
        told
    }

    /// Reads conversations from the tables into the store. What lies behind the `ends` of partitions has its turn later.
    fn look_up(&mut self, keys: &[Key], ends: &Ends<'_>) -> Result<(), Stopped> {
        let comes_later = |telling: &Telling| {
            ends.get(&(telling.topic.as_str(), telling.partition)).is_some_and(|end| telling.offset > *end)
        };
        for some in keys.chunks(LOOK_UP_AT_ONCE) {
            let tellings = self.patiently("tables", |worker| {
                let read = worker.tellings.of_conversations(some);
                worker.runtime.block_on(read).map_err(|error| source_chain(&error))
            })?;
            for telling in tellings.iter().filter(|telling| !comes_later(telling)) {
                let (Some(day), Ok(facts)) = (telling.conversation_date, telling.turns()) else { continue };
                for fact in facts {
                    let key: Key = (day, fact.conversation_id.clone());
                    // The same id on another day is another conversation.
                    if some.contains(&key) {
                        self.store.tell(&key, fact, telling);
                    }
                }
            }
            for key in some {
                self.store.set_whole(key);
            }
            debug!(conversations = some.len(), events = tellings.len(), "read context from the tables");
            self.shared.metrics.signals_looked_up(some.len() as u64);
        }
        Ok(())
    }

    fn was_published(&self, asked: &Asked) -> bool {
        let id =
            uptake_model::signal::signal_id(&asked.turn_id, &asked.follow_up_turn_id, self.tagging.scorer.version());
        self.store.was_published(&asked.key, &id, &asked.input_hash)
    }

    fn score_and_publish(&mut self, asked: &[Asked]) -> Result<(), Stopped> {
        let tagger = Arc::clone(&self.tagging.scorer);
        let follow_ups: Vec<FollowUp<'_>> = asked
            .iter()
            .map(|asked| FollowUp { before: &asked.before, response: &asked.response, follow_up: &asked.follow_up })
            .collect();
        let read = self.patiently("tagger", |_| {
            let given = tagger.score(&follow_ups)?;
            if given.len() == follow_ups.len() {
                return Ok(given);
            }
            Err(format!("the tagger gave {} scores for {} follow-ups", given.len(), follow_ups.len()))
        })?;
        let mut outgoing = Vec::with_capacity(asked.len());
        for (asked, scored) in asked.iter().zip(read) {
            let signal = Signal {
                turn_id: asked.turn_id.clone(),
                follow_up_turn_id: asked.follow_up_turn_id.clone(),
                conversation_id: asked.key.1.clone(),
                tagger_id: tagger.version().to_owned(),
                input_hash: asked.input_hash.clone(),
                probabilities: scored.probabilities,
                fires: scored.fires,
                conversation_date: asked.key.0,
            };
            let id = signal.id();
            let key = match self.tagging.options.key {
                SignalKey::Conversation => signal.conversation_id.clone(),
                SignalKey::Signal => id.clone(),
            };
            // Names and numbers alone: what cannot be written as JSON does not occur.
            let payload = serde_json::to_vec(&signal).unwrap_or_default();
            outgoing.push(Outgoing { key, id, payload, caused_at: asked.broker_time });
        }
        self.publish(&outgoing)?;
        for (asked, outgoing) in asked.iter().zip(&outgoing) {
            self.store.published(&asked.key, &outgoing.id, &asked.input_hash);
        }
        Ok(())
    }

    /// Publishes until the broker has all of it.
    fn publish(&mut self, outgoing: &[Outgoing]) -> Result<(), Stopped> {
        let shared = Arc::clone(&self.shared);
        let mut pause = PAUSE;
        let mut left: Vec<&Outgoing> = outgoing.iter().collect();
        while !left.is_empty() {
            if shared.is_stopped() {
                return Err(Stopped);
            }
            match self.publisher.publish(&left, || shared.is_stopped()) {
                Ok(()) => return Ok(()),
                Err(Unpublished { why: None, .. }) => return Err(Stopped),
                Err(Unpublished { places, why: Some(why) }) => {
                    self.complain("publish", &why, pause)?;
                    pause = (pause * 2).min(LONGEST_PAUSE);
                    left = places.into_iter().filter_map(|place| left.get(place).copied()).collect();
                }
            }
        }
        Ok(())
    }

    /// Tries until it works, with growing pauses, or until told to stop.
    fn patiently<T>(
        &mut self,
        step: &'static str,
        mut work: impl FnMut(&mut Self) -> Result<T, String>,
    ) -> Result<T, Stopped> {
        let mut pause = PAUSE;
        loop {
            if self.shared.is_stopped() {
                return Err(Stopped);
            }
            match work(self) {
                Ok(done) => return Ok(done),
                Err(why) => self.complain(step, &why, pause)?,
            }
            pause = (pause * 2).min(LONGEST_PAUSE);
        }
    }

    /// Says what went wrong, and waits a little.
    fn complain(&self, step: &'static str, why: &str, pause: Duration) -> Result<(), Stopped> {
        self.shared.metrics.signals_retry(step);
        warn!(step, why, "signals wait; consuming goes on");
        let deadline = std::time::Instant::now() + pause;
        let mut state = self.shared.state();
        loop {
            if self.shared.is_stopped() {
                return Err(Stopped);
            }
            let left = deadline.saturating_duration_since(std::time::Instant::now());
            if left.is_zero() {
                return Ok(());
            }
            // Whoever puts something in wakes this too; then the rest of the pause is waited for.
            let waited = self.shared.wake.wait_timeout(state, left);
            state = waited.unwrap_or_else(std::sync::PoisonError::into_inner).0;
        }
    }
}

/// The last offset of each partition.
type Ends<'a> = HashMap<(&'a str, i32), i64>;

/// How far a batch reaches.
fn ends_of(batch: &[Telling]) -> Ends<'_> {
    let mut ends = Ends::new();
    for telling in batch {
        let end = ends.entry((telling.topic.as_str(), telling.partition)).or_insert(telling.offset);
        *end = telling.offset.max(*end);
    }
    ends
}

/// How many of the events are looked at together, one at least.
fn batch_of(told: &[Telling]) -> usize {
    let mut bytes = 0;
    let within = told.iter().take(BATCH_EVENTS).take_while(|telling| {
        bytes += telling.size();
        bytes <= BATCH_BYTES
    });
    within.count().max(1)
}
