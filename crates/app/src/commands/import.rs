//! `uptake import`: chat logs from files into bronze.

use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Context as _;
use indicatif::ProgressBar;
use serde_json::Value;
use tokio::signal::unix::{SignalKind, signal};
use uptake_ingest::files::{self, Counts, Handle, ImportOptions, Layout, Report};
use uptake_ingest::{Error, ErrorKind};
use uptake_lake::Lake;
use uptake_model::decode::Edge;
use uptake_model::time::{self, DAY_MICROS, Micros};

use crate::context::{Context, Usage};
use crate::{pepper, progress};

/// Imports chat logs from files.
///
/// JSON lines (plain, gzip'd or zstd), one JSON array, or Parquet; what a file is, its content says, not its name. A file
/// that was imported before adds nothing, and an import that was cut off goes on where it was.
#[derive(Debug, clap::Args)]
pub(crate) struct Import {
    /// Files, or directories of files.
    #[arg(required = true, value_name = "FILE")]
    files: Vec<PathBuf>,

    /// Layout of the records: own, openai, wildchat, sharegpt or oasst; told from the first records when not said.
    #[arg(long, value_name = "LAYOUT")]
    format: Option<Layout>,

    /// When conversations began whose file says nothing of times; a day or an RFC 3339 time. Messages are then a second
    /// apart. A fixed day stands in when it is not said.
    #[arg(long, value_name = "TIME", value_parser = start_time)]
    start_time: Option<Micros>,
}

/// Exit code when a file was refused.
const REFUSED: u8 = 3;

/// Exit code when a signal came before everything was read.
const INCOMPLETE: u8 = 4;

/// How often the bar follows the reader.
const BAR_PERIOD: Duration = Duration::from_millis(100);

fn start_time(text: &str) -> Result<Micros, String> {
    let time = match time::parse_day(text) {
        Some(day) => Micros::from(day) * DAY_MICROS,
        None => time::parse(&Value::from(text))?,
    };
    match time::Skew::of(time, now()) {
        None => Ok(time),
        Some(_) => {
            Err("the time must lie between 2015 and now: other days are taken for mistakes of a clock".to_owned())
        }
    }
}

fn now() -> Micros {
    chrono::Utc::now().timestamp_micros()
}

impl Import {
    /// Runs the command.
    pub(crate) async fn run(self, context: &Context) -> anyhow::Result<ExitCode> {
        let lake = context.lake()?;
        let bound = context.settings.ingest.max_record_bytes;
        let edge = Edge {
            pepper: pepper::local(&context.settings)?,
            max_record_bytes: usize::try_from(bound).unwrap_or(usize::MAX),
            pipeline_version: env!("CARGO_PKG_VERSION").to_owned(),
        };
        let mut options = ImportOptions::new(edge, now());
        options.layout = self.format;
        options.fallback_start = self.start_time.unwrap_or(options.fallback_start);
        let mut total = Total::default();
        for path in expand(&self.files)? {
            match one(&lake, &path, &options, context.terminal).await {
                Ok(report) => total.add(&path, &report)?,
                Err(error) if error.kind() == ErrorKind::Stopped => {
                    writeln!(
                        io::stderr(),
                        "stopped in {}: what was read of it is kept; import it again to go on",
                        path.display()
                    )?;
                    return Ok(ExitCode::from(INCOMPLETE));
                }
                Err(error @ (Error::Invalid(_) | Error::File { .. })) => total.refuse(&error)?,
                Err(error) => return Err(error).with_context(|| format!("import {}", path.display())),
            }
        }
        total.finish()
    }
}

/// Imports one file under a bar over its bytes.
async fn one(lake: &Lake, path: &Path, options: &ImportOptions, terminal: bool) -> Result<Report, Error> {
    let handle = Handle::default();
    let bar = progress::bar(terminal, path.metadata().ok().map(|metadata| metadata.len()), "bytes");
    let name = path.file_name().unwrap_or(path.as_os_str()).to_string_lossy().into_owned();
    bar.set_message(name.chars().take(28).collect::<String>());
    let watching = tokio::spawn(watch(handle.clone(), bar.clone()));
    let result = files::import(lake, path, options, &handle).await;
    watching.abort();
    bar.finish_and_clear();
    result
}

/// Moves the bar, and passes on signals.
async fn watch(handle: Handle, bar: ProgressBar) {
    let mut ticks = tokio::time::interval(BAR_PERIOD);
    let mut terminated = signal(SignalKind::terminate()).ok();
    let terminated = async {
        match &mut terminated {
            Some(signal) => signal.recv().await,
            None => std::future::pending().await,
        }
    };
    tokio::pin!(terminated);
    loop {
        tokio::select! {
            _ = ticks.tick() => bar.set_position(handle.bytes_read()),
            _ = tokio::signal::ctrl_c() => handle.stop(),
            _ = &mut terminated => {
                handle.stop();
                return;
            }
        }
    }
}

/// The files of these paths: those of a directory in the order of their names, hidden ones left out.
fn expand(paths: &[PathBuf]) -> anyhow::Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    for path in paths {
        let before = files.len();
        expand_into(path, &mut files)?;
        if files.len() == before {
            return Err(Usage(format!("the directory {} holds no file", path.display())).into());
        }
    }
    Ok(files)
}

fn expand_into(path: &Path, files: &mut Vec<PathBuf>) -> anyhow::Result<()> {
    if !path.is_dir() {
        files.push(path.to_owned());
        return Ok(());
    }
    let list = || format!("list {}", path.display());
    let entries: Result<Vec<_>, _> = std::fs::read_dir(path).with_context(list)?.collect();
    let mut inside: Vec<PathBuf> = entries.with_context(list)?.into_iter().map(|entry| entry.path()).collect();
    inside.sort();
    inside.retain(|path| path.file_name().is_some_and(|name| !name.as_encoded_bytes().starts_with(b".")));
    inside.iter().try_for_each(|path| expand_into(path, files))
}

/// What became of all files.
#[derive(Debug, Default)]
struct Total {
    files: u64,
    refused_files: u64,
    counts: Counts,
    events: u64,
    letters: u64,
}

impl Total {
    fn add(&mut self, path: &Path, report: &Report) -> io::Result<()> {
        self.files += 1;
        self.events += report.events_written;
        self.letters += report.letters_written;
        self.counts.add(&report.counts);
        writeln!(io::stdout(), "{}: {}", path.display(), describe(report))
    }

    fn refuse(&mut self, error: &Error) -> io::Result<()> {
        self.refused_files += 1;
        let mut stderr = io::stderr().lock();
        writeln!(stderr, "refused: {error}")?;
        let mut cause = std::error::Error::source(error);
        while let Some(error) = cause {
            writeln!(stderr, "  because: {error}")?;
            cause = error.source();
        }
        Ok(())
    }

    fn finish(&self) -> anyhow::Result<ExitCode> {
        let Self { files, refused_files, counts, events, letters } = self;
        let mut stdout = io::stdout().lock();
        if *files > 1 && *counts != Counts::default() {
            writeln!(stdout, "in all: {}", words(counts, None))?;
        }
        writeln!(
            stdout,
            "{files} files read, {refused_files} refused: {events} events and {letters} dead letters added"
        )?;
        Ok(if *refused_files == 0 { ExitCode::SUCCESS } else { ExitCode::from(REFUSED) })
    }
}

/// A file's report in words.
fn describe(report: &Report) -> String {
    match report.layout {
        Some(layout) => words(&report.counts, Some(layout)),
        None => format!("already imported as {}, nothing added", report.source.topic),
    }
}

/// What was read, in words.
fn words(counts: &Counts, layout: Option<Layout>) -> String {
    let Counts { records, messages, reactions, completions, duplicates, zero_counts, refused, already_there } = counts;
    let layout = layout.map_or_else(String::new, |layout| format!(" ({layout})"));
    let mut parts = vec![
        format!("{records} conversations{layout}"),
        format!("{messages} messages"),
        format!("{reactions} reactions"),
    ];
    let mut more = |count: u64, what: &str| {
        if count > 0 {
            parts.push(format!("{count} {what}"));
        }
    };
    more(*completions, "completions");
    more(*duplicates, "duplicates dropped");
    more(*zero_counts, "reactions with a count of zero left out");
    more(*already_there, "events were there already");
    if !refused.is_empty() {
        let reasons: Vec<String> = refused.iter().map(|(class, count)| format!("{count} {}", class.name())).collect();
        parts.push(format!("{} refused ({})", counts.all_refused(), reasons.join(", ")));
    }
    parts.join(", ")
}
