//! The `uptake` binary: settings, wiring, telemetry and the subcommands.
//!
//! Exit codes: 0 done · 1 failed · 2 wrong usage or settings · 3 refused by a check (bad build, bad directory, bad lines) ·
//! 4 stopped by a signal before the work was complete ·
//! 5 stopped by a budget before the work was complete.

mod base;
mod columns;
mod commands;
mod context;
mod local_judge;
mod pepper;
mod progress;
mod settings;
mod telemetry;

use std::io::Write as _;
use std::process::ExitCode;

use clap::Parser;
use tracing::Instrument as _;

use crate::commands::Command;
use crate::context::Context;

/// Reads what users think of an assistant's answers out of the chat logs, and turns it into preference tables.
#[derive(Debug, Parser)]
#[command(name = "uptake", version, about, max_term_width = 110)]
struct Cli {
    /// Root of all tables: a directory, or `s3://bucket/prefix`.
    #[arg(long, global = true, env = "UPTAKE_LAKE", value_name = "URL")]
    lake: Option<String>,

    /// Settings file; `uptake.toml` in this directory is read when it is there.
    #[arg(long, global = true, env = "UPTAKE_CONFIG", value_name = "FILE")]
    config: Option<std::path::PathBuf>,

    #[command(subcommand)]
    command: Command,
}

fn main() -> ExitCode {
    let cli = Cli::parse();
    match start(cli) {
        Ok(code) => code,
        Err(error) if context::reader_left(&error) => ExitCode::SUCCESS,
        Err(error) => {
            // The one place where an error reaches a person: the whole chain of causes in one line each.
            let mut stderr = std::io::stderr().lock();
            let mut told = error.to_string();
            let _ = writeln!(stderr, "error: {told}");
            for cause in error.chain().skip(1).map(ToString::to_string) {
                // Libraries often say what their cause says again.
                if !told.contains(&cause) {
                    let _ = writeln!(stderr, "  because: {cause}");
                    told = cause;
                }
            }
            ExitCode::from(context::exit_code_of(&error))
        }
    }
}

fn start(cli: Cli) -> anyhow::Result<ExitCode> {
    let config = settings::file(cli.config);
    let settings = settings::Settings::load(config.as_deref(), cli.lake)?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        // Query planning recurses deeply, more so in an unoptimised build.
        .thread_stack_size(16 << 20)
        .build()?;
    // Whoever asks what is wrong with the settings wants all of it, not the first thing that does not start.
    let asks_for_faults = matches!(cli.command, Command::Config(_));
    let watched = if asks_for_faults { settings::TelemetrySettings::default() } else { settings.telemetry.clone() };
    let mut watched = watched;
    if matches!(cli.command, Command::Demo(_)) {
        // The demo tells its stages itself; news of the parts in between would only be in the way.
        let _ = watched.log.get_or_insert_with(|| "warn".to_owned());
    }
    let telemetry = telemetry::Telemetry::start(&watched, &runtime)?;
    let context = Context::new(settings, config, telemetry.health());
    // The command runs on a worker of the runtime, whose stack is known, not on the main thread.
    let code = runtime.block_on(async {
        let span = cli.command.span();
        tokio::spawn(async move { cli.command.run(&context).instrument(span).await })
            .await
            .map_err(|error| anyhow::anyhow!("the command ended abnormally: {error}"))?
    });
    telemetry.stop();
    code
}
