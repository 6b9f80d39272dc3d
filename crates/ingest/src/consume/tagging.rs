//! Live signals beside the loop: what is stored goes to the tagging thread, and nothing here waits for it.

use std::time::Instant;

use tracing::warn;
use uptake_progress::flush::Reason;

use super::service::Consumer;
use crate::bronze::Flushed;
use crate::error::{Error, Result};

impl Consumer {
    /// Hands on what is stored now, to be tagged.
    pub(super) fn tag(&self, flushed: &mut Flushed) {
        let Some(signals) = &self.signals else { return };
        for (source, next) in &flushed.positions {
            signals.put(source, *next, flushed.told.remove(source).unwrap_or_default());
        }
    }

    /// Says how much waits to be tagged.
    ///
    /// # Errors
    /// When nobody tags any more: a fault of ours, which must not go on unseen.
    pub(super) fn watch_signals(&self) -> Result<()> {
        let Some(signals) = &self.signals else { return Ok(()) };
        self.metrics.signals_waiting(signals.waiting());
        if signals.has_ended() {
            return Err(Error::Bug("the tagging thread ended by itself".to_owned()));
        }
        Ok(())
    }

    /// Whether all that was read is written, and its signals are published: a bounded read waits for them.
    pub(super) fn told_all(&mut self) -> bool {
        if self.signals.is_none() {
            return true;
        }
        // What is held lands while the loop goes on.
        self.flush_at_once(Reason::Shutdown);
        self.flight.is_none() && self.signals.as_ref().is_none_or(|signals| signals.waiting() == 0)
    }

    /// Publishes the signals of what is written, as far as the deadline allows, and writes down how far that is.
    pub(super) async fn finish_signals(&mut self, began: Instant) -> Result<()> {
        let Some(signals) = &self.signals else { return Ok(()) };
        // A quarter of the deadline is kept to write it down.
        let patience = (self.options.drain_deadline.mul_f64(0.75)).saturating_sub(began.elapsed());
        let _ = tokio::time::timeout(patience, signals.emptied()).await;
        let left = signals.waiting();
        if left > 0 {
            warn!(
                records = left,
                "the signals of these records are left to the next start, which finds them in the tables"
            );
        }
        self.bronze.lock().await.note_signals().await
    }
}
