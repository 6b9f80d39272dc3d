//! `uptake tables`: training data, checked.

use std::io::Write;
use std::process::ExitCode;

use clap::{Subcommand, ValueEnum};
use uptake_lake::Kind;
use uptake_lake::snapshot::{CheckOptions, Report, Rule, Trainer, check};

use super::snapshot::Output;
use crate::context::{Context, Usage};

/// Checks directories of training data.
#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, Subcommand)]
enum Action {
    /// Holds a directory of Parquet or JSON lines to what trainers accept; exit code 3 when it breaks a rule.
    Check(Check),
    /// Lists the rules: what each breach does to whom.
    Rules,
}

#[derive(Debug, clap::Args)]
struct Check {
    /// The directory (or `s3://…`) that holds train-*.parquet.
    directory: String,

    /// Only what breaks this trainer.
    #[arg(long = "for", value_enum, value_name = "TRAINER")]
    trainer: Option<TrainerName>,

    /// A length in tokens to report on.
    #[arg(long, value_name = "N")]
    max_tokens: Option<u64>,

    /// How the report is written.
    #[arg(short, long, value_enum, default_value_t = Output::Table)]
    output: Output,
}

/// Trainers by the names that people type.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum TrainerName {
    Datasets,
    Trl,
    Openrlhf,
    LlamaFactory,
    Axolotl,
    Verl,
}

impl From<TrainerName> for Trainer {
    fn from(name: TrainerName) -> Self {
        match name {
            TrainerName::Datasets => Self::Datasets,
            TrainerName::Trl => Self::Trl,
            TrainerName::Openrlhf => Self::Openrlhf,
            TrainerName::LlamaFactory => Self::LlamaFactory,
            TrainerName::Axolotl => Self::Axolotl,
            TrainerName::Verl => Self::Verl,
        }
    }
}

/// Exit code for what a check refuses.
const REFUSED: u8 = 3;

/// Runs the command.
pub(crate) async fn run(arguments: Arguments, _context: &Context) -> anyhow::Result<ExitCode> {
    let mut stdout = std::io::stdout();
    let arguments = match arguments.action {
        Action::Check(check) => check,
        Action::Rules => {
            for rule in Rule::ALL {
                let trainers: Vec<_> = rule.trainers().iter().map(|trainer| trainer.name()).collect();
                writeln!(stdout, "{:18} {}\n{:18} breaks {}", rule.code(), rule.effect(), "", trainers.join(", "))?;
            }
            return Ok(ExitCode::SUCCESS);
        }
    };
    let options = CheckOptions {
        trainer: arguments.trainer.map(Trainer::from),
        max_tokens: arguments.max_tokens,
        ..CheckOptions::default()
    };
    let report = check(&arguments.directory, &options).await.map_err(|error| match error.kind() {
        Kind::Invalid => Usage(format!("{}: {error}", arguments.directory)).into(),
        _ => anyhow::Error::from(error),
    })?;
    match arguments.output {
        Output::Json => writeln!(stdout, "{}", serde_json::to_string_pretty(&report)?)?,
        Output::Table => print_report(&mut stdout, &report)?,
    }
    Ok(if report.faults.is_empty() { ExitCode::SUCCESS } else { ExitCode::from(REFUSED) })
}

/// The report as people read it.
pub(super) fn print_report(output: &mut impl Write, report: &Report) -> std::io::Result<()> {
    let rows: Vec<_> = report.rows.iter().map(|(split, rows)| format!("{split} {rows}")).collect();
    let kind = report.table.unwrap_or("no known table");
    writeln!(
        output,
        "{kind}: {} files, rows: {}",
        report.files,
        if rows.is_empty() { "none".to_owned() } else { rows.join(", ") }
    )?;
    if let Some(source) = &report.source {
        writeln!(output, "published from {} at version {} as {}", source.table, source.version, source.id)?;
    }
    if let Some(lengths) = &report.lengths {
        writeln!(
            output,
            "lengths in {}: half up to {}, 99 % up to {}, longest {}",
            report.length_unit, lengths.p50, lengths.p99, lengths.longest
        )?;
        for (limit, rows) in lengths.over.iter().filter(|(_, rows)| **rows > 0) {
            writeln!(output, "  a trainer limited to {limit} would drop or cut {rows} of {} rows", lengths.rows)?;
        }
    }
    for fault in &report.faults {
        writeln!(output, "\n{} ({}×): {}", fault.rule.code(), fault.count, fault.effect)?;
        writeln!(output, "  breaks: {}", fault.breaks.join(", "))?;
        for place in &fault.places {
            writeln!(output, "  at: {place}")?;
        }
    }
    match report.faults.len() {
        0 => writeln!(output, "no fault"),
        1 => writeln!(output, "\n1 fault"),
        faults => writeln!(output, "\n{faults} faults"),
    }
}
