//! `uptake annotate`: labels by a language model, and how far annotators agree.

mod agreement;
mod reasons;
mod rubric;
mod score;
mod watch;

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, Subcommand};
use uptake_judge::{BadLines, Error, Job};

use crate::commands::annotate::watch::Watched;
use crate::context::Context;
use crate::settings::judge::{JudgeSettings, usage};

/// Exit code for input that is refused.
const REFUSED: u8 = 3;
/// Exit code when a signal came before everything was asked.
const INCOMPLETE: u8 = 4;
/// Exit code when the budget was used up before everything was asked.
const BUDGET: u8 = 5;

/// Annotates follow-ups with a language model behind an OpenAI-compatible endpoint.
///
/// Three stages, each with a file that the next one reads: reasons behind known outcomes, a rubric made of them, labels by
/// that rubric. The labels are what `uptake train classifier` reads. `score` also works at once, with the built-in rubric.
///
/// The API key comes from the environment variable `UPTAKE_JUDGE_API_KEY`, or the one that `api_key_variable` under [judge]
/// names. Whatever is asked about goes to the endpoint: choose one that may see your users' words. With `--endpoint local:DIR`
/// a language model in a directory of this machine answers, and nothing is sent out.
#[derive(Debug, Subcommand)]
pub(crate) enum Annotate {
    Reasons(reasons::Reasons),
    Rubric(rubric::Rubric),
    Score(score::Score),
    Agreement(agreement::Agreement),
}

/// Which model is asked, and what that may cost. Each wins over the setting of the same name under [judge].
#[derive(Debug, Args)]
pub(crate) struct EndpointArguments {
    /// Address of a server that speaks OpenAI's chat completions, for example <https://api.example.com/v1>; or `local:DIR`, a
    /// directory with a language model as Hugging Face lays it out (the Llama layout, Qwen2, Qwen3), which answers on this
    /// machine. Its answers are held to the asked JSON by what it may write.
    #[arg(long, value_name = "URL")]
    endpoint: Option<String>,

    /// The model's name there; of a local model, what its answers are signed with beside a hash of its files.
    #[arg(long, value_name = "NAME")]
    model: Option<String>,

    /// Tokens, sent and received, that this call may spend.
    #[arg(long, value_name = "N")]
    budget_tokens: Option<u64>,

    /// Money that this call may spend, by `price_input` and `price_output` (per million tokens) under [judge].
    #[arg(long, value_name = "AMOUNT")]
    budget_money: Option<f64>,

    /// Requests in flight at once; a local model answers so many together.
    #[arg(long, value_name = "N")]
    concurrency: Option<usize>,

    /// Directory of answers that are known already.
    #[arg(long, value_name = "DIR")]
    cache: Option<PathBuf>,
}

impl EndpointArguments {
    /// The settings with these arguments over them.
    fn over(&self, settings: &JudgeSettings) -> JudgeSettings {
        let mut settings = settings.clone();
        settings.endpoint = self.endpoint.clone().or(settings.endpoint);
        settings.model = self.model.clone().or(settings.model);
        settings.budget_tokens = self.budget_tokens.or(settings.budget_tokens);
        settings.budget_money = self.budget_money.or(settings.budget_money);
        settings.concurrency = self.concurrency.unwrap_or(settings.concurrency);
        settings.cache = self.cache.clone().or(settings.cache);
        settings
    }

    /// A judge, and somebody who watches it.
    fn watched(&self, context: &Context) -> anyhow::Result<Watched> {
        Watched::new(self.over(&context.settings.judge), context.terminal)
    }
}

/// What is annotated, and where that goes.
#[derive(Debug, Args)]
pub(crate) struct JobArguments {
    /// Conversations: JSON lines `{"conversation_id", "messages": [{"role", "content"}, …]}`, plain, gzip'd or zstd. With
    /// `turn`, only the follow-up with that index is meant.
    #[arg(required = true, value_name = "FILE")]
    files: Vec<PathBuf>,

    /// Where the lines go. They are appended in the order of the input: a run that was ended goes on where it was. Rows that
    /// cannot be annotated go to a file beside it (`….rejected.jsonl`) with their reason.
    #[arg(short, long, value_name = "FILE")]
    output: PathBuf,

    /// Count and report lines that are no conversation, instead of stopping at the first.
    #[arg(long)]
    skip_bad: bool,

    /// Ask once more about rows that an earlier run rejected.
    #[arg(long)]
    retry_rejected: bool,
}

impl JobArguments {
    fn job(&self, limit: Option<u64>) -> Job {
        Job {
            inputs: self.files.clone(),
            output: self.output.clone(),
            bad_lines: if self.skip_bad { BadLines::Skip } else { BadLines::Stop },
            retry_rejected: self.retry_rejected,
            limit,
        }
    }
}

impl Annotate {
    /// Runs the command.
    pub(crate) async fn run(self, context: &Context) -> anyhow::Result<ExitCode> {
        match self {
            Self::Reasons(command) => command.run(context).await,
            Self::Rubric(command) => command.run(context).await,
            Self::Score(command) => command.run(context).await,
            Self::Agreement(command) => command.run().await,
        }
    }
}

/// What an error before or at the end of a run means for whoever called: some are answers, not failures.
fn exit_code_of(error: Error) -> anyhow::Result<ExitCode> {
    use std::io::Write as _;

    let code = match &error {
        Error::Data { .. } => REFUSED,
        Error::Stopped => INCOMPLETE,
        Error::Budget(_) => BUDGET,
        _ => return Err(usage(error)),
    };
    let mut stderr = std::io::stderr().lock();
    writeln!(stderr, "error: {error}")?;
    if code == REFUSED {
        writeln!(stderr, "  hint: --skip-bad passes over such lines and reports them")?;
    }
    Ok(ExitCode::from(code))
}
