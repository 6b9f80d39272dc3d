//! `uptake snapshot`: gold tables as directories that trainers load.

use std::io::Write;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Subcommand, ValueEnum};
use uptake_lake::Kind;
use uptake_lake::snapshot::{self, Manifest, Outcome, PublishRequest};
use uptake_model::time::parse_day;

use super::tables::print_report;
use crate::context::{Context, Usage};
use crate::progress;

/// Publishes gold tables as plain directories that trainers load unchanged.
#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, Subcommand)]
enum Action {
    /// Writes snapshots/NAME/ID/: train and test files, the same as rendered strings, a card and a manifest.
    Publish(Publish),
    /// Lists what is published.
    List {
        /// How the list is written.
        #[arg(short, long, value_enum, default_value_t = Output::Table)]
        output: Output,
    },
}

/// How reports are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(super) enum Output {
    /// For people.
    Table,
    /// One JSON document.
    Json,
}

#[derive(Debug, clap::Args)]
struct Publish {
    /// A gold table: `preference_pairs`, `unpaired`, `love`, `prompts` or `supervised`.
    name: String,

    /// Only rows that meet this SQL condition, such as `rule_id = 'edit' AND consent = 'granted'`.
    #[arg(long = "where", value_name = "CONDITION")]
    filter: Option<String>,

    /// Leave out rows longer than this, and say how many.
    #[arg(long, value_name = "N")]
    max_tokens: Option<u64>,

    /// Seed of the order of the rows.
    #[arg(long, default_value_t = 17, value_name = "N")]
    seed: u64,

    /// Keep every conversation that began on this day (UTC) or later for testing, beside those chosen by hash.
    /// When absent: the latest days that hold at most a tenth of the rows.
    #[arg(long, value_name = "YYYY-MM-DD")]
    test_from: Option<String>,

    /// Publish an earlier version of the table; see `uptake sql "SELECT * FROM history('gold.NAME')"`.
    #[arg(long, value_name = "N")]
    version: Option<i64>,

    /// Leave a copy in this new directory, every file compared with the manifest: what trainers read when the lake is an
    /// object store.
    #[arg(long, value_name = "DIR")]
    into: Option<PathBuf>,

    /// End with 3 when there are fewer rows to train on: too few to learn from.
    #[arg(long, value_name = "N")]
    min_rows: Option<u64>,

    /// End with 5 when there are more rows to train on: more than the night may take.
    #[arg(long, value_name = "N")]
    max_rows: Option<u64>,

    /// How the report is written; `json` is the manifest.
    #[arg(short, long, value_enum, default_value_t = Output::Table)]
    output: Output,
}

/// Exit code for what a check refuses.
const REFUSED: u8 = 3;
/// Exit code for what a budget stops.
const OVER_BUDGET: u8 = 5;

/// Runs the command.
pub(crate) async fn run(arguments: Arguments, context: &Context) -> anyhow::Result<ExitCode> {
    match arguments.action {
        Action::Publish(publish) => publish.run(context).await,
        Action::List { output } => list(context, output).await,
    }
}

impl Publish {
    async fn run(self, context: &Context) -> anyhow::Result<ExitCode> {
        let lake = context.lake()?;
        let test_from = match &self.test_from {
            Some(text) => {
                Some(parse_day(text).ok_or_else(|| Usage(format!("`{text}` is no day; write it as 2026-11-01")))?)
            }
            None => None,
        };
        let request = PublishRequest {
            table: self.name,
            filter: self.filter,
            max_tokens: self.max_tokens,
            seed: self.seed,
            test_from,
            version: self.version,
            tokenizer: uptake_jobs::TOKENIZER.to_owned(),
        };
        let bar = progress::bar(context.terminal, None, "");
        bar.set_message(format!("publishing {}", request.table));
        let outcome = snapshot::publish(&lake, &request).await;
        bar.finish_and_clear();
        let (manifest, fresh) = match outcome {
            Err(error) if error.kind() == Kind::Invalid => return Err(Usage(error.to_string()).into()),
            Err(error) => return Err(error.into()),
            Ok(Outcome::Published(manifest)) => (manifest, true),
            Ok(Outcome::AlreadyThere(manifest)) => (manifest, false),
            Ok(Outcome::Refused(reason)) => {
                writeln!(std::io::stderr(), "refused: {reason}")?;
                return Ok(ExitCode::from(REFUSED));
            }
            Ok(Outcome::Broken(report)) => {
                let mut stderr = std::io::stderr();
                writeln!(stderr, "refused: what was written breaks rules, so it got no manifest:")?;
                print_report(&mut stderr, &report)?;
                return Ok(ExitCode::from(REFUSED));
            }
        };
        if let Some(code) = bounded(&manifest, self.min_rows, self.max_rows)? {
            return Ok(code);
        }
        if let Some(directory) = &self.into {
            snapshot::fetch(&lake, &manifest, directory).await.map_err(|error| match error.kind() {
                Kind::Invalid => Usage(error.to_string()).into(),
                _ => anyhow::Error::from(error),
            })?;
        }
        let mut stdout = std::io::stdout();
        if self.output == Output::Json {
            writeln!(stdout, "{}", serde_json::to_string_pretty(&manifest)?)?;
            return Ok(ExitCode::SUCCESS);
        }
        let place = location(lake.url().as_str(), &manifest);
        writeln!(stdout, "{} {place}", if fresh { "published" } else { "nothing to do, already published:" })?;
        summary(&mut stdout, &manifest, &place)?;
        Ok(ExitCode::SUCCESS)
    }
}

/// Whether the rows to train on are within their bounds; the exit code where they are not. What was published stays.
fn bounded(manifest: &Manifest, least: Option<u64>, most: Option<u64>) -> anyhow::Result<Option<ExitCode>> {
    let rows = manifest.rows.get("train").copied().unwrap_or_default();
    if let Some(least) = least.filter(|least| rows < *least) {
        writeln!(std::io::stderr(), "refused: {rows} rows to train on, fewer than --min-rows {least}")?;
        return Ok(Some(ExitCode::from(REFUSED)));
    }
    if let Some(most) = most.filter(|most| rows > *most) {
        writeln!(
            std::io::stderr(),
            "error: {rows} rows to train on, more than --max-rows {most}; --where takes fewer"
        )?;
        return Ok(Some(ExitCode::from(OVER_BUDGET)));
    }
    Ok(None)
}

/// Where a snapshot lies, as other programs take it.
fn location(lake: &str, manifest: &Manifest) -> String {
    let root = url::Url::parse(lake)
        .ok()
        .filter(|url| url.scheme() == "file")
        .and_then(|url| url.to_file_path().ok())
        .map_or_else(|| lake.trim_end_matches('/').to_owned(), |path| path.display().to_string());
    format!("{}/snapshots/{}/{}", root.trim_end_matches('/'), manifest.name, manifest.id)
}

fn summary(output: &mut impl Write, manifest: &Manifest, place: &str) -> std::io::Result<()> {
    writeln!(output, "  {} at version {}, {} rows read", manifest.table, manifest.version, manifest.rows_read)?;
    for (split, rows) in &manifest.rows {
        let conversations = manifest.conversations.get(split).unwrap_or(&0);
        writeln!(output, "  {split:6} {rows:8} rows of {conversations} conversations")?;
    }
    for (title, counts) in [("rule", &manifest.rules), ("class", &manifest.classes)] {
        for (name, splits) in counts {
            let count = |split| splits.get(split).copied().unwrap_or(0);
            writeln!(output, "  {title} {name:14} {:8} train {:6} test", count("train"), count("test"))?;
        }
    }
    match &manifest.split.test_from {
        Some(day) => writeln!(output, "  test holds every conversation from {day} on ({})", manifest.split.reason)?,
        None => writeln!(output, "  held out by time: {}", manifest.split.reason)?,
    }
    for (reason, rows) in &manifest.left_out {
        writeln!(output, "  left out: {rows} rows, {reason}")?;
    }
    let lengths = &manifest.lengths;
    writeln!(
        output,
        "  tokens ({}): half up to {}, 99 % up to {}, longest {}",
        manifest.tokenizer, lengths.p50, lengths.p99, lengths.longest
    )?;
    for (limit, rows) in lengths.over.iter().filter(|(_, rows)| **rows > 0) {
        writeln!(output, "  a trainer limited to {limit} tokens would drop or cut {rows} rows")?;
    }
    writeln!(output, "  load it: datasets.load_dataset(\"{place}\")")
}

async fn list(context: &Context, output: Output) -> anyhow::Result<ExitCode> {
    let snapshots = snapshot::list(&context.lake()?).await?;
    let mut stdout = std::io::stdout();
    if output == Output::Json {
        let manifests: Vec<_> = snapshots.iter().filter_map(|snapshot| snapshot.manifest.as_ref()).collect();
        writeln!(stdout, "{}", serde_json::to_string_pretty(&manifests)?)?;
        return Ok(ExitCode::SUCCESS);
    }
    if snapshots.is_empty() {
        writeln!(stdout, "nothing is published; `uptake snapshot publish preference_pairs` does it")?;
    }
    for found in snapshots {
        let text = match &found.manifest {
            Some(manifest) => {
                let rows = |split| manifest.rows.get(split).copied().unwrap_or(0);
                let filter = manifest.filter.as_ref().map(|filter| format!(", where {filter}")).unwrap_or_default();
                format!("version {}, {} train, {} test{filter}", manifest.version, rows("train"), rows("test"))
            }
            None => "broken off; publish it again, or delete it".to_owned(),
        };
        writeln!(stdout, "{:18} {:22} {text}", found.name, found.id)?;
    }
    Ok(ExitCode::SUCCESS)
}
