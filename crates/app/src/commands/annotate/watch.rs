//! Whoever watches a judge at work: the bar, signals, and the summary at the end.

use std::future::Future;
use std::io::{self, Write};
use std::process::ExitCode;
use std::sync::Arc;

use anyhow::Context as _;
use indicatif::ProgressBar;
use tokio::signal::unix::{SignalKind, signal};
use uptake_judge::{Error, Judge, Rows};

use crate::progress;
use crate::settings::judge::JudgeSettings;

/// Rows between two lines of the log, where there is no terminal.
const LOGGED: u64 = 100;

/// A judge with somebody who watches it.
#[derive(Debug)]
pub(super) struct Watched {
    pub(super) judge: Arc<Judge>,
    settings: JudgeSettings,
    terminal: bool,
}

/// Moves the bar, or writes to the log.
#[derive(Debug)]
pub(super) struct Teller {
    judge: Arc<Judge>,
    bar: ProgressBar,
    what: &'static str,
    priced: bool,
    terminal: bool,
    rows: u64,
}

impl Teller {
    /// How many rows there will be.
    pub(super) fn expect(&self, total: u64) {
        self.bar.set_length(total);
    }

    /// One more row is done with.
    pub(super) fn row(&mut self) {
        self.rows += 1;
        self.bar.inc(1);
        let (tokens, cost) = (self.judge.budget().spent().total(), self.judge.budget().cost());
        let spent = if self.priced { format!("{tokens} tokens, {cost:.4}") } else { format!("{tokens} tokens") };
        self.bar.set_message(format!("{} ({spent})", self.what));
        if !self.terminal && self.rows.is_multiple_of(LOGGED) {
            tracing::info!(rows = self.rows, tokens, cost, "annotating");
        }
    }
}

impl Watched {
    pub(super) fn new(settings: JudgeSettings, terminal: bool) -> anyhow::Result<Self> {
        Ok(Self { judge: Arc::new(settings.judge()?), settings, terminal })
    }

    pub(super) const fn settings(&self) -> &JudgeSettings {
        &self.settings
    }

    pub(super) fn teller(&self, what: &'static str, total: u64) -> Teller {
        let bar = progress::bar(self.terminal, Some(total), "follow-ups");
        bar.set_message(what);
        let (judge, priced) = (Arc::clone(&self.judge), self.settings.has_prices());
        Teller { judge, bar, what, priced, terminal: self.terminal, rows: 0 }
    }

    /// Runs work that asks: the first signal ends it in order, the second at once.
    pub(super) async fn run<T>(
        &self,
        work: impl Future<Output = Result<T, Error>>,
    ) -> anyhow::Result<Result<T, Error>> {
        let mut terminate = signal(SignalKind::terminate()).context("listen for SIGTERM")?;
        let mut interrupt = signal(SignalKind::interrupt()).context("listen for SIGINT")?;
        let judge = Arc::clone(&self.judge);
        let signals = async move {
            for number in 0..2 {
                tokio::select! {
                    _ = terminate.recv() => {}
                    _ = interrupt.recv() => {}
                }
                judge.stop();
                if number == 0 {
                    let news = "stopping: what is under way is waited for; a second signal ends it at once";
                    // Where standard error is gone there is nobody to tell.
                    let _ = progress::suspended(|| writeln!(io::stderr(), "{news}"));
                }
            }
        };
        Ok(tokio::select! {
            result = work => result,
            () = signals => Err(Error::Stopped),
        })
    }

    /// What was asked and spent.
    pub(super) fn write_spent(&self, to: &mut impl Write) -> io::Result<()> {
        let (tally, budget) = (self.judge.tally(), self.judge.budget());
        let spent = budget.spent();
        writeln!(
            to,
            "{} requests to {}, {} answers from the cache, {} questions put again",
            tally.requests,
            self.judge.model(),
            tally.cache_hits,
            tally.asked_again
        )?;
        if !tally.failed.is_empty() {
            let failed = tally.failed.iter().map(|(reason, count)| (reason.name(), *count));
            writeln!(to, "attempts that failed and were repeated: {}", list(failed))?;
        }
        write!(to, "{} tokens sent and {} received", spent.input, spent.output)?;
        if tally.estimated > 0 {
            write!(to, " (of {} answers the server told no tokens: estimated from above)", tally.estimated)?;
        }
        if self.settings.has_prices() { writeln!(to, ", cost {:.4}", budget.cost()) } else { writeln!(to) }
    }
}

/// What became of the rows, in lines.
pub(super) fn write_rows(to: &mut impl Write, rows: &Rows) -> io::Result<()> {
    let rejected: u64 = rows.rejected.values().sum();
    write!(to, "{} follow-ups annotated", rows.written)?;
    if rows.before > 0 {
        write!(to, ", {} were done before", rows.before)?;
    }
    writeln!(to, ", {rejected} rejected, {} without an answer", rows.left())?;
    if rejected > 0 {
        let counts = rows.rejected.iter().map(|(reason, count)| (reason.name(), *count));
        writeln!(to, "rejected: {}", list(counts))?;
    }
    if rows.bad_lines > 0 {
        writeln!(to, "{} lines are no conversations and were skipped", rows.bad_lines)?;
    }
    Ok(())
}

/// `name 3, other 1`.
pub(super) fn list<'a>(counts: impl Iterator<Item = (&'a str, u64)>) -> String {
    let counts: Vec<String> = counts.map(|(name, count)| format!("{name} {count}")).collect();
    counts.join(", ")
}

/// How the command ends.
pub(super) fn exit(rows: &Rows, ended: Option<Error>) -> anyhow::Result<ExitCode> {
    if let Some(error) = ended {
        return super::exit_code_of(error);
    }
    if rows.left() > 0 {
        let reasons = rows.unanswered.iter().map(|(reason, count)| (reason.name(), *count));
        anyhow::bail!("{} rows got no answer ({}): run it again to ask for them", rows.left(), list(reasons));
    }
    Ok(ExitCode::SUCCESS)
}
