//! Who hears how runs end.

use std::sync::Arc;

use crate::Millis;
use crate::store::{Run, RunState};

/// What hears of every run that has ended, with the seconds since it first started.
type Hearer = dyn Fn(&Run, RunState, f64) + Send + Sync;

/// Told of every run that has ended, was put back for another try, or was missed: for metrics.
#[derive(Clone, Default)]
pub struct Observer(Option<Arc<Hearer>>);

impl Observer {
    /// Tells this.
    pub fn new(hear: impl Fn(&Run, RunState, f64) + Send + Sync + 'static) -> Self {
        Self(Some(Arc::new(hear)))
    }

    pub(crate) fn tell(&self, run: &Run, state: RunState, now: Millis) {
        if let Some(hear) = &self.0 {
            let began = run.started_at.unwrap_or(now);
            hear(run, state, now.saturating_sub(began) as f64 / 1_000.0);
        }
    }
}

impl std::fmt::Debug for Observer {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_tuple("Observer").field(&self.0.is_some()).finish()
    }
}
