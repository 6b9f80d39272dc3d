//! Where a running command says whether it lives and is ready.
//!
//! *Live* means that its loop turned lately: who is not live gets restarted. *Ready* means that it does its work, or has
//! none by right (a consumer with more members than partitions). Lag is a metric, never a probe.

use std::fmt::{self, Write as _};
use std::sync::{Arc, Mutex, PoisonError};

/// What a probe finds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Finding {
    /// Whether all is well.
    pub(crate) well: bool,
    /// One sentence for whoever looks.
    pub(crate) detail: String,
}

impl Finding {
    /// A finding.
    pub(crate) fn new(well: bool, detail: impl Into<String>) -> Self {
        Self { well, detail: detail.into() }
    }
}

/// Asked on every request; must answer at once.
type Probe = Box<dyn Fn() -> Finding + Send>;

struct Part {
    name: &'static str,
    live: Probe,
    ready: Probe,
}

/// The parts of this process that can be asked. Clones share their parts.
#[derive(Clone, Default)]
pub(crate) struct Health(Arc<Mutex<Vec<Part>>>);

impl fmt::Debug for Health {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names: Vec<_> = self.parts().iter().map(|part| part.name).collect();
        formatter.debug_tuple("Health").field(&names).finish()
    }
}

impl Health {
    fn parts(&self) -> std::sync::MutexGuard<'_, Vec<Part>> {
        // A probe that panicked leaves the list as it was.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Adds a part, in place of one of the same name.
    pub(crate) fn register(
        &self,
        name: &'static str,
        live: impl Fn() -> Finding + Send + 'static,
        ready: impl Fn() -> Finding + Send + 'static,
    ) {
        let mut parts = self.parts();
        parts.retain(|part| part.name != name);
        parts.push(Part { name, live: Box::new(live), ready: Box::new(ready) });
    }

    /// Whether every part lives. A process without parts lives: it is starting, or a command that runs once.
    pub(crate) fn live(&self) -> (bool, String) {
        report(self.parts().iter().map(|part| (part.name, (part.live)())), true)
    }

    /// Whether every part is ready. A process without parts is not: nothing serves yet.
    pub(crate) fn ready(&self) -> (bool, String) {
        report(self.parts().iter().map(|part| (part.name, (part.ready)())), false)
    }
}

/// One line a part; well when all are, `when_none` when there is none.
fn report(findings: impl Iterator<Item = (&'static str, Finding)>, when_none: bool) -> (bool, String) {
    let mut all = true;
    let mut text = String::new();
    for (name, finding) in findings {
        all &= finding.well;
        let word = if finding.well { "ok" } else { "failing" };
        let _ = writeln!(text, "{word} {name}: {}", finding.detail);
    }
    if text.is_empty() {
        return (when_none, "starting\n".to_owned());
    }
    (all, text)
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicBool, Ordering};

    use super::*;

    #[test]
    fn without_parts_a_process_lives_and_is_not_ready() {
        let health = Health::default();
        assert!(health.live().0);
        assert!(!health.ready().0);
    }

    #[test]
    fn one_failing_part_fails_the_whole_and_is_named() {
        let health = Health::default();
        let assigned = Arc::new(AtomicBool::new(false));
        let seen = Arc::clone(&assigned);
        health.register(
            "consume",
            || Finding::new(true, "turned 1 s ago"),
            move || Finding::new(seen.load(Ordering::Relaxed), "assignment"),
        );
        health.register("other", || Finding::new(true, "fine"), || Finding::new(true, "fine"));
        assert!(health.live().0);
        assert_eq!(health.ready(), (false, "failing consume: assignment\nok other: fine\n".to_owned()));
        assigned.store(true, Ordering::Relaxed);
        assert!(health.ready().0);
    }

    #[test]
    fn registering_again_replaces() {
        let health = Health::default();
        health.register("consume", || Finding::new(false, "old"), || Finding::new(false, "old"));
        health.register("consume", || Finding::new(true, "new"), || Finding::new(true, "new"));
        assert_eq!(health.live(), (true, "ok consume: new\n".to_owned()));
    }
}
