//! `uptake score`: rewards for a file of responses.

use std::io::{self, BufRead, Write};
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Context as _;
use indicatif::ProgressBar;
use uptake_train::Error;
use uptake_train::reward::RewardModel;
use uptake_train::reward::lines::{self, BadLines, Event, Form};

use super::tag::{REFUSED, open, whole};
use crate::context::Context;
use crate::progress;

/// Scores responses by a reward model.
///
/// In: JSON lines `{"id", "prompt": [{"role", "content"}, …], "response"}`, plain, gzip'd or zstd. Out: a line
/// `{"id", "score"}` for each, in the order of the input. A head that says a rate (`love`) scores from 0 to 1, its prior
/// corrected; one that compares gives rewards, of which only differences mean something.
#[derive(Debug, clap::Args)]
pub(crate) struct Score {
    /// Responses; `-` for standard input.
    file: PathBuf,

    /// Directory of the model, as `uptake train love` or `uptake train reward` makes it.
    #[arg(long, value_name = "DIR")]
    model: PathBuf,

    /// Where the lines go; standard output when none is named, or `-`. A file appears under this name when it is whole.
    #[arg(short, long, value_name = "FILE")]
    output: Option<PathBuf>,

    /// The head to score by, where the model has several.
    #[arg(long, value_name = "NAME")]
    head: Option<String>,

    /// Write log-odds instead of rates.
    #[arg(long)]
    logit: bool,

    /// Count and report lines that cannot be scored, instead of stopping at the first.
    #[arg(long)]
    skip_bad: bool,
}

impl Score {
    /// Runs the command.
    pub(crate) async fn run(self, context: &Context) -> anyhow::Result<ExitCode> {
        let terminal = context.terminal;
        // Scoring takes processor time and blocks on files: it has no business on an async thread.
        tokio::task::spawn_blocking(move || self.score(terminal)).await?
    }

    fn score(&self, terminal: bool) -> anyhow::Result<ExitCode> {
        let model = RewardModel::open(&self.model)
            .with_context(|| format!("load the reward model in `{}`", self.model.display()))?;
        let head = model.head(self.head.as_deref()).context("choose the head to score by")?;
        let (input, bar) = open(&self.file, terminal)?;
        bar.set_message("score");
        let named = self.output.as_deref().filter(|path| path.as_os_str() != "-");
        let result = match named {
            Some(path) => whole(path, |output| self.stream(&model, head, input, output, &bar)),
            None => self.stream(&model, head, input, &mut io::stdout().lock(), &bar),
        };
        bar.finish_and_clear();
        let mut stderr = io::stderr().lock();
        match result {
            Ok(done) => {
                let name = model.config().heads.get(head).map_or("?", |head| head.name.as_str());
                writeln!(
                    stderr,
                    "{} responses scored by `{name}` of {}; {} lines skipped",
                    done.scored,
                    model.version(),
                    done.skipped
                )?;
                Ok(ExitCode::SUCCESS)
            }
            Err(error) if matches!(error.downcast_ref(), Some(Error::Line { .. })) => {
                writeln!(stderr, "error: {}: {error}", self.file.display())?;
                writeln!(stderr, "  hint: --skip-bad passes over such lines and reports them")?;
                Ok(ExitCode::from(REFUSED))
            }
            Err(error) => Err(error.context(format!("score `{}`", self.file.display()))),
        }
    }

    fn stream(
        &self,
        model: &RewardModel,
        head: usize,
        input: Box<dyn BufRead>,
        output: &mut dyn Write,
        bar: &ProgressBar,
    ) -> anyhow::Result<lines::Progress> {
        let bad_lines = if self.skip_bad { BadLines::Skip } else { BadLines::Stop };
        let form = if self.logit { Form::Logit } else { Form::Value };
        let done = lines::score_lines(model, (head, form), input, output, bad_lines, |event| match event {
            Event::Progress(done) => bar.set_message(format!("score ({} responses)", done.scored)),
            // Where standard error is gone there is nobody to tell; the count at the end stands.
            Event::Skipped(error) => {
                let _ = progress::suspended(|| writeln!(io::stderr(), "skipped {error}"));
            }
        })?;
        Ok(done)
    }
}
