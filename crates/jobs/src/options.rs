//! What a run is told.

use std::fmt;
use std::sync::Arc;

use uptake_model::time::Micros;

use crate::report::Progress;
use crate::tag::Tag;

/// What a run is told.
#[derive(Clone)]
pub struct RunOptions {
    /// Id of the run.
    pub run_id: String,
    /// The clock.
    pub now: Micros,
    /// Time up to which events are known to be complete; taken from the lake when absent.
    pub watermark: Option<Micros>,
    /// Build every day anew.
    pub full_rebuild: bool,
    /// Days built at a time: the bound on memory.
    pub days_per_group: usize,
    /// A tagger on trial, for the pipelines that say `tagger = "shadow"`; without one they do not run.
    pub shadow: Option<Arc<dyn Tag>>,
    /// Told where the run stands.
    pub progress: Arc<dyn Fn(Progress) + Send + Sync>,
}

impl RunOptions {
    /// Options with nobody watching.
    pub fn new(run_id: impl Into<String>, now: Micros) -> Self {
        Self {
            run_id: run_id.into(),
            now,
            watermark: None,
            full_rebuild: false,
            days_per_group: 16,
            shadow: None,
            progress: Arc::new(|_| ()),
        }
    }
}

impl fmt::Debug for RunOptions {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("RunOptions")
            .field("run_id", &self.run_id)
            .field("now", &self.now)
            .field("watermark", &self.watermark)
            .field("full_rebuild", &self.full_rebuild)
            .field("days_per_group", &self.days_per_group)
            .field("shadow", &self.shadow)
            .finish_non_exhaustive()
    }
}
