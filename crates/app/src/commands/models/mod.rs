//! `uptake models`: what was trained, how good it is, and which of it is in use.

mod drift;
mod notify;
mod text;
mod watch;

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::{Subcommand, ValueEnum};
use uptake_model::time::Micros;
use uptake_registry::{Action as Done, Added, Change, Entry, Error, ErrorKind, Event, Kind, Outcome, Registry};

use crate::context::{Context, Usage};

pub(crate) use drift::{Rate, alarms};

/// Exit code where the gates refuse.
const REFUSED: u8 = 3;

/// The registry of models: adds, lists, compares, promotes, rolls back, and watches what users say since.
///
/// Models are directories of the lake, each with its files' digests, lineage, figures and the gates' decision. Gates stand
/// in the settings, as `[[models.gates]]`.
#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    #[command(subcommand)]
    action: Action,
}

/// How it is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Output {
    /// For people.
    Table,
    /// JSON.
    Json,
}

#[derive(Debug, Subcommand)]
enum Action {
    /// Copies a model directory into the lake and judges its figures. Ends with 3 where a gate refuses it.
    Add(Add),
    /// Lists the models; the one in use is marked.
    List {
        /// How the list is written.
        #[arg(short, long, value_enum, default_value_t = Output::Table)]
        output: Output,
    },
    /// Shows one model: lineage, files, figures, decision.
    Show {
        /// Its id, the beginning of it, or its name.
        model: String,
        /// How it is written.
        #[arg(short, long, value_enum, default_value_t = Output::Table)]
        output: Output,
    },
    /// Compares two models: figures side by side, and what of the lineage differs.
    Diff {
        /// One.
        model: String,
        /// The other; the one in use when none is named.
        other: Option<String>,
    },
    /// Copies a model out of the lake, checked against its digests, and prints the directory.
    Fetch {
        /// Its id, the beginning of it, or its name.
        model: String,
        /// Below which directory; the cache when none is named.
        #[arg(long, value_name = "DIR")]
        into: Option<PathBuf>,
    },
    /// Puts a model into use, if the gates pass it. The next `uptake run` takes up a promoted tagger.
    Promote {
        /// Its id, the beginning of it, or its name.
        model: String,
        #[command(flatten)]
        why: Why,
        /// Insist though the gates refuse it or none has judged it; wants a reason.
        #[arg(long, requires = "reason")]
        force: bool,
    },
    /// Puts back what was in use before; again, and it goes back one further.
    Rollback {
        /// tagger, reward or policy.
        kind: Kind,
        #[command(flatten)]
        why: Why,
    },
    /// Who put what into use, when, why, and under which decision.
    History {
        /// tagger, reward or policy.
        kind: Kind,
        /// How it is written.
        #[arg(short, long, value_enum, default_value_t = Output::Table)]
        output: Output,
    },
    Watch(watch::Watch),
    Drift(drift::Drift),
}

#[derive(Debug, clap::Args)]
struct Add {
    /// What a trainer left: a tagger, a reward model, an adapter in PEFT's layout, or a language model in Hugging Face's. Figures
    /// come from its metrics.json, and from a figures.json that you may put beside it.
    directory: PathBuf,
    /// What people call it; for a policy the name under which the chat logs know it. The directory's name when nothing is said.
    #[arg(long)]
    name: Option<String>,
    /// The published snapshot that it was trained on: table and id.
    #[arg(long, value_name = "TABLE/ID")]
    snapshot: Option<String>,
    /// A model of the registry that it was made from or with; may be said again.
    #[arg(long = "parent", value_name = "MODEL")]
    parents: Vec<String>,
    /// A report of an evaluation, such as report.json of `uptake evaluate model`: its figures are judged too; may be said again.
    #[arg(long = "figures", value_name = "FILE")]
    reports: Vec<PathBuf>,
    /// How the entry is written.
    #[arg(short, long, value_enum, default_value_t = Output::Table)]
    output: Output,
}

#[derive(Debug, clap::Args)]
struct Why {
    /// Why; it stays in the history.
    #[arg(long, value_name = "TEXT")]
    reason: Option<String>,
    /// Who; the user of this machine when nothing is said.
    #[arg(long, env = "UPTAKE_USER", value_name = "NAME")]
    by: Option<String>,
}

impl Why {
    fn change(self, force: bool) -> Change {
        let by = self.by.or_else(|| std::env::var("USER").ok()).unwrap_or_else(|| "unknown".to_owned());
        Change { by, at: now(), reason: self.reason, force }
    }
}

/// Runs the command.
pub(crate) async fn run(arguments: Arguments, context: &Context) -> anyhow::Result<ExitCode> {
    let registry = registry(context)?;
    match arguments.action {
        Action::Add(add) => self::add(add, &registry).await,
        Action::List { output } => list(&registry, output).await,
        Action::Show { model, output } => {
            let entry = registry.show(&model).await.map_err(usage)?;
            print(&match output {
                Output::Table => text::entry(&entry),
                Output::Json => json(&entry)?,
            })
        }
        Action::Diff { model, other } => {
            let entry = registry.show(&model).await.map_err(usage)?;
            let other = match other {
                Some(other) => registry.show(&other).await.map_err(usage)?,
                None => registry
                    .production(entry.kind)
                    .await
                    .map_err(usage)?
                    .ok_or_else(|| Usage(format!("no {} is in use: name the model to compare with", entry.kind)))?,
            };
            print(&text::difference(&entry, &other))
        }
        Action::Fetch { model, into } => {
            let entry = registry.show(&model).await.map_err(usage)?;
            let into = into.map_or_else(|| context.settings.models.cache(), Ok)?;
            let directory = registry.fetch(&entry, &into).await.map_err(usage)?;
            print(&format!("{}\n", directory.display()))
        }
        Action::Promote { model, why, force } => {
            let entry = registry.show(&model).await.map_err(usage)?;
            // A night that learnt nothing new makes the same model again: that is no fault.
            if registry.production(entry.kind).await.map_err(usage)?.is_some_and(|now| now.id == entry.id) {
                return print(&format!("{} is in use already\n", entry.id));
            }
            let change = why.change(force);
            let decision = registry.judge(entry.kind, &entry.figures).await.map_err(usage)?;
            if decision.outcome == Outcome::Refused && !force {
                print(&text::decision(&decision))?;
                writeln!(std::io::stderr(), "{} is not promoted; insist with --force --reason TEXT", entry.id)?;
                return Ok(ExitCode::from(REFUSED));
            }
            let event = registry.promote(&entry, &change).await.map_err(usage)?;
            told(context, &registry, entry.kind, &event, Some(&entry)).await
        }
        Action::Rollback { kind, why } => {
            let event = registry.roll_back(kind, &why.change(false)).await.map_err(usage)?;
            let entry = registry.production(kind).await.map_err(usage)?;
            told(context, &registry, kind, &event, entry.as_ref()).await
        }
        Action::History { kind, output } => {
            let events = registry.history(kind).await.map_err(usage)?;
            print(&match output {
                Output::Table => text::history(kind, &events),
                Output::Json => json(&events)?,
            })
        }
        Action::Watch(watch) => watch.run(context).await,
        Action::Drift(drift) => drift.run(context).await,
    }
}

/// Adds what was just trained. The exit code is 3 where the gates refuse it.
pub(super) async fn register(
    context: &Context,
    directory: &Path,
    name: String,
    snapshot: Option<String>,
) -> anyhow::Result<ExitCode> {
    let add = Add {
        directory: directory.to_owned(),
        name: Some(name),
        snapshot,
        parents: Vec::new(),
        reports: Vec::new(),
        output: Output::Table,
    };
    self::add(add, &registry(context)?).await
}

async fn add(add: Add, registry: &Registry) -> anyhow::Result<ExitCode> {
    let added = Added {
        name: add.name,
        snapshot: add.snapshot,
        parents: add.parents,
        reports: add.reports,
        code_version: env!("CARGO_PKG_VERSION").to_owned(),
    };
    let (entry, new) = registry.add(&add.directory, &added, now()).await.map_err(usage)?;
    let word = if new { "added" } else { "is there already, as it was added" };
    print(&match add.output {
        Output::Table => format!("{} {word}\n{}", entry.id, text::decision(&entry.decision)),
        Output::Json => json(&entry)?,
    })?;
    if entry.decision.outcome != Outcome::Refused {
        return Ok(ExitCode::SUCCESS);
    }
    let broken = entry.decision.verdicts.iter().filter(|verdict| !verdict.holds);
    let broken: Vec<String> = broken.map(|verdict| format!("{}: {}", verdict.gate.figure, verdict.reason)).collect();
    writeln!(std::io::stderr(), "refused by its gates: {}", broken.join("; "))?;
    Ok(ExitCode::from(REFUSED))
}

async fn list(registry: &Registry, output: Output) -> anyhow::Result<ExitCode> {
    let entries = registry.list().await.map_err(usage)?;
    let mut in_use = Vec::new();
    for kind in Kind::ALL {
        in_use.extend(registry.production(kind).await.map_err(usage)?.map(|entry| entry.id));
    }
    print(&match output {
        Output::Table => text::list(&entries, &in_use),
        Output::Json => json(&serde_json::json!({"models": entries, "in_use": in_use}))?,
    })
}

/// Says what was done, and tells whoever the settings name.
async fn told(
    context: &Context,
    registry: &Registry,
    kind: Kind,
    event: &Event,
    entry: Option<&Entry>,
) -> anyhow::Result<ExitCode> {
    let done = match event.action {
        Done::Promoted => "promoted",
        Done::RolledBack => "rolled back",
    };
    let from = event.previous.as_deref().unwrap_or("nothing of the registry");
    let to = event.model.as_deref().unwrap_or("nothing of the registry");
    print(&format!("{done}: {kind} in use is {to}, before it was {from}\n"))?;
    notify::run(context, registry, kind, event, entry).await?;
    Ok(ExitCode::SUCCESS)
}

fn registry(context: &Context) -> anyhow::Result<Registry> {
    Registry::new(context.lake()?, context.settings.models.gates.clone()).map_err(usage)
}

/// The directory of the tagger that is in use; none where no lake is named or none of its taggers is in use: then the
/// program's own reads the signals.
pub(crate) async fn production_tagger(context: &Context) -> anyhow::Result<Option<PathBuf>> {
    if context.settings.lake.is_none() {
        return Ok(None);
    }
    production(context, Kind::Tagger).await
}

/// The directory of the model of a kind that is in use, taken out of the lake if need be; none where none is.
pub(crate) async fn production(context: &Context, kind: Kind) -> anyhow::Result<Option<PathBuf>> {
    let registry = registry(context)?;
    let Some(entry) = registry.production(kind).await.map_err(usage)? else { return Ok(None) };
    let directory = registry.fetch(&entry, &context.settings.models.cache()?).await.map_err(usage)?;
    tracing::info!(model = entry.id, "the {kind} in use comes from the registry");
    Ok(Some(directory))
}

/// The directory of the tagger on trial: of the setting `shadow_tagger`, which names a directory or a model of the registry.
pub(crate) async fn shadow_tagger(context: &Context) -> anyhow::Result<Option<PathBuf>> {
    let Some(named) = &context.settings.shadow_tagger else { return Ok(None) };
    if Path::new(named).is_dir() {
        return Ok(Some(named.into()));
    }
    let registry = registry(context)?;
    let found = registry.show(named).await;
    let entry = found.map_err(|error| match error.kind() {
        ErrorKind::Invalid => Usage(format!("shadow_tagger: `{named}` is no directory, and {error}")).into(),
        _ => anyhow::Error::from(error),
    })?;
    if entry.kind != Kind::Tagger {
        return Err(Usage(format!("shadow_tagger: {} is a {}, no tagger", entry.id, entry.kind)).into());
    }
    Ok(Some(registry.fetch(&entry, &context.settings.models.cache()?).await.map_err(usage)?))
}

fn print(text: &str) -> anyhow::Result<ExitCode> {
    std::io::stdout().lock().write_all(text.as_bytes())?;
    Ok(ExitCode::SUCCESS)
}

fn json(value: &impl serde::Serialize) -> anyhow::Result<String> {
    Ok(serde_json::to_string_pretty(value)? + "\n")
}

fn now() -> Micros {
    chrono::Utc::now().timestamp_micros()
}

/// What the user gave wrong is a matter of usage.
fn usage(error: Error) -> anyhow::Error {
    match error.kind() {
        ErrorKind::Invalid => Usage(error.to_string()).into(),
        _ => error.into(),
    }
}
