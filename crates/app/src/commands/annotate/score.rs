//! `uptake annotate score`.

use std::io::{self, Write};
use std::path::PathBuf;
use std::process::ExitCode;

use uptake_judge::score::{self, Options, Report};
use uptake_judge::{Rubric, survey};
use uptake_model::labels::Label;

use super::watch::{self, list};
use super::{EndpointArguments, JobArguments, exit_code_of};
use crate::context::Context;

/// Labels follow-ups by a rubric, each label with evidence from the user's own words.
///
/// Out: a line for each follow-up as `uptake train classifier` reads it (`conversation_id`, source, turn, messages, sat,
/// dsat), with the evidence of each label, a rationale, and who annotated. A label whose evidence is no literal passage of
/// the follow-up is asked about once more, and then left out and counted.
///
/// Exit codes: 0 all is annotated, 1 some rows got no answer, 3 bad lines, 4 stopped by a signal, 5 the budget is used up.
#[derive(Debug, clap::Args)]
pub(crate) struct Score {
    #[command(flatten)]
    job: JobArguments,

    /// The rubric; the built-in one when none is named.
    #[arg(long, value_name = "FILE")]
    rubric: Option<PathBuf>,

    /// Annotate no more than the first so many follow-ups.
    #[arg(long, value_name = "N")]
    limit: Option<u64>,

    /// Longest answer in tokens.
    #[arg(long, default_value_t = Options::default().max_tokens, value_name = "N")]
    max_answer_tokens: u32,

    #[command(flatten)]
    endpoint: EndpointArguments,
}

impl Score {
    /// Runs the command.
    pub(super) async fn run(self, context: &Context) -> anyhow::Result<ExitCode> {
        let rubric = match self.rubric.as_deref().map_or_else(Rubric::built_in, Rubric::read) {
            Ok(rubric) => rubric,
            Err(error) => return exit_code_of(error),
        };
        let watched = self.endpoint.watched(context)?;
        let job = self.job.job(self.limit);
        let files = {
            let job = job.clone();
            tokio::task::spawn_blocking(move || survey(&job.inputs, job.bad_lines)).await?
        };
        let files = match files {
            Ok(files) => files,
            Err(error) => return exit_code_of(error),
        };
        for reason in &files.reasons {
            writeln!(io::stderr(), "skipped {reason}")?;
        }
        let total = files.follow_ups.min(self.limit.unwrap_or(u64::MAX));
        let mut teller = watched.teller("score", total);
        let settings = watched.settings();
        let options =
            Options { max_tokens: self.max_answer_tokens, temperature: settings.temperature, seed: settings.seed };
        let work = score::score(&watched.judge, &rubric, options, &job, || teller.row());
        let report = match watched.run(work).await? {
            Ok(report) => report,
            Err(error) => return exit_code_of(error),
        };
        let mut stdout = io::stdout().lock();
        writeln!(
            stdout,
            "{} follow-ups in {} conversations, rubric {}; {} stand there twice",
            files.follow_ups,
            files.conversations,
            rubric.id(),
            files.duplicates
        )?;
        watch::write_rows(&mut stdout, &report.rows)?;
        write_labels(&mut stdout, &report)?;
        watched.write_spent(&mut stdout)?;
        drop(stdout);
        watch::exit(&report.rows, report.ended)
    }
}

fn write_labels(to: &mut impl Write, report: &Report) -> io::Result<()> {
    let Report { rows, labels, sat, dsat, refused, .. } = report;
    let share = |count: u64| if rows.written == 0 { 0.0 } else { 100.0 * count as f64 / rows.written as f64 };
    writeln!(to, "satisfied {sat} ({:.1} %), dissatisfied {dsat} ({:.1} %)", share(*sat), share(*dsat))?;
    let given = Label::ALL.into_iter().zip(labels).filter(|(_, count)| **count > 0);
    let given = list(given.map(|(label, count)| (label.name(), *count)));
    writeln!(to, "labels: {}", if given.is_empty() { "none" } else { &given })?;
    if !refused.is_empty() {
        writeln!(to, "labels refused: {}", list(refused.iter().map(|(fault, count)| (fault.name(), *count))))?;
    }
    Ok(())
}
