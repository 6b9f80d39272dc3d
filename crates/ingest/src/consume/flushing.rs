//! At most one flush in flight while the next buffer fills.

use std::sync::Arc;

use tokio::task::JoinHandle;
use tracing::info;
use uptake_progress::flush::{Buffered, Reason};

use super::service::Consumer;
use crate::bronze::Flushed;
use crate::buffer::Buffer;
use crate::error::{Error, Result};
use crate::kafka::Command;
use crate::memory::Held;

/// A flush on its way into the tables.
pub(super) struct Flight {
    task: JoinHandle<Result<Flushed>>,
    result: Option<Result<Flushed>>,
    /// The accounts to give the bytes back to when it has landed.
    held: Vec<(Held, u64)>,
}

impl Flight {
    /// Resolves when the flight has landed; never when there is none.
    pub(super) async fn landed(flight: Option<&mut Self>) {
        match flight {
            Some(flight) => flight.arrive().await,
            None => std::future::pending().await,
        }
    }

    async fn arrive(&mut self) {
        if self.result.is_none() {
            let joined = (&mut self.task).await;
            self.result =
                Some(joined.unwrap_or_else(|error| Err(Error::Bug(format!("a flush ended abnormally: {error}")))));
        }
    }

    /// Waits for the end and says how it went.
    pub(super) async fn wait(mut self) -> Result<Flushed> {
        self.arrive().await;
        self.result.take().unwrap_or(Err(Error::Stopped))
    }

    /// Gives up waiting; what was not published yet will not be.
    pub(super) fn abort(&self) {
        self.task.abort();
    }
}

impl Drop for Flight {
    fn drop(&mut self) {
        for (held, bytes) in &self.held {
            held.give_back(*bytes);
        }
    }
}

impl Consumer {
    /// Starts a flush if one is due and none is in flight.
    pub(super) fn flush_when_due(&mut self) {
        if self.flight.is_some() || self.buffer.is_empty() {
            return;
        }
        let buffered = Buffered {
            bytes: self.buffer.bytes() as u64,
            rows: self.buffer.rows() as u64,
            oldest: self.buffer.oldest().map(|oldest| oldest.elapsed()),
        };
        // A record that waits outside for room is as good a reason as a full buffer.
        let squeezed = (self.memory.waiting() > 0 && self.buffer.rows() > 0).then_some(Reason::Bytes);
        if let Some(reason) = self.options.flush.due(&buffered).or(squeezed) {
            let buffer = std::mem::take(&mut self.buffer);
            self.flight = Some(self.launch(buffer, reason));
        }
    }

    /// Starts a flush of what is held, if there is anything and none is in flight.
    pub(super) fn flush_at_once(&mut self, reason: Reason) {
        if self.flight.is_none() && !self.buffer.is_empty() {
            let buffer = std::mem::take(&mut self.buffer);
            self.flight = Some(self.launch(buffer, reason));
        }
    }

    fn launch(&self, buffer: Buffer, reason: Reason) -> Flight {
        let held = buffer
            .parts()
            .filter_map(|(source, part)| {
                let reading = self.readings.get(source)?;
                Some((reading.held.clone(), part.bytes as u64))
            })
            .collect();
        tracing::debug!(reason = reason.name(), rows = buffer.rows(), bytes = buffer.bytes(), "flushing");
        let bronze = Arc::clone(&self.bronze);
        let task = tokio::spawn(async move { bronze.lock().await.flush(buffer).await });
        Flight { task, result: None, held }
    }

    /// Waits for the flight, if there is one, and takes in how it went. Cancelling the wait leaves the flight where it is.
    ///
    /// # Errors
    /// The flight's: then nothing more may be written, for its rows were not.
    pub(super) async fn land(&mut self) -> Result<()> {
        if self.flight.is_none() {
            return Ok(());
        }
        Flight::landed(self.flight.as_mut()).await;
        let Some(flight) = self.flight.take() else { return Ok(()) };
        let mut flushed = flight.wait().await?;
        self.tag(&mut flushed);
        self.flushed(&flushed);
        Ok(())
    }

    /// Writes everything that is held, and waits for it.
    pub(super) async fn flush_all(&mut self, reason: Reason) -> Result<()> {
        let buffer = std::mem::take(&mut self.buffer);
        self.flush_now(buffer, reason).await
    }

    /// Writes a buffer and waits for it. No flight may be under way.
    pub(super) async fn flush_now(&mut self, buffer: Buffer, reason: Reason) -> Result<()> {
        if buffer.is_empty() {
            return Ok(());
        }
        self.flight = Some(self.launch(buffer, reason));
        self.land().await
    }

    fn flushed(&mut self, flushed: &Flushed) {
        for source in flushed.positions.keys() {
            if let Some(newest) = self.watermarks.of(source) {
                let disorder = self.options.allowed_disorder.as_secs_f64();
                let now = chrono::Utc::now().timestamp_micros();
                self.metrics.event_time_lag(&source.topic, (now - newest) as f64 / 1e6 - disorder);
            }
        }
        let positions: Vec<_> = flushed
            .positions
            .iter()
            .filter(|(source, _)| self.readings.contains_key(source))
            .map(|(source, next)| (source.clone(), *next))
            .collect();
        self.tell(Command::Commit(positions));
        self.handle.note(|summary| {
            summary.events += flushed.events;
            summary.letters += flushed.letters;
            summary.duplicates += flushed.duplicates;
            summary.tombstones += flushed.tombstones;
            summary.flushes += 1;
            summary.positions.extend(flushed.positions.iter().map(|(source, next)| (source.clone(), *next)));
        });
        info!(
            events = flushed.events,
            letters = flushed.letters,
            duplicates = flushed.duplicates,
            tombstones = flushed.tombstones,
            version = flushed.version,
            "committed"
        );
    }
}
