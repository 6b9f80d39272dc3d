//! The subcommands, one module each.

mod annotate;
mod config;
mod consume;
mod demo;
mod evaluate;
mod generate;
mod import;
mod models;
mod run;
mod runs;
mod schedule;
mod score;
mod snapshot;
mod sql;
mod tables;
mod tag;
mod train;

use std::process::ExitCode;

use clap::Subcommand;

use crate::context::Context;

/// What `uptake` can do.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    #[command(subcommand)]
    Annotate(annotate::Annotate),
    Config(config::Config),
    Consume(consume::Consume),
    Demo(demo::Demo),
    #[command(subcommand)]
    Evaluate(evaluate::Evaluate),
    Generate(generate::Generate),
    Import(import::Import),
    Models(models::Arguments),
    Run(run::Run),
    Runs(runs::Arguments),
    Schedule(schedule::Schedule),
    Score(score::Score),
    Snapshot(snapshot::Arguments),
    Sql(sql::Arguments),
    Tables(tables::Arguments),
    Tag(tag::Tag),
    #[command(subcommand)]
    Train(train::Train),
}

impl Command {
    /// The span around a command that runs once. A consumer runs for ever: there each flush is a trace of its own. So does the
    /// scheduler: there each run is.
    pub(crate) fn span(&self) -> tracing::Span {
        if matches!(self, Self::Consume(_) | Self::Schedule(_)) {
            return tracing::Span::none();
        }
        let shown = format!("{self:?}");
        let name = shown.split('(').next().unwrap_or_default().to_lowercase();
        tracing::info_span!("command", otel.name = format!("uptake {name}"), command = name)
    }

    /// Runs the command.
    pub(crate) async fn run(self, context: &Context) -> anyhow::Result<ExitCode> {
        match self {
            Self::Annotate(command) => Box::pin(command.run(context)).await,
            Self::Config(command) => command.run(context).await,
            Self::Consume(command) => command.run(context).await,
            Self::Demo(command) => Box::pin(command.run(context)).await,
            Self::Evaluate(command) => command.run(context).await,
            Self::Generate(command) => command.run(context).await,
            Self::Import(command) => command.run(context).await,
            Self::Models(arguments) => Box::pin(models::run(arguments, context)).await,
            Self::Run(command) => command.run(context).await,
            Self::Runs(arguments) => Box::pin(runs::run(arguments, context)).await,
            Self::Schedule(command) => Box::pin(command.run(context)).await,
            Self::Score(command) => command.run(context).await,
            Self::Snapshot(arguments) => snapshot::run(arguments, context).await,
            Self::Sql(arguments) => sql::run(arguments, context).await,
            Self::Tables(arguments) => tables::run(arguments, context).await,
            Self::Tag(command) => command.run(context).await,
            Self::Train(command) => command.run(context).await,
        }
    }
}
