//! `uptake generate`: answers of a language model to a file of prompts.

use std::fs::File;
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::Context as _;
use indicatif::ProgressBar;
use uptake_registry::Kind;
use uptake_train::Error;
use uptake_train::generate::{Event, Generator, Options, Output, Sampling, Summary};

use crate::base;
use crate::commands::models;
use crate::commands::tag::open;
use crate::context::Context;
use crate::progress;

/// Answers prompts with a language model, and an adapter where one is named.
///
/// In: JSON lines `{"id", "prompt": [{"role", "content"}, …]}`, plain, gzip'd or zstd. Out, in the order of the input:
/// `{"id", "prompt", "response", "finish_reason": "stop" or "length", "tokens", "sample"}` and what else stood in the line.
///
/// An answer depends on model, prompt, id and options alone, not on what it is computed with. A run that was killed goes on
/// where it was when it is started again, and ends with the same bytes.
#[derive(Debug, clap::Args)]
#[expect(clippy::struct_excessive_bools, reason = "each is a flag of the command line")]
pub(crate) struct Generate {
    /// Prompts; `-` for standard input.
    file: PathBuf,

    /// Where the answers go; `-`, or nothing, for standard output. A file has its name when it is whole, until then it is
    /// called ….part.
    #[arg(short, long, value_name = "FILE")]
    output: Option<PathBuf>,

    /// Directory of the model as Hugging Face lays it out, with tokenizer and chat template, or its name on the hub, such as
    /// `HuggingFaceTB/SmolLM2-135M-Instruct` or `NAME@REVISION`: the Llama layout (`SmolLM2` too), Qwen2, Qwen3.
    #[arg(long, value_name = "DIR|NAME")]
    model: PathBuf,

    /// Directory of an adapter in PEFT's layout, as `uptake train policy` writes it.
    #[arg(long, value_name = "DIR")]
    adapter: Option<PathBuf>,

    /// With the adapter of the policy that is in use, by the registry of the lake; without one where none is.
    #[arg(long, conflicts_with = "adapter")]
    promoted: bool,

    /// Tokens of an answer at most.
    #[arg(long, value_name = "N", default_value_t = defaults().max_new_tokens)]
    max_new_tokens: usize,

    /// How freely tokens are drawn; at 0 the likeliest is taken.
    #[arg(long, value_name = "T", default_value_t = defaults().sampling.temperature)]
    temperature: f64,

    /// Draw from as few of the likeliest tokens as have this probability together.
    #[arg(long, value_name = "P", default_value_t = defaults().sampling.top_p)]
    top_p: f64,

    /// Draw from so many of the likeliest tokens at most; 0 for all.
    #[arg(long, value_name = "K", default_value_t = defaults().sampling.top_k)]
    top_k: usize,

    /// Text that ends an answer, which ends before it; may be given several times.
    #[arg(long, value_name = "TEXT")]
    stop: Vec<String>,

    /// Of all draws.
    #[arg(long, value_name = "N", default_value_t = defaults().sampling.seed)]
    seed: u64,

    /// Answers to each prompt.
    #[arg(long, value_name = "K", default_value_t = defaults().samples)]
    samples: usize,

    /// Write the tokens of each answer, too: `token_ids`.
    #[arg(long)]
    token_ids: bool,

    /// Answers that are computed at once.
    #[arg(long, value_name = "N", default_value_t = defaults().rows)]
    batch: usize,

    /// Tokens that these may come to have together, prompts and answers: what bounds the memory.
    #[arg(long, value_name = "N", default_value_t = defaults().tokens)]
    batch_tokens: usize,

    /// Cut off the start of a prompt that is too long for the model, and count it, instead of refusing it.
    #[arg(long)]
    truncate: bool,

    /// Count and report lines that cannot be answered, instead of stopping at the first.
    #[arg(long)]
    skip_bad: bool,
}

/// Exit code for input that is refused.
const REFUSED: u8 = 3;

/// The library's defaults.
fn defaults() -> Options {
    Options::default()
}

impl Generate {
    /// Runs the command.
    pub(crate) async fn run(mut self, context: &Context) -> anyhow::Result<ExitCode> {
        let terminal = context.terminal;
        self.model = base::find(&self.model, terminal).await?.directory;
        if self.promoted {
            self.adapter = models::production(context, Kind::Policy).await?;
        }
        // It takes processor time and blocks on files: it has no business on an async thread.
        tokio::task::spawn_blocking(move || self.generate(terminal)).await?
    }

    fn options(&self) -> Options {
        Options {
            model: self.model.clone(),
            adapter: self.adapter.clone(),
            sampling: Sampling { temperature: self.temperature, top_p: self.top_p, top_k: self.top_k, seed: self.seed },
            max_new_tokens: self.max_new_tokens,
            stop: self.stop.clone(),
            samples: self.samples,
            truncate: self.truncate,
            skip_bad: self.skip_bad,
            token_ids: self.token_ids,
            rows: self.batch,
            tokens: self.batch_tokens,
        }
    }

    fn generate(&self, terminal: bool) -> anyhow::Result<ExitCode> {
        let generator = Generator::load(&self.options())
            .with_context(|| format!("load the model in `{}`", self.model.display()))?;
        let result = self.answer(&generator, terminal);
        let mut stderr = io::stderr().lock();
        match result {
            Ok(summary) => {
                writeln!(
                    stderr,
                    "{} answers, {} of them written before; {} tokens in {:.1} s ({:.1} a second); {} of these answers \
                     ended by themselves; {} prompts cut, {} lines skipped",
                    summary.answers,
                    summary.before,
                    summary.tokens,
                    summary.seconds,
                    pace(&summary),
                    summary.stopped,
                    summary.truncated,
                    summary.skipped
                )?;
                Ok(ExitCode::SUCCESS)
            }
            Err(error) if matches!(error.downcast_ref(), Some(Error::Data { .. })) => {
                writeln!(stderr, "error: {error}")?;
                writeln!(
                    stderr,
                    "  hint: --truncate cuts prompts that are too long, --skip-bad passes over such lines"
                )?;
                Ok(ExitCode::from(REFUSED))
            }
            Err(error) => Err(error.context(format!("answer `{}`", self.file.display()))),
        }
    }

    fn answer(&self, generator: &Generator, terminal: bool) -> anyhow::Result<Summary> {
        let stream = Path::new("-");
        let bar = if self.file.is_file() {
            // A second look at a file is cheap beside the answers.
            let survey = generator.survey(&mut open(&self.file, false)?.0, &self.file)?;
            tracing::info!(
                prompts = survey.prompts,
                tokens = survey.tokens,
                truncated = survey.truncated,
                skipped = survey.skipped,
                seed = self.seed,
                "prompts read"
            );
            progress::bar(terminal, Some(survey.prompts * self.samples as u64), "answers")
        } else {
            progress::bar(terminal, None, "answers")
        };
        bar.set_message("generate");
        let (mut input, _) = open(&self.file, false)?;
        let name = if self.file == stream { Path::new("standard input") } else { &self.file };
        let mut stdout = io::stdout().lock();
        let mut device;
        let output = match self.output.as_deref().filter(|path| *path != stream) {
            // A pipe or device has no name to come to, and cannot be continued.
            Some(path) if path.metadata().is_ok_and(|metadata| !metadata.is_file()) => {
                device = File::create(path).with_context(|| format!("write `{}`", path.display()))?;
                Output::Stream(&mut device)
            }
            Some(path) => Output::File(path),
            None => Output::Stream(&mut stdout),
        };
        let summary = generator.run(&mut input, name, output, &mut |event| tell(&bar, event));
        bar.finish_and_clear();
        Ok(summary?)
    }
}

/// Tokens of whole answers a second.
fn pace(summary: &Summary) -> f64 {
    summary.tokens as f64 / summary.seconds.max(1e-9)
}

fn tell(bar: &ProgressBar, event: &Event<'_>) {
    match event {
        Event::Step(summary) => {
            bar.set_position(summary.answers);
            bar.set_message(format!("{} under way, {:.0} tokens/s", summary.running, pace(summary)));
        }
        // Where standard error is gone there is nobody to tell; the count at the end stands.
        Event::Skipped(error) => {
            let _ = progress::suspended(|| writeln!(io::stderr(), "skipped {error}"));
        }
    }
}
