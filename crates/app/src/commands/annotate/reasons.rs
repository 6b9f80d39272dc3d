//! `uptake annotate reasons`.

use std::io::{self, Write as _};
use std::process::ExitCode;

use uptake_judge::reasons::{self, Options, Side};
use uptake_judge::{score, survey};

use super::watch::{self, list};
use super::{EndpointArguments, JobArguments, exit_code_of};
use crate::context::Context;

/// Finds out why users were satisfied or not, from exchanges with reactions or labels.
///
/// An outcome is known from `reactions` on the response (`turn`, kind, value), from `sat` and `dsat` of the follow-up, or from
/// `labels` of turns (`turn`, `sat` 0|1, `dsat` 0|1). Reasons are looked for in the follow-up after the response, and each must
/// quote it.
#[derive(Debug, clap::Args)]
pub(crate) struct Reasons {
    #[command(flatten)]
    job: JobArguments,

    /// Exchanges of each side that are asked about at most.
    #[arg(long, default_value_t = Options::default().per_side, value_name = "N")]
    per_side: usize,

    /// Seed of the draw.
    #[arg(long, default_value_t = 0, value_name = "N")]
    seed: u64,

    /// Kinds of reactions that say satisfied; a rating counts from 4 on.
    #[arg(long, value_delimiter = ',', default_values_t = Options::default().satisfied, value_name = "KINDS")]
    satisfied: Vec<String>,

    /// Kinds of reactions that say dissatisfied; a rating counts up to 2.
    #[arg(long, value_delimiter = ',', default_values_t = Options::default().dissatisfied, value_name = "KINDS")]
    dissatisfied: Vec<String>,

    #[command(flatten)]
    endpoint: EndpointArguments,
}

impl Reasons {
    /// Runs the command.
    pub(super) async fn run(self, context: &Context) -> anyhow::Result<ExitCode> {
        let watched = self.endpoint.watched(context)?;
        let job = self.job.job(None);
        let files = {
            let job = job.clone();
            tokio::task::spawn_blocking(move || survey(&job.inputs, job.bad_lines)).await?
        };
        match files {
            Ok(files) => files.reasons.iter().try_for_each(|reason| writeln!(io::stderr(), "skipped {reason}"))?,
            Err(error) => return exit_code_of(error),
        }
        let settings = watched.settings();
        let options = Options {
            satisfied: self.satisfied.into_iter().collect(),
            dissatisfied: self.dissatisfied.into_iter().collect(),
            per_side: self.per_side,
            seed: self.seed,
            answers: score::Options {
                temperature: settings.temperature,
                seed: settings.seed,
                ..score::Options::default()
            },
        };
        let teller = std::sync::Mutex::new(watched.teller("reasons", 0));
        let locked = || teller.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        let work =
            reasons::reasons(&watched.judge, &options, &job, |wanted| locked().expect(wanted), || locked().row());
        let report = match watched.run(work).await? {
            Ok(report) => report,
            Err(error) => return exit_code_of(error),
        };
        let mut stdout = io::stdout().lock();
        let of = |counts: &std::collections::BTreeMap<Side, u64>, side| counts.get(&side).copied().unwrap_or_default();
        writeln!(
            stdout,
            "known outcomes: {} satisfied, {} dissatisfied; {} follow-ups without one",
            of(&report.known, Side::Sat),
            of(&report.known, Side::Dsat),
            report.unknown
        )?;
        watch::write_rows(&mut stdout, &report.rows)?;
        writeln!(
            stdout,
            "reasons: {} of satisfaction, {} of dissatisfaction",
            of(&report.reasons, Side::Sat),
            of(&report.reasons, Side::Dsat)
        )?;
        if !report.refused.is_empty() {
            let refused = report.refused.iter().map(|(fault, count)| (fault.name(), *count));
            writeln!(stdout, "reasons refused: {}", list(refused))?;
        }
        watched.write_spent(&mut stdout)?;
        drop(stdout);
        watch::exit(&report.rows, report.ended)
    }
}
