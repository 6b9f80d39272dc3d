//! Partitions come and go. The reader waits for each answer given here.

use std::collections::BTreeMap;
use std::sync::PoisonError;
use std::time::{Duration, Instant};

use tokio::sync::oneshot;
use tracing::{info, warn};
use uptake_model::{Next, SourcePartition};
use uptake_progress::flush::Reason;
use uptake_progress::ownership::Departure;
use uptake_progress::start::{Facts, Origin, decide};

use super::service::{Consumer, Reading};
use crate::bronze::Resume;
use crate::error::{Error, Result};
use crate::kafka::{Candidate, Start, first_unrecognised};
use crate::options::StartAt;

/// How long it may take to look at the records before the stored positions; what does not answer is taken as it is.
const RECOGNISE_PATIENCE: Duration = Duration::from_secs(10);

impl Consumer {
    /// Takes partitions: says where each starts. On an error no answer is given, and the reader takes none of them.
    pub(super) async fn assign(
        &mut self,
        candidates: Vec<Candidate>,
        answer: oneshot::Sender<Vec<Start>>,
    ) -> Result<()> {
        self.metrics.rebalance("assigned");
        let mut starts = Vec::with_capacity(candidates.len());
        let mut known_topics: BTreeMap<String, bool> = BTreeMap::new();
        let mut bronze = self.bronze.lock().await;
        let sources: Vec<_> = candidates.iter().map(|candidate| candidate.source.clone()).collect();
        let resumed = bronze.resume_all(&sources).await?;
        for candidate in &candidates {
            let topic = &candidate.source.topic;
            if !known_topics.contains_key(topic) {
                known_topics.insert(topic.clone(), bronze.knows_topic(topic).await?);
            }
            let stored = resumed.get(&candidate.source).and_then(|resume| resume.next);
            let facts = Facts {
                stored,
                explicit: candidate.explicit,
                low: candidate.low,
                high: candidate.high,
                origin: if self.options.start == StartAt::Latest { Origin::Latest } else { Origin::Earliest },
                topic_is_known: known_topics.get(topic).copied().unwrap_or(false),
                skip_lost: self.options.skip_lost_records,
            };
            let start =
                decide(&facts).map_err(|source| Error::Start { partition: candidate.source.clone(), source })?;
            if start.lost > 0 {
                warn!(
                    partition = %candidate.source, lost = start.lost,
                    "records were deleted by retention before they were read; going on behind them"
                );
                self.metrics.gap(&candidate.source, start.lost);
            }
            starts.push((candidate, stored, start.at));
        }
        if let Some(signals) = &self.signals {
            let fronts: Vec<_> = starts.iter().map(|(candidate, _, at)| (candidate.source.clone(), *at)).collect();
            let begins = bronze.begin_signals(&fronts).await?;
            for (source, at) in &fronts {
                signals.assign(source, begins.get(source).copied().unwrap_or(*at), *at);
            }
        }
        drop(bronze);
        self.recognise(resumed).await?;
        let answers = starts.into_iter().map(|(candidate, stored, at)| self.begin(candidate, stored, at)).collect();
        self.placed();
        // A reader that is gone cannot be answered; the loop hears of it from the closed channel.
        let _ = answer.send(answers);
        Ok(())
    }

    /// Refuses a topic that was made again since it was read, also where its offsets have passed the stored position.
    async fn recognise(&self, resumed: BTreeMap<SourcePartition, Resume>) -> Result<()> {
        let seen: BTreeMap<_, _> =
            resumed.into_iter().filter_map(|(source, resume)| Some((source, resume.last?))).collect();
        if seen.is_empty() {
            return Ok(());
        }
        let options = self.options.clone();
        let looked = tokio::task::spawn_blocking(move || first_unrecognised(&options, &seen, RECOGNISE_PATIENCE)).await;
        match looked.map_err(|error| Error::Bug(format!("looking at a topic ended abnormally: {error}")))?? {
            Some(partition) => Err(Error::Recreated { partition }),
            None => Ok(()),
        }
    }

    fn begin(&mut self, candidate: &Candidate, stored: Option<Next>, at: Next) -> Start {
        let source = candidate.source.clone();
        let epoch = self.ownership.lock().unwrap_or_else(PoisonError::into_inner).assign(source.clone());
        let held = self.memory.partition();
        self.watermarks.assign(source.clone(), None, self.began.elapsed());
        if stored != Some(at) {
            // So that a start at the latest record, or behind a gap, is remembered although no record came yet.
            self.buffer.reach(&source, Some(epoch), at);
        }
        info!(partition = %source, at = at.0, behind = candidate.high.0 - at.0, "reading");
        let reading = Reading {
            epoch,
            held: held.clone(),
            next: at,
            target: candidate.high,
            heard: Instant::now(),
            probing: false,
            idle: false,
        };
        self.readings.insert(source.clone(), reading);
        Start { source, epoch, stored, at, held }
    }

    fn placed(&mut self) {
        self.moved = Instant::now();
        self.handle.health.placed(self.readings.len());
        self.handle.note(|summary| summary.rebalances += 1);
    }

    /// Gives partitions up: writes what is held of them, unless they are lost, and only then answers.
    pub(super) async fn revoke(
        &mut self,
        partitions: Vec<SourcePartition>,
        departure: Departure,
        answer: oneshot::Sender<Vec<(SourcePartition, Next)>>,
    ) -> Result<()> {
        self.metrics.rebalance(if departure == Departure::Lost { "lost" } else { "revoked" });
        let mut outcome = Ok(());
        if departure.may_flush() {
            let deadline = self.options.drain_deadline;
            let written = tokio::time::timeout(deadline, self.write_before_leaving(&partitions)).await;
            outcome = written.unwrap_or_else(|_| {
                warn!(?deadline, "could not write before the partitions go; their next owner reads the rest again");
                Ok(())
            });
        }
        outcome = outcome.and(self.release(&partitions).await);
        let stored = self.handle.summary().positions;
        let positions = partitions.iter().filter_map(|source| Some((source.clone(), *stored.get(source)?))).collect();
        self.placed();
        if departure == Departure::Lost {
            self.handle.health.displaced();
        }
        let _ = answer.send(positions);
        outcome
    }

    /// What is in flight comes first: bronze is written in order.
    async fn write_before_leaving(&mut self, partitions: &[SourcePartition]) -> Result<()> {
        self.land().await?;
        let leaving = self.buffer.split_off(|source| partitions.contains(source));
        self.flush_now(leaving, Reason::Revoke).await
    }

    /// Ends the epochs: from here on nothing read under them is published.
    ///
    /// # Errors
    /// When a flight failed or did not end: it carries rows of partitions that stay, too.
    async fn release(&mut self, partitions: &[SourcePartition]) -> Result<()> {
        {
            let mut ownership = self.ownership.lock().unwrap_or_else(PoisonError::into_inner);
            for source in partitions {
                ownership.release(source);
            }
        }
        // A flight checks the epochs before each commit; the answer must not overtake a commit that is being made.
        let deadline = self.options.drain_deadline;
        let landed = tokio::time::timeout(deadline, self.land()).await.unwrap_or_else(|_| {
            warn!(?deadline, "a flush did not end before its partitions went");
            Err(Error::Stopped)
        });
        let dropped = self.buffer.split_off(|source| partitions.contains(source));
        for (source, part) in dropped.parts() {
            if let Some(reading) = self.readings.get(source) {
                reading.held.give_back(part.bytes as u64);
            }
            if part.rows() > 0 {
                self.metrics.dropped("partition_gone", part.rows() as u64);
                info!(partition = %source, rows = part.rows(), "uncommitted rows are left to the partition's next owner");
            }
        }
        for source in partitions {
            self.readings.remove(source);
            self.watermarks.release(source);
        }
        if let Some(signals) = &self.signals {
            signals.release(partitions);
        }
        landed
    }
}
