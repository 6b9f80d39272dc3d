//! `uptake demo`: the whole way of the data on one machine, from a week of chats to preference tables and a night that learns from
//! them.
//!
//! Nothing here is special to the demo but the log: a broker in this process takes the records of [`uptake_sample`], and
//! then the same consumer, jobs, tagger and publication run as for a product.

mod assemble;
mod judge;
mod load;
mod night;
mod queries;
mod stage;
mod summary;
mod text;

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Context as _;
use serde::{Deserialize, Serialize};
use uptake_lake::Lake;
use uptake_sample::{Log, Plan};

use crate::commands::demo::stage::Stage;
use crate::context::{Context, Usage};

/// Runs everything on a week of sample chats: embedded broker, tables, signals, preference pairs, snapshots.
///
/// Needs nothing but this program. The directory stays, to look around in; the same command again finds everything
/// done.
#[derive(Debug, clap::Args)]
pub(crate) struct Demo {
    /// Decides everything that is drawn; the same seed gives the same tables.
    #[arg(long, default_value_t = 42)]
    seed: u64,

    /// Conversations of the log.
    #[arg(long, default_value_t = 1_000, value_name = "N", value_parser = clap::value_parser!(u32).range(20..=50_000))]
    conversations: u32,

    /// Leave out the night: a job of the scheduler that trains P[Love] and a small policy update, evaluates it, and lets gates
    /// decide.
    #[arg(long)]
    no_night: bool,

    /// The language model that the night updates: a directory, or a name on the hub such as
    /// `HuggingFaceTB/SmolLM2-135M-Instruct`. When absent: a stand-in with random weights, whose answers mean nothing.
    #[arg(long, value_name = "DIR|NAME", conflicts_with = "no_night")]
    base: Option<PathBuf>,
}

/// Where the tables go when nobody says.
const DEFAULT_LAKE: &str = "uptake-demo";

/// The file that makes a lake a demo's.
const NOTE: &str = "demo.json";

/// Which log a demo's lake holds.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Note {
    seed: u64,
    conversations: u32,
    /// Changes whenever the generator writes another log for the same seed.
    log: String,
}

impl Demo {
    /// Runs the command.
    pub(crate) async fn run(self, context: &Context) -> anyhow::Result<ExitCode> {
        let name = context.settings.lake.clone().unwrap_or_else(|| DEFAULT_LAKE.to_owned());
        let lake = Lake::open(&name).with_context(|| format!("open the lake {name}"))?;

        let stage = Stage::begin(context.terminal, "write a week of chats", None, "");
        let plan = Plan { usable: judge::held_out, ..Plan::new(self.seed, self.conversations as usize) };
        let log = tokio::task::spawn_blocking(move || uptake_sample::generate(&plan)).await??;
        claim(&lake, &name, &self, &log).await?;
        stage.done(&format!(
            "{} records of {} conversations over {} days (seed {})",
            text::count(log.records.len()),
            text::count(self.conversations as usize),
            plan.days,
            self.seed
        ));

        let consumed = load::consume(context, &lake, &log).await?;
        assemble::run(context, &lake, &log, self.seed).await?;
        let snapshots = assemble::publish(context, &lake, self.seed).await?;
        let mut night = None;
        if !self.no_night {
            night = Some(Box::pin(night::run(context, &name, self.base.as_deref())).await?);
        }
        let shown = summary::Shown {
            name: &name,
            lake: &lake,
            log: &log,
            consumed: &consumed,
            snapshots: &snapshots,
            night: night.as_ref(),
        };
        let text = shown.text(text::width()).await?;
        crate::progress::suspended(|| {
            use std::io::Write as _;
            std::io::stdout().lock().write_all(text.as_bytes())
        })?;
        Ok(ExitCode::SUCCESS)
    }
}

/// Makes the lake this demo's, or finds that it is.
async fn claim(lake: &Lake, name: &str, demo: &Demo, log: &Log) -> anyhow::Result<()> {
    let note = Note { seed: demo.seed, conversations: demo.conversations, log: text::fingerprint(log) };
    match lake.note(NOTE).await? {
        Some(found) => {
            let found: Option<Note> = serde_json::from_str(&found).ok();
            if found.as_ref() == Some(&note) {
                return Ok(());
            }
            let other = found.map_or_else(
                || "another version's demo".to_owned(),
                |found| format!("the demo of seed {} with {} conversations", found.seed, found.conversations),
            );
            Err(Usage(format!(
                "{name} holds {other}; name another directory (uptake --lake DIR demo), or remove this one first"
            ))
            .into())
        }
        None if lake.is_empty().await? => Ok(lake.leave_note(NOTE, &serde_json::to_string(&note)?).await?),
        None => Err(Usage(format!(
            "{name} is not empty and not a demo's; the demo only writes where nothing is: name another directory \
             (uptake --lake DIR demo)"
        ))
        .into()),
    }
}
