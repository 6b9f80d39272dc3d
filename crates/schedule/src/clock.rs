//! What time it is.

use std::fmt;
use std::time::Duration;

use async_trait::async_trait;

use crate::Millis;

/// A clock: that of the machine, or one that a test moves.
#[async_trait]
pub trait Clock: fmt::Debug + Send + Sync {
    /// What time it is.
    fn now(&self) -> Millis;

    /// Waits until then; at once where that is past.
    async fn wait_until(&self, time: Millis);
}

/// The clock of the machine.
#[derive(Debug, Clone, Copy, Default)]
pub struct SystemClock;

#[async_trait]
impl Clock for SystemClock {
    fn now(&self) -> Millis {
        chrono::Utc::now().timestamp_millis()
    }

    async fn wait_until(&self, time: Millis) {
        let left = time.saturating_sub(self.now());
        tokio::time::sleep(Duration::from_millis(u64::try_from(left).unwrap_or_default())).await;
    }
}

/// A duration in milliseconds.
pub(crate) fn millis(duration: Duration) -> Millis {
    Millis::try_from(duration.as_millis()).unwrap_or(Millis::MAX)
}

/// A time as people and file names have it, in UTC.
pub(crate) fn time_text(time: Millis, format: &str) -> String {
    chrono::DateTime::from_timestamp_millis(time).unwrap_or_default().format(format).to_string()
}
