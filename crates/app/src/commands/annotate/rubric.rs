//! `uptake annotate rubric`.

use std::fs::OpenOptions;
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::Context as _;
use uptake_judge::summary::{self, Options, Summary};
use uptake_judge::{Rubric as Guide, score};

use super::watch::list;
use super::{EndpointArguments, exit_code_of};
use crate::context::{Context, Usage};

/// Makes a rubric of reasons, a file to read and edit; without reasons, writes the built-in one.
///
/// The 18 labels and their definitions stay; each gets criteria: how it shows in this product. Reasons that fit no label stand
/// as comments at the end of the file. Read it before it is used.
#[derive(Debug, clap::Args)]
pub(crate) struct Rubric {
    /// Files that `annotate reasons` wrote.
    #[arg(value_name = "REASONS")]
    reasons: Vec<PathBuf>,

    /// The new file.
    #[arg(short, long, value_name = "FILE")]
    output: PathBuf,

    /// The rubric whose definitions and rules are kept; the built-in one when none is named.
    #[arg(long, value_name = "FILE")]
    base: Option<PathBuf>,

    /// Write over a file that is there.
    #[arg(long)]
    force: bool,

    /// Reasons that a label must have before criteria are made for it.
    #[arg(long, default_value_t = Options::default().least_reasons, value_name = "N")]
    least_reasons: usize,

    /// Criteria of a label at most.
    #[arg(long, default_value_t = Options::default().most_criteria, value_name = "N")]
    most_criteria: usize,

    #[command(flatten)]
    endpoint: EndpointArguments,
}

impl Rubric {
    /// Runs the command.
    pub(super) async fn run(self, context: &Context) -> anyhow::Result<ExitCode> {
        if self.output.exists() && !self.force {
            let output = self.output.display();
            return Err(
                Usage(format!("`{output}` is there, and somebody may have edited it: --force writes over it")).into()
            );
        }
        let base = match self.base.as_deref().map_or_else(Guide::built_in, Guide::read) {
            Ok(base) => base,
            Err(error) => return exit_code_of(error),
        };
        if self.reasons.is_empty() {
            let text = if self.base.is_some() {
                base.with_criteria(&std::collections::BTreeMap::new(), &[])
            } else {
                Guide::built_in_text().to_owned()
            };
            write(&self.output, &text, self.force)?;
            writeln!(io::stdout(), "the rubric {} is in {}", base.id(), self.output.display())?;
            return Ok(ExitCode::SUCCESS);
        }
        let watched = self.endpoint.watched(context)?;
        let settings = watched.settings();
        let defaults = Options::default();
        let options = Options {
            inputs: self.reasons,
            least_reasons: self.least_reasons,
            most_criteria: self.most_criteria,
            answers: score::Options { temperature: settings.temperature, seed: settings.seed, ..defaults.answers },
        };
        let made = watched.run(summary::summarise(&watched.judge, &base, &options)).await?;
        let mut stdout = io::stdout().lock();
        let Summary { text, reasons, assigned, unassigned, criteria, refused } = match made {
            Ok(summary) => summary,
            Err(error) => {
                watched.write_spent(&mut stdout)?;
                return exit_code_of(error);
            }
        };
        write(&self.output, &text, self.force)?;
        writeln!(
            stdout,
            "{criteria} criteria made of {reasons} reasons, {refused} refused; {unassigned} reasons fit no label"
        )?;
        writeln!(stdout, "reasons: {}", list(assigned.iter().map(|(label, count)| (label.name(), *count))))?;
        watched.write_spent(&mut stdout)?;
        writeln!(stdout, "read and edit {} before it is used", self.output.display())?;
        Ok(ExitCode::SUCCESS)
    }
}

fn write(path: &Path, text: &str, force: bool) -> anyhow::Result<()> {
    let mut options = OpenOptions::new();
    let options = options.write(true).create(true).truncate(true).create_new(!force);
    let failed = || format!("write `{}`", path.display());
    let mut file = options.open(path).with_context(failed)?;
    file.write_all(text.as_bytes()).with_context(failed)
}
