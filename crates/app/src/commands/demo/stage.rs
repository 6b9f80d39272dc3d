//! One stage of the demo, as people watch it: a bar or spinner on a terminal, one line at its end elsewhere.

use std::io::Write as _;
use std::time::Instant;

use indicatif::ProgressBar;

use crate::progress;

/// A stage that runs.
pub(super) struct Stage {
    bar: ProgressBar,
    name: &'static str,
    started: Instant,
}

impl Stage {
    /// Begins a stage over `total` things of a kind; a spinner where the total is unknown.
    pub(super) fn begin(terminal: bool, name: &'static str, total: Option<usize>, what: &str) -> Self {
        let bar = progress::bar(terminal, total.map(|total| total as u64), what);
        bar.set_message(name);
        Self { bar, name, started: Instant::now() }
    }

    /// How many things are done.
    pub(super) fn set(&self, done: u64) {
        self.bar.set_position(done);
    }

    /// The bar, for whoever draws from another thread.
    pub(super) fn bar(&self) -> ProgressBar {
        self.bar.clone()
    }

    /// Says something while the stage goes on.
    #[expect(clippy::unused_self, reason = "what is said belongs to a stage under way")]
    pub(super) fn note(&self, what: &str) {
        progress::suspended(|| {
            // Where standard error is gone there is nobody to tell.
            let _ = writeln!(std::io::stderr(), "{what}");
        });
    }

    /// Ends the stage with what it did.
    pub(super) fn done(self, what: &str) {
        self.bar.finish_and_clear();
        let line = format!("✓ {:24} {what} ({:.1} s)", self.name, self.started.elapsed().as_secs_f64());
        progress::suspended(|| {
            // Where standard error is gone there is nobody to tell.
            let _ = writeln!(std::io::stderr(), "{line}");
        });
    }
}
