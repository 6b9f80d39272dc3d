//! `uptake evaluate backtest`: a reward model on the product's own history.

use std::io::{self, Write as _};
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Context as _;
use futures::TryStreamExt as _;
use serde::Deserialize;
use uptake_serve::Session;
use uptake_train::answers::{self, Logged};
use uptake_train::metrics::Estimate;
use uptake_train::reward::{Message, RewardModel};

use crate::columns::columns;
use crate::commands::snapshot::Output;
use crate::context::{Context, Usage};
use crate::progress;

/// Responses that the model reads together.
const TOGETHER: usize = 256;

/// Whether a reward model's mean score of each version of the assistant goes with what people loved of it: RLUF's back-test of
/// the offline evaluator, on the versions in the lake's logs.
///
/// Only responses of conversations that are held out from training (`split = 'test'` in gold.love) are scored. The interval of
/// r is over conversations.
#[derive(Debug, clap::Args)]
pub(crate) struct Backtest {
    /// Directory of the reward model, such as one by `uptake train love`.
    #[arg(long, value_name = "DIR")]
    reward: PathBuf,

    /// The reward model's head to score by, where it has several.
    #[arg(long, value_name = "NAME")]
    head: Option<String>,

    /// Only rows of gold.love that meet this SQL condition.
    #[arg(long = "where", value_name = "CONDITION", default_value = "split = 'test'")]
    filter: String,

    /// Responses of a version that are scored at most, chosen by hash.
    #[arg(long, default_value_t = 500, value_name = "N")]
    most: usize,

    /// Responses below which a version is left out.
    #[arg(long, default_value_t = 20, value_name = "N")]
    least: usize,

    /// Of the resamples of intervals.
    #[arg(long, default_value_t = 1)]
    seed: u64,

    /// How the result is written.
    #[arg(short, long, value_enum, default_value_t = Output::Table)]
    output: Output,
}

/// A row of gold.love.
#[derive(Debug, Deserialize)]
struct Row {
    model: String,
    conversation_id: String,
    prompt: Vec<Message>,
    response: Vec<Message>,
    love: bool,
    weight: f64,
}

impl Backtest {
    /// Runs the command.
    pub(super) async fn run(self, context: &Context) -> anyhow::Result<ExitCode> {
        let rows = self.rows(context).await?;
        if rows.is_empty() {
            let told =
                format!("no rows of gold.love with a model meet `{}`: run `uptake run`, or say --where", self.filter);
            return Err(Usage(told).into());
        }
        let terminal = context.terminal;
        tokio::task::spawn_blocking(move || self.evaluate(&rows, terminal)).await?
    }

    async fn rows(&self, context: &Context) -> anyhow::Result<Vec<Row>> {
        let session = Session::open(context.lake()?, &uptake_serve::Options::default())?;
        let query = format!(
            "SELECT model, conversation_id, prompt, response, love, weight FROM ( \
               SELECT *, row_number() OVER (PARTITION BY model ORDER BY encode(sha256(turn_id), 'hex')) AS place FROM gold.love \
               WHERE model IS NOT NULL AND ({})) WHERE place <= {} ORDER BY model, place",
            self.filter, self.most
        );
        let answer = session.query(&query).await.map_err(|error| {
            if error.is_invalid() { Usage(format!("--where: {error}")).into() } else { anyhow::Error::from(error) }
        })?;
        let batches: Vec<_> = answer.rows.try_collect().await?;
        let mut lines = arrow::json::LineDelimitedWriter::new(Vec::new());
        lines.write_batches(&batches.iter().collect::<Vec<_>>())?;
        lines.finish()?;
        let lines = lines.into_inner();
        serde_json::Deserializer::from_slice(&lines)
            .into_iter::<Row>()
            .map(|row| row.context("read gold.love"))
            .collect()
    }

    fn evaluate(&self, rows: &[Row], terminal: bool) -> anyhow::Result<ExitCode> {
        let model = RewardModel::open(&self.reward)
            .with_context(|| format!("load the reward model in `{}`", self.reward.display()))?;
        let head = model.head(self.head.as_deref()).context("choose the head to score by")?;
        let value = model.config().heads.get(head).context("a head of the reward model")?;
        let bar = progress::bar(terminal, Some(rows.len() as u64), "responses");
        bar.set_message("score");
        let (mut logged, mut empty) = (Vec::new(), 0_usize);
        for part in rows.chunks(TOGETHER) {
            let text = |row: &Row| row.response.first().map(|message| message.content.clone()).unwrap_or_default();
            let texts: Vec<String> = part.iter().map(text).collect();
            let responses: Vec<_> =
                part.iter().zip(&texts).map(|(row, text)| (row.prompt.as_slice(), text.as_str())).collect();
            for (row, logits) in part.iter().zip(model.logits(&responses).context("score the responses")?) {
                let Some(logit) = logits.and_then(|logits| logits.get(head).copied()) else {
                    empty += 1;
                    continue;
                };
                logged.push(Logged {
                    version: row.model.clone(),
                    conversation: row.conversation_id.clone(),
                    score: value.value(logit),
                    loved: row.love,
                    weight: row.weight,
                });
            }
            bar.inc(part.len() as u64);
        }
        bar.finish_and_clear();
        let result = answers::backtest(&logged, self.least, self.seed).context("compare the versions")?;
        let mut stdout = io::stdout().lock();
        if self.output == Output::Json {
            writeln!(stdout, "{}", serde_json::to_string_pretty(&result)?)?;
            return Ok(ExitCode::SUCCESS);
        }
        let mut table = vec![["version", "responses", "mean score", "love rate"].map(str::to_owned).to_vec()];
        for version in &result.versions {
            table.push(vec![
                version.name.clone(),
                version.responses.to_string(),
                format!("{:.4}", version.score),
                format!("{:.2} %", 100.0 * version.love_rate),
            ]);
        }
        stdout.write_all(columns(&table, "").as_bytes())?;
        for (name, count) in &result.left_out {
            writeln!(stdout, "left out: {name}, with {count} responses")?;
        }
        if empty > 0 {
            writeln!(stdout, "left out: {empty} responses without text")?;
        }
        let shown = |estimate: &Option<Estimate>| match estimate {
            Some(each) => format!("{:+.2} ({:+.2} to {:+.2})", each.value, each.low, each.high),
            None => "not to be had: fewer than three versions, or all alike".to_owned(),
        };
        writeln!(stdout, "r over versions: {}; rank correlation: {}", shown(&result.pearson), shown(&result.spearman))?;
        Ok(ExitCode::SUCCESS)
    }
}
