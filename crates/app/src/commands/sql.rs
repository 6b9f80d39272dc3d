//! `uptake sql`: questions to the tables, one at a time or in a session.

mod complete;
mod describe;
mod repl;
mod show;

use std::io::{IsTerminal, Read, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::Context as _;
use clap::ValueEnum;
use uptake_serve::format::Format;
use uptake_serve::{Options, Session, Statement};

use crate::context::{Context, Usage};
use show::{Ended, Limit};

/// Asks the tables in SQL: a query as an argument, from a file or from standard input; without one, a session.
///
/// Schemas: bronze, silver, gold, control. Nothing is ever written. Time travel: `FROM gold.preference_pairs VERSION AS OF 3`,
/// `… TIMESTAMP AS OF '2026-11-01'`; `history('gold.preference_pairs')` lists versions.
#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    /// The query; several with `;` between them.
    query: Option<String>,

    /// Read the query from a file; `-` for standard input.
    #[arg(short, long, value_name = "FILE", conflicts_with = "query")]
    file: Option<PathBuf>,

    /// How rows are written. `json` is JSON lines: one object a row.
    #[arg(short, long, value_enum, default_value_t = Output::Table)]
    output: Output,

    /// Write the rows to a file, which appears when it is whole.
    #[arg(long, value_name = "FILE")]
    output_file: Option<PathBuf>,

    /// Stop after so many rows, 0 for all. A table on a terminal stops after 200 unless told otherwise; nothing else does.
    #[arg(long, value_name = "N")]
    limit_rows: Option<usize>,
}

/// The formats by the names that people type.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Output {
    /// Columns for people.
    Table,
    /// Comma-separated values with a header; lists as JSON.
    Csv,
    /// JSON lines.
    Json,
    /// Parquet.
    Parquet,
}

impl From<Output> for Format {
    fn from(output: Output) -> Self {
        match output {
            Output::Table => Self::Table,
            Output::Csv => Self::Csv,
            Output::Json => Self::Json,
            Output::Parquet => Self::Parquet,
        }
    }
}

/// Rows of a table that a person sees at once.
const ROWS_ON_A_TERMINAL: usize = 200;

/// Runs the command.
pub(crate) async fn run(arguments: Arguments, context: &Context) -> anyhow::Result<ExitCode> {
    let session = Session::open(context.lake()?, &Options::default())?;
    let Some(text) = text(&arguments)? else {
        if arguments.output_file.is_some() {
            return Err(Usage("--output-file wants a query".to_owned()).into());
        }
        return repl::run(session, arguments.output.into(), limit(&arguments, true)).await;
    };
    let statements = session.parse(&text).map_err(usage)?;
    if statements.is_empty() {
        return Err(
            Usage("there is no statement; write a query, such as `uptake sql \"SHOW TABLES\"`".to_owned()).into()
        );
    }
    one_shot(&session, &statements, &arguments).await
}

/// The query, wherever it stands; nothing when a person is to be asked.
fn text(arguments: &Arguments) -> anyhow::Result<Option<String>> {
    if let Some(query) = &arguments.query {
        return Ok(Some(query.clone()));
    }
    match &arguments.file {
        Some(file) if file != Path::new("-") => {
            let text = std::fs::read_to_string(file)
                .map_err(|error| Usage(format!("read the query in {}: {error}", file.display())))?;
            Ok(Some(text))
        }
        None if std::io::stdin().is_terminal() => Ok(None),
        _ => {
            let mut text = String::new();
            let _ = std::io::stdin().read_to_string(&mut text).context("read the query from standard input")?;
            Ok(Some(text))
        }
    }
}

fn limit(arguments: &Arguments, interactive: bool) -> Limit {
    let default = if interactive && arguments.output == Output::Table { ROWS_ON_A_TERMINAL } else { 0 };
    Limit(arguments.limit_rows.unwrap_or(default))
}

async fn one_shot(session: &Session, statements: &[Statement], arguments: &Arguments) -> anyhow::Result<ExitCode> {
    let format = Format::from(arguments.output);
    let terminal = std::io::stdout().is_terminal() && arguments.output_file.is_none();
    if statements.len() > 1 && format != Format::Table {
        return Err(Usage("one statement at a time where the output is not a table".to_owned()).into());
    }
    if format == Format::Parquet && terminal {
        return Err(Usage("Parquet is nothing for a terminal; name a file with --output-file".to_owned()).into());
    }
    let limit = limit(arguments, terminal);
    let Some(path) = &arguments.output_file else {
        for statement in statements {
            let answer = session.run(statement).await.map_err(usage)?;
            match show::show(answer, format, limit, show::width(), Box::new(std::io::stdout())).await? {
                Ended::Whole(summary) => {
                    if terminal {
                        let mut stderr = std::io::stderr();
                        writeln!(stderr, "{summary}")?;
                    }
                }
                Ended::Cancelled => return Ok(ExitCode::from(4)),
                Ended::NobodyReads => return Ok(ExitCode::SUCCESS),
            }
        }
        return Ok(ExitCode::SUCCESS);
    };
    let directory = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let mut file = tempfile::NamedTempFile::new_in(directory)
        .with_context(|| format!("make a file in {}", directory.display()))?;
    for statement in statements {
        let answer = session.run(statement).await.map_err(usage)?;
        let output = std::io::BufWriter::new(file.as_file_mut().try_clone()?);
        match show::show(answer, format, limit, None, Box::new(output)).await? {
            Ended::Whole(summary) => {
                let mut stderr = std::io::stderr();
                writeln!(stderr, "{}: {summary}", path.display())?;
            }
            Ended::Cancelled | Ended::NobodyReads => return Ok(ExitCode::from(4)),
        }
    }
    let _ = file.persist(path).with_context(|| format!("write {}", path.display()))?;
    Ok(ExitCode::SUCCESS)
}

/// What the user has to change is an error of usage.
fn usage(error: uptake_serve::Error) -> anyhow::Error {
    if error.is_invalid() { Usage(error.to_string()).into() } else { error.into() }
}
