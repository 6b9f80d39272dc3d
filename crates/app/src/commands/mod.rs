//! The subcommands, one module each.

use std::process::ExitCode;

use clap::Subcommand;

use crate::context::Context;

/// What `uptake` can do.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {}

impl Command {
    /// Runs the command.
    pub(crate) async fn run(self, _context: &Context) -> anyhow::Result<ExitCode> {
        match self {}
    }
}
